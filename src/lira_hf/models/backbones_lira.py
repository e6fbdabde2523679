"""Backbones: built from configurations, loaded from names, folders or live modules, run over tokens, fingerprinted."""

import copy
import hashlib
import inspect

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from .pooling_lira import pack_right_padded, pool_features


__all__ = ["backbone_fingerprint", "build_encoder", "encode_tokens", "load_encoder"]

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


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """
    A backbone with new weights, from its configuration alone: nothing is looked up or downloaded.

    Args:
        config (`PreTrainedConfig`): Of any encoder, encoder-decoder or decoder LM.

    Returns:
        `PreTrainedModel`: Whose first output is `(batch, tokens, hidden_size)`. Poolers are left out.
    """
    auto = _auto_class(config)
    model_class = auto._model_mapping[type(config)]
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    extra = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model_class).parameters else {}
    return _as_encoder(auto.from_config(config, **extra))


def load_encoder(source: str | PreTrainedModel, **kwargs) -> PreTrainedModel:
    """
    A pretrained backbone.

    Args:
        source (`str` or `PreTrainedModel`): A name on the Hub, a local folder, or a live module, which is
            taken as it is, without its language-model head.
        kwargs: Passed to `from_pretrained`: `dtype`, `device_map`, `revision`, `trust_remote_code`, ...

    Raises:
        TypeError: For anything else than a name, a folder or a Transformers model; for a live model whose class its
            configuration would not build.
    """
    if isinstance(source, PreTrainedModel):
        if kwargs:
            raise ValueError(
                f"got {sorted(kwargs)} for a live {type(source).__name__}; these only apply to a name or folder"
            )
        return _built_part(source)
    if not isinstance(source, str) and not hasattr(source, "__fspath__"):
        raise TypeError(
            f"a backbone is a {type(source).__name__}; expected a model name, a folder or a "
            "transformers PreTrainedModel"
        )
    config_kwargs = {k: v for k, v in kwargs.items() if k in ("revision", "trust_remote_code", "token", "cache_dir")}
    config = AutoConfig.from_pretrained(source, **config_kwargs)
    auto = _auto_class(config)
    model_class = auto._model_mapping[type(config)] if type(config) in auto._model_mapping else None
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    if model_class is not None and "add_pooling_layer" in inspect.signature(model_class).parameters:
        kwargs["add_pooling_layer"] = False
    # No pickled weights unless the caller asks for them.
    return _as_encoder(auto.from_pretrained(source, **{"use_safetensors": True, **kwargs}))


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
    if mask is None:
        mask = torch.ones_like(ids)
    if mask.shape != ids.shape:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}; expected that of the ids, {tuple(ids.shape)}")
    present = mask.bool().any(-1)
    if not bool(present.any()):
        return torch.zeros(len(ids), 1 + num_bins, encoder.config.get_text_config().hidden_size, device=ids.device)
    packed_ids, packed_mask = pack_right_padded(ids[present], mask[present])
    states = encoder(input_ids=packed_ids, attention_mask=packed_mask)[0]
    pooled = pool_features(states, packed_mask, num_bins, pooling)
    if bool(present.all()):
        return pooled
    features = pooled.new_zeros(len(ids), *pooled.shape[1:])
    return features.index_copy(0, present.nonzero().squeeze(-1), pooled)


@torch.no_grad()
def backbone_fingerprint(model: PreTrainedModel) -> str:
    """
    Tells one backbone from another: a hash of every weight's name, shape and up to 4,096 evenly spaced values.

    Sampling keeps it to a fraction of a second for any size; fine-tuning, quantising or swapping a model changes it.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith("pooler."):
            continue  # never used, and left out where a backbone is built or loaded
        flat = tensor.detach().reshape(-1)
        step = max(-(-flat.numel() // _FINGERPRINT_SAMPLES), 1)  # rounded up, so that the samples reach the end
        sample = flat[::step].float().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()
