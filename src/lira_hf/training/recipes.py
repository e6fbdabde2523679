"""Runs described by YAML recipes: read, checked and carried out for either stage."""

import dataclasses
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from torch.utils.data import DataLoader
from transformers import HfArgumentParser, PrinterCallback, set_seed

from lira_hf.data import DataProblem
from lira_hf.inference import LiraEmbedder, RoadFeatures, stored_critic
from lira_hf.models import LiraConfig, LiraForCausalLM, LiraModel, LiraProcessor
from lira_hf.models.places_lira import loading
from lira_hf.translation import CandidateStore, StoreError

from .arguments import DataArguments, LiraTrainingArguments, ModelArguments
from .calibration import calibrate_gate, has_entropy_gate
from .checkpoints import one_run
from .collator import LiraCollator
from .generation_collator import GenerationCollator, ReferenceCollator
from .joining import check_names, load_model, place_model, row_processor
from .lora import lira_lora_config
from .run_facts import check_finished_run, collect_run_facts, write_run_facts
from .sharding import check_launch, fsdp_asked, gathered
from .tasks import (
    DevEvaluator,
    TaskData,
    fill_features,
    has_split,
    join_tasks,
    load_task,
    measure,
    read_conversations,
    read_pairs,
)
from .trainer import LiraTrainer


__all__ = ["DevEvaluator", "check_recipe", "load_model", "read_recipe", "train_recipe"]

logger = logging.getLogger(__name__)
_ARGUMENTS = (ModelArguments, DataArguments, LiraTrainingArguments)
_TASK_FIELDS = {field.name for field in dataclasses.fields(DataArguments)}
_FIELDS = {field.name for kind in _ARGUMENTS for field in dataclasses.fields(kind) if field.init}
_KINDS = "ModelArguments, DataArguments or LiraTrainingArguments"
# Kinds of candidates beyond these are told apart by nothing but their traits.
_MOST_KINDS = 16
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
Recipe = tuple[ModelArguments, DataArguments, LiraTrainingArguments]


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
        recipe = _load_yaml(Path(recipe))
    check_names(recipe, _FIELDS, "the recipe", _KINDS)
    return _parse(recipe, _ARGUMENTS)


def _load_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"got the recipe {str(path)!r}, which is no file; expected a YAML file; mend the path")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"got {path}, which is no UTF-8 ({error}); expected a recipe in UTF-8; save it so") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} holds {type(recipe).__name__}; expected 'name: value' lines; see examples/recipes")
    return recipe


def _parse(recipe: dict[str, Any], kinds: tuple[type, ...]) -> Any:
    recipe = _numbers(recipe)
    _check_types(recipe, kinds)
    try:
        return HfArgumentParser(kinds).parse_dict(recipe, allow_extra_keys=True)
    except TypeError as error:  # the dataclasses compare and compute with what they are given
        raise ValueError(
            f"the recipe has a value of a wrong type ({error}); expected numbers, texts and lists"
        ) from error


def _check_types(recipe: dict[str, Any], kinds: tuple[type, ...]) -> None:
    """Numbers and switches; the dataclasses take what they are given, and training would end amid its first step."""
    for kind in kinds:
        for name, hint in get_type_hints(kind).items():
            value, types = recipe.get(name), {hint, *get_args(hint)}
            if value is None or types & {str, dict, list} or not types & {bool, int, float}:
                continue
            fits = isinstance(value, int | float) and (bool in types or not isinstance(value, bool))
            if not fits or (bool in types and value not in (True, False)):
                expected = "true or false" if bool in types else "a number"
                raise ValueError(f"{name} is {value!r:.60}; expected {expected}; write one, without quotes")


def check_recipe(path: str | os.PathLike) -> list[DataProblem]:
    """
    What would stop a run of a recipe: its keys and values, and whether what it names is there, seen from this folder.

    Args:
        path (`str` or `os.PathLike`): A YAML file.

    Returns:
        `list[DataProblem]`: Everything found: all unknown keys, the first wrong value of model, data and training
        arguments each, and every file that is missing.
    """
    place = Path(path)
    try:
        recipe = _load_yaml(place)
    except (ValueError, OSError) as error:
        return [_problem(place, None, str(error))]
    found = [*_wrong_values(recipe), *_missing_files(recipe)]
    return [_problem(place, field, message) for field, message in found]


def _wrong_values(recipe: dict[str, Any]) -> Iterator[tuple[str | None, str]]:
    """Field, if one is meant, and message."""
    try:
        check_names(recipe, _FIELDS, "the recipe", _KINDS)
    except ValueError as error:
        yield None, str(error)
    for kind in _ARGUMENTS:
        try:
            _parse(recipe, (kind,))
        except (ValueError, OSError, ImportError) as error:
            field = re.match(r"(?:got )?(\w+)(?: is |=)", str(error))
            yield field[1] if field and field[1] in recipe else None, str(error)
    config = recipe.get("config") or {}
    if not isinstance(config, dict):
        yield (
            "config",
            f"got {config!r:.60}; expected fields of LiraConfig with their values; write 'name: value' lines",
        )
        return
    try:
        check_names(config, {field.name for field in dataclasses.fields(LiraConfig)}, "config", "LiraConfig")
        LiraConfig(**_numbers(config))
    except (ValueError, TypeError, StrictDataclassError) as error:
        yield "config", " ".join(str(error).split())


def _missing_files(recipe: dict[str, Any]) -> Iterator[tuple[str, str]]:
    named = {name: value for name, value in recipe.items() if isinstance(value, str) and value}
    for field in ("model", "encoder", "anchor", "base"):
        name = named.get(field)
        if name is not None and not Path(name).is_dir() and not _hub_name(name):
            yield field, f"got {name!r}; expected a folder that is there, or a name on the Hub; mend the path"
    tasks = recipe.get("tasks")
    if isinstance(tasks, list):
        own = {name: value for name, value in recipe.items() if name in _TASK_FIELDS}
        for task in (task for task in tasks if isinstance(task, dict)):
            yield from (("tasks", message) for _, message in _missing_data({**own, **task}))
    else:
        yield from _missing_data(recipe)


def _missing_data(recipe: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is missing of one task's data and candidates."""
    named = {name: value for name, value in recipe.items() if isinstance(value, str) and value}
    if "data" in named and named.get("task") == "ranking":
        try:
            for split in (named.get("train_split", "train"), recipe.get("dev_split", "dev")):
                if split:
                    read_pairs(named["data"], split)
        except (ValueError, OSError) as error:
            yield "data", str(error)
    elif "data" in named and named.get("task") == "generation":
        try:
            for split in (named.get("train_split", "train"), recipe.get("dev_split", "dev")):
                if split:
                    read_conversations(named["data"], split)
        except (ValueError, OSError) as error:
            yield "data", str(error)
    elif "data" in named:
        splits = [named.get("train_split", "train"), recipe.get("dev_split", "dev")]
        files = ["corpus.jsonl", "queries.jsonl", *(f"qrels/{split}.tsv" for split in splits if split)]
        if missing := [name for name in files if not (Path(named["data"]) / name).is_file()]:
            got = f"{named['data']!r} without {', '.join(missing)}"
            yield "data", f"got {got}; expected a BEIR folder with these splits; mend the path or the splits' names"
    if "store" in named:
        try:
            with CandidateStore(named["store"], read_only=True) as store:
                if "critic" in named:
                    stored_critic(store, named["critic"], named.get("critic_fingerprint"))
        except StoreError as error:
            yield "store", str(error)
        except ValueError as error:
            yield "critic", str(error)


def _problem(path: Path, field: str | None, message: str) -> DataProblem:
    """A problem with the line of the field."""
    row = None
    if field is not None:
        lines = path.read_text(encoding="utf-8").splitlines()
        row = next((row for row, line in enumerate(lines, 1) if re.match(rf"{field}\s*:", line)), None)
    return DataProblem.from_message(str(path), row, field, message, "a recipe that can be run", "see examples/recipes")


def _hub_name(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


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


def train_recipe(
    recipe: str | os.PathLike | dict[str, Any] | Recipe,
    evaluator: DevEvaluator | None = None,
    train_features: RoadFeatures | None = None,
    quiet: bool = False,
    controls: DevEvaluator | None = None,
) -> tuple[LiraModel, LiraProcessor, dict[str, float]]:
    """
    Carries out one stage and saves model and processor to `output_dir`, with the run's facts (`lira_run.json`) for a
    model card. A run that was killed goes on from its last whole, undamaged checkpoint; a second run in the same
    folder is refused, and so are other settings in the folder of a finished one.

    Args:
        recipe (`str`, `os.PathLike`, `dict` or `tuple`): As for [`read_recipe`], or what it returned.
        evaluator (`Callable`, *optional*): From an embedder and the dev split to metrics, logged at every evaluation;
            of the untrained start at the first one, as `eval_baseline_untrained_...`. Figures of dev queries that are
            in English are logged too, and warned of when they fall.
        train_features ([`RoadFeatures`], *optional*): Features of the training rows, where they are not the
            model's own (cross-fitted ones).
        quiet (`bool`, *optional*, defaults to `False`): Don't print each log entry where there is no progress bar.
        controls (`Callable`, *optional*): From an embedder and the dev split to figures of systems without training,
            such as each road alone; logged at the first evaluation, as `eval_baseline_...`.

    Returns:
        `tuple`: the trained model, its processor and the last metrics.
    """
    check_launch()
    parts = recipe if isinstance(recipe, tuple) else read_recipe(recipe)
    with one_run(parts[2].output_dir, parts[2].process_index == 0):
        return _train(parts, evaluator, train_features, quiet, controls)


def _train(
    recipe: Recipe,
    evaluator: DevEvaluator | None,
    train_features: RoadFeatures | None,
    quiet: bool,
    controls: DevEvaluator | None,
) -> tuple[LiraModel, LiraProcessor, dict[str, float]]:
    model_arguments, data, args = recipe
    check_finished_run(args)
    anchors, every = anchor_languages(model_arguments), data.each()
    watched = evaluator is not None or args.eval_strategy != "no"
    # Ranking and generation are measured without an evaluator too.
    measured = {"retrieval": evaluator is not None, "ranking": watched, "generation": watched}
    causal = args.stage == "lasr" and any(task.task == "generation" for task in every)
    if causal and args.calibrate_gate and not watched:
        measured["generation"] = all(has_split(task, task.dev_split) for task in every)
    writer = row_processor(model_arguments) if causal else None
    tasks = [load_task(task, anchors, measured[task.task], writer, args.stage) for task in every]
    set_seed(args.seed)  # before the heads are made
    model, processor = load_model(with_kinds(model_arguments, tasks), causal)
    place_model(model, args.device, whole=not fsdp_asked())
    adapted = _add_lora(model, args)
    for task in tasks:
        task.processor = processor if causal else None
    progress = not args.disable_tqdm
    features = RoadFeatures(model.base_model, processor, data.features, data.feature_dtype, progress=progress)
    trained = train_features or features
    if args.stage == "lasr":
        for task in tasks:
            task.mine(LiraEmbedder(model, processor, task.source, trained))
    if trained.caches:
        fill_features(trained, tasks, processor)
    trainer = _make_trainer(model, args, tasks, trained, features, evaluator, controls)
    if quiet:
        trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=True)
    metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
    if adapted is not None:
        adapted.merge_and_unload()
    if isinstance(model, LiraForCausalLM) and args.calibrate_gate:
        _calibrate(model, trainer)
    model.freeze()
    _save(trainer, model_arguments, tasks, metrics)
    return model.eval(), processor, metrics


def _save(trainer: LiraTrainer, arguments: ModelArguments, tasks: list[TaskData], metrics: dict[str, float]) -> None:
    """Model and processor, and the facts of the run beside them."""
    model, args = trainer.model, trainer.args
    trainer.save_model(args.output_dir)
    # In every process: of sharded weights each has a part.
    runs = collect_run_facts(model, arguments, args, tasks, metrics, trainer.state.global_step)
    if trainer.is_world_process_zero():
        write_run_facts(args.output_dir, runs)
    model.config.name_or_path = args.output_dir  # where it lies now, with these facts


def _calibrate(model: LiraForCausalLM, trainer: LiraTrainer) -> None:
    """The gate between the roads set on the dev split; on all of it in every process, so that all find the same."""
    if not has_entropy_gate(model):
        return
    if trainer.eval_dataset is None:
        logger.warning(
            "the gate between the roads is left as it is: there is no dev split; to have it set, name one in dev_split"
        )
        return
    size = trainer.args.per_device_eval_batch_size
    with gathered(model):
        calibrate_gate(model, DataLoader(trainer.eval_dataset, batch_size=size, collate_fn=trainer.data_collator))


def _add_lora(model: LiraModel | LiraForCausalLM, args: LiraTrainingArguments) -> Any:
    """LoRA put into the model's base LM, which is then trained with the heads; `None` where none is asked for."""
    if not args.lora_rank:
        return None
    if not isinstance(model, LiraForCausalLM):
        raise ValueError(
            f"lora_rank is {args.lora_rank} and nothing is generated; expected it in stage 2 of generation, as LoRA "
            "goes on the base LM; leave it out"
        )
    from peft import get_peft_model

    config = lira_lora_config(model, r=args.lora_rank, lora_alpha=args.lora_alpha, train_heads=False)
    return get_peft_model(model, config)


def _make_trainer(
    model: LiraModel | LiraForCausalLM,
    args: LiraTrainingArguments,
    tasks: list[TaskData],
    trained: RoadFeatures,
    features: RoadFeatures,
    evaluator: DevEvaluator | None,
    controls: DevEvaluator | None,
) -> LiraTrainer:
    """A trainer over the tasks' rows, measured on their dev splits; `features` are the model's own."""
    processor = features.processor
    embedders = [LiraEmbedder(features.model, processor, task.source, features) for task in tasks]
    held = [task for task in tasks if task.dev is not None]
    watched = bool(held) and args.eval_strategy != "no"
    english = watched and any(task.english_dev() for task in tasks)

    def baselines(_: LiraModel) -> dict[str, float]:
        found = {f"untrained_{name}": value for name, value in measure(tasks, embedders, evaluator).items()}
        return found | (measure(tasks, embedders, controls, retrieval_only=True) if controls is not None else {})

    return LiraTrainer(
        model=model,
        args=args,
        train_dataset=join_tasks(tasks),
        eval_dataset=held[0].dev_rows() if held else None,
        data_collator=_make_collator(args, tasks, trained, processor),
        processing_class=processor,
        evaluator=(lambda _: measure(tasks, embedders, evaluator)) if held else None,
        english_evaluator=(lambda _: measure(tasks, embedders, evaluator, english=True)) if english else None,
        baselines=baselines if watched else None,
    )


def _make_collator(
    args: LiraTrainingArguments, tasks: list[TaskData], features: RoadFeatures, processor: LiraProcessor
) -> LiraCollator:
    lasr, referred = args.stage == "lasr", args.stage == "arca" and args.reference == "document"
    generation = None
    if any(task.arguments.task == "generation" for task in tasks):
        generation = (
            GenerationCollator(features, processor, prompts=args.generation_loss == "answer")
            if lasr
            else ReferenceCollator(features, processor, referred)
        )
    return LiraCollator(features, documents=lasr, references=referred, processor=processor, generation=generation)


def anchor_languages(arguments: ModelArguments) -> list[str]:
    """Those of the model that will be loaded: what is in them is its own candidate."""
    if "anchor_languages" in arguments.config:
        return list(arguments.config["anchor_languages"])
    if arguments.model is not None:
        with loading(arguments.model):
            return list(LiraConfig.from_pretrained(arguments.model).anchor_languages)
    return list(LiraConfig().anchor_languages)


def with_kinds(arguments: ModelArguments, tasks: list[TaskData]) -> ModelArguments:
    """A model that is joined anew tells apart the kinds of candidates that there are, unless it is told which."""
    if arguments.model is not None or "candidate_kinds" in arguments.config:
        return arguments
    counts: Counter[str] = Counter()
    for task in tasks:
        for column in {"kinds", "document_kinds"}.intersection(task.rows.column_names):
            counts.update(kind for row in task.rows[column] for kind in row if kind)
    kinds = sorted(kind for kind, _ in counts.most_common(_MOST_KINDS))
    return dataclasses.replace(arguments, config={**arguments.config, "candidate_kinds": kinds})
