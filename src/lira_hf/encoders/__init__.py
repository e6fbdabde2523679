"""Encoders of our own, for where none can be had: the n-gram encoder that the quickstart distils."""

from transformers import AutoConfig, AutoModel, AutoTokenizer

from .modeling_ngram import NgramEncoderConfig, NgramEncoderModel
from .tokenization_ngram import NgramTokenizer, consonant_skeleton


AutoConfig.register("lira_ngram", NgramEncoderConfig, exist_ok=True)
AutoModel.register(NgramEncoderConfig, NgramEncoderModel, exist_ok=True)
AutoTokenizer.register(NgramEncoderConfig, slow_tokenizer_class=NgramTokenizer, exist_ok=True)

__all__ = ["NgramEncoderConfig", "NgramEncoderModel", "NgramTokenizer", "consonant_skeleton"]
