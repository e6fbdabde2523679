"""Text to vectors: cached backbone features, candidates on demand, the embedder, folders of vectors, search."""

from .answers import AnswerReport, AnswersError, QuestionRow, answer_file, read_questions
from .candidates import CandidateSource, FoundCandidate, make_source, stored_critic
from .embedder import LiraEmbedder, pad_candidates
from .explanation import (
    CandidateFacts,
    ComparedDocuments,
    Explanation,
    FoundDocument,
    LiraExplainer,
    RoadShares,
    SystemResult,
)
from .features import RoadFeatures
from .generator import LiraGenerator, cut_at_stop
from .inspection import RunEstimate, TokenizerReport, estimate_run, inspect_tokenizer, text_scripts
from .precision import dequantize, quantize
from .rows import check_rows, read_rows
from .search import SearchHit, SearchIndex, VectorHit, VectorIndex
from .shares import Share, embed_share, merge_shares
from .stream import EmbedReport, embed_rows, encode_rows
from .vectors import TextRow, VectorFolder, VectorsError
from .workers import EmbedderPool, WorkerError


__all__ = [
    "AnswerReport",
    "AnswersError",
    "CandidateFacts",
    "CandidateSource",
    "ComparedDocuments",
    "EmbedReport",
    "EmbedderPool",
    "Explanation",
    "FoundCandidate",
    "FoundDocument",
    "LiraEmbedder",
    "LiraExplainer",
    "LiraGenerator",
    "QuestionRow",
    "RoadFeatures",
    "RoadShares",
    "RunEstimate",
    "SearchHit",
    "SearchIndex",
    "Share",
    "SystemResult",
    "TextRow",
    "TokenizerReport",
    "VectorFolder",
    "VectorHit",
    "VectorIndex",
    "VectorsError",
    "WorkerError",
    "answer_file",
    "check_rows",
    "cut_at_stop",
    "dequantize",
    "embed_rows",
    "embed_share",
    "encode_rows",
    "estimate_run",
    "inspect_tokenizer",
    "make_source",
    "merge_shares",
    "pad_candidates",
    "quantize",
    "read_questions",
    "read_rows",
    "stored_critic",
    "text_scripts",
]
