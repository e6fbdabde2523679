"""
Runs a quickstart that is killed again and again, for test_quickstart_run.py. The libraries are imported once; every
attempt is a fork of this process, which itself computes nothing.
"""

import hashlib
import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

import torch

from lira_hf.inference import RoadFeatures
from lira_hf.quickstart import Quickstart, QuickstartSettings, build_report
from lira_hf.translation import HeuristicCritic, TranslatorUnion


def key(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def rows(file: Path, table: str, query: str) -> list[tuple]:
    """Answers of a database that a kill may have left without its tables, or without itself."""
    if not file.is_file():
        return []
    connection = sqlite3.connect(file)
    there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    found = connection.execute(query).fetchall() if there else []
    connection.close()
    return found


def held(folder: Path) -> dict[str, str]:
    """What store and caches hold: a name for each entry, and its content."""
    found = {}
    for index in folder.glob("*/*/index.sqlite"):
        entries = rows(index, "entries", "SELECT key, place, checksum FROM entries")
        cache = "/".join(index.parts[-3:-1])
        found |= {f"{cache} {k.hex()}": f"{place} {checksum}" for k, place, checksum in entries}
    asked = rows(
        folder / "candidates.sqlite",
        "asked",
        "SELECT t.language, t.key, group_concat(c.text, '|') FROM asked a JOIN texts t ON t.id = a.text_id "
        "LEFT JOIN candidates c ON c.text_id = a.text_id AND c.translator_id = a.translator_id GROUP BY 1, 2",
    )
    found |= {f"asked {language} {k.hex()}": str(texts) for language, k, texts in asked}
    scores = rows(
        folder / "candidates.sqlite",
        "scores",
        "SELECT t.language, t.key, s.candidate_key, s.semantic FROM scores s JOIN texts t ON t.id = s.text_id",
    )
    return found | {f"judged {language} {k.hex()} {c.hex()}": str(value) for language, k, c, value in scores}


def watch(log: Path) -> None:
    """Writes down everything that is computed, before it is."""

    def note(names: list[str]) -> None:
        with log.open("a") as file:
            file.writelines(f"{name}\n" for name in names)

    compute, translate, judge = RoadFeatures.compute, TranslatorUnion.translate, HeuristicCritic.judge

    def noted_compute(self, road, texts):
        if road in self.caches:
            cache = "/".join(self.caches[road].folder.parts[-2:])
            note([f"{cache} {key(text)}" for text in texts])
        return compute(self, road, texts)

    def noted_translate(self, texts, language, num_candidates):
        note([f"asked {language} {key(text)}" for text in texts])
        return translate(self, texts, language, num_candidates)

    def noted_judge(self, texts, language, candidates):
        pairs = [(t, c) for t, row in zip(texts, candidates, strict=True) for c in row]
        note([f"judged {language} {key(text)} {key(candidate)}" for text, candidate in pairs])
        return judge(self, texts, language, candidates)

    RoadFeatures.compute, TranslatorUnion.translate, HeuristicCritic.judge = (
        noted_compute,
        noted_translate,
        noted_judge,
    )


def attempt(folder: Path, settings: QuickstartSettings, log: Path, pipe: int) -> None:
    watch(log)
    run = Quickstart(folder, settings, progress=False, announce=lambda step: os.write(pipe, f"{step}\n".encode()))
    (folder / "last.json").write_text(json.dumps(build_report(run, run.run())))


def start(*arguments) -> tuple[int, int]:
    """A forked attempt: its process and the pipe that it names its steps in."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    try:
        os.dup2(2, 1)
        attempt(*arguments, write)
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    folder = Path(asked["folder"])
    lists = {name: tuple(value) for name, value in asked["settings"].items() if isinstance(value, list)}
    settings = QuickstartSettings(**asked["settings"] | lists)
    draw = random.Random(0)
    before: dict[str, str] = {}
    kept, twice, changed, kills = 0, [], [], 0
    for number, step in enumerate([*asked["steps"], None]):
        log = folder.with_name(f"computed-{number}")
        child, read = start(folder, settings, log)
        with os.fdopen(read) as pipe:
            for line in pipe:
                if step is not None and line.startswith(step):
                    time.sleep(draw.uniform(0.05, 0.8))
                    os.kill(child, signal.SIGKILL)
                    kills += 1
                    break
            _, status = os.waitpid(child, 0)
        if step is None and status:
            sys.exit(f"the last attempt ended with status {status}")
        computed = set(log.read_text().splitlines()) if log.is_file() else set()
        twice += sorted(computed & before.keys())
        after = held(folder)
        changed += [name for name, value in before.items() if after.get(name) != value]
        kept += len(before)
        before = after
    report = json.loads((folder / "last.json").read_text())
    found = {"kills": kills, "twice": twice[:5], "changed": changed[:5], "kept": kept, "report": report}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
