"""Fused tokens to the soft prefix (paper: LaSR's reasoning head): which slots there are, what each stands for, and how
much either road says in it."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from .configuration_lira import LiraConfig
from .modeling_arca import masked_mean


__all__ = ["BLANK_LOGIT", "LiraPrefixProjector", "SoftPrefix", "embedding_width", "slot_entropies"]

# How sure an untrained projector is that a slot with a filled bin stands for something, and one without doesn't.
BLANK_LOGIT = 4.0


class SoftPrefix(NamedTuple):
    """`embeds` `(batch, slots, D)`, zero where `mask` `(batch, slots)`, long, is 0; `gate` `(batch,)`, the
    multilingual road's mean share in them, where the roads are merged."""

    embeds: torch.Tensor
    mask: torch.Tensor
    gate: torch.Tensor | None


class _Reading(NamedTuple):
    """What either road reads: `query` `(batch, 2, slots, D)`, of the vocabulary's kind the log-probabilities `logs`
    `(batch, 2, slots, vocabulary)` that soft tokens are made of, `blank` logits `(batch, 2, slots)`, which roads are
    `present` `(batch, 2)`, and the log of their shares in each slot `(batch, 2, slots)`, where they are merged."""

    query: torch.Tensor
    logs: torch.Tensor | None
    blank: torch.Tensor
    present: torch.Tensor
    shares: torch.Tensor | None


def embedding_width(embedding: nn.Module) -> int:
    """Width D of the base's input space, which need not be its `hidden_size`."""
    width = getattr(embedding, "embedding_dim", None)
    return int(width if width is not None else embedding.weight.shape[-1])


class LiraPrefixProjector(nn.Module):
    """
    Fused tokens to soft tokens. `"linear"` may reach any point of the base's input space and starts at the length
    of the base's own embeddings; `"vocab"` mixes these by softmax(W o E^T) E, so that a soft token lies among them
    (ours).

    A slot may be blank, which masks it (ours): English need not have as many tokens as the text has. Untrained, those
    are blank whose bin is empty. With `prefix_roads="merged"` slot i is a mixture of both roads' slot i (ours), alike
    or weighed by a gate: of the vocabulary's kind by how sure either road is of the slot, which training leaves alone,
    as a gate that is trained trusts g on the rows that g has learned by heart (measured), and `calibrate_gate` may set
    on held-out rows; of the linear kind, which has no entropy, by an MLP over the text's fused tokens.
    """

    def __init__(self, config: LiraConfig, width: int):
        super().__init__()
        self.kind, self.merged = config.prefix_projection, config.prefix_roads == "merged"
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, width)
        self.projection.init_std = config.hidden_size**-0.5
        # The mean length of the base's embeddings, where the soft tokens start; set by `from_backbones`.
        self.scale = nn.Parameter(torch.empty(())) if self.kind == "linear" else None
        self.blank = nn.Linear(config.hidden_size, 1)
        self.blank.init_std = 0.0
        self.blank_logit = nn.Parameter(torch.empty(()))
        self.gate_fc1, self.gate_fc2, self.activation = None, None, ACT2FN[config.hidden_act]
        self.config = config
        if self.merged and config.prefix_gate and self.kind == "linear":
            facts = 2 * config.hidden_size
            self.gate_fc1 = nn.Linear(facts, config.actor_hidden_size)
            self.gate_fc2 = nn.Linear(config.actor_hidden_size, 1)
            self.gate_fc1.init_std = facts**-0.5
            self.gate_fc2.init_std = 0.0  # both roads alike, before training

    @torch.no_grad()
    def start_at(self, embedding: nn.Module) -> None:
        """Soft tokens of the length that the base's own embeddings have."""
        weight = getattr(embedding, "weight", None)
        if self.scale is not None and weight is not None and weight.is_floating_point() and not weight.is_meta:
            sample = weight[:: max(len(weight) // 4096, 1)].float()
            self.scale.fill_((sample.norm(dim=-1).mean() * _output_scale(embedding)).item())

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, embedding: nn.Module) -> SoftPrefix:
        """
        Args:
            tokens (`torch.Tensor` of shape `(batch, 2 x bins, hidden_size)`): Fused tokens, g's bins first.
            mask (`torch.Tensor` of shape `(batch, 2 x bins)`): 1 for those that hold something.
            embedding (`nn.Module`): The base's input embedding.

        Returns:
            [`SoftPrefix`]: Of `2 x bins` slots, or of `bins` where the roads are merged.
        """
        reading = self._read(tokens, mask, embedding)
        soft, gate = self._soft(reading, embedding), None
        filled = (-reading.blank).sigmoid() * reading.present.unsqueeze(-1)
        if reading.shares is None:
            soft, filled = soft.flatten(1, 2), filled.flatten(1, 2)
        else:
            shares = reading.shares.exp()
            soft, filled = (shares.unsqueeze(-1) * soft).sum(1), (shares * filled).sum(1)
            gate = masked_mean(shares[:, 0].unsqueeze(-1), filled > 0.5).squeeze(-1)
        kept = filled > 0.5
        # Straight through: a loss of the base LM's tells how much a slot is wanted, by how long it wants it. Summed in
        # this order the factor is exactly 1, in bfloat16 too.
        return SoftPrefix(soft * (kept + (filled - filled.detach())).unsqueeze(-1), kept.long(), gate)

    def loss(
        self, tokens: torch.Tensor, mask: torch.Tensor, embedding: nn.Module, labels: torch.Tensor
    ) -> torch.Tensor:
        """
        How far the slots are from an English reference (ours): cross-entropy of the base's tokens (`"vocab"`) or one
        minus the cosine to their mean embedding (`"linear"`), and cross-entropy of which slots are blank. Each road
        has to read the reference by itself, and, where they are merged, both together.

        Args:
            tokens, mask, embedding: As in `forward`.
            labels (`torch.Tensor` of shape `(batch, bins, tokens of a slot)`): The base's tokens of each slot, padded
                with -100; rows without a reference, all -100, teach nothing.

        Returns:
            `torch.Tensor` of shape `()`.
        """
        known = labels != -100
        filled, rows = known.any(-1), known.flatten(1).any(-1)  # (batch, slots), (batch,)
        reading = self._read(tokens, mask, embedding)
        roads = reading.present & rows.unsqueeze(-1)
        whole = roads.any(-1, keepdim=True)
        tokens_of_roads, tokens_of_both = self._token_errors(reading, embedding, labels)
        chosen = F.logsigmoid(torch.where(filled.unsqueeze(1), -reading.blank, reading.blank))  # (batch, 2, slots)
        every = torch.ones_like(filled)
        loss = _mean(tokens_of_roads, roads.unsqueeze(-1) & filled.unsqueeze(1))
        loss = loss + _mean(-chosen, roads.unsqueeze(-1) & every.unsqueeze(1))
        if reading.shares is None or tokens_of_both is None:
            return loss
        blanks_of_both = -torch.logsumexp(reading.shares + chosen, dim=1)
        return 0.5 * loss + _mean(tokens_of_both, whole & filled) + _mean(blanks_of_both, whole & every)

    @torch.no_grad()
    def slot_evidence(
        self, tokens: torch.Tensor, mask: torch.Tensor, embedding: nn.Module, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        How sure either road is of each slot that the reference fills, and whether it is right there; of the kind
        "vocab", in texts that have both roads.

        Args:
            tokens, mask, embedding, labels: As in `loss`.

        Returns:
            `tuple`: entropies in nats, `(found, 2)`, and whether the likeliest token is one of the slot's, bool
            `(found, 2)`; of each the multilingual road first.
        """
        reading = self._read(tokens, mask, embedding)
        known = labels != -100
        wanted = known.any(-1) & reading.present.all(-1, keepdim=True)  # (batch, slots)
        likeliest = reading.logs.argmax(-1).unsqueeze(-1)  # (batch, 2, slots, 1)
        right = ((likeliest == labels.unsqueeze(1)) & known.unsqueeze(1)).any(-1)
        return slot_entropies(reading.logs).transpose(1, 2)[wanted], right.transpose(1, 2)[wanted]

    def slot_logits(self, tokens: torch.Tensor, embedding: nn.Module) -> torch.Tensor:
        """
        Which of the base's tokens each slot resembles.

        Args:
            tokens (`torch.Tensor` of shape `(..., hidden_size)`): Fused tokens.
            embedding (`nn.Module`): The base's input embedding.

        Returns:
            `torch.Tensor` of shape `(..., vocabulary)`.
        """
        return _logits(self.projection(self.norm(tokens)), embedding)

    def _read(self, tokens: torch.Tensor, mask: torch.Tensor, embedding: nn.Module) -> _Reading:
        normed = self.norm(tokens).unflatten(1, (2, -1))
        filled = mask.bool().unflatten(1, (2, -1))
        query, logs, present = self.projection(normed), None, filled.any(-1)
        if self.kind == "vocab":
            # Once: of a real vocabulary this is the largest tensor here.
            logs = _logits(query, embedding).log_softmax(-1)
        blank = self.blank(normed).squeeze(-1) + torch.where(filled, -self.blank_logit, self.blank_logit)
        shares = self._shares(normed, logs, blank, present) if self.merged else None
        return _Reading(query, logs, blank, present, shares)

    def _soft(self, reading: _Reading, embedding: nn.Module) -> torch.Tensor:
        """Soft tokens of either road, `(batch, 2, slots, D)`; in the kind "vocab" the warm-up does without."""
        if reading.logs is not None:
            return reading.logs.exp() @ embedding.weight.to(reading.logs.dtype) * _output_scale(embedding)
        # The root of the width makes the scale a length.
        return reading.query * (self.scale / reading.query.shape[-1] ** 0.5)

    def _shares(
        self, tokens: torch.Tensor, logs: torch.Tensor | None, blank: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        """Log of how much each road says in each slot, `(batch, 2, slots)`; all is a road's that is there alone."""
        if self.gate_fc1 is not None and self.gate_fc2 is not None:
            facts = masked_mean(tokens, torch.ones_like(blank, dtype=torch.bool)).flatten(1)
            gate = self.gate_fc2(self.activation(self.gate_fc1(facts)))  # (batch, 1)
            shares = F.logsigmoid(torch.stack([gate, -gate], dim=1)).expand_as(blank)
        elif logs is not None and self.config.prefix_gate:
            with torch.no_grad():  # nothing trains it
                gate = self.log_odds(slot_entropies(logs))
                shares = F.logsigmoid(torch.stack([gate, -gate], dim=1))
        else:
            shares = torch.full_like(blank, 0.5).log()
        alone = torch.zeros_like(shares).masked_fill(~present.unsqueeze(-1), torch.finfo(shares.dtype).min / 4)
        return torch.where(present.all(-1)[:, None, None], shares, alone)

    def log_odds(self, entropies: torch.Tensor) -> torch.Tensor:
        """Of g over h, `(batch, slots)`, from the entropies `(batch, 2, slots)` of what they read."""
        source, anchor = self.config.gate_weights
        return self.config.gate_bias - source * entropies[:, 0] + anchor * entropies[:, 1]

    def _token_errors(
        self, reading: _Reading, embedding: nn.Module, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Error of each slot of each road, `(batch, 2, slots)`, and of both together, `(batch, slots)`."""
        known, ids = labels != -100, labels.clamp(min=0)
        if reading.logs is not None:
            chosen = reading.logs.gather(
                -1, ids.unsqueeze(1).expand(-1, 2, -1, -1)
            )  # (batch, 2, slots, tokens of a slot)
            count = known.sum(-1).clamp(min=1)
            roads = -(chosen * known.unsqueeze(1)).sum(-1) / count.unsqueeze(1)
            if reading.shares is None:
                return roads, None
            both = torch.logsumexp(reading.shares.unsqueeze(-1) + chosen, dim=1)
            return roads, -(both * known).sum(-1) / count
        soft = self._soft(reading, embedding)
        wanted = masked_mean(embedding(ids).to(soft), known)
        roads = 1.0 - F.cosine_similarity(soft, wanted.unsqueeze(1), dim=-1)
        if reading.shares is None:
            return roads, None
        return roads, 1.0 - F.cosine_similarity((reading.shares.exp().unsqueeze(-1) * soft).sum(1), wanted, dim=-1)


def slot_entropies(logs: torch.Tensor) -> torch.Tensor:
    """Log-probabilities `(..., vocabulary)` -> their entropy in nats, `(...)`."""
    return -(logs.exp() * logs).sum(-1)


def _logits(query: torch.Tensor, embedding: nn.Module) -> torch.Tensor:
    return query @ embedding.weight.to(query.dtype).T


def _mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over what is meant; 0, with a graph, where nothing is."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def _output_scale(embedding: nn.Module) -> float:
    # Some bases multiply what they look up within the embedding module itself.
    scale = getattr(embedding, "embed_scale", 1.0)
    return float(scale) if not isinstance(scale, torch.Tensor) else scale.item()
