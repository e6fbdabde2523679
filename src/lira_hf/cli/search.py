"""`lira search`."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lira_hf.data import normalize_language, read_documents
from lira_hf.data.files import replace_files
from lira_hf.inference import (
    CandidateSource,
    LiraEmbedder,
    RoadFeatures,
    SearchIndex,
    TextRow,
    VectorFolder,
    VectorIndex,
    check_rows,
    encode_rows,
    make_source,
    read_rows,
)
from lira_hf.translation import clean_text

from .checkpoint import load_checkpoint


__all__ = ["run_search", "run_vector_search"]

_SHOWN = 20  # queries in the table
_TOGETHER = 256  # queries searched at once

SourceOptions = tuple[Path | None, Path | None, str | None, int]


def run_search(
    model_name: str,
    corpus: Path,
    queries: list[str],
    source_options: SourceOptions,
    features: Path | None,
    k: int,
    console: Console,
) -> None:
    """
    Embeds corpus and queries and prints the nearest documents of each query. A document that names no language is in
    the model's first anchor language.
    """
    asked = [_parse(query) for query in queries]
    read = read_documents(corpus)
    documents = read.corpus
    model, processor = load_checkpoint(model_name)
    source = make_source(*source_options)
    cache = RoadFeatures(model, processor, features)
    embedder = LiraEmbedder(model, processor, source, cache, progress=console.is_terminal)
    english = processor.anchor_languages[0]
    spoken = [read.document_languages.get(key, english) for key in documents]
    index = SearchIndex(list(documents), embedder.encode(list(documents.values()), spoken, role="document"))
    vectors = embedder.encode([text for _, text in asked], [tag for tag, _ in asked], role="query")
    found = index.search(np.atleast_2d(vectors), k)
    rows = [TextRow(str(number), text, tag) for number, (tag, text) in enumerate(asked)]
    hits = [[(hit.score, documents[hit.id]) for hit in row] for row in found]
    _print_table(f"{len(documents):,} documents", rows, hits, source, console)


def run_vector_search(
    model_name: str,
    vectors: Path,
    texts: list[str],
    queries: list[str],
    queries_file: Path | None,
    language: str | None,
    source_options: SourceOptions,
    k: int,
    output: Path | None,
    console: Console,
) -> None:
    """
    Embeds queries and prints the nearest vectors of a folder, or writes them to a file: a JSON object a query, with
    `id`, `text`, `language` and `hits` of `id`, `score`, `text` and `language`.
    """
    rows = _queries(texts, queries, language)
    if queries_file is not None:
        check_rows(queries_file, "queries", language)
    folder = VectorFolder(vectors)
    if not len(folder):
        raise ValueError(f"got {vectors}, which holds no vectors yet; expected some; run `lira embed` to its end")
    model, processor = load_checkpoint(model_name)
    source = make_source(*source_options)
    embedder = LiraEmbedder(model, processor, source)
    folder.check_model(embedder.fingerprint, f"the model {model_name}")
    index = VectorIndex(folder)
    if queries_file is not None:
        rows = [*rows, *read_rows(queries_file, "queries", language)]
    if output is not None:
        replace_files([(output, _json_lines(rows, embedder, index, k))])
        console.print(f"{len(rows):,} queries in {output}", markup=False, highlight=False, soft_wrap=True)
        return
    found = [
        [(hit.score, f"{hit.id}  {hit.text}") for hit in hits] for hits in _search(rows[:_SHOWN], embedder, index, k)
    ]
    title = f"{len(folder):,} vectors, {folder.precision}"
    if len(rows) > _SHOWN:
        title += f"; the first {_SHOWN} of {len(rows):,} queries, --output takes all"
    _print_table(title, rows[:_SHOWN], found, source, console)


def _queries(texts: list[str], queries: list[str], language: str | None) -> list[TextRow]:
    tag = None if language is None else None if language == "und" else normalize_language(language)
    asked = [_parse(text) if language is None else (tag, text.strip()) for text in texts]
    asked += [_parse(query) for query in queries]
    blank = [number for number, (_, text) in enumerate(asked, start=1) if not text]
    if blank:
        raise ValueError(f"query {blank[0]} is blank; expected a text; write one, or leave it out")
    return [TextRow(f"query-{number}", clean_text(text), tag) for number, (tag, text) in enumerate(asked, start=1)]


def _search(rows: list[TextRow], embedder: LiraEmbedder, index: VectorIndex, k: int) -> Iterable[list]:
    for start in range(0, len(rows), _TOGETHER):
        some = rows[start : start + _TOGETHER]
        yield from index.search(encode_rows(embedder, some, role="query"), k)


def _json_lines(rows: list[TextRow], embedder: LiraEmbedder, index: VectorIndex, k: int) -> Iterable[bytes]:
    for row, hits in zip(rows, _search(rows, embedder, index, k), strict=True):
        record = {"id": row.id, "text": row.text, "language": row.language, "hits": [hit._asdict() for hit in hits]}
        yield json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _print_table(
    title: str,
    rows: list[TextRow],
    found: list[list[tuple[float, str]]],
    source: CandidateSource | None,
    console: Console,
) -> None:
    texts, tags = [row.text for row in rows], [row.language for row in rows]
    candidates = [[] for _ in texts] if source is None else source.get(texts, tags)[0]
    table = Table(title=title)
    for name in ("language", "query", "first candidates", "found"):
        table.add_column(name, overflow="fold")
    for row, known, hits in zip(rows, candidates, found, strict=True):
        lines = "\n".join(f"{score:.2f}  {text}" for score, text in hits)
        # As Text: brackets in what is found are no markup.
        table.add_row(row.language or "", Text(row.text), Text("\n".join(known[:2])), Text(lines))
    console.print(table)


def _parse(query: str) -> tuple[str | None, str]:
    tag, colon, text = query.partition(":")
    if not colon or not text.strip():
        raise ValueError(f"the query is {query!r}; expected LANGUAGE:TEXT, such as 'bn:ঢাকা'; write the language first")
    return normalize_language(tag), text.strip()
