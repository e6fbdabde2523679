"""Rows of generation to the tensors of one batch: the base LM's tokens with their labels, and both roads' features."""

from collections.abc import Sequence
from typing import Any

import torch

from lira_hf.inference import RoadFeatures
from lira_hf.models import LiraProcessor

from .collator import side_of, side_tensors
from .generation import reference_slots, tokenize_rows


__all__ = ["GenerationCollator", "ReferenceCollator"]


class ReferenceCollator:
    """
    Rows of [`reference_rows`] to the tensors of one batch of stage 1.

    Args:
        features ([`RoadFeatures`]): Features of both roads; what is missing is computed.
        processor ([`LiraProcessor`], *optional*): Of the model that is trained, where the features are another's.
        references (`bool`, *optional*, defaults to `True`): Give `reference_features`, which the actor learns from
            (ours); zero for a row without a reference.
    """

    def __init__(self, features: RoadFeatures, processor: LiraProcessor | None = None, references: bool = True):
        self.features, self.processor, self.references = features, processor or features.processor, references

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = side_tensors(self.features, self.processor, [side_of(row) for row in rows], None)
        if self.references:
            texts = [row["reference"] or "" for row in rows]
            batch["reference_features"] = torch.from_numpy(self.features.get("anchor", texts)).float()
        return batch


class GenerationCollator:
    """
    Rows of [`generation_rows`] to the tensors of one batch; the roads' features are read from the feature cache.

    Args:
        features ([`RoadFeatures`]): Features of both roads; what is missing is computed.
        processor ([`LiraProcessor`], *optional*): Of the model that is trained, with a base LM, where the features are
            another's.
        prompts (`bool`, *optional*, defaults to `True`): Give what the base LM reads; the warm-up has no use for it.

    Returns:
        `dict[str, torch.Tensor]`: On call, `input_ids`, `attention_mask` and `labels` `(batch, tokens)`: the prompt
        with its placeholders, as at inference, then the completion, of which alone the labels are not -100; padded on
        the tokenizer's side, the left. The inputs of both roads as of [`side_tensors`]. `reference_slots` `(batch,
        bins, tokens of a slot)`: the base LM's tokens of the reference, see [`reference_slots`].

    Raises:
        ValueError: For a processor without a base LM.
    """

    def __init__(self, features: RoadFeatures, processor: LiraProcessor | None = None, prompts: bool = True):
        self.features = features
        self.processor = processor or features.processor
        self.prompts = prompts
        if not self.processor.prefix_length:
            raise ValueError(
                "got a processor without a base LM's tokenizer; expected that of a generation checkpoint; give "
                "LiraProcessor.from_backbones a base"
            )

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self._tokens(rows) if self.prompts else {}
        # Without a role, as generation is asked.
        batch |= side_tensors(self.features, self.processor, [side_of(row) for row in rows], None)
        references = [row.get("reference") or "" for row in rows]
        ids = self.processor.tokenizer(references, add_special_tokens=False)["input_ids"]
        batch["reference_slots"] = reference_slots(ids, self.features.rows - 1)
        return batch

    def _tokens(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        tokenizer = self.processor.tokenizer
        pairs = tokenize_rows(self.processor, [row["prompt"] for row in rows], [row["completion"] for row in rows])
        width = max(len(prompt) + len(completion) for prompt, completion in pairs)
        input_ids = torch.full((len(rows), width), tokenizer.pad_token_id)
        attention_mask, labels = torch.zeros_like(input_ids), torch.full_like(input_ids, -100)
        for number, (prompt, completion) in enumerate(pairs):
            count = len(prompt) + len(completion)
            start = width - count if tokenizer.padding_side == "left" else 0
            place = slice(start, start + count)
            input_ids[number, place] = torch.tensor(prompt + completion)
            attention_mask[number, place] = 1
            labels[number, place] = torch.tensor([-100] * len(prompt) + completion)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
