"""The controls that every table shows: each road alone, and both joined without any training (recipes: honest
controls)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lira_hf.data import BeirDataset
from lira_hf.inference import RoadFeatures
from lira_hf.models.modeling_lasr import join_paths

from .retrieval import RetrievalScores, evaluate_retrieval


__all__ = ["MIXTURES", "RoadControls", "mix_candidates", "unit"]

# How translate-then-h may weigh the candidates; the best one is chosen on dev.
MIXTURES = ("first", "second", "third", "best", "uniform", "judge")
_CHUNK = 4096


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of unit length; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def mix_candidates(
    sentences: NDArray[np.floating], scores: Sequence[Sequence[float] | None], mixture: str
) -> NDArray[np.float32]:
    """
    One h-vector from several candidates', without any training.

    Args:
        sentences (`np.ndarray` of shape `(candidates, d_h)`): Unit sentence vectors.
        scores (`Sequence`): The critic's (s, e, p) of each candidate, or `None`.
        mixture (`str`): `"first"`, `"second"` or `"third"` candidate (the last one where there are fewer), `"best"`
            by summed score, `"uniform"` mean, or `"judge"`: weighted by the softmax of the summed scores.
    """
    if not len(sentences):
        return np.zeros(sentences.shape[-1], dtype=np.float32)
    total = np.array([sum(score) if score is not None else 0.0 for score in scores])
    if mixture in MIXTURES[:3]:
        weights = np.eye(len(sentences))[min(MIXTURES.index(mixture), len(sentences) - 1)]
    elif mixture == "best":
        weights = np.eye(len(sentences))[int(total.argmax())]
    elif mixture == "uniform":
        weights = np.ones(len(sentences))
    elif mixture == "judge":
        weights = np.exp(0.3 * (total - total.max()))  # as Arca's untrained policy does
    else:
        raise ValueError(f"the mixture is {mixture!r}; expected one of {MIXTURES}")
    return (weights / weights.sum()) @ sentences


@dataclass
class _Side:
    source: NDArray[np.float32]
    anchor: NDArray[np.float32]


class RoadControls:
    """
    Scores of the untrained systems on one split, from cached features.

    Args:
        dataset ([`BeirDataset`]): The split.
        features ([`RoadFeatures`]): Features of both roads.
        candidates, scores (`list`): Of each query, in the order of `dataset.queries`, as a candidate source gives
            them.
    """

    def __init__(self, dataset: BeirDataset, features: RoadFeatures, candidates: list, scores: list):
        self.dataset = dataset
        self.features = features
        self.candidates = candidates
        self.scores = scores
        documents = list(dataset.corpus.values())
        self.queries = self._sentences("source", [query.text for query in dataset.queries.values()])
        self.documents = _Side(self._sentences("source", documents), self._sentences("anchor", documents))
        flat = [text for row in candidates for text in row]
        self._flat = self._sentences("anchor", flat)

    def source_alone(self) -> RetrievalScores:
        """g alone, on both sides."""
        return evaluate_retrieval(self.dataset, self.queries, self.documents.source)

    def translated(self, mixture: str) -> RetrievalScores:
        """Translate, then h; `mixture` says how the candidates count."""
        return evaluate_retrieval(self.dataset, self.anchors(mixture), self.documents.anchor)

    def concat(self, mixture: str, path_weight: float) -> RetrievalScores:
        """[g; h] without training; `path_weight` is g's share of the similarity."""
        queries = _joined(self.queries, self.anchors(mixture), path_weight)
        documents = _joined(self.documents.source, self.documents.anchor, path_weight)
        return evaluate_retrieval(self.dataset, queries, documents)

    def anchors(self, mixture: str) -> NDArray[np.float32]:
        """The queries' h-vectors `(queries, d_h)` under a mixture, of unit length."""
        rows, place = [], 0
        for candidates, scores in zip(self.candidates, self.scores, strict=True):
            rows.append(mix_candidates(self._flat[place : place + len(candidates)], scores, mixture))
            place += len(candidates)
        return unit(np.stack(rows))

    def _sentences(self, road: str, texts: list[str]) -> NDArray[np.float32]:
        parts = [
            self.features.get(road, texts[start : start + _CHUNK])[:, 0].astype(np.float32)
            for start in range(0, len(texts), _CHUNK)
        ]
        return unit(np.concatenate(parts)) if parts else np.zeros((0, self.features.dims[road]), dtype=np.float32)


def _joined(source: NDArray[np.float32], anchor: NDArray[np.float32], path_weight: float) -> NDArray[np.float32]:
    return join_paths(torch.from_numpy(source), torch.from_numpy(anchor), path_weight).numpy()
