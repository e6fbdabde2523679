"""The pieces of work of an ablation: each trains or asks one row with one seed, in a folder of its own, and can be
done by any process."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from lira_hf.data.files import write_json
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures, stored_critic
from lira_hf.training import DataArguments, ModelArguments, load_model, train_recipe
from lira_hf.translation import CandidateStore

from .ablation_controls import tune_path_weight
from .ablation_tasks import Split, dump_scores, embed_split, read_split
from .ablation_variants import FULL, Variant, stage_recipes
from .embedder import dev_metrics


__all__ = ["Plan", "data_facts", "make_embedder", "run_start", "run_variant"]

_FILES = ("corpus.jsonl", "queries.jsonl")
# What of a recipe says where things lie, and not what they are.
_PLACES = (
    "data",
    "store",
    "features",
    "output_dir",
    "model",
    "encoder",
    "anchor",
    "disable_tqdm",
    "overwrite_output_dir",
)


@dataclass(frozen=True)
class Plan:
    """
    What all pieces of an ablation share; it can be sent to other processes.

    Args:
        arca, lasr (`dict`): The full model's recipes, with `features`.
        output (`Path`): The ablation's folder.
        test_split (`str`): Name of the split that is reported.
        tune (`bool`): Choose g's share on dev, for each trained row by its own untrained start.
        facts (`dict`): As [`data_facts`] gives them.
        train_features (`Callable`, *optional*): Makes the features of the training rows, where they are not the
            model's own.
    """

    arca: dict[str, Any]
    lasr: dict[str, Any]
    output: Path
    test_split: str = "test"
    tune: bool = True
    facts: dict[str, Any] = field(default_factory=dict)
    train_features: Callable[[], RoadFeatures] | None = None

    def folder(self, seed: int) -> Path:
        """Holds a folder of each row."""
        return self.output / f"seed-{seed}"

    @property
    def fixed_store(self) -> Path:
        """The store of the candidates of one kind."""
        return self.output / "fixed.sqlite"

    def recipes(self, variant: Variant, seed: int) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Those of a row's stages."""
        return stage_recipes(variant, self.arca, self.lasr, self.folder(seed), seed, self.fixed_store)

    def split(self, name: str, anchor_languages: list[str]) -> Split:
        """A split of the data."""
        return read_split(self.lasr.get("task", "retrieval"), self.lasr["data"], name, anchor_languages)

    def features_of_training(self) -> RoadFeatures | None:
        """Where they are not the model's own."""
        return None if self.train_features is None else self.train_features()


def data_facts(recipe: dict[str, Any]) -> dict[str, Any]:
    """
    What the data is, wherever it lies: a digest of its files, and what the store holds.

    Args:
        recipe (`dict`): Stage 2's.

    Raises:
        FileNotFoundError: For data that isn't there.
    """
    data = Path(recipe["data"])
    if data.is_dir():
        files = sorted(path for path in (*data.glob("*.*"), *data.glob("qrels/*")) if path.is_file())
        if any((data / name).is_file() for name in _FILES):
            files = [path for path in files if path.name in _FILES or path.parent.name == "qrels"]
    elif data.is_file():
        files = [data]
    else:
        raise FileNotFoundError(
            f"got data: {recipe['data']!r}, which isn't there; expected a BEIR folder, or a table of scored pairs; "
            "mend the path in both recipes"
        )
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    found: dict[str, Any] = {"data": digest.hexdigest()}
    if recipe.get("store") is not None:
        with CandidateStore(recipe["store"], read_only=True) as store:
            found["store"] = store.stats()
    return found


def make_embedder(recipe: dict[str, Any], model: ModelArguments, critic: bool = True) -> LiraEmbedder:
    """
    A model with a recipe's candidates and features.

    Args:
        recipe (`dict`): Names store, critic, number of candidates and feature cache.
        model ([`ModelArguments`]): A checkpoint, or backbones.
        critic (`bool`, *optional*, defaults to `True`): Read the critic's scores, where the recipe names one.
    """
    lira, processor = load_model(model)
    if torch.cuda.is_available() and not recipe.get("use_cpu"):
        lira.to("cuda")
    named = {one.name: recipe[one.name] for one in fields(DataArguments) if one.name in recipe}
    data = DataArguments(**named)
    source = None
    if data.store is not None:
        store = CandidateStore(data.store, read_only=True)
        judge = stored_critic(store, data.critic, data.critic_fingerprint) if critic and data.critic else None
        source = CandidateSource(store, critic=judge, num_candidates=data.num_candidates)
    features = RoadFeatures(lira, processor, data.features, data.feature_dtype)
    return LiraEmbedder(lira, processor, source, features, batch_size=256)


def claim(path: Path, wanted: dict[str, Any]) -> None:
    """
    Notes the settings of a stage in a file beside it.

    Raises:
        ValueError: Where there are other ones.
    """
    wanted = json.loads(json.dumps(wanted))
    if not path.is_file():
        write_json(path, wanted)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != wanted:
        other = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        raise ValueError(
            f"{path.parent} holds a run with other settings ({', '.join(other)}); expected the same ones to go on "
            "with it; choose another --output, or delete that folder"
        )


def _identity(plan: Plan, recipe: dict[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in recipe.items() if name not in _PLACES}
    return own | {"tune": plan.tune, "facts": plan.facts, "own_features": plan.train_features is None}


def _train(plan: Plan, recipe: dict[str, Any], evaluator: Any = None) -> None:
    """A stage, unless it is there; settings and seconds lie beside its folder."""
    output = Path(recipe["output_dir"])
    claim(output.with_name(f"{output.name}.settings.json"), _identity(plan, recipe))
    if not (output / ".complete").is_file():
        started = time.perf_counter()
        _, _, metrics = train_recipe(recipe, evaluator, plan.features_of_training(), quiet=True)
        write_json(output.with_name(f"{output.name}.metrics.json"), metrics)
        seconds = round(time.perf_counter() - started, 1)
        write_json(output.with_name(f"{output.name}.seconds.json"), seconds)
        (output / ".complete").touch()
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def run_start(plan: Plan, variant: Variant, seed: int) -> None:
    """
    Stage 1 of a row, and g's share by its own untrained start on dev (`start.json`).

    Raises:
        ValueError: Where the row's folder holds a run of other settings.
    """
    arca, _ = plan.recipes(variant, seed)
    if arca is None:
        return
    folder = plan.folder(seed) / variant.slug
    _train(plan, arca)
    if not plan.tune or (folder / "start.json").is_file():
        return
    recipe = plan.recipes(variant, seed)[1]
    config = {**recipe["config"], "path_weight": 0.5}  # both roads are in the vectors
    embedder = make_embedder(recipe, ModelArguments(model=recipe["model"], config=config))
    dev = plan.split(recipe.get("dev_split", "dev"), embedder.processor.anchor_languages)
    tried = tune_path_weight(embedder, dev, embed_split(embedder, dev))
    write_json(folder / "start.json", {"path_weight": max(tried, key=tried.__getitem__), "dev": tried})


def _second_recipe(plan: Plan, variant: Variant, seed: int) -> dict[str, Any]:
    """Stage 2's recipe with the share of g that was chosen; without a stage 1 it is the full model's."""
    recipe = plan.recipes(variant, seed)[1]
    if plan.tune:
        owner = variant if variant.start == "own" else Variant(FULL, "")
        start = plan.folder(seed) / owner.slug / "start.json"
        weight = json.loads(start.read_text(encoding="utf-8"))["path_weight"]
        recipe["config"] = {**recipe["config"], "path_weight": weight}
    return recipe


def run_variant(plan: Plan, variant: Variant, seed: int) -> None:
    """
    Stage 2 of a row, and its scores on dev and test (`scores.json`); of the full model also those of its start, and of
    what it is asked without.

    Raises:
        ValueError: Where the row's folder holds a run of other settings.
    """
    recipe = _second_recipe(plan, variant, seed)
    folder = plan.folder(seed) / variant.slug
    _train(plan, recipe, dev_metrics)
    path = folder / "scores.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["test_split"] == plan.test_split:
        return
    trained = ModelArguments(model=recipe["output_dir"])
    embedder = make_embedder(recipe, trained)
    own = embedder.processor.anchor_languages
    test = plan.split(plan.test_split, own)
    found = {variant.name: test.score(*embed_split(embedder, test))}
    if variant.name == FULL:
        if recipe.get("store") is not None:
            bare = embed_split(embedder, test, translate=False)
            found[f"{FULL}, asked without translation"] = test.score(*bare)
        if recipe.get("critic") is not None:
            unjudged = make_embedder(recipe, trained, critic=False)
            found[f"{FULL}, asked without the translation critic"] = test.score(*embed_split(unjudged, test))
        start = make_embedder(recipe, ModelArguments(model=recipe["model"], config=recipe["config"]))
        found[f"{FULL}, untrained start"] = test.score(*embed_split(start, test))
    scores = {name: dump_scores(one) for name, one in found.items()}
    kept = {"test_split": plan.test_split, "path_weight": embedder.model.config.path_weight, "scores": scores}
    write_json(path, kept | {"dev": _dev_figure(plan, recipe, embedder, test.metrics[0])})


def _dev_figure(plan: Plan, recipe: dict[str, Any], embedder: LiraEmbedder, metric: str) -> float:
    """The main metric on dev, the mean of the languages; training has measured it, but for pairs."""
    output = Path(recipe["output_dir"])
    known = json.loads(output.with_name(f"{output.name}.metrics.json").read_text(encoding="utf-8"))
    if recipe.get("task", "retrieval") == "retrieval" and f"eval_{metric}" in known:
        return known[f"eval_{metric}"]
    dev = plan.split(recipe.get("dev_split", "dev"), embedder.processor.anchor_languages)
    return dev.score(*embed_split(embedder, dev)).mean(metric)
