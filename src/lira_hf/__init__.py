"""LiRA for Hugging Face Transformers. Importing the package registers its classes with the Auto classes."""

import importlib

from .encoders import NgramEncoderConfig, NgramEncoderModel, NgramTokenizer
from .models import (
    LiraConfig,
    LiraEmbeddingPipeline,
    LiraForCausalLM,
    LiraForMultipleChoice,
    LiraGenerationPipeline,
    LiraModel,
    LiraModelOutput,
    LiraProcessor,
)
from .models.configuration_lira import LIRA_VERSION


__version__ = LIRA_VERSION


# Search, the feature cache, LoRA and the Hub bring their own libraries, which loading a model does not need.
_LAZY = {
    "CandidateSource": "inference",
    "LiraEmbedder": "inference",
    "LiraGenerator": "inference",
    "export_remote_code": "integrations",
    "lira_lora_config": "training",
    "push_to_hub": "integrations",
    "save_checkpoint": "integrations",
}

__all__ = [
    "CandidateSource",
    "LiraConfig",
    "LiraEmbedder",
    "LiraEmbeddingPipeline",
    "LiraForCausalLM",
    "LiraForMultipleChoice",
    "LiraGenerationPipeline",
    "LiraGenerator",
    "LiraModel",
    "LiraModelOutput",
    "LiraProcessor",
    "NgramEncoderConfig",
    "NgramEncoderModel",
    "NgramTokenizer",
    "__version__",
    "export_remote_code",
    "lira_lora_config",
    "push_to_hub",
    "save_checkpoint",
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
