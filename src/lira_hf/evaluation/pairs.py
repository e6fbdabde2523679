"""Scored pairs: correlations of their cosines with their scores, and two systems compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from lira_hf.data import SimilarityPair

from .retrieval import UNKNOWN_LANGUAGE, Interval


__all__ = ["PairScores", "pair_difference", "pair_groups", "pair_language"]


@dataclass(frozen=True)
class PairScores:
    """
    Cosines of pairs of texts beside their scores.

    Args:
        languages (`list[str]`): Of each pair, such as `"vi"` or `"vi-en"`, see [`pair_language`].
        groups (`list[str]`): What each pair belongs to, such as the texts that it was made from.
        gold (`np.ndarray` of shape `(pairs,)`): The data's own scores.
        cosines (`np.ndarray` of shape `(pairs,)`): What was predicted.
    """

    languages: list[str]
    groups: list[str]
    gold: NDArray[np.float64]
    cosines: NDArray[np.float64]

    def rows(self, language: str | None = None) -> dict[str, NDArray[np.int64]]:
        """Places of each language's pairs, or of one language's alone."""
        tags = np.array(self.languages)
        return {tag: np.flatnonzero(tags == tag) for tag in sorted(set(self.languages)) if language in (None, tag)}

    def per_language(self, metric: str = "pearson") -> dict[str, float]:
        """`"pearson"` or `"spearman"` of each language, -1..1; 0 where one side is constant."""
        return {
            tag: float(_correlation(self.cosines[at], self.gold[at], np.ones((1, len(at))), metric)[0])
            for tag, at in self.rows().items()
        }

    def mean(self, metric: str = "pearson") -> float:
        """Mean of the languages: each counts alike, however many pairs it has."""
        return float(np.mean(list(self.per_language(metric).values())))


def pair_difference(
    ours: Sequence[PairScores],
    theirs: Sequence[PairScores],
    metric: str = "pearson",
    language: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """
    Ours minus theirs on the mean of the languages, with a 95 % paired-bootstrap interval, resampled by group (ours).

    Args:
        ours, theirs (`Sequence[PairScores]`): The same pairs under both systems; one entry per seed, whose
            correlations are averaged. A system without seeds gives one entry.
        metric (`str`, *optional*, defaults to `"pearson"`): Or `"spearman"`.
        language (`str`, *optional*): That language's pairs alone.
        resamples (`int`, *optional*, defaults to 1000): Bootstrap samples.
        seed (`int`, *optional*, defaults to 0): Of the bootstrap.

    Returns:
        [`Interval`]: NaN bounds for fewer than three groups.

    Raises:
        ValueError: For systems that were scored on different pairs.
    """
    first = ours[0]
    for scores in (*ours, *theirs):
        if scores.languages != first.languages or not np.array_equal(scores.gold, first.gold):
            raise ValueError("the systems were scored on different pairs; expected the same ones in the same order")
    rows = list(first.rows(language).values())
    group_of = np.unique(first.groups, return_inverse=True)[1]
    count = group_of.max() + 1
    used = np.unique(group_of[np.concatenate(rows)])

    def statistic(sample: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        drawn = sample.reshape(-1, sample.shape[-1])
        places = drawn + count * np.arange(len(drawn))[:, None]
        weights = np.bincount(places.ravel(), minlength=count * len(drawn)).reshape(-1, count)[:, group_of]
        gains = []
        for at in rows:
            mine, other = (
                np.mean(
                    [_correlation(one.cosines[at], first.gold[at], weights[:, at], metric) for one in side], axis=0
                )
                for side in (ours, theirs)
            )
            gains.append(mine - other)
        # A language of which a resample has no pair is left out of its mean.
        return np.nanmean(gains, axis=0).reshape(sample.shape[:-1])

    point = float(statistic(used))
    if len(used) < 3:
        return Interval(point, float("nan"), float("nan"))
    how = {"n_resamples": resamples, "batch": 50, "vectorized": True, "method": "percentile"}
    found = bootstrap((used,), statistic, **how, rng=np.random.default_rng(seed)).confidence_interval
    return Interval(point, float(found.low), float(found.high))


def pair_language(pair: SimilarityPair) -> str:
    """`"vi"` where both texts are, `"vi-en"` where they differ, the anchor language last as the data have it."""
    one, other = (tag or UNKNOWN_LANGUAGE for tag in (pair.language1, pair.language2))
    return one if one == other else f"{one}-{other}"


def pair_groups(pairs: Sequence[SimilarityPair]) -> list[str]:
    """What each pair belongs to: its own group, or itself alone."""
    return [pair.group or str(number) for number, pair in enumerate(pairs)]


def _correlation(
    one: NDArray[np.float64], other: NDArray[np.float64], weights: NDArray[np.number], metric: str
) -> NDArray[np.float64]:
    """Of two rows of `(pairs,)` under weights `(samples, pairs)`, whole for Spearman: `(samples,)`, 0 where one
    side is constant and NaN without weight."""
    total = weights.sum(-1)
    if metric == "spearman":
        first, second = _ranks(one, weights), _ranks(other, weights)
    else:
        first, second = one[None], other[None]
    whole = np.maximum(total, 1)[:, None]
    first = first - (weights * first).sum(-1, keepdims=True) / whole
    second = second - (weights * second).sum(-1, keepdims=True) / whole
    power, other_power = (weights * first**2).sum(-1), (weights * second**2).sum(-1)
    scale = np.sqrt(power * other_power)
    # Rounding alone makes something of a constant side.
    varied = scale > 1e-12
    found = np.divide((weights * first * second).sum(-1), scale, out=np.zeros(len(scale)), where=varied)
    return np.where(total > 0, found, np.nan)


def _ranks(values: NDArray[np.float64], weights: NDArray[np.number]) -> NDArray[np.float64]:
    """Mean ranks `(samples, pairs)` of values that stand there as often as their weights say."""
    order = np.argsort(values, kind="stable")
    _, starts, place = np.unique(values[order], return_index=True, return_inverse=True)
    alike = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(alike, axis=1) - alike + (alike + 1) / 2
    ranks = np.empty(weights.shape)
    ranks[:, order] = middle[:, place]
    return ranks
