"""`lira demo`: what its options make, bad input, and the page that it serves (that part where gradio is installed)."""

import importlib.util
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from tiny_lira import causal_with_processor
from typer.testing import CliRunner

from lira_hf.cli.demo_run import make_demo
from lira_hf.cli.main import app
from lira_hf.inference import ComparedDocuments, VectorIndex
from lira_hf.translation import TranslationMemory


GRADIO = importlib.util.find_spec("gradio") is not None
NO_SOURCE = (None, None, None, 5)


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
def generating(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generating")
    for part in causal_with_processor():
        part.save_pretrained(folder)
    return folder


def make(model, data=None, vectors=None, split=None, source=NO_SOURCE, features=None):
    return make_demo(str(model), data, vectors, split, source, features)


def test_help(lira):
    result = lira("demo", "--help")
    assert result.exit_code == 0
    for option in ("--vectors", "--store", "--translator", "--critic", "--features", "--port", "--host"):
        assert option in result.stdout
    assert "--share" not in result.stdout
    assert "127.0.0.1" in result.stdout


def test_a_beir_folder_is_searched_and_gives_examples(checkpoint, tiny_data, tmp_path):
    demo = make(checkpoint, tiny_data, source=(tiny_data / "store.sqlite", None, "judge", 5), features=tmp_path)
    assert isinstance(demo.explainer.documents, ComparedDocuments)
    assert len(demo.explainer.documents) == 48
    example = demo.examples(1)[0]
    shown = demo.look(*example[:2])
    assert [one.kind for one in shown.explanation.candidates] == ["poor", "good"]
    assert [key for key, _ in shown.relevant] == list(example.relevant)
    assert len(list(tmp_path.glob("*/features.bin"))) == 2
    assert demo.name == checkpoint.name
    dev = make(checkpoint, tiny_data, split="dev").data.queries
    assert dev
    assert not dev.keys() & demo.data.queries.keys()


def test_a_corpus_alone_has_no_examples(checkpoint, tiny_data, tmp_path):
    for data in (tiny_data / "corpus.jsonl", tmp_path / "lines.txt"):
        (tmp_path / "lines.txt").write_text("red river\ngreen house\n")
        demo = make(checkpoint, data)
        assert demo.examples() == []
        assert len(demo.look("red river", "en").explanation.results) == 4


def test_vectors_are_searched_and_data_gives_examples(lira, checkpoint, tiny_data, tmp_path):
    assert lira("embed", checkpoint, tiny_data, "-o", tmp_path / "v").exit_code == 0
    demo = make(checkpoint, tiny_data, tmp_path / "v")
    assert isinstance(demo.explainer.documents, VectorIndex)
    shown = demo.look(*demo.examples(1)[0][:2])
    assert [result.system for result in shown.explanation.results] == ["LiRA"]
    assert len(shown.relevant) == 1
    assert shown.explanation.results[0].rank is not None


def test_a_generation_checkpoint_also_answers(lira, generating, tmp_path):
    memory = tmp_path / "memory"
    TranslationMemory.fit([("bn", "ঢাকা", "Dhaka city")]).save(memory)
    demo = make(generating, source=(None, memory, None, 5))
    assert demo.ask("ঢাকা", "bn", max_new_tokens=3).translation == "Dhaka city"
    assert demo.look("ঢাকা", "bn").explanation.candidates[0].text == "Dhaka city"
    (tmp_path / "lines.txt").write_text("the city\nthe cat\n")
    assert lira("embed", generating, tmp_path / "lines.txt", "-o", tmp_path / "v", "-l", "en").exit_code == 0
    both = make(generating, None, tmp_path / "v")
    assert both.generator is not None
    assert len(both.look("the cat", "en").explanation.results[0].hits) == 2


@pytest.mark.skipif(GRADIO, reason="gradio is here")
def test_without_gradio(lira, checkpoint, tiny_data):
    result = lira("demo", checkpoint, tiny_data)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: gradio can't be imported")
    assert "pip install 'lira-hf[demo]'" in result.stderr


@pytest.mark.skipif(not GRADIO, reason="needs the extra 'demo'")
def test_bad_input(lira, checkpoint, tiny_data, tiny_backbones, tmp_path):
    for arguments, message in (
        ((checkpoint, tmp_path / "none"), "expected a BEIR folder, a .jsonl file"),
        ((tiny_backbones["anchor"], tiny_data), "holds a BertModel; expected a LiRA checkpoint"),
        ((checkpoint, tiny_data, "--split", "none"), "the splits .*dev.*without qrels/none.tsv"),
        ((checkpoint, tiny_data, "--critic", "judge"), "without a store and without a translator"),
        ((checkpoint, tiny_data, "--vectors", tmp_path / "none"), "none"),
    ):
        result = lira("demo", *arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert re.search(message, " ".join(result.stderr.split())), result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not GRADIO, reason="needs the extra 'demo'")
def test_the_page_is_served_until_it_is_interrupted(checkpoint, tiny_data):
    command = [sys.executable, "-m", "lira_hf.cli.main", "demo", str(checkpoint), str(tiny_data), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            address = None
            for line in server.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                    address = found.group()
                    break
            with urllib.request.urlopen(address, timeout=20) as reply:
                policy = reply.headers["Content-Security-Policy"]
                page = reply.read().decode()
            assert policy.startswith("default-src 'self';")
            assert "connect-src 'self'" in policy
            assert not re.findall(r"<(?:script|link)[^>]*https?://", page)
        finally:
            server.send_signal(signal.SIGINT)
            rest = server.stdout.read()
        assert server.wait(20) == 0
    assert "Traceback" not in rest
