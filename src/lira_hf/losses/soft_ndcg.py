"""L_ndcg@k: listwise retrieval loss, one minus a differentiable nDCG@k (the paper's LaSR, retrieval)."""

import torch
from torch import Tensor

from lira_hf.losses._functional import check_rows, kept_mean, pick_positives


__all__ = ["soft_ndcg_loss"]


def soft_ndcg_loss(
    scores: Tensor,
    positives: Tensor,
    mask: Tensor | None = None,
    k: int | None = 10,
    tau: float = 0.05,
    tail: float = 0.0,
) -> Tensor:
    """
    One minus a soft nDCG@k: every positive i has the soft rank `1 + sum_{j != i} sigmoid((s_j - s_i) / tau)` among the
    legal entries and earns `relevance / log2(1 + rank)` (trec_eval's linear gain) while the rank is within k. The cut
    falls smoothly from 1 at rank k to 0 at rank k + 1, so that the loss tends to `1 - nDCG@k` as tau tends to 0; tied
    scores share the mean of their ranks. Only positives need a rank: time and memory are
    O(batch x positives x entries) *(ours)*. Rows without a legal positive are left out; if all are, the loss is 0.

    References:
        LiRA, arXiv 2510.14466 (DocQueue, L_ndcg@k). Soft rank by pairwise sigmoids: Qin, Liu, Li, "A general
        approximation framework for direct optimization of information retrieval measures", 2010.

    Args:
        scores (`Tensor`): shape `(batch, entries)`; half precision is computed in float32.
        positives (`Tensor`): shape `(batch, entries)`, bool or graded relevance >= 0.
        mask (`Tensor`, *optional*, defaults to all): bool, shape `(batch, entries)`, the legal entries. Illegal ones
            are neither positive nor negative and may hold any score.
        k (`int`, *optional*, defaults to 10): the cut; `None` for the whole list.
        tau (`float`, *optional*, defaults to 0.05): width of a comparison in units of the score; fits cosines.
        tail (`float`, *optional*, defaults to 0.0): share, in 0..1, of the nDCG of the whole list mixed in *(ours)*.
            A positive beyond rank k + 1 gets its gradient from this part alone.

    Returns:
        `Tensor`: the mean over rows, a scalar in 0..1.

    Raises:
        ValueError: on shapes that differ, negative relevance, k < 1, tau <= 0, tail outside 0..1.

    Relations:
        `info_nce_loss` is the pointwise sibling: as good on small pools, no cut. `hinge_loss` looks only at the
        hardest negatives.

    Example:
        >>> scores = torch.tensor([[0.9, 0.2, 0.4]])
        >>> float(soft_ndcg_loss(scores, torch.tensor([[True, False, False]]))) < 0.01
        True
    """
    if (k is not None and k < 1) or tau <= 0 or not 0 <= tail <= 1:
        raise ValueError(
            f"soft_ndcg_loss got k={k}, tau={tau}, tail={tail}, expected k >= 1 (or None), tau > 0 and "
            "0 <= tail <= 1; correct the value that is out of range."
        )
    safe, relevance, legal = check_rows("soft_ndcg_loss", scores, positives, mask)
    kept = (relevance > 0).any(dim=1)
    if not bool(kept.any()):
        return (safe * 0).sum()
    chosen, gains = pick_positives(safe, relevance)  # (batch, positives)
    ranks = _soft_ranks(chosen, safe, legal, tau)
    whole = _ndcg(ranks, gains, None)
    ndcg = whole if k is None else (1 - tail) * _ndcg(ranks, gains, k) + tail * whole
    return kept_mean(1 - ndcg, kept)


def _soft_ranks(chosen: Tensor, scores: Tensor, legal: Tensor, tau: float) -> Tensor:
    """Soft ranks `(batch, positives)` of the chosen scores among the legal ones."""
    ahead = torch.sigmoid((scores[:, None, :] - chosen[:, :, None]) / tau)  # (batch, positives, entries)
    # A positive compared with itself adds exactly 1/2 and no gradient: taken off instead of masked.
    return 0.5 + ahead.masked_fill(~legal[:, None, :], 0.0).sum(dim=2)


def _ndcg(ranks: Tensor, gains: Tensor, k: int | None) -> Tensor:
    """nDCG `(batch,)` of soft ranks and their gains (sorted, largest first), both `(batch, positives)`."""
    best = torch.arange(1, ranks.shape[1] + 1, device=ranks.device, dtype=ranks.dtype)
    gained, ideal = gains / torch.log2(1 + ranks), gains / torch.log2(1 + best)
    if k is not None:
        inside = (k + 1 - ranks).clamp(0, 1)
        gained = gained * inside.square() * (3 - 2 * inside)  # smooth step: 1 up to rank k, 0 from rank k + 1
        ideal = ideal[:, :k]
    ideals = ideal.sum(dim=1)
    return gained.sum(dim=1) / torch.where(ideals > 0, ideals, torch.ones_like(ideals))
