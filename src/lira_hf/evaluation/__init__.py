"""Evaluation: per-language retrieval reports, intervals, and the controls that stand beside every figure."""

from .ablation import Ablation, AblationResults, read_stages
from .ablation_report import ablation_markdown, ablation_report, plot_ablation, write_ablation
from .ablation_variants import Variant, make_variants
from .bound import BoundSettings, SemanticBank, conformal_quantile, fit_constant, reached_level, rows_needed
from .bound_measure import BoundMeasurements, edit_tokens, find_row_candidates, measure_bound, semantic_bank
from .bound_rows import BoundRow, BoundRows, choose_anchors, read_bound_rows
from .choice import CandidateChoice, hard_weights, soft_weights
from .choices import ChoiceScorer, choice_prompt, evaluate_choices
from .controls import MIXTURES, RoadControls, baseline_controls
from .diagnosis import THRESHOLDS, BoundFit, advise, diagnose, drift_point, fit_bound
from .diagnosis_report import (
    bound_summary,
    diagnosis_markdown,
    diagnosis_table,
    drift_table,
    plot_diagnosis,
    plot_drift,
    write_diagnosis_rows,
)
from .embedder import dev_metrics, evaluate_embedder
from .generation import SYSTEMS, AnswerScores, evaluate_mgsm, extract_number, mgsm_prompt, system_report
from .pairs import PairScores, pair_difference
from .path_weights import PathWeightCalibration, calibrate_path_weights
from .retrieval import METRICS, Interval, RetrievalScores, evaluate_retrieval, paired_difference
from .robustness import NOISE_RATES, NOISES, TRANSLATIONS, NoiseCurves, TextNoise, fill_clean, word_lexicon
from .robustness_few_shot import FEW_SHOT_ROWS, FewShotCurve, few_shot_data
from .robustness_report import robustness_markdown, write_robustness_report
from .robustness_systems import ROBUSTNESS_SYSTEMS, RobustnessSystems, SourceTexts
from .robustness_tasks import RobustnessTask, choose_controls, measure_systems, read_task
from .worked_examples import WORKED_EXAMPLES, WorkedExample


__all__ = [
    "FEW_SHOT_ROWS",
    "METRICS",
    "MIXTURES",
    "NOISES",
    "NOISE_RATES",
    "ROBUSTNESS_SYSTEMS",
    "SYSTEMS",
    "THRESHOLDS",
    "TRANSLATIONS",
    "WORKED_EXAMPLES",
    "Ablation",
    "AblationResults",
    "AnswerScores",
    "BoundFit",
    "BoundMeasurements",
    "BoundRow",
    "BoundRows",
    "BoundSettings",
    "CandidateChoice",
    "ChoiceScorer",
    "FewShotCurve",
    "Interval",
    "NoiseCurves",
    "PairScores",
    "PathWeightCalibration",
    "RetrievalScores",
    "RoadControls",
    "RobustnessSystems",
    "RobustnessTask",
    "SemanticBank",
    "SourceTexts",
    "TextNoise",
    "Variant",
    "WorkedExample",
    "ablation_markdown",
    "ablation_report",
    "advise",
    "baseline_controls",
    "bound_summary",
    "calibrate_path_weights",
    "choice_prompt",
    "choose_anchors",
    "choose_controls",
    "conformal_quantile",
    "dev_metrics",
    "diagnose",
    "diagnosis_markdown",
    "diagnosis_table",
    "drift_point",
    "drift_table",
    "edit_tokens",
    "evaluate_choices",
    "evaluate_embedder",
    "evaluate_mgsm",
    "evaluate_retrieval",
    "extract_number",
    "few_shot_data",
    "fill_clean",
    "find_row_candidates",
    "fit_bound",
    "fit_constant",
    "hard_weights",
    "make_variants",
    "measure_bound",
    "measure_systems",
    "mgsm_prompt",
    "pair_difference",
    "paired_difference",
    "plot_ablation",
    "plot_diagnosis",
    "plot_drift",
    "reached_level",
    "read_bound_rows",
    "read_stages",
    "read_task",
    "robustness_markdown",
    "rows_needed",
    "semantic_bank",
    "soft_weights",
    "system_report",
    "word_lexicon",
    "write_ablation",
    "write_diagnosis_rows",
    "write_robustness_report",
]
