"""The losses of the generation stage over a batch: the answer's cross-entropy through the base LM, or the soft
prefix's against an English reference, with path dropout and consistency."""

import torch
from torch import Tensor, nn

from lira_hf.losses import consistency_loss

from .arguments import LiraTrainingArguments
from .collator import SIDE
from .gather import rank_weights
from .objective import LasrLoss, drop_paths


__all__ = ["GenerationObjective"]


class GenerationObjective:
    """
    The loss of stage 2 over a batch of [`GenerationCollator`].

    `generation_loss="reference"` warms the soft prefix up (ours): it is to read as the English reference, which takes
    no pass of the base LM. `"answer"` is the cross-entropy of the completion through the base LM (paper), plus
    `slot_weight` times the reference's loss and `consistency_weight` times `consistency_loss` over the prefixes.

    Args:
        args ([`LiraTrainingArguments`]): With the weights.
    """

    def __init__(self, args: LiraTrainingArguments):
        self.args = args

    def __call__(self, model: nn.Module, inputs: dict[str, Tensor]) -> LasrLoss:
        """
        Args:
            model (`nn.Module`): A [`LiraForCausalLM`], wrapped or not.
            inputs (`dict[str, torch.Tensor]`): A batch of [`GenerationCollator`].
        """
        args = self.args
        roads = {name: inputs[name] for name in SIDE if name in inputs}
        both = roads["source_features"].flatten(1).any(-1)
        both = both & (roads["anchor_features"].flatten(1).any(-1) if "anchor_features" in roads else False)
        if model.training and args.path_dropout:
            roads |= drop_paths(both, len(both), args.path_dropout)
            both = both & roads["keep_source"] & roads["keep_anchor"]
        answered, referred, consistent = _shares(inputs, both)
        if args.generation_loss == "reference":
            output = model(reference_slots=inputs["reference_slots"], **roads)
            return LasrLoss(referred * output.loss, output, {"reference": output.loss.detach().float()})
        if args.slot_weight:
            roads["reference_slots"] = inputs["reference_slots"]
        asked = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
        output = model(**asked, **roads, output_paths=bool(args.consistency_weight))
        loss, parts = answered * output.loss, {"answer": output.loss}
        if args.slot_weight:
            parts["reference"] = output.reference_loss
            loss = loss + args.slot_weight * referred * output.reference_loss
        if args.consistency_weight:
            prefixes = (output.prefix_embeds, output.source_path_embeds, output.anchor_path_embeds)
            parts["consistency"] = consistency_loss(*(prefix.flatten(1).float() for prefix in prefixes), both, both)
            loss = loss + args.consistency_weight * consistent * parts["consistency"]
        if output.prefix_gate is not None:
            parts["gate"] = torch.where(both, output.prefix_gate, 0.0).sum() / both.sum().clamp(min=1)
        return LasrLoss(loss, output, {name: value.detach().float() for name, value in parts.items()})


def _shares(inputs: dict[str, Tensor], both: Tensor) -> Tensor:
    """What this process's means over answers' tokens, references and texts of both roads are multiplied by, so that
    their mean over the processes is that of the whole batch."""
    counts = both.new_zeros(3, dtype=torch.int64)
    if "labels" in inputs:
        counts[0] = (inputs["labels"][:, 1:] != -100).sum()
    if "reference_slots" in inputs:
        counts[1] = (inputs["reference_slots"] != -100).flatten(1).any(-1).sum()
    counts[2] = both.sum()
    return rank_weights(counts)
