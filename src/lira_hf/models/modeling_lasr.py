"""LaSR (paper): a light pre-norm Transformer over both roads' bins, and the embedding head that starts as [g; h]."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_lira import LiraConfig, hidden_size
from .modeling_arca import CHOICE_FACTS, masked_mean
from .pooling_lira import unit


__all__ = ["LiraAttention", "LiraEmbeddingHead", "LiraFusion", "LiraFusionLayer", "join_paths"]


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention over `(batch, heads, tokens, head_dim)`; the mask is added to the scores."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(scores.softmax(-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class LiraAttention(nn.Module):
    """Bidirectional self-attention over the fused tokens, through whichever kernel the library offers."""

    is_causal = False

    def __init__(self, config: LiraConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = config.dropout
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, tokens, hidden_size)` -> the same, and the attention weights where the kernel gives them."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            projection(hidden_states).view(shape).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
            **kwargs,
        )
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights


class LiraFusionLayer(GradientCheckpointingLayer):
    """Pre-norm Transformer layer."""

    def __init__(self, config: LiraConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = LiraAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs):
        attended, _ = self.attention(self.norm1(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.fc2(self.activation(self.fc1(self.norm2(hidden_states)))))


class LiraFusion(nn.Module):
    """
    Fuses the 2S tokens [A(g bins); A(h bins)], each with an embedding of its road and its bin, and of the language
    where the configuration names languages. An absent road is masked (paper: both roads; masking ours).
    """

    def __init__(self, config: LiraConfig):
        super().__init__()
        self.config = config
        self.path_embedding = nn.Parameter(torch.empty(2, config.hidden_size))
        self.bin_embedding = nn.Parameter(torch.empty(config.num_bins, config.hidden_size))
        languages = len(config.languages)
        # Entry 0 is "unknown": any language that training did not name.
        self.language_embedding = nn.Embedding(languages + 1, config.hidden_size) if languages else None
        self.layers = nn.ModuleList(LiraFusionLayer(config) for _ in range(config.num_fusion_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        source_tokens: torch.Tensor | None,
        source_mask: torch.Tensor | None,
        anchor_tokens: torch.Tensor | None,
        anchor_mask: torch.Tensor | None,
        language_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            source_tokens, anchor_tokens (`torch.Tensor` of shape `(batch, bins, hidden_size)`, *optional*): Adapted
                bins; `None` where the whole batch lacks that road, which then costs nothing and whose tokens are zero.
            source_mask, anchor_mask (`torch.Tensor` of shape `(batch, bins)`, bool, *optional*): Bins that hold
                something.
            language_ids (`torch.Tensor` of shape `(batch,)`, *optional*): Index into the languages plus 1; 0: unknown.

        Returns:
            `tuple`: fused tokens `(batch, 2 x bins, hidden_size)` and their mask `(batch, 2 x bins)`, bool.
        """
        tokens, masks = (source_tokens, anchor_tokens), (source_mask, anchor_mask)
        there = [road for road in (0, 1) if tokens[road] is not None]
        hidden = torch.cat([tokens[road] + self.path_embedding[road] + self.bin_embedding for road in there], dim=1)
        if self.language_embedding is not None:
            if language_ids is None:
                language_ids = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
            hidden = hidden + self.language_embedding(language_ids.to(hidden.device)).unsqueeze(1)
        mask = torch.cat([masks[road] for road in there], dim=1)
        # A row without any token would be a softmax over nothing; it attends to its first slot and is masked later.
        seen = mask.clone()
        seen[:, 0] |= ~mask.any(-1)
        bias = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
        bias = bias.masked_fill(~seen, torch.finfo(hidden.dtype).min)[:, None, None, :]
        bias = bias.expand(-1, 1, seen.shape[1], -1)
        for layer in self.layers:
            hidden = layer(hidden, bias)
        hidden = self.norm(hidden)
        if len(there) == 1:
            # The road that is there in its half.
            before, after = (0, hidden.shape[1]) if there == [0] else (hidden.shape[1], 0)
            hidden, mask = F.pad(hidden, (0, 0, before, after)), F.pad(mask, (before, after))
        return hidden, mask


def join_paths(source: torch.Tensor, anchor: torch.Tensor, path_weight: float | torch.Tensor) -> torch.Tensor:
    """
    The start: z = [g(x); h(y)], each part of unit length and weighted so that the cosine of two texts is
    `path_weight` cos_g + (1 - path_weight) cos_h. An absent road's part is zero and the other has full length.

    Args:
        source (`torch.Tensor` of shape `(batch, d_g)`): g's sentence vectors; zero rows are absent.
        anchor (`torch.Tensor` of shape `(batch, d_h)`): h's sentence vectors; zero rows are absent.
        path_weight (`float` or `torch.Tensor` of shape `(batch, 1)`): The multilingual road's share, 0..1.

    Returns:
        `torch.Tensor` of shape `(batch, d_g + d_h)`, of unit length, or zero where both roads are absent.
    """
    parts = [
        unit(source) * path_weight**0.5,
        unit(anchor) * (1.0 - path_weight) ** 0.5,
    ]
    return unit(torch.cat(parts, dim=-1))


class LiraEmbeddingHead(nn.Module):
    """
    The embedding: the start plus a learned delta that is zero at initialisation (ours), so an untrained head is
    exactly its inputs joined. A head trained from scratch is worse than no training. The delta is the fused tokens'
    and, with `start_map`, a linear map's of the start itself: what passes through the narrow fusion has lost too much
    of 768 dimensions to better them (measured; ours).
    """

    def __init__(self, config: LiraConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc1.init_std = config.hidden_size**-0.5
        self.delta = nn.Linear(config.intermediate_size, config.projection_dim)
        self.delta.init_std = 0.0
        self.config = config
        self.gate_fc1, self.gate_fc2 = None, None
        if config.path_gate:
            self.gate_fc1 = nn.Linear(CHOICE_FACTS, config.actor_hidden_size)
            self.gate_fc2 = nn.Linear(config.actor_hidden_size, 1)
            self.gate_fc1.init_std = CHOICE_FACTS**-0.5
            self.gate_fc2.init_std = 0.0  # the constant, before training
        self.start_map = None
        if config.start_map:
            self.start_map = nn.Linear(config.projection_dim, config.projection_dim, bias=False)
            self.start_map.init_std = 0.0
        self.state_norm, self.state_projection = None, None
        if config.embedding_source == "language_model":
            width = hidden_size(config.base_config, "base_config")
            self.state_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
            self.state_projection = nn.Linear(width, config.hidden_size)
            self.state_projection.init_std = width**-0.5

    def path_weight(self, facts: torch.Tensor, language_ids: torch.Tensor | None = None) -> torch.Tensor | float:
        """
        The multilingual road's share of each text's start: `config.path_weight`, its language's, or a gate's around
        these (ours). `facts` `(batch, 6)`, see [`choice_facts`]; `language_ids` `(batch,)` as of [`LiraFusion`] ->
        `(batch, 1)` where it isn't one for all.
        """
        share: torch.Tensor | float = self.config.path_weight
        if self.config.language_path_weights and language_ids is not None:
            by_language = self.config.language_path_weights
            shares = [share, *(by_language.get(tag, share) for tag in self.config.languages)]
            share = facts.new_tensor(shares)[language_ids.to(facts.device)].unsqueeze(-1)
        if self.gate_fc1 is None:
            return share
        shift = self.gate_fc2(self.activation(self.gate_fc1(facts)))
        constant = torch.logit(torch.as_tensor(share, dtype=shift.dtype, device=shift.device), eps=1e-4)
        return torch.sigmoid(constant + shift)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, start: torch.Tensor, state: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        `tokens` `(batch, 2 x bins, hidden_size)`, `mask` `(batch, 2 x bins)`, `start` `(batch, projection_dim)`,
        and the base LM's last `state` `(batch, hidden size of the base)` where the embedding is read off it ->
        `(batch, projection_dim)` of unit length, or zero where no road is present.
        """
        pooled = masked_mean(tokens, mask)
        if self.state_projection is not None:
            if state is None:
                raise ValueError(
                    "got no state of the base LM; expected one, since embedding_source is 'language_model'"
                )
            pooled = pooled + self.state_projection(self.state_norm(state.to(pooled)))
        delta = self.delta(self.activation(self.fc1(pooled)))
        if self.start_map is not None:
            delta = delta + self.start_map(start)
        return unit(start + delta) * mask.any(-1, keepdim=True)
