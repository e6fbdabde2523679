"""Candidate translations y_1..y_K of a text x and a critic's (s, e, p) scores of them (paper, Arca): the protocols."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from lira_hf.models import clean_text


__all__ = [
    "Candidate",
    "Critic",
    "Failure",
    "Identity",
    "NoAnswerError",
    "Score",
    "StreamingCritic",
    "StreamingTranslator",
    "Translator",
    "clean_text",
    "distinct_candidates",
]

T = TypeVar("T")


def stable_hash(*parts: Any) -> str:
    """A short hash of JSON values, the same in every process; for fingerprints."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Candidate:
    """
    One English candidate translation y_k.

    Args:
        text (`str`): The English text.
        kind (`str`): How it came about, such as `"memory"`, `"gloss"` or `"repair"`.
        translator (`str`): Name of the translator that made it.
        score (`float`, *optional*): The translator's own score; comparable within one kind only.
    """

    text: str
    kind: str
    translator: str
    score: float | None = None


class _ScoreFields(NamedTuple):
    semantic: float
    emotional: float
    pragmatic: float


class Score(_ScoreFields):
    """
    The critic's scores of one candidate (paper, translation critic), each in 1..10.

    Args:
        semantic (`float`): Is the meaning kept?
        emotional (`float`): Is the emotion kept?
        pragmatic (`float`): Is the tone right for the use?

    Raises:
        `ValueError`: a score outside 1..10 or not a number.
    """

    __slots__ = ()

    def __new__(cls, semantic: float, emotional: float, pragmatic: float) -> "Score":
        for field, value in zip(_ScoreFields._fields, (semantic, emotional, pragmatic), strict=True):
            if not 1 <= value <= 10:  # also catches NaN
                raise ValueError(
                    f"score '{field}' is {value!r}; expected a number in 1..10; clamp or rescale the critic's answer"
                )
        return super().__new__(cls, float(semantic), float(emotional), float(pragmatic))


class Identity(NamedTuple):
    """
    Who gave an answer. The store takes it wherever it takes a translator or a critic.

    Args:
        name (`str`): Name of the translator or critic.
        fingerprint (`str`): Short stable hash of what its answers depend on.
    """

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Failure:
    """
    Why one text got no answer: a value, so that it takes no other answer with it.

    Args:
        reason (`str`): What went wrong, in a word or two that can be counted, such as `"timeout"` or `"refused"`.
        message (`str`): The same for a reader, without keys or passwords.
        replied (`bool`, *optional*, defaults to `False`): Something came back but was of no use; the same question
            will hardly get a better answer.
    """

    reason: str
    message: str
    replied: bool = False


class NoAnswerError(RuntimeError):
    """Whoever was asked, such as a server, gives no answers at all; the message says what to do."""


@runtime_checkable
class Translator(Protocol):
    """
    Gives English candidates for texts.

    Attributes:
        name (`str`): Short name, kept with each candidate.
        fingerprint (`str`): Short hash of training text and settings, the same in every process.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def translate(self, texts: Sequence[str], language: str, num_candidates: int) -> list[list[Candidate]]:
        """
        Translate texts of one language.

        Args:
            texts (`Sequence[str]`): The texts.
            language (`str`): Their language tag; one that the translator doesn't know gives no candidates.
            num_candidates (`int`): K, the most candidates for a text.

        Returns:
            `list[list[Candidate]]`: For each text up to K distinct candidates, best first, possibly none.
        """
        ...


@runtime_checkable
class Critic(Protocol):
    """
    Scores English candidates against the text that they translate.

    Attributes:
        name (`str`): Short name, kept with each score.
        fingerprint (`str`): Short hash of what the scores depend on, the same in every process.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def judge(
        self, texts: Sequence[str], language: str, candidates: Sequence[Sequence[str]]
    ) -> Sequence[Sequence[Score | None]]:
        """
        Score candidates of texts of one language.

        Args:
            texts (`Sequence[str]`): The texts.
            language (`str`): Their language tag.
            candidates (`Sequence[Sequence[str]]`): The candidates of each text.

        Returns:
            `Sequence[Sequence[Score | None]]`: One score a candidate, aligned with `candidates`; `None` for one that
            could not be judged. It isn't stored, so the next run asks for it again.
        """
        ...


@runtime_checkable
class StreamingTranslator(Translator, Protocol):
    """A translator that hands out each answer as it arrives, so that it can be kept at once; optional."""

    def stream(
        self, texts: Sequence[str], language: str, num_candidates: int
    ) -> Iterator[tuple[int, list[Candidate] | Failure]]:
        """
        Translate as [`Translator.translate`] does, in the order in which the answers come.

        Args:
            texts (`Sequence[str]`): The texts.
            language (`str`): Their language tag.
            num_candidates (`int`): K, the most candidates for a text.

        Returns:
            `Iterator[tuple[int, list[Candidate] | Failure]]`: For each text once its position and its candidates, or
            what went wrong. Closing the iterator ends the calls that are under way.

        Raises:
            `NoAnswerError`: nobody answers; what had been answered was handed out before.
        """
        ...


@runtime_checkable
class StreamingCritic(Critic, Protocol):
    """A critic that hands out the scores of each text as they arrive; optional."""

    def stream(
        self, texts: Sequence[str], language: str, candidates: Sequence[Sequence[str]]
    ) -> Iterator[tuple[int, Sequence[Score | None] | Failure]]:
        """
        Judge as [`Critic.judge`] does, in the order in which the answers come.

        Args:
            texts (`Sequence[str]`): The texts.
            language (`str`): Their language tag.
            candidates (`Sequence[Sequence[str]]`): The candidates of each text.

        Returns:
            `Iterator[tuple[int, Sequence[Score | None] | Failure]]`: For each text once its position and the scores
            of its candidates, or what went wrong.

        Raises:
            `NoAnswerError`: nobody answers; what had been answered was handed out before.
        """
        ...


def distinct_candidates(candidates: Sequence[Candidate], limit: int) -> list[Candidate]:
    """
    The first candidates that differ in more than case and outer space.

    Args:
        candidates (`Sequence[Candidate]`): Candidates, best first.
        limit (`int`): The most to keep.

    Returns:
        `list[Candidate]`: Up to `limit` of them, blank ones left out.
    """
    seen: set[str] = set()
    kept: list[Candidate] = []
    for candidate in candidates:
        key = fold(candidate.text)
        if len(kept) == limit:
            break
        if key and key not in seen:
            seen.add(key)
            kept.append(candidate)
    return kept


def fold(text: str) -> str:
    """Text as compared: case and outer space don't count."""
    return text.strip().casefold()


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` items; a slow iterable is read before a list is handed on."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def check_texts(texts: Sequence[str], name: str = "texts") -> None:
    """Raise a `TypeError` if one string stands where a sequence of strings is meant."""
    if isinstance(texts, str):
        raise TypeError(f"{name} is the string {texts!r:.80}; expected a sequence of strings; put it into a list")


def check_name(name: str, what: str) -> None:
    """Raise a `ValueError` unless a name is a string with something in it that UTF-8 can hold."""
    if not isinstance(name, str) or not name or clean_text(name) != name:
        raise ValueError(f"{what} is {name!r:.80}; expected a string that isn't empty, of whole characters; rename it")


def check_request(texts: Sequence[str], num_candidates: int) -> None:
    """Raise a `TypeError` for a lone string and a `ValueError` unless K is at least 1."""
    check_texts(texts)
    if num_candidates < 1:
        raise ValueError(
            f"num_candidates is {num_candidates}; expected at least 1; don't call the translator to get none"
        )
