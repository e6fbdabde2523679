"""Parallel text: sentences of a language beside their English, from CLDR, gettext catalogues, TSV and TMX files."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from babel import Locale, UnknownLocaleError, localedata

from .catalogs import installed_catalogs, read_gettext
from .files import broken_bytes, read_lines, replace_files
from .languages import likely_script, normalize_language
from .pairs import ParallelPair, distinct, tidy_text, worth_keeping
from .problems import DataError, DataProblem, OnError, repeated_columns, settle_problems, shorten
from .tmx import scan_tmx


__all__ = [
    "ParallelPair",
    "installed_catalogs",
    "read_cldr",
    "read_gettext",
    "read_parallel",
    "read_tsv",
    "tidy_text",
    "write_tsv",
]

_TSV_COLUMNS = ("language", "text", "english")
_SEPARATORS = " ,;،、"
_PLACEHOLDER = re.compile(r"\{\d+\}|%s|%\(\d+\)s")
# Where CLDR keeps texts that people write out in full. `None` stands for every key at that depth.
_CLDR_TEXTS: tuple[tuple[str | None, ...], ...] = (
    ("languages", None),
    ("scripts", None),
    ("territories", None),
    ("variants", None),
    ("currency_names", None),
    ("currency_names_plural", None, None),
    ("months", None, "wide", None),
    ("days", None, "wide", None),
    ("quarters", None, "wide", None),
    ("eras", "wide", None),
    ("day_periods", None, "wide", None),
    ("unit_display_names", None, "long"),
    ("unit_patterns", None, "long", None),
    ("compound_unit_patterns", None, "long", None),
    ("compound_unit_patterns", None, "long", None, None),
    ("time_zones", None, "city"),
    ("time_zones", None, "long", None),
    ("meta_zones", None, "long", None),
    ("zone_formats", "region"),
    ("zone_formats", "regions", None),
    ("list_patterns", None, "end"),
    ("list_patterns", None, "2"),
    ("measurement_systems", None),
    ("date_fields", None, None),
    ("date_fields", None, None, None),
)


def read_cldr(languages: Iterable[str]) -> list[ParallelPair]:
    """
    Names from Unicode's CLDR, as Babel carries it: languages, scripts, territories, variants, currencies, units,
    months, days, quarters, eras, day periods, zones and their cities, each language against English at the same place.

    What a language inherits from CLDR's root, and what equals the English, is no translation and is left out.

    Args:
        languages (`Iterable[str]`): language tags.

    Returns:
        `list[ParallelPair]`: distinct pairs with origin `"cldr"`, in the order of the languages and of CLDR.

    Raises:
        ValueError: for an unknown tag, or a language that Babel has no locale data of.
    """
    pairs = []
    with _fresh_locale_data():
        english = _locale_texts("en")
        root = _texts(_resolving("root"))
        for tag in dict.fromkeys(normalize_language(language) for language in languages):
            for path, text in _locale_texts(tag).items():
                source = english.get(path) or _default_city(path)
                if source is None or text == root.get(path):
                    continue
                if worth_keeping(text, source):
                    pairs.append(ParallelPair(tag, text, source, "cldr"))
    return distinct(pairs)


def _default_city(path: tuple[Any, ...]) -> str | None:
    """CLDR names a zone's city in English only where it isn't the last part of the zone's identifier."""
    if path[0] != "time_zones" or path[-1] != "city" or path[1].startswith("Etc/"):
        return None
    return str(path[1]).rpartition("/")[2].replace("_", " ")


def _locale_texts(tag: str) -> dict[tuple[Any, ...], str]:
    try:
        locale = Locale.parse(tag, sep="-")
        if likely_script(str(locale)) != likely_script(tag) or locale.language != tag.partition("-")[0]:
            raise UnknownLocaleError(tag)
    except (UnknownLocaleError, ValueError) as error:
        raise ValueError(
            f"got language {tag!r}, of which Babel has no locale data; expected a language among "
            "`babel.localedata.locale_identifiers()`; leave it out here and bring its text as TSV or gettext."
        ) from error
    return _texts(_resolving(str(locale)))


@contextmanager
def _fresh_locale_data() -> Iterator[None]:
    """
    Babel's data as in a new process. Reading resolves aliases and writes what they stand for into Babel's cache, by
    which later readings differ: 4,341 pairs of "vi" and "bn" for 4,340 where anybody had read units before (measured).
    """
    with getattr(localedata, "_cache_lock", nullcontext()):
        cache: dict[str, Any] = getattr(localedata, "_cache", {})
        held = dict(cache)
        cache.clear()
        try:
            yield
        finally:
            cache.clear()
            cache.update(held)


def _resolving(name: str) -> Mapping[Any, Any]:
    # Never `merge_inherited=False`: Babel would keep the unmerged data in its cache for the whole process.
    data: dict[Any, Any] = localedata.load(name)
    return localedata.LocaleDataDict(data)


def _texts(data: Mapping[Any, Any]) -> dict[tuple[Any, ...], str]:
    texts: dict[tuple[Any, ...], str] = {}
    for pattern in _CLDR_TEXTS:
        for path, value in _walk(data, pattern, ()):
            bare = tidy_text(_PLACEHOLDER.sub(" ", value))
            texts[path] = bare.strip(_SEPARATORS) if bare != tidy_text(value) else bare
    return texts


def _walk(node: Any, pattern: tuple[str | None, ...], path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Babel's nested data are mappings that resolve aliases when read, and no `dict`s."""
    if not pattern:
        if isinstance(node, str):
            yield path, node
        return
    if not isinstance(node, Mapping):
        return
    for key in list(node) if pattern[0] is None else [pattern[0]]:
        if key in node:
            yield from _walk(node[key], pattern[1:], (*path, key))


def read_parallel(path: str | os.PathLike[str], on_error: OnError = "raise") -> list[ParallelPair]:
    """
    Read a file of parallel text: a translation memory if it is named `.tmx`, see [`read_tmx`], else as [`read_tsv`].

    Args:
        path (`str` or `os.PathLike`): the file.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`, see [`settle_problems`].

    Returns:
        `list[ParallelPair]`: the good rows.

    Raises:
        DataError: with every problem of the file.
        FileNotFoundError: if there is no such file.
    """
    pairs, problems = scan_parallel(path)
    settle_problems(problems, on_error)
    return pairs


def scan_parallel(path: str | os.PathLike[str]) -> tuple[list[ParallelPair], list[DataProblem]]:
    """Good rows and problems of a file of parallel text; see [`read_parallel`]."""
    return scan_tmx(path) if Path(path).suffix.lower() == ".tmx" else scan_tsv(path)


def read_tsv(path: str | os.PathLike[str], on_error: OnError = "raise") -> list[ParallelPair]:
    """
    Read parallel text from a tab-separated file.

    The first line names the columns `language`, `text`, `english` in any order; `origin` is taken where it is there,
    other columns are ignored. Cells hold no tabs, no line breaks and no quoting: what stands between two tabs is the
    text. UTF-8, with or without byte order mark, either line ending.

    Args:
        path (`str` or `os.PathLike`): the file.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`, see [`settle_problems`].

    Returns:
        `list[ParallelPair]`: the good rows; `row` is the line in the file, `origin` the file's path by default.

    Raises:
        DataError: with every problem of the file: a missing column, a wrong number of cells, an empty cell, an unknown
            language, bytes that are no UTF-8.
        FileNotFoundError: if there is no such file.
    """
    pairs, problems = scan_tsv(path)
    settle_problems(problems, on_error)
    return pairs


def scan_tsv(path: str | os.PathLike[str]) -> tuple[list[ParallelPair], list[DataProblem]]:
    """Good rows and problems of a TSV file."""
    name = os.fspath(path)
    pairs: list[ParallelPair] = []
    problems: list[DataProblem] = []
    lines = read_lines(name)
    header = [cell.strip().lower() for cell in next(lines, (1, ""))[1].split("\t")]
    missing = [column for column in _TSV_COLUMNS if column not in header]
    if missing:
        fix = "write a first line with the columns' names, separated by tabs"
        got = f"the columns {shorten(header)}"
        return [], [DataProblem(name, 1, column, got, f"a column named {column!r}", fix) for column in missing]
    if repeated := repeated_columns(name, header, (*_TSV_COLUMNS, "origin")):
        return [], repeated
    for row, line in lines:
        if not line:
            continue
        found = _tsv_row(name, row, header, line.split("\t"))
        if isinstance(found, DataProblem):
            problems.append(found)
        else:
            pairs.append(found)
    return pairs, problems


def _tsv_row(name: str, row: int, header: list[str], cells: list[str]) -> ParallelPair | DataProblem:
    if len(cells) != len(header):
        fix = "replace tabs and line breaks inside a text by spaces, and give every row each column"
        return DataProblem(name, row, None, f"{len(cells)} cells", f"{len(header)} cells, as in the first line", fix)
    values = dict(zip(header, cells, strict=True))
    for column in _TSV_COLUMNS:
        if broken_bytes(values[column]):
            fix = "save the file as UTF-8"
            return DataProblem(
                name, row, column, f"bytes that are no UTF-8 in {shorten(values[column])}", "UTF-8", fix
            )
        if not values[column].strip():
            return DataProblem(name, row, column, "an empty cell", "a text", "fill the cell or delete the row")
    try:
        language = normalize_language(values["language"])
    except ValueError as error:
        return DataProblem.from_message(name, row, "language", str(error))
    return ParallelPair(language, values["text"], values["english"], values.get("origin") or name, row)


def write_tsv(path: str | os.PathLike[str], pairs: Iterable[ParallelPair]) -> int:
    """
    Write pairs so that [`read_tsv`] gives them back (with `row` set). The file appears whole or not at all.

    Args:
        path (`str` or `os.PathLike`): the file; one that exists is replaced.
        pairs (`Iterable[ParallelPair]`): the pairs.

    Returns:
        `int`: the number of rows.

    Raises:
        DataError: if a text is empty or holds a tab, a line break or a lone surrogate, or for an unknown language;
            nothing is written then.
    """
    columns = (*_TSV_COLUMNS, "origin")
    lines = ["\t".join(columns)]
    problems: list[DataProblem] = []
    for row, pair in enumerate(pairs, start=2):
        cells = [getattr(pair, column) for column in columns]
        for column, cell in zip(columns, cells, strict=True):
            if not cell.strip() or re.search("[\t\n\r\ud800-\udfff]", cell):
                expected = "a text without tabs, line breaks and lone surrogates"
                problems.append(
                    DataProblem(os.fspath(path), row, column, shorten(cell), expected, "pass it through `tidy_text`")
                )
        lines.append("\t".join(cells))
        try:
            normalize_language(pair.language)
        except ValueError as error:
            expected, fix = f"a language tag: {error}", "write a tag such as 'ur'"
            problems.append(DataProblem(os.fspath(path), row, "language", shorten(pair.language), expected, fix))
    if problems:
        raise DataError(problems)
    replace_files([(Path(path), (f"{line}\n".encode() for line in lines))])
    return len(lines) - 1
