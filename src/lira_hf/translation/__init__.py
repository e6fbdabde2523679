"""Candidate translations, their critics and the store that keeps both (paper: translation path and critic)."""

from .base import Candidate, Critic, Identity, Score, Translator, clean_text
from .fill import fill_store
from .gloss import GlossTranslator, RepairTranslator
from .heuristics import HeuristicCritic
from .lexicon import LexicalTable, Lexicon
from .memory import TranslationMemory
from .parallel import Pair, ParallelText
from .store import CandidateStore, StoredCandidate, StoreError, StoreVersionError
from .union import TranslatorUnion, cross_fit, load_translator


__all__ = [
    "Candidate",
    "CandidateStore",
    "Critic",
    "GlossTranslator",
    "HeuristicCritic",
    "Identity",
    "LexicalTable",
    "Lexicon",
    "Pair",
    "ParallelText",
    "RepairTranslator",
    "Score",
    "StoreError",
    "StoreVersionError",
    "StoredCandidate",
    "TranslationMemory",
    "Translator",
    "TranslatorUnion",
    "clean_text",
    "cross_fit",
    "fill_store",
    "load_translator",
]
