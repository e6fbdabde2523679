"""A model of bad translation: candidates with wrong numbers and operations, and a critic that sees little."""

import random
from collections.abc import Mapping
from functools import cache

from number_words.problems import Problem, number_range
from number_words.wordings import NAMES, Reading, fill, read, wording_count


__all__ = ["Rate", "candidates", "corrupt", "weak_critic", "wrong_number"]

Rate = float | Mapping[str, float]

# What an operation is taken for. Subtraction and difference are no mistake for each other: mostly the answer is the
# same. Nothing becomes two steps, which would need a third number; two steps lose theirs.
_MISTAKES: dict[str, tuple[str, ...]] = {
    "addition": ("subtraction", "difference", "multiplication"),
    "subtraction": ("addition", "multiplication"),
    "difference": ("addition", "multiplication"),
    "multiplication": ("addition", "difference"),
    "two_steps": ("addition", "subtraction", "difference"),
}
# A judge's error on the whole translation, and the much smaller one on each of its three scores.
_OWN_SHARE = 0.25


def _rate(name: str, rate: Rate, language: str) -> float:
    if isinstance(rate, Mapping):
        if language not in rate:
            raise ValueError(f"{name} has no rate for {language!r}; it has {', '.join(rate)}: add the language")
        rate = rate[language]
    if not 0 <= rate <= 1:
        raise ValueError(f"{name} is {rate}; expected 0 to 1")
    return rate


@cache
def _weights(number: int, low: int, high: int) -> tuple[list[int], list[float]]:
    others = [other for other in range(low, high + 1) if other != number]
    weights = [
        1 / abs(other - number) + 0.5 * (other // 10 == number // 10) + 0.25 * (other % 10 == number % 10)
        for other in others
    ]
    return others, weights


def wrong_number(number: int, low: int, high: int, rng: random.Random) -> int:
    """Another number from `low` to `high`, both included.

    Its weight is 1 / distance, plus 0.5 for the same tens and 0.25 for the same units: slips like 34 for 35 or 54.
    """
    others, weights = _weights(number, low, high)
    return rng.choices(others, weights)[0]


def _wrong_kind(kind: str, numbers: tuple[int, ...], rng: random.Random) -> str:
    """A mistake that leaves a problem of its kind: small factors, and nothing taken from less."""
    a, b = numbers[:2]
    fitting = [
        mistake
        for mistake in _MISTAKES[kind]
        if not (mistake == "multiplication" and max(a, b) > number_range("multiplication")[1])
        and not (mistake == "subtraction" and a < b)
        and not (mistake == "difference" and a == b)
    ]
    return rng.choice(fitting or _MISTAKES[kind])


def _noisy(
    reading: Reading, names: tuple[str | None, str | None], rates: tuple[float, float, float], rng: random.Random
) -> str:
    """One noisy English text; `rates` are those of numbers, operations and paraphrases."""
    rate_number, rate_operator, rate_paraphrase = rates
    kind, wording = reading.kind, reading.wording
    low, high = number_range(kind)
    numbers = tuple(wrong_number(n, low, high, rng) if rng.random() < rate_number else n for n in reading.numbers)
    if rng.random() < rate_operator:
        kind = _wrong_kind(kind, numbers, rng)
        wording = rng.randrange(wording_count(kind))
    elif rng.random() < rate_paraphrase:
        wording = rng.choice([other for other in range(wording_count(kind)) if other != wording])
    return fill(kind, wording, numbers, names, reading.object, "en")


def candidates(
    problem: Problem,
    language: str,
    k: int = 4,
    *,
    rng: random.Random,
    rate_number: Rate = 0.35,
    rate_operator: Rate = 0.15,
    rate_paraphrase: Rate = 0.5,
) -> list[str]:
    """`k` translations into English, each drawn by itself; they may be equal, and all may be wrong.

    Args:
        problem (`Problem`): what is translated.
        language (`str`): translated from; it only picks the rates.
        k (`int`, *optional*, defaults to 4): how many.
        rng (`random.Random`): the source of chance.
        rate_number (`float` or `Mapping[str, float]`, *optional*, defaults to 0.35): the share of number words that
            are wrong, see `wrong_number`; a mapping gives each language its own. Numbers stay in the kind's range,
            but a wrong one may ask for more than there is, or for a sum beyond 99.
        rate_operator (same, *optional*, defaults to 0.15): the share of texts that ask for another operation.
        rate_paraphrase (same, *optional*, defaults to 0.5): the share, among the others, in another wording.

    Raises `ValueError` for a rate beyond 0 to 1 and for a language without a rate.
    """
    reading = Reading(problem.kind, problem.wording, problem.numbers, problem.names, problem.object)
    rates = (
        _rate("rate_number", rate_number, language),
        _rate("rate_operator", rate_operator, language),
        _rate("rate_paraphrase", rate_paraphrase, language),
    )
    return [_noisy(reading, problem.names, rates, rng) for _ in range(k)]


def corrupt(
    text: str,
    rate: float,
    *,
    rng: random.Random,
    rate_operator: float = 0.0,
    rate_paraphrase: float = 0.0,
) -> str:
    """An English question with more noise: on top of a candidate for a noise-amplified setting, or on a clean text.

    Args:
        text (`str`): a filled English template.
        rate (`float`): as `rate_number` of `candidates`; the others too. People whom the text does not name, and a
            new wording needs, are the first in `NAMES` that it has not.

    Raises `ValueError` for a text that is no filled template, or a rate beyond 0 to 1.
    """
    reading = read(text, "en")
    rates = (
        _rate("rate", rate, "en"),
        _rate("rate_operator", rate_operator, "en"),
        _rate("rate_paraphrase", rate_paraphrase, "en"),
    )
    return _noisy(reading, _all_names(reading.names), rates, rng)


def _all_names(names: tuple[str | None, str | None]) -> tuple[str, str]:
    spare = iter(name for name in NAMES if name not in names)
    first, second = (name or next(spare) for name in names)
    return first, second


def weak_critic(problem: Problem, candidate: str, rng: random.Random, noise: float = 0.25) -> tuple[int, int, int]:
    """Scores a candidate as an LLM judge would, from 1 to 10, whole numbers: semantic, emotional, pragmatic.

    The quality behind all three is the share of what is right among the numbers, by their place, and the operation: 2
    of 3 where one of two numbers is wrong. One gaussian error of standard deviation `noise` (of a quality from 0 to
    1) is common to the three scores, so that their mean does not take it away, and each has one of its own of a
    quarter of that. A score is 1 + 9 * (quality + errors), rounded and clipped.

    Args:
        problem (`Problem`): the original.
        candidate (`str`): a filled English template, right or wrong.
        rng (`random.Random`): the source of chance.
        noise (`float`, *optional*, defaults to 0.25): 0 makes a critic that sees everything.

    Raises `ValueError` for a candidate that is no filled template.
    """
    reading = read(candidate, "en")
    right = [old == new for old, new in zip(problem.numbers, reading.numbers, strict=False)]
    quality = (sum(right) + (reading.kind == problem.kind)) / (len(problem.numbers) + 1)
    common = rng.gauss(0, noise)
    scores = [1 + 9 * (quality + common + rng.gauss(0, _OWN_SHARE * noise)) for _ in range(3)]
    semantic, emotional, pragmatic = (round(min(10.0, max(1.0, score))) for score in scores)
    return semantic, emotional, pragmatic
