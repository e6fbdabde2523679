"""The candidate store's file (ours): schema, migrations, opening, transactions."""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .base import batches


__all__ = ["SCHEMA_VERSION", "StoreError", "StoreVersionError"]

_APPLICATION_ID = 0x4C695241  # "LiRA", in the file's header
# Step n leads from version n to n + 1; a new store takes all of them, so that it can't differ from a migrated one.
_STEPS = (
    """
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
    pragmatic REAL NOT NULL, PRIMARY KEY (text_id, candidate_key, critic_id)) WITHOUT ROWID
""",
    # Seconds since 1970 and a JSON object; NULL where a store of version 1 couldn't say.
    """
ALTER TABLE asked ADD COLUMN created INTEGER;
ALTER TABLE scores ADD COLUMN created INTEGER;
ALTER TABLE translators ADD COLUMN meta TEXT;
ALTER TABLE critics ADD COLUMN meta TEXT
""",
    # CRC-32 of each row, see store_sums.py; NULL for rows of older versions.
    """
ALTER TABLE asked ADD COLUMN checksum INTEGER;
ALTER TABLE candidates ADD COLUMN checksum INTEGER;
ALTER TABLE scores ADD COLUMN checksum INTEGER
""",
)
SCHEMA_VERSION = len(_STEPS)

_BUSY_SECONDS = 60.0
# 32 MB: texts are spread over the whole index, and a page that is written often goes back into the file once. SQLite's
# own 1,000 pages cost one writer a quarter of its speed, four a sixth (600,000 texts). A mapped file (mmap_size) was
# measured too, and made the first look-ups seven times slower. So were pages of 16 KiB, and look-ups in eight threads:
# with nothing in memory 256 of a million texts take 970 page reads and 65 ms, 58 of them the disk's own; with larger
# pages 720 and 53 ms; in threads 28 ms, but from memory 15 ms in place of 9.
_CHECKPOINT_PAGES = 8000
# Keys in one query: SQLite allows 999 variables in its oldest builds.
QUERY_KEYS = 500


class StoreError(RuntimeError):
    """A candidate store that can't be used; the message says what to do."""


class StoreVersionError(StoreError):
    """A candidate store of another schema version."""


def text_key(text: str) -> bytes:
    """What a text is looked up by; the text has to be clean."""
    # Short keys keep the index small and let a text of any length be looked up.
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def key_batches(texts: Sequence[str]) -> Iterator[tuple[tuple[bytes, ...], str]]:
    """Keys for one query each, with as many question marks."""
    for batch in batches(texts, QUERY_KEYS):
        yield tuple(text_key(text) for text in batch), ",".join("?" * len(batch))


def id_batches(ids: Iterable[int]) -> Iterator[tuple[list[int], str]]:
    """Numbers for one query each, with as many question marks."""
    for batch in batches(ids, QUERY_KEYS):
        yield batch, ",".join("?" * len(batch))


def open_database(path: Path, read_only: bool) -> sqlite3.Connection:
    """
    A connection to a store, which is made or migrated first if it must be and may be.

    Args:
        path (`Path`): The file.
        read_only (`bool`): Never write; the file has to exist, and may be of an older version.

    Returns:
        `sqlite3.Connection`: In autocommit mode; see [`transaction`].

    Raises:
        `StoreVersionError`: a store of a newer schema version.
        `StoreError`: no store there, or a file that is something else.
    """
    if read_only and not path.is_file():
        raise StoreError(f"{path} isn't there; expected a candidate store; check the path or fill one first")
    if not read_only:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = connect(path, read_only)
    try:
        _prepare(connection, path, read_only)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # a damaged schema may be no text at all
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise StoreError(
                f"{path} can't be opened ({error}); expected a candidate store that this process may "
                f"{'read' if read_only else 'write'}; check its rights, and that no writer hangs"
            ) from error
        raise StoreError(
            f"{path} isn't a SQLite file ({error}); expected a candidate store; "
            "give another path, or move that file away"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """The bare connection."""
    address = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    wal = path.with_name(path.name + "-wal")
    if read_only and not os.access(path.parent, os.W_OK) and not wal.exists():
        address += "&immutable=1"  # a WAL file on a read-only disk opens no other way
    try:
        return sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"{path} can't be opened ({error}); expected the path of a file; check the path and its rights"
        ) from error


def schema_version(connection: sqlite3.Connection) -> int:
    """The version of the schema that a connection sees."""
    return _pragma(connection, "user_version")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All that is written within, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # On a full disk SQLite may have rolled back by itself; a COMMIT that failed leaves the transaction open.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _prepare(connection: sqlite3.Connection, path: Path, read_only: bool) -> None:
    if not read_only and _is_blank(connection):
        _set_journal_mode(connection)
        with transaction(connection):
            if _is_blank(connection):  # else another process was quicker
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                _migrate(connection)
    if _pragma(connection, "application_id") != _APPLICATION_ID:
        raise StoreError(
            f"{path} is a SQLite file without the mark of a candidate store; expected a candidate store"
            f"{'' if read_only else ' or no file'}; give another path"
        )
    if not read_only and 1 <= schema_version(connection) < SCHEMA_VERSION:
        with transaction(connection):
            _migrate(connection)  # looks at the version again: another process may have been quicker
    version = schema_version(connection)
    if not 1 <= version <= SCHEMA_VERSION:
        raise StoreVersionError(
            f"{path} has schema version {version}; expected 1 to {SCHEMA_VERSION}; fill a new store, "
            "or open this one with the lira-hf version that wrote it"
        )
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")


def _migrate(connection: sqlite3.Connection) -> None:
    for version, step in enumerate(_STEPS[schema_version(connection) :], schema_version(connection) + 1):
        for statement in step.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _is_blank(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return tables == 0 and schema_version(connection) == 0


def _set_journal_mode(connection: sqlite3.Connection) -> None:
    # SQLite doesn't wait for locks here, and several processes may open a new store at the same moment.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
