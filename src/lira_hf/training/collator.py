"""Rows to the tensors of one batch, read from the feature cache: queries and documents, or both texts of pairs."""

from collections.abc import Sequence
from typing import Any

import torch

from lira_hf.inference import RoadFeatures, pad_candidates
from lira_hf.models import LiraProcessor
from lira_hf.models.traits_lira import candidate_traits, trait_tensor


__all__ = ["LiraCollator", "join_sides"]

# What a model reads of a text; a batch has it once more under "document_", and maybe "negative_".
SIDE = ("source_features", "anchor_features", "anchor_scores", "anchor_traits", "language_ids")


class LiraCollator:
    """
    Rows of [`retrieval_rows`] or of [`ranking_rows`] to the tensors of one batch, read from the feature cache. A batch
    holds one task.

    Args:
        features ([`RoadFeatures`]): Features of both roads; what is missing is computed.
        documents (`bool`, *optional*, defaults to `True`): Also give the documents' features; stage 1 has no use for
            them. Of pairs it then gets both texts, as texts of their own.
        references (`bool`, *optional*, defaults to `False`): Give h's features of each row's document as
            `reference_features`, which the actor learns from in stage 1 (ours); zeros where it isn't English.
        processor ([`LiraProcessor`], *optional*): Of the model that is trained, where the features are another's. Its
            prompts stand before what g reads: those of queries, of documents, and those of queries on both sides of a
            pair.

    Returns:
        `dict[str, torch.Tensor]`: On call, the model's inputs for the queries; for the documents the same with the
        prefix `document_`; for retrieval `document_ids` `(batch,)`, `positive_ids` `(batch, positives)`, padded with
        -1, and of hard negatives, all in one list, the inputs with the prefix `negative_` and `negative_ids`; for
        ranking `gold` and `pair_ids` `(batch,)`.

    Raises:
        ValueError: For rows of both tasks in one batch.
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
        ranking = {"gold" in row for row in rows}
        if len(ranking) > 1:
            raise ValueError(
                "got rows of retrieval and of ranking in one batch; expected one task a batch; train on a TaskMixture"
            )
        batch = self._side([_side_of(row) for row in rows], "query")
        documents = [self._document_of(row) for row in rows]
        other = "query" if ranking == {True} else "document"  # the texts of a pair are alike
        if not self.documents:
            if ranking == {True}:
                return join_sides([batch, self._side(documents, other)])
            if self.references:
                batch["reference_features"] = self._references(documents)
            return batch
        if self.references:
            batch["reference_features"] = self._references(documents)
        batch |= {f"document_{name}": value for name, value in self._side(documents, other).items()}
        if ranking == {True}:
            batch["gold"] = torch.tensor([row["gold"] for row in rows], dtype=torch.float32)
            batch["pair_ids"] = torch.tensor([row["pair_id"] for row in rows])
            return batch
        batch["document_ids"] = torch.tensor([row["document_id"] for row in rows])
        batch["positive_ids"] = _pad([row.get("positive_ids") or [row["document_id"]] for row in rows])
        negatives = [negative for row in rows for negative in row.get("negatives") or []]
        if negatives:
            batch |= {f"negative_{name}": value for name, value in self._side(negatives, "document").items()}
            batch["negative_ids"] = torch.tensor([negative["document_id"] for negative in negatives])
        return batch

    def _side(self, sides: Sequence[dict[str, Any]], role: str) -> dict[str, torch.Tensor]:
        """The model's inputs for texts in a role, with their candidates."""
        tags = [side["language"] for side in sides]
        found = {
            "source_features": self._features(
                "source", self.processor.add_prompt([side["text"] for side in sides], role)
            ),
            "language_ids": torch.tensor(self.processor.language_ids(tags)),
        }
        scores = [[score or None for score in side["scores"]] for side in sides]
        if anchors := pad_candidates(self.features, [side["candidates"] for side in sides], scores):
            found |= anchors
            traits, kinds = [side["traits"] for side in sides], [side["kinds"] for side in sides]
            found["anchor_traits"] = trait_tensor(traits, kinds, self.processor.candidate_kinds)
        return found

    def _document_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row's other text as a side of its own; English, where nothing is said of it."""
        text, english = row["document"], self.processor.anchor_languages[0]
        if "document_candidates" in row:
            return _side_of(row, "document_") | {"text": text}
        own = [text] if text.strip() else []
        traits = candidate_traits(text, own)
        return {
            "text": text,
            "language": english,
            "candidates": own,
            "scores": [[] for _ in own],
            "kinds": [None for _ in own],
            "traits": traits,
        }

    def _references(self, documents: Sequence[dict[str, Any]]) -> torch.Tensor:
        found = self._features("anchor", [document["text"] for document in documents])
        english = [document["language"] in self.processor.anchor_languages for document in documents]
        return found * torch.tensor(english)[:, None, None]

    def _features(self, road: str, texts: list[str]) -> torch.Tensor:
        return torch.from_numpy(self.features.get(road, texts)).float()


def join_sides(sides: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """
    Several sides as one batch, in their order; where one has fewer candidates than another it is padded with zeros,
    which are no candidates.

    Args:
        sides (`Sequence[dict[str, torch.Tensor]]`): The model's inputs, of `rows_i` texts each.

    Returns:
        `dict[str, torch.Tensor]`: The same of all texts; without candidates where no side has any.
    """
    joint = {name: torch.cat([side[name] for side in sides]) for name in ("source_features", "language_ids")}
    for name in SIDE[1:4]:
        known = next((side[name] for side in sides if name in side), None)
        if known is None:
            continue
        width = max(side[name].shape[1] for side in sides if name in side)
        blank = [known.new_zeros(len(side["source_features"]), width, *known.shape[2:]) for side in sides]
        for padded, side in zip(blank, sides, strict=True):
            if name in side:
                padded[:, : side[name].shape[1]] = side[name]
        joint[name] = torch.cat(blank)
    return joint


def _side_of(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    names = ("text", "language", "candidates", "scores", "kinds", "traits")
    return {name: row[f"{prefix}{name}"] for name in names if f"{prefix}{name}" in row}


def _pad(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Ids `(rows, most)`, padded with -1."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])
