"""A folder of vectors with flipped bits or cut short in any of its files, on a full disk, with two writers."""

import errno
import multiprocessing
import os
import random
import shutil

import numpy as np
import pytest

from lira_hf.inference import TextRow, VectorFolder, VectorIndex, VectorsError


ROWS = [TextRow(f"d{number}", f"text number {number}", "en") for number in range(24)]
VECTORS = np.random.default_rng(0).normal(size=(24, 12)).astype("f")
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
FLIPS = 400


def make(folder, count=24):
    with VectorFolder.create(folder, 12, "float32", "tiny", "f" * 16) as target:
        for start in range(0, count, 8):
            target.append(ROWS[start : start + 8], VECTORS[start : start + 8])
    return folder


def contents(folder):
    """Id, language, text and vector of everything that a reader gets."""
    target = VectorFolder(folder)
    target.check_model("f" * 16)
    VectorIndex(target).search(VECTORS[:2], 3)
    found = {}
    for place in range(len(target.shards)):
        table, vectors = target.table(place), target.vectors(place)
        for row, vector in zip(table.to_pylist(), vectors, strict=True):
            found[row["id"]] = (row["language"], row["text"], vector.tobytes())
    assert len(target) == len(found)
    return found


def test_damage_is_an_error_or_harmless_and_never_another_vector(tmp_path):
    whole = make(tmp_path / "whole")
    expected, draw, refused, messages = contents(whole), random.Random(0), 0, []
    names = sorted(path.name for path in whole.iterdir() if path.suffix != ".lock")
    for number in range(FLIPS):
        bent = tmp_path / "bent"
        shutil.rmtree(bent, ignore_errors=True)
        shutil.copytree(whole, bent)
        path = bent / names[number % len(names)]
        data, place = bytearray(path.read_bytes()), draw.randrange(path.stat().st_size)
        if draw.random() < 0.85:
            data[place] ^= 1 << draw.randrange(8)
        else:
            del data[place:]
        path.write_bytes(data)
        try:
            found = contents(bent)
        except VectorsError as error:
            messages.append(str(error))
            refused += 1
            continue
        assert found == expected, (number, path.name)
    assert all("; expected " in message for message in messages)
    assert refused > FLIPS / 2


def test_files_with_other_names_are_no_shards(tmp_path):
    folder = make(tmp_path / "vectors")
    for name in ("shard-000000x.json", "shard-9.json", "shard-..json", "shard-../../etc.json".replace("/", "_")):
        (folder / name).write_text('{"rows": 1}')
    assert len(VectorFolder(folder)) == 24


def test_a_full_disk_is_told_and_loses_no_finished_shard(tmp_path, monkeypatch):
    folder = make(tmp_path / "vectors", 16)
    before = contents(folder)
    with VectorFolder.create(folder, 12, "float32", "tiny", "f" * 16) as target:

        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(
                OSError, match=r"shard-000002.npy can't be written \(No space left.*make room"
            ) as error:
                target.append(ROWS[16:], VECTORS[16:])
        assert error.value.errno == errno.ENOSPC
        assert contents(folder) == before
        assert not list(folder.glob(".*.tmp"))
        target.append(ROWS[16:], VECTORS[16:])
    assert len(contents(folder)) == 24


def _append(folder, answers):
    try:
        with VectorFolder.create(folder, 12, "float32", "tiny", "f" * 16, lock_timeout=0.1):
            answers.put("in")
    except VectorsError as error:
        answers.put(str(error))


def test_a_second_writer_is_refused(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with VectorFolder.create(tmp_path / "vectors", 12, "float32", "tiny", "f" * 16):
        process = context.Process(target=_append, args=(tmp_path / "vectors", answers))
        process.start()
        assert "while another process writes to it; expected one writer at a time" in answers.get(timeout=60)
        process.join(60)
