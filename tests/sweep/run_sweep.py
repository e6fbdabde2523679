"""LiRA over a tiny model of every decoder-only type that transformers has: which of them pass `sweep_checks`.

python tests/sweep/run_sweep.py [types ...] [--output runs/sweep.json] [--limit 120] [--jobs 2]
"""

import argparse
import json
import multiprocessing
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch
import transformers
from sweep_checks import Result, examine
from tiny_configs import DECODER_ONLY
from transformers.utils import logging

import lira_hf


@dataclass
class Run:
    """A type under examination in a process of its own."""

    model_type: str
    process: multiprocessing.Process
    start: float

    def end(self) -> float:
        """Ends the process, and gives the seconds it had."""
        self.process.kill()
        self.process.join()
        return round(time.monotonic() - self.start, 2)


def _child(model_type: str, answer: Connection) -> None:
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    answer.send(examine(model_type))


def _failure(run: Run, reason: str) -> Result:
    return Result(run.model_type, "fail", checks={"run": reason}, seconds=run.end())


def sweep(types: list[str], jobs: int, limit: float) -> Iterator[Result]:
    """The result of each type as it comes, `jobs` at a time, none of which takes more than `limit` seconds."""
    context = multiprocessing.get_context("fork")  # transformers is imported once, not once a type
    waiting, runs = list(types), dict[Connection, Run]()
    while waiting or runs:
        while waiting and len(runs) < jobs:
            answers, answer = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(waiting[0], answer))
            process.start()
            answer.close()
            runs[answers] = Run(waiting.pop(0), process, time.monotonic())
        left = min(run.start for run in runs.values()) + limit - time.monotonic()
        ready = wait(list(runs), timeout=max(left, 0.0))
        for answers in ready:
            run = runs.pop(answers)
            try:
                result = answers.recv()
            except EOFError:
                run.process.join()
                yield _failure(run, f"the process died with exit code {run.process.exitcode}")
                continue
            run.end()
            yield result
        for answers in [answers for answers, run in runs.items() if time.monotonic() - run.start > limit]:
            yield _failure(runs.pop(answers), f"no answer within {limit:.0f} s")


def line(result: Result) -> str:
    """What is told about a type as it ends."""
    told = filter(None, [result.status, result.reason, *result.notes])
    return f"{result.model_type:26} {result.seconds:6.1f} s  {'; '.join(told)}"


def summary(results: list[Result]) -> str:
    """N of M, and why each of the others failed, by check."""
    passed, bare = (sum(hits) for hits in ((r.status == "pass" for r in results), (r.bare_runs for r in results)))
    total = len(results)
    lines = [f"{passed} of {total} decoder-only types pass (bare model runs: {bare} of {total})"]
    reasons: dict[str, list[str]] = {}
    for result in results:
        for name, verdict in result.checks.items():
            if verdict != "ok":
                reasons.setdefault(name, []).append(f"    {result.model_type}: {verdict}")
    for name, texts in reasons.items():
        lines += [f"  {name}: {len(texts)}", *texts]
    return "\n".join(lines)


def write(results: list[Result], path: Path, seconds: float) -> None:
    """All results as JSON, with the versions that they hold for."""
    packages = {"transformers": transformers, "torch": torch, "lira_hf": lira_hf}
    report = {
        "versions": {"python": platform.python_version(), **{k: v.__version__ for k, v in packages.items()}},
        "passed": sum(result.status == "pass" for result in results),
        "bare_runs": sum(result.bare_runs for result in results),
        "total": len(results),
        "seconds": round(seconds, 1),
        "types": {result.model_type: asdict(result) for result in sorted(results, key=lambda r: r.model_type)},
    }
    for entry in report["types"].values():
        del entry["model_type"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Sweeps over the types named on the command line; 1 where one fails, unless the bare model fails too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", default=DECODER_ONLY, help="model types; all by default")
    parser.add_argument("--output", type=Path, default=Path("runs/sweep.json"), help="where the results go")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for a type")
    parser.add_argument("--jobs", type=int, default=2, help="types at a time")
    options = parser.parse_args()
    start, results = time.monotonic(), []
    for result in sweep(options.types, options.jobs, options.limit):
        results.append(result)
        sys.stdout.write(line(result) + "\n")
        sys.stdout.flush()
    write(results, options.output, time.monotonic() - start)
    sys.stdout.write(summary(results) + "\n")
    # Of one whose process died, nobody knows whether the bare model runs.
    return int(any(r.status == "fail" and (r.bare_runs or "run" in r.checks) for r in results))


if __name__ == "__main__":
    sys.exit(main())
