"""Tiny random encoder-decoders of every family, and translators with them."""

import string

import torch
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    NllbTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from lira_hf.translation.seq2seq import Seq2SeqTranslator


LETTERS = list(string.ascii_lowercase + "▁")
TEXTS = ["abc", "hello there", "a", "the quick brown fox jumps over it", "zz", "", "abc"]
LAYERS = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
SIZES = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64, "init_std": 0.5}
SHORT = {"max_new_tokens": 6}
WIDE = {"num_hypotheses": 10, "temperatures": (1.0, 2.0)}  # enough for three distinct ones of a tiny model


def nllb_tokenizer() -> NllbTokenizer:
    """Letters as tokens, and three of the language codes."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *LETTERS])}
    return NllbTokenizer(vocab=vocabulary, merges=[], extra_special_tokens=["eng_Latn", "urd_Arab", "ace_Latn"])


class CodedTokenizer(NllbTokenizer):
    """M2M100's interface, whose own class needs sentencepiece: codes of two letters and their tokens."""

    lang_code_to_id = {"en": 32, "ur": 33, "tl": 34}  # noqa: RUF012
    _tokens = {"en": "__en__", "ur": "__ur__", "tl": "__tl__", "eng_Latn": "__en__"}  # noqa: RUF012

    def set_src_lang_special_tokens(self, src_lang) -> None:
        super().set_src_lang_special_tokens(self._tokens[src_lang])


def t5_tokenizer(*extra: str) -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -2.0) for letter in LETTERS)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    tokenizer.add_tokens(list(extra), special_tokens=True)
    return tokenizer


def marian_tokenizer(**attributes) -> T5Tokenizer:
    """T5's stands in for Marian's, which needs sentencepiece: both end with </s> and have no language in front."""
    tokenizer = t5_tokenizer(*attributes.get("supported_language_codes", []))
    for name, value in attributes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def m2m_model(tokenizer) -> M2M100ForConditionalGeneration:
    torch.manual_seed(0)
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    size = max([len(tokenizer) - 1, *getattr(tokenizer, "lang_code_to_id", {}).values()]) + 1
    config = M2M100Config(vocab_size=size, scale_embedding=False, **SIZES, **LAYERS, **special)
    return M2M100ForConditionalGeneration(config).eval()


def marian_model(tokenizer) -> MarianMTModel:
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": None}
    config = MarianConfig(vocab_size=len(tokenizer), **SIZES, **LAYERS, **special)
    return MarianMTModel(config).eval()


def t5_model(tokenizer) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # T5 starts so small that all tokens look alike
            weight.add_(torch.randn_like(weight) * 0.3)
    return model


def translator(family: str = "nllb", **settings) -> Seq2SeqTranslator:
    tokenizer = {
        "nllb": nllb_tokenizer,
        "m2m100": lambda: CodedTokenizer(
            vocab=nllb_vocabulary(), merges=[], extra_special_tokens=["__en__", "__ur__", "__tl__"], src_lang="en"
        ),
        "madlad": lambda: t5_tokenizer("<2en>", "<2ur>", "<2iw>"),
        "marian": marian_tokenizer,
        "prompt": t5_tokenizer,
    }[family]()
    build = {"nllb": m2m_model, "m2m100": m2m_model, "marian": marian_model}.get(family, t5_model)
    settings = {"prompt": "from {language}: "} | settings if family == "prompt" else settings
    return Seq2SeqTranslator(build(tokenizer), tokenizer, **SHORT | settings)


def nllb_vocabulary() -> dict[str, int]:
    return {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "<mask>"])}


FAMILIES = ["nllb", "m2m100", "madlad", "marian", "prompt"]
