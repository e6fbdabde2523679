"""LiRA and its controls over the same texts and candidates: what each curve of robustness is made of."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lira_hf.inference import LiraEmbedder, RoadFeatures
from lira_hf.models import LiraModel
from lira_hf.models.backbones_lira import backbone_fingerprint
from lira_hf.models.modeling_lasr import join_paths
from lira_hf.translation import Critic, Score

from .controls import mix_candidates, unit


__all__ = ["OURS", "ROBUSTNESS_SYSTEMS", "HeldFeatures", "RobustnessSystems", "SourceTexts"]

OURS = "LiRA"
ROBUSTNESS_SYSTEMS = (OURS, "LiRA, no translation", "LiRA's start", "concat", "g alone", "translate, then h")
_CHUNK = 4096
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class SourceTexts:
    """
    Texts with their candidates, as [`LiraEmbedder.find_candidates`] finds them.

    Args:
        texts (`list[str]`): The texts.
        languages (`list[str | None]`): Tag of each.
        candidates (`list[list[str]]`): Of each text.
        scores (`list`): The critic's of each candidate, or `None`.
        kinds (`list`): How each candidate came about, or `None`.
    """

    texts: list[str]
    languages: list[str | None]
    candidates: list[list[str]]
    scores: list[list[Score | None]]
    kinds: list[list[str | None]]

    @classmethod
    def find(cls, embedder: LiraEmbedder, texts: Sequence[str], languages: Sequence[str | None]) -> "SourceTexts":
        """Texts with what the embedder's source has of them; one in an anchor language is its own candidate."""
        return cls(list(texts), list(languages), *embedder.find_candidates(texts, languages))

    def judged(self, critic: Critic, rows: Iterable[int]) -> "SourceTexts":
        """With the scores that a critic gives the candidates of some rows; one without a language has none."""
        groups: dict[str, list[int]] = {}
        for row in rows:
            if (language := self.languages[row]) is not None:
                groups.setdefault(language, []).append(row)
        scores = list(self.scores)
        for language, places in groups.items():
            options = [self.candidates[row] for row in places]
            judged = critic.judge([self.texts[row] for row in places], language, options)
            for row, found in zip(places, judged, strict=True):
                scores[row] = list(found)
        return replace(self, scores=scores)

    def untranslated(self, anchor_languages: Sequence[str]) -> "SourceTexts":
        """Without candidates, but for texts that are in an anchor language."""
        own = [tag in anchor_languages for tag in self.languages]
        columns = (self.candidates, self.scores, self.kinds)
        return SourceTexts(
            self.texts,
            self.languages,
            *([row if keep else [] for row, keep in zip(column, own, strict=True)] for column in columns),
        )


@dataclass
class HeldFeatures(RoadFeatures):
    """
    Features that are computed for texts which the cache lacks, held in memory until `held` is cleared: what is noisy
    is of use at one point of one curve, and a cache keeps everything (ours).

    Args:
        plain ([`RoadFeatures`]): Where all other features come from.
    """

    plain: RoadFeatures
    held: dict[str, dict[str, Vectors]] = field(default_factory=lambda: {"source": {}, "anchor": {}})

    def __post_init__(self) -> None:
        plain = self.plain
        self.model, self.processor, self.caches = plain.model, plain.processor, plain.caches
        self.batch_size, self.progress, self.dims, self.rows = plain.batch_size, False, plain.dims, plain.rows

    def get(self, road: str, texts: Sequence[str]) -> NDArray[np.floating]:
        cache, held = self.caches.get(road), self.held[road]
        lacking = set(texts if cache is None else cache.missing(texts))
        if not lacking:
            return self.plain.get(road, texts)
        if todo := [text for text in dict.fromkeys(texts) if text in lacking and text not in held]:
            held |= dict(zip(todo, self.plain.compute(road, todo), strict=True))
        found = np.empty((len(texts), self.rows, self.dims[road]), dtype=np.float32)
        if there := [row for row, text in enumerate(texts) if text not in lacking]:
            found[there] = self.plain.get(road, [texts[row] for row in there])
        for row, text in enumerate(texts):
            if text in lacking:
                found[row] = held[text]
        return found

    def clear(self) -> None:
        """Forget what is held."""
        for held in self.held.values():
            held.clear()


class RobustnessSystems:
    """
    Embeds texts by LiRA and by its controls:

    * `"LiRA"`: each model as it is; `"LiRA, no translation"`: without candidates, but English texts stay their own;
    * `"LiRA's start"`: the same model with LaSR's learned delta left out, so the concatenation under its own actor;
    * `"concat"`: [g; h] under a fixed mixture and weight; `"g alone"`; `"translate, then h"` under that mixture.

    Args:
        embedders (`Sequence[LiraEmbedder]`): Models over the same backbones that differ by seed; figures are averaged.
            All take the first one's features from now on.
        mixture (`str`, *optional*, defaults to `"uniform"`): How the controls weigh candidates, see
            [`mix_candidates`].
        path_weight (`float`, *optional*): g's share in `"concat"`; by default the first model's `path_weight`.

    Raises:
        ValueError: For models over other backbones.
    """

    def __init__(self, embedders: Sequence[LiraEmbedder], mixture: str = "uniform", path_weight: float | None = None):
        self.embedders = list(embedders)
        self.mixture = mixture
        self.path_weight = embedders[0].model.config.path_weight if path_weight is None else path_weight
        if any(_backbones(one.model) != _backbones(embedders[0].model) for one in embedders[1:]):
            raise ValueError(
                "got models over different backbones; expected models that differ by seed alone, as their figures are "
                "averaged; measure each by itself"
            )
        held = HeldFeatures(embedders[0].features)
        for embedder in self.embedders:
            embedder.features = held
        self.features = held

    @property
    def anchor_languages(self) -> list[str]:
        """The models' own."""
        return list(self.embedders[0].processor.anchor_languages)

    def embed(self, texts: SourceTexts, role: str) -> dict[str, list[Vectors]]:
        """
        Args:
            texts ([`SourceTexts`]): The texts with their candidates.
            role (`str`): `"query"` or `"document"`, for g's prompt.

        Returns:
            `dict[str, list[np.ndarray]]`: By system, in the order of `ROBUSTNESS_SYSTEMS`, vectors `(texts, dim)` of
            each model; of a control once.
        """
        alone = texts.untranslated(self.anchor_languages)
        pairs = [_encode(embedder, texts, role) for embedder in self.embedders]
        found = {
            OURS: [embedding for embedding, _ in pairs],
            "LiRA, no translation": [_encode(embedder, alone, role)[0] for embedder in self.embedders],
            "LiRA's start": [start for _, start in pairs],
        }
        source, anchor = self.source(texts, role), self.anchors(texts, self.mixture)
        joined = concat(source, anchor, self.path_weight)
        return found | {"concat": [joined], "g alone": [source], "translate, then h": [anchor]}

    def source(self, texts: SourceTexts, role: str) -> Vectors:
        """g's sentence vectors `(texts, d_g)`, of unit length."""
        return self._sentences("source", self.embedders[0].processor.add_prompt(texts.texts, role))

    def anchors(self, texts: SourceTexts, mixture: str) -> Vectors:
        """h's vectors `(texts, d_h)` of the candidates under a mixture, of unit length; zero without any."""
        flat = self._sentences("anchor", [text for row in texts.candidates for text in row])
        rows, place = [], 0
        for row, scores in zip(texts.candidates, texts.scores, strict=True):
            rows.append(mix_candidates(flat[place : place + len(row)], scores, mixture))
            place += len(row)
        return unit(np.stack(rows))

    def _sentences(self, road: str, texts: list[str]) -> Vectors:
        parts = [
            self.features.get(road, texts[start : start + _CHUNK])[:, 0].astype(np.float32)
            for start in range(0, len(texts), _CHUNK)
        ]
        return unit(np.concatenate(parts)) if parts else np.zeros((0, self.features.dims[road]), dtype=np.float32)


def concat(source: Vectors, anchor: Vectors, path_weight: float) -> Vectors:
    """[g; h] without training; `path_weight` is g's share of the similarity."""
    return join_paths(torch.from_numpy(source), torch.from_numpy(anchor), path_weight).numpy()


def _backbones(model: LiraModel) -> list[object]:
    config = model.config
    parts = [None if part is None else backbone_fingerprint(part) for part in (model.encoder, model.anchor_encoder)]
    return [*parts, config.num_bins, config.encoder_pooling, config.anchor_pooling]


@contextmanager
def _starts(model: LiraModel) -> Iterator[list[torch.Tensor]]:
    """Collects the starts of every pass, which an embedder doesn't hand out."""
    found: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda _, __, output: found.append(output.start_embeds))
    try:
        yield found
    finally:
        handle.remove()


def _encode(embedder: LiraEmbedder, texts: SourceTexts, role: str) -> tuple[Vectors, Vectors]:
    """Embeddings and their starts, both `(texts, projection_dim)`."""
    order = sorted(range(len(texts.texts)), key=lambda row: len(texts.texts[row]), reverse=True)
    embedding = np.zeros((len(order), embedder.model.config.projection_dim), dtype=np.float32)
    start = np.zeros_like(embedding)
    with torch.no_grad(), _starts(embedder.model) as starts:
        for first in range(0, len(order), embedder.batch_size):
            rows = order[first : first + embedder.batch_size]
            columns = (texts.texts, texts.languages, texts.candidates, texts.scores, texts.kinds)
            batch = ([column[row] for row in rows] for column in columns)
            embedding[rows] = embedder.encode_batch(*batch, role)
            start[rows] = starts.pop().float().cpu().numpy()
    return embedding, start
