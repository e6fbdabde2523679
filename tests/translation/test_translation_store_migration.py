"""The candidate store: files of schema version 1, migrated or only read; kills, other processes."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import sqlite3

import pytest

from lira_hf.translation import Candidate, CandidateStore, Identity, Score, StoreVersionError
from lira_hf.translation import store_schema as schema
from lira_hf.translation.store_exchange import store_rows
from lira_hf.translation.store_import import merge_store
from lira_hf.translation.store_statistics import store_statistics


WHO, JUDGE = Identity("memory", "m1"), Identity("judge", "j1")
# As lira-hf 0.1.0 wrote it, word for word.
VERSION_1 = """
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
PRAGMA application_id = 1281970753;
PRAGMA user_version = 1;
"""


@pytest.fixture
def old(tmp_path):
    """Two texts, one of them without an answer, and a score."""
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(VERSION_1)
        keys = {text: _blake(text) for text in ("nhà", "mèo", "house", "home")}
        db.execute("INSERT INTO texts VALUES (1, 'vi', ?, 'nhà'), (2, 'vi', ?, 'mèo')", (keys["nhà"], keys["mèo"]))
        db.execute("INSERT INTO translators VALUES (1, 'memory', 'm1')")
        db.execute("INSERT INTO critics VALUES (1, 'judge', 'j1')")
        db.execute("INSERT INTO asked VALUES (1, 1), (2, 1)")
        for rank, text in enumerate(("house", "home")):
            db.execute(
                "INSERT INTO candidates VALUES (1, 1, ?, ?, ?, 'memory', 'memory', 0.5)", (rank, keys[text], text)
            )
        db.execute("INSERT INTO scores VALUES (1, ?, 1, 7, 8, 9)", (keys["home"],))
    db.close()
    return path


def _blake(text):
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def version_of(path):
    with sqlite3.connect(path) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def check_contents(store):
    rows = store.get("vi", ["nhà", "mèo"], critic=JUDGE)
    assert [[(c.text, c.score, c.scores) for c in row] for row in rows] == [
        [("house", 0.5, None), ("home", 0.5, Score(7, 8, 9))],
        [],
    ]
    assert store.missing("vi", ["nhà", "mèo", "mới"], WHO) == ["mới"]
    assert store.missing_scores("vi", ["nhà"], JUDGE) == [("nhà", "house")]
    assert store.provenance()["translators"] == [{"name": "memory", "fingerprint": "m1", "meta": {}}]
    assert store_statistics(store)["vi"]["critics"][0]["judged"] == 0.5
    ((first, second, empty),) = store_rows(store)
    assert (first["created"], second["created"], empty["candidate"]) == (None, None, None)
    assert second["scores"][0] | {"pragmatic": 9.0, "created": None, "meta": None} == second["scores"][0]


def test_a_store_of_version_1_is_read_as_it_is(old, tmp_path):
    before = old.read_bytes()
    with CandidateStore(old, read_only=True) as store:
        check_contents(store)
        with CandidateStore(tmp_path / "new.sqlite") as new:
            merge_store(new, store)
            check_contents(new)
    assert old.read_bytes() == before
    assert version_of(old) == 1


def test_writing_migrates_it_and_readers_go_on(old):
    with CandidateStore(old, read_only=True) as reader:
        check_contents(reader)
        with CandidateStore(old) as store:
            assert version_of(old) == 3
            check_contents(store)
            check_contents(reader)
            store.add("vi", [("mới", [Candidate("new", "llm", "chat")])], WHO, meta={"model": "m"})
            store.add_scores("vi", [("nhà", "house", (1, 2, 3))], JUDGE)
            assert reader.get("vi", ["mới"])[0][0].text == "new"
            created = {row["text"]: row["created"] for batch in store_rows(store) for row in batch}
            assert created["nhà"] is None
            assert created["mới"] > 1_700_000_000
    with CandidateStore(old) as store:  # and only once
        assert store.provenance()["translators"][0]["meta"] == {"model": "m"}


def test_a_migrated_store_is_like_a_new_one(old, tmp_path):
    CandidateStore(old).close()
    CandidateStore(tmp_path / "new.sqlite").close()
    tables = []
    for path in (old, tmp_path / "new.sqlite"):
        with sqlite3.connect(path) as db:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_master ORDER BY name")]
            tables.append([(name, db.execute(f"PRAGMA table_info({name})").fetchall()) for name in names])
    assert tables[0] == tables[1]
    assert [column[1] for column in dict(tables[0])["asked"]] == ["text_id", "translator_id", "created", "checksum"]


def test_a_newer_version_is_refused_by_readers_and_writers(old):
    with sqlite3.connect(old) as db:
        db.execute("PRAGMA user_version = 4")
    for read_only in (True, False):
        with pytest.raises(StoreVersionError, match="has schema version 4; expected 1 to 3; fill a new store"):
            CandidateStore(old, read_only=read_only)
    assert version_of(old) == 4


_fork = multiprocessing.get_context("fork")


def _die_at(path, beginning):
    connect = schema.connect

    def watched(*arguments):
        connection = connect(*arguments)
        connection.set_trace_callback(
            lambda statement: os.kill(os.getpid(), signal.SIGKILL) if statement.strip().startswith(beginning) else None
        )
        return connection

    schema.connect = watched
    CandidateStore(path)
    os._exit(3)  # not reached


@pytest.mark.parametrize(
    "beginning",
    ["ALTER TABLE scores", "PRAGMA user_version = 2", "ALTER TABLE candidates ADD COLUMN checksum", "COMMIT"],
)
def test_kill_nine_during_a_migration_leaves_version_1(old, beginning):
    process = _fork.Process(target=_die_at, args=(old, beginning))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    with sqlite3.connect(old) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert [column[1] for column in db.execute("PRAGMA table_info(asked)")] == ["text_id", "translator_id"]
    assert version_of(old) == 1
    with CandidateStore(old, read_only=True) as store:
        check_contents(store)
    with CandidateStore(old) as store:
        check_contents(store)
    assert version_of(old) == 3


def _migrate(path, number, barrier):
    barrier.wait()
    with CandidateStore(path) as store:
        store.add("vi", [(f"by {number}", [])], WHO)


def test_two_processes_may_migrate_at_once(old, tmp_path):
    for attempt in range(10):
        path = tmp_path / f"{attempt}.sqlite"
        shutil.copy(old, path)
        barrier = _fork.Barrier(2)
        processes = [_fork.Process(target=_migrate, args=(path, number, barrier)) for number in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)
        assert [process.exitcode for process in processes] == [0, 0]
        with CandidateStore(path, read_only=True) as store:
            assert store.missing("vi", ["by 0", "by 1"], WHO) == []
            assert version_of(path) == 3
