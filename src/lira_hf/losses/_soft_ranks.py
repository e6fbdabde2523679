"""
Soft ranks that are differentiable once, with the slope summed beside the sigmoid: of all values among themselves, by
pairs or on a grid (for the soft Spearman), and of positives among many entries by chunks (for the soft nDCG). Ours.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lira_hf.losses._functional import SCORE_LIMIT, refuse_second_order, upcast


__all__ = ["FirstOrder", "chunked_ranks", "compare_by_grid", "compare_by_pairs", "mean_ranks", "soft_ranks"]

# Cells a tau: linear binning and interpolation err by about 0.03 / CELLS_PER_TAU^2 of a comparison, 2e-6 here.
CELLS_PER_TAU = 128
# Most cells: 1024 tau of range. Beyond, the transforms would cost more than they spare.
CELL_LIMIT = 2**17
# From this many values on the grid was faster than all pairs (benchmarks/bench_losses.py), if their range is small; a
# cell costs as much as this many pairs.
GRID_FROM = 1024
PAIRS_A_CELL = 64
# Comparisons made at a time by the form over pairs; four buffers of them, 4 MiB in float32, are held at once.
PAIRS_AT_A_TIME = 2**18

Kernel = Callable[[Tensor], Tensor]
# (values (n,), weights (rows, n), tau, kernel) -> (rows, n): sum over j of weight_j kernel((value_i - value_j) / tau)
Compare = Callable[[Tensor, Tensor, float, Kernel], Tensor]


def sigmoid_slope(differences: Tensor) -> Tensor:
    """The derivative of the sigmoid, an even function."""
    ahead = torch.sigmoid(differences)
    return ahead * (1 - ahead)


def compare_by_pairs(values: Tensor, weights: Tensor, tau: float, kernel: Kernel) -> Tensor:
    """All pairs, `PAIRS_AT_A_TIME` of them at a time: exact, O(n^2) time, bounded memory."""
    step = max(PAIRS_AT_A_TIME // max(len(values), 1), 1)
    pieces = [weights @ kernel((rows - values[:, None]) / tau) for rows in values.split(step)]
    return torch.cat(pieces, dim=1)


def compare_by_grid(values: Tensor, weights: Tensor, tau: float, kernel: Kernel) -> Tensor:
    """
    Weights are shared out linearly to the cells of a grid, the grid is convolved with the kernel by FFT, and the
    result is read between the cells linearly: O(n + cells log cells), error O((cell / tau)^2). `_use_grid` first.
    """
    # Where a device has no float64 the transforms' rounding, some 1e-6 of n, is added to the error.
    dtype = torch.float32 if values.device.type == "mps" else torch.float64
    places = values.to(dtype)
    places = (places - places.amin()) * (CELLS_PER_TAU / tau)
    cells = int(places.amax()) + 2
    left = places.floor()
    share, left = places - left, left.long()
    exact = weights.to(dtype)
    grid = exact.new_zeros(len(weights), cells)
    grid.index_add_(1, left, exact * (1 - share)).index_add_(1, left + 1, exact * share)
    length = 2 ** math.ceil(math.log2(2 * cells))  # no wrap-around, and a good length for the transform
    offsets = torch.arange(length, device=values.device, dtype=dtype)
    offsets = torch.where(offsets < length // 2, offsets, offsets - length) / CELLS_PER_TAU
    spectrum = torch.fft.rfft(grid, n=length) * torch.fft.rfft(kernel(offsets))
    sums = torch.fft.irfft(spectrum, n=length)
    return (sums[:, left] * (1 - share) + sums[:, left + 1] * share).to(weights.dtype)


def _use_grid(values: Tensor, tau: float, grid: bool | None) -> bool:
    """Whether finite values range over few enough cells, and, where the caller has no wish, the grid is faster."""
    if len(values) == 0 or grid is False or (grid is None and len(values) < GRID_FROM):
        return False
    low, high = torch.aminmax(values.detach())
    cells = (float(high) - float(low)) * CELLS_PER_TAU / tau
    most = CELL_LIMIT if grid else min(CELL_LIMIT, len(values) ** 2 // PAIRS_A_CELL)
    return cells <= most - 2  # False if it is NaN


class _SoftRanks(torch.autograd.Function):
    """
    `sum_j sigmoid((v_i - v_j) / tau)`; gradient at k: `sum_j slope((v_k - v_j) / tau) (g_k - g_j) / tau`, compared in
    the same way. On the grid this is of second order in the cell, which the interpolation's own derivative is not.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, tau: float, compare: Compare) -> Tensor:
        ctx.save_for_backward(values)
        ctx.tau, ctx.compare = tau, compare
        with torch.autocast(values.device.type, enabled=False):
            return compare(values, torch.ones_like(values)[None], tau, torch.sigmoid)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_order("soft_spearman_correlation", "there is no form of it that can be derived twice")
        (values,) = ctx.saved_tensors
        weights = torch.stack([torch.ones_like(gradient), gradient])
        with torch.autocast(values.device.type, enabled=False):
            slopes, weighed = ctx.compare(values, weights, ctx.tau, sigmoid_slope)
        return (gradient * slopes - weighed) / ctx.tau, None, None


def soft_ranks(values: Tensor, tau: float, grid: bool | None) -> Tensor:
    """
    Soft ranks less 1/2, `(n,)`, of float `values` `(n,)` among themselves: on the grid if that is wished and they fit
    it; if nothing is wished (`None`), where it is faster too; else over all pairs.
    """
    return _SoftRanks.apply(values, tau, compare_by_grid if _use_grid(values, tau, grid) else compare_by_pairs)


def mean_ranks(values: Tensor) -> Tensor:
    """Hard ranks less 1/2, `(n,)`, exact up to 2^23 values: ties share their mean; O(n log n); NaN stays NaN."""
    _, group, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0) - counts / 2
    return ranks[group].masked_fill(values.isnan(), torch.nan)


class _ChunkedRanks(torch.autograd.Function):
    """
    The soft ranks of soft_ndcg_loss; only scores and mask are saved, which the caller holds anyway. One positive and
    `chunk_size` entries at a time, so that a buffer is `(batch, chunk_size)` however many positives there are.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor | None, places: Tensor, tau: float, chunk_size: int) -> Tensor:
        chosen = _clean(scores.gather(1, places), None if mask is None else mask.gather(1, places), 0.0)
        ranks, slopes = torch.full_like(chosen, 0.5), torch.zeros_like(chosen)
        for start in range(0, scores.shape[1], chunk_size):
            here = slice(start, start + chunk_size)
            piece = _clean(scores[:, here], None if mask is None else mask[:, here], -torch.inf)
            for number, own in enumerate(chosen.T):
                ahead = _ahead(piece, own, tau)
                ranks[:, number] += ahead.sum(dim=1)
                if ctx.needs_input_grad[0]:
                    slopes[:, number] += ahead.addcmul_(ahead, ahead, value=-1).sum(dim=1)
        ctx.save_for_backward(scores, mask, places, chosen, slopes)
        ctx.tau, ctx.chunk_size = tau, chunk_size
        return ranks

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        refuse_second_order("soft_ndcg_loss with chunk_size", "leave chunk_size out")
        scores, mask, places, chosen, slopes = ctx.saved_tensors
        weights = gradient / ctx.tau  # (batch, positives)
        own_gradients = -weights * slopes
        result = torch.empty_like(scores)
        for start in range(0, scores.shape[1], ctx.chunk_size):
            here = slice(start, start + ctx.chunk_size)
            legal = None if mask is None else mask[:, here]
            piece = _clean(scores[:, here], legal, -torch.inf)
            total = torch.zeros_like(piece)
            for number, own in enumerate(chosen.T):
                ahead = _ahead(piece, own, ctx.tau)
                total.addcmul_(ahead.addcmul_(ahead, ahead, value=-1), weights[:, number, None])
            # The positives' own part, in float32 too: the result may be in half precision.
            inside = (places >= start) & (places < start + piece.shape[1])
            total.scatter_add_(1, (places - start).where(inside, 0), own_gradients.where(inside, 0.0))
            result[:, here] = total.masked_fill_(scores[:, here].abs() > SCORE_LIMIT, 0.0)
        return result, None, None, None, None


def _clean(scores: Tensor, legal: Tensor | None, filling: float) -> Tensor:
    """A copy of the scores as floats within `SCORE_LIMIT`, with the filling at illegal entries."""
    safe = upcast(scores).clamp(-SCORE_LIMIT, SCORE_LIMIT)
    return safe if legal is None else safe.masked_fill_(~legal, filling)


def _ahead(piece: Tensor, own: Tensor, tau: float) -> Tensor:
    """How far each entry of the piece `(batch, chunk)` is ahead of the row's own score `(batch,)`, in 0..1."""
    return (piece - own[:, None]).div_(tau).sigmoid_()


def chunked_ranks(scores: Tensor, mask: Tensor | None, places: Tensor, tau: float, chunk_size: int) -> Tensor:
    """Soft ranks `(batch, positives)` of the entries at `places` among the legal ones, without further copies."""
    return _ChunkedRanks.apply(scores, mask, places, tau, chunk_size)


class FirstOrder(torch.autograd.Function):
    """
    Values `(batch, count)` that were computed without a graph, with their derivatives by a vector and by a scalar of
    the same row. Nothing else is kept, so what they were computed from may change before the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, scalars: Tensor, values: Tensor, by_vector: Tensor, by_scalar: Tensor
    ) -> Tensor:  # (batch, dim), (batch,), (batch, count), (batch, count, dim), (batch, count)
        ctx.save_for_backward(by_vector, by_scalar)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        refuse_second_order("RetrievalLoss with chunk_size", "set its chunk_size to None")
        by_vector, by_scalar = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            vectors = (gradient[:, None, :] @ by_vector)[:, 0]
        return vectors, (gradient * by_scalar).sum(dim=1), None, None, None
