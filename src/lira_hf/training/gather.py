"""Rows of all processes, so that each ranks against the same documents and holds the same queue (ours)."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


__all__ = ["RankRows", "rank_weights"]


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
