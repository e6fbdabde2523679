"""The candidate store: resume, order, provenance, several processes, damage."""

import itertools
import multiprocessing
import os
import pickle
import signal
import sqlite3
import time

import pytest

from lira_hf.translation import (
    Candidate,
    CandidateStore,
    HeuristicCritic,
    Identity,
    Score,
    StoreError,
    StoreVersionError,
    TranslationMemory,
    fill_store,
)


FIRST, SECOND, CRITIC = Identity("memory", "m1"), Identity("gloss", "g1"), Identity("judge", "j1")


def candidates(*texts, kind="memory", score=None):
    return [Candidate(text, kind, kind, score) for text in texts]


@pytest.fixture
def store(tmp_path):
    with CandidateStore(tmp_path / "new" / "c.sqlite") as opened:
        yield opened


def test_candidates_come_back_in_order_with_their_provenance(store):
    store.add("vi", [("nhà", candidates("house", "home", score=0.5)), ("mèo", [])], FIRST)
    store.add("vi", [("nhà", candidates("building", "house", kind="gloss"))], SECOND)
    store.add("id", [("nhà", candidates("other"))], FIRST)
    rows = store.get("vi", ["mèo", "nhà", "không", "nhà"])
    assert [len(row) for row in rows] == [0, 3, 0, 3]
    assert [(c.text, c.kind, c.rank, c.score, c.scores) for c in rows[1]] == [
        ("house", "memory", 0, 0.5, None),
        ("home", "memory", 1, 0.5, None),
        ("building", "gloss", 0, None, None),
    ]
    assert [c.text for c in store.get("vi", ["nhà"], limit=2)[0]] == ["house", "home"]
    assert [c.text for c in store.get("vi", ["nhà"], translator=SECOND)[0]] == ["building", "house"]
    assert store.get("vi", ["nhà"], translator=Identity("memory", "m2")) == [[]]
    assert store.languages() == ["id", "vi"]
    assert len(store) == 3


def test_missing_counts_empty_answers_and_fingerprints(store):
    assert store
    assert store.missing("vi", ["b", "a", "b"], FIRST) == ["b", "a"]
    store.add("vi", [("a", [])], FIRST)
    assert store.missing("vi", ["b", "a", "b"], FIRST) == ["b"]
    assert store.missing("vi", ["a"], SECOND) == ["a"]
    assert store.missing("vi", ["a"], Identity("memory", "m2")) == ["a"]
    assert store.missing("id", ["a"], FIRST) == ["a"]


def test_batches_larger_than_one_query(store):
    texts = [f"text {i}" for i in range(2345)]
    store.add("vi", [(text, candidates(text.upper())) for text in texts[::2]], FIRST)
    assert store.missing("vi", texts, FIRST) == texts[1::2]
    rows = store.get("vi", texts)
    assert [[c.text for c in row] for row in rows] == [
        [text.upper()] if i % 2 == 0 else [] for i, text in enumerate(texts)
    ]


def test_a_new_answer_replaces_the_old_one_whole(store):
    store.add("vi", [("a", candidates("x", "y", "z"))], FIRST)
    store.add("vi", [("a", candidates("y"))], FIRST)
    assert [c.text for c in store.get("vi", ["a"])[0]] == ["y"]


def test_scores_belong_to_critic_and_candidate(store):
    store.add("vi", [("a", candidates("x", "y")), ("b", candidates("x"))], FIRST)
    store.add("vi", [("a", candidates("y", "z", kind="gloss"))], SECOND)
    assert store.missing_scores("vi", ["b", "a"], CRITIC) == [("b", "x"), ("a", "x"), ("a", "y"), ("a", "z")]
    assert store.add_scores("vi", [("a", "y", Score(2, 3, 4)), ("b", "x", (1, 1, 1))], CRITIC) == 2
    assert store.missing_scores("vi", ["b", "a", "b"], CRITIC) == [("a", "x"), ("a", "z")]
    assert [c.scores for c in store.get("vi", ["a"], critic=CRITIC)[0]] == [None, Score(2, 3, 4), None]
    assert [c.scores for c in store.get("vi", ["a"], critic=Identity("judge", "j2"))[0]] == [None] * 3
    assert [c.scores for c in store.get("vi", ["a"])[0]] == [None] * 3
    with pytest.raises(StoreError, match="has no candidate 'nowhere' for 'a' in 'vi'"):
        store.add_scores("vi", [("a", "x", Score(9, 9, 9)), ("a", "nowhere", Score(2, 3, 4))], CRITIC)
    assert store.get("vi", ["a"], critic=CRITIC)[0][0].scores is None  # the whole transaction went
    with pytest.raises(ValueError, match="score 'semantic' is 11"):
        store.add_scores("vi", [("a", "x", (11, 1, 1))], CRITIC)
    assert store.stats() == {
        "languages": {"vi": {"texts": 2, "candidates": 5}},
        "translators": [
            {"name": "memory", "fingerprint": "m1", "asked": 2, "candidates": 3},
            {"name": "gloss", "fingerprint": "g1", "asked": 1, "candidates": 2},
        ],
        "critics": [{"name": "judge", "fingerprint": "j1", "scores": 2}],
    }


def test_odd_texts_are_keys_too(store):
    texts = ["", "\ud800 a", "x" * 100_000, "x" * 99_999 + "y", "nul \x00 z", "a'b\"; DROP TABLE texts", "%s\n"]
    store.add("vi", [(text, candidates(f"{i} \udcff")) for i, text in enumerate(texts)], FIRST)
    assert [row[0].text for row in store.get("vi", texts)] == [f"{i} \ufffd" for i in range(len(texts))]
    assert store.missing("vi", ["\ufffd a"], FIRST) == []
    store.add_scores("vi", [("\ud800 a", "1 \udcff", Score(5, 5, 5))], CRITIC)
    assert store.get("vi", ["\udfff a"], critic=CRITIC)[0][0].scores == Score(5, 5, 5)


def test_wrong_arguments_are_named(store):
    with pytest.raises(TypeError, match=r"row 1 \('b'\) has candidates \['plain'\]"):
        store.add("vi", [("a", []), ("b", ["plain"])], FIRST)
    with pytest.raises(TypeError, match="expected a sequence of strings"):
        store.get("vi", "nhà")
    with pytest.raises(ValueError, match="limit is -1"):
        store.get("vi", ["a"], limit=-1)


def test_failed_rows_leave_nothing_of_their_transaction(store):
    def rows():
        yield "a", candidates("x")
        raise RuntimeError("the endpoint is gone")

    with pytest.raises(RuntimeError, match="the endpoint is gone"):
        store.add("vi", rows(), FIRST)
    with pytest.raises(ValueError, match="the kind of a candidate of row 1 .'b'. is None"):
        store.add("vi", [("a", candidates("x")), ("b", [Candidate("y", None, "memory")])], FIRST)
    assert len(store) == 0
    store.add("vi", [("a", candidates("x"))], FIRST)  # and it goes on working
    assert len(store) == 1


def test_other_files_are_refused_and_left_alone(tmp_path):
    path = tmp_path / "c.sqlite"
    CandidateStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(StoreVersionError, match="has schema version 7; expected 1 to 3; fill a new store"):
        CandidateStore(path)

    text = tmp_path / "text.sqlite"
    text.write_bytes(b"not a database at all, " * 100)
    with pytest.raises(StoreError, match="isn't a SQLite file"):
        CandidateStore(text)
    assert text.read_bytes() == b"not a database at all, " * 100

    other = tmp_path / "other.sqlite"
    for statement in ("CREATE TABLE mine (a)", "PRAGMA user_version = 1"):
        with sqlite3.connect(other) as connection:
            connection.execute(statement)
        before = other.read_bytes()
        with pytest.raises(StoreError, match="without the mark of a candidate store"):
            CandidateStore(other)
        assert other.read_bytes() == before

    with pytest.raises(StoreError, match="can't be opened"):
        CandidateStore(tmp_path)
    with pytest.raises(StoreError, match="isn't there"):
        CandidateStore(tmp_path / "none.sqlite", read_only=True)


def test_read_only_reads_and_never_writes(tmp_path, monkeypatch):
    path = tmp_path / "c.sqlite"
    with CandidateStore(path) as writer:
        writer.add("vi", [("a", candidates("x"))], FIRST)
        with CandidateStore(path, read_only=True) as reader:
            writer.add("vi", [("b", candidates("y"))], FIRST)
            assert [row[0].text for row in reader.get("vi", ["a", "b"])] == ["x", "y"]
            with pytest.raises(StoreError, match="is open read-only"):
                reader.add("vi", [("c", [])], FIRST)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as on a read-only disk: no -shm file may be made
    with CandidateStore(path, read_only=True) as reader:
        assert reader.get("vi", ["b"])[0][0].text == "y"
        assert [file.name for file in tmp_path.iterdir()] == ["c.sqlite"]
    with pytest.raises(StoreError, match="is closed"):
        reader.get("vi", ["a"])


def test_store_goes_to_other_processes(store, tmp_path):
    store.add("vi", [("a", candidates("x"))], FIRST)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.get("vi", ["a"]) == store.get("vi", ["a"])
    copy.close()
    child = os.fork()
    if child == 0:  # uses the object that it inherited
        try:
            store.add("vi", [("b", candidates("y"))], FIRST)
            own_connection = store._connection not in store._inherited and len(store._inherited) == 1
            os._exit(0 if own_connection and store.get("vi", ["a"])[0][0].text == "x" else 2)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get("vi", ["b"])[0][0].text == "y"


def _write(path, start, barrier):
    barrier.wait()
    with CandidateStore(path) as store:
        for i in range(start, start + 150):
            store.add("vi", [(f"own {i}", candidates("x", "y")), (f"shared {i % 150}", candidates("z"))], FIRST)


def test_writers_may_open_and_write_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    writers = [context.Process(target=_write, args=(tmp_path / "c.sqlite", n * 150, barrier)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with CandidateStore(tmp_path / "c.sqlite", read_only=True) as store:
        assert len(store) == 450 + 150
        assert all(len(row) == 2 for row in store.get("vi", [f"own {i}" for i in range(450)]))


def _write_without_end(path):
    store = CandidateStore(path)
    for batch in itertools.count():
        rows = [(f"{batch} {i}", candidates(*(f"{batch} {i} {k}" for k in range(4)))) for i in range(100)]
        store.add("vi", rows, FIRST)


def test_kill_nine_in_the_middle_leaves_whole_transactions(tmp_path):
    path = tmp_path / "c.sqlite"
    writer = multiprocessing.get_context("fork").Process(target=_write_without_end, args=(path,))
    writer.start()
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if path.exists():
                try:
                    with CandidateStore(path, read_only=True) as store:
                        if len(store) >= 1000:
                            break
                except StoreError:
                    pass  # not made yet
            time.sleep(0.02)
    finally:
        writer.kill()  # SIGKILL
        writer.join()
    assert writer.exitcode == -signal.SIGKILL
    with CandidateStore(path) as store:
        size = len(store)
        assert size >= 1000
        assert size % 100 == 0
        texts = [f"{batch} {i}" for batch in range(size // 100) for i in range(100)]
        assert store.missing("vi", texts, FIRST) == []
        assert [[c.text for c in row] for row in store.get("vi", texts)] == [
            [f"{text} {k}" for k in range(4)] for text in texts
        ]
        store.add("vi", [("after", candidates("x"))], FIRST)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


class Flaky:
    """Fails at the third call; knows no text with "nothing" in it."""

    name, fingerprint = "flaky", "1"

    def __init__(self):
        self.calls: list[list[str]] = []

    def translate(self, texts, language, num_candidates):
        self.calls.append(list(texts))
        if len(self.calls) == 3:
            raise ConnectionError("gone")
        return [[] if "nothing" in text else candidates(text.upper()) for text in texts]


def test_fill_goes_on_where_it_stopped(store):
    texts = ["a", "b", "a", "nothing", "c", "d", "e", "f"]
    flaky = Flaky()
    with pytest.raises(ConnectionError, match="gone"):
        fill_store(store, texts, "vi", flaky, chunk_size=2, progress=False)
    assert len(store) == 4
    assert fill_store(store, texts, "vi", flaky, chunk_size=2, progress=False) == 3
    assert flaky.calls == [["a", "b"], ["nothing", "c"], ["d", "e"], ["d", "e"], ["f"]]
    assert fill_store(store, texts, "vi", flaky, progress=False) == 0
    assert len(flaky.calls) == 5


def test_fill_with_real_translator_and_critic(store, split_pairs, lexicon, capsys):
    train, test = split_pairs
    memory, critic = TranslationMemory.fit(train), HeuristicCritic(lexicon)
    texts = [text for language, text, _ in test if language == "id"]
    fill_store(store, texts, "id", memory, num_candidates=3)
    assert "memory [id]" in capsys.readouterr().err
    assert fill_store(store, texts, "id", memory, critic, num_candidates=3, progress=False) == 0
    assert store.missing_scores("id", texts, critic) == []
    stored = store.get("id", texts, critic=critic)
    fresh = memory.translate(texts, "id", 3)
    assert [[c.text for c in row] for row in stored] == [[c.text for c in row] for row in fresh]
    judged = critic.judge(texts, "id", [[c.text for c in row] for row in fresh])
    assert [[c.scores for c in row] for row in stored] == judged


def test_fill_refuses_answers_that_do_not_fit(store):
    class Short(Flaky):
        def translate(self, texts, language, num_candidates):
            return [[]]

    with pytest.raises(ValueError, match="'flaky' gave 1 answers; expected 2"):
        fill_store(store, ["a", "b"], "vi", Short(), progress=False)
    assert len(store) == 0
