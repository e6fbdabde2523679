"""What `lira robustness` does."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lira_hf.data import normalize_language, read_parallel
from lira_hf.evaluation.robustness import (
    NOISES,
    NoiseCurves,
    TextNoise,
    check_folder,
    fill_clean,
    kept,
    word_lexicon,
)
from lira_hf.evaluation.robustness_few_shot import FewShotCurve
from lira_hf.evaluation.robustness_report import curve_title, curves, few_shot_tag, write_robustness_report
from lira_hf.evaluation.robustness_systems import OURS, ROBUSTNESS_SYSTEMS, RobustnessSystems
from lira_hf.evaluation.robustness_tasks import choose_controls, has_split, read_task
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures, stored_critic
from lira_hf.translation import CandidateStore, Critic, HeuristicCritic, Identity, Lexicon, load_translator

from .checkpoint import load_checkpoint


__all__ = ["RobustnessOptions", "run_robustness"]


@dataclass(frozen=True)
class RobustnessOptions:
    """What `lira robustness` was asked for, as its options have it."""

    models: list[str]
    data: Path
    output: Path
    split: str = "test"
    dev_split: str = "dev"
    store: Path | None = None
    critic: str | None = None
    translator: Path | None = None
    features: Path | None = None
    num_candidates: int = 5
    noise: str = ",".join(NOISES)
    rates: str = "0,0.1,0.2,0.4"
    translations: str = "kept"
    pairs: Path | None = None
    noise_seed: int = 0
    resamples: int = 2000
    recipes: tuple[Path, Path] | None = None
    few_shot: str = "0,10,30,100,300,all"
    language: str | None = None
    train_seeds: str | None = None


def run_robustness(options: RobustnessOptions, console: Console) -> None:
    """Measures what the folder lacks, writes the report and prints the means."""
    noises = [name for name in parse_list(options.noise, "--noise") if name != "none"]
    if unknown := [name for name in noises if name not in NOISES]:
        raise ValueError(f"got --noise {unknown[0]}; expected some of {', '.join(NOISES)}, or none; correct it")
    rates = parse_numbers(options.rates, "--rates", float)
    rows = parse_rows(options.few_shot)
    seeds = None if options.train_seeds is None else parse_numbers(options.train_seeds, "--train-seeds", int)
    if (options.recipes is None) != (options.language is None):
        raise ValueError(
            "got one of --recipe and --language; expected both for few-shot curves: whose rows are few, and the "
            "recipes of both stages; add the other"
        )
    modes = ["kept", "again"] if options.translations == "both" else [options.translations]

    started = time.perf_counter()

    def announce(step: str) -> None:
        console.print(f"[dim]{time.perf_counter() - started:6.0f} s[/dim]  {step}", highlight=False)

    announce("clean texts, documents and controls")
    run = _Run(options, console)
    found: dict[str, Any] = {"metric": run.task.metrics[0], "noise": [], "few_shot": []}
    if noises:
        found["noise"] = run.curves(announce).run(noises, rates, modes)
    if options.recipes is not None and options.language is not None:
        language = normalize_language(options.language)
        curve = FewShotCurve(
            options.output / "few-shot",
            run.task,
            options.recipes,
            language,
            run.source,
            run.cache,
            run.controls,
            seeds,
            announce=announce,
        )
        found["few_shot"] = curve.run(rows)
    found["setting"] = run.setting(found["few_shot"])
    written = write_robustness_report(found, options.output)
    for table in _tables(found):
        console.print(table)
    console.print("written: " + ", ".join(str(path) for path in written), markup=False, highlight=False)
    if not any(path.suffix == ".png" for path in written):
        console.print("no plots, as matplotlib isn't installed: pip install 'lira-hf[quickstart]'", markup=False)


class _Run:
    """Models, data, candidates and controls."""

    def __init__(self, options: RobustnessOptions, console: Console):
        if not options.data.exists():
            raise FileNotFoundError(
                f"got {options.data}, which isn't there; expected a BEIR folder, or a table of scored pairs; mend "
                "the path"
            )
        self.options = options
        store = None if options.store is None else CandidateStore(options.store, read_only=True)
        self.translator = None if options.translator is None else load_translator(options.translator)
        self.judge = _critic(options, store)
        if store is None and self.translator is None:
            raise ValueError(
                "got neither --store nor --translator; expected where the candidates come from that LiRA reads beside "
                "the text; add one of the two"
            )
        self.source = CandidateSource(store, self.translator, self.judge, options.num_candidates)
        self.words: str | None = None
        self.cache = options.features or options.output / "features"
        embedders = []
        for name in options.models:
            model, processor = load_checkpoint(name)
            model.to("cuda" if torch.cuda.is_available() else "cpu")
            features = RoadFeatures(model, processor, self.cache, progress=console.is_terminal)
            embedders.append(LiraEmbedder(model, processor, self.source, features))
        live = self.judge if isinstance(self.judge, Critic) else None
        self.task = read_task(options.data, options.split, embedders[0], options.resamples, live)
        self.systems = RobustnessSystems(embedders)
        fill_clean(self.task, self.systems)
        self.facts = {
            "kind": self.task.kind,
            "split": options.split,
            "models": [embedder.fingerprint for embedder in embedders],
            "candidates": options.num_candidates,
        }
        check_folder(options.output, self.facts)
        self.controls = self._controls()
        self.systems.mixture, self.systems.path_weight = self.controls["mixture"], self.controls["path_weight"]

    def _controls(self) -> dict[str, Any]:
        options = self.options

        def choose() -> dict[str, Any]:
            if not has_split(options.data, options.dev_split):
                return {"mixture": "uniform", "path_weight": self.systems.path_weight, "dev": {}}
            live = self.judge if isinstance(self.judge, Critic) else None
            dev = read_task(options.data, options.dev_split, self.systems.embedders[0], critic=live)
            fill_clean(dev, self.systems)
            return choose_controls(dev, self.systems)

        return kept(options.output / "controls.json", choose)

    def setting(self, few_shot: Sequence[dict[str, Any]]) -> dict[str, str]:
        """For the report."""
        texts, documents = len(self.task.texts.texts), self.task.documents
        pool = "" if documents is None else f", {len(documents.texts):,} documents"
        chosen = f"mixture {self.controls['mixture']}, g's share {self.controls['path_weight']}"
        how = "chosen on dev" if self.controls["dev"] else "not chosen, as there is no dev split"
        facts = {
            "Data": f"{self.options.data}, {self.options.split}: {texts:,} texts{pool}",
            "Models": f"{', '.join(self.options.models)} (means over them)",
            "Controls": f"{chosen}, {how}",
            "Critic": "live: it judges noisy candidates too"
            if isinstance(self.judge, Critic)
            else self._stored_judge(),
        }
        if self.words is not None:
            facts |= {
                "English of code-mixing": f"learned from {self.words}",
                "Noise": f"seed {self.options.noise_seed}",
            }
        if few_shot:
            seeds = len(few_shot[0]["systems"][OURS]["seeds"])
            facts["Few-shot"] = f"{few_shot[0]['there']:,} training rows in all, {seeds} training runs a point"
        return facts

    def _stored_judge(self) -> str:
        return "none" if self.judge is None else "stored: scores of noisy candidates are those of the clean ones"

    def curves(self, announce: Callable[[str], None]) -> NoiseCurves:
        """The noise curves, with what the noises need."""
        options, own = self.options, self.systems.anchor_languages
        if options.pairs is not None:
            rows = [(pair.language, pair.text, pair.english) for pair in read_parallel(options.pairs)]
            lexicon, words = Lexicon.fit(rows), str(options.pairs)
        else:
            lexicon, words = word_lexicon(self.translator, self.task.texts, own)
        live = self.judge if isinstance(self.judge, Critic) else None
        noise = TextNoise(
            self.task.texts,
            own,
            options.noise_seed,
            lexicon,
            live,
            self.translator,
            options.num_candidates,
        )
        facts = {
            **self.facts,
            "controls": {name: self.controls[name] for name in ("mixture", "path_weight")},
            "words": None if lexicon is None else lexicon.fingerprint,
            "critic": None if live is None else live.fingerprint,
            "translator": None if self.translator is None else self.translator.fingerprint,
        }
        self.words = words
        return NoiseCurves(options.output / "noise", self.task, self.systems, noise, facts, announce)


def _critic(options: RobustnessOptions, store: CandidateStore | None) -> Critic | Identity | None:
    name = options.critic
    if name is None:
        return None
    if Path(name).is_dir():
        return HeuristicCritic.load(Path(name))
    if store is None:
        raise ValueError(
            f"got --critic {name}, which is no folder, without --store; expected the folder of a saved critic, or the "
            "store that has a critic's scores; mend the path, or add --store"
        )
    return stored_critic(store, *name.split(":", 1))


def parse_list(text: str, option: str) -> list[str]:
    """The parts of a comma-separated option."""
    parts = [part.strip().replace("-", "_") for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"got {option} {text!r}; expected values with a comma between each two; correct it")
    return list(dict.fromkeys(parts))


def parse_rows(text: str) -> list[int | None]:
    """The numbers of --few-shot, and `None` for "all"."""
    parts = parse_list(text, "--few-shot")
    numbers = parse_numbers(",".join(part for part in parts if part != "all") or "0", "--few-shot", int)
    return [*(numbers if parts != ["all"] else []), *([None] if "all" in parts else [])]


def parse_numbers(text: str, option: str, kind: type) -> list[Any]:
    """The numbers of a comma-separated option: whole ones from 0, or shares from 0 to 1."""
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        found = [-1]
    if any(not 0 <= number <= (1 if kind is float else 10**9) for number in found):
        what = "shares from 0 to 1, such as 0,0.1,0.4" if kind is float else "whole numbers, such as 0,10,30"
        raise ValueError(f"got {option} {text!r}; expected {what}; correct it")
    return found


def _tables(found: dict[str, Any]) -> Sequence[Table]:
    """Means of the languages, a table for each curve."""
    metric, tables = found["metric"], []
    titles = {curve_title(*key): (points, "rate", "mean") for key, points in curves(found).items()}
    if few := found["few_shot"]:
        tag = few_shot_tag(few[0], metric)
        titles[f"few-shot, {few[0]['language']}; figures of {tag}"] = (few, "rows", tag)
    for title, (points, x, tag) in titles.items():
        table = Table(title=f"{title}: {metric} x 100")
        for name in (x, *ROBUSTNESS_SYSTEMS):
            table.add_column(name, justify="right", style="bold" if name == OURS else None)
        for point in points:
            values = [f"{100 * point['systems'][name][metric][tag]:.1f}" for name in ROBUSTNESS_SYSTEMS]
            table.add_row(f"{point[x]:g}", *values)
        tables.append(table)
    return tables
