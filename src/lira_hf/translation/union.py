"""Several translators as one, candidates for training rows by cross-fitting, and translators loaded by kind (ours)."""

import os
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from .base import Candidate, Translator, check_request, distinct_candidates, fold, stable_hash
from .gloss import GlossTranslator, RepairTranslator
from .memory import TranslationMemory
from .parallel import Pair, read_manifest, write_manifest


__all__ = ["TranslatorUnion", "cross_fit", "load_translator"]

_Savable = TranslationMemory | GlossTranslator | RepairTranslator
_LOADABLE: dict[str, type[_Savable]] = {
    cls.kind: cls for cls in (TranslationMemory, GlossTranslator, RepairTranslator)
}


class TranslatorUnion:
    """
    K candidates from several translators: each one's best first, then each one's second, and so on.

    Each candidate keeps the kind and name of the translator that made it; of candidates that differ only in case the
    first stays.

    Args:
        translators (`Sequence[Translator]`): At least one; the order decides who goes first.

    Raises:
        `ValueError`: no translator.
    """

    kind = "union"

    def __init__(self, translators: Sequence[Translator]):
        if not translators:
            raise ValueError("translators is empty; expected at least one; without candidates use no translator")
        self.translators = list(translators)

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
            if len(answer) != len(texts):
                raise ValueError(
                    f"translator '{translator.name}' gave {len(answer)} answers; expected one for each of "
                    f"{len(texts)} texts; return an empty list for a text without candidates"
                )
        united = []
        for row in zip(*answers, strict=True):
            ranked = (candidate for rank in zip_longest(*row) for candidate in rank if candidate is not None)
            united.append(distinct_candidates(list(ranked), num_candidates))
        return united

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
