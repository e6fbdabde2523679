"""The gate between the roads of a soft prefix, set on rows that no training has seen (ours)."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from lira_hf.models import LiraForCausalLM

from .collator import SIDE


__all__ = ["GateCalibration", "calibrate_gate", "has_entropy_gate"]

logger = logging.getLogger(__name__)
# Slots in which one road alone is right, of either road, that are too few to learn from.
_FEWEST = 20


@dataclass(frozen=True)
class GateCalibration:
    """
    What [`calibrate_gate`] found.

    Args:
        source_slots, anchor_slots (`int`): Slots in which the multilingual, or the English road alone was right.
        right_before, right_after (`float`): Share of these in which the road with more say is the right one, by the
            gate as it was and as it is now. The rows are those that it was set on.
        weights (`tuple[float, float]`), bias (`float`): `gate_weights` and `gate_bias` of the configuration.
    """

    source_slots: int
    anchor_slots: int
    right_before: float
    right_after: float
    weights: tuple[float, float]
    bias: float


def has_entropy_gate(model: LiraForCausalLM) -> bool:
    """Whether the model's soft prefix has a gate that can be calibrated."""
    config = model.config
    return config.prefix_roads == "merged" and config.prefix_projection == "vocab" and config.prefix_gate


@torch.no_grad()
def calibrate_gate(
    model: LiraForCausalLM, batches: Iterable[dict[str, torch.Tensor]], sharpness: float = 2.0
) -> GateCalibration | None:
    """
    Sets `gate_weights` and `gate_bias` of the model's configuration by logistic regression: which road is right, given
    how sure either is, over the slots in which one road alone is (ours). How sure a road is says different things of
    the two: g doubts what it has not learned, while h reads a wrong translation without any doubt (measured).

    Args:
        model ([`LiraForCausalLM`]): With merged roads, of the kind "vocab", with its gate.
        batches (`Iterable[dict]`): Of [`GenerationCollator`], of rows with references that training has not seen: of
            those that it has g is surer than it ever will be again.
        sharpness (`float`, *optional*, defaults to 2.0): Multiplies the log-odds found. A mixture of two words is
            neither to the base LM, so more than 1 was measured to be better.

    Returns:
        [`GateCalibration`]: `None`, and nothing is changed, where there are fewer than 20 such slots of either road.

    Raises:
        ValueError: For a model without such a gate.
    """
    from sklearn.linear_model import LogisticRegression

    config = model.config
    if not has_entropy_gate(model):
        raise ValueError(
            f"got prefix_roads={config.prefix_roads!r}, prefix_projection={config.prefix_projection!r}, "
            f"prefix_gate={config.prefix_gate}; expected 'merged', 'vocab' and True: only that gate can be calibrated"
        )
    entropies, right = _evidence(model, batches)
    alone = right[:, 0] != right[:, 1]
    sides, source = entropies[alone], right[alone, 0]
    source_slots, anchor_slots = int(source.sum()), int((~source).sum())
    if min(source_slots, anchor_slots) < _FEWEST:
        logger.warning(
            "the gate between the roads is left as it is: the multilingual road alone is right in %d slots of the "
            "rows held back, the English road alone in %d; calibration wants %d of each",
            source_slots,
            anchor_slots,
            _FEWEST,
        )
        return None
    signed = sides * torch.tensor([-1.0, 1.0])
    fitted = LogisticRegression(C=10.0, max_iter=1000).fit(signed.numpy(), source.numpy())
    before = _agreement(model, sides, source)
    config.gate_weights = [round(sharpness * float(weight), 4) for weight in fitted.coef_[0]]
    config.gate_bias = round(sharpness * float(fitted.intercept_[0]), 4)
    after = _agreement(model, sides, source)
    found = GateCalibration(
        source_slots, anchor_slots, before, after, tuple(config.gate_weights), float(config.gate_bias)
    )
    logger.info("calibrated the gate between the roads: %s", found)
    return found


def _evidence(model: LiraForCausalLM, batches: Iterable[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Entropies `(slots, 2)` and whether either road is right `(slots, 2)`, on the CPU."""
    training, entropies, right = model.training, [torch.empty(0, 2)], [torch.empty(0, 2, dtype=torch.bool)]
    model.eval()
    try:
        for batch in batches:
            roads = {name: batch[name].to(model.device) for name in SIDE if name in batch}
            language_ids = roads.pop("language_ids", None)
            fused, _ = model.fuse_roads(language_ids, **roads)
            found = model.lira.prefix_projector.slot_evidence(
                fused.last_hidden_state,
                fused.fusion_mask,
                model.get_input_embeddings(),
                batch["reference_slots"].to(model.device),
            )
            entropies.append(found[0].float().cpu())
            right.append(found[1].cpu())
    finally:
        model.train(training)
    return torch.cat(entropies), torch.cat(right)


def _agreement(model: LiraForCausalLM, entropies: torch.Tensor, source: torch.Tensor) -> float:
    odds = model.lira.prefix_projector.log_odds(entropies.unsqueeze(-1)).squeeze(-1)
    return round(((odds > 0) == source).float().mean().item(), 4)
