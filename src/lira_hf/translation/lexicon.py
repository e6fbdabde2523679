"""Word translation probabilities by IBM model 1 (nltk), shared by gloss, repair and heuristic critic (ours)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from .parallel import FittedOnText, Pair, ParallelText
from .segmentation import Segmenter


__all__ = ["FittedOnLexicon", "LexicalTable", "Lexicon"]

_SMALLEST_PROBABILITY = 1e-3
_ENGLISH = Segmenter()


@dataclass
class LexicalTable:
    """
    Both directions of a language's word translations, each learned on its own.

    Args:
        english (`dict[str, dict[str, float]]`): For each source word f the English words e with t(e|f), best first.
        source (`dict[str, dict[str, float]]`): For each English word e the source words f with t(f|e), best first.
        segmenter (`Segmenter`): Splits source text into the words of the table.
    """

    english: Mapping[str, dict[str, float]] = field(default_factory=dict)
    source: Mapping[str, dict[str, float]] = field(default_factory=dict)
    segmenter: Segmenter = field(default_factory=Segmenter)

    def split_source(self, text: str) -> list[str]:
        """The words of a source text, as the table spells them."""
        return self.segmenter.split(text)

    @staticmethod
    def split_english(text: str) -> list[str]:
        """The words of an English text, as the table spells them."""
        return _ENGLISH.split(text)


class Lexicon(FittedOnText):
    """
    Word translation tables of several languages, each learned when it is first asked for.

    Args:
        parallel (`ParallelText`): What the tables are learned from.
        iterations (`int`, *optional*, defaults to 5): Rounds of expectation-maximisation.
        max_words (`int`, *optional*, defaults to 48): Words of a text that are used; the cost grows with their square.
        max_pairs (`int`, *optional*, defaults to 100000): Pairs of a language that are used, the first ones.
        vocab_size (`int`, *optional*, defaults to 4000): Pieces for scripts without spaces.
    """

    kind = "lexicon"

    def __init__(
        self,
        parallel: ParallelText,
        iterations: int = 5,
        max_words: int = 48,
        max_pairs: int = 100_000,
        vocab_size: int = 4000,
    ):
        settings = {
            "iterations": iterations,
            "max_words": max_words,
            "max_pairs": max_pairs,
            "vocab_size": vocab_size,
        }
        for setting, value in settings.items():
            if value < 1:
                raise ValueError(f"{setting} is {value}; expected at least 1; leave it out for the default")
        super().__init__(parallel, settings)
        self._tables: dict[str, LexicalTable] = {}

    def table(self, language: str) -> LexicalTable:
        """
        The table of a language.

        Args:
            language (`str`): A language tag; one without parallel text gets an empty table.

        Returns:
            `LexicalTable`: Learned now if it wasn't before.
        """
        if language not in self._tables:
            self._tables[language] = self._learn(self.parallel.rows(language)[: self.settings["max_pairs"]])
        return self._tables[language]

    def _learn(self, rows: list[tuple[str, str]]) -> LexicalTable:
        if not rows:
            return LexicalTable()
        longest = self.settings["max_words"]
        segmenter = Segmenter.fit((text for text, _ in rows), self.settings["vocab_size"])
        source = [segmenter.split(text)[:longest] for text, _ in rows]
        english = [_ENGLISH.split(text)[:longest] for _, text in rows]
        return LexicalTable(
            english=_train(source, english, self.settings["iterations"]),
            source=_train(english, source, self.settings["iterations"]),
            segmenter=segmenter,
        )


class FittedOnLexicon(FittedOnText):
    """
    Base of translators and critics whose settings are those of their lexicon.

    Args:
        lexicon (`Lexicon`): Word translations; several objects may share one.
    """

    def __init__(self, lexicon: Lexicon):
        super().__init__(lexicon.parallel, lexicon.settings)
        self.lexicon = lexicon

    @classmethod
    def fit(cls, pairs: Iterable[Pair], **settings: Any) -> Self:
        """
        Learn from parallel text. To share a lexicon, give it to the class itself.

        Args:
            pairs (`Iterable[Pair]`): Rows (language, text, English text).
            settings (`Any`, *optional*): Keyword arguments of [`Lexicon`].

        Returns:
            An object of this class.
        """
        return cls(Lexicon(ParallelText.of(pairs), **settings))


def _train(given: Iterable[list[str]], words: Iterable[list[str]], iterations: int) -> dict[str, dict[str, float]]:
    """t(word | given word), as {given word: {word: probability}}, likeliest first; nltk's NULL word is left out."""
    from nltk.translate import AlignedSent, IBMModel1

    corpus = [AlignedSent(out, into) for into, out in zip(given, words, strict=True) if into and out]
    if not corpus:
        return {}
    model = IBMModel1(corpus, iterations)
    table: dict[str, dict[str, float]] = {}
    for word in sorted(model.translation_table):
        for condition, probability in model.translation_table[word].items():
            if condition is not None and probability >= _SMALLEST_PROBABILITY:
                table.setdefault(condition, {})[word] = probability
    # Sorted by word before, and sorting is stable: ties go by the alphabet in every process.
    return {
        condition: dict(sorted(row.items(), key=lambda item: -item[1])) for condition, row in sorted(table.items())
    }
