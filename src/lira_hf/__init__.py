"""LiRA for Hugging Face Transformers. Importing the package registers its classes with the Auto classes."""

from .encoders import NgramEncoderConfig, NgramEncoderModel, NgramTokenizer
from .models import LiraConfig, LiraModel, LiraModelOutput, LiraProcessor
from .models.configuration_lira import LIRA_VERSION


__version__ = LIRA_VERSION


__all__ = [
    "LiraConfig",
    "LiraModel",
    "LiraModelOutput",
    "LiraProcessor",
    "NgramEncoderConfig",
    "NgramEncoderModel",
    "NgramTokenizer",
    "__version__",
]
