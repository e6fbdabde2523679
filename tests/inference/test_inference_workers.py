"""Several processes that embed: the same vectors, in order; what happens when one dies or has another model."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lira_hf.inference import EmbedderPool, LiraEmbedder, TextRow, VectorFolder, WorkerError, embed_rows


@pytest.fixture(scope="module")
def checkpoint(tiny_lira, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny_lira():
        part.save_pretrained(folder)
    return folder


ROWS = [TextRow(f"d{n}", f"red {'river ' * (n % 5)}{n}", "vi", ["red moon"] * (n % 3)) for n in range(60)]


def opened(embedder, path):
    return VectorFolder.create(path, embedder.model.config.projection_dim, "float32", "m", embedder.fingerprint)


def stored(path):
    folder = VectorFolder(path)
    return np.concatenate([folder.vectors(place) for place in range(len(folder.shards))])


@pytest.mark.slow
def test_two_processes_give_what_one_gives_and_dead_ones_lose_nothing_finished(tiny_lira, checkpoint, tmp_path):
    embedder = LiraEmbedder(*tiny_lira(), batch_size=4)
    with opened(embedder, tmp_path / "one") as folder:
        embed_rows(embedder, ROWS, folder, shard_rows=20)
    with EmbedderPool(checkpoint, num_processes=2) as pool:
        texts = [row.text for row in ROWS]
        np.testing.assert_allclose(embedder.encode(texts, "vi", pool=pool), embedder.encode(texts, "vi"), atol=1e-6)
        other = LiraEmbedder(*tiny_lira(path_weight=0.9))
        with pytest.raises(WorkerError, match=f"expected {other.fingerprint}, as the calling embedder's"):
            other.encode(["red"], "vi", pool=pool)
        workers = dict(pool._executor._processes)
        assert len(workers) == 2

        def rows():
            yield from ROWS[:40]
            for process in workers:  # a single one might die unnoticed, the other doing all the work that is left
                os.kill(process, signal.SIGKILL)
            yield from ROWS[40:]

        with opened(embedder, tmp_path / "two") as folder:
            with pytest.raises(WorkerError, match="got a dead process among 2 .* run again with fewer processes"):
                embed_rows(embedder, rows(), folder, pool=pool, shard_rows=20)
            assert len(folder) == 40
    assert not any(worker.is_alive() for worker in workers.values())
    with opened(embedder, tmp_path / "two") as folder:
        report = embed_rows(embedder, ROWS, folder, shard_rows=20)
    assert (report.written, report.skipped) == (20, 40)
    np.testing.assert_allclose(stored(tmp_path / "two"), stored(tmp_path / "one"), atol=1e-6)


@pytest.mark.slow
def test_processes_end_with_one_that_is_killed(checkpoint):
    script = (
        "import sys, time\nfrom lira_hf.inference import EmbedderPool\n"
        "if __name__ == '__main__':\n"
        "    pool = EmbedderPool(sys.argv[1], 1)\n    next(pool.map([(['red'], ['vi'], [[]], [[]])]))\n"
        "    print(*pool._executor._processes, flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, checkpoint], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    assert alive(worker)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_wrong_numbers_of_processes():
    with pytest.raises(ValueError, match="got num_processes=0; expected at least 1"):
        EmbedderPool("model", num_processes=0)
    with EmbedderPool("model", devices=["cpu", "cpu"]) as pool:
        assert pool.num_processes == 2
