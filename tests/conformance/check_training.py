"""transformers' own test of training, over LiraForCausalLM: as many steps as it takes to learn a text by heart."""

import unittest

from lira_testers import LiraBaseTester, everything_trained
from tests.test_training_mixin import TrainingTesterMixin

from lira_hf import LiraForCausalLM


class LiraForCausalLMTrainingTest(TrainingTesterMixin, unittest.TestCase):
    """Every part trained, over prompts without a text; the placeholder lies beyond the vocabulary."""

    all_model_classes = (LiraForCausalLM,)
    model_tester = None

    def setUp(self) -> None:
        self.model_tester = LiraBaseTester(self)
        self.model_tester.extra_config["prefix_token_id"] = None
        # Twice as wide: at 16 a plain Llama's gradient does not fall by 90 % in 300 steps either.
        self.model_tester.extra_config["base_config"].hidden_size = 32
        self.model_tester.extra_config["base_config"].head_dim = 8

    def test_training_overfit(self) -> None:
        """By default the base LM is frozen."""
        with everything_trained():
            super().test_training_overfit()
