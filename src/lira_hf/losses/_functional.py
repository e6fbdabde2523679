"""Tensor helpers that the losses share: safe scores, row checks, means over kept rows, unit vectors."""

import torch
from torch import Tensor


__all__ = [
    "SCORE_LIMIT",
    "check_rows",
    "check_shapes",
    "kept_mean",
    "legal_relevance",
    "make_unit_vectors",
    "pack_positives",
    "pick_positives",
    "refuse_second_order",
    "unit_vectors",
    "upcast",
]

# Scores beyond this are clamped: squares and sums over a million entries still fit float32.
SCORE_LIMIT = 1e15


def upcast(values: Tensor) -> Tensor:
    """Float16, bfloat16 and integer tensors as float32; float32 and float64 as they are."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def refuse_second_order(caller: str, remedy: str) -> None:
    """
    For the backward pass of a function that can be derived once: raises if a graph of the gradient is asked for.

    Raises:
        RuntimeError: under `create_graph=True`.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{caller} got create_graph=True, expected a plain backward pass, since its gradient is computed by hand "
            f"and cannot be derived again; {remedy}."
        )


def check_shapes(caller: str, scores: Tensor, positives: Tensor, mask: Tensor | None, mask_name: str = "mask") -> None:
    """Raises unless scores are `(batch, entries)`, positives and mask fit them, and the mask is bool."""
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


def legal_relevance(
    caller: str, positives: Tensor, legal: Tensor | None, dtype: torch.dtype, first_entry: int = 0
) -> Tensor:
    """
    The positives as relevance of the given float type, 0 at illegal entries.

    Args:
        caller (`str`): name for the error message.
        positives (`Tensor`): shape `(batch, entries)`, bool or relevance >= 0.
        legal (`Tensor`, *optional*, defaults to all): bool, the same shape.
        dtype (`torch.dtype`): of the result.
        first_entry (`int`, *optional*, defaults to 0): number of the first entry, where a piece of the rows is given.

    Raises:
        ValueError: on negative or NaN relevance at a legal entry.
    """
    if positives.dtype == torch.bool:
        return (positives if legal is None else positives & legal).to(dtype)
    relevance = positives.to(dtype)
    if legal is not None:
        relevance = relevance.masked_fill(~legal, 0.0)
    wrong = ~(relevance >= 0)
    if bool(wrong.any()):
        row, entry = (int(place) for place in wrong.nonzero()[0])
        raise ValueError(
            f"{caller} got relevance {float(relevance[row, entry])} at row {row}, entry {first_entry + entry}, "
            "expected >= 0; mark entries that are not relevant with 0 and illegal ones in the mask."
        )
    return relevance


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
    check_shapes(caller, scores, positives, mask, mask_name)
    floats = upcast(scores)
    legal = torch.ones_like(floats, dtype=torch.bool) if mask is None else mask
    relevance = legal_relevance(caller, positives, mask, floats.dtype)
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
    rows, entries = (relevance > 0).nonzero(as_tuple=True)
    places, gains = pack_positives(rows, entries, relevance[rows, entries], len(relevance))
    return scores.gather(1, places), gains


def pack_positives(rows: Tensor, entries: Tensor, gains: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """
    Positives listed one by one, as a table that has the most relevant first in each row.

    Args:
        rows, entries (`Tensor`): int64, shape `(positives,)`, where each of them is; in any order.
        gains (`Tensor`): shape `(positives,)`, the relevance of each.
        batch (`int`): number of rows.

    Returns:
        Places (0 in padding) and gains (0 in padding), each of shape `(batch, most)`, most >= 1.
    """
    order = gains.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    rows, counts = rows[order], torch.bincount(rows, minlength=batch)
    most = max(int(counts.max()), 1) if batch else 1
    columns = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    places, table = entries.new_zeros(batch, most), gains.new_zeros(batch, most)
    places[rows, columns], table[rows, columns] = entries[order], gains[order]
    return places, table


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
    largest = _largest(floats.detach())
    # Its largest number being 1, a vector has at least length 1, so eps bounds the gradient of zero vectors alone.
    scaled = floats / torch.where(largest > 0, largest, torch.ones_like(largest))
    return torch.nn.functional.normalize(scaled, dim=-1, eps=0.5)


@torch.no_grad()
def make_unit_vectors(vectors: Tensor) -> Tensor:
    """
    `unit_vectors` in place: overwrites and returns the given float32 or float64 vectors.

    Args:
        vectors (`Tensor`): shape `(entries, dim)`.
    """
    largest = _largest(vectors)
    vectors.div_(largest.masked_fill_(largest == 0, 1.0))
    return vectors.div_(torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min_(0.5))


def _largest(vectors: Tensor) -> Tensor:
    """Each vector's largest absolute number, `(..., 1)`: 40 times as fast as the norm of that name, and no copy."""
    return torch.maximum(vectors.amax(dim=-1, keepdim=True), vectors.amin(dim=-1, keepdim=True).neg_())
