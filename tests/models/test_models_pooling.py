"""Temporal and sentence pooling against plain loops."""

import math

import pytest
import torch

from lira_hf.models.pooling_lira import bin_mask, pack_right_padded, pool_features, sentence_pool, temporal_pool, unit


def bins_by_loop(states: list[list[float]], num_bins: int) -> list[list[float]]:
    """Token t of n goes to bin floor(t S / n), or to bin t where n <= S; an empty bin is zero."""
    n, dim = len(states), len(states[0]) if states else 0
    groups = [[] for _ in range(num_bins)]
    for t, state in enumerate(states):
        groups[math.floor(t * num_bins / n) if n > num_bins else t].append(state)
    return [[sum(s[d] for s in group) / len(group) if group else 0.0 for d in range(dim)] for group in groups]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("num_bins", range(1, 10))
def test_temporal_pool_equals_a_plain_loop(num_bins, side):
    lengths = range(3 * num_bins + 1)
    width = 3 * num_bins + 2
    states = torch.randn(len(lengths), width, 3)
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    expected = torch.zeros(len(lengths), num_bins, 3)
    for row, n in enumerate(lengths):
        place = slice(0, n) if side == "right" else slice(width - n, width)
        mask[row, place] = 1
        if n:
            expected[row] = torch.tensor(bins_by_loop(states[row, place].tolist(), num_bins))
    # What is padded may be anything.
    states = states.masked_fill(mask.unsqueeze(-1) == 0, float("nan"))
    torch.testing.assert_close(temporal_pool(states, mask, num_bins), expected, rtol=0, atol=1e-6)


def test_bins_of_a_long_text_are_filled_evenly_and_in_order():
    states = torch.arange(10.0).view(1, 10, 1)
    pooled = temporal_pool(states, torch.ones(1, 10), 4)
    assert pooled.flatten().tolist() == [1.0, 3.5, 6.0, 8.5]  # tokens 0-2, 3-4, 5-7, 8-9


@pytest.mark.parametrize("side", ["left", "right"])
def test_sentence_pool(side):
    row = torch.tensor([[1.0, 2.0], [5.0, 0.0], [3.0, 4.0]])
    states = torch.full((2, 5, 2), float("inf"))
    mask = torch.zeros(2, 5)
    place = slice(0, 3) if side == "right" else slice(2, 5)
    states[0, place], mask[0, place] = row, 1
    for pooling, expected in (("mean", [3.0, 2.0]), ("cls", [1.0, 2.0]), ("last", [3.0, 4.0])):
        assert sentence_pool(states, mask, pooling).tolist() == [expected, [0.0, 0.0]]
        features = pool_features(states.half(), mask, 4, pooling)
        assert features.dtype == torch.float32
        assert features[0].tolist() == [expected, *row.tolist(), [0.0, 0.0]]
        assert bin_mask(features).tolist() == [[True, True, True, True, False], [False] * 5]


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="'max'; expected 'mean', 'cls' or 'last'"):
        sentence_pool(torch.zeros(1, 2, 3), torch.ones(1, 2), "max")


def test_packing_keeps_order_and_cuts_unused_columns():
    ids = torch.tensor([[9, 1, 9, 2, 3], [4, 9, 9, 9, 9], [9, 9, 9, 9, 9]])
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    packed, kept = pack_right_padded(ids, mask)
    assert packed.shape == (3, 3)
    assert packed[0].tolist() == [1, 2, 3]
    assert packed[1, 0] == 4
    assert kept.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_unit_keeps_zero_vectors_at_zero(dtype):
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    result = unit(vectors)
    torch.testing.assert_close(result.detach().float(), torch.tensor([[0.6, 0.8], [0.0, 0.0]]), rtol=0, atol=5e-3)
    result[1].sum().backward()
    assert torch.isfinite(vectors.grad).all()
