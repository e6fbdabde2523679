"""What a run is described by: the model, the data and the training arguments of a YAML recipe."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments


__all__ = ["DataArguments", "LiraTrainingArguments", "ModelArguments"]


@dataclass
class ModelArguments:
    """
    Which model is trained: a LiRA checkpoint, or backbones that are joined anew.

    Args:
        model (`str`, *optional*): Folder or name of a LiRA checkpoint, such as stage 1's output.
        encoder (`str`, *optional*): Folder or name of the multilingual encoder g, where there is no checkpoint yet.
        anchor (`str`, *optional*): Folder or name of the English encoder h. `None`: g serves as h.
        max_length (`int`, *optional*, defaults to 512): Tokens kept of a text, where backbones are joined.
        config (`dict`, *optional*): Fields of [`LiraConfig`], on top of the checkpoint's or of the defaults.
    """

    model: str | None = None
    encoder: str | None = None
    anchor: str | None = None
    max_length: int = 512
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.model is None) == (self.encoder is None):
            raise ValueError(
                f"got model={self.model!r} and encoder={self.encoder!r}; expected one of them: a LiRA checkpoint "
                "to go on with, or a multilingual encoder to start from"
            )


@dataclass
class DataArguments:
    """
    What it is trained on.

    Args:
        data (`str`): A BEIR folder whose queries carry their language.
        train_split (`str`, *optional*, defaults to `"train"`): Name of the qrels to train on.
        dev_split (`str`, *optional*, defaults to `"dev"`): Name of the qrels that settings are chosen on; "" for none.
        store (`str`, *optional*): Candidate store. `None` trains without translations.
        critic (`str`, *optional*): Name of the critic whose scores are read.
        critic_fingerprint (`str`, *optional*): Its fingerprint, where the store has several of that name.
        num_candidates (`int`, *optional*, defaults to 5): K.
        features (`str`, *optional*): Folder of the feature cache; computed anew in every run without it.
        feature_dtype (`str`, *optional*, defaults to `"float16"`): Or `"float32"`.
    """

    data: str = ""
    train_split: str = "train"
    dev_split: str = "dev"
    store: str | None = None
    critic: str | None = None
    critic_fingerprint: str | None = None
    num_candidates: int = 5
    features: str | None = None
    feature_dtype: str = "float16"

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data is empty; expected a BEIR folder; name one in the recipe")


@dataclass
class LiraTrainingArguments(TrainingArguments):
    """
    `TrainingArguments` and what LiRA's two stages need on top.

    Args:
        stage (`str`, *optional*, defaults to `"lasr"`): `"arca"` (stage 1) or `"lasr"` (stage 2).
        reference (`str`, *optional*, defaults to `"document"`): What the actor learns from in stage 1 besides the
            judge: `"document"`, the text's English document (its translation, or what it should find; ours), or
            `"none"`, the judge and sim alone (paper).
        actor_learning_rate (`float`, *optional*): The actor's own; it is small and bears a larger one than the
            adaptor, which soon knows the training rows by heart. `None`: `learning_rate`.
        train_arca (`bool`, *optional*, defaults to `False`): Stage 2 also moves the adaptor and the actor (ours).
        objective (`str`, *optional*, defaults to `"soft_ndcg"`): Ranking loss of stage 2, or `"infonce"`.
        ndcg_k (`int`, *optional*, defaults to 10): k of the soft nDCG.
        tau (`float`, *optional*, defaults to 0.05): Temperature of the ranking loss.
        hinge_weight (`float`, *optional*, defaults to 0.1): lambda_h.
        mean_variance_weight (`float`, *optional*, defaults to 0.01): lambda_r.
        queue_size (`int`, *optional*, defaults to 2048): Documents in the DocQueue; 0 for none.
        safe_similarity (`float`, *optional*, defaults to 0.95): A document as close as this to the positive is no
            negative.
        consistency_weight (`float`, *optional*, defaults to 0.1): Pull of each single road towards both.
        start_weight (`float`, *optional*, defaults to 1.0): Pull towards the untrained start (ours).
        path_dropout (`float`, *optional*, defaults to 0.3): Share of the queries that lose one road (ours).
        collapse_similarity (`float`, *optional*, defaults to 0.98): Mean sim above which training warns of collapse.
        collapse_spread (`float`, *optional*, defaults to 0.005): Within-item spread of sim below which it warns.
        collapse_entropy (`float`, *optional*, defaults to 0.01): Mean entropy of the policy, in nats, below which it
            warns.
        per_device_eval_batch_size (`int`, *optional*, defaults to 64): More than `TrainingArguments` has, as the
            batch's documents are what is ranked.
    """

    stage: str = "lasr"
    reference: str = "document"
    actor_learning_rate: float | None = None
    train_arca: bool = False
    objective: str = "soft_ndcg"
    ndcg_k: int = 10
    tau: float = 0.05
    hinge_weight: float = 0.1
    mean_variance_weight: float = 0.01
    queue_size: int = 2048
    safe_similarity: float = 0.95
    consistency_weight: float = 0.1
    start_weight: float = 1.0
    path_dropout: float = 0.3
    collapse_similarity: float = 0.98
    collapse_spread: float = 0.005
    collapse_entropy: float = 0.01
    per_device_eval_batch_size: int = 64

    def __post_init__(self) -> None:
        # Batches are built from texts by the collator, so no column may be dropped before it.
        self.remove_unused_columns = False
        super().__post_init__()
        if self.stage not in ("arca", "lasr"):
            raise ValueError(f"stage is {self.stage!r}; expected 'arca' (stage 1) or 'lasr' (stage 2)")
        if self.reference not in ("document", "none"):
            raise ValueError(f"reference is {self.reference!r}; expected 'document' or 'none'")
        if not 0.0 <= self.path_dropout < 1.0:
            raise ValueError(f"path_dropout is {self.path_dropout}; expected a share from 0 up to, not including, 1")
