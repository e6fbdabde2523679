"""What an ablation measures on: a split of retrieval or of scored pairs, as two sides of texts whose vectors are
compared."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lira_hf.data import BeirDataset, SimilarityPair, read_beir
from lira_hf.inference import LiraEmbedder
from lira_hf.training.tasks import read_pairs

from .pairs import PairScores, pair_difference, pair_groups, pair_language
from .retrieval import METRICS, Interval, RetrievalScores, evaluate_retrieval, paired_difference


__all__ = [
    "PairSplit",
    "RetrievalSplit",
    "Side",
    "Split",
    "dump_scores",
    "embed_split",
    "load_scores",
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
        gold = np.array([pair.score for pair in self.pairs], dtype=float)
        tags = [pair_language(pair) for pair in self.pairs]
        return PairScores(tags, pair_groups(self.pairs), gold, cosines.astype(float))

    def difference(
        self, ours: Sequence[PairScores], theirs: Sequence[PairScores], metric: str, language: str | None = None
    ) -> Interval:
        """Ours minus theirs, resampled by group."""
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
        return PairScores(found["languages"], found["groups"], np.array(found["gold"]), np.array(found["cosines"]))
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
