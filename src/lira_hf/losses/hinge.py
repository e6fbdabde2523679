"""L_hinge: margin between a query's positives and its hardest safe negatives (the paper's LaSR, retrieval)."""

import torch
from torch import Tensor

from lira_hf.losses._functional import check_rows, kept_mean, pick_positives


__all__ = ["hinge_loss"]


def hinge_loss(
    scores: Tensor,
    positives: Tensor,
    mask: Tensor | None = None,
    margin: float = 0.1,
    num_hardest: int = 8,
) -> Tensor:
    """
    Mean of `relu(margin - s_positive + s_negative)` over each row's pairs of a positive with one of the `num_hardest`
    highest legal negatives, then over the rows that have such a pair. If none has, the loss is 0.

    References:
        LiRA, arXiv 2510.14466 (DocQueue, L_hinge). Number of negatives and margin: ours.

    Args:
        scores (`Tensor`): shape `(batch, entries)`; half precision is computed in float32.
        positives (`Tensor`): shape `(batch, entries)`, bool or relevance >= 0 (any relevance > 0 is a positive).
        mask (`Tensor`, *optional*, defaults to all): bool, shape `(batch, entries)`, the legal entries: positives and
            safe negatives.
        margin (`float`, *optional*, defaults to 0.1): wanted distance in units of the score.
        num_hardest (`int`, *optional*, defaults to 8): negatives a row; fewer where fewer are legal.

    Returns:
        `Tensor`: a scalar >= 0.

    Raises:
        ValueError: on shapes that differ, negative relevance, num_hardest < 1.

    Relations:
        `soft_ndcg_loss` with a cut gives no gradient to a positive ranked far beyond k; this one does. Without a safe
        negative mask (`safe_negative_mask`) the hardest negatives are mostly unlabelled positives.

    Example:
        >>> round(float(hinge_loss(torch.tensor([[0.5, 0.45, 0.1]]), torch.tensor([[1, 0, 0]]), num_hardest=1)), 4)
        0.05
    """
    if num_hardest < 1:
        raise ValueError(
            f"hinge_loss got num_hardest={num_hardest}, expected >= 1; set its weight to 0 to leave it out."
        )
    safe, relevance, legal = check_rows("hinge_loss", scores, positives, mask)
    if safe.numel() == 0:
        return (safe * 0).sum()
    chosen, gains = pick_positives(safe, relevance)  # (batch, positives)
    negatives = legal & (relevance <= 0)
    count = min(num_hardest, safe.shape[1])
    places = safe.detach().masked_fill(~negatives, -torch.inf).topk(count, dim=1).indices
    hardest, real = safe.gather(1, places), negatives.gather(1, places)  # (batch, count)
    pairs = torch.relu(margin - chosen[:, :, None] + hardest[:, None, :])  # (batch, positives, count)
    legal_pairs = (gains > 0)[:, :, None] & real[:, None, :]
    counts = legal_pairs.sum(dim=(1, 2))
    rows = pairs.masked_fill(~legal_pairs, 0.0).sum(dim=(1, 2)) / counts.clamp_min(1)
    return kept_mean(rows, counts > 0)
