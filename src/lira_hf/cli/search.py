"""`lira search`."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lira_hf.data import normalize_language, read_documents
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures, SearchIndex
from lira_hf.translation import HeuristicCritic, load_translator

from .checkpoint import load_checkpoint


__all__ = ["run_search"]


def run_search(
    model_name: str,
    corpus: Path,
    queries: list[str],
    translator: Path | None,
    critic: Path | None,
    features: Path | None,
    num_candidates: int,
    k: int,
    console: Console,
) -> None:
    """Embeds corpus and queries and prints the nearest documents of each query."""
    asked = [_parse(query) for query in queries]
    documents = read_documents(corpus)
    model, processor = load_checkpoint(model_name)
    source = None
    if translator is not None:
        judge = None if critic is None else HeuristicCritic.load(critic)
        source = CandidateSource(translator=load_translator(translator), critic=judge, num_candidates=num_candidates)
    cache = RoadFeatures(model, processor, features)
    embedder = LiraEmbedder(model, processor, source, cache, progress=console.is_terminal)
    english = processor.anchor_languages[0]
    index = SearchIndex(list(documents), embedder.encode(list(documents.values()), english))
    tags, texts = [tag for tag, _ in asked], [text for _, text in asked]
    found = index.search(np.atleast_2d(embedder.encode(texts, tags)), k)
    candidates = [[] for _ in texts] if source is None else source.get(texts, tags)[0]
    table = Table(title=f"{len(documents):,} documents")
    for name in ("language", "query", "first candidates", "found"):
        table.add_column(name, overflow="fold")
    for (tag, text), row, hits in zip(asked, candidates, found, strict=True):
        lines = "\n".join(f"{hit.score:.2f}  {documents[hit.id]}" for hit in hits)
        # As Text: brackets in what is found are no markup.
        table.add_row(tag or "", Text(text), Text("\n".join(row[:2])), Text(lines))
    console.print(table)


def _parse(query: str) -> tuple[str | None, str]:
    tag, colon, text = query.partition(":")
    if not colon or not text.strip():
        raise ValueError(f"the query is {query!r}; expected LANGUAGE:TEXT, such as 'bn:ঢাকা'; write the language first")
    return normalize_language(tag), text.strip()
