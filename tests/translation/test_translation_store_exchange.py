"""The candidate store: export, import, merging, statistics, several writers, kills in the middle."""

import itertools
import json
import multiprocessing
import os
import re
import signal
import sqlite3

import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict, load_dataset, load_from_disk

from lira_hf.translation import Candidate, CandidateStore, Identity, Score, StoreError
from lira_hf.translation import store_exchange as exchange
from lira_hf.translation import store_import as importing
from lira_hf.translation import store_schema as schema
from lira_hf.translation.store_exchange import export_store, store_dataset, store_rows
from lira_hf.translation.store_import import import_store, merge_store
from lira_hf.translation.store_statistics import store_statistics


FIRST, SECOND = Identity("memory", "m1"), Identity("chat", "c1")
JUDGE, OTHER = Identity("judge", "j1"), Identity("judge", "j2")
GOOD = {"language": "vi", "text": "nhà", "translator": "t", "fingerprint": "1", "rank": 0, "candidate": "house",
        "kind": "llm"}  # fmt: skip


def candidates(*texts, kind="memory", score=None):
    return [Candidate(text, kind, kind, score) for text in texts]


def contents(path):
    """All that a store means, read by plain SQL: answers, candidates, the scores of these, who gave them."""
    with sqlite3.connect(path) as db:
        text, who = "SELECT t.language, t.text", "w.name, w.fingerprint"
        answers = f"{text}, {who}, a.created FROM asked a JOIN texts t ON t.id = text_id JOIN translators w"
        options = (
            f"{text}, {who}, rank, c.text, kind, translator, score FROM candidates c JOIN texts t ON t.id = text_id"
        )
        scores = f"{text}, c.text, {who}, semantic, emotional, pragmatic, s.created FROM scores s JOIN texts t"
        return {
            "answers": sorted(db.execute(f"{answers} ON w.id = translator_id"), key=repr),
            "candidates": sorted(db.execute(f"{options} JOIN translators w ON w.id = translator_id"), key=repr),
            "scores": sorted(
                set(
                    db.execute(
                        f"{scores} ON t.id = s.text_id JOIN candidates c ON c.text_id = t.id "
                        "AND c.key = candidate_key JOIN critics w ON w.id = critic_id"
                    )
                )
            ),
            "translators": list(db.execute("SELECT name, fingerprint, meta FROM translators ORDER BY id")),
            "critics": sorted(db.execute("SELECT name, fingerprint, meta FROM critics"), key=repr),
        }


@pytest.fixture
def clock(monkeypatch):
    """Every reading of the clock is a second later."""
    seconds = itertools.count(1_700_000_000)
    monkeypatch.setattr("lira_hf.translation.store_writing.time.time", lambda: next(seconds) + 0.5)


@pytest.fixture
def store(tmp_path, clock):
    """Two translators, two critics, an empty answer, odd texts, a text that only the second translator knows."""
    with CandidateStore(tmp_path / "full.sqlite") as opened:
        opened.add("vi", [("nhà", candidates("house", "home", score=0.1 + 0.2))], FIRST)
        odd = 'a\u2028b\r\n"\x00\ud800'
        opened.add(
            "vi", [("mèo", []), (odd, candidates("line\nbreak", "")), ("chỉ", [])], SECOND, meta={"k": [1, "ề"]}
        )
        opened.add("vi", [("nhà", candidates("home", "building", kind="llm"))], SECOND)
        opened.add("zh-Hant", [("屋", candidates("house"))], FIRST)
        opened.add_scores("vi", [("nhà", "home", (7, 1 + 2e-15, 10)), ("nhà", "house", (1, 2, 3))], JUDGE)
        opened.add_scores("vi", [("nhà", "home", (2, 2, 2))], OTHER, meta={"model": "big"})
        opened.add_scores("zh-Hant", [("屋", "house", (9, 9, 9))], OTHER)
        yield opened


def parquet_and_back(store, folder):
    assert export_store(store, folder / "new" / "x.parquet") == 9
    return folder / "new" / "x.parquet"


def jsonl_and_back(store, folder):
    assert export_store(store, folder / "x.jsonl") == 9
    assert len((folder / "x.jsonl").read_bytes().splitlines()) == 9
    return folder / "x.jsonl"


def folder_and_back(store, folder):
    assert export_store(store, folder / "saved") == 9
    assert load_from_disk(str(folder / "saved")).num_rows == 9
    with pytest.raises(StoreError, match="is a folder that is there"):
        export_store(store, folder / "saved")
    return folder / "saved"


def dataset_and_back(store, folder):
    return store_dataset(store, folder / "x.arrow")


def split_and_back(store, folder):
    rows = store_dataset(store, folder / "x.arrow")
    return DatasetDict({"a": rows.select(range(0, 9, 2)), "b": rows.select(range(1, 9, 2))})  # answers in two pieces


def streamed_and_back(store, folder):
    return store_dataset(store, folder / "x.arrow").shuffle(seed=1).to_iterable_dataset()


@pytest.mark.parametrize(
    "way", [parquet_and_back, jsonl_and_back, folder_and_back, dataset_and_back, split_and_back, streamed_and_back]
)
def test_round_trip_is_equal(store, tmp_path, way, monkeypatch):
    monkeypatch.setattr(exchange, "_BATCH_ROWS", 2)  # answers are cut by batches, and by transactions
    monkeypatch.setattr(importing, "_CHUNK_ROWS", 3)
    source = way(store, tmp_path)
    with CandidateStore(tmp_path / "copy.sqlite") as copy:
        report = import_store(copy, source)
        assert (report.rows, report.candidates, report.scores, report.skipped) == (9, 7, 4, 0)
        before, after = contents(store.path), contents(copy.path)
        if way is streamed_and_back:  # shuffled: who came first is lost, nothing else
            before["translators"], after["translators"] = sorted(before["translators"]), sorted(after["translators"])
        else:
            texts = ["nhà", "mèo", "?"]
            assert copy.get("vi", texts, critic=JUDGE) == store.get("vi", texts, critic=JUDGE)
        assert before == after
        assert after["answers"][0][-1] > 1_700_000_000
        assert copy.missing("vi", ["mèo", "chỉ", "nhà", "?"], SECOND) == ["?"]
        again = import_store(copy, source)
        assert (again.candidates, again.scores) == (0, 0)
        assert contents(copy.path) == after or way is streamed_and_back


def test_others_can_read_an_export(store, tmp_path):
    export_store(store, tmp_path / "x.parquet", languages=["zh-Hant"])
    (row,) = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert {name: row[name] for name in ("language", "text", "candidate", "rank", "kind", "maker", "translator")} == {
        "language": "zh-Hant", "text": "屋", "candidate": "house", "rank": 0, "kind": "memory", "maker": "memory",
        "translator": "memory",
    }  # fmt: skip
    assert [(score["critic"], score["fingerprint"], score["semantic"]) for score in row["scores"]] == [
        ("judge", "j2", 9)
    ]
    loaded = load_dataset("parquet", data_files=str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"][0]["scores"][0]["meta"] == '{"model": "big"}'
    export_store(store, tmp_path / "x.jsonl", format="parquet")  # the format is stronger than the ending
    assert pq.read_metadata(tmp_path / "x.jsonl").num_rows == 9
    export_store(store, tmp_path / "x.jsonl")  # and a file is replaced
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().split("\n") if line]
    assert [row["rank"] for row in rows if row["text"] == "mèo"] == [None]
    with pytest.raises(StoreError, match=r"has no texts in \['zh'\]; expected some of \['vi', 'zh-Hant'\]"):
        export_store(store, tmp_path / "y.parquet", languages=["zh", "vi"])
    with pytest.raises(ValueError, match="format is 'csv'; expected 'parquet', 'jsonl' or 'dataset'"):
        export_store(store, tmp_path / "y", format="csv")
    with pytest.raises(ValueError, match="y.csv, which ends in .csv; expected .parquet, .jsonl or a folder"):
        export_store(store, tmp_path / "y.csv")
    assert not (tmp_path / "y.csv").exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "y"))]  # nothing half made


def test_export_is_a_snapshot_and_never_whole_in_memory(store, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "_BATCH_ROWS", 2)
    rows = store_rows(store)
    first = next(rows)
    store.add("vi", [("later", candidates("later"))], SECOND)  # the reader is in nobody's way
    batches = [first, *rows]
    assert max(map(len, batches)) == 2
    assert sum(map(len, batches)) == 9
    assert "later" not in {row["text"] for batch in batches for row in batch}


def write_lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


WRONG = [
    ("{no json", "it isn't JSON"),
    ("[1]", r"it is \[1\]; expected an object"),
    (GOOD | {"language": ""}, "language is ''; expected a string that isn't empty"),
    (GOOD | {"text": None}, "text is None; expected a string"),
    (GOOD | {"rank": -1, "score": "x"}, "rank is -1; .*; and score is 'x'; expected a finite number"),
    (GOOD | {"rank": True}, "rank is True; expected a whole number"),
    (GOOD | {"score": float("nan")}, "score is nan"),
    (GOOD | {"candidate": None}, "rank is 0 without a candidate"),
    (GOOD | {"created": 1.5}, "created is 1.5; expected whole seconds"),
    (GOOD | {"meta": "[]"}, r"meta is '\[\]'; expected a JSON object"),
    (GOOD | {"fingerprnt": 1}, r"unknown fields \['fingerprnt'\]; expected \['language'"),
    (GOOD | {"scores": [{"critic": "j", "fingerprint": "1", "semantic": 11, "emotional": 1, "pragmatic": None}]},
     r"scores\[0\]: semantic is 11; expected a number in 1..10; .*; and scores\[0\]: pragmatic is None"),
    (GOOD | {"scores": "none"}, "scores is 'none'; expected a list"),
    (GOOD | {"kind": None}, "kind is None"),
]  # fmt: skip


def test_every_wrong_row_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "_CHUNK_ROWS", 1)  # the first row, which is right, is a transaction by itself
    path = write_lines(tmp_path / "x.jsonl", GOOD, *(row for row, _ in WRONG), GOOD | {"text": "mèo"})
    with CandidateStore(tmp_path / "c.sqlite") as store:
        with pytest.raises(StoreError, match=f"{len(WRONG)} rows can't be imported; expected rows as") as caught:
            import_store(store, path)
        lines = str(caught.value).splitlines()[1:]
        for line, number, (_, message) in zip(lines, range(2, 2 + len(WRONG)), WRONG, strict=True):
            assert re.match(f"  {re.escape(str(path))}, row {number}: .*{message}", line), line
        assert len(store) == 0
        with pytest.raises(StoreError, match="3 rows can't be imported; more may follow"):
            import_store(store, path, max_problems=3)
        report = import_store(store, path, on_error="skip", max_problems=4)
        assert (report.rows, report.candidates, report.skipped, len(report.problems)) == (2, 2, len(WRONG), 4)
        assert [row[0].text for row in store.get("vi", ["nhà", "mèo"])] == ["house", "house"]
        assert store.get("vi", ["nhà"])[0][0].translator == "t"  # no maker given


def test_wrong_sources_and_arguments_are_named(tmp_path):
    with CandidateStore(tmp_path / "c.sqlite") as store:
        twice = write_lines(tmp_path / "x.jsonl", GOOD, GOOD, GOOD | {"candidate": "home"})
        with pytest.raises(StoreError, match="row 3: rank 0 is given twice, to 'house' and 'home'"):
            import_store(store, twice)
        (tmp_path / "bad.parquet").write_bytes(b"PAR1 not at all")
        (tmp_path / "empty").mkdir()
        for source, message in (
            (tmp_path / "bad.parquet", "bad.parquet can't be read .*; expected a Parquet file"),
            (tmp_path / "none.jsonl", "none.jsonl can't be read"),
            (tmp_path / "c.sqlite", "neither a folder nor a .parquet or .jsonl file"),
            (tmp_path / "empty", "empty holds no .parquet or .jsonl file"),
            (iter([GOOD]), "expected a path or a data set, which can be read twice"),
            (3, "the source is a int"),
        ):
            with pytest.raises(StoreError, match=message):
                import_store(store, source)
        for arguments in ({"on_error": "stop"}, {"on_conflict": "mine"}, {"max_problems": 0}):
            with pytest.raises(ValueError, match=f"{next(iter(arguments))} is "):
                import_store(store, twice, **arguments)
        assert len(store) == 0
        write_lines(twice, GOOD, GOOD | {"language": "th"})
        assert import_store(store, twice, languages=["th"]).rows == 1
        assert store.languages() == ["th"]
    with CandidateStore(tmp_path / "c.sqlite", read_only=True) as store, pytest.raises(StoreError, match="read-only"):
        import_store(store, twice)


def test_merge_brings_everything_once(store, tmp_path, clock):
    with CandidateStore(tmp_path / "other.sqlite") as other:
        other.add(
            "vi", [("nhà", candidates("villa", "hut", "cot")), ("mới", candidates("new"))], FIRST, meta={"pairs": 3}
        )
        other.add_scores("vi", [("nhà", "villa", (5, 5, 5)), ("mới", "new", (6, 6, 6))], JUDGE)
        other.add("vi", [("cũ", candidates("old"))], SECOND)
        before = contents(other.path)
        with CandidateStore(tmp_path / "kept.sqlite") as kept:
            for _ in range(2):
                merge_store(kept, store)
                report = merge_store(kept, other)
            assert (report.candidates, report.scores) == (0, 0)
            assert [c.text for c in kept.get("vi", ["nhà"], translator=FIRST)[0]] == ["house", "home"]
            assert kept.get("vi", ["mới"], critic=JUDGE)[0][0].scores == Score(6, 6, 6)
            assert not [row for row in contents(kept.path)["scores"] if row[2] == "villa"]
            assert kept.provenance()["translators"][0]["meta"] == {"pairs": 3}
            assert len(kept) == len(store) + 2
            report = merge_store(kept, other, on_conflict="newer")
            assert (report.candidates, report.scores) == (3, 1)
            assert [c.text for c in kept.get("vi", ["nhà"], translator=FIRST)[0]] == ["villa", "hut", "cot"]
            after = contents(kept.path)
            merge_store(kept, store, on_conflict="newer")  # older: changes nothing
            assert contents(kept.path) == after
            only = merge_store(CandidateStore(tmp_path / "th.sqlite"), store, languages=["zh-Hant"])
            assert (only.rows, only.scores) == (1, 1)
        assert contents(other.path) == before
        with pytest.raises(StoreError, match="is the store itself"):
            merge_store(store, CandidateStore(store.path, read_only=True))


def test_statistics_by_hand(store):
    figures = store_statistics(store)
    assert list(figures) == ["vi", "zh-Hant"]
    vi = figures["vi"]
    # nhà: house, home (memory), home, building (chat); the odd text: two; mèo and chỉ: none.
    counts = {
        name: vi[name] for name in ("texts", "candidates", "candidates_per_text", "without_candidates", "duplicates")
    }
    assert counts == {
        "texts": 4, "candidates": 6, "candidates_per_text": 1.5, "without_candidates": 2, "duplicates": 1
    }  # fmt: skip
    assert [(c["fingerprint"], c["judged"], c["semantic"], c["pragmatic"]) for c in vi["critics"]] == [
        ("j1", 2 / 5, 4.0, 6.5),
        ("j2", 1 / 5, 2.0, 2.0),
    ]
    assert [(c["judged"], c["emotional"]) for c in figures["zh-Hant"]["critics"]] == [(0.0, None), (1.0, 9.0)]


def test_meta_is_kept_and_checked(store):
    class Chat:
        name, fingerprint, meta = "chat", "c1", {"model": "Qwen", "temperature": 0.7}

    assert store.provenance()["translators"][1]["meta"] == {"k": [1, "ề"]}
    assert store.provenance()["critics"][0] == {"name": "judge", "fingerprint": "j1", "meta": {}}
    store.add("vi", [("a", [])], Chat())
    store.add("vi", [("b", [])], SECOND)  # says nothing about itself: what is known stays
    assert store.provenance()["translators"][1]["meta"] == Chat.meta
    with pytest.raises(TypeError, match=r"meta of 'chat' can't be written as JSON .*; expected strings"):
        store.add("vi", [("c", [])], SECOND, meta={"a": {1, 2}})
    with pytest.raises(TypeError, match="meta of 'judge' is 'big'; expected a dict"):
        store.add_scores("vi", [("nhà", "home", (1, 1, 1))], JUDGE, meta="big")
    assert store.missing("vi", ["c"], SECOND) == ["c"]


# Several processes

_fork = multiprocessing.get_context("fork")


def _run(*processes):
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def _add(path, number, barrier):
    who = Identity("writer", str(number))
    barrier.wait()
    with CandidateStore(path) as store:
        for start in range(0, 400, 20):
            texts = [f"{number} {i}" for i in range(start, start + 20)] + [
                f"shared {i}" for i in range(start, start + 20)
            ]
            store.add("vi", [(text, candidates(*(f"{text} {number} {k}" for k in range(3)))) for text in texts], who)
            store.add_scores("vi", [(text, f"{text} {number} 1", (number + 1, 1, 1)) for text in texts], JUDGE)


def test_four_writers_lose_nothing(tmp_path):
    path, barrier = tmp_path / "c.sqlite", _fork.Barrier(4)
    assert _run(*(_fork.Process(target=_add, args=(path, n, barrier)) for n in range(4))) == [0] * 4
    with CandidateStore(path, read_only=True) as store:
        assert len(store) == 5 * 400
        for number in range(4):
            texts = [f"{kind} {i}" for kind in (number, "shared") for i in range(400)]
            rows = store.get("vi", texts, translator=Identity("writer", str(number)), critic=JUDGE)
            assert [[c.text for c in row] for row in rows] == [[f"{t} {number} {k}" for k in range(3)] for t in texts]
            assert all([c.scores and c.scores.semantic for c in row] == [None, number + 1, None] for row in rows)


def _import(path, source, chunk):
    importing._CHUNK_ROWS = chunk
    with CandidateStore(path) as store:
        import_store(store, source)


def _die_importing(path, source, chunk, number):
    connect, count = schema.connect, itertools.count(1)

    def watched(*arguments):
        connection = connect(*arguments)
        connection.set_trace_callback(
            lambda statement: (
                os.kill(os.getpid(), signal.SIGKILL)
                if statement.startswith("INSERT INTO candidates") and next(count) == number
                else None
            )
        )
        return connection

    schema.connect = watched
    _import(path, source, chunk)


def test_a_killed_import_leaves_whole_transactions_and_is_finished_by_another(tmp_path):
    rows = [
        GOOD | {"text": f"text {i}", "rank": k, "candidate": f"{i} {k}", "created": 1_700_000_000 + i}
        for i in range(4000)
        for k in range(4)
    ]
    source, path = write_lines(tmp_path / "x.jsonl", *rows), tmp_path / "c.sqlite"
    CandidateStore(path).close()
    # The transactions of 99 rows cut answers in two.
    assert _run(_fork.Process(target=_die_importing, args=(path, source, 99, 1000))) == [-signal.SIGKILL]
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM candidates").fetchone()[0] == 990
        assert db.execute("SELECT count(*) FROM texts").fetchone()[0] == 248
    # Two processes at once finish it, each as if alone.
    assert _run(*(_fork.Process(target=_import, args=(path, source, 500)) for _ in range(2))) == [0, 0]
    assert len(contents(path)["candidates"]) == len(rows)
    with CandidateStore(path) as store:
        texts = [f"text {i}" for i in range(4000)]
        assert [[c.text for c in row] for row in store.get("vi", texts)] == [
            [f"{i} {k}" for k in range(4)] for i in range(4000)
        ]


def _export(store_path, target):
    # Dies when half of the rows are written.
    rows = exchange.store_rows
    exchange._BATCH_ROWS = 2

    def dying(*arguments):
        for number, batch in enumerate(rows(*arguments)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    exchange.store_rows = dying
    export_store(CandidateStore(store_path, read_only=True), target)


def test_a_killed_export_leaves_the_old_file(store, tmp_path):
    export_store(store, tmp_path / "x.jsonl")
    before = (tmp_path / "x.jsonl").read_bytes()
    assert _run(_fork.Process(target=_export, args=(store.path, tmp_path / "x.jsonl"))) == [-signal.SIGKILL]
    assert (tmp_path / "x.jsonl").read_bytes() == before
