"""Corrupted candidate translations (paper: noise-amplified settings): another row's, with words missing, with a wrong
number (ours)."""

import random
from collections.abc import Sequence

import regex  # type: ignore[import-untyped]

from .corruptions import Corrupted, check_rate, noise_source, pick, protected_spans


__all__ = ["corrupt_candidates"]

_DIGITS = regex.compile(r"[0-9]+")
_LOST_WORDS = 1 / 3  # share of the words that a candidate with missing words lacks; one at least


def corrupt_candidates(
    candidates: Sequence[str], rate: float, seed: int = 0, text: str = "", others: Sequence[str] = ()
) -> list[Corrupted]:
    """
    Candidates of one text, some of them wrong (ours).

    Each is hit with chance `rate`; what happens to it is drawn among what is possible, each alike: it is the candidate
    of another row, about a third of its words are missing, or a digit of one of its numbers is wrong. What is hit at
    one rate is hit at every higher one, in the same way.

    Args:
        candidates (`Sequence[str]`): The candidates of the text, best first.
        rate (`float`): Share of the candidates, 0 to 1.
        seed (`int`, *optional*, defaults to 0): Of the noise.
        text (`str`, *optional*): What they translate, so that the same candidate of two texts isn't hit in both.
        others (`Sequence[str]`, *optional*): Candidates of other rows of the language; without them none is exchanged.

    Returns:
        `list[Corrupted]`: One per candidate, with one unit each; the changes are `"another row's"`, `"words missing"`
        or `"wrong number"`. A lone word without a number, and without others, can't be hit.

    Raises:
        ValueError: For a rate that is no share.
    """
    check_rate(rate)
    own = {candidate.casefold() for candidate in candidates}
    found = []
    for place, candidate in enumerate(candidates):
        chance = noise_source("candidates", seed, text, str(place), candidate)
        if chance.random() >= rate:
            found.append(Corrupted(candidate, 1, ()))
            continue
        ways = {
            "another row's": _another_row(others, own, chance),
            "words missing": _words_missing(candidate, chance),
            "wrong number": _wrong_number(candidate, chance),
        }
        possible = [(way, result) for way, result in ways.items() if result is not None]
        choice = chance.random()
        if not possible:
            found.append(Corrupted(candidate, 1, ()))
            continue
        way, result = possible[pick(choice, len(possible))]
        found.append(Corrupted(result or candidate, 1, (way,)))
    return found


def _another_row(others: Sequence[str], own: set[str], chance: random.Random) -> str | None:
    first = pick(chance.random(), len(others)) if others else 0
    places = ((first + step) % len(others) for step in range(len(others)))
    return next((others[place] for place in places if others[place].casefold() not in own), None)


def _words_missing(candidate: str, chance: random.Random) -> str | None:
    words = candidate.split()
    if len(words) < 2:
        return None
    draws = [chance.random() for _ in words]
    order = sorted(range(len(words)), key=draws.__getitem__)
    count = min(max(1, sum(drawn < _LOST_WORDS for drawn in draws)), len(words) - 1)
    lost = set(order[:count])
    return " ".join(word for place, word in enumerate(words) if place not in lost)


def _wrong_number(candidate: str, chance: random.Random) -> str | None:
    slots = protected_spans(candidate)
    numbers = [
        match.span()
        for match in _DIGITS.finditer(candidate)
        if all(match.end() <= first or last <= match.start() for first, last in slots)
    ]
    draws = [chance.random() for _ in range(3)]
    if not numbers:
        return None
    start, end = numbers[pick(draws[0], len(numbers))]
    place = start + pick(draws[1], end - start)
    # A number doesn't begin with a zero unless it is one digit.
    digits = [str(digit) for digit in range(end - start > 1 and place == start, 10) if str(digit) != candidate[place]]
    return candidate[:place] + digits[pick(draws[2], len(digits))] + candidate[place + 1 :]
