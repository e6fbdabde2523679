"""What search costs in a million vectors, exactly: `SearchIndex` and a `VectorFolder` against plain faiss.

Random unit vectors, float32; the folder lies on the disk in shards of 8,192, as `lira embed` writes it, and has been
read before, so that the page cache holds it. Plain faiss is `IndexFlatIP` over the same vectors in memory. What is
found has to be the same. Times are the process's CPU time, which with one thread on an idle machine is the time that
passes. Writes benchmarks/results/search.json.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any


os.environ.setdefault("HF_HUB_OFFLINE", "1")

import faiss  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from paired import milliseconds, options, parse, ratio, take_turns, write  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from lira_hf.inference import SearchIndex, TextRow, VectorFolder, VectorIndex  # noqa: E402


TARGET = 1.2
SHARD = 8192
console = Console(width=118)


def unit_vectors(count: int, dim: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    faiss.normalize_L2(vectors)
    return vectors


def fill(folder: Path, vectors: NDArray[np.float32]) -> None:
    """A folder of these vectors, with ids and short texts."""
    with VectorFolder.create(folder, vectors.shape[1]) as opened:
        for start in range(0, len(vectors), SHARD):
            some = vectors[start : start + SHARD]
            rows = [TextRow(f"d{start + place}", f"text {start + place}", "en") for place in range(len(some))]
            opened.append(rows, some)


def same(found: list[list[Any]], scores: NDArray[np.float32], places: NDArray[np.int64]) -> dict[str, Any]:
    """Whether the ids are plain faiss's, and how far the scores are from its own."""
    ids = [[f"d{place}" for place in row] for row in places.tolist()]
    mine = np.array([[hit.score for hit in row] for row in found], dtype=np.float32)
    return {
        "same_ids": [[hit.id for hit in row] for row in found] == ids,
        "largest_score_difference": float(np.abs(mine - scores).max()),
    }


def measure(count: int, dim: int, queries: int, k: int, rounds: int) -> dict[str, Any]:
    """The three ways, one beside the others."""
    vectors, asked = unit_vectors(count, dim, 0), unit_vectors(queries, dim, 1)
    plain = faiss.IndexFlatIP(dim)
    plain.add(vectors)
    seconds = {}
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        fill(Path(place) / "vectors", vectors)
        seconds["fill_seconds"] = round(time.perf_counter() - start, 2)
        start = time.perf_counter()
        index = SearchIndex([f"d{number}" for number in range(count)], vectors)
        seconds["index_seconds"] = round(time.perf_counter() - start, 2)
        del vectors
        folder = VectorIndex(VectorFolder(Path(place) / "vectors"))
        start = time.perf_counter()
        folder.search(asked[:1], k)  # checks every shard against its CRC-32, once
        seconds["folder_first_seconds"] = round(time.perf_counter() - start, 2)
        ways = {
            "faiss": lambda: plain.search(asked, k),
            "index": lambda: index.search(asked, k),
            "folder": lambda: folder.search(asked, k),
        }
        taken = take_turns(ways, rounds, time.process_time)
        truth = plain.search(asked, k)
        found = {"index": same(index.search(asked, k), *truth), "folder": same(folder.search(asked, k), *truth)}
    for name, one in found.items():
        one["relative"] = ratio(taken, name, "faiss")
        one["met"] = one["relative"] <= TARGET and one["same_ids"]
    return {**milliseconds(taken), **seconds, **found}


def main() -> None:
    parser = options("search", __doc__, rounds=5)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("-k", type=int, default=10)
    arguments = parse(parser)
    sizes = {"vectors": arguments.vectors, "dim": arguments.dim, "queries": arguments.queries, "k": arguments.k}
    found = measure(*sizes.values(), arguments.rounds)
    facts = {**sizes, "rounds": arguments.rounds, "threads": faiss.omp_get_max_threads(), "faiss": faiss.__version__}
    write(arguments.output, {"relative": TARGET}, found, **facts)
    title = f"{arguments.queries} queries in {arguments.vectors:,} x {arguments.dim}"
    table = Table("", "ms", "of plain faiss", "same ids", "met", title=title)
    table.add_row("plain faiss", f"{found['faiss_ms']:.0f}", "", "", "")
    for name in ("index", "folder"):
        one = found[name]
        row = (f"{found[f'{name}_ms']:.0f}", f"{one['relative']:.3f}", str(one["same_ids"]), str(one["met"]))
        table.add_row(name, *row)
    console.print(table)
    console.print(f"written: {arguments.output}")
    if missed := [name for name in ("index", "folder") if not found[name]["met"]]:
        console.print(f"missed by {', '.join(missed)}: at most {TARGET} of plain faiss's time, and the same ids")


if __name__ == "__main__":
    main()
