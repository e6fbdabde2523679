"""The paper's bound, ||z - z*|| <= eps1 + C sqrt(2 eps2), as estimators over rows whose reference is known (ours)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp


__all__ = ["BoundSettings", "SemanticBank", "conformal_quantile", "fit_constant", "reached_level", "rows_needed"]

_CHUNK = 1024
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class BoundSettings:
    """
    What the estimators depend on besides model and rows.

    Args:
        level (`float`, *optional*, defaults to 0.995): Share of new rows, in expectation, for which C is enough.
        temperature (`float`, *optional*, defaults to 0.1): Of the semantic distribution over the bank.
        smoothing (`float`, *optional*, defaults to 1e-3): Share of the uniform distribution that is mixed in, which
            keeps every KL below log(anchors / smoothing).
        floor (`float`, *optional*, defaults to 1e-3): Least eps2 of a row, nats. Rows whose distributions agree while
            their vectors don't would ask for an infinite C.
        quantile (`float`, *optional*, defaults to 0.95): At which the local Lipschitz constant is read (paper).
        few (`int`, *optional*, defaults to 30): A language with fewer test rows than this is marked as having few.
        seed (`int`, *optional*, defaults to 0): Of the split into calibration and test rows, and of the edits.

    Raises:
        ValueError: For a value outside its range.
    """

    level: float = 0.995
    temperature: float = 0.1
    smoothing: float = 1e-3
    floor: float = 1e-3
    quantile: float = 0.95
    few: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "level": (0.5 <= self.level < 1, "a share from .5 to below 1, such as .995"),
            "temperature": (0 < self.temperature < math.inf, "a number above 0, such as .1"),
            "smoothing": (0 <= self.smoothing < 1, "a share from 0 to below 1, such as .001"),
            "floor": (0 < self.floor < math.inf, "a number of nats above 0, such as .001"),
            "quantile": (0 < self.quantile <= 1, "a share above 0, such as .95"),
            "few": (self.few >= 1, "a number of rows from 1 on"),
        }
        for name, (good, expected) in ranges.items():
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {expected}; set {name}")


def rows_needed(level: float) -> int:
    """Fewest calibration rows with which [`conformal_quantile`] is finite: 199 for .995, 99 for .99."""
    return next(n for n in range(1, 10**9) if _rank(n, level) <= n)


def _rank(count: int, level: float) -> int:
    return math.ceil((count + 1) * level - 1e-9)


def reached_level(count: int, level: float) -> float:
    """The level at which `count` rows can speak: `level`, or n / (n + 1), that of their maximum, if they are few."""
    return level if _rank(count, level) <= count else count / (count + 1)


def conformal_quantile(values: NDArray[np.floating], level: float) -> float:
    """
    The quantile that a new value stays below with probability `level` at least, whatever the distribution.

    It is the ceil((n + 1) level)-th smallest of n values (split conformal prediction), rather than the n level-th: the
    difference is what makes the promise hold for finite n. Of values that are too few it is the largest, and the
    promise is [`reached_level`].

    Args:
        values (`np.ndarray` of shape `(rows,)`): Of calibration rows, exchangeable with those to come.
        level (`float`): The probability.

    Raises:
        ValueError: Where there is no value.
    """
    if not len(values):
        raise ValueError("got no values; expected at least one calibration row; give more rows")
    return float(np.sort(values)[min(_rank(len(values), level), len(values)) - 1])


def fit_constant(deviation: Vector, fidelity: Vector, settings: BoundSettings) -> float:
    """
    C: the smallest constant with which ||h(T(x)) - h(y*)|| <= C sqrt(2 eps2) holds at the settings' level.

    Args:
        deviation (`np.ndarray` of shape `(rows,)`): ||h(T(x)) - h(y*)|| of calibration rows.
        fidelity (`np.ndarray` of shape `(rows,)`): KL of the same rows, nats, as [`SemanticBank`] gives it.
        settings ([`BoundSettings`]): Level and floor.

    Raises:
        ValueError: For fewer rows than the level needs.
    """
    needed = rows_needed(settings.level)
    if len(deviation) < needed:
        raise ValueError(
            f"got {len(deviation)} calibration rows; expected at least {needed} for the level {settings.level}; give "
            f"more rows with references and candidates, or lower the level (.99 needs {rows_needed(0.99)})"
        )
    return conformal_quantile(deviation / translation_scale(fidelity, settings.floor), settings.level)


def translation_scale(fidelity: Vector, floor: float) -> Vector:
    """sqrt(2 eps2), `(rows,)`, with eps2 = max(KL, floor), for which KL <= eps2 still holds."""
    return np.sqrt(2.0 * np.maximum(fidelity, floor))


@dataclass(frozen=True)
class SemanticBank:
    """
    The semantic distribution p(s | text): a softmax, over fixed English anchor sentences s, of the cosine of h's
    frozen vectors. Nothing that LiRA trains can change it.

    Args:
        texts (`tuple[str, ...]`): The anchors.
        vectors (`np.ndarray` of shape `(anchors, d_h)`): h's unit vectors of them.
    """

    texts: tuple[str, ...]
    vectors: NDArray[np.float32]

    def first(self, count: int) -> "SemanticBank":
        """A smaller bank, of the first anchors."""
        return replace(self, texts=self.texts[:count], vectors=self.vectors[:count])

    def own(self, references: list[str]) -> NDArray[np.int64]:
        """Place of each row's own reference in the bank, -1 where it isn't there, `(rows,)`."""
        places = {text: number for number, text in enumerate(self.texts)}
        return np.array([places.get(text, -1) for text in references], dtype=np.int64)

    def fidelity(
        self,
        reference: NDArray[np.float32],
        translated: NDArray[np.float32],
        own: NDArray[np.int64],
        settings: BoundSettings,
    ) -> Vector:
        """
        KL(p(s | x) || p(s | T(x))) of each row. p(s | x) is read off the reference translation, as what x means; so an
        error of g has no part in it. A row's own reference is no anchor for it.

        Args:
            reference (`np.ndarray` of shape `(rows, d_h)`): h's unit vectors of the reference translations.
            translated (`np.ndarray` of shape `(rows, d_h)`): h's unit vectors of what stands for x: T(x).
            own (`np.ndarray` of shape `(rows,)`): As [`~SemanticBank.own`] gives it.
            settings ([`BoundSettings`]): Temperature and smoothing.

        Returns:
            `np.ndarray` of shape `(rows,)`: Nats, 0 or more.
        """
        found = [
            _divergence(*(self._log_distribution(part[rows], own[rows], settings) for part in (reference, translated)))
            for rows in _chunks(len(reference))
        ]
        return np.concatenate(found) if found else np.zeros(0)

    def _log_distribution(self, vectors: NDArray[np.float32], own: NDArray[np.int64], settings: BoundSettings):
        scores = (vectors @ self.vectors.T).astype(np.float64) / settings.temperature  # (rows, anchors)
        hidden = np.flatnonzero(own >= 0)
        scores[hidden, own[hidden]] = -np.inf
        scores -= logsumexp(scores, axis=1, keepdims=True)
        if not settings.smoothing:
            return scores
        uniform = np.log(settings.smoothing / (len(self.vectors) - (own >= 0)))[:, None]
        smoothed = np.logaddexp(scores + np.log1p(-settings.smoothing), uniform)
        smoothed[hidden, own[hidden]] = -np.inf
        return smoothed


def _divergence(log_p: Vector, log_q: Vector) -> Vector:
    with np.errstate(invalid="ignore"):  # a hidden anchor is 0 log(0 / 0)
        terms = np.exp(log_p) * (log_p - log_q)
    return np.maximum(np.nansum(terms, axis=1), 0.0)  # rounding may leave it just below 0


def _chunks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _CHUNK):
        yield slice(start, start + _CHUNK)
