"""The controls of an ablation: each road alone and both joined without training, whose settings are chosen on dev."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lira_hf.inference import LiraEmbedder
from lira_hf.models.modeling_lasr import join_paths
from lira_hf.translation import Candidate, CandidateStore, Identity

from .ablation_tasks import Scores, Side, Split
from .controls import MIXTURES, mix_candidates, unit


__all__ = ["PATH_WEIGHTS", "SplitRoads", "choose_controls", "control_scores", "tune_path_weight", "write_fixed_store"]

# g's shares that are tried on dev: for the concat, and for the start of each trained row.
PATH_WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
START_WEIGHTS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
KIND = "kind "
Vectors = NDArray[np.float32]


@dataclass
class _Roads:
    """One side: g's vectors, and of each text its candidates with h's vectors."""

    source: Vectors
    sentences: list[Vectors]
    scores: list[list[Any]]
    kinds: list[list[str | None]]

    def anchors(self, way: str) -> Vectors:
        """h's vector of each text, `(texts, d_h)`, by a kind (`"kind gloss"`) or a mixture of [`mix_candidates`]."""
        rows = []
        for vectors, scores, kinds in zip(self.sentences, self.scores, self.kinds, strict=True):
            if way.startswith(KIND):
                kind = way.removeprefix(KIND)
                place = kinds.index(kind) if kind in kinds else 0
                rows.append(vectors[place] if len(vectors) else np.zeros(vectors.shape[-1], dtype=np.float32))
            else:
                rows.append(mix_candidates(vectors, scores, way))
        return unit(np.stack(rows))


class SplitRoads:
    """
    Both sides of a split as frozen encoders see them.

    Args:
        embedder ([`LiraEmbedder`]): With candidates and features; its heads have no say.
        split ([`Split`]): The split.
    """

    def __init__(self, embedder: LiraEmbedder, split: Split):
        self.split = split
        self.sides = [_roads(embedder, side) for side in split.sides()]

    def alone(self) -> Scores:
        """g alone."""
        return self.split.score(*(side.source for side in self.sides))

    def translated(self, way: str) -> Scores:
        """Translate, then h."""
        return self.split.score(*(side.anchors(way) for side in self.sides))

    def concat(self, way: str, path_weight: float) -> Scores:
        """[g; h] without training; `path_weight` is g's share."""
        return self.split.score(*(_joined(side.source, side.anchors(way), path_weight) for side in self.sides))

    def kinds(self) -> list[str]:
        """Kinds of the candidates, sorted."""
        return sorted({kind for side in self.sides for row in side.kinds for kind in row if kind})

    def ways(self) -> list[str]:
        """Ways to make one English vector of a text's candidates."""
        judged = any(score is not None for side in self.sides for row in side.scores for score in row)
        # Without a critic "best" is the first and "judge" the mean.
        return [name for name in MIXTURES if judged or name not in ("best", "judge")]


def _roads(embedder: LiraEmbedder, side: Side) -> _Roads:
    found, scores, kinds = embedder.find_candidates(side.texts, side.languages)
    flat = _sentences(embedder, "anchor", [text for row in found for text in row])
    ends = np.cumsum([len(row) for row in found])
    sentences = np.split(flat, ends[:-1]) if len(found) else []
    source = _sentences(embedder, "source", embedder.processor.add_prompt(side.texts, side.role))
    return _Roads(source, sentences, scores, kinds)


def _sentences(embedder: LiraEmbedder, road: str, texts: list[str]) -> Vectors:
    features = embedder.features
    parts = [features.get(road, chunk)[:, 0].astype(np.float32) for chunk in _chunks(texts)]
    return unit(np.concatenate(parts)) if parts else np.zeros((0, features.dims[road]), dtype=np.float32)


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    """Few enough at a time for memory."""
    yield from (texts[start : start + 4096] for start in range(0, len(texts), 4096))


def _joined(source: Vectors, anchor: Vectors, path_weight: float) -> Vectors:
    return join_paths(torch.from_numpy(source), torch.from_numpy(anchor), path_weight).numpy()


def choose_controls(dev: SplitRoads) -> dict[str, Any]:
    """
    The controls' settings, by the main metric on dev.

    Args:
        dev ([`SplitRoads`]): The dev split.

    Returns:
        `dict`: `kind`, the fixed kind of candidate; `mixture`, the mixture for translating; `concat` and
        `path_weight`, the way and g's share of the concat; `dev`, the figure of everything that was tried.
    """
    metric = dev.split.metrics[0]
    kinds = [KIND + kind for kind in dev.kinds()] or [MIXTURES[0]]
    tried = {"g alone": dev.alone().mean(metric)}
    translated = {way: dev.translated(way).mean(metric) for way in (*kinds, *dev.ways())}
    equal = {way: dev.concat(way, 0.5).mean(metric) for way in translated}
    concat = max(equal, key=equal.__getitem__)
    weighed = {weight: dev.concat(concat, weight).mean(metric) for weight in PATH_WEIGHTS}
    tried |= {f"translate ({way}), then h": value for way, value in translated.items()}
    tried |= {f"concat ({way}), equal": value for way, value in equal.items()}
    tried |= {f"concat ({concat}), path weight {weight}": value for weight, value in weighed.items()}
    return {
        "kind": max(kinds, key=translated.__getitem__),
        "mixture": max(dev.ways(), key=translated.__getitem__),
        "concat": concat,
        "path_weight": max(weighed, key=weighed.__getitem__),
        "dev": tried,
    }


def control_scores(roads: SplitRoads, chosen: dict[str, Any] | None) -> dict[str, Scores]:
    """
    Scores of what needs no training.

    Args:
        roads ([`SplitRoads`]): The split.
        chosen (`dict`, *optional*): As [`choose_controls`] gives it; `None` where there are no candidates: g alone.
    """
    found = {"g alone": roads.alone()}
    if chosen is None:
        return found
    return found | {
        "translate by the best fixed kind, then h": roads.translated(chosen["kind"]),
        "translate by the best mixture, then h": roads.translated(chosen["mixture"]),
        "untrained concat, equal": roads.concat(chosen["concat"], 0.5),
        "untrained concat, tuned on dev": roads.concat(chosen["concat"], chosen["path_weight"]),
    }


def tune_path_weight(start: LiraEmbedder, split: Split, vectors: tuple[Vectors, Vectors]) -> dict[float, float]:
    """
    The main metric of an untrained start under each of `START_WEIGHTS`.

    Args:
        start ([`LiraEmbedder`]): A model after stage 1, whose embedding is [g; h].
        split ([`Split`]): The dev split.
        vectors (`tuple`): Its embeddings of both sides, under any weight between 0 and 1.
    """
    width, found = start.model.config.source_dim, {}
    for weight in START_WEIGHTS:
        joined = (_joined(unit(side[:, :width]), unit(side[:, width:]), weight) for side in vectors)
        found[weight] = split.score(*joined).mean(split.metrics[0])
    return found


def write_fixed_store(embedder: LiraEmbedder, splits: Sequence[Split], way: str, path: Path) -> None:
    """
    A store that holds one candidate of each text: that of a kind, or the first where it has none of the kind.

    Args:
        embedder ([`LiraEmbedder`]): With the candidates.
        splits ([`Sequence[Split]`]): Whose texts are meant.
        way (`str`): As `kind` of [`choose_controls`].
        path (`Path`): The store; one that is there is whole, and left.
    """
    if path.is_file():
        return
    part, own = path.with_name(f"{path.name}.part"), embedder.processor.anchor_languages
    part.unlink(missing_ok=True)
    texts: dict[str, dict[str, None]] = {}
    for side in (side for split in splits for side in split.sides()):
        for text, tag in zip(side.texts, side.languages, strict=True):
            if tag is not None and tag not in own:
                texts.setdefault(tag, {})[text] = None
    with CandidateStore(part) as store:
        for tag, asked in texts.items():
            for chunk in _chunks(list(asked)):
                found, _, kinds = embedder.find_candidates(chunk, [tag] * len(chunk))
                places = [names.index(way[len(KIND) :]) if way[len(KIND) :] in names else 0 for names in kinds]
                rows = [
                    (text, [Candidate(row[place], names[place] or "first", "fixed")])
                    for text, row, names, place in zip(chunk, found, kinds, places, strict=True)
                    if row
                ]
                store.add(tag, rows, Identity("fixed", way))
    os.replace(part, path)
