"""What robustness is measured on: a retrieval split, or scored pairs; how vectors are scored and systems compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, pearsonr, spearmanr

from lira_hf.data import BeirDataset, DataError, SimilarityPair, read_beir, read_sts
from lira_hf.inference import LiraEmbedder
from lira_hf.training.tasks import read_pairs
from lira_hf.translation import Critic

from .controls import MIXTURES
from .retrieval import METRICS, UNKNOWN_LANGUAGE, Interval, RetrievalScores, evaluate_retrieval, paired_difference
from .robustness_systems import OURS, RobustnessSystems, SourceTexts, concat


__all__ = ["PairScores", "RobustnessTask", "choose_controls", "measure_systems", "pair_difference", "read_task"]

PATH_WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
Vectors = NDArray[np.float32]
Scores = Any  # RetrievalScores or PairScores


@dataclass(frozen=True)
class PairScores:
    """
    Cosines of scored pairs.

    Args:
        languages (`list[str]`): Of each pair, such as `"vi"` or `"vi-en"`.
        groups (`list[str]`): What each pair belongs to.
        gold (`np.ndarray` of shape `(pairs,)`): The scores.
        cosines (`np.ndarray` of shape `(pairs,)`): The cosines.
    """

    languages: list[str]
    groups: list[str]
    gold: NDArray[np.float64]
    cosines: NDArray[np.float64]

    def per_language(self, metric: str = "pearson") -> dict[str, float]:
        """Pearson or Spearman of each language's pairs, -1..1; 0 where one side is constant."""
        tags = np.array(self.languages)
        correlation = {"pearson": pearsonr, "spearman": spearmanr}[metric]
        found = {}
        for tag in sorted(set(self.languages)):
            gold, cosines = self.gold[tags == tag], self.cosines[tags == tag]
            constant = len(gold) < 2 or np.ptp(gold) == 0 or np.ptp(cosines) == 0
            found[tag] = 0.0 if constant else float(correlation(cosines, gold).statistic)
        return found

    def mean(self, metric: str = "pearson") -> float:
        """Mean of the languages."""
        return float(np.mean(list(self.per_language(metric).values())))


def pair_difference(
    ours: Sequence[PairScores],
    theirs: Sequence[PairScores],
    language: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """
    Ours minus theirs in Pearson's correlation, mean of the languages, with a 95 % paired-bootstrap interval, resampled
    by group (ours).

    Args:
        ours, theirs (`Sequence[PairScores]`): The same pairs under both systems; one entry per seed, averaged.
        language (`str`, *optional*): That language's pairs alone.
        resamples (`int`, *optional*, defaults to 2000): Bootstrap samples.
        seed (`int`, *optional*, defaults to 0): Of the bootstrap.
    """
    first = ours[0]
    tags = sorted(set(first.languages)) if language is None else [language]
    rows = [np.flatnonzero(np.array(first.languages) == tag) for tag in tags]
    number = {group: place for place, group in enumerate(dict.fromkeys(first.groups))}
    groups = np.array([number[group] for group in first.groups])
    sides = [np.stack([one.cosines for one in side]) for side in (ours, theirs)]

    def statistic(sample: NDArray[np.int64]) -> float:
        weights = np.bincount(sample, minlength=len(number))[groups].astype(float)
        gains = []
        for at in rows:
            one, other = (_weighted_pearson(side[:, at], first.gold[at], weights[at]) for side in sides)
            gains.append(np.mean(one) - np.mean(other))
        return float(np.nanmean(gains))

    used = np.unique(np.concatenate([groups[at] for at in rows]))
    point = statistic(used)
    if len(used) < 3:
        return Interval(point, float("nan"), float("nan"))
    how = {"n_resamples": resamples, "vectorized": False, "method": "percentile"}
    found = bootstrap((used,), statistic, **how, rng=np.random.default_rng(seed)).confidence_interval
    return Interval(point, float(found.low), float(found.high))


def _weighted_pearson(
    cosines: NDArray[np.float64], gold: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`(seeds, pairs)` against `(pairs,)`; 0 where one side is constant, NaN without weight."""
    total = weights.sum()
    if not total:
        return np.full(len(cosines), np.nan)
    one = cosines - (cosines @ weights / total)[:, None]
    other = gold - gold @ weights / total
    scale = np.sqrt((one**2 @ weights) * (other**2 @ weights))
    return np.divide((one * other) @ weights, scale, out=np.zeros(len(cosines)), where=scale > 0)


@dataclass(frozen=True)
class RobustnessTask:
    """
    A split to measure on.

    Args:
        kind (`str`): `"retrieval"` or `"ranking"`.
        texts ([`SourceTexts`]): What is made noisy: the queries, or first and then second texts of the pairs; texts in
            an anchor language are left alone.
        documents ([`SourceTexts`], *optional*): The corpus, which stays clean.
        metrics (`tuple[str, ...]`): The first is the one that decides.
        score (`Callable`): From the vectors of `texts` and of `documents` to scores.
        difference (`Callable`): From two lists of scores and a language to an [`Interval`] of the first metric.
    """

    kind: str
    texts: SourceTexts
    documents: SourceTexts | None
    metrics: tuple[str, ...]
    score: Callable[[Vectors, Vectors | None], Scores]
    difference: Callable[[Sequence[Scores], Sequence[Scores], str | None], Interval]


def read_task(
    data: Path, split: str, embedder: LiraEmbedder, resamples: int = 2000, critic: Critic | None = None
) -> RobustnessTask:
    """
    A split of a BEIR folder, or of a table of scored pairs.

    Args:
        data (`Path`): A folder with corpus.jsonl, or a table as of [`read_sts`], or a folder of such tables.
        split (`str`): The split; a table without splits is read as a whole.
        embedder ([`LiraEmbedder`]): Whose candidates are taken.
        resamples (`int`, *optional*, defaults to 2000): Bootstrap samples of each interval.
        critic ([`Critic`], *optional*): Judges the candidates that have no scores yet.

    Raises:
        DataError, FileNotFoundError, ValueError: For data that can't be read, or a split that isn't there.
    """
    if (data / "corpus.jsonl").is_file():
        task = _retrieval(read_beir(data, split), embedder, resamples)
    else:
        pairs = read_pairs(str(data), split)
        task = _ranking(read_sts(data) if pairs is None else pairs, embedder, resamples)
    if critic is None:
        return task
    own, texts = embedder.processor.anchor_languages, task.texts
    unjudged = [
        row
        for row, (tag, scores) in enumerate(zip(texts.languages, texts.scores, strict=True))
        if tag not in own and None in scores
    ]
    return replace(task, texts=texts.judged(critic, unjudged))


def has_split(data: Path, split: str) -> bool:
    """Whether data has a split, for choices that can do without."""
    if (data / "corpus.jsonl").is_file():
        return (data / "qrels" / f"{split}.tsv").is_file()
    try:
        return read_pairs(str(data), split) is not None
    except DataError:
        raise
    except (FileNotFoundError, ValueError):
        return False


def _retrieval(dataset: BeirDataset, embedder: LiraEmbedder, resamples: int) -> RobustnessTask:
    own = embedder.processor.anchor_languages[0]
    queries = list(dataset.queries.values())
    texts = SourceTexts.find(embedder, [query.text for query in queries], [query.language for query in queries])
    spoken = [dataset.document_languages.get(key, own) for key in dataset.corpus]
    documents = SourceTexts.find(embedder, list(dataset.corpus.values()), spoken)

    def score(vectors: Vectors, corpus: Vectors | None) -> RetrievalScores:
        if corpus is None:
            raise ValueError("got no vectors of the corpus; expected one per document; embed the task's documents")
        return evaluate_retrieval(dataset, vectors, corpus)

    def difference(ours: Sequence[Scores], theirs: Sequence[Scores], language: str | None) -> Interval:
        return paired_difference(ours, theirs, METRICS[0], language, resamples)

    return RobustnessTask("retrieval", texts, documents, METRICS, score, difference)


def _ranking(pairs: Sequence[SimilarityPair], embedder: LiraEmbedder, resamples: int) -> RobustnessTask:
    sides = [(pair.text1, pair.language1) for pair in pairs] + [(pair.text2, pair.language2) for pair in pairs]
    texts = SourceTexts.find(embedder, [text for text, _ in sides], [tag for _, tag in sides])
    languages = [_pair_language(pair) for pair in pairs]
    groups = [pair.group or str(number) for number, pair in enumerate(pairs)]
    gold = np.array([pair.score for pair in pairs], dtype=float)

    def score(vectors: Vectors, _: Vectors | None) -> PairScores:
        first, second = vectors[: len(pairs)], vectors[len(pairs) :]
        return PairScores(languages, groups, gold, (first * second).sum(-1).astype(float))

    def difference(ours: Sequence[Scores], theirs: Sequence[Scores], language: str | None) -> Interval:
        return pair_difference(ours, theirs, language, resamples)

    return RobustnessTask("ranking", texts, None, ("pearson", "spearman"), score, difference)


def _pair_language(pair: SimilarityPair) -> str:
    one, other = (tag or UNKNOWN_LANGUAGE for tag in (pair.language1, pair.language2))
    return one if one == other else f"{one}-{other}"


class TaskDocuments:
    """The vectors of a task's corpus under every system, embedded when they are first asked for."""

    def __init__(self, task: RobustnessTask, systems: RobustnessSystems):
        self.task = task
        self.systems = systems
        self._found: dict[str, list[Vectors]] | None = None

    def get(self) -> dict[str, list[Vectors]] | None:
        """By system and model; `None` where there is no corpus."""
        if self._found is None and self.task.documents is not None:
            self._found = self.systems.embed(self.task.documents, "document")
        return self._found


def measure_systems(
    task: RobustnessTask, systems: RobustnessSystems, texts: SourceTexts, documents: TaskDocuments
) -> dict[str, Any]:
    """
    Every system over a task's texts, as they are or noisy.

    Returns:
        `dict`: `systems` (per system and metric the languages' values, means of the models, and their `mean`; `seeds`:
        each model's mean of the first metric) and `differences` (LiRA minus each system in the first metric, of each
        language and of the `mean`, with 95 % intervals).
    """
    corpus = documents.get()
    scores = {
        name: [task.score(one, None if corpus is None else corpus[name][n]) for n, one in enumerate(found)]
        for name, found in systems.embed(texts, "query").items()
    }
    tags = sorted(set(scores[OURS][0].languages))
    figures = {
        name: {metric: _means(found, metric, tags) for metric in task.metrics}
        | {"seeds": [one.mean(task.metrics[0]) for one in found]}
        for name, found in scores.items()
    }
    differences = {
        name: {tag or "mean": task.difference(scores[OURS], found, tag)._asdict() for tag in (None, *tags)}
        for name, found in scores.items()
        if name != OURS
    }
    return {"systems": figures, "differences": differences}


def _means(found: Sequence[Scores], metric: str, tags: Sequence[str]) -> dict[str, float]:
    rows = [scores.per_language(metric) for scores in found]
    languages = {tag: float(np.mean([row[tag] for row in rows])) for tag in tags}
    return {"mean": float(np.mean(list(languages.values()))), **languages}


def choose_controls(task: RobustnessTask, systems: RobustnessSystems) -> dict[str, Any]:
    """
    What makes the controls strongest on a dev split: how they weigh candidates, and g's share in `"concat"` (recipes:
    the tuned concat is the hardest control).

    Args:
        task ([`RobustnessTask`]): The dev split.
        systems ([`RobustnessSystems`]): Whose backbones and candidates are used; left as they are.

    Returns:
        `dict`: `mixture`, `path_weight`, and `dev`: the first metric of all that was tried.
    """
    judged = any(score is not None for row in task.texts.scores for score in row)
    # Without a judge "best" is the first and "judge" the mean.
    mixtures = [name for name in MIXTURES if judged or name not in ("best", "judge")]
    documents = task.documents
    source = systems.source(task.texts, "query")
    corpus = None if documents is None else systems.source(documents, "document")

    def value(one: Vectors, other: Vectors | None) -> float:
        return task.score(one, other).mean(task.metrics[0])

    def anchors(mixture: str) -> tuple[Vectors, Vectors | None]:
        other = None if documents is None else systems.anchors(documents, mixture)
        return systems.anchors(task.texts, mixture), other

    translated = {name: value(*anchors(name)) for name in mixtures}
    mixture = max(translated, key=translated.__getitem__)
    anchor, other = anchors(mixture)
    joined = {
        weight: value(
            concat(source, anchor, weight),
            None if corpus is None or other is None else concat(corpus, other, weight),
        )
        for weight in PATH_WEIGHTS
    }
    tried = {f"translate ({name}), then h": found for name, found in translated.items()}
    tried |= {f"concat, path weight {weight}": found for weight, found in joined.items()}
    weight = max(joined, key=joined.__getitem__)
    return {"mixture": mixture, "path_weight": weight, "dev": {"g alone": value(source, corpus)} | tried}
