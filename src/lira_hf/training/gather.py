"""Rows of all processes, so that each ranks against the same documents and holds the same queue (ours)."""

import dataclasses
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lira_hf.models.modeling_arca import LiraArcaOutput


__all__ = ["RankRows", "join_arca_rows", "rank_weights"]


class RankRows:
    """
    Gathers tensors of as many rows as this process has, from every process of a data-parallel run. All processes have
    to make the same calls, in the same order, in training and in evaluation.

    The gradient of the gathered rows flows back to the process that they come from, and is summed over the processes.
    As DDP then takes the mean of all processes, a loss of the whole batch that each of them computes has the gradient
    that one process with the whole batch would have; so has a mean over own rows, times its [`rank_weights`].

    Args:
        count (`int`): Rows of this process; other processes may have other numbers.
        device (`torch.device`): Where the tensors lie.
    """

    def __init__(self, count: int, device: torch.device):
        self.world = _world()
        self.rank, self.counts = 0, [count]
        if self.world > 1:
            self.rank = dist.get_rank()
            counts = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(self.world)]
            dist.all_gather(counts, torch.tensor(count, device=device))
            self.counts = [int(value) for value in counts]

    def __call__(self, rows: Tensor) -> list[Tensor]:
        """
        Args:
            rows (`torch.Tensor`): Shape `(rows, ...)`, this process's; of the same width and type everywhere.

        Returns:
            `list[torch.Tensor]`: Those of each process, in the order of their ranks; this process's own among them.
        """
        if self.world == 1:
            return [rows]
        most = max(self.counts)
        if not most:
            return [rows] * self.world
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        every = _AllGather.apply(padded) if rows.is_floating_point() else _all_gather(padded)
        return [part[:count] for part, count in zip(every, self.counts, strict=True)]

    def others(self, parts: list[Tensor]) -> list[Tensor]:
        """The rows of all processes but this one, by process."""
        return [part for rank, part in enumerate(parts) if rank != self.rank]


def join_arca_rows(
    output: LiraArcaOutput, scores: Tensor | None, reference: Tensor | None
) -> tuple[LiraArcaOutput, Tensor | None, Tensor | None]:
    """
    The arguments of Arca's loss for the rows of all processes, so that each text is told apart from all processes'
    translations. Every process then has the loss of the whole batch, with the gradient that [`RankRows`] describes.

    Args:
        output ([`LiraArcaOutput`]): Of this process's rows, with texts; candidates may lack.
        scores (`torch.Tensor` of shape `(batch, candidates, 3)`, *optional*): The judge's.
        reference (`torch.Tensor` of shape `(batch, d_h)`, *optional*): In all processes or in none.

    Returns:
        `tuple`: the same of all rows, with the most candidates that any process has; of `output` what the loss reads.
    """
    source = output.source_embeds
    if _world() == 1:
        return output, scores, reference
    own = 0 if output.anchor_embeds is None else output.anchor_embeds.shape[1]
    # Candidates, width of h's vectors, whether there are scores: the most that any process has.
    width = 0 if output.anchor_sentences is None else output.anchor_sentences.shape[-1]
    most = torch.tensor([own, width, int(scores is not None)], device=source.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    candidates, width, judged = (int(value) for value in most)
    gather = RankRows(len(source), source.device)

    def joined(rows: Tensor | None, *shape: int, like: Tensor = source) -> Tensor:
        """Of all processes, padded to `shape`; zeros where this process has none."""
        rows = like.new_zeros(len(source), 0, *shape[1:]) if rows is None else rows
        if shape:
            rows = torch.cat([rows, rows.new_zeros(len(rows), shape[0] - rows.shape[1], *rows.shape[2:])], dim=1)
        if rows.dtype == torch.bool:
            return torch.cat(gather(rows.to(torch.uint8))).bool()
        return torch.cat(gather(rows))

    found = dataclasses.replace(
        output, source_embeds=joined(source), source_mask=joined(output.source_mask), anchor_embeds=None
    )
    reference = None if reference is None else joined(reference)
    if not candidates:
        return found, None, reference
    found.anchor_embeds = joined(output.anchor_embeds, candidates, source.shape[-1])
    found.candidate_mask = joined(output.candidate_mask, candidates, like=output.source_mask)
    found.anchor_sentences = joined(output.anchor_sentences, candidates, width)
    found.similarity = joined(output.similarity, candidates)
    found.log_policy = joined(output.log_policy, candidates)
    return found, joined(scores, candidates, 3) if judged else None, reference


def rank_weights(counts: Tensor) -> Tensor:
    """
    What this process's means are to be multiplied by, so that their mean over the processes is the mean over all rows.

    Args:
        counts (`torch.Tensor`): Int64, shape `(means,)`: rows that each mean is of; they may be 0.

    Returns:
        `torch.Tensor`: Float32, shape `(means,)`; all 1 in one process, or where all have as many rows.
    """
    if _world() == 1:
        return torch.ones_like(counts, dtype=torch.float32)
    total = counts.clone()
    dist.all_reduce(total)
    return counts * _world() / total.clamp(min=1)


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _AllGather(torch.autograd.Function):
    """`(rows, ...)` to `(processes, rows, ...)`, with gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return _all_gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def _all_gather(rows: Tensor) -> Tensor:
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.stack(parts)
