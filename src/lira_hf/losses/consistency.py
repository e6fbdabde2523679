"""Consistency: each path alone is pulled to the embedding of both (the paper's LaSR), so that one may be absent."""

import torch
from torch import Tensor

from lira_hf.losses._functional import kept_mean, unit_vectors


__all__ = ["consistency_loss"]


def consistency_loss(
    fused_both: Tensor,
    fused_source: Tensor | None = None,
    fused_anchor: Tensor | None = None,
    mask_source: Tensor | None = None,
    mask_anchor: Tensor | None = None,
) -> Tensor:
    """
    Mean of `1 - cos(fused_source, stop_gradient(fused_both))` and `1 - cos(fused_anchor, stop_gradient(fused_both))`
    over the rows that have both paths. A row with one path only has nothing to learn here: it is left out.

    References:
        LiRA, arXiv 2510.14466 (LaSR, consistency). Mean of the two parts, and path dropout in training: ours.

    Args:
        fused_both (`Tensor`): shape `(batch, dim)`, the embedding of both paths; gets no gradient.
        fused_source (`Tensor`, *optional*): shape `(batch, dim)`, from the multilingual path alone.
        fused_anchor (`Tensor`, *optional*): shape `(batch, dim)`, from the English path alone. A part that isn't given
            is left out, at least one is needed.
        mask_source (`Tensor`, *optional*, defaults to all): bool, shape `(batch,)`, rows that have the source path.
        mask_anchor (`Tensor`, *optional*, defaults to all): bool, shape `(batch,)`, rows that have the English path.
            Left-out rows may hold anything, also NaN.

    Returns:
        `Tensor`: a scalar in 0..2; 0 if no row has both paths.

    Raises:
        ValueError: if neither single-path embedding is given, or on shapes that differ.

    Relations:
        `start_regulariser` pulls to the untrained embedding instead.

    Example:
        >>> both = torch.tensor([[1.0, 0.0]])
        >>> float(consistency_loss(both, fused_source=torch.tensor([[0.0, 1.0]])))
        1.0
    """
    singles = [(name, one) for name, one in (("source", fused_source), ("anchor", fused_anchor)) if one is not None]
    if not singles:
        raise ValueError(
            "consistency_loss got neither fused_source nor fused_anchor, expected at least one; "
            "give a single-path output."
        )
    for name, one in singles:
        if one.shape != fused_both.shape or one.dim() != 2:
            raise ValueError(
                f"consistency_loss got fused_{name} of shape {tuple(one.shape)} and fused_both of "
                f"{tuple(fused_both.shape)}, expected (batch, dim) for both; give the same rows to each."
            )
    kept = _rows_with_both(fused_both, mask_source, mask_anchor)
    target = unit_vectors(fused_both.detach().masked_fill(~kept[:, None], 1.0))
    parts = []
    for _, one in singles:
        single = unit_vectors(one.masked_fill(~kept[:, None], 1.0))  # filled first: a masked NaN has no gradient
        parts.append(kept_mean(1 - (single * target).sum(dim=1), kept))
    return torch.stack(parts).mean()


def _rows_with_both(fused_both: Tensor, mask_source: Tensor | None, mask_anchor: Tensor | None) -> Tensor:
    """Bool `(batch,)`: the rows that have both paths."""
    kept = torch.ones(len(fused_both), dtype=torch.bool, device=fused_both.device)
    for name, mask in (("mask_source", mask_source), ("mask_anchor", mask_anchor)):
        if mask is None:
            continue
        if mask.shape != kept.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"consistency_loss got {name} of shape {tuple(mask.shape)} and type {mask.dtype}, expected "
                f"{tuple(kept.shape)} and torch.bool; give one truth value a row."
            )
        kept = kept & mask
    return kept
