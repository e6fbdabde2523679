"""Whether a candidate store is whole: its file, its rows, and what refers to what (ours)."""

import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .store import CandidateStore
from .store_rows import RowProblem
from .store_schema import SCHEMA_VERSION, StoreError, schema_version, text_key
from .store_sums import answer_sum, candidate_sum, score_sum


__all__ = ["StoreCheck", "check_store"]

# Problems of one kind that are told one by one; of more the number.
_SHOWN = 20
_SOUND_FIX = "restore a copy; or export what can be read, and import it into a new store"


@dataclass(slots=True)
class StoreCheck:
    """
    What a look through a candidate store found.

    Args:
        languages (`dict[str, int]`): The number of texts of each language.
        problems (`list[RowProblem]`): What is wrong; `row` is the number of the text, 0 for the file.
        notes (`list[str]`): What is worth knowing and no fault, such as texts without candidates.
    """

    languages: dict[str, int] = field(default_factory=dict)
    problems: list[RowProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_store(path: str | os.PathLike) -> StoreCheck:
    """
    Look through a whole candidate store; nothing is written.

    Args:
        path (`str` or `os.PathLike`): The store.

    Returns:
        [`StoreCheck`]: Counts, problems and notes. A file that is no store, or one of a newer schema version, is a
        problem.
    """
    check = StoreCheck()
    name = str(Path(path))
    try:
        with CandidateStore(path, read_only=True) as store:
            db = store._db
            damage = [row[0] for row in db.execute(f"PRAGMA integrity_check({_SHOWN})") if row[0] != "ok"]
            for found in damage:
                check.problems.append(RowProblem(name, 0, f"{found}; expected a sound SQLite file; {_SOUND_FIX}"))
            for look in (_references, _keys, _sums, _scores, _meta):
                check.problems.extend(RowProblem(name, row, message) for row, message in _limited(look, db))
            check.languages = dict(
                db.execute("SELECT language, count(*) FROM texts GROUP BY language ORDER BY language")
            )
            check.notes = list(_notes(db))
    except StoreError as error:
        check.problems.append(RowProblem(name, 0, str(error).removeprefix(f"{name} ")))
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        message = f"rows that can't be read ({error}); expected a sound SQLite file; {_SOUND_FIX}"
        check.problems.append(RowProblem(name, 0, message))
    return check


def _limited(
    look: Callable[[sqlite3.Connection], Iterator[tuple[int, str]]], db: sqlite3.Connection
) -> Iterator[tuple[int, str]]:
    more = 0
    for number, found in enumerate(look(db)):
        if number < _SHOWN:
            yield found
        else:
            more += 1
    if more:
        yield 0, f"{more:,} more such rows; expected none; mend those above first"


def _references(db: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Rows that refer to what isn't there."""
    parts = (
        ("asked", "text_id", "texts"),
        ("asked", "translator_id", "translators"),
        ("candidates", "text_id", "texts"),
        ("candidates", "translator_id", "translators"),
        ("scores", "text_id", "texts"),
        ("scores", "critic_id", "critics"),
    )
    for table, column, parent in parts:
        query = (
            f"SELECT text_id, {column}, count(*) FROM {table} c WHERE NOT EXISTS "
            f"(SELECT 1 FROM {parent} p WHERE p.id = c.{column}) GROUP BY text_id, {column}"
        )
        for text, missing, count in db.execute(query):
            yield (
                text,
                f"{count} rows of {table} name number {missing}, which {parent} lacks; expected one; {_SOUND_FIX}",
            )
    query = (
        "SELECT text_id, count(*) FROM candidates c WHERE NOT EXISTS (SELECT 1 FROM asked a WHERE "
        "a.text_id = c.text_id AND a.translator_id = c.translator_id) GROUP BY text_id"
    )
    for text, count in db.execute(query):
        yield (
            text,
            f"{count} candidates of a translator that wasn't asked; expected an answer of its own; {_SOUND_FIX}",
        )


def _keys(db: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Texts that a look-up wouldn't find."""
    for query in ("SELECT id, key, text FROM texts", "SELECT text_id, key, text FROM candidates"):
        for row, key, text in db.execute(query):
            if not isinstance(text, str) or text_key(text) != key:
                yield row, f"the text {text!r:.60} under the key of another; expected its own; {_SOUND_FIX}"


def _sums(db: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Rows that aren't as they were written."""
    if schema_version(db) < 3:
        return
    query = (
        "SELECT a.text_id, a.checksum, t.language, t.key, a.translator_id, c.rank, c.checksum FROM asked a "
        "JOIN texts t ON t.id = a.text_id LEFT JOIN candidates c ON c.text_id = a.text_id "
        "AND c.translator_id = a.translator_id WHERE a.checksum IS NOT NULL "
        "ORDER BY a.text_id, a.translator_id, c.rank"
    )
    for (text, checksum, *answer), rows in itertools.groupby(db.execute(query), lambda row: row[:5]):
        if answer_sum(*answer, [row[6] for row in rows if row[5] is not None]) != checksum:
            yield text, f"an answer that isn't as it was written; expected its CRC-32; {_SOUND_FIX}"
    looks: tuple[tuple[str, str, Callable[..., int]], ...] = (
        ("candidates", "r.translator_id, r.rank, r.key, r.kind, r.translator, r.score", candidate_sum),
        ("scores", "r.candidate_key, r.critic_id, r.semantic, r.emotional, r.pragmatic", score_sum),
    )
    for table, columns, row_sum in looks:
        query = (
            f"SELECT r.text_id, r.checksum, t.language, t.key, {columns} FROM {table} r "
            "JOIN texts t ON t.id = r.text_id WHERE r.checksum IS NOT NULL"
        )
        for text, checksum, *values in db.execute(query):
            try:
                same = row_sum(*values) == checksum
            except (TypeError, ValueError):  # a value of another type
                same = False
            if not same:
                yield text, f"a row of {table} that isn't as it was written; expected its CRC-32; {_SOUND_FIX}"


def _scores(db: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    for name in ("semantic", "emotional", "pragmatic"):
        query = f"SELECT text_id, {name} FROM scores WHERE typeof({name}) != 'real' OR {name} NOT BETWEEN 1 AND 10"
        for text, score in db.execute(query):
            yield text, f"{name} is {score!r:.60}; expected a number in 1..10; judge that text anew"


def _meta(db: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    for table in ("translators", "critics") if schema_version(db) > 1 else ():
        for name, meta in db.execute(f"SELECT name, meta FROM {table} WHERE meta IS NOT NULL"):
            if not _is_object(meta):
                yield 0, f"meta of '{name}' is {meta!r:.60}; expected a JSON object; {_SOUND_FIX}"


def _is_object(text: Any) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (TypeError, ValueError, RecursionError):
        return False


def _notes(db: sqlite3.Connection) -> Iterator[str]:
    version = schema_version(db)
    older = f", of {SCHEMA_VERSION}: migrated when it is next written to" if version < SCHEMA_VERSION else ""
    yield f"schema version {version}{older}"
    for table in ("candidates", "scores"):
        yield f"{db.execute(f'SELECT count(*) FROM {table}').fetchone()[0]:,} {table}"
    bare = "SELECT count(*) FROM texts t WHERE NOT EXISTS (SELECT 1 FROM candidates c WHERE c.text_id = t.id)"
    if count := db.execute(bare).fetchone()[0]:
        yield f"{count:,} texts without candidates"
    # Left when a translator's answer is replaced; they count again if the candidate comes back.
    left = (
        "SELECT count(*) FROM scores s WHERE NOT EXISTS "
        "(SELECT 1 FROM candidates c WHERE c.text_id = s.text_id AND c.key = s.candidate_key)"
    )
    if count := db.execute(left).fetchone()[0]:
        yield f"{count:,} scores of candidates that were replaced"
