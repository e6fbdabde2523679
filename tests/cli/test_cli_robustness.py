"""`lira robustness`: the report, going on, and bad input."""

import json
import re

import pytest
from typer.testing import CliRunner

from lira_hf.cli.main import app
from lira_hf.data import read_beir
from lira_hf.evaluation import ROBUSTNESS_SYSTEMS, evaluate_embedder
from lira_hf.inference import CandidateSource, LiraEmbedder
from lira_hf.translation import CandidateStore, Identity, TranslationMemory


@pytest.fixture
def lira():
    return lambda *arguments: CliRunner().invoke(app, ["robustness", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def checkpoint(tiny_lira, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny_lira():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def given(tiny_data, tmp_path):
    """Options that every run has."""
    return ("--store", tiny_data / "store.sqlite", "--critic", "judge", "-o", tmp_path / "out", "--resamples", 100)


def refused(result, pattern):
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert re.search(pattern, " ".join(result.stderr.split())), result.stderr


def test_help(lira):
    result = lira("--help")
    assert result.exit_code == 0
    for option in ("--noise", "--rates", "--translations", "--recipe", "--few-shot", "--language", "--output"):
        assert option in result.stdout


def test_curves_that_go_on(lira, checkpoint, tiny_lira, tiny_data, given, tmp_path):
    result = lira(checkpoint, tiny_data, *given, "--noise", "candidates", "--rates", "0,0.5")
    assert result.exit_code == 0, result.output
    assert "corrupted candidates: ndcg@10 x 100" in result.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [point["rate"] for point in report["noise"]] == [0, 0.5]
    store = CandidateStore(tiny_data / "store.sqlite", read_only=True)
    source = CandidateSource(store, critic=Identity("judge", "1"))
    wanted = evaluate_embedder(LiraEmbedder(*tiny_lira(), source), read_beir(tiny_data, "test"))
    clean = report["noise"][0]["systems"]
    assert list(clean) == list(ROBUSTNESS_SYSTEMS)
    assert clean["LiRA"]["ndcg@10"]["mean"] == pytest.approx(wanted.mean(), abs=1e-3)
    assert report["noise"][1]["systems"]["translate, then h"]["ndcg@10"]["mean"] < 1
    assert (tmp_path / "out" / "noise.png").is_file()
    again = lira(checkpoint, tiny_data, *given, "--noise", "candidates,typos", "--rates", "0.5")
    assert again.exit_code == 0, again.output
    assert "typos at 0.5, translations kept" in again.stdout
    assert "clean\n" not in again.stdout
    assert "candidates at 0.5" not in again.stdout
    assert "## Typos, translations kept" in (tmp_path / "out" / "report.md").read_text()
    refused(
        lira(checkpoint, tiny_data, *given, "--noise", "typos", "--candidates", 1),
        "holds points of a run with other candidates; expected the same",
    )


def test_translations_asked_for_again_do_not_enter_the_store(lira, checkpoint, tiny_data, given, tmp_path):
    TranslationMemory.fit([("vi", "der neerg", "red green"), ("ur", "der neerg", "red green")]).save(tmp_path / "m")
    before = (tiny_data / "store.sqlite").read_bytes()
    options = ("--translator", tmp_path / "m", "--translations", "both", "--noise", "typos", "--rates", "0.4")
    result = lira(checkpoint, tiny_data, *given, *options)
    assert result.exit_code == 0, result.output
    points = json.loads((tmp_path / "out" / "report.json").read_text())["noise"]
    kept, again = (
        next(p for p in points if p["rate"] and p["translations"] == mode)["systems"]["translate, then h"]["ndcg@10"]
        for mode in ("kept", "again")
    )
    assert kept["mean"] > again["mean"]
    assert (tiny_data / "store.sqlite").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--noise", "smoke"), "got --noise smoke; expected some of typos, code_mixing, diacritics, candidates"),
        (("--noise", "typos,,"), "got --noise 'typos,,'; expected values with a comma between each two"),
        (("--rates", "0,10"), "got --rates '0,10'; expected shares from 0 to 1"),
        (("--rates", "0;1"), "got --rates '0;1'; expected shares from 0 to 1"),
        (("--few-shot", "0.5"), "got --few-shot '0.5'; expected whole numbers"),
        (("--language", "ur"), "got one of --recipe and --language; expected both"),
        (("--translations", "again", "--noise", "typos"), "translations to be made again without a translator"),
        (("--critic", "nobody"), "critic 'nobody'; expected exactly one of the critics"),
        (("--split", "none"), "expected a BEIR folder with corpus.jsonl"),
    ],
)
def test_bad_options(lira, checkpoint, tiny_data, given, options, message):
    refused(lira(checkpoint, tiny_data, *given, *options), message)


def test_bad_data_and_no_candidates(lira, checkpoint, tiny_data, given, tmp_path):
    refused(lira(checkpoint, tmp_path / "none", *given), "none, which isn't there; expected a BEIR folder")
    refused(
        lira(checkpoint, tiny_data, "-o", tmp_path / "out"), "got neither --store nor --translator; expected where"
    )
    refused(
        lira(checkpoint, tiny_data, "-o", tmp_path / "out", "--translator", tmp_path, "--critic", "x"),
        "expected a folder written by",
    )
