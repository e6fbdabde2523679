"""Metrics of ranked retrieval that `evaluate.load(metric_path(...))` takes, offline too."""

from pathlib import Path


__all__ = ["METRIC_NAMES", "metric_path"]

METRIC_NAMES = ("lira_mrr", "lira_ndcg", "lira_per_language", "lira_recall")


def metric_path(name: str) -> str:
    """
    Where a metric lies, for `evaluate.load`.

    Args:
        name (`str`): `"lira_ndcg"`, `"lira_mrr"`, `"lira_recall"` or `"lira_per_language"`.

    Returns:
        `str`: The folder, in the installed package.

    Raises:
        ValueError: For another name.

    Example:

    ```python
    >>> import evaluate
    >>> ndcg = evaluate.load(metric_path("lira_ndcg"))
    >>> ndcg.compute(predictions=[["d2", "d1"]], references=[["d1"]])
    {'ndcg@10': 0.6309297535714575}
    ```
    """
    if name not in METRIC_NAMES:
        raise ValueError(f"got the metric {name!r}; expected one of {', '.join(METRIC_NAMES)}; name one of them")
    return str(Path(__file__).parent / name)
