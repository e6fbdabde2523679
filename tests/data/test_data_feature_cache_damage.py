"""A feature cache with flipped bits or cut short in either file, on a full or a read-only disk."""

import multiprocessing
import os
import random
import resource
import shutil
import signal

import numpy as np
import pytest

from lira_hf.data import CacheError, FeatureCache
from lira_hf.data.feature_cache import scan_cache


TEXTS = [f"text number {number}" for number in range(60)]
FEATURES = np.random.default_rng(0).normal(size=(60, 3, 4)).astype("float16")
FLIPS = 400


def opened(folder):
    return FeatureCache(folder, (3, 4), fingerprint="bge@1")


@pytest.fixture
def whole(tmp_path):
    cache = opened(tmp_path / "whole")
    cache.append(TEXTS, FEATURES)
    cache.close()
    return cache.folder


def test_damage_is_an_error_or_computed_anew_and_never_another_feature(whole, tmp_path):
    draw, refused, messages = random.Random(0), 0, []
    for number in range(FLIPS):
        bent = tmp_path / "bent"
        shutil.rmtree(bent, ignore_errors=True)
        shutil.copytree(whole, bent)
        path = bent / ("index.sqlite" if number % 4 else "features.bin")
        data, place = bytearray(path.read_bytes()), draw.randrange(path.stat().st_size)
        if draw.random() < 0.85:
            data[place] ^= 1 << draw.randrange(8)
        else:
            del data[place:]
        path.write_bytes(data)
        try:
            cache = opened(bent)
            gone = cache.missing(TEXTS)
            there = [text for text in TEXTS if text not in set(gone)]
            found = cache.get(there)
        except CacheError as error:
            messages.append(str(error))
            refused += 1
            continue
        np.testing.assert_array_equal(found, FEATURES[[TEXTS.index(text) for text in there]])
        cache.append(gone, FEATURES[[TEXTS.index(text) for text in gone]]) if gone else None
        np.testing.assert_array_equal(cache.get(TEXTS), FEATURES)
        cache.close()
    assert all("; expected " in message for message in messages)
    assert refused > FLIPS / 4


def _fill_the_disk(folder, answers):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    cache, done, message = FeatureCache(folder, (3, 400), fingerprint="f"), 0, ""
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    try:
        for number in range(100):
            cache.append([f"text {number}"], np.full((1, 3, 400), number))
            done += 1
    except OSError as error:
        message = str(error)
    answers.put((message, done))
    answers.close()
    answers.join_thread()
    os._exit(0)


def test_a_full_disk_is_told_and_loses_nothing_written(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_fill_the_disk, args=(tmp_path / "cache", answers))
    process.start()
    message, done = answers.get(timeout=120)
    process.join(60)
    assert "features.bin, which can't be written (File too large); expected room" in message
    assert "what was written is kept" in message
    cache = FeatureCache(tmp_path / "cache", (3, 400), fingerprint="f")
    assert len(cache) == done == 25
    assert scan_cache(cache.folder) == (25, [])
    cache.append(["one more"], np.zeros((1, 3, 400)))
    assert [int(cache.get([f"text {number}"])[0, 0, 0]) for number in range(25)] == list(range(25))


def test_a_read_only_cache_is_read_and_refuses_writing(whole, monkeypatch):
    # Permissions don't bind root; what a read-only disk says is asked of the system alone.
    monkeypatch.setattr(os, "access", lambda *_: False)
    cache = opened(whole)
    np.testing.assert_array_equal(cache.get(TEXTS), FEATURES)
    with pytest.raises(CacheError, match="can't be read or written .*readonly database"):
        cache.append(["new"], FEATURES[:1])
    np.testing.assert_array_equal(cache.get(TEXTS), FEATURES)
