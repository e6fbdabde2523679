"""Diverse beam search with groups of one beam each (Vijayakumar et al., 2016), without code from the Hub."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from .seq2seq_sampling import counted_tokens


__all__ = ["HammingDiversity", "diverse_groups"]


class HammingDiversity(LogitsProcessor):
    """
    Makes a greedy search one group of a diverse beam search: tokens of earlier groups cost a penalty at their step.

    What holds no logit but minus infinity stays so; a token that is forced, the only one with a logit, stays chosen.

    Args:
        earlier (`Sequence[torch.Tensor]`): Of each group before, the decoder's tokens of shape `(rows, tokens)`, start
            token first, padded. What stands behind a row's end token counts nothing.
        penalty (`float`): Taken off a token's logit for each group before that has it at the same step.
        config (`GenerationConfig`): For the end tokens.
    """

    def __init__(self, earlier: Sequence[torch.Tensor], penalty: float, config: GenerationConfig):
        # The start token is left out before ends are looked for, since in some families it is the end token.
        self._targets = [sequences[:, 1:] for sequences in earlier]
        self._costs = [-penalty * counted_tokens(targets, config).float() for targets in self._targets]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits `(rows, vocabulary)` less the penalties; log-probabilities differ by a constant of a row."""
        step = input_ids.shape[-1] - 1
        scores = scores.clone()
        for targets, costs in zip(self._targets, self._costs, strict=True):
            if step < targets.shape[1]:  # else each row of that group had ended
                column = slice(step, step + 1)
                scores.scatter_add_(-1, targets[:, column].to(scores.device), costs[:, column].to(scores))
        return scores


def diverse_groups(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    config: GenerationConfig,
    num_groups: int,
    penalty: float,
    pad_token_id: int,
) -> torch.Tensor:
    """
    The beams of a diverse beam search, Algorithm 1 of Vijayakumar et al. (2016) with B' = 1 and Hamming diversity.

    At each step the algorithm asks group after group. A group of one beam takes the likeliest token after the
    penalties, for which it needs nothing of the groups behind it; so the groups may as well be decoded to their ends
    one after the other, which takes `num_groups` greedy passes.

    Args:
        model (`PreTrainedModel`): An encoder-decoder.
        inputs (`dict[str, torch.Tensor]`): `input_ids` and `attention_mask` of shape `(rows, source tokens)`.
        config (`GenerationConfig`): A greedy search: one beam, one sequence returned, no sampling.
        num_groups (`int`): Beams of a row.
        penalty (`float`): Lambda of the paper.
        pad_token_id (`int`): Fills up what is shorter than the longest sequence.

    Returns:
        `torch.Tensor` of shape `(rows * num_groups, tokens)`: Start token first; a row's groups stand together, in
        their order.

    Raises:
        `ValueError`: `num_groups` below 1.
    """
    if num_groups < 1:
        raise ValueError(f"num_groups is {num_groups}; expected at least 1; pass the number of beams of a row")
    groups: list[torch.Tensor] = []
    for _ in range(num_groups):
        diversity = LogitsProcessorList([HammingDiversity(groups, penalty, config)])
        groups.append(model.generate(**inputs, generation_config=config, logits_processor=diversity))
    width = max(sequences.shape[1] for sequences in groups)
    padded = [
        torch.nn.functional.pad(sequences, (0, width - sequences.shape[1]), value=pad_token_id) for sequences in groups
    ]
    return torch.stack(padded, dim=1).flatten(0, 1)
