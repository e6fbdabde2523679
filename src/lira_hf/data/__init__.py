"""Readers, checks, splits and the feature cache: everything between files and tensors."""

from .beir import BeirDataset, Query, read_beir, write_beir
from .benchmarks import ChoiceQuestion, MathProblem, read_mgsm, read_xcsqa
from .chat import Conversation, read_chat
from .documents import read_documents
from .feature_cache import CacheError, FeatureCache
from .fluent_messages import read_fluent
from .json_messages import read_json_messages
from .languages import language_name, likely_script, normalize_language
from .parallel import ParallelPair, installed_catalogs, read_cldr, read_gettext, read_tsv, tidy_text, write_tsv
from .problems import DataError, DataProblem
from .similarity import SimilarityPair, read_sts, write_sts
from .splits import remove_near_duplicates, split_by_origin, split_parallel
from .validation import validate_path


__all__ = [
    "BeirDataset",
    "CacheError",
    "ChoiceQuestion",
    "Conversation",
    "DataError",
    "DataProblem",
    "FeatureCache",
    "MathProblem",
    "ParallelPair",
    "Query",
    "SimilarityPair",
    "installed_catalogs",
    "language_name",
    "likely_script",
    "normalize_language",
    "read_beir",
    "read_chat",
    "read_cldr",
    "read_documents",
    "read_fluent",
    "read_gettext",
    "read_json_messages",
    "read_mgsm",
    "read_sts",
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
