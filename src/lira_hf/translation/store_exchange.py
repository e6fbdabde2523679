"""Candidate stores to and from Parquet, JSON lines, Hugging Face data sets and other stores, in a stream (ours)."""

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from .base import check_texts
from .store import CandidateStore
from .store_rows import ROW_SCHEMA
from .store_schema import StoreError, id_batches, schema_version
from .store_sums import answer_sum, candidate_sum, check_sum, check_text, score_sum, told, unusable


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["export_store", "store_dataset", "store_rows"]

Format = Literal["parquet", "jsonl", "dataset"]
# Rows in memory at a time.
_BATCH_ROWS = 10_000
_OTHER_FILES = (".csv", ".json", ".tsv", ".txt", ".xlsx")


@told
def export_store(
    store: CandidateStore,
    path: str | os.PathLike,
    *,
    languages: Collection[str] | None = None,
    format: Format | None = None,
) -> int:
    """
    Write what a store holds where others can read it. A file that is there is replaced, once the new one is whole.

    Each row is one candidate: `language`, `text`, `translator` (who was asked), `fingerprint`, `meta` (JSON),
    `created` (seconds since 1970), `rank`, `candidate`, `kind`, `maker` (in a union the member), `score`, and
    `scores`: a list with one `{critic, fingerprint, meta, semantic, emotional, pragmatic, created}` a critic. A text
    to which a translator had no answer has one row, without a candidate. What isn't known is null. Rows come
    translator by translator, so that an import brings them in their order. Scores of candidates that a later answer
    has replaced stay behind.

    Beside a file comes its SHA-256, in a file of the same name with `.sha256` behind it, as `sha256sum -c` reads it;
    an import looks at it. Delete it where you change an export by hand.

    Args:
        store ([`CandidateStore`]): The store; what is written to it meanwhile is not in the export.
        path (`str` or `os.PathLike`): A `.parquet` or `.jsonl` file, or else a folder for `datasets.load_from_disk`,
            which must not be there.
        languages (`Collection[str]`, *optional*): Language tags, without it all.
        format (`str`, *optional*): `"parquet"`, `"jsonl"` or `"dataset"`; without it the path's ending says.

    Returns:
        `int`: The number of rows.

    Raises:
        `StoreError`: a folder that is there, a language of which the store has no text, or a damaged row.
        `ValueError`: an unknown format, or the ending of one.
    """
    target = Path(path)
    if format is None and target.suffix.lower() in _OTHER_FILES:  # no folder of a data set is meant
        raise ValueError(
            f"got {target}, which ends in {target.suffix}; expected .parquet, .jsonl or a folder for a data set; name "
            "one, or say the format"
        )
    form = format or {".parquet": "parquet", ".jsonl": "jsonl"}.get(target.suffix, "dataset")
    if form not in ("parquet", "jsonl", "dataset"):
        raise ValueError(f"format is {format!r}; expected 'parquet', 'jsonl' or 'dataset'; leave it out")
    if target.is_dir():
        raise StoreError(f"{target} is a folder that is there; expected a new path; give another or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _new_place(target) as part:
        if form == "dataset":
            dataset = store_dataset(store, part / "rows.arrow", languages=languages)
            dataset.save_to_disk(part / "dataset")
            count = len(dataset)
            os.rename(part / "dataset", target)
        else:
            write = _write_parquet if form == "parquet" else _write_jsonl
            count = write(store_rows(store, languages), part / "rows")
            (part / "sum").write_text(f"{file_sha256(part / 'rows')}  {target.name}\n", encoding="utf-8")
            # A kill in between leaves a file without its sum, never one with another's.
            sum_path(target).unlink(missing_ok=True)
            os.replace(part / "rows", target)
            os.replace(part / "sum", sum_path(target))
    return count


def sum_path(path: Path) -> Path:
    """Where the SHA-256 of an exported file lies."""
    return path.with_name(f"{path.name}.sha256")


def file_sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def store_dataset(
    store: CandidateStore, path: str | os.PathLike, *, languages: Collection[str] | None = None
) -> "Dataset":
    """
    A store as a Hugging Face `Dataset`, to filter, map or push to the Hub; it is read from disk as it is used.

    Args:
        store ([`CandidateStore`]): The store.
        path (`str` or `os.PathLike`): The Arrow file that is written; it has to stay while the data set is used.
        languages (`Collection[str]`, *optional*): Language tags, without it all.

    Returns:
        `datasets.Dataset`: With the rows and columns that [`export_store`] describes.
    """
    from datasets import Dataset

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _new_place(target) as part:
        with pa.ipc.new_stream(part / "rows", ROW_SCHEMA) as writer:
            for batch in store_rows(store, languages):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, ROW_SCHEMA))
        os.replace(part / "rows", target)
    return Dataset.from_file(str(target))


def store_rows(store: CandidateStore, languages: Collection[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """
    The rows of a store, as it is when the first is read.

    Args:
        store ([`CandidateStore`]): The store.
        languages (`Collection[str]`, *optional*): Language tags, without it all.

    Returns:
        `Iterator[list[dict[str, Any]]]`: Up to 10,000 rows at a time, with the fields that [`export_store`] describes.

    Raises:
        `StoreError`: a language of which the store has no text, or a row that isn't as it was written.
    """
    try:
        yield from _store_rows(store, languages)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise unusable(store.path, error) from error


def _store_rows(store: CandidateStore, languages: Collection[str] | None) -> Iterator[list[dict[str, Any]]]:
    # A connection of its own: its snapshot doesn't get into the way of the caller's writing.
    with CandidateStore(store.path, read_only=True) as snapshot:
        db = snapshot._connection
        db.execute("BEGIN")
        if languages is not None:
            check_texts(languages, "languages")  # type: ignore[arg-type]
            if unknown := sorted(set(languages) - set(snapshot.languages())):
                raise StoreError(
                    f"{store.path} has no texts in {unknown}; expected some of {snapshot.languages()}; "
                    "check the languages' tags"
                )
        version = schema_version(db)
        dated = version > 1
        identity = f"SELECT id, name, fingerprint, {'meta' if dated else 'NULL'} FROM"
        critics = {row[0]: row[1:] for row in db.execute(f"{identity} critics")}
        wanted = sorted(set(languages)) if languages is not None else []
        # CROSS JOIN keeps SQLite to this order, in which nothing has to be sorted.
        query = (
            f"SELECT t.id, t.language, t.text, {'a.created' if dated else 'NULL'}, c.rank, c.key, c.text, c.kind, "
            f"c.translator, c.score, t.key, {'a.checksum, c.checksum' if version > 2 else 'NULL, NULL'} "
            "FROM asked a CROSS JOIN texts t ON t.id = a.text_id "
            "LEFT JOIN candidates c ON c.text_id = a.text_id AND c.translator_id = a.translator_id "
            "WHERE a.translator_id = ?"
            + (f" AND t.language IN ({','.join('?' * len(wanted))})" if languages is not None else "")
            + " ORDER BY a.text_id, c.rank"
        )
        for translator, *who in db.execute(f"{identity} translators ORDER BY id").fetchall():
            cursor = db.execute(query, (translator, *wanted))
            check = _AnswerCheck(store.path, translator)
            while records := cursor.fetchmany(_BATCH_ROWS):
                for record in records:
                    check(record)
                texts = {record[0]: (record[1], record[10]) for record in records}
                scores = _scores(snapshot, texts, critics, version)
                yield [_row(record, who, scores) for record in records]
            check.end()


class _AnswerCheck:
    """Whether rows of one translator, as they come, are as they were written, and each answer has all of its own."""

    def __init__(self, path: Path, translator: int):
        self.path, self.translator = path, translator
        self._answer: tuple[Any, ...] = ()
        self._sums: list[int | None] = []

    def __call__(self, record: tuple[Any, ...]) -> None:
        number, language, text, _, rank, key, candidate, kind, maker, score, source, asked, checksum = record
        if self._answer[:1] != (number,):
            self.end()
            self._answer, self._sums = (number, language, text, source, asked), []
            check_text(self.path, text, source, lambda: f"the text in '{language}'")
        if candidate is not None:
            self._sums.append(checksum)
            check_text(self.path, candidate, key, lambda: f"the candidate in '{language}'")
            expected = candidate_sum(language, source, self.translator, rank, key, kind, maker, score)
            check_sum(self.path, checksum, expected, lambda: f"the candidate {candidate!r:.60} in '{language}'")

    def end(self) -> None:
        """The last answer is over."""
        if self._answer:
            _, language, text, source, asked = self._answer
            expected = answer_sum(language, source, self.translator, self._sums)
            check_sum(self.path, asked, expected, lambda: f"the answer to {text!r:.60} in '{language}'")


def _scores(
    snapshot: CandidateStore, texts: dict[int, tuple[str, bytes]], critics: dict[int, tuple[Any, ...]], version: int
) -> dict[tuple[int, bytes], list[dict[str, Any]]]:
    found: dict[tuple[int, bytes], list[dict[str, Any]]] = {}
    later = f"{'created' if version > 1 else 'NULL'}, {'checksum' if version > 2 else 'NULL'}"
    for batch, marks in id_batches(sorted(texts) if critics else ()):
        query = (
            f"SELECT text_id, candidate_key, critic_id, semantic, emotional, pragmatic, {later} "
            f"FROM scores WHERE text_id IN ({marks}) ORDER BY critic_id"
        )
        for text, key, critic, *values, checksum in snapshot._connection.execute(query, batch):
            what = partial("the scores {} in '{}'".format, values[:3], texts[text][0])
            check_sum(snapshot.path, checksum, score_sum(*texts[text], key, critic, *values[:3]), what)
            row = dict(zip(("semantic", "emotional", "pragmatic", "created"), values, strict=True))
            row |= dict(zip(("critic", "fingerprint", "meta"), critics[critic], strict=True))
            found.setdefault((text, key), []).append(row)
    return found


def _row(record: tuple[Any, ...], who: list[Any], scores: dict[tuple[int, bytes], list[dict[str, Any]]]) -> dict:
    text_id, language, text, created, rank, key, candidate, kind, maker, score = record[:10]
    name, fingerprint, meta = who
    return {
        "language": language,
        "text": text,
        "translator": name,
        "fingerprint": fingerprint,
        "meta": meta,
        "created": created,
        "rank": rank,
        "candidate": candidate,
        "kind": kind,
        "maker": maker,
        "score": score,
        "scores": scores.get((text_id, key), []),
    }


def _write_parquet(batches: Iterator[list[dict[str, Any]]], path: Path) -> int:
    count = 0
    with pq.ParquetWriter(path, ROW_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        for batch in batches:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, ROW_SCHEMA))
            count += len(batch)
    return count


def _write_jsonl(batches: Iterator[list[dict[str, Any]]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in batches:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch)
            count += len(batch)
    return count


@contextmanager
def _new_place(target: Path) -> Iterator[Path]:
    # Beside the target, so that the finished thing can be moved there in one step.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        yield Path(folder)
