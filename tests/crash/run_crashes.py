"""Kills translate, judge, feature cache, train, embed and save_pretrained with SIGKILL, again and again.

    python tests/crash/run_crashes.py [areas ...] [--tries 100] [--seed 0]

Every attempt is a fork that is killed at a random moment: half of them at a random one of its calls that touch files
(opening, renaming, removing), half by the clock. It is started again until it comes to its end, which has to equal
that of an attempt that nobody killed; then a new folder is begun. Counted are losses (what was finished and is gone,
or other than it was), things done again (finished before, and computed once more) and wrong ends. Exit code 1 where
there is any.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path


os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "helpers"), str(ROOT / "sweep")]

import pyarrow as pa  # noqa: E402
import torch  # noqa: E402
from crash_areas import AREAS, Area  # noqa: E402
from transformers.utils import logging  # noqa: E402


_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "sqlite3.connect"}


@dataclass
class Tally:
    """Counts of one area."""

    kills: int = 0
    ends: int = 0
    kept: int = 0  # finished things that were there after a kill, over all kills
    lost: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def _count(event: str, number: list[int], last: int) -> None:
    if event in _EVENTS:
        number[0] += 1
        if number[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)


def fork(area: Area, folder: Path, log: Path, event: int = 0, delay: float | None = None) -> int:
    """One attempt, killed at its `event`-th call that touches a file, or after `delay` seconds; its wait status."""
    child = os.fork()
    if not child:
        try:
            number = [0]
            sys.addaudithook(lambda name, _: _count(name, number, event))
            area.attempt(folder, log)
            log.with_suffix(".events").write_text(str(number[0]))
            os._exit(0)
        except BaseException:
            sys.stderr.write(traceback.format_exc())
            os._exit(1)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)  # it isn't waited for yet: its number is still its own
    return os.waitpid(child, 0)[1]


def crash(area: Area, folder: Path, tries: int, seed: int = 0) -> Tally:
    """Kills an area's work `tries` times."""
    tally, draw, start = Tally(), random.Random(f"{area.name} {seed}"), time.monotonic()
    log = folder / "whole.log"
    if fork(area, folder / "whole", log):
        raise RuntimeError(f"{area.name} fails without being killed")
    events = int(log.with_suffix(".events").read_text())
    began = time.monotonic()
    fork(area, folder / "timed", folder / "timed.log")
    seconds = time.monotonic() - began
    expected = area.result(folder / "whole")
    number, before = 0, {}
    place, log = folder / "run-0", folder / "run.log"
    while True:
        log.unlink(missing_ok=True)
        if tally.kills >= tries:
            status = fork(area, place, log)
        elif draw.random() < 0.5:
            status = fork(area, place, log, event=draw.randint(1, events))
        else:
            status = fork(area, place, log, delay=draw.uniform(0, seconds))
        computed = set(log.read_text(encoding="utf-8").splitlines()) if log.is_file() else set()
        tally.again += sorted(computed & before.keys())
        try:
            after = area.held(place)
        except Exception as error:
            tally.lost.append(f"{place.name}: {type(error).__name__}: {error}")
            after = {}
        tally.lost += [name for name, content in before.items() if after.get(name, content) is not content
                       and after.get(name) != content]  # fmt: skip
        tally.lost += [name for name in before if name not in after]
        before = after
        if os.WIFSIGNALED(status):
            tally.kills += 1
            tally.kept += len(after)
            continue
        tally.ends += 1
        try:
            if status or area.result(place) != expected:
                tally.wrong.append(f"{place.name}: exit status {status}")
        except Exception as error:
            tally.wrong.append(f"{place.name}: {type(error).__name__}: {error}")
        if tally.kills >= tries:
            break
        number, before = number + 1, {}
        place = folder / f"run-{number}"
    tally.seconds = time.monotonic() - start
    return tally


def prepare() -> None:
    """What every attempt would otherwise do first."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pa.table({"a": ["x"]})  # makes pyarrow import pandas


def main() -> int:
    """Over the areas named on the command line; 1 where anything was lost, done again or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [area.name for area in AREAS]
    parser.add_argument("areas", nargs="*", default=names, help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--tries", type=int, default=100, help="kills of each area")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    prepare()
    bad = False
    sys.stdout.write("area       kills   ends   kept  losses  again  wrong  seconds\n")
    for kind in AREAS:
        if kind.name not in options.areas:
            continue
        with tempfile.TemporaryDirectory(prefix="lira-crash-") as folder:
            shared = Path(folder) / "shared"
            shared.mkdir()
            tally = crash(kind(shared), Path(folder), options.tries, options.seed)
        sys.stdout.write(
            f"{kind.name:9} {tally.kills:6} {tally.ends:6} {tally.kept:6} {len(tally.lost):7} {len(tally.again):6} "
            f"{len(tally.wrong):6} {tally.seconds:8.1f}\n"
        )
        for line in [*tally.lost[:5], *tally.again[:5], *tally.wrong[:5]]:
            sys.stdout.write(f"    {line}\n")
        sys.stdout.flush()
        bad |= bool(tally.lost or tally.again or tally.wrong)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
