"""`lira inspect` and `lira validate`."""

import json

import pytest
import tiny_lira
from typer.testing import CliRunner

from lira_hf.cli.inspect import read_texts
from lira_hf.cli.main import app
from lira_hf.data import Query, write_beir


@pytest.fixture
def lira():
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def parts(tmp_path):
    folder = tmp_path / "encoder"
    tiny_lira.encoder("bert").save_pretrained(folder)
    tiny_lira.word_tokenizer().save_pretrained(folder)
    return folder


def test_validate_lists_everything_in_one_pass(lira, tmp_path):
    good, bad = tmp_path / "good.tsv", tmp_path / "bad.tsv"
    good.write_text("language\ttext\tenglish\nvi\ta\tb\n", encoding="utf-8")
    bad.write_text("language\ttext\tenglish\nxx\ta\tb\nvi\t\tb\nvi\ta\n", encoding="utf-8")
    assert lira("validate", good).exit_code == 0
    result = lira("validate", good, bad, tmp_path / "none", "--json", tmp_path / "problems.json")
    assert result.exit_code == 1
    output = " ".join(result.stdout.split())
    for row, field in ((2, "language"), (3, "text")):
        assert f"bad.tsv, row {row}, field `{field}`" in output
    assert "bad.tsv, row 4: got 2 cells; expected 3 cells" in output
    assert "4 problems in 3 files or folders" in output
    problems = json.loads((tmp_path / "problems.json").read_text())
    assert [problem["row"] for problem in problems] == [2, 3, 4, None]


def test_inspect_counts_documents_by_their_language(tmp_path):
    corpus, queries = {"a": "the cat", "b": "con mèo", "c": "the dog"}, {"q": Query("mèo", "vi")}
    write_beir(tmp_path, corpus, queries, {"test": {"q": {"b": 1}}}, document_languages={"b": "vi"})
    texts, english = read_texts(tmp_path, "test")
    assert (texts, english) == ({"vi": ["mèo", "con mèo"], "en": ["the cat", "the dog"]}, None)


def test_inspect_prints_a_table_for_each_backbone(lira, parts, tmp_path):
    data = tmp_path / "pairs.tsv"
    rows = ["ur\tبلی cat\tthe cat", "ur\tdog\tdog", "vi\tthe mat sat on\tmat"]
    data.write_text("\n".join(["language\ttext\tenglish", *rows]) + "\n", encoding="utf-8")
    arguments = ("inspect", data, "--encoder", parts, "--anchor", parts, "--base", parts, "--candidates", "3")
    result = lira(*arguments, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "multilingual encoder" in result.stdout
    assert "3 texts: " in result.stdout
    assert "9 texts (3 candidates each): " in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["language"] for row in report["multilingual encoder"]["languages"]] == ["ur", "vi"]
    assert [row["language"] for row in report["English encoder"]["languages"]] == ["en"]
    assert report["multilingual encoder"]["languages"][0]["unknown"] == pytest.approx(1 / 3)
    assert "estimate" not in report["base LM"]
    quick = lira(*arguments, "--no-estimate")
    assert "tokens a second" not in quick.stdout


def test_inspect_a_beir_folder(lira, parts, tiny_data):
    result = lira("inspect", tiny_data, "--encoder", parts, "--split", "dev", "--no-estimate")
    assert result.exit_code == 0, result.output
    for tag in ("en", "ur", "vi"):
        assert f" {tag} " in result.stdout


def test_inspect_says_what_is_wrong(lira, parts, tmp_path):
    empty = tmp_path / "empty.tsv"
    empty.write_text("language\ttext\tenglish\nxx\ta\tb\n", encoding="utf-8")
    result = lira("inspect", empty, "--encoder", parts)
    assert result.exit_code == 1
    assert "1 problem in the data" in " ".join(result.stderr.split())
    data = tmp_path / "pairs.tsv"
    data.write_text("language\ttext\tenglish\nvi\ta\tb\n", encoding="utf-8")
    tiny_lira.encoder("bert").save_pretrained(tmp_path / "bare")
    result = lira("inspect", data, "--encoder", tmp_path / "bare")
    assert result.exit_code == 1
    assert "has no tokenizer" in result.stderr


def test_inspect_refuses_a_file_of_another_kind(lira, parts, tmp_path, caplog):
    """It was read as a catalogue, whose keywords the first message then asked for."""
    file = tmp_path / "texts.csv"
    file.write_text("id,text,language\n1,derv,vi\n")
    result = lira("inspect", file, "--encoder", parts)
    assert result.exit_code == 1
    assert "texts.csv: got a file ending in '.csv' with the columns ['id', 'text', 'language']; exp" in result.stderr
    assert "or gettext catalogues" in result.stderr
    assert "msgid" not in caplog.text + result.output
