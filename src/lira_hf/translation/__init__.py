"""Candidate translations, their critics and the store that keeps both (paper: translation path and critic)."""

from .agreement import ConsensusCritic, ReferenceCritic
from .base import (
    Candidate,
    Critic,
    Failure,
    Identity,
    NoAnswerError,
    Score,
    StreamingCritic,
    StreamingTranslator,
    Translator,
    clean_text,
)
from .chat import ChatModel, ChatUsage, Conversation, EndpointChat, Reply
from .chat_translator import ChatTranslator
from .columns import ColumnTranslator
from .command import CommandTranslator
from .fill import fill_store
from .gloss import GlossTranslator, RepairTranslator
from .heuristics import HeuristicCritic
from .judge import LLMJudge
from .lexicon import LexicalTable, Lexicon
from .local_chat import LocalChat
from .memory import TranslationMemory
from .parallel import Pair, ParallelText
from .seq2seq import Seq2SeqTranslator
from .store import CandidateStore, StoredCandidate, StoreError, StoreVersionError
from .store_exchange import export_store, store_dataset
from .store_import import ImportReport, import_store, merge_store
from .store_statistics import store_statistics
from .union import PartialFailure, TranslatorUnion, cross_fit, load_translator


__all__ = [
    "Candidate",
    "CandidateStore",
    "ChatModel",
    "ChatTranslator",
    "ChatUsage",
    "ColumnTranslator",
    "CommandTranslator",
    "ConsensusCritic",
    "Conversation",
    "Critic",
    "EndpointChat",
    "Failure",
    "GlossTranslator",
    "HeuristicCritic",
    "Identity",
    "ImportReport",
    "LLMJudge",
    "LexicalTable",
    "Lexicon",
    "LocalChat",
    "NoAnswerError",
    "Pair",
    "ParallelText",
    "PartialFailure",
    "ReferenceCritic",
    "RepairTranslator",
    "Reply",
    "Score",
    "Seq2SeqTranslator",
    "StoreError",
    "StoreVersionError",
    "StoredCandidate",
    "StreamingCritic",
    "StreamingTranslator",
    "TranslationMemory",
    "Translator",
    "TranslatorUnion",
    "clean_text",
    "cross_fit",
    "export_store",
    "fill_store",
    "import_store",
    "load_translator",
    "merge_store",
    "store_dataset",
    "store_statistics",
]
