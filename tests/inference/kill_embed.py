"""
Runs an embedding that is killed again and again, for test_inference_vectors.py. Libraries and model are loaded
once; every attempt is a fork of this process, which itself embeds nothing.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pyarrow as pa
import torch

from lira_hf import LiraModel, LiraProcessor
from lira_hf.inference import LiraEmbedder, VectorFolder, embed_rows, read_rows


_ATTEMPTS = 11  # the last one is left alone


def attempt(embedder: LiraEmbedder, data: str, target: Path, log: Path, ready: int) -> None:
    encode_batch = embedder.encode_batch

    def noted(texts, *rest):
        os.write(ready, b"x")
        with log.open("a") as file:
            file.writelines(f"{text}\n" for text in texts)
        return encode_batch(texts, *rest)

    embedder.encode_batch = noted
    dim = embedder.model.config.projection_dim
    with VectorFolder.create(target, dim, "float16", "tiny", embedder.fingerprint) as folder:
        embed_rows(embedder, read_rows(data, default_language="en"), folder, shard_rows=8)


def start(*arguments) -> tuple[int, int]:
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    try:
        attempt(*arguments, write)
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def held(target: Path) -> set[str]:
    """Texts that a folder holds; every file of it is read and checked."""
    if not (target / "manifest.json").exists():
        return set()
    folder = VectorFolder(target)
    folder.check()
    return {text for place in range(len(folder.shards)) for text in folder.table(place).column("text").to_pylist()}


def main() -> None:
    checkpoint, data, target = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    pa.table({"a": ["x"]})  # makes pyarrow import pandas, which takes longer than all the rest of an attempt
    model, processor = LiraModel.from_pretrained(checkpoint), LiraProcessor.from_pretrained(checkpoint)
    embedder = LiraEmbedder(model, processor, batch_size=4)
    _ = embedder.fingerprint  # worked out once, here
    draw = random.Random(0)
    before: set[str] = set()
    kills, kept, twice, lost = 0, [], [], []
    for number in range(_ATTEMPTS):
        log = target.with_name(f"computed-{number}")
        child, ready = start(embedder, data, target, log)
        # By batches begun, not by the clock: a fast machine would be through before it is hit.
        for _ in range(draw.randint(1, 12)):
            os.read(ready, 1)
        time.sleep(draw.uniform(0.0, 0.002))
        if number < _ATTEMPTS - 1:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(ready)
        computed = set(log.read_text().splitlines()) if log.is_file() else set()
        twice += sorted(computed & before)
        after = held(target)
        lost += sorted(before - after)
        before = after
        if os.WIFEXITED(status):
            break
        kills += 1
        kept.append(len(after))
    found = {"kills": kills, "kept": kept, "twice": twice, "lost": lost, "status": status}
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
