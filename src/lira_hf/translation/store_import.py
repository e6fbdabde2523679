"""Rows of an export or another store into a candidate store: checked first, then written by the chunk (ours)."""

import json
import os
import sqlite3
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from .base import batches
from .store import CandidateStore
from .store_exchange import file_sha256, store_rows, sum_path
from .store_rows import RowProblem, checked_row
from .store_schema import StoreError, id_batches, text_key, transaction
from .store_sums import candidate_sum, score_sum, seal_answers, told
from .store_writing import identity_id, text_ids


__all__ = ["ImportReport", "check_import", "import_store", "merge_store"]

# Rows in one transaction.
_CHUNK_ROWS = 5000
_SUFFIXES = (".parquet", ".jsonl")
_POLICIES = ("keep", "newer")


@dataclass(slots=True)
class ImportReport:
    """
    What an import did.

    Args:
        rows (`int`): Rows read and found right.
        candidates (`int`): Candidates that are new in the store.
        scores (`int`): Scores that are new in the store, or newer.
        skipped (`int`): Rows left out because something is wrong with them.
        problems (`list[RowProblem]`): The first of these.
    """

    rows: int = 0
    candidates: int = 0
    scores: int = 0
    skipped: int = 0
    problems: list[RowProblem] = field(default_factory=list)


@told
def import_store(
    store: CandidateStore,
    source: Any,
    *,
    languages: Collection[str] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    on_conflict: Literal["keep", "newer"] = "keep",
    max_problems: int = 50,
) -> ImportReport:
    """
    Bring rows that [`export_store`] describes into a store.

    All rows are looked at before the first is written, and written in transactions of 5,000; a killed import is
    finished by the same call. Nothing is stored twice: what the store has of an answer, a text's by one translator, is
    told by `created`.

    Args:
        store ([`CandidateStore`]): Where they go.
        source (`str`, `os.PathLike`, `datasets.Dataset`, `IterableDataset` or `DatasetDict`): A `.parquet` or `.jsonl`
            file; a folder of such files or one that `save_to_disk` wrote; a data set in memory, read twice.
        languages (`Collection[str]`, *optional*): Rows of other languages are passed over; without it all are taken.
        on_error (`str`, *optional*, defaults to `"raise"`): `"skip"` imports what is right and reports the rest.
        on_conflict (`str`, *optional*, defaults to `"keep"`): Which answer, or score, stays if there are two of
            different times: the store's, or the `"newer"`; one of unknown time counts as the oldest.
        max_problems (`int`, *optional*, defaults to 50): The most problems to report.

    Returns:
        [`ImportReport`]: Counts, and the problems of what was skipped.

    Raises:
        `StoreError`: rows with problems, all listed; nothing was imported. Or a source that can't be read.
        `ValueError`: an unknown `on_error` or `on_conflict`.
    """
    for name, value, known in (("on_error", on_error, ("raise", "skip")), ("on_conflict", on_conflict, _POLICIES)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {list(known)}; choose one")
    if max_problems < 1:
        raise ValueError(f"max_problems is {max_problems}; expected at least 1; leave it out for 50")
    store._check_writable()
    for message in _changed_files(source):
        raise StoreError(message)
    wanted = None if languages is None else frozenset(languages)
    if on_error == "raise":
        report = ImportReport()
        for _ in _right_rows(source, wanted, report, max_problems):
            if len(report.problems) == max_problems:
                break
        _refuse(report, max_problems)
    report = ImportReport()
    for chunk in batches(_right_rows(source, wanted, report, max_problems), _CHUNK_ROWS):
        rows = [row for row in chunk if row is not None]
        if on_error == "raise":
            _refuse(report, max_problems)  # a file that changed after it had been looked at
        _write(store, rows, on_conflict == "newer", report)
    return report


def check_import(source: Any) -> tuple[dict[str, int], list[RowProblem]]:
    """
    What an import of a source would find, without a store.

    Args:
        source (`str`, `os.PathLike` or a data set): As for [`import_store`].

    Returns:
        `tuple[dict[str, int], list[RowProblem]]`: The right rows of each language, and every problem.
    """
    counts: dict[str, int] = {}
    report = ImportReport()
    try:
        report.problems += [RowProblem("", 0, message) for message in _changed_files(source)]
        for row in _right_rows(source, None, report, sys.maxsize):
            if row is not None:
                counts[row["language"]] = counts.get(row["language"], 0) + 1
    except StoreError as error:  # a file that can't be read
        report.problems.append(RowProblem("", 0, str(error)))
    return counts, report.problems


@told
def merge_store(
    store: CandidateStore,
    other: CandidateStore,
    *,
    languages: Collection[str] | None = None,
    on_conflict: Literal["keep", "newer"] = "keep",
) -> ImportReport:
    """
    Bring what another store holds into a store, each text, answer and score once.

    Args:
        store ([`CandidateStore`]): Where it goes.
        other ([`CandidateStore`]): Where it comes from; read only, an older schema version is fine.
        languages (`Collection[str]`, *optional*): Language tags, without it all.
        on_conflict (`str`, *optional*, defaults to `"keep"`): As for [`import_store`].

    Returns:
        [`ImportReport`]: Counts.

    Raises:
        `StoreError`: the same store twice, or a language that the other hasn't.
        `ValueError`: an unknown `on_conflict`.
    """
    if on_conflict not in _POLICIES:
        raise ValueError(f"on_conflict is {on_conflict!r}; expected one of {list(_POLICIES)}; choose one")
    store._check_writable()
    if other.path.exists() and store.path.samefile(other.path):
        raise StoreError(f"{other.path} is the store itself; expected another one; check the paths")
    report = ImportReport()
    for rows in store_rows(other, languages):
        report.rows += len(rows)
        _write(store, rows, on_conflict == "newer", report)
    return report


def _refuse(report: ImportReport, limit: int) -> None:
    if report.problems:
        found = "\n".join(f"  {problem}" for problem in report.problems)
        more = "; more may follow" if len(report.problems) == limit else ""
        raise StoreError(
            f"{len(report.problems)} rows can't be imported{more}; expected rows as an export has them; mend them, or "
            f"skip them with on_error='skip'. Nothing was written for these:\n{found}"
        )


def _right_rows(
    source: Any, languages: frozenset[str] | None, report: ImportReport, limit: int
) -> Iterator[dict[str, Any] | None]:
    # Yields None for a wrong row, so that who only looks can stop when there are enough.
    answer: tuple[str, ...] | None = None
    ranks: dict[int, str] = {}
    for file, number, row in _source_rows(source):
        try:
            if isinstance(row, Exception):
                raise ValueError(str(row))
            row = checked_row(row)
            this = (row["language"], row["text"], row["translator"], row["fingerprint"])
            if this != answer:
                answer, ranks = this, {}
            if row["rank"] is not None and ranks.setdefault(row["rank"], row["candidate"]) != row["candidate"]:
                raise ValueError(
                    f"rank {row['rank']} is given twice, to {ranks[row['rank']]!r:.60} and {row['candidate']!r:.60}; "
                    "expected one candidate a rank; number them anew"
                )
        except ValueError as error:
            report.skipped += 1
            if len(report.problems) < limit:
                report.problems.append(RowProblem(file, number, str(error)))
            yield None
            continue
        if languages is None or row["language"] in languages:
            report.rows += 1
            yield row


def _source_rows(source: Any) -> Iterator[tuple[str, int, Any]]:
    """Name of the file, number from 1, and the row, or the error that took its place."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            yield from _folder_rows(path)
        elif path.suffix in _SUFFIXES:
            yield from (_parquet_rows if path.suffix == ".parquet" else _jsonl_rows)(path)
        else:
            raise StoreError(
                f"{path} is neither a folder nor a {' or '.join(_SUFFIXES)} file; expected one; rename it"
            )
    elif isinstance(source, Mapping):  # a DatasetDict
        for name, part in source.items():
            yield from _dataset_rows(part, str(name))
    else:
        yield from _dataset_rows(source, "data set")


def _changed_files(source: Any) -> Iterator[str]:
    """What is to be said of exported files that aren't those that their SHA-256 was taken of, where there is one."""
    place = Path(source) if isinstance(source, str | os.PathLike) else None
    for path in [] if place is None else _exports(place) if place.is_dir() else [place]:
        listed = sum_path(path)
        try:
            if not listed.is_file() or listed.read_text(encoding="utf-8").split()[:1] == [file_sha256(path)]:
                continue
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} can't be read ({error}); expected an export; check the path") from error
        yield (
            f"{path} isn't the file that {listed.name} was written for, but damaged or changed; expected that of "
            f"this SHA-256; export again or restore a copy, or delete {listed.name} if you changed it on purpose"
        )


def _exports(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())


def _folder_rows(folder: Path) -> Iterator[tuple[str, int, Any]]:
    if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
        from datasets import load_from_disk

        data = load_from_disk(str(folder))
        parts = data.items() if isinstance(data, Mapping) else [(None, data)]
        for name, part in parts:
            yield from _dataset_rows(part, str(folder if name is None else folder / name))
        return
    files = _exports(folder)
    if not files:
        raise StoreError(
            f"{folder} holds no {' or '.join(_SUFFIXES)} file and no data set; expected an export; check the path"
        )
    for file in files:
        yield from _source_rows(file)


def _parquet_rows(path: Path) -> Iterator[tuple[str, int, Any]]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows = (row for batch in file.iter_batches(batch_size=_CHUNK_ROWS) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield str(path), number, row
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:  # ValueError: text that isn't UTF-8
        raise StoreError(f"{path} can't be read ({error}); expected a Parquet file; export it again") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[str, int, Any]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                try:
                    yield str(path), number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    problem = ValueError(f"it isn't JSON ({error}); expected one object a line; write it anew")
                    yield str(path), number, problem
    except OSError as error:
        raise StoreError(f"{path} can't be read ({error}); expected a file of JSON lines; check the path") from error


def _dataset_rows(data: Any, name: str) -> Iterator[tuple[str, int, Any]]:
    if not isinstance(data, Iterable) or isinstance(data, Iterator):
        raise StoreError(
            f"the source is a {type(data).__name__}; expected a path or a data set, which can be read twice; "
            "export to a file first"
        )
    if hasattr(data, "with_format") and hasattr(data, "__len__"):
        tables = data.with_format("arrow").iter(batch_size=_CHUNK_ROWS)
        rows: Iterable[Any] = (row for table in tables for row in table.to_pylist())
    else:
        rows = data
    for number, row in enumerate(rows, 1):
        yield name, number, row


# Writing


def _write(store: CandidateStore, rows: list[dict[str, Any]], newer: bool, report: ImportReport) -> None:
    with transaction(store._connection) as db:
        translators = _identities(db, "translators", ((r["translator"], r["fingerprint"], r["meta"]) for r in rows))
        given = [score for row in rows for score in row["scores"]]
        critics = _identities(db, "critics", ((s["critic"], s["fingerprint"], s["meta"]) for s in given))
        texts: dict[str, dict[str, Any]] = {}
        for row in rows:
            texts.setdefault(row["language"], {})[row["text"]] = None
        ids = {language: text_ids(db, language, list(some)) for language, some in texts.items()}
        placed = [
            (ids[row["language"]][row["text"]], translators[row["translator"], row["fingerprint"]], row)
            for row in rows
        ]
        candidates = _write_candidates(db, placed, newer)
        scores = _write_scores(db, placed, critics, newer)
    report.candidates += candidates
    report.scores += scores


def _identities(
    db: sqlite3.Connection, table: str, who: Iterable[tuple[str, str, str | None]]
) -> dict[tuple[str, str], int]:
    return {(name, mark): identity_id(db, table, name, mark, meta) for name, mark, meta in dict.fromkeys(who)}


def _write_candidates(db: sqlite3.Connection, placed: list[tuple[int, int, dict[str, Any]]], newer: bool) -> int:
    source = {text: (row["language"], text_key(row["text"])) for text, _, row in placed}
    there: dict[tuple[int, int], int | None] = {}
    for batch, marks in id_batches(dict.fromkeys(text for text, _, _ in placed)):
        query = f"SELECT text_id, translator_id, created FROM asked WHERE text_id IN ({marks})"
        there.update(((text, who), created) for text, who, created in db.execute(query, batch))
    replaced: dict[tuple[int, int], None] = {}
    added: dict[tuple[int, int], None] = {}
    for text, who, row in placed:
        answer, created = (text, who), row["created"]
        if answer not in there:
            added[answer] = None
        elif newer and _time(created) > _time(there[answer]):
            replaced[answer] = None
        else:
            continue
        there[answer] = created
    db.executemany("DELETE FROM candidates WHERE text_id = ? AND translator_id = ?", list(replaced))
    db.executemany(
        "INSERT INTO asked VALUES (?, ?, ?, NULL) ON CONFLICT DO UPDATE SET created = excluded.created",
        [(*answer, there[answer]) for answer in (*added, *replaced)],
    )
    # Of the same time is the same answer: what this import, or one that was killed, has begun goes on.
    rows = []
    for text, who, row in placed:
        if row["candidate"] is not None and there[text, who] == row["created"]:
            key = text_key(row["candidate"])
            own = (row["kind"], row["maker"], row["score"])
            checksum = candidate_sum(*source[text], who, row["rank"], key, *own)
            rows.append((text, who, row["rank"], key, row["candidate"], *own, checksum))
    query = "INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    count = db.executemany(query, rows).rowcount
    seal_answers(db, dict.fromkeys([*added, *replaced, *((row[0], row[1]) for row in rows)]), source)
    return count


def _write_scores(
    db: sqlite3.Connection,
    placed: list[tuple[int, int, dict[str, Any]]],
    critics: dict[tuple[str, str], int],
    newer: bool,
) -> int:
    update = (
        "DO UPDATE SET semantic = excluded.semantic, emotional = excluded.emotional, pragmatic = excluded.pragmatic, "
        "created = excluded.created, checksum = excluded.checksum "
        "WHERE coalesce(excluded.created, -1) > coalesce(scores.created, -1)"
    )
    # No score without a candidate in the store, whoever gave it: an answer that wasn't taken leaves none behind.
    given = []
    for text, _, row in placed:
        for score in row["scores"]:
            key, who = text_key(row["candidate"]), critics[score["critic"], score["fingerprint"]]
            values = (score["semantic"], score["emotional"], score["pragmatic"])
            checksum = score_sum(row["language"], text_key(row["text"]), key, who, *values)
            given.append((text, key, who, *values, score["created"], checksum))
    return db.executemany(
        "INSERT INTO scores SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE EXISTS "
        "(SELECT 1 FROM candidates WHERE text_id = ?1 AND key = ?2) "
        f"ON CONFLICT {update if newer else 'DO NOTHING'}",
        given,
    ).rowcount


def _time(created: int | None) -> int:
    return -1 if created is None else created
