"""What `import lira_hf` costs beside transformers' same classes, and `from_pretrained` beside the bare backbones'.

Every import is a new process, and its CPU time is counted, files in the page cache. "Transformers' same classes" are
whatever the loaded modules of lira_hf import of transformers, read from their source, and nothing else.
`LiraModel.from_pretrained` is held against `AutoModel.from_pretrained` of g and of h, in one process.
Writes benchmarks/results/import.json.
"""

import ast
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch  # noqa: E402
import transformers  # noqa: E402
from paired import milliseconds, options, parse, random_encoder, ratio, take_turns, write  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from transformers import AutoModel  # noqa: E402

from lira_hf import LiraModel  # noqa: E402


TARGET = 1.15
_TIMED = "import json, sys, time\nstart = time.process_time()\n{}\ntook = time.process_time() - start\n"
_TOLD = "names = sorted({name.split('.')[0] for name in sys.modules})\nprint(json.dumps([took, names, %s]))"
_FILES = "[m.__file__ for n, m in sys.modules.items() if n.startswith('lira_hf') and getattr(m, '__file__', None)]"
console = Console(width=118)


def run(statements: str) -> tuple[float, list[str], list[str]]:
    """CPU seconds of statements in a process of their own, the packages there are then, and files of lira_hf."""
    code = _TIMED.format(statements) + _TOLD % _FILES
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def same_classes(files: list[str]) -> str:
    """The import statements on transformers at the top of files of lira_hf."""
    found = set()
    for file in files:
        for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("transformers"):
                found.update(f"from {node.module} import {alias.name}" for alias in node.names)
    return "\n".join(sorted(found))


def imports(rounds: int) -> dict[str, Any]:
    """Both imports, by turns."""
    _, packages, files = run("import lira_hf")
    same = same_classes(files)
    taken: dict[str, list[float]] = {"lira_hf": [], "transformers": []}
    there: list[str] = []
    for number in range(rounds):
        for name in list(taken)[:: -1 if number % 2 else 1]:
            seconds, names, _ = run("import lira_hf" if name == "lira_hf" else same)
            taken[name].append(seconds)
            there = names if name == "transformers" else there
    relative = ratio(taken, "lira_hf", "transformers")
    return {
        **milliseconds(taken),
        "relative": relative,
        "classes": len(same.splitlines()),
        "packages_beyond": sorted(set(packages) - set(there) - {"lira_hf"}),
        "met": relative <= TARGET,
    }


def loading(rounds: int) -> dict[str, Any]:
    """A checkpoint of two encoders against the two by themselves."""
    with tempfile.TemporaryDirectory() as folder:
        parts = {"g": random_encoder(12, 384, 12), "h": random_encoder(6, 384, 6)}
        for name, part in parts.items():
            part.save_pretrained(Path(folder) / name)
        LiraModel.from_backbones(*parts.values()).save_pretrained(Path(folder) / "lira")
        ways = {
            "lira": lambda: LiraModel.from_pretrained(f"{folder}/lira"),
            "bare": lambda: [AutoModel.from_pretrained(f"{folder}/{name}", add_pooling_layer=False) for name in parts],
        }
        taken = take_turns(ways, rounds, time.process_time)
    return {**milliseconds(taken), "relative": ratio(taken, "lira", "bare")}


def main() -> None:
    arguments = parse(options("import", __doc__))
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    results = {"import": imports(arguments.rounds), "from_pretrained": loading(arguments.rounds)}
    write(arguments.output, {"import": TARGET}, results, rounds=arguments.rounds, threads=1)
    table = Table("", "lira_hf ms", "transformers ms", "relative", "met")
    one, other = results["import"], results["from_pretrained"]
    figures = (one["lira_hf_ms"], one["transformers_ms"])
    table.add_row("import", *(f"{value:.0f}" for value in figures), f"{one['relative']:.3f}", str(one["met"]))
    figures = (other["lira_ms"], other["bare_ms"])
    table.add_row("from_pretrained", *(f"{value:.0f}" for value in figures), f"{other['relative']:.3f}", "")
    console.print(table)
    console.print(f"packages beyond transformers' own: {', '.join(one['packages_beyond']) or 'none'}")
    console.print(f"written: {arguments.output}")
    if not one["met"]:
        console.print(f"missed: import at most {TARGET} of transformers' same classes")


if __name__ == "__main__":
    main()
