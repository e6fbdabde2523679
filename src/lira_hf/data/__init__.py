"""Readers, checks, splits and the feature cache: everything between files and tensors."""

from .beir import BeirDataset, Query, read_beir, write_beir
from .benchmarks import ChoiceQuestion, MathProblem, read_mgsm, read_xcsqa
from .chat import Conversation, read_chat
from .corruptions import Alphabet, Corrupted, add_typos, learn_alphabet, mix_code
from .corruptions_candidates import corrupt_candidates
from .corruptions_marks import drop_diacritics
from .documents import read_documents
from .feature_cache import CacheError, FeatureCache
from .fluent_messages import read_fluent
from .json_messages import read_json_messages
from .languages import language_name, likely_script, normalize_language
from .parallel import (
    ParallelPair,
    installed_catalogs,
    read_cldr,
    read_gettext,
    read_parallel,
    read_tsv,
    tidy_text,
    write_tsv,
)
from .problems import DataError, DataProblem
from .similarity import SimilarityPair, read_sts, write_sts
from .splits import remove_near_duplicates, split_by_origin, split_parallel
from .tmx import read_tmx
from .validation import validate_path


__all__ = [
    "Alphabet",
    "BeirDataset",
    "CacheError",
    "ChoiceQuestion",
    "Conversation",
    "Corrupted",
    "DataError",
    "DataProblem",
    "FeatureCache",
    "MathProblem",
    "ParallelPair",
    "Query",
    "SimilarityPair",
    "add_typos",
    "corrupt_candidates",
    "drop_diacritics",
    "installed_catalogs",
    "language_name",
    "learn_alphabet",
    "likely_script",
    "mix_code",
    "normalize_language",
    "read_beir",
    "read_chat",
    "read_cldr",
    "read_documents",
    "read_fluent",
    "read_gettext",
    "read_json_messages",
    "read_mgsm",
    "read_parallel",
    "read_sts",
    "read_tmx",
    "read_tsv",
    "read_xcsqa",
    "remove_near_duplicates",
    "split_by_origin",
    "split_parallel",
    "tidy_text",
    "validate_path",
    "write_beir",
    "write_sts",
    "write_tsv",
]
