"""Prompts of the multilingual encoder in everything that embeds: vectors, fingerprints, folders of vectors."""

import numpy as np
import pytest
import torch

from lira_hf.inference import (
    CandidateSource,
    LiraEmbedder,
    RoadFeatures,
    TextRow,
    VectorFolder,
    VectorsError,
    embed_rows,
    encode_rows,
)
from lira_hf.translation import CandidateStore, Identity


PROMPTS = {"query_prompt": "query: ", "document_prompt": "passage: "}
TEXTS, TAGS = ["derv neergv eulbv", "red moon", "", "deru neergu reviru"], ["vi", "en", "vi", "ur"]


@pytest.fixture
def make(tiny_lira, tiny_data, tmp_path):
    """`make(**config)`: an embedder whose parts all have a say, over a feature cache."""
    source = CandidateSource(CandidateStore(tiny_data / "store.sqlite", read_only=True), critic=Identity("judge", "1"))

    def build(**config):
        model, processor = tiny_lira(**config)
        with torch.no_grad():
            for part in (model.arca, model.fusion, model.embedding_head):
                for weight in part.parameters():
                    weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
        for name in config:
            setattr(processor, name, config[name])
        return LiraEmbedder(model, processor, source, RoadFeatures(model, processor, tmp_path / "features", "float32"))

    return build


@pytest.mark.parametrize("role", ["query", "document"])
def test_vectors_are_those_of_the_processor_and_the_model(make, role):
    embedder = make(**PROMPTS)
    candidates, scores, _ = embedder.find_candidates(TEXTS, TAGS)
    assert candidates[1] == ["red moon"]  # the bare text
    batch = embedder.processor(TEXTS, candidates, scores, TAGS, role=role)
    with torch.no_grad():
        expected = embedder.model(**batch).pooler_output.numpy()
    found = embedder.encode(TEXTS, TAGS, role=role)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(found[[0, 1, 3]] - embedder.encode(TEXTS, TAGS)[[0, 1, 3]]).max(-1).min() > 1e-3
    rows = [TextRow(str(number), *row) for number, row in enumerate(zip(TEXTS, TAGS, strict=True))]
    np.testing.assert_allclose(encode_rows(embedder, rows, role=role), found, atol=2e-6)


def test_only_g_reads_prompts(make, monkeypatch):
    embedder, asked = make(**PROMPTS), {"source": [], "anchor": []}
    plain = embedder.features.get
    monkeypatch.setattr(embedder.features, "get", lambda road, texts: asked[road].extend(texts) or plain(road, texts))
    embedder.encode(TEXTS, TAGS, role="query")
    assert set(asked["source"]) == {"query: derv neergv eulbv", "query: red moon", "", "query: deru neergu reviru"}
    assert "red moon" in asked["anchor"]
    assert not [text for text in asked["anchor"] if "query" in text]


def test_without_prompts_a_role_changes_nothing(make):
    embedder = make()
    for role in ("query", "document"):
        np.testing.assert_array_equal(embedder.encode(TEXTS, TAGS, role=role), embedder.encode(TEXTS, TAGS))
    for texts in (TEXTS, []):
        with pytest.raises(ValueError, match="role is 'passage'; expected 'query', 'document' or None"):
            embedder.encode(texts, "vi", role="passage")


def test_the_fingerprint_knows_the_prompts(make):
    bare, prompted = make(), make(**PROMPTS)
    other = make(query_prompt="query: ")
    assert len({bare.fingerprint, prompted.fingerprint, other.fingerprint}) == 3
    # Those of the processor count, which is what texts go through.
    processor_only = make()
    processor_only.processor.query_prompt = "query: "
    assert processor_only.fingerprint == other.fingerprint


def test_a_folder_tells_roles_apart_where_there_are_prompts(make, tmp_path):
    rows = [TextRow("a", TEXTS[0], "vi"), TextRow("b", "red moon", "en")]
    for name, embedder in (("bare", make()), ("prompted", make(**PROMPTS))):
        with VectorFolder.create(tmp_path / name, 40, fingerprint=embedder.fingerprint) as folder:
            assert embed_rows(embedder, rows, folder, role="document").written == 2
            np.testing.assert_allclose(folder.vectors(0), embedder.encode(*_columns(rows), role="document"), atol=2e-6)
            assert embed_rows(embedder, rows, folder, role="document").skipped == 2
            if name == "bare":
                assert embed_rows(embedder, rows, folder, role="query").skipped == 2
                continue
            with pytest.raises(VectorsError, match="got 2 ids that"):
                embed_rows(embedder, rows, folder, role="query")


def _columns(rows):
    return [row.text for row in rows], [row.language for row in rows]
