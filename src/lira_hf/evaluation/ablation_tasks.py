"""What an ablation measures on: a split of retrieval or of scored pairs, as two sides of texts whose vectors are
compared."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lira_hf.data import BeirDataset, SimilarityPair, read_beir
from lira_hf.inference import LiraEmbedder
from lira_hf.training.tasks import read_pairs

from .retrieval import METRICS, UNKNOWN_LANGUAGE, Interval, RetrievalScores, evaluate_retrieval, paired_difference


__all__ = [
    "PairScores",
    "PairSplit",
    "RetrievalSplit",
    "Side",
    "Split",
    "dump_scores",
    "embed_split",
    "load_scores",
    "pair_difference",
    "read_split",
]

Vectors = NDArray[np.float32]
Scores = Any  # RetrievalScores or PairScores: per_language(metric), mean(metric)


class Side(NamedTuple):
    """Texts that are embedded in one role, with the tag of each."""

    texts: list[str]
    languages: list[str | None]
    role: str


class Split(Protocol):
    """One split: its two sides, and how vectors of both are scored."""

    metrics: tuple[str, ...]
    # Whether the second side is asked about as the first is, or is what is found.
    alike: bool

    def sides(self) -> tuple[Side, Side]: ...

    def score(self, first: Vectors, second: Vectors) -> Scores: ...

    def difference(
        self, ours: Sequence[Scores], theirs: Sequence[Scores], metric: str, language: str | None = None
    ) -> Interval: ...

    def facts(self) -> dict[str, int]: ...


def read_split(task: str, data: str, split: str, anchor_languages: Sequence[str] = ("en",)) -> Split:
    """
    Args:
        task (`str`): `"retrieval"` or `"ranking"`.
        data (`str`): As in [`DataArguments`].
        split (`str`): Its name.
        anchor_languages (`Sequence[str]`, *optional*, defaults to `("en",)`): The model's.

    Raises:
        DataError, FileNotFoundError, ValueError: For data that can't be read, or a split that isn't there.
    """
    if task == "retrieval":
        return RetrievalSplit(read_beir(data, split), anchor_languages)
    pairs = read_pairs(data, split)
    if pairs is None:
        raise ValueError(
            f"got {data!r}, a table without splits; expected one with a column 'split', so that settings are chosen "
            "on other rows than are tested on; add the column, or give a folder with train, dev and test"
        )
    return PairSplit(pairs, anchor_languages)


@dataclass
class RetrievalSplit:
    """Queries, and the documents that they are to find."""

    dataset: BeirDataset
    anchor_languages: Sequence[str] = ("en",)
    metrics = METRICS
    alike = False

    def sides(self) -> tuple[Side, Side]:
        """Queries and documents; a document that names no language is in the first anchor language."""
        data, english = self.dataset, self.anchor_languages[0]
        spoken: list[str | None] = [data.document_languages.get(key, english) for key in data.corpus]
        queries = list(data.queries.values())
        first = Side([query.text for query in queries], [query.language for query in queries], "query")
        return first, Side(list(data.corpus.values()), spoken, "document")

    def score(self, first: Vectors, second: Vectors) -> RetrievalScores:
        """nDCG@10, recall@1 and MRR of every query."""
        return evaluate_retrieval(self.dataset, first, second)

    def difference(
        self,
        ours: Sequence[RetrievalScores],
        theirs: Sequence[RetrievalScores],
        metric: str,
        language: str | None = None,
    ) -> Interval:
        """Ours minus theirs, resampled by document."""
        return paired_difference(ours, theirs, metric, language)

    def facts(self) -> dict[str, int]:
        """Sizes."""
        return {"queries": len(self.dataset.queries), "documents": len(self.dataset.corpus)}


@dataclass(frozen=True)
class PairScores:
    """
    Cosines of pairs of texts beside their scores.

    Args:
        languages (`list[str]`): Tag of each pair: of its first text that isn't English, "und" where it is not known.
        cosines, gold (`np.ndarray` of shape `(pairs,)`): What was predicted, and the data's own scores.
    """

    languages: list[str]
    cosines: NDArray[np.float64]
    gold: NDArray[np.float64]

    @cached_property
    def rows(self) -> dict[str, NDArray[np.int64]]:
        """Places of each language's pairs."""
        tags = np.array(self.languages)
        return {tag: np.flatnonzero(tags == tag) for tag in sorted(set(self.languages))}

    def per_language(self, metric: str = "pearson") -> dict[str, float]:
        """`"pearson"` or `"spearman"` of each language, -1..1; 0 where one side is constant."""
        return {tag: float(_correlation(self.cosines[row], self.gold[row], metric)) for tag, row in self.rows.items()}

    def mean(self, metric: str = "pearson") -> float:
        """Mean of the languages: each counts alike, however many pairs it has."""
        return float(np.mean(list(self.per_language(metric).values())))


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """Along the last axis."""
    if metric == "spearman":
        one, other = stats.rankdata(one, axis=-1), stats.rankdata(other, axis=-1)
    one, other = one - one.mean(-1, keepdims=True), other - other.mean(-1, keepdims=True)
    size = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    return (one * other).sum(-1) / np.where(size > 1e-12, size, np.inf)


def pair_difference(
    ours: Sequence[PairScores],
    theirs: Sequence[PairScores],
    metric: str = "pearson",
    language: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """
    Ours minus theirs on the mean of the languages, with a 95 % paired-bootstrap interval; the pairs of each language
    are resampled (ours).

    Args:
        ours, theirs (`Sequence[PairScores]`): The same pairs under both systems; one entry per seed, whose
            correlations are averaged. A system without seeds gives one entry.
        metric (`str`, *optional*, defaults to `"pearson"`): Or `"spearman"`.
        language (`str`, *optional*): That language's pairs alone.
        resamples (`int`, *optional*, defaults to 1000): Bootstrap samples.
        seed (`int`, *optional*, defaults to 0): Of the bootstrap.

    Raises:
        ValueError: For systems that were scored on different pairs.
    """
    first = ours[0]
    for scores in (*ours, *theirs):
        if scores.languages != first.languages or not np.array_equal(scores.gold, first.gold):
            raise ValueError("the systems were scored on different pairs; expected the same ones in the same order")
    rows = [row for tag, row in first.rows.items() if language in (None, tag)]
    tables = [np.stack([scores.cosines for scores in one]) for one in (ours, theirs)]

    def statistic(*samples: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        gains = []
        for sample in samples:
            sample = sample.astype(int)
            mine, other = (_correlation(table[:, sample], first.gold[sample], metric).mean(0) for table in tables)
            gains.append(mine - other)
        return np.mean(gains, axis=0)

    point = float(statistic(*rows))
    if min(map(len, rows)) < 2:
        return Interval(point, float("nan"), float("nan"))
    found = stats.bootstrap(
        tuple(rows),
        statistic,
        n_resamples=resamples,
        batch=50,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(point, float(found.low), float(found.high))


@dataclass
class PairSplit:
    """Scored pairs; both texts are asked about alike."""

    pairs: list[SimilarityPair]
    anchor_languages: Sequence[str] = ("en",)
    metrics = ("pearson", "spearman")
    alike = True

    def sides(self) -> tuple[Side, Side]:
        """First and second texts."""
        first = Side([pair.text1 for pair in self.pairs], [pair.language1 for pair in self.pairs], "query")
        return first, Side([pair.text2 for pair in self.pairs], [pair.language2 for pair in self.pairs], "query")

    def score(self, first: Vectors, second: Vectors) -> PairScores:
        """The cosine of each pair; the vectors have unit length, or are zero."""
        norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
        cosines = (first * second).sum(-1) / np.where(norms > 0, norms, 1.0)
        tags = [self._language(pair) for pair in self.pairs]
        return PairScores(tags, cosines.astype(np.float64), np.array([pair.score for pair in self.pairs]))

    def _language(self, pair: SimilarityPair) -> str:
        spoken = (pair.language1, pair.language2)
        foreign = [tag for tag in spoken if tag is not None and tag not in self.anchor_languages]
        return next(iter(foreign), pair.language1 or UNKNOWN_LANGUAGE)

    def difference(
        self, ours: Sequence[PairScores], theirs: Sequence[PairScores], metric: str, language: str | None = None
    ) -> Interval:
        """Ours minus theirs, resampled by pair."""
        return pair_difference(ours, theirs, metric, language)

    def facts(self) -> dict[str, int]:
        """Sizes."""
        return {"pairs": len(self.pairs)}


def dump_scores(scores: Scores) -> dict[str, Any]:
    """Scores as JSON."""
    return json.loads(json.dumps(dataclasses.asdict(scores), default=lambda array: array.tolist()))


def load_scores(found: dict[str, Any]) -> Scores:
    """What [`dump_scores`] gave."""
    if "cosines" in found:
        return PairScores(found["languages"], np.array(found["cosines"]), np.array(found["gold"]))
    values = {metric: np.array(row) for metric, row in found["values"].items()}
    return RetrievalScores(found["query_ids"], found["languages"], found["clusters"], values)


def embed_split(embedder: LiraEmbedder, split: Split, translate: bool = True) -> tuple[Vectors, Vectors]:
    """
    Vectors of both sides of a split.

    Args:
        embedder ([`LiraEmbedder`]): The model with its candidates.
        split ([`Split`]): The split.
        translate (`bool`, *optional*, defaults to `True`): Use candidates; `False` as in [`evaluate_embedder`].
    """
    own = embedder.processor.anchor_languages
    found = []
    for side in split.sides():
        given = None
        if not translate:
            bare = side.role == "query" and not split.alike
            spoken = zip(side.texts, side.languages, strict=True)
            given = [[text] if tag in own and text.strip() and not bare else [] for text, tag in spoken]
        found.append(embedder.encode(side.texts, side.languages, candidates=given, role=side.role))
    return found[0], found[1]
