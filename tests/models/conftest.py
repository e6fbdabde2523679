"""LiRA models over tiny random backbones, and tokenizers made on the spot."""

import pytest
import tiny_lira
import torch
from tiny_lira import VOCAB

from lira_hf import LiraConfig, LiraModel, NgramTokenizer


@pytest.fixture(scope="session")
def encoder_config():
    """`encoder_config(kind, dim)`: a tiny configuration of that family."""
    return tiny_lira.encoder_config


@pytest.fixture(scope="session")
def lira():
    """
    `lira(encoder, anchor, trained, **config)`: a LiraModel in evaluation mode. `trained` disturbs Arca and LaSR, which
    start at a uniform policy and a zero delta, so that every weight has a say in the result.
    """

    def make(encoder: str = "bert", anchor: str | None = "modernbert", trained: bool = True, **config) -> LiraModel:
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "actor_hidden_size": 8}
        anchor_config = None if anchor is None else tiny_lira.encoder_config(anchor, dim=24)
        model = LiraModel(
            LiraConfig(
                encoder_config=tiny_lira.encoder_config(encoder),
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
    return tiny_lira.word_tokenizer()


@pytest.fixture(scope="session")
def ngram_tokenizer():
    return NgramTokenizer(num_buckets=VOCAB - 2)
