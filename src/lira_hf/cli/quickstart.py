"""`lira quickstart`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from lira_hf.evaluation import METRICS
from lira_hf.quickstart import Quickstart, QuickstartSettings, build_report, plot_report, report_table, write_card


__all__ = ["run_quickstart"]


def run_quickstart(
    corpus: str, folder: Path, seeds: int, data_limit: int | None, progress: bool, console: Console
) -> None:
    """Runs every step, prints the table, and searches with the checkpoint in a fresh process."""
    started = time.perf_counter()
    if "OMP_NUM_THREADS" not in os.environ:
        # Two threads on two cores that anything else uses too were measured to be slower than one.
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    settings = QuickstartSettings(corpus=corpus, seeds=tuple(range(seeds)), data_limit=data_limit)

    def announce(step: str) -> None:
        console.print(f"[dim]{time.perf_counter() - started:6.0f} s[/dim]  {step}", highlight=False)

    run = Quickstart(folder, settings, progress=progress and console.is_terminal, announce=announce)
    results = run.run()
    report = build_report(run, results)
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    plot_report(report, folder / "report.png")
    write_card(run, report, run.model_folder)
    announce("searching with the saved checkpoint, in a fresh process")
    _search(run, console)
    for metric in reversed(METRICS):  # nDCG@10, the one that decides, last
        console.print(report_table(report, metric))
    console.print(f"\nCheckpoint: {run.model_folder}   Report: {folder}/report.json, report.png", markup=False)
    console.print(f"{time.perf_counter() - started:.0f} s in all")


def _search(run: Quickstart, console: Console) -> None:
    """One query of the test side per language, through `lira search`."""
    queries: dict[str, str] = {}
    for query in run.split("test").queries.values():
        if len(query.text) > 8:
            queries.setdefault(query.language, query.text)
    translators = run.folder / "translators"
    command = [sys.executable, "-m", "lira_hf.cli", "search", str(run.model_folder), str(run.folder / "data")]
    command += ["--translator", str(translators / "translator"), "--critic", str(translators / "critic")]
    command += ["--features", str(run.folder / "features"), "--candidates", str(run.settings.num_candidates)]
    for language, text in queries.items():
        command += ["--query", f"{language}:{text}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the saved checkpoint could not be searched with in a fresh process: {done.stderr[-800:]}")
    console.print(done.stdout, highlight=False, markup=False)
