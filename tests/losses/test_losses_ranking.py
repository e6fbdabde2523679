"""Soft nDCG, InfoNCE, hinge and mean-variance against brute force, trec_eval and hand-computed numbers."""

import math

import pytest
import pytrec_eval
import torch
from sklearn.metrics import ndcg_score

from lira_hf.losses import hinge_loss, info_nce_loss, mean_variance_loss, soft_ndcg_loss


LISTWISE = [soft_ndcg_loss, info_nce_loss, hinge_loss]
EVERY = [*LISTWISE, lambda scores, positives, mask: mean_variance_loss(scores, mask)]


def make_lists(seed=0, batch=6, entries=40, graded=True, dtype=torch.float64):
    """Distinct scores, some graded positives, some illegal entries."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.stack([torch.randperm(entries, generator=generator) for _ in range(batch)]).to(dtype) / entries
    relevance = torch.randint(1, 4 if graded else 2, (batch, entries), generator=generator).double()
    relevance *= torch.rand(batch, entries, generator=generator) < 0.2
    mask = torch.rand(batch, entries, generator=generator) < 0.8
    relevance[:, 0], mask[:, 0] = 1.0, True
    return scores, relevance, mask


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def brute_soft_ndcg(scores, relevance, mask, k, tau):
    losses = []
    for row_scores, row_gains, row_mask in zip(scores.tolist(), relevance.tolist(), mask.tolist(), strict=True):
        legal = [place for place, kept in enumerate(row_mask) if kept]
        total = 0.0
        for i in legal:
            rank = 1 + sum(sigmoid((row_scores[j] - row_scores[i]) / tau) for j in legal if j != i)
            inside = min(max(k + 1 - rank, 0), 1)
            total += row_gains[i] / math.log2(1 + rank) * (3 * inside**2 - 2 * inside**3)
        best = sorted((row_gains[i] for i in legal), reverse=True)[:k]
        ideal = sum(gain / math.log2(2 + place) for place, gain in enumerate(best))
        if ideal:
            losses.append(1 - total / ideal)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("graded", [True, False])
def test_soft_ndcg_equals_brute_force(graded):
    scores, relevance, mask = make_lists(graded=graded)
    relevance[2] = 0  # a row without a positive is left out
    relevance[3] *= ~mask[3]  # and one whose positives are all illegal
    expected = brute_soft_ndcg(scores, relevance * mask, mask, k=7, tau=0.1)
    assert soft_ndcg_loss(scores, relevance, mask, k=7, tau=0.1).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_soft_ndcg_tends_to_trec_eval_and_sklearn(k):
    scores, relevance, mask = make_lists(seed=3)
    run, qrel = {}, {}
    for row in range(len(scores)):
        kept = mask[row].nonzero().flatten().tolist()
        run[str(row)] = {str(place): scores[row, place].item() for place in kept}
        qrel[str(row)] = {str(place): int(relevance[row, place]) for place in kept}
    measured = pytrec_eval.RelevanceEvaluator(qrel, {f"ndcg_cut.{k}"}).evaluate(run)
    trec = sum(row[f"ndcg_cut_{k}"] for row in measured.values()) / len(measured)
    value = 1 - soft_ndcg_loss(scores, relevance, mask, k=k, tau=1e-5).item()
    assert value == pytest.approx(trec, abs=1e-9)
    whole = 1 - soft_ndcg_loss(scores, relevance, k=k, tau=1e-5).item()
    assert whole == pytest.approx(ndcg_score(relevance, scores, k=k), abs=1e-9)


def test_soft_ndcg_whole_list_and_tail():
    scores, relevance, _ = make_lists(seed=4)
    whole = soft_ndcg_loss(scores, relevance, k=None, tau=1e-5).item()
    assert 1 - whole == pytest.approx(ndcg_score(relevance, scores), abs=1e-9)
    cut = soft_ndcg_loss(scores, relevance, k=5, tau=1e-5).item()
    mixed = soft_ndcg_loss(scores, relevance, k=5, tau=1e-5, tail=0.25).item()
    assert mixed == pytest.approx(0.75 * cut + 0.25 * whole, abs=1e-12)


def test_soft_ndcg_tail_alone_reaches_positives_beyond_the_cut():
    scores = torch.linspace(1, 0, 50).unsqueeze(0)
    positives = torch.arange(50).eq(45).unsqueeze(0)
    gradients = []
    for tail in (0.0, 0.1):
        leaf = scores.clone().requires_grad_()
        soft_ndcg_loss(leaf, positives, tail=tail).backward()
        gradients.append(leaf.grad[0, 45].item())
    assert gradients[0] == 0
    assert gradients[1] < 0  # a higher score lowers the loss


def test_soft_ndcg_ties_share_the_mean_rank():
    value = soft_ndcg_loss(torch.zeros(1, 3), torch.tensor([[True, False, False]]), k=None, tau=1e-3)
    assert value.item() == pytest.approx(1 - 1 / math.log2(3), abs=1e-6)  # ranks 1..3, mean 2


def test_soft_ndcg_stays_in_0_1():
    for seed in range(20):
        scores, relevance, mask = make_lists(seed=seed, entries=12)
        for k, tau in ((1, 0.05), (3, 0.5), (10, 5.0)):
            assert 0 <= soft_ndcg_loss(scores, relevance, mask, k=k, tau=tau).item() <= 1


def brute_info_nce(scores, relevance, mask, tau):
    rows = []
    for row_scores, gains, row_mask in zip(scores.tolist(), relevance.tolist(), mask.tolist(), strict=True):
        negatives = [s for s, gain, kept in zip(row_scores, gains, row_mask, strict=True) if kept and not gain]
        pairs = [(s, gain) for s, gain, kept in zip(row_scores, gains, row_mask, strict=True) if kept and gain]
        if not pairs:
            continue
        losses = [math.log1p(sum(math.exp((n - s) / tau) for n in negatives)) * gain for s, gain in pairs]
        rows.append(sum(losses) / sum(gain for _, gain in pairs))
    return sum(rows) / len(rows)


def test_info_nce_equals_brute_force():
    scores, relevance, mask = make_lists(seed=5)
    relevance[1] = 0
    value = info_nce_loss(scores, relevance, mask, tau=0.2).item()
    assert value == pytest.approx(brute_info_nce(scores, relevance, mask, 0.2), abs=1e-12)


def test_info_nce_of_a_diagonal_is_cross_entropy():
    scores = make_lists(batch=8, entries=8)[0]
    expected = torch.nn.functional.cross_entropy(scores / 0.05, torch.arange(8))
    torch.testing.assert_close(info_nce_loss(scores, torch.eye(8).bool()), expected)


def test_hinge_by_hand():
    scores = torch.tensor([[0.5, 0.45, 0.9, 0.3, 0.44], [0.9, 0.1, 0.1, 0.1, 0.1], [0.5, 0.1, 0.2, 0.3, 0.4]])
    positives = torch.tensor([[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    mask = torch.ones_like(scores).bool()
    mask[0, 2] = False  # the hardest of all is unsafe
    # Row 0: (.1 - .5 + .45 + .1 - .5 + .44) / 2 = .045; row 1: 0; row 2 has no positive.
    assert hinge_loss(scores, positives, mask, 0.1, 2).item() == pytest.approx(0.0225)
    # More asked for than there are: the three legal negatives of row 0, the last at 0.
    assert hinge_loss(scores, positives, mask, 0.1, 99).item() == pytest.approx((0.09 / 3) / 2)


def test_hinge_takes_every_positive_and_skips_rows_without_negatives():
    scores = torch.tensor([[0.5, 0.2, 0.45], [0.1, 0.2, 0.3]])
    positives = torch.tensor([[True, True, False], [True, True, True]])
    expected = ((0.1 - 0.5 + 0.45) + (0.1 - 0.2 + 0.45)) / 2
    assert hinge_loss(scores, positives, margin=0.1).item() == pytest.approx(expected)


def test_mean_variance_by_hand():
    scores = torch.tensor([[0.2, 0.4, 9.0], [0.1, 0.5, 0.3]])
    negatives = torch.tensor([[True, True, False], [True, False, False]])
    # Means .3 and .1 against .05; the deviation needs two negatives: row 0 alone, deviation .1 against .3.
    expected = (0.25**2 + 0.05**2) / 2 + 0.2**2
    assert mean_variance_loss(scores, negatives, 0.05, 0.3).item() == pytest.approx(expected, rel=1e-4)
    spread = torch.tensor([[-0.3, 0.3]])
    assert mean_variance_loss(spread, min_std=0.3).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("loss", LISTWISE)
def test_gradients(loss):
    scores, relevance, mask = make_lists(seed=6, batch=3, entries=8)
    # Off the hinge's and the cut's kinks: noise makes every difference distinct.
    leaf = (scores + 0.01 * torch.rand(3, 8, generator=torch.Generator().manual_seed(1)).double()).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: loss(values, relevance, mask), (leaf,))


def test_mean_variance_gradient():
    leaf = (0.02 * make_lists(seed=6, batch=3, entries=8)[0] + 0.3).requires_grad_()
    mask = make_lists(seed=6, batch=3, entries=8)[2]
    assert torch.autograd.gradcheck(lambda values: mean_variance_loss(values, mask), (leaf,))


@pytest.mark.parametrize("loss", LISTWISE)
def test_permutation_invariance(loss):
    scores, relevance, mask = make_lists(seed=7)
    rows, columns = torch.randperm(6), torch.randperm(40)
    shuffled = [tensor[rows][:, columns] for tensor in (scores, relevance, mask)]
    torch.testing.assert_close(loss(*shuffled), loss(scores, relevance, mask))


@pytest.mark.parametrize("loss", LISTWISE)
def test_masked_entries_have_no_say_whatever_they_hold(loss):
    scores, relevance, mask = make_lists(seed=8)
    spoiled = scores.masked_fill(~mask, math.nan)
    spoiled[:, 1::2] = torch.where(mask[:, 1::2], scores[:, 1::2], -math.inf)
    leaf = spoiled.requires_grad_()
    value = loss(leaf, relevance, mask)
    assert value.item() == loss(scores, relevance, mask).item()
    value.backward()
    assert leaf.grad.isfinite().all()
    assert (leaf.grad[~mask] == 0).all()


@pytest.mark.parametrize("loss", EVERY)
@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (0, 4), (2, 0)])
def test_nothing_to_learn_is_zero_with_a_graph(loss, shape):
    leaf = torch.full(shape, math.nan, requires_grad=True)
    nothing = torch.zeros(shape, dtype=torch.bool)
    value = loss(leaf, nothing, nothing)
    value.backward()
    assert value.item() == 0
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("loss", EVERY)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e4, 1e30, 3e38, math.inf])
def test_extreme_scores_stay_finite(loss, size):
    signs = torch.tensor([[1.0, -1.0, 1.0, 0.0, -1.0], [-1.0, 1.0, 1.0, 1.0, 0.0]])
    leaf = torch.where(signs == 0, signs, signs * size).requires_grad_()
    value = loss(leaf, torch.tensor([[1, 0, 0, 1, 0]] * 2), torch.ones(2, 5).bool())
    value.backward()
    assert value.isfinite()
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("loss", EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    scores, relevance, mask = make_lists(seed=9)
    leaf = scores.to(dtype).requires_grad_()
    value = loss(leaf, relevance, mask)
    assert value.dtype == torch.float32
    assert value.item() == loss(leaf.detach().float(), relevance, mask).item()
    value.backward()
    assert leaf.grad.dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, p, m: soft_ndcg_loss(s[0], p[0]), r"got scores of shape \(5,\), expected \(batch, entries\)"),
        (lambda s, p, m: soft_ndcg_loss(s, p[:, :4]), r"got positives of shape \(2, 4\), expected .*\(2, 5\)"),
        (lambda s, p, m: hinge_loss(s, p, m[:1]), r"hinge_loss got mask of shape \(1, 5\)"),
        (lambda s, p, m: info_nce_loss(s, p, m.float()), "got mask of type torch.float32, expected torch.bool"),
        (lambda s, p, m: mean_variance_loss(s, m.int()), "got negatives of type torch.int32"),
        (lambda s, p, m: soft_ndcg_loss(s, p.float() - 1), r"got relevance -1.0 at row 0, entry 1, expected >= 0"),
        (lambda s, p, m: soft_ndcg_loss(s, p * math.nan), "got relevance nan at row 0, entry 0"),
        (lambda s, p, m: soft_ndcg_loss(s, p, k=0), "got k=0, .*expected k >= 1"),
        (lambda s, p, m: soft_ndcg_loss(s, p, tau=0.0), "tau=0.0, .*tau > 0"),
        (lambda s, p, m: soft_ndcg_loss(s, p, tail=1.5), "tail=1.5, .*<= 1"),
        (lambda s, p, m: info_nce_loss(s, p, tau=-1), "got tau=-1, expected tau > 0"),
        (lambda s, p, m: hinge_loss(s, p, num_hardest=0), "got num_hardest=0, expected >= 1"),
        (lambda s, p, m: mean_variance_loss(s, min_std=-1), "got min_std=-1, expected >= 0"),
    ],
)
def test_errors(call, message):
    positives = torch.tensor([[1, 0, 0, 1, 0]] * 2)
    with pytest.raises(ValueError, match=message):
        call(torch.rand(2, 5), positives, torch.ones(2, 5).bool())
