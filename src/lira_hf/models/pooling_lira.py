"""Temporal pooling (paper: S_feat bins) and sentence pooling: token states of any length become 1 + S rows."""

import torch
import torch.nn.functional as F


__all__ = ["bin_mask", "pack_right_padded", "pool_features", "sentence_pool", "temporal_pool", "unit"]


def pack_right_padded(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Moves the tokens that count to the left and cuts columns nobody uses.

    Encoders with absolute positions give other states for left-padded rows; packed first, padding side and width
    change nothing (ours).

    Args:
        ids (`torch.Tensor` of shape `(rows, tokens)`): Token ids.
        mask (`torch.Tensor` of shape `(rows, tokens)`): 1 for tokens, 0 for padding, on any side.

    Returns:
        `tuple`: ids and mask of shape `(rows, longest row)`; the order of the tokens is kept.
    """
    keep = mask.bool()
    shortest, width = torch.stack(keep.sum(-1).aminmax()).tolist() if keep.numel() else (0, 0)
    if 0 < shortest == width == keep.shape[1]:
        return ids, mask
    width = max(width, 1)
    order = torch.argsort((~keep).to(torch.uint8), dim=-1, stable=True)[:, :width]
    return ids.gather(-1, order), keep.gather(-1, order).to(mask.dtype)


def temporal_pool(hidden_states: torch.Tensor, mask: torch.Tensor, num_bins: int) -> torch.Tensor:
    """
    Masked mean of the tokens in `num_bins` equal time bins (paper). A text shorter than that has one token a bin and
    leaves the last bins empty: nothing is stretched (ours).

    Args:
        hidden_states (`torch.Tensor` of shape `(batch, tokens, dim)`): Token states.
        mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding, on either side.
        num_bins (`int`): S.

    Returns:
        `torch.Tensor` of shape `(batch, bins, dim)`: An empty bin is a row of zeros.
    """
    keep = mask.bool()
    return _bins(_without_padding(hidden_states, keep), keep, num_bins)


def _without_padding(hidden_states: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    # A masked state may be NaN or infinite in some encoders; 0 x NaN would spread it.
    return hidden_states.masked_fill(~keep.unsqueeze(-1), 0.0)


def _bins(states: torch.Tensor, keep: torch.Tensor, num_bins: int) -> torch.Tensor:
    reached = keep.long().cumsum(-1)  # (batch, tokens)
    position, length = reached - 1, reached[:, -1:]
    bins = torch.where(length > num_bins, position * num_bins // length.clamp(min=1), position)
    member = bins.unsqueeze(-1) == torch.arange(num_bins, device=bins.device)
    member = member & keep.unsqueeze(-1)  # (batch, tokens, bins)
    weight = member / member.sum(1, keepdim=True).clamp(min=1)
    return weight.to(states.dtype).transpose(1, 2) @ states


def sentence_pool(hidden_states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """
    The backbone's own sentence vector.

    Args:
        hidden_states (`torch.Tensor` of shape `(batch, tokens, dim)`): Token states.
        mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding, on either side.
        pooling (`str`): `"mean"`, `"cls"` (first token) or `"last"`.

    Returns:
        `torch.Tensor` of shape `(batch, dim)`: Zero for a row without tokens.
    """
    keep = mask.bool()
    return _sentences(_without_padding(hidden_states, keep), keep, pooling)


def _sentences(states: torch.Tensor, keep: torch.Tensor, pooling: str) -> torch.Tensor:
    if pooling == "mean":
        return states.sum(1) / keep.sum(-1, keepdim=True).clamp(min=1).to(states.dtype)
    position = torch.arange(keep.shape[1], device=keep.device)
    if pooling == "cls":
        index = keep.long().argmax(-1)
    elif pooling == "last":
        index = (position * keep).argmax(-1)
    else:
        raise ValueError(f"pooling is {pooling!r}; expected 'mean', 'cls' or 'last'")
    return states[torch.arange(len(states), device=states.device), index]


def pool_features(hidden_states: torch.Tensor, mask: torch.Tensor, num_bins: int, pooling: str) -> torch.Tensor:
    """
    Everything LiRA keeps of a text, whatever its length: row 0 the sentence vector, rows 1 to S the temporal bins.

    Having no parameters, the result can be cached once the backbones are frozen (ours). Rows of zeros mean "empty":
    an empty bin, or for row 0 a road that is absent.

    Args:
        hidden_states (`torch.Tensor` of shape `(batch, tokens, dim)`): Token states.
        mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding, on either side.
        num_bins (`int`): S.
        pooling (`str`): `"mean"`, `"cls"` or `"last"`.

    Returns:
        `torch.Tensor` of shape `(batch, 1 + bins, dim)`, float32.
    """
    keep = mask.bool()
    states = _without_padding(hidden_states, keep).float()  # one copy for both, in the encoder's own precision
    return torch.cat([_sentences(states, keep, pooling).unsqueeze(1), _bins(states, keep, num_bins)], dim=1)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """
    Vectors of unit length; a zero vector, which stands for "absent", stays zero in every precision.

    Args:
        vectors (`torch.Tensor` of shape `(..., dim)`): Of any floating type.

    Returns:
        `torch.Tensor` of the same shape.
    """
    # The default eps of 1e-12 is 0 in float16, so that absent would become 0 / 0.
    return F.normalize(vectors, dim=-1, eps=max(1e-12, torch.finfo(vectors.dtype).tiny))


def bin_mask(features: torch.Tensor) -> torch.Tensor:
    """
    Which rows of pooled features hold something.

    Args:
        features (`torch.Tensor` of shape `(..., rows, dim)`): As made by [`pool_features`].

    Returns:
        `torch.Tensor` of shape `(..., rows)`, bool: `False` where a row is all zeros.
    """
    return (features != 0).any(-1)
