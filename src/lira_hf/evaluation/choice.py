"""What a choice among candidates is worth: translate-then-h under any weights, a policy's or a control's (ours)."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from lira_hf.data import BeirDataset
from lira_hf.inference import CandidateSource, RoadFeatures, pad_candidates
from lira_hf.models import LiraModel, LiraModelOutput, LiraProcessor
from lira_hf.models.traits_lira import candidate_traits, trait_tensor

from .controls import foreign_documents, unit
from .retrieval import RetrievalScores, evaluate_retrieval


__all__ = ["CandidateChoice", "hard_weights", "soft_weights"]

_CHUNK = 256
Weights = NDArray[np.float32]


def hard_weights(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> Weights:
    """All on the largest of each row's `values` `(queries, candidates)` where `mask` holds; the first of equals."""
    best = np.where(mask, values, -np.inf).argmax(1)
    return (np.eye(mask.shape[1], dtype=np.float32)[best] * mask).astype(np.float32)


def soft_weights(values: NDArray[np.floating], mask: NDArray[np.bool_], temperature: float) -> Weights:
    """Softmax of each row's `values` `(queries, candidates)` over `temperature`, where `mask` holds."""
    scaled = np.where(mask, values, -np.inf) / temperature
    scaled = np.exp(scaled - np.where(mask.any(1), scaled.max(1), 0.0)[:, None])
    return (scaled / np.maximum(scaled.sum(1, keepdims=True), 1e-12)).astype(np.float32)


class CandidateChoice:
    """
    The candidates of a split's queries, with all that says which of them is good.

    Args:
        dataset ([`BeirDataset`]): The split; its documents are English.
        features ([`RoadFeatures`]): Features of both roads.
        source ([`CandidateSource`]): Where candidates, kinds and the judge's scores come from.

    Raises:
        ValueError: For documents in other languages.

    Attributes:
        mask (`np.ndarray` of shape `(queries, candidates)`, bool): Candidates that exist.
        sentences (`np.ndarray` of shape `(queries, candidates, d_h)`): h's unit vectors.
        judged (`np.ndarray` of shape `(queries, candidates, 3)`): s, e, p; 0 where the judge gave none.
        kinds (`np.ndarray` of shape `(queries, candidates)`, str): "" where there is none.
    """

    def __init__(self, dataset: BeirDataset, features: RoadFeatures, source: CandidateSource):
        own = features.processor.anchor_languages
        if tags := foreign_documents(dataset, own):
            raise ValueError(
                f"got documents in {tags}; expected all in {own}, since candidates are measured by the document that "
                "h reads; take a split with such documents, or score this one with evaluate_embedder"
            )
        self.dataset, self.features = dataset, features
        self._queries = list(dataset.queries.values())
        self._found = source.find([q.text for q in self._queries], [q.language for q in self._queries])
        width = max((len(row) for row in self._found), default=0)
        shape = (len(self._queries), width)
        self.mask = np.zeros(shape, dtype=bool)
        self.kinds = np.full(shape, "", dtype=object)
        self.judged = np.zeros((*shape, 3), dtype=np.float32)
        self.sentences = np.zeros((*shape, features.dims["anchor"]), dtype=np.float32)
        self._documents = unit(self._sentences(list(dataset.corpus.values())))
        for row, items in enumerate(self._found):
            self.mask[row, : len(items)] = True
            for place, item in enumerate(items):
                self.kinds[row, place] = item.kind or ""
                if item.scores is not None:
                    self.judged[row, place] = item.scores
        self.sentences[self.mask] = unit(self._sentences([item.text for row in self._found for item in row]))

    def score(self, weights: NDArray[np.floating]) -> RetrievalScores:
        """Retrieval by the candidates' h-vectors mixed by `weights` `(queries, candidates)`."""
        mixed = np.einsum("qk,qkd->qd", weights * self.mask, self.sentences)
        return evaluate_retrieval(self.dataset, unit(mixed), self._documents)

    # What needs no training

    def fixed(self, kind: str) -> Weights:
        """The first candidate of a kind; the first of all where a query has none of it."""
        return hard_weights((self.kinds == kind).astype(float), self.mask)

    @property
    def consensus(self) -> NDArray[np.float32]:
        """Mean cosine of each candidate to the query's others, `(queries, candidates)`."""
        total = self.sentences.sum(1, keepdims=True)
        others = np.maximum(self.mask.sum(1, keepdims=True) - 1, 1)
        return (((self.sentences * total).sum(-1) - 1.0) / others * self.mask).astype(np.float32)

    @property
    def judge(self) -> NDArray[np.float32]:
        """The judge's part of the paper's reward, 0.1 (s + e + p), `(queries, candidates)`."""
        return self.judged.sum(-1) * 0.1

    @property
    def closeness(self) -> NDArray[np.float32]:
        """Cosine to the reference, which only an oracle knows, `(queries, candidates)`."""
        return np.einsum("qkd,qd->qk", self.sentences, self.references) * self.mask

    @property
    def references(self) -> NDArray[np.float32]:
        """h's unit vector of each query's first relevant document, `(queries, d_h)`."""
        place = {document: number for number, document in enumerate(self.dataset.corpus)}
        right = (next(iter(self.dataset.qrels[query])) for query in self.dataset.queries)
        return self._documents[[place[document] for document in right]]

    # What a model says

    def outputs(self, model: LiraModel, processor: LiraProcessor, judge: bool = False) -> dict[str, Weights]:
        """
        Args:
            model ([`LiraModel`]): Whose policy is asked; put into evaluation mode.
            processor ([`LiraProcessor`]): Its processor.
            judge (`bool`, *optional*, defaults to `False`): Show it the judge's scores.

        Returns:
            `dict`: `policy` and `similarity`, `(queries, candidates)` each.
        """
        found = {name: np.zeros(self.mask.shape, dtype=np.float32) for name in ("policy", "similarity")}
        for rows, output in self._outputs(model.eval(), processor, judge):
            for name, table in found.items():
                value = output[name].float().cpu().numpy()
                table[rows, : value.shape[1]] = value
        return found

    @torch.no_grad()
    def _outputs(
        self, model: LiraModel, processor: LiraProcessor, judge: bool
    ) -> Iterator[tuple[slice, LiraModelOutput]]:
        for start in range(0, len(self._queries), _CHUNK):
            rows = slice(start, start + _CHUNK)
            texts = [query.text for query in self._queries[rows]]
            candidates = [[item.text for item in row] for row in self._found[rows]]
            scores = [[item.scores if judge else None for item in row] for row in self._found[rows]]
            anchors = pad_candidates(self.features, candidates, scores)
            if not anchors:
                continue
            traits = [candidate_traits(*row) for row in zip(texts, candidates, strict=True)]
            kinds = [[item.kind for item in row] for row in self._found[rows]]
            anchors["anchor_traits"] = trait_tensor(traits, kinds, processor.candidate_kinds)
            source = torch.from_numpy(self.features.get("source", processor.add_prompt(texts, "query"))).float()
            given = {"source_features": source, **anchors}
            yield rows, model(**{name: value.to(model.device) for name, value in given.items()})

    def _sentences(self, texts: list[str]) -> NDArray[np.float32]:
        parts = [
            self.features.get("anchor", texts[start : start + 4096])[:, 0] for start in range(0, len(texts), 4096)
        ]
        empty = np.zeros((0, self.features.dims["anchor"]), dtype=np.float32)
        return np.concatenate(parts).astype(np.float32) if parts else empty
