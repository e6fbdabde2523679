"""Start regulariser: holds the trained embedding near the untrained one, z = [g(x); h(y)] (ours; recipes.md 10)."""

from torch import Tensor

from lira_hf.losses._functional import unit_vectors


__all__ = ["start_regulariser"]


def start_regulariser(embedding: Tensor, start: Tensor) -> Tensor:
    """
    Mean of `1 - cos(z, stop_gradient(z_start))`. Without it a head trained on one domain was measured to be harmful on
    another; weight 1, on queries and on documents, is good, 4 too much.

    References:
        Ours.

    Args:
        embedding (`Tensor`): shape `(batch, dim)`, the trained embedding z; half precision is computed in float32.
        start (`Tensor`): shape `(batch, dim)`, the embedding before the learned delta; gets no gradient.

    Returns:
        `Tensor`: a scalar in 0..2; 0 for an empty batch.

    Raises:
        ValueError: on shapes that differ.

    Relations:
        `consistency_loss` pulls single-path embeddings to that of both paths; `mean_variance_loss` looks at scores.

    Example:
        >>> import torch
        >>> float(start_regulariser(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])))
        0.0
    """
    if embedding.shape != start.shape or embedding.dim() != 2:
        raise ValueError(
            f"start_regulariser got embedding of shape {tuple(embedding.shape)} and start of {tuple(start.shape)}, "
            "expected (batch, dim) for both; give the rows' own starts."
        )
    cosines = (unit_vectors(embedding) * unit_vectors(start.detach())).sum(dim=1)
    return (1 - cosines).sum() / max(len(embedding), 1)
