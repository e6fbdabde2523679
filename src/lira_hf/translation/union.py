"""Several translators as one, candidates for training rows by cross-fitting, and translators loaded by kind (ours)."""

import os
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from .base import (
    Candidate,
    Failure,
    Identity,
    NoAnswerError,
    Translator,
    check_request,
    distinct_candidates,
    fold,
    stable_hash,
)
from .gloss import GlossTranslator, RepairTranslator
from .memory import TranslationMemory
from .parallel import Pair, read_manifest, write_manifest


__all__ = ["PartialFailure", "TranslatorUnion", "cross_fit", "load_translator"]

_Savable = TranslationMemory | GlossTranslator | RepairTranslator
_LOADABLE: dict[str, type[_Savable]] = {
    cls.kind: cls for cls in (TranslationMemory, GlossTranslator, RepairTranslator)
}


_Answer = list[Candidate] | Failure


@dataclass(frozen=True, slots=True)
class PartialFailure(Failure):
    """
    Why a union has no answer to a text yet, and what some of its translators have given already.

    Args:
        answers (`tuple[tuple[Identity, list[Candidate]], ...]`, *optional*): Each translator that answered, with its
            candidates, possibly none; a store can keep them under that translator's name until the union is asked
            again.
    """

    answers: tuple[tuple[Identity, list[Candidate]], ...] = ()


class TranslatorUnion:
    """
    K candidates from several translators: each one's best first, then each one's second, and so on.

    Each candidate keeps the kind and name of the translator that made it; of candidates that differ only in case the
    first stays.

    With a translator that streams among them the union is a [`StreamingTranslator`], too: a text is handed out once
    all have answered it. The one that is furthest behind is asked next, and those that don't stream by the chunk, so
    that no text waits for all others. Of a text that a translator failed:

    * where a further try may help (a time-out, a server's error), the text comes as a [`PartialFailure`], so that
      [`fill_store`] asks for it again; it carries what the others gave;
    * where the translator did reply, but nothing of use (`Failure.replied`), it counts as one without candidates, as
      long as another has some; else the text has failed.

    When a translator gives no answers at all any more ([`NoAnswerError`]), what the others gave is handed out, and the
    stream ends with that error.

    Args:
        translators (`Sequence[Translator]`): At least one; the order decides who goes first.
        chunk_size (`int`, *optional*, defaults to 64): Texts in one call of a translator that doesn't stream, beside
            one that does.

    Raises:
        `ValueError`: no translator, or a chunk size below 1.
    """

    kind = "union"

    def __init__(self, translators: Sequence[Translator], *, chunk_size: int = 64):
        if not translators:
            raise ValueError("translators is empty; expected at least one; without candidates use no translator")
        if chunk_size < 1:
            raise ValueError(f"chunk_size is {chunk_size}; expected at least 1; leave it out for the default")
        self.translators = list(translators)
        self.chunk_size = chunk_size
        if any(map(_streams, self.translators)):
            # Only then: who has the attribute is taken for one that streams, and is asked text by text.
            self.stream = self._stream

    @property
    def name(self) -> str:
        """The names of all translators, joined by "+"."""
        return "+".join(translator.name for translator in self.translators)

    @property
    def fingerprint(self) -> str:
        """Hash of all translators' names and fingerprints, in their order."""
        return stable_hash(self.kind, [[t.name, t.fingerprint] for t in self.translators])

    def translate(self, texts: Sequence[str], language: str, num_candidates: int) -> list[list[Candidate]]:
        """See [`Translator.translate`]; the scores are each translator's own and don't compare across kinds."""
        check_request(texts, num_candidates)
        answers = [translator.translate(texts, language, num_candidates) for translator in self.translators]
        for translator, answer in zip(self.translators, answers, strict=True):
            _check_count(translator, len(answer), len(texts))
        return [_ranked(row, num_candidates) for row in zip(*answers, strict=True)]

    def _stream(self, texts: Sequence[str], language: str, num_candidates: int) -> Iterator[tuple[int, _Answer]]:
        """See [`StreamingTranslator.stream`], and the class for texts that a translator failed."""
        check_request(texts, num_candidates)
        members = [Identity(translator.name, translator.fingerprint) for translator in self.translators]
        sources = [self._answers(translator, texts, language, num_candidates) for translator in self.translators]
        # Of equals those that stream come first: their calls then go on while a chunk is translated.
        order = sorted(range(len(members)), key=lambda member: not _streams(self.translators[member]))
        given = [0] * len(members)
        rows: dict[int, dict[int, _Answer]] = {}
        with ExitStack() as stack:
            for source in sources:
                stack.callback(source.close)
            while min(given) < len(texts):
                member = min(order, key=given.__getitem__)
                try:
                    answers = next(sources[member])
                except NoAnswerError as error:
                    gone = Failure("no answer", f"{members[member].name} gives no answers any more: {error}")
                    for position, row in rows.items():
                        yield position, _failure(members, row, gone)
                    raise
                given[member] += len(answers)
                for position, answer in answers:
                    rows.setdefault(position, {})[member] = answer
                for position in [position for position, _ in answers if len(rows[position]) == len(members)]:
                    yield position, _united(members, rows.pop(position), num_candidates)
            for source in sources:  # to its end: there may stand that nobody answers, or an answer too many
                next(source, None)

    def _answers(
        self, translator: Translator, texts: Sequence[str], language: str, num_candidates: int
    ) -> Generator[list[tuple[int, _Answer]], None, None]:
        """One translator's answers as they come, for each text exactly one; a chunk's all at once."""
        if not _streams(translator):
            for start in range(0, len(texts), self.chunk_size):
                chunk = texts[start : start + self.chunk_size]
                answers = translator.translate(chunk, language, num_candidates)
                _check_count(translator, len(answers), len(chunk))
                yield list(enumerate(answers, start))
            return
        waiting = set(range(len(texts)))
        stream = translator.stream(texts, language, num_candidates)  # type: ignore[attr-defined]
        with ExitStack() as stack:
            if close := getattr(stream, "close", None):
                stack.callback(close)
            for position, answer in stream:
                if position not in waiting:
                    raise ValueError(
                        f"translator '{translator.name}' gave an answer at {position}; expected each of "
                        f"0..{len(texts) - 1} once; make its stream() name the position among the texts it was given"
                    )
                waiting.remove(position)
                yield [(position, answer)]
        _check_count(translator, len(texts) - len(waiting), len(texts))

    def save(self, folder: str | os.PathLike) -> None:
        """
        Save each translator in a sub-folder.

        Args:
            folder (`str` or `os.PathLike`): Made if it isn't there.

        Raises:
            `TypeError`: a translator that can't be saved.
        """
        members = [f"{position}-{translator.name}" for position, translator in enumerate(self.translators)]
        savable = [translator for translator in self.translators if isinstance(translator, _Savable)]
        if other := [translator.name for translator in self.translators if translator not in savable]:
            raise TypeError(
                f"union has translators {other}; expected only kinds {sorted(_LOADABLE)} in one that is saved; "
                "build a union with others anew instead"
            )
        for member, translator in zip(members, savable, strict=True):
            translator.save(Path(folder) / member)
        write_manifest(folder, {"kind": self.kind, "members": members})

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "TranslatorUnion":
        """
        Load what `save` wrote.

        Args:
            folder (`str` or `os.PathLike`): Where it was saved.

        Returns:
            `TranslatorUnion`: The union with the fingerprint that it was saved with.
        """
        union = load_translator(folder)
        if not isinstance(union, cls):
            raise ValueError(f"{folder} holds a {union.name!r}; expected a union; use load_translator()")
        return union


def _streams(translator: Translator) -> bool:
    # Not by isinstance(): on Python 3.11 that would compute the fingerprint, of a model's weights perhaps.
    return callable(getattr(translator, "stream", None))


def _check_count(translator: Translator, got: int, expected: int) -> None:
    if got != expected:
        raise ValueError(
            f"translator '{translator.name}' gave {got} answers; expected one for each of {expected} texts; "
            "return an empty list for a text without candidates"
        )


def _ranked(row: Sequence[Sequence[Candidate]], limit: int) -> list[Candidate]:
    """Each translator's best, then each one's second, and so on."""
    ranked = (candidate for rank in zip_longest(*row) for candidate in rank if candidate is not None)
    return distinct_candidates(list(ranked), limit)


def _united(members: Sequence[Identity], row: Mapping[int, _Answer], limit: int) -> _Answer:
    """The answer to a text that all members have answered or failed."""
    failures = [answer for answer in row.values() if isinstance(answer, Failure)]
    found = [answer for _, answer in sorted(row.items()) if not isinstance(answer, Failure)]
    united = _ranked(found, limit)
    if not failures or (united and all(failure.replied for failure in failures)):
        return united
    return _failure(members, row)


def _failure(members: Sequence[Identity], row: Mapping[int, _Answer], reason: Failure | None = None) -> PartialFailure:
    """
    What the members gave of a text that has no answer yet, and why: by default what went wrong with the first member
    that may be asked again.
    """
    failed = [(member, answer) for member, answer in sorted(row.items()) if isinstance(answer, Failure)]
    if reason is None:
        member, worst = min(failed, key=lambda item: item[1].replied)
        reason = Failure(worst.reason, f"{members[member].name}: {worst.message}", worst.replied)
    answers: list[tuple[Identity, list[Candidate]]] = []
    for place, answer in sorted(row.items()):
        if not isinstance(answer, Failure):
            answers.append((members[place], answer))
        elif isinstance(answer, PartialFailure):  # a union within this one
            answers.extend(answer.answers)
    return PartialFailure(reason.reason, reason.message, reason.replied, tuple(answers))


def load_translator(folder: str | os.PathLike) -> Translator:
    """
    Load a translator of whatever kind a folder holds.

    Args:
        folder (`str` or `os.PathLike`): Where a translator was saved.

    Returns:
        [`Translator`]: With the fingerprint that it was saved with.

    Raises:
        `ValueError`: the folder holds no translator but something else.
        `FileNotFoundError`: nothing saved there.
    """
    manifest = read_manifest(folder)
    if manifest["kind"] == TranslatorUnion.kind:
        members = manifest["members"]
        # Names from a file: one with a path in it could lead anywhere.
        if bad := [name for name in members if Path(name).name != name]:
            raise ValueError(f"{folder} names members {bad}; expected names of its own sub-folders; save it again")
        return TranslatorUnion([load_translator(Path(folder) / name) for name in members])
    if manifest["kind"] not in _LOADABLE:
        raise ValueError(
            f"{folder} holds a {manifest['kind']!r}; expected one of {sorted([*_LOADABLE, TranslatorUnion.kind])}; "
            "load it with the load() of its own class"
        )
    return _LOADABLE[manifest["kind"]].load(folder)


def cross_fit(
    factory: Callable[[list[Pair]], Translator],
    pairs: Iterable[Pair],
    num_candidates: int = 5,
    *,
    folds: int = 5,
    seed: int = 0,
) -> list[list[Candidate]]:
    """
    Candidates for training rows, each from a translator that hasn't seen the row's English in any language.

    A translator fitted on a text knows its answer. A head that trains on such candidates learns to trust them and is
    let down by those of new texts.

    Args:
        factory (`Callable[[list[Pair]], Translator]`): Fits a translator, such as `TranslationMemory.fit`.
        pairs (`Iterable[Pair]`): Training rows (language, text, English text).
        num_candidates (`int`, *optional*, defaults to 5): K, the most candidates for a row.
        folds (`int`, *optional*, defaults to 5): Parts that the distinct English texts are dealt into; no more than
            there are texts are made.
        seed (`int`, *optional*, defaults to 0): Decides who goes into which part.

    Returns:
        `list[list[Candidate]]`: Aligned with `pairs`.

    Raises:
        `ValueError`: fewer than two folds or two distinct English texts.
    """
    rows = list(pairs)
    groups = sorted({fold(english) for _, _, english in rows})
    if folds < 2 or len(groups) < 2:
        raise ValueError(
            f"cross_fit got folds={folds} and {len(groups)} distinct English texts; expected at least 2 of each; "
            "give more parallel text or fit on other text than the training rows"
        )
    random.Random(seed).shuffle(groups)
    part_of = {group: position % folds for position, group in enumerate(groups)}
    parts = [part_of[fold(english)] for _, _, english in rows]
    candidates: list[list[Candidate]] = [[] for _ in rows]
    for part in range(min(folds, len(groups))):
        translator = factory([row for row, other in zip(rows, parts, strict=True) if other != part])
        held_out: dict[str, list[int]] = {}
        for position, (language, _, _) in enumerate(rows):
            if parts[position] == part:
                held_out.setdefault(language, []).append(position)
        for language, positions in held_out.items():
            answers = translator.translate([rows[p][1] for p in positions], language, num_candidates)
            for position, answer in zip(positions, answers, strict=True):
                candidates[position] = answer
    return candidates
