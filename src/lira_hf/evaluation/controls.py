"""The controls that every table shows: each road alone, and both joined without any training (recipes: honest
controls)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lira_hf.data import BeirDataset
from lira_hf.inference import LiraEmbedder, RoadFeatures
from lira_hf.models import LiraProcessor
from lira_hf.models.modeling_lasr import join_paths

from .retrieval import RetrievalScores, evaluate_retrieval


__all__ = ["MIXTURES", "RoadControls", "baseline_controls", "foreign_documents", "mix_candidates", "unit"]

# How translate-then-h may weigh the candidates; the best one is chosen on dev.
MIXTURES = ("first", "second", "third", "best", "uniform", "judge")
_CHUNK = 4096
Candidates = Sequence[Sequence[str]]
Judged = Sequence[Sequence[Sequence[float] | None]]


def foreign_documents(dataset: BeirDataset, anchor_languages: Sequence[str]) -> list[str]:
    """The languages of a split's documents that aren't anchor languages, sorted."""
    spoken = {dataset.document_languages.get(key) for key in dataset.corpus}
    return sorted(tag for tag in spoken if tag is not None and tag not in anchor_languages)


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
        documents (`tuple`, *optional*): Candidates and scores of each document, in the order of `dataset.corpus`,
            for a corpus that isn't all in anchor languages; what is in one is its own candidate.
        processor ([`LiraProcessor`], *optional*): Of the model that is measured, where the features are another's.

    Raises:
        ValueError: For documents in other languages without their candidates.
    """

    def __init__(
        self,
        dataset: BeirDataset,
        features: RoadFeatures,
        candidates: Candidates,
        scores: Judged,
        documents: tuple[Candidates, Judged] | None = None,
        processor: LiraProcessor | None = None,
    ):
        self.dataset = dataset
        self.features = features
        self.candidates = candidates
        self.scores = scores
        processor = processor or features.processor
        own = processor.anchor_languages
        if documents is None and (tags := foreign_documents(dataset, own)):
            raise ValueError(
                f"got documents in {tags}; expected all in {own}, which h reads as they are, or candidates of the "
                "others; pass documents=(candidates, scores), one row per document"
            )
        self._document_candidates = documents
        texts = list(dataset.corpus.values())
        english = np.array([dataset.document_languages.get(key, own[0]) in own for key in dataset.corpus], dtype=bool)
        self._foreign = np.flatnonzero(~english)
        queries = [query.text for query in dataset.queries.values()]
        self.queries = self._sentences("source", processor.add_prompt(queries, "query"))
        source = self._sentences("source", processor.add_prompt(texts, "document"))
        anchor = np.zeros((len(texts), features.dims["anchor"]), dtype=np.float32)
        anchor[english] = self._sentences(
            "anchor", [text for text, is_own in zip(texts, english, strict=True) if is_own]
        )
        self.documents = _Side(source, anchor)  # in h's part those of other languages are zero
        self._flat = self._sentences("anchor", [text for row in candidates for text in row])

    def source_alone(self) -> RetrievalScores:
        """g alone, on both sides."""
        return evaluate_retrieval(self.dataset, self.queries, self.documents.source)

    def translated(self, mixture: str) -> RetrievalScores:
        """Translate, then h; `mixture` says how the candidates count."""
        return evaluate_retrieval(self.dataset, self.anchors(mixture), self.document_anchors(mixture))

    def concat(self, mixture: str, path_weight: float) -> RetrievalScores:
        """[g; h] without training; `path_weight` is g's share of the similarity."""
        queries = _joined(self.queries, self.anchors(mixture), path_weight)
        documents = _joined(self.documents.source, self.document_anchors(mixture), path_weight)
        return evaluate_retrieval(self.dataset, queries, documents)

    def anchors(self, mixture: str) -> NDArray[np.float32]:
        """The queries' h-vectors `(queries, d_h)` under a mixture, of unit length."""
        return _mixed(self._flat, self.candidates, self.scores, mixture)

    def document_anchors(self, mixture: str) -> NDArray[np.float32]:
        """The documents' h-vectors `(documents, d_h)`; those in other languages by their candidates."""
        if self._document_candidates is None or not len(self._foreign):
            return self.documents.anchor
        candidates, scores = ([column[row] for row in self._foreign] for column in self._document_candidates)
        flat = self._sentences("anchor", [text for row in candidates for text in row])
        anchors = self.documents.anchor.copy()
        anchors[self._foreign] = _mixed(flat, candidates, scores, mixture)
        return anchors

    def _sentences(self, road: str, texts: list[str]) -> NDArray[np.float32]:
        parts = [
            self.features.get(road, texts[start : start + _CHUNK])[:, 0].astype(np.float32)
            for start in range(0, len(texts), _CHUNK)
        ]
        return unit(np.concatenate(parts)) if parts else np.zeros((0, self.features.dims[road]), dtype=np.float32)


def baseline_controls(embedder: LiraEmbedder, dataset: BeirDataset) -> dict[str, float]:
    """
    What training has to beat on a split, for `train_recipe(controls=...)` (ours).

    Args:
        embedder ([`LiraEmbedder`]): A model with its candidates; only its frozen backbones, `path_weight` and prompts
            have a say.
        dataset ([`BeirDataset`]): The split; its documents may be in any language.

    Returns:
        `dict[str, float]`: nDCG@10, the mean of the languages, of g alone (`g_alone_ndcg@10`), of translating, then h,
        under the mixture that does best on this very split (`translate_then_h_ndcg@10`), and of [g; h] under the same
        (`concat_ndcg@10`).
    """
    queries, own = list(dataset.queries.values()), embedder.processor.anchor_languages
    candidates, scores, _ = embedder.find_candidates([q.text for q in queries], [q.language for q in queries])
    documents = None
    if foreign_documents(dataset, own):
        spoken = [dataset.document_languages.get(key, own[0]) for key in dataset.corpus]
        documents = embedder.find_candidates(list(dataset.corpus.values()), spoken)[:2]
    controls = RoadControls(dataset, embedder.features, candidates, scores, documents, embedder.processor)
    judged = any(score is not None for row in scores for score in row)
    # Without a judge "best" is the first and "judge" the mean.
    mixtures = MIXTURES if judged else [name for name in MIXTURES if name not in ("best", "judge")]
    translated = {mixture: controls.translated(mixture).mean() for mixture in mixtures}
    best = max(translated, key=translated.__getitem__)
    return {
        "g_alone_ndcg@10": controls.source_alone().mean(),
        "translate_then_h_ndcg@10": translated[best],
        "concat_ndcg@10": controls.concat(best, embedder.model.config.path_weight).mean(),
    }


def _mixed(flat: NDArray[np.float32], candidates: Candidates, scores: Judged, mixture: str) -> NDArray[np.float32]:
    """A unit vector for each row of candidates, whose own vectors lie one after another in `flat`."""
    rows, place = [], 0
    for texts, judged in zip(candidates, scores, strict=True):
        rows.append(mix_candidates(flat[place : place + len(texts)], judged, mixture))
        place += len(texts)
    return unit(np.stack(rows))


def _joined(source: NDArray[np.float32], anchor: NDArray[np.float32], path_weight: float) -> NDArray[np.float32]:
    return join_paths(torch.from_numpy(source), torch.from_numpy(anchor), path_weight).numpy()
