"""The benchmark of reasoning through a base LM: `python examples/number_words/reasoning.py`, or `make reasoning`.

Trains an English-only base LM and a multilingual encoder, once, then LiRA, its ablations and what it is compared with,
and prints and writes the table of exact match on held-out problems.
"""

import os


if __name__ == "__main__":  # before torch is there; a process each is what several cores are used by
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import hashlib
import json
import logging
import multiprocessing
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers
from transformers import AutoTokenizer, LlamaForCausalLM

from lira_hf import LiraModel, LiraProcessor
from lira_hf.evaluation import RetrievalScores, paired_difference
from lira_hf.inference import RoadFeatures
from number_words.base_models import BaseSettings, EncoderSettings, cache_folder, cached
from number_words.reasoning_data import DataSettings, Item, read_items, write_data
from number_words.reasoning_systems import (
    CONTROLS,
    SYSTEMS,
    HeadSettings,
    Places,
    controls,
    run_system,
    train_arca,
)
from number_words.scoring import mean_by_language


__all__ = ["Settings", "main", "run"]

OURS = "LiRA"
# What there is time for within a quarter of an hour; the other systems by name.
SHOWN = (
    OURS,
    "g only",
    "h only",
    "LiRA, asked without critic scores",
    "LiRA, trained without critic scores",
    "LiRA, without embedding critic",
    "LiRA, asked without gate",
    "MindMerger-style",
)


@dataclass(frozen=True)
class Settings:
    """Everything that the table depends on, but the seeds of LiRA's training."""

    base: BaseSettings = field(default_factory=BaseSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    data: DataSettings = field(default_factory=DataSettings)
    heads: HeadSettings = field(default_factory=HeadSettings)


def run(
    settings: Settings, output: Path, seeds: Sequence[int] = (0, 1), processes: int = 2, systems: Sequence[str] = ()
) -> dict[str, Any]:
    """
    Runs the benchmark.

    Args:
        settings ([`Settings`]): of the models, the data and the training.
        output (`Path`): a folder; the base models and the data are kept there between runs.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1)`): of the training of LiRA's heads.
        processes (`int`, *optional*, defaults to 2): at once, with one thread each; 0: all in this one.
        systems (`Sequence[str]`, *optional*): of [`SYSTEMS`]; by default those of [`SHOWN`].

    Returns:
        `dict`: what `reasoning.json` holds.
    """
    started = time.time()
    output.mkdir(parents=True, exist_ok=True)
    chosen = list(systems or SHOWN)
    with _pool(processes) as pool:
        # The base LM takes longest, and nothing of stage 1 waits for it.
        made = pool.submit(cached, settings.base, output)
        data = pool.submit(write_data, settings.data, output)
        base, encoder = cache_folder(settings.base, output), pool.submit(cached, settings.encoder, output).result()
        told = json.dumps([asdict(settings), base.name, encoder.name], sort_keys=True)
        runs = output / f"runs-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        places = Places(base, encoder, data.result(), output / "features", runs)
        pool.submit(_fill_features, places, settings.heads).result()
        first = [pool.submit(_train_arca, seed, chosen, places, settings.heads) for seed in seeds]
        for one in (*first, made):
            one.result()
        prepared = time.time() - started
        asked = pool.submit(_controls, places)
        trained = [(seed, pool.submit(_run_seed, seed, chosen, places, settings.heads)) for seed in seeds]
        found = {str(seed): one.result() for seed, one in trained}
        control = asked.result()
    report = _report(places, control, found)
    report |= {
        "seconds": {"models and data": round(prepared, 1), "all": round(time.time() - started, 1)},
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "processes": processes},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "date": date.today().isoformat(),
        "seeds": list(seeds),
        "settings": asdict(settings),
    }
    (output / "reasoning.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    (output / "reasoning.md").write_text(_table(report), encoding="utf-8")
    return report


class _Here(Executor):
    """No process of its own."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        done: Future = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def _pool(processes: int) -> Executor:
    if not processes:
        return _Here()
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_quiet)


def _quiet() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("lira_hf").setLevel(logging.ERROR)


def _fill_features(places: Places, heads: HeadSettings) -> None:
    """The encoder reads everything once, before several processes want it."""
    languages = list(dict.fromkeys(item.language for item in read_items(places.data, "train")))
    model = LiraModel.from_backbones(str(places.encoder), languages=languages, **heads.config)
    processor = LiraProcessor.from_backbones(str(places.encoder), config=model.config)
    features = RoadFeatures(model, processor, places.features)
    for split in ("train", "dev", "test"):
        items = read_items(places.data, split)
        features.fill("source", [item.text for item in items])
        features.fill("anchor", [text for item in items for text in [item.reference, *item.drafts]])


def _controls(places: Places) -> dict[str, dict[str, list[bool]]]:
    model = LlamaForCausalLM.from_pretrained(places.base).eval()
    tokenizer = AutoTokenizer.from_pretrained(places.base)
    return {split: controls(model, tokenizer, read_items(places.data, split)) for split in ("dev", "test")}


def _train_arca(seed: int, systems: Sequence[str], places: Places, heads: HeadSettings) -> None:
    for name in systems:
        train_arca(name, seed, places, heads)


def _run_seed(seed: int, systems: Sequence[str], places: Places, heads: HeadSettings) -> dict[str, dict[str, Any]]:
    asked = {split: read_items(places.data, split) for split in ("dev", "test")}
    return {name: run_system(name, seed, places, heads, asked) for name in systems}


def _report(places: Places, control: dict[str, Any], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures of every system on dev and test, and on test LiRA's minus theirs."""
    report: dict[str, Any] = {}
    for split in ("dev", "test"):
        items = read_items(places.data, split)
        right: dict[str, list[list[bool]]] = {name: [control[split][name]] for name in CONTROLS}
        for name in next(iter(found.values())):
            right[name] = [run[name][split] for run in found.values()]
        report[split] = {name: _figures(items, rows) for name, rows in right.items()}
        if split == "test" and OURS in right:
            for name in [name for name in right if name != OURS]:
                report[split][name]["LiRA minus this"] = _differences(items, right[OURS], right[name])
    report["gates"] = {seed: {name: one["gates"] for name, one in run.items()} for seed, run in found.items()}
    report["cpu_seconds"] = {seed: {name: one["seconds"] for name, one in run.items()} for seed, run in found.items()}
    return report


def _figures(items: Sequence[Item], rows: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Exact match by language and their mean, averaged over the seeds; the mean of each seed too."""
    every = [mean_by_language([item.language for item in items], row) for row in rows]
    averaged = {name: round(sum(one[name] for one in every) / len(every), 4) for name in every[0]}
    return {**averaged, "seeds": [round(one["mean"], 4) for one in every]}


def _differences(
    items: Sequence[Item], ours: Sequence[Sequence[bool]], theirs: Sequence[Sequence[bool]]
) -> dict[str, list[float]]:
    """Mean and each language: difference and the bounds of its 95 % paired-bootstrap interval over problems."""
    pair = [[_scores(items, row) for row in rows] for rows in (ours, theirs)]
    asked: dict[str, str | None] = {"mean": None} | {tag: tag for tag in dict.fromkeys(i.language for i in items)}
    return {
        name: [round(value, 4) for value in paired_difference(*pair, "exact match", language=tag)]
        for name, tag in asked.items()
    }


def _scores(items: Sequence[Item], row: Sequence[bool]) -> RetrievalScores:
    return RetrievalScores(
        [f"{item.language}-{item.cluster}" for item in items],
        [item.language for item in items],
        [item.cluster for item in items],
        {"exact match": torch.tensor(row, dtype=torch.float64).numpy()},
    )


def _table(report: dict[str, Any]) -> str:
    """The table of test, as Markdown."""
    figures = report["test"]
    tags = [name for name in next(iter(figures.values())) if name not in ("mean", "seeds", "LiRA minus this")]
    lines = [
        f"| exact match, test | {' | '.join(tags)} | mean | by seed | LiRA minus this (95 %) |",
        f"|---|{'---|' * (len(tags) + 3)}",
    ]
    for name, row in figures.items():
        gain = row.get("LiRA minus this")
        shown = "" if not gain else "{:+.3f} ({:+.3f} to {:+.3f})".format(*gain["mean"])
        seeds = " ".join(_short(value) for value in row["seeds"]) if len(row["seeds"]) > 1 else ""
        cells = [_short(row[tag]) for tag in [*tags, "mean"]]
        lines.append(f"| {name} | {' | '.join(cells)} | {seeds} | {shown} |")
    return "\n".join(lines) + "\n"


def _short(share: float) -> str:
    return f"{share:.3f}".removeprefix("0") if share < 1 else "1.00"


def main(
    arguments: Sequence[str] | None = None,
    write: Callable[[str], Any] = sys.stdout.write,
    settings: Settings | None = None,
) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/number-words"), help="folder of models and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the training of LiRA's heads")
    parser.add_argument("--processes", type=int, default=2, help="at once, with one thread each")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), help=f"these rather than {', '.join(SHOWN)}")
    told = parser.parse_args(arguments)
    report = run(settings or Settings(), told.output, told.seeds, told.processes, told.systems or ())
    write(_table(report))
    write(f"{report['seconds']['all']:.0f} seconds; written to {told.output / 'reasoning.json'}\n")


if __name__ == "__main__":
    _quiet()
    main()
