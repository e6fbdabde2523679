"""What RetrievalLoss needs to know of a long queue, gathered chunk by chunk together with its derivatives (ours)."""

from typing import NamedTuple

import torch
from torch import Tensor

from lira_hf.losses._soft_ranks import FirstOrder
from lira_hf.losses.mean_variance import join_moments, moments


__all__ = ["QueueScan", "QueueStatistics"]


class QueueStatistics(NamedTuple):
    """
    Of the queue's safe negatives, for each query: `counts` (int64, `(batch,)`) and, with gradient, `ranking`
    `(batch,)`, the sum of sigmoids (soft nDCG) or the logsumexp (InfoNCE) of `(score - positive's score) / tau`;
    `moments` (see there; 0 if not wanted); `hardest` `(batch, num_hardest)`, the highest scores, and `real`, bool,
    which of them there are.
    """

    counts: Tensor
    ranking: Tensor
    moments: tuple[Tensor, Tensor, Tensor]
    hardest: Tensor
    real: Tensor


class QueueScan:
    """
    Takes the queue's vectors a chunk at a time and keeps, beside each statistic, its derivative by the query: a sum of
    the vectors with weights that are known at once. So nothing of size `(batch, entries)` is made, and neither scores
    nor vectors are needed, or computed anew, in the backward pass: the queue may be pushed to before it.

    Args:
        directions (`Tensor`): shape `(batch, dim)`, unit vectors of the queries; the statistics have a gradient by it.
        chosen (`Tensor`): shape `(batch,)`, the positives' scores; as above.
        infonce (`bool`): the objective, else soft nDCG.
        tau (`float`): its temperature.
        spread (`bool`): whether the moments are wanted; else they are 0.
        num_hardest (`int`): how many of the hardest negatives are wanted, also 0.
    """

    def __init__(
        self, directions: Tensor, chosen: Tensor, infonce: bool, tau: float, spread: bool, num_hardest: int
    ) -> None:
        self.inputs = (directions, chosen)
        self.directions, self.chosen = directions.detach(), chosen.detach()
        self.infonce, self.tau, self.spread = infonce, tau, spread
        self.derive = torch.is_grad_enabled() and (directions.requires_grad or chosen.requires_grad)
        (batch, dim), nothing = directions.shape, torch.zeros_like(self.chosen)
        self.ranking, self.highest = nothing, torch.full_like(nothing, -torch.inf)
        self.moments = (torch.zeros_like(nothing, dtype=torch.int64), nothing, nothing)
        self.shift: Tensor | None = None
        self.hardest = torch.full_like(nothing[:, None].expand(-1, num_hardest), -torch.inf)
        self.hardest_vectors = self.directions.new_zeros(batch, num_hardest, dim)
        # Sums of the vectors weighted by the ranking's slope, by 1, and by the score less a shift.
        self.weighted = self.directions.new_zeros(3 if spread else 1, batch, dim)
        self.slope_sums = nothing
        self.counts = self.moments[0]

    @torch.no_grad()
    def add(self, vectors: Tensor, safe: Tensor) -> None:
        """Takes in unit vectors `(chunk, dim)`, of which `safe`, bool `(batch, chunk)`, are negatives."""
        scores, unsafe = self.directions @ vectors.T, ~safe
        self.counts = self.counts + safe.sum(dim=1)
        weights = [self._add_ranking(scores, unsafe)]
        if self.spread:
            weights += self._add_moments(scores, safe, unsafe)
        if self.derive:
            self.weighted.view(-1, self.weighted.shape[-1]).addmm_(torch.cat(weights), vectors)
        if self.hardest.shape[1]:
            self._add_hardest(scores.masked_fill_(unsafe, -torch.inf), vectors)

    def _add_ranking(self, scores: Tensor, unsafe: Tensor) -> Tensor:
        """Adds to the objective's sum; returns the weights `(batch, chunk)` of the vectors in its derivative."""
        relative = (scores - self.chosen[:, None]).div_(self.tau).masked_fill_(unsafe, -torch.inf)
        if not self.infonce:
            ahead = relative.sigmoid_()
            self.ranking = self.ranking + ahead.sum(dim=1)
            slopes = ahead.addcmul_(ahead, ahead, value=-1).div_(self.tau)
            self.slope_sums = self.slope_sums + slopes.sum(dim=1)
            return slopes
        # A logsumexp that goes along: sums are relative to the highest so far.
        highest = torch.maximum(self.highest, relative.amax(dim=1))
        base = highest.masked_fill(highest.isinf(), 0.0)
        former = (self.highest - base).exp()
        exponentials = relative.sub_(base[:, None]).exp_()
        self.ranking = self.ranking * former + exponentials.sum(dim=1)
        self.weighted[0] *= former[:, None]
        self.highest = highest
        return exponentials

    def _add_moments(self, scores: Tensor, safe: Tensor, unsafe: Tensor) -> list[Tensor]:
        """Joins the chunk's moments; returns the weights of the vectors in the derivatives."""
        kept = scores.masked_fill(unsafe, 0.0)
        piece = moments(kept, safe)
        if self.shift is None:
            self.shift = piece[1]  # near the mean: else scores that are all alike would cancel
        self.moments = join_moments(self.moments, piece)
        return [safe.to(kept.dtype), kept.sub_(self.shift[:, None]).masked_fill_(unsafe, 0.0)]

    def _add_hardest(self, scores: Tensor, vectors: Tensor) -> None:
        """Keeps the highest of those held and of the chunk's, with their vectors."""
        held = self.hardest.shape[1]
        self.hardest, places = torch.cat([self.hardest, scores], dim=1).topk(held, dim=1)
        if self.derive:
            old = self.hardest_vectors.gather(
                1, places.clamp_max(held - 1)[:, :, None].expand_as(self.hardest_vectors)
            )
            self.hardest_vectors = torch.where((places < held)[:, :, None], old, vectors[(places - held).clamp_min(0)])

    def result(self) -> QueueStatistics:
        """The statistics, with a gradient that can be derived once."""
        real = self.hardest > -torch.inf
        counts, means, squares = self.moments
        ranking = self.ranking
        if self.infonce:
            ranking = self.highest.masked_fill(self.highest.isinf(), 0.0) + ranking.log()
        values = torch.cat(
            [torch.stack([ranking, means, squares], dim=1), self.hardest.masked_fill(~real, 0.0)], dim=1
        )
        if self.derive:
            values = FirstOrder.apply(*self.inputs, values, *self._derivatives(real))
        far = values.unbind(dim=1)
        return QueueStatistics(self.counts, far[0], (counts, far[1], far[2]), values[:, 3:], real)

    def _derivatives(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """Of the values by the directions, `(batch, 3 + num_hardest, dim)`, and by the chosen, without `dim`."""
        counts, means, _ = self.moments
        by_chosen = self.hardest.new_zeros(len(real), 3 + real.shape[1])
        ranking = self.weighted[0]
        if self.infonce:
            ranking = ranking / (self.ranking * self.tau).masked_fill(self.ranking == 0, 1.0)[:, None]
            by_chosen[:, 0] = -(self.ranking > 0).to(by_chosen.dtype) / self.tau
        else:
            by_chosen[:, 0] = -self.slope_sums
        one = square = torch.zeros_like(ranking)
        if self.spread and self.shift is not None:
            one = self.weighted[1] / counts.clamp_min(1)[:, None]
            square = 2 * (self.weighted[2] - (means - self.shift)[:, None] * self.weighted[1])
        hardest = self.hardest_vectors.masked_fill(~real[:, :, None], 0.0)
        return torch.cat([torch.stack([ranking, one, square], dim=1), hardest], dim=1), by_chosen
