"""The index of ids of a folder of vectors against a dictionary."""

import numpy as np
import pytest

from lira_hf.inference import id_index
from lira_hf.inference.id_index import IdIndex


@pytest.mark.parametrize("fewest", [1, 64, 1 << 16])
def test_finds_what_a_dictionary_finds(fewest, monkeypatch):
    monkeypatch.setattr(id_index, "_FEWEST", fewest)
    draw, index, known = np.random.default_rng(0), IdIndex(), {}
    for size in [0, 1, 300, 7, 7, 7, 900, 1, 50, 2000]:
        keys = draw.integers(0, 2**64, size, dtype=np.uint64, endpoint=False)
        digests = draw.integers(0, 2**64, size, dtype=np.uint64, endpoint=False)
        index.add(keys, digests)
        known |= dict(zip(keys.tolist(), digests.tolist(), strict=True))
        asked = np.array([*known, *draw.integers(0, 2**64, 200, dtype=np.uint64)], dtype=np.uint64)
        draw.shuffle(asked)
        found, made_from = index.find(asked)
        assert found.tolist() == [key in known for key in asked.tolist()]
        assert made_from.tolist() == [known.get(key, 0) for key in asked.tolist()]
    assert len(index) == len(known)
    assert sorted(index.keys.tolist()) == sorted(known)


def test_keys_at_the_ends_of_their_range():
    ends = np.array([0, 2**64 - 1, 2**56, 2**56 - 1], dtype=np.uint64)
    index = IdIndex()
    index.add(ends, np.array([5, 6, 7, 0], dtype=np.uint64))
    found, digests = index.find(np.array([2**64 - 1, 1, 0, 2**56 - 1, 2**56], dtype=np.uint64))
    assert found.tolist() == [True, False, True, True, True]
    assert digests.tolist() == [6, 0, 5, 0, 7]


def test_nothing_asked_and_nothing_there():
    found, digests = IdIndex().find(np.zeros(0, np.uint64))
    assert len(found) == len(digests) == 0
    assert IdIndex().find(np.array([3], dtype=np.uint64))[0].tolist() == [False]


def test_rows_are_moved_a_few_times_each(monkeypatch):
    moved = []
    merged = id_index._merged
    monkeypatch.setattr(id_index, "_merged", lambda *two: (moved.append(sum(len(k) for k, _ in two)), merged(*two))[1])
    monkeypatch.setattr(id_index, "_FEWEST", 64)
    draw, per_row = np.random.default_rng(0), []
    for shards in (100, 200, 400, 800):
        moved.clear()
        index = IdIndex()
        for _ in range(shards):
            index.add(*draw.integers(0, 2**64, (2, 16), dtype=np.uint64))
        per_row.append(sum(moved) / len(index))
    assert per_row[-1] < per_row[0] + 12  # one merge more for each doubling, and no more
