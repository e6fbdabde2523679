"""Tiny configurations and inputs of LiRA's classes, as transformers' mixins ask a model tester for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, LlamaConfig, PreTrainedTokenizerFast
from transformers.testing_utils import torch_device

from lira_hf import LiraConfig, LiraModel


__all__ = ["LiraBaseTester", "LiraEmbeddingTester", "encoder_config", "everything_trained", "word_tokenizer"]

VOCAB = 99
# Within the vocabulary, and low: some tests shrink the vocabulary and cut the ids to it.
PLACEHOLDER = 3


def encoder_config(width: int = 32) -> BertConfig:
    """A tiny encoder, as g or as h."""
    return BertConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, of the testers' vocabulary: special tokens, words, and numbers up to it."""
    special = ["[PAD]", "[CLS]", "[SEP]", "<|lira_prefix|>", "[UNK]"]
    words = ["the", "cat", "sat", "a", "big", "river", "lower", "newer", "upper", "older", "longer", "string"]
    vocabulary = [*special, *words, *(str(number) for number in range(VOCAB - len(special) - len(words)))]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **names,
        model_max_length=40,
        additional_special_tokens=["<|lira_prefix|>"],
    )


class LiraEmbeddingTester:
    """Tiny LiRA without a base LM: two encoders, and a text of 7 tokens with 2 candidates in each row."""

    def __init__(self, parent: Any, batch_size: int = 13, is_training: bool = True):
        self.parent = parent
        self.batch_size = batch_size
        self.is_training = is_training
        self.seq_length = self.text_length = 7
        self.candidates = 2
        self.num_choices = 3
        self.num_bins = 2
        self.extra_config: dict[str, Any] = {}
        self.names: dict[str, str] = {}  # other names for some of the inputs
        self.has_roads = True
        # The fusion's: these are what `hidden_states` and `attentions` hold.
        self.hidden_size = 16
        self.num_hidden_layers = 2
        self.num_attention_heads = 4
        self.key_length = self.encoder_seq_length = 2 * self.num_bins

    def get_config(self) -> LiraConfig:
        """The tiny configuration."""
        return LiraConfig(
            encoder_config=encoder_config(32),
            anchor_config=encoder_config(24),
            hidden_size=self.hidden_size,
            intermediate_size=32,
            num_attention_heads=self.num_attention_heads,
            num_fusion_layers=self.num_hidden_layers,
            actor_hidden_size=8,
            num_bins=self.num_bins,
            **self.extra_config,
        )

    def road_inputs(self) -> dict[str, torch.Tensor]:
        """Both roads of a batch, with a text that is shorter than the others and has a candidate less."""
        source = self.ids((self.batch_size, self.text_length))
        anchor = self.ids((self.batch_size, self.candidates, self.text_length))
        source_mask, anchor_mask = torch.ones_like(source), torch.ones_like(anchor)
        # The first row is the one that is compared with itself alone: a shorter text, and a candidate that is absent.
        source_mask[0, -2:] = 0
        anchor_mask[0, -1] = 0
        return {
            "source_ids": source,
            "source_mask": source_mask,
            "anchor_ids": anchor,
            "anchor_mask": anchor_mask,
        }

    def inputs(self) -> dict[str, torch.Tensor]:
        """What the model is given."""
        return self.road_inputs()

    def ids(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Random ids, none of them special."""
        return torch.randint(5, VOCAB, shape, device=torch_device)

    def prepare_config_and_inputs(self) -> tuple[LiraConfig, dict[str, torch.Tensor]]:
        """Configuration and inputs."""
        return self.get_config(), {self.names.get(name, name): value for name, value in self.inputs().items()}

    def prepare_config_and_inputs_for_common(self) -> tuple[LiraConfig, dict[str, torch.Tensor]]:
        """The same: every class here takes what its tester makes."""
        return self.prepare_config_and_inputs()


class LiraBaseTester(LiraEmbeddingTester):
    """Tiny LiRA over a Llama: the prompt is the soft prefix's placeholders and 7 tokens, so 11 in all."""

    def __init__(self, parent: Any, batch_size: int = 13, is_training: bool = True):
        super().__init__(parent, batch_size, is_training)
        self.seq_length = self.text_length + 2 * self.num_bins
        # The base's: these are what `hidden_states` and `attentions` hold here.
        self.hidden_size = 16
        self.num_hidden_layers = 2
        self.num_attention_heads = 4
        self.key_length = self.encoder_seq_length = self.seq_length
        base = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        self.extra_config = {"base_config": base, "prefix_token_id": PLACEHOLDER}

    def inputs(self) -> dict[str, torch.Tensor]:
        """Both roads, and a prompt with the placeholders in front; or a prompt alone."""
        ids = self.ids((self.batch_size, self.seq_length))
        if self.has_roads:
            ids[:, : 2 * self.num_bins] = PLACEHOLDER
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            **(self.road_inputs() if self.has_roads else {}),
        }


@contextmanager
def everything_trained() -> Iterator[None]:
    """Models made meanwhile are trained as a whole, and their embedding already differs from the two roads joined."""
    freeze = LiraModel.freeze

    def thaw(model: LiraModel, *args: bool, **kwargs: bool) -> LiraModel:
        with torch.no_grad():
            model.embedding_head.delta.weight.normal_()
        return freeze(model, **dict.fromkeys(("encoder", "anchor", "arca", "lasr", "base"), False))

    with mock.patch.object(LiraModel, "freeze", thaw):
        yield
