"""All that a checkpoint carries as code: configuration, processor and models, registered with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_lira import LiraConfig
from .modeling_arca import LiraArca, LiraArcaOutput
from .modeling_lasr import LiraEmbeddingHead, LiraFusion
from .modeling_lira import LiraModel, LiraModelOutput, LiraPreTrainedModel
from .processing_lira import LiraProcessor, clean_text


AutoConfig.register("lira", LiraConfig, exist_ok=True)
AutoModel.register(LiraConfig, LiraModel, exist_ok=True)
AutoProcessor.register(LiraConfig, LiraProcessor, exist_ok=True)

__all__ = [
    "LiraArca",
    "LiraArcaOutput",
    "LiraConfig",
    "LiraEmbeddingHead",
    "LiraFusion",
    "LiraModel",
    "LiraModelOutput",
    "LiraPreTrainedModel",
    "LiraProcessor",
    "clean_text",
]
