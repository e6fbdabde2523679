"""A card rendered from facts, and written so that nothing a person has put into it is lost."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from lira_hf.models import LiraConfig

from .facts import CardFacts, config_facts
from .metadata import card_metadata
from .text import code, markdown, one_line, slug


__all__ = ["TEMPLATE", "CardError", "basic_model_card", "make_model_card", "write_model_card"]

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
_BACKUP = "README.before-card.md"
_BLOCK = re.compile(r"<!-- yours: (\w+)[^\n]*?-->\n(.*?)<!-- end of yours: \1 -->", re.DOTALL)
_MARK = re.compile(r"\n*<!-- written by lira card (\w{16}); [^\n]*-->\n*\Z")
# Ours alone; of the other fields a person's stay, and lists are joined.
_OWN_FIELDS = ("language", "library_name", "pipeline_tag", "base_model", "base_model_relation", "model-index")
_OWN_FIELDS += ("co2_eq_emissions",)
_JOINED = ("tags", "datasets")
# The settings that a reader asks for first: of every run, and of stage 2 by task.
_SHOWN = ("learning_rate", "actor_learning_rate", "lr_scheduler_type", "warmup_steps", "seed")
_SHOWN_OF_TASK = {
    "retrieval": ("objective", "tau", "queue_size", "path_dropout"),
    "ranking": ("pearson_weight", "corr_queue_size", "path_dropout"),
    "generation": ("generation_loss", "slot_weight", "path_dropout", "lora_rank"),
}
_HIDDEN_METRICS = re.compile(r"runtime|per_second|model_preparation|epoch|baseline_")


class CardError(ValueError):
    """A card that would lose what a person wrote; the message says how it is kept."""


def basic_model_card(config: LiraConfig, name: str, runs: Sequence[Mapping[str, Any]] = ()) -> ModelCard:
    """
    A card of what the configuration, and the runs' facts where there are any, know; it states no figure that wasn't
    measured in them, and no licence.

    Args:
        config ([`LiraConfig`]): Of the model.
        name (`str`): Of the model.
        runs (`Sequence[Mapping]`, *optional*): As of [`read_run_facts`].
    """
    return make_model_card(config_facts(config, name, runs))


def make_model_card(
    facts: CardFacts, existing: ModelCard | None = None, template: str | os.PathLike | None = None
) -> ModelCard:
    """
    A card, with what a person has put into an existing one.

    Args:
        facts ([`CardFacts`]): What it says.
        existing (`ModelCard`, *optional*): Whose blocks and fields of metadata are kept.
        template (`str` or `os.PathLike`, *optional*): A Jinja template of the text, as the package's own one.

    Raises:
        ValueError: For facts or a template that can't be made a card of.
    """
    blocks = dict(_BLOCK.findall(existing.text)) if existing is not None else {}
    kept = {} if existing is None else existing.data.to_dict()
    if facts.license is None and isinstance(kept.get("license"), str):
        said = kept.get("license_name") if kept["license"] == "other" else kept["license"]
        facts = CardFacts(**vars(facts) | {"license": said})
    data = card_metadata(facts)
    for field, value in kept.items():
        if field in _JOINED and isinstance(value, list):
            data[field] = list(dict.fromkeys([*(data.get(field) or []), *value]))
        elif field not in _OWN_FIELDS and field not in data.to_dict():
            data[field] = value
    text = _render(facts, blocks, template)
    left = {name: content for name, content in blocks.items() if f"<!-- yours: {name}" not in text}
    text += "".join(f"\n{_block(name, content)}\n" for name, content in left.items())
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text.strip()}\n")
    mark = f"<!-- written by lira card {_digest(card)}; what stands outside of yours is written anew by it -->"
    card.text = f"{card.text.rstrip()}\n\n{mark}\n"
    return card


def write_model_card(
    facts: CardFacts,
    folder: str | os.PathLike,
    *,
    template: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> Path:
    """
    Writes README.md, whole or not at all. What a person wrote between the marks of an existing one, or added to its
    metadata, stays.

    Args:
        facts ([`CardFacts`]): What it says.
        folder (`str` or `os.PathLike`): The checkpoint.
        template (`str` or `os.PathLike`, *optional*): As for [`make_model_card`].
        overwrite (`bool`, *optional*, defaults to `False`): Also write over a README.md that isn't a card of ours, or
            was changed outside its marks; it is then kept as README.before-card.md.

    Returns:
        `Path`: The card.

    Raises:
        CardError: For such a README.md, without `overwrite`.
    """
    path = Path(folder) / "README.md"
    existing = _load(path) if path.is_file() else None
    problem = None if existing is None else _problem(existing)
    if problem and not overwrite:
        raise CardError(
            f"got {path}, which {problem}; expected a card whose own words stand between <!-- yours: ... --> and "
            "<!-- end of yours: ... -->; move them there, or overwrite it, which keeps it as "
            f"{_BACKUP}"
        )
    card = make_model_card(facts, existing, template)
    if problem:
        shutil.copyfile(path, path.with_name(_BACKUP))
    part = path.with_name("README.md.part")
    card.save(part)
    os.replace(part, path)
    return path


def _load(path: Path) -> ModelCard:
    try:
        return ModelCard(path.read_text(encoding="utf-8-sig"), ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError) as error:
        raise CardError(
            f"got {path}, whose metadata can't be read ({one_line(error)}); expected YAML between two lines of ---; "
            "mend or remove it"
        ) from error


def _problem(card: ModelCard) -> str | None:
    """Why a card can't be written over without losing something; `None` where it can."""
    mark = _MARK.search(card.text)
    if mark is None:
        return "wasn't written from facts"
    return None if mark[1] == _digest(card) else "was changed outside the places that are kept"


def _digest(card: ModelCard) -> str:
    """What is ours of a card: its text without mark and blocks, and our fields of its metadata."""
    text = _BLOCK.sub(r"\1", _MARK.sub("", card.text))
    data = card.data.to_dict()
    own = json.dumps({field: data.get(field) for field in _OWN_FIELDS}, sort_keys=True, default=str)
    return hashlib.blake2b(f"{text.strip()}\n{own}".encode(), digest_size=8).hexdigest()


def _render(facts: CardFacts, blocks: Mapping[str, str], template: str | os.PathLike | None) -> str:
    environment = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"md": markdown, "code": code, "slug": slug}
    base = facts.config.base_config is not None
    try:
        made = environment.from_string(Path(template or TEMPLATE).read_text(encoding="utf-8"))
        text = made.render(
            facts=facts,
            base=base,
            auto="AutoModelForCausalLM" if base else "AutoModel",
            languages=", ".join(code(tag) for tag in facts.config.languages),
            versions=", ".join(f"{markdown(name)} {markdown(value)}" for name, value in facts.versions.items()),
            dev=_dev_figures(facts),
            block=lambda name: _block(name, blocks.get(name, "")),
            counts=_counts,
            settings=_settings,
        )
    except (TemplateError, TypeError, AttributeError, UnicodeError) as error:
        what = f"the template {template}" if template else "the run's facts beside the checkpoint"
        raise ValueError(
            f"got {what}, of which no card can be made ({one_line(error)}); expected what the package's own has; "
            "mend it, or leave it out"
        ) from error
    return re.sub(r"\n{3,}", "\n\n", text)


def _block(name: str, content: str) -> str:
    start = f"<!-- yours: {name}; what stands from here to the next such line is kept -->"
    return f"{start}\n{content}<!-- end of yours: {name} -->"


def _counts(counts: Mapping[str, Any]) -> str:
    found = ", ".join(f"{code(name)} {number:,}" for name, number in counts.items() if isinstance(number, int))
    return found or "not stated"


def _settings(run: Mapping[str, Any]) -> str:
    values = run.get("settings")
    known = values if isinstance(values, Mapping) else {}
    names = dict.fromkeys(_SHOWN)
    if run.get("stage") == "lasr":
        tasks = [str(task.get("task")) for task in run.get("tasks", [])]
        names |= dict.fromkeys(name for task in tasks for name in _SHOWN_OF_TASK.get(task, ()))
    shown = [
        code(f"{name}={known[name]}")
        for name in names
        if known.get(name) is not None and (known[name] or name == "seed")
    ]
    return f"{', '.join(shown)}; everything in `lira_run.json`" if shown else "settings in `lira_run.json`"


def _dev_figures(facts: CardFacts) -> str:
    """The last run's last evaluation, without the clock and without the controls."""
    metrics = facts.runs[-1].get("metrics") if facts.runs else None
    found = metrics if isinstance(metrics, Mapping) else {}
    return ", ".join(
        f"{code(str(name).removeprefix('eval_'))} {value:.4f}"
        for name, value in found.items()
        if str(name).startswith("eval_") and not _HIDDEN_METRICS.search(str(name)) and isinstance(value, float)
    )
