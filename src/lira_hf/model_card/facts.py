"""What a card is written from: the configuration, the runs behind a checkpoint, and what its maker names."""

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lira_hf.models import LiraConfig
from lira_hf.training import data_license, read_run_facts
from lira_hf.translation import CandidateStore

from .reports import Measurement, read_report


__all__ = ["CardFacts", "DataFacts", "Giver", "Part", "checkpoint_facts", "config_facts"]

_PARTS = {"base": "Base LM", "encoder": "Multilingual encoder", "anchor": "English encoder"}
_EMISSIONS = "emissions.csv"
_MODULES = "modules.json"
_MOST_NUMBERS = 400


class Part(NamedTuple):
    """A backbone: its role, its name if known, its model type, and the commit of the Hub it was loaded from."""

    role: str
    name: str | None
    kind: str
    revision: str | None


class Giver(NamedTuple):
    """Who gave candidates or scores, and how many."""

    name: str
    fingerprint: str
    count: int


@dataclass(frozen=True)
class DataFacts:
    """
    A data set of the training.

    Args:
        name (`str`): Of its folder or file, or what its maker calls it.
        license (`str`, *optional*): As its own metadata, the recipe or its maker say.
        rows (`dict[str, int]`): Rows by split.
        languages (`dict[str, int]`): Training rows by language.
    """

    name: str
    license: str | None = None
    rows: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CardFacts:
    """
    Everything that a card may say. What isn't known is empty or `None`, and the card leaves it out or says so.

    Args:
        name (`str`): Of the model.
        config ([`LiraConfig`]): Of the checkpoint.
        parts (`list[Part]`): The backbones.
        runs (`list[dict]`): As of [`read_run_facts`].
        data (`list[DataFacts]`): What it was trained on.
        candidates (`list[Giver]`): Translators, with the candidates that each gave.
        critics (`list[Giver]`): Critics, with the scores that each gave.
        critic (`list[str]`): Those whose scores training read.
        candidates_text, critic_text, data_text, limits (`str`, *optional*): What their maker says in words.
        measured (`list[Measurement]`): Reports.
        bound (`dict`, *optional*): Constants of the paper's bound, as measured.
        license (`str`, *optional*): Of the weights.
        datasets (`list[str]`): Ids on the Hub.
        emissions (`dict`, *optional*): What CodeCarbon measured.
        versions (`dict[str, str]`): Of the libraries.
        sentence_transformers (`bool`): Whether the checkpoint is one of sentence-transformers too.
    """

    name: str
    config: LiraConfig
    parts: list[Part]
    runs: list[dict[str, Any]] = field(default_factory=list)
    data: list[DataFacts] = field(default_factory=list)
    candidates: list[Giver] = field(default_factory=list)
    critics: list[Giver] = field(default_factory=list)
    critic: list[str] = field(default_factory=list)
    candidates_text: str | None = None
    critic_text: str | None = None
    data_text: str | None = None
    limits: str | None = None
    measured: list[Measurement] = field(default_factory=list)
    bound: dict[str, Any] | None = None
    license: str | None = None
    datasets: list[str] = field(default_factory=list)
    emissions: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    sentence_transformers: bool = False

    @property
    def languages(self) -> list[str]:
        """`list[str]`: tags that the configuration names, those of the training rows, and the anchor languages."""
        trained = [tag for data in self.data for tag in data.languages if tag != "und"]
        return list(dict.fromkeys([*self.config.languages, *trained, *self.config.anchor_languages]))


def config_facts(config: LiraConfig, name: str, runs: Sequence[Mapping[str, Any]] = ()) -> CardFacts:
    """
    What a configuration and the runs' facts know.

    Args:
        config ([`LiraConfig`]): Of the model.
        name (`str`): Of the model.
        runs (`Sequence[Mapping]`, *optional*): As of [`read_run_facts`].
    """
    found = [dict(run) for run in runs]
    tasks = [task for run in found for task in run.get("tasks", [])]
    stores = [store for store in (task.get("store") for task in tasks) if isinstance(store, dict)]
    critics = [task["critic"] for task in tasks if task.get("critic")]
    return CardFacts(
        name,
        config,
        _parts(config),
        found,
        _data(tasks),
        _givers(stores, "translators", "candidates"),
        _givers(stores, "critics", "scores"),
        list(dict.fromkeys(critics)),
        versions=dict(found[-1].get("versions") or {}) if found else {},
    )


def checkpoint_facts(
    folder: str | os.PathLike,
    *,
    reports: Iterable[str | os.PathLike | Mapping[str, Any]] = (),
    store: str | os.PathLike | None = None,
    data: Sequence[str | os.PathLike] = (),
    data_licenses: Sequence[str] = (),
    datasets: Sequence[str] = (),
    license: str | None = None,
    diagnosis: str | os.PathLike | None = None,
    name: str | None = None,
) -> CardFacts:
    """
    What is found in a checkpoint's folder, and what is named besides.

    Args:
        folder (`str` or `os.PathLike`): The checkpoint.
        reports (`Iterable`, *optional*): As for [`read_report`].
        store (`str` or `os.PathLike`, *optional*): Candidate store, whose givers count in place of the runs'.
        data (`Sequence`, *optional*): Data sets of the training, in place of those that the runs name.
        data_licenses (`Sequence[str]`, *optional*): Of the data sets, in their order; one for all is enough. It counts
            more than what the data say.
        datasets (`Sequence[str]`, *optional*): Ids of data sets on the Hub.
        license (`str`, *optional*): Of the weights, as the Hub spells it: `"apache-2.0"`.
        diagnosis (`str` or `os.PathLike`, *optional*): A JSON file with the bound's constants.
        name (`str`, *optional*): Of the model; by default the folder's.

    Raises:
        FileNotFoundError, ValueError, StoreError: For a folder, file or store that isn't what it should be.
    """
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise FileNotFoundError(
            f"got {str(folder)!r} without a config.json; expected the folder of a LiRA checkpoint; mend the path"
        )
    config = LiraConfig.from_pretrained(place)
    facts = config_facts(config, name or place.resolve().name, read_run_facts(place))
    sets = _named_data(facts.data, data, data_licenses)
    measured_on = sets[0].name if len(sets) == 1 else None
    givers = {"candidates": facts.candidates, "critics": facts.critics}
    if store is not None:
        with CandidateStore(store, read_only=True) as opened:
            found = [opened.stats()]
        givers = {"candidates": _givers(found, "translators", "candidates")}
        givers["critics"] = _givers(found, "critics", "scores")
    values = vars(facts) | givers
    return CardFacts(
        **values
        | {
            "data": sets,
            "measured": [one for report in reports for one in read_report(report, measured_on)],
            "bound": None if diagnosis is None else _read_bound(Path(diagnosis)),
            "license": license,
            "datasets": list(datasets),
            "emissions": _read_emissions(place / _EMISSIONS),
            "sentence_transformers": (place / _MODULES).is_file(),
        }
    )


def _parts(config: LiraConfig) -> list[Part]:
    info = config.backbone_info or {}
    found = []
    for name, role in _PARTS.items():
        part = getattr(config, f"{name}_config")
        if part is None:
            continue
        known = info.get(name) or {}
        place = known.get("name") or ""
        # Of a folder the last part alone: where it lay is nobody's business.
        own = place if known.get("revision") else Path(place).name
        found.append(Part(role, own or None, part.model_type, known.get("revision")))
    if config.anchor_config is None:
        found.append(Part(_PARTS["anchor"], "the multilingual one", "", None))
    return found


def _data(tasks: list[dict[str, Any]]) -> list[DataFacts]:
    """Each data set once, however many stages were trained on it."""
    found: dict[str, DataFacts] = {}
    for task in tasks:
        name = str(task.get("data") or "")
        if not name:
            continue
        rows = {str(task.get(f"{side}_split")): task.get(f"{side}_rows") for side in ("train", "dev")}
        known = {split: number for split, number in rows.items() if isinstance(number, int)}
        old = found.get(name, DataFacts(name))
        languages = task.get("languages") if isinstance(task.get("languages"), dict) else {}
        license = task.get("license") or old.license
        found[name] = DataFacts(name, license, {**old.rows, **known}, {**old.languages, **(languages or {})})
    return list(found.values())


def _named_data(known: list[DataFacts], data: Sequence[str | os.PathLike], licenses: Sequence[str]) -> list[DataFacts]:
    """What the maker names; of a data set that the runs know too, with the runs' figures."""
    by_name = {one.name: one for one in known}
    sets = list(known)
    if data:
        for place in data:
            if not Path(place).exists():
                raise FileNotFoundError(
                    f"got the data {str(place)!r}, which isn't there; expected data; mend the path"
                )
        named = [by_name.get(Path(place).resolve().name, DataFacts(Path(place).resolve().name)) for place in data]
        found = [data_license(place) for place in data]
        sets = [
            DataFacts(one.name, license or one.license, one.rows, one.languages)
            for one, license in zip(named, found, strict=True)
        ]
    if len(licenses) > 1 and len(licenses) != len(sets):
        raise ValueError(
            f"got {len(licenses)} data licences for {len(sets)} data sets "
            f"({', '.join(one.name for one in sets) or 'none is known'}); expected one for all, or one each in their "
            "order; name the data too"
        )
    if not licenses:
        return sets
    given = list(licenses) * len(sets) if len(licenses) == 1 else list(licenses)
    if not sets:
        raise ValueError(f"got the data licence {licenses[0]!r} and no data set; expected data; name them too")
    return [DataFacts(one.name, name, one.rows, one.languages) for one, name in zip(sets, given, strict=True)]


def _givers(stores: Iterable[Mapping[str, Any]], table: str, counted: str) -> list[Giver]:
    """Each giver once, with the largest count that a run saw: a store only grows."""
    found: dict[tuple[str, str], int] = {}
    for store in stores:
        for row in store.get(table) or []:
            key = (str(row.get("name")), str(row.get("fingerprint")))
            found[key] = max(found.get(key, 0), int(row.get(counted) or 0))
    return [Giver(*key, count) for key, count in found.items()]


def _read_bound(path: Path) -> dict[str, Any]:
    """The numbers of a diagnosis, with how they are called there."""
    wanted = "the bound.json that `lira diagnose --output` writes"
    if not path.is_file():
        raise FileNotFoundError(f"got the diagnosis {str(path)!r}, which is no file; expected {wanted}; mend the path")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"got {path}, which is no JSON ({error}); expected {wanted}; make it again") from error
    numbers = _numbers(found) if isinstance(found, dict) else {}
    if "C" not in numbers:  # figures of another kind would be shown as the bound
        raise ValueError(f"got {path} without the number C; expected {wanted}; name that file")
    if len(numbers) > _MOST_NUMBERS:
        raise ValueError(
            f"got {path} with {len(numbers)} numbers, too many for a card; expected {wanted}; name that file"
        )
    return numbers


def _numbers(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{name}, ")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = value
    return found


def _read_emissions(path: Path) -> dict[str, Any] | None:
    """What CodeCarbon wrote beside the checkpoint, in grams of CO2 equivalents; a broken file says nothing."""
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        # A run that writes several rows writes sums.
        last = {row.get("run_id") or number: row for number, row in enumerate(rows)}
        grams = sum(1000 * float(row["emissions"]) for row in last.values())
    except (KeyError, TypeError, ValueError, OSError):
        return None
    if not rows or not math.isfinite(grams):
        return None
    found: dict[str, Any] = {"emissions": round(grams, 3), "source": "CodeCarbon", "training_type": "fine-tuning"}
    places = {row.get("country_name") for row in rows} - {None, ""}
    hardware = {row.get("gpu_model") or row.get("cpu_model") for row in rows} - {None, ""}
    if len(places) == 1:
        found["geographical_location"] = places.pop()
    if len(hardware) == 1:
        found["hardware_used"] = hardware.pop()
    return found
