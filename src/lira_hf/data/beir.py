"""Retrieval sets as BEIR folders: corpus.jsonl and queries.jsonl (with languages, if known), qrels/<split>.tsv."""

import json
import numbers
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import broken_bytes, read_lines, replace_files
from .languages import normalize_language
from .problems import DataError, DataProblem, OnError, repeated_columns, settle_problems, shorten


__all__ = ["BeirDataset", "Query", "read_beir", "write_beir"]

_SCORE = re.compile("[+-]?[0-9]{1,9}")  # trec_eval counts in 32 bits
_QRELS_COLUMNS = ("query-id", "corpus-id", "score")
_JSONL_FIX = 'write one JSON object a line, such as {"_id": "1", "text": "..."}'


@dataclass(frozen=True, slots=True)
class Query:
    """
    A query.

    Args:
        text (`str`): the query.
        language (`str`, *optional*): canonical tag of its language.
    """

    text: str
    language: str | None = None


@dataclass(slots=True)
class BeirDataset:
    """
    One split of a retrieval set.

    Args:
        corpus (`dict[str, str]`): document id to text, title first.
        queries (`dict[str, Query]`): the queries that the split judges.
        qrels (`dict[str, dict[str, int]]`): query id to document id to relevance, 0 for judged irrelevant.
        document_languages (`dict[str, str]`): document id to the canonical tag of its language, of those that name
            one.
    """

    corpus: dict[str, str] = field(default_factory=dict)
    queries: dict[str, Query] = field(default_factory=dict)
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    document_languages: dict[str, str] = field(default_factory=dict)


def read_beir(
    folder: str | os.PathLike[str],
    split: str = "test",
    default_language: str | None = None,
    on_error: OnError = "raise",
) -> BeirDataset:
    """
    Read one split of a BEIR folder, line by line.

    A query's language is its `language` field, also under `metadata`; else `default_language`. So is a document's,
    which has none without that field.

    Args:
        folder (`str` or `os.PathLike`): holds `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`.
        split (`str`, *optional*, defaults to `"test"`): name of the qrels file.
        default_language (`str`, *optional*): language of queries that name none.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`, see [`settle_problems`].

    Returns:
        [`BeirDataset`]: the good rows. Queries without a judgement in the split are left out, as everywhere in BEIR.

    Raises:
        DataError: with every problem: broken JSON, missing or repeated `_id`, empty text, unknown language, a
            judgement of a missing query or document, a score that is no integer, bytes that are no UTF-8.
        FileNotFoundError: if a file is missing; the message says which was looked for and which splits there are.
    """
    tag = None if default_language is None else normalize_language(default_language)
    splits, problems = scan_beir(folder, [split], tag)
    settle_problems(problems, on_error)
    return splits[split]


def scan_beir(
    folder: str | os.PathLike[str], splits: list[str], default_language: str | None = None
) -> tuple[dict[str, BeirDataset], list[DataProblem]]:
    """Good rows of several splits, which share one corpus, and all problems."""
    root = Path(folder)
    _require(root, splits)
    problems: list[DataProblem] = []
    languages: dict[str, str] = {}
    corpus = _read_corpus(root / "corpus.jsonl", problems, languages)
    queries: dict[str, Query] = {}
    for row, key, record in _records(root / "queries.jsonl", queries, problems):
        query = _query(str(root / "queries.jsonl"), row, record, default_language)
        if isinstance(query, DataProblem):
            problems.append(query)
        else:
            queries[key] = query
    found = {}
    for split in splits:
        qrels = _read_qrels(root / "qrels" / f"{split}.tsv", corpus, queries, problems)
        found[split] = BeirDataset(corpus, {key: queries[key] for key in queries if key in qrels}, qrels, languages)
    return found, problems


def read_corpus_file(path: Path) -> BeirDataset:
    """One corpus.jsonl, with the documents' languages, without queries; raises a [`DataError`] with every problem."""
    problems: list[DataProblem] = []
    found = BeirDataset()
    found.corpus = _read_corpus(path, problems, found.document_languages)
    settle_problems(problems, "raise")
    return found


def _read_corpus(path: Path, problems: list[DataProblem], languages: dict[str, str] | None = None) -> dict[str, str]:
    """Document id to text; what languages they name goes to `languages`, if it is given."""
    corpus: dict[str, str] = {}
    for row, key, record in _records(path, corpus, problems):
        title = record.get("title") or ""
        text = record.get("text") or ""
        if not isinstance(title, str) or not isinstance(text, str) or not f"{title}{text}".strip():
            got = f"title {shorten(record.get('title'))} and text {shorten(record.get('text'))}"
            fix = "give the document a text, or delete it with its judgements"
            problems.append(DataProblem(str(path), row, "text", got, "a text", fix))
            continue
        if languages is not None:
            tag = _language(str(path), row, record)
            if isinstance(tag, DataProblem):
                problems.append(tag)
                continue
            if tag is not None:
                languages[key] = tag
        corpus[key] = f"{title.strip()} {text.strip()}".strip()
    return corpus


def _require(root: Path, splits: list[str]) -> None:
    names = ["corpus.jsonl", "queries.jsonl", *(f"qrels/{split}.tsv" for split in splits)]
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        others = sorted(path.stem for path in root.glob("qrels/*.tsv"))
        there = f"the splits {others}" if others else "no qrels"
        raise FileNotFoundError(
            f"got the folder {str(root)!r} with {there} and without {', '.join(missing)}; expected a BEIR folder with "
            "corpus.jsonl, queries.jsonl and qrels/<split>.tsv; mend the path or the split's name."
        )


def _records(
    path: Path, seen: Mapping[str, Any], problems: list[DataProblem]
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Row, id and object of each good line."""
    name = str(path)
    first_rows: dict[str, int] = {}
    for row, line in read_lines(path):
        if not line.strip():
            continue
        if broken_bytes(line):
            problems.append(
                DataProblem(name, row, None, f"bytes that are no UTF-8 in {shorten(line)}", "UTF-8", "save it so")
            )
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(DataProblem(name, row, None, f"{shorten(line)} ({error})", "valid JSON", _JSONL_FIX))
            continue
        if not isinstance(record, dict):
            problems.append(DataProblem(name, row, None, shorten(record), "a JSON object", _JSONL_FIX))
            continue
        key = _identifier(record.get("_id"))
        if key is None:
            got = shorten(record["_id"]) if "_id" in record else f"the fields {shorten(list(record))}"
            problems.append(DataProblem(name, row, "_id", got, "an id (a text or an integer)", "give the row an id"))
        elif key in first_rows:
            got = f"{key!r}, which row {first_rows[key]} has"
            problems.append(DataProblem(name, row, "_id", got, "each id once", "delete or rename one of the two"))
        else:
            first_rows[key] = row
            yield row, key, record


def _identifier(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def _query(name: str, row: int, record: dict[str, Any], default_language: str | None) -> Query | DataProblem:
    text = record.get("text")
    if not isinstance(text, str) or not text.strip():
        fix = "give the query a text, or delete it with its judgements"
        return DataProblem(name, row, "text", shorten(text), "a text", fix)
    tag = _language(name, row, record)
    return tag if isinstance(tag, DataProblem) else Query(text.strip(), tag or default_language)


def _language(name: str, row: int, record: dict[str, Any]) -> str | None | DataProblem:
    """Canonical tag of the language that a query or document names; `None` where it names none."""
    metadata = record.get("metadata")
    given = record.get("language") or (metadata.get("language") if isinstance(metadata, dict) else None)
    if given is None:
        return None
    try:
        return normalize_language(given)
    except (ValueError, TypeError) as error:
        fix = "write a tag such as 'ur' (see the message), or leave the field out"
        return DataProblem(name, row, "language", shorten(given), f"a language tag: {error}", fix)


def _read_qrels(
    path: Path, corpus: Mapping[str, str], queries: Mapping[str, Query], problems: list[DataProblem]
) -> dict[str, dict[str, int]]:
    name = str(path)
    lines = read_lines(path)
    header = [cell.strip() for cell in next(lines, (1, ""))[1].split("\t")]
    missing = [column for column in _QRELS_COLUMNS if column not in header]
    if missing:
        fix = "write the first line `query-id<tab>corpus-id<tab>score`"
        got = f"the columns {shorten(header)}"
        problems += [DataProblem(name, 1, column, got, f"a column named {column!r}", fix) for column in missing]
        return {}
    if repeated := repeated_columns(name, header, _QRELS_COLUMNS):
        problems += repeated
        return {}
    qrels: dict[str, dict[str, int]] = {}
    for row, line in lines:
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        found = _judgement(name, row, header, cells, corpus, queries)
        if isinstance(found, DataProblem):
            problems.append(found)
            continue
        query, document, score = found
        before = qrels.setdefault(query, {}).setdefault(document, score)
        if before != score:
            got = f"{score} for query {query!r} and document {document!r}, judged {before} above"
            problems.append(DataProblem(name, row, "score", got, "one score for each pair", "delete one of the two"))
    return qrels


def _judgement(
    name: str, row: int, header: list[str], cells: list[str], corpus: Mapping[str, str], queries: Mapping[str, Query]
) -> tuple[str, str, int] | DataProblem:
    if len(cells) != len(header):
        got, expected = f"{len(cells)} cells", f"{len(header)} cells, as in the first line"
        return DataProblem(name, row, None, got, expected, "separate the cells by one tab each")
    query, document, score = (cells[header.index(column)] for column in _QRELS_COLUMNS)
    fix = "add it there (or mend its row there), or delete this judgement"
    if query not in queries:
        return DataProblem(name, row, "query-id", shorten(query), "the `_id` of a good row of queries.jsonl", fix)
    if document not in corpus:
        return DataProblem(name, row, "corpus-id", shorten(document), "the `_id` of a good row of corpus.jsonl", fix)
    if not _SCORE.fullmatch(score):  # int() would read "1_0" as 10
        return DataProblem(name, row, "score", shorten(score), "an integer such as 0 or 1", "round the score")
    return query, document, int(score)


def write_beir(
    folder: str | os.PathLike[str],
    corpus: Mapping[str, str],
    queries: Mapping[str, Query | str],
    qrels_by_split: Mapping[str, Mapping[str, Mapping[str, int]]],
    document_languages: Mapping[str, str] | None = None,
) -> None:
    """
    Write a BEIR folder that [`read_beir`] gives back, but for white space around texts. Every file is complete
    before the first takes its place.

    Args:
        folder (`str` or `os.PathLike`): made if need be; files of the same names are replaced, others left.
        corpus (`Mapping[str, str]`): document id to text.
        queries (`Mapping[str, Query | str]`): query id to query.
        qrels_by_split (`Mapping[str, Mapping[str, Mapping[str, int]]]`): split to query id to document id to
            relevance.
        document_languages (`Mapping[str, str]`, *optional*): document id to the tag of its language.

    Raises:
        DataError: for an empty text, an id that is empty or holds white space at its ends, tabs or line breaks, an
            unknown language, a relevance that is no integer of up to nine digits, or a judgement or language of a
            missing query or document; nothing is written then.
    """
    root = Path(folder)
    asked = {key: query if isinstance(query, Query) else Query(query) for key, query in queries.items()}
    spoken = dict(document_languages or {})
    problems = [*_unwritable(root, corpus, asked, qrels_by_split), *_unwritable_languages(root, corpus, spoken)]
    if problems:
        raise DataError(problems)
    (root / "qrels").mkdir(parents=True, exist_ok=True)

    def record(language: str | None, **fields: str) -> bytes:
        return _json_line(fields if language is None else {**fields, "language": normalize_language(language)})

    contents: list[tuple[Path, Iterator[bytes]]] = [
        (root / "corpus.jsonl", (record(spoken.get(key), _id=key, title="", text=corpus[key]) for key in corpus)),
        (root / "queries.jsonl", (record(query.language, _id=key, text=query.text) for key, query in asked.items())),
    ]
    contents += [(root / "qrels" / f"{split}.tsv", _qrels_lines(qrels)) for split, qrels in qrels_by_split.items()]
    replace_files(contents)


def _json_line(record: dict[str, str]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate has an escape in JSON and no bytes in UTF-8
        return json.dumps(record).encode() + b"\n"


def _qrels_lines(qrels: Mapping[str, Mapping[str, int]]) -> Iterator[bytes]:
    yield ("\t".join(_QRELS_COLUMNS) + "\n").encode()
    for query, judged in qrels.items():
        for document, score in judged.items():
            yield f"{query}\t{document}\t{int(score)}\n".encode()


def _unwritable(
    root: Path,
    corpus: Mapping[str, str],
    queries: Mapping[str, Query],
    qrels_by_split: Mapping[str, Mapping[str, Mapping[str, int]]],
) -> Iterator[DataProblem]:
    texts = {"corpus.jsonl": corpus, "queries.jsonl": {key: query.text for key, query in queries.items()}}
    for name, rows in texts.items():
        for row, (key, text) in enumerate(rows.items(), start=1):
            if not isinstance(key, str) or not key.isprintable() or not key.strip() or key != key.strip():
                expected = "a text without white space at its ends, tabs or line breaks"
                yield DataProblem(str(root / name), row, "_id", shorten(key), expected, "rename it")
            if not isinstance(text, str) or not text.strip():
                yield DataProblem(str(root / name), row, "text", shorten(text), "a text", "leave the row out")
    for row, query in enumerate(queries.values(), start=1):
        try:
            normalize_language(query.language or "en")
        except (ValueError, TypeError) as error:
            got, expected = shorten(query.language), f"a language tag: {error}"
            yield DataProblem(str(root / "queries.jsonl"), row, "language", got, expected, "write a tag such as 'ur'")
    for split, qrels in qrels_by_split.items():
        file = str(root / "qrels" / f"{split}.tsv")
        pairs = ((query, document, score) for query, judged in qrels.items() for document, score in judged.items())
        for row, (query_id, document_id, score) in enumerate(pairs, start=2):
            if not isinstance(score, numbers.Real) or not abs(score) < 10**9 or int(score) != score:  # also for NaN
                expected = "an integer of up to nine digits"
                yield DataProblem(file, row, "score", shorten(score), expected, "round the score")
            for column, key, known in (("query-id", query_id, queries), ("corpus-id", document_id, corpus)):
                if key not in known:
                    yield DataProblem(file, row, column, shorten(key), "an id that is written too", "add or drop it")


def _unwritable_languages(
    root: Path, corpus: Mapping[str, str], languages: Mapping[str, str]
) -> Iterator[DataProblem]:
    rows = {key: row for row, key in enumerate(corpus, start=1)}
    for key, language in languages.items():
        if key not in rows:
            expected = "the id of a document that is written too"
            yield DataProblem(str(root / "corpus.jsonl"), None, "language", shorten(key), expected, "add or drop it")
            continue
        try:
            normalize_language(language)
        except (ValueError, TypeError) as error:
            got, expected = shorten(language), f"a language tag: {error}"
            file = str(root / "corpus.jsonl")
            yield DataProblem(file, rows[key], "language", got, expected, "write a tag such as 'ur'")
