"""Critics without a judge: agreement among candidates, and with a reference, by chrF (ours)."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from .base import Score, check_texts, clean_text, fold, stable_hash
from .language_codes import language_key
from .parallel import Pair, ParallelText


if TYPE_CHECKING:
    from sacrebleu.metrics import CHRF

__all__ = ["ConsensusCritic", "ReferenceCritic"]

_LOWEST, _HIGHEST = 1.0, 10.0
# Where nothing can be compared: the middle, so that it neither rewards nor punishes.
_NEUTRAL = (_LOWEST + _HIGHEST) / 2.0


class _ChrfCritic:
    """chrF in 0..100 put on 1..10 linearly, the same in all three slots."""

    kind = ""

    def __init__(self, word_order: int):
        if word_order < 0:
            raise ValueError(
                f"word_order is {word_order}; expected 0 (chrF), 2 (chrF++) or another length of word n-grams; leave "
                "it out for the default"
            )
        self.word_order = word_order

    @property
    def name(self) -> str:
        """The critic's kind."""
        return self.kind

    @cached_property
    def _chrf(self) -> "CHRF":
        from sacrebleu.metrics import CHRF  # brings readers of test sets along that nothing here needs

        return CHRF(word_order=self.word_order)

    def _rate(self, candidate: str, references: Sequence[str]) -> float:
        """1..10 of a candidate against the reference that suits it best."""
        chrf = self._chrf.sentence_score(candidate, references).score
        return min(_HIGHEST, _LOWEST + (_HIGHEST - _LOWEST) * chrf / 100.0)


class ConsensusCritic(_ChrfCritic):
    """
    Scores a candidate by its mean chrF against the text's other candidates: what several translators agree on is more
    often right than what one of them says alone.

    It never looks at the text. The mean is put on 1..10 linearly, and stands in all three slots of the score. A
    candidate without another beside it gets 5.5 (nothing to agree with), a blank one 1. Candidates that differ only in
    case or outer space count once, so that an echo is no agreement.

    Give it all of a text's candidates at once: added later, the others' scores don't follow.

    Args:
        word_order (`int`, *optional*, defaults to 0): Longest word n-grams beside the character n-grams of chrF; 2
            makes it chrF++.

    Raises:
        `ValueError`: a negative word order.
    """

    kind = "consensus"

    compares = True  # a candidate's score depends on the item's others

    def __init__(self, word_order: int = 0):
        super().__init__(word_order)

    @property
    def fingerprint(self) -> str:
        """Hash of the settings."""
        return stable_hash(self.kind, self.word_order)

    def judge(self, texts: Sequence[str], language: str, candidates: Sequence[Sequence[str]]) -> list[list[Score]]:
        """
        Score candidates; see [`Critic.judge`].

        Raises:
            `ValueError`: not as many lists of candidates as texts.
            `TypeError`: a string where a list is meant.
        """
        _check_request(texts, candidates)
        return [self._judge_one([clean_text(option).strip() for option in options]) for options in candidates]

    def _judge_one(self, options: list[str]) -> list[Score]:
        distinct = {fold(option): option for option in reversed(options) if option}
        rated: dict[str, float] = {"": _LOWEST}
        for key, option in distinct.items():
            others = [self._rate(option, [other]) for other_key, other in distinct.items() if other_key != key]
            rated[key] = sum(others) / len(others) if others else _NEUTRAL
        return [Score(*[rated[fold(option)]] * 3) for option in options]


class ReferenceCritic(_ChrfCritic):
    """
    Scores a candidate by its chrF against the reference translation of its text, the best of several.

    For training rows that have a translation: what the actor learns from such scores it can use where there is none.
    On texts that are evaluated it would give the answer away. chrF is put on 1..10 linearly, and stands in all three
    slots of the score. Without a reference, each candidate gets 5.5; a blank one always gets 1.

    Args:
        references (`Iterable[Pair]`): Rows (language, text, English text).
        word_order (`int`, *optional*, defaults to 0): Longest word n-grams beside the character n-grams of chrF; 2
            makes it chrF++.

    Raises:
        `ValueError`: a row that isn't three strings, no usable row, or a negative word order.
    """

    kind = "reference"

    def __init__(self, references: Iterable[Pair], word_order: int = 0):
        super().__init__(word_order)
        self._parallel = ParallelText.of(references)
        self._references: dict[tuple[str, str], list[str]] = {}
        for language, text, english in self._parallel:
            self._references.setdefault((language_key(language), text.strip()), []).append(english)

    @property
    def fingerprint(self) -> str:
        """Hash of the references and the settings."""
        return stable_hash(self.kind, self.word_order, self._parallel.digest)

    def judge(self, texts: Sequence[str], language: str, candidates: Sequence[Sequence[str]]) -> list[list[Score]]:
        """
        Score candidates; see [`Critic.judge`].

        Raises:
            `ValueError`: not as many lists of candidates as texts.
            `TypeError`: a string where a list is meant.
        """
        _check_request(texts, candidates)
        key = language_key(language)
        scores = []
        for text, options in zip(texts, candidates, strict=True):
            references = self._references.get((key, clean_text(text).strip()), [])
            scores.append([self._score(clean_text(option).strip(), references) for option in options])
        return scores

    def _score(self, option: str, references: list[str]) -> Score:
        if not option:
            return Score(_LOWEST, _LOWEST, _LOWEST)
        return Score(*[self._rate(option, references) if references else _NEUTRAL] * 3)


def _check_request(texts: Sequence[str], candidates: Sequence[Sequence[str]]) -> None:
    check_texts(texts)
    if len(texts) != len(candidates):
        raise ValueError(
            f"judge got {len(texts)} texts and {len(candidates)} lists of candidates; expected one list a text; "
            "give an empty list to a text without candidates"
        )
    for row, options in enumerate(candidates):
        check_texts(options, f"candidates[{row}]")
