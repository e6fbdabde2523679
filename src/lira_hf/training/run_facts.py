"""What a run leaves beside its checkpoint, so that a model card can be written from facts (ours)."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import DatasetCard

from lira_hf.data.files import write_json
from lira_hf.models import LiraPreTrainedModel
from lira_hf.models.backbones_lira import backbone_fingerprint
from lira_hf.translation import CandidateStore

from .arguments import LiraTrainingArguments, ModelArguments
from .checkpoints import last_checkpoint
from .sharding import whole_state
from .tasks import TaskData


__all__ = [
    "RUN_FACTS_NAME",
    "check_finished_run",
    "collect_run_facts",
    "data_license",
    "heads_fingerprint",
    "read_run_facts",
    "write_run_facts",
]

RUN_FACTS_NAME = "lira_run.json"
_FORMAT = 1
_HEADS = ("arca", "fusion", "embedding_head", "prefix_projector")
_PACKAGES = ("lira-hf", "torch", "transformers", "tokenizers", "datasets", "accelerate", "peft")
# Of the Trainer's own arguments, those that say how a run was made; none of them is a path.
_SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "optim",
    "bf16",
    "fp16",
    "seed",
)
# What a finished run's folder bears another value of: more steps, warnings, and what is done anew at every end.
_FREE = ("max_steps", "num_train_epochs", "collapse_", "english_margin", "calibrate_gate")


def collect_run_facts(
    model: LiraPreTrainedModel,
    arguments: ModelArguments,
    args: LiraTrainingArguments,
    tasks: Sequence[TaskData],
    metrics: Mapping[str, float],
    steps: int,
) -> list[dict[str, Any]]:
    """
    What is known of a run at its end, after what the checkpoint that it started from knows of earlier ones. Paths are
    no part of it: of data and stores the names of their folders and files alone.

    Args:
        model ([`LiraModel`] or [`LiraForCausalLM`]): As it was trained.
        arguments ([`ModelArguments`]): What it was made from.
        args ([`LiraTrainingArguments`]): Of the run.
        tasks (`Sequence[TaskData]`): What it was trained on.
        metrics (`Mapping[str, float]`): The last evaluation's.
        steps (`int`): Optimizer steps.

    Returns:
        `list[dict]`: One entry per run, the oldest first: `stage`, `steps`, `texts_per_step`, `processes`, `device`,
        `settings`, `config`, `tasks`, `metrics`, `versions`, `heads` (fingerprint of the trained heads).
    """
    texts = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    cuda = args.device.type == "cuda"
    run = {
        "stage": args.stage,
        "steps": steps,
        "texts_per_step": texts,
        "processes": args.world_size,
        "device": torch.cuda.get_device_name(args.device) if cuda else args.device.type,
        "settings": _settings(args),
        "config": {name: value for name, value in arguments.config.items() if not str(name).endswith("_config")},
        "tasks": [_task_facts(task) for task in tasks],
        "metrics": {name: float(value) for name, value in metrics.items() if _is_number(value)},
        "versions": _versions(),
        "heads": heads_fingerprint(model),
    }
    earlier = [] if arguments.model is None else read_run_facts(arguments.model, strict=False)
    return [*earlier, run]


def check_finished_run(args: LiraTrainingArguments) -> None:
    """
    In the folder of a finished run at most the steps that it lacks are trained, so that other settings would be stated
    of weights that were not trained with them.

    Raises:
        ValueError: For a run of other settings in `output_dir`; more steps or epochs are fine.
    """
    runs = read_run_facts(args.output_dir, strict=False)
    before = runs[-1].get("settings") if runs else None
    if not isinstance(before, dict) or last_checkpoint(args.output_dir) is None:  # without one it is trained anew
        return
    changed = {
        name: (before[name], value)
        for name, value in _settings(args).items()
        if not name.startswith(_FREE) and before.get(name, value) != value
    }
    if changed:
        got = ", ".join(f"{name} {old}, now {new}" for name, (old, new) in changed.items())
        raise ValueError(
            f"got {args.output_dir}, which holds a finished run of other settings ({got}); expected the same ones: it "
            "would not be trained anew; name another output_dir, or delete that one"
        )


def _settings(args: LiraTrainingArguments) -> dict[str, Any]:
    own = {field.name for field in dataclasses.fields(LiraTrainingArguments) if field.init}
    own -= {field.name for field in dataclasses.fields(LiraTrainingArguments.__mro__[1])}
    found = {name: _plain(getattr(args, name, None)) for name in (*_SETTINGS, *sorted(own - {"stage"}))}
    return {name: value for name, value in found.items() if value is not None}


def heads_fingerprint(model: LiraPreTrainedModel) -> str:
    """What a run's facts belong to: a hash of the heads' weights, as [`backbone_fingerprint`] makes it."""
    heads = {name: part for name, part in model.base_model.named_children() if name in _HEADS}
    module = torch.nn.ModuleDict(heads)
    return str(backbone_fingerprint(module, whole_state(module.state_dict())))


def write_run_facts(folder: str | os.PathLike, runs: Sequence[Mapping[str, Any]]) -> Path:
    """
    Writes runs' facts beside a checkpoint, whole or not at all.

    Args:
        folder (`str` or `os.PathLike`): The checkpoint.
        runs (`Sequence[Mapping]`): As of [`collect_run_facts`].

    Returns:
        `Path`: The file.
    """
    path = Path(folder) / RUN_FACTS_NAME
    write_json(path, {"format": _FORMAT, "runs": list(runs)})
    return path


def read_run_facts(folder: str | os.PathLike, strict: bool = True) -> list[dict[str, Any]]:
    """
    The facts beside a checkpoint.

    Args:
        folder (`str` or `os.PathLike`): The checkpoint; a name on the Hub has none here.
        strict (`bool`, *optional*, defaults to `True`): Refuse a file that is broken; else it counts as absent.

    Returns:
        `list[dict]`: As of [`collect_run_facts`]; empty where there is no such file.

    Raises:
        ValueError: For a file that holds something else, where `strict`.
    """
    path = Path(folder) / RUN_FACTS_NAME
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        runs = found["runs"]
        if found["format"] != _FORMAT or not all(_is_run(run) for run in runs):
            raise KeyError("format, or runs with their stage and tasks")
    except (ValueError, KeyError, TypeError) as error:
        if not strict:
            return []
        raise ValueError(
            f"got {path}, which can't be read ({error}); expected the facts of format {_FORMAT} that `lira train` "
            "writes; take it from the run again, or delete it: the card then says nothing of the training"
        ) from error
    return list(runs)


def _is_run(run: Any) -> bool:
    tasks = run.get("tasks", []) if isinstance(run, dict) else None
    return isinstance(tasks, list) and "stage" in run and all(isinstance(task, dict) for task in tasks)


def data_license(data: str | os.PathLike, named: str | None = None) -> str | None:
    """
    The licence of a data set, as its own metadata say it: the `license` at the head of the README.md beside the data.

    Args:
        data (`str` or `os.PathLike`): A folder, or a file in one.
        named (`str`, *optional*): What the recipe says, which counts more.

    Returns:
        `str`, *optional*: The licence; `None` where nobody says it.
    """
    if named:
        return named
    place = Path(data)
    card = (place if place.is_dir() else place.parent) / "README.md"
    if not card.is_file():
        return None
    try:
        found = DatasetCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.get("license")
    except (ValueError, yaml.YAMLError, OSError):
        return None
    found = found if isinstance(found, list) else [found]
    return ", ".join(str(one) for one in found if one) or None


def _task_facts(task: TaskData) -> dict[str, Any]:
    arguments, rows = task.arguments, task.rows
    languages = Counter(rows["language"]) if "language" in rows.column_names else Counter()
    facts: dict[str, Any] = {
        "task": arguments.task,
        "data": Path(arguments.data).name,
        "license": data_license(arguments.data, arguments.data_license),
        "train_split": arguments.train_split,
        "train_rows": len(rows),
        "languages": {tag or "und": number for tag, number in sorted(languages.items(), key=lambda kv: kv[0] or "")},
    }
    if task.dev is not None:
        facts |= {"dev_split": arguments.dev_split, "dev_rows": _size(task.dev)}
    if "candidates" in rows.column_names:
        facts["rows_without_candidates"] = sum(not row for row in rows["candidates"])
    if arguments.store is not None:
        facts |= {"num_candidates": arguments.num_candidates, "critic": arguments.critic}
        with CandidateStore(arguments.store, read_only=True) as store:
            facts["store"] = {"name": Path(arguments.store).name, **store.stats()}
    return facts


def _size(split: Any) -> int:
    return len(split.queries) if hasattr(split, "queries") else len(split)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)  # the library's enumerations
    return value if isinstance(value, str | int | float | bool) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
