"""What the candidate store writes, row by row, within its transactions (ours)."""

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .base import Candidate, Critic, Identity, Translator, batches, check_name, check_texts, clean_text
from .store_schema import QUERY_KEYS, text_key
from .store_sums import answer_sum, candidate_sum


__all__ = ["checked_rows", "distinct_texts", "identity_id", "meta_text", "text_ids", "write_answers"]


def identity_id(
    db: sqlite3.Connection, table: str, name: str, fingerprint: str, meta: str | None, replace: bool = False
) -> int:
    """The number of a translator or critic, written if it is new; `replace` puts a meta in an earlier one's place."""
    query = f"SELECT id, meta FROM {table} WHERE name = ? AND fingerprint = ?"
    if (row := db.execute(query, (name, fingerprint)).fetchone()) is None:
        values = (name, fingerprint, meta)
        return db.execute(f"INSERT INTO {table} (name, fingerprint, meta) VALUES (?, ?, ?)", values).lastrowid  # type: ignore[return-value]
    if meta is not None and row[1] != meta and (replace or row[1] is None):
        db.execute(f"UPDATE {table} SET meta = ? WHERE id = ?", (meta, row[0]))
    return row[0]


def text_ids(db: sqlite3.Connection, language: str, texts: Sequence[str]) -> dict[str, int]:
    """The numbers of clean, distinct texts of one language, written if they are new."""
    rows = [(language, text_key(text), text) for text in texts]
    db.executemany("INSERT INTO texts (language, key, text) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)
    found: dict[bytes, int] = {}
    for batch in batches(rows, QUERY_KEYS):
        query = f"SELECT key, id FROM texts WHERE language = ? AND key IN ({','.join('?' * len(batch))})"
        found.update(db.execute(query, (language, *(key for _, key, _ in batch))))
    return {text: found[key] for _, key, text in rows}


def write_answers(
    db: sqlite3.Connection, language: str, answers: Mapping[str, Sequence[Candidate]], asked: int
) -> None:
    """A translator's answers, in place of its earlier ones, with their checksums; texts are clean and distinct."""
    ids, now = text_ids(db, language, list(answers)), max(int(time.time()), 0)
    db.executemany(
        "DELETE FROM candidates WHERE text_id = ? AND translator_id = ?", [(i, asked) for i in ids.values()]
    )
    rows, sums = [], []
    for text, candidates in answers.items():
        source, place = text_key(text), len(rows)
        for rank, c in enumerate(candidates):
            clean, score = clean_text(c.text), None if c.score is None else float(c.score)
            key = text_key(clean)
            checksum = candidate_sum(language, source, asked, rank, key, c.kind, c.translator, score)
            rows.append((ids[text], asked, rank, key, clean, c.kind, c.translator, score, checksum))
        sums.append(answer_sum(language, source, asked, [row[-1] for row in rows[place:]]))
    db.executemany(
        "INSERT INTO asked VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET created = excluded.created, checksum = excluded.checksum",
        [(ids[text], asked, now, checksum) for text, checksum in zip(answers, sums, strict=True)],
    )
    db.executemany("INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def meta_text(who: Translator | Critic | Identity, meta: Any) -> str | None:
    """What is written of a translator or critic beside its name, as JSON."""
    if meta is None:
        return None
    if not isinstance(meta, Mapping):
        raise TypeError(
            f"meta of '{who.name}' is {meta!r:.80}; expected a dict of JSON values; give its settings by name"
        )
    try:
        text = json.dumps(dict(meta), sort_keys=True, ensure_ascii=False, allow_nan=False)
        if clean_text(text) == text:
            return text
        return json.dumps(dict(meta), sort_keys=True, allow_nan=False)  # half a character has an escape in JSON alone
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"meta of '{who.name}' can't be written as JSON ({error}); expected strings, numbers, lists and dicts; "
            "turn other values into strings"
        ) from error


def distinct_texts(texts: Iterable[str]) -> list[str]:
    """Clean texts, each once."""
    check_texts(texts)  # type: ignore[arg-type]
    return list(dict.fromkeys(clean_text(text) for text in texts))


def checked_rows(
    rows: Iterable[tuple[str, Sequence[Candidate]]],
) -> Iterator[tuple[str, Sequence[Candidate]]]:
    """Rows with clean texts; a row that can't be kept is named before anything of it is written."""
    for number, (text, candidates) in enumerate(rows):
        if isinstance(candidates, str) or not all(isinstance(candidate, Candidate) for candidate in candidates):
            raise TypeError(
                f"row {number} ({text!r:.80}) has candidates {candidates!r:.80}; expected a list of Candidate; "
                "wrap plain strings in Candidate(text, kind, translator)"
            )
        if not isinstance(text, str):
            raise TypeError(f"row {number} has the text {text!r:.80}; expected a string; write the text")
        for candidate in candidates:
            _check_candidate(candidate, f"row {number} ({text!r:.80})")
        yield clean_text(text), candidates


def _check_candidate(candidate: Candidate, place: str) -> None:
    if not isinstance(candidate.text, str):
        raise TypeError(f"{place} has the candidate {candidate.text!r:.80}; expected a string; write the English text")
    check_name(candidate.kind, f"the kind of a candidate of {place}")
    check_name(candidate.translator, f"the translator of a candidate of {place}")
    score = candidate.score
    try:
        finite = score is None or math.isfinite(score)
    except (TypeError, OverflowError):
        finite = False
    if not finite:  # SQLite would make nothing of NaN, and an export with an infinity could not be read
        raise ValueError(f"{place} has the score {score!r:.80}; expected a finite number or None; leave it out")
