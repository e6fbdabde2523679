"""The model and the processor that a recipe names: a checkpoint, or backbones joined."""

import dataclasses
import difflib
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from lira_hf.models import LiraConfig, LiraForCausalLM, LiraModel, LiraProcessor
from lira_hf.models.backbones_lira import is_quantized
from lira_hf.models.configuration_lira import prefix_slots

from .arguments import ModelArguments


__all__ = ["check_names", "load_model", "place_model", "row_processor"]

_OF_PROCESSOR = ("candidate_kinds", "query_prompt", "document_prompt")


def load_model(arguments: ModelArguments, causal: bool = False) -> tuple[LiraModel | LiraForCausalLM, LiraProcessor]:
    """
    The checkpoint, or the joined backbones, that a recipe names, with its processor.

    Args:
        arguments ([`ModelArguments`]): Of the recipe.
        causal (`bool`, *optional*, defaults to `False`): A [`LiraForCausalLM`], for generation; its base LM is that of
            the checkpoint, or the one that is named.

    Raises:
        ValueError: Where `config` names what [`LiraConfig`] lacks, or gives a value that it doesn't take; for a base
            LM that nothing is made of.
    """
    check_names(arguments.config, {field.name for field in dataclasses.fields(LiraConfig)}, "config", "LiraConfig")
    if arguments.base is not None and not causal:
        raise ValueError(
            f"got base={arguments.base!r}, and neither stage 1 nor retrieval and ranking have use for a base LM; "
            "expected it in stage 2 of generation; leave it out here, and name it there beside model: (what this run "
            "makes)"
        )
    try:
        if arguments.model is not None and arguments.base is not None:
            return _add_base(arguments)
        return (_checkpoint if arguments.model is not None else _join)(arguments, causal)
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"got config={arguments.config}; expected values that LiraConfig takes; {reason}") from error


def place_model(model: LiraModel | LiraForCausalLM, device: torch.device, whole: bool = True) -> None:
    """
    Moves a model to where it is trained before the trainer would, so that features are computed there too. One that
    was spread over devices, or quantised, stays where it is.

    Args:
        model ([`LiraModel`] or [`LiraForCausalLM`]): The model.
        device (`torch.device`): Where to.
        whole (`bool`, *optional*, defaults to `True`): `False`: a base LM stays, and its heads, since it is sharded.
    """
    parts = model.backbones()
    if any(getattr(part, "hf_device_map", None) or is_quantized(part) for part in parts.values()):
        return
    if whole or "base" not in parts:
        model.to(device)
        return
    for name in ("encoder", "anchor"):
        if name in parts:
            parts[name].to(device)


def row_processor(arguments: ModelArguments) -> LiraProcessor:
    """The processor that writes the rows of generation, known before the model is."""
    source: str | Any = arguments.encoder
    anchor, config, max_length = arguments.anchor, LiraConfig, arguments.max_length
    if arguments.model is not None:
        known = LiraProcessor.from_pretrained(arguments.model)
        if arguments.base is None:
            return known
        source, anchor, max_length = known.source_tokenizer, known.anchor_tokenizer, known.max_text_length
        config = LiraConfig.from_pretrained(arguments.model)
    bins, roads = (arguments.config.get(name, getattr(config, name)) for name in ("num_bins", "prefix_roads"))
    options = {"prefix_length": prefix_slots(bins, roads), "max_text_length": max_length}
    if arguments.base is None:
        raise ValueError(
            f"got encoder={arguments.encoder!r} and no base; expected the base LM that generation trains a soft "
            "prefix for; name one: base: ..."
        )
    return LiraProcessor.from_backbones(source, anchor, base=arguments.base, **options)


def _checkpoint(arguments: ModelArguments, causal: bool) -> tuple[LiraModel | LiraForCausalLM, LiraProcessor]:
    kind = LiraForCausalLM if causal else LiraModel
    config = LiraConfig.from_pretrained(arguments.model)
    if arguments.config:  # built anew, so that its checks see the changes
        config = LiraConfig.from_dict({**config.to_dict(), **arguments.config})
    model = kind.from_pretrained(arguments.model, config=config)
    processor = LiraProcessor.from_pretrained(arguments.model)
    processor.trained_languages, processor.anchor_languages = model.config.languages, model.config.anchor_languages
    for name in _OF_PROCESSOR:
        setattr(processor, name, getattr(model.config, name))
    if causal:
        processor.prefix_length = model.config.prefix_length
    return model, processor


def _add_base(arguments: ModelArguments) -> tuple[LiraForCausalLM, LiraProcessor]:
    """A base LM joined to an embedding checkpoint."""
    known = LiraProcessor.from_pretrained(arguments.model)
    model = LiraForCausalLM.from_embedding(arguments.model, arguments.base, **arguments.config)
    processor = LiraProcessor.from_backbones(
        known.source_tokenizer,
        known.anchor_tokenizer,
        base=arguments.base,
        config=model.config,
        max_text_length=known.max_text_length,
    )
    return model, processor


def _join(arguments: ModelArguments, causal: bool) -> tuple[LiraModel | LiraForCausalLM, LiraProcessor]:
    encoders = (arguments.encoder, arguments.anchor)
    model: LiraModel | LiraForCausalLM
    if causal:
        model = LiraForCausalLM.from_backbones(arguments.base, *encoders, **arguments.config)
    else:
        model = LiraModel.from_backbones(*encoders, **arguments.config)
    options = {"config": model.config, "max_text_length": arguments.max_length, "base": arguments.base}
    return model, LiraProcessor.from_backbones(*encoders, **options)


def check_names(given: dict[str, Any], known: set[str], where: str, what: str) -> None:
    """
    Raises:
        ValueError: Naming what `given` has and `known` lacks, with the name that was probably meant.
    """
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        close = sorted({match for name in unknown for match in difflib.get_close_matches(name, known, n=1)})
        hint = f"correct it to {', '.join(map(repr, close))}, or remove it" if close else "remove it"
        raise ValueError(f"{where} has the unknown keys {unknown}; expected fields of {what}; {hint}")
