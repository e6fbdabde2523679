"""Traits of candidate translations: what costs nothing to know of them, for the actor (ours)."""

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import torch


__all__ = ["TRAITS", "candidate_traits", "trait_tensor", "trait_width"]

# Of a candidate alone or beside its text; one column for each of the config's candidate kinds follows.
TRAITS = ("length", "latin", "numbers", "slots", "copied", "ending", "agreement", "order")

_DIGITS = re.compile(r"\d+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_SLOT = re.compile(
    # Each character has one way to match: no text makes it slow.
    r"%(?:\d+\$)?(?:\([^()\s]+\))?[-+#0]*(?:(?!0)\d+)?(?:\.\d+)?(?:ll?|h)?[a-zA-Z](?![a-zA-Z])"
    r"|\$?\{\{?\s*(?:[\w.:!-]+\s*)?\}?\}"
)
# What ends a sentence or announces something, by meaning; scripts have their own marks.
_ENDINGS = {"?": "?", "؟": "?", "？": "?", "!": "!", "！": "!", ":": ":", "：": ":", "…": "…"}
_FULL_STOPS = ".。۔।"
# Characters looked at, so that a text of a megabyte has its traits in milliseconds.
_LONGEST = 2000


def trait_width(kinds: Sequence[str]) -> int:
    """Columns of `anchor_traits`: [`TRAITS`], and per kind whether the candidate is of it."""
    return len(TRAITS) + len(kinds)


def candidate_traits(text: str, candidates: Sequence[str]) -> list[list[float]]:
    """
    What costs nothing to know of a text's candidates. A blank candidate has zeros; so has all that can't be told.

    | trait | what it is |
    |---|---|
    | length | log of the characters' ratio, candidate to text, within -3..3 |
    | latin | share of the candidate's letters that are Latin |
    | numbers | agreement of the numbers, digits of any script by value: shared ones to all, 1 where neither has any |
    | slots | agreement of placeholders such as `%s` and `{0}`, likewise |
    | copied | share of the text's Latin words that stand in the candidate too |
    | ending | 1 if both end alike: question, exclamation, colon, dots, full stop or none |
    | agreement | mean likeness (Dice, letter triples) to the other candidates |
    | order | 1 / (1 + place in the list): candidates come best first |

    Args:
        text (`str`): The text.
        candidates (`Sequence[str]`): Its candidates.

    Returns:
        `list[list[float]]`: Per candidate the [`TRAITS`], in their order.
    """
    text = text.strip()[:_LONGEST]
    options = [candidate.strip()[:_LONGEST] for candidate in candidates]
    numbers, slots, words = _numbers(text), Counter(_SLOT.findall(text)), _latin_words(text)
    ending, triples = _ending(text), [_triples(option) for option in options]
    rows = []
    for place, option in enumerate(options):
        if not option:
            rows.append([0.0] * len(TRAITS))
            continue
        others = [_dice(triples[place], other) for there, other in enumerate(triples) if there != place and other]
        rows.append(
            [
                max(-3.0, min(3.0, math.log(len(option) / len(text)))) if text else 0.0,
                _latin_share(option),
                _shared(numbers, _numbers(option)),
                _shared(slots, Counter(_SLOT.findall(option))),
                len(words & _latin_words(option)) / len(words) if words else 0.0,
                float(ending == _ending(option)),
                sum(others) / len(others) if others else 0.0,
                1.0 / (1.0 + place),
            ]
        )
    return rows


def trait_tensor(
    traits: Sequence[Sequence[Sequence[float]]],
    kinds: Sequence[Sequence[str | None] | None] | None,
    known_kinds: Sequence[str],
) -> torch.Tensor:
    """
    The traits of a batch.

    Args:
        traits (`Sequence[Sequence[Sequence[float]]]`): Of each text, what [`candidate_traits`] gives.
        kinds (`Sequence`, *optional*): The kind of each candidate, such as `"memory"`; `None` where it isn't known.
        known_kinds (`Sequence[str]`): The model's `candidate_kinds`; any other kind has zeros.

    Returns:
        `torch.Tensor` of shape `(batch, candidates, trait_width(known_kinds))`, zero where there is no candidate.

    Raises:
        ValueError: Not one kind per candidate.
    """
    width = max((len(row) for row in traits), default=0)
    table = torch.zeros(len(traits), width, trait_width(known_kinds))
    column = {kind: number for number, kind in enumerate(known_kinds, start=len(TRAITS))}
    if kinds is not None and len(kinds) != len(traits):
        raise ValueError(
            f"got {len(kinds)} rows of kinds for {len(traits)} texts; expected one row (or None) per text"
        )
    for row, values in enumerate(traits):
        if values:
            table[row, : len(values), : len(TRAITS)] = torch.tensor(values)
        named = None if kinds is None else kinds[row]
        if named is None:
            continue
        if isinstance(named, str) or len(named) != len(values):
            raise ValueError(
                f"text {row} has {len(values)} candidates and the kinds {named!r}; expected one kind each"
            )
        for place, kind in enumerate(named):
            if kind in column:
                table[row, place, column[kind]] = 1.0
    return table


def _numbers(text: str) -> Counter[int]:
    # A run of over 18 digits is an identifier; int() has a length limit.
    return Counter(int(run[-18:]) for run in _DIGITS.findall(_SLOT.sub(" ", text)))


def _shared(one: Counter, other: Counter) -> float:
    union = (one | other).total()
    return (one & other).total() / union if union else 1.0


@functools.lru_cache(maxsize=4096)
def _is_latin(letter: str) -> bool:
    return "LATIN" in unicodedata.name(letter, "")


def _latin_share(text: str) -> float:
    # A text has few different letters.
    letters = [(letter, count) for letter, count in Counter(text).items() if letter.isalpha()]
    whole = sum(count for _, count in letters)
    return sum(count for letter, count in letters if _is_latin(letter)) / whole if whole else 1.0


def _latin_words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text) if _is_latin(word[0])}


def _ending(text: str) -> str:
    last = text[-1:]
    if text.endswith("..."):
        return "…"
    return "." if last and last in _FULL_STOPS else _ENDINGS.get(last, "")


def _triples(text: str) -> set[str]:
    padded = f" {text.casefold()} "
    return {padded[place : place + 3] for place in range(len(padded) - 2)} if text else set()


def _dice(one: set[str], other: set[str]) -> float:
    return 2.0 * len(one & other) / (len(one) + len(other)) if one or other else 0.0
