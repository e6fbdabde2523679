"""Evaluation: per-language retrieval reports, intervals, and the controls that stand beside every figure."""

from .choice import CandidateChoice, hard_weights, soft_weights
from .choices import ChoiceScorer, choice_prompt, evaluate_choices
from .controls import MIXTURES, RoadControls, baseline_controls
from .embedder import dev_metrics, evaluate_embedder
from .generation import SYSTEMS, AnswerScores, evaluate_mgsm, extract_number, mgsm_prompt, system_report
from .retrieval import METRICS, Interval, RetrievalScores, evaluate_retrieval, paired_difference
from .worked_examples import WORKED_EXAMPLES, WorkedExample


__all__ = [
    "METRICS",
    "MIXTURES",
    "SYSTEMS",
    "WORKED_EXAMPLES",
    "AnswerScores",
    "CandidateChoice",
    "ChoiceScorer",
    "Interval",
    "RetrievalScores",
    "RoadControls",
    "WorkedExample",
    "baseline_controls",
    "choice_prompt",
    "dev_metrics",
    "evaluate_choices",
    "evaluate_embedder",
    "evaluate_mgsm",
    "evaluate_retrieval",
    "extract_number",
    "hard_weights",
    "mgsm_prompt",
    "paired_difference",
    "soft_weights",
    "system_report",
]
