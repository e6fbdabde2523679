"""Rows for the Trainer: texts with their candidates, found once; queries with documents, or pairs with a score."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from lira_hf.data import BeirDataset, SimilarityPair
from lira_hf.inference import CandidateSource, FoundCandidate
from lira_hf.models.traits_lira import candidate_traits

from .collator import LiraCollator


__all__ = ["CHUNK", "SIDE_FEATURES", "LiraCollator", "find_sides", "ranking_rows", "retrieval_rows"]

CHUNK = 4096  # texts whose candidates are looked up at a time
# What is kept of a text beside itself.
SIDE_FEATURES = {
    "language": datasets.Value("string"),
    "candidates": datasets.List(datasets.Value("large_string")),
    "scores": datasets.List(datasets.List(datasets.Value("float32"))),
    "kinds": datasets.List(datasets.Value("string")),
    "traits": datasets.List(datasets.List(datasets.Value("float32"))),
}
_SIDES = {
    "text": datasets.Value("large_string"),
    **SIDE_FEATURES,
    "document": datasets.Value("large_string"),
    **{f"document_{name}": kind for name, kind in SIDE_FEATURES.items()},
}
_RETRIEVAL = datasets.Features(
    {
        "query_id": datasets.Value("string"),
        **_SIDES,
        "document_id": datasets.Value("int64"),
        "positive_ids": datasets.List(datasets.Value("int64")),
        "negatives": datasets.List(
            {"text": datasets.Value("large_string"), **SIDE_FEATURES, "document_id": datasets.Value("int64")}
        ),
    }
)
_RANKING = datasets.Features({"pair_id": datasets.Value("int64"), **_SIDES, "gold": datasets.Value("float32")})


def retrieval_rows(
    beir: BeirDataset,
    candidates: CandidateSource | None = None,
    anchor_languages: Sequence[str] = ("en",),
    negatives: Mapping[str, Sequence[str]] | None = None,
) -> datasets.Dataset:
    """
    One row per query and relevant document. Either may be in any language: what is in an anchor language is its own
    candidate, and so is a document that names no language.

    Args:
        beir ([`BeirDataset`]): One split of a BEIR folder.
        candidates ([`CandidateSource`], *optional*): Where candidates come from; without it only English has any.
        anchor_languages (`Sequence[str]`, *optional*, defaults to `("en",)`): The model's.
        negatives (`Mapping[str, Sequence[str]]`, *optional*): Query id to the ids of documents that are hard negatives
            for it, see [`mine_hard_negatives`].

    Returns:
        `datasets.Dataset`: Columns query_id, text, language, candidates (list of strings), scores (per candidate (s,
        e, p), `[]` where it was not judged), kinds and traits (per candidate); the same of the document (document,
        document_language, ...); document_id (position in the corpus), positive_ids (of all that are relevant to the
        query), negatives (per negative its text, language, candidates, ... and document_id).

    Raises:
        ValueError: If no query has a relevant document, or a negative is not in the corpus.
    """
    place = {document: number for number, document in enumerate(beir.corpus)}
    relevant = {
        query: [document for document, relevance in judged.items() if relevance > 0]
        for query, judged in beir.qrels.items()
    }
    pairs = [(query, document) for query, documents in relevant.items() for document in documents]
    if not pairs:
        raise ValueError("no query has a relevant document; expected qrels with scores above 0; check the split")
    hard = _check_negatives(negatives or {}, place)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        queries = [beir.queries[query] for query, _ in chunk]
        first = find_sides([(query.text, query.language) for query in queries], candidates, anchor_languages)
        # Each document once, whether it is found, or mined, by one query or by many.
        ids = list(dict.fromkeys(key for query, document in chunk for key in (document, *hard.get(query, ()))))
        texts = [(beir.corpus[key], beir.document_languages.get(key, anchor_languages[0])) for key in ids]
        found = find_sides(texts, candidates, anchor_languages)
        sides = {key: side | {"document_id": place[key]} for key, side in zip(ids, found, strict=True)}
        rows.extend(
            {
                "query_id": query,
                **side,
                **_as_document(sides[document]),
                "positive_ids": [place[key] for key in relevant[query]],
                "negatives": [sides[key] for key in hard.get(query, ())],
            }
            for (query, document), side in zip(chunk, first, strict=True)
        )
    return datasets.Dataset.from_list(rows, features=_RETRIEVAL)


def ranking_rows(
    pairs: Sequence[SimilarityPair],
    candidates: CandidateSource | None = None,
    anchor_languages: Sequence[str] = ("en",),
) -> datasets.Dataset:
    """
    One row per pair of texts with a score of how alike they are. Each may be in any language, with candidates of its
    own; what is in an anchor language is its own candidate.

    Args:
        pairs (`Sequence[SimilarityPair]`): As of [`read_sts`].
        candidates ([`CandidateSource`], *optional*): Where candidates come from; without it only English has any.
        anchor_languages (`Sequence[str]`, *optional*, defaults to `("en",)`): The model's.

    Returns:
        `datasets.Dataset`: Columns pair_id (place among the pairs), text, language, candidates, scores, kinds and
        traits of the first text, as of [`retrieval_rows`]; the same of the second (document, document_language, ...);
        gold (the score, on the data's own scale).

    Raises:
        ValueError: If there is no pair.
    """
    if not pairs:
        raise ValueError(
            "got no pairs; expected at least one pair of texts with a score; check the file and the split"
        )
    rows: list[dict[str, Any]] = []
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        first = find_sides([(pair.text1, pair.language1) for pair in chunk], candidates, anchor_languages)
        second = find_sides([(pair.text2, pair.language2) for pair in chunk], candidates, anchor_languages)
        rows.extend(
            {"pair_id": number, **one, **_as_document(other), "gold": pair.score}
            for number, (pair, one, other) in enumerate(zip(chunk, first, second, strict=True), start)
        )
    return datasets.Dataset.from_list(rows, features=_RANKING)


def find_sides(
    texts: Sequence[tuple[str, str | None]], candidates: CandidateSource | None, anchor_languages: Sequence[str]
) -> list[dict[str, Any]]:
    """
    Texts with their candidates, as [`LiraEmbedder`] finds them.

    Args:
        texts (`Sequence[tuple[str, str | None]]`): Each text and the tag of its language.
        candidates ([`CandidateSource`], *optional*): Where candidates come from; without it only English has any.
        anchor_languages (`Sequence[str]`): The model's; a text in these is its own candidate.

    Returns:
        `list[dict]`: Per text its `text`, `language`, `candidates`, `scores`, `kinds` and `traits`.
    """
    found: list[list[FoundCandidate]] = [[] for _ in texts]
    if candidates is not None:
        foreign = [None if language in anchor_languages else language for _, language in texts]
        found = candidates.find([text for text, _ in texts], foreign)
    for number, (text, language) in enumerate(texts):
        if language in anchor_languages and text.strip():
            found[number] = [FoundCandidate(text)]
    return [
        {
            "text": text,
            "language": language,
            "candidates": [item.text for item in row],
            "scores": [list(item.scores) if item.scores is not None else [] for item in row],
            "kinds": [item.kind for item in row],
            # Once, not in every epoch.
            "traits": candidate_traits(text, [item.text for item in row]),
        }
        for (text, language), row in zip(texts, found, strict=True)
    ]


def _as_document(side: dict[str, Any]) -> dict[str, Any]:
    names = {"text": "document", "document_id": "document_id"}
    return {names.get(name, f"document_{name}"): value for name, value in side.items()}


def _check_negatives(negatives: Mapping[str, Sequence[str]], place: Mapping[str, int]) -> Mapping[str, Sequence[str]]:
    for query, documents in negatives.items():
        for document in documents:
            if document not in place:
                raise ValueError(
                    f"got the negative {document!r} of query {query!r}; expected the id of a document of the corpus; "
                    "mine negatives on the same data set"
                )
    return negatives
