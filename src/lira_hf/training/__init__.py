"""Training under the Hugging Face Trainer: both stages, one task or several, over cached features, described by YAML
recipes; LoRA."""

from .arguments import DataArguments, LiraTrainingArguments, ModelArguments
from .calibration import GateCalibration, calibrate_gate
from .checkpoints import last_checkpoint
from .collator import LiraCollator
from .dataset import ranking_rows, retrieval_rows
from .feature_run import FeatureReport, fill_recipe_features
from .generation import generation_rows, reference_slots
from .generation_collator import GenerationCollator
from .joining import load_model
from .lora import lira_lora_config
from .mixture import Task, TaskMixture
from .negatives import mine_hard_negatives
from .recipes import read_recipe, train_recipe
from .run_facts import RUN_FACTS_NAME, data_license, heads_fingerprint, read_run_facts, write_run_facts
from .trainer import LiraTrainer


__all__ = [
    "RUN_FACTS_NAME",
    "DataArguments",
    "FeatureReport",
    "GateCalibration",
    "GenerationCollator",
    "LiraCollator",
    "LiraTrainer",
    "LiraTrainingArguments",
    "ModelArguments",
    "Task",
    "TaskMixture",
    "calibrate_gate",
    "data_license",
    "fill_recipe_features",
    "generation_rows",
    "heads_fingerprint",
    "last_checkpoint",
    "lira_lora_config",
    "load_model",
    "mine_hard_negatives",
    "ranking_rows",
    "read_recipe",
    "read_run_facts",
    "reference_slots",
    "retrieval_rows",
    "train_recipe",
    "write_run_facts",
]
