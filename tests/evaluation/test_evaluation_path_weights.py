"""Shares of the roads by language: what they do in the embedding, how they are chosen, and the command."""

import itertools
import json

import numpy as np
import pytest
import torch
from made_up_words import WORDS, foreign
from torch.testing import assert_close
from typer.testing import CliRunner

from lira_hf import LiraConfig, LiraModel
from lira_hf.cli.main import app
from lira_hf.data import BeirDataset, Query, write_beir
from lira_hf.evaluation import calibrate_path_weights, evaluate_embedder
from lira_hf.evaluation.path_weights import _choose
from lira_hf.evaluation.retrieval import RetrievalScores
from lira_hf.inference import CandidateSource, LiraEmbedder
from lira_hf.models.modeling_lasr import join_paths
from lira_hf.translation import Candidate, CandidateStore, Identity


TEXTS = [" ".join(words) for words in itertools.combinations(WORDS[:9], 3)][:60]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sixty documents. "vi" has right candidates and words that g makes nothing of, "ur" wrong candidates and words
    that g knows, "th" too few queries."""
    folder = tmp_path_factory.mktemp("shares")
    dataset = BeirDataset(corpus={f"d{number}": text for number, text in enumerate(TEXTS)})
    with CandidateStore(folder / "store.sqlite") as store:
        for number, text in enumerate(TEXTS):
            for tag, english in (("vi", text), ("ur", TEXTS[(number * 7 + 3) % 60]), ("th", text)):
                if tag == "th" and number > 10:
                    continue
                asked = text if tag == "ur" else foreign(text, "vi")
                dataset.queries[f"{tag}{number}"] = Query(asked, tag)
                dataset.qrels[f"{tag}{number}"] = {f"d{number}": 1}
                store.add(tag, [(asked, [Candidate(english, "given", "x")])], Identity("made up", "1"))
    write_beir(folder, dataset.corpus, dataset.queries, {"dev": dataset.qrels})
    return folder, dataset


@pytest.fixture
def embedder(tiny_lira, data):
    model, processor = tiny_lira(languages=["vi", "ur", "th", "en"], path_weight=0.5)
    return LiraEmbedder(model.eval(), processor, CandidateSource(CandidateStore(data[0] / "store.sqlite")))


def test_a_languages_share_is_that_of_its_texts_alone(tiny_lira):
    model, _ = tiny_lira(path_weight=0.5, languages=["vi", "ur", "en"])
    features = {"source_features": torch.rand(4, 3, 16), "anchor_features": torch.rand(4, 1, 3, 24)}
    ids = torch.tensor([1, 2, 3, 0])
    model.eval()
    with torch.no_grad():
        plain = model(**features, language_ids=ids).start_embeds
        model.config.language_path_weights = {"ur": 0.9}
        found = model(**features, language_ids=ids).start_embeds
        unknown = model(**features).start_embeds
    assert_close(found[[0, 2, 3]], plain[[0, 2, 3]], rtol=0, atol=0)
    assert_close(found[1], join_paths(features["source_features"][1, 0], features["anchor_features"][1, 0, 0], 0.9))
    assert_close(unknown, plain, rtol=0, atol=0)


def test_shares_come_around_a_gate_and_through_a_checkpoint(tiny_lira, tmp_path):
    model, _ = tiny_lira(path_gate=True, path_weight=0.5, language_path_weights={"ur": 0.8})
    found = model.embedding_head.path_weight(torch.zeros(3, 6), torch.tensor([0, 1, 2]))
    assert_close(found, torch.tensor([[0.5], [0.5], [0.8]]))
    model.save_pretrained(tmp_path)
    assert LiraModel.from_pretrained(tmp_path).config.language_path_weights == {"ur": 0.8}


@pytest.mark.parametrize("weights", [{"de": 0.5}, {"vi": 1.5}, {"vi": -0.1}])
def test_a_share_of_no_language_or_outside_its_range_is_refused(tiny_lira, weights):
    with pytest.raises(ValueError, match=r"language_path_weights has '(de|vi)'.*; expected a language of"):
        tiny_lira(language_path_weights=weights)


def test_good_translations_are_given_weight_and_wrong_ones_none(embedder, data):
    before = evaluate_embedder(embedder, data[1])
    vectors = embedder.encode(TEXTS, ["en"] * len(TEXTS), role="document")
    found = calibrate_path_weights(embedder, data[1])
    assert found.weights["vi"] < 0.5 < found.weights["ur"]
    assert found.skipped == {"th": 11}
    assert embedder.model.config.language_path_weights == found.weights
    after = evaluate_embedder(embedder, data[1])
    for tag in ("vi", "ur"):
        assert found.before[tag] == pytest.approx(before.per_language()[tag])
        assert found.after[tag] == pytest.approx(after.per_language()[tag])
        assert found.after[tag] >= found.before[tag]
    assert after.per_language()["th"] == before.per_language()["th"]
    assert np.array_equal(embedder.encode(TEXTS, ["en"] * len(TEXTS), role="document"), vectors)


def scores(*rows, clusters=None):
    values = np.array(rows, dtype=float)
    count = len(values)
    ids = [str(number) for number in range(count)]
    return RetrievalScores(ids, ["vi"] * count, clusters or ids, {"ndcg@10": values})


def test_of_equal_shares_the_models_own_is_kept():
    assert _choose({None: scores(0.5, 0.5), 0.3: scores(0.5, 0.5), 0.9: scores(0.4, 0.6)}, "vi", 0)[0] is None


def test_what_to_expect_is_measured_on_the_other_half():
    generator = np.random.default_rng(0)
    tried = {weight: scores(*generator.random(400)) for weight in (None, *np.linspace(0, 1, 20))}
    best, expected = _choose(tried, "vi", 0)
    chosen = tried[best].values["ndcg@10"].mean()
    # Nothing but chance: what was chosen looks better than it is.
    assert expected < chosen - 0.02
    assert expected == pytest.approx(0.5, abs=0.04)


def test_what_can_not_be_set_is_refused(embedder, data):
    with pytest.raises(ValueError, match=r"got the path weights \[1.2\]; expected shares from 0 to 1"):
        calibrate_path_weights(embedder, data[1], [1.2])
    few = BeirDataset(data[1].corpus, dict(list(data[1].queries.items())[:30]), data[1].qrels)
    with pytest.raises(ValueError, match="expected at least 50 of a language that the model was trained on"):
        calibrate_path_weights(embedder, few)
    assert embedder.model.config.language_path_weights is None


def test_the_command_writes_them_into_the_checkpoint(embedder, data, tmp_path, caplog):
    embedder.model.save_pretrained(tmp_path / "model")
    embedder.processor.save_pretrained(tmp_path / "model")
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    command = ["calibrate", str(tmp_path / "model"), str(data[0])]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "got neither --store nor --translator" in result.stderr
    command += ["--store", str(data[0] / "store.sqlite")]
    result = CliRunner().invoke(app, [*command, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "nothing changed" in result.stdout
    assert LiraConfig.from_pretrained(tmp_path / "model").language_path_weights is None
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "th: left as it is, with 11 queries" in result.stdout
    found = json.loads((tmp_path / "model" / "config.json").read_text())["language_path_weights"]
    assert found["vi"] < 0.5 < found["ur"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights
    with caplog.at_level("WARNING", "lira_hf"):
        assert LiraModel.from_pretrained(tmp_path / "model").config.language_path_weights == found
    assert not caplog.records  # the changed configuration is no damage
