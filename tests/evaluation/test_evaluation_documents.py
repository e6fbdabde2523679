"""Documents in other languages, prompts, and the baselines that stand in a run's log."""

from dataclasses import replace

import numpy as np
import pytest

from lira_hf.data import read_beir
from lira_hf.evaluation import (
    METRICS,
    CandidateChoice,
    RoadControls,
    baseline_controls,
    evaluate_embedder,
    evaluate_retrieval,
)
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures
from lira_hf.translation import CandidateStore, Identity


PROMPTS = {"query_prompt": "query: ", "document_prompt": "passage: "}


@pytest.fixture
def make(tiny_lira, tiny_data):
    """`make(**config)`: an embedder with the tiny data's candidates."""
    source = CandidateSource(CandidateStore(tiny_data / "store.sqlite", read_only=True), critic=Identity("judge", "1"))

    def build(**config):
        model, processor = tiny_lira(**config)
        for name in config:
            setattr(processor, name, config[name])
        return LiraEmbedder(model, processor, source, RoadFeatures(model, processor))

    return build


@pytest.fixture
def english(tiny_data):
    return read_beir(tiny_data, "test")


@pytest.fixture
def mixed(tiny_data, english):
    """Every other relevant document is in Urdu, with its two candidates; the queries are in Vietnamese."""
    queries = {key: query for key, query in english.queries.items() if query.language == "vi"}
    corpus, spoken = dict(english.corpus), {}
    for key, query in english.queries.items():
        document = next(iter(english.qrels[key]))
        if query.language == "ur" and int(document[1:]) % 8 == 3:
            corpus[document], spoken[document] = query.text, "ur"
    qrels = {key: english.qrels[key] for key in queries}
    assert 0 < len(spoken) < len(queries)
    return replace(english, corpus=corpus, queries=queries, qrels=qrels, document_languages=spoken)


def _equal(one, other) -> None:
    assert one.query_ids == other.query_ids
    for metric in METRICS:
        np.testing.assert_allclose(one.values[metric], other.values[metric], atol=1e-9)


def test_documents_have_their_language_and_its_candidates(make, mixed):
    embedder = make()
    tags = [mixed.document_languages.get(key, "en") for key in mixed.corpus]
    documents = np.stack([embedder.encode(text, tag) for text, tag in zip(mixed.corpus.values(), tags, strict=True)])
    queries = embedder.encode([query.text for query in mixed.queries.values()], "vi")
    found = evaluate_embedder(embedder, mixed)
    _equal(found, evaluate_retrieval(mixed, queries, documents))
    as_english = evaluate_embedder(embedder, replace(mixed, document_languages={}))
    assert found.mean() > as_english.mean() + 0.05
    # Without translation such a document has g's road alone.
    texts = list(mixed.corpus.values())
    own = [[text] if tag == "en" else [] for text, tag in zip(texts, tags, strict=True)]
    bare = embedder.encode(texts, tags, own)
    queries = embedder.encode([query.text for query in mixed.queries.values()], "vi", [[] for _ in mixed.queries])
    _equal(evaluate_embedder(embedder, mixed, translate=False), evaluate_retrieval(mixed, queries, bare))


def test_controls_want_candidates_of_such_documents(make, mixed):
    embedder = make(policy_prior=3.0, path_weight=0.4)
    texts = [query.text for query in mixed.queries.values()]
    found, scores, _ = embedder.find_candidates(texts, ["vi"] * len(texts))
    with pytest.raises(ValueError, match=r"got documents in \['ur'\]; expected all in \['en'\].*pass documents="):
        RoadControls(mixed, embedder.features, found, scores)
    with pytest.raises(ValueError, match=r"got documents in \['ur'\]; expected all in \['en'\].*evaluate_embedder"):
        CandidateChoice(mixed, embedder.features, embedder.candidates)
    tags = [mixed.document_languages.get(key, "en") for key in mixed.corpus]
    documents = embedder.find_candidates(list(mixed.corpus.values()), tags)[:2]
    controls = RoadControls(mixed, embedder.features, found, scores, documents)
    # The oracle: an untrained model is the weighted concatenation, documents too.
    _equal(controls.concat("judge", 0.4), evaluate_embedder(embedder, mixed))
    assert controls.translated("best").mean() == 1  # the best candidate of either side is the English text


def test_prompts_reach_the_controls(make, english):
    embedder = make(policy_prior=3.0, **PROMPTS)
    queries = list(english.queries.values())
    found, scores, _ = embedder.find_candidates([q.text for q in queries], [q.language for q in queries])
    controls = RoadControls(english, embedder.features, found, scores)
    _equal(controls.concat("judge", 0.5), evaluate_embedder(embedder, english))
    roads = {}
    for name, one in (("prompted", embedder), ("bare", make())):
        roads[name] = RoadControls(english, embedder.features, found, scores, processor=one.processor)
    assert np.abs(roads["prompted"].queries - roads["bare"].queries).max() > 1e-3
    assert np.abs(roads["prompted"].documents.source - roads["bare"].documents.source).max() > 1e-3
    np.testing.assert_array_equal(roads["prompted"].anchors("judge"), roads["bare"].anchors("judge"))
    np.testing.assert_array_equal(roads["prompted"].documents.anchor, roads["bare"].documents.anchor)


@pytest.mark.parametrize("documents", ["english", "mixed"])
def test_baselines_are_the_controls(make, documents, request):
    dataset = request.getfixturevalue(documents)
    embedder = make(path_weight=0.4)
    found = baseline_controls(embedder, dataset)
    assert list(found) == ["g_alone_ndcg@10", "translate_then_h_ndcg@10", "concat_ndcg@10"]
    queries = list(dataset.queries.values())
    rows = embedder.find_candidates([q.text for q in queries], [q.language for q in queries])[:2]
    tags = [dataset.document_languages.get(key, "en") for key in dataset.corpus]
    others = embedder.find_candidates(list(dataset.corpus.values()), tags)[:2]
    controls = RoadControls(dataset, embedder.features, *rows, others)
    # The judge's best candidate is the English text itself.
    expected = [controls.source_alone().mean(), 1.0, controls.concat("best", 0.4).mean()]
    np.testing.assert_allclose([*found.values()], expected, atol=1e-9)


def test_baselines_without_a_judge_and_without_candidates(make, english):
    embedder = make()
    embedder.candidates = CandidateSource(embedder.candidates.store)
    found = baseline_controls(embedder, english)
    assert found["translate_then_h_ndcg@10"] == 1.0  # the second candidate is the English text
    embedder.candidates = None
    none = baseline_controls(embedder, english)
    assert none["g_alone_ndcg@10"] == none["concat_ndcg@10"] == found["g_alone_ndcg@10"]
    assert none["translate_then_h_ndcg@10"] < none["g_alone_ndcg@10"]
