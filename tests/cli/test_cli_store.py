"""`lira store`: statistics, export, import, merging, and bad input."""

import json

import pytest
from typer.testing import CliRunner

from lira_hf.cli.store import store_app
from lira_hf.translation import Candidate, CandidateStore, Identity


@pytest.fixture
def run():
    """`run(*arguments)`: the command in this process."""
    return lambda *arguments: CliRunner().invoke(store_app, [str(argument) for argument in arguments])


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "c.sqlite"
    who, judge = Identity("chat [q]", "c1"), Identity("judge", "j1")
    with CandidateStore(path) as opened:
        opened.add("vi", [("nhà", [Candidate("house", "llm", "chat"), Candidate("home", "llm", "chat")])], who)
        opened.add("th", [("บ้าน", [])], who, meta={"model": "Qwen [8B]"})
        opened.add_scores("vi", [("nhà", "home", (7, 8, 9))], judge)
    return path


def test_stats(run, store, tmp_path):
    result = run("stats", store, "--json", tmp_path / "stats.json")
    assert result.exit_code == 0, result.output
    for cell in ("vi", "2.00", "judge 50%, 7.00 / 8.00 / 9.00", "chat [q]", '{"model": "Qwen [8B]"}'):
        assert cell in result.stdout
    figures = json.loads((tmp_path / "stats.json").read_text())
    assert figures["languages"]["th"]["without_candidates"] == 1
    assert figures["translators"] == [{"name": "chat [q]", "fingerprint": "c1", "meta": {"model": "Qwen [8B]"}}]


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl", "x"])
def test_export_and_import(run, store, tmp_path, name):
    target, copy = tmp_path / name, tmp_path / "copy.sqlite"
    assert run("export", store, target).stdout.startswith(f"3 rows in {target}")
    result = run("import", copy, target, "-l", "vi")
    assert result.stdout.strip() == "2 rows read, 2 candidates and 1 scores new, 0 rows skipped"
    with CandidateStore(copy, read_only=True) as opened:
        assert opened.languages() == ["vi"]
    assert "0 candidates" in run("import", copy, target, "--on-conflict", "newer").stdout


def test_merge(run, store, tmp_path):
    result = run("merge", tmp_path / "all.sqlite", store, store)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{store}: 3 rows read, 2 candidates and 1 scores new, 0 rows skipped",
        f"{store}: 3 rows read, 0 candidates and 0 scores new, 0 rows skipped",
    ]


def test_bad_input_ends_with_one_message(run, store, tmp_path):
    wrong = tmp_path / "wrong [x].jsonl"
    row = {"language": "vi", "text": "mới", "translator": "t", "fingerprint": "1", "rank": 0, "candidate": "new"}
    wrong.write_text(json.dumps(row | {"kind": "llm"}) + "\n" + json.dumps(row) + "\n")
    for arguments, message in (
        (("import", store, wrong), f"{wrong}, row 2: kind is None"),
        (("import", tmp_path / "new.sqlite", tmp_path / "none.jsonl"), "none.jsonl isn't there"),
        (("merge", tmp_path / "new.sqlite", store, tmp_path / "none.sqlite"), "none.sqlite isn't there"),
        (("merge", store, store), "is the store itself"),
        (("stats", tmp_path / "none.sqlite"), "none.sqlite isn't there"),
        (("export", store, tmp_path / "x.parquet", "-l", "ja"), "has no texts in ['ja']"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1, result.output
        assert isinstance(result.exception, SystemExit)
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
    assert not (tmp_path / "new.sqlite").exists()
    result = run("import", store, wrong, "--on-error", "skip")
    assert result.exit_code == 0
    assert "1 candidates and 0 scores new, 1 rows skipped" in result.stdout
    assert f"{wrong}, row 2: kind is None" in result.stdout
