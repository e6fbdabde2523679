"""Training under the Hugging Face Trainer: both stages, over cached features, described by YAML recipes; LoRA."""

from .arguments import DataArguments, LiraTrainingArguments, ModelArguments
from .dataset import LiraCollator, retrieval_rows
from .lora import lira_lora_config
from .recipes import load_model, read_recipe, train_recipe
from .trainer import LiraTrainer, last_checkpoint


__all__ = [
    "DataArguments",
    "LiraCollator",
    "LiraTrainer",
    "LiraTrainingArguments",
    "ModelArguments",
    "last_checkpoint",
    "lira_lora_config",
    "load_model",
    "read_recipe",
    "retrieval_rows",
    "train_recipe",
]
