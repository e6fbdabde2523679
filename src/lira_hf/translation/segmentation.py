"""Words of a text in any script, for the lexicon; unigram pieces where a script has no spaces between words (ours)."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import regex
from anyascii import anyascii

from .unicode_forms import normal_form


if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Segmenter", "is_number", "is_placeholder", "number_values", "placeholders", "romanise"]

# Scripts that need a dictionary to be broken into words, by Unicode property and not by a table of our own.
_SPACELESS = r"[\p{LB=SA}\p{Ideographic}\p{Script=Hiragana}\p{Script=Katakana}\u30fc]"
_PLACEHOLDER = (
    # Each character has one way to match, or a megabyte of zeros or spaces would take hours.
    r"%(?:\d+\$)?(?:\([^()\s]+\))?[-+#0]*(?:(?!0)\d+)?(?:\.\d+)?(?:ll?|h)?[a-zA-Z](?![a-zA-Z])"
    r"|\$?\{\{?\s*(?:[\w.:!-]+\s*)?\}?\}"
)
_WORD = r"[[\p{L}\p{M}\p{N}\u200c\u200d]--" + _SPACELESS + r"]+"
_TOKEN = regex.compile(rf"(?V1)(?P<placeholder>{_PLACEHOLDER})|(?P<run>{_SPACELESS}+)|{_WORD}(?:['’]{_WORD})*")
_PLACEHOLDER_PATTERN = regex.compile(_PLACEHOLDER)
_DIGITS = regex.compile(r"\p{Nd}+")
_FOREIGN_LETTER = regex.compile(r"[\p{L}--\p{Script=Latin}]", regex.V1)
# Pieces are looked up in runs of bounded length, so that a text without any space stays linear.
_RUN_LENGTH = 256
_UNKNOWN = "<unk>"


def is_placeholder(token: str) -> bool:
    """Whether a token is a slot that a program fills, such as `%(name)s` or `{0}`."""
    return token[:1] in "%${" and _PLACEHOLDER_PATTERN.fullmatch(token) is not None


def is_number(token: str) -> bool:
    """Whether a token is all digits, of any script."""
    return token.isdecimal()


def number_values(text: str) -> Counter[int]:
    """How often each whole number is written in a text, digits of any script read by value; slots don't count."""
    runs = _DIGITS.findall(_PLACEHOLDER_PATTERN.sub(" ", text))
    # A run of over 18 digits is an identifier; its tail tells it apart well enough, and int() has a length limit.
    return Counter(int(run[-18:]) for run in runs)


def placeholders(text: str) -> Counter[str]:
    """How often each placeholder is in a text."""
    return Counter(match.group() for match in _PLACEHOLDER_PATTERN.finditer(text))


def romanise(word: str) -> str:
    """A word in Latin letters: as it is if it has no others, else by anyascii, so that names can be recognised."""
    return anyascii(word).casefold().strip() if _FOREIGN_LETTER.search(word) else word


class Segmenter:
    """
    Splits a text into casefolded words, numbers (as ASCII digits) and placeholders; punctuation is dropped.

    Thai, Lao, Khmer, Myanmar, Han, kana and the like become the pieces of a unigram model (`tokenizers`) learned from
    the same text. No table for any language.

    Args:
        vocab (`list[tuple[str, float]]`, *optional*): Pieces and their log probabilities; without them a run of such
            a script stays one word.
    """

    def __init__(self, vocab: list[tuple[str, float]] | None = None):
        self._model = _unigram(vocab) if vocab else None

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int = 4000) -> "Segmenter":
        """
        Learn the pieces of what is written without spaces, if there is any.

        Args:
            texts (`Iterable[str]`): Texts of one language.
            vocab_size (`int`, *optional*, defaults to 4000): The most pieces; a short text gives fewer.

        Returns:
            `Segmenter`: The segmenter of that language.
        """
        runs = [run for text in texts for run in _spaceless_runs(text)]
        if not runs:
            return cls()
        from tokenizers import Tokenizer, models, trainers

        trainer = trainers.UnigramTrainer(
            vocab_size=max(vocab_size, len(set("".join(runs))) + 1),
            show_progress=False,
            unk_token=_UNKNOWN,
            special_tokens=[_UNKNOWN],
            max_piece_length=12,
        )
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.train_from_iterator(runs, trainer)
        return cls(_settled(json.loads(tokenizer.to_str())["model"]["vocab"]))

    def split(self, text: str) -> list[str]:
        """
        The words of a text.

        Args:
            text (`str`): Any text.

        Returns:
            `list[str]`: Words, numbers and placeholders in their order.
        """
        words: list[str] = []
        for match in _TOKEN.finditer(normal_form("NFKC", text)):
            token = match.group()
            if match["placeholder"]:
                words.append(token)
            elif match["run"] and self._model is not None:
                words.extend(_pieces(self._model, token))
            elif token.isdecimal():
                words.append("".join(str(unicodedata.decimal(digit)) for digit in token))
            else:
                words.append(token.casefold())
        return words


def _unigram(vocab: list[tuple[str, float]]) -> "Tokenizer":
    from tokenizers import Tokenizer, models

    return Tokenizer(models.Unigram([(_UNKNOWN, 0.0), *vocab], 0))


def _pieces(model: "Tokenizer", run: str) -> list[str]:
    pieces: list[str] = []
    for start in range(0, len(run), _RUN_LENGTH):
        part = run[start : start + _RUN_LENGTH]
        for begin, end in model.encode(part, add_special_tokens=False).offsets:
            # A piece can't begin with a mark that sits on the letter before it.
            if pieces and unicodedata.category(part[begin])[0] == "M":
                pieces[-1] += part[begin:end]
            else:
                pieces.append(part[begin:end])
    return pieces


def _spaceless_runs(text: str) -> list[str]:
    return [m["run"][:_RUN_LENGTH] for m in _TOKEN.finditer(normal_form("NFKC", text)) if m["run"]]


def _settled(vocab: list[list]) -> list[tuple[str, float]]:
    # The trainer puts letters that lost their piece at the lowest score plus 0.0001 for each, in random order, and its
    # sums differ in the last bits from run to run. One score for all these and rounding make every run's model equal.
    scores = {piece: score for piece, score in vocab if piece != _UNKNOWN}
    lowest = min(scores.values())
    doubtful = lowest + 1e-4 * (sum(len(piece) == 1 for piece in scores) + 1)
    settled = {
        piece: lowest - 0.1 if len(piece) == 1 and score < doubtful else score for piece, score in scores.items()
    }
    return sorted(((piece, round(score, 6)) for piece, score in settled.items()), key=lambda item: (-item[1], item[0]))
