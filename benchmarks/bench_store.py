"""How fast the candidate store takes candidates from four processes, and gives a batch of texts out of a million."""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from machine import machine_facts
from rich.console import Console
from rich.table import Table

from lira_hf.translation import Candidate, CandidateStore, Identity


WHO = Identity("benchmark", "1")
LANGUAGE = "id"
console = Console(width=110)


def words_of(number: int, salt: int, count: int) -> str:
    """Made-up words, no two texts alike: what compresses well would flatter Parquet."""
    digest = hashlib.blake2b(f"{number} {salt}".encode(), digest_size=count * 3).hexdigest()
    return " ".join(digest[start : start + 6] for start in range(0, count * 6, 6))


def text_of(number: int) -> str:
    """A made-up text of 62 characters."""
    return words_of(number, -1, 9)


def row_of(number: int, candidates: int) -> tuple[str, list[Candidate]]:
    """A text with its candidates."""
    made = [Candidate(words_of(number, k, 9), "llm", "benchmark", 1.0 / (k + 1)) for k in range(candidates)]
    return text_of(number), made


# Writing


def _writer(path: Path, first: int, texts: int, batch: int, candidates: int, barrier: Any) -> None:
    with CandidateStore(path) as store:
        rows = [row_of(number, candidates) for number in range(first, first + texts)]
        barrier.wait()
        for start in range(0, texts, batch):
            store.add(LANGUAGE, rows[start : start + batch], WHO)


def write_speed(path: Path, processes: int, texts: int, batch: int, candidates: int, first: int = 0) -> dict[str, Any]:
    """Candidates a second of several processes that write to one store; `texts` is for each."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(processes + 1)
    workers = [
        context.Process(target=_writer, args=(path, first + n * texts, texts, batch, candidates, barrier))
        for n in range(processes)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    if any(worker.exitcode for worker in workers):
        raise RuntimeError(f"exit codes {[worker.exitcode for worker in workers]}; expected 0; see the messages above")
    total = processes * texts * candidates
    return {"processes": processes, "texts_per_transaction": batch, "candidates": total, "seconds": round(seconds, 3),
            "candidates_per_second": round(total / seconds)}  # fmt: skip


# Reading


def fill(path: Path, texts: int, candidates: int) -> float:
    """A store of a million texts; seconds."""
    start = time.perf_counter()
    with CandidateStore(path) as store:
        store.add(LANGUAGE, (row_of(number, candidates) for number in range(texts)), WHO)
    return time.perf_counter() - start


def forget(path: Path) -> None:
    """Drops a file from the operating system's page cache."""
    for name in (path, path.with_name(path.name + "-wal")):
        if name.exists():
            descriptor = os.open(name, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def timed(call: Callable[[], list[Any]], expected: int) -> float:
    """Milliseconds of one look-up, whose answers are counted."""
    start = time.perf_counter()
    found = call()
    milliseconds = (time.perf_counter() - start) * 1000
    if len(found) != expected or not all(found):
        raise RuntimeError(f"{sum(map(bool, found))} of {expected} texts found; expected all; the benchmark is wrong")
    return milliseconds


def batches_of(texts: int, size: int, count: int, seed: int) -> Iterator[list[str]]:
    """Other texts each time, so that no answer is a repeat."""
    draw = random.Random(seed)
    for _ in range(count):
        yield [text_of(number) for number in draw.sample(range(texts), size)]


def reads_so_far() -> int:
    """Read calls of this process; 0 where the system doesn't say."""
    counts = Path("/proc/self/io")
    if not counts.exists():
        return 0
    return int(dict(line.split(": ") for line in counts.read_text().splitlines())["syscr"])


def disk_reads(path: Path, count: int, repeats: int) -> dict[str, list[float]]:
    """What the disk alone takes for so many pages of 4 KiB, one after the other: no look-up of so many is faster."""
    draw, cold = random.Random(3), []
    for _ in range(repeats):
        forget(path)
        places = [draw.randrange(path.stat().st_size // 4096) * 4096 for _ in range(count)]
        descriptor = os.open(path, os.O_RDONLY)
        start = time.perf_counter()
        for place in places:
            os.pread(descriptor, 4096, place)
        cold.append((time.perf_counter() - start) * 1000)
        os.close(descriptor)
    return {"cold": cold}


def store_lookup(path: Path, texts: int, size: int, repeats: int) -> dict[str, Any]:
    """
    Cold: nothing of the file in memory, opening included. Fresh: opening included, the file in the system's memory,
    as in a second process. Warm: the same connection, other texts.
    """
    cold, fresh, warm, reads = [], [], [], []

    def opened(batch: list[str]) -> list[Any]:
        with CandidateStore(path, read_only=True) as store:
            return store.get(LANGUAGE, batch)

    for batch in batches_of(texts, size, repeats, 1):
        forget(path)
        before = reads_so_far()
        cold.append(timed(lambda b=batch: opened(b), size))
        reads.append(reads_so_far() - before)
    with CandidateStore(path, read_only=True) as store:
        for _ in range(2):  # the first round brings the file back into memory
            warm = [timed(lambda b=b: store.get(LANGUAGE, b), size) for b in batches_of(texts, size, repeats * 10, 2)]
    for batch in batches_of(texts, size, repeats * 2, 2):
        fresh.append(timed(lambda b=batch: opened(b), size))
    return {"cold": cold, "fresh": fresh, "warm": warm, "cold_reads": round(statistics.median(reads))}


def parquet_lookup(path: Path, texts: int, size: int, repeats: int) -> dict[str, list[float]]:
    """What pyarrow does with `filters`: row groups are read and filtered."""

    def find(batch: list[str]) -> list[Any]:
        table = pq.read_table(path, filters=[("text", "in", batch)])
        answers: dict[str, list[str]] = {}
        for row in table.to_pylist():
            answers.setdefault(row["text"], []).append(row["candidate"])
        return [answers.get(text, []) for text in batch]

    cold, warm = [], []
    for batch in batches_of(texts, size, repeats, 1):
        forget(path)
        cold.append(timed(lambda b=batch: find(b), size))
    for batch in batches_of(texts, size, repeats, 2):
        warm.append(timed(lambda b=batch: find(b), size))
    return {"cold": cold, "warm": warm}


def dict_lookup(path: Path, texts: int, size: int, repeats: int) -> dict[str, Any]:
    """A dict in memory; cold is the loading of it from Parquet, once, and the memory that it takes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    table: dict[str, list[str]] = {}
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["text", "candidate"]):
            for row in batch.to_pylist():
                table.setdefault(row["text"], []).append(row["candidate"])
    loading = (time.perf_counter() - start) * 1000
    warm = [timed(lambda b=b: [table.get(text, []) for text in b], size)
            for b in batches_of(texts, size, repeats * 10, 2)]  # fmt: skip
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"cold": [loading], "warm": warm, "memory_mb": round(memory)}


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    # Each in a process of its own: none profits from what another has loaded.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def summary(times: dict[str, Any]) -> dict[str, Any]:
    """Median, least and most of each list of milliseconds."""
    return {
        name: {"median_ms": round(statistics.median(values), 3), "min_ms": round(min(values), 3),
               "max_ms": round(max(values), 3), "runs": len(values)} if isinstance(values, list) else values
        for name, values in times.items()
    }  # fmt: skip


def to_parquet(path: Path, texts: int, candidates: int) -> None:
    """The same answers, sorted by nothing, as an export would be."""
    schema = pa.schema([("text", pa.string()), ("rank", pa.int64()), ("candidate", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, texts, 20_000):
            rows = [
                {"text": text, "rank": rank, "candidate": candidate.text}
                for number in range(start, min(texts, start + 20_000))
                for text, row in (row_of(number, candidates),)
                for rank, candidate in enumerate(row)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=1_000_000, help="texts in the store that is read")
    parser.add_argument("--candidates", type=int, default=3, help="candidates a text")
    parser.add_argument("--batch", type=int, default=256, help="texts in a look-up")
    parser.add_argument("--processes", type=int, default=4, help="writing processes")
    parser.add_argument("--write-texts", type=int, default=20_000, help="texts that each of them writes")
    parser.add_argument("--repeats", type=int, default=7, help="look-ups, cold; ten times as many warm")
    parser.add_argument("--folder", type=Path, help="where the stores are made; a temporary one by default")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "store.json")
    options = parser.parse_args()
    if options.repeats < 5:
        parser.error(f"--repeats is {options.repeats}; expected 5 or more; a median of fewer says little")
    facts = machine_facts(sqlite=sqlite3.sqlite_version, pyarrow=pa.__version__)
    result: dict[str, Any] = {"machine": facts, "options": {k: v for k, v in vars(options).items() if k not in
                                                                ("folder", "output")}}  # fmt: skip
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        writing = result["writing"] = []
        for batch in (256, 16, 1):
            # A transaction costs the same for one text as for many: fewer texts, or it takes minutes.
            texts = options.write_texts if batch > 1 else max(1, options.write_texts // 10)
            path = folder / f"write-{batch}.sqlite"
            writing.append(write_speed(path, options.processes, texts, batch, options.candidates))
        big, parquet = folder / "big.sqlite", folder / "big.parquet"
        seconds = fill(big, options.texts, options.candidates)
        to_parquet(parquet, options.texts, options.candidates)
        result["big_store"] = {
            "texts": options.texts, "candidates": options.texts * options.candidates,
            "fill_seconds": round(seconds, 1),
            "mb": round(big.stat().st_size / 1e6), "parquet_mb": round(parquet.stat().st_size / 1e6),
        }  # fmt: skip
        # Into the big store, whose indexes no longer fit into a page cache.
        into = write_speed(big, options.processes, options.write_texts, 256, options.candidates, options.texts)
        writing.append(into | {"into_texts": options.texts})
        sizes = (options.texts, options.batch, options.repeats)
        store = _in_process(store_lookup, big, *sizes)
        result["lookup"] = {
            "store": summary(store),
            "disk_alone": summary(
                _in_process(disk_reads, big, store["cold_reads"] or 4 * options.batch, options.repeats)
            ),
            "parquet_filter": summary(_in_process(parquet_lookup, parquet, *sizes)),
            "dict": summary(_in_process(dict_lookup, parquet, *sizes)),
        }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    console.print(f"written to {options.output}", markup=False)


def show(result: dict[str, Any]) -> None:
    """Tables of the figures."""
    table = Table("processes", "texts a transaction", "into", "candidates a second")
    for row in result["writing"]:
        numbers = (
            row["processes"],
            row["texts_per_transaction"],
            row.get("into_texts", 0),
            row["candidates_per_second"],
        )
        table.add_row(*(f"{number:,}" for number in numbers))
    console.print(table)
    table = Table(
        f"{result['options']['batch']} of {result['options']['texts']:,} texts", "cold ms", "fresh ms", "warm ms"
    )
    for name, row in result["lookup"].items():
        table.add_row(
            name, *(f"{row[state]['median_ms']:,.2f}" if state in row else "" for state in ("cold", "fresh", "warm"))
        )
    console.print(table)


if __name__ == "__main__":
    main()
