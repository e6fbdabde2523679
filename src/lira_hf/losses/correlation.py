"""Correlation loss of the paper's LaSR for ranking: Pearson and soft Spearman over the CorrQueue and the batch."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lira_hf.losses._functional import SCORE_LIMIT, upcast
from lira_hf.losses._soft_ranks import mean_ranks, soft_ranks
from lira_hf.losses.queues import CorrQueue


__all__ = ["CorrelationLoss", "CorrelationOutput", "pearson_correlation", "soft_spearman_correlation"]


class CorrelationOutput(NamedTuple):
    """
    Scalars: `loss`, with gradient; `pearson` and `spearman` (the soft one), for the log, without; `num_pairs` (int64).
    """

    loss: Tensor
    pearson: Tensor
    spearman: Tensor
    num_pairs: Tensor


class CorrelationLoss(nn.Module):
    """
    `a (1 - Pearson) + (1 - a) (1 - soft Spearman)` of predictions and gold over [queue; batch]. The queue's
    predictions are constants: the gradient flows through the batch's part only. Where nothing can correlate (fewer
    than two pairs, or all gold values equal) the loss is 0. Soft ranks of n = queue + batch pairs take O(n log n), see
    `soft_spearman_correlation`, so that a queue may hold tens of thousands.

    References:
        LiRA, arXiv 2510.14466 (CorrQueue). The form of the soft rank is ours.

    Args:
        alpha (`float`, *optional*, defaults to 0.5): the weight a of Pearson, in 0..1.
        tau (`float`, *optional*, defaults to 0.05): width of a comparison in units of the prediction; fits cosines.
        min_std (`float`, *optional*, defaults to 1e-3): a standard deviation of the predictions below it is taken for
            it, which bounds the gradient of predictions that are all equal.
        grid (`bool`, *optional*, defaults to by size): see `soft_spearman_correlation`.

    Inputs:
        predictions (`Tensor`): shape `(batch,)`, half precision is computed in float32.
        gold (`Tensor`): shape `(batch,)`, any scale.
        queue (`CorrQueue`, *optional*): earlier pairs; not changed here, push by `queue.push`.
        max_age (`int`, *optional*): leaves out the queue's pairs older than this many pushes.

    Raises:
        ValueError: on settings out of range, other shapes, values that are not finite.
        RuntimeError: in a backward pass with `create_graph=True`.

    Relations:
        `RetrievalLoss` for queries with relevant documents. Without a queue the batch must be large enough to
        correlate. With one, a batch of B among n pairs has about B / n of the gradient that it has alone: where other
        losses come to this one, multiply it by n / B (`num_pairs` over the batch), or they weigh the more.

    Example:
        >>> loss = CorrelationLoss(alpha=1.0)
        >>> round(float(loss(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0])).loss), 4)
        0.0
    """

    def __init__(self, alpha: float = 0.5, tau: float = 0.05, min_std: float = 1e-3, grid: bool | None = None) -> None:
        super().__init__()
        if not 0 <= alpha <= 1 or tau <= 0 or min_std <= 0:
            raise ValueError(
                f"CorrelationLoss got alpha={alpha}, tau={tau}, min_std={min_std}, expected 0 <= alpha <= 1, tau > 0 "
                "and min_std > 0; correct the value that is out of range."
            )
        self.alpha = alpha
        self.tau = tau
        self.min_std = min_std
        self.grid = grid

    def forward(
        self, predictions: Tensor, gold: Tensor, queue: CorrQueue | None = None, max_age: int | None = None
    ) -> CorrelationOutput:
        """The loss of one batch, see the class."""
        _check_pairs(predictions, gold)
        batch, truth = upcast(predictions), upcast(gold.detach())
        if queue is not None:
            entries = queue.entries(max_age)
            batch = torch.cat([entries.predictions.to(batch), batch])
            truth = torch.cat([entries.gold.to(truth), truth])
        pearson = pearson_correlation(batch, truth, self.min_std)
        spearman = soft_spearman_correlation(batch, truth, self.tau, self.min_std, self.grid)
        informed = bool((truth != truth[:1]).any())
        loss = self.alpha * (1 - pearson) + (1 - self.alpha) * (1 - spearman) if informed else (batch * 0).sum()
        return CorrelationOutput(
            loss, pearson.detach(), spearman.detach(), torch.tensor(len(batch), device=batch.device)
        )

    def extra_repr(self) -> str:
        """`str`: the settings, for `print(module)`."""
        return f"alpha={self.alpha}, tau={self.tau}, min_std={self.min_std}, grid={self.grid}"


def pearson_correlation(predictions: Tensor, gold: Tensor, min_std: float = 1e-3) -> Tensor:
    """
    Pearson's r, exact where the predictions' standard deviation is at least `min_std`; 0 if either side is constant.

    Args:
        predictions (`Tensor`): shape `(pairs,)`, gets the gradient.
        gold (`Tensor`): shape `(pairs,)`, any scale, no gradient.
        min_std (`float`, *optional*, defaults to 1e-3): least deviation divided by.

    Returns:
        `Tensor`: a scalar in -1..1.
    """
    if len(predictions) < 2:
        return (predictions * 0).sum()
    target = gold.detach().to(predictions).clamp(-SCORE_LIMIT, SCORE_LIMIT)
    target = target - target.mean()
    largest = target.abs().amax()
    target = target / torch.where(largest > 0, largest, torch.ones_like(largest))
    spread = target.square().mean().sqrt()
    target = target / torch.where(spread > 0, spread, torch.ones_like(spread))  # mean 0, deviation 1, or all 0
    limited = predictions.clamp(-SCORE_LIMIT, SCORE_LIMIT)
    apart = limited - limited.mean()
    deviation = apart.square().mean().clamp_min(min_std**2).sqrt()
    return (apart / deviation * target).mean()


def soft_spearman_correlation(
    predictions: Tensor,
    gold: Tensor,
    tau: float = 0.05,
    min_std: float = 1e-3,
    grid: bool | None = None,
) -> Tensor:
    """
    Pearson's r of the predictions' soft ranks `1 + sum_{j != i} sigmoid((s_i - s_j) / tau)` and the gold's ranks (ties
    share their mean rank). Tends to Spearman's rho as tau tends to 0.

    On a grid of 128 cells a tau the comparisons are summed in O(n log n + cells log cells): linear binning,
    convolution by FFT, linear interpolation, and the gradient likewise from the sigmoid's slope. The value is then
    within 5e-6 of that of all pairs, and the gradient within 5e-5 of its largest element *(ours)*. All pairs are
    compared, in O(n^2) time but bounded memory, where that is faster (fewer than 1,024 pairs, or a range of
    predictions that is large for their number), where the predictions range over more than 1,023 tau, and where one
    is NaN. The ranks of gold take O(n log n) in any case.

    References:
        Soft rank by pairwise sigmoids: Qin, Liu, Li, "A general approximation framework for direct optimization of
        information retrieval measures", 2010. On a grid: ours.

    Args:
        predictions (`Tensor`): shape `(pairs,)`, gets the gradient; half precision is computed in float32.
        gold (`Tensor`): shape `(pairs,)`, no gradient.
        tau (`float`, *optional*, defaults to 0.05): width of a comparison in units of the prediction.
        min_std (`float`, *optional*, defaults to 1e-3): least deviation of rank / pairs divided by.
        grid (`bool`, *optional*, defaults to what is faster): `True` for the grid wherever the predictions fit it,
            `False` for all pairs.

    Returns:
        `Tensor`: a scalar in -1..1.

    Raises:
        ValueError: on tau <= 0.
        RuntimeError: in a backward pass with `create_graph=True`.
    """
    if tau <= 0:
        raise ValueError(f"soft_spearman_correlation got tau={tau}, expected tau > 0; 0.05 fits cosines.")
    pairs = max(len(predictions), 1)
    limited = upcast(predictions).clamp(-SCORE_LIMIT, SCORE_LIMIT)
    # Mean comparisons, not ranks: correlation ignores shift and scale, and 1/2 stands for a tie on both sides.
    soft = soft_ranks(limited, tau, grid) / pairs
    hard = mean_ranks(gold.detach()).to(soft) / pairs
    return pearson_correlation(soft, hard, min_std)


def _check_pairs(predictions: Tensor, gold: Tensor) -> None:
    """Raises unless both are finite vectors of one length."""
    if predictions.dim() != 1 or gold.shape != predictions.shape:
        raise ValueError(
            f"CorrelationLoss got predictions of shape {tuple(predictions.shape)} and gold of {tuple(gold.shape)}, "
            "expected (batch,) for both; flatten them."
        )
    for name, values in (("predictions", predictions), ("gold", gold)):
        wrong = ~values.isfinite()
        if bool(wrong.any()):
            raise ValueError(
                f"CorrelationLoss got {name} with {float(values[wrong][0])} at row {int(wrong.nonzero()[0])}, "
                "expected finite numbers; leave rows without a gold score out."
            )
