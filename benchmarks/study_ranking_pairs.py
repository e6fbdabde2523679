"""The pairs of benchmarks/study_ranking.py: drawn from the study's texts, with a gold made from their English."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import CHRF
from sklearn.feature_extraction.text import TfidfVectorizer

from lira_hf.data import ParallelPair, SimilarityPair, read_tsv, write_sts
from lira_hf.evaluation.controls import unit
from lira_hf.quickstart import Quickstart


SIDES = ("train", "dev", "test")
# Pairs per language.
SIZES = {"train": 1800, "dev": 200, "test": 600}
# Ranks from and to: the same English; neighbours; any two.
BUCKETS: tuple[tuple[int, int | None], ...] = ((0, 0), (1, 3), (4, 10), (11, 50), (51, 300), (1, None))
Vectors = NDArray[np.float32]


def by_english(rows: Sequence[ParallelPair]) -> dict[str, dict[str, str]]:
    """English of two words or more to its text in each language."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if len(re.findall(r"[A-Za-z]{2,}", row.english)) >= 2:
            found.setdefault(row.english, {}).setdefault(row.language, row.text)
    return found


def surface_gold(first: Sequence[str], second: Sequence[str]) -> list[float]:
    """0..5: five times the mean of chrF (of both directions) and the TF-IDF cosine of words; the same English: 5."""
    chrf = CHRF(lowercase=True)
    words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True).fit(sorted({*first, *second}))
    cosines = np.asarray(words.transform(first).multiply(words.transform(second)).sum(1)).ravel()
    scores = []
    for one, other, cosine in zip(first, second, cosines, strict=True):
        both = (chrf.sentence_score(one, [other]).score + chrf.sentence_score(other, [one]).score) / 200
        scores.append(5.0 if one == other else round(2.5 * (both + float(cosine)), 4))
    return scores


def draw_pairs(
    texts: dict[str, dict[str, str]], languages: Sequence[str], count: int, seed: int
) -> list[tuple[str, str, str, str]]:
    """`count` pairs of each language: its tag, its English, the other text's tag and English."""
    english = list(texts)
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit_transform(english)
    place = {text: number for number, text in enumerate(english)}
    generator = np.random.default_rng(seed)
    found = []
    for language in languages:
        own = [text for text in english if language in texts[text]]
        order = np.concatenate([generator.permutation(len(own)) for _ in range(count // len(own) + 1)])[:count]
        for start in range(0, count, 500):
            chunk = [own[number] for number in order[start : start + 500]]
            closeness = (vectors[[place[text] for text in chunk]] @ vectors.T).toarray()
            for text, row in zip(chunk, closeness, strict=True):
                row[place[text]] = np.inf  # itself comes first
                ranked = np.argsort(-row, kind="stable")
                low, high = BUCKETS[generator.integers(len(BUCKETS))]
                high = len(english) - 1 if high is None else min(high, len(english) - 1)
                other = english[ranked[generator.integers(low, high + 1)]]
                found.append((language, text, _partner(language, text, other, texts, generator), other))
    return found


def _partner(
    language: str, text: str, other: str, texts: dict[str, dict[str, str]], generator: np.random.Generator
) -> str:
    """Tag of the second text: the same language, another one or English, alike often where there are all three."""
    foreign = [tag for tag in texts[other] if tag != language]
    kinds = {"en": ["en"], "other": foreign, "own": [language] if language in texts[other] and other != text else []}
    wanted = [tags for tags in kinds.values() if tags]
    tags = wanted[generator.integers(len(wanted))]
    return tags[generator.integers(len(tags))]


def write_pairs(run: Quickstart, folder: Path) -> None:
    """The three sides with the surface's gold, and with that of h's space beside it (`-h`)."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for number, side in enumerate(SIDES):
        rows = read_tsv(run.folder / "data" / f"{side}.tsv")
        known = seen | ({pair.english for pair in run.corpus.learn} if side != "train" else set())
        rows = [row for row in rows if row.english not in known and row.text not in known]
        seen |= {text for row in rows for text in (row.english, row.text)}
        texts = by_english(rows)
        drawn = draw_pairs(texts, run.settings.languages, SIZES[side], 100 + number)
        first, second = [one for _, one, _, _ in drawn], [other for _, _, _, other in drawn]
        vectors = [unit(run.plain_features.get("anchor", part)[:, 0].astype(np.float32)) for part in (first, second)]
        golds = {side: surface_gold(first, second), f"{side}-h": (vectors[0] * vectors[1]).sum(-1).tolist()}
        for name, gold in golds.items():
            pairs = [
                SimilarityPair(texts[one][tag], ({"en": other} | texts[other])[second_tag], score, tag, second_tag)
                for (tag, one, second_tag, other), score in zip(drawn, gold, strict=True)
            ]
            write_sts(folder / f"{name}.jsonl", pairs)
    (folder / ".complete").touch()


@dataclass
class Side:
    """A side's pairs, and its distinct texts."""

    pairs: list[SimilarityPair]
    gold: dict[str, NDArray[np.float64]]

    @cached_property
    def texts(self) -> list[tuple[str, str | None]]:
        """Text and tag."""
        both = [key for p in self.pairs for key in ((p.text1, p.language1), (p.text2, p.language2))]
        return list(dict.fromkeys(both))

    def predictions(self, vectors: Vectors) -> NDArray[np.float64]:
        """Cosine of each pair, from a vector for each of the texts."""
        place = {key: number for number, key in enumerate(self.texts)}
        first = [place[p.text1, p.language1] for p in self.pairs]
        second = [place[p.text2, p.language2] for p in self.pairs]
        return (vectors[first] * vectors[second]).sum(-1).astype(np.float64)

    def rows(self) -> dict[str, NDArray[np.int64]]:
        """The pairs of each language, which is that of the first text."""
        tags = np.array([pair.language1 for pair in self.pairs])
        return {str(tag): np.flatnonzero(tags == tag) for tag in sorted(set(tags))}

    def pearson(self, predictions: NDArray[np.float64], gold: str = "surface") -> float:
        """Mean over the languages."""
        rows, truth = self.rows(), self.gold[gold]
        return float(np.mean([correlation(predictions[row], truth[row]) for row in rows.values()]))


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's r along the last axis."""
    one, other = one - one.mean(-1, keepdims=True), other - other.mean(-1, keepdims=True)
    return (one * other).sum(-1) / np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
