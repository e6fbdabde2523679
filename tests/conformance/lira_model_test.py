"""transformers' own tests of models and configurations, over LiRA's classes."""

import copy
import unittest
import unittest.mock
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lira_testers import LiraBaseTester, LiraEmbeddingTester
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from transformers.testing_utils import torch_device

from lira_hf import LiraConfig, LiraForCausalLM, LiraForMultipleChoice, LiraModel


@contextmanager
def everything_trained() -> Iterator[None]:
    """Models made meanwhile are trained as a whole."""
    freeze = LiraModel.freeze

    def thaw(model: LiraModel, *args: bool, **kwargs: bool) -> LiraModel:
        names = ("encoder", "anchor", "arca", "lasr", "base")
        return freeze(model, **dict.fromkeys(names, False))

    with unittest.mock.patch.object(LiraModel, "freeze", thaw):
        yield


class LiraModelTest(ModelTesterMixin, unittest.TestCase):
    """The embedding model: two encoders, no base LM."""

    all_model_classes = (LiraModel,)
    test_can_init_all_missing_weights_before_2023 = True
    _is_composite = True
    additional_model_inputs = ("anchor_ids",)

    def setUp(self) -> None:
        self.model_tester = LiraEmbeddingTester(self)

    def test_config(self) -> None:
        """ConfigTester over a configuration without a base LM."""
        ConfigTester(self, config_class=LiraConfig, hidden_size=16).run_common_tests()

    def test_resize_tokens_embeddings(self) -> None:
        """Over `input_ids`, as g's tokens may be called where there is no base LM."""
        self.model_tester.names = {"source_ids": "input_ids", "source_mask": "attention_mask"}
        super().test_resize_tokens_embeddings()


class BaseLMTests(ModelTesterMixin):
    """What the classes over a base LM need in other inputs or states than the mixin gives them."""

    def test_base_model_prefix_loads_base_weights(self) -> None:
        """Over a core that holds the base LM; by default it is left out of a LiraModel, so heads have none to load."""
        self.model_tester.extra_config["embedding_source"] = "language_model"
        super().test_base_model_prefix_loads_base_weights()

    def test_enable_input_require_grads_with_gradient_checkpointing(self) -> None:
        """With every part trained; by default the base LM is frozen, and so are its embeddings."""
        with everything_trained():
            super().test_enable_input_require_grads_with_gradient_checkpointing()


class LiraForCausalLMTest(BaseLMTests, GenerationTesterMixin, unittest.TestCase):
    """Generation: two encoders and a Llama."""

    all_model_classes = (LiraForCausalLM,)
    test_can_init_all_missing_weights_before_2023 = True
    _is_composite = True
    additional_model_inputs = ("source_ids", "anchor_ids")

    def setUp(self) -> None:
        self.model_tester = LiraBaseTester(self)

    def test_config(self) -> None:
        """ConfigTester over a configuration with a base LM."""
        ConfigTester(self, config_class=LiraConfig, hidden_size=16).run_common_tests()

    def test_inputs_embeds(self) -> None:
        """Without a text: the soft prefix takes its place by the placeholders' ids, which embeddings no longer
        show."""
        self.model_tester.has_roads = False
        super().test_inputs_embeds()


class LiraForMultipleChoiceTest(BaseLMTests, unittest.TestCase):
    """Multiple choice: two encoders and a Llama."""

    all_model_classes = (LiraForMultipleChoice,)
    test_can_init_all_missing_weights_before_2023 = True
    _is_composite = True
    additional_model_inputs = ("source_ids", "anchor_ids")

    def setUp(self) -> None:
        self.model_tester = LiraBaseTester(self)

    def _prepare_for_class(self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False) -> dict:
        """The prompt with 3 answers of 1 token each; the mixin would repeat the text for each of them too."""
        inputs, choices = copy.deepcopy(inputs_dict), self.model_tester.num_choices
        for name in ("input_ids", "attention_mask"):
            if inputs.get(name) is not None:
                inputs[name] = inputs[name].unsqueeze(1).repeat(1, choices, 1)
        if "input_ids" in inputs:
            inputs["input_ids"][:, :, -1] = 5 + torch.arange(choices, device=torch_device)
            inputs["choice_mask"] = torch.zeros_like(inputs["input_ids"])
            inputs["choice_mask"][:, :, -1] = 1
        if return_labels:
            inputs["labels"] = torch.ones(self.model_tester.batch_size, dtype=torch.long, device=torch_device)
        return inputs
