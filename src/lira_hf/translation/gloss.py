"""Word-for-word gloss by IBM model 1, and the repair of near memory hits: what covers texts no memory holds (ours)."""

import heapq
from collections.abc import Sequence
from itertools import islice

import regex

from .base import Candidate, check_request, clean_text, distinct_candidates
from .lexicon import FittedOnLexicon, LexicalTable, Lexicon
from .memory import MemoryHit, TranslationMemory
from .segmentation import is_number, is_placeholder, romanise


__all__ = ["GlossTranslator", "RepairTranslator"]

_RUNNERS_UP = 3
# Words of a longer text aren't tried in other senses: the first gloss says enough about it.
_LONGEST_VARIED = 64


class GlossTranslator(FittedOnLexicon):
    """
    Puts the likeliest English word for each source word, in source order.

    Words that the lexicon doesn't know pass through, romanised unless they are Latin already; numbers and placeholders
    always do. Further candidates put a runner-up for one word, the likeliest exchanges first.

    Args:
        lexicon (`Lexicon`): Word translations, to be shared with the critic.
    """

    kind = "gloss"

    def translate(self, texts: Sequence[str], language: str, num_candidates: int) -> list[list[Candidate]]:
        """See [`Translator.translate`]; the score is the mean probability of the words, an unknown one counting 0."""
        check_request(texts, num_candidates)
        if not self.parallel.rows(language):
            return [[] for _ in texts]
        table = self.lexicon.table(language)
        return [self._gloss(table, clean_text(text), num_candidates) for text in texts]

    def _gloss(self, table: LexicalTable, text: str, num_candidates: int) -> list[Candidate]:
        choices = [_senses(table, word) for word in table.split_source(text)]
        if not choices:
            return []
        first = [senses[0] for senses in choices]
        candidates = [self._candidate(first)]
        if num_candidates > 1 and len(choices) <= _LONGEST_VARIED:
            exchanges = (
                (sense[1] / senses[0][1], -position, rank)
                for position, senses in enumerate(choices)
                for rank, sense in enumerate(senses[1:], start=1)
            )
            # Some exchanges give a text that is there already, so take a few to spare.
            for _, position, rank in heapq.nlargest(2 * num_candidates, exchanges):
                words = list(first)
                words[-position] = choices[-position][rank]
                candidates.append(self._candidate(words))
        return distinct_candidates(candidates, num_candidates)

    def _candidate(self, senses: list[tuple[str, float]]) -> Candidate:
        # Pieces of one word, or a word and its particle, often share a sense: say it once.
        words = [word for i, (word, _) in enumerate(senses) if i == 0 or senses[i - 1][0] != word or is_number(word)]
        score = sum(probability for _, probability in senses) / len(senses)
        return Candidate(" ".join(filter(None, words)), self.kind, self.name, score)


def _senses(table: LexicalTable, word: str) -> list[tuple[str, float]]:
    if is_number(word) or is_placeholder(word):
        return [(word, 1.0)]
    # A placeholder stands for itself only, though counts may align a word with it.
    senses = (sense for sense in table.english.get(word, {}).items() if not is_placeholder(sense[0]))
    return list(islice(senses, _RUNNERS_UP)) or [(romanise(word), 0.0)]


class RepairTranslator(FittedOnLexicon):
    """
    Fuzzy repair: the English of a near memory entry, with the words in which the two texts differ replaced.

    Only entries that differ in few words, each at a place of its own, and whose old words can be found in the English,
    are repaired; the others give no candidate.

    Args:
        lexicon (`Lexicon`): Word translations, to be shared with gloss and critic.
    """

    kind = "repair"
    max_differences = 2
    min_similarity = 0.3
    min_probability = 0.1

    def __init__(self, lexicon: Lexicon):
        super().__init__(lexicon)
        self._memory = TranslationMemory(lexicon.parallel, min_similarity=self.min_similarity)

    def translate(self, texts: Sequence[str], language: str, num_candidates: int) -> list[list[Candidate]]:
        """See [`Translator.translate`]; the score is the similarity of the repaired entry's source text, in 0..1."""
        check_request(texts, num_candidates)
        if not self.parallel.rows(language):
            return [[] for _ in texts]
        table = self.lexicon.table(language)
        answers = []
        for text, hits in zip(texts, self._memory.nearest(texts, language, 2 * num_candidates), strict=True):
            words = table.split_source(clean_text(text))
            repaired = [
                Candidate(english, self.kind, self.name, hit.similarity)
                for hit in hits
                if (english := self._repair(table, words, hit)) is not None
            ]
            answers.append(distinct_candidates(repaired, num_candidates))
        return answers

    def _repair(self, table: LexicalTable, words: list[str], hit: MemoryHit) -> str | None:
        known = table.split_source(hit.text)
        if len(known) != len(words):
            return None
        changes = [(old, new) for old, new in zip(known, words, strict=True) if old != new]
        if not 0 < len(changes) <= min(self.max_differences, len(words) - 1):
            return None
        english = hit.english
        for old, new in changes:
            replaced = self._replace(table, english, old, _senses(table, new)[0][0])
            if replaced is None:
                return None
            english = replaced
        return english

    def _replace(self, table: LexicalTable, english: str, old: str, new: str) -> str | None:
        """The English with the old word's likeliest translation in it exchanged; `None` if there is none."""
        here = set(table.split_english(english))
        spelt = next(
            (e for e, p in table.english.get(old, {old: 1.0}).items() if e in here and p >= self.min_probability), None
        )
        if spelt is None or not new:
            return None
        edge = r"(?<![\p{L}\p{M}\p{N}])", r"(?![\p{L}\p{M}\p{N}])"
        pattern = edge[0] + regex.escape(spelt) + edge[1]

        def as_written(match: regex.Match) -> str:
            return new[:1].upper() + new[1:] if match.group()[:1].isupper() else new

        repaired, count = regex.subn(pattern, as_written, english, count=1, flags=regex.IGNORECASE)
        return repaired if count else None
