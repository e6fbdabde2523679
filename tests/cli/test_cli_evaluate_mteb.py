"""`lira evaluate --mteb`: what is refused, with and without mteb; its table and files, where mteb is installed."""

import importlib.util
import json
import re
import sys

import pytest
from typer.testing import CliRunner

from lira_hf.cli.main import app
from lira_hf.translation import Candidate, CandidateStore, Identity, TranslationMemory


WORDS = ["red", "green", "blue", "river", "house", "mountain", "open", "close", "print", "file", "window", "moon"]
TEXTS = [f"{one} {other}" for one, other in zip(WORDS, WORDS[3:] + WORDS[:3], strict=True)]


def foreign(text, language):
    """As of tests/conftest.py: each word backwards, with the language's ending."""
    return " ".join(word[::-1] + language[0] for word in text.split())


@pytest.fixture
def lira():
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tiny_lira, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny_lira():
        part.save_pretrained(folder)
    return folder


def refused(result, pattern):
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert re.search(pattern, " ".join(result.stderr.split())), result.stderr


def test_what_does_not_go_together(lira, tmp_path):
    refused(lira("evaluate", "model"), "got neither DATA nor --mteb")
    refused(lira("evaluate", "model", tmp_path, "--mteb", "STS22.v2"), "and --mteb; expected one of the two")
    refused(lira("evaluate", "model", tmp_path, "-l", "ur"), "--language or --output without --mteb")
    refused(lira("evaluate", "model", tmp_path, "--output", tmp_path), "--language or --output without --mteb")


def test_without_mteb_the_extra_is_named(lira, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)  # as if it weren't installed
    monkeypatch.delitem(sys.modules, "lira_hf.integrations.mteb", raising=False)
    refused(lira("evaluate", "model", "--mteb", "STS22.v2"), r"mteb can't be imported.*pip install 'lira-hf\[mteb\]'")


@pytest.fixture
def task(monkeypatch):
    """A retrieval task of two subsets among mteb's, over data made here."""
    mteb = pytest.importorskip("mteb", reason="needs the extra 'mteb'")
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    unknown = ("reference", "date", "domains", "task_subtypes", "license", "annotations_creators", "dialect")
    facts = dict.fromkeys([*unknown, "sample_creation"]) | {"description": "made up", "bibtex_citation": ""}
    facts |= {"eval_splits": ["dev", "test"], "modalities": ["text"], "category": "t2t", "main_score": "ndcg_at_10"}
    languages = {"eng-vie": ["eng-Latn", "vie-Latn"], "eng-fra": ["eng-Latn", "fra-Latn"]}

    class MadeUpTask(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="MadeUpTask",
            dataset={"path": "a/b", "revision": "1"},
            type="Retrieval",
            eval_langs=languages,
            **facts,
        )

        def load_data(self, **kwargs):
            def data():
                asked = [{"id": f"q{n}", "text": foreign(text, "vi")} for n, text in enumerate(TEXTS)]
                return {
                    "corpus": Dataset.from_list([{"id": f"d{n}", "text": text} for n, text in enumerate(TEXTS)]),
                    "queries": Dataset.from_list(asked),
                    "relevant_docs": {f"q{n}": {f"d{n}": 1} for n in range(len(TEXTS))},
                    "top_ranked": None,
                }

            self.dataset = {subset: {split: data() for split in ("dev", "test")} for subset in languages}
            self.data_loaded = True

    known = mteb.get_task
    monkeypatch.setattr(mteb, "get_task", lambda name: MadeUpTask() if name == "MadeUpTask" else known(name))
    return MadeUpTask


def test_a_task_is_run_with_and_without_translation(lira, checkpoint, task, tmp_path):
    with CandidateStore(tmp_path / "store.sqlite") as store:
        rows = [(foreign(text, "vi"), [Candidate(text, "x", "x")]) for text in TEXTS]
        store.add("vi", rows, Identity("made up", "1"))
    options = ["--mteb", "MadeUpTask", "--output", tmp_path / "results", "--json", tmp_path / "figures.json"]
    result = lira("evaluate", checkpoint, *options, "--store", tmp_path / "store.sqlite")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    found = {
        way: {row["hf_subset"]: row["main_score"] for row in tasks["MadeUpTask"]["test"]}
        for way, tasks in figures.items()
    }
    assert found["with translation"]["eng-vie"] > found["without translation"]["eng-vie"]
    assert found["with translation"]["eng-fra"] == found["without translation"]["eng-fra"]  # the store has no French
    words = [re.sub(r"\s*│\s*", " ", line).split() for line in result.stdout.splitlines() if "ndcg_at_10" in line]
    for subset in ("eng-vie", "eng-fra"):
        cells = [f"{100 * found[way][subset]:.1f}" for way in ("without translation", "with translation")]
        assert ["MadeUpTask", "test", subset, "ndcg_at_10", *cells] in words
    assert sum("mean of 2" in line for line in result.stdout.splitlines()) == 2  # of either split
    kept = [*(tmp_path / "results").rglob("MadeUpTask.json")]
    assert len(kept) == 2
    # Again, and alone: one language, one split, nothing translated.
    result = lira("evaluate", checkpoint, "--mteb", "MadeUpTask", "-l", "vi", "--split", "dev", *options[2:])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures) == ["without translation"]
    assert "eng-fra" not in result.stdout


def test_what_a_translator_answers_is_kept(lira, checkpoint, task, tmp_path):
    TranslationMemory.fit([("vi", foreign(text, "vi"), text) for text in TEXTS]).save(tmp_path / "memory")
    options = ["--mteb", "MadeUpTask", "-l", "vi", "--split", "test", "--store", tmp_path / "store.sqlite"]
    result = lira("evaluate", checkpoint, *options, "--translator", tmp_path / "memory")
    assert result.exit_code == 0, result.output
    with CandidateStore(tmp_path / "store.sqlite", read_only=True) as store:
        assert store.stats()["languages"]["vi"]["texts"] == len(TEXTS)
    again = lira("evaluate", checkpoint, *options)
    assert again.stdout == result.stdout


def test_unknown_names_are_told_before_the_checkpoint_is_read(lira, task):
    assert importlib.util.find_spec("mteb")
    refused(lira("evaluate", "none", "--mteb", "STS2"), "got the mteb task 'STS2'.*Did you mean")
    refused(lira("evaluate", "none", "--mteb", "MadeUpTask", "--split", "train"), "expected one of dev, test")
    refused(lira("evaluate", "none", "--mteb", "MadeUpTask", "-l", "ur"), "its subsets are eng-vie, eng-fra")
