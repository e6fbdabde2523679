"""The work of `crash_areas.py` on disks that are full or become read-only: told, nothing lost, gone on with later.

    sudo python tests/crash/run_disks.py [areas ...]

Each area works on a small file system in memory (a mount, for which it has to be root) of a tenth to nine tenths of
the room that it needs, then is given room and finished; and on one that is made read-only half-way. Counted are
losses, things done again, wrong ends, and errors that don't say what is wrong. Exit code 1 where there is any.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import run_crashes  # first: it finds the helpers
from crash_areas import AREAS, Area, Save


_WORDS = (
    "No space left",
    "full",
    "disk I/O",
    "read-only",
    "readonly",
    "Read-only",
    "can't be written",
    "can't be opened",
)


def _mount(place: Path, options: str) -> None:
    subprocess.run(["mount", *options.split(), str(place)], check=True)


def _attempt(area: Area, place: Path, log: Path) -> tuple[int, str]:
    """Exit status and the last line of the error."""
    errors = log.with_suffix(".err")
    kept = os.dup(2)
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
        try:
            status = run_crashes.fork(area, place, log)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    lines = errors.read_text(errors="replace").strip().splitlines()
    return status, lines[-1] if lines else ""


def _names(log: Path) -> set[str]:
    return set(log.read_text(encoding="utf-8").splitlines()) if log.is_file() else set()


def _finish(
    area: Area, place: Path, folder: Path, before: dict, expected: object, found: dict[str, list[str]]
) -> None:
    log = folder / "again.log"
    log.unlink(missing_ok=True)
    status, message = _attempt(area, place, log)
    found["again"] += sorted(_names(log) & before.keys())
    if status or area.result(place) != expected:
        found["wrong"].append(message or "another end")


def disks(area: Area, folder: Path) -> tuple[int, dict[str, list[str]]]:
    """Tries and faults of one area."""
    found: dict[str, list[str]] = {"lost": [], "again": [], "wrong": [], "unclear": []}
    if run_crashes.fork(area, folder / "whole", folder / "whole.log"):
        raise RuntimeError(f"{area.name} fails on a disk with room")
    expected = area.result(folder / "whole")
    room = sum(path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file())
    tries, disk = 0, folder / "disk"
    disk.mkdir()
    for tenth in range(1, 10):
        _mount(disk, f"-t tmpfs -o size={max(room * tenth // 10, 8192)} tmpfs")
        try:
            place = disk / "run"
            status, message = _attempt(area, place, folder / "full.log")
            tries += 1
            if status and not any(word in message for word in _WORDS):
                found["unclear"].append(message)
            _mount(disk, f"-o remount,size={room * 8 + 2**22}")
            before = area.held(place)
            _finish(area, place, folder, before, expected, found)
        except Exception as error:
            found["lost"].append(f"{tenth} tenths: {type(error).__name__}: {error}")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    for step in range(3):
        _mount(disk, f"-t tmpfs -o size={room * 8 + 2**22} tmpfs")
        try:
            place = disk / "run"
            events = 20 + 15 * step
            run_crashes.fork(area, place, folder / "half.log", event=events)  # killed there
            before = area.held(place)
            _mount(disk, "-o remount,ro")
            status, message = _attempt(area, place, folder / "ro.log")
            tries += 1
            # Where all was done already there was nothing to write.
            if status and not any(word in message for word in _WORDS):
                found["unclear"].append(message)
            if not isinstance(area, Save) and area.held(place) != before:
                found["lost"].append("other contents on a read-only disk")
            _mount(disk, "-o remount,rw")
            _finish(area, place, folder, before, expected, found)
        except Exception as error:
            found["lost"].append(f"read-only, {step}: {type(error).__name__}: {error}")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return tries, found


def main() -> int:
    """Over the areas named on the command line; 1 where there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="*", default=[area.name for area in AREAS])
    options = parser.parse_args()
    if os.geteuid():
        sys.stdout.write("got a user who may not mount; expected root; run it with sudo\n")
        return 2
    run_crashes.prepare()
    bad = False
    sys.stdout.write("area       tries  losses  again  wrong  unclear\n")
    for kind in AREAS:
        if kind.name in options.areas:
            with tempfile.TemporaryDirectory(prefix="lira-disk-") as folder:
                (Path(folder) / "shared").mkdir()
                tries, found = disks(kind(Path(folder) / "shared"), Path(folder))
            counts = "  ".join(f"{len(found[name]):6}" for name in ("lost", "again", "wrong", "unclear"))
            sys.stdout.write(f"{kind.name:9} {tries:6}  {counts}\n")
            for name, lines in found.items():
                sys.stdout.writelines(f"    {name}: {line[:300]}\n" for line in lines[:4])
            sys.stdout.flush()
            bad |= any(found.values())
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
