"""LiRA for Hugging Face Transformers. Importing the package registers its classes with the Auto classes."""

from .encoders import NgramEncoderConfig, NgramEncoderModel, NgramTokenizer
from .models import (
    LiraConfig,
    LiraForCausalLM,
    LiraForMultipleChoice,
    LiraModel,
    LiraModelOutput,
    LiraProcessor,
)
from .models.configuration_lira import LIRA_VERSION


__version__ = LIRA_VERSION


__all__ = [
    "LiraConfig",
    "LiraEmbedder",
    "LiraForCausalLM",
    "LiraForMultipleChoice",
    "LiraModel",
    "LiraModelOutput",
    "LiraProcessor",
    "NgramEncoderConfig",
    "NgramEncoderModel",
    "NgramTokenizer",
    "__version__",
]


def __getattr__(name: str):
    # Search and the feature cache bring their own libraries, which loading a model does not need.
    if name == "LiraEmbedder":
        from .inference import LiraEmbedder

        return LiraEmbedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
