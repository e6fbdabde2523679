"""Text to vectors: cached features of the backbones, candidates on demand, the embedder, exact search."""

from .candidates import CandidateSource, stored_critic
from .embedder import LiraEmbedder, pad_candidates
from .features import RoadFeatures
from .search import SearchHit, SearchIndex


__all__ = [
    "CandidateSource",
    "LiraEmbedder",
    "RoadFeatures",
    "SearchHit",
    "SearchIndex",
    "pad_candidates",
    "stored_critic",
]
