"""transformers' own tests of processors, over LiraProcessor with and without a base LM's tokenizer."""

import unittest
from typing import Any

from lira_testers import word_tokenizer
from tests.test_processing_common import ProcessorTesterMixin
from transformers import PreTrainedTokenizerBase

from lira_hf import LiraProcessor


class RoadTokenizers:
    """The tokenizers of the two roads, made on the spot."""

    @classmethod
    def _setup_source_tokenizer(cls) -> PreTrainedTokenizerBase:
        return word_tokenizer()

    @classmethod
    def _setup_anchor_tokenizer(cls) -> PreTrainedTokenizerBase:
        return word_tokenizer()

    @classmethod
    def _setup_tokenizer(cls) -> PreTrainedTokenizerBase:
        return word_tokenizer()


class LiraProcessorTest(RoadTokenizers, ProcessorTesterMixin, unittest.TestCase):
    """An embedding checkpoint's: the two roads alone."""

    processor_class = LiraProcessor
    text_input_name = "source_ids"

    @staticmethod
    def prepare_processor_dict() -> dict[str, Any]:
        """Arguments of the processor."""
        return {"languages": ["bn", "en"], "max_length": 32}


class LiraProcessorWithBaseTest(RoadTokenizers, ProcessorTesterMixin, unittest.TestCase):
    """A generation checkpoint's: the two roads, a prompt, and a chat template."""

    processor_class = LiraProcessor
    text_input_name = "input_ids"

    @staticmethod
    def prepare_processor_dict() -> dict[str, Any]:
        """Arguments of the processor."""
        template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
        return {"languages": ["bn", "en"], "max_length": 32, "prefix_length": 4, "chat_template": template}
