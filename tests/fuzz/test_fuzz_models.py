"""Any texts through processor, embedder and model: unit vectors that no neighbour, order or padding changes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import long_lines, numbers, texts, tries, values
from tiny_lira import causal_with_processor

from lira_hf import LiraEmbedder
from lira_hf.models.traits_lira import TRAITS, candidate_traits, trait_tensor
from lira_hf.translation import clean_text


LANGUAGES = st.sampled_from(["vi", "ur", "en", "xx", None, "", "\ud800"])
CANDIDATES = st.one_of(
    st.none(),
    st.lists(texts(), max_size=4),
    st.tuples(texts(), st.integers(0, 64)).map(lambda pair: [pair[0]] * pair[1]),
)
ROWS = st.lists(st.tuples(texts(), LANGUAGES, CANDIDATES), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def embedders(tiny_lira):
    return {bins: LiraEmbedder(*tiny_lira(num_bins=bins), batch_size=3) for bins in (1, 2, 8, 64)}


def encoded(embedder: LiraEmbedder, rows, batch_size: int = 64) -> np.ndarray:
    embedder.batch_size = embedder.features.batch_size = batch_size
    columns = [list(column) for column in zip(*rows, strict=True)]
    return embedder.encode(columns[0], columns[1], candidates=columns[2])


@tries(15)
@given(ROWS, st.sampled_from([1, 2, 8, 64]), st.integers(1, 64), st.randoms(use_true_random=False))
def test_vectors(embedders, rows, bins, batch_size, random):
    embedder = embedders[bins]
    vectors = encoded(embedder, rows)
    assert vectors.shape == (len(rows), embedder.model.config.projection_dim)
    assert np.isfinite(vectors).all()
    lengths = np.linalg.norm(vectors, axis=1)
    assert all(abs(length - 1) < 1e-5 or length == 0 for length in lengths)
    for (text, _, candidates), length in zip(rows, lengths, strict=True):
        if not text.strip() and not any(each.strip() for each in candidates or []):
            assert length == 0
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = encoded(embedder, [rows[place] for place in order], batch_size)
    assert np.abs(shuffled - vectors[order]).max() < 1e-5
    alone = np.concatenate([encoded(embedder, [row]) for row in rows])
    assert np.abs(alone - vectors).max() < 1e-5
    cleaned = [(clean_text(text), tag, row and [clean_text(each) for each in row]) for text, tag, row in rows]
    assert np.abs(encoded(embedder, cleaned) - vectors).max() < 1e-5


@tries(20)
@given(ROWS, st.sampled_from(["left", "right"]), st.integers(1, 40))
def test_processor_and_model(tiny_pair, rows, side, longest):
    model, processor = tiny_pair
    given, tags, candidates = (list(column) for column in zip(*rows, strict=True))
    batch = processor(given, candidates=candidates, languages=tags, padding_side=side, max_length=longest)
    width = max(len([text] if row is None and tag == "en" and text.strip() else row or []) for text, tag, row in rows)
    assert batch["source_ids"].shape == batch["source_mask"].shape
    assert ("anchor_ids" in batch) == (width > 0)
    if width:
        assert batch["anchor_mask"].shape[:2] == (len(rows), width)
        assert batch["anchor_traits"].isfinite().all()
    with torch.no_grad():
        vectors = model(**batch).pooler_output
        other = processor(given, candidates=candidates, languages=tags, max_length=longest)
        assert torch.allclose(model(**other).pooler_output, vectors, atol=1e-5)
    assert vectors.isfinite().all()


@pytest.fixture(scope="module")
def tiny_pair(tiny_lira):
    model, processor = tiny_lira()
    return model.eval(), processor


@tries(60)
@given(
    st.lists(texts() | values(), max_size=3),
    st.lists(CANDIDATES | values(), max_size=3),
    values() | st.lists(st.lists(st.tuples(numbers(), numbers(), numbers()))),
)
def test_processor_refuses_by_its_own_errors(tiny_pair, given, candidates, scores):
    _, processor = tiny_pair
    try:
        batch = processor(given, candidates=candidates, scores=scores)
    except (TypeError, ValueError) as error:
        assert "expected" in str(error)  # noqa: PT017
        return
    scores = batch.get("anchor_scores")
    assert scores is None or (((scores >= 1) & (scores <= 10)) | (scores == 0)).all()


@pytest.fixture(scope="module")
def causal():
    return causal_with_processor()[1]


@tries(30)
@given(st.lists(texts(), min_size=1, max_size=4), st.none() | texts())
def test_prompts(causal, given, prompt):
    try:
        batch = causal(given, prompts=prompt)
    except ValueError as error:
        assert "placeholder" in str(error)  # noqa: PT017
        return
    assert ((batch["input_ids"] == causal.prefix_token_id).sum(-1) == causal.prefix_length).all()
    turns = [[{"role": "user", "content": text}] for text in given]
    told = causal.apply_chat_template(turns, tokenize=True)
    assert ((told["input_ids"] == causal.prefix_token_id).sum(-1) == causal.prefix_length).all()


@tries(60)
@given(texts(), st.lists(texts(), max_size=64), st.lists(texts() | st.none(), max_size=3))
def test_traits(text, candidates, known):
    rows = candidate_traits(text, candidates)
    assert len(rows) == len(candidates)
    table = trait_tensor([rows], [[None] * len(rows)], [kind for kind in dict.fromkeys(known) if kind])
    assert table.isfinite().all()
    assert table.shape[1] == len(candidates)
    named = dict(zip(TRAITS, zip(*rows, strict=True), strict=False)) if rows else {}
    assert all(-3 <= value <= 3 for value in named.get("length", ()))
    for name in set(named) - {"length"}:
        assert all(0 <= value <= 1 for value in named[name]), name


@tries(3)
@given(long_lines())
def test_a_long_text(embedders, line):
    vector = embedders[2].encode([line, "x"], "vi", candidates=[[line], []])
    assert np.isfinite(vector).all()
    assert np.abs(vector[1] - embedders[2].encode("x", "vi", candidates=None)).max() < 1e-5
