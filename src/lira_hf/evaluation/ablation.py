"""What each part of LiRA is worth (paper: ablations): the full model, ablations and controls, over seeds."""

import importlib.metadata
import json
import logging
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from lira_hf.data.files import write_json
from lira_hf.inference import LiraEmbedder, RoadFeatures
from lira_hf.training import ModelArguments, read_recipe

from .ablation_controls import SplitRoads, choose_controls, control_scores, write_fixed_store
from .ablation_jobs import Plan, data_facts, make_embedder, run_start, run_variant
from .ablation_tasks import Scores, Split, dump_scores, load_scores
from .ablation_variants import FULL, TASKS, Variant, make_variants


__all__ = ["Ablation", "AblationResults", "read_stages"]

_PACKAGES = ("lira-hf", "torch", "transformers", "numpy", "scipy", "faiss-cpu")
Announce = Callable[[str], None]


@dataclass
class AblationResults:
    """
    What the report is made of.

    Args:
        task (`str`): `"retrieval"` or `"ranking"`.
        split ([`Split`]): The test split.
        systems (`dict[str, list]`): By name scores on test, in the table's order; one entry per seed.
        dev (`dict[str, list[float]]`): The main metric on dev of the trained rows, by seed.
        chosen (`dict`): What was chosen on dev.
        variants (`list[Variant]`): The trained rows.
        missing (`dict[str, str]`): Rows that these recipes can't have, with the reason.
        facts (`dict`): Seeds, sizes of the data, versions, the machine.
        seconds (`dict[str, float]`): Of each row's training, the mean of its seeds, and of this call.
    """

    task: str
    split: Split
    systems: dict[str, list[Scores]]
    dev: dict[str, list[float]]
    chosen: dict[str, Any]
    variants: list[Variant]
    missing: dict[str, str]
    facts: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)


def read_stages(arca: str | os.PathLike, lasr: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The recipes of both stages.

    Args:
        arca, lasr (`str` or `os.PathLike`): YAML files, as `lira train` takes them.

    Returns:
        `tuple[dict, dict]`: What they hold.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: For what is wrong in them, or doesn't go together.
    """
    for path in (arca, lasr):
        read_recipe(path)  # says what is wrong with it
    first, second = (yaml.safe_load(Path(path).read_text(encoding="utf-8")) for path in (arca, lasr))
    check_stages(first, second)
    return first, second


def check_stages(arca: dict[str, Any], lasr: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: For recipes that are not of the two stages of one run, or of a task that isn't measured here.
    """
    for recipe, stage in ((arca, "arca"), (lasr, "lasr")):
        task, found = recipe.get("task", "retrieval"), recipe.get("stage", "lasr")
        if found != stage:
            raise ValueError(
                f"got a recipe of stage {found!r}; expected one of stage {stage!r} here; name the recipe of stage 1 "
                "(arca) first, then that of stage 2 (lasr)"
            )
        if recipe.get("tasks") or task not in TASKS:
            got = "several tasks" if recipe.get("tasks") else f"the task {task!r}"
            raise ValueError(
                f"got {got} in the recipe of stage {stage!r}; expected one of {tuple(TASKS)}, whose parts can be "
                "measured by one figure; give the recipes one such task"
            )
    names = ("data", "store", "task", "critic", "num_candidates", "dev_split")
    if other := [name for name in names if arca.get(name) != lasr.get(name)]:
        got = ", ".join(f"{name}: {arca.get(name)!r} and {lasr.get(name)!r}" for name in other)
        raise ValueError(f"the two recipes differ in {got}; expected both stages of one run; make them alike")
    if lasr.get("dev_split", "dev") == "":
        raise ValueError("dev_split is ''; expected a dev split, since nothing may be chosen on test; name one")


class Ablation:
    """
    An ablation in one folder. Calling [`~Ablation.run`] again after a kill goes on where it was; more seeds may be
    asked for later.

    Args:
        arca, lasr (`dict`): The full model's recipes; stage 2 goes on from stage 1.
        output (`Path`): The folder: a sub-folder per seed and trained row, the chosen settings, the report.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`): Of the training.
        test_split (`str`, *optional*, defaults to `"test"`): The split that is reported.
        queue_size (`int`, *optional*, defaults to 1024): Of the queue in the row that has one, where the recipes
            have none.
        tune_path_weight (`bool`, *optional*, defaults to `True`): Choose g's share on dev for each trained row; else
            it is the recipes'.
        only (`Sequence[str]`, *optional*): Names of the trained rows that are wanted besides the full model.
        workers (`int`, *optional*): Processes that train at once; by default one with an accelerator, else one a core,
            up to 4.
        train_features (`Callable`, *optional*): Makes the features of the training rows, where they are not the
            model's own; it has to be picklable.
        announce (`Callable`, *optional*): Told what has been done.
        progress (`bool`, *optional*, defaults to `False`): Show a progress bar while the backbones read the texts.

    Raises:
        ValueError: For recipes that don't go together, or a name that is no row's.
        FileNotFoundError: For data that isn't there.
    """

    def __init__(
        self,
        arca: dict[str, Any],
        lasr: dict[str, Any],
        output: Path,
        seeds: Sequence[int] = (0, 1, 2),
        *,
        test_split: str = "test",
        queue_size: int = 1024,
        tune_path_weight: bool = True,
        only: Sequence[str] | None = None,
        workers: int | None = None,
        train_features: Callable[[], RoadFeatures] | None = None,
        announce: Announce | None = None,
        progress: bool = False,
    ):
        check_stages(arca, lasr)
        self.seeds, self.progress = tuple(seeds), progress
        self.announce = announce or (lambda message: None)
        self.workers = _workers() if workers is None else workers
        self.variants, self.missing = make_variants(lasr, queue_size)
        if only is not None:
            known = [variant.name for variant in self.variants[1:]]
            if unknown := [name for name in only if name not in known]:
                raise ValueError(f"got {unknown} as rows; expected some of {known}; correct or remove them")
            self.variants = [one for one in self.variants if one.name in (FULL, *only)]
        features = lasr.get("features") or arca.get("features") or str(output / "features")
        arca, lasr = {**arca, "features": features}, {**lasr, "features": features}
        facts = data_facts(lasr)
        self.plan = Plan(arca, lasr, Path(output), test_split, tune_path_weight, facts, train_features)

    def run(self) -> AblationResults:
        """Everything, to the scores on test."""
        started = time.perf_counter()
        plan = self.plan
        embedder = make_embedder(plan.lasr, self._backbones())
        embedder.features.progress = self.progress
        splits = self._splits(embedder)
        self._fill(embedder, splits)
        chosen = self._choose(embedder, splits["dev"])
        if any(variant.fixed for variant in self.variants):
            write_fixed_store(embedder, list(splits.values()), chosen["kind"], plan.fixed_store)
        owners = [variant for variant in self.variants if variant.start == "own"]
        with self._pool() as pool:
            self._jobs(pool, run_start, owners, "stage 1")
            self._jobs(pool, run_variant, self.variants, "stage 2 and scores")
        controls = self._controls(embedder, splits["test"], chosen)
        results = self._collect(splits, chosen, controls)
        results.seconds["this call"] = round(time.perf_counter() - started, 1)
        return results

    def _backbones(self) -> ModelArguments:
        names = {
            name: self.plan.arca[name]
            for name in ("model", "encoder", "anchor", "max_length", "config")
            if self.plan.arca.get(name) is not None
        }
        return ModelArguments(**names)

    def _splits(self, embedder: LiraEmbedder) -> dict[str, Split]:
        lasr, own = self.plan.lasr, embedder.processor.anchor_languages
        names = {"train": lasr.get("train_split", "train"), "dev": lasr.get("dev_split", "dev")}
        names["test"] = self.plan.test_split
        if len(set(names.values())) < 3:
            raise ValueError(
                f"got the splits {list(names.values())} to train on, to choose on and to report; expected three "
                "different ones; nothing may be chosen or learned on what is reported"
            )
        return {side: self.plan.split(name, own) for side, name in names.items()}

    def _fill(self, embedder: LiraEmbedder, splits: dict[str, Split]) -> None:
        """Both backbones read every text once, here: the trained rows find all of it in the cache."""
        source: list[str] = []
        anchor: list[str] = []
        for name, split in splits.items():
            for side in split.sides():
                found, _, _ = embedder.find_candidates(side.texts, side.languages)
                anchor += [text for row in found for text in row]
                if side.role == "document":
                    anchor += side.texts  # what the actor learns from in stage 1
                if name != "train" or self.plan.train_features is None:
                    source += embedder.processor.add_prompt(side.texts, side.role)
        counted = {"source": list(dict.fromkeys(source)), "anchor": list(dict.fromkeys(anchor))}
        self.announce(f"features of {len(counted['source']):,} texts and {len(counted['anchor']):,} English ones")
        for road, texts in counted.items():
            embedder.features.fill(road, texts)

    def _choose(self, embedder: LiraEmbedder, dev: Split) -> dict[str, Any]:
        """The controls' settings, chosen once."""
        if embedder.candidates is None:
            return {}
        path = self.plan.output / "choices.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if known is None or known["facts"] != json.loads(json.dumps(self.plan.facts)):
            known = choose_controls(SplitRoads(embedder, dev)) | {"facts": self.plan.facts}
            self.plan.fixed_store.unlink(missing_ok=True)  # it is of this choice
            write_json(path, known)
            self.announce("settings of the controls, chosen on dev")
        return {name: value for name, value in known.items() if name != "facts"}

    def _controls(self, embedder: LiraEmbedder, test: Split, chosen: dict[str, Any]) -> dict[str, Scores]:
        path = self.plan.output / "controls.json"
        key = json.loads(json.dumps({"chosen": chosen, "facts": self.plan.facts, "split": self.plan.test_split}))
        if path.is_file():
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["key"] == key:
                return {name: load_scores(one) for name, one in known["scores"].items()}
        found = control_scores(SplitRoads(embedder, test), chosen or None)
        write_json(path, {"key": key, "scores": {name: dump_scores(one) for name, one in found.items()}})
        self.announce("controls, on test")
        return found

    def _pool(self) -> AbstractContextManager[ProcessPoolExecutor | None]:
        """The processes that train; `None` for this one."""
        if self.workers == 1:
            return nullcontext()
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.workers, context, _prepare_worker, (threads,))

    def _jobs(
        self,
        pool: ProcessPoolExecutor | None,
        work: Callable[[Plan, Variant, int], None],
        variants: list[Variant],
        what: str,
    ) -> None:
        """Work for each row and seed, in this process or in several."""
        jobs = [(variant, seed) for seed in self.seeds for variant in variants]
        told = f"{what} of {{}}, seed {{}} ({{}} of {len(jobs)})"
        if pool is None:
            for number, (variant, seed) in enumerate(jobs, 1):
                work(self.plan, variant, seed)
                self.announce(told.format(variant.name, seed, number))
            return
        futures = {pool.submit(work, self.plan, *job): job for job in jobs}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                future.result()
                variant, seed = futures[future]
                self.announce(told.format(variant.name, seed, number))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

    def _collect(
        self, splits: dict[str, Split], chosen: dict[str, Any], controls: dict[str, Scores]
    ) -> AblationResults:
        systems: dict[str, list[Scores]] = {}
        dev: dict[str, list[float]] = {}
        weights: dict[str, list[float]] = {}
        seconds: dict[str, list[float]] = {}
        for variant in self.variants:
            for seed in self.seeds:
                folder = self.plan.folder(seed) / variant.slug
                found = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
                for name, scores in found["scores"].items():
                    systems.setdefault(name, []).append(load_scores(scores))
                dev.setdefault(variant.name, []).append(found["dev"])
                weights.setdefault(variant.name, []).append(found["path_weight"])
                spent = [json.loads(path.read_text()) for path in folder.glob("*.seconds.json")]
                seconds.setdefault(variant.name, []).append(sum(spent))
        systems |= {name: [scores] for name, scores in controls.items()}
        return AblationResults(
            task=self.plan.lasr.get("task", "retrieval"),
            split=splits["test"],
            systems=systems,
            dev=dev,
            chosen=chosen | {"path weights": weights},
            variants=self.variants,
            missing=self.missing,
            facts=self._facts(splits),
            seconds={name: round(sum(each) / len(each), 1) for name, each in seconds.items()},
        )

    def _facts(self, splits: dict[str, Split]) -> dict[str, Any]:
        arca, lasr = self.plan.arca, self.plan.lasr
        return {
            "seeds": list(self.seeds),
            "recipes": {"arca": arca, "lasr": lasr},
            "data": {name: split.facts() for name, split in splits.items()},
            "digest": self.plan.facts,
            "workers": self.workers,
            "machine": {"cores": os.cpu_count(), "system": platform.platform(), "gpu": torch.cuda.is_available()},
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
            | {"python": platform.python_version()},
        }


def _workers() -> int:
    return 1 if torch.cuda.is_available() else max(1, min(4, os.cpu_count() or 1))


def _prepare_worker(threads: int) -> None:
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(threads)
