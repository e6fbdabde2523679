"""L_mv: keeps the scores of the negatives from drifting or collapsing (read by us as a mean-variance regulariser)."""

import torch
from torch import Tensor

from lira_hf.losses._functional import check_rows, kept_mean


__all__ = ["mean_variance_loss"]


def mean_variance_loss(
    scores: Tensor, negatives: Tensor | None = None, target_mean: float = 0.0, min_std: float = 0.05
) -> Tensor:
    """
    For each query, over its negatives' scores: `(mean - target_mean)^2 + relu(min_std - std)^2`, averaged over the
    queries. The first part holds the scores where they are wanted (drift), the second, a variance hinge, keeps them
    apart (collapse) and is silent once they spread enough.

    References:
        LiRA, arXiv 2510.14466, names L_mv without a formula; this reading is ours. Variance hinge: Bardes, Ponce,
        LeCun, "VICReg", 2022.

    Args:
        scores (`Tensor`): shape `(batch, entries)`; half precision is computed in float32.
        negatives (`Tensor`, *optional*, defaults to all): bool, shape `(batch, entries)`. The mean needs one negative
            in a row, the deviation two; rows with fewer are left out of that part.
        target_mean (`float`, *optional*, defaults to 0.0): wanted mean; 0 is that of random directions.
        min_std (`float`, *optional*, defaults to 0.05): least standard deviation (of the population) a row;
            random directions in d dimensions have `1 / sqrt(d)`.

    Returns:
        `Tensor`: a scalar >= 0; 0 if no row has a negative.

    Raises:
        ValueError: on shapes that differ, negatives that are not bool, min_std < 0.

    Relations:
        `start_regulariser` holds the embeddings themselves near their start.

    Example:
        >>> float(mean_variance_loss(torch.tensor([[0.1, -0.1, 0.1, -0.1]])))
        0.0
    """
    if min_std < 0:
        raise ValueError(f"mean_variance_loss got min_std={min_std}, expected >= 0; 0 switches the variance part off.")
    nothing = torch.zeros_like(scores, dtype=torch.bool)
    safe, _, kept = check_rows("mean_variance_loss", scores, nothing, negatives, "negatives")
    return loss_of_moments(*moments(safe, kept), target_mean, min_std)


def moments(scores: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Each row's count, mean and sum of squared deviations from the mean over the entries that are kept.

    Args:
        scores (`Tensor`): shape `(batch, entries)`, finite, 0 at entries that are not kept.
        kept (`Tensor`): bool, the same shape.

    Returns:
        Three tensors of shape `(batch,)`, the first int64; means and sums of nothing are 0.
    """
    counts = kept.sum(dim=1)
    means = scores.sum(dim=1) / counts.clamp_min(1)
    apart = (scores - means[:, None]).masked_fill(~kept, 0.0)
    return counts, means, apart.square().sum(dim=1)


def join_moments(
    one: tuple[Tensor, Tensor, Tensor], other: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """
    The `moments` of two lists together from those of each.

    References:
        Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    counts = one[0] + other[0]
    share = other[0].to(other[1]) / counts.clamp_min(1)  # of two integers it would be in float32
    apart = other[1] - one[1]
    return counts, one[1] + apart * share, one[2] + other[2] + apart.square() * one[0] * share


def loss_of_moments(counts: Tensor, means: Tensor, squares: Tensor, target_mean: float, min_std: float) -> Tensor:
    """The loss from the `moments` of each row."""
    variances = squares / counts.clamp_min(1)
    # The floor keeps the root's gradient finite when all scores are equal.
    missing = torch.relu(min_std - variances.clamp_min(1e-12).sqrt())
    return kept_mean((means - target_mean).square(), counts > 0) + kept_mean(missing.square(), counts > 1)
