"""Hard negatives: documents that a query finds and that are none of its own, by a rule that is safe (ours)."""

from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray


__all__ = ["mine_hard_negatives"]


def mine_hard_negatives(
    queries: NDArray[np.floating],
    documents: NDArray[np.floating],
    positives: Sequence[Sequence[int]],
    k: int = 4,
    *,
    groups: Sequence[int] | None = None,
    max_similarity: float = 0.95,
    skip: int = 0,
    chunk_size: int = 65_536,
) -> list[list[int]]:
    """
    The documents nearest to each query that are safe negatives: none of its positives, of no group that a positive is
    of, and not as good as a copy of a positive. The corpus is searched in chunks, so that it may lie in a memory map.

    Args:
        queries (`np.ndarray` of shape `(queries, dim)`): Embeddings of any length but 0; halves will do.
        documents (`np.ndarray` of shape `(documents, dim)`): Likewise.
        positives (`Sequence[Sequence[int]]`): Places of each query's relevant documents.
        k (`int`, *optional*, defaults to 4): Most negatives of a query.
        groups (`Sequence[int]`, *optional*): Group of each document; -1: of none.
        max_similarity (`float`, *optional*, defaults to 0.95): A document whose cosine with a positive is above this
            is no negative.
        skip (`int`, *optional*, defaults to 0): So many of the first ranks, positives not counted, are left out, as
            they may be relevant though nobody said so.
        chunk_size (`int`, *optional*, defaults to 65536): Documents that are searched at a time, for 4,096 queries.

    Returns:
        `list[list[int]]`: Places of each query's negatives, nearest first; fewer where no more are safe.

    Raises:
        ValueError: For shapes, lengths or numbers that don't fit.
    """
    _check(queries, documents, positives, groups, k, skip, chunk_size)
    found: list[list[int]] = []
    for start in range(0, len(queries), 4096):
        asked, own = _unit(queries[start : start + 4096]), positives[start : start + 4096]
        rows: dict[int, list[int]] = {}
        todo, depth = list(range(len(asked))), 2 * (k + skip) + max(map(len, own), default=0)
        while todo:
            depth = min(depth, len(documents))
            nearest = _search(asked[todo], documents, depth, chunk_size)
            for row, places in zip(todo, nearest, strict=True):
                rows[row] = _safe(places, documents, own[row], groups, max_similarity, skip)[:k]
            # Who has not found enough yet looks deeper, until there is nothing more to be found.
            todo = [row for row in todo if len(rows[row]) < k] if depth < len(documents) else []
            depth *= 4
        found.extend(rows[row] for row in range(len(asked)))
    return found


def _search(
    queries: NDArray[np.float32], documents: NDArray[np.floating], depth: int, chunk_size: int
) -> NDArray[np.int64]:
    """Places of the nearest documents, nearest first, joined chunk by chunk: `(queries, depth)`."""
    scores = np.zeros((len(queries), 0), np.float32)
    places = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(documents), chunk_size):
        chunk = _unit(documents[start : start + chunk_size])
        better, rows = faiss.knn(queries, chunk, min(depth, len(chunk)), metric=faiss.METRIC_INNER_PRODUCT)
        scores = np.concatenate([scores, better], axis=1)
        places = np.concatenate([places, rows.astype(np.int64) + start], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        scores, places = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
    return places


def _safe(
    places: NDArray[np.int64],
    documents: NDArray[np.floating],
    positives: Sequence[int],
    groups: Sequence[int] | None,
    max_similarity: float,
    skip: int,
) -> list[int]:
    own = np.array(list(positives), dtype=np.int64)
    places = places[~np.isin(places, own)][skip:]
    if groups is not None:
        mine = {groups[place] for place in positives} - {-1}
        places = np.array([place for place in places if groups[place] not in mine], dtype=np.int64)
    if len(own) and len(places):
        closest = (_unit(documents[places]) @ _unit(documents[own]).T).max(axis=1)
        places = places[closest <= max_similarity]
    return places.tolist()


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    vectors = np.array(vectors, dtype=np.float32, order="C")
    faiss.normalize_L2(vectors)
    return vectors


def _check(
    queries: NDArray[np.floating],
    documents: NDArray[np.floating],
    positives: Sequence[Sequence[int]],
    groups: Sequence[int] | None,
    k: int,
    skip: int,
    chunk_size: int,
) -> None:
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"got queries of shape {queries.shape} and documents of {documents.shape}; expected (queries, dim) and "
            "(documents, dim); embed both with the same model"
        )
    if len(positives) != len(queries) or (groups is not None and len(groups) != len(documents)):
        raise ValueError(
            f"got positives of {len(positives)} queries and groups of {None if groups is None else len(groups)} "
            f"documents; expected {len(queries)} and {len(documents)}; give each query and document its own"
        )
    wrong = [place for row in positives for place in row if not 0 <= place < len(documents)]
    if wrong:
        raise ValueError(
            f"got the positive {wrong[0]}; expected places from 0 to {len(documents) - 1}; count from the first"
        )
    if k < 1 or skip < 0 or chunk_size < 1:
        raise ValueError(
            f"got k={k}, skip={skip}, chunk_size={chunk_size}; expected k and chunk_size of 1 or more and skip of 0 "
            "or more; correct them"
        )
