"""Training under the Hugging Face Trainer: both stages, one task or several, over cached features, described by YAML
recipes; LoRA."""

from .arguments import DataArguments, LiraTrainingArguments, ModelArguments
from .collator import LiraCollator
from .dataset import ranking_rows, retrieval_rows
from .generation import generation_rows, reference_slots
from .generation_collator import GenerationCollator
from .joining import load_model
from .lora import lira_lora_config
from .mixture import Task, TaskMixture
from .negatives import mine_hard_negatives
from .recipes import read_recipe, train_recipe
from .trainer import LiraTrainer, last_checkpoint


__all__ = [
    "DataArguments",
    "GenerationCollator",
    "LiraCollator",
    "LiraTrainer",
    "LiraTrainingArguments",
    "ModelArguments",
    "Task",
    "TaskMixture",
    "generation_rows",
    "last_checkpoint",
    "lira_lora_config",
    "load_model",
    "mine_hard_negatives",
    "ranking_rows",
    "read_recipe",
    "reference_slots",
    "retrieval_rows",
    "train_recipe",
]
