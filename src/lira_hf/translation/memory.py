"""Translation memory: the English of the nearest known texts, as candidates y_k (ours)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .base import Candidate, check_request, clean_text, fold
from .parallel import FittedOnText, ParallelText


if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

__all__ = ["MemoryHit", "TranslationMemory"]

# Similarities computed at once: bounds a chunk's product to about 50 MB however many texts are asked.
_PRODUCT_CELLS = 4_000_000
_LONGEST_CHUNK = 512


@dataclass(frozen=True, slots=True)
class MemoryHit:
    """
    An entry of the memory near a text.

    Args:
        text (`str`): The entry's source text.
        english (`str`): Its English.
        similarity (`float`): Cosine of the two source texts' n-gram vectors, in 0..1.
    """

    text: str
    english: str
    similarity: float


@dataclass(frozen=True, slots=True)
class _Index:
    vectorizer: "TfidfVectorizer"
    entries: "csr_matrix"  # (n-grams, entries)
    rows: list[tuple[str, str]]
    folded_english: list[str]


class TranslationMemory(FittedOnText):
    """
    Finds the nearest known texts by TF-IDF of character n-grams and gives their English.

    Args:
        parallel (`ParallelText`): The entries.
        shortest (`int`, *optional*, defaults to 2): Length of the shortest n-grams.
        longest (`int`, *optional*, defaults to 4): Length of the longest n-grams; they don't reach over spaces.
        min_similarity (`float`, *optional*, defaults to 0.0): Entries not above this cosine are no candidates.
    """

    kind = "memory"

    def __init__(self, parallel: ParallelText, shortest: int = 2, longest: int = 4, min_similarity: float = 0.0):
        if not 1 <= shortest <= longest:
            raise ValueError(
                f"n-gram lengths are {shortest}..{longest}; expected 1 <= shortest <= longest; "
                "leave them out for the defaults"
            )
        super().__init__(parallel, {"shortest": shortest, "longest": longest, "min_similarity": min_similarity})
        self._indexes: dict[str, _Index] = {}

    def translate(self, texts: Sequence[str], language: str, num_candidates: int) -> list[list[Candidate]]:
        """See [`Translator.translate`]; the score is the similarity of the entry's source text, in 0..1."""
        check_request(texts, num_candidates)
        return [
            [Candidate(hit.english, self.kind, self.name, hit.similarity) for hit in hits]
            for hits in self.nearest(texts, language, num_candidates)
        ]

    def nearest(self, texts: Sequence[str], language: str, num_entries: int) -> list[list[MemoryHit]]:
        """
        The nearest entries with distinct English.

        Args:
            texts (`Sequence[str]`): The texts.
            language (`str`): Their language; one that the memory lacks gives no entries.
            num_entries (`int`): The most entries for a text.

        Returns:
            `list[list[MemoryHit]]`: Nearest first; among equals the one that the memory learned first.
        """
        if not self.parallel.rows(language):
            return [[] for _ in texts]
        index = self._index(language)
        chunk = max(1, min(_LONGEST_CHUNK, _PRODUCT_CELLS // len(index.rows)))
        hits: list[list[MemoryHit]] = []
        for start in range(0, len(texts), chunk):
            part = [clean_text(text).casefold() for text in texts[start : start + chunk]]
            product = index.vectorizer.transform(part) @ index.entries
            for row in range(len(part)):
                cells = slice(product.indptr[row], product.indptr[row + 1])
                hits.append(self._best(index, product.indices[cells], product.data[cells], num_entries))
        return hits

    def _best(self, index: _Index, entries: np.ndarray, similarity: np.ndarray, limit: int) -> list[MemoryHit]:
        near = similarity > self.settings["min_similarity"]
        entries, similarity = entries[near], similarity[near]
        # Several entries may share their English, so look further until enough differ.
        wanted = 4 * limit
        while True:
            chosen = _first_sorted(entries, similarity, wanted)
            hits: dict[str, MemoryHit] = {}
            for position in chosen:
                entry = entries[position]
                text, english = index.rows[entry]
                hit = MemoryHit(text, english, min(1.0, float(similarity[position])))
                hits.setdefault(index.folded_english[entry], hit)
                if len(hits) == limit:
                    break
            if len(hits) == limit or len(chosen) == len(entries):
                return list(hits.values())
            wanted *= 4

    def _index(self, language: str) -> _Index:
        if language not in self._indexes:
            from sklearn.feature_extraction.text import TfidfVectorizer

            rows = self.parallel.rows(language)
            vectorizer = TfidfVectorizer(
                analyzer="char_wb",
                ngram_range=(self.settings["shortest"], self.settings["longest"]),
                lowercase=False,  # casefold() knows more scripts than sklearn's lower()
                sublinear_tf=True,
                dtype=np.float32,
            )
            entries = vectorizer.fit_transform(text.casefold() for text, _ in rows)
            folded = [fold(english) for _, english in rows]
            self._indexes[language] = _Index(vectorizer, entries.T.tocsr(), rows, folded)
        return self._indexes[language]


def _first_sorted(entries: np.ndarray, similarity: np.ndarray, limit: int) -> np.ndarray:
    """Positions of at least the `limit` most similar entries, ties at the end included, by similarity then entry."""
    positions = np.arange(len(entries))
    if limit < len(entries):
        threshold = np.partition(similarity, -limit)[-limit]
        positions = positions[similarity >= threshold]
    return positions[np.lexsort((entries[positions], -similarity[positions]))]
