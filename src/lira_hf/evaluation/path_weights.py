"""The multilingual road's share of each language's embeddings, chosen on held-out queries (ours)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lira_hf.data import BeirDataset
from lira_hf.inference import LiraEmbedder

from .retrieval import METRICS, RetrievalScores, evaluate_retrieval


__all__ = ["PATH_WEIGHTS", "PathWeightCalibration", "calibrate_path_weights"]

PATH_WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class PathWeightCalibration:
    """
    What [`calibrate_path_weights`] found.

    Args:
        weights (`dict[str, float]`): The chosen share of each language that has enough queries.
        before, after (`dict[str, float]`): nDCG@10 of each language, 0..1, of the queries that the share was chosen
            on: as the model was, and as it is now.
        expected (`dict[str, float]`): nDCG@10 of each such language where the share is chosen on one half of the
            documents and measured on the other: what to expect of new queries.
        skipped (`dict[str, int]`): Languages that keep the model's share, with their number of queries.
    """

    weights: dict[str, float]
    before: dict[str, float]
    after: dict[str, float]
    expected: dict[str, float]
    skipped: dict[str, int]


def calibrate_path_weights(
    embedder: LiraEmbedder,
    dataset: BeirDataset,
    path_weights: Sequence[float] = PATH_WEIGHTS,
    fewest: int = 50,
    seed: int = 0,
) -> PathWeightCalibration:
    """
    Sets `language_path_weights` of the model's configuration: for each language of the queries the share of g with
    which they find best, nDCG@10, in documents as they are (ours). Nothing is trained, and embeddings of texts in the
    anchor languages stay what they are. One share for all languages is a compromise: where the translator knows little
    g deserves more, where g knows little the translation does.

    Args:
        embedder ([`LiraEmbedder`]): The model with its candidates. Its configuration is changed.
        dataset ([`BeirDataset`]): Queries that training has not seen, such as the dev split; not those to report.
        path_weights (`Sequence[float]`, *optional*): Shares that are tried, besides the model's own.
        fewest (`int`, *optional*, defaults to 50): Queries that a language must have for its share to be chosen.
        seed (`int`, *optional*, defaults to 0): Of the halves of `expected`.

    Returns:
        [`PathWeightCalibration`]: Languages with fewer queries, or that the model wasn't trained on, are left as they
        are.

    Raises:
        ValueError: For shares outside 0..1, or queries of which no language can be set.
    """
    config, own = embedder.model.config, embedder.processor.anchor_languages
    wrong = [weight for weight in path_weights if not 0.0 <= weight <= 1.0]
    if wrong:
        raise ValueError(f"got the path weights {wrong}; expected shares from 0 to 1; correct them")
    queries = list(dataset.queries.values())
    texts, languages = [query.text for query in queries], [query.language for query in queries]
    spoken = [dataset.document_languages.get(key, own[0]) for key in dataset.corpus]
    documents = embedder.encode(list(dataset.corpus.values()), spoken, role="document")

    def score() -> RetrievalScores:
        return evaluate_retrieval(dataset, embedder.encode(texts, languages, role="query"), documents)

    before = score()
    counts = {tag: int((np.array(before.languages) == tag).sum()) for tag in sorted(set(before.languages))}
    chosen = [tag for tag, count in counts.items() if count >= fewest and tag in config.languages and tag not in own]
    if not chosen:
        raise ValueError(
            f"got queries of {counts}; expected at least {fewest} of a language that the model was trained on, of "
            f"{list(config.languages)}; give more queries, or name their languages"
        )
    kept = dict(config.language_path_weights or {})
    tried: dict[float | None, RetrievalScores] = {None: before}
    for weight in path_weights:
        config.language_path_weights = {**kept, **dict.fromkeys(chosen, float(weight))}
        tried[weight] = score()
    weights, expected = {}, {}
    for tag in chosen:
        best, expected[tag] = _choose(tried, tag, seed)
        weights[tag] = kept.get(tag, float(config.path_weight)) if best is None else float(best)
    config.language_path_weights = {**kept, **weights}
    own_before, after = before.per_language(METRICS[0]), score().per_language(METRICS[0])
    return PathWeightCalibration(
        weights,
        {tag: own_before[tag] for tag in chosen},
        {tag: after[tag] for tag in chosen},
        expected,
        {tag: count for tag, count in counts.items() if tag not in chosen},
    )


def _choose(tried: dict[float | None, RetrievalScores], tag: str, seed: int) -> tuple[float | None, float]:
    """The share that is best for a language, the model's own where nothing is better, and what to expect of it."""
    first = tried[None]
    rows = np.flatnonzero(np.array(first.languages) == tag)
    clusters, place = np.unique(np.array(first.clusters)[rows], return_inverse=True)
    half = np.random.default_rng(seed).permutation(len(clusters)) % 2
    values = {weight: scores.values[METRICS[0]][rows] for weight, scores in tried.items()}

    def best(where: np.ndarray) -> float | None:
        return max(values, key=lambda weight: values[weight][where].mean())  # the first, the own one, of equals

    everywhere = np.ones(len(rows), dtype=bool)
    sides = [half[place] == side for side in (0, 1)]
    if not all(side.any() for side in sides):
        return best(everywhere), float(values[best(everywhere)].mean())
    found = [values[best(side)][~side] for side in sides]
    return best(everywhere), float(np.concatenate(found).mean())
