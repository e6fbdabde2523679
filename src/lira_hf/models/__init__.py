"""All that a checkpoint carries as code: configuration, processor and models, registered with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultipleChoice, AutoProcessor

from .configuration_lira import LiraConfig
from .modeling_arca import LiraArca, LiraArcaOutput
from .modeling_causal_lira import LiraCausalLMOutput, LiraForCausalLM
from .modeling_choice_lira import LiraForMultipleChoice, LiraMultipleChoiceOutput
from .modeling_lasr import LiraEmbeddingHead, LiraFusion
from .modeling_lira import LiraModel, LiraModelOutput
from .pipeline_lira import LiraEmbeddingPipeline, LiraGenerationPipeline, register_pipelines
from .pretrained_lira import LiraPreTrainedModel
from .processing_lira import LiraProcessor, clean_text


AutoConfig.register("lira", LiraConfig, exist_ok=True)
AutoModel.register(LiraConfig, LiraModel, exist_ok=True)
AutoModelForCausalLM.register(LiraConfig, LiraForCausalLM, exist_ok=True)
AutoModelForMultipleChoice.register(LiraConfig, LiraForMultipleChoice, exist_ok=True)
AutoProcessor.register(LiraConfig, LiraProcessor, exist_ok=True)
register_pipelines()

__all__ = [
    "LiraArca",
    "LiraArcaOutput",
    "LiraCausalLMOutput",
    "LiraConfig",
    "LiraEmbeddingHead",
    "LiraEmbeddingPipeline",
    "LiraForCausalLM",
    "LiraForMultipleChoice",
    "LiraFusion",
    "LiraGenerationPipeline",
    "LiraModel",
    "LiraModelOutput",
    "LiraMultipleChoiceOutput",
    "LiraPreTrainedModel",
    "LiraProcessor",
    "clean_text",
]
