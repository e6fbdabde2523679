"""The candidate store: translations and critic scores by (language, text), in SQLite, as they arrive (ours)."""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .base import Candidate, Critic, Identity, Score, Translator, batches, check_texts, clean_text


__all__ = ["CandidateStore", "StoreError", "StoreVersionError", "StoredCandidate"]

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x4C695241  # "LiRA", in the file's header
_SCHEMA = """
CREATE TABLE texts (
    id INTEGER PRIMARY KEY, language TEXT NOT NULL, key BLOB NOT NULL, text TEXT NOT NULL, UNIQUE (language, key));
CREATE TABLE translators (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, fingerprint TEXT NOT NULL, UNIQUE (name, fingerprint));
CREATE TABLE critics (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, fingerprint TEXT NOT NULL, UNIQUE (name, fingerprint));
CREATE TABLE asked (
    text_id INTEGER NOT NULL REFERENCES texts, translator_id INTEGER NOT NULL REFERENCES translators,
    PRIMARY KEY (text_id, translator_id)) WITHOUT ROWID;
CREATE TABLE candidates (
    text_id INTEGER NOT NULL REFERENCES texts, translator_id INTEGER NOT NULL REFERENCES translators,
    rank INTEGER NOT NULL, key BLOB NOT NULL, text TEXT NOT NULL, kind TEXT NOT NULL, translator TEXT NOT NULL,
    score REAL, PRIMARY KEY (text_id, translator_id, rank)) WITHOUT ROWID;
CREATE TABLE scores (
    text_id INTEGER NOT NULL REFERENCES texts, candidate_key BLOB NOT NULL,
    critic_id INTEGER NOT NULL REFERENCES critics, semantic REAL NOT NULL, emotional REAL NOT NULL,
    pragmatic REAL NOT NULL, PRIMARY KEY (text_id, candidate_key, critic_id)) WITHOUT ROWID;
"""
_BUSY_SECONDS = 60.0
# Keys in one query (SQLite allows 999 variables in its oldest builds) and rows in one transaction.
_QUERY_KEYS = 500
_TRANSACTION_ROWS = 1000


class StoreError(RuntimeError):
    """A candidate store that can't be used; the message says what to do."""


class StoreVersionError(StoreError):
    """A candidate store of another schema version."""


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


def _key(text: str) -> bytes:
    # Short keys keep the index small and let a text of any length be looked up.
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class CandidateStore:
    """
    Candidates and critic scores on disk, keyed by (language, text), with who gave each.

    Several processes may read and write at once (SQLite in WAL mode; not on a network drive). Each call of a writing
    method is made of transactions: a killed process loses at most the open one. Lone surrogates in texts are stored
    as U+FFFD and found by either spelling. Use one object per thread; after a fork the child opens its own connection.

    Args:
        path (`str` or `os.PathLike`): The file; made, with its folder, if it isn't there.
        read_only (`bool`, *optional*, defaults to `False`): Never write; the file has to exist.

    Raises:
        `StoreVersionError`: a store of another schema version.
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
        if self.read_only and not self.path.is_file():
            raise StoreError(f"{self.path} isn't there; expected a candidate store; check the path or fill one first")
        if not self.read_only:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._pid = os.getpid()
        self._connection = self._connect()
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(
                    f"{self.path} can't be opened ({error}); expected a candidate store that this process may "
                    f"{'read' if self.read_only else 'write'}; check its rights, and that no writer hangs"
                ) from error
            raise StoreError(
                f"{self.path} isn't a SQLite file ({error}); expected a candidate store; "
                "give another path, or move that file away"
            ) from error
        except StoreError:
            self._connection.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        address = f"{self.path.absolute().as_uri()}?mode={'ro' if self.read_only else 'rwc'}"
        wal = self.path.with_name(self.path.name + "-wal")
        if self.read_only and not os.access(self.path.parent, os.W_OK) and not wal.exists():
            address += "&immutable=1"  # a WAL file on a read-only disk opens no other way
        try:
            return sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"{self.path} can't be opened ({error}); expected the path of a file; check the path and its rights"
            ) from error

    def _prepare(self) -> None:
        if not self.read_only and self._is_blank():
            self._set_journal_mode()
            with self._transaction() as connection:
                if self._is_blank():  # else another process was quicker
                    for statement in _SCHEMA.split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        if self._pragma("application_id") != _APPLICATION_ID:
            raise StoreError(
                f"{self.path} is a SQLite file without the mark of a candidate store; expected a candidate store"
                f"{'' if self.read_only else ' or no file'}; give another path"
            )
        if (version := self._pragma("user_version")) != SCHEMA_VERSION:
            raise StoreVersionError(
                f"{self.path} has schema version {version}; expected {SCHEMA_VERSION}; fill a new store, "
                "or open this one with the lira-hf version that wrote it"
            )
        self._connection.execute("PRAGMA synchronous = NORMAL")

    def _pragma(self, name: str) -> int:
        return self._connection.execute(f"PRAGMA {name}").fetchone()[0]

    def _is_blank(self) -> bool:
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        return tables == 0 and self._pragma("user_version") == 0

    def _set_journal_mode(self) -> None:
        # SQLite doesn't wait for locks here, and several processes may open a new store at the same moment.
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

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

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _check_writable(self) -> None:
        _ = self._db
        if self.read_only:
            raise StoreError(f"{self.path} is open read-only; expected a writable store; open it without read_only")

    # Candidates

    def add(
        self,
        language: str,
        rows: Iterable[tuple[str, Sequence[Candidate]]],
        translator: Translator | Identity,
    ) -> int:
        """
        Store answers of a translator; an empty one too, so that it isn't asked again. An earlier answer is replaced.

        Args:
            language (`str`): The texts' language tag.
            rows (`Iterable[tuple[str, Sequence[Candidate]]]`): Each text and its candidates, best first. A
                transaction is written every 1,000 rows.
            translator ([`Translator`] or [`Identity`]): Who was asked.

        Returns:
            `int`: The number of rows written.
        """
        self._check_writable()
        written = 0
        for batch in batches(_checked_rows(rows), _TRANSACTION_ROWS):
            with self._transaction() as connection:
                asked = self._identity_id("translators", translator, create=True)
                for text, candidates in batch:
                    self._write_answer(connection, language, text, candidates, asked)
            written += len(batch)
        return written

    def _write_answer(
        self, db: sqlite3.Connection, language: str, text: str, candidates: Sequence[Candidate], asked: int | None
    ) -> None:
        key = (language, _key(text))
        db.execute("INSERT INTO texts (language, key, text) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (*key, text))
        (text_id,) = db.execute("SELECT id FROM texts WHERE language = ? AND key = ?", key).fetchone()
        db.execute("INSERT INTO asked VALUES (?, ?) ON CONFLICT DO NOTHING", (text_id, asked))
        db.execute("DELETE FROM candidates WHERE text_id = ? AND translator_id = ?", (text_id, asked))
        db.executemany(
            "INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (text_id, asked, rank, _key(clean), clean, c.kind, c.translator, c.score)
                for rank, c in enumerate(candidates)
                for clean in (clean_text(c.text),)
            ],
        )

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
        distinct = _distinct(texts)
        if (asked := self._identity_id("translators", translator)) is None:
            return distinct
        done: set[bytes] = set()
        for keys, marks in _key_batches(distinct):
            query = (
                "SELECT key FROM texts JOIN asked ON asked.text_id = texts.id "
                f"WHERE translator_id = ? AND language = ? AND key IN ({marks})"
            )
            done.update(key for (key,) in self._db.execute(query, (asked, language, *keys)))
        return [text for text in distinct if _key(text) not in done]

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
        distinct = _distinct(texts)
        judge = self._identity_id("critics", critic) if critic is not None else None
        asked = self._identity_id("translators", translator) if translator is not None else None
        if translator is not None and asked is None:
            return [[] for _ in texts]
        found: dict[bytes, dict[str, StoredCandidate]] = {}
        for keys, marks in _key_batches(distinct):
            query = (
                "SELECT t.key, c.text, c.kind, c.translator, c.rank, c.score, s.semantic, s.emotional, s.pragmatic "
                "FROM texts t JOIN candidates c ON c.text_id = t.id LEFT JOIN scores s "
                "ON s.text_id = t.id AND s.candidate_key = c.key AND s.critic_id = ? "
                f"WHERE t.language = ? AND t.key IN ({marks}) AND (? IS NULL OR c.translator_id = ?) "
                "ORDER BY t.id, c.translator_id, c.rank"
            )
            for record in self._db.execute(query, (judge, language, *keys, asked, asked)):
                key, text, kind, maker, rank, score, *judged = record
                row = found.setdefault(key, {})
                if text not in row and (limit is None or len(row) < limit):
                    scores = Score(*judged) if judged[0] is not None else None
                    row[text] = StoredCandidate(text, kind, maker, rank, score, scores)
        return [list(found.get(_key(clean_text(text)), {}).values()) for text in texts]

    # Scores

    def add_scores(self, language: str, rows: Iterable[tuple[str, str, Score]], critic: Critic | Identity) -> int:
        """
        Store scores of a critic. An earlier score by the same critic is replaced.

        Args:
            language (`str`): The texts' language tag.
            rows (`Iterable[tuple[str, str, Score]]`): Text, candidate text and score. A transaction is written every
                1,000 rows.
            critic ([`Critic`] or [`Identity`]): Who judged.

        Returns:
            `int`: The number of rows written.

        Raises:
            `StoreError`: a candidate that isn't stored; the rows of its transaction aren't written.
        """
        self._check_writable()
        written = 0
        for batch in batches(rows, _TRANSACTION_ROWS):
            with self._transaction() as connection:
                judge = self._identity_id("critics", critic, create=True)
                for text, candidate, score in batch:
                    key, option = _key(clean_text(text)), _key(clean_text(candidate))
                    done = connection.execute(
                        "INSERT OR REPLACE INTO scores SELECT t.id, c.key, ?, ?, ?, ? "
                        "FROM texts t JOIN candidates c ON c.text_id = t.id "
                        "WHERE t.language = ? AND t.key = ? AND c.key = ? LIMIT 1",
                        (judge, *Score(*score), language, key, option),
                    )
                    if done.rowcount < 1:
                        raise StoreError(
                            f"{self.path} has no candidate {candidate!r:.80} for {text!r:.80} in '{language}'; "
                            "expected scores of stored candidates; add the candidates first"
                        )
            written += len(batch)
        return written

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
        distinct = _distinct(texts)
        answers = self.get(language, distinct, critic=critic)
        return [
            (text, candidate.text)
            for text, row in zip(distinct, answers, strict=True)
            for candidate in row
            if candidate.scores is None
        ]

    # What is there

    def languages(self) -> list[str]:
        """The languages of the stored texts, sorted."""
        return [row[0] for row in self._db.execute("SELECT DISTINCT language FROM texts ORDER BY language")]

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

    def __len__(self) -> int:
        """The number of stored texts, over all languages."""
        return self._db.execute("SELECT count(*) FROM texts").fetchone()[0]

    def __bool__(self) -> bool:
        return True  # an empty store is still a store: `if store:` asks whether there is one

    def __repr__(self) -> str:
        return f"CandidateStore({str(self.path)!r}, read_only={self.read_only})"

    def _identity_id(self, table: str, who: Translator | Critic | Identity, create: bool = False) -> int | None:
        identity = (who.name, who.fingerprint)
        if create:
            self._db.execute(f"INSERT INTO {table} (name, fingerprint) VALUES (?, ?) ON CONFLICT DO NOTHING", identity)
        row = self._db.execute(f"SELECT id FROM {table} WHERE name = ? AND fingerprint = ?", identity).fetchone()
        return row[0] if row else None


def _distinct(texts: Iterable[str]) -> list[str]:
    check_texts(texts)  # type: ignore[arg-type]
    return list(dict.fromkeys(clean_text(text) for text in texts))


def _checked_rows(
    rows: Iterable[tuple[str, Sequence[Candidate]]],
) -> Iterator[tuple[str, Sequence[Candidate]]]:
    for number, (text, candidates) in enumerate(rows):
        if isinstance(candidates, str) or not all(isinstance(candidate, Candidate) for candidate in candidates):
            raise TypeError(
                f"row {number} ({text!r:.80}) has candidates {candidates!r:.80}; expected a list of Candidate; "
                "wrap plain strings in Candidate(text, kind, translator)"
            )
        yield clean_text(text), candidates


def _key_batches(texts: Sequence[str]) -> Iterator[tuple[tuple[bytes, ...], str]]:
    for batch in batches(texts, _QUERY_KEYS):
        yield tuple(_key(text) for text in batch), ",".join("?" * len(batch))
