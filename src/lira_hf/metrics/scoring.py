"""nDCG@k, MRR and recall@k of every query, by pytrec_eval."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytrec_eval
from numpy.typing import NDArray


__all__ = ["SCORERS", "mrr", "ndcg", "recall"]

logger = logging.getLogger(__name__)

Ranking = Mapping[str, float]
Judgements = Mapping[str, int]
PerQuery = dict[str, NDArray[np.float64]]


def ndcg(rankings: Sequence[Ranking], relevant: Sequence[Judgements], k: int | Sequence[int] = 10) -> PerQuery:
    """
    Normalised discounted cumulative gain of the first k documents; a document's gain is its grade.

    Args:
        rankings (`Sequence[Mapping[str, float]]`): Of each query, documents to scores.
        relevant (`Sequence[Mapping[str, int]]`): Of each query, documents to grades; 0 and less: not relevant.
        k (`int` or `Sequence[int]`, *optional*, defaults to 10): The cut, or several.

    Returns:
        `dict[str, np.ndarray]`: For each k, `"ndcg@<k>"` to an array of shape `(queries,)`, in 0..1; 0 for a query
        without a relevant document.
    """
    return _at_cuts("ndcg", "ndcg_cut", rankings, relevant, k)


def recall(
    rankings: Sequence[Ranking],
    relevant: Sequence[Judgements],
    k: int | Sequence[int] = 10,
    relevance_level: int = 1,
) -> PerQuery:
    """
    Share of a query's relevant documents among the first k, as `"recall@<k>"`.

    Args:
        rankings, relevant, k: As in `ndcg`.
        relevance_level (`int`, *optional*, defaults to 1): The least grade that counts as relevant.

    Returns:
        `dict[str, np.ndarray]`: As in `ndcg`.
    """
    return _at_cuts("recall", "recall", rankings, relevant, k, relevance_level)


def mrr(
    rankings: Sequence[Ranking],
    relevant: Sequence[Judgements],
    k: int | Sequence[int] | None = None,
    relevance_level: int = 1,
) -> PerQuery:
    """
    One over the rank of the first relevant document; 0 where it is not found. The mean of it is the MRR.

    Args:
        rankings, relevant, relevance_level: As in `recall`.
        k (`int` or `Sequence[int]`, *optional*): A first relevant document beyond rank k counts as not found, as
            `"mrr@<k>"`; `None`: the whole ranking, as `"mrr"`.

    Returns:
        `dict[str, np.ndarray]`: As in `ndcg`.
    """
    values = _evaluate({"recip_rank"}, rankings, relevant, relevance_level)["recip_rank"]
    if k is None:
        return {"mrr": values}
    # trec_eval has no cut for it. 1 / rank of whole ranks: half a rank apart is far beyond any rounding.
    return {f"mrr@{cut}": np.where(values > 1 / (cut + 0.5), values, 0.0) for cut in _cuts(k)}


SCORERS: dict[str, Callable[..., PerQuery]] = {"lira_ndcg": ndcg, "lira_mrr": mrr, "lira_recall": recall}


def judged_rows(relevant: Sequence[Judgements], relevance_level: int, empty: str) -> NDArray[np.bool_]:
    """
    Which queries count: all, or those with a relevant document.

    Args:
        relevant (`Sequence[Mapping[str, int]]`): Of each query, documents to grades.
        relevance_level (`int`): The least grade that counts as relevant.
        empty (`str`): `"zero"`: a query without a relevant document counts as 0, and is warned about; `"skip"`: it is
            left out.

    Returns:
        `np.ndarray` of shape `(queries,)`, bool.

    Raises:
        ValueError: For another `empty`, or where nothing is left.
    """
    if empty not in ("zero", "skip"):
        raise ValueError(f"empty is {empty!r}; expected 'zero' or 'skip'; choose what such queries count as")
    judged = np.array([any(grade >= relevance_level for grade in row.values()) for row in relevant], dtype=bool)
    without = len(judged) - int(judged.sum())
    if empty == "skip":
        if not judged.any():
            raise ValueError(
                f"none of {len(judged)} queries has a relevant document; expected one at least; check the references, "
                "or the relevance_level"
            )
        return judged
    if without:
        logger.warning(
            "%d of %d queries have no relevant document and count as 0; give empty='skip' to leave them out",
            without,
            len(judged),
        )
    return np.ones(len(judged), dtype=bool)


def _at_cuts(
    name: str,
    measure: str,
    rankings: Sequence[Ranking],
    relevant: Sequence[Judgements],
    k: int | Sequence[int],
    relevance_level: int = 1,
) -> PerQuery:
    cuts = _cuts(k)
    wanted = {f"{measure}.{','.join(str(cut) for cut in cuts)}"}
    found = _evaluate(wanted, rankings, relevant, relevance_level)
    return {f"{name}@{cut}": found[f"{measure}_{cut}"] for cut in cuts}


def _cuts(k: Any) -> list[int]:
    cuts = list(k) if isinstance(k, Sequence) and not isinstance(k, str) else [k]
    for cut in cuts:
        if not isinstance(cut, int) or isinstance(cut, bool) or cut < 1:
            raise ValueError(f"k is {k!r}; expected a whole number >= 1, or several; 10 is usual")
    if not cuts:
        raise ValueError("k is empty; expected a whole number >= 1, or several; 10 is usual")
    return sorted(set(cuts))


def _evaluate(
    measures: set[str], rankings: Sequence[Ranking], relevant: Sequence[Judgements], relevance_level: int
) -> PerQuery:
    """Each measure of each query, under the names that pytrec_eval gives in its results."""
    if len(rankings) != len(relevant):
        raise ValueError(
            f"got {len(rankings)} rankings and {len(relevant)} sets of relevant documents; expected one each a query"
        )
    if relevance_level < 1:
        raise ValueError(f"relevance_level is {relevance_level}; expected >= 1, as 0 is not relevant; 1 is usual")
    # The library drops a query without judgements, so that each gets one, of a document that nobody can have found.
    unfound = ""
    qrels = {str(row): {unfound: 0} | dict(judged) for row, judged in enumerate(relevant)}
    run = {str(row): dict(ranking) for row, ranking in enumerate(rankings)}
    found = pytrec_eval.RelevanceEvaluator(qrels, measures, relevance_level=relevance_level).evaluate(run)
    names = next(iter(found.values()), {})
    return {name: np.array([found[str(row)][name] for row in range(len(rankings))]) for name in names}
