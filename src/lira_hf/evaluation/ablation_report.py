"""What an ablation leaves behind: report.json, report.md and report.png, all from the same scores."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lira_hf.data.files import replace_files, strict_json

from .ablation import AblationResults
from .ablation_variants import FULL, Variant


__all__ = ["ablation_markdown", "ablation_report", "plot_ablation", "write_ablation"]

logger = logging.getLogger(__name__)
_TITLES = {"ndcg@10": "nDCG@10", "recall@1": "Recall@1", "mrr": "MRR", "pearson": "Pearson", "spearman": "Spearman"}
_KINDS = ("full", "ablation", "asked", "control")
_UNITS = {"retrieval": "resampled by document", "ranking": "resampled by pair within each language"}


def ablation_report(results: AblationResults) -> dict[str, Any]:
    """
    Everything that was measured.

    Args:
        results ([`AblationResults`]): Of an ablation.

    Returns:
        `dict`: `systems` (of each its `kind`: full, ablation, asked or control; `about`; per metric the languages'
        figures and their mean, over seeds; `seeds`, the main metric's mean by seed; `dev` likewise), `differences`
        (LiRA minus each, per metric the `mean`, of the main metric also per language, each with its 95 %
        interval), `verdicts` (per part),
        `chosen`, `missing`, `facts`, `seconds`.
    """
    metrics = results.split.metrics
    variants = {variant.name: variant for variant in results.variants}
    systems: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    for name, scores in results.systems.items():
        found = {metric: _means(scores, metric) for metric in metrics}
        seeds = [one.mean(metrics[0]) for one in scores]
        known = variants.get(name)
        about = known.about if known is not None else ""
        systems[name] = {"kind": _kind(name, known), "about": about, **found, "seeds": seeds}
        if name in results.dev:
            systems[name]["dev"] = results.dev[name]
        if name != FULL:
            differences[name] = {metric: _gaps(results, scores, metric) for metric in metrics}
    order = sorted(systems, key=lambda name: _KINDS.index(systems[name]["kind"]))
    return {
        "task": results.task,
        "metrics": list(metrics),
        "systems": {name: systems[name] for name in order},
        "differences": {name: differences[name] for name in order if name in differences},
        "verdicts": {
            variant.part: _verdict(variant, differences[variant.name][metrics[0]])
            for variant in results.variants
            if variant.part
        },
        "chosen": results.chosen,
        "missing": results.missing,
        "facts": results.facts,
        "seconds": results.seconds,
    }


def _gaps(results: AblationResults, theirs: Sequence[Any], metric: str) -> dict[str, dict[str, float]]:
    """LiRA minus a row; of the main metric also by language."""
    ours, tags = results.systems[FULL], [None]
    if metric == results.split.metrics[0]:
        tags += sorted(ours[0].per_language(metric))
    return {tag or "mean": results.split.difference(ours, theirs, metric, tag)._asdict() for tag in tags}


def _kind(name: str, variant: Variant | None) -> str:
    if name == FULL:
        return "full"
    if variant is not None:
        return "ablation" if variant.part else "control"
    return "asked" if name.startswith(f"{FULL}, asked") else "control"


def _means(scores: Sequence[Any], metric: str) -> dict[str, float]:
    each = [one.per_language(metric) for one in scores]
    languages = {tag: float(np.mean([found[tag] for found in each])) for tag in each[0]}
    return {"mean": float(np.mean(list(languages.values()))), **languages}


def _verdict(variant: Variant, gaps: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What a part brings: the model with it minus the model without it."""
    sign = -1.0 if variant.adds else 1.0
    brought = {}
    for tag, gap in gaps.items():
        low, high = sorted((sign * gap["low"], sign * gap["high"]))
        brought[tag] = {"difference": sign * gap["difference"], "low": low, "high": high}
    mean = brought["mean"]
    earned = "yes" if mean["low"] > 0 else "harms" if mean["high"] < 0 else "no"
    if math.isnan(mean["low"]):
        earned = "unknown"
    better, worse = (
        [tag for tag, one in brought.items() if tag != "mean" and (one["low"] > 0 if up else one["high"] < 0)]
        for up in (True, False)
    )
    return {"row": variant.name, "earned": earned, "brings": mean, "helps in": better, "hurts in": worse}


def _points(gap: dict[str, float]) -> str:
    """A difference and its interval x 100."""
    return f"{100 * gap['difference']:+.1f} [{100 * gap['low']:.1f}, {100 * gap['high']:.1f}]"


def ablation_markdown(report: dict[str, Any]) -> str:
    """
    The report to read.

    Args:
        report (`dict`): As [`ablation_report`] gives it.
    """
    metric, facts = report["metrics"][0], report["facts"]
    sizes = ", ".join(f"{count:,} {what}" for what, count in facts["data"]["test"].items())
    seeds = f"{len(facts['seeds'])} seed{'s' if len(facts['seeds']) > 1 else ''}"
    lines = [
        "# Ablation",
        "",
        f"{_TITLES[metric]} x 100 on the test split ({sizes}), mean of {seeds}; the mean counts each language alike. "
        f"Differences are LiRA minus the row, with 95 % paired-bootstrap intervals, {_UNITS[report['task']]}: they "
        "say what other test rows might give, not other seeds. Settings and checkpoints are chosen on dev; test is "
        "looked at once, and nothing was trained on it.",
        "",
        "## What earned its place",
        "",
        *_verdict_lines(report),
        "",
        "## All rows",
        "",
        *_table(report, metric),
        "",
        *_about_lines(report),
        "",
        "## By language: LiRA minus the row",
        "",
        *_language_table(report, metric),
    ]
    for other in report["metrics"][1:]:
        lines += ["", f"## {_TITLES[other]} x 100", "", *_table(report, other)]
    return "\n".join([*lines, "", *_choice_lines(report)]) + "\n"


def _verdict_lines(report: dict[str, Any]) -> list[str]:
    words = {
        "yes": "earned its place",
        "no": "did **not** earn its place here: taking it away costs nothing that can be told from chance",
        "harms": "did **not** earn its place here: without it the model is better",
        "unknown": "can't be judged on so few rows",
    }
    lines = []
    for part, found in report["verdicts"].items():
        line = f"* The {part} {words[found['earned']]}. It brings {_points(found['brings'])} points."
        for key, word in (("helps in", "surely helps in"), ("hurts in", "surely hurts in")):
            if found[key]:
                line += f" By language it {word} {', '.join(found[key])}."
        lines.append(line)
    metric = report["metrics"][0]
    controls = {
        n: report["differences"][n][metric]["mean"] for n, s in report["systems"].items() if s["kind"] == "control"
    }
    ahead = [name for name, gap in controls.items() if gap["low"] > 0]
    rest = [f"{name} ({_points(controls[name])})" for name in controls if name not in ahead]
    lines.append(f"* LiRA is surely above {len(ahead)} of {len(controls)} controls.")
    if rest:
        lines[-1] += f" Not surely above: {'; '.join(rest)}."
    lines += [f"* Not measured: {name}: {reason}." for name, reason in report["missing"].items()]
    return lines


def _table(report: dict[str, Any], metric: str) -> list[str]:
    tags = [tag for tag in report["systems"][FULL][metric] if tag != "mean"]
    lines = [f"| | {' | '.join(tags)} | mean | LiRA minus it | dev | by seed |", f"|---|{'---:|' * (len(tags) + 4)}"]
    main = metric == report["metrics"][0]
    for name, found in report["systems"].items():
        cells = [f"{100 * found[metric][tag]:.1f}" for tag in [*tags, "mean"]]
        cells.append("" if name == FULL else _points(report["differences"][name][metric]["mean"]))
        cells.append(f"{100 * float(np.mean(found['dev'])):.1f}" if main and "dev" in found else "")
        seeds = found["seeds"]
        cells.append(" ".join(f"{100 * value:.1f}" for value in seeds) if main and len(seeds) > 1 else "")
        lines.append(f"| {f'**{name}**' if name == FULL else name} | {' | '.join(cells)} |")
    if not main:
        lines = [line.rsplit("|", 3)[0] + "|" for line in lines]
    return lines


def _about_lines(report: dict[str, Any]) -> list[str]:
    return [f"* {name}: {found['about']}." for name, found in report["systems"].items() if found["about"]]


def _language_table(report: dict[str, Any], metric: str) -> list[str]:
    tags = [tag for tag in report["systems"][FULL][metric] if tag != "mean"]
    lines = [f"| | {' | '.join(tags)} |", f"|---|{'---:|' * len(tags)}"]
    for name, gaps in report["differences"].items():
        lines.append(f"| {name} | {' | '.join(_points(gaps[metric][tag]) for tag in tags)} |")
    return lines


def _choice_lines(report: dict[str, Any]) -> list[str]:
    chosen, facts = report["chosen"], report["facts"]
    lines = ["## Chosen on dev", ""]
    names = {
        "kind": "fixed kind of candidate",
        "mixture": "mixture for translating",
        "concat": "candidates of the concat",
    }
    lines += [f"* {told}: {chosen[name]}" for name, told in names.items() if name in chosen]
    if "path_weight" in chosen:
        lines.append(f"* g's share in the tuned concat: {chosen['path_weight']}")
    weights = "; ".join(f"{name} {', '.join(map(str, each))}" for name, each in chosen["path weights"].items())
    lines.append(f"* g's share of the trained rows, by seed: {weights}")
    lines += ["", "## The run", ""]
    seconds = "; ".join(f"{name} {value:.0f}" for name, value in report["seconds"].items() if name != "this call")
    lines.append(f"* Seconds of training, mean of the seeds, {facts['workers']} at a time: {seconds}.")
    sizes = {side: " and ".join(f"{n:,} {what}" for what, n in found.items()) for side, found in facts["data"].items()}
    lines.append(f"* Data: {'; '.join(f'{side} {told}' for side, told in sizes.items())}.")
    lines.append(f"* Versions: {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}.")
    lines.append(f"* Machine: {facts['machine']['cores']} cores, {facts['machine']['system']}.")
    return lines


def plot_ablation(report: dict[str, Any], path: Path) -> None:
    """
    LiRA minus each row with its interval, as a PNG.

    Args:
        report (`dict`): As [`ablation_report`] gives it.
        path (`Path`): The picture.

    Raises:
        ImportError: Where matplotlib isn't installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ImportError("the plot needs matplotlib; install it with `pip install 'lira-hf[quickstart]'`") from error

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    metric = report["metrics"][0]
    colours = {"ablation": "#006d2c", "asked": "#74c476", "control": "#6baed6"}
    names = list(reversed(report["differences"]))
    figure, axes = plt.subplots(figsize=(9, 0.4 * len(names) + 1.5), layout="constrained")
    seen: set[str] = set()
    for place, name in enumerate(names):
        gap, kind = report["differences"][name][metric]["mean"], report["systems"][name]["kind"]
        middle = 100 * gap["difference"]
        ends = [[max(0.0, middle - 100 * gap["low"])], [max(0.0, 100 * gap["high"] - middle)]]
        label = None if kind in seen else {"asked": "full model, asked otherwise"}.get(kind, f"{kind}s")
        seen.add(kind)
        axes.errorbar(middle, place, xerr=ends, fmt="o", color=colours[kind], capsize=3, label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"LiRA minus the row: {_TITLES[metric]} x 100 on test, with 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_ablation(report: dict[str, Any], folder: Path) -> list[Path]:
    """
    Writes report.json, report.md and, where matplotlib is installed, report.png.

    Args:
        report (`dict`): As [`ablation_report`] gives it.
        folder (`Path`): Where to.

    Returns:
        `list[Path]`: The files.
    """
    files = [folder / "report.json", folder / "report.md"]
    folder.mkdir(parents=True, exist_ok=True)
    contents = (strict_json(report), ablation_markdown(report))
    replace_files([(file, [text.encode()]) for file, text in zip(files, contents, strict=True)])
    try:
        plot_ablation(report, folder / "report.png")
    except ImportError as error:
        logger.warning("report.png is left out: %s", error)
        return files
    return [*files, folder / "report.png"]
