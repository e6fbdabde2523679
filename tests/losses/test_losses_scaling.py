"""The forms for long lists against the plain ones: nDCG by chunks, a queue read in chunks, Spearman on a grid."""

import math
import weakref
from functools import partial

import pytest
import torch
from scipy.stats import rankdata
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lira_hf.losses import (
    CorrelationLoss,
    CorrQueue,
    DocQueue,
    RetrievalLoss,
    _soft_ranks,
    pearson_correlation,
    soft_ndcg_loss,
    soft_spearman_correlation,
)


class HeldMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as they live; `most` is the peak."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self.known = 0, 0, set()

    def _free(self, key, size):
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf):
                storage = leaf.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.known and key not in given:
                    self.known.add(key)
                    self.now += size
                    weakref.finalize(storage, self._free, key, size)
        self.most = max(self.most, self.now)
        return result


# Soft nDCG by chunks


def make_lists(seed, batch=5, entries=40, dtype=torch.float64):
    """Scores with ties, graded positives (many in row 0, none in row 1), and illegal entries."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-20, 20, (batch, entries), generator=generator).to(dtype) / 20
    relevance = torch.randint(1, 4, (batch, entries), generator=generator).to(dtype)
    relevance *= torch.rand(batch, entries, generator=generator) < 0.1
    relevance[0, ::2], relevance[1] = 2.0, 0.0
    return scores, relevance, torch.rand(batch, entries, generator=generator) < 0.8


def value_and_gradient(loss, *leaves):
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    value = loss(*leaves)
    value.backward()
    return value.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("chunk_size", [1, 7, 40, 4096])
@pytest.mark.parametrize("settings", [{}, {"k": 3, "tail": 0.9}, {"k": None, "tau": 0.5}, {"k": 1, "tau": 1e-3}])
def test_chunked_ndcg_equals_the_plain_one(chunk_size, settings):
    for seed in range(8):
        scores, relevance, mask = make_lists(seed)
        for positives, legal in ((relevance, mask), (relevance > 0, None), (relevance.int(), mask)):
            plain, chunked = (
                value_and_gradient(partial(soft_ndcg_loss, positives=positives, mask=legal, **more), scores)
                for more in (settings, {**settings, "chunk_size": chunk_size})
            )
            torch.testing.assert_close(chunked, plain, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)]
)
def test_chunked_ndcg_in_other_precision_and_under_autocast(dtype, tolerance):
    scores, relevance, mask = make_lists(3, dtype=dtype)
    plain = value_and_gradient(lambda s: soft_ndcg_loss(s, relevance, mask, tail=0.5), scores)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chunked = value_and_gradient(lambda s: soft_ndcg_loss(s, relevance, mask, tail=0.5, chunk_size=16), scores)
    assert chunked[0].dtype == torch.float32
    assert chunked[1][0].dtype == dtype
    torch.testing.assert_close(chunked[0], plain[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(chunked[1], plain[1], atol=1e-6, rtol=tolerance)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15, 3e38, math.inf])
def test_chunked_ndcg_of_extreme_scores(size):
    signs = torch.tensor([[1.0, -1.0, 1.0, 0.0, -1.0], [-1.0, 1.0, 1.0, 1.0, 0.0]])
    scores, positives = torch.where(signs == 0, signs, signs * size), torch.tensor([[1, 0, 0, 1, 0]] * 2)
    plain = value_and_gradient(lambda s: soft_ndcg_loss(s, positives), scores)
    chunked = value_and_gradient(lambda s: soft_ndcg_loss(s, positives, chunk_size=2), scores)
    torch.testing.assert_close(chunked, plain, atol=1e-6, rtol=1e-5)


def test_chunked_ndcg_ignores_what_illegal_entries_hold():
    scores, relevance, mask = make_lists(4)
    spoiled = scores.masked_fill(~mask, math.nan)
    spoiled[:, 1::2] = torch.where(mask[:, 1::2], scores[:, 1::2], math.inf)
    wrong = relevance.masked_fill(~mask, -1.0)
    plain = value_and_gradient(lambda s: soft_ndcg_loss(s, relevance, mask), scores)
    chunked = value_and_gradient(lambda s: soft_ndcg_loss(s, wrong, mask, chunk_size=7), spoiled)
    torch.testing.assert_close(chunked, plain, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (0, 4), (2, 0)])
def test_chunked_ndcg_of_nothing_is_zero_with_a_graph(shape):
    nothing = torch.zeros(shape, dtype=torch.bool)
    value, (gradient,) = value_and_gradient(
        lambda s: soft_ndcg_loss(s, nothing, nothing, chunk_size=2), torch.full(shape, math.nan)
    )
    assert value.item() == 0
    assert (gradient == 0).all()


def test_chunked_ndcg_passes_gradcheck():
    scores, relevance, mask = make_lists(5, batch=3, entries=9)
    leaf = (scores + 0.01 * torch.rand(3, 9, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_ndcg_loss(s, relevance, mask, tail=0.5, chunk_size=4), (leaf,))


def test_chunked_ndcg_holds_little_beside_the_gradient():
    scores = torch.rand(8, 5000, requires_grad=True)
    positives = torch.arange(5000).expand(8, -1) % 1000 == 3  # five a row
    size, peaks = scores.numel() * 4, []
    for settings in ({}, {"chunk_size": 256}):
        scores.grad = None
        with HeldMemory() as memory:
            soft_ndcg_loss(scores, positives, torch.ones_like(positives), **settings).backward()
        peaks.append(memory.most - size)  # without the gradient
    assert peaks[0] > 5 * size
    assert peaks[1] < size / 2


# A queue read in chunks


def make_retrieval(seed, entries=50, dim=6, dtype=torch.float64, noise=1.0):
    """A batch, extra documents, and a queue that has wrapped, with entries unsafe for every reason."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(dim, generator=generator)
    draw = lambda rows: (centre + noise * torch.randn(rows, dim, generator=generator)).to(dtype)  # noqa: E731
    queries, documents, extra = draw(4), draw(4), draw(3)
    queue = DocQueue(capacity=entries, dim=dim)
    queue.push(draw(7), torch.arange(7))
    pushed = draw(entries)
    pushed[::9] = 3 * documents[1] + 0.01 * pushed[::9]
    queue.push(
        pushed,
        torch.randint(0, 30, (entries,), generator=generator),
        torch.randint(-1, 9, (entries,), generator=generator),
    )
    ids = {
        "document_ids": torch.tensor([1, 2, 2, -1]),
        "group_ids": torch.tensor([3, -1, 4, 5]),
        "known_positive_ids": torch.tensor([[9], [-1], [11], [12]]),
    }
    return (queries, documents, extra), queue, ids


def both_ways(settings, leaves, queue, ids, chunk_size=8):
    """Outputs and gradients of RetrievalLoss in one piece, and in chunks."""
    results = []
    for size in (None, chunk_size):
        loss = RetrievalLoss(chunk_size=size, **settings)
        outputs = []

        def run(queries, documents, extra, loss=loss, outputs=outputs):
            outputs.append(loss(queries, documents, **ids, extra_documents=extra, queue=queue))
            return outputs[0].loss

        _, gradients = value_and_gradient(run, *leaves)
        results.append(([part.detach() for part in outputs[0]], gradients))
    return results


@pytest.mark.parametrize("objective", ["soft_ndcg", "infonce"])
@pytest.mark.parametrize(
    "settings",
    [
        {"min_std": 0.9, "mean_variance_weight": 1.0},
        {"tau": 0.01, "k": 3, "tail": 0.2},
        {"k": None, "margin": 2.0, "num_hardest": 60, "mean_variance_weight": 0.0},
        {"hinge_weight": 0.0, "threshold": None, "tau": 1.0},
    ],
)
def test_queue_in_chunks_equals_the_queue_in_one_piece(objective, settings):
    for seed in range(6):
        plain, chunked = both_ways({"objective": objective, **settings}, *make_retrieval(seed))
        torch.testing.assert_close(chunked, plain, atol=1e-10, rtol=1e-9)
        assert plain[0][5] > 0
        assert plain[0][6] > 0


@pytest.mark.parametrize("objective", ["soft_ndcg", "infonce"])
def test_queue_in_chunks_when_vectors_have_collapsed(objective):
    leaves, queue, ids = make_retrieval(1, entries=2000, dtype=torch.float32, noise=1e-2)
    settings = {"objective": objective, "threshold": None, "mean_variance_weight": 1.0, "hinge_weight": 0.0}
    plain, chunked = both_ways(settings, leaves, queue, ids, chunk_size=256)
    torch.testing.assert_close(chunked[0], plain[0], atol=1e-5, rtol=1e-5)
    for one, other in zip(chunked[1], plain[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()), rtol=1e-3)
    plain, chunked = both_ways({**settings, "threshold": 0.9, "hinge_weight": 0.1}, leaves, queue, ids)
    assert plain[0][4] == 0  # every negative is dropped
    torch.testing.assert_close(chunked, plain, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("objective", ["soft_ndcg", "infonce"])
def test_queue_in_chunks_passes_gradcheck(objective):
    leaves, queue, ids = make_retrieval(2, entries=9, dim=4)
    loss = RetrievalLoss(objective, tau=0.3, margin=3.0, min_std=0.9, mean_variance_weight=1.0, chunk_size=2)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(
        lambda q, d, e: loss(q, d, **ids, extra_documents=e, queue=queue).loss, tuple(leaves)
    )


@pytest.mark.parametrize("batch", [0, 1])
def test_queue_in_chunks_with_a_small_batch(batch):
    (queries, documents, _), queue, _ = make_retrieval(3)
    leaf = queries[:batch].requires_grad_()
    output = RetrievalLoss(chunk_size=8)(leaf, documents[:batch], queue=queue)
    output.loss.backward()
    plain = RetrievalLoss(chunk_size=None)(leaf, documents[:batch], queue=queue)
    torch.testing.assert_close([part.detach() for part in output], [part.detach() for part in plain])
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_queue_in_chunks_scores_half_precision_in_float32(dtype):
    leaves, queue, ids = make_retrieval(4, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, chunked = both_ways({}, leaves, queue, ids)
    torch.testing.assert_close(chunked[0], plain[0], atol=1e-5, rtol=1e-5)
    assert all(gradient.dtype == dtype for gradient in chunked[1])


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_queue_in_chunks_whatever_the_length_of_its_vectors(size):
    leaves, queue, ids = make_retrieval(6)
    queue.push(size * queue.entries().embeddings[:20], torch.arange(20) + 50)
    plain, chunked = both_ways({"min_std": 0.9}, leaves, queue, ids)
    torch.testing.assert_close(chunked, plain, atol=1e-10, rtol=1e-9)


def test_a_push_before_the_backward_pass_changes_nothing():
    (queries, documents, _), queue, ids = make_retrieval(5)
    gradients = []
    for push in (False, True):
        leaf = queries.clone().requires_grad_()
        output = RetrievalLoss(chunk_size=8)(leaf, documents, **ids, queue=queue)
        if push:
            queue.push(torch.full((50, 6), 7.0), torch.arange(50))
        output.loss.backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_queue_in_chunks_is_the_default_for_long_queues_and_holds_little():
    generator = torch.Generator().manual_seed(0)
    queue = DocQueue(capacity=20_000, dim=32)
    queue.push(torch.randn(20_000, 32, generator=generator), torch.arange(20_000) + 100)
    peaks = []
    for settings in ({"chunk_size": None}, {}, {"chunk_size": 512}):
        queries, documents = torch.randn(2, 8, 32, generator=generator).requires_grad_()
        with HeldMemory() as memory:
            RetrievalLoss(**settings)(queries, documents, torch.arange(8), queue=queue).loss.backward()
        peaks.append(memory.most)
    queue_bytes = 20_000 * 32 * 4
    assert peaks[0] > 2 * queue_bytes
    assert peaks[1] < queue_bytes
    assert peaks[2] < queue_bytes / 4


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 99])
@pytest.mark.parametrize("max_age", [None, 1, -1])
def test_chunks_of_a_queue_are_its_entries(chunk_size, max_age):
    queue = DocQueue(capacity=5, dim=2)
    for number in range(4):
        queue.push(torch.full((2, 2), float(number)), torch.tensor([number, 10 + number]))
    whole, pieces = queue.entries(max_age), list(queue.chunks(chunk_size, max_age))
    assert all(len(piece.ages) <= chunk_size for piece in pieces)
    for place, column in enumerate(whole):
        assert torch.cat([column[:0], *(piece[place] for piece in pieces)]).equal(column)


# Soft Spearman on a grid


def exact_spearman(predictions, gold, tau):
    """Over all pairs by autograd, in float64, with scipy's ranks."""
    values = predictions.double()
    soft = torch.sigmoid((values[:, None] - values[None, :]) / tau).mean(dim=1)
    return pearson_correlation(soft, torch.from_numpy(rankdata(gold.numpy())) / len(gold))


def make_pairs(seed, pairs=700, ties=True, offset=0.0, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    gold = torch.randint(0, 6, (pairs,), generator=generator).float()
    values = 0.1 * gold + 0.3 * torch.randn(pairs, generator=generator)
    if ties:
        values = (20 * values).round() / 20
    return (offset + scale * values).to(dtype), gold


@pytest.mark.parametrize("tau", [0.003, 0.05, 1.0, 30.0])
@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (-1e4, 1.0), (5.0, 0.05), (0.0, 1e-3)])
@pytest.mark.parametrize("ties", [True, False])
def test_grid_equals_all_pairs(tau, offset, scale, ties):
    for seed, pairs in enumerate([3, 33, 700]):
        predictions, gold = make_pairs(seed, pairs, ties, offset, scale)
        doubles = predictions.double()
        expected = value_and_gradient(partial(exact_spearman, gold=gold, tau=tau), doubles)
        actual = value_and_gradient(partial(soft_spearman_correlation, gold=gold, tau=tau, grid=True), doubles)
        torch.testing.assert_close(actual[0], expected[0], atol=5e-6, rtol=0)
        largest = float(expected[1][0].abs().max())
        torch.testing.assert_close(actual[1][0], expected[1][0], atol=5e-5 * largest, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("grid", [True, False])
def test_spearman_in_other_precision_and_under_autocast(dtype, grid):
    predictions, gold = make_pairs(1, dtype=dtype)
    expected = value_and_gradient(lambda p: exact_spearman(p, gold, 0.05), predictions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = value_and_gradient(lambda p: soft_spearman_correlation(p, gold, grid=grid), predictions)
    assert actual[0].dtype == torch.float32
    assert actual[1][0].dtype == dtype
    torch.testing.assert_close(actual[0].double(), expected[0], atol=1e-5, rtol=0)
    largest = float(expected[1][0].abs().max())
    torch.testing.assert_close(actual[1][0], expected[1][0], atol=1e-3 * largest, rtol=4 * torch.finfo(dtype).eps)


def test_pairs_piece_by_piece_are_all_pairs(monkeypatch):
    predictions, gold = make_pairs(2, pairs=41, dtype=torch.float64)
    expected = value_and_gradient(lambda p: exact_spearman(p, gold, 0.05), predictions)
    for most in (1, 100, 2**20):
        monkeypatch.setattr(_soft_ranks, "PAIRS_AT_A_TIME", most)
        actual = value_and_gradient(lambda p: soft_spearman_correlation(p, gold), predictions)
        torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-9)
    leaf = predictions[:9].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: soft_spearman_correlation(p, gold[:9]), (leaf,))


@pytest.mark.parametrize(
    ("change", "grid", "tau", "taken"),
    [
        (lambda p: p, None, 0.05, "grid"),
        (lambda p: p[:1023], None, 0.05, "pairs"),
        (lambda p: p[:1023], True, 0.05, "grid"),
        (lambda p: p, False, 0.05, "pairs"),
        (lambda p: 10 * p, None, 0.05, "pairs"),  # fits, but over that many cells 1,024 values are slower
        (lambda p: 10 * p, True, 0.05, "grid"),
        (lambda p: p, True, 1e-4, "pairs"),  # too many cells
        (lambda p: p.index_fill(0, torch.tensor(3), math.nan), True, 0.05, "pairs"),
        (lambda p: p.index_fill(0, torch.tensor(3), math.inf), True, 0.05, "pairs"),
        (lambda p: p * 0 + 0.3, None, 0.05, "grid"),  # all equal: two cells
        (lambda p: p[:0], True, 0.05, "pairs"),
    ],
)
def test_when_the_grid_is_taken(monkeypatch, change, grid, tau, taken):
    calls = []
    for name in ("grid", "pairs"):
        compare = getattr(_soft_ranks, f"compare_by_{name}")
        monkeypatch.setattr(
            _soft_ranks,
            f"compare_by_{name}",
            lambda *args, name=name, compare=compare: calls.append(name) or compare(*args),
        )
    predictions, gold = make_pairs(3, pairs=1024)
    predictions = change(predictions)
    value, (gradient,) = value_and_gradient(
        lambda p: soft_spearman_correlation(p, gold[: len(p)], tau, grid=grid), predictions
    )
    assert set(calls) <= {taken}
    assert calls or not len(predictions)
    assert value.isnan() == predictions.isnan().any()
    if not predictions.isnan().any():
        assert gradient.isfinite().all()


def test_equal_predictions_on_the_grid_have_the_gradient_of_all_pairs():
    predictions, gold = torch.full((600,), 0.3), make_pairs(4, pairs=600)[1]
    plain, grid = (
        value_and_gradient(lambda p, grid=grid: soft_spearman_correlation(p, gold, grid=grid), predictions)
        for grid in (False, True)
    )
    torch.testing.assert_close(grid, plain, atol=1e-6, rtol=1e-5)
    assert grid[1][0].abs().max() > 0


def test_mean_ranks_are_scipys():
    for seed in range(5):
        values = torch.randint(0, 40, (300,), generator=torch.Generator().manual_seed(seed)).float() / 7
        assert _soft_ranks.mean_ranks(values).add(0.5).tolist() == rankdata(values).tolist()
    assert _soft_ranks.mean_ranks(torch.tensor([0.5, math.nan])).isnan().tolist() == [False, True]


def test_correlation_loss_over_a_long_queue_is_that_of_all_pairs():
    predictions, gold = make_pairs(5, pairs=1500, ties=False)
    queue = CorrQueue(capacity=2000)
    queue.push(predictions[:1400], gold[:1400])
    results = [
        value_and_gradient(lambda p, loss=loss: loss(p, gold[1400:], queue).loss, predictions[1400:])
        for loss in (CorrelationLoss(), CorrelationLoss(grid=False))
    ]
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-3)


# Errors


def pass_backward(loss, leaf):
    torch.autograd.grad(loss, leaf, create_graph=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda s, p: pass_backward(soft_ndcg_loss(s, p, chunk_size=2), s),
            RuntimeError,
            "soft_ndcg_loss with chunk_size got create_graph=True, .*leave chunk_size out",
        ),
        (
            lambda s, p: pass_backward(soft_spearman_correlation(s[0], torch.arange(5)), s),
            RuntimeError,
            "soft_spearman_correlation got create_graph=True",
        ),
        (
            lambda s, p: pass_backward(RetrievalLoss(chunk_size=2)(s, s.detach(), queue=filled_queue()).loss, s),
            RuntimeError,
            "RetrievalLoss with chunk_size got create_graph=True, .*to None",
        ),
        (lambda s, p: soft_ndcg_loss(s, p, chunk_size=0), ValueError, "chunk_size=0, expected .*chunk_size >= 1"),
        (lambda s, p: RetrievalLoss(chunk_size=0), ValueError, "chunk_size=0, expected >= 1, or None"),
        (lambda s, p: soft_ndcg_loss(s, p[:, :4], chunk_size=2), ValueError, r"got positives of shape \(2, 4\)"),
        (
            lambda s, p: soft_ndcg_loss(s, p.float() - (torch.arange(5) == 4).float(), chunk_size=2),
            ValueError,
            "got relevance -1.0 at row 0, entry 4",
        ),
        (lambda s, p: soft_spearman_correlation(s[0], p[0], tau=0.0), ValueError, "tau=0.0, expected tau > 0"),
    ],
)
def test_scaling_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.rand(2, 5, requires_grad=True), torch.tensor([[1, 0, 0, 1, 0]] * 2))


def filled_queue():
    queue = DocQueue(capacity=8, dim=5)
    queue.push(torch.rand(8, 5), torch.arange(8))
    return queue


def test_the_plain_ndcg_can_be_derived_twice():
    scores = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    positives = torch.tensor([[1, 0, 0, 1, 0]] * 2)
    assert torch.autograd.gradgradcheck(lambda s: soft_ndcg_loss(s, positives, k=None), (scores,))
