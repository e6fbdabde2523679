"""Slim checkpoints: Arca, LaSR, projector and LoRA, and of the backbones no more than what finds and proves them."""

import copy
import json
import logging
import os
import re
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from .backbones_lira import backbone_fingerprint, check_width, is_quantized, load_base, load_encoder
from .configuration_lira import LiraConfig
from .saving_lira import check_shard_names


__all__ = ["HUB_OPTIONS", "PARTS", "describe_backbones", "load_slim", "save_slim", "slim_problem"]

logger = logging.getLogger(__name__)

# Name of each backbone in arguments and in `backbone_info`, and the attribute of the model that holds it.
PARTS = {"encoder": "encoder", "anchor": "anchor", "base": "language_model"}
_ADAPTER_FOLDER = "adapter"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_SHARED = ("device_map", "max_memory", "offload_folder", "token", "cache_dir", "local_files_only")
# Trust in the checkpoint's code is no trust in that of the repositories it names: say so for each, in its options.
_IGNORED = (
    "trust_remote_code",
    "_from_auto",
    "_from_pipeline",
    "_commit_hash",
    "use_safetensors",
    "config",
    "weights_only",
    "state_dict",
)


def describe_backbones(parts: dict[str, PreTrainedModel | None], revisions: dict[str, str | None]) -> dict[str, dict]:
    """`backbone_info` of a configuration: what a slim checkpoint finds each backbone by, and proves it with."""
    return {
        name: {
            "name": part.config.name_or_path,
            "revision": revisions.get(name),
            "dtype": str(part.dtype).removeprefix("torch."),
            "fingerprint": backbone_fingerprint(part),
        }
        for name, part in parts.items()
        if part is not None
    }


def slim_problem(model: PreTrainedModel, state: dict[str, torch.Tensor] | None = None) -> str | None:
    """Why a slim checkpoint of `model` could not be loaded again; `None` where it could. `state`: its weights, where
    they are sharded and were gathered."""
    info = model.config.backbone_info or {}
    for name, part in model.backbones().items():
        known = info.get(name)
        if not known or not known.get("name"):
            return (
                f"the backbone {name!r} has no name or folder to load it from again; give from_backbones one "
                "instead of a live module"
            )
        # Quantised weights are not trained, and some kernels pack them anew when they are first used.
        weights = state and _weights_of(PARTS[name], state)
        found = known.get("fingerprint") if is_quantized(part) else backbone_fingerprint(part, weights)
        if known.get("fingerprint") != found:
            return (
                f"the weights of the backbone {name!r} have changed since {known['name']} was loaded (fingerprint "
                f"{found}, {known.get('fingerprint')} then); a slim checkpoint would lose that"
            )
    return None


def save_slim(model: PreTrainedModel, save: Callable, folder: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
    """
    Saves all but the backbones.

    Args:
        model (`PreTrainedModel`): A LiRA model without a [`slim_problem`].
        save (`Callable`): Transformers' own `save_pretrained` of it.
        folder (`str` or `os.PathLike`): Where to. LoRA on the base LM goes into its sub-folder `adapter`.
    """
    state = kwargs.pop("state_dict", None)
    state = model.state_dict() if state is None else state
    state = {name: value for name, value in state.items() if _part_of(name) not in PARTS.values()}
    adapted = getattr(model, "_hf_peft_config_loaded", False)
    model.config.adapter_folder = _ADAPTER_FOLDER if adapted else None
    if adapted:
        save(os.path.join(folder, _ADAPTER_FOLDER), is_main_process=kwargs.get("is_main_process", True))
        # Transformers saves a model with adapters as the adapters alone.
        model._hf_peft_config_loaded = False
    try:
        # The heads have no older format; an adapter that was loaded would have its renaming undone on them.
        return save(folder, *args, state_dict=state, **kwargs | {"save_original_format": False})
    finally:
        model.config.adapter_folder = None
        if adapted:
            model._hf_peft_config_loaded = True


def load_slim(cls: type, path: str | os.PathLike, config: LiraConfig, *args: Any, **kwargs: Any) -> tuple[Any, dict]:
    """
    Loads a slim checkpoint: the backbones from where they lie, each proved by its fingerprint, then the rest.

    Returns:
        `tuple`: the model, in evaluation mode, and the loading information that Transformers gives.

    Raises:
        ValueError: For a backbone that has changed, a key that is unexpected or of another shape.
        OSError: For a backbone that is not where it was.
    """
    config = copy.deepcopy(config)
    hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
    shared = {name: kwargs[name] for name in _SHARED if kwargs.get(name) is not None}
    own = {name: dict(kwargs.pop(f"{name}_kwargs", None) or {}) for name in PARTS}
    if (quantization := kwargs.pop("quantization_config", None)) is not None:
        own["base"].setdefault("quantization_config", quantization)
    torch_dtype = kwargs.pop("torch_dtype", None)
    dtype = _as_dtype(kwargs.pop("dtype", torch_dtype))
    if (attention := kwargs.pop("attn_implementation", None)) is not None:
        config._attn_implementation = attention
    adapter, generation = kwargs.pop("adapter_kwargs", None) or {}, kwargs.pop("generation_config", None)
    rest = {k: v for k, v in kwargs.items() if k not in (*HUB_OPTIONS, *_SHARED, *_IGNORED)}
    config = _changed(config, rest, path)
    parts = {
        name: _load_part(name, path, config, shared | _attention(config, name) | own[name], dtype)
        for name in cls.parts_of(config)
    }
    model = cls(config, *args, **parts)
    info = _load_heads(model, _read_weights(path, hub), path)
    for module in _heads(model):
        module.to(device=model.get_input_embeddings().weight.device, dtype=dtype)
    if model.can_generate():
        model.generation_config = generation or _generation_config(path, hub) or model.generation_config
    _load_adapter(model, path, config, hub, adapter)
    return model.eval(), info


def _weights_of(attribute: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    own = {name.removeprefix("lira."): value for name, value in state.items()}
    prefix = f"{attribute}."
    return {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}


def _part_of(name: str) -> str:
    return name.removeprefix("lira.").split(".")[0]


def _heads(model: PreTrainedModel) -> list[torch.nn.Module]:
    core = model.base_model
    modules = [module for name, module in core.named_children() if name not in PARTS.values()]
    return modules + [module for module in model.children() if core is not model and module is not core]


def _as_dtype(dtype: Any) -> torch.dtype | None:
    if dtype in (None, "auto"):
        return None
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _attention(config: LiraConfig, name: str) -> dict:
    # The Auto classes have put what the caller asked for into the configuration by now.
    found = getattr(config, f"{name}_config")._attn_implementation
    return {} if found is None else {"attn_implementation": found}


def _changed(config: LiraConfig, changes: dict[str, Any], path: str | os.PathLike) -> LiraConfig:
    for name, value in changes.items():
        if not hasattr(config, name):
            raise TypeError(
                f"got {name!r} for the slim checkpoint {path}; expected an option of from_pretrained or a field of "
                "LiraConfig; leave it out"
            )
        setattr(config, name, value)
    return config


def _load_part(name: str, path: Any, config: LiraConfig, options: dict, dtype: torch.dtype | None) -> PreTrainedModel:
    known = (config.backbone_info or {}).get(name) or {}
    place = options.pop("name", None) or known.get("name")
    if not place:
        raise ValueError(
            f"the slim checkpoint {path} does not say where its backbone {name!r} lies; expected a name in "
            f"backbone_info; give one: {name}_kwargs={{'name': ...}}"
        )
    options.setdefault("revision", known.get("revision"))
    wanted = _as_dtype(options.pop("dtype", dtype))
    saved = getattr(config, f"{name}_config")
    recorded, given = getattr(saved, "quantization_config", None), options.get("quantization_config")
    if recorded is not None and given is None:
        options["quantization_config"] = recorded
    # As it was when its fingerprint was taken; cast afterwards.
    options["dtype"] = _as_dtype(known.get("dtype")) or "auto"
    try:
        part = (load_base if name == "base" else load_encoder)(place, **options)
    except OSError as error:
        raise OSError(
            f"the slim checkpoint {path} needs its backbone {name!r} from {place!r}, which can't be loaded: "
            f"{error}; where it lies elsewhere now, say so: {name}_kwargs={{'name': ...}}"
        ) from error
    check_width(name, part, saved)
    requantized = given is not None and _fields(given) != _fields(recorded)
    _prove(name, path, part, known, requantized)
    return part if wanted is None or is_quantized(part) else part.to(wanted)


def _fields(quantization: Any) -> Any:
    return quantization.to_dict() if hasattr(quantization, "to_dict") else quantization


def _prove(name: str, path: Any, part: PreTrainedModel, known: dict, requantized: bool) -> None:
    found, wanted = backbone_fingerprint(part), known.get("fingerprint")
    if found is None or wanted is None or requantized:
        logger.warning(
            "the backbone %r of the slim checkpoint %s is not proved to be the one it was trained with: its weights "
            "are offloaded, quantised otherwise, or were never fingerprinted",
            name,
            path,
        )
    elif found != wanted:
        raise ValueError(
            f"the backbone {name!r} at {part.config.name_or_path!r} has the fingerprint {found}; the slim "
            f"checkpoint {path} was trained with {wanted} (revision {known.get('revision')}); name the right one, "
            f"by {name}_kwargs={{'name': ..., 'revision': ...}}, or train anew"
        )


def _read_weights(path: str | os.PathLike, hub: dict) -> dict[str, torch.Tensor]:
    index = cached_file(path, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False, **hub)
    names = ["model.safetensors"]
    if index is not None:
        check_shard_names(os.path.dirname(index))
        with open(index, encoding="utf-8") as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
    weights: dict[str, torch.Tensor] = {}
    for name in names:
        weights |= load_file(cached_file(path, name, **hub))
    return {name.removeprefix("lira."): value for name, value in weights.items()}


def _load_heads(model: PreTrainedModel, weights: dict[str, torch.Tensor], path: str | os.PathLike) -> dict[str, Any]:
    wanted = {n.removeprefix("lira."): n for n in model.state_dict() if _part_of(n) not in PARTS.values()}
    ignored = model._keys_to_ignore_on_load_unexpected
    unexpected = {n for n in weights.keys() - wanted.keys() if not any(re.search(rule, n) for rule in ignored)}
    if unexpected:
        raise ValueError(
            f"{path} has {len(unexpected)} weights that {type(model).__name__} has no place for, among them "
            f"{', '.join(sorted(unexpected)[:5])}; expected a slim checkpoint written by save_pretrained; save it "
            "again"
        )
    found = {wanted[name]: value for name, value in weights.items() if name in wanted}
    kinds = {value.dtype for value in found.values()}
    for module in _heads(model) if len(kinds) == 1 else ():
        module.to(dtype=next(iter(kinds)))
    model.load_state_dict(found, strict=False)
    missing = {full for name, full in wanted.items() if name not in weights}
    return {"missing_keys": missing, "unexpected_keys": unexpected, "mismatched_keys": set(), "error_msgs": []}


def _generation_config(path: str | os.PathLike, hub: dict) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(path, **hub)
    except OSError:
        return None


def _load_adapter(model: PreTrainedModel, path: Any, config: LiraConfig, hub: dict, adapter: dict) -> None:
    """LoRA: of the slim checkpoint itself, and of a PEFT folder that names it as its base."""
    if config.adapter_folder:
        options = {name: value for name, value in hub.items() if name != "subfolder"}
        folder = os.path.join(hub.get("subfolder") or "", config.adapter_folder)
        files = [
            cached_file(path, f"{folder}/{name}", **options)
            for name in ("adapter_config.json", "adapter_model.safetensors")
        ]
        model.load_adapter(os.path.dirname(files[0]))
        model.config.adapter_folder = None
    if (outer := adapter.pop("_adapter_model_path", None)) is not None:
        model.load_adapter(outer, adapter_kwargs={k: v for k, v in adapter.items() if v is not None})
