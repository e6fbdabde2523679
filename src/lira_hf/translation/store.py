"""The candidate store: translations and critic scores by (language, text), in SQLite, as they arrive (ours)."""

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .base import Candidate, Critic, Identity, Score, Translator, batches, check_name, clean_text
from .store_schema import (
    StoreError,
    StoreVersionError,
    key_batches,
    open_database,
    schema_version,
    text_key,
    transaction,
)
from .store_sums import answer_sum, candidate_sum, check_sum, check_text, score_sum, told
from .store_writing import checked_rows, distinct_texts, identity_id, meta_text, write_answers


__all__ = ["CandidateStore", "StoreError", "StoreVersionError", "StoredCandidate"]

# Rows in one transaction.
_TRANSACTION_ROWS = 1000


@dataclass(frozen=True, slots=True)
class StoredCandidate:
    """
    A candidate as read from the store.

    Args:
        text (`str`): The English text.
        kind (`str`): How it came about, such as `"memory"`.
        translator (`str`): Name of the translator that made it; in a union the member's.
        rank (`int`): Its place in the answer of the translator that was asked, 0 the best.
        score (`float`, *optional*): The translator's own score.
        scores (`Score`, *optional*): The critic's, if one was asked for and has judged it.
    """

    text: str
    kind: str
    translator: str
    rank: int
    score: float | None = None
    scores: Score | None = None


class CandidateStore:
    """
    Candidates and critic scores on disk, keyed by (language, text), with who gave each.

    Several processes may read and write at once (SQLite in WAL mode; not on a network drive). Each call of a writing
    method is made of transactions: a killed process loses at most the open one. Lone surrogates in texts are stored
    as U+FFFD and found by either spelling. Use one object per thread; after a fork the child opens its own connection.

    Args:
        path (`str` or `os.PathLike`): The file; made, with its folder, if it isn't there. One of an older schema
            version is migrated, in one transaction; writers of that version have to be started anew.
        read_only (`bool`, *optional*, defaults to `False`): Never write; the file has to exist, and may be of an
            older schema version.

    Raises:
        `StoreVersionError`: a store of a newer schema version.
        `StoreError`: no store there, or a file that is something else.
    """

    def __init__(self, path: str | os.PathLike, read_only: bool = False):
        self.path = Path(path)
        self.read_only = read_only
        self._closed = False
        self._inherited: list[sqlite3.Connection] = []
        self._open()

    # Opening and closing

    def _open(self) -> None:
        self._pid = os.getpid()
        self._connection = open_database(self.path, self.read_only)

    @property
    def _db(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreError(f"{self.path} is closed; expected an open store; open it again")
        if self._pid != os.getpid():
            # A SQLite connection must not be used across a fork, nor closed there: keep it, open another.
            self._inherited.append(self._connection)
            self._open()
        return self._connection

    def close(self) -> None:
        """Close the file. Closing twice does no harm."""
        if not self._closed and self._pid == os.getpid():
            self._connection.close()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "read_only": self.read_only}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _check_writable(self) -> None:
        _ = self._db
        if self.read_only:
            raise StoreError(f"{self.path} is open read-only; expected a writable store; open it without read_only")

    # Candidates

    @told
    def add(
        self,
        language: str,
        rows: Iterable[tuple[str, Sequence[Candidate]]],
        translator: Translator | Identity,
        *,
        meta: Mapping[str, Any] | None = None,
    ) -> int:
        """
        Store answers of a translator; an empty one too, so that it isn't asked again. An earlier answer is replaced.

        Args:
            language (`str`): The texts' language tag.
            rows (`Iterable[tuple[str, Sequence[Candidate]]]`): Each text and its candidates, best first. A
                transaction is written every 1,000 rows.
            translator ([`Translator`] or [`Identity`]): Who was asked.
            meta (`Mapping[str, Any]`, *optional*, defaults to the translator's own `meta`, if it has one): What to
                keep about it, such as the model's name and settings: JSON values, no secrets.

        Returns:
            `int`: The number of rows written.

        Raises:
            `TypeError`, `ValueError`: a row that the store can't keep as it is: a text that is no string, a kind or a
                translator's name that is empty or no Unicode, a score that is no finite number, such as NaN. The rows
                of its transaction aren't written.
        """
        self._check_writable()
        check_name(language, "language")
        written = 0
        for batch in batches(checked_rows(rows), _TRANSACTION_ROWS):
            with transaction(self._connection) as connection:
                asked = self._write_identity("translators", translator, meta)
                write_answers(connection, language, dict(batch), asked)
            written += len(batch)
        return written

    @told
    def missing(self, language: str, texts: Iterable[str], translator: Translator | Identity) -> list[str]:
        """
        The texts that a translator hasn't been asked for.

        Args:
            language (`str`): The texts' language tag.
            texts (`Iterable[str]`): The texts.
            translator ([`Translator`] or [`Identity`]): Name and fingerprint count, the number of candidates doesn't.

        Returns:
            `list[str]`: Distinct, in order, cleaned by `clean_text`.
        """
        distinct = distinct_texts(texts)
        if (asked := self._identity_id("translators", translator)) is None:
            return distinct
        done: set[bytes] = set()
        for keys, marks in key_batches(distinct):
            query = (
                "SELECT key FROM texts JOIN asked ON asked.text_id = texts.id "
                f"WHERE translator_id = ? AND language = ? AND key IN ({marks})"
            )
            done.update(key for (key,) in self._db.execute(query, (asked, language, *keys)))
        return [text for text in distinct if text_key(text) not in done]

    @told
    def get(
        self,
        language: str,
        texts: Sequence[str],
        *,
        critic: Critic | Identity | None = None,
        translator: Translator | Identity | None = None,
        limit: int | None = None,
    ) -> list[list[StoredCandidate]]:
        """
        The candidates of a batch of texts.

        Args:
            language (`str`): The texts' language tag.
            texts (`Sequence[str]`): The texts; repeats are fine.
            critic ([`Critic`] or [`Identity`], *optional*): Whose scores to read; without it there are none.
            translator ([`Translator`] or [`Identity`], *optional*): Whose answers to read; without it everyone's.
            limit (`int`, *optional*): The most candidates for a text.

        Returns:
            `list[list[StoredCandidate]]`: Aligned with `texts`, empty for a text that isn't stored. Distinct by text;
            first those of the translator that came into the store first, then by rank.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit is {limit}; expected 0 or more; leave it out to get all candidates")
        distinct = distinct_texts(texts)
        judge = self._identity_id("critics", critic) if critic is not None else None
        asked = self._identity_id("translators", translator) if translator is not None else None
        if translator is not None and asked is None:
            return [[] for _ in texts]
        found: dict[bytes, dict[str, StoredCandidate]] = {}
        answers: dict[tuple[bytes, int, int | None], list[int | None]] = {}
        sums = "a.checksum, c.checksum, s.checksum" if schema_version(self._db) > 2 else "NULL, NULL, NULL"
        for keys, marks in key_batches(distinct):
            query = (
                f"SELECT t.key, a.translator_id, {sums}, c.text, c.rank, c.key, c.kind, c.translator, c.score, "
                "s.semantic, s.emotional, s.pragmatic FROM texts t JOIN asked a ON a.text_id = t.id "
                "LEFT JOIN candidates c ON c.text_id = t.id AND c.translator_id = a.translator_id LEFT JOIN scores s "
                "ON s.text_id = t.id AND s.candidate_key = c.key AND s.critic_id = ? "
                f"WHERE t.language = ? AND t.key IN ({marks}) AND (? IS NULL OR a.translator_id = ?) "
                "ORDER BY t.id, a.translator_id, c.rank"
            )
            for record in self._db.execute(query, (judge, language, *keys, asked, asked)):
                key, who, answer, checksum, _, text, *_ = record
                whole = answers.setdefault((key, who, answer), [])
                if text is None:
                    continue
                whole.append(checksum)
                row = found.setdefault(key, {})
                if text not in row and (limit is None or len(row) < limit):
                    row[text] = self._candidate(language, record, judge)
        for (key, who, answer), whole in answers.items():
            check_sum(self.path, answer, answer_sum(language, key, who, whole), lambda: f"an answer in '{language}'")
        return [list(found.get(text_key(clean_text(text)), {}).values()) for text in texts]

    def _candidate(self, language: str, record: tuple[Any, ...], judge: int | None) -> StoredCandidate:
        """A candidate from a row of `get`; it and its scores are what was stored, or an error."""
        key, who, _, checksum, judged_sum, text, rank, option, kind, maker, score, *judged = record
        check_text(self.path, text, option, lambda: f"the candidate in '{language}'")
        expected = candidate_sum(language, key, who, rank, option, kind, maker, score)
        check_sum(self.path, checksum, expected, lambda: f"the candidate {text!r:.60} in '{language}'")
        if judged[0] is None or judge is None:
            return StoredCandidate(text, kind, maker, rank, score)
        expected = score_sum(language, key, option, judge, *judged)
        check_sum(self.path, judged_sum, expected, lambda: f"the scores {judged} of {text!r:.60} in '{language}'")
        return StoredCandidate(text, kind, maker, rank, score, Score(*judged))

    @told
    def forget(self, language: str, texts: Iterable[str]) -> int:
        """
        Drop everything that is stored of texts, so that they are asked for again; for rows that are damaged.

        Args:
            language (`str`): The texts' language tag.
            texts (`Iterable[str]`): The texts; those that aren't stored are passed over.

        Returns:
            `int`: How many were dropped.
        """
        self._check_writable()
        dropped = 0
        for keys, marks in key_batches(distinct_texts(texts)):
            which = f"SELECT id FROM texts WHERE language = ? AND key IN ({marks})"
            with transaction(self._connection) as connection:
                for table in ("scores", "candidates", "asked"):
                    connection.execute(f"DELETE FROM {table} WHERE text_id IN ({which})", (language, *keys))
                query = f"DELETE FROM texts WHERE language = ? AND key IN ({marks})"
                dropped += connection.execute(query, (language, *keys)).rowcount
        return dropped

    # Scores

    @told
    def add_scores(
        self,
        language: str,
        rows: Iterable[tuple[str, str, Score]],
        critic: Critic | Identity,
        *,
        meta: Mapping[str, Any] | None = None,
    ) -> int:
        """
        Store scores of a critic. An earlier score by the same critic is replaced.

        Args:
            language (`str`): The texts' language tag.
            rows (`Iterable[tuple[str, str, Score]]`): Text, candidate text and score. A transaction is written every
                1,000 rows.
            critic ([`Critic`] or [`Identity`]): Who judged.
            meta (`Mapping[str, Any]`, *optional*, defaults to the critic's own `meta`, if it has one): As for `add`.

        Returns:
            `int`: The number of rows written.

        Raises:
            `StoreError`: a candidate that isn't stored; the rows of its transaction aren't written.
        """
        self._check_writable()
        written = 0
        for batch in batches(rows, _TRANSACTION_ROWS):
            with transaction(self._connection) as connection:
                judge, now = self._write_identity("critics", critic, meta), max(int(time.time()), 0)
                for text, candidate, score in batch:
                    key, option = text_key(clean_text(text)), text_key(clean_text(candidate))
                    values = Score(*score)
                    checksum = score_sum(language, key, option, judge, *values)
                    done = connection.execute(
                        "INSERT OR REPLACE INTO scores SELECT t.id, c.key, ?, ?, ?, ?, ?, ? "
                        "FROM texts t JOIN candidates c ON c.text_id = t.id "
                        "WHERE t.language = ? AND t.key = ? AND c.key = ? LIMIT 1",
                        (judge, *values, now, checksum, language, key, option),
                    )
                    if done.rowcount < 1:
                        raise StoreError(
                            f"{self.path} has no candidate {candidate!r:.80} for {text!r:.80} in '{language}'; "
                            "expected scores of stored candidates; add the candidates first"
                        )
            written += len(batch)
        return written

    @told
    def missing_scores(self, language: str, texts: Iterable[str], critic: Critic | Identity) -> list[tuple[str, str]]:
        """
        The stored candidates that a critic hasn't judged.

        Args:
            language (`str`): The texts' language tag.
            texts (`Iterable[str]`): The texts.
            critic ([`Critic`] or [`Identity`]): Name and fingerprint count.

        Returns:
            `list[tuple[str, str]]`: Distinct (text, candidate text), by text in order, then as `get` orders them.
        """
        distinct = distinct_texts(texts)
        answers = self.get(language, distinct, critic=critic)
        return [
            (text, candidate.text)
            for text, row in zip(distinct, answers, strict=True)
            for candidate in row
            if candidate.scores is None
        ]

    # What is there

    @told
    def languages(self) -> list[str]:
        """The languages of the stored texts, sorted."""
        return [row[0] for row in self._db.execute("SELECT DISTINCT language FROM texts ORDER BY language")]

    @told
    def stats(self) -> dict[str, Any]:
        """
        Counts for a report.

        Returns:
            `dict[str, Any]`: `languages` (for each `texts`, and `candidates` over all translators), `translators`
            (for each name and fingerprint: texts `asked`, `candidates`), `critics` (the same: `scores`).
        """
        db = self._db
        per_language = db.execute(
            "SELECT language, count(*), sum((SELECT count(*) FROM candidates c WHERE c.text_id = t.id)) "
            "FROM texts t GROUP BY language ORDER BY language"
        )
        per_translator = db.execute(
            "SELECT name, fingerprint, (SELECT count(*) FROM asked a WHERE a.translator_id = t.id), "
            "(SELECT count(*) FROM candidates c WHERE c.translator_id = t.id) FROM translators t ORDER BY id"
        )
        per_critic = db.execute(
            "SELECT name, fingerprint, (SELECT count(*) FROM scores s WHERE s.critic_id = c.id) "
            "FROM critics c ORDER BY id"
        )
        return {
            "languages": {name: {"texts": texts, "candidates": count} for name, texts, count in per_language},
            "translators": [
                {"name": name, "fingerprint": mark, "asked": asked, "candidates": count}
                for name, mark, asked, count in per_translator
            ],
            "critics": [{"name": name, "fingerprint": mark, "scores": count} for name, mark, count in per_critic],
        }

    @told
    def provenance(self) -> dict[str, list[dict[str, Any]]]:
        """
        Who gave answers and scores, with what was kept about them.

        Returns:
            `dict[str, list[dict[str, Any]]]`: `translators` and `critics`: `name`, `fingerprint` and `meta`, a dict,
            empty if nothing is known.
        """
        db = self._db
        meta = "meta" if schema_version(db) > 1 else "NULL"
        return {
            table: [
                {"name": name, "fingerprint": mark, "meta": json.loads(text) if text else {}}
                for name, mark, text in db.execute(f"SELECT name, fingerprint, {meta} FROM {table} ORDER BY id")
            ]
            for table in ("translators", "critics")
        }

    @told
    def __len__(self) -> int:
        """The number of stored texts, over all languages."""
        return self._db.execute("SELECT count(*) FROM texts").fetchone()[0]

    def __bool__(self) -> bool:
        return True  # an empty store is still a store: `if store:` asks whether there is one

    def __repr__(self) -> str:
        return f"CandidateStore({str(self.path)!r}, read_only={self.read_only})"

    def _identity_id(self, table: str, who: Translator | Critic | Identity) -> int | None:
        query = f"SELECT id FROM {table} WHERE name = ? AND fingerprint = ?"
        row = self._db.execute(query, (who.name, who.fingerprint)).fetchone()
        return row[0] if row else None

    def _write_identity(self, table: str, who: Translator | Critic | Identity, meta: Mapping[str, Any] | None) -> int:
        text = meta_text(who, getattr(who, "meta", None) if meta is None else meta)
        return identity_id(self._connection, table, who.name, who.fingerprint, text, replace=True)
