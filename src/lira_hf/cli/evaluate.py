"""`lira evaluate`."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lira_hf.data import read_beir
from lira_hf.evaluation import METRICS, RetrievalScores, evaluate_embedder
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures, stored_critic
from lira_hf.translation import CandidateStore, load_translator

from .checkpoint import load_checkpoint


__all__ = ["run_evaluate"]


def run_evaluate(
    model_name: str,
    data: Path,
    split: str,
    store: Path | None,
    critic: str | None,
    translator: Path | None,
    features: Path | None,
    num_candidates: int,
    json_output: Path | None,
    console: Console,
) -> None:
    """Scores a checkpoint on one split and prints the figures per language."""
    dataset = read_beir(data, split)
    model, processor = load_checkpoint(model_name)
    held = None if store is None else CandidateStore(store, read_only=True)
    if critic is not None and held is None:
        raise ValueError(f"got --critic {critic} without --store; expected the store that has its scores; add --store")
    judge = None if critic is None or held is None else stored_critic(held, *critic.split(":", 1))
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
        json_output.write_text(json.dumps(figures, indent=2), encoding="utf-8")


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
