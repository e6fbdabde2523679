"""`lira evaluate`, on a BEIR folder or on mteb's tasks."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lira_hf.data import read_beir
from lira_hf.data.files import write_json
from lira_hf.evaluation import METRICS, RetrievalScores, evaluate_embedder
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures, make_source, stored_critic
from lira_hf.translation import CandidateStore, Critic, HeuristicCritic, Identity, load_translator

from .checkpoint import load_checkpoint


__all__ = ["run_evaluate", "run_mteb"]


def run_evaluate(
    model_name: str,
    data: Path | None,
    split: str | None,
    store: Path | None,
    critic: str | None,
    translator: Path | None,
    features: Path | None,
    num_candidates: int,
    json_output: Path | None,
    console: Console,
) -> None:
    """Scores a checkpoint on one split and prints the figures per language."""
    if data is None:
        raise ValueError("got neither DATA nor --mteb; expected one of the two; name a BEIR folder, or a task of mteb")
    dataset = read_beir(data, split or "test")
    model, processor = load_checkpoint(model_name)
    held = None if store is None else CandidateStore(store, read_only=True)
    judge: Critic | Identity | None = None
    if critic is not None and Path(critic).is_dir():
        judge = HeuristicCritic.load(critic)
    elif critic is not None and held is None:
        raise ValueError(f"got --critic {critic} without --store; expected the store that has its scores; add --store")
    elif critic is not None:
        judge = stored_critic(held, *critic.split(":", 1))
    asked = None if translator is None else load_translator(translator)
    source = CandidateSource(held, asked, judge, num_candidates)
    cache = RoadFeatures(model, processor, features)
    embedder = LiraEmbedder(model, processor, source, cache, progress=console.is_terminal)
    rows = {"without translation": evaluate_embedder(embedder, dataset, translate=False)}
    if store is not None or translator is not None:
        rows["with translation"] = evaluate_embedder(embedder, dataset)
    console.print(_table(rows, dataset))
    if json_output is not None:
        figures = {name: {m: {"mean": s.mean(m), **s.per_language(m)} for m in METRICS} for name, s in rows.items()}
        write_json(json_output, figures)


def run_mteb(
    model_name: str,
    names: list[str],
    languages: list[str],
    split: str | None,
    store: Path | None,
    critic: str | None,
    translator: Path | None,
    features: Path | None,
    num_candidates: int,
    output: Path | None,
    json_output: Path | None,
    console: Console,
) -> None:
    """
    Runs tasks of mteb on a checkpoint and prints their main score by subset.

    With a translator the store takes in what it answers: subsets share their texts, and so do both sides of a task.
    """
    from lira_hf.integrations.mteb import LiraMtebEncoder, evaluate_tasks, find_tasks

    tasks = find_tasks(names, languages, split)
    model, processor = load_checkpoint(model_name)
    source = make_source(store, translator, critic, num_candidates)
    cache = RoadFeatures(model, processor, features)
    embedder = LiraEmbedder(model, processor, source, cache, progress=console.is_terminal)
    ways = {"without translation": False}
    if source is not None:
        ways["with translation"] = True
    results = {}
    for name, translate in ways.items():
        encoder = LiraMtebEncoder(embedder, model_name, translate)
        results[name] = evaluate_tasks(encoder, tasks, output, console.is_terminal).task_results
    scores = {name: {one.task_name: one.scores for one in found} for name, found in results.items()}
    console.print(_mteb_table(scores, {task.metadata.name: task.metadata.main_score for task in tasks}))
    if json_output is not None:
        write_json(json_output, json.loads(json.dumps(scores, default=str)))


def _mteb_table(scores: dict[str, dict[str, dict[str, Any]]], metrics: dict[str, str]) -> Table:
    """A line for each subset, and where there are several one for their mean."""
    table = Table(title="mteb's main score x 100")
    for name in ("task", "split", "subset", "score"):
        table.add_column(name)
    for name in scores:
        table.add_column(name, justify="right")
    first = next(iter(scores.values()))
    for task, splits in first.items():
        for split, rows in splits.items():
            found = [
                {row["hf_subset"]: 100 * row["main_score"] for row in way[task][split]} for way in scores.values()
            ]
            for subset in found[0]:
                table.add_row(task, split, subset, metrics[task], *(f"{way[subset]:.1f}" for way in found))
            if len(rows) > 1:
                means = (f"{sum(way.values()) / len(way):.1f}" for way in found)
                table.add_row(task, split, f"mean of {len(rows)}", metrics[task], *means)
    return table


def _table(rows: dict[str, RetrievalScores], dataset) -> Table:
    tags = sorted({tag for scores in rows.values() for tag in scores.languages})
    table = Table(title=f"nDCG@10 x 100; {len(dataset.queries):,} queries, {len(dataset.corpus):,} documents")
    table.add_column("")
    for name in [*tags, "mean", "recall@1", "MRR"]:
        table.add_column(name, justify="right")
    for name, scores in rows.items():
        found = scores.per_language()
        cells = [f"{100 * found[tag]:.1f}" for tag in tags]
        table.add_row(name, *cells, *(f"{100 * scores.mean(metric):.1f}" for metric in METRICS))
    return table
