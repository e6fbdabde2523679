"""Which ids a folder of vectors holds, and what their vectors were made from, in memory (ours)."""

import numpy as np
from numpy.typing import NDArray


__all__ = ["IdIndex"]

_Columns = tuple[NDArray[np.uint64], NDArray[np.uint64]]  # keys, sorted, and their digests
_BUCKETS = 256  # by the first byte of a key
_FEWEST = 1 << 16  # rows that are worth a walk over all buckets


class IdIndex:
    """
    Digests by key, in 16 to 18 bytes a row and no strings.

    Rows come a shard at a time and there may be thousands of shards. New ones are runs, of which two of like size
    become one; they go into buckets once they are an eighth of the whole. So a row is moved some twenty times, however
    many there are, and only one bucket is held twice meanwhile. Keys are hashes, so that buckets hold about as many.
    """

    def __init__(self) -> None:
        empty = np.zeros(0, np.uint64)
        self._buckets: list[_Columns] = [(empty, empty)] * _BUCKETS
        self._runs: list[_Columns] = []
        self._in_buckets = 0

    def __len__(self) -> int:
        return self._in_buckets + self._in_runs

    @property
    def keys(self) -> NDArray[np.uint64]:
        """All keys `(rows,)`, in no order."""
        return np.concatenate([keys for keys, _ in [*self._buckets, *self._runs]])

    @property
    def _in_runs(self) -> int:
        return sum(len(keys) for keys, _ in self._runs)

    def add(self, keys: NDArray[np.uint64], digests: NDArray[np.uint64]) -> None:
        """More rows: `(rows,)`, uint64, of keys that aren't there yet."""
        order = np.argsort(keys, kind="stable")
        self._runs.append((keys[order], digests[order]))
        full = self._in_runs >= max(_FEWEST, self._in_buckets // 8)
        while len(self._runs) > 1 and (full or len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0])):
            last = self._runs.pop()
            self._runs[-1] = _merged(self._runs[-1], last)
        if full:
            ((fresh, made_from),) = self._runs
            for bucket, rows in _by_bucket(fresh):
                self._buckets[bucket] = _merged(self._buckets[bucket], (fresh[rows], made_from[rows]))
            self._in_buckets += len(fresh)
            self._runs = []

    def find(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        """
        Args:
            keys (`np.ndarray` of shape `(asked,)`, uint64): Any keys.

        Returns:
            `tuple`: which of them are there, bool `(asked,)`, and their digests `(asked,)`, 0 where one isn't.
        """
        order = np.argsort(keys, kind="stable")
        asked = keys[order]
        found, digests = np.zeros(len(asked), dtype=bool), np.zeros(len(asked), dtype=np.uint64)
        parts = [(run, slice(None)) for run in self._runs]
        for known, rows in [*parts, *((self._buckets[bucket], rows) for bucket, rows in _by_bucket(asked))]:
            there, made_from = _find(known, asked[rows])
            found[rows] |= there
            digests[rows] |= made_from  # 0 in all but one
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return found[back], digests[back]


def _by_bucket(keys: NDArray[np.uint64]) -> list[tuple[int, slice]]:
    """Buckets that sorted keys belong to, with the places of each."""
    first = (keys >> np.uint64(56)).astype(np.int64)
    bounds = np.searchsorted(first, np.arange(_BUCKETS + 1)).tolist()
    return [(bucket, slice(bounds[bucket], bounds[bucket + 1])) for bucket in np.unique(first).tolist()]


def _find(known: _Columns, asked: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    keys, digests = known
    places = np.searchsorted(keys, asked)
    found = np.zeros(len(asked), dtype=bool)
    inside = np.flatnonzero(places < len(keys))
    found[inside] = keys[places[inside]] == asked[inside]
    made_from = np.zeros(len(asked), dtype=np.uint64)
    made_from[found] = digests[places[found]]
    return found, made_from


def _merged(known: _Columns, fresh: _Columns) -> _Columns:
    keys, digests = (np.concatenate(pair) for pair in zip(known, fresh, strict=True))
    order = np.argsort(keys, kind="stable")
    return keys[order], digests[order]
