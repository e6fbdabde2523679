"""Reports of measurements, in every form that this package writes, as tables of a card and results of its metadata."""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult

from .text import code, markdown, one_line


__all__ = ["Measurement", "format_interval", "read_report"]

MEAN = "mean"
_OURS = ("LiRA", "lira", "with translation")
_METRICS = {
    "ndcg@10": ("nDCG@10", "ndcg_at_10"),
    "mrr": ("MRR", "mrr"),
    "recall@1": ("Recall@1", "recall_at_1"),
    "pearson": ("Pearson", "pearson"),
    "spearman": ("Spearman", "spearman"),
}
# The Hub's names of our tasks.
_TASKS = {"retrieval": "text-retrieval", "ranking": "sentence-similarity", "generation": "text-generation"}
_FORMS = (
    "the report.json of `lira quickstart` or `lira ablate`, the --json of `lira evaluate` with or without --mteb, or "
    "what system_report returns"
)


class Gain(NamedTuple):
    """A difference and its 95 % interval, as shares."""

    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Measurement:
    """
    One metric of some systems on one split.

    Args:
        metric (`str`): Such as `"ndcg@10"`.
        systems (`dict[str, dict[str, float]]`): System to language tag, or `"mean"`, to the figure, as a share.
        ours (`str`): Which of the systems the model is.
        gains (`dict[str, dict[str, Gain]]`): Of each other system: ours minus it, by language and for the mean.
        dataset (`str`, *optional*): What was measured on; `None` where nobody says it.
        split (`str`, *optional*): Its split.
        task (`str`, *optional*): The Hub's task, such as `"text-retrieval"`.
        notes (`list[str]`): What else the report says: queries, documents, seeds.
    """

    metric: str
    systems: dict[str, dict[str, float]]
    ours: str
    gains: dict[str, dict[str, Gain]] = field(default_factory=dict)
    dataset: str | None = None
    split: str | None = None
    task: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """`str`: the metric's usual spelling."""
        return _METRICS.get(self.metric, (self.metric,))[0]

    @property
    def tags(self) -> list[str]:
        """`list[str]`: the columns; the mean comes last."""
        found = dict.fromkeys(tag for row in self.systems.values() for tag in row)
        return [*(tag for tag in found if tag != MEAN), *([MEAN] if MEAN in found else [])]

    @property
    def strongest(self) -> str | None:
        """`str`, *optional*: the best of the other systems with an interval, which is the one to be held against; not
        ours again, asked or set otherwise."""
        own = f"{self.ours}, "
        held = [name for name in self.gains if MEAN in self.gains[name]]
        held = [name for name in held if not name.startswith(own) or "untrained" in name] or held
        return min(held, key=lambda name: self.gains[name][MEAN].difference, default=None)

    def table(self) -> str:
        """A row per system, in points, and what ours has more than it."""
        tags, gained = self.tags, bool(self.gains)
        heads = [code(tag) if tag != MEAN else tag for tag in tags]
        lines = [f"| | {' | '.join(heads)} |" + (f" {markdown(self.ours)} minus it |" if gained else "")]
        lines.append(f"|---|{'---:|' * (len(tags) + gained)}")
        for name, row in self.systems.items():
            cells = [f"{100 * row[tag]:.1f}" if tag in row else "" for tag in tags]
            gain = self.gains.get(name, {}).get(MEAN)
            cells += [format_interval(gain._asdict()) if gain else ""] if gained else []
            lines.append(f"| {markdown(name)} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def gains_table(self) -> str:
        """Ours minus each other system by language, with intervals; empty where there are none."""
        tags = [tag for tag in self.tags if tag != MEAN and any(tag in gains for gains in self.gains.values())]
        if not tags:
            return ""
        lines = [f"| {markdown(self.ours)} minus | {' | '.join(code(tag) for tag in tags)} |"]
        lines.append(f"|---|{'---:|' * len(tags)}")
        for name, gains in self.gains.items():
            cells = [format_interval(gains[tag]._asdict()) if tag in gains else "" for tag in tags]
            lines.append(f"| {markdown(name)} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def results(self) -> list[EvalResult]:
        """For the metadata: a result per language and of their mean; none where the data set isn't known."""
        if self.dataset is None or self.task is None:
            return []
        name = one_line(self.dataset)
        kind = re.sub(r"[^a-z0-9]+", "_", self.metric.lower().replace("@", "_at_")).strip("_")
        return [
            EvalResult(
                task_type=self.task,
                dataset_type=re.sub(r"[^\w./-]+", "-", name),
                dataset_name=f"{name}{', ' + one_line(self.split) if self.split else ''}, {one_line(tag)}",
                dataset_config=one_line(tag),  # the Hub takes results of one configuration for one result
                dataset_split=None if self.split is None else one_line(self.split),
                metric_type=_METRICS.get(self.metric, ("", kind))[1],
                metric_name=self._result_name(tag),
                metric_value=round(self.systems[self.ours][tag], 4),
            )
            for tag in self.tags
            if tag in self.systems[self.ours]
        ]

    def _result_name(self, tag: str) -> str:
        gain = self.gains.get(self.strongest or "", {}).get(tag)
        if gain is None or gain.low is None or gain.high is None:
            return self.title
        interval = f"{gain.difference:+.4f}, 95 % interval [{gain.low:.4f}, {gain.high:.4f}]"
        return f"{self.title} (minus {one_line(self.strongest)}: {interval})"


def format_interval(gain: Mapping[str, float | None]) -> str:
    """A difference and its interval in points: "+2.9 [2.1, 3.6]"."""
    text = f"{_points(gain['difference'] or 0.0):+.1f}"
    low, high = gain.get("low"), gain.get("high")
    # One document gives no interval.
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return text
    return f"{text} [{_points(low):.1f}, {_points(high):.1f}]"


def _points(share: float) -> float:
    return round(100 * share, 1) + 0.0  # no -0.0


def read_report(
    report: str | os.PathLike | Mapping[str, Any], dataset: str | None = None, split: str | None = None
) -> list[Measurement]:
    """
    What a report says, whichever of this package's forms it has.

    Args:
        report (`str`, `os.PathLike` or `Mapping`): A JSON file, or what one holds.
        dataset, split (`str`, *optional*): What was measured on, where the report doesn't say it.

    Returns:
        `list[Measurement]`: One per metric, and of mteb one per task and split.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: For a file that is broken, or of none of the forms.
    """
    place = "the report"
    if not isinstance(report, Mapping):
        place = str(report)
        report = _load(Path(report))
    for form in (_systems, _answers, _evaluation, _mteb):
        try:
            found = form(report, dataset, split)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError):
            continue
        if found:
            return found
    keys = ", ".join(repr(one_line(key)) for key in list(report)[:6])
    raise ValueError(f"got {place} with {keys or 'nothing in it'}; expected {_FORMS}; name such a file")


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"got the report {str(path)!r}, which is no file; expected {_FORMS}; mend the path")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # broken JSON, or bytes that are no UTF-8
        raise ValueError(
            f"got the report {path}, which is no JSON ({error}); expected {_FORMS}; make it again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"got the report {path}, which holds a {type(found).__name__}; expected {_FORMS}")
    return found


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    """A system's figures; anything but finite numbers is refused."""
    found = {}
    for tag, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{tag} is {value!r}; expected a number")
        found[str(tag)] = float(value)
    if not found:
        raise ValueError("no figure")
    return found


def _gain(value: Any) -> Gain | None:
    numbers = list(value.values()) if isinstance(value, Mapping) else list(value)
    if isinstance(value, Mapping):
        numbers = [value["difference"], value.get("low"), value.get("high")]
    difference, low, high = numbers
    if isinstance(difference, bool) or not math.isfinite(difference):
        return None
    sure = all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high))
    return Gain(float(difference), float(low), float(high)) if sure else Gain(float(difference), None, None)


def _gains(row: Mapping[str, Any]) -> dict[str, Gain]:
    found = {str(tag): _gain(value) for tag, value in row.items()}
    return {tag: gain for tag, gain in found.items() if gain is not None}


def _choose_ours(systems: Mapping[str, Any]) -> str:
    if not systems:
        raise ValueError("no system")
    return next((name for name in _OURS if name in systems), next(iter(systems)))


def _systems(report: Mapping[str, Any], dataset: str | None, split: str | None) -> list[Measurement]:
    """Of `lira quickstart` and `lira ablate`."""
    systems = {name: dict(row) for name, row in report["systems"].items()}
    gains, ours = report.get("differences", {}), _choose_ours(systems)
    facts, sizes = report.get("facts", {}), report.get("sizes", {})
    counts = {what: sizes[name] for name, what in (("test", "queries"), ("pool", "documents")) if name in sizes}
    counts |= facts.get("data", {}).get("test", {})
    seeds = report.get("settings", facts).get("seeds")
    notes = [f"{count} {what}" for what, count in counts.items()]
    notes += [f"mean of {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"] if seeds else []
    metrics = report.get("metrics") or [name for name in systems[ours] if name in _METRICS]
    if not isinstance(metrics, list):
        metrics = [name for name in systems[ours] if name in _METRICS]
    return [
        Measurement(
            metric,
            {name: _figures(row[metric]) for name, row in systems.items()},
            ours,
            {name: _gains(row[metric]) for name, row in gains.items() if metric in row},
            dataset,
            split or "test",
            _TASKS.get(report.get("task", "retrieval")),
            notes,
        )
        for metric in metrics
    ]


def _answers(report: Mapping[str, Any], dataset: str | None, split: str | None) -> list[Measurement]:
    """Of `system_report`, which doesn't name its metric."""
    systems = {name: {**_figures(row["languages"]), MEAN: float(row["mean"])} for name, row in report.items()}
    counts = {row["questions"] for row in report.values()}
    gains = {name: _gains(row["ours_minus_this"]) for name, row in report.items() if "ours_minus_this" in row}
    notes = [f"{counts.pop()} questions"] if len(counts) == 1 else []
    return [Measurement("share of right answers", systems, _choose_ours(systems), gains, dataset, split, None, notes)]


def _evaluation(report: Mapping[str, Any], dataset: str | None, split: str | None) -> list[Measurement]:
    metrics = dict.fromkeys(name for row in report.values() for name in row)
    if not metrics or not all(name in _METRICS for name in metrics):
        raise ValueError("other metrics")
    systems = {metric: {name: _figures(row[metric]) for name, row in report.items()} for metric in metrics}
    ours = _choose_ours(report)
    return [
        Measurement(metric, found, ours, {}, dataset, split, "text-retrieval" if dataset else None)
        for metric, found in systems.items()
    ]


def _mteb(report: Mapping[str, Any], dataset: str | None, split: str | None) -> list[Measurement]:
    ours, found = _choose_ours(report), []
    for task, splits in report[ours].items():
        for name in splits:
            systems = {
                way: _figures({row["hf_subset"]: row["main_score"] for row in tasks[task][name]})
                for way, tasks in report.items()
            }
            for row in systems.values():
                row[MEAN] = sum(row.values()) / len(row)
            # Which metric and which kind of task that is, the report doesn't say: no result for the metadata.
            found.append(Measurement("main_score", systems, ours, {}, f"mteb {task}", name))
    return found
