"""Backbones: built from configurations, loaded from names, folders or live modules, run over tokens, fingerprinted."""

import copy
import hashlib
import inspect

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from .configuration_lira import hidden_size
from .places_lira import loading
from .pooling_lira import pack_right_padded, pool_features


__all__ = [
    "backbone_fingerprint",
    "build_base",
    "build_encoder",
    "check_width",
    "encode_tokens",
    "has_own_code",
    "is_quantized",
    "load_base",
    "load_encoder",
    "stays_still",
]

_FINGERPRINT_SAMPLES = 4096


def _auto_class(config: PreTrainedConfig):
    # Not by is_encoder_decoder: T5's encoder sets it to False on the configuration it is given.
    return AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel


def _as_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder half of an encoder-decoder such as NLLB; the model itself otherwise."""
    if isinstance(getattr(model, "encoder", None), nn.Module) and isinstance(
        getattr(model, "decoder", None), nn.Module
    ):
        return model.get_encoder()
    return model


def _built_part(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a live model that its configuration alone would build, since a checkpoint is loaded into that."""
    if type(model.config) not in AutoModel._model_mapping:
        return _as_encoder(model)
    with torch.device("meta"), init.no_init_weights():
        wanted = type(build_encoder(copy.deepcopy(model.config)))  # a copy: some models write to it
    for part in (model, model.base_model, _as_encoder(model.base_model)):
        if isinstance(part, wanted):
            return part
    raise TypeError(
        f"the backbone is a live {type(model).__name__}; expected a {wanted.__name__}, as its checkpoints are loaded; "
        f"pass its name or folder, or {wanted.__name__}.from_pretrained(...)"
    )


def has_own_code(config: PreTrainedConfig) -> bool:
    """Whether a backbone's code comes with its repository, so that its configuration alone does not build it."""
    return config.model_type not in CONFIG_MAPPING


def _refuse_unknown(config: PreTrainedConfig, name: str, known: bool) -> None:
    if known:
        return
    if has_own_code(config):
        option = f"{name.removesuffix('_config')}_kwargs={{'trust_remote_code': True}}"
        raise ValueError(
            f"{name} has the model type {config.model_type!r}, which Transformers does not know, as its code comes "
            "with its repository; expected a slim checkpoint, which loads it from there; save with "
            f"save_backbones=False and load with {option}, or register its classes first"
        )
    wanted = "causal LM, such as LlamaConfig" if name == "base_config" else "text model, such as XLMRobertaConfig"
    raise ValueError(f"{name} is a {type(config).__name__}; expected that of a {wanted}; give another backbone")


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """
    A backbone with new weights, from its configuration alone: nothing is looked up or downloaded.

    Args:
        config (`PreTrainedConfig`): Of any encoder, encoder-decoder or decoder LM.

    Returns:
        `PreTrainedModel`: Whose first output is `(batch, tokens, hidden_size)`. Poolers are left out.
    """
    auto = _auto_class(config)
    _refuse_unknown(config, "encoder_config", type(config) in auto._model_mapping)
    model_class = auto._model_mapping[type(config)]
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    extra = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model_class).parameters else {}
    return _as_encoder(auto.from_config(config, **extra))


def build_base(config: PreTrainedConfig) -> PreTrainedModel:
    """
    A base causal LM with new weights, from its configuration alone.

    Raises:
        ValueError: For a configuration that no causal LM has.
    """
    _refuse_unknown(config, "base_config", type(config) in AutoModelForCausalLM._model_mapping)
    return AutoModelForCausalLM.from_config(config)


def load_encoder(source: str | PreTrainedModel, **kwargs) -> PreTrainedModel:
    """
    A pretrained encoder.

    Args:
        source (`str` or `PreTrainedModel`): A name on the Hub, a local folder, or a live module, which is
            taken as it is, without its language-model head.
        kwargs: Passed to `from_pretrained`: `dtype`, `device_map`, `revision`, `trust_remote_code`, ...

    Raises:
        TypeError: For anything else than a name, a folder or a Transformers model; for a live model whose class its
            configuration would not build.
    """
    if isinstance(source, PreTrainedModel):
        _refuse_options(source, kwargs)
        return _built_part(source)
    _check_place(source)
    config_kwargs = {k: v for k, v in kwargs.items() if k in ("revision", "trust_remote_code", "token", "cache_dir")}
    with loading(source):
        config = AutoConfig.from_pretrained(source, **config_kwargs)
    auto = _auto_class(config)
    model_class = auto._model_mapping[type(config)] if type(config) in auto._model_mapping else None
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    if model_class is not None and "add_pooling_layer" in inspect.signature(model_class).parameters:
        kwargs["add_pooling_layer"] = False
    # No pickled weights unless the caller asks for them.
    return _as_encoder(auto.from_pretrained(source, **{"use_safetensors": True, **kwargs}))


def load_base(source: str | PreTrainedModel, **kwargs) -> PreTrainedModel:
    """
    A pretrained base causal LM.

    Args:
        source (`str` or `PreTrainedModel`): A name on the Hub, a local folder, or a live causal LM, taken as it is.
        kwargs: Passed to `from_pretrained`: `dtype`, `device_map`, `quantization_config`, `trust_remote_code`, ...

    Raises:
        TypeError: For anything else; for a live model that can't generate.
    """
    if isinstance(source, PreTrainedModel):
        _refuse_options(source, kwargs)
        if not source.can_generate():
            raise TypeError(
                f"the base LM is a live {type(source).__name__}, which has no language-model head; expected a "
                "causal LM; load it by AutoModelForCausalLM"
            )
        return source
    _check_place(source)
    with loading(source):
        return AutoModelForCausalLM.from_pretrained(source, **{"use_safetensors": True, **kwargs})


def check_width(name: str, part: PreTrainedModel, config: PreTrainedConfig) -> None:
    """
    Raises:
        ValueError: Where a backbone is not as wide as its configuration says, which the heads were made for.
    """
    found, wanted = hidden_size(part.config, name), hidden_size(config, name)
    if found != wanted:
        raise ValueError(
            f"the {name} is {found} wide ({type(part).__name__}); expected {wanted}, as {name}_config says, which "
            "the heads were made for; give the backbone that they belong to"
        )


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether a backbone's weights are quantised."""
    return getattr(model, "hf_quantizer", None) is not None


def _refuse_options(source: PreTrainedModel, kwargs: dict) -> None:
    if kwargs:
        raise ValueError(
            f"got {sorted(kwargs)} for a live {type(source).__name__}; these only apply to a name or folder"
        )


def _check_place(source: object) -> None:
    if not isinstance(source, str) and not hasattr(source, "__fspath__"):
        hint = "; of a PEFT model give merge_and_unload(), or add LoRA after joining, with lira_lora_config"
        raise TypeError(
            f"a backbone is a {type(source).__name__}; expected a model name, a folder or a "
            f"transformers PreTrainedModel{hint if hasattr(source, 'peft_config') else ''}"
        )


def stays_still(part: PreTrainedModel, base: bool) -> bool:
    """
    Whether a backbone is in evaluation mode whatever the heads are in, as nothing in it is trained.

    Args:
        part (`PreTrainedModel`): The backbone.
        base (`bool`): It is the base LM, which may have gradient checkpointing; that works in training mode alone. g
            and h, when frozen, have no graph.
    """
    if any(weight.requires_grad for weight in part.parameters()):
        return False
    return not (base and any(getattr(module, "gradient_checkpointing", False) for module in part.modules()))


def encode_tokens(
    encoder: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor | None, num_bins: int, pooling: str
) -> torch.Tensor:
    """
    One pass of a backbone, pooled. Rows without any token cost nothing and give zeros.

    Args:
        encoder (`PreTrainedModel`): g or h.
        ids (`torch.Tensor` of shape `(rows, tokens)`): Token ids, padded on either side.
        mask (`torch.Tensor` of shape `(rows, tokens)`, *optional*): 1 for tokens, 0 for padding; `None`: all tokens.
        num_bins (`int`): S.
        pooling (`str`): How the sentence vector is made.

    Returns:
        `torch.Tensor` of shape `(rows, 1 + bins, hidden_size)`, float32.
    """
    ids = ids.to(encoder.device)
    mask = torch.ones_like(ids) if mask is None else mask.to(encoder.device)
    if mask.shape != ids.shape:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}; expected that of the ids, {tuple(ids.shape)}")
    present = mask.bool().any(-1)
    if not bool(present.any()):
        return torch.zeros(len(ids), 1 + num_bins, encoder.config.get_text_config().hidden_size, device=ids.device)
    whole = bool(present.all())
    packed_ids, packed_mask = pack_right_padded(*((ids, mask) if whole else (ids[present], mask[present])))
    states = encoder(input_ids=packed_ids, attention_mask=packed_mask)[0]
    pooled = pool_features(states, packed_mask, num_bins, pooling)
    if whole:
        return pooled
    features = pooled.new_zeros(len(ids), *pooled.shape[1:])
    return features.index_copy(0, present.nonzero().squeeze(-1), pooled)


@torch.no_grad()
def backbone_fingerprint(model: PreTrainedModel, state: dict[str, torch.Tensor] | None = None) -> str | None:
    """
    Tells one backbone from another: a hash of every weight's name, shape and up to 4,096 evenly spaced values.

    Sampling keeps it to a fraction of a second for any size; fine-tuning, quantising or swapping a model changes
    it, LoRA beside its weights does not.

    Args:
        model (`PreTrainedModel`): The model.
        state (`dict[str, torch.Tensor]`, *optional*): Its weights, where they are sharded and have been gathered.

    Returns:
        `str`, *optional*: 16 hexadecimal digits; `None` for a model some of whose weights are offloaded.
    """
    digest = hashlib.blake2b(digest_size=8)
    state = model.state_dict() if state is None else state
    weights = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
    for name, tensor in sorted(weights.items()):
        if name.startswith("pooler.") or ".lora_" in name:
            continue  # never used, and left out where a backbone is built or loaded; LoRA is no part of it
        if tensor.is_meta:
            return None
        flat = tensor.detach().reshape(-1)
        step = max(-(-flat.numel() // _FINGERPRINT_SAMPLES), 1)  # rounded up, so that the samples reach the end
        sample = flat[::step].float().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()
