"""Consistency and start regulariser by hand: masks, stop-gradient, degenerate vectors."""

import math

import pytest
import torch

from lira_hf.losses import consistency_loss, start_regulariser


BOTH = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
SOURCE = torch.tensor([[0.0, 3.0], [0.0, 1.0], [-1.0, -1.0]])  # 1 - cos: 1, 0, 2
ANCHOR = torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 1.0]])  # 1 - cos: 0, 1, 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"fused_source": SOURCE}, 1.0),
        ({"fused_source": SOURCE, "fused_anchor": ANCHOR}, (1 + 1 / 3) / 2),
        ({"fused_anchor": ANCHOR, "mask_anchor": torch.tensor([False, True, True])}, 0.5),
        (
            {
                "fused_source": SOURCE,
                "fused_anchor": ANCHOR,
                "mask_source": torch.tensor([True, False, True]),
                "mask_anchor": torch.tensor([False, True, True]),
            },
            1.0,  # row 2 alone has both
        ),
    ],
)
def test_consistency_by_hand(arguments, expected):
    assert consistency_loss(BOTH, **arguments).item() == pytest.approx(expected, abs=1e-6)


def test_gradient_goes_to_single_paths_of_kept_rows_only():
    both, source = BOTH.clone().requires_grad_(), SOURCE.clone().requires_grad_()
    with torch.no_grad():
        source[0] = math.nan  # the row is masked
        both[0] = math.nan
    value = consistency_loss(both, source, mask_source=torch.tensor([False, True, True]))
    value.backward()
    assert both.grad is None
    assert value.item() == pytest.approx(1.0)
    assert source.grad[0].tolist() == [0, 0]
    assert source.grad.isfinite().all()


def test_consistency_without_rows_is_zero_with_a_graph():
    source = SOURCE.clone().requires_grad_()
    value = consistency_loss(BOTH, source, mask_anchor=torch.zeros(3).bool())
    value.backward()
    assert value.item() == 0
    assert (source.grad == 0).all()


def test_cosine_losses_pass_gradcheck():
    generator = torch.Generator().manual_seed(0)
    start, leaf, other = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: start_regulariser(z, start), (leaf.requires_grad_(),))
    mask = torch.tensor([True, True, False, True])
    inputs = (leaf, other.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: consistency_loss(start, a, b, mask), inputs)


def test_start_regulariser_by_hand():
    start = SOURCE.clone().requires_grad_()
    embedding = BOTH.clone().requires_grad_()
    value = start_regulariser(embedding, start)
    value.backward()
    assert value.item() == pytest.approx(1.0)
    assert start.grad is None
    assert start_regulariser(embedding, embedding).item() == pytest.approx(0, abs=1e-6)
    assert start_regulariser(embedding[:0], start[:0]).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [0.0, 6e-5, 6e4])
def test_extreme_vectors_stay_finite(dtype, size):
    leaf = (SOURCE * size).clamp(-6e4, 6e4).to(dtype).requires_grad_()
    value = start_regulariser(leaf, BOTH.to(dtype)) + consistency_loss(BOTH.to(dtype), leaf)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(2.0, abs=1e-2)  # rows 1, 0, 2; and 1, 1, 1 for zeros
    assert leaf.grad.float().isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: consistency_loss(BOTH), "neither fused_source nor fused_anchor"),
        (lambda: consistency_loss(BOTH, ANCHOR[:2]), r"fused_source of shape \(2, 2\) and fused_both of \(3, 2\)"),
        (lambda: consistency_loss(BOTH, ANCHOR, mask_anchor=torch.ones(3)), "mask_anchor .*torch.float32, expected"),
        (lambda: start_regulariser(BOTH, ANCHOR[0]), r"embedding of shape \(3, 2\) and start of \(2,\)"),
    ],
)
def test_consistency_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
