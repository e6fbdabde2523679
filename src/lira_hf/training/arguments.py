"""What a run is described by: the model, the data and the training arguments of a YAML recipe."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import TrainingArguments


__all__ = ["TASKS", "DataArguments", "LiraTrainingArguments", "ModelArguments"]

TASKS = ("retrieval", "ranking", "generation")


@dataclass
class ModelArguments:
    """
    Which model is trained: a LiRA checkpoint, or backbones that are joined anew.

    Args:
        model (`str`, *optional*): Folder or name of a LiRA checkpoint, such as stage 1's output.
        encoder (`str`, *optional*): Folder or name of the multilingual encoder g, where there is no checkpoint yet.
        anchor (`str`, *optional*): Folder or name of the English encoder h. `None`: g serves as h.
        base (`str`, *optional*): Folder or name of the base LM, which generation needs: joined to the encoders, or to
            the embedding checkpoint that `model` names, such as stage 1's output.
        max_length (`int`, *optional*, defaults to 512): Tokens kept of a text, where backbones are joined.
        config (`dict`, *optional*): Fields of [`LiraConfig`], on top of the checkpoint's or of the defaults.
    """

    model: str | None = None
    encoder: str | None = None
    anchor: str | None = None
    base: str | None = None
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
    What it is trained on: one task, or several, of which each batch holds one, drawn by its weight.

    Args:
        data (`str`): For retrieval a BEIR folder whose queries, and where they aren't English documents, carry their
            language. For ranking a table of scored pairs, as of [`read_sts`], with a column `split`; or a folder that
            holds one table per split, such as `train.tsv`. In a table without splits all pairs are trained on. For
            generation conversations, or prompts with completions, as of [`read_chat`], in one file or in a folder,
            such as `train.jsonl` and `dev.jsonl`, likewise.
        task (`str`, *optional*, defaults to `"retrieval"`): Or `"ranking"` or `"generation"`.
        tasks (`list[dict]`, *optional*): Several tasks in place of `data` and `task`: each with `data`, and maybe
            `task`, `weight` (1.0, how often it is drawn), `name` (what its dev figures are logged under) and any other
            field of these arguments, which else holds for all of them.
        weight (`float`, *optional*, defaults to 1.0): Of one of several tasks.
        name (`str`, *optional*): Of one of several tasks; that of its data without.
        train_split (`str`, *optional*, defaults to `"train"`): Name of the qrels to train on.
        dev_split (`str`, *optional*, defaults to `"dev"`): Name of the qrels that settings are chosen on; "" for none.
        store (`str`, *optional*): Candidate store. `None` trains without translations.
        critic (`str`, *optional*): Name of the critic whose scores are read.
        critic_fingerprint (`str`, *optional*): Its fingerprint, where the store has several of that name.
        num_candidates (`int`, *optional*, defaults to 5): K.
        features (`str`, *optional*): Folder of the feature cache; computed anew in every run without it.
        feature_dtype (`str`, *optional*, defaults to `"float16"`): Or `"float32"`.
        hard_negatives (`int`, *optional*, defaults to 0): Hard negatives a query, mined by the model that training
            starts from, see [`mine_hard_negatives`].
        hard_negative_skip (`int`, *optional*, defaults to 0): First ranks that are left out, as they may be relevant.
        hard_negative_similarity (`float`, *optional*, defaults to 0.95): A document whose cosine with the positive is
            above this is no negative.
        max_sequence_length (`int`, *optional*, defaults to 1024): Of generation, tokens of the base LM: prompt, soft
            prefix and completion. Longer rows are left out, and logged.
        data_license (`str`, *optional*): What the model card says of the data's licence; by default what the README.md
            beside the data says, if it does.
    """

    data: str = ""
    task: str = "retrieval"
    tasks: list[dict[str, Any]] | None = None
    weight: float = 1.0
    name: str = ""
    train_split: str = "train"
    dev_split: str = "dev"
    store: str | None = None
    critic: str | None = None
    critic_fingerprint: str | None = None
    num_candidates: int = 5
    features: str | None = None
    feature_dtype: str = "float16"
    hard_negatives: int = 0
    hard_negative_skip: int = 0
    hard_negative_similarity: float = 0.95
    max_sequence_length: int = 1024
    data_license: str | None = None

    def __post_init__(self) -> None:
        if self.tasks is not None and (not self.tasks or self.data):
            raise ValueError(
                f"tasks has {len(self.tasks)} entries beside data={self.data!r}; expected either data, or at least "
                "one task with data of its own; leave one of the two out"
            )
        if not self.data and not self.tasks:
            raise ValueError("data is empty; expected a BEIR folder; name one in the recipe")
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}; expected one of {TASKS}; correct it")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight is {self.weight}; expected a number above 0; leave out a task that isn't wanted")
        if self.max_sequence_length < 1:
            raise ValueError(
                f"max_sequence_length is {self.max_sequence_length}; expected 1 token or more; correct it"
            )
        for number, task in enumerate(self.tasks or [], start=1):
            self._check_task(number, task)

    def each(self) -> list["DataArguments"]:
        """The arguments of each task by itself: of the only one, or of all `tasks`."""
        if not self.tasks:
            return [self]
        shared = {field.name: getattr(self, field.name) for field in fields(self)} | {"tasks": None}
        return [DataArguments(**{**shared, **task}) for task in self.tasks]

    def _check_task(self, number: int, task: Any) -> None:
        if not isinstance(task, dict):
            raise ValueError(f"tasks has {task!r:.60} as task {number}; expected 'name: value' lines; write them so")
        known = {field.name for field in fields(self)} - {"tasks", "features", "feature_dtype"}
        unknown = sorted(set(task) - known)
        if unknown:
            raise ValueError(
                f"tasks has the unknown keys {unknown} in task {number}; expected some of {sorted(known)}; correct or "
                "remove them"
            )
        try:
            shared = {field.name: getattr(self, field.name) for field in fields(self)} | {"tasks": None}
            DataArguments(**{**shared, **task})
        except ValueError as error:
            raise ValueError(f"tasks has a wrong task {number}: {error}") from error


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
        queue_size (`int`, *optional*, defaults to 0): Documents in the DocQueue (paper); 0 for none, which was
            measured to be better with batches of 256 (docs/results/lasr.md).
        pearson_weight (`float`, *optional*, defaults to 0.5): Of Pearson in the loss of ranking, in 0..1; the rest is
            soft Spearman's.
        corr_queue_size (`int`, *optional*, defaults to 0): Pairs in the CorrQueue (paper); 0 for none: with batches of
            256 a queue was measured to gain nothing (docs/results/ranking.md).
        corr_max_age (`int`, *optional*): Pairs of the CorrQueue that more than this many batches came after are left
            out of the loss.
        corr_refresh (`int`, *optional*, defaults to 0): Predict the CorrQueue's pairs anew once in so many batches of
            ranking, by the present model (ours); costs a pass over the queue. 0: never.
        corr_gradient_weight (`bool`, *optional*, defaults to `True`): Weigh the correlation's gradient by the number
            of pairs that it is of, over those of the batch (ours): it is then as large as without a CorrQueue, which
            was measured to be better (docs/results/ranking.md). `False`: as it falls out.
        safe_similarity (`float`, *optional*, defaults to 0.95): A document as close as this to the positive is no
            negative.
        consistency_weight (`float`, *optional*, defaults to 0.0): Pull of each single road towards both (paper). Off,
            since nothing was gained by it (docs/ablation.md), and a step costs two further passes of the fusion.
        start_weight (`float`, *optional*, defaults to 1.0): Pull towards the untrained start (ours).
        path_dropout (`float`, *optional*, defaults to 0.1): Share of the queries that lose one road (ours): more is
            better where texts are asked about without a translation, none where all have one (docs/ablation.md).
        generation_loss (`str`, *optional*, defaults to `"answer"`): Of generation: `"reference"` warms the soft prefix
            up, against the rows' English references (ours); `"answer"` trains it end to end, through the base LM
            (paper), at a learning rate of 1e-4 or less once it is warm.
        slot_weight (`float`, *optional*, defaults to 0.0): Of the reference's loss beside the answer's (ours).
        lora_rank (`int`, *optional*, defaults to 0): Of generation: rank of LoRA on the base LM, merged into it at the
            end; 0: the base LM is frozen.
        lora_alpha (`int`, *optional*, defaults to 32): Its scale.
        calibrate_gate (`bool`, *optional*, defaults to `True`): Of generation, after stage 2: set the gate between
            merged roads on the dev split, where this is there and has references (ours), see [`calibrate_gate`].
        collapse_similarity (`float`, *optional*, defaults to 0.98): Mean sim above which training warns of collapse.
        collapse_spread (`float`, *optional*, defaults to 0.005): Within-item spread of sim below which it warns.
        collapse_entropy (`float`, *optional*, defaults to 0.01): Mean entropy of the policy, in nats, below which it
            warns.
        collapse_cosine (`float`, *optional*, defaults to 0.95): Mean cosine of a batch's embeddings above which it
            warns.
        collapse_rank (`float`, *optional*, defaults to 2.0): Effective rank of a batch's embeddings below which it
            warns.
        english_margin (`float`, *optional*, defaults to 0.01): How far a figure on English may fall below the
            untrained start before it warns.
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
    queue_size: int = 0
    pearson_weight: float = 0.5
    corr_queue_size: int = 0
    corr_max_age: int | None = None
    corr_refresh: int = 0
    corr_gradient_weight: bool = True
    safe_similarity: float = 0.95
    consistency_weight: float = 0.0
    start_weight: float = 1.0
    path_dropout: float = 0.1
    generation_loss: str = "answer"
    slot_weight: float = 0.0
    lora_rank: int = 0
    lora_alpha: int = 32
    calibrate_gate: bool = True
    collapse_similarity: float = 0.98
    collapse_spread: float = 0.005
    collapse_entropy: float = 0.01
    collapse_cosine: float = 0.95
    collapse_rank: float = 2.0
    english_margin: float = 0.01
    per_device_eval_batch_size: int = 64

    def __post_init__(self) -> None:
        # Batches are built from texts by the collator, so no column may be dropped before it.
        self.remove_unused_columns = False
        super().__post_init__()
        if self.stage not in ("arca", "lasr"):
            raise ValueError(f"stage is {self.stage!r}; expected 'arca' (stage 1) or 'lasr' (stage 2)")
        if self.reference not in ("document", "none"):
            raise ValueError(f"reference is {self.reference!r}; expected 'document' or 'none'")
        if self.generation_loss not in ("answer", "reference"):
            raise ValueError(f"generation_loss is {self.generation_loss!r}; expected 'answer' or 'reference'")
        if not 0.0 <= self.path_dropout < 1.0:
            raise ValueError(f"path_dropout is {self.path_dropout}; expected a share from 0 up to, not including, 1")
        if not 0.0 <= self.pearson_weight <= 1.0:
            raise ValueError(f"pearson_weight is {self.pearson_weight}; expected a share from 0 to 1; correct it")
        for name in ("queue_size", "corr_queue_size", "corr_max_age", "corr_refresh", "lora_rank", "slot_weight"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}; expected 0 or more; correct it")
