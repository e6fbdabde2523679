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

    def test_model_input_names(self) -> None:
        """With candidates, scores and languages: without them, their names are not in the output either."""
        processor = self.get_processor()
        inputs = processor("the cat", candidates=["a cat"], scores=[(9, 9, 9)], languages="bn", return_tensors="pt")
        assert set(inputs.keys()) == set(processor.model_input_names)


class LiraProcessorTest(RoadTokenizers, ProcessorTesterMixin, unittest.TestCase):
    """An embedding checkpoint's: the two roads alone."""

    processor_class = LiraProcessor
    text_input_name = "source_ids"

    @staticmethod
    def prepare_processor_dict() -> dict[str, Any]:
        """Arguments of the processor."""
        return {"trained_languages": ["bn", "en"], "max_text_length": 32}


class LiraProcessorWithBaseTest(RoadTokenizers, ProcessorTesterMixin, unittest.TestCase):
    """A generation checkpoint's: the two roads, a prompt, and a chat template."""

    processor_class = LiraProcessor
    text_input_name = "input_ids"

    @staticmethod
    def prepare_processor_dict() -> dict[str, Any]:
        """Arguments of the processor."""
        template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
        return {
            "trained_languages": ["bn", "en"],
            "max_text_length": 32,
            "prefix_length": 4,
            "chat_template": template,
        }

    def test_subprocessor_defaults_0_text(self) -> None:
        """The prompt is what the base's tokenizer makes of the text, behind the placeholders that LiRA adds."""
        processor, text = self.get_processor(), self.prepare_text_inputs()
        plain = self.get_component("tokenizer")(text)["input_ids"]
        ids = processor(text)["input_ids"][0].tolist()
        assert ids.count(processor.prefix_token_id) == 4
        assert [number for number in ids if number != processor.prefix_token_id] == plain
