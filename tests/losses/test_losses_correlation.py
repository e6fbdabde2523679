"""CorrelationLoss against scipy, its queue and its degenerate cases."""

import math

import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from lira_hf.losses import CorrelationLoss, CorrQueue, pearson_correlation, soft_spearman_correlation


def make_pairs(seed=0, pairs=30, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    gold = torch.randint(0, 6, (pairs,), generator=generator).to(dtype)  # with ties
    return 0.1 * gold + 0.2 * torch.randn(pairs, generator=generator, dtype=dtype), gold


def test_equals_scipy_in_the_limit():
    predictions, gold = make_pairs()
    predictions[3] = predictions[7]  # a tie among the predictions too
    assert pearson_correlation(predictions, gold).item() == pytest.approx(pearsonr(predictions, gold)[0], abs=1e-12)
    soft = soft_spearman_correlation(predictions, gold, tau=1e-7).item()
    assert soft == pytest.approx(spearmanr(predictions, gold)[0], abs=1e-12)


def test_soft_spearman_equals_brute_force():
    predictions, gold = make_pairs(pairs=9)
    ranks = [
        1 + sum(1 / (1 + math.exp((b - a) / 0.05)) for j, b in enumerate(predictions.tolist()) if j != i)
        for i, a in enumerate(predictions.tolist())
    ]
    values = gold.tolist()
    golden = [sum(b < a for b in values) + 0.5 * sum(b == a for b in values) for a in values]
    soft = soft_spearman_correlation(predictions, gold).item()
    assert soft == pytest.approx(pearsonr(ranks, golden)[0], abs=1e-12)


def test_loss_weighs_both_over_queue_and_batch():
    predictions, gold = make_pairs()
    queue = CorrQueue(capacity=64)
    queue.push(predictions[:20], gold[:20])
    output = CorrelationLoss(alpha=0.3)(predictions[20:].float(), gold[20:], queue)
    together = predictions.float()
    pearson, spearman = pearson_correlation(together, gold), soft_spearman_correlation(together, gold)
    torch.testing.assert_close(output.loss, 0.3 * (1 - pearson) + 0.7 * (1 - spearman))
    torch.testing.assert_close((output.pearson, output.spearman), (pearson, spearman))
    assert output.num_pairs.item() == 30
    assert CorrelationLoss()(predictions[20:], gold[20:], queue, max_age=-1).num_pairs.item() == 10


def test_gradient_with_a_queue_and_permutation():
    predictions, gold = make_pairs(pairs=12)
    queue = CorrQueue(capacity=8)
    queue.push(*make_pairs(seed=1, pairs=8))
    leaf = predictions.requires_grad_()
    loss = CorrelationLoss()
    assert torch.autograd.gradcheck(lambda values: loss(values, gold, queue).loss, (leaf,))
    order = torch.randperm(12)
    torch.testing.assert_close(loss(leaf[order], gold[order], queue).loss, loss(leaf, gold, queue).loss)


def test_scale_of_gold_does_not_matter():
    predictions, gold = make_pairs(dtype=torch.float32)
    plain = CorrelationLoss()(predictions, gold).loss
    for scaled in (1e-6 * gold, 1e6 * gold - 3e6, gold.long()):
        torch.testing.assert_close(CorrelationLoss()(predictions, scaled).loss, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("predictions", "gold"),
    [([], []), ([0.3], [1.0]), ([0.1, 0.2, 0.3], [2.0, 2.0, 2.0])],
    ids=["empty", "one pair", "constant gold"],
)
def test_uninformative_pairs_are_zero_with_a_graph(predictions, gold):
    leaf = torch.tensor(predictions, requires_grad=True)
    output = CorrelationLoss()(leaf, torch.tensor(gold), CorrQueue(capacity=4))
    output.loss.backward()
    assert output.loss.item() == 0
    assert (leaf.grad == 0).all()


def test_collapsed_predictions_get_a_bounded_gradient_that_parts_them():
    leaf = torch.full((4,), 0.5, requires_grad=True)
    output = CorrelationLoss()(leaf, torch.tensor([0.0, 1.0, 2.0, 3.0]))
    output.loss.backward()
    assert output.loss.item() == pytest.approx(1.0)
    assert leaf.grad[3] < leaf.grad[2] < 0 < leaf.grad[1] < leaf.grad[0]
    assert leaf.grad.abs().max() < 5e3


@pytest.mark.parametrize("size", [1e-30, 1e10, 3e38])
def test_extreme_predictions_stay_finite(size):
    leaf = (torch.tensor([1.0, -1.0, 0.5, 0.0]) * size).requires_grad_()
    output = CorrelationLoss()(leaf, torch.tensor([1e30, -1e30, 3e38, 0.0]))
    output.loss.backward()
    assert all(part.isfinite() for part in output)
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_predictions(dtype):
    predictions, gold = make_pairs()
    leaf = predictions.to(dtype).requires_grad_()
    output = CorrelationLoss()(leaf, gold)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == CorrelationLoss()(leaf.detach().float(), gold).loss.item()
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, g: CorrelationLoss(alpha=2), "alpha=2, .*expected 0 <= alpha <= 1"),
        (lambda p, g: CorrelationLoss(tau=0), "tau=0, .*tau > 0"),
        (lambda p, g: CorrelationLoss()(p[:, None], g), r"predictions of shape \(3, 1\) and gold of \(3,\)"),
        (lambda p, g: CorrelationLoss()(p, g * math.nan), "gold with nan at row 0, expected finite numbers"),
        (lambda p, g: CorrelationLoss()(torch.tensor([1, 2, math.inf]), g), "predictions with inf at row 2"),
    ],
)
def test_correlation_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0]))
