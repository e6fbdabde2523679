"""Exact search over embeddings, in process (faiss)."""

from collections.abc import Sequence
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray


__all__ = ["SearchHit", "SearchIndex"]


class SearchHit(NamedTuple):
    """A document found: its `id` and the cosine `score` with the query."""

    id: str
    score: float


class SearchIndex:
    """
    Finds the nearest documents by cosine, exactly.

    Args:
        ids (`Sequence[str]`): Ids of the documents.
        embeddings (`np.ndarray` of shape `(documents, dim)`): Their embeddings.
    """

    def __init__(self, ids: Sequence[str], embeddings: NDArray[np.float32]):
        if len(ids) != len(embeddings):
            raise ValueError(f"got {len(ids)} ids and {len(embeddings)} embeddings; expected one embedding per id")
        self.ids = list(ids)
        self.index = faiss.IndexFlatIP(embeddings.shape[1])
        self.index.add(_unit(embeddings))

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, queries: NDArray[np.float32], k: int = 10) -> list[list[SearchHit]]:
        """
        Args:
            queries (`np.ndarray` of shape `(queries, dim)`): Their embeddings.
            k (`int`, *optional*, defaults to 10): Documents per query; fewer where the index is smaller.

        Returns:
            `list[list[SearchHit]]`: Best first.
        """
        if queries.ndim != 2 or queries.shape[1] != self.index.d:
            raise ValueError(
                f"got queries of shape {queries.shape}; expected (queries, {self.index.d}), the width of the indexed "
                "embeddings; embed both with the same model"
            )
        scores, places = self.index.search(_unit(queries), min(k, len(self.ids)))
        return [
            [SearchHit(self.ids[place], float(score)) for place, score in zip(*row, strict=True)]
            for row in zip(places, scores, strict=True)
        ]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32).copy()
    faiss.normalize_L2(vectors)
    return vectors
