"""The diagnosis as a table, a page of Markdown, plots, and a line for each row."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from lira_hf.data import language_name
from lira_hf.data.files import replace_files

from .bound import BoundSettings, translation_scale
from .bound_measure import BoundMeasurements
from .diagnosis import BoundFit


__all__ = [
    "bound_summary",
    "diagnosis_markdown",
    "diagnosis_table",
    "drift_table",
    "plot_diagnosis",
    "plot_drift",
    "write_diagnosis_rows",
]

_COLUMNS = (
    "",
    "rows",
    "eps1",
    "of English",
    "g to English",
    "eps2",
    "translation",
    "best candidate",
    "deviation",
    "bound",
    "inside",
    "tightness",
    "anchoring's share",
    "suffers from",
)
_ROW_COLUMNS = ("language", "side", "anchoring", "translation", "eps2", "deviation", "bound", "inside", "output")
_COLOURS = {"anchoring": "#3182bd", "translation": "#e6550d", "bound": "#636363"}


def _lines(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    entries = [(tag, facts) for tag, facts in report["languages"].items()] + [("all", report["overall"])]
    for tag, facts in entries:
        verdict = facts["verdict"]["suffers_from"] if "verdict" in facts else ""
        if not facts["test"]:
            yield (tag, "0 (few)", *[""] * (len(_COLUMNS) - 3), verdict)
            continue
        yield (
            tag,
            f"{facts['test']:,}{' (few)' if facts['few'] else ''}",
            f"{facts['eps1']['mean']:.3f}",
            f"{facts['eps1_english']:.3f}",
            f"{facts['drift']:.3f}",
            f"{facts['eps2']['mean']:.3f}",
            f"{facts['translation']['mean']:.3f}",
            f"{facts['best_translation']:.3f}",
            f"{facts['deviation']['mean']:.3f}",
            f"{facts['bound']['mean']:.3f}",
            f"{facts['bound']['inside']:.1%}",
            f"{facts['bound']['tightness']:.2f}",
            f"{facts['shares']['anchoring']:.0%}",
            verdict,
        )


def diagnosis_table(report: dict[str, Any]) -> Table:
    """
    The table that `lira diagnose` prints: a line per language, means over its test rows.

    Args:
        report (`dict`): As [`diagnose`] makes it.
    """
    rows, settings = report["rows"], report["settings"]
    table = Table(
        title=f"||z - z*|| <= eps1 + C sqrt(2 eps2), C = {report['C']:.3f} at {settings['level']:.1%}; "
        f"{rows['test']:,} test rows, {rows['calibration']:,} for calibration",
        caption=f"distances between {settings['space']} unit vectors, unrelated texts {report['unrelated']:.3f} "
        "apart; eps2 in nats; anchoring's share is that of the squared deviation",
    )
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("", "suffers from") else "right")
    for line in _lines(report):
        table.add_row(*line, style="bold" if line[0] == "all" else None)
    return table


def drift_table(points: Sequence[dict[str, Any]]) -> Table:
    """Means over all test rows at each checkpoint; `points` as [`drift_point`] makes them."""
    table = Table(title="through training: all test rows; C is fitted anew at each checkpoint")
    for name in _DRIFT:
        table.add_column(name, justify="left" if name == "checkpoint" else "right")
    for line in _drift_lines(points):
        table.add_row(*line)
    return table


_DRIFT = ("checkpoint", "eps1", "eps2", "translation", "deviation", "of unrelated", "C", "bound", "inside")


def _drift_lines(points: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for point in points:
        means = point["overall"]
        yield (
            point["name"],
            *(f"{means[key]:.3f}" for key in ("eps1", "eps2", "translation", "deviation")),
            f"{means['relative_deviation']:.0%}",
            f"{point['C']:.3f}",
            f"{means['bound']:.3f}",
            f"{means['inside']:.1%}",
        )


def diagnosis_markdown(report: dict[str, Any]) -> str:
    """
    The report as a page: table, advice, the outputs' bound, sensitivity, drift.

    Args:
        report (`dict`): As [`diagnose`] makes it, with `drift` where there is one, `model` and `data`.
    """
    settings, lipschitz = report["settings"], report["lipschitz"]
    page = [
        f"# Diagnosis of {report['model']}",
        "",
        f"On {report['data']}: {report['rows']['test']:,} test rows, constants fitted on "
        f"{report['rows']['calibration']:,} others. C = {report['C']:.3f} at {settings['level']:.1%}, local Lipschitz "
        f"constant {_number(lipschitz['local'])} at {lipschitz['quantile']:.0%} of {lipschitz['rows']} rows under "
        f"one-token edits. Distances between {settings['space']} unit vectors; unrelated texts are "
        f"{report['unrelated']:.3f} apart.",
        "",
        *_markdown(_COLUMNS, _lines(report)),
        "",
        "## What to do",
        "",
    ]
    for tag, facts in report["languages"].items():
        page.append(
            f"* **{tag}** suffers from {facts['verdict']['suffers_from']}. " + " ".join(facts["verdict"]["advice"])
        )
    page += ["", "## The paper's form: one eps1 and one eps2 for all rows of a language", ""]
    page += _markdown(("", "eps1", "eps2", "bound", "promised", "inside", "vacuous"), _uniform_lines(report))
    page += ["", "## Outputs: ||f(z) - f(z*)|| against L (eps1 + C sqrt(2 eps2))", ""]
    page += _markdown(_OUTPUTS, _output_lines(report))
    page += [
        "",
        f"L secant = {lipschitz['secant']:.3f}, fitted on calibration rows at {settings['level']:.1%}. Vacuous: "
        "bounds that no pair of unit vectors could miss, 2 for outputs, 2.83 for z.",
    ]
    if "sensitivity" in report:
        page += ["", "## What the estimators' settings change", ""]
        page += _markdown(_SENSITIVITY, _sensitivity_lines(report))
    if report.get("drift"):
        page += ["", "## Through training", "", *_markdown(_DRIFT, _drift_lines(report["drift"]))]
    left = [f"{count:,} {reason}" for reason, count in report["rows"].get("left_out", {}).items()]
    left.append(f"{report['overall']['without_candidates']:,} without candidates")
    return "\n".join([*page, "", f"Left out: {', '.join(left)}.", ""])


def bound_summary(report: dict[str, Any]) -> dict[str, Any]:
    """The few figures of a report that a model card shows (`lira card --diagnosis`)."""
    overall = report["overall"]
    summary: dict[str, Any] = {
        "C": report["C"],
        "local Lipschitz constant": report["lipschitz"]["local"],
        "test rows": report["rows"]["test"],
        "share inside the bound": overall["bound"]["inside"],
        "deviation by bound": overall["bound"]["tightness"],
        "deviation by that of unrelated texts": overall["ratios"]["relative_deviation"],
    }
    for tag, facts in report["languages"].items():
        if facts["test"]:
            summary[tag] = {"eps1": facts["eps1"]["mean"], "eps2": facts["eps2"]["mean"]}
            summary[tag]["anchoring's share"] = facts["shares"]["anchoring"]
    return summary


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _markdown(columns: Sequence[str], lines: Iterator[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(line)} |" for line in lines)]


def _measured(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for tag, facts in [*report["languages"].items(), ("all", report["overall"])]:
        if facts["test"]:
            yield tag, facts


def _uniform_lines(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for tag, facts in _measured(report):
        if (found := facts["uniform"]) is not None:
            numbers = (f"{found[key]:.3f}" for key in ("eps1", "eps2", "bound"))
            vacuous = "yes" if found["vacuous"] else "no"
            yield (tag, *numbers, f"{found['promised']:.1%}", f"{found['inside']:.1%}", vacuous)


_OUTPUTS = ("", "deviation", "L local", "bound", "inside", "vacuous", "inside with L secant", "vacuous with it")


def _output_lines(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for tag, facts in _measured(report):
        found = facts["output"]
        numbers = (_number(found[key]) for key in ("deviation", "local", "bound"))
        shares = (found[key] for key in ("inside", "vacuous", "inside_secant", "vacuous_secant"))
        yield (tag, *numbers, *("-" if share is None else f"{share:.1%}" for share in shares))


_SENSITIVITY = (
    "changed",
    "to",
    "C",
    "eps2",
    "at the floor",
    "C sqrt(2 eps2)",
    "rank correlation",
    "inside",
    "tightness",
)


def _sensitivity_lines(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for found in report["sensitivity"]:
        yield (
            found["changed"],
            "" if found["value"] is None else f"{found['value']:g}",
            *(_number(found[key]) for key in ("C", "eps2")),
            f"{found['at_floor']:.0%}",
            *(_number(found[key]) for key in ("term", "rank_correlation")),
            f"{found['inside']:.1%}",
            f"{found['tightness']:.2f}",
        )


def write_diagnosis_rows(path: Path, measured: BoundMeasurements, fit: BoundFit) -> None:
    """Every row's figures, text and reference, as TSV; the file appears whole or not at all."""
    deviation = measured.deviation

    def lines() -> Iterator[bytes]:
        yield ("\t".join((*_ROW_COLUMNS, "text", "english")) + "\n").encode()
        for place, row in enumerate(measured.rows):
            figures = (measured.anchoring, measured.translation, fit.fidelity, deviation, fit.bound)
            cells = [row.language, "calibration" if row.calibration else "test"]
            cells += [f"{each[place]:.5f}" for each in figures]
            cells += [str(int(deviation[place] <= fit.bound[place])), f"{measured.output[place]:.5f}"]
            cells += [" ".join(text.split()) for text in (row.text, row.reference)]
            yield ("\t".join(cells) + "\n").encode(errors="replace")

    replace_files([(path, lines())])


def _pyplot():
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ImportError("plots need matplotlib; install it with `pip install matplotlib`") from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def plot_diagnosis(
    report: dict[str, Any], measured: BoundMeasurements, fit: BoundFit, settings: BoundSettings, path: Path
) -> None:
    """
    Three panels as a PNG: errors and bound by language; deviation against the bound, row by row; translation errors
    against sqrt(2 eps2), with the line of C.

    Raises:
        ImportError: Without matplotlib.
    """
    plt = _pyplot()
    figure, (bars, cloud, fidelity) = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    entries = dict(_measured(report))
    place, width = np.arange(len(entries)), 0.4
    anchoring = [facts["eps1"]["mean"] for facts in entries.values()]
    translation = [facts["translation"]["mean"] for facts in entries.values()]
    bound = [facts["bound"]["mean"] for facts in entries.values()]
    bars.bar(place - width / 2, anchoring, width, label="anchoring, ||g(x) - h(y*)||", color=_COLOURS["anchoring"])
    bars.bar(
        place + width / 2, translation, width, label="translation, ||h(T(x)) - h(y*)||", color=_COLOURS["translation"]
    )
    bars.plot(place, bound, "_", markersize=22, markeredgewidth=2, label="bound", color=_COLOURS["bound"])
    names = [tag if tag in ("all", "und") else language_name(tag) for tag in entries]
    bars.set_xticks(place, names, rotation=30, ha="right")
    bars.set_ylabel("mean distance, test rows")
    test = ~fit.calibration
    outside = test & (measured.deviation > fit.bound)
    for rows, colour, label in ((test & ~outside, "#9ecae1", "inside"), (outside, "#de2d26", "outside")):
        cloud.scatter(fit.bound[rows], measured.deviation[rows], s=5, color=colour, label=label)
    limit = float(fit.bound[test].max()) * 1.05
    cloud.plot([0, limit], [0, limit], color=_COLOURS["bound"], linewidth=1)
    cloud.set_xlabel("bound, eps1 + C sqrt(2 eps2)")
    cloud.set_ylabel("measured ||z - z*||")
    scale = translation_scale(fit.fidelity, settings.floor)[test]
    fidelity.scatter(scale, measured.translation[test], s=5, color="#fdae6b", label="test rows")
    end = min(float(scale.max()), 2.0 / fit.constant)
    fidelity.plot([0, end], [0, end * fit.constant], color=_COLOURS["bound"], label=f"C = {fit.constant:.3f}")
    fidelity.set_xlabel("sqrt(2 eps2)")
    fidelity.set_ylabel("||h(T(x)) - h(y*)||")
    _finish(plt, figure, (bars, cloud, fidelity), path)


def plot_drift(points: Sequence[dict[str, Any]], path: Path) -> None:
    """
    eps1, eps2 and the deviation (relative to unrelated texts) at each checkpoint, a line per language, as a PNG.

    Raises:
        ImportError: Without matplotlib.
    """
    plt = _pyplot()
    panels = {
        "eps1": "anchoring error eps1",
        "eps2": "translation fidelity eps2, nats",
        "relative_deviation": "||z - z*||, of that of unrelated texts",
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(15, 4.5), layout="constrained")
    place = np.arange(len(points))
    tags = sorted({tag for point in points for tag in point["languages"]})
    for panel, (key, title) in zip(axes, panels.items(), strict=True):
        for tag in tags:
            panel.plot(place, [point["languages"].get(tag, {}).get(key, np.nan) for point in points], "o-", label=tag)
        panel.plot(place, [point["overall"][key] for point in points], "k--", label="all")
        panel.set_xticks(place, [point["name"] for point in points], rotation=30, ha="right")
        panel.set_ylabel(title)
        panel.set_ylim(bottom=0)
    _finish(plt, figure, axes, path)


def _finish(plt, figure, axes, path: Path) -> None:
    for panel in axes:
        panel.legend(frameon=False, fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
