"""What LiRA's tensors have to look like, said before a broadcast makes something else of them."""

import torch

from .configuration_lira import LiraConfig
from .traits_lira import trait_width


__all__ = ["check_features", "check_reference"]


def check_features(
    config: LiraConfig,
    source_features: torch.Tensor | None,
    anchor_features: torch.Tensor | None,
    anchor_scores: torch.Tensor | None,
    anchor_traits: torch.Tensor | None = None,
) -> None:
    """
    Raises:
        ValueError: For features or scores of another shape than `config` asks for, or scores out of range.
    """
    rows = 1 + config.num_bins
    if source_features is not None and source_features.shape[1:] != (rows, config.source_dim):
        raise ValueError(
            f"source_features has shape {tuple(source_features.shape)}; expected (batch, {rows}, "
            f"{config.source_dim}): the sentence vector and {config.num_bins} bins; cache them with "
            "this model"
        )
    for name, value in (("anchor_scores", anchor_scores), ("anchor_traits", anchor_traits)):
        if anchor_features is None and value is not None:
            raise ValueError(
                f"got {name} of shape {tuple(value.shape)} without candidates; expected anchor_ids or "
                f"anchor_features with them; leave {name} out"
            )
    if anchor_features is None:
        return
    if anchor_features.dim() != 4 or anchor_features.shape[2:] != (rows, config.anchor_dim):
        raise ValueError(
            f"anchor_features has shape {tuple(anchor_features.shape)}; expected (batch, candidates, {rows}, "
            f"{config.anchor_dim}); cache them with this model"
        )
    if source_features is not None and len(source_features) != len(anchor_features):
        raise ValueError(
            f"got {len(source_features)} texts and {len(anchor_features)} rows of candidates; expected one row of "
            "candidates per text"
        )
    if anchor_scores is not None and anchor_scores.shape != (*anchor_features.shape[:2], 3):
        raise ValueError(
            f"anchor_scores has shape {tuple(anchor_scores.shape)}; expected {(*anchor_features.shape[:2], 3)}: "
            "semantic, emotional and pragmatic score of each candidate"
        )
    wanted = (*anchor_features.shape[:2], trait_width(config.candidate_kinds))
    if anchor_traits is not None and anchor_traits.shape != wanted:
        raise ValueError(
            f"anchor_traits has shape {tuple(anchor_traits.shape)}; expected {wanted}: the traits of each candidate, "
            f"and two columns for each of candidate_kinds {config.candidate_kinds}; prepare inputs with AutoProcessor"
        )
    if anchor_scores is not None and not torch.compiler.is_compiling():
        _check_scores(anchor_scores)


def check_reference(config: LiraConfig, features: torch.Tensor) -> None:
    """
    Raises:
        ValueError: For features of references of another shape than h's.
    """
    expected = (1 + config.num_bins, config.anchor_dim)
    if features.shape[1:] != expected:
        raise ValueError(
            f"reference_features has shape {tuple(features.shape)}; expected (batch, {expected[0]}, {expected[1]}); "
            "cache them with this model"
        )


def _check_scores(scores: torch.Tensor) -> None:
    # "not (...)" also catches NaN, which a mask that multiplies would spread.
    wrong = ~((scores == 0) | ((scores >= 1) & (scores <= 10)))
    if bool(wrong.any()):
        row, candidate, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"anchor_scores of row {row}, candidate {candidate} holds {scores[row, candidate, place].item()}; "
            "expected numbers from 1 to 10, or 0 where the judge gave none; clamp or drop it"
        )
