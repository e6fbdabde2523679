"""Retrieval metrics against hand-made numbers and scikit-learn, intervals against a naive bootstrap, and controls."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from lira_hf.data import BeirDataset, Query, read_beir
from lira_hf.evaluation import (
    METRICS,
    MIXTURES,
    RetrievalScores,
    RoadControls,
    dev_metrics,
    evaluate_embedder,
    evaluate_retrieval,
    paired_difference,
)
from lira_hf.evaluation.controls import mix_candidates, unit
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures
from lira_hf.translation import CandidateStore, Identity


def _dataset(qrels, documents=12, languages=None):
    queries = {name: Query(f"text of {name}", (languages or {}).get(name)) for name in qrels}
    return BeirDataset({f"d{n:03}": f"document {n}" for n in range(documents)}, queries, qrels)


def _ranked(*places: int, documents=12) -> np.ndarray:
    """Query and document embeddings whose cosines rank the documents by number: `places`, then the rest."""
    order = [*places, *(n for n in range(documents) if n not in places)]
    angles = np.zeros(documents)
    angles[order] = np.linspace(0.1, 1.5, documents)
    return np.array([[1.0, 0.0]], "f"), np.stack([np.cos(angles), np.sin(angles)], 1).astype("f")


def test_figures_by_hand():
    dataset = _dataset({"q": {"d003": 2, "d007": 1, "d009": 0}})
    queries, documents = _ranked(5, 3, 1, 7)  # the relevant ones at ranks 2 and 4
    scores = evaluate_retrieval(dataset, queries, 3 * documents)
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    assert scores.values["ndcg@10"][0] == pytest.approx((2 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert scores.values["recall@1"][0] == 0
    assert scores.values["mrr"][0] == 0.5
    queries, documents = _ranked(7, 3)
    scores = evaluate_retrieval(dataset, queries, documents)
    assert scores.values["recall@1"][0] == 0.5  # one of two
    assert scores.values["mrr"][0] == 1
    assert scores.clusters == ["d003"]
    assert scores.languages == ["und"]
    assert set(scores.values) == set(METRICS)


def test_a_document_at_rank_eleven_counts_for_mrr_alone():
    dataset = _dataset({"q": {"d011": 1}, "r": {"d000": 0}})
    query, documents = _ranked()
    scores = evaluate_retrieval(dataset, np.repeat(query, 2, 0), documents[:])
    assert scores.values["ndcg@10"].tolist() == [0, 0]
    np.testing.assert_allclose(scores.values["mrr"], [1 / 12, 0])


def test_ndcg_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    relevance = generator.choice([0, 0, 0, 1, 2, 3], size=(30, 60))
    relevance[:, 0] = 1
    qrels = {f"q{q}": {f"d{n:03}": int(r) for n, r in enumerate(row) if r} for q, row in enumerate(relevance)}
    queries, documents = generator.normal(size=(30, 6)).astype("f"), generator.normal(size=(60, 6)).astype("f")
    scores = evaluate_retrieval(_dataset(qrels, 60), queries, documents)
    cosine = unit(queries) @ unit(documents).T
    expected = [ndcg_score([r], [s], k=10) for r, s in zip(relevance, cosine, strict=True)]
    np.testing.assert_allclose(scores.values["ndcg@10"], expected, atol=1e-6)
    first = [1 / (1 + list(r[np.argsort(-s)] > 0).index(True)) for r, s in zip(relevance, cosine, strict=True)]
    np.testing.assert_allclose(scores.values["mrr"], first, atol=1e-6)


def test_ties_are_broken_the_same_way_every_time():
    # Equal scores are ranked as trec_eval does, by falling document id; never by what is relevant.
    documents = np.ones((12, 2), "f")
    for relevant, rank in (("d011", 1), ("d000", 12), ("d006", 6)):
        scores = evaluate_retrieval(_dataset({"q": {relevant: 1}}), np.ones((1, 2), "f"), documents)
        assert scores.values["mrr"][0] == pytest.approx(1 / rank)
    zero = evaluate_retrieval(_dataset({"q": {"d011": 1}}), np.zeros((1, 2), "f"), documents)
    assert np.isfinite(zero.values["mrr"]).all()


def test_the_wrong_number_of_embeddings_is_an_error():
    dataset = _dataset({"q": {"d001": 1}})
    with pytest.raises(ValueError, match="got 2 query and 12 document embeddings; expected 1 and 12"):
        evaluate_retrieval(dataset, np.ones((2, 2), "f"), np.ones((12, 2), "f"))


def _scores(values, languages, clusters=None) -> RetrievalScores:
    count = len(values)
    clusters = clusters or [f"c{n}" for n in range(count)]
    return RetrievalScores([f"q{n}" for n in range(count)], languages, clusters, {"ndcg@10": np.array(values, float)})


def test_each_language_counts_alike():
    scores = _scores([1, 0, 0, 1, 0.5], ["vi", "vi", "vi", "vi", "ur"])
    assert scores.per_language() == {"ur": 0.5, "vi": 0.5}
    scores = _scores([1, 1, 1, 0], ["vi", "vi", "vi", "ur"])
    assert scores.mean() == 0.5


# Intervals


def test_no_difference_and_a_constant_one_have_no_spread():
    generator = np.random.default_rng(0)
    values, tags = generator.random(40), ["vi", "ur"] * 20
    one = _scores(values, tags)
    assert paired_difference([one], [one]) == (0, 0, 0)
    gain = paired_difference([_scores(values + 0.25, tags)], [one])
    np.testing.assert_allclose(gain, [0.25] * 3, atol=1e-12)


def test_seeds_are_averaged_query_by_query():
    tags = ["vi"] * 30
    generator = np.random.default_rng(1)
    runs = [_scores(generator.random(30), tags) for _ in range(3)]
    mean = _scores(np.mean([run.values["ndcg@10"] for run in runs], 0), tags)
    base = _scores(generator.random(30), tags)
    np.testing.assert_allclose(paired_difference(runs, [base]), paired_difference([mean], [base]), atol=1e-12)


def test_translations_of_one_document_are_resampled_together():
    generator = np.random.default_rng(2)
    gains = generator.normal(0.1, 0.3, 50)
    tags = ["vi"] * 200
    repeated = np.repeat(gains, 4)
    clusters = [f"c{n // 4}" for n in range(200)]
    base = _scores(np.zeros(200), tags, clusters)
    clustered = paired_difference([_scores(repeated, tags, clusters)], [base])
    naive = paired_difference([_scores(repeated, tags)], [_scores(np.zeros(200), tags)])
    assert clustered.difference == pytest.approx(naive.difference) == pytest.approx(gains.mean())
    ratio = (clustered.high - clustered.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(2, rel=0.15)  # four copies carry no information: wider by sqrt(4)
    deviation = gains.std() / math.sqrt(50)
    assert clustered.high - clustered.low == pytest.approx(2 * 1.96 * deviation, rel=0.15)


def test_one_language_and_languages_of_unequal_size():
    ours = _scores([1.0] * 30 + [0.2] * 10, ["vi"] * 30 + ["ur"] * 10)
    theirs = _scores([0.5] * 30 + [0.5] * 10, ["vi"] * 30 + ["ur"] * 10)
    assert paired_difference([ours], [theirs], language="vi").difference == pytest.approx(0.5)
    assert paired_difference([ours], [theirs], language="ur").difference == pytest.approx(-0.3)
    assert paired_difference([ours], [theirs]).difference == pytest.approx(0.1)
    single = paired_difference([_scores([1.0], ["vi"])], [_scores([0.5], ["vi"])])
    assert single.difference == 0.5
    assert math.isnan(single.low)


def test_the_bootstrap_is_reproducible_and_wants_the_same_queries():
    generator = np.random.default_rng(3)
    ours, theirs = (_scores(generator.random(25), ["vi"] * 25) for _ in range(2))
    assert paired_difference([ours], [theirs]) == paired_difference([ours], [theirs])
    assert paired_difference([ours], [theirs], seed=1) != paired_difference([ours], [theirs])
    with pytest.raises(ValueError, match="scored on different queries"):
        paired_difference([ours], [_scores([1.0], ["vi"])])


# Controls


def test_mixtures_by_hand():
    sentences, scores = np.eye(3, dtype="f"), [(1, 1, 1), (3, 3, 3), None]
    weights = np.exp(0.3 * np.array([3, 9, 0]))
    expected = {
        "first": [1, 0, 0],
        "second": [0, 1, 0],
        "third": [0, 0, 1],
        "best": [0, 1, 0],
        "uniform": [1 / 3] * 3,
        "judge": weights / weights.sum(),
    }
    assert set(expected) == set(MIXTURES)
    for name, value in expected.items():
        np.testing.assert_allclose(mix_candidates(sentences, scores, name), value, atol=1e-6)
    np.testing.assert_allclose(mix_candidates(sentences[:2], scores[:2], "third"), [0, 1, 0])
    assert not mix_candidates(sentences[:0], [], "judge").any()
    with pytest.raises(ValueError, match="the mixture is 'tenth'; expected one of"):
        mix_candidates(sentences, scores, "tenth")


@pytest.fixture
def parts(tiny_lira, tiny_data):
    """`parts(**config)`: an untrained model's embedder and the controls, over the same features and candidates."""
    dataset = read_beir(tiny_data, "test")
    source = CandidateSource(CandidateStore(tiny_data / "store.sqlite", read_only=True), critic=Identity("judge", "1"))

    def make(**config):
        model, processor = tiny_lira(**config)
        features = RoadFeatures(model, processor)
        queries = dataset.queries.values()
        found = source.get([q.text for q in queries], [q.language for q in queries])
        return LiraEmbedder(model, processor, source, features), RoadControls(dataset, features, *found), dataset

    return make


def _equal(one: RetrievalScores, other: RetrievalScores) -> None:
    assert one.query_ids == other.query_ids
    for metric in METRICS:
        np.testing.assert_allclose(one.values[metric], other.values[metric], atol=1e-9)


def test_the_concat_at_its_ends_is_either_road_alone(parts):
    _, controls, _ = parts()
    _equal(controls.concat("best", 1.0), controls.source_alone())
    _equal(controls.concat("uniform", 0.0), controls.translated("uniform"))
    assert controls.translated("best").mean() == 1  # the best candidate is the document itself
    assert controls.translated("first").mean() < 1
    assert controls.source_alone().mean() < 0.9


@pytest.mark.parametrize("weight", [0.3, 0.5, 0.8])
def test_an_untrained_model_is_the_weighted_concat(parts, weight):
    # The judge's mixture weighs by exp(.3 sum), the untrained policy by exp(policy_prior * .1 * sum).
    embedder, controls, dataset = parts(path_weight=weight, policy_prior=3.0)
    _equal(evaluate_embedder(embedder, dataset), controls.concat("judge", weight))
    embedder, controls, _ = parts(path_weight=weight, policy_prior=0.0)
    _equal(evaluate_embedder(embedder, dataset), controls.concat("uniform", weight))
    embedder, controls, _ = parts(path_weight=weight, candidate_mode="argmax")
    _equal(evaluate_embedder(embedder, dataset), controls.concat("best", weight))


def test_an_untrained_model_without_translation_ranks_as_g(parts):
    # A query without candidates has g's part alone; documents weigh it alike, so its order is g's.
    embedder, controls, dataset = parts()
    _equal(evaluate_embedder(embedder, dataset, translate=False), controls.source_alone())


def test_queries_without_candidates_keep_their_g_road(parts, tiny_data):
    _, controls, dataset = parts()
    empty = RoadControls(dataset, controls.features, [[] for _ in dataset.queries], [[] for _ in dataset.queries])
    assert not empty.anchors("judge").any()
    _equal(empty.concat("judge", 0.5), controls.source_alone())


def test_dev_metrics_are_the_means(parts):
    embedder, _, dataset = parts()
    with torch.no_grad():
        scores = evaluate_embedder(embedder, dataset)
    assert dev_metrics(embedder, dataset) == {metric: scores.mean(metric) for metric in METRICS}
