"""Cross-fitted encoders: the head trains on g's features of texts that g has not learned from, as it will meet
them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lira_hf.inference import RoadFeatures


__all__ = ["FOLDS", "CrossFittedFeatures", "fold_of"]

FOLDS = 4


def fold_of(english: str) -> int:
    """Which part an English string, with all its translations, belongs to."""
    return hashlib.blake2b(english.casefold().encode(), digest_size=1).digest()[0] % FOLDS


class CrossFittedFeatures(RoadFeatures):
    """
    Features whose multilingual road depends on the text: those of an encoder that has not learned from it.

    Args:
        plain ([`RoadFeatures`]): Of the model whose encoder has learned from everything, for all other texts.
        folds (`list[RoadFeatures]`): By fold, of the model whose encoder was trained without that fold.
        fold_by_text (`dict[str, int]`): Fold of each training text, English ones included.
    """

    def __init__(self, plain: RoadFeatures, folds: list[RoadFeatures], fold_by_text: dict[str, int]):
        self.plain = plain
        self.folds = folds
        self.fold_by_text = fold_by_text
        self.model, self.processor = plain.model, plain.processor
        self.batch_size, self.progress = plain.batch_size, plain.progress
        self.dims, self.rows, self.caches = plain.dims, plain.rows, plain.caches

    def fill(self, road: str, texts: Sequence[str]) -> int:
        if road == "anchor":
            return self.plain.fill(road, texts)
        return sum(part.fill(road, [texts[row] for row in rows]) for part, rows in self._parts(texts))

    def fill_together(self, road: str, texts: Sequence[str]) -> int:
        if road == "anchor":
            return self.plain.fill_together(road, texts)
        parts: dict[int, list[str]] = {}
        for part, rows in self._parts(texts):
            parts.setdefault(id(part), []).extend(texts[row] for row in rows)
        # In the same order everywhere, also for a part that has nothing to do.
        return sum(part.fill_together(road, parts.get(id(part), [])) for part in [self.plain, *self.folds])

    def get(self, road: str, texts: Sequence[str]) -> NDArray[np.floating]:
        if road == "anchor":
            return self.plain.get(road, texts)
        features = np.zeros((len(texts), self.rows, self.dims[road]), dtype=np.float32)
        for part, rows in self._parts(texts):
            features[rows] = part.get(road, [texts[row] for row in rows])
        return features

    def _parts(self, texts: Sequence[str]) -> list[tuple[RoadFeatures, list[int]]]:
        rows: dict[int | None, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(self.fold_by_text.get(text), []).append(row)
        return [(self.plain if fold is None else self.folds[fold], found) for fold, found in rows.items()]


def encoder_folder(folder: Path, fold: int | None) -> Path:
    """Where the encoder that has not seen `fold` lies; the one that has seen everything for `None`."""
    return folder / ("encoder" if fold is None else f"encoder-fold-{fold}")
