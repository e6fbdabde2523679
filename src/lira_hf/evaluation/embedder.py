"""Retrieval scores of a LiRA model on one split, with and without translation at inference."""

from lira_hf.data import BeirDataset
from lira_hf.inference import LiraEmbedder

from .retrieval import METRICS, RetrievalScores, evaluate_retrieval


__all__ = ["dev_metrics", "evaluate_embedder"]


def evaluate_embedder(embedder: LiraEmbedder, dataset: BeirDataset, translate: bool = True) -> RetrievalScores:
    """
    Args:
        embedder ([`LiraEmbedder`]): The model with its candidates.
        dataset ([`BeirDataset`]): One split; its documents are in the model's first anchor language.
        translate (`bool`, *optional*, defaults to `True`): Use candidates for the queries; `False` is inference
            without a translator.

    Returns:
        [`RetrievalScores`]: Of each query.
    """
    documents = embedder.encode(list(dataset.corpus.values()), embedder.processor.anchor_languages[0])
    texts = [query.text for query in dataset.queries.values()]
    languages = [query.language for query in dataset.queries.values()]
    none = None if translate else [[] for _ in texts]
    return evaluate_retrieval(dataset, embedder.encode(texts, languages, candidates=none), documents)


def dev_metrics(embedder: LiraEmbedder, dataset: BeirDataset) -> dict[str, float]:
    """The means of the languages, for logging and for choosing a checkpoint."""
    scores = evaluate_embedder(embedder, dataset)
    return {metric: scores.mean(metric) for metric in METRICS}
