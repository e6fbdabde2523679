"""What training is watched by: the actor's choice, the embedding critic and the embeddings, warnings when one of them
collapses, and a guard of what the model could do in English before training."""

import logging

import torch

from lira_hf.models import LiraModelOutput

from .arguments import LiraTrainingArguments


__all__ = ["CollapseWarnings", "EnglishGuard", "choice_statistics", "embedding_statistics"]

logger = logging.getLogger(__name__)
# The effective rank takes O(rows^3); more rows say little more.
_MOST_ROWS = 256


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
    if getattr(output, "reward", None) is not None:
        reward = output.reward[choice].float()
        expected = (policy * reward).sum(-1, keepdim=True)
        found["reward_mean"] = expected.mean()
        found["advantage_spread"] = (policy * (reward - expected).square()).sum(-1).sqrt().mean()
        found["policy_rank"] = _rank_correlation(policy, reward, present).mean()
    return found


@torch.no_grad()
def embedding_statistics(embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    How widely a batch's embeddings are spread (ours).

    Args:
        embeddings (`torch.Tensor`): Shape `(rows, dim)`; the first 256 that are not zero are looked at.

    Returns:
        `dict[str, torch.Tensor]`: Scalars, empty for fewer than two rows: `embedding_cosine` (mean cosine of two
        different rows), `embedding_variance` (mean squared distance of the unit vectors from their mean, 0..1) and
        `embedding_rank` (effective rank of the centred unit vectors: exp of the entropy, in nats, of their variance's
        distribution over its principal axes; 1 up to rows - 1, and 0 where all are alike).
    """
    rows = embeddings.detach().float()
    rows = rows[rows.any(-1)][:_MOST_ROWS]
    count = len(rows)
    if count < 2:
        return {}
    rows = torch.nn.functional.normalize(rows, dim=-1)
    centred = rows - rows.mean(0)
    # Rows are fewer than dimensions as a rule: their products have the same spectrum as the covariance.
    spectrum = torch.linalg.eigvalsh((centred @ centred.T).double()).clamp(min=0.0)
    variance = spectrum.sum() / count
    share = spectrum / spectrum.sum().clamp(min=1e-30)
    rank = torch.special.entr(share).sum().exp() if variance > 1e-10 else spectrum.new_zeros(())
    cosine = (rows.sum(0).square().sum() - count) / (count * (count - 1))
    return {"embedding_cosine": cosine, "embedding_variance": variance.float(), "embedding_rank": rank.float()}


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
        """`logs`: means of [`choice_statistics`] since the last call, and [`embedding_statistics`]."""
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

        cosine, rank = logs.get("embedding_cosine", -1.0), logs.get("embedding_rank", float("inf"))
        if cosine > args.collapse_cosine or rank < args.collapse_rank:
            self._once(
                "embeddings",
                f"the embeddings collapse: mean cosine of two texts {cosine:.3f} (warning above "
                f"{args.collapse_cosine:.3f}), effective rank {rank:.2f} (warning below {args.collapse_rank:.2f}), "
                f"variance {logs.get('embedding_variance', nan):.4f}; all texts look alike. Use a larger "
                "start_weight, a lower learning rate, or more texts a batch.",
            )

    def _once(self, what: str, message: str) -> None:
        if what not in self.warned:
            self.warned.add(what)
            logger.warning(message)


class EnglishGuard:
    """
    Warns when a figure on English has fallen below that of the untrained start: a model that gains in other languages
    is not to lose what its encoders could do (ours).

    Args:
        start (`dict[str, float]`): The figures of the untrained start; higher is better.
        margin (`float`): How far each may fall.
    """

    def __init__(self, start: dict[str, float], margin: float):
        self.start = start
        self.margin = margin

    def __call__(self, figures: dict[str, float], step: int) -> list[str]:
        """
        Args:
            figures (`dict[str, float]`): Those of now.
            step (`int`): Training steps so far.

        Returns:
            `list[str]`: Names of the figures that have fallen, each of which was warned of.
        """
        fallen = [name for name, value in self.start.items() if figures.get(name, value) < value - self.margin]
        for name in fallen:
            logger.warning(
                f"English suffers: {name} fell from {self.start[name]:.4f} (untrained start) to {figures[name]:.4f} "
                f"at step {step}, by {self.start[name] - figures[name]:.4f}; english_margin allows {self.margin:.4f}. "
                "Add English rows to the training data, or use a larger start_weight, a lower learning rate or fewer "
                "steps."
            )
        return fallen
