"""Evaluation: per-language retrieval reports, intervals, and the controls that stand beside every figure."""

from .controls import MIXTURES, RoadControls
from .embedder import dev_metrics, evaluate_embedder
from .retrieval import METRICS, Interval, RetrievalScores, evaluate_retrieval, paired_difference


__all__ = [
    "METRICS",
    "MIXTURES",
    "Interval",
    "RetrievalScores",
    "RoadControls",
    "dev_metrics",
    "evaluate_embedder",
    "evaluate_retrieval",
    "paired_difference",
]
