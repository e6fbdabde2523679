import hashlib
import multiprocessing
import os
import pickle
import random
import signal
import sqlite3
import threading
import time

import numpy as np
import pytest

from lira_hf.data import CacheError, FeatureCache


SHAPE = (3, 8)


def feature_of(text):
    seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big")
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float16)


def features(texts):
    return np.stack([feature_of(text) for text in texts])


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "cache", SHAPE, "f", lock_timeout=0.2)


def test_append_get_missing(cache):
    texts = ["one", "two", "", "x" * 100_000, "lone \ud800 surrogate", "lone \udc80 surrogate", "é", "e\u0301"]
    assert cache.append(texts, features(texts)) == len(texts) == len(cache)
    order = [texts[i] for i in (3, 0, 0, 4, 5, 2, 6, 7)]
    got = cache.get(order)
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, features(order))
    got[:] = 0  # a copy, never the file
    np.testing.assert_array_equal(cache.get(order), features(order))
    assert cache.missing(["new", "one", "new", "newer"]) == ["new", "newer"]
    assert "one" in cache
    assert "new" not in cache
    assert 5 not in cache
    assert cache.get([]).shape == (0, *SHAPE)
    with pytest.raises(KeyError, match="got the text 'new', which the feature cache"):
        cache.get(["one", "new", "newer"])
    with pytest.raises(TypeError, match="expected a list of texts"):
        cache.get("one")


def test_first_features_of_a_text_stay(cache):
    assert cache.append(["a", "b", "a"], features(["a", "b", "c"])) == 2
    assert cache.append(["b", "d"], features(["x", "d"])) == 1
    np.testing.assert_array_equal(cache.get(["a", "b", "d"]), features(["a", "b", "d"]))


def test_reopening_keeps_and_other_settings_are_refused(cache):
    cache.append(["a"], features(["a"]))
    again = FeatureCache(cache.folder, SHAPE, "f")
    np.testing.assert_array_equal(again.get(["a"]), features(["a"]))
    for shape, fingerprint, dtype, name in (
        (SHAPE, "g", "float16", "fingerprint 'f'; expected 'g'"),
        ((3, 9), "f", "float16", "dim_shape '3x8'; expected '3x9'"),
        (SHAPE, "f", "float32", "dtype 'float16'; expected 'float32'"),
    ):
        with pytest.raises(CacheError, match=f"with {name}; delete that folder, or use another"):
            FeatureCache(cache.folder, shape, fingerprint, dtype)
    with pytest.raises(ValueError, match="expected 'float16' or 'float32'"):
        FeatureCache(cache.folder, SHAPE, "f", "bfloat16")
    with pytest.raises(ValueError, match="two positive integers"):
        FeatureCache(cache.folder, (0, 8), "f")


def test_values_that_cannot_be_kept_are_refused(cache, tmp_path):
    texts = ["fine", "bad", "worse"]
    for value, message in (
        (np.nan, "a value that isn't finite"),
        (np.inf, "isn't finite"),
        (70_000.0, "70000, too large"),
    ):
        batch = np.ones((3, *SHAPE), np.float32)
        batch[1, 2, 3] = value
        with pytest.raises(ValueError, match=rf"{message}.* in row 1 \(the text 'bad'\)"):
            cache.append(texts, batch)
    with pytest.raises(ValueError, match=r"got features of shape \(2, 3, 8\); expected \(3, 3, 8\)"):
        cache.append(texts, np.ones((2, *SHAPE)))
    assert len(cache) == 0
    wide = FeatureCache(tmp_path / "wide", SHAPE, "f", "float32")
    wide.append(["big"], np.full((1, *SHAPE), 70_000.0))
    assert wide.get(["big"]).max() == 70_000.0
    assert wide.get(["big"]).dtype == np.float32


def test_flipped_bit_is_found_named_and_mended(cache):
    texts = [f"t{n}" for n in range(20)]
    cache.append(texts, features(texts))
    path = cache.folder / "features.bin"
    content = bytearray(path.read_bytes())
    content[7 * 3 * 8 * 2 + 11] ^= 4
    path.write_bytes(content)
    again = FeatureCache(cache.folder, SHAPE, "f")
    with pytest.raises(CacheError, match="damaged record for the text 't7'"):
        again.get(texts)
    assert FeatureCache(cache.folder, SHAPE, "f", verify=False).get(texts).shape == (20, *SHAPE)
    assert again.discard(["t7", "unknown"]) == 1
    assert again.fill(texts, features) == 1
    np.testing.assert_array_equal(again.get(texts), features(texts))


def test_shortened_or_garbled_files_are_refused(cache):
    cache.append(["a", "b"], features(["a", "b"]))
    cache.close()
    path = cache.folder / "features.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CacheError, match=r"got 1 whole records in .*; expected the 2 that the index names"):
        FeatureCache(cache.folder, SHAPE, "f")
    (cache.folder / "index.sqlite").write_bytes(b"no database at all, only text" * 100)
    with pytest.raises(CacheError, match="index in .* that can't be read"):
        FeatureCache(cache.folder, SHAPE, "f")


def test_fill_computes_what_is_missing_once_longest_first(cache):
    cache.append(["have"], features(["have"]))
    calls = []

    def compute(batch):
        calls.append(batch)
        return features(batch)

    texts = ["bb", "a", "have", "cccc", "bb", "ddd", "eeeee"]
    assert cache.fill(texts, compute, batch_size=2) == 5
    assert calls == [["eeeee", "cccc"], ["ddd", "bb"], ["a"]]
    assert cache.fill(texts, compute) == 0
    np.testing.assert_array_equal(cache.get(texts), features(texts))
    with pytest.raises(ValueError, match="expected at least 1"):
        cache.fill(texts, compute, batch_size=0)


def test_fill_that_fails_keeps_what_was_done(cache):
    def compute(batch):
        if "a" in batch:
            raise RuntimeError("out of memory")
        return features(batch)

    with pytest.raises(RuntimeError, match="out of memory"):
        cache.fill(["a", "bb", "ccc"], compute, batch_size=1)
    assert cache.missing(["a", "bb", "ccc"]) == ["a"]
    assert cache.fill(["a"], features) == 1  # the lock is free again


def test_torn_tail_is_overwritten(cache):
    cache.append(["a"], features(["a"]))
    with open(cache.folder / "features.bin", "ab") as file:
        file.write(os.urandom(3 * 8 * 2 * 4 + 5))
    again = FeatureCache(cache.folder, SHAPE, "f")
    assert len(again) == 1
    again.append(["b", "c"], features(["b", "c"]))
    np.testing.assert_array_equal(again.get(["a", "b", "c"]), features(["a", "b", "c"]))


def _write_on(folder, start, report):
    cache = FeatureCache(folder, SHAPE, "f")
    for number in range(start, start + 100_000, 5):
        texts = [f"text {n}" for n in range(number, number + 5)]
        cache.append(texts, features(texts))
        os.write(report, f"{number + 5}\n".encode())


def test_killed_writer_loses_nothing_that_it_reported(tmp_path):
    draw = random.Random(5)
    done = 0
    for _ in range(12):
        reading, report = os.pipe()
        process = multiprocessing.get_context("fork").Process(target=_write_on, args=(tmp_path, done, report))
        process.start()
        os.close(report)
        time.sleep(draw.uniform(0.02, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with open(reading) as lines:
            done = max([done, *map(int, lines.read().split("\n")[:-1])])
        cache = FeatureCache(tmp_path, SHAPE, "f")
        texts = [f"text {n}" for n in range(done)]
        assert done <= len(cache) <= done + 5
        np.testing.assert_array_equal(cache.get(texts), features(texts) if texts else np.zeros((0, *SHAPE)))
        ahead = [f"text {n}" for n in range(done, done + 5)]
        assert cache.missing(ahead) in ([], ahead)  # a batch is there wholly or not at all
        cache.close()
    assert done >= 25


def test_one_writer_at_a_time_and_readers_meanwhile(cache):
    cache.append(["a"], features(["a"]))
    entered, leave = threading.Event(), threading.Event()

    def slow(batch):
        entered.set()
        assert leave.wait(20)
        return features(batch)

    writer = threading.Thread(target=cache.fill, args=(["b"], slow))
    writer.start()
    try:
        assert entered.wait(20)
        other = FeatureCache(cache.folder, SHAPE, "f", lock_timeout=0.2)
        with pytest.raises(CacheError, match="another process writes to it; expected one writer at a time; wait"):
            other.append(["c"], features(["c"]))
        np.testing.assert_array_equal(other.get(["a"]), features(["a"]))
    finally:
        leave.set()
        writer.join()
    np.testing.assert_array_equal(other.get(["a", "b"]), features(["a", "b"]))  # the mapping grows with the file


def _read_in_child(cache, texts, queue):
    inherited = cache._local.connection
    queue.put(cache.get(texts).tobytes())
    queue.put(cache._connection() is inherited)  # SQLite forbids to carry a connection over a fork


def test_reading_in_worker_processes(cache):
    cache.append(["a", "b"], features(["a", "b"]))
    cache.get(["a"])
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_read_in_child, args=(cache, ["b", "a"], queue))
    process.start()
    assert queue.get() == features(["b", "a"]).tobytes()
    assert queue.get() is False
    process.join()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cache)).get(["a"]), features(["a"]))


def _write_in_child(cache):
    cache.fill(["b"], features)
    cache.append(["c"], features(["c"]))


def test_writing_in_a_worker_process(cache):
    cache.append(["a"], features(["a"]))
    process = multiprocessing.get_context("fork").Process(target=_write_in_child, args=(cache,))
    process.start()
    process.join()
    assert process.exitcode == 0
    cache.append(["d"], features(["d"]))
    np.testing.assert_array_equal(cache.get(list("abcd")), features(list("abcd")))


def test_lookup_of_a_batch_is_quick(tmp_path):
    texts = [f"text {n}" for n in range(20_000)]
    cache = FeatureCache(tmp_path, SHAPE, "f")
    cache.append(texts, np.ones((len(texts), *SHAPE)))
    draw = random.Random(0)
    times = []
    for _ in range(9):
        batch = draw.sample(texts, 256)
        start = time.perf_counter()
        cache.get(batch)
        times.append(time.perf_counter() - start)
    assert sorted(times)[4] < 0.02  # 1 ms on a quiet machine
    with sqlite3.connect(tmp_path / "index.sqlite") as index:
        plan = index.execute("EXPLAIN QUERY PLAN SELECT place FROM entries WHERE key IN (x'00', x'01')").fetchall()
    assert "SEARCH" in plan[0][3]


def test_index_names_only_what_is_on_the_disk(cache, monkeypatch):
    cache.append(["a"], features(["a"]))

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            cache.append(["b"], features(["b"]))
    assert cache.missing(["a", "b"]) == ["b"]
    cache.append(["c", "b"], features(["c", "b"]))
    np.testing.assert_array_equal(cache.get(["a", "b", "c"]), features(["a", "b", "c"]))
