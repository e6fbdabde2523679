"""LoRA on the base LM by PEFT, with LiRA's own heads trained and saved beside it."""

import re
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from lira_hf.models import LiraForCausalLM, LiraPreTrainedModel


if TYPE_CHECKING:
    from peft import LoraConfig


__all__ = ["lira_lora_config"]

_HEADS = ("arca", "fusion", "prefix_projector")


def lira_lora_config(
    model: LiraPreTrainedModel, r: int = 16, lora_alpha: int = 32, train_heads: bool = True, **kwargs: Any
) -> "LoraConfig":
    """
    A LoRA configuration for `model`: every linear layer of the base LM but its head, and none of the encoders, whose
    layers often have the same names.

    Args:
        model ([`LiraForCausalLM`] or another LiRA model that holds a base LM): The model to be adapted.
        r (`int`, *optional*, defaults to 16): Rank.
        lora_alpha (`int`, *optional*, defaults to 32): Scale, as in PEFT.
        train_heads (`bool`, *optional*, defaults to `True`):
            Train Arca, fusion and projector as well, and save them with the adapter. `False`: they stay as they are.
        kwargs: Other fields of `LoraConfig`; `target_modules` among them replaces the choice made here.

    Returns:
        `peft.LoraConfig`: For `get_peft_model(model, config)` or `model.add_adapter(config)`.

    Raises:
        ValueError: For a model without a base LM.

    Example:

    ```python
    >>> from peft import get_peft_model

    >>> adapted = get_peft_model(model, lira_lora_config(model, r=8))
    ```
    """
    from peft import LoraConfig

    core = model.base_model
    if core.language_model is None:
        raise ValueError(
            f"got a {type(model).__name__} without a base LM; expected one that holds a base LM, which LoRA goes "
            "on; load the generation checkpoint by AutoModelForCausalLM"
        )
    heads = [*_HEADS, "embedding_head"] if core.config.embedding_source == "language_model" else list(_HEADS)
    options = {
        "target_modules": _targets(core.language_model),
        "modules_to_save": heads if train_heads else None,
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in core.language_model.modules()),
        "task_type": "CAUSAL_LM" if isinstance(model, LiraForCausalLM) else "FEATURE_EXTRACTION",
    }
    return LoraConfig(r=r, lora_alpha=lora_alpha, **options | kwargs)


def _targets(base: nn.Module) -> str:
    """A regular expression over the names of the base LM's linear layers, wherever the base lies in the model."""
    head = base.get_output_embeddings()
    # A state-space layer, which is told by its A_log, reads the weights of these itself, past any adapter.
    state_space = any(hasattr(module, "A_log") for module in base.modules())
    passed_by = ("dt_proj", "out_proj") if state_space else ()
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in base.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }
    names = sorted(names.difference(passed_by))
    if not names:
        raise ValueError(
            f"the base LM ({type(base).__name__}) has no linear layer besides its head; expected one for LoRA to go "
            "on; name the layers yourself: target_modules=[...]"
        )
    return rf"(.*\.)?language_model\..*\.({'|'.join(map(re.escape, names))})"
