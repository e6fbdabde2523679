"""Parallel text from gettext catalogues (.po, .mo): what translators of programs have written."""

import importlib.util
import io
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from gettext import c2py
from pathlib import Path

from babel.messages.mofile import read_mo

from .languages import normalize_language
from .pairs import ParallelPair, distinct, has_letters, tidy_text, worth_keeping
from .po_entries import Entry, PoFile, parse_po
from .problems import DataProblem, OnError, settle_problems, shorten


__all__ = ["catalog_language", "installed_catalogs", "read_gettext", "scan_catalogs"]

_FOLDERS_WITHOUT_NAME = {"po", "locale", "locales", "translations", "i18n", "l10n", "lang", "LC_MESSAGES"}
_MARKUP = re.compile(
    r"<[^<>]*>|&#?\w+;|%(?:\(\w+\)|\d+\$)?[-+ #0]*(?:(?!0)[\d.*]+)?(?:hh|h|ll|l|z)?[a-zA-Z%]|\$?\{[^{}]*\}|%\d|https?://\S+"
)
# A single mark before the letter that a key reaches, and its form behind texts in scripts without that letter: "(_F)".
_ACCELERATORS = tuple(
    (mark, re.compile(rf"(?<!{mark}){mark}(?=[^\W_])"), re.compile(rf"\s*\({mark}\w\)")) for mark in "_&~"
)
_ENTITY = re.compile(r"&#?\w+;")


@dataclass(frozen=True, slots=True)
class _Catalog:
    entries: list[Entry]
    plural_count: int
    plural_rule: str


def read_gettext(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    languages: Iterable[str] | None = None,
    *,
    language: str | None = None,
    origin: str | None = None,
    on_error: OnError = "raise",
) -> list[ParallelPair]:
    """
    Read gettext catalogues: `.po` and `.mo` files, and folders of them, searched through.

    Left out: fuzzy, obsolete and untranslated entries, and those of nothing but markup and placeholders. Contexts are
    ignored, white space is collapsed, and a single accelerator mark (`_`, `&`, `~`) is taken from both sides. Of a
    plural entry, English singular and plural stand beside the forms that the catalogue's rule gives for 1 and 7; a
    language with one form has it beside the English plural. Where `x.po` and `x.mo` are both there, `x.po` is read.

    A broken entry of a `.po` file (unfinished string, unknown keyword, missing `msgstr`, bytes in another encoding) is
    a problem with its line; the entries around it are kept. A damaged `.mo` file is one problem, as its parts hang
    together.

    Args:
        paths (`str`, `os.PathLike` or an iterable of them): files and folders.
        languages (`Iterable[str]`, *optional*): keep only catalogues in these languages; all by default.
        language (`str`, *optional*): language of every catalogue. By default it is read off the path
            (`.../<language>/LC_MESSAGES/x.mo`, `.../<language>/x.po`, `<language>.po`), else off the header.
        origin (`str`, *optional*): origin of every pair. By default the program, read off the path: `"django/conf"`
            for a package, `"gimp"` for `.../vi/LC_MESSAGES/gimp.mo` and `gimp/po/vi.po`.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`, see [`settle_problems`].

    Returns:
        `list[ParallelPair]`: distinct pairs; `row` is the line of the entry in a `.po` file.

    Raises:
        DataError: with every problem of every file.
        FileNotFoundError: if a path doesn't exist.
    """
    pairs, problems = scan_catalogs(paths, languages, language=language, origin=origin)
    settle_problems(problems, on_error)
    return pairs


def scan_catalogs(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    languages: Iterable[str] | None = None,
    *,
    language: str | None = None,
    origin: str | None = None,
) -> tuple[list[ParallelPair], list[DataProblem]]:
    """Pairs and problems of gettext catalogues; arguments as in [`read_gettext`]."""
    wanted = None if languages is None else {normalize_language(tag) for tag in languages}
    given = None if language is None else normalize_language(language)
    pairs: list[ParallelPair] = []
    problems: list[DataProblem] = []
    for path in _catalog_files(paths):
        tag = given or catalog_language(path)
        if tag and wanted is not None and tag not in wanted:
            continue
        catalog, header_language, found = _read_catalog(path)
        tag = tag or _tag_or_none(header_language)
        if tag and wanted is not None and tag not in wanted:
            continue
        problems += found
        if catalog is None:
            continue
        if tag is None:
            got = f"no language in the path, and {shorten(header_language)} in the header"
            expected = "a language tag such as 'ur' as folder, file name or `Language:` header"
            problems.append(DataProblem(str(path), None, "Language", got, expected, "pass `language=`"))
        else:
            pairs += _catalog_pairs(catalog, tag, origin or _program(path))
    return distinct(pairs), problems


def installed_catalogs(package: str = "django", languages: Iterable[str] | None = None) -> list[Path]:
    """
    Catalogues that an installed Python package carries, found without importing it; feed them to [`read_gettext`].

    Args:
        package (`str`, *optional*, defaults to `"django"`): import name of a top-level package.
        languages (`Iterable[str]`, *optional*): keep only catalogues in these languages.

    Returns:
        `list[Path]`: `.po` and `.mo` files in a fixed order, one for each catalogue (`.po` where both are there).

    Raises:
        ValueError: if no such package is installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"got package {package!r}, which is not installed here; expected the import name of an installed package; "
            f"install it, for Django with `pip install lira-hf[quickstart]`."
        )
    wanted = None if languages is None else {normalize_language(tag) for tag in languages}
    files = _catalog_files(Path(folder) for folder in spec.submodule_search_locations)
    return [path for path in files if "LC_MESSAGES" in path.parts and (not wanted or catalog_language(path) in wanted)]


def catalog_language(path: str | os.PathLike[str]) -> str | None:
    """Canonical tag of the language that a catalogue's path names, `None` if it names none."""
    path = Path(path)
    if path.parent.name == "LC_MESSAGES":
        return _tag_or_none(path.parent.parent.name)
    if path.parent.parent.name in _FOLDERS_WITHOUT_NAME and _tag_or_none(path.parent.name):
        return _tag_or_none(path.parent.name)  # before the stem: "app" is a language too
    last = path.stem.rpartition("-")[2]  # "admin-th"
    return _tag_or_none(path.stem) or _tag_or_none(last) or _tag_or_none(path.parent.name)


def _tag_or_none(tag: str | None) -> str | None:
    if not tag or not tag[:2].isalpha():
        return None
    try:
        return normalize_language(tag)
    except ValueError:
        return None


def _catalog_files(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    for entry in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = Path(entry)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*.[pm]o") if file.is_file())
            sources = {file for file in found if file.suffix == ".po"}
            yield from (file for file in found if file in sources or file.with_suffix(".po") not in sources)
        elif path.exists():
            yield path
        else:
            raise FileNotFoundError(f"got {str(path)!r}, which doesn't exist; expected a .po or .mo file or a folder.")


def _program(path: Path) -> str:
    parts = path.parts
    if "site-packages" in parts:
        parts = parts[len(parts) - parts[::-1].index("site-packages") :]
        return "/".join(parts[: parts.index("locale")] if "locale" in parts else parts[:-1])
    if path.parent.name == "LC_MESSAGES":
        return path.stem
    folders = [folder for folder in reversed(path.parent.parts) if folder != path.anchor]
    if folders and not _tag_or_none(path.stem) and _tag_or_none(folders[0]):
        folders = folders[1:]
    return next((folder for folder in folders if folder not in _FOLDERS_WITHOUT_NAME), str(path))


def _read_catalog(path: Path) -> tuple[_Catalog | None, str | None, list[DataProblem]]:
    content = path.read_bytes()
    if path.suffix == ".mo":
        return _read_mo(path, content)
    parsed: PoFile = parse_po(str(path), content)
    return _Catalog(parsed.entries, parsed.plural_count, parsed.plural_rule), parsed.language, parsed.problems


def _read_mo(path: Path, content: bytes) -> tuple[_Catalog | None, str | None, list[DataProblem]]:
    try:
        _check_mo_size(content)
        catalog = read_mo(io.BytesIO(content))
    except (OSError, struct.error, ValueError, LookupError, TypeError, AssertionError) as error:
        got = f"{len(content)} bytes that can't be read ({type(error).__name__}: {error})"
        fix = "copy the file again or make it anew with `msgfmt`"
        return None, None, [DataProblem(str(path), None, None, got, "a complete GNU .mo file", fix)]
    entries = []
    for message in catalog:
        english = message.id if isinstance(message.id, tuple | list) else (message.id,)
        texts = message.string if isinstance(message.string, tuple | list) else (message.string,)
        if english[0]:
            entries.append(Entry(tuple(map(str, english)), tuple(text or "" for text in texts), None))
    return _Catalog(entries, catalog.num_plurals, catalog.plural_expr), catalog.locale_identifier, []


def _check_mo_size(content: bytes) -> None:
    """Raises a `ValueError` where strings overlap, by which a small file could stand for terabytes of text."""
    order = "<" if content[:4] == b"\xde\x12\x04\x95" else ">"
    count, *tables = struct.unpack(f"{order}3I", content[8:20])
    total = 0
    for table in tables:
        lengths = struct.unpack(f"{order}{2 * count}I", content[table : table + 8 * count])[::2]
        total += sum(lengths)
    if total > 2 * len(content):
        raise ValueError(f"strings of {total} bytes, which overlap")


def _catalog_pairs(catalog: _Catalog, language: str, origin: str) -> Iterator[ParallelPair]:
    singular, plural = _plural_forms(catalog)
    for entry in catalog.entries:
        forms = [(0, 0)]
        if len(entry.english) > 1:
            forms = [(1, 0)] if singular == plural or len(entry.texts) == 1 else [(0, singular), (1, plural)]
        sides = [(entry.english[side], entry.texts[form]) for side, form in forms if form < len(entry.texts)]
        for english, text in sides:
            english, text = _without_accelerators(tidy_text(english), tidy_text(text))
            if (
                worth_keeping(text, english)
                and has_letters(_MARKUP.sub("", english))
                and has_letters(_MARKUP.sub("", text))
            ):
                yield ParallelPair(language, text, english, origin, entry.row)


def _plural_forms(catalog: _Catalog) -> tuple[int, int]:
    """Which forms a language uses for 1 and for a large number: the rule of the catalogue's header says."""
    if catalog.plural_count == 1:
        return 0, 0
    try:
        rule = c2py(catalog.plural_rule)
        forms = int(rule(1)), int(rule(7))
    except (ValueError, ArithmeticError):
        forms = 0, -1
    # A rule that names a form beyond those there are is none.
    return forms if min(forms) >= 0 else (0, catalog.plural_count - 1)


def _without_accelerators(english: str, text: str) -> tuple[str, str]:
    for mark, prefix, suffix in _ACCELERATORS:
        hits = [hit for hit in prefix.finditer(english) if not _ENTITY.match(english, hit.start())]
        if len(hits) != 1 or mark * 2 in english:
            continue
        token = next(word for word in english.split() if mark in word)
        inside = hits[0].start() > 0 and english[hits[0].start() - 1].isalnum()
        # An identifier (max_length) or a name (R&D) stays as it is in a translation; a word doesn't.
        if token in text.split() and inside or inside and mark not in text:
            continue
        english = english[: hits[0].start()] + english[hits[0].end() :]
        text = prefix.sub("", suffix.sub("", text), count=1)
    return english, text
