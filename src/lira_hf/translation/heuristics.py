"""A critic without a judge: adequacy, coverage and form fill the slots of the paper's translation critic (ours)."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex

from .base import Score, check_texts, clean_text
from .lexicon import FittedOnLexicon, LexicalTable, Lexicon
from .segmentation import is_number, number_values, placeholders, romanise


__all__ = ["HeuristicCritic"]

_LETTER = regex.compile(r"\p{L}")
_LATIN_LETTER = regex.compile(r"[\p{L}&&\p{Script=Latin}]", regex.V1)
# Two spellings are one name when so many of their letter pairs agree: a known word needs more than a new one.
_SAME_KNOWN, _SAME_UNKNOWN = 0.6, 0.4
# Words compared by spelling; the cost grows with their product. Lexicon look-ups have no such limit.
_SPELT_WORDS = 64
_CALIBRATION_PAIRS = 2000
_KNOTS = 19
_LEAST_SPREAD = 0.25


@dataclass(frozen=True)
class _Norms:
    """What is usual in a language's parallel text: length ratio in log, its spread, and the adequacy scale's knots."""

    log_ratio: float = 0.0
    spread: float = 0.5
    adequacy: Sequence[float] = (0.0, 1.0)
    scores: Sequence[float] = (1.0, 10.0)


class HeuristicCritic(FittedOnLexicon):
    """
    Scores candidates by word translation probabilities and by form, without any reference or language model.

    The paper's slots are filled by heuristics, not by an LLM judge, and mean something else here:

    | slot | here |
    |---|---|
    | semantic | adequacy: mean over source words of the best t(e\\|f) in the candidate, as a share of the word's best; spelling likeness of romanised words counts too, for names. Put on 1..10 by its rank among the values above 0 of true and of shuffled pairs |
    | emotional | coverage: the same from the candidate's words to the source's, on 1..10 linearly |
    | pragmatic | form: length ratio against the language's usual one, Latin script, agreement of numbers (digits of any script by value) and of placeholders, multiplied, on 1..10 linearly |

    An empty text or candidate gets 1 in every slot. A language without parallel text is judged by spelling and form.

    Args:
        lexicon (`Lexicon`): Word translations, to be shared with the gloss translator.
    """  # noqa: E501 - a table row can't be broken

    kind = "heuristic"

    def __init__(self, lexicon: Lexicon):
        super().__init__(lexicon)
        self._norms: dict[str, _Norms] = {}

    def judge(self, texts: Sequence[str], language: str, candidates: Sequence[Sequence[str]]) -> list[list[Score]]:
        """
        Score candidates; see [`Critic.judge`].

        Args:
            texts (`Sequence[str]`): The texts.
            language (`str`): Their language tag.
            candidates (`Sequence[Sequence[str]]`): The candidates of each text.

        Returns:
            `list[list[Score]]`: One score a candidate, aligned with `candidates`.

        Raises:
            `ValueError`: not as many lists of candidates as texts.
            `TypeError`: a string where a list is meant.
        """
        check_texts(texts)
        if len(texts) != len(candidates):
            raise ValueError(
                f"judge got {len(texts)} texts and {len(candidates)} lists of candidates; expected one list a text; "
                "give an empty list to a text without candidates"
            )
        table, norms = self.lexicon.table(language), self._norms_of(language)
        scores = []
        for row, (text, options) in enumerate(zip(texts, candidates, strict=True)):
            check_texts(options, f"candidates[{row}]")
            text = clean_text(text)
            words = table.split_source(text) if options else []
            scores.append([_score(table, norms, text, words, clean_text(option)) for option in options])
        return scores

    def _norms_of(self, language: str) -> _Norms:
        if language not in self._norms:
            rows = self.parallel.rows(language)
            # Evenly spread over the text, so that no chapter of it sets the norms.
            rows = rows[:: math.ceil(len(rows) / _CALIBRATION_PAIRS)] if rows else []
            self._norms[language] = _learn_norms(self.lexicon.table(language), rows) if rows else _Norms()
        return self._norms[language]


def _learn_norms(table: LexicalTable, rows: Sequence[tuple[str, str]]) -> _Norms:
    ratios = np.array([_log_ratio(text, english) for text, english in rows])
    middle = float(np.median(ratios))
    spread = max(_LEAST_SPREAD, 1.4826 * float(np.median(np.abs(ratios - middle))))
    source = [table.split_source(text) for text, _ in rows]
    english = [table.split_english(text) for _, text in rows]
    other = english[len(rows) // 2 :] + english[: len(rows) // 2]  # each text beside another one's English
    adequacies = [_explained(s, e, table.english) for s, e in zip(source + source, english + other, strict=True)]
    adequacies = [adequacy for adequacy in adequacies if adequacy > 0.0] or [1.0]
    levels = np.arange(1, _KNOTS + 1) / (_KNOTS + 1)
    knots: dict[float, list[float]] = {0.0: [0.0], 1.0: [1.0]}
    for knot, level in zip(np.quantile(adequacies, levels), levels, strict=True):
        if 0.0 < knot < 1.0:
            knots.setdefault(round(float(knot), 9), []).append(float(level))
    places = sorted(knots)
    return _Norms(middle, spread, places, [1.0 + 9.0 * sum(knots[place]) / len(knots[place]) for place in places])


def _score(table: LexicalTable, norms: _Norms, text: str, words: list[str], candidate: str) -> Score:
    if not text.strip() or not candidate.strip():
        return Score(1.0, 1.0, 1.0)
    english = table.split_english(candidate)
    adequacy = _explained(words, english, table.english)
    coverage = _explained(english, words, table.source)
    semantic = float(np.interp(adequacy, norms.adequacy, norms.scores))
    return Score(semantic, 1.0 + 9.0 * coverage, 1.0 + 9.0 * _form(norms, text, candidate))


def _explained(words: Sequence[str], others: Sequence[str], table: Mapping[str, Mapping[str, float]]) -> float:
    """Mean over `words` of how well the best of `others` explains them, in 0..1; 0 if either side is empty."""
    counts, others_set = Counter(words), dict.fromkeys(others)
    if not counts or not others_set:
        return 0.0
    others_pairs = [_letter_pairs(other) for other in list(others_set)[:_SPELT_WORDS] if not is_number(other)]
    total = 0.0
    for position, (word, count) in enumerate(counts.items()):
        row = table.get(word)
        best = 1.0 if word in others_set else 0.0
        if row and best < 1.0:
            best = _best_share(row, others_set)
        if best < 1.0 and position < _SPELT_WORDS and not is_number(word):
            spelt = max((_likeness(_letter_pairs(word), pairs) for pairs in others_pairs), default=0.0)
            if spelt >= (_SAME_KNOWN if row else _SAME_UNKNOWN):
                best = max(best, spelt)
        total += best * count
    return min(1.0, total / counts.total())


def _best_share(row: Mapping[str, float], others: Mapping[str, None]) -> float:
    # A row is sorted, likeliest first: its first word that is there is the best one.
    probability = next((p for word, p in row.items() if word in others), 0.0)
    return probability / next(iter(row.values()))


@lru_cache(maxsize=100_000)
def _letter_pairs(word: str) -> frozenset[str]:
    spelt = romanise(word)
    return frozenset(spelt[i : i + 2] for i in range(len(spelt) - 1)) if len(spelt) > 2 else frozenset({spelt})


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    return 2.0 * len(one & other) / (len(one) + len(other))


def _form(norms: _Norms, text: str, candidate: str) -> float:
    deviation = (_log_ratio(text, candidate) - norms.log_ratio) / norms.spread
    length = math.exp(-0.5 * (deviation / 2.0) ** 2)
    letters = len(_LETTER.findall(candidate))
    latin = len(_LATIN_LETTER.findall(candidate)) / letters if letters else 1.0
    numbers = _agreement(number_values(text), number_values(candidate))
    slots = _agreement(placeholders(text), placeholders(candidate))
    return length * latin * (0.5 + 0.5 * numbers) * slots  # a number may be spelt out, so its loss costs half


def _log_ratio(text: str, english: str) -> float:
    return math.log(len(english.strip()) / len(text.strip()))


def _agreement(one: Counter, other: Counter) -> float:
    union = (one | other).total()
    return (one & other).total() / union if union else 1.0
