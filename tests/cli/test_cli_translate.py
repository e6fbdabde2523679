"""`lira translate` and `lira judge`: every kind of translator and critic into one store, and what is wrong with a
call."""

import json
import sys

import pytest
from chat_server import ChatServer
from typer.testing import CliRunner

from lira_hf.cli.main import app
from lira_hf.translation import CandidateStore, Identity, TranslationMemory


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LIRA_TEST_KEY", "sk-secret")


@pytest.fixture
def lira():
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("con meo\n\ncon cho\ncon meo\n", encoding="utf-8")
    return path


def answer(asked, _):
    if "candidates" in asked.data:
        grades = {"s": 9, "e": 8, "p": 7}
        return json.dumps({"scores": [{"candidate": one["candidate"], **grades} for one in asked.data["candidates"]]})
    return json.dumps({"translations": [asked.data["text"].upper(), asked.data["text"][::-1]]})


def test_an_endpoint_translates_and_judges(lira, texts, tmp_path):
    path = tmp_path / "store.sqlite"
    with ChatServer(answer) as server:
        common = (texts, "--store", path, "--language", "vi", "--endpoint", server.url, "--model", "owner/m")
        common += ("--key-env", "LIRA_TEST_KEY", "--prices", "1", "2")
        translated = lira("translate", *common)
        assert translated.exit_code == 0, translated.output
        assert "vi: 2 of 2 texts translated now, 0 failed" in translated.stdout
        assert "vi: 2 calls" in translated.stdout
        assert "cost: " in translated.stdout
        judged = lira("judge", *common)
        assert "vi: 2 of 2 texts judged now, 0 failed" in judged.stdout
        again = lira("translate", *common)
        assert "vi: 0 of 2 texts translated now" in again.stdout
        assert len(server.asked) == 4
    assert "sk-secret" not in translated.output + judged.output
    with CandidateStore(path, read_only=True) as store:
        (critic,) = store.stats()["critics"]
        row = store.get("vi", ["con meo"], critic=Identity(critic["name"], critic["fingerprint"]))[0]
        assert [(one.text, one.scores) for one in row] == [("CON MEO", (9, 8, 7)), ("oem noc", (9, 8, 7))]
    stats = lira("store", "stats", path)
    assert stats.exit_code == 0
    assert "vi" in stats.stdout


def test_a_command_a_saved_translator_and_consensus(lira, texts, tmp_path):
    path, memory = tmp_path / "store.sqlite", tmp_path / "memory"
    TranslationMemory.fit([("vi", "con meo", "the cat"), ("vi", "con cho", "the dog")]).save(memory)
    script = tmp_path / "reverse.py"
    script.write_text("import sys\nfor line in sys.stdin: print(line.rstrip()[::-1])\n", encoding="utf-8")
    common = (texts, "--store", path, "--language", "vi")
    assert lira("translate", *common, "--translator", memory).exit_code == 0
    result = lira("translate", *common, "--command", f"{sys.executable} {script}")
    assert "vi: 2 of 2 texts translated now, 0 failed" in result.stdout, result.output
    judged = lira("judge", *common, "--consensus")
    assert "vi: 2 of 2 texts judged now, 0 failed" in judged.stdout, judged.output
    with CandidateStore(path, read_only=True) as store:
        assert len(store.stats()["translators"]) == 2
        assert "oem noc" in [one.text for one in store.get("vi", ["con meo"])[0]]


def test_queries_of_a_beir_folder(lira, tiny_data, tmp_path):
    script = tmp_path / "upper.py"
    script.write_text("import sys\nfor line in sys.stdin: print(line.rstrip().upper())\n", encoding="utf-8")
    path = tmp_path / "store.sqlite"
    result = lira("translate", tiny_data, "--store", path, "--split", "dev", "--command", f"{sys.executable} {script}")
    assert result.exit_code == 0, result.output
    assert "ur: 12 of 12 texts translated now" in result.stdout
    assert "vi: 12 of 12 texts translated now" in result.stdout


def test_a_table_is_read_as_embed_reads_it(lira, tmp_path):
    """Not line by line: JSON and headers would be translated, paid for, and never found again."""
    file, path = tmp_path / "corpus.jsonl", tmp_path / "store.sqlite"
    rows = [{"title": "A", "text": "con meo", "language": "vi"}, {"text": "x", "language": "und"}, {"text": "kucing"}]
    lines = (json.dumps({"id": number} | row) for number, row in enumerate(rows))
    file.write_text("\n".join(lines), encoding="utf-8")
    result = lira("translate", file, "--store", path, "--language", "ms", "--command", "cat")
    assert result.exit_code == 0, result.output
    assert "ms: 1 of 1 texts translated now" in result.stdout
    assert "vi: 1 of 1 texts translated now" in result.stdout
    with CandidateStore(path, read_only=True) as store:
        assert [one.text for one in store.get("vi", ["A con meo"])[0]] == ["A con meo"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("เมือง\n".encode("cp874"), "row 1, field `text`: got bytes that are no UTF-8"),
        (b"\n", "without any text; expected at least one"),
        (None, "texts.txt'; expected a BEIR folder, a .jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_costs_nothing(lira, texts, tmp_path, content, message):
    texts.unlink()
    if content is not None:
        texts.write_bytes(content)
    result = lira("translate", texts, "--store", tmp_path / "store.sqlite", "--language", "th", "--command", "cat")
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "store.sqlite").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--language", "vi"), "got none of --translator, --seq2seq, --command, --endpoint; expected exactly one"),
        (("--language", "vi", "--command", "a", "--seq2seq", "b"), "got --seq2seq, --command of"),
        (("--command", "cat"), "got no language, here or in rows further down; expected a tag such as 'th'"),
        (("--language", "vi", "--endpoint", "http://127.0.0.1:9/v1"), "got --endpoint without --model"),
        (("--language", "vi", "--command", "no-such-program-here"), "no-such-program-here"),
        (("--language", "zzz", "--command", "cat"), "unknown language tag 'zzz'"),
    ],
)
def test_wrong_calls_are_named(lira, texts, tmp_path, arguments, message):
    result = lira("translate", texts, "--store", tmp_path / "store.sqlite", *arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_a_wrong_judge_is_named(lira, texts, tmp_path):
    result = lira("judge", texts, "--store", tmp_path / "store.sqlite", "--language", "vi")
    assert result.exit_code == 1
    assert "got none of --critic, --consensus, --endpoint" in " ".join(result.stderr.split())


def test_judging_makes_no_store(lira, texts, tmp_path):
    result = lira("judge", texts, "--store", tmp_path / "mistyped.sqlite", "--language", "vi", "--consensus")
    assert result.exit_code == 1
    assert "mistyped.sqlite isn't there; expected a candidate store" in " ".join(result.stderr.split())
    assert not (tmp_path / "mistyped.sqlite").exists()
