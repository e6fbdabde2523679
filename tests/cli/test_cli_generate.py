"""`lira generate`: one question, a file, a person."""

import json
import re

import pytest
from tiny_lira import causal_with_processor
from typer.testing import CliRunner

from lira_hf.cli.main import app
from lira_hf.inference import CandidateSource, LiraGenerator
from lira_hf.translation import CandidateStore, TranslationMemory


LIMIT = {"max_new_tokens": 5, "do_sample": False}
SHORT = ("--max-new-tokens", 5)


@pytest.fixture
def lira():
    return lambda *arguments, **given: CliRunner().invoke(app, [str(argument) for argument in arguments], **given)


@pytest.fixture(scope="module")
def parts():
    return causal_with_processor()


@pytest.fixture(scope="module")
def checkpoint(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in parts:
        part.save_pretrained(folder)
    return folder


def refused(result, pattern):
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert re.search(pattern, " ".join(result.stderr.split())), result.stderr


def said(result):
    assert result.exit_code == 0, result.output
    return result.stdout.strip("\n")


def test_help(lira):
    result = lira("generate", "--help")
    assert result.exit_code == 0
    for option in ("--file", "--interactive", "--store", "--translator", "--critic", "--max-new-tokens", "--no-chat"):
        assert option in result.stdout


def test_one_question(lira, checkpoint, parts, tmp_path):
    generator = LiraGenerator(*parts)
    assert said(lira("generate", checkpoint, "the cat", "-l", "en", *SHORT)) == generator.generate(
        "the cat", "en", **LIMIT
    )
    plain = LiraGenerator(*parts, chat=False)
    found = said(lira("generate", checkpoint, "ঢাকা", "-l", "ben", "--no-chat", *SHORT))
    assert found == plain.generate("ঢাকা", "bn", **LIMIT)
    TranslationMemory.fit([("bn", "ঢাকা", "Dhaka city")]).save(tmp_path / "memory")
    options = ("--store", tmp_path / "new.sqlite", "--translator", tmp_path / "memory", "--no-chat")
    found = said(lira("generate", checkpoint, "ঢাকা", "-l", "bn", *options, *SHORT))
    with CandidateStore(tmp_path / "new.sqlite", read_only=True) as store:
        assert [item.text for item in store.get("bn", ["ঢাকা"])[0]] == ["Dhaka city"]
        source = CandidateSource(store)
        assert found == LiraGenerator(*parts, source, chat=False).generate("ঢাকা", "bn", **LIMIT)


def test_a_file_goes_on_and_tells_bad_rows(lira, checkpoint, parts, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"text": "the cat"}\n{"text": ""}\n{"id": "x", "text": "ঢাকা", "language": "bn"}\n')
    result = lira("generate", checkpoint, "--file", path, "-l", "en", *SHORT)
    assert result.exit_code == 1  # what could be asked is answered
    assert "row 2, field `text`: got ''; expected a text" in result.stdout
    assert "2 questions answered now, 0 were there, 1 rows left out" in result.stdout
    out = tmp_path / "questions.answers.jsonl"
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["answer"] for row in found] == LiraGenerator(*parts).generate(["the cat", "ঢাকা"], ["en", "bn"], **LIMIT)
    whole = out.read_bytes()
    out.write_bytes(whole[: whole.index(b"\n") + 20])  # killed in the second row
    path.write_text(path.read_text().replace('{"text": ""}', ""))
    result = lira("generate", checkpoint, "--file", path, "-l", "en", *SHORT)
    assert "1 questions answered now, 1 were there, 0 rows left out" in said(result)
    assert out.read_bytes() == whole
    refused(
        lira("generate", checkpoint, "--file", path, "-l", "en"), "is of the run .*same model, candidates and options"
    )


def test_a_conversation(lira, checkpoint, parts):
    generator = LiraGenerator(*parts)
    first = generator.generate("the cat", "en", **LIMIT)
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": first}]
    turns.append({"role": "user", "content": "ঢাকা"})
    typed = "the cat\n/language nonsense\n/language bn\nঢাকা\n/new\nঢাকা\n\n"
    result = lira("generate", checkpoint, "-i", "-l", "en", *SHORT, input=typed)
    lines = re.sub(r"\S+> ", "", said(result)).splitlines()
    assert lines[1] == first
    assert "unknown language tag 'nonsense'" in lines[2]
    assert lines[3] == generator.generate(turns, "bn", **LIMIT)
    assert lines[4] == generator.generate("ঢাকা", "bn", **LIMIT)
    assert lira("generate", checkpoint, "-i", *SHORT, input="").exit_code == 0  # end of file


def test_what_is_refused(lira, checkpoint, tiny_lira, tmp_path):
    for given in ((), ("a", "-i"), ("a", "--file", "b"), ("a", "--output", "b"), ("a", "--max-new-tokens", "0")):
        assert lira("generate", checkpoint, *given).exit_code == 2
    refused(lira("generate", checkpoint, "a", "-l", "nonsense"), "unknown language tag 'nonsense'")
    refused(lira("generate", checkpoint, "--file", tmp_path / "none.txt"), "none.txt', which is no file")
    refused(lira("generate", checkpoint, "a", "--critic", "judge"), "got the critic judge without a store")
    for part in tiny_lira():
        part.save_pretrained(tmp_path / "embedding")
    refused(lira("generate", tmp_path / "embedding", "a"), "has no base LM .*load an embedding-only one by AutoModel")


def test_a_file_without_a_question(lira, checkpoint, tmp_path):
    file = tmp_path / "questions.txt"
    file.write_text("\n")
    refused(lira("generate", checkpoint, "--file", file), "questions.txt' without a question; expected at least one")
