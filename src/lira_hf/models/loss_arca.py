"""Losses of Arca: anchoring (contrastive or pure cosine), and policy (REINFORCE, its exact expectation, mixture)."""

import torch
import torch.nn.functional as F


__all__ = [
    "anchor_loss",
    "candidate_reward",
    "contrastive_loss",
    "cosine_anchor_loss",
    "mixture_loss",
    "policy_entropy",
    "policy_loss",
]


def cosine_anchor_loss(source_embeds: torch.Tensor, anchor_embeds: torch.Tensor) -> torch.Tensor:
    """
    1 - cos(E_lr, E_en) (paper). Alone it collapses: a shared trainable adaptor sends every similarity to 1.

    Args:
        source_embeds (`torch.Tensor` of shape `(batch, dim)`): E_lr.
        anchor_embeds (`torch.Tensor` of shape `(batch, dim)`): E_en of the chosen candidate.

    Returns:
        `torch.Tensor` of shape `()`.
    """
    return (1.0 - F.cosine_similarity(source_embeds, anchor_embeds, dim=-1)).mean()


def contrastive_loss(
    source_embeds: torch.Tensor, anchor_embeds: torch.Tensor, temperature: float, same: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Symmetric in-batch InfoNCE: a text is closer to its own translation than to the batch's others (ours).

    Args:
        source_embeds (`torch.Tensor` of shape `(batch, dim)`): E_lr.
        anchor_embeds (`torch.Tensor` of shape `(batch, dim)`): E_en of the chosen candidate.
        temperature (`float`): Divides the cosines.
        same (`torch.Tensor` of shape `(batch, batch)`, bool, *optional*):
            Rows with the same translation, which are no negatives of each other. Told apart by what is frozen: by the
            trained embeddings a beginning collapse would switch its own remedy off.

    Returns:
        `torch.Tensor` of shape `()`: 0 for a batch of one, which has no negatives.
    """
    source, anchor = F.normalize(source_embeds, dim=-1), F.normalize(anchor_embeds, dim=-1)
    logits = source @ anchor.T / temperature  # (batch, batch)
    target = torch.arange(len(logits), device=logits.device)
    if same is not None:
        logits = logits.masked_fill(same & (target[:, None] != target[None, :]), float("-inf"))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def anchor_loss(
    source_embeds: torch.Tensor,
    anchor_embeds: torch.Tensor,
    kind: str = "contrastive",
    contrastive_weight: float = 0.3,
    temperature: float = 0.07,
    same: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    L_anchor: `"cosine"` (paper), or `"contrastive"`, which adds `contrastive_weight` x InfoNCE, against collapse
    (ours).

    Args:
        source_embeds (`torch.Tensor` of shape `(batch, dim)`): E_lr.
        anchor_embeds (`torch.Tensor` of shape `(batch, dim)`): E_en of the chosen candidate.
        same (`torch.Tensor` of shape `(batch, batch)`, bool, *optional*): See [`contrastive_loss`].

    Returns:
        `torch.Tensor` of shape `()`.
    """
    loss = cosine_anchor_loss(source_embeds, anchor_embeds)
    if kind == "contrastive":
        return loss + contrastive_weight * contrastive_loss(source_embeds, anchor_embeds, temperature, same)
    if kind == "cosine":
        return loss
    raise ValueError(f"the anchoring loss is {kind!r}; expected 'contrastive' or 'cosine'")


def candidate_reward(
    scores: torch.Tensor | None,
    similarity: torch.Tensor,
    weights: list[float] | tuple[float, ...],
    closeness: torch.Tensor | None = None,
    reference_weight: float = 0.0,
) -> torch.Tensor:
    """
    R_k = 0.1 (alpha s + beta e + gamma p) + delta sim (paper), + rho cos(h(y_k), h(reference)) where training rows
    have a reference (ours). Detached: no gradient makes a reward larger.

    Args:
        scores (`torch.Tensor` of shape `(batch, candidates, 3)`, *optional*):
            The judge's s, e, p in 1..10; 0: not judged.
        similarity (`torch.Tensor` of shape `(batch, candidates)`): The embedding critic's sim.
        weights (`list[float]`): alpha, beta, gamma, delta.
        closeness (`torch.Tensor` of shape `(batch, candidates)`, *optional*): The cosine to the reference; 0 without.
        reference_weight (`float`, *optional*, defaults to 0.0): rho.

    Returns:
        `torch.Tensor` of shape `(batch, candidates)`.
    """
    reward = weights[3] * similarity.detach()
    if scores is not None:
        reward = reward + 0.1 * (scores.to(reward.dtype) @ reward.new_tensor(weights[:3]))
    if closeness is not None:
        reward = reward + reference_weight * closeness.detach()
    return reward


def mixture_loss(
    policy: torch.Tensor, sentences: torch.Tensor, reference: torch.Tensor, temperature: float = 0.05
) -> torch.Tensor:
    """
    InfoNCE of the candidates' h-vectors, mixed by the policy, against the reference's h-vector; the batch's other
    references are the negatives (ours). What the policy learns from is the vector that it makes, so that it also
    learns what to average.

    Args:
        policy (`torch.Tensor` of shape `(batch, candidates)`): Weights; every row has a candidate.
        sentences (`torch.Tensor` of shape `(batch, candidates, d_h)`): h's unit vectors of the candidates.
        reference (`torch.Tensor` of shape `(batch, d_h)`): Those of the references; none is zero.
        temperature (`float`, *optional*, defaults to 0.05): Divides the cosines.

    Returns:
        `torch.Tensor` of shape `()`: 0 for a batch of one, which has no negatives.
    """
    mixed = F.normalize((policy.unsqueeze(-1) * sentences).sum(1), dim=-1)
    reference = F.normalize(reference, dim=-1)
    logits = mixed @ reference.T / temperature  # (batch, batch)
    target = torch.arange(len(logits), device=logits.device)
    same = (reference @ reference.T > 1.0 - 1e-4) & (target[:, None] != target[None, :])
    return F.cross_entropy(logits.masked_fill(same, float("-inf")), target)


def policy_entropy(log_policy: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of each row's policy: both `(batch, candidates)` -> `(batch,)`."""
    return -(log_policy.exp() * mask * log_policy.masked_fill(~mask, 0.0)).sum(-1)


def policy_loss(
    log_policy: torch.Tensor,
    reward: torch.Tensor,
    mask: torch.Tensor,
    objective: str = "reinforce",
    entropy_weight: float = 0.0,
    action: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    L_RL. `"reinforce"` (paper): -log pi(a) (R_a - b), with b the policy's own expected reward, detached (baseline:
    ours). `"expected"`: minus the expected reward itself, its exact gradient, since K is small (ours).

    Args:
        log_policy (`torch.Tensor` of shape `(batch, candidates)`): log pi(k); any finite number where `mask` is 0.
        reward (`torch.Tensor` of shape `(batch, candidates)`): R_k.
        mask (`torch.Tensor` of shape `(batch, candidates)`, bool): Candidates that exist; a row without is left out.
        entropy_weight (`float`, *optional*, defaults to 0.0): Entropy bonus (ours).
        action (`torch.Tensor` of shape `(batch,)`, *optional*): The sampled candidate; needed by `"reinforce"`.

    Returns:
        `torch.Tensor` of shape `()`: 0 where no row has a candidate.
    """
    policy = log_policy.exp() * mask
    reward = reward.detach() * mask
    rows = mask.any(-1)
    count = rows.sum().clamp(min=1)
    expected = (policy * reward).sum(-1)  # (batch,)
    if objective == "reinforce":
        if action is None:
            raise ValueError("action is None; REINFORCE needs the sampled candidate of each row, shape (batch,)")
        chosen = action.unsqueeze(-1)
        advantage = reward.gather(-1, chosen).squeeze(-1) - expected.detach()
        loss = -log_policy.gather(-1, chosen).squeeze(-1) * advantage
    elif objective == "expected":
        loss = -expected
    else:
        raise ValueError(f"the policy objective is {objective!r}; expected 'reinforce' or 'expected'")
    return ((loss - entropy_weight * policy_entropy(log_policy, mask)) * rows).sum() / count
