"""Noise-amplified settings (paper): LiRA and its controls while source texts or candidates are corrupted at rising
rates, point by point, each kept when it is finished."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lira_hf.data import (
    Corrupted,
    add_typos,
    corrupt_candidates,
    drop_diacritics,
    learn_alphabet,
    mix_code,
)
from lira_hf.data.files import write_json
from lira_hf.translation import Critic, LexicalTable, Lexicon, ParallelText, Translator

from .retrieval import UNKNOWN_LANGUAGE
from .robustness_systems import RobustnessSystems, SourceTexts
from .robustness_tasks import RobustnessTask, TaskDocuments, measure_systems


__all__ = ["NOISES", "NOISE_RATES", "TRANSLATIONS", "NoiseCurves", "TextNoise", "fill_clean", "word_lexicon"]

NOISES = ("typos", "code_mixing", "diacritics", "candidates")
NOISE_RATES = (0.0, 0.1, 0.2, 0.4)
TRANSLATIONS = ("kept", "again")
UNITS = {"typos": "letters", "code_mixing": "words", "diacritics": "marks", "candidates": "candidates"}


def word_lexicon(translator: Translator | None, texts: SourceTexts, own: Sequence[str]) -> tuple[Lexicon | None, str]:
    """
    The word translations that code-mixing takes its English from (IBM model 1, see [`Lexicon`]).

    Args:
        translator ([`Translator`], *optional*): One that has learned from parallel text (gloss, memory, repair, or a
            union with one of these): its text is taken.
        texts ([`SourceTexts`]): Else each text and its first candidate.
        own (`Sequence[str]`): Anchor languages, whose texts are left out.

    Returns:
        `tuple`: the lexicon, or `None` where there is nothing to learn from, and where it comes from, in words.
    """
    members = [translator, *getattr(translator, "translators", ())]
    for member in members:
        if isinstance(found := getattr(member, "lexicon", None), Lexicon):
            return found, "the translator's parallel text"
    for member in members:
        if isinstance(parallel := getattr(member, "parallel", None), ParallelText):
            return Lexicon(parallel), "the translator's parallel text"
    pairs = [
        (language, text, row[0])
        for text, language, row in zip(texts.texts, texts.languages, texts.candidates, strict=True)
        if language is not None and language not in own and row
    ]
    return (Lexicon(ParallelText(pairs)), "the texts and their first candidates") if pairs else (None, "nothing")


@dataclass
class TextNoise:
    """
    Corrupts the texts, or the candidates, of a set of texts; those in an anchor language stay as they are.

    Args:
        texts ([`SourceTexts`]): The clean texts.
        own (`Sequence[str]`): Anchor languages.
        seed (`int`, *optional*, defaults to 0): Of the noise.
        lexicon ([`Lexicon`], *optional*): For code-mixing.
        critic ([`Critic`], *optional*): Judges candidates that were corrupted, or that are new. Without one a
            corrupted candidate keeps its scores, as if the judge had not noticed, and a new one has none.
        translator ([`Translator`], *optional*): Asked for texts that were changed, where translations are made again.
        num_candidates (`int`, *optional*, defaults to 5): K of the translator.
    """

    texts: SourceTexts
    own: Sequence[str]
    seed: int = 0
    lexicon: Lexicon | None = None
    critic: Critic | None = None
    translator: Translator | None = None
    num_candidates: int = 5
    _rows: dict[str | None, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self._rows = {}
        for row, language in enumerate(self.texts.languages):
            if language not in self.own:
                self._rows.setdefault(language, []).append(row)

    def apply(self, noise: str, rate: float, translations: str = "kept") -> tuple[SourceTexts, dict[str, Any]]:
        """
        Args:
            noise (`str`): Of `NOISES`.
            rate (`float`): 0 to 1.
            translations (`str`, *optional*, defaults to `"kept"`): Candidates of a changed text are `"kept"`, as of a
                translator that copes with the noise, or asked for `"again"`.

        Returns:
            `tuple`: the noisy texts, and the rates that came out: per language and `"all"` the number of `texts` and
            of `units`, the share of each that was changed (`texts_changed`, `units_changed`), and counts of `changes`.

        Raises:
            ValueError: For a noise or mode that there isn't, or one that lacks its translator or word table.
        """
        self._check(noise, translations)
        if noise == "candidates":
            return self._noisy_candidates(rate)
        texts, outcome = list(self.texts.texts), {}
        for language, rows in self._rows.items():
            change = self._changer(noise, rate, language, rows)
            done = [change(texts[row]) for row in rows]
            changed = [one.text != texts[row] for row, one in zip(rows, done, strict=True)]
            outcome[language or UNKNOWN_LANGUAGE] = _outcome(done, changed)
            for row, one in zip(rows, done, strict=True):
                texts[row] = one.text
        noisy = replace(self.texts, texts=texts)
        if translations == "again":
            noisy = self._translated(noisy)
        return noisy, _with_all(outcome)

    def _check(self, noise: str, translations: str) -> None:
        if noise not in NOISES:
            raise ValueError(f"got the noise {noise!r}; expected one of {NOISES}; correct it")
        if translations not in TRANSLATIONS:
            raise ValueError(f"got translations={translations!r}; expected one of {TRANSLATIONS}; correct it")
        if translations == "again" and self.translator is None:
            raise ValueError(
                "got translations to be made again without a translator; expected one that reads the noisy texts; "
                "name a translator, or keep the translations of the clean texts"
            )
        if noise == "code_mixing" and self.lexicon is None:
            raise ValueError(
                "got code-mixing and nothing to learn English words from; expected a translator that has learned from "
                "parallel text, or candidates of the texts; name a translator or a store, or leave code-mixing out"
            )

    def _changer(
        self, noise: str, rate: float, language: str | None, rows: Sequence[int]
    ) -> Callable[[str], Corrupted]:
        if noise == "typos":
            alphabet = learn_alphabet(self.texts.texts[row] for row in rows)
            return lambda text: add_typos(text, rate, self.seed, alphabet)
        if noise == "diacritics":
            return lambda text: drop_diacritics(text, rate, self.seed, language)
        table: LexicalTable | None = None
        if self.lexicon is not None and language is not None:
            table = self.lexicon.table(language)
        return lambda text: mix_code(text, rate, self.seed, table)

    def _noisy_candidates(self, rate: float) -> tuple[SourceTexts, dict[str, Any]]:
        candidates, outcome = list(self.texts.candidates), {}
        touched: list[int] = []
        for language, rows in self._rows.items():
            others = [text for row in rows for text in self.texts.candidates[row]]
            done: list[Corrupted] = []
            for row in rows:
                found = corrupt_candidates(candidates[row], rate, self.seed, self.texts.texts[row], others)
                done += found
                if any(one.changes for one in found):
                    candidates[row] = [one.text for one in found]
                    touched.append(row)
            hit = set(touched)
            changed = [row in hit for row in rows]
            outcome[language or UNKNOWN_LANGUAGE] = _outcome(done, changed)
        noisy = replace(self.texts, candidates=candidates)
        return self._judged(noisy, touched), _with_all(outcome)

    def _judged(self, noisy: SourceTexts, rows: Sequence[int]) -> SourceTexts:
        """The candidates of some rows judged by a live critic."""
        return noisy if self.critic is None else noisy.judged(self.critic, rows)

    def _translated(self, noisy: SourceTexts) -> SourceTexts:
        """Candidates of the texts that were changed, asked for anew."""
        if (translator := self.translator) is None:
            return noisy
        candidates, scores, kinds = list(noisy.candidates), list(noisy.scores), list(noisy.kinds)
        touched: list[int] = []
        for language, rows in self._rows.items():
            asked = [row for row in rows if noisy.texts[row] != self.texts.texts[row]]
            if language is None or not asked:
                continue
            texts = [noisy.texts[row] for row in asked]
            answers = translator.translate(texts, language, self.num_candidates)
            for row, answer in zip(asked, answers, strict=True):
                candidates[row] = [item.text for item in answer]
                kinds[row] = [item.kind for item in answer]
                scores[row] = [None] * len(answer)
            touched += asked
        return self._judged(replace(noisy, candidates=candidates, scores=scores, kinds=kinds), touched)


def _outcome(done: Sequence[Corrupted], changed: Sequence[bool]) -> dict[str, Any]:
    changes = Counter(change for one in done for change in one.changes)
    return {
        "texts": len(changed),
        "texts_changed": sum(changed) / max(len(changed), 1),
        "units": sum(one.units for one in done),
        "units_changed": sum(changes.values()) / max(sum(one.units for one in done), 1),
        "changes": dict(sorted(changes.items())),
    }


def _with_all(outcome: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The languages' rates and, over all texts, the rate of `"all"`."""
    rows = list(outcome.values())
    counts = {name: sum(row[name] for row in rows) for name in ("texts", "units")}
    every: dict[str, Any] = {**counts, "changes": dict(sum((Counter(row["changes"]) for row in rows), Counter()))}
    for name in ("texts", "units"):
        changed = sum(row[f"{name}_changed"] * row[name] for row in rows)
        every[f"{name}_changed"] = changed / max(counts[name], 1)
    return {"all": every, **outcome}


class NoiseCurves:
    """
    Measures points of noise curves in a folder. A point that is there is read, so a killed run goes on where it was,
    and further rates or noises are added to what there is.

    Args:
        folder (`Path`): Where points go.
        task ([`RobustnessTask`]): What is measured.
        systems ([`RobustnessSystems`]): LiRA and its controls.
        noise ([`TextNoise`]): Over the task's texts.
        facts (`Mapping`): What the figures depend on besides, such as the model's fingerprint; JSON values.
        announce (`Callable`, *optional*): Told what begins.

    Raises:
        ValueError: Where the folder holds points of other facts.
    """

    def __init__(
        self,
        folder: Path,
        task: RobustnessTask,
        systems: RobustnessSystems,
        noise: TextNoise,
        facts: Mapping[str, Any],
        announce: Callable[[str], None] | None = None,
    ):
        self.folder = folder
        self.task = task
        self.systems = systems
        self.noise = noise
        self.announce = announce or (lambda step: None)
        self.documents = TaskDocuments(task, systems)
        check_folder(folder, {**facts, "texts": texts_digest(task.texts), "seed": noise.seed})

    def run(
        self, noises: Sequence[str], rates: Sequence[float], translations: Sequence[str] = ("kept",)
    ) -> list[dict[str, Any]]:
        """
        All points, noise by noise and rate by rate; the clean one, which all noises share, is measured once.

        Args:
            noises (`Sequence[str]`): Of `NOISES`.
            rates (`Sequence[float]`): 0 to 1; 0 is added, as curves start there.
            translations (`Sequence[str]`, *optional*, defaults to `("kept",)`): Of `TRANSLATIONS`. Corrupted
                candidates are never asked for again.

        Returns:
            `list[dict]`: Per point `noise`, `rate`, `translations`, `outcome` (see [`TextNoise.apply`]), and what
            [`measure_systems`] gives.
        """
        for noise in noises:  # before the first is measured
            for mode in translations if noise != "candidates" else ("kept",):
                self.noise._check(noise, mode)
        found = []
        for noise in noises:
            for mode in translations if noise != "candidates" else ("kept",):
                found += [self.point(noise, rate, mode) for rate in sorted({0.0, *rates})]
        return found

    def point(self, noise: str, rate: float, translations: str = "kept") -> dict[str, Any]:
        """One point, measured unless it is there."""
        name = "clean" if rate == 0 else f"{noise}-{rate:g}-{translations}"
        title = "clean" if rate == 0 else f"{noise} at {rate:g}, translations {translations}"
        path = self.folder / "points" / f"{name}.json"

        def work() -> dict[str, Any]:
            noisy, outcome = self.noise.apply(noise, rate, translations) if rate else (self.task.texts, {})
            figures = measure_systems(self.task, self.systems, noisy, self.documents)
            if rate:  # what the clean texts take is of use to every point
                self.systems.features.clear()
            return {"outcome": outcome, **figures}

        found = kept(path, lambda: self._announced(title, work))
        return {"noise": noise, "rate": rate, "translations": translations, **found}

    def _announced(self, title: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        self.announce(title)
        return work()


def fill_clean(task: RobustnessTask, systems: RobustnessSystems) -> None:
    """Computes what the clean texts, the documents and their candidates take, into the models' feature cache."""
    prompt = systems.embedders[0].processor.add_prompt
    for texts, role in ((task.texts, "query"), (task.documents, "document")):
        if texts is not None:
            systems.features.plain.fill("source", prompt(texts.texts, role))
            systems.features.plain.fill("anchor", [text for row in texts.candidates for text in row])


def kept(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a JSON file holds, made first where it isn't there."""
    if not path.is_file():
        write_json(path, work())
    return json.loads(path.read_text(encoding="utf-8"))


def check_folder(folder: Path, facts: Mapping[str, Any]) -> None:
    """Leaves the facts of a run in its folder; raises a `ValueError` where those of another run are there."""
    wanted = json.loads(json.dumps(facts))
    path = folder / "settings.json"
    found = kept(path, lambda: wanted)
    if found != wanted:
        other = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        raise ValueError(
            f"got {folder}, which holds points of a run with other {', '.join(other)}; expected the same to go on "
            "with it; choose another --output, or delete the folder"
        )


def texts_digest(texts: SourceTexts) -> str:
    """Hash of texts, languages, candidates and scores."""
    digest = hashlib.blake2b(digest_size=8)
    for row in zip(texts.texts, texts.languages, texts.candidates, texts.scores, texts.kinds, strict=True):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
