"""`lira validate`: every kind of data is recognised, counted, and everything wrong with it told in one pass."""

import json
import sqlite3

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lira_hf.cli.main import app
from lira_hf.cli.validate import KINDS
from lira_hf.data import FeatureCache, SimilarityPair, write_beir, write_sts
from lira_hf.data.validation import DATA_KINDS, check_data
from lira_hf.translation import Candidate, CandidateStore, Identity, Score
from lira_hf.translation.store_exchange import export_store


WHO = Identity("t", "1")
CRITIC = Identity("judge", "1")


@pytest.fixture
def validate(tmp_path):
    """Exit code, output on one line, and (row, field, got) of each problem."""

    def run(*arguments):
        report = tmp_path / "problems.json"
        report.unlink(missing_ok=True)
        result = CliRunner().invoke(app, ["validate", *map(str, arguments), "--json", str(report)])
        problems = json.loads(report.read_text()) if report.exists() else None
        found = problems and [(problem["row"], problem["field"], problem["got"]) for problem in problems]
        return result.exit_code, " ".join(result.output.split()), found

    return run


def lines(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store.sqlite"
    with CandidateStore(path) as opened:
        opened.add("ur", [("a", [Candidate("x", "k", "t"), Candidate("y", "k", "t")]), ("b", [])], WHO)
        opened.add("vi", [("c", [Candidate("z", "k", "t")])], WHO)
        opened.add_scores("ur", [("a", "x", Score(1, 2, 3)), ("a", "y", Score(1, 2, 3))], CRITIC)
        opened.add("ur", [("a", [Candidate("x", "k", "t")])], WHO)
    return path


def test_scored_pairs(validate, tmp_path):
    for suffix in (".tsv", ".csv", ".jsonl", ".parquet"):
        path = tmp_path / f"sts{suffix}"
        write_sts(path, [SimilarityPair("a", "b", 1.0, "en", "ur"), SimilarityPair("a", "b", 5.0, "en")])
        code, output, found = validate(path)
        assert (code, found) == (0, [])
        assert (
            f"sts{suffix}: sts; 4 right (no language 1, en 2, ur 1); 2 pairs, scores from 1 to 5; problems 0" in output
        )
    path = lines(tmp_path / "bad.csv", "sentence1,sentence2,score", ",b,x", "a,b", "a,b,1")
    assert validate(path)[::2] == (
        1,
        [(2, "sentence1", "''"), (2, "score", "'x'"), (3, None, "2 cells")],
    )


def test_conversations(validate, tmp_path):
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    good = {"messages": [{"role": "system", "content": "s"}, user, answer], "language": "ur"}
    call = {"messages": [user, {"role": "assistant", "content": None, "tool_calls": [{}]}, answer]}
    path = lines(tmp_path / "chat.jsonl", good, call, {"messages": [user, {**answer, "content": [{"text": "a"}]}]})
    code, output, found = validate(path)
    assert (code, found) == (0, [])
    assert "chat; 3 right (no language 2, ur 1); 3 rows of messages; problems 0" in output
    path = lines(
        tmp_path / "bad.jsonl",
        {"messages": [{"role": "human", "content": "q"}, {"role": "assistant", "content": " "}]},
        {"messages": []},
        {"messages": [user]},
        {"messages": [user, {"role": "system", "content": "s"}, answer, "x"]},
        {"prompt": "p", "completion": "c"},
        {"text": "x"},
        "{",
        {**good, "language": "xx"},
    )
    code, _, found = validate(path)
    assert code == 1
    assert [(row, field) for row, field, _ in found] == [
        (1, "messages[0].role"),
        (1, "messages[1].content"),
        (2, "messages"),
        (3, "messages"),
        (4, "messages[1].role"),
        (4, "messages[3]"),
        (5, None),
        (6, None),
        (7, None),
        (8, "language"),
    ]
    path = lines(
        tmp_path / "pairs.jsonl",
        {"prompt": "p", "completion": "c"},
        {"prompt": [user], "completion": [answer]},
        {"prompt": [user], "completion": "c"},
        {"prompt": "", "completion": [user]},
    )
    got = [(row, field) for row, field, _ in validate(path)[2]]
    assert got == [(3, None), (4, "prompt"), (4, "completion"), (4, None)]


def test_candidates(validate, store, tmp_path):
    with CandidateStore(store, read_only=True) as opened:
        for name in ("c.jsonl", "c.parquet"):
            export_store(opened, tmp_path / name)
            code, output, found = validate(tmp_path / name)
            assert (code, found) == (0, [])
            assert "candidates; 3 right (ur 2, vi 1); problems 0" in output
        export_store(opened, tmp_path / "set", format="dataset")
        assert validate(tmp_path / "set")[0] == 0
    rows = (tmp_path / "c.jsonl").read_text().splitlines()
    lines(tmp_path / "c.jsonl", *rows[:1])
    assert "isn't the file that c.jsonl.sha256 was written for" in validate(tmp_path / "c.jsonl")[2][0][2]
    for name in ("c.jsonl", "c.parquet"):
        (tmp_path / f"{name}.sha256").unlink()
    bad = json.loads(rows[0]) | {"rank": -1, "kind": ""}
    code, _, found = validate(lines(tmp_path / "c.jsonl", rows[0], bad, "{"))
    assert code == 1
    assert [(row, got.split()[0]) for row, _, got in found] == [(2, "rank"), (2, "kind"), (3, "it")]
    (tmp_path / "c.parquet").write_bytes(b"no")
    assert "expected a Parquet file" in validate(tmp_path / "c.parquet", "--kind", "candidates")[1]


def test_a_store(validate, store, tmp_path):
    code, output, found = validate(store)
    assert (code, found) == (0, [])
    assert (
        "store; 3 right (ur 2, vi 1); schema version 3; 2 candidates; 2 scores; 1 texts without candidates" in output
    )
    assert "1 scores of candidates that were replaced" in output
    with sqlite3.connect(store) as db:
        db.execute("DELETE FROM texts WHERE text = 'c'")
        db.execute("UPDATE candidates SET text = 'other' WHERE text = 'x'")
        db.execute("UPDATE scores SET semantic = 11")
        db.execute("DELETE FROM asked WHERE text_id = 1")
        db.execute("UPDATE translators SET meta = '[]'")
    db.close()
    code, _, found = validate(store)
    assert code == 1
    assert [(field, got.split(" name ")[0]) for _, field, got in found] == [
        ("text 3", "1 rows of asked"),
        ("text 3", "1 rows of candidates"),
        ("text 1", "1 candidates of a translator that wasn't asked"),
        ("text 1", "the text 'other' under the key of another"),
        ("text 1", "a row of scores that isn't as it was written"),
        ("text 1", "a row of scores that isn't as it was written"),
        ("text 1", "semantic is 11.0"),
        ("text 1", "semantic is 11.0"),
        (None, "meta of 't' is '[]'"),
    ]


def test_a_store_that_is_none_or_damaged(validate, store, tmp_path):
    (tmp_path / "text.sqlite").write_text("no database, but long enough to be looked at by SQLite" * 40)
    assert "isn't a SQLite file" in validate(tmp_path / "text.sqlite")[1]
    with CandidateStore(store) as opened:
        opened.add("ur", [(f"text {n}", [Candidate(f"y{n}", "k", "t")]) for n in range(2000)], WHO)
    data = bytearray(store.read_bytes())
    data[5 * 4096 : 40 * 4096] = b"\xff" * (35 * 4096)
    store.write_bytes(data)
    code, output, _ = validate(store)
    assert code == 1
    assert "restore a copy" in output
    with sqlite3.connect(tmp_path / "new.sqlite") as db:
        db.execute(f"PRAGMA application_id = {0x4C695241}")
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert validate(tmp_path / "new.sqlite")[2] == [(None, None, "has schema version 99")]


def test_a_feature_cache(validate, tmp_path):
    for name in ("source", "anchor"):
        cache = FeatureCache(tmp_path / "features" / name, (2, 3), "f")
        cache.append(["a", "b", "c"], np.arange(18).reshape(3, 2, 3))
        cache.close()
    code, output, found = validate(tmp_path / "features")
    assert (code, found) == (0, [])
    assert "features; anchor: 3 texts; source: 3 texts; problems 0" in output
    data = tmp_path / "features" / "source" / "features.bin"
    raw = bytearray(data.read_bytes())
    raw[13] ^= 1
    data.write_bytes(raw[:-1])
    for path in (tmp_path / "features", data.parent, data.with_name("index.sqlite")):
        code, _, found = validate(path)
        assert (code, found) == (
            1,
            [(None, "record 1", "a damaged record"), (None, "record 2", "the file's end after 11 bytes")],
        )
    data.with_name("index.sqlite").write_text("no index")
    assert "an index that can't be read" in validate(data.parent)[1]
    data.unlink()
    assert validate(data.parent, "--kind", "features")[2] == [(None, None, "no such file")]


def test_a_recipe(validate, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_beir("data", {"d": "x"}, {"q": "x"}, {"train": {"q": {"d": 1}}, "dev": {"q": {"d": 1}}})
    (tmp_path / "encoder").mkdir()
    recipe = {"encoder": "./encoder", "data": "data", "store": "store.sqlite", "critic": "judge", "output_dir": "out"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | {"anchor": "BAAI/bge-base-en-v1.5", "learning_rate": "1e-4"}))
    assert validate(path)[::2] == (0, [])
    assert not (tmp_path / "out").exists()
    wrong = {"anchor": "some/where/else", "critic": "llm", "stage": "laser", "learnin_rate": 1, "train_split": "gone"}
    path.write_text(yaml.safe_dump(recipe | wrong | {"config": {"path_wait": 1}}, sort_keys=False))
    code, output, found = validate(path)
    assert code == 1
    assert [(row, field) for row, field, _ in found] == [
        (None, None),
        (7, "stage"),
        (10, "config"),
        (6, "anchor"),
        (2, "data"),
        (4, "critic"),
    ]
    for part in ("'learnin_rate'", "'laser'", "'path_wait'", "'some/where/else'", "without qrels/gone.tsv", "judge"):
        assert part in output
    path.write_text(yaml.safe_dump({"model": "runs/out/arca", "store": "none.sqlite"}))
    found = validate(path)[2]
    assert [field for _, field, _ in found] == [None, "model", "store"]
    assert "data is empty" in found[0][2]
    path.write_text("a: [1")
    assert "is not valid YAML" in validate(path)[1]


def test_a_folder_of_several_things(validate, store, tmp_path):
    lines(tmp_path / "pairs.tsv", "language\ttext\tenglish", "vi\ta\tb", "ur\t\tb")
    write_sts(tmp_path / "sts.csv", [SimilarityPair("a", "b", 1.0)])
    (tmp_path / "notes.txt").write_text("x")
    code, output, found = validate(tmp_path)
    assert (code, found) == (1, [(3, "text", "an empty cell")])
    for part in ("pairs.tsv: parallel; 1 right (vi 1)", "sts.csv: sts;", "store.sqlite: store;"):
        assert part in output
    assert "1 problem in 1 file or folder" in output


def test_a_beir_folder_is_counted(validate, tiny_data):
    code, output, _ = validate(tiny_data)
    assert code == 0
    assert "beir; " in output
    assert " documents; splits dev" in output
    assert validate(tiny_data / "qrels" / "dev.tsv")[0] == 0


def test_the_kind_may_be_said(validate, tmp_path):
    path = lines(tmp_path / "data.tsv", "a\tb", "1\t2")
    assert [field for _, field, _ in validate(path)[2]] == ["language", "text", "english"]
    assert [field for _, field, _ in validate(path, "--kind", "sts")[2]] == ["sentence1", "sentence2", "score"]
    assert "name the file itself" in validate(tmp_path, "--kind", "chat")[1]
    for kind in KINDS:
        assert validate(tmp_path / "none", "--kind", kind)[0] == 1
    code, output, found = validate(path, "--kind", "excel")
    assert (code, found) == (1, None)
    assert "got --kind 'excel'" in output
    assert all(f"{kind}: " in output for kind in KINDS)
    code, output, _ = validate(lines(tmp_path / "x.jsonl", {"a": 1}))
    assert code == 1
    assert "with the columns ['a']; expected a BEIR folder, " in output
    with pytest.raises(ValueError, match="got kind='store'; expected one of"):
        check_data(path, "store")
    assert set(DATA_KINDS) < set(KINDS)


def test_a_table_of_which_nothing_can_be_read_says_why(tmp_path):
    file = tmp_path / "chat.jsonl"
    file.write_bytes('{"prompt": "เมือง", "completion": "x"}\n'.encode("cp874"))
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert result.exit_code == 1
    assert "chat.jsonl, row 1: got bytes that are no UTF-8" in result.stdout
