"""Retrieval metrics per query (pytrec_eval) and per language, with paired-bootstrap intervals (scipy)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytrec_eval
from numpy.typing import NDArray
from scipy.stats import bootstrap

from lira_hf.data import BeirDataset
from lira_hf.inference import SearchIndex


__all__ = ["METRICS", "Interval", "RetrievalScores", "evaluate_retrieval", "paired_difference"]

METRICS = ("ndcg@10", "recall@1", "mrr")
_MEASURES = {"ndcg@10": "ndcg_cut_10", "recall@1": "recall_1", "mrr": "recip_rank"}
_DEPTH = 100
UNKNOWN_LANGUAGE = "und"


class Interval(NamedTuple):
    """A difference and its 95 % interval, `low` to `high`."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class RetrievalScores:
    """
    Every query's metrics.

    Args:
        query_ids (`list[str]`): The queries.
        languages (`list[str]`): Tag of each; "und" where it is not known.
        clusters (`list[str]`): What each query shares with its translations: its first relevant document.
        values (`dict[str, np.ndarray]`): Metric to an array of shape `(queries,)`.
    """

    query_ids: list[str]
    languages: list[str]
    clusters: list[str]
    values: dict[str, NDArray[np.float64]]

    def per_language(self, metric: str = "ndcg@10") -> dict[str, float]:
        """Mean over each language's queries."""
        tags = np.array(self.languages)
        return {tag: float(self.values[metric][tags == tag].mean()) for tag in sorted(set(self.languages))}

    def mean(self, metric: str = "ndcg@10") -> float:
        """Mean of the languages: each counts alike, however many queries it has."""
        return float(np.mean(list(self.per_language(metric).values())))


def evaluate_retrieval(
    dataset: BeirDataset, queries: NDArray[np.float32], documents: NDArray[np.float32]
) -> RetrievalScores:
    """
    Ranks the whole corpus for every query by cosine and scores the ranking.

    Args:
        dataset ([`BeirDataset`]): One split.
        queries (`np.ndarray` of shape `(queries, dim)`): Embeddings, in the order of `dataset.queries`.
        documents (`np.ndarray` of shape `(documents, dim)`): Embeddings, in the order of `dataset.corpus`.

    Returns:
        [`RetrievalScores`]: nDCG@10, recall@1 and MRR (over the first 100 documents) of each query.
    """
    if len(queries) != len(dataset.queries) or len(documents) != len(dataset.corpus):
        raise ValueError(
            f"got {len(queries)} query and {len(documents)} document embeddings; expected {len(dataset.queries)} and "
            f"{len(dataset.corpus)}, one for each row of the data set, in its order"
        )
    hits = SearchIndex(list(dataset.corpus), documents).search(queries, _DEPTH)
    run = {query: {hit.id: hit.score for hit in row} for query, row in zip(dataset.queries, hits, strict=True)}
    found = pytrec_eval.RelevanceEvaluator(dataset.qrels, set(_MEASURES.values())).evaluate(run)
    ids = [query for query in dataset.queries if query in found]
    return RetrievalScores(
        query_ids=ids,
        languages=[dataset.queries[query].language or UNKNOWN_LANGUAGE for query in ids],
        clusters=[_cluster(dataset.qrels[query]) for query in ids],
        values={name: np.array([found[query][key] for query in ids]) for name, key in _MEASURES.items()},
    )


def paired_difference(
    ours: Sequence[RetrievalScores],
    theirs: Sequence[RetrievalScores],
    metric: str = "ndcg@10",
    language: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """
    Ours minus theirs on the mean of the languages, with a 95 % paired-bootstrap interval.

    Translations of one text are not independent, so the documents are resampled, each with all its queries (ours).

    Args:
        ours, theirs (`Sequence[RetrievalScores]`): The same queries under both systems; one entry per seed, averaged
            query by query. A system without seeds gives one entry.
        metric (`str`, *optional*, defaults to `"ndcg@10"`): Which metric.
        language (`str`, *optional*): That language's queries alone.
        resamples (`int`, *optional*, defaults to 2000): Bootstrap samples.
        seed (`int`, *optional*, defaults to 0): Of the bootstrap.
    """
    first = ours[0]
    if any(scores.query_ids != first.query_ids for scores in (*ours, *theirs)):
        raise ValueError("the systems were scored on different queries; expected the same ones in the same order")
    gain = np.mean([s.values[metric] for s in ours], axis=0) - np.mean([s.values[metric] for s in theirs], axis=0)
    tags = sorted(set(first.languages)) if language is None else [language]
    column = {tag: number for number, tag in enumerate(tags)}
    row = {cluster: number for number, cluster in enumerate(dict.fromkeys(first.clusters))}
    sums, counts = np.zeros((len(row), len(tags))), np.zeros((len(row), len(tags)))
    for value, tag, cluster in zip(gain, first.languages, first.clusters, strict=True):
        if tag in column:
            sums[row[cluster], column[tag]] += value
            counts[row[cluster], column[tag]] += 1

    def statistic(sample: NDArray[np.int64]) -> float:
        total = counts[sample].sum(0)
        with np.errstate(invalid="ignore"):
            return float(np.nanmean(sums[sample].sum(0) / np.where(total > 0, total, np.nan)))

    used = np.flatnonzero(counts.sum(1))
    point = statistic(used)
    if len(used) < 2:
        return Interval(point, float("nan"), float("nan"))
    result = bootstrap(
        (used,),
        statistic,
        n_resamples=resamples,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(point, *(float(bound) for bound in result.confidence_interval))


def _cluster(judged: Mapping[str, int]) -> str:
    return next((document for document, relevance in judged.items() if relevance > 0), next(iter(judged), ""))
