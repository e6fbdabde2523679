"""Tensor helpers that the losses share: safe scores, row checks, means over kept rows, unit vectors."""

import torch
from torch import Tensor


__all__ = ["SCORE_LIMIT", "check_rows", "kept_mean", "pick_positives", "unit_vectors", "upcast"]

# Scores beyond this are clamped: squares and sums over a million entries still fit float32.
SCORE_LIMIT = 1e15


def upcast(values: Tensor) -> Tensor:
    """Float16, bfloat16 and integer tensors as float32; float32 and float64 as they are."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def check_rows(
    caller: str, scores: Tensor, positives: Tensor, mask: Tensor | None, mask_name: str = "mask"
) -> tuple[Tensor, Tensor, Tensor]:  # each (batch, entries)
    """
    Checks one batch of scored lists and brings it to the form that the losses compute on.

    Args:
        caller (`str`): name for the error messages.
        scores (`Tensor`): shape `(batch, entries)`; masked entries may hold anything, also NaN.
        positives (`Tensor`): shape `(batch, entries)`, bool or relevance >= 0.
        mask (`Tensor`, *optional*, defaults to all): bool, shape `(batch, entries)`, the legal entries.
        mask_name (`str`, *optional*, defaults to `"mask"`): the mask's name for the error messages.

    Returns:
        Float scores that are 0 at illegal entries and within `SCORE_LIMIT`; relevance (0 at illegal entries); legal.

    Raises:
        ValueError: on shapes that differ, a mask that is not bool, negative or NaN relevance.
    """
    if scores.dim() != 2:
        raise ValueError(
            f"{caller} got scores of shape {tuple(scores.shape)}, expected (batch, entries); give one row a query."
        )
    for name, other in (("positives", positives), (mask_name, mask)):
        if other is not None and other.shape != scores.shape:
            raise ValueError(
                f"{caller} got {name} of shape {tuple(other.shape)}, expected that of scores, {tuple(scores.shape)}; "
                f"give one {name} value for each score."
            )
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"{caller} got {mask_name} of type {mask.dtype}, expected torch.bool; convert it by .bool().")
    floats = upcast(scores)
    legal = torch.ones_like(floats, dtype=torch.bool) if mask is None else mask
    relevance = positives.to(floats.dtype).masked_fill(~legal, 0.0)
    if positives.is_floating_point() or positives.is_signed():
        wrong = ~(relevance >= 0)
        if bool(wrong.any()):
            row, entry = (int(place) for place in wrong.nonzero()[0])
            raise ValueError(
                f"{caller} got relevance {float(relevance[row, entry])} at row {row}, entry {entry}, expected >= 0; "
                "mark entries that are not relevant with 0 and illegal ones in the mask."
            )
    safe = floats.masked_fill(~legal, 0.0).clamp(-SCORE_LIMIT, SCORE_LIMIT)
    return safe, relevance, legal


def pick_positives(scores: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """
    Gathers each row's positives, the most relevant first, padded to the largest number in a row (at least 1).

    Args:
        scores (`Tensor`): shape `(batch, entries)`, entries > 0.
        relevance (`Tensor`): shape `(batch, entries)`, 0 = no positive.

    Returns:
        Their scores and their relevance, each of shape `(batch, most)`; padding has relevance 0.
    """
    most = max(int((relevance > 0).sum(dim=1).max()), 1) if len(relevance) else 1
    gains, places = relevance.topk(most, dim=1)  # (batch, most)
    return scores.gather(1, places), gains


def kept_mean(values: Tensor, kept: Tensor) -> Tensor:
    """
    Mean of the values that are kept; 0, with the graph intact, when none is. Left-out values must be finite.

    Args:
        values (`Tensor`): any shape.
        kept (`Tensor`): bool, the same shape.
    """
    return values.masked_fill(~kept, 0.0).sum() / kept.sum().clamp_min(1)


def unit_vectors(vectors: Tensor) -> Tensor:
    """
    Vectors of length 1 along the last dimension, in float32 or float64, without over- or underflow; zero stays zero.

    Args:
        vectors (`Tensor`): shape `(..., dim)`.
    """
    floats = upcast(vectors)
    # The direction doesn't depend on the scale, so the scale needs no gradient.
    largest = torch.linalg.vector_norm(floats.detach(), ord=torch.inf, dim=-1, keepdim=True)
    # Its largest number being 1, a vector has at least length 1, so eps bounds the gradient of zero vectors alone.
    scaled = floats / torch.where(largest > 0, largest, torch.ones_like(largest))
    return torch.nn.functional.normalize(scaled, dim=-1, eps=0.5)
