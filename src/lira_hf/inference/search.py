"""Search over embeddings in memory and over a folder of vectors, in process (faiss)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from .precision import dequantize, quantize, stored_width
from .vectors import VectorFolder


__all__ = ["SearchHit", "SearchIndex", "VectorHit", "VectorIndex"]

_BLOCK = 16_384  # vectors that are widened to float32 at a time
_Nearest = Callable[[NDArray[Any], NDArray[Any], int], tuple[NDArray[Any], NDArray[np.int64]]]


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
        # Not a faiss index, which would hold a second copy; what is searched is the same.
        self.embeddings = _unit(embeddings)

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
        width = self.embeddings.shape[1]
        if queries.ndim != 2 or queries.shape[1] != width:
            raise ValueError(
                f"got queries of shape {queries.shape}; expected (queries, {width}), the width of the indexed "
                "embeddings; embed both with the same model"
            )
        scores, places = faiss.knn(
            _unit(queries), self.embeddings, min(k, len(self.ids)), metric=faiss.METRIC_INNER_PRODUCT
        )
        return [
            [SearchHit(self.ids[place], float(score)) for place, score in zip(*row, strict=True)]
            for row in zip(places, scores, strict=True)
        ]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    vectors = np.array(vectors, dtype=np.float32, order="C")  # a copy
    faiss.normalize_L2(vectors)
    return vectors


class VectorHit(NamedTuple):
    """A text found: its `id`, the `score`, which is the cosine with the query or what is left of it in the folder's
    precision, the `text` and its `language`."""

    id: str
    score: float
    text: str
    language: str | None


class VectorIndex:
    """
    Finds the nearest vectors of a folder by cosine, over all of them, a shard after another.

    float32 shards are handed to faiss as they are mapped; float16 and int8 are widened block by block, and what comes
    out is exact for what is stored. Sign bits are first ranked by Hamming distance, and the best `oversample * k` then
    by the query's product with the signs.

    Args:
        folder ([`VectorFolder`]): The folder; shards that another process adds are seen after its `refresh`.
        oversample (`int`, *optional*, defaults to 4): For sign bits, how many times k are ranked again.
    """

    def __init__(self, folder: VectorFolder, oversample: int = 4):
        if oversample < 1:
            raise ValueError(f"got oversample={oversample!r}; expected at least 1; pass a positive number")
        self.folder = folder
        self.oversample = oversample

    def __len__(self) -> int:
        return len(self.folder)

    def search(self, queries: NDArray[np.float32], k: int = 10) -> list[list[VectorHit]]:
        """
        Args:
            queries (`np.ndarray` of shape `(queries, dim)`): Their float vectors, of any length.
            k (`int`, *optional*, defaults to 10): Texts per query; fewer where the folder has fewer.

        Returns:
            `list[list[VectorHit]]`: Best first.

        Raises:
            ValueError: For queries of another shape, or a k below 1.
            VectorsError: A shard is damaged.
        """
        scores, places = self.search_places(queries, k)
        rows = self._rows(np.unique(places))
        return [
            [VectorHit(rows[place][0], float(score), *rows[place][1:]) for place, score in zip(*row, strict=True)]
            for row in zip(places.tolist(), scores, strict=True)
        ]

    def search_places(
        self, queries: NDArray[np.float32], k: int = 10
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """
        As [`~VectorIndex.search`], without ids and texts.

        Returns:
            `tuple`: scores and places in the folder, counted from 0 over all shards, both `(queries, k)`.
        """
        folder = self.folder
        if queries.ndim != 2 or queries.shape[1] != folder.dim:
            raise ValueError(
                f"got queries of shape {queries.shape}; expected (queries, {folder.dim}), as wide as the "
                "folder's vectors; embed both with the same model, and search with float vectors"
            )
        if k < 1:
            raise ValueError(f"got k={k!r}; expected at least 1; pass a positive number")
        asked, k = _unit(queries), min(k, len(folder))
        if folder.precision != "binary":
            return self._ranked(asked, k, self._nearest)
        bits = quantize(asked, "binary")
        _, places = self._ranked(bits, min(k * self.oversample, len(folder)), _nearest_bits)
        return self._rescored(asked, places, k)

    def _ranked(self, queries: NDArray[Any], k: int, nearest: _Nearest) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The best of all blocks, joined as they come."""
        scores = np.zeros((len(queries), 0), np.float32)
        places = np.zeros((len(queries), 0), np.int64)
        for shard in range(len(self.folder.shards)):
            stored, first = self.folder.vectors(shard), int(self.folder.offsets[shard])
            for start in range(0, len(stored), _BLOCK):
                block = stored[start : start + _BLOCK]
                better, rows = nearest(queries, block, min(k, len(block)))
                scores = np.concatenate([scores, better], axis=1)
                places = np.concatenate([places, rows + (first + start)], axis=1)
                order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
                scores, places = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
        return scores, places

    def _nearest(self, queries: NDArray[Any], block: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        vectors = dequantize(block, self.folder.precision, self.folder.dim)
        return faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)

    def _rescored(
        self, queries: NDArray[np.float32], places: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best k of each query's places by its product with their signs."""
        places = np.sort(places, axis=1)
        distinct, numbers = np.unique(places, return_inverse=True)
        shards, offsets = self._shards(distinct), self.folder.offsets
        width = stored_width(self.folder.precision, self.folder.dim)
        bits = np.empty((len(distinct), width), dtype=np.uint8)
        for shard in np.unique(shards).tolist():
            bits[shards == shard] = self.folder.vectors(shard)[distinct[shards == shard] - offsets[shard]]
        scores = np.empty(places.shape, dtype=np.float32)
        for row, found in enumerate(numbers.reshape(places.shape)):
            scores[row] = dequantize(bits[found], self.folder.precision, self.folder.dim) @ queries[row]
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)

    def _shards(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self.folder.offsets, places, side="right") - 1

    def _rows(self, places: NDArray[np.int64]) -> dict[int, tuple[str, str, str | None]]:
        """Id, text and language at some places."""
        found: dict[int, tuple[str, str, str | None]] = {}
        shards = self._shards(places)
        for shard in np.unique(shards).tolist():
            here = places[shards == shard]
            table = self.folder.table(shard).take(here - self.folder.offsets[shard])
            columns = (table.column(name).to_pylist() for name in ("id", "text", "language"))
            found.update(zip(here.tolist(), zip(*columns, strict=True), strict=True))
        return found


def _nearest_bits(queries: NDArray[Any], block: NDArray[Any], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    distances, rows = faiss.knn_hamming(queries, np.ascontiguousarray(block), k)
    return -distances, rows
