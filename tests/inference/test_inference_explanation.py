"""LiraExplainer against the model's own forward pass, the embedder, and the evaluation's untrained controls."""

import json

import numpy as np
import pytest
import torch
from tiny_lira import causal, word_tokenizer

from lira_hf import LiraProcessor
from lira_hf.data import read_beir
from lira_hf.evaluation import RoadControls, evaluate_embedder
from lira_hf.inference import (
    CandidateSource,
    ComparedDocuments,
    FoundCandidate,
    LiraEmbedder,
    LiraExplainer,
    RoadFeatures,
    TextRow,
    VectorFolder,
    VectorIndex,
    VectorsError,
    embed_rows,
)
from lira_hf.translation import CandidateStore, Identity, Score


SYSTEMS = ("g alone", "translate, then h", "concat, untrained", "LiRA")


def disturb(model, scale=0.2):
    """Every part has a say, as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in (model.arca, model.fusion, model.embedding_head):
            for weight in part.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator) * scale)


@pytest.fixture(scope="module")
def dataset(tiny_data):
    return read_beir(tiny_data, "test")


@pytest.fixture(scope="module")
def make(tiny_lira, tiny_data):
    """`make(**config)`: an embedder over the judged store."""
    source = CandidateSource(CandidateStore(tiny_data / "store.sqlite", read_only=True), critic=Identity("judge", "1"))

    def build(**config):
        model, processor = tiny_lira(**config)
        disturb(model)
        processor.candidate_kinds = model.config.candidate_kinds
        return LiraEmbedder(model, processor, source, batch_size=7)

    return build


@pytest.fixture(scope="module")
def embedder(make):
    return make(path_gate=True, candidate_kinds=["poor", "good"])


@pytest.fixture(scope="module")
def documents(embedder, dataset):
    return ComparedDocuments(embedder, dataset.corpus)


@pytest.fixture(scope="module")
def query(dataset):
    """Id, text and language of a query."""
    key = next(iter(dataset.queries))
    return key, dataset.queries[key].text, dataset.queries[key].language


def test_candidates_are_judged_as_by_the_model(embedder, query):
    _, text, tag = query
    found = LiraExplainer(embedder).explain(text, tag)
    candidates, scores, kinds = embedder.find_candidates([text], [tag])
    batch = embedder.processor([text], candidates, scores, [tag], kinds=kinds, role="query")
    with torch.no_grad():
        expected = embedder.model(**batch)
    assert [one.text for one in found.candidates] == candidates[0]
    assert [one.kind for one in found.candidates] == ["poor", "good"]
    assert [one.scores for one in found.candidates] == [Score(4, 4, 4), Score(9, 9, 9)]
    np.testing.assert_allclose([one.similarity for one in found.candidates], expected.similarity[0], atol=1e-5)
    np.testing.assert_allclose([one.policy for one in found.candidates], expected.policy[0], atol=1e-5)
    assert [one.weight for one in found.candidates] == [one.policy for one in found.candidates]
    shares = found.shares
    weighted = (expected.policy * expected.similarity).sum()
    assert shares.agreement == pytest.approx(float(weighted), abs=1e-5)
    assert shares.kept == pytest.approx(float(expected.start_embeds[0] @ expected.pooler_output[0]), abs=1e-5)
    assert shares.kept < 0.999
    assert shares.prefix is None


def test_the_argmax_counts_one_candidate_alone(make, query):
    found = LiraExplainer(make(candidate_mode="argmax")).explain(*query[1:])
    policies = [one.policy for one in found.candidates]
    assert [one.weight for one in found.candidates] == [float(p == max(policies)) for p in policies]
    assert sum(policies) == pytest.approx(1)
    assert 0 < min(policies)


def test_the_start_is_shared_as_the_path_weight_says(make, embedder, query):
    found = LiraExplainer(make(path_weight=0.3)).explain(*query[1:])
    assert found.shares.start == pytest.approx(0.3, abs=1e-5)
    gated = LiraExplainer(embedder).explain(*query[1:]).shares.start
    assert 0 < gated < 1
    assert abs(gated - embedder.model.config.path_weight) > 1e-3  # the gate has its say
    assert LiraExplainer(embedder).explain(query[1], None).shares.start == pytest.approx(1)


def test_what_is_found_is_what_the_evaluation_finds(embedder, documents, dataset):
    """Mean nDCG@10 over all queries equals that of the evaluation, under each system: same vectors, same ranks."""
    tags = [query.language for query in dataset.queries.values()]
    texts = [query.text for query in dataset.queries.values()]
    candidates, scores, _ = embedder.find_candidates(texts, tags)
    controls = RoadControls(dataset, embedder.features, candidates, scores)
    expected = {
        "g alone": controls.source_alone(),
        "translate, then h": controls.translated("best"),
        "concat, untrained": controls.concat("best", embedder.model.config.path_weight),
        "LiRA": evaluate_embedder(embedder, dataset),
    }
    explainer = LiraExplainer(embedder, documents)
    gains = {name: [] for name in SYSTEMS}
    for key, query in dataset.queries.items():
        found = explainer.explain(query.text, query.language, k=10, relevant=dataset.qrels[key])
        assert [result.system for result in found.results] == list(SYSTEMS)
        for result in found.results:
            places = [place for place, hit in enumerate(result.hits, start=1) if hit.relevant]
            gains[result.system].append(sum(1 / np.log2(1 + place) for place in places))
            assert result.rank is not None  # the corpus has less than 100 documents
            assert places == ([result.rank] if result.rank <= 10 else [])
    for name in SYSTEMS:
        scores = expected[name]
        by_language = [np.mean([g for g, t in zip(gains[name], tags, strict=True) if t == tag]) for tag in set(tags)]
        assert np.mean(by_language) == pytest.approx(scores.mean(), abs=1e-6), name
    assert len({round(float(np.mean(rows)), 4) for rows in gains.values()}) > 1  # the systems differ


def test_scores_are_those_of_the_embedder(embedder, documents, dataset, query):
    _, text, tag = query
    ours = LiraExplainer(embedder, documents).explain(text, tag, k=3).results[-1]
    vectors = embedder.encode(list(dataset.corpus.values()), "en", role="document")
    cosines = vectors @ embedder.encode(text, tag, role="query")
    best = np.argsort(-cosines)[:3]
    assert [hit.id for hit in ours.hits] == [list(dataset.corpus)[place] for place in best]
    np.testing.assert_allclose([hit.score for hit in ours.hits], cosines[best], atol=1e-5)
    assert [hit.text for hit in ours.hits] == [dataset.corpus[hit.id] for hit in ours.hits]
    assert {hit.language for hit in ours.hits} == {"en"}


def test_without_candidates_the_english_roads_say_why(embedder, documents, query):
    for found in (
        LiraExplainer(embedder, documents).explain(query[1], None),
        LiraExplainer(embedder, documents).explain(query[1], query[2], candidates=[FoundCandidate("  ")]),
    ):
        assert found.candidates == ()
        results = {result.system: result for result in (*found.results, *found.neighbours)}
        for name in ("translate, then h", "English road alone"):
            assert results[name].hits == ()
            assert results[name].missing == "there is no candidate translation"
        assert found.shares.agreement is None
        assert [hit.id for hit in results["concat, untrained"].hits] == [hit.id for hit in results["g alone"].hits]
        same(results["LiRA"], results["multilingual road alone"])


def same(one, other):
    np.testing.assert_allclose([hit.score for hit in one.hits], [hit.score for hit in other.hits], atol=1e-5)
    assert [hit.id for hit in one.hits] == [hit.id for hit in other.hits]


def test_candidates_can_be_given(embedder, documents, query):
    explainer = LiraExplainer(embedder, documents)
    given = [FoundCandidate("red green house"), FoundCandidate("moon window", None, Score(9, 9, 9))]
    found = explainer.explain(query[1], query[2], given)
    assert [one.text for one in found.candidates] == ["red green house", "moon window"]
    alone = explainer.explain(query[1], query[2], given[1:])
    same(found.results[1], alone.results[1])  # the critic's best is what a reader takes
    unjudged = [given[0], FoundCandidate("moon window")]
    first = explainer.explain(query[1], query[2], unjudged)
    same(first.results[1], explainer.explain(query[1], query[2], given[:1]).results[1])
    assert first.results[1].hits[0].id != found.results[1].hits[0].id


def test_neighbours_are_english(make, dataset):
    embedder = make()
    foreign = {f"x{number}": query.text for number, query in enumerate(dataset.queries.values())}
    languages = dict.fromkeys(foreign, "vi")
    some = dict(list(dataset.corpus.items())[:3])
    documents = ComparedDocuments(embedder, some | foreign, languages)
    text = next(iter(foreign.values()))
    found = LiraExplainer(embedder, documents).explain(text, "vi", k=5)
    assert found.results[-1].hits[0].text == text
    assert found.results[-1].hits[0].language == "vi"
    for result in found.neighbours:
        assert {hit.language for hit in result.hits} == {"en"}
        assert len(result.hits) == 3
    only = LiraExplainer(embedder, ComparedDocuments(embedder, foreign, languages)).explain(text, "vi", k=1)
    assert only.neighbours[0].missing == "none of the nearest 8 documents is in en"


def test_prompts_and_roles_reach_g(tiny_lira, dataset):
    model, processor = tiny_lira()
    processor.query_prompt, processor.document_prompt = "ask ", "told "
    embedder = LiraEmbedder(model, processor)
    text = next(iter(dataset.corpus.values()))
    found = LiraExplainer(embedder, ComparedDocuments(embedder, dataset.corpus)).explain(text, "en", k=100)
    score = next(hit.score for hit in found.results[0].hits if hit.text == text)
    asked, told = (embedder.features.get("source", [prompt + text])[0, 0] for prompt in ("ask ", "told "))
    cosine = float(asked @ told / np.linalg.norm(asked) / np.linalg.norm(told))
    assert score == pytest.approx(cosine, abs=1e-5)
    assert cosine < 0.999


def test_a_folder_of_vectors_is_searched_by_lira_alone(embedder, documents, dataset, query, tmp_path):
    rows = [TextRow(key, text, "en") for key, text in dataset.corpus.items()]
    dim = embedder.model.config.projection_dim
    with VectorFolder.create(tmp_path / "v", dim, "float32", "m", embedder.fingerprint) as folder:
        embed_rows(embedder, rows, folder, role="document")
    found = LiraExplainer(embedder, VectorIndex(VectorFolder(tmp_path / "v"))).explain(*query[1:], relevant=["d3"])
    whole = LiraExplainer(embedder, documents).explain(*query[1:], relevant=["d3"])
    assert [result.system for result in found.results] == ["LiRA"]
    for one, other in zip((*found.results, *found.neighbours), (whole.results[-1], *whole.neighbours), strict=True):
        same(one, other)
        assert one.rank == other.rank


def test_vectors_of_another_model_are_refused(embedder, make, dataset, tmp_path):
    other = make()
    made = (tmp_path / "v", embedder.model.config.projection_dim, "float32", "other", other.fingerprint)
    VectorFolder.create(*made).close()
    with pytest.raises(VectorsError, match="without vectors; expected some; run `lira embed`"):
        LiraExplainer(embedder, VectorIndex(VectorFolder(tmp_path / "v")))
    with VectorFolder.create(*made) as folder:
        embed_rows(other, [TextRow("a", "red", "en")], folder)
    with pytest.raises(
        VectorsError, match=f"{embedder.fingerprint}.*are of other .fingerprint {other.fingerprint}.*embed anew"
    ):
        LiraExplainer(embedder, VectorIndex(VectorFolder(tmp_path / "v")))


@pytest.mark.parametrize(("roads", "length"), [("merged", 3), ("both", 6)])
def test_a_base_lm_has_its_share_of_the_prefix(roads, length):
    base = word_tokenizer(bos=True)
    processor = LiraProcessor.from_backbones(word_tokenizer(), word_tokenizer(), base=base, prefix_length=length)
    model = causal(prefix_token_id=processor.prefix_token_id, prefix_roads=roads)
    found = LiraExplainer(LiraEmbedder(model.lira, processor)).explain("the cat", "en")
    with torch.no_grad():
        expected = model(**processor(["the cat"], languages=["en"])).prefix_gate
    if roads == "both":
        assert found.shares.prefix is None
        assert expected is None
    else:
        assert found.shares.prefix == pytest.approx(float(expected[0]), abs=1e-5)
        assert 0 < found.shares.prefix < 1


def test_as_dict_is_json(embedder, documents, query):
    found = LiraExplainer(embedder, documents).explain(*query[1:], relevant=["d3"])
    record = json.loads(json.dumps(found.as_dict(), ensure_ascii=False))
    assert record["candidates"][1]["scores"] == {"semantic": 9.0, "emotional": 9.0, "pragmatic": 9.0}
    assert record["results"][3]["system"] == "LiRA"
    assert record["relevant"] == ["d3"]


def test_features_are_read_from_the_cache(embedder, dataset, query, tmp_path, monkeypatch):
    cached = RoadFeatures(embedder.model, embedder.processor, tmp_path / "cache", "float32")
    one = LiraEmbedder(embedder.model, embedder.processor, embedder.candidates, cached)
    first = LiraExplainer(one, ComparedDocuments(one, dataset.corpus)).explain(*query[1:])
    monkeypatch.setattr(RoadFeatures, "compute", lambda *_: pytest.fail("a backbone ran"))
    assert LiraExplainer(one, ComparedDocuments(one, dataset.corpus)).explain(*query[1:]) == first


def test_bad_input(embedder):
    explainer = LiraExplainer(embedder)
    with pytest.raises(ValueError, match="got a blank text; expected something to look for"):
        explainer.explain(" \n")
    with pytest.raises(ValueError, match="got k=0; expected at least 1"):
        explainer.explain("red", "en", k=0)
    with pytest.raises(ValueError, match="got a corpus without documents"):
        ComparedDocuments(embedder, {})
