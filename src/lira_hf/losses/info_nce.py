"""InfoNCE over scored lists: the pointwise sibling of the soft nDCG loss (ours; a control for L_ndcg@k)."""

import torch
from torch import Tensor

from lira_hf.losses._functional import check_rows, kept_mean, pick_positives


__all__ = ["info_nce_loss"]


def info_nce_loss(scores: Tensor, positives: Tensor, mask: Tensor | None = None, tau: float = 0.05) -> Tensor:
    """
    Cross-entropy of each positive against the row's legal negatives: `-log(e_p / (e_p + sum_negatives e_n))` with
    `e = exp(score / tau)`. A row's other positives are not in the sum. Rows without a legal positive are left out.

    References:
        van den Oord, Li, Vinyals, "Representation learning with contrastive predictive coding", 2018.

    Args:
        scores (`Tensor`): shape `(batch, entries)`; half precision is computed in float32.
        positives (`Tensor`): shape `(batch, entries)`, bool or relevance >= 0, by which positives are weighted.
        mask (`Tensor`, *optional*, defaults to all): bool, shape `(batch, entries)`, the legal entries.
        tau (`float`, *optional*, defaults to 0.05): temperature in units of the score.

    Returns:
        `Tensor`: the mean over rows of the weighted mean over positives, a scalar >= 0.

    Raises:
        ValueError: on shapes that differ, negative relevance, tau <= 0.

    Relations:
        `soft_ndcg_loss` optimises the order of the list up to k and counts each positive by its rank.

    Example:
        >>> float(info_nce_loss(torch.zeros(1, 4), torch.tensor([[True, False, False, False]])))  # log 4
        1.3862943649291992
    """
    if tau <= 0:
        raise ValueError(f"info_nce_loss got tau={tau}, expected tau > 0; 0.05 fits cosines.")
    safe, relevance, legal = check_rows("info_nce_loss", scores, positives, mask)
    kept = (relevance > 0).any(dim=1)
    if not bool(kept.any()):
        return (safe * 0).sum()
    chosen, weights = pick_positives(safe, relevance)  # (batch, positives)
    negatives = legal & (relevance <= 0)
    # Relative to the positive, so that float32 keeps its precision whatever the scores' size.
    relative = ((safe[:, None, :] - chosen[:, :, None]) / tau).masked_fill(~negatives[:, None, :], -torch.inf)
    own = torch.zeros_like(relative[:, :, :1])  # the positive itself: exp(0)
    losses = torch.cat([own, relative], dim=2).logsumexp(dim=2)  # (batch, positives)
    totals = weights.sum(dim=1)
    rows = (losses * weights).sum(dim=1) / torch.where(kept, totals, torch.ones_like(totals))
    return kept_mean(rows, kept)
