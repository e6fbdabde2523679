"""What a run of robustness leaves behind: report.json, report.md and plots, all from the same points."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lira_hf.data import language_name
from lira_hf.data.files import replace_files, strict_json

from .retrieval import UNKNOWN_LANGUAGE
from .robustness import UNITS
from .robustness_systems import OURS, ROBUSTNESS_SYSTEMS


__all__ = ["plot_few_shot", "plot_noise", "plot_noise_languages", "robustness_markdown", "write_robustness_report"]

_NAMES = {
    "typos": "typos",
    "code_mixing": "code-mixing",
    "diacritics": "missing diacritics",
    "candidates": "corrupted candidates",
}
_METRICS = {"ndcg@10": "nDCG@10", "pearson": "Pearson's r"}
_STYLES: dict[str, dict[str, Any]] = {
    OURS: {"color": "#006d2c", "linewidth": 2.4, "marker": "o"},
    "LiRA, no translation": {"color": "#41ab5d", "linestyle": "--", "marker": "o", "markersize": 4},
    "LiRA's start": {"color": "#807dba", "linestyle": "-.", "marker": "^", "markersize": 4},
    "concat": {"color": "#525252", "linestyle": "--", "marker": "s", "markersize": 4},
    "g alone": {"color": "#2171b5", "linestyle": ":", "marker": "v", "markersize": 5},
    "translate, then h": {"color": "#d94801", "linestyle": ":", "marker": "x", "markersize": 5},
}


def write_robustness_report(report: dict[str, Any], folder: Path) -> list[Path]:
    """
    Writes the report and its plots.

    Args:
        report (`dict`): `setting` (what was measured, in words and numbers), `metric`, `noise` (points of
            [`NoiseCurves.run`]) and `few_shot` (points of [`FewShotCurve.run`]); either may be empty.
        folder (`Path`): Where to.

    Returns:
        `list[Path]`: What was written; without matplotlib no plots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replace_files([(folder / "report.json", [strict_json(report).encode()])])
    (folder / "report.md").write_text(robustness_markdown(report), encoding="utf-8")
    written = [folder / "report.json", folder / "report.md"]
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return written
    if report["noise"]:
        plot_noise(report, folder / "noise.png")
        plot_noise_languages(report, folder / "noise-languages.png")
        written += [folder / "noise.png", folder / "noise-languages.png"]
    if report["few_shot"]:
        plot_few_shot(report, folder / "few-shot.png")
        written.append(folder / "few-shot.png")
    return written


# Tables


def curves(report: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The points of each curve by noise and translations, in their order."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in report["noise"]:
        found.setdefault((point["noise"], point["translations"]), []).append(point)
    return found


def curve_title(noise: str, translations: str) -> str:
    """What a curve is called."""
    if noise == "candidates":
        return _NAMES[noise]
    return f"{_NAMES[noise]}, {'translations kept' if translations == 'kept' else 'translated again'}"


def robustness_markdown(report: dict[str, Any]) -> str:
    """The report as Markdown: figures per curve, LiRA minus each control with intervals, and where it is below one."""
    metric, setting = report["metric"], report["setting"]
    lines = ["# Robustness", "", f"{_METRICS.get(metric, metric)} x 100, mean of the languages; differences with 95 %"]
    lines += ["paired-bootstrap intervals. " + " ".join(f"{name}: {value}." for name, value in setting.items()), ""]
    for (noise, translations), points in curves(report).items():
        lines += [f"## {curve_title(noise, translations).capitalize()}", ""]
        lines += [*_noise_tables(points, metric, noise), ""]
    if report["few_shot"]:
        lines += [f"## Few-shot: {language_name(report['few_shot'][0]['language'])}", ""]
        lines += [*_few_shot_tables(report["few_shot"], metric), ""]
    below = list(_below(report))
    lines += ["## Where LiRA is below a control", ""]
    lines += below or ["Nowhere by more than chance (95 %)."]
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(gain: dict[str, float]) -> str:
    if math.isnan(gain["low"]):
        return f"{100 * gain['difference']:+.1f}"
    return f"{100 * gain['difference']:+.1f} [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]"


def _noise_tables(points: Sequence[dict[str, Any]], metric: str, noise: str) -> Iterator[str]:
    others = [name for name in ROBUSTNESS_SYSTEMS if name != OURS]
    rows, gains = [], []
    for point in points:
        every = point["outcome"].get("all")
        out = "0" if every is None else f"{100 * every['units_changed']:.1f}"
        texts = "0" if every is None else f"{100 * every['texts_changed']:.0f}"
        rate = f"{100 * point['rate']:g}"
        figures = [_points(point["systems"][name][metric]["mean"]) for name in ROBUSTNESS_SYSTEMS]
        rows.append([rate, out, texts, *figures])
        gains.append([rate, *(_interval(point["differences"][name]["mean"]) for name in others)])
    yield from _table(["rate, %", f"{UNITS[noise]} changed, %", "texts changed, %", *ROBUSTNESS_SYSTEMS], rows)
    yield ""
    yield "LiRA minus:"
    yield ""
    yield from _table(["rate, %", *others], gains)
    last = points[-1]
    if last["rate"] and not last["outcome"]["all"]["units_changed"]:
        yield ""
        yield f"No {UNITS[noise]} of these texts were changed: they have none that this noise could hit."
        return
    tags = [tag for tag in last["systems"][OURS][metric] if tag != "mean"]
    if len(tags) > 1:
        yield ""
        yield f"By language at {100 * last['rate']:g} %:"
        yield ""
        yield from _table(["", *tags], list(_language_rows(last, metric, tags, noise)))


def _language_rows(point: dict[str, Any], metric: str, tags: Sequence[str], noise: str) -> Iterator[list[str]]:
    outcome = point["outcome"]
    if any(tag in outcome for tag in tags):
        shares = [f"{100 * outcome[tag]['units_changed']:.0f}" if tag in outcome else "" for tag in tags]
        yield [f"{UNITS[noise]} changed, %", *shares]
        shares = [f"{100 * outcome[tag]['texts_changed']:.0f}" if tag in outcome else "" for tag in tags]
        yield ["texts changed, %", *shares]
    yield [OURS, *(_points(point["systems"][OURS][metric][tag]) for tag in tags)]
    for name, gains in point["differences"].items():
        yield [f"LiRA minus {name}", *(_interval(gains[tag]) for tag in tags)]


def _few_shot_tables(points: Sequence[dict[str, Any]], metric: str) -> Iterator[str]:
    others = [name for name in ROBUSTNESS_SYSTEMS if name != OURS]
    for where in dict.fromkeys((few_shot_tag(points[0], metric), "mean")):
        yield f"{'Mean of the languages' if where == 'mean' else language_name(where)}:"
        yield ""
        rows = [
            [str(p["rows"]), *(_points(p["systems"][name][metric][where]) for name in ROBUSTNESS_SYSTEMS)]
            for p in points
        ]
        yield from _table(["rows", *ROBUSTNESS_SYSTEMS], rows)
        yield ""
        yield "LiRA minus:"
        yield ""
        gains = [[str(p["rows"]), *(_interval(p["differences"][name][where]) for name in others)] for p in points]
        yield from _table(["rows", *others], gains)
        yield ""


def few_shot_tag(point: dict[str, Any], metric: str) -> str:
    """The language of a few-shot point among those that were measured; `"mean"` where it is none of them."""
    return point["language"] if point["language"] in point["systems"][OURS][metric] else "mean"


def _below(report: dict[str, Any]) -> Iterator[str]:
    """A line for each curve, rate and control that LiRA is below, interval and all."""
    seen = set()
    for point in [*report["noise"], *report["few_shot"]]:
        if "noise" in point:
            title = curve_title(point["noise"], point["translations"])
            where = f"{title} at {100 * point['rate']:g} %" if point["rate"] else "clean"
        else:
            where = f"{point['rows']} rows of {point['language']}"
        for name, gains in point["differences"].items():
            found = [f"{tag} {_interval(gain)}" for tag, gain in gains.items() if gain["high"] < 0]
            line = f"- {where}, LiRA minus {name}: {', '.join(found)}"
            if found and line not in seen:
                seen.add(line)
                yield line


# Plots


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _finish(figure: Any, axes: Sequence[Any], path: Path, columns: int) -> None:
    """One legend for all panels, below them."""
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(path, dpi=120)
    _pyplot().close(figure)


def _line(axis: Any, points: Sequence[dict[str, Any]], name: str, metric: str, tag: str) -> None:
    rates = [100 * point["rate"] for point in points]
    axis.plot(rates, [100 * p["systems"][name][metric][tag] for p in points], label=name, **_STYLES[name])


def plot_noise(report: dict[str, Any], path: Path) -> None:
    """A panel for each curve: every system's mean of the languages against the rate."""
    found, metric = curves(report), report["metric"]
    columns = min(len(found), 4)
    rows = math.ceil(len(found) / columns)
    size = (max(3.3 * columns, 6.5), 3.1 * rows + 0.8)
    figure, grid = _pyplot().subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    axes = list(grid.flat)
    for axis, ((noise, translations), points) in zip(axes, found.items(), strict=False):
        for name in reversed(ROBUSTNESS_SYSTEMS):
            _line(axis, points, name, metric, "mean")
        axis.set_title(curve_title(noise, translations), fontsize=10)
        axis.set_xlabel(f"rate asked, % of {UNITS[noise]}")
    for axis in axes[len(found) :]:
        axis.remove()
    for row in grid:
        row[0].set_ylabel(f"{_METRICS.get(metric, metric)} x 100, mean of languages")
    _finish(figure, axes[: len(found)], path, 6 if columns > 2 else 3)


def plot_noise_languages(report: dict[str, Any], path: Path) -> None:
    """A row for each curve and a panel for each language: LiRA, the concat and each road alone against the rate."""
    found, metric = curves(report), report["metric"]
    tags = [tag for tag in report["noise"][0]["systems"][OURS][metric] if tag != "mean"]
    size = (max(1.9 * len(tags), 6.5), 2.0 * len(found) + 0.8)
    figure, grid = _pyplot().subplots(
        len(found), len(tags), figsize=size, sharex="row", sharey=True, squeeze=False, layout="constrained"
    )
    for number, ((noise, translations), points) in enumerate(found.items()):
        for axis, tag in zip(grid[number], tags, strict=True):
            for name in ("translate, then h", "g alone", "concat", OURS):
                _line(axis, points, name, metric, tag)
            axis.set_xlabel(f"% of {UNITS[noise]}", fontsize=8)
            if not number:
                axis.set_title(_language(tag), fontsize=10)
        title = curve_title(noise, translations).replace(", ", ",\n")
        grid[number][0].set_ylabel(f"{title}\n{_METRICS.get(metric, metric)} x 100", fontsize=8)
    _finish(figure, list(grid.flat), path, 4)


def _language(tag: str) -> str:
    parts = tag.split("-")
    return tag if tag == UNKNOWN_LANGUAGE or len(parts) > 1 else language_name(tag)


def plot_few_shot(report: dict[str, Any], path: Path) -> None:
    """Every system against the number of rows: the language that has few, and the mean of all."""
    points, metric = report["few_shot"], report["metric"]
    places = list(dict.fromkeys((few_shot_tag(points[0], metric), "mean")))
    figure, grid = _pyplot().subplots(
        1, len(places), figsize=(max(4.4 * len(places), 6.5), 4.2), squeeze=False, layout="constrained"
    )
    axes = list(grid.flat)
    shown = [str(point["rows"]) for point in points]
    for axis, tag in zip(axes, places, strict=True):
        for name in reversed(ROBUSTNESS_SYSTEMS):
            values = [100 * point["systems"][name][metric][tag] for point in points]
            axis.plot(shown, values, label=name, **_STYLES[name])
        axis.set_title("mean of the languages" if tag == "mean" else language_name(tag), fontsize=10)
        axis.set_xlabel(f"training rows of {language_name(points[0]['language'])}")
        axis.set_ylabel(f"{_METRICS.get(metric, metric)} x 100")
    _finish(figure, axes, path, 3)
