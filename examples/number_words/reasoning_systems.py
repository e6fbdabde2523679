"""The systems that the benchmark compares: LiRA and its ablations, trained by recipes, and the controls without it."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lira_hf import LiraForCausalLM, LiraProcessor
from lira_hf.inference import LiraGenerator, RoadFeatures
from lira_hf.training import train_recipe
from number_words.base_models import parse_equation, prompt_text
from number_words.reasoning_data import CRITIC, Item
from number_words.scoring import best_by_critic, majority_vote
from number_words.wordings import LANGUAGES


__all__ = [
    "CONTROLS",
    "SYSTEMS",
    "HeadSettings",
    "Places",
    "System",
    "ask_base",
    "controls",
    "run_system",
    "train_arca",
]

logger = logging.getLogger(__name__)

_NEW_TOKENS = 20
# Names of the systems that need no training, in the order of the table.
CONTROLS = (
    "english upper bound",
    "base LM on the foreign text",
    "translate, first candidate",
    "translate, best by critic",
    "translate, vote",
    "translate, oracle (any right)",
)


@dataclass(frozen=True)
class HeadSettings:
    """
    LiRA's heads and their training, chosen on dev.

    Args:
        config (`dict`): fields of `LiraConfig`.
        arca_steps, arca_batch, arca_rate, actor_rate: of stage 1.
        steps, batch, rate, path_dropout: of stage 2, the warm-up against the English reference.
        answer_steps, answer_rate: of stage 2 end to end, after it; 0 steps: none.
        answer_slot_weight (`float`): of the reference's loss beside the answer's.
        lora_rank (`int`): of LoRA on the base LM in that; 0: it is frozen.
        weight_decay, beta2 (`float`): of both stages' AdamW.
    """

    config: dict[str, Any] = field(
        default_factory=lambda: {
            "num_bins": 32,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_fusion_layers": 2,
            "initializer_range": 0.08,
            "candidate_mode": "argmax",
            "prefix_projection": "vocab",
            "prefix_roads": "merged",
        }
    )
    arca_steps: int = 60
    arca_batch: int = 128
    arca_rate: float = 1e-3
    actor_rate: float = 5e-3
    steps: int = 800
    batch: int = 32
    rate: float = 2e-3
    path_dropout: float = 0.2
    answer_steps: int = 0
    answer_rate: float = 1e-4
    answer_slot_weight: float = 0.5
    lora_rank: int = 0
    weight_decay: float = 0.01
    beta2: float = 0.98


@dataclass(frozen=True)
class Places:
    """Folders: of the base LM and the encoder, of the data, of the feature cache, and where runs are written."""

    base: Path
    encoder: Path
    data: Path
    features: Path
    runs: Path


@dataclass(frozen=True)
class System:
    """
    A trained system.

    Args:
        config (`dict`): fields of `LiraConfig` that differ.
        arca (`bool`): has stage 1; without it the candidates are not weighed by any actor.
        candidates (`int`, *optional*): how many are read, in training and after; `None`: all, 0: none.
        critic (`bool`): the critic's scores are read.
        asked (`str`): what it is asked with: `"all"`, or `"candidates"` without the text (h alone).
        like (`str`): name of the system whose model it uses, where it is none of its own.
        gate (`bool`): the gate is asked, rather than both roads alike.
    """

    config: dict[str, Any] = field(default_factory=dict)
    arca: bool = True
    candidates: int | None = None
    critic: bool = True
    asked: str = "all"
    like: str = ""
    gate: bool = True


SYSTEMS: dict[str, System] = {
    "LiRA": System(),
    "g only": System({"prefix_gate": False}, arca=False, candidates=0, critic=False),
    "h only": System(asked="candidates", like="LiRA"),
    "LiRA, asked without critic scores": System(critic=False, like="LiRA"),
    "LiRA, asked without gate": System(like="LiRA", gate=False),
    "MindMerger-style": System({"prefix_roads": "both"}, arca=False, candidates=1, critic=False),
    "LiRA, trained without gate": System({"prefix_gate": False}),
    "LiRA, without embedding critic": System({"anchor_weight": 0.0, "reward_weights": [1.0, 1.0, 1.0, 0.0]}),
    "LiRA, trained without critic scores": System(critic=False),
    "LiRA, both roads side by side (2S)": System({"prefix_roads": "both"}),
    "MindMerger-style, roads merged": System({"prefix_gate": False}, arca=False, candidates=1, critic=False),
}


def run_system(
    name: str, seed: int, places: Places, settings: HeadSettings, asked: dict[str, Sequence[Item]]
) -> dict[str, Any]:
    """
    Trains a system, where it has a model of its own, and asks it.

    Args:
        name (`str`): of [`SYSTEMS`].
        seed (`int`): of the training.
        places ([`Places`]): folders.
        settings ([`HeadSettings`]): of the training.
        asked (`dict[str, Sequence[Item]]`): questions by split.

    Returns:
        `dict`: per split whether each answer is right; `gates`, the mean share of the multilingual road by language
        where there is a gate; `seconds` of CPU.
    """
    system, started = SYSTEMS[name], time.process_time()
    folder = places.runs / f"seed-{seed}" / _folder_name(system.like or name)
    kept = folder.with_name(f"{_folder_name(name)}.json")
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    if not system.like or not (folder / "config.json").is_file():
        _train(system.like or name, seed, places, settings, folder)
    model, processor = LiraForCausalLM.from_pretrained(folder), LiraProcessor.from_pretrained(folder)
    if not system.gate:
        model.lira.prefix_projector.config.prefix_gate = False
    features = RoadFeatures(model.base_model, processor, places.features)
    generator = LiraGenerator(model.eval(), processor, batch_size=256, features=features)
    found: dict[str, Any] = {}
    for split, items in asked.items():
        answers = _ask(system, generator, items)
        found[split] = [answer == item.answer for answer, item in zip(answers, items, strict=True)]
    found["gates"] = _gates(system, generator, asked["dev"]) if "dev" in asked else {}
    found["seconds"] = round(time.process_time() - started, 1)
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def _folder_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _shared(system: System, seed: int, places: Places, settings: HeadSettings) -> dict[str, Any]:
    """What the recipes of all stages have in common."""
    shared: dict[str, Any] = {
        "data": str(places.data),
        "task": "generation",
        "dev_split": "dev",
        "features": str(places.features),
        "seed": seed,
        "weight_decay": settings.weight_decay,
        "adam_beta2": settings.beta2,
        "warmup_steps": 0.1,
        "logging_steps": 100,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    if system.candidates != 0:
        shared |= {"store": str(places.data / "candidates.sqlite"), "num_candidates": system.candidates or 4}
        shared |= {"critic": CRITIC.name} if system.critic else {}
    return shared


def train_arca(name: str, seed: int, places: Places, settings: HeadSettings) -> Path | None:
    """
    Stage 1 of a system, where it has one and it isn't there yet; no base LM has a part in it.

    Args:
        name, seed, places, settings: As of [`run_system`].

    Returns:
        `Path`: its checkpoint, which systems that differ in nothing but the prefix share; `None` without a stage 1.
    """
    system = SYSTEMS[SYSTEMS[name].like or name]
    if not system.arca:
        return None
    # What only stage 2 has use for makes no other stage 1.
    own = {name: value for name, value in _config(system, settings).items() if not name.startswith("prefix_")}
    told = hashlib.sha256(json.dumps([own, system.critic], sort_keys=True).encode()).hexdigest()[:8]
    folder = places.runs / f"seed-{seed}" / f"arca-{told}"
    stage: dict[str, Any] = {
        "encoder": str(places.encoder),
        "config": own,
        "stage": "arca",
        "output_dir": str(folder),
        "max_steps": settings.arca_steps,
        "per_device_train_batch_size": settings.arca_batch,
        "learning_rate": settings.arca_rate,
        "actor_learning_rate": settings.actor_rate,
        "lr_scheduler_type": "linear",
    }
    if not (folder / "config.json").is_file():
        train_recipe({**_shared(system, seed, places, settings), **stage}, quiet=True)
    return folder


def _config(system: System, settings: HeadSettings) -> dict[str, Any]:
    return {**settings.config, "languages": [tag for tag in LANGUAGES if tag != "en"], **system.config}


def _train(name: str, seed: int, places: Places, settings: HeadSettings, folder: Path) -> None:
    """All stages of a system that has a model of its own."""
    system, config = SYSTEMS[name], _config(SYSTEMS[name], settings)
    shared = _shared(system, seed, places, settings)
    arca = train_arca(name, seed, places, settings)
    start: dict[str, Any] = {"encoder": str(places.encoder)} if arca is None else {"model": str(arca)}
    start["config"] = config
    warm = {
        "base": str(places.base),
        "stage": "lasr",
        "generation_loss": "reference",
        "train_arca": True,
        "output_dir": str(folder if not settings.answer_steps else folder.with_name(f"{folder.name}.warm")),
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch,
        "learning_rate": settings.rate,
        "path_dropout": settings.path_dropout if system.candidates != 0 else 0.0,
        "lr_scheduler_type": "cosine",
    }
    train_recipe({**start, **shared, **warm}, quiet=True)
    if settings.answer_steps:
        last = {
            "model": warm["output_dir"],
            "stage": "lasr",
            "generation_loss": "answer",
            "slot_weight": settings.answer_slot_weight,
            "lora_rank": settings.lora_rank,
            "train_arca": True,
            "output_dir": str(folder),
            "max_steps": settings.answer_steps,
            "per_device_train_batch_size": settings.batch,
            "learning_rate": settings.answer_rate,
            "path_dropout": warm["path_dropout"],
            "lr_scheduler_type": "linear",
        }
        train_recipe({**shared, **last}, quiet=True)


def _roads(system: System, items: Sequence[Item]) -> dict[str, Any]:
    """What a system is told of each question."""
    drafts = [list(dict.fromkeys(item.drafts)) for item in items]
    judged = [dict(zip(item.drafts, item.scores, strict=True)) for item in items]
    drafts = [row if system.candidates is None else row[: system.candidates] for row in drafts]
    scores = [[told[text] for text in row] for row, told in zip(drafts, judged, strict=True)]
    return {
        "questions": [item.text if system.asked == "all" else "" for item in items],
        "languages": [item.language for item in items],
        "candidates": drafts,
        "scores": scores if system.critic else None,
    }


def _ask(system: System, generator: LiraGenerator, items: Sequence[Item]) -> list[int | None]:
    prompts = [prompt_text(generator.processor.prefix_token)] * len(items)
    texts = generator.generate(**_roads(system, items), prompts=prompts, max_new_tokens=_NEW_TOKENS, do_sample=False)
    return [parse_equation(text) for text in texts]


@torch.no_grad()
def _gates(system: System, generator: LiraGenerator, items: Sequence[Item]) -> dict[str, float]:
    """The multilingual road's mean share in each language; empty for a prefix without a gate."""
    if generator.model.config.prefix_roads != "merged":
        return {}
    found: dict[str, float] = {}
    for language in dict.fromkeys(item.language for item in items):
        told = _roads(system, [item for item in items if item.language == language])
        texts = told.pop("questions")
        prompts = [prompt_text(generator.processor.prefix_token)] * len(texts)
        gate = generator.model(**generator.prepare(texts, **told, prompts=prompts), logits_to_keep=1).prefix_gate
        if gate is not None:
            found[language] = round(gate.mean().item(), 3)
    return found


@torch.no_grad()
def ask_base(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[str], batch_size: int = 128
) -> list[int | None]:
    """What the base LM alone answers."""
    answers: list[int | None] = []
    for start in range(0, len(questions), batch_size):
        prompts = [prompt_text(text) for text in questions[start : start + batch_size]]
        batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt", return_token_type_ids=False)
        new = model.generate(**batch, max_new_tokens=_NEW_TOKENS, do_sample=False)[:, batch["input_ids"].shape[1] :]
        answers += [parse_equation(text) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    return answers


def controls(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]
) -> dict[str, list[bool]]:
    """Whether each control answers each question right; see [`CONTROLS`]."""
    ask: Callable[[list[str]], list[int | None]] = lambda texts: ask_base(model, tokenizer, texts)  # noqa: E731
    distinct = list(dict.fromkeys(text for item in items for text in [item.reference, *item.drafts]))
    said = dict(zip(distinct, ask(distinct), strict=True))
    drafted = [[said[text] for text in item.drafts] for item in items]
    answers: dict[str, list[int | None]] = {
        CONTROLS[0]: [said[item.reference] for item in items],
        CONTROLS[1]: ask([item.text for item in items]),
        CONTROLS[2]: [row[0] for row in drafted],
        CONTROLS[3]: [row[best_by_critic(item.scores)] for row, item in zip(drafted, items, strict=True)],
        CONTROLS[4]: [majority_vote(row) for row in drafted],
        CONTROLS[5]: [item.answer if item.answer in row else None for row, item in zip(drafted, items, strict=True)],
    }
    return {
        name: [answer == item.answer for answer, item in zip(row, items, strict=True)] for name, row in answers.items()
    }
