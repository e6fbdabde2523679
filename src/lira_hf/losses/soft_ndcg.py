"""L_ndcg@k: listwise retrieval loss, one minus a differentiable nDCG@k (the paper's LaSR, retrieval)."""

import torch
from torch import Tensor

from lira_hf.losses._functional import (
    check_rows,
    check_shapes,
    kept_mean,
    legal_relevance,
    pack_positives,
    pick_positives,
    upcast,
)
from lira_hf.losses._soft_ranks import chunked_ranks


__all__ = ["soft_ndcg_loss"]


def soft_ndcg_loss(
    scores: Tensor,
    positives: Tensor,
    mask: Tensor | None = None,
    k: int | None = 10,
    tau: float = 0.05,
    tail: float = 0.0,
    chunk_size: int | None = None,
) -> Tensor:
    """
    One minus a soft nDCG@k: every positive i has the soft rank `1 + sum_{j != i} sigmoid((s_j - s_i) / tau)` among the
    legal entries and earns `relevance / log2(1 + rank)` (trec_eval's linear gain) while the rank is within k. The cut
    falls smoothly from 1 at rank k to 0 at rank k + 1, so that the loss tends to `1 - nDCG@k` as tau tends to 0; tied
    scores share the mean of their ranks. Rows without a legal positive are left out; if all are, the loss is 0.

    Only positives need a rank: time and memory are O(batch x positives x entries) *(ours)*. With `chunk_size` the loss
    and its gradient are the same up to rounding (1e-6 in float32), and memory beside the arguments and the gradient is
    O(batch x (chunk_size + positives)): 2 MiB for 32 queries, 65,536 entries and chunks of 4,096 *(ours)*.

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
        chunk_size (`int`, *optional*): entries that are compared at a time; 4096 fits a processor's cache. By default
            all are, and the loss can be derived twice; with chunks once.

    Returns:
        `Tensor`: the mean over rows, a scalar in 0..1.

    Raises:
        ValueError: on shapes that differ, negative relevance, k < 1, tau <= 0, tail outside 0..1, chunk_size < 1.
        RuntimeError: with chunk_size, in a backward pass with `create_graph=True`.

    Relations:
        `info_nce_loss` is the pointwise sibling: as good on small pools, no cut. `hinge_loss` looks only at the
        hardest negatives.

    Example:
        >>> scores = torch.tensor([[0.9, 0.2, 0.4]])
        >>> float(soft_ndcg_loss(scores, torch.tensor([[True, False, False]]))) < 0.01
        True
    """
    _check_settings(k, tau, tail, chunk_size)
    if chunk_size is not None:
        return _chunked_loss(scores, positives, mask, k, tau, tail, chunk_size)
    safe, relevance, legal = check_rows("soft_ndcg_loss", scores, positives, mask)
    if not bool((relevance > 0).any()):
        return (safe * 0).sum()
    chosen, gains = pick_positives(safe, relevance)  # (batch, positives)
    return loss_of_ranks(ranks_among(chosen, safe, legal, tau), gains, k, tail)


def loss_of_ranks(ranks: Tensor, gains: Tensor, k: int | None, tail: float) -> Tensor:
    """
    The loss from soft ranks; rows without a gain are left out.

    Args:
        ranks (`Tensor`): shape `(batch, positives)`.
        gains (`Tensor`): the same shape, the largest first in each row, padded with 0.
        k (`int`, *optional*): the cut.
        tail (`float`): share of the uncut nDCG.
    """
    whole = _ndcg(ranks, gains, None)
    ndcg = whole if k is None else (1 - tail) * _ndcg(ranks, gains, k) + tail * whole
    return kept_mean(1 - ndcg, (gains > 0).any(dim=1))


def ranks_among(chosen: Tensor, scores: Tensor, legal: Tensor, tau: float) -> Tensor:
    """
    Soft ranks of scores in the list that they are part of.

    Args:
        chosen (`Tensor`): shape `(batch, positives)`, also among the scores.
        scores (`Tensor`): shape `(batch, entries)`, finite.
        legal (`Tensor`): bool, shape `(batch, entries)`.
        tau (`float`): width of a comparison.

    Returns:
        `Tensor`: shape `(batch, positives)`.
    """
    ahead = torch.sigmoid((scores[:, None, :] - chosen[:, :, None]) / tau)  # (batch, positives, entries)
    # A positive compared with itself adds exactly 1/2 and no gradient: taken off instead of masked.
    return 0.5 + ahead.masked_fill(~legal[:, None, :], 0.0).sum(dim=2)


def _check_settings(k: int | None, tau: float, tail: float, chunk_size: int | None) -> None:
    """Raises on a setting that is out of range."""
    if (k is not None and k < 1) or tau <= 0 or not 0 <= tail <= 1 or (chunk_size is not None and chunk_size < 1):
        raise ValueError(
            f"soft_ndcg_loss got k={k}, tau={tau}, tail={tail}, chunk_size={chunk_size}, expected k >= 1 (or None), "
            "tau > 0, 0 <= tail <= 1 and chunk_size >= 1 (or None); correct the value that is out of range."
        )


def _chunked_loss(
    scores: Tensor, positives: Tensor, mask: Tensor | None, k: int | None, tau: float, tail: float, chunk_size: int
) -> Tensor:
    """The loss with `chunk_size` entries compared at a time."""
    places, gains = _chunked_positives(scores, positives, mask, chunk_size)
    if not bool((gains > 0).any()):
        return upcast(scores[:0]).sum()  # 0 with a graph, whatever the scores hold
    return loss_of_ranks(chunked_ranks(scores, mask, places, tau, chunk_size), gains, k, tail)


def _chunked_positives(
    scores: Tensor, positives: Tensor, mask: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Checks the rows and finds their positives: places and gains, `(batch, most)` each."""
    check_shapes("soft_ndcg_loss", scores, positives, mask)
    dtype, found = upcast(scores[:0]).dtype, []
    for start in range(0, scores.shape[1], chunk_size):
        here = slice(start, start + chunk_size)
        legal = None if mask is None else mask[:, here]
        gains = legal_relevance("soft_ndcg_loss", positives[:, here], legal, dtype, start)
        rows, entries = (gains > 0).nonzero(as_tuple=True)
        found.append((rows, entries + start, gains[rows, entries]))
    if not found:
        return scores.new_zeros(0, 1, dtype=torch.int64), scores.new_zeros(0, 1, dtype=dtype)
    rows, entries, gains = (torch.cat(column) for column in zip(*found, strict=True))
    return pack_positives(rows, entries, gains, len(scores))


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
