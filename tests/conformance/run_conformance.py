"""Runs transformers' own test mixins over LiRA's classes, and says what passed, failed and was skipped, and why.

python tests/conformance/run_conformance.py [--cache runs/cache] [--report runs/conformance.json] [-- pytest options]
"""

import argparse
import collections
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import stand_ins
import torch
import transformers
from sdist import unpack_tests
from skip_reasons import KINDS, whose

import lira_hf


HERE = Path(__file__).resolve().parent


def run_tests(tree: Path, options: list[str]) -> tuple[list[dict[str, Any]], int, str]:
    """Runs pytest over every `check_*.py` here. Returns its reports, its exit status and the end of its output."""
    with tempfile.TemporaryDirectory(prefix="lira-conformance-") as folder:
        report = Path(folder) / "report.jsonl"
        report.touch()
        command = [sys.executable, "-m", "pytest", "-p", "conformance_plugin", "-p", "no:cacheprovider", "-q"]
        # The settings are the library's own; the tests, and the only conftest.py looked for, are ours.
        command += ["-c", str(tree / "pyproject.toml"), "--rootdir", str(tree), "--confcutdir", str(HERE)]
        command += ["-o", "python_files=check_*.py", "-o", "log_cli=0", "-W", "ignore", "-rN", "--tb=native"]
        command += [*options, str(HERE)]
        done = subprocess.run(
            command, cwd=tree, env=_environment(tree, folder, report), capture_output=True, text=True, check=False
        )
        lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    return lines, done.returncode, (done.stdout + done.stderr)[-200_000:]


def _environment(tree: Path, folder: str, report: Path) -> dict[str, str]:
    """No network, one thread, slow tests too; `tests` is the library's, as the repository is not on the path."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tree), str(HERE)]),
        "LIRA_CONFORMANCE_REPORT": str(report),
        "LIRA_CONFORMANCE_TREE": str(tree),
        "TRANSFORMERS_TINY_MODEL_PATH": str(Path(folder) / "tiny"),
        "HF_HOME": str(Path(folder) / "home"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "warning",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "RUN_SLOW": "1",
    }


def summarise(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Outcome and reason of each test; one of sub-tests fails with any of them, and is skipped if none ran."""
    tests: dict[str, dict[str, Any]] = {}
    for line in lines:
        tests.setdefault(line["test"], {"lines": []})["lines"].append(line)
    for test in tests.values():
        by = collections.defaultdict(list)
        for line in test.pop("lines"):
            by[line["outcome"]].append(line)
        ran = [line for line in by["passed"] if line["subtest"]]
        skipped = [line for line in by["skipped"] if not line["subtest"]] or ([] if ran else by["skipped"])
        reasons = by["failed"] or skipped
        test["outcome"] = "failed" if by["failed"] else "skipped" if skipped else "passed"
        test["reason"] = reasons[0]["reason"] if reasons else ""
    return tests


def build_report(tests: dict[str, dict[str, Any]], tree: Path, seconds: float) -> dict[str, Any]:
    """What is written to the report."""
    classes: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    failures, skips = [], collections.defaultdict(list)
    for name, test in sorted(tests.items()):
        _, owner, method = name.split("::", 2)
        classes[owner][test["outcome"]] += 1
        if test["outcome"] == "failed":
            failures.append({"class": owner, "test": method, "reason": test["reason"]})
        elif test["outcome"] == "skipped":
            skips[_general(test["reason"])].append(f"{owner}.{method}")
    counts = {kind: sum(counter[kind] for counter in classes.values()) for kind in ("passed", "failed", "skipped")}
    versions = {"lira_hf": lira_hf.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    groups = [{"whose": whose(reason), "reason": reason, "tests": names} for reason, names in skips.items()]
    groups.sort(key=lambda group: (list(KINDS).index(group["whose"]), -len(group["tests"])))
    return {
        "versions": versions | {"python": platform.python_version()},
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "seconds": round(seconds, 1),
        "counts": counts,
        "skips_by": {kind: sum(len(g["tests"]) for g in groups if g["whose"] == kind) for kind in KINDS},
        "classes": {name: dict(counter) for name, counter in sorted(classes.items())},
        "failures": failures,
        "skips": groups,
        "not_obtainable": stand_ins.missing(tree),
    }


def _general(reason: str) -> str:
    """A reason without the name of the test and the class, so that the same reasons come together."""
    reason = re.sub(r"^\w+::test_pipeline_\w+ is skipped: ", "", reason)
    reason = re.sub(r" for `\w+PipelineTest`", "", reason)
    reason = re.sub(r"`[a-z0-9-]+` (is not in `self.pipeline_model_mapping`)", r"the task \1", reason)
    reason = re.sub(r"<class '[\w.]+'>", "the class", reason)
    return re.sub(r"\bLira\w+( class)?(?= (has|does))", "the class", reason)


def show(report: dict[str, Any], root: Path) -> None:
    """Prints the report."""
    write, counts = sys.stdout.write, report["counts"]
    write(f"\n{'class':32} {'passed':>7} {'failed':>7} {'skipped':>8}\n")
    for name, counter in report["classes"].items():
        numbers = [counter.get(kind, 0) for kind in ("passed", "failed", "skipped")]
        write(f"{name:32} {numbers[0]:7} {numbers[1]:7} {numbers[2]:8}\n")
    for kind, meaning in KINDS.items():
        groups = [group for group in report["skips"] if group["whose"] == kind]
        if groups:
            write(f"\nskipped, {report['skips_by'][kind]}: {meaning}\n")
        for group in groups:
            write(f"  {len(group['tests']):4}  {group['reason'][:160]}\n")
    write("\nnot obtainable from the source distribution:\n")
    for name, note in report["not_obtainable"].items():
        write(f"  {name}: {note}\n")
    if report["failures"]:
        write("\nfailed:\n")
    for failure in report["failures"]:
        write(f"  {failure['class']}.{failure['test']}: {failure['reason'][:200]}\n")
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    write(f"\n{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped ")
    write(f"in {report['seconds']:.0f} s; {versions}\nwritten: {root}\n")


def main() -> int:
    """Fetches, runs, reports; 1 where anything failed, 2 where the tests could not be run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where the source distribution stays")
    parser.add_argument("--report", type=Path, default=Path("runs/conformance.json"), help="where the report goes")
    parser.add_argument("options", nargs="*", help="for pytest, behind --")
    given = parser.parse_args()
    start = time.monotonic()
    try:
        tree = unpack_tests(transformers.__version__, given.cache.resolve())
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    lines, status, output = run_tests(tree, given.options)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.with_suffix(".log").write_text(output, encoding="utf-8")
    if status not in (0, 1) or not lines:
        sys.stderr.write(f"pytest ended with {status}:\n{output[-4000:]}\n")
        return 2
    report = build_report(summarise(lines), tree, time.monotonic() - start)
    given.report.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    show(report, given.report)
    return 1 if report["counts"]["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
