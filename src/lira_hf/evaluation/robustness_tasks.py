"""What robustness is measured on: a retrieval split, or scored pairs; how vectors are scored and systems compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lira_hf.data import BeirDataset, DataError, SimilarityPair, read_beir, read_sts
from lira_hf.inference import LiraEmbedder
from lira_hf.training.tasks import read_pairs
from lira_hf.translation import Critic

from .controls import MIXTURES
from .pairs import PairScores, pair_difference, pair_groups, pair_language
from .retrieval import METRICS, Interval, RetrievalScores, evaluate_retrieval, paired_difference
from .robustness_systems import OURS, RobustnessSystems, SourceTexts, concat


__all__ = ["RobustnessTask", "choose_controls", "has_split", "measure_systems", "read_task"]

PATH_WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
Vectors = NDArray[np.float32]
Scores = Any  # RetrievalScores or PairScores


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
    languages, groups = [pair_language(pair) for pair in pairs], pair_groups(pairs)
    gold = np.array([pair.score for pair in pairs], dtype=float)

    def score(vectors: Vectors, _: Vectors | None) -> PairScores:
        first, second = vectors[: len(pairs)], vectors[len(pairs) :]
        return PairScores(languages, groups, gold, (first * second).sum(-1).astype(float))

    def difference(ours: Sequence[Scores], theirs: Sequence[Scores], language: str | None) -> Interval:
        return pair_difference(ours, theirs, "pearson", language, resamples)

    return RobustnessTask("ranking", texts, None, ("pearson", "spearman"), score, difference)


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
