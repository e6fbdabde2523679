"""Text to vectors: cached features of the backbones, candidates on demand, the embedder, exact search."""

from .candidates import CandidateSource, stored_critic
from .embedder import LiraEmbedder, pad_candidates
from .features import RoadFeatures
from .inspection import RunEstimate, TokenizerReport, estimate_run, inspect_tokenizer, text_scripts
from .search import SearchHit, SearchIndex


__all__ = [
    "CandidateSource",
    "LiraEmbedder",
    "RoadFeatures",
    "RunEstimate",
    "SearchHit",
    "SearchIndex",
    "TokenizerReport",
    "estimate_run",
    "inspect_tokenizer",
    "pad_candidates",
    "stored_critic",
    "text_scripts",
]
