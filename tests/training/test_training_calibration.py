"""The gate between the roads, set on rows held back."""

import logging

import pytest
import tiny_lira
import torch

from lira_hf.training import calibrate_gate


def gated(**config):
    return tiny_lira.causal(prefix_roads="merged", prefix_projection="vocab", **config)


def evidence(count=4000, seed=0, shift=1.5):
    """Entropies of roads of which g's says a lot about which is right and h's little, and which is."""
    generator = torch.Generator().manual_seed(seed)
    entropies = 2 * torch.rand(count, 2, generator=generator)
    odds = shift - 3.0 * entropies[:, 0] + 0.5 * entropies[:, 1]
    source = torch.rand(count, generator=generator) < odds.sigmoid()
    return entropies, torch.stack([source, ~source], dim=1)


@pytest.fixture
def batches(monkeypatch):
    """Batches whose evidence is made up; what else they hold is read as ever."""

    def make(found, pieces=3):
        entropies, right = found
        rest = iter(zip(entropies.chunk(pieces), right.chunk(pieces), strict=True))
        monkeypatch.setattr(
            "lira_hf.models.projector_lira.LiraPrefixProjector.slot_evidence", lambda *args: next(rest)
        )
        names = ("source_features", "anchor_features")
        width = tiny_lira.causal().config
        batch = {
            name: torch.rand(2, *(() if name[0] == "s" else (2,)), 1 + width.num_bins, dim)
            for name, dim in zip(names, (width.source_dim, width.anchor_dim), strict=True)
        }
        return [batch | {"reference_slots": torch.full((2, width.num_bins, 1), -100)} for _ in range(pieces)]

    return make


def test_the_gate_takes_the_odds_that_the_rows_held_back_have(batches):
    model = gated()
    found = calibrate_gate(model, batches(evidence()), sharpness=1.0)
    assert model.config.gate_weights == pytest.approx([3.0, 0.5], abs=0.35)
    assert model.config.gate_bias == pytest.approx(1.5, abs=0.35)
    assert (list(found.weights), found.bias) == (model.config.gate_weights, model.config.gate_bias)
    assert found.source_slots + found.anchor_slots == 4000
    assert found.right_after > found.right_before + 0.02
    # On other rows as well.
    entropies, right = evidence(seed=1)
    odds = found.bias - found.weights[0] * entropies[:, 0] + found.weights[1] * entropies[:, 1]
    plain = (entropies[:, 1] > entropies[:, 0]) == right[:, 0]
    assert ((odds > 0) == right[:, 0]).float().mean() > plain.float().mean() + 0.02


def test_sharpness_multiplies_the_odds(batches):
    plain, sharp = gated(), gated()
    calibrate_gate(plain, batches(evidence()), sharpness=1.0)
    calibrate_gate(sharp, batches(evidence()), sharpness=2.0)
    twice = [2 * value for value in (*plain.config.gate_weights, plain.config.gate_bias)]
    assert [*sharp.config.gate_weights, sharp.config.gate_bias] == pytest.approx(twice, abs=2e-4)


def test_slots_in_which_both_roads_are_right_or_wrong_say_nothing(batches):
    entropies, right = evidence()
    one = gated()
    calibrate_gate(one, batches((entropies, right)))
    misleading = torch.rand(500, 2), torch.tensor([[True, True], [False, False]]).repeat(250, 1)
    both = torch.cat([entropies, misleading[0]]), torch.cat([right, misleading[1]])
    other = gated()
    calibrate_gate(other, batches(both))
    assert other.config.gate_weights == one.config.gate_weights
    assert other.config.gate_bias == one.config.gate_bias


@pytest.mark.parametrize("count", [0, 30])
def test_too_few_slots_leave_the_gate_as_it_is_and_say_so(batches, caplog, count):
    model = gated(gate_weights=[2.0, 1.0])
    with caplog.at_level(logging.WARNING):
        assert calibrate_gate(model, batches(evidence(count), pieces=1) if count else []) is None
    assert "calibration wants 20 of each" in caplog.text
    assert (model.config.gate_weights, model.config.gate_bias) == ([2.0, 1.0], 0.0)


def test_the_model_stays_in_its_mode(batches):
    model = gated().train()
    calibrate_gate(model, batches(evidence()))
    assert model.training


def test_a_prefix_without_this_gate_is_refused():
    with pytest.raises(ValueError, match="expected 'merged', 'vocab' and True"):
        calibrate_gate(tiny_lira.causal(prefix_roads="merged"), [])
