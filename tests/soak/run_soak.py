"""
Mixed load for as long as you like: threads that embed, search and generate on one shared model, every answer compared
with the one expected, the process's memory watched. Exit code 1 where an answer is wrong or the memory isn't flat.

    OMP_NUM_THREADS=1 python tests/soak/run_soak.py --minutes 30
"""

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


for _folder in ("helpers", "sweep"):
    sys.path.append(str(Path(__file__).parents[1] / _folder))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np  # noqa: E402
import psutil  # noqa: E402


Job = Callable[[random.Random], str | None]
_MEGABYTE = 1e6


@dataclass
class SoakReport:
    """
    What a run found.

    Args:
        seconds: How long the threads ran.
        answers: Of each kind of job, how many.
        wrong: What was wrong with an answer, the first twenty; errors that were raised among them.
        samples: Seconds since the start and resident memory, in MB.
        warm_up: Seconds before samples count.
        allowed: Growth over the counted samples, in MB, that still is flat.
    """

    seconds: float = 0.0
    answers: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    num_wrong: int = 0
    samples: list[tuple[float, float]] = field(default_factory=list)
    warm_up: float = 0.0
    allowed: float = 0.0

    @property
    def counted(self) -> np.ndarray:
        """Samples behind the warm-up, `(samples, 2)`."""
        found = np.array(self.samples, dtype=np.float64).reshape(-1, 2)
        return found[found[:, 0] >= self.warm_up]

    @property
    def slope(self) -> float:
        """MB a second, by least squares."""
        counted = self.counted
        return float(np.polyfit(counted[:, 0], counted[:, 1], 1)[0]) if len(counted) > 2 else float("nan")

    @property
    def growth(self) -> float:
        """MB over the counted time, along the fitted line."""
        counted = self.counted
        return self.slope * float(counted[-1, 0] - counted[0, 0]) if len(counted) > 2 else float("nan")

    @property
    def flat(self) -> bool:
        """Whether memory has not grown by more than is allowed; too few samples are not flat."""
        return bool(self.growth <= self.allowed)

    def facts(self) -> dict:
        """Figures for people and machines."""
        memory = self.counted[:, 1]
        return {
            "seconds": round(self.seconds, 1),
            "answers": self.answers,
            "wrong": self.num_wrong,
            "warm_up_seconds": round(self.warm_up, 1),
            "samples": len(memory),
            "rss_mb_first_median_last": [round(float(v), 1) for v in (memory[0], np.median(memory), memory[-1])],
            "slope_mb_per_hour": round(self.slope * 3600, 2),
            "growth_mb": round(self.growth, 2),
            "allowed_mb": round(self.allowed, 2),
            "flat": self.flat,
        }


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run_jobs(
    jobs: dict[str, tuple[Job, int]],
    seconds: float,
    warm_up: float,
    every: float = 2.0,
    allowed: float | None = None,
    pause: float = 0.0,
    say: Callable[[str], None] | None = None,
) -> SoakReport:
    """
    Runs jobs in threads until the time is over, or an answer is wrong twenty times.

    Args:
        jobs (`dict`): By name a job, which returns what is wrong with its answer or `None`, and its number of threads.
        seconds (`float`): How long.
        warm_up (`float`): Seconds that the memory's slope leaves out: caches and the allocator's arenas fill.
        every (`float`, *optional*, defaults to 2.0): Seconds from one sample of the memory to the next.
        allowed (`float`, *optional*): MB of growth; 2 % of the memory, and at least 8 MB, without.
        pause (`float`, *optional*, defaults to 0.0): Seconds that each thread waits after an answer.
    """
    report, lock, over = (
        SoakReport(warm_up=warm_up, answers=dict.fromkeys(jobs, 0)),
        threading.Lock(),
        threading.Event(),
    )

    def work(name: str, job: Job, seed: int) -> None:
        draw = random.Random(seed)
        while not over.is_set():
            try:
                wrong = job(draw)
            except Exception as error:  # a thread that dies must not look like one that has nothing to say
                wrong = f"{type(error).__name__}: {error}"
            with lock:
                report.answers[name] += 1
                if wrong is not None:
                    report.num_wrong += 1
                    report.wrong.append(f"{name}: {wrong}")
                    if report.num_wrong >= 20:
                        over.set()
            if pause:
                over.wait(pause)

    seeds = iter(range(10_000))
    threads = [
        threading.Thread(target=work, args=(name, job, next(seeds)), daemon=True)
        for name, (job, count) in jobs.items()
        for _ in range(count)
    ]
    process, start, told = psutil.Process(), time.monotonic(), 0.0
    for thread in threads:
        thread.start()
    while (passed := time.monotonic() - start) < seconds and not over.is_set():
        report.samples.append((passed, process.memory_info().rss / _MEGABYTE))
        if passed >= told + 60:
            told = passed
            (say or _write)(
                f"{passed:,.0f} s: {sum(report.answers.values()):,} answers, {report.samples[-1][1]:,.1f} MB"
            )
        over.wait(min(every, max(seconds - passed, 0.0)))
    over.set()
    for thread in threads:
        thread.join(60)
        if thread.is_alive():
            report.num_wrong += 1
            report.wrong.append(f"{thread.name} hangs")
    report.seconds = time.monotonic() - start
    memory = report.counted[:, 1]
    typical = float(np.median(memory)) if len(memory) else 0.0
    report.allowed = max(0.02 * typical, 8.0) if allowed is None else allowed
    return report


def tiny_jobs(folder: Path) -> dict[str, tuple[Job, int]]:
    """Embedding, searching (in memory and in a folder of vectors) and generating, by one tiny model."""
    from tiny_lira import WORDS, causal_with_processor

    from lira_hf.inference import (
        LiraEmbedder,
        LiraGenerator,
        SearchIndex,
        TextRow,
        VectorFolder,
        VectorIndex,
        embed_rows,
    )

    model, processor = causal_with_processor()
    model.eval()
    embedder, generator = LiraEmbedder(model.base_model, processor), LiraGenerator(model, processor)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(200)]
    languages = [draw.choice(["bn", "ur", "en"]) for _ in texts]
    candidates = [[" ".join(draw.choices(WORDS, k=4)) for _ in range(draw.randint(0, 3))] for _ in texts]
    vectors = embedder.encode(texts, languages, candidates)
    rows = [TextRow(f"d{n}", text, languages[n], candidates[n]) for n, text in enumerate(texts)]
    dim = model.config.projection_dim
    with VectorFolder.create(folder / "vectors", dim, "float32", "tiny", embedder.fingerprint) as held:
        embed_rows(embedder, rows, held, shard_rows=64)
    memory, disk = SearchIndex([row.id for row in rows], vectors), VectorIndex(VectorFolder(folder / "vectors"))
    groups = [draw.sample(range(len(texts)), 3) for _ in range(12)]

    def ask(places: list[int]) -> list[str]:
        asked, tags, english = ([values[place] for place in places] for values in (texts, languages, candidates))
        return generator.generate(asked, tags, candidates=english, max_new_tokens=6)

    answers = [ask(places) for places in groups]

    def embed(draw: random.Random) -> str | None:
        places = draw.sample(range(len(texts)), draw.randint(1, 32))
        found = embedder.encode(*([values[place] for place in places] for values in (texts, languages, candidates)))
        apart = float(np.abs(found - vectors[places]).max())
        return None if apart < 1e-5 else f"vectors of {places} are {apart:.2g} off"

    def search(draw: random.Random) -> str | None:
        place = draw.randrange(len(texts))
        query = embedder.encode([texts[place]], [languages[place]], [candidates[place]])
        cosines = vectors @ vectors[place]
        for index in (memory, disk):
            hits = index.search(query, 5)[0]
            best = np.sort(cosines)[::-1][:5]
            own = np.array([cosines[int(hit.id[1:])] for hit in hits])
            if np.abs(own - best).max() > 1e-5 or np.abs(np.array([hit.score for hit in hits]) - best).max() > 1e-5:
                return f"{type(index).__name__} found {[hit.id for hit in hits]} for {texts[place]!r}"
        return None

    def generate(draw: random.Random) -> str | None:
        number = draw.randrange(len(groups))
        found = ask(groups[number])
        return None if found == answers[number] else f"got {found}, expected {answers[number]}"

    return {"embed": (embed, 2), "search": (search, 1), "generate": (generate, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: 30)")
    parser.add_argument(
        "--warm-up", type=float, help="minutes that the slope leaves out (default: a quarter, at most 5)"
    )
    parser.add_argument("--every", type=float, default=2.0, help="seconds between samples of the memory")
    parser.add_argument("--allowed", type=float, help="growth in MB that is flat (default: 2 %% of the memory, 8 MB)")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that each thread waits after an answer")
    parser.add_argument("--json", type=Path, help="also write figures and samples here")
    given = parser.parse_args()
    warm_up = min(given.minutes / 4, 5.0) if given.warm_up is None else given.warm_up
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as folder:
        jobs = tiny_jobs(Path(folder))
        gc.collect()
        report = run_jobs(jobs, given.minutes * 60, warm_up * 60, given.every, given.allowed, given.pause)
    facts = report.facts()
    _write(json.dumps(facts, indent=1))
    for line in report.wrong[:20]:
        _write(f"wrong: {line}")
    if given.json is not None:
        given.json.write_text(json.dumps({**facts, "samples_seconds_mb": report.samples}, indent=1) + "\n")
    if not report.flat:
        _write(f"memory isn't flat: it grew by {report.growth:.1f} MB, {report.allowed:.1f} MB are allowed")
    return int(bool(report.num_wrong) or not report.flat)


if __name__ == "__main__":
    sys.exit(main())
