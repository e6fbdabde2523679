"""Runs described by YAML recipes: read, checked and carried out for either stage."""

import dataclasses
import difflib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser, PrinterCallback, set_seed

from lira_hf.data import BeirDataset, read_beir
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures, stored_critic
from lira_hf.models import LiraConfig, LiraModel, LiraProcessor
from lira_hf.translation import CandidateStore

from .arguments import DataArguments, LiraTrainingArguments, ModelArguments
from .dataset import LiraCollator, retrieval_rows
from .trainer import LiraTrainer


__all__ = ["DevEvaluator", "load_model", "read_recipe", "train_recipe"]

logger = logging.getLogger(__name__)
_ARGUMENTS = (ModelArguments, DataArguments, LiraTrainingArguments)
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
Recipe = tuple[ModelArguments, DataArguments, LiraTrainingArguments]
DevEvaluator = Callable[[LiraEmbedder, BeirDataset], dict[str, float]]


def read_recipe(recipe: str | os.PathLike | dict[str, Any]) -> Recipe:
    """
    A recipe's arguments.

    Args:
        recipe (`str`, `os.PathLike` or `dict`): A YAML file, or what it would hold: the fields of [`ModelArguments`],
            [`DataArguments`] and [`LiraTrainingArguments`] side by side.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Naming unknown keys or what is wrong with a value.
    """
    if not isinstance(recipe, dict):
        path = Path(recipe)
        if not path.is_file():
            raise FileNotFoundError(
                f"got the recipe {str(path)!r}, which is no file; expected a YAML file; mend the path"
            )
        try:
            recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(recipe, dict):
            raise ValueError(
                f"{path} holds {type(recipe).__name__}; expected 'name: value' lines; see examples/recipes"
            )
    fields = {field.name for kind in _ARGUMENTS for field in dataclasses.fields(kind) if field.init}
    _check_names(recipe, fields, "the recipe", "ModelArguments, DataArguments or LiraTrainingArguments")
    try:
        return HfArgumentParser(_ARGUMENTS).parse_dict(_numbers(recipe))
    except TypeError as error:  # the dataclasses compare and compute with what they are given
        raise ValueError(
            f"the recipe has a value of a wrong type ({error}); expected numbers, texts and lists"
        ) from error


def _check_names(given: dict[str, Any], known: set[str], where: str, what: str) -> None:
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        close = sorted({match for name in unknown for match in difflib.get_close_matches(name, known, n=1)})
        hint = f"correct it to {', '.join(map(repr, close))}, or remove it" if close else "remove it"
        raise ValueError(f"{where} has the unknown keys {unknown}; expected fields of {what}; {hint}")


def _numbers(recipe: dict[str, Any]) -> dict[str, Any]:
    """YAML 1.1 reads 1e-4, which has no point, as a string."""
    return {
        name: _numbers(value)
        if isinstance(value, dict)
        else float(value)
        if isinstance(value, str) and _EXPONENT.fullmatch(value)
        else value
        for name, value in recipe.items()
    }


def load_model(arguments: ModelArguments) -> tuple[LiraModel, LiraProcessor]:
    """
    The checkpoint, or the joined backbones, that a recipe names, with its processor.

    Raises:
        ValueError: Where `config` names what [`LiraConfig`] lacks, or gives a value that it doesn't take.
    """
    try:
        return _load_model(arguments)
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"got config={arguments.config}; expected values that LiraConfig takes; {reason}") from error


def _load_model(arguments: ModelArguments) -> tuple[LiraModel, LiraProcessor]:
    _check_names(arguments.config, {field.name for field in dataclasses.fields(LiraConfig)}, "config", "LiraConfig")
    if arguments.model is not None:
        config = LiraConfig.from_pretrained(arguments.model)
        if arguments.config:  # built anew, so that its checks see the changes
            config = LiraConfig.from_dict({**config.to_dict(), **arguments.config})
        model = LiraModel.from_pretrained(arguments.model, config=config)
        processor = LiraProcessor.from_pretrained(arguments.model)
        processor.trained_languages, processor.anchor_languages = model.config.languages, model.config.anchor_languages
        return model, processor
    model = LiraModel.from_backbones(arguments.encoder, arguments.anchor, **arguments.config)
    options = {"config": model.config, "max_text_length": arguments.max_length}
    return model, LiraProcessor.from_backbones(arguments.encoder, arguments.anchor, **options)


def train_recipe(
    recipe: str | os.PathLike | dict[str, Any] | Recipe,
    evaluator: DevEvaluator | None = None,
    train_features: RoadFeatures | None = None,
    quiet: bool = False,
) -> tuple[LiraModel, LiraProcessor, dict[str, float]]:
    """
    Carries out one stage and saves model and processor to `output_dir`. A run that was killed goes on from its last
    whole checkpoint.

    Args:
        recipe (`str`, `os.PathLike`, `dict` or `tuple`): As for [`read_recipe`], or what it returned.
        evaluator (`Callable`, *optional*): From an embedder and the dev split to metrics, logged at every evaluation.
        train_features ([`RoadFeatures`], *optional*): Features of the training rows, where they are not the
            model's own (cross-fitted ones).
        quiet (`bool`, *optional*, defaults to `False`): Don't print each log entry where there is no progress bar.

    Returns:
        `tuple`: the trained model, its processor and the last metrics.
    """
    model_arguments, data, args = recipe if isinstance(recipe, tuple) else read_recipe(recipe)
    set_seed(args.seed)  # before the heads are made
    model, processor = load_model(model_arguments)
    source = None
    if data.store is not None:
        store = CandidateStore(data.store, read_only=True)
        critic = stored_critic(store, data.critic, data.critic_fingerprint) if data.critic else None
        source = CandidateSource(store, critic=critic, num_candidates=data.num_candidates)
    progress = not args.disable_tqdm
    features = RoadFeatures(model, processor, data.features, data.feature_dtype, progress=progress)
    train = retrieval_rows(read_beir(data.data, data.train_split), source)
    trained = train_features or features
    if trained.caches:
        _fill(trained, train)
    dev = dev_rows = None
    if evaluator is not None and data.dev_split:
        dev = read_beir(data.data, data.dev_split)
        dev_rows = retrieval_rows(dev, source)
    embedder = LiraEmbedder(model, processor, source, features)
    trainer = LiraTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=dev_rows,
        data_collator=LiraCollator(trained, documents=args.stage == "lasr"),
        processing_class=processor,
        evaluator=None if dev is None else lambda _: evaluator(embedder, dev),
    )
    if quiet:
        trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=True)
    metrics = trainer.evaluate() if dev is not None else {}
    model.freeze()
    trainer.save_model(args.output_dir)
    return model.eval(), processor, metrics


def _fill(features: RoadFeatures, rows) -> None:
    """Everything that an epoch reads, longest first, before it starts: memory runs out at once or never."""
    features.fill("source", [*rows["text"], *rows["document"]])
    features.fill("anchor", [*(text for row in rows["candidates"] for text in row), *rows["document"]])
