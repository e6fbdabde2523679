"""Arca (paper): adaptor, embedding critic and actor, over pooled features of a text and its candidate translations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from .configuration_lira import LiraConfig
from .loss_arca import anchor_loss, candidate_reward, mixture_loss, policy_entropy, policy_loss
from .pooling_lira import bin_mask, unit
from .traits_lira import trait_width


__all__ = ["CHOICE_FACTS", "LiraActor", "LiraAdaptor", "LiraArca", "LiraArcaOutput", "choice_facts", "mix_candidates"]

# s, e, p, judged; sim and consensus, raw and standardised. The traits come on top.
_CRITIC_FEATURES = 8
# What is known of a text's candidates once they are weighed, for the path gate.
CHOICE_FACTS = 6


@dataclass
class LiraArcaOutput(ModelOutput):
    """
    What Arca knows of a batch.

    Args:
        source_tokens (`torch.Tensor` of shape `(batch, bins, hidden_size)`): Adapted bins of the text.
        source_mask (`torch.Tensor` of shape `(batch, bins)`, bool): Bins that hold something.
        source_embeds (`torch.Tensor` of shape `(batch, hidden_size)`): E_lr, unit length.
        anchor_tokens (`torch.Tensor` of shape `(batch, candidates, bins, hidden_size)`): The candidates' adapted bins.
        anchor_mask (`torch.Tensor` of shape `(batch, candidates, bins)`, bool): Bins that hold something.
        anchor_embeds (`torch.Tensor` of shape `(batch, candidates, hidden_size)`): E_en, unit length.
        anchor_sentences (`torch.Tensor` of shape `(batch, candidates, d_h)`): h's unit vectors, which nothing trains.
        candidate_mask (`torch.Tensor` of shape `(batch, candidates)`, bool): Candidates that exist.
        similarity (`torch.Tensor` of shape `(batch, candidates)`): sim, the embedding critic's cosine.
        log_policy (`torch.Tensor` of shape `(batch, candidates)`): log pi; absent candidates hold the lowest float.
        chosen_tokens (`torch.Tensor` of shape `(batch, bins, hidden_size)`): The likeliest candidate's adapted bins,
            with a graph of their own, where `anchor_tokens` has none.
    """

    source_tokens: torch.Tensor | None = None
    source_mask: torch.Tensor | None = None
    source_embeds: torch.Tensor | None = None
    anchor_tokens: torch.Tensor | None = None
    anchor_mask: torch.Tensor | None = None
    anchor_embeds: torch.Tensor | None = None
    anchor_sentences: torch.Tensor | None = None
    candidate_mask: torch.Tensor | None = None
    similarity: torch.Tensor | None = None
    log_policy: torch.Tensor | None = None
    chosen_tokens: torch.Tensor | None = None


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the rows of `values` `(..., rows, dim)` where `mask` `(..., rows)`; 0 where all is masked."""
    weight = mask.to(values.dtype).unsqueeze(-1)
    return (values * weight).sum(-2) / weight.sum(-2).clamp(min=1.0)


def standardise(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit deviation within the item: sim spreads by .05, less than a critic's noise (ours)."""
    weight = mask.to(values.dtype)
    count = weight.sum(-1, keepdim=True).clamp(min=1.0)
    centred = (values - (values * weight).sum(-1, keepdim=True) / count) * weight
    deviation = (centred.square().sum(-1, keepdim=True) / count + 1e-6).sqrt()
    return centred / deviation


def fill_unjudged(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Gives a candidate that was not judged the mean of the item's judged ones, so that silence is neither praise nor
    blame (ours). `scores` `(batch, candidates, 3)`, 0 where not judged; `mask` `(batch, candidates)`, bool.
    """
    judged = ((scores > 0).all(-1) & mask).unsqueeze(-1)
    mean = (scores * judged).sum(1, keepdim=True) / judged.sum(1, keepdim=True).clamp(min=1)
    return torch.where(judged, scores, mean)


class LiraAdaptor(nn.Module):
    """A: one input projection per stream, since d_g and d_h may differ, and a shared residual block (paper)."""

    def __init__(self, config: LiraConfig):
        super().__init__()
        self.source_projection = nn.Linear(config.source_dim, config.hidden_size)
        self.anchor_projection = nn.Linear(config.anchor_dim, config.hidden_size)
        # Their input has unit length, so this gives tokens of unit scale.
        self.source_projection.init_std = self.anchor_projection.init_std = 1.0
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, bins: torch.Tensor, stream: str) -> torch.Tensor:
        """`bins` `(..., bins, dim of the stream)` -> `(..., bins, hidden_size)`; `stream` is "source" or "anchor"."""
        projection = self.source_projection if stream == "source" else self.anchor_projection
        # Backbones differ in scale by orders of magnitude; only the direction of a bin is used.
        hidden = projection(unit(bins))
        return hidden + self.dropout(self.fc2(self.activation(self.fc1(self.norm(hidden)))))


class LiraActor(nn.Module):
    """
    The policy: an MLP over what is known of each candidate (paper: s, e, p, sim). Ours: whether it was judged at all;
    sim and consensus (mean cosine to the item's other candidates in h's space), raw and standardised within the item;
    the traits, which cost nothing; and how much each of these is below the item's mean and its best. A judge may be
    absent: its scores are hidden from a share of the rows in training (ours).
    Before training the policy is the softmax of `policy_prior` times the judge's part of the reward, uniform where
    nothing was judged, and the MLP learns the difference (ours).
    """

    def __init__(self, config: LiraConfig):
        super().__init__()
        self.num_traits = trait_width(config.candidate_kinds)
        width = 3 * (_CRITIC_FEATURES + self.num_traits)
        self.fc1 = nn.Linear(width, config.actor_hidden_size)
        self.fc2 = nn.Linear(config.actor_hidden_size, 1)
        self.fc1.init_std = width**-0.5
        self.fc2.init_std = 0.0  # the policy is its prior before training
        self.activation = ACT2FN[config.hidden_act]
        self.temperature = config.policy_temperature
        self.judge_dropout = config.judge_dropout
        self.prior = [config.policy_prior * 0.1 * weight for weight in config.reward_weights[:3]]

    def forward(
        self,
        scores: torch.Tensor | None,
        similarity: torch.Tensor,
        consensus: torch.Tensor,
        mask: torch.Tensor,
        traits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        All `(batch, candidates)`, scores `(batch, candidates, 3)`, traits `(batch, candidates, trait_width)` -> log pi
        `(batch, candidates)`.
        """
        if scores is None:
            scores = similarity.new_zeros(*similarity.shape, 3)
        if traits is None:
            traits = similarity.new_zeros(*similarity.shape, self.num_traits)
        scores = scores.to(similarity.dtype)
        if self.training and self.judge_dropout:
            heard = torch.rand(len(scores), 1, 1, device=scores.device) >= self.judge_dropout
            scores = scores * heard
        judged = (scores > 0).all(-1, keepdim=True).to(similarity.dtype)
        # Detached: the policy's loss must not bend the critic that it is told by (ours).
        similarity = similarity.detach()
        raw = torch.stack([similarity, consensus], dim=1)  # (batch, 2, candidates)
        columns = torch.stack([raw, standardise(raw, mask.unsqueeze(1))], dim=2).flatten(1, 2).transpose(1, 2)
        features = [scores * 0.1 * judged, judged, columns, traits.to(similarity.dtype)]
        features = _beside_others(torch.cat(features, dim=-1), mask)
        prior = fill_unjudged(scores, mask) @ scores.new_tensor(self.prior)
        logits = (prior + self.fc2(self.activation(self.fc1(features))).squeeze(-1)) / self.temperature
        lowest = torch.finfo(logits.dtype).min
        return torch.log_softmax(logits.masked_fill(~mask, lowest), dim=-1).clamp(min=lowest)


def _beside_others(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Each candidate's features `(batch, candidates, f)`, and how far they are from the item's mean and maximum."""
    present = mask.unsqueeze(-1)
    features = features * present
    mean = features.sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
    lowest = torch.finfo(features.dtype).min
    best = features.masked_fill(~present, lowest).amax(1, keepdim=True)
    return torch.cat([features, (features - mean) * present, torch.where(present, features - best, 0.0)], dim=-1)


class LiraArca(nn.Module):
    """Anchors the multilingual road to the translations, scores the candidates and chooses among them."""

    def __init__(self, config: LiraConfig):
        super().__init__()
        self.config = config
        self.adaptor = LiraAdaptor(config)
        self.actor = LiraActor(config)
        # Without g there is nothing to compare the candidates with.
        self.has_critic = not {"embedding_critic", "multilingual_encoder"}.intersection(config.without)
        # In training by several processes: from the loss's arguments of one process's rows to those of all of them.
        self.join_rows: Callable[..., tuple] | None = None

    def forward(
        self,
        source_features: torch.Tensor | None,
        anchor_features: torch.Tensor | None,
        anchor_scores: torch.Tensor | None = None,
        anchor_traits: torch.Tensor | None = None,
        candidate_gradients: bool = True,
    ) -> LiraArcaOutput:
        """
        Args:
            source_features (`torch.Tensor` of shape `(batch, 1 + bins, d_g)`, *optional*): The text's pooled features.
            anchor_features (`torch.Tensor` of shape `(batch, candidates, 1 + bins, d_h)`, *optional*): Its candidates.
            anchor_scores (`torch.Tensor` of shape `(batch, candidates, 3)`, *optional*): s, e, p in 1..10, or 0.
            anchor_traits (`torch.Tensor` of shape `(batch, candidates, traits)`, *optional*): What is free to know.
            candidate_gradients (`bool`, *optional*, defaults to `True`): `False` where no loss asks for what is known
                of the candidates: where one of them is chosen, the graph then leads through that one alone.
        """
        output = LiraArcaOutput()
        if source_features is not None:
            output.source_mask = bin_mask(source_features[:, 1:])
            output.source_tokens = self.adaptor(source_features[:, 1:], "source")
            output.source_embeds = unit(masked_mean(output.source_tokens, output.source_mask))
        if anchor_features is None or anchor_features.shape[1] == 0:
            return output
        alone = not candidate_gradients and self.config.candidate_mode == "argmax" and torch.is_grad_enabled()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not alone):
            self._judge(output, anchor_features, anchor_scores, anchor_traits)
        if alone:
            rows, best = (
                torch.arange(len(anchor_features), device=anchor_features.device),
                output.log_policy.argmax(-1),
            )
            output.chosen_tokens = self.adaptor(anchor_features[rows, best, 1:], "anchor")
        return output

    def _judge(
        self,
        output: LiraArcaOutput,
        anchor_features: torch.Tensor,
        anchor_scores: torch.Tensor | None,
        anchor_traits: torch.Tensor | None,
    ) -> None:
        """Adds what is known of the candidates."""
        output.anchor_mask = bin_mask(anchor_features[:, :, 1:])
        output.candidate_mask = output.anchor_mask.any(-1)
        output.anchor_tokens = self.adaptor(anchor_features[:, :, 1:], "anchor")
        output.anchor_embeds = unit(masked_mean(output.anchor_tokens, output.anchor_mask))
        output.similarity = self._similarity(output)
        output.anchor_sentences = unit(anchor_features[:, :, 0])
        consensus = self._consensus(output.anchor_sentences, output.candidate_mask)
        output.log_policy = self.actor(
            anchor_scores, output.similarity, consensus, output.candidate_mask, anchor_traits
        )

    def _similarity(self, output: LiraArcaOutput) -> torch.Tensor:
        if output.source_embeds is None or not self.has_critic:
            return output.anchor_embeds.new_zeros(output.anchor_embeds.shape[:2])
        # An absent text has a zero E_lr, so its sim is 0 for every candidate.
        similarity = (output.source_embeds.unsqueeze(1) * output.anchor_embeds).sum(-1)
        return similarity * output.candidate_mask

    @staticmethod
    def _consensus(sentence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        vectors = sentence * mask.unsqueeze(-1)
        others = mask.sum(-1, keepdim=True).to(vectors.dtype) - 1.0
        to_all = (vectors * vectors.sum(1, keepdim=True)).sum(-1)
        return (to_all - 1.0) / others.clamp(min=1.0) * mask * (others > 0)

    def weights(self, output: LiraArcaOutput) -> torch.Tensor:
        """
        How much each candidate counts: the policy (`"mixture"`, ours) or all on the likeliest (`"argmax"`, paper).

        Returns:
            `torch.Tensor` of shape `(batch, candidates)`: Rows sum to 1, or to 0 for a text without candidates.
        """
        if self.config.candidate_mode == "mixture":
            return output.log_policy.exp() * output.candidate_mask
        best = F.one_hot(output.log_policy.argmax(-1), output.log_policy.shape[-1])
        return best.to(output.log_policy.dtype) * output.candidate_mask

    def reward(
        self, output: LiraArcaOutput, anchor_scores: torch.Tensor | None, reference: torch.Tensor | None = None
    ) -> torch.Tensor:
        """R_k of each candidate, `(batch, candidates)`, detached; arguments as in [`~LiraArca.loss`]."""
        config = self.config
        scores = None if anchor_scores is None else fill_unjudged(anchor_scores, output.candidate_mask)
        closeness = None
        if reference is not None:
            closeness = (output.anchor_sentences * unit(reference).unsqueeze(1)).sum(-1) * output.candidate_mask
        return candidate_reward(scores, output.similarity, config.reward_weights, closeness, config.reference_weight)

    def loss(
        self, output: LiraArcaOutput, anchor_scores: torch.Tensor | None, reference: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        L_arca = L_RL + eta L_anchor (paper). Training samples the candidate; evaluation takes the likeliest.

        Rows with no text or no candidate teach nothing and are left out.

        Args:
            output ([`LiraArcaOutput`]): Of the batch.
            anchor_scores (`torch.Tensor` of shape `(batch, candidates, 3)`, *optional*): s, e, p in 1..10, or 0.
            reference (`torch.Tensor` of shape `(batch, d_h)`, *optional*): h's vector of each text's reference
                translation, or of the English document that it should find; zero where there is none (ours).
        """
        if self.join_rows is not None and output.source_embeds is not None:
            output, anchor_scores, reference = self.join_rows(output, anchor_scores, reference)
        if output.source_embeds is None or output.anchor_embeds is None:
            # Zero, yet with a graph, so that a batch of one road alone doesn't stop a training run.
            return 0.0 * self.adaptor.fc1.bias.sum()
        rows = output.source_mask.any(-1) & output.candidate_mask.any(-1)
        action = self._act(output, rows)
        loss = self._policy_loss(output, anchor_scores, reference, rows, action)
        if not bool(rows.any()) or not self.has_critic:
            # Everything has a part in it, as data-parallel training expects.
            return loss + 0.0 * (output.source_embeds.sum() + output.anchor_embeds.sum())
        place = torch.arange(len(action), device=action.device)
        chosen, frozen = output.anchor_embeds[place, action], output.anchor_sentences[place, action][rows]
        config = self.config
        return loss + config.anchor_weight * anchor_loss(
            output.source_embeds[rows],
            chosen[rows],
            config.anchor_loss,
            config.contrastive_weight,
            config.contrastive_temperature,
            same=frozen @ frozen.T > 1.0 - 1e-4,
        )

    def _act(self, output: LiraArcaOutput, rows: torch.Tensor) -> torch.Tensor:
        policy = output.log_policy.exp() * output.candidate_mask
        if not self.training:
            return policy.argmax(-1)
        safe = torch.where(rows.unsqueeze(-1), policy, torch.ones_like(policy))
        return torch.multinomial(safe.float(), 1).squeeze(-1)

    def _policy_loss(
        self,
        output: LiraArcaOutput,
        anchor_scores: torch.Tensor | None,
        reference: torch.Tensor | None,
        rows: torch.Tensor,
        action: torch.Tensor,
    ) -> torch.Tensor:
        config, mask = self.config, output.candidate_mask & rows.unsqueeze(-1)
        reward = self.reward(output, anchor_scores, reference)
        if config.policy_objective != "mixture":
            objective, entropy = config.policy_objective, config.entropy_weight
            return policy_loss(output.log_policy, reward, mask, objective, entropy, action=action)
        referred = torch.zeros_like(rows) if reference is None else rows & reference.any(-1)
        rest = mask & ~referred.unsqueeze(-1)
        # Rows without a reference learn from the reward, by its exact gradient.
        share = (rows & ~referred).sum() / rows.sum().clamp(min=1)
        loss = share * policy_loss(output.log_policy, reward, rest, "expected", config.entropy_weight)
        if bool(referred.any()):
            policy = output.log_policy.exp() * output.candidate_mask
            mixed = mixture_loss(
                policy[referred], output.anchor_sentences[referred], reference[referred], config.mixture_temperature
            )
            entropy = policy_entropy(output.log_policy, output.candidate_mask)[referred].mean()
            loss = loss + (1.0 - share) * (mixed - config.entropy_weight * entropy)
        return loss


def mix_candidates(arca: LiraArcaOutput, sentence: torch.Tensor, weights: torch.Tensor):
    """Candidates by their weights: tokens `(batch, bins, hidden)`, mask `(batch, bins)`, sentence `(batch, d_h)`."""
    bin_weights = weights.unsqueeze(-1) * arca.anchor_mask  # (batch, candidates, bins)
    total = bin_weights.sum(1)
    # A bin that only candidates of next to no weight reach is left out, as it would be without them.
    mask = total > 1e-6
    if arca.chosen_tokens is not None:
        tokens = arca.chosen_tokens * mask.unsqueeze(-1)
    else:
        tokens = (bin_weights.unsqueeze(-1) * arca.anchor_tokens).sum(1) / total.clamp(min=1e-6).unsqueeze(-1)
    mixed = (weights.unsqueeze(-1) * unit(sentence)).sum(1)
    return tokens, mask, mixed


def choice_facts(arca: LiraArcaOutput, mixed: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """
    What tells, without a reference, how far a text's English road can be trusted (ours): the length of the mixed
    sentence vector (1 where all candidates say the same), sim under the weights and its deviation within the item,
    the weights' entropy and largest, and the number of candidates.

    Args:
        arca ([`LiraArcaOutput`]): Of the batch.
        mixed (`torch.Tensor` of shape `(batch, d_h)`): The candidates' sentence vectors, mixed; zero without any.
        weights (`torch.Tensor` of shape `(batch, candidates)`, *optional*): As they were mixed.

    Returns:
        `torch.Tensor` of shape `(batch, 6)`, detached; zero where there is no candidate.
    """
    if weights is None:
        return mixed.new_zeros(len(mixed), CHOICE_FACTS)
    weights, similarity, mask = weights.detach(), arca.similarity.detach(), arca.candidate_mask
    count = mask.sum(-1).to(weights.dtype)
    mean = (similarity * mask).sum(-1) / count.clamp(min=1.0)
    deviation = ((similarity - mean.unsqueeze(-1)).square() * mask).sum(-1).div(count.clamp(min=1.0)).sqrt()
    entropy = -(weights * weights.clamp(min=1e-9).log()).sum(-1)
    facts = [mixed.detach().norm(dim=-1), (weights * similarity).sum(-1), deviation, entropy, weights.amax(-1)]
    return torch.stack([*facts, (1.0 + count).log()], dim=-1)
