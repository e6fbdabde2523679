"""Safe negatives of the paper's DocQueue: which entries may count against a query, and how many were dropped."""

from typing import NamedTuple

import torch
from torch import Tensor

from lira_hf.losses._functional import unit_vectors, upcast


__all__ = ["SafeNegatives", "safe_negative_mask"]


class SafeNegatives(NamedTuple):
    """
    `mask` (bool, `(batch, entries)`: True = safe negative) and what was dropped (int64 scalars): `dropped_document`,
    `dropped_group`, `dropped_similarity`. An entry dropped for several reasons is counted under the first.
    """

    mask: Tensor
    dropped_document: Tensor
    dropped_group: Tensor
    dropped_similarity: Tensor


@torch.no_grad()
def safe_negative_mask(
    query_positive_ids: Tensor,
    query_group_ids: Tensor | None,
    positive_embeddings: Tensor | None,
    entry_document_ids: Tensor,
    entry_group_ids: Tensor | None = None,
    entry_embeddings: Tensor | None = None,
    threshold: float | None = 0.95,
    own: Tensor | None = None,
) -> SafeNegatives:
    """
    An entry that shares a document or group id with a positive of the query, or whose cosine to the positive exceeds
    the threshold, is no negative. It doesn't become a positive either: the losses leave it out. An id of -1 is unknown
    and matches nothing.

    References:
        LiRA, arXiv 2510.14466 (safe negatives). Threshold: ours.

    Args:
        query_positive_ids (`Tensor`): int, shape `(batch,)` or `(batch, positives)`, padded with -1.
        query_group_ids (`Tensor`, *optional*): int, shape `(batch,)` or `(batch, groups)`, padded with -1.
        positive_embeddings (`Tensor`, *optional*): shape `(batch, dim)`, the positive of each query.
        entry_document_ids (`Tensor`): int, shape `(entries,)`.
        entry_group_ids (`Tensor`, *optional*): int, shape `(entries,)`.
        entry_embeddings (`Tensor`, *optional*): shape `(entries, dim)`.
        threshold (`float`, *optional*, defaults to 0.95): cosine above which an entry is taken for a duplicate of the
            positive; `None` checks ids only. Watch `dropped_similarity`: embeddings that collapse drop every negative.
        own (`Tensor`, *optional*): bool, shape `(batch, entries)`, entries that *are* the query's positives: no
            negatives, and not counted as dropped.

    Returns:
        `SafeNegatives`: the mask and the counts.

    Raises:
        ValueError: on shapes that don't fit each other.
    """
    _check_sizes(entry_document_ids, query_positive_ids, query_group_ids, entry_group_ids, own)
    shape = (len(query_positive_ids), len(entry_document_ids))
    safe = torch.ones(shape, dtype=torch.bool, device=entry_document_ids.device)
    if own is not None:
        safe &= ~own
    counts = []
    for hits in (
        _shares_id(query_positive_ids, entry_document_ids),
        _shares_id(query_group_ids, entry_group_ids),
        _too_similar(positive_embeddings, entry_embeddings, threshold),
    ):
        if hits is None:
            counts.append(torch.zeros((), dtype=torch.int64, device=safe.device))
            continue
        counts.append((safe & hits).sum())
        safe &= ~hits
    return SafeNegatives(safe, *counts)


def _check_sizes(
    entry_ids: Tensor, query_ids: Tensor, query_groups: Tensor | None, entry_groups: Tensor | None, own: Tensor | None
) -> None:
    """Raises unless ids, groups and own fit each other."""
    wanted = (("query_group_ids", query_groups, len(query_ids)), ("entry_group_ids", entry_groups, len(entry_ids)))
    for name, groups, count in wanted:
        if groups is not None and len(groups) != count:
            raise ValueError(
                f"safe_negative_mask got {len(groups)} {name}, expected {count}; give one an item, -1 for no group."
            )
    if own is not None and own.shape != (len(query_ids), len(entry_ids)):
        raise ValueError(
            f"safe_negative_mask got own of shape {tuple(own.shape)}, expected {(len(query_ids), len(entry_ids))}; "
            "give one truth value for each query and entry."
        )


def _shares_id(query_ids: Tensor | None, entry_ids: Tensor | None) -> Tensor | None:
    """Bool `(batch, entries)`: the entry's id is among the query's; None if ids are missing."""
    if query_ids is None or entry_ids is None:
        return None
    columns = query_ids.reshape(len(query_ids), -1) if query_ids.numel() else query_ids.new_zeros(len(query_ids), 0)
    hits = torch.zeros(len(query_ids), len(entry_ids), dtype=torch.bool, device=entry_ids.device)
    for column in columns.T:  # one id a query at a time keeps memory at (batch, entries)
        hits |= (column[:, None] == entry_ids[None, :]) & (column >= 0)[:, None]
    return hits


def _too_similar(positives: Tensor | None, entries: Tensor | None, threshold: float | None) -> Tensor | None:
    """Bool `(batch, entries)`: the entry's cosine to the positive exceeds the threshold; None if not to be checked."""
    if positives is None or entries is None or threshold is None:
        return None
    with torch.autocast(entries.device.type, enabled=False):
        directions, floats = unit_vectors(positives), upcast(entries)
        # The lengths go to the threshold's side: a queue's vectors are many, dividing them all would cost a copy.
        lengths = torch.linalg.vector_norm(floats, dim=1)
        return directions.to(floats.dtype) @ floats.T > threshold * lengths
