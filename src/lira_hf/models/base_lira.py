"""Running the base LM over a prompt whose placeholders are the soft prefix."""

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .configuration_lira import LiraConfig
from .prefix_lira import REGISTERING, inject_prefix, merge_prefix, prefix_attention, prompt_positions


__all__ = ["last_states", "run_base", "run_base_with_states", "second_table_explained"]


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
    if "attention_mask" in known and attention_mask is not None:
        arguments["attention_mask"] = attention_mask
        fresh = arguments.get("past_key_values") is None and "position_ids" not in arguments
        if fresh and "position_ids" in known and (compiling or _has_gap(attention_mask)):
            arguments["position_ids"] = prompt_positions(attention_mask)
    if states and module is base:
        arguments["output_hidden_states"] = True
    building = prefix is not None and prefix.requires_grad and torch.is_grad_enabled()
    if "use_cache" in known and arguments.get("past_key_values") is None and (states or building):
        # Nobody decodes from here, and a recurrent base would write its cached state over what the gradient needs.
        arguments.setdefault("use_cache", False)
    output = _call(module, base, config, input_ids, prefix, arguments)
    if states and module is base:
        return BaseModelOutput(last_hidden_state=output.hidden_states[-1])
    return output


def _call(module, base, config, input_ids, prefix, arguments: dict) -> Any:
    if input_ids is None or prefix is None:
        return module(**({} if input_ids is None else {"input_ids": input_ids}), **arguments)
    embedding, token_id = base.get_input_embeddings(), config.prefix_token_id
    if config.prefix_injection == "inputs_embeds":
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
        if config.prefix_token_id < size:
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
