"""LiRA for Hugging Face Transformers. Importing the package registers its classes with the Auto classes."""

from .encoders import NgramEncoderConfig, NgramEncoderModel, NgramTokenizer
from .models import LiraConfig, LiraModel, LiraModelOutput, LiraProcessor


__version__ = "0.1.0"

__all__ = [
    "LiraConfig",
    "LiraModel",
    "LiraModelOutput",
    "LiraProcessor",
    "NgramEncoderConfig",
    "NgramEncoderModel",
    "NgramTokenizer",
]
