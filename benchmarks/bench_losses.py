"""What long lists cost the losses: milliseconds forward and backward, and memory at the peak, on one thread.

Ranking: 32 queries of 384 dimensions against queues of 0 to 65,536 documents, from the vectors on. Correlation: soft
Spearman on the grid and over all pairs, 1,024 to 65,536 of them. The ways of one table take turns, so that each ratio
is between runs a moment apart. Writes benchmarks/results/losses.json.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from machine import machine_facts  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from lira_hf import __version__  # noqa: E402
from lira_hf.losses import (  # noqa: E402
    DocQueue,
    RetrievalLoss,
    info_nce_loss,
    soft_ndcg_loss,
    soft_spearman_correlation,
)


BATCH, DIM = 32, 384
MIB = 2**20
console = Console(width=118)

# A way of computing a loss: its leaves, and the loss of them.
Way = tuple[list[Tensor], Callable[..., Tensor]]


def run(way: Way) -> tuple[Tensor, list[Tensor]]:
    """Forward and backward: the loss, and the gradients."""
    leaves, loss = way
    for leaf in leaves:
        leaf.grad = None
    value = loss(*leaves)
    value.backward()
    return value.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]


def extra_memory(way: Way) -> float:
    """
    MiB that torch's allocator held at the peak beyond what was there before, less the leaves' gradients. A matrix
    library's own workspace is not in it.
    """
    run(way)
    for leaf in way[0]:
        leaf.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        _, gradients = run(way)
    now = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return (most - sum(one.numel() * one.element_size() for one in gradients)) / MIB


def measure(ways: dict[str, Way], rounds: int, base: str) -> dict[str, dict[str, Any]]:
    """Each way's median time, its quartiles, its time relative to the base's in the same round, and its memory."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            run(way)
            if number:  # the first is to warm up
                seconds[name].append(time.perf_counter() - start)
    results = {}
    for name, taken in seconds.items():
        ratios = [one / other for one, other in zip(taken, seconds[base], strict=True)]
        results[name] = {
            "ms": round(1e3 * statistics.median(taken), 2),
            "fastest_ms": round(1e3 * min(taken), 2),
            "rounds": rounds,
            f"relative_to_{base}": round(statistics.median(ratios), 3),
            "extra_mib": round(extra_memory(ways[name]), 2),
        }
    return results


def differences(one: Way, other: Way) -> dict[str, float]:
    """How far the loss and the gradient of one way are from those of the other."""
    (loss, gradients), (true_loss, true_gradients) = run(one), run(other)
    pairs = list(zip(gradients, true_gradients, strict=True))
    largest = max(float(true.abs().max()) for _, true in pairs)
    return {
        "loss_difference": abs(float(loss - true_loss)),
        "gradient_difference_of_largest": max(float((mine - true).abs().max()) for mine, true in pairs) / largest,
    }


# Ranking


def unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


def ranking_ways(entries: int, chunk_size: int) -> dict[str, Way]:
    """The losses alone, on scores from unit vectors, and RetrievalLoss whole."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(BATCH, DIM, generator=generator)
    documents = (queries + torch.randn(BATCH, DIM, generator=generator)).requires_grad_()
    held = unit(torch.randn(entries, DIM, generator=generator))
    positives = torch.nn.functional.pad(torch.eye(BATCH, dtype=torch.bool), (0, entries))
    legal = torch.ones_like(positives)
    leaves = [queries.requires_grad_(), documents]
    queue = DocQueue(max(entries, 1), DIM)
    queue.push(held, torch.arange(entries) + BATCH)

    def from_vectors(loss: Callable[..., Tensor], own: Tensor, other: Tensor) -> Tensor:
        directions = unit(own)
        # As in RetrievalLoss: in parts, since the queue gets no gradient.
        scores = torch.cat([directions @ unit(other).T, directions @ held.T], dim=1)
        return loss(scores, positives, legal)

    def whole(module: RetrievalLoss, own: Tensor, other: Tensor) -> Tensor:
        return module(own, other, torch.arange(BATCH), queue=queue).loss

    ndcg = partial(soft_ndcg_loss, k=10, tail=0.9)
    ways: dict[str, Way] = {
        "info_nce": (leaves, partial(from_vectors, info_nce_loss)),
        "soft_ndcg": (leaves, partial(from_vectors, ndcg)),
        "soft_ndcg_chunked": (leaves, partial(from_vectors, partial(ndcg, chunk_size=chunk_size))),
    }
    for objective in ("soft_ndcg", "infonce"):
        ways[f"retrieval_{objective}"] = (leaves, partial(whole, RetrievalLoss(objective, chunk_size=None)))
        if entries > chunk_size:
            chunked = RetrievalLoss(objective, chunk_size=chunk_size)
            ways[f"retrieval_{objective}_chunked"] = (leaves, partial(whole, chunked))
    return ways


def ranking_from_scores(entries: int, chunk_size: int) -> dict[str, Way]:
    """The losses on scores that are given: here the scores are the leaf."""
    scores = 0.1 * torch.randn(BATCH, entries, generator=torch.Generator().manual_seed(1))
    positives = torch.eye(BATCH, entries, dtype=torch.bool)
    legal = torch.ones_like(positives)
    calls = {
        "info_nce": info_nce_loss,
        "soft_ndcg": partial(soft_ndcg_loss, tail=0.9),
        "soft_ndcg_chunked": partial(soft_ndcg_loss, tail=0.9, chunk_size=chunk_size),
    }
    leaf = scores.requires_grad_()
    return {name: ([leaf], partial(call, positives=positives, mask=legal)) for name, call in calls.items()}


def ranking(entries: int, chunk_size: int, rounds: int) -> dict[str, Any]:
    """The table of one length of queue."""
    ways = ranking_ways(entries, chunk_size)
    results = measure(ways, rounds, "info_nce")
    for name in ways:
        if name.endswith("_chunked"):
            results[name] |= differences(ways[name], ways[name.removesuffix("_chunked")])
    return results


# Correlation


def spearman_ways(pairs: int, tau: float) -> dict[str, Way]:
    """Cosines that follow graded gold values, with noise."""
    generator = torch.Generator().manual_seed(0)
    gold = torch.randint(0, 51, (pairs,), generator=generator) / 10
    leaf = torch.tanh(0.2 * gold - 0.5 + 0.3 * torch.randn(pairs, generator=generator)).requires_grad_()
    return {
        name: ([leaf], partial(soft_spearman_correlation, gold=gold, tau=tau, grid=grid))
        for name, grid in (("grid", True), ("pairs", False))
    }


def spearman(pairs: int, rounds: int, tau: float = 0.05) -> dict[str, Any]:
    """
    The table of one number of pairs; differences are from all pairs in float64. Beyond 30,000 all pairs run once, cold
    and not profiled, and the differences are from them in float32.
    """
    ways = spearman_ways(pairs, tau)
    if pairs > 30_000:
        results = measure({"grid": ways["grid"]}, rounds, "grid")
        start = time.perf_counter()
        run(ways["pairs"])
        results["pairs"] = {"ms": round(1e3 * (time.perf_counter() - start), 2), "rounds": 1}
        results["grid"] |= differences(ways["grid"], ways["pairs"])
        return results
    results = measure(ways, rounds, "pairs")
    (leaf,), loss = ways["pairs"]
    truth: Way = ([leaf.detach().double().requires_grad_()], loss)
    for name, way in ways.items():
        results[name] |= differences(way, truth)
    return results


# Report


def show(title: str, results: dict[str, dict[str, Any]]) -> None:
    table = Table("way", "ms", "relative", "extra MiB", "loss off by", "gradient off by", title=title)
    for name, one in results.items():
        relative = next((f"{value:.3f}" for key, value in one.items() if key.startswith("relative_to")), "")
        off = [
            f"{one[key]:.1e}" if key in one else "" for key in ("loss_difference", "gradient_difference_of_largest")
        ]
        table.add_row(name, f"{one['ms']:.1f}", relative, str(one.get("extra_mib", "")), *off)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queues", type=int, nargs="*", default=[0, 2048, 65536])
    parser.add_argument("--pairs", type=int, nargs="*", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--chunk-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "losses.json")
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error(f"--rounds is {arguments.rounds}; expected 5 or more; a median of fewer says little")
    torch.set_num_threads(1)
    facts = machine_facts(
        batch=BATCH,
        dim=DIM,
        chunk_size=arguments.chunk_size,
        rounds=arguments.rounds,
        torch=torch.__version__,
        lira_hf=__version__,
        threads=1,
    )
    results: dict[str, Any] = {"ranking": {}, "ranking_from_scores": {}, "spearman": {}}
    for entries in arguments.queues:
        results["ranking"][entries] = ranking(entries, arguments.chunk_size, arguments.rounds)
        show(f"32 queries, a queue of {entries:,}; relative to InfoNCE", results["ranking"][entries])
    for entries in [most for most in arguments.queues if most > arguments.chunk_size]:
        ways = ranking_from_scores(entries, arguments.chunk_size)
        results["ranking_from_scores"][entries] = measure(ways, arguments.rounds, "info_nce")
        show(f"scores given, {entries:,} entries; relative to InfoNCE", results["ranking_from_scores"][entries])
    for pairs in arguments.pairs:
        results["spearman"][pairs] = spearman(pairs, arguments.rounds)
        show(f"soft Spearman, {pairs:,} pairs; relative to all pairs", results["spearman"][pairs])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    written = json.dumps({"machine": facts, "results": results}, indent=2)
    arguments.output.write_text(written + "\n", encoding="utf-8")
    console.print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
