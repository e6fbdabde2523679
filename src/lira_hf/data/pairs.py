"""The row of parallel text, and what makes a text worth keeping."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lira_hf.translation.unicode_forms import normal_form


__all__ = ["ParallelPair", "distinct", "has_letters", "tidy_text", "worth_keeping"]

# Marks of writing direction and soft hyphens say nothing; the joiners U+200C and U+200D do, in Urdu and Bengali.
_INVISIBLE = re.compile("[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff\u00ad]")


@dataclass(frozen=True, slots=True)
class ParallelPair:
    """
    One text and its English.

    Args:
        language (`str`): canonical tag of the text's language.
        text (`str`): the text.
        english (`str`): its English.
        origin (`str`): where it comes from: `"cldr"`, a program such as `"django/conf"`, or a file's path.
        row (`int`, *optional*): line in the file, from 1.
    """

    language: str
    text: str
    english: str
    origin: str
    row: int | None = None


def tidy_text(text: str) -> str:
    """NFC, marks of writing direction removed, every run of white space one space, none at the ends."""
    return " ".join(_INVISIBLE.sub("", normal_form("NFC", text)).split())


def has_letters(text: str) -> bool:
    """Whether any character is a letter of any script."""
    return any(character.isalpha() for character in text)


def worth_keeping(text: str, english: str) -> bool:
    """Whether both sides say something and the text isn't just the English again (untranslated)."""
    return has_letters(text) and has_letters(english) and text.casefold() != english.casefold()


def distinct(pairs: Iterable[ParallelPair]) -> list[ParallelPair]:
    """The pairs without repeats of (language, text, english); the first of each stays."""
    seen: dict[tuple[str, str, str], ParallelPair] = {}
    for pair in pairs:
        seen.setdefault((pair.language, pair.text, pair.english), pair)
    return list(seen.values())
