"""The metrics as evaluate's modules. The folders beside this file, by which they are loaded, import them from here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from .inputs import as_judgements, as_language, as_ranking
from .scoring import SCORERS, judged_rows


__all__ = ["LiraMrr", "LiraNdcg", "LiraPerLanguage", "LiraRecall"]

_CITATION = """\
@inproceedings{VanGysel2018pytreceval,
    title={Pytrec\\_eval: An Extremely Fast Python Interface to trec\\_eval},
    author={Van Gysel, Christophe and de Rijke, Maarten},
    booktitle={SIGIR},
    year={2018},
}
"""
_URLS = ["https://github.com/usnistgov/trec_eval", "https://github.com/cvangysel/pytrec_eval"]
_DESCRIPTIONS = {
    "lira_ndcg": "Normalised discounted cumulative gain of the first k documents, with linear gain (trec_eval's "
    "ndcg_cut), meaned over the queries.",
    "lira_mrr": "Mean over the queries of one over the rank of the first relevant document (trec_eval's recip_rank).",
    "lira_recall": "Share of a query's relevant documents among the first k (trec_eval's recall), meaned over the "
    "queries.",
}
_INPUTS = """
Args:
    predictions (`list`): Per query what was found: a list of document ids, best first, or `{id: score}`, or a list of
        `{"id": ..., "score": ...}`. Equal scores (in float32, as in trec_eval) are ordered by id, the last first.
    references (`list`): Per query its relevant documents: a list of ids, each of grade 1, or `{id: grade}`, or a list
        of `{"id": ..., "grade": ...}`. Grades are whole numbers; 0 and less: not relevant.
"""
_EMPTY = """\
    empty (`str`, *optional*, defaults to `"zero"`): What a query without a relevant document counts as; `"skip"`
        leaves it out.
"""
_LEVEL = """\
    relevance_level (`int`, *optional*, defaults to 1): The least grade that counts as relevant.
"""
_CUT = """\
    k (`int` or `list[int]`, *optional*, defaults to 10): How many documents count; several cuts give several figures.
"""
_OPTIONS = {
    "lira_ndcg": _CUT + _EMPTY,
    "lira_mrr": """\
    k (`int` or `list[int]`, *optional*): The rank beyond which nothing counts; the whole ranking by default.
"""
    + _LEVEL
    + _EMPTY,
    "lira_recall": _CUT + _LEVEL + _EMPTY,
}
_EXAMPLES = {
    "lira_ndcg": "{'ndcg@10': 0.6309297535714575}",
    "lira_mrr": "{'mrr': 0.5}",
    "lira_recall": "{'recall@10': 1.0}",
}
_READERS: dict[str, Callable[[Any, int], Any]] = {
    "predictions": as_ranking,
    "references": as_judgements,
    "languages": as_language,
}
_FEATURES = {
    "predictions": [{"id": datasets.Value("string"), "score": datasets.Value("float64")}],
    "references": [{"id": datasets.Value("string"), "grade": datasets.Value("int64")}],
}


class _RankingMetric(evaluate.Metric):
    """What the metrics share: how their inputs are read, and how the queries' figures become one."""

    _metric = ""

    def _info(self) -> evaluate.MetricInfo:
        example = f"""
Returns:
    `dict`: Each figure, in 0..1, by its name.

Examples:
    >>> metric = evaluate.load(metric_path("{self._metric}"))
    >>> metric.compute(predictions=[["d2", "d1"]], references=[["d1"]])
    {_EXAMPLES[self._metric]}
"""
        return evaluate.MetricInfo(
            description=_DESCRIPTIONS[self._metric],
            citation=_CITATION,
            inputs_description=_INPUTS + _OPTIONS[self._metric] + example,
            features=datasets.Features(_FEATURES),
            reference_urls=_URLS,
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Adds some queries.

        Args:
            predictions, references, languages: As in `compute`.
        """
        batch = {"predictions": predictions, "references": references, **kwargs}
        _check_lengths(batch)
        start = len(self)
        super().add_batch(
            **{
                name: [_READERS[name](row, start + place) for place, row in enumerate(column)]
                if name in _READERS
                else column
                for name, column in batch.items()
            }
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Adds one query.

        Args:
            prediction, reference, languages: As one of `compute`'s.
        """
        self.add_batch(
            predictions=[prediction], references=[reference], **{name: [value] for name, value in kwargs.items()}
        )

    def _compute(
        self, *, predictions: Any = None, references: Any = None, empty: str = "zero", **settings: Any
    ) -> dict[str, Any]:
        values, counted = _score(self._metric, predictions, references, empty, settings)
        return {name: float(column[counted].mean()) for name, column in values.items()}


class LiraNdcg(_RankingMetric):
    """nDCG@k, see its `inputs_description`."""

    _metric = "lira_ndcg"


class LiraMrr(_RankingMetric):
    """MRR, see its `inputs_description`."""

    _metric = "lira_mrr"


class LiraRecall(_RankingMetric):
    """Recall@k, see its `inputs_description`."""

    _metric = "lira_recall"


class LiraPerLanguage(_RankingMetric):
    """One of the others per language, and the mean of the languages, see its `inputs_description`."""

    def _info(self) -> evaluate.MetricInfo:
        # The configuration is what `evaluate.load(path, "lira_recall")` names.
        self._metric = "lira_ndcg" if self.config_name == "default" else self.config_name
        if self._metric not in SCORERS:
            raise ValueError(
                f"got the configuration {self.config_name!r}; expected one of {', '.join(SCORERS)}; load one of them"
            )
        name, value = _EXAMPLES[self._metric].strip("{}").split(": ")
        example = f"""
    languages (`list[str]`): Per query its language's tag.

Returns:
    `dict`: Each figure by its name, as the mean of the languages: each counts alike, however many queries it has; and
    `per_language`, of each tag its figures and the number of `queries` that they are of.

Examples:
    >>> metric = evaluate.load(metric_path("lira_per_language"), "{self._metric}")
    >>> metric.compute(predictions=[["d2", "d1"]], references=[["d1"]], languages=["bn"])
    {{{name}: {value}, 'per_language': {{'bn': {{{name}: {value}, 'queries': 1}}}}}}
"""
        return evaluate.MetricInfo(
            description=_DESCRIPTIONS[self._metric] + " Per language, and the mean of the languages.",
            citation=_CITATION,
            inputs_description=_INPUTS + _OPTIONS[self._metric] + example,
            features=datasets.Features(_FEATURES | {"languages": datasets.Value("string")}),
            reference_urls=_URLS,
        )

    def _compute(
        self,
        *,
        predictions: Any = None,
        references: Any = None,
        languages: Any = None,
        empty: str = "zero",
        **settings: Any,
    ) -> dict[str, Any]:
        values, counted = _score(self._metric, predictions, references, empty, settings)
        tags = np.array(list(languages))[counted]
        found: dict[str, dict[str, Any]] = {}
        for tag in sorted(set(tags.tolist())):
            figures = {name: float(column[counted][tags == tag].mean()) for name, column in values.items()}
            found[tag] = {**figures, "queries": int((tags == tag).sum())}
        means = {name: float(np.mean([row[name] for row in found.values()])) for name in values}
        return {**means, "per_language": found}


def _score(metric: str, predictions: Any, references: Any, empty: str, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """Every query's figures, and which queries count."""
    rankings = [{item["id"]: item["score"] for item in row} for row in predictions]
    relevant = [{item["id"]: item["grade"] for item in row} for row in references]
    if not rankings:
        raise ValueError("got no query; expected one at least; add some before compute")
    counted = judged_rows(relevant, settings.get("relevance_level", 1), empty)
    return SCORERS[metric](rankings, relevant, **settings), counted


def _check_lengths(batch: Mapping[str, Sequence[Any] | None]) -> None:
    lengths = {name: None if column is None else len(column) for name, column in batch.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        raise ValueError(
            "got " + ", ".join(f"{'no' if size is None else size} {name}" for name, size in lengths.items()) + "; "
            "expected as many of each, one per query; give what is missing"
        )
