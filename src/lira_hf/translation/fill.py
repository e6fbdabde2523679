"""Fills a candidate store: asks translator and critic for what is missing and writes answers as they come (ours)."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm.auto import tqdm

from .base import (
    Critic,
    Failure,
    NoAnswerError,
    Score,
    StreamingCritic,
    StreamingTranslator,
    Translator,
    batches,
    check_request,
    clean_text,
)
from .store import CandidateStore
from .union import PartialFailure


__all__ = ["fill_store"]

logger = logging.getLogger(__name__)
T = TypeVar("T")


def fill_store(
    store: CandidateStore,
    texts: Iterable[str],
    language: str,
    translator: Translator | None,
    critic: Critic | None = None,
    *,
    num_candidates: int = 5,
    chunk_size: int = 256,
    progress: bool = True,
    failures: list[Failure] | None = None,
) -> int:
    """
    Ask for the candidates, and the scores, that the store lacks. A run that was killed is continued by the same call.

    Answers of a translator or critic that streams are written one by one, as they arrive: a kill loses the calls under
    way, whatever the chunk. A text that failed isn't stored as asked; the next run asks for it again.

    Args:
        store ([`CandidateStore`]): Where answers go.
        texts (`Iterable[str]`): The texts; repeats and texts done before cost nothing.
        language (`str`): Their language tag.
        translator ([`Translator`], *optional*): Asked for texts that it wasn't asked for before; may be a
            [`StreamingTranslator`]. `None`: only judge what is there.
        critic ([`Critic`], *optional*): Asked for scores of all stored candidates of the texts that it hasn't judged;
            may be a [`StreamingCritic`].
        num_candidates (`int`, *optional*, defaults to 5): K. Texts asked with another K before aren't asked again.
        chunk_size (`int`, *optional*, defaults to 256): Texts in a chunk, the most work that a kill can lose with
            one that doesn't stream. With a server, many times its concurrency: each chunk waits for its slowest call.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar.
        failures (`list[Failure]`, *optional*): Gets what went wrong with each text that failed; a summary is logged in
            any case.

    Returns:
        `int`: The number of texts that the translator was asked for and that it answered; without a translator of
        those that the critic answered.

    Raises:
        `ValueError`: a translator or critic that doesn't answer every text, or a chunk size below 1.
        `NoAnswerError`: every call failed, or the server is gone; what came before is stored.
    """
    check_request(texts, num_candidates)  # type: ignore[arg-type]
    if translator is None and critic is None:
        raise ValueError("got neither a translator nor a critic; expected one at least; say who is to be asked")
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; expected at least 1; leave it out for the default")
    distinct = list(dict.fromkeys(clean_text(text) for text in texts))
    translating = _Tally(translator.name if translator else "", language, "translated")
    judging = _Tally(critic.name if critic else "", language, "judged")
    try:
        title = f"{(translator or critic).name} [{language}]"  # type: ignore[union-attr]
        with tqdm(total=len(distinct), desc=title, unit="text", disable=not progress) as bar:
            for number, chunk in enumerate(batches(distinct, chunk_size)):
                if translator is not None:
                    _translate(store, chunk, language, translator, num_candidates, translating, bar)
                if critic is not None:
                    _judge(store, chunk, language, critic, judging)
                bar.update(min((number + 1) * chunk_size, len(distinct)) - bar.n)
    finally:
        for tally in (translating, judging):
            tally.report()
            if failures is not None:
                failures.extend(tally.failures)
    translating.check()
    judging.check()
    return judging.answered if translator is None else translating.answered


class _Tally:
    """What came and what failed, of one translator or critic."""

    def __init__(self, name: str, language: str, verb: str):
        self.name, self.language, self.verb = name, language, verb
        self.answered = 0
        self.failures: list[Failure] = []
        self.example = ""

    def fail(self, text: str, failure: Failure) -> None:
        self.example = self.example or f"{text!r:.80}: {failure.message}"
        self.failures.append(failure)

    def _summary(self) -> str:
        reasons = Counter(failure.reason for failure in self.failures)
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        total = self.answered + len(self.failures)
        return (
            f"'{self.name}': {len(self.failures)} of {total} texts in '{self.language}' were not {self.verb} "
            f"({counts}), such as {self.example}"
        )

    def report(self) -> None:
        if self.failures:
            logger.warning("%s; the next run asks for them again", self._summary())

    def check(self) -> None:
        if self.failures and not self.answered:
            raise NoAnswerError(
                f"{self._summary()}; expected an answer to at least one; mend what that message names and start the "
                "same run again"
            )


def _translate(
    store: CandidateStore,
    texts: list[str],
    language: str,
    translator: Translator,
    num_candidates: int,
    tally: _Tally,
    bar: tqdm,
) -> None:
    missing = store.missing(language, texts, translator)
    if not missing:
        return
    if not isinstance(translator, StreamingTranslator):
        rows = translator.translate(missing, language, num_candidates)
        _check_answers(translator.name, len(rows), len(missing))
        tally.answered += store.add(language, zip(missing, rows, strict=True), translator)
        return
    # Each in a transaction of its own: 0.06 ms, where a call takes 100 ms and may have been paid for.
    for text, answer in _arriving(translator.name, missing, translator.stream(missing, language, num_candidates)):
        if isinstance(answer, Failure):
            tally.fail(text, answer)
            if isinstance(answer, PartialFailure):  # what the others of a union gave, until all of it is asked again
                for member, candidates in answer.answers:
                    store.add(language, [(text, candidates)], member)
        else:
            tally.answered += store.add(language, [(text, answer)], translator)
        bar.update()


def _judge(store: CandidateStore, texts: list[str], language: str, critic: Critic, tally: _Tally) -> None:
    pending: dict[str, list[str]] = {}
    for text, candidate in store.missing_scores(language, texts, critic):
        pending.setdefault(text, []).append(candidate)
    if not pending:
        return
    if getattr(critic, "compares", False):
        # Its scores are of candidates beside each other: those that were judged before are judged again with the new.
        stored = store.get(language, list(pending))
        pending = {text: [one.text for one in row] for text, row in zip(pending, stored, strict=True)}
    asked, options = list(pending), list(pending.values())
    if isinstance(critic, StreamingCritic):
        for text, row in _arriving(critic.name, asked, critic.stream(asked, language, options)):
            rows = [] if isinstance(row, Failure) else _scored(critic, text, pending[text], row)
            if isinstance(row, Failure):
                tally.fail(text, row)
            elif not rows:
                tally.fail(text, Failure("not judged", "no candidate got a score", replied=True))
            else:
                store.add_scores(language, rows, critic)
                tally.answered += 1
        return
    scores = critic.judge(asked, language, options)
    _check_answers(critic.name, len(scores), len(pending))
    rows = []
    for text, row in zip(asked, scores, strict=True):
        scored = _scored(critic, text, pending[text], row)
        rows.extend(scored)
        if scored:
            tally.answered += 1
        else:
            tally.fail(text, Failure("not judged", "no candidate got a score", replied=True))
    store.add_scores(language, rows, critic)


def _scored(
    critic: Critic, text: str, candidates: Sequence[str], row: Sequence[Score | None]
) -> list[tuple[str, str, Score]]:
    _check_answers(critic.name, len(row), len(candidates))
    return [(text, candidate, score) for candidate, score in zip(candidates, row, strict=True) if score is not None]


def _arriving(name: str, texts: Sequence[str], stream: Iterator[tuple[int, T]]) -> Iterator[tuple[str, T]]:
    """The texts with their answers, each once; the calls under way end with it."""
    waiting = dict(enumerate(texts))
    try:
        for position, answer in stream:
            if position not in waiting:
                raise ValueError(
                    f"'{name}' gave an answer at {position}; expected each of 0..{len(texts) - 1} once; "
                    "make its stream() name the position of the text among those that it was asked for"
                )
            yield waiting.pop(position), answer
    finally:
        if close := getattr(stream, "close", None):
            close()
    _check_answers(name, len(texts) - len(waiting), len(texts))


def _check_answers(name: str, got: int, expected: int) -> None:
    if got != expected:
        raise ValueError(
            f"'{name}' gave {got} answers; expected {expected}, one for each item that it was asked for; "
            "make it return an empty list, or no score, for an item that it can't handle"
        )
