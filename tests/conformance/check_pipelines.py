"""transformers' own tests of pipelines, over tiny LiRA checkpoints made on the spot."""

import os
import unittest
from pathlib import Path

from lira_testers import LiraBaseTester, LiraEmbeddingTester, word_tokenizer
from tests.test_pipeline_mixin import PipelineTesterMixin

from lira_hf import LiraForCausalLM, LiraModel


def write_checkpoint(name: str, model: LiraModel | LiraForCausalLM) -> None:
    """Puts a checkpoint and a tokenizer where the mixin looks for those of `name`."""
    folder = Path(os.environ["TRANSFORMERS_TINY_MODEL_PATH"]) / "lira" / name
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)


class LiraModelPipelineTest(PipelineTesterMixin, unittest.TestCase):
    """Feature extraction by the embedding model."""

    pipeline_model_mapping = {"feature-extraction": LiraModel}

    @classmethod
    def setUpClass(cls) -> None:
        write_checkpoint("LiraModel", LiraModel(LiraEmbeddingTester(cls).get_config()))


class LiraForCausalLMPipelineTest(PipelineTesterMixin, unittest.TestCase):
    """Text generation."""

    pipeline_model_mapping = {"text-generation": LiraForCausalLM}

    @classmethod
    def setUpClass(cls) -> None:
        write_checkpoint("LiraForCausalLM", LiraForCausalLM(LiraBaseTester(cls).get_config()))
