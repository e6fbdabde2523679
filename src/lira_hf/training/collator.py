"""Rows to the tensors of one batch, read from the feature cache: queries and documents, or both texts of pairs; what
generation needs besides is in `generation_collator`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lira_hf.inference import RoadFeatures
from lira_hf.inference.embedder import road_tensors
from lira_hf.models import LiraProcessor
from lira_hf.models.traits_lira import candidate_traits

from .mixture import rows_kind


__all__ = ["LiraCollator", "join_sides", "side_of", "side_tensors"]

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
        generation (`Callable`, *optional*): A [`GenerationCollator`], which rows of [`generation_rows`] go to, where
            several tasks are trained.

    Returns:
        `dict[str, torch.Tensor]`: On call, the model's inputs for the queries; for the documents the same with the
        prefix `document_`; for retrieval `document_ids` `(batch,)`, `positive_ids` `(batch, positives)`, padded with
        -1, and of hard negatives, all in one list, the inputs with the prefix `negative_` and `negative_ids`; for
        ranking `gold` and `pair_ids` `(batch,)`.

    Raises:
        ValueError: For rows of several tasks in one batch, or for rows of generation without a collator for them.
    """

    def __init__(
        self,
        features: RoadFeatures,
        documents: bool = True,
        references: bool = False,
        processor: LiraProcessor | None = None,
        generation: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]] | None = None,
    ):
        self.features = features
        self.generation = generation
        self.processor = processor or features.processor
        self.documents = documents
        self.references = references

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        kinds = sorted({rows_kind(row) for row in rows}, reverse=True)
        if len(kinds) > 1:
            raise ValueError(
                f"got rows of {' and of '.join(kinds)} in one batch; expected one task a batch; train on a TaskMixture"
            )
        if kinds == ["generation"]:
            if self.generation is None:
                raise ValueError(
                    "got rows of generation and no collator for them; expected a GenerationCollator; give it as "
                    "generation=..., or use it alone"
                )
            return self.generation(rows)
        batch = self._side([side_of(row) for row in rows], "query")
        documents = [self._document_of(row) for row in rows]
        ranking = kinds == ["ranking"]
        other = "query" if ranking else "document"  # the texts of a pair are alike
        if not self.documents:
            if ranking:
                return join_sides([batch, self._side(documents, other)])
            if self.references:
                batch["reference_features"] = self._references(documents)
            return batch
        if self.references:
            batch["reference_features"] = self._references(documents)
        batch |= {f"document_{name}": value for name, value in self._side(documents, other).items()}
        if ranking:
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
        return side_tensors(self.features, self.processor, sides, role)

    def _document_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row's other text as a side of its own; English, where nothing is said of it."""
        text, english = row["document"], self.processor.anchor_languages[0]
        if "document_candidates" in row:
            return side_of(row, "document_") | {"text": text}
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
        found = _read(self.features, "anchor", [document["text"] for document in documents])
        english = [document["language"] in self.processor.anchor_languages for document in documents]
        return found * torch.tensor(english)[:, None, None]


def side_tensors(
    features: RoadFeatures, processor: LiraProcessor, sides: Sequence[dict[str, Any]], role: str | None
) -> dict[str, torch.Tensor]:
    """
    The model's inputs for texts in a role, with their candidates.

    Args:
        features ([`RoadFeatures`]): Features of both roads; what is missing is computed.
        processor ([`LiraProcessor`]): Of the model that is trained.
        sides (`Sequence[dict]`): As of [`find_sides`].
        role (`str`, *optional*): `"query"` or `"document"`, whose prompt g reads before the text; `None`: the bare
            text.

    Returns:
        `dict[str, torch.Tensor]`: `source_features` `(batch, 1 + bins, d_g)`, `language_ids` `(batch,)`; where any
        text has a candidate `anchor_features` `(batch, candidates, 1 + bins, d_h)`, `anchor_scores` `(batch,
        candidates, 3)` and `anchor_traits` `(batch, candidates, traits)`.
    """
    columns = {name: [side[name] for side in sides] for name in ("text", "language", "candidates", "kinds", "traits")}
    scores = [[score or None for score in side["scores"]] for side in sides]
    return road_tensors(
        features,
        processor,
        columns["text"],
        columns["language"],
        columns["candidates"],
        scores,
        columns["kinds"],
        role,
        columns["traits"],
    )


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


def _read(features: RoadFeatures, road: str, texts: list[str]) -> torch.Tensor:
    return torch.from_numpy(features.get(road, texts)).float()


def side_of(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A row's text with its candidates; of its document with that prefix."""
    names = ("text", "language", "candidates", "scores", "kinds", "traits")
    return {name: row[f"{prefix}{name}"] for name in names if f"{prefix}{name}" in row}


def _pad(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Ids `(rows, most)`, padded with -1."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])
