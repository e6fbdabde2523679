"""transformers' own tests of models and configurations, over LiRA's classes."""

import copy
import tempfile
import unittest
from typing import Any

import torch
from lira_testers import LiraBaseTester, LiraEmbeddingTester, everything_trained
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from transformers.testing_utils import torch_device

from lira_hf import LiraConfig, LiraForCausalLM, LiraForMultipleChoice, LiraModel


class LiraTests(ModelTesterMixin):
    """What holds for all of LiRA's classes and the mixin does not know."""

    test_can_init_all_missing_weights_before_2023 = True
    _is_composite = True

    def test_config(self) -> None:
        """ConfigTester over the tester's configuration."""
        ConfigTester(self, config_class=LiraConfig, hidden_size=16).run_common_tests()

    def test_sdpa_can_dispatch_composite_models(self) -> None:
        """The mixin looks for towers of images or sound; LiRA's parts are two encoders and a base LM."""
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            with tempfile.TemporaryDirectory() as folder:
                model_class(copy.deepcopy(config)).save_pretrained(folder)
                for wanted in ("sdpa", "eager"):
                    given = {} if wanted == "sdpa" else {"attn_implementation": wanted}
                    model = model_class.from_pretrained(folder, **given)
                    parts = [model, *model.backbones().values()]
                    assert [part.config._attn_implementation for part in parts] == [wanted] * len(parts)
                mixed = {"": "eager", "encoder_config": "eager", "anchor_config": "sdpa"}
                parts = model_class.from_pretrained(folder, attn_implementation=mixed).backbones()
                assert parts["encoder"].config._attn_implementation == "eager"
                assert parts["anchor"].config._attn_implementation == "sdpa"

    @unittest.skip(reason="LiRA: a composite model; test_sdpa_can_dispatch_composite_models is about it")
    def test_sdpa_can_dispatch_non_composite_models(self) -> None:
        """The library skips it for composite models too, but says that they do not support SDPA."""

    def test_enable_input_require_grads_with_gradient_checkpointing(self) -> None:
        """With every part trained; by default the backbones are frozen, and so are their embeddings."""
        with everything_trained():
            super().test_enable_input_require_grads_with_gradient_checkpointing()


class LiraModelTest(LiraTests, unittest.TestCase):
    """The embedding model: two encoders, no base LM."""

    all_model_classes = (LiraModel,)
    additional_model_inputs = ("anchor_ids",)

    def setUp(self) -> None:
        self.model_tester = LiraEmbeddingTester(self)

    def test_resize_tokens_embeddings(self) -> None:
        """Over `input_ids`, as g's tokens may be called where there is no base LM."""
        self.model_tester.names = {"source_ids": "input_ids", "source_mask": "attention_mask"}
        super().test_resize_tokens_embeddings()


class LiraModelOverBaseTest(LiraTests, unittest.TestCase):
    """The embedding model where the embedding is read off a base LM: two encoders and a Llama."""

    all_model_classes = (LiraModel,)
    additional_model_inputs = ("input_ids", "anchor_ids")

    def setUp(self) -> None:
        self.model_tester = LiraBaseTester(self)
        self.model_tester.extra_config["embedding_source"] = "language_model"
        # Hidden states and attentions are the fusion's.
        self.model_tester.key_length = self.model_tester.encoder_seq_length = 2 * self.model_tester.num_bins

    @unittest.skip(reason="LiRA: last_hidden_state is the fusion's, which no RoPE of the base LM reaches")
    def test_model_rope_scaling_from_config_0_linear(self) -> None:
        """Compares `last_hidden_state` with and without the scaling."""

    test_model_rope_scaling_from_config_1_dynamic = test_model_rope_scaling_from_config_0_linear
    test_model_rope_scaling_from_config_2_yarn = test_model_rope_scaling_from_config_0_linear


class BaseLMTests(LiraTests):
    """What the classes over a base LM need in other inputs or states than the mixin gives them."""

    def test_base_model_prefix_loads_base_weights(self) -> None:
        """Over a core that holds the base LM; by default it is left out of a LiraModel, so heads have none to load."""
        self.model_tester.extra_config["embedding_source"] = "language_model"
        super().test_base_model_prefix_loads_base_weights()


class LiraForCausalLMTest(BaseLMTests, GenerationTesterMixin, unittest.TestCase):
    """Generation: two encoders and a Llama."""

    all_model_classes = (LiraForCausalLM,)
    additional_model_inputs = ("source_ids", "anchor_ids")

    def setUp(self) -> None:
        self.model_tester = LiraBaseTester(self)

    def test_inputs_embeds(self) -> None:
        """Without a text: the soft prefix takes its place by the placeholders' ids, which embeddings no longer
        show."""
        self.model_tester.has_roads = False
        super().test_inputs_embeds()


class LiraForMultipleChoiceTest(BaseLMTests, unittest.TestCase):
    """Multiple choice: two encoders and a Llama."""

    all_model_classes = (LiraForMultipleChoice,)
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
