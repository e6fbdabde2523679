"""Multiple choice over a base causal LM: how likely it holds each choice to be, and a head that learns a
difference."""

from dataclasses import dataclass
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput, TransformersKwargs

from .base_lira import last_states, run_base_with_states
from .configuration_lira import LiraConfig, hidden_size
from .modeling_causal_lira import LiraWithBase


__all__ = ["LiraForMultipleChoice", "LiraMultipleChoiceOutput"]


@dataclass
class LiraMultipleChoiceOutput(ModelOutput):
    """
    Output of [`LiraForMultipleChoice`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): Cross-entropy of the right choice.
        logits (`torch.Tensor` of shape `(batch, choices)`): Score of each choice.
        choice_log_likelihood (`torch.Tensor` of shape `(batch, choices)`, *optional*):
            Mean log-likelihood of a choice's tokens, where `choice_mask` says which they are.
        hidden_states, attentions (*optional*): Of the base LM, `batch x choices` rows, where asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    choice_log_likelihood: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class LiraForMultipleChoice(LiraWithBase):
    """
    Scores each choice by the base LM's mean log-likelihood of its tokens after soft prefix and question, plus a
    head over the last state that starts at zero (ours). So a generation checkpoint needs no training to answer, and
    a trained head must earn its difference.

    Args:
        config ([`LiraConfig`]): The configuration, with a `base_config`.
        encoder, anchor, base (`PreTrainedModel`, *optional*): Ready-made backbones; built from the configuration
            otherwise.

    Example:

    ```python
    >>> batch = processor(["আকাশের রং কী?"], choices=[[" blue", " green"]], languages="bn")
    >>> model(**batch).logits.argmax(-1)
    ```
    """

    _new_heads = ("choice_head.",)
    _can_record_outputs = {}
    accepts_loss_kwargs = False  # its loss is a mean over the batch

    def __init__(self, config: LiraConfig, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        self.choice_head = nn.Linear(hidden_size(config.base_config, "base_config"), 1)
        self.choice_head.init_std = 0.0
        self.post_init()
        self.freeze()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        choice_mask: torch.Tensor | None = None,
        source_ids: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        anchor_ids: torch.Tensor | None = None,
        anchor_mask: torch.Tensor | None = None,
        anchor_scores: torch.Tensor | None = None,
        anchor_traits: torch.Tensor | None = None,
        language_ids: torch.Tensor | None = None,
        source_features: torch.Tensor | None = None,
        anchor_features: torch.Tensor | None = None,
        prefix_embeds: torch.Tensor | None = None,
        prefix_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LiraMultipleChoiceOutput | tuple:
        """
        Args:
            input_ids, attention_mask (`torch.Tensor` of shape `(batch, choices, tokens)`):
                The base LM's prompt with the placeholders, followed by each choice.
            choice_mask (`torch.Tensor` of shape `(batch, choices, tokens)`, *optional*):
                1 for the tokens of the choice itself. Without it the head alone scores.
            source_ids, ... prefix_mask (`torch.Tensor`, *optional*): The question's, as in
                [`LiraForCausalLM.forward`], one row per question.
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): Index of the right choice.

        Returns:
            [`LiraMultipleChoiceOutput`] or a tuple.
        """
        if input_ids is None or input_ids.dim() != 3:
            shape = None if input_ids is None else tuple(input_ids.shape)
            raise ValueError(
                f"input_ids has shape {shape}; expected (batch, choices, tokens): each question with each of its "
                "choices; prepare inputs with AutoProcessor, giving `choices`"
            )
        text = {
            "source_ids": source_ids,
            "source_mask": source_mask,
            "anchor_ids": anchor_ids,
            "anchor_mask": anchor_mask,
            "anchor_scores": anchor_scores,
            "anchor_traits": anchor_traits,
            "language_ids": language_ids,
            "source_features": source_features,
            "anchor_features": anchor_features,
            "prefix_embeds": prefix_embeds,
            "prefix_mask": prefix_mask,
        }
        batch, choices = input_ids.shape[:2]
        ids, attention, mask = (
            None if tensor is None else tensor.flatten(0, 1) for tensor in (input_ids, attention_mask, choice_mask)
        )
        prefix = self._shared_prefix(input_ids, text)
        output, states = run_base_with_states(
            self.language_model, self.config, ids, attention, *prefix, use_cache=False, **kwargs
        )
        state = last_states(states, attention)
        logits = self.choice_head(state.to(self.choice_head.weight)).view(batch, choices)
        likelihood = None
        if mask is not None:
            likelihood = _mean_log_likelihood(output.logits, ids, mask).view(batch, choices)
            logits = logits + likelihood.to(logits)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        result = LiraMultipleChoiceOutput(
            loss=loss,
            logits=logits,
            choice_log_likelihood=likelihood,
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
        )
        return result if (self.config.return_dict if return_dict is None else return_dict) else result.to_tuple()

    def _shared_prefix(self, input_ids: torch.Tensor, text: dict) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """One prefix per question, shared by its choices."""
        choices = input_ids.shape[1]
        found = self.find_prefix(input_ids[:, 0], **text)
        prefix, mask = found["prefix_embeds"], found["prefix_mask"]
        if prefix is None:
            self.find_prefix(input_ids)
            return None, None
        prefix, mask = prefix.repeat_interleave(choices, dim=0), mask.repeat_interleave(choices, dim=0)
        self.find_prefix(input_ids.flatten(0, 1), prefix, mask)  # the placeholders of the other choices
        return prefix, mask


def _mean_log_likelihood(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`logits` `(rows, tokens, vocabulary)`, `ids` and `mask` `(rows, tokens)` -> `(rows,)`."""
    keep = mask[:, 1:].bool()
    target = ids[:, 1:].masked_fill(~keep, 0)  # a placeholder may lie beyond the vocabulary
    chosen = logits[:, :-1].float().log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return (chosen * keep).sum(-1) / keep.sum(-1).clamp(min=1)
