"""Rows for the Trainer: a query with its candidates and its document, turned into cached features batch by batch."""

from collections.abc import Sequence
from typing import Any

import datasets
import torch

from lira_hf.data import BeirDataset
from lira_hf.inference import CandidateSource, FoundCandidate, RoadFeatures, pad_candidates
from lira_hf.models import LiraProcessor
from lira_hf.models.traits_lira import candidate_traits, trait_tensor


__all__ = ["LiraCollator", "retrieval_rows"]

_CHUNK = 4096
_FEATURES = datasets.Features(
    {
        "query_id": datasets.Value("string"),
        "text": datasets.Value("large_string"),
        "language": datasets.Value("string"),
        "candidates": datasets.List(datasets.Value("large_string")),
        "scores": datasets.List(datasets.List(datasets.Value("float32"))),
        "kinds": datasets.List(datasets.Value("string")),
        "traits": datasets.List(datasets.List(datasets.Value("float32"))),
        "document": datasets.Value("large_string"),
        "document_id": datasets.Value("int64"),
    }
)


def retrieval_rows(beir: BeirDataset, candidates: CandidateSource | None = None) -> datasets.Dataset:
    """
    One row per query and relevant document.

    Args:
        beir ([`BeirDataset`]): One split of a BEIR folder.
        candidates ([`CandidateSource`], *optional*): Where candidates come from; without it no row has any.

    Returns:
        `datasets.Dataset`: Columns query_id, text, language, candidates (list of strings), scores (per candidate (s,
        e, p), `[]` where it was not judged), kinds and traits (per candidate), document (text),
        document_id (position in the corpus).

    Raises:
        ValueError: If no query has a relevant document.
    """
    place = {document: number for number, document in enumerate(beir.corpus)}
    pairs = [
        (query, document)
        for query, judged in beir.qrels.items()
        for document, relevance in judged.items()
        if relevance > 0
    ]
    if not pairs:
        raise ValueError("no query has a relevant document; expected qrels with scores above 0; check the split")
    rows: list[dict[str, Any]] = []
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        queries = [beir.queries[query] for query, _ in chunk]
        found: list[list[FoundCandidate]] = [[] for _ in chunk]
        if candidates is not None:
            found = candidates.find([query.text for query in queries], [query.language for query in queries])
        rows.extend(
            {
                "query_id": query_id,
                "text": query.text,
                "language": query.language,
                "candidates": [item.text for item in row],
                "scores": [list(item.scores) if item.scores is not None else [] for item in row],
                "kinds": [item.kind for item in row],
                # Once, not in every epoch.
                "traits": candidate_traits(query.text, [item.text for item in row]),
                "document": beir.corpus[document],
                "document_id": place[document],
            }
            for (query_id, document), query, row in zip(chunk, queries, found, strict=True)
        )
    return datasets.Dataset.from_list(rows, features=_FEATURES)


class LiraCollator:
    """
    Rows of [`retrieval_rows`] to the tensors of one batch, read from the feature cache.

    Args:
        features ([`RoadFeatures`]): Features of both roads; what is missing is computed.
        documents (`bool`, *optional*, defaults to `True`): Also give the documents' features; stage 1 has no use for
            them.
        references (`bool`, *optional*, defaults to `False`): Give h's features of each row's document as
            `reference_features`, which the actor learns from in stage 1 (ours).
        processor ([`LiraProcessor`], *optional*): Of the model that is trained, where the features are another's.
    """

    def __init__(
        self,
        features: RoadFeatures,
        documents: bool = True,
        references: bool = False,
        processor: LiraProcessor | None = None,
    ):
        self.features = features
        self.processor = processor or features.processor
        self.documents = documents
        self.references = references

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [row["text"] for row in rows]
        scores = [[score or None for score in row["scores"]] for row in rows]
        batch = {
            "source_features": self._features("source", texts),
            "language_ids": torch.tensor(self.processor.language_ids([row["language"] for row in rows])),
        }
        candidates, kinds = [row["candidates"] for row in rows], [row["kinds"] for row in rows]
        if batch_anchors := pad_candidates(self.features, candidates, scores):
            batch |= batch_anchors
            traits = [row["traits"] for row in rows]
            batch["anchor_traits"] = trait_tensor(traits, kinds, self.processor.candidate_kinds)
        documents = [row["document"] for row in rows]
        if self.references:
            batch["reference_features"] = self._features("anchor", documents)
        if self.documents:
            batch["document_source_features"] = self._features("source", documents)
            batch["document_anchor_features"] = self._features("anchor", documents).unsqueeze(1)
            english = self.processor.anchor_languages[:1] * len(rows)
            batch["document_language_ids"] = torch.tensor(self.processor.language_ids(english))
            batch["document_ids"] = torch.tensor([row["document_id"] for row in rows])
        return batch

    def _features(self, road: str, texts: list[str]) -> torch.Tensor:
        return torch.from_numpy(self.features.get(road, texts)).float()
