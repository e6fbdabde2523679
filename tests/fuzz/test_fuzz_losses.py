"""Losses, queues and pooling on any numbers and shapes: finite or refused, and blind to what must not matter."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import tries

from lira_hf.losses import (
    CorrelationLoss,
    CorrQueue,
    DocQueue,
    RetrievalLoss,
    consistency_loss,
    hinge_loss,
    info_nce_loss,
    mean_variance_loss,
    soft_ndcg_loss,
)
from lira_hf.models.pooling_lira import pack_right_padded, pool_features, temporal_pool, unit


ODD = st.sampled_from([0.0, -0.0, 1e-38, 1e-45, 1e15, -1e30, 3e38, float("inf"), float("-inf"), float("nan")])
ANY = st.one_of(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32), ODD)
FINITE = st.floats(-1, 1, width=32)
SIZES = st.integers(1, 64)


def table(values: list[float], rows: int, columns: int) -> torch.Tensor:
    """`(rows, columns)` of these values, over and over."""
    return torch.tensor((values * (rows * columns // len(values) + 1))[: rows * columns]).view(rows, columns)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LISTS = [
    soft_ndcg_loss,
    lambda *given: soft_ndcg_loss(*given, chunk_size=3),
    info_nce_loss,
    hinge_loss,
    lambda scores, positives, mask: mean_variance_loss(scores, mask),
]


@pytest.mark.parametrize("loss", LISTS)
def test_list_losses(loss):
    @tries(25)
    @given(st.lists(ANY, min_size=1, max_size=12), SIZES, SIZES, st.integers(0, 99))
    def check(values, batch, entries, seed):
        scores = table(values, batch, entries).requires_grad_()
        mask, positives = noise(batch, entries, seed=seed) > -1, noise(batch, entries, seed=seed + 1) > 1
        legal = mask & ~scores.detach().isnan()
        value = loss(scores, positives, legal)
        assert value.isfinite()
        assert value >= 0
        value.backward()
        assert scores.grad.isfinite().all()
        assert (scores.grad[~legal] == 0).all()
        order = torch.randperm(entries, generator=torch.Generator().manual_seed(seed))
        again = loss(scores.detach()[:, order], positives[:, order], legal[:, order])
        assert torch.allclose(again, value.detach(), rtol=1e-4, atol=1e-5)
        filled = torch.where(legal, scores.detach(), 7.0)  # what isn't legal may hold anything
        assert torch.equal(loss(filled, positives, legal), loss(scores.detach(), positives, legal))

    check()


@tries(40)
@given(st.lists(ANY, min_size=2, max_size=64), st.lists(ANY, min_size=2, max_size=64), st.integers(1, 16))
def test_correlation(predictions, gold, capacity):
    count = min(len(predictions), len(gold))
    one, other = torch.tensor(predictions[:count]), torch.tensor(gold[:count])
    queue = CorrQueue(capacity)
    if not (one.isfinite().all() and other.isfinite().all()):
        for call in (lambda: CorrelationLoss()(one, other), lambda: queue.push(one, other)):
            with pytest.raises(ValueError, match="finite"):
                call()
        assert queue.num_entries == 0
        return
    one.requires_grad_()
    output = CorrelationLoss()(one, other, queue)
    output.loss.backward()
    assert output.loss.isfinite()
    assert one.grad.isfinite().all()
    order = torch.randperm(count)
    assert torch.allclose(CorrelationLoss()(one[order], other[order]).loss, output.loss, atol=1e-4)
    queue.push(one, other)
    assert queue.num_entries == min(count, capacity)
    assert torch.equal(queue.entries().gold, other[-capacity:])
    assert CorrelationLoss()(one, other, queue).loss.isfinite()


@tries(20)
@given(st.lists(ANY, min_size=1, max_size=12), SIZES, st.integers(1, 16), st.integers(1, 20), st.integers(0, 99))
def test_retrieval(values, batch, dim, capacity, seed):
    # Of a vector shorter than that the gradient is beyond float32.
    values = [0.0 if abs(value) < 1e-30 else value for value in values]
    queries, documents = table(values, batch, dim).requires_grad_(), noise(batch, dim, seed=seed)
    ids = torch.randint(-1, 5, (batch,), generator=torch.Generator().manual_seed(seed))
    queue = DocQueue(capacity, dim)
    queue.push(documents, ids)
    assert torch.equal(queue.entries().embeddings, documents[-capacity:])
    if not queries.isfinite().all():
        with pytest.raises(ValueError, match="not finite"):
            queue.push(queries, ids)
        return
    for objective in ("soft_ndcg", "infonce"):
        output = RetrievalLoss(objective, chunk_size=None)(queries, documents, ids, queue=queue)
        assert output.loss.isfinite()
        chunked = RetrievalLoss(objective, chunk_size=2)(queries, documents, ids, queue=queue)
        assert torch.allclose(chunked.loss, output.loss, rtol=1e-4, atol=1e-5)
        (gradient,) = torch.autograd.grad(output.loss, queries)
        assert gradient.isfinite().all()
    both = consistency_loss(documents, queries)
    assert both.isfinite()
    assert -1e-5 <= both <= 2 + 1e-5


@tries(40)
@given(st.integers(0, 64), SIZES, SIZES, st.integers(1, 8), st.integers(0, 99))
def test_pooling(tokens, bins, batch, dim, seed):
    states = noise(batch, tokens, dim, seed=seed)
    mask = (noise(batch, tokens, seed=seed + 1) > 0).long()
    spoiled = states.masked_fill(mask[..., None] == 0, float("nan"))
    for pooling in ("mean", "cls", "last"):
        if not tokens and pooling != "mean":
            continue
        pooled = pool_features(spoiled, mask, bins, pooling)
        assert pooled.shape == (batch, 1 + bins, dim)
        assert pooled.isfinite().all()
        # On which side the padding is, and how much of it, changes nothing.
        left = torch.cat([torch.full((batch, 5, dim), float("inf")), spoiled], dim=1)
        wider = torch.cat([torch.zeros(batch, 5, dtype=torch.long), mask], dim=1)
        assert torch.allclose(pool_features(left, wider, bins, pooling), pooled, atol=1e-6)
    lengths = mask.sum(-1)
    filled = (temporal_pool(torch.ones(batch, tokens, dim), mask, bins) != 0).any(-1).sum(-1)
    assert torch.equal(filled, lengths.clamp(max=bins))
    ids, kept = pack_right_padded(torch.arange(tokens).expand(batch, tokens), mask)
    assert torch.equal(kept.sum(-1), lengths)
    for row in range(batch):
        assert ids[row][kept[row].bool()].tolist() == mask[row].nonzero().flatten().tolist()


@tries(40)
@given(
    st.lists(FINITE | ODD, min_size=1, max_size=16), st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
)
def test_unit(values, dtype):
    vector = torch.tensor(values).to(dtype)
    if not vector.isfinite().all():
        return
    length = unit(vector).float().norm()
    assert length.isfinite()
    assert length <= 1.02
    if not vector.any():
        assert not unit(vector).any()
