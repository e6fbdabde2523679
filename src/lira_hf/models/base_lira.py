"""Running the base LM over a prompt whose placeholders are the soft prefix."""

import inspect
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .configuration_lira import LiraConfig
from .prefix_lira import (
    REGISTERING,
    inject_prefix,
    merge_prefix,
    place_prefix,
    prefix_attention,
    prompt_positions,
)


__all__ = [
    "forget_gaps",
    "last_states",
    "past_length",
    "remember_gaps",
    "run_base",
    "run_base_with_states",
    "second_table_explained",
    "with_known_gaps",
]

_PARAMETERS: dict[type[nn.Module], frozenset[str]] = {}  # a plain dict, which torch.compile can look into


def _parameters(kind: type[nn.Module]) -> frozenset[str]:
    if kind not in _PARAMETERS:
        _PARAMETERS[kind] = frozenset(inspect.signature(kind.forward).parameters)
    return _PARAMETERS[kind]


def run_base(
    base: PreTrainedModel,
    config: LiraConfig,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    prefix: torch.Tensor | None,
    prefix_mask: torch.Tensor | None,
    states: bool = False,
    **kwargs: Any,
) -> Any:
    """
    One pass of the base LM.

    Positions are counted as `generate` counts them, over attended tokens alone, so that a left-padded row, or one
    whose prefix has empty slots, gives the same logits here and there.

    Args:
        base (`PreTrainedModel`): The base causal LM.
        config ([`LiraConfig`]): Names the placeholder and the way of injection.
        input_ids, attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): The prompt, checked.
        prefix (`torch.Tensor` of shape `(batch, slots, D)`, *optional*): The soft tokens. `None`: the base LM alone.
        prefix_mask (`torch.Tensor` of shape `(batch, slots)`, *optional*): 1 for those that stand for something.
        states (`bool`, *optional*, defaults to `False`): Stop before the language-model head.
        kwargs: For the base; those that are `None` are not passed.

    Returns:
        The base's own output; where `states=True` one with `last_hidden_state`.
    """
    module = base.base_model if states and base.base_model is not base else base
    known = _parameters(type(module))
    compiling = torch.compiler.is_compiling()
    if prefix is not None and (compiling or not bool(prefix_mask.all())):
        attention_mask = prefix_attention(input_ids, attention_mask, prefix_mask, config.prefix_token_id)
    arguments = {name: value for name, value in kwargs.items() if value is not None}
    cache = arguments.get("past_key_values")
    forget_gaps(cache)
    if past_length(cache) and input_ids is not None:
        width = past_length(cache) + input_ids.shape[1]
        continued = with_known_gaps(cache, attention_mask, len(input_ids), width)
        if continued is not attention_mask and "position_ids" in known:
            arguments.setdefault("position_ids", prompt_positions(continued)[:, -input_ids.shape[1] :])
        attention_mask = continued
    if "attention_mask" in known and attention_mask is not None:
        arguments["attention_mask"] = attention_mask
        fresh = cache is None and "position_ids" not in arguments
        if fresh and "position_ids" in known and (compiling or _has_gap(attention_mask)):
            arguments["position_ids"] = prompt_positions(attention_mask)
    if states and module is base:
        arguments["output_hidden_states"] = True
    if "use_cache" not in known:
        arguments.pop("use_cache", None)
    elif states:
        arguments.setdefault("use_cache", False)  # nobody decodes from here
    output = _call(module, base, config, input_ids, prefix, arguments)
    if prefix is not None and not compiling:
        remember_gaps(output.get("past_key_values"), attention_mask)
    if states and module is base:
        return BaseModelOutput(last_hidden_state=output.hidden_states[-1])
    return output


def _call(module, base, config, input_ids, prefix, arguments: dict) -> Any:
    if input_ids is None or prefix is None:
        return module(**({} if input_ids is None else {"input_ids": input_ids}), **arguments)
    embedding, token_id = base.get_input_embeddings(), config.prefix_token_id
    if (embeds := arguments.pop("inputs_embeds", None)) is not None:
        return module(inputs_embeds=place_prefix(input_ids, embeds, prefix, token_id), **arguments)
    # While compiling, a hook would be left out, or break the graph.
    if config.prefix_injection == "inputs_embeds" or torch.compiler.is_compiling():
        if getattr(config.get_text_config(), "hidden_size_per_layer_input", None):
            raise ValueError(
                f"prefix_injection is 'inputs_embeds' and the base LM ({base.config.model_type}) looks its tokens "
                "up in every layer too, so embeddings alone would give other results; expected 'hook'; set "
                "config.prefix_injection"
            )
        return module(inputs_embeds=merge_prefix(input_ids, prefix, token_id, embedding), **arguments)
    with inject_prefix(embedding, prefix, token_id, input_ids.shape[1]), second_table_explained(config):
        return module(input_ids=input_ids, **arguments)


@contextmanager
def second_table_explained(config: LiraConfig) -> Iterator[None]:
    """A base that looks its ids up in another table too trips over a placeholder beyond its vocabulary: says so."""
    try:
        yield
    except IndexError as error:
        size = config.get_text_config().vocab_size
        # Of a table of embeddings, or of any other that is read by its rows; not of scores, whose columns are tokens.
        looked_up = re.search("index out of range|out of bounds for dimension 0", str(error))
        if config.prefix_token_id < size or not looked_up:
            raise
        raise ValueError(
            f"the placeholder has the id {config.prefix_token_id}, and the base LM "
            f"({config.base_config.model_type}) of {size} tokens looks ids up in a second table, which has no such "
            "row; expected an id within the vocabulary that no text has; join the model with it: prefix_token_id=..."
        ) from error


def run_base_with_states(base: PreTrainedModel, *args: Any, **kwargs: Any) -> tuple[Any, torch.Tensor]:
    """As [`run_base`]: the base's output, and its last states `(batch, tokens, dim)` without those of every layer."""
    if base.base_model is base:
        output = run_base(base, *args, **kwargs | {"output_hidden_states": True})
        return output, output.hidden_states[-1]
    thread, seen = threading.get_ident(), []

    def keep(module, arguments, output):
        if threading.get_ident() == thread:
            seen.append(output[0])

    with REGISTERING:
        handle = base.base_model.register_forward_hook(keep)
    try:
        output = run_base(base, *args, **kwargs)
    finally:
        with REGISTERING:
            handle.remove()
    return output, seen[-1]


def past_length(cache: Any) -> int:
    """Tokens that a cache holds already."""
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0


def remember_gaps(cache: Any, attention_mask: torch.Tensor | None) -> None:
    """Notes on a cache which of its places hold something, for whoever goes on from it with a mask of ones."""
    if cache is not None and attention_mask is not None and _has_gap(attention_mask):
        cache.lira_attended = attention_mask.detach()


def forget_gaps(cache: Any) -> None:
    """Drops what was noted of places that a cache holds no more, since it was reset or cropped."""
    attended = getattr(cache, "lira_attended", None)
    if attended is not None and attended.shape[1] > (held := past_length(cache)):
        cache.lira_attended = attended[:, :held] if held else None


def with_known_gaps(cache: Any, attention_mask: torch.Tensor | None, rows: int, width: int) -> torch.Tensor | None:
    """
    The attention mask `(rows, width)` over a cache and what comes after it, without the places noted as empty; the
    mask as it is where nothing was noted, or of other rows.
    """
    attended = getattr(cache, "lira_attended", None)
    if attended is None or len(attended) != rows or attended.shape[1] > width:
        return attention_mask
    if attention_mask is None:
        attention_mask = attended.new_ones(rows, width)
    if attention_mask.shape != (rows, width):
        return attention_mask
    attention_mask = attention_mask.clone()
    attention_mask[:, : attended.shape[1]] *= attended.to(attention_mask)
    return attention_mask


def _has_gap(attention_mask: torch.Tensor) -> bool:
    """Whether a padded place comes before an attended one."""
    mask = attention_mask.bool()
    return bool((~mask[:, :-1] & mask[:, 1:]).any())


def last_states(states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The state `(batch, dim)` of each row's last attended token, of `(batch, tokens, dim)`, on either padding
    side."""
    if attention_mask is None:
        return states[:, -1]
    place = torch.arange(attention_mask.shape[1], device=states.device)
    last = (place * attention_mask.bool().to(states.device)).argmax(-1)
    return states[torch.arange(len(states), device=states.device), last]
