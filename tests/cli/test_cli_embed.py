"""`lira embed`, and `lira search --vectors`."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from lira_hf.cli.main import app
from lira_hf.inference import CandidateSource, LiraEmbedder, VectorFolder
from lira_hf.translation import CandidateStore, Identity, TranslationMemory


@pytest.fixture
def lira():
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tiny_lira, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny_lira():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(checkpoint, tiny_data, tmp_path_factory):
    """The documents of the tiny data as a folder of vectors."""
    folder = tmp_path_factory.mktemp("vectors") / "corpus"
    result = CliRunner().invoke(
        app, ["embed", str(checkpoint), str(tiny_data), "-o", str(folder), "--shard-rows", "20"]
    )
    assert result.exit_code == 0, result.output
    assert "48 of 48 texts embedded now, 0 were there" in result.stdout
    assert "holds 48 vectors of 40 dimensions, float32" in result.stdout
    return folder


def refused(result, *patterns):
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    for pattern in patterns:
        assert re.search(pattern, " ".join(result.stderr.split())), result.stderr


def content(path):
    folder = VectorFolder(path)
    places = range(len(folder.shards))
    rows = [row for place in places for row in folder.table(place).select(["id", "text", "language"]).to_pylist()]
    return rows, np.concatenate([folder.vectors(place) for place in places])


def test_embed_a_corpus_and_go_on(lira, checkpoint, corpus, tiny_data, tiny_lira):
    rows, vectors = content(corpus)
    assert (rows[0]["id"], rows[0]["language"]) == ("d0", "en")  # documents of a BEIR folder are English
    expected = LiraEmbedder(*tiny_lira()).encode([row["text"] for row in rows], "en")
    np.testing.assert_allclose(vectors, expected, atol=2e-6)
    again = lira("embed", checkpoint, tiny_data, "-o", corpus)
    assert "0 of 48 texts embedded now, 48 were there" in again.stdout
    refused(
        lira("embed", checkpoint, tiny_data, "-o", corpus, "--precision", "int8"), "got precision 'int8'.*'float32'"
    )
    refused(lira("embed", checkpoint, tiny_data, "-o", corpus, "-l", "vi"), "got 48 ids .*another text, language or")


def test_embed_queries_with_a_store_and_its_critic(lira, checkpoint, tiny_data, tiny_lira, tmp_path):
    options = ("--part", "queries", "--store", tiny_data / "store.sqlite", "--critic", "judge:1")
    result = lira("embed", checkpoint, tiny_data, "-o", tmp_path / "v", "--precision", "float16", *options)
    assert result.exit_code == 0, result.output
    rows, vectors = content(tmp_path / "v")
    with CandidateStore(tiny_data / "store.sqlite", read_only=True) as store:
        embedder = LiraEmbedder(*tiny_lira(), CandidateSource(store, critic=Identity("judge", "1")))
        expected = embedder.encode([row["text"] for row in rows], [row["language"] for row in rows])
    np.testing.assert_allclose(vectors, expected, atol=5e-4)


def test_a_translator_fills_the_store_it_is_given(lira, checkpoint, tmp_path):
    TranslationMemory.fit([("vi", "derv reviru", "red river")]).save(tmp_path / "memory")
    (tmp_path / "texts.txt").write_text("derv reviru\nesuohv\n")
    options = ("--store", tmp_path / "new.sqlite", "--translator", tmp_path / "memory", "-l", "vi")
    result = lira("embed", checkpoint, tmp_path / "texts.txt", "-o", tmp_path / "v", *options)
    assert result.exit_code == 0, result.output
    with CandidateStore(tmp_path / "new.sqlite", read_only=True) as store:
        assert [item.text for item in store.get("vi", ["derv reviru"])[0]] == ["red river"]


def test_embed_says_what_is_wrong_before_it_starts(lira, checkpoint, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": 1, "text": "x"}\n{"id": 1, "text": "y", "language": "vi"}\n{"id": 2, "text": "", "z": 1}\n')
    result = lira("embed", checkpoint, bad, "-o", tmp_path / "v")
    refused(result, "2 problems.*row 1, field `language`.*--language.*row 3, field `text`")
    refused(
        lira("embed", checkpoint, bad, "-o", tmp_path / "v", "-l", "vi"), "row 2, field `id`: got the id that row 1"
    )
    refused(lira("embed", checkpoint, bad, "-o", tmp_path / "v", "-l", "bengla"), "unknown language tag 'bengla'")
    refused(lira("embed", checkpoint, tmp_path / "none", "-o", tmp_path / "v"), "none'; expected a BEIR folder")
    good = tmp_path / "good.txt"
    good.write_text("red\n")
    options = (checkpoint, good, "-o", tmp_path / "v", "-l", "vi")
    refused(
        lira("embed", *options, "--critic", "judge"), "got the critic judge without a store and without a translator"
    )
    refused(lira("embed", *options, "--store", tmp_path / "no.sqlite"), "no.sqlite isn't there")
    assert not (tmp_path / "v").exists()
    assert lira("embed", *options, "--precision", "int4").exit_code == 2


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_here(lira, checkpoint, tiny_data, tmp_path, device):
    result = lira("embed", checkpoint, tiny_data, "-o", tmp_path / "vectors", "--device", device)
    refused(result, f"got --device {device}; expected one that is here, such as cpu")
    assert not (tmp_path / "vectors").exists()


def test_search_in_vectors(lira, checkpoint, corpus, tiny_data, tmp_path):
    rows, _ = content(corpus)
    text = rows[7]["text"]
    result = lira("search", checkpoint, "--vectors", corpus, text, "-l", "en", "-q", "vi:[/x] derv", "-k", 2)
    assert result.exit_code == 0, result.output
    assert re.search(rf"1\.00  d7  {text}", result.stdout)
    assert "48 vectors, float32" in result.stdout
    assert "[/x] derv" in result.stdout
    colon = lira("search", checkpoint, "--vectors", corpus, f"en:{text}", "-k", 1)
    assert f"1.00  d7  {text}" in colon.stdout


def test_search_with_a_file_of_queries(lira, checkpoint, corpus, tiny_data, tmp_path):
    out = tmp_path / "hits.jsonl"
    options = ("--queries", tiny_data / "queries.jsonl", "--store", tiny_data / "store.sqlite", "-k", 4)
    result = lira("search", checkpoint, "--vectors", corpus, *options, "-o", out)
    assert result.exit_code == 0, result.output
    assert "96 queries in" in result.stdout
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == 96
    assert list(found[0]) == ["id", "text", "language", "hits"]
    assert [list(hit) for hit in found[0]["hits"]] == [["id", "score", "text", "language"]] * 4
    assert [hit["score"] for hit in found[0]["hits"]] == sorted((h["score"] for h in found[0]["hits"]), reverse=True)
    shown = lira("search", checkpoint, "--vectors", corpus, *options)
    assert "the first 20 of 96 queries" in shown.stdout


def test_search_in_vectors_that_are_none(lira, checkpoint, corpus, tiny_lira, tiny_data, tmp_path):
    other = tmp_path / "other"
    for part in tiny_lira(path_weight=0.8):
        part.save_pretrained(other)
    result = lira("search", other, "--vectors", corpus, "en:red")
    refused(result, "got the model .*other .*whose vectors are of .*checkpoint.*expected the same")
    refused(lira("search", checkpoint, "--vectors", tmp_path / "none", "en:red"), "there is no manifest.json")
    refused(lira("search", checkpoint, "--vectors", corpus, "red"), "the query is 'red'; expected LANGUAGE:TEXT")
    refused(lira("search", checkpoint, "--vectors", corpus, " ", "-l", "en"), "query 1 is blank")
    refused(
        lira("search", checkpoint, "--vectors", corpus, "--queries", tmp_path / "q.txt"), "q.txt'; expected a BEIR"
    )
    for wrong, message in (
        (["--vectors", corpus], "without a query"),
        ([tiny_data, "-q", "en:red", "-l", "en"], "without --vectors"),
        ([tiny_data, "more", "-q", "en:red"], "expected one CORPUS"),
    ):
        result = lira("search", checkpoint, *wrong)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.slow
def test_embed_with_two_processes(lira, checkpoint, corpus, tiny_data, tmp_path):
    result = lira("embed", checkpoint, tiny_data, "-o", tmp_path / "v", "--processes", 2, "--batch-size", 8)
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(content(tmp_path / "v")[1], content(corpus)[1], atol=2e-6)


def test_shares_of_several_machines_are_merged(lira, checkpoint, corpus, tiny_data, tmp_path):
    options = ("--shard-rows", "20")
    for number in (2, 1):
        result = lira("embed", checkpoint, tiny_data, "-o", tmp_path / str(number), "--share", f"{number}/2", *options)
        assert result.exit_code == 0, result.output
        assert f"share {number}/2: {(28, 20)[number - 1]} of {(28, 20)[number - 1]} texts" in result.stdout
    refused(lira("merge-vectors", tmp_path / "m", tmp_path / "1"), r"missing \[2\]")
    result = lira("merge-vectors", tmp_path / "m", tmp_path / "2", tmp_path / "1")
    assert result.exit_code == 0, result.output
    assert "merged 2 shares" in result.stdout
    rows, vectors = content(tmp_path / "m")
    assert rows == content(corpus)[0]
    np.testing.assert_array_equal(vectors, content(corpus)[1])
    refused(lira("embed", checkpoint, tiny_data, "-o", tmp_path / "x", "--share", "3/2"), "got the share '3/2'")
