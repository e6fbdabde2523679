"""Evaluation: per-language retrieval reports, intervals, and the controls that stand beside every figure."""

from .choice import CandidateChoice, hard_weights, soft_weights
from .controls import MIXTURES, RoadControls, baseline_controls
from .embedder import dev_metrics, evaluate_embedder
from .retrieval import METRICS, Interval, RetrievalScores, evaluate_retrieval, paired_difference


__all__ = [
    "METRICS",
    "MIXTURES",
    "CandidateChoice",
    "Interval",
    "RetrievalScores",
    "RoadControls",
    "baseline_controls",
    "dev_metrics",
    "evaluate_embedder",
    "evaluate_retrieval",
    "hard_weights",
    "paired_difference",
    "soft_weights",
]
