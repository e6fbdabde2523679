"""Tiny random backbones of every family, LiRA models over them, and tokenizers made on the spot."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    T5Config,
    XLMRobertaConfig,
)

from lira_hf import LiraConfig, LiraModel, NgramEncoderConfig, NgramTokenizer


VOCAB = 100
_BERT = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 80}


def _encoder_config(kind: str, dim: int = 16) -> PreTrainedConfig:
    if kind == "bert":
        return BertConfig(vocab_size=VOCAB, hidden_size=dim, **_BERT)
    if kind == "xlm-roberta":
        return XLMRobertaConfig(vocab_size=VOCAB, hidden_size=dim, pad_token_id=1, **_BERT)
    if kind == "t5":
        return T5Config(vocab_size=VOCAB, d_model=dim, d_ff=32, num_layers=2, num_heads=2, d_kv=8)
    if kind == "qwen3":
        return Qwen3Config(vocab_size=VOCAB, hidden_size=dim, head_dim=8, num_key_value_heads=2, **_BERT)
    if kind == "modernbert":
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
        return ModernBertConfig(vocab_size=VOCAB, hidden_size=dim, **special, **_BERT)
    return NgramEncoderConfig(vocab_size=VOCAB, embedding_size=8, hidden_size=dim)


@pytest.fixture(scope="session")
def encoder_config():
    """`encoder_config(kind, dim)`: a tiny configuration of that family."""
    return _encoder_config


@pytest.fixture(scope="session")
def lira():
    """
    `lira(encoder, anchor, trained, **config)`: a LiraModel in evaluation mode. `trained` disturbs Arca and LaSR, which
    start at a uniform policy and a zero delta, so that every weight has a say in the result.
    """

    def make(encoder: str = "bert", anchor: str | None = "modernbert", trained: bool = True, **config) -> LiraModel:
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "actor_hidden_size": 8}
        anchor_config = None if anchor is None else _encoder_config(anchor, dim=24)
        model = LiraModel(
            LiraConfig(
                encoder_config=_encoder_config(encoder),
                anchor_config=anchor_config,
                **{"num_bins": 3} | sizes | config,
            )
        )
        if trained:
            with torch.no_grad():
                for part in (model.arca, model.fusion, model.embedding_head):
                    for weight in part.parameters():
                        weight.add_(torch.randn_like(weight) * 0.3)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def token_rows():
    """`token_rows(*lengths)`: random ids, one 1-d tensor a length; no special ids."""

    def make(*lengths: int, seed: int = 1) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randint(5, VOCAB, (length,), generator=generator) for length in lengths]

    return make


@pytest.fixture(scope="session")
def pad():
    """`pad(rows, side, extra)`: ids and mask. The padding holds real ids, so that only the mask tells what counts."""

    def make(rows: list[torch.Tensor], side: str = "right", extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(row) for row in rows) + extra
        ids = torch.randint(5, VOCAB, (len(rows), width), generator=torch.Generator().manual_seed(9))
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for number, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            ids[number, place], mask[number, place] = row, 1
        return ids, mask

    return make


@pytest.fixture(scope="session")
def word_tokenizer():
    """A word-level tokenizer with [CLS] and [SEP] and no model_max_length; words it lacks are [UNK]."""
    words = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "big", "river", "house", "Dhaka", "city"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="session")
def ngram_tokenizer():
    return NgramTokenizer(num_buckets=VOCAB - 2)
