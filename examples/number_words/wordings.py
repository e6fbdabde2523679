"""Number words and templates of every language: filling a template with a problem, and reading a text back."""

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple


__all__ = [
    "KINDS",
    "LANGUAGES",
    "NAMES",
    "OBJECTS",
    "Reading",
    "english_tokens",
    "english_vocabulary",
    "fill",
    "number_word",
    "number_words_in",
    "read",
    "wording_count",
]

_FOLDER = Path(__file__).parent
_NUMBERS: dict[str, dict[str, str]] = json.loads((_FOLDER / "number_words.json").read_text(encoding="utf-8"))
_TEMPLATES: dict[str, dict] = json.loads((_FOLDER / "templates.json").read_text(encoding="utf-8"))

LANGUAGES: tuple[str, ...] = tuple(_TEMPLATES)
KINDS: tuple[str, ...] = tuple(_TEMPLATES["en"]["templates"])
NAMES: tuple[str, ...] = tuple(_TEMPLATES["en"]["names"])
OBJECTS: tuple[str, ...] = tuple(_TEMPLATES["en"]["objects"])

_SLOT = re.compile(r"\{(\w+)\}")
_NUMBER_SLOTS = ("a", "b", "c")
# Written next to the number they count, so a number word may carry them: Bengali's classifier.
_SUFFIXES = {"bn": "টি"}


class Reading(NamedTuple):
    """What a question says, whatever its language.

    kind (`str`): one of `KINDS`. wording (`int`): which of its templates. numbers (`tuple[int, ...]`): in the order
    of the slots a, b, c. names (`tuple[str | None, str | None]`): keys of `NAMES`, None where the wording has no such
    person. object (`str`): a key of `OBJECTS`.
    """

    kind: str
    wording: int
    numbers: tuple[int, ...]
    names: tuple[str | None, str | None]
    object: str


def _of_language(language: str) -> dict:
    if language not in _TEMPLATES:
        raise ValueError(f"language is {language!r}; expected one of {', '.join(LANGUAGES)}")
    return _TEMPLATES[language]


def number_word(number: int, language: str) -> str:
    """The word of `number` (`int`, 0 to 99) in `language`, as in number_words.json (NFC).

    Raises `ValueError` for a number or a language that is not there.
    """
    _of_language(language)
    if not 0 <= number <= 99:
        raise ValueError(f"number is {number}; expected 0 to 99")
    return _NUMBERS[language][str(number)]


def _counting(number: int, language: str) -> str:
    """The word as it stands before a noun. Only Filipino changes it: its linker is -ng, -g or a separate na."""
    word = number_word(number, language)
    if language != "fil":
        return word
    if word[-1] in "aeiou":
        return f"{word}ng"
    return f"{word}g" if word[-1] == "n" else f"{word} na"


def wording_count(kind: str) -> int:
    """How many templates `kind` has, the same number in every language. Raises `ValueError` for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    return len(_TEMPLATES["en"]["templates"][kind])


def _template(kind: str, wording: int, language: str) -> str:
    data = _of_language(language)
    if not 0 <= wording < wording_count(kind):
        raise ValueError(f"wording is {wording}; expected 0 to {wording_count(kind) - 1} for {kind}")
    return data["templates"][kind][wording]


def fill(
    kind: str, wording: int, numbers: Sequence[int], names: Sequence[str | None], object_key: str, language: str
) -> str:
    """The question in `language`, NFC.

    kind (`str`), wording (`int`): which template. numbers (`Sequence[int]`): for its slots a, b, c; one more than the
    template needs is left out. names (`Sequence[str | None]`): two keys of `NAMES`, None only where the template has
    no such person. object_key (`str`): a key of `OBJECTS`. Raises `ValueError` for what is unknown or too little.
    """
    template, data = _template(kind, wording, language), _of_language(language)
    slots = dict(zip(_NUMBER_SLOTS, (_counting(number, language) for number in numbers), strict=False))
    for slot, name in zip(("n1", "n2"), names, strict=True):
        if name is not None:
            slots[slot] = data["names"][name]
            slots[f"{slot}g"] = data.get("genitives", data["names"])[name]
    slots["obj"] = data["objects"][object_key]
    slots["cl"] = data.get("classifiers", data["objects"])[object_key]
    missing = sorted(set(_SLOT.findall(template)) - set(slots))
    if missing:
        raise ValueError(
            f"no value for the slots {missing} of {language} {kind} {wording}; pass all numbers and names"
        )
    return unicodedata.normalize("NFC", template.format(**slots))


@cache
def _values(slot: str, language: str) -> dict[str, int | str]:
    """What may stand in a slot: text to number, or text to key. The longest text first, for the regular expression."""
    data = _of_language(language)
    if slot in _NUMBER_SLOTS:
        values = {_counting(number, language): number for number in range(100)}
    elif slot == "obj":
        values = {text: key for key, text in data["objects"].items()}
    elif slot in ("n1", "n2"):
        values = {text: key for key, text in data["names"].items()}
    elif slot in ("n1g", "n2g"):
        values = {text: key for key, text in data["genitives"].items()}
    else:  # A classifier is shared by several objects and says nothing about which.
        values = dict.fromkeys(data["classifiers"].values(), "")
    return dict(sorted(values.items(), key=lambda item: -len(item[0])))


@cache
def _patterns(language: str) -> list[tuple[str, int, list[str], re.Pattern[str]]]:
    """(kind, wording, slots in order, pattern with one group a slot) of each template."""
    patterns = []
    for kind in KINDS:
        for wording in range(wording_count(kind)):
            pieces = _SLOT.split(_template(kind, wording, language))
            literals, slots = pieces[::2], pieces[1::2]
            pattern = re.escape(literals[0])
            for slot, literal in zip(slots, literals[1:], strict=True):
                choices = "|".join(map(re.escape, _values(slot, language)))
                pattern += f"({choices}){re.escape(literal)}"
            patterns.append((kind, wording, slots, re.compile(pattern)))
    return patterns


def _consistent(slots: list[str], texts: tuple[str, ...], language: str) -> dict[str, int | str] | None:
    """The value of each slot, or None where a repeated slot was filled in two ways."""
    values: dict[str, int | str] = {}
    for slot, text in zip(slots, texts, strict=True):
        value = _values(slot, language)[text]
        if values.setdefault(slot.removesuffix("g"), value) != value:
            return None
    return values


def read(text: str, language: str = "en") -> Reading:
    """Reads a question back: the inverse of `fill` for every text that it makes.

    Raises `ValueError` where the text is no filled template of `language`.
    """
    _of_language(language)
    text = unicodedata.normalize("NFC", text.strip())
    for kind, wording, slots, pattern in _patterns(language):
        match = pattern.fullmatch(text)
        values = _consistent(slots, match.groups(), language) if match else None
        if values is not None:
            numbers = tuple(values[slot] for slot in _NUMBER_SLOTS if slot in values)
            return Reading(kind, wording, numbers, (values.get("n1"), values.get("n2")), values["obj"])
    raise ValueError(f"text is {text!r}; expected a filled template of {language!r}: see templates.json")


@cache
def _number_finder(language: str) -> tuple[re.Pattern[str], dict[str, int]]:
    values = {number_word(number, language): number for number in range(100)}
    values |= {_counting(number, language): number for number in range(100)}
    choices = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
    if language == "th":  # Thai has no space between words.
        return re.compile(f"({choices})"), values
    # Combining marks are not \w everywhere, so a word ends at white space or punctuation.
    suffix = f"(?:{_SUFFIXES[language]})?" if language in _SUFFIXES else ""
    return re.compile(rf"(?<!\S)({choices}){suffix}(?=[\s.,?۔।؟]|$)", re.IGNORECASE), values


def number_words_in(text: str, language: str) -> list[int]:
    """All numbers that are spelled out in a text, in its order, by search for the words alone: knows no template.

    In Thai, which has no spaces, a number word inside another word would be found too; no template has one.
    """
    finder, values = _number_finder(language)
    return [values[match.lower()] for match in finder.findall(unicodedata.normalize("NFC", text))]


def english_tokens(text: str) -> list[str]:
    """Lower-cased words and punctuation, split as `tokenizers.pre_tokenizers.Whitespace` does: twenty - one."""
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def english_vocabulary() -> list[str]:
    """Every token that an English question can hold, by `english_tokens`, sorted. Answers in digits are not in it."""
    data = _of_language("en")
    texts = [_SLOT.sub(" ", template) for kind in KINDS for template in data["templates"][kind]]
    texts += [*data["names"].values(), *data["objects"].values(), *_NUMBERS["en"].values()]
    return sorted({token for text in texts for token in english_tokens(text)})
