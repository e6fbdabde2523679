"""A candidate store, and its exports, with flipped bits, cut short, on a full disk, with the clock back."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess

import pytest

from lira_hf.translation import Candidate, CandidateStore, Identity, Score, StoreError
from lira_hf.translation.store_check import check_store
from lira_hf.translation.store_exchange import export_store, store_rows
from lira_hf.translation.store_import import check_import, import_store


WHO, OTHER, JUDGE = Identity("memory", "m1"), Identity("gloss", "g1"), Identity("judge", "j1")
TEXTS = [f"văn bản số {number}" for number in range(40)]
FLIPS = 250


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """40 texts, two translators, scores; all of it in one file."""
    path = tmp_path_factory.mktemp("whole") / "c.sqlite"
    with CandidateStore(path) as store:
        for who in (WHO, OTHER):
            answers = [
                (text, [Candidate(f"{who.name} {rank} of {text}", "kind", who.name, rank / 4) for rank in range(2)])
                for text in TEXTS[:-1]
            ]
            store.add("vi", [*answers, (TEXTS[-1], [])], who)
        rows = [(text, f"memory 1 of {text}", Score(3, 5.5, number % 9 + 1)) for number, text in enumerate(TEXTS[:-1])]
        store.add_scores("vi", rows, JUDGE)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return path


def contents(path):
    """What a reader gets of a store: for each text its answers, and what an export of all holds."""
    with CandidateStore(path, read_only=True) as store:
        asked = [text for text in TEXTS if text not in set(store.missing("vi", TEXTS, WHO))]
        rows = dict(zip(TEXTS, store.get("vi", TEXTS, critic=JUDGE, translator=WHO), strict=True))
        rows = {text: rows[text] for text in asked}
        exported = [row for batch in store_rows(store) for row in batch]
    return rows, exported


def bent(data, draw):
    """One of the ways in which a file goes bad."""
    data, way = bytearray(data), draw.random()
    place = draw.randrange(len(data))
    if way < 0.8:
        data[place] ^= 1 << draw.randrange(8)
    elif way < 0.9:
        page = place // 4096 * 4096
        data[page : page + 4096] = bytes(4096)
    else:
        del data[place:]
    return bytes(data)


def test_damage_is_an_error_or_harmless_and_never_another_answer(whole, tmp_path):
    expected, exported = contents(whole)
    known = {(r["text"], r["translator"], r["rank"]): r for r in exported}
    draw, refused, messages = random.Random(0), 0, []
    for number in range(FLIPS):
        path = tmp_path / "bent.sqlite"
        for leftover in tmp_path.glob("bent*"):
            leftover.unlink()
        path.write_bytes(bent(whole.read_bytes(), draw))
        try:
            rows, others = contents(path)
        except StoreError as error:
            messages.append(str(error))
            refused += 1
            continue
        # A text may be gone, and is asked for again; what is there is as it was, but for scores: judged anew.
        for text, row in rows.items():
            bare = [(c.text, c.kind, c.translator, c.rank, c.score) for c in row]
            assert bare == [(c.text, c.kind, c.translator, c.rank, c.score) for c in expected[text]], number
            for found, right in zip(row, expected[text], strict=True):
                assert found.scores in (None, right.scores), number
        for row in others:
            right = known[row["text"], row["translator"], row["rank"]]
            same = ("language", "fingerprint", "candidate", "kind", "maker", "score")
            assert {name: row[name] for name in same} == {name: right[name] for name in same}, number
            for score in row["scores"]:
                assert {**score, "created": 0} in [{**one, "created": 0} for one in right["scores"]], number
    assert all("; expected " in message for message in messages)
    assert refused > FLIPS / 10  # the damage does hit what is read


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE candidates SET text = 'another' WHERE rank = 1",
        "UPDATE candidates SET score = 0.26 WHERE rank = 1",
        "UPDATE candidates SET kind = 'best' WHERE rank = 0",
        "UPDATE candidates SET text_id = 3 - text_id WHERE text_id < 3 AND translator_id = 1 AND rank = 1",
        "DELETE FROM candidates WHERE rank = 1",
        "UPDATE scores SET semantic = 9",
        "UPDATE scores SET critic_id = 1, pragmatic = 3",
    ],
)
def test_a_row_that_is_not_as_it_was_written_is_refused_and_can_be_dropped(whole, tmp_path, damage):
    path = tmp_path / "c.sqlite"
    shutil.copy(whole, path)
    with sqlite3.connect(path) as db:
        if "3 - text_id" in damage:  # two texts' candidates change places, as a damaged index has it
            db.execute("UPDATE candidates SET text_id = -text_id WHERE text_id = 1 AND translator_id = 1 AND rank = 1")
            db.execute("UPDATE candidates SET text_id = 1 WHERE text_id = 2 AND translator_id = 1 AND rank = 1")
            db.execute("UPDATE candidates SET text_id = 2 WHERE text_id = -1")
        else:
            db.execute(damage)
    db.close()
    assert check_store(path).problems
    with CandidateStore(path) as store:
        with pytest.raises(StoreError, match="expected what was stored; look through it with `lira validate`"):
            store.get("vi", TEXTS[:2], critic=JUDGE)
        with pytest.raises(StoreError, match="expected what was stored"):
            list(store_rows(store))
        assert store.forget("vi", TEXTS[:2] + ["unknown"]) == 2
        assert store.missing("vi", TEXTS[:3], WHO) == TEXTS[:2]
        assert store.get("vi", TEXTS[:2], critic=JUDGE) == [[], []]


def test_a_log_that_is_gone_loses_rows_and_changes_none(whole, tmp_path):
    path = tmp_path / "c.sqlite"
    shutil.copy(whole, path)

    def add():
        store = CandidateStore(path)
        store.add("vi", [(f"new {n}", [Candidate(f"{n}", "k", "t")]) for n in range(50)], WHO)
        os._exit(0)  # nothing is closed: all of it is in the log

    process = multiprocessing.get_context("fork").Process(target=add)
    process.start()
    process.join(60)
    log = tmp_path / "c.sqlite-wal"
    assert log.stat().st_size
    log.unlink()
    (tmp_path / "c.sqlite-shm").unlink()
    with CandidateStore(path) as store:
        assert len(store.missing("vi", [f"new {n}" for n in range(50)], WHO)) == 50
    assert contents(path) == contents(whole)
    assert not check_store(path).problems


def test_exports_that_were_damaged_are_refused_and_edited_ones_taken(whole, tmp_path):
    draw = random.Random(0)
    for name in ("rows.jsonl", "rows.parquet"):
        path, sum_file = tmp_path / name, tmp_path / f"{name}.sha256"
        with CandidateStore(whole, read_only=True) as store:
            count = export_store(store, path)
        assert check_import(path) == ({"vi": count}, [])
        checked = subprocess.run(["sha256sum", "-c", sum_file.name], cwd=tmp_path, capture_output=True, text=True)
        assert checked.stdout == f"{name}: OK\n"
        data = path.read_bytes()
        for _ in range(50):
            path.write_bytes(bent(data, draw))
            with CandidateStore(tmp_path / f"{name}.sqlite") as store, pytest.raises(StoreError) as error:
                import_store(store, path)
            assert f"isn't the file that {name}.sha256 was written for" in str(error.value)
        path.write_bytes(data)
    edited = tmp_path / "rows.jsonl"
    edited.write_text(edited.read_text().replace("memory 0 of", "edited"))
    (tmp_path / "rows.jsonl.sha256").unlink()
    with CandidateStore(tmp_path / "edited.sqlite") as store:
        assert import_store(store, edited).rows == count


def _fill_the_disk(path, answers):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store, done, message = CandidateStore(path), 0, ""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
    try:
        for number in range(500):
            store.add("vi", [(f"text {number}", [Candidate("x" * 900, "k", "t")])], WHO)
            done += 1
    except StoreError as error:
        message = str(error)
    answers.put((message, done))
    answers.close()
    answers.join_thread()
    os._exit(0)


def test_a_full_disk_is_told_and_loses_nothing_stored(tmp_path):
    path, context = tmp_path / "c.sqlite", multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_fill_the_disk, args=(path, answers))
    process.start()
    message, done = answers.get(timeout=120)
    process.join(60)
    assert "can't be written (" in message
    assert "what was stored before is kept" in message
    assert 20 < done < 500
    with CandidateStore(path) as store:
        texts = [f"text {number}" for number in range(500)]
        assert store.missing("vi", texts, WHO) == texts[done:]
        assert all(store.get("vi", texts[:done]))
        store.add("vi", [("text 499", [])], WHO)
    assert not check_store(path).problems


def test_the_clock_may_go_back(tmp_path, monkeypatch):
    now = [2_000_000_000.0]
    monkeypatch.setattr("lira_hf.translation.store_writing.time.time", lambda: now[0])
    with CandidateStore(tmp_path / "c.sqlite") as store:
        for moment, word in ((2e9, "old"), (1e9, "new"), (-5.0, "newest")):
            now[0] = moment
            store.add("vi", [("a", [Candidate(word, "k", "t")])], WHO)
            store.add_scores("vi", [("a", word, Score(len(word), 2, 3))], JUDGE)
        # What came last counts, whatever the clock said.
        (found,) = store.get("vi", ["a"], critic=JUDGE)
        assert [(c.text, c.scores) for c in found] == [("newest", (6, 2, 3))]
        export_store(store, tmp_path / "rows.jsonl")
    with CandidateStore(tmp_path / "b.sqlite") as copy:
        assert import_store(copy, tmp_path / "rows.jsonl").candidates == 1
        assert copy.get("vi", ["a"])[0][0].text == "newest"
