"""Translation memories in TMX (versions 1.1 to 1.4b), as translators and their offices keep and exchange them."""

import os
from collections.abc import Iterable
from typing import Any
from xml.parsers import expat

from .languages import normalize_language
from .pairs import ParallelPair, distinct, tidy_text, worth_keeping
from .problems import DataProblem, OnError, settle_problems


__all__ = ["read_tmx", "scan_tmx"]

_BLOCK = 1 << 16
_ENGLISH = "en"
# What stands between their tags is code of the file that was translated, no text; <sub> within is another text's.
_CODE = frozenset(("bpt", "ept", "it", "ph", "ut"))
_FIX_XML = "export the memory again; what stands before is read, the rest of the file isn't"


def read_tmx(
    path: str | os.PathLike[str], languages: Iterable[str] | None = None, on_error: OnError = "raise"
) -> list[ParallelPair]:
    """
    Read the pairs of a translation memory that have English on one side.

    A unit with several languages gives a pair for each; of several English variants the first counts. Left out are
    empty segments, and those without letters or the same as the English; codes of the translated file's format
    (`<ph>`, `<bpt>`...) are dropped, white space is collapsed. The file is streamed, in the encoding that it declares;
    no external entity is fetched, and a file that defines entities is refused.

    Args:
        path (`str` or `os.PathLike`): the file.
        languages (`Iterable[str]`, *optional*): keep only pairs in these; all by default.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`, see [`settle_problems`].

    Returns:
        `list[ParallelPair]`: distinct pairs; `row` is the line of the unit, `origin` the file's path.

    Raises:
        DataError: with every problem of the file: a unit without English, a variant without or of an unknown language,
            XML that breaks off.
        FileNotFoundError: if there is no such file.
    """
    pairs, problems = scan_tmx(path, languages)
    settle_problems(problems, on_error)
    return pairs


def scan_tmx(
    path: str | os.PathLike[str], languages: Iterable[str] | None = None
) -> tuple[list[ParallelPair], list[DataProblem]]:
    """Pairs and problems of a translation memory; arguments as in [`read_tmx`]."""
    wanted = None if languages is None else {normalize_language(tag) for tag in languages}
    reader = _Reader(os.fspath(path))
    reader.read()
    kept = [pair for pair in reader.pairs if wanted is None or pair.language in wanted]
    return distinct(kept), reader.problems


class _Reader:
    """Units as they come by; of the file no more is held than the one that is read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pairs: list[ParallelPair] = []
        self.problems: list[DataProblem] = []
        self._root: str | None = None
        self._row: int | None = None  # of the unit
        self._variants: list[tuple[int, str | None, str]] = []  # line, language and text
        self._variant: tuple[int, str | None] | None = None
        self._parts: list[str] | None = None  # of the segment
        self._code = 0  # depth
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._entity

    def read(self) -> None:
        try:
            with open(self.name, "rb") as file:
                while block := file.read(_BLOCK):
                    self._parser.Parse(block, False)
                self._parser.Parse(b"", True)
        except expat.ExpatError as error:
            got = expat.errors.messages.get(error.code, str(error))
            self._problem(error.lineno, None, f"broken XML ({got})", "well-formed XML", _FIX_XML)
        except _RefusedError as refused:
            self._problem(self._parser.CurrentLineNumber, None, *refused.args)
        except (LookupError, ValueError) as error:  # of the encoding that the file declares
            self._problem(None, None, f"an encoding that can't be read ({error})", "UTF-8 or UTF-16", "save it so")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        if self._root is None:
            self._root = tag
            if tag != "tmx":
                raise _RefusedError(f"the root element <{tag}>", "<tmx>", "name a translation memory")
        if self._parts is not None:
            self._code += tag in _CODE
        elif tag == "tu":
            self._row, self._variants = line, []
        elif tag == "tuv" and self._row is not None:
            self._variant = (line, attributes.get("xml:lang", attributes.get("lang")))
        elif tag == "seg" and self._variant is not None:
            self._parts, self._code = [], 0

    def _end(self, tag: str) -> None:
        if tag == "seg" and self._parts is not None and self._variant is not None:
            self._variants.append((*self._variant, tidy_text("".join(self._parts))))
            self._parts = self._variant = None
        elif self._parts is not None:
            self._code -= tag in _CODE
        elif tag == "tuv":
            self._variant = None
        elif tag == "tu" and self._row is not None:
            self._unit(self._row)
            self._row = None

    def _characters(self, text: str) -> None:
        if self._parts is not None and not self._code:
            self._parts.append(text)

    def _entity(self, *_: Any) -> None:
        raise _RefusedError(
            "a definition of an entity", "a memory without any", "write the text itself in their place"
        )

    def _unit(self, row: int) -> None:
        """The pairs of a unit that has ended."""
        told: list[tuple[str, str]] = []
        for line, tag, text in self._variants:
            if language := self._language(line, tag):
                told.append((language, text))
        english = next((text for language, text in told if _is_english(language) and text), None)
        others = [(language, text) for language, text in told if not _is_english(language) and text]
        if english is None and others and not any(_is_english(language) for language, _ in told):
            got = f"a unit in {', '.join(dict.fromkeys(language for language, _ in others))}"
            self._problem(row, "xml:lang", got, "English among its languages", "leave out units without English")
        if english is not None:
            self.pairs += [
                ParallelPair(language, text, english, self.name, row)
                for language, text in others
                if worth_keeping(text, english)
            ]

    def _language(self, line: int, tag: str | None) -> str | None:
        if tag is None:
            self._problem(line, "xml:lang", "a variant without it", "a language tag such as 'ur'", "add it to the tuv")
            return None
        try:
            return normalize_language(tag)
        except ValueError as error:
            self.problems.append(DataProblem.from_message(self.name, line, "xml:lang", str(error)))
            return None

    def _problem(self, row: int | None, field: str | None, got: str, expected: str, fix: str) -> None:
        self.problems.append(DataProblem(self.name, row, field, got, expected, fix))


class _RefusedError(Exception):
    """What was got, what was expected, how to mend it."""


def _is_english(language: str) -> bool:
    return language.partition("-")[0] == _ENGLISH
