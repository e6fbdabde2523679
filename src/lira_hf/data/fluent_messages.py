"""Parallel text from Fluent (.ftl), the format of Mozilla's programs, in folders and in their zip archives."""

import os
import re
import struct
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .catalogs import _FOLDERS_WITHOUT_NAME, _tag_or_none
from .json_messages import is_key_name, message_pair
from .languages import normalize_language
from .pairs import ParallelPair, distinct
from .problems import DataProblem, OnError, settle_problems, shorten


__all__ = ["read_fluent", "scan_fluent"]

_ENGLISH = ("en-US", "en")
_LARGEST = 64 * 2**20  # bytes of a catalogue in an archive
_LOCALE_FOLDERS = {*_FOLDERS_WITHOUT_NAME, "localization"}
# Terms within terms, and the length of a term's text: past these a reference stays as it is written, since a few lines
# of terms that name each other twice would otherwise stand for terabytes.
_MOST_NESTING = 10
_LONGEST_TERM = 400
# What zipfile raises besides its own for an archive with wrong bytes in it.
_BROKEN = (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, struct.error)
# Attributes that say what to press or how to look.
_NO_TEXT = ("key", "style", "aria-keyshortcuts")


@dataclass(frozen=True, slots=True)
class _File:
    language: str
    name: str  # behind the folder of the language, the same in every language
    place: str
    content: bytes


@dataclass(slots=True)
class _Locale:
    patterns: dict[tuple[str, str, str], tuple[Any, int]] = field(default_factory=dict)
    terms: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, str | None] = field(default_factory=dict)


def read_fluent(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    languages: Iterable[str] | None = None,
    *,
    origin: str | None = None,
    on_error: OnError = "raise",
) -> list[ParallelPair]:
    """
    Read the Fluent files (`.ftl`) of one program: folders, and zip archives such as Firefox's `omni.ja` and language
    packs (`.xpi`), searched through. English may lie elsewhere than the other languages: all paths are read together,
    and a message is paired with that of the same file and name.

    The language of a file is the folder behind `localization`, `locales`, `l10n` and the like, else the first folder
    that is named as a language; English is `en-US` or `en`. Values and attributes of messages are texts of their own.
    Of a choice, its default stands; a term is replaced by its text, if need be the English one; other placeholders
    stay.
    Left out: access and shortcut keys, untranslated entries, and those of nothing but markup and placeholders.

    A broken entry is a problem with its line; the entries around it are kept. A broken archive is one problem.

    Args:
        paths (`str`, `os.PathLike` or an iterable of them): folders and zip archives.
        languages (`Iterable[str]`, *optional*): keep only these languages; all by default.
        origin (`str`, *optional*): origin of every pair. By default the top folder behind the language's, such as
            `"browser"`, or the name of a file that lies in none.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`, see [`settle_problems`].

    Returns:
        `list[ParallelPair]`: distinct pairs; `row` is the line of the message in the language's file.

    Raises:
        DataError: with every problem of every file; also if there is no English.
        FileNotFoundError: if a path doesn't exist.
        ImportError: if `fluent.syntax` is not installed.
    """
    pairs, problems = scan_fluent(paths, languages, origin=origin)
    settle_problems(problems, on_error)
    return pairs


def scan_fluent(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    languages: Iterable[str] | None = None,
    *,
    origin: str | None = None,
) -> tuple[list[ParallelPair], list[DataProblem]]:
    """Pairs and problems of Fluent files; arguments as in [`read_fluent`]."""
    places = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    wanted = None if languages is None else {normalize_language(tag) for tag in languages}
    problems: list[DataProblem] = []
    locales: dict[str, _Locale] = {}
    for place in places:
        for file in _files(place, problems):
            is_english = file.language in _ENGLISH
            if not is_english and (
                file.language.startswith("en-") or (wanted is not None and file.language not in wanted)
            ):
                continue
            _parse(file, locales.setdefault("en" if is_english else file.language, _Locale()), problems)
    english = locales.pop("en", None)
    if english is None:
        got, expected = "no English .ftl file", "`localization/en-US/....ftl` or the like"
        fix = "give the folder or archive that has the English ones too (Firefox: both files omni.ja)"
        return [], [*problems, DataProblem(", ".join(map(str, places)), None, None, got, expected, fix)]
    for locale in locales.values():
        # Where a language has no name of its own for the program, the English one is used.
        locale.terms = {**english.terms, **locale.terms}
    pairs = [pair for tag in sorted(locales) for pair in _locale_pairs(english, locales[tag], tag, origin)]
    return distinct(pairs), problems


def _files(path: Path, problems: list[DataProblem]) -> Iterator[_File]:
    """Files of a folder or archive whose path names a language."""
    if path.is_dir():
        for file in sorted(path.rglob("*.ftl")):
            # The folder itself may be the one that names the language.
            located = _located((path.resolve().name, *file.relative_to(path).parts))
            if located and file.is_file():
                yield _File(*located, str(file), file.read_bytes())
        return
    if not path.exists():
        raise FileNotFoundError(f"got {str(path)!r}, which doesn't exist; expected a folder or a zip archive.")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, *_BROKEN) as error:
        got, fix = f"what is no zip archive ({error})", "copy the file again; folders are read too"
        problems.append(DataProblem(str(path), None, None, got, "a folder or a zip archive of .ftl files", fix))
        return
    with archive:
        for name in sorted(archive.namelist()):
            located = _located(PurePosixPath(name).parts) if name.endswith(".ftl") else None
            if located is None:
                continue
            size = archive.getinfo(name).file_size
            if size > _LARGEST:  # a few kilobytes may say that they unpack to gigabytes
                got = f"a member of {size:,} bytes"
                expected = f"{_LARGEST:,} at most"
                problems.append(
                    DataProblem(f"{path}/{name}", None, None, got, expected, "unpack it, and see what it is")
                )
                continue
            try:
                yield _File(*located, f"{path}/{name}", archive.read(name))
            except (zipfile.BadZipFile, zlib.error, *_BROKEN) as error:
                got = f"a member that can't be read ({type(error).__name__}: {error})"
                problems.append(DataProblem(f"{path}/{name}", None, None, got, "a whole file", "copy it again"))


def _located(parts: tuple[str, ...]) -> tuple[str, str] | None:
    """Language of a path and the path behind it."""
    tags = [_tag_or_none(part) for part in parts[:-1]]
    found = [at for at, tag in enumerate(tags) if tag]
    behind = [at for at in found if at and parts[at - 1] in _LOCALE_FOLDERS]
    for at in behind or found:
        return tags[at] or "", "/".join(parts[at + 1 :])
    return None


def _parse(file: _File, locale: _Locale, problems: list[DataProblem]) -> None:
    try:
        from fluent.syntax import FluentParser, ast
        from fluent.syntax.errors import ParseError
    except ImportError as error:
        raise ImportError(
            "the reader of Fluent files needs `fluent.syntax`, which is not installed; install it with `pip install "
            "'lira-hf[quickstart]'`"
        ) from error
    # One byte that is no UTF-8 spoils its own entry, not the file.
    text = file.content.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n")
    ends = [end.start() for end in re.finditer("\n", text)]

    class Parser(FluentParser):
        def get_entry(self, ps: Any) -> Any:
            try:
                return super().get_entry(ps)
            except RecursionError as error:  # spoils its own entry too
                raise ParseError("E0028") from error

    for entry in Parser().parse(text).body:
        row = bisect_left(ends, entry.span.start) + 1 if entry.span else None
        if isinstance(entry, ast.Junk):
            reasons = "; ".join(f"{note.code} {note.message}" for note in entry.annotations)
            got = f"{shorten((entry.content or '').strip())} ({reasons})"
            fix = "mend the entry or delete it"
            problems.append(DataProblem(file.place, row, None, got, "a Fluent message", fix))
        elif isinstance(entry, ast.Message | ast.Term):
            if entry.span and any("\ud800" <= char <= "\udfff" for char in text[entry.span.start : entry.span.end]):
                name, got = entry.id.name, "bytes that are no UTF-8"
                problems.append(DataProblem(file.place, row, name, got, "UTF-8", "save the file as UTF-8"))
            elif isinstance(entry, ast.Term):
                locale.terms.setdefault(entry.id.name, entry.value)
            else:
                _keep(file.name, entry, row or 0, locale)


def _keep(name: str, message: Any, row: int, locale: _Locale) -> None:
    if message.value is not None and not is_key_name(message.id.name):
        locale.patterns[name, message.id.name, ""] = (message.value, row)
    for attribute in message.attributes:
        title = attribute.id.name
        if attribute.value is not None and title not in _NO_TEXT and not is_key_name(title):
            locale.patterns[name, message.id.name, title] = (attribute.value, row)


def _locale_pairs(english: _Locale, locale: _Locale, language: str, origin: str | None) -> Iterator[ParallelPair]:
    for key, (pattern, row) in locale.patterns.items():
        source = english.patterns.get(key)
        if source is None:
            continue
        folder, slash, _ = key[0].partition("/")
        place = origin or (folder if slash else PurePosixPath(key[0]).stem)
        pair = message_pair(language, _text(pattern, locale), _text(source[0], english), place, row)
        if pair:
            yield pair


def _text(pattern: Any, locale: _Locale, inside: tuple[str, ...] = ()) -> str:
    from fluent.syntax import ast

    return "".join(
        element.value if isinstance(element, ast.TextElement) else _placeable(element.expression, locale, inside)
        for element in pattern.elements
    )


def _placeable(expression: Any, locale: _Locale, inside: tuple[str, ...]) -> str:
    from fluent.syntax import ast
    from fluent.syntax.serializer import serialize_expression

    if isinstance(expression, ast.Placeable):
        return _placeable(expression.expression, locale, inside)
    if isinstance(expression, ast.StringLiteral):
        return str(expression.parse()["value"])
    if isinstance(expression, ast.NumberLiteral):
        return str(expression.value)
    if isinstance(expression, ast.SelectExpression):
        return _text(next(variant.value for variant in expression.variants if variant.default), locale, inside)
    if isinstance(expression, ast.TermReference) and expression.attribute is None:
        name = expression.id.name
        # A term that leads back to itself stays as it is written.
        if name in locale.terms and name not in inside and len(inside) < _MOST_NESTING:
            if name not in locale.resolved:
                text = _text(locale.terms[name], locale, (*inside, name))
                locale.resolved[name] = text if len(text) <= _LONGEST_TERM else None
            if (resolved := locale.resolved[name]) is not None:
                return resolved
    return f"{{ {serialize_expression(expression)} }}"
