"""What an ablation trains: the full model, the same without each part, and a plain rival (paper: ablations)."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lira_hf.training import LiraTrainingArguments


__all__ = ["FULL", "TASKS", "Variant", "make_variants", "stage_recipes"]

FULL = "LiRA"
# By task the field of its queue. Generation is measured elsewhere (docs/generation.md).
TASKS = {"retrieval": "queue_size", "ranking": "corr_queue_size"}
_NO_CRITIC = {"critic": None, "critic_fingerprint": None}
# sim is 0 by design there, and no sign of a collapse.
_NO_SIM = {"collapse_spread": 0.0}
# Of stage 2: what each is called, and how much of it a model without one is given.
_PARTS_OF_TRAINING = {"path_dropout": ("path dropout", 0.3), "consistency_weight": ("consistency", 0.1)}
_QUEUES = {"queue_size": "DocQueue", "corr_queue_size": "CorrQueue"}


@dataclass(frozen=True)
class Variant:
    """
    A trained row.

    Args:
        name (`str`): In the table.
        about (`str`): What differs from the full model, in plain words.
        part (`str`, *optional*): The part that is taken away, or put in where `adds`.
        adds (`bool`, *optional*, defaults to `False`): The part is one that the full model lacks.
        config (`dict`, *optional*): Fields of [`LiraConfig`] that differ.
        both (`dict`, *optional*): Fields of both stages' recipes that differ.
        lasr (`dict`, *optional*): Fields of stage 2's recipe that differ.
        start (`str`, *optional*, defaults to `"own"`): Stage 1: its `"own"`, that of the `"full"` model, or `"none"`,
            where stage 1 has nothing to learn from.
        fixed (`bool`, *optional*, defaults to `False`): Its candidate is the one kind that is best on dev.
    """

    name: str
    about: str
    part: str = ""
    adds: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    both: dict[str, Any] = field(default_factory=dict)
    lasr: dict[str, Any] = field(default_factory=dict)
    start: str = "own"
    fixed: bool = False

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())


def make_variants(lasr: dict[str, Any], queue_size: int = 1024) -> tuple[list[Variant], dict[str, str]]:
    """
    The rows that the recipes allow.

    Args:
        lasr (`dict`): Stage 2's recipe.
        queue_size (`int`, *optional*, defaults to 1024): Entries of the queue that a model without one is given.

    Returns:
        `tuple`: the variants, the full model first, and the rows that there can't be, with the reason.
    """
    queue = TASKS[lasr.get("task", "retrieval")]
    found, missing = [Variant(FULL, "everything, as the recipes say")], {}
    no_candidates = "the recipes name no candidate store, so there is no translation to take away"
    if lasr.get("store") is None:
        for name in ("no translation critic", "no embedding critic", "no translation", "no multilingual encoder"):
            missing[name] = no_candidates
        missing["MindMerger-style"] = no_candidates
    else:
        if lasr.get("critic") is None:
            missing["no translation critic"] = "the recipes name no critic, so none is read"
        else:
            found.append(_without_translation_critic())
        found += [_without_embedding_critic(), _without_translation(), _without_multilingual_encoder()]
    found.append(_other_queue(queue, lasr.get(queue, 0), queue_size))
    if lasr.get("store") is not None:
        found += [_other_part(name, part, given, lasr) for name, (part, given) in _PARTS_OF_TRAINING.items()]
        found.append(_mind_merger(queue, lasr.get("task", "retrieval")))
    return found, missing


def _without_translation_critic() -> Variant:
    return Variant(
        "no translation critic",
        "the critic's scores of the candidates are read neither in training nor when asked",
        "translation critic",
        both=_NO_CRITIC,
    )


def _without_embedding_critic() -> Variant:
    return Variant(
        "no embedding critic",
        "sim is hidden from the actor and from its reward, and nothing is anchored",
        "embedding critic",
        config={"without": ["embedding_critic"]},
        both=_NO_SIM,
    )


def _without_translation() -> Variant:
    return Variant(
        "no translation",
        "no candidates, neither in training nor when asked; h reads English documents alone, and stage 1 has nothing "
        "to learn from",
        "translation",
        both={"store": None, **_NO_CRITIC},
        start="none",
    )


def _without_multilingual_encoder() -> Variant:
    # With one road there is none to drop, and none to be consistent with.
    return Variant(
        "no multilingual encoder",
        "g's road is masked on both sides, in training and when asked, and with it the embedding critic",
        "multilingual encoder",
        config={"without": ["multilingual_encoder"]},
        both=_NO_SIM,
        lasr={"path_dropout": 0.0, "consistency_weight": 0.0},
    )


def _other_queue(field_name: str, size: int, given: int) -> Variant:
    queue = _QUEUES[field_name]
    if size:
        return Variant(
            f"no {queue}",
            f"the batch alone, without the {queue} of {size:,}",
            queue,
            lasr={field_name: 0},
            start="full",
        )
    return Variant(
        f"with a {queue} of {given:,}",
        f"the recipes have no {queue}; this row has one",
        queue,
        adds=True,
        lasr={field_name: given},
        start="full",
    )


def _other_part(name: str, part: str, given: float, lasr: dict[str, Any]) -> Variant:
    """Without a part of stage 2's training, or with it where the recipe has none."""
    if lasr.get(name, getattr(LiraTrainingArguments, name)):
        return Variant(f"no {part}", f"stage 2 without {part}", part, lasr={name: 0.0}, start="full")
    told = f"the recipes have no {part}; this row has one ({name} {given:g})"
    return Variant(f"with {part}", told, part, adds=True, lasr={name: given}, start="full")


def _mind_merger(queue: str, task: str) -> Variant:
    plain = {queue: 0, "path_dropout": 0.0, "consistency_weight": 0.0}
    loss = "the recipes' loss"
    if task == "retrieval":
        plain |= {"objective": "infonce", "hinge_weight": 0.0, "mean_variance_weight": 0.0, "hard_negatives": 0}
        loss = "InfoNCE"
    return Variant(
        "MindMerger-style",
        f"one candidate of a fixed kind, {loss}; no actor, no critics, no queue, no path dropout, no consistency; the "
        "same start and the same pull towards it",
        both={**_NO_CRITIC, "num_candidates": 1},
        lasr=plain,
        fixed=True,
    )


def stage_recipes(
    variant: Variant, arca: dict[str, Any], lasr: dict[str, Any], folder: Path, seed: int, store: Path | None = None
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """
    A variant's recipes of both stages.

    Args:
        variant ([`Variant`]): The row.
        arca, lasr (`dict`): The full model's recipes.
        folder (`Path`): The seed's folder, which holds one of each variant.
        seed (`int`): Of the training.
        store (`Path`, *optional*): The store of the candidates of a fixed kind, for variants that read it.

    Returns:
        `tuple`: stage 1's recipe, `None` where the variant has no stage 1 of its own, and stage 2's.
    """
    both = {**variant.both, "seed": seed, "disable_tqdm": True, "report_to": "none"}
    if variant.fixed:
        both["store"] = str(store)
    own = folder / variant.slug
    first = {**copy.deepcopy(arca), **both, "output_dir": str(own / "arca")}
    first["config"] = {**first.get("config", {}), **variant.config}
    if "encoder" in first and first["encoder"] is not None:
        # The backbones are the same for all rows: each checkpoint names them instead of holding them.
        first["config"] = {"backbones_saved": False} | first["config"]
    second = {**copy.deepcopy(lasr), **both, **variant.lasr, "output_dir": str(own / "lasr")}
    second["config"] = {**second.get("config", {}), **variant.config}
    for name in ("encoder", "anchor", "max_length", "model"):
        second.pop(name, None)
    if variant.start == "none":
        second |= {name: first[name] for name in ("encoder", "anchor", "max_length", "model") if name in first}
        second["config"] = {**first["config"], **second["config"]}
        return None, second
    start = own if variant.start == "own" else folder / Variant(FULL, "").slug
    second["model"] = str(start / "arca")
    return (first if variant.start == "own" else None), second
