"""What training is watched by: the actor's choice and the embedding critic, and warnings when either collapses."""

import logging

import torch

from lira_hf.models import LiraModelOutput

from .arguments import LiraTrainingArguments


__all__ = ["CollapseWarnings", "choice_statistics"]

logger = logging.getLogger(__name__)


@torch.no_grad()
def choice_statistics(output: LiraModelOutput) -> dict[str, torch.Tensor]:
    """
    What can be said of the actor and the embedding critic over the texts of a batch that have a choice.

    Args:
        output ([`LiraModelOutput`]): Of the batch; with `reward` where the Arca loss was asked for.

    Returns:
        `dict[str, torch.Tensor]`: Scalars, empty where no text has two candidates: `sim_mean` and `sim_spread` (mean
        and within-item deviation of sim), `policy_entropy` (nats); with a reward also `reward_mean` (what the policy
        expects), `advantage_spread` (deviation of the reward around it, under the policy) and `policy_rank` (mean
        within-item Spearman of policy and reward).
    """
    if output.policy is None:
        return {}
    choice = (output.policy > 0).sum(-1) > 1
    if not bool(choice.any()):
        return {}
    policy, similarity = output.policy[choice].float(), output.similarity[choice].float()
    present = policy > 0
    found = {
        "sim_mean": _mean(similarity, present).mean(),
        "sim_spread": _deviation(similarity, present).mean(),
        "policy_entropy": -(policy * policy.clamp(min=1e-9).log()).sum(-1).mean(),
    }
    if output.reward is not None:
        reward = output.reward[choice].float()
        expected = (policy * reward).sum(-1, keepdim=True)
        found["reward_mean"] = expected.mean()
        found["advantage_spread"] = (policy * (reward - expected).square()).sum(-1).sqrt().mean()
        found["policy_rank"] = _rank_correlation(policy, reward, present).mean()
    return found


def _mean(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    return (values * present).sum(-1) / present.sum(-1)


def _deviation(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    return ((values - _mean(values, present)[:, None]).square() * present).sum(-1).div(present.sum(-1)).sqrt()


def _rank_correlation(one: torch.Tensor, other: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Spearman's rho within each row, `(rows,)`; 0 where a side is constant."""
    ranks = []
    for values in (one, other):
        below = (values[:, :, None] > values[:, None, :]) & present[:, None, :]
        tied = (values[:, :, None] == values[:, None, :]) & present[:, None, :]
        rank = below.sum(-1) + 0.5 * tied.sum(-1)  # ties share their mean
        ranks.append((rank - _mean(rank, present)[:, None]) * present)
    norm = (ranks[0].square().sum(-1) * ranks[1].square().sum(-1)).sqrt()
    return (ranks[0] * ranks[1]).sum(-1) / norm.clamp(min=1e-6)


class CollapseWarnings:
    """
    Warns, once each, when the logged means say that something has collapsed.

    Args:
        args ([`LiraTrainingArguments`]): With the limits.
    """

    def __init__(self, args: LiraTrainingArguments):
        self.args = args
        self.warned: set[str] = set()

    def __call__(self, logs: dict[str, float]) -> None:
        """`logs`: means of [`choice_statistics`] since the last call."""
        args, nan = self.args, float("nan")
        high = logs.get("sim_mean", 0.0) > args.collapse_similarity
        flat = logs.get("sim_spread", 1.0) < args.collapse_spread
        if high or flat:
            self._once(
                "sim",
                f"the embedding critic collapses: mean sim {logs.get('sim_mean', nan):.3f} (warning above "
                f"{args.collapse_similarity:.3f}), spread within an item {logs.get('sim_spread', nan):.4f} (warning "
                f"below {args.collapse_spread:.4f}); every candidate looks alike to it. Use "
                "anchor_loss='contrastive', a lower learning rate or fewer steps.",
            )
        if logs.get("policy_entropy", 1.0) < args.collapse_entropy:
            self._once(
                "policy",
                f"the policy collapses: entropy {logs['policy_entropy']:.4f} nats (warning below "
                f"{args.collapse_entropy:.4f}); it has stopped weighing the candidates and learns nothing more. Use a "
                "larger entropy_weight, a higher policy_temperature or a lower learning rate.",
            )

    def _once(self, what: str, message: str) -> None:
        if what not in self.warned:
            self.warned.add(what)
            logger.warning(message)
