"""Retrieval scores of a LiRA model on one split, with and without translation at inference."""

from lira_hf.data import BeirDataset
from lira_hf.inference import LiraEmbedder

from .retrieval import METRICS, RetrievalScores, evaluate_retrieval


__all__ = ["dev_metrics", "evaluate_embedder"]


def evaluate_embedder(embedder: LiraEmbedder, dataset: BeirDataset, translate: bool = True) -> RetrievalScores:
    """
    Args:
        embedder ([`LiraEmbedder`]): The model with its candidates.
        dataset ([`BeirDataset`]): One split; a document that names no language is in the model's first anchor
            language.
        translate (`bool`, *optional*, defaults to `True`): Use the candidates of queries, and of documents in other
            languages; `False` is inference without a translator.

    Returns:
        [`RetrievalScores`]: Of each query.
    """
    own = embedder.processor.anchor_languages
    corpus = list(dataset.corpus.values())
    spoken = [dataset.document_languages.get(key, own[0]) for key in dataset.corpus]
    texts = [query.text for query in dataset.queries.values()]
    languages = [query.language for query in dataset.queries.values()]
    none, given = None, None
    if not translate:
        none = [[] for _ in texts]
        given = [[text] if tag in own and text.strip() else [] for text, tag in zip(corpus, spoken, strict=True)]
    documents = embedder.encode(corpus, spoken, candidates=given, role="document")
    queries = embedder.encode(texts, languages, candidates=none, role="query")
    return evaluate_retrieval(dataset, queries, documents)


def dev_metrics(embedder: LiraEmbedder, dataset: BeirDataset) -> dict[str, float]:
    """The means of the languages, for logging and for choosing a checkpoint."""
    scores = evaluate_embedder(embedder, dataset)
    return {metric: scores.mean(metric) for metric in METRICS}
