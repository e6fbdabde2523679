"""Texts to embed from the files that people have, row by row, and what is wrong with them (ours)."""

import csv
import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from tqdm.auto import tqdm

from lira_hf.data import DataError, DataProblem, normalize_language
from lira_hf.data.files import broken_bytes, csv_reader, half_characters, read_lines
from lira_hf.data.problems import shorten

from .vectors import TextRow


__all__ = ["check_rows", "read_rows", "rows_file"]

_MOST_PROBLEMS = 10_000
_PARQUET_ROWS = 8192
_IDS = ("_id", "id")
_UNKNOWN = "und"  # BCP 47's "undetermined"
_Row = tuple[int, Mapping[str, Any] | DataProblem]


def rows_file(path: str | os.PathLike[str], part: str = "corpus") -> Path:
    """
    The file that is read.

    Args:
        path (`str` or `os.PathLike`): A file, or a BEIR folder.
        part (`str`, *optional*, defaults to `"corpus"`): Of a BEIR folder: `"corpus"` or `"queries"`.

    Raises:
        FileNotFoundError: Where there is none.
    """
    place = Path(path)
    file = place / f"{part}.jsonl" if place.is_dir() else place
    if not file.is_file():
        raise FileNotFoundError(
            f"got {str(place)!r}, and there is no {str(file)!r}; expected a BEIR folder, a .jsonl, .tsv, .csv or "
            ".parquet file, or a text file with a text a line; mend the path"
        )
    return file


def read_rows(
    path: str | os.PathLike[str], part: str = "corpus", default_language: str | None = None
) -> Iterator[TextRow]:
    """
    Rows of a file, one at a time; any size.

    A `.jsonl`, `.csv`, `.tsv` or `.parquet` file has `id` (or `_id`) and `text`, and may have `title`, which is put
    before the text, `language` (also under `metadata`) and, as lists, `candidates`. `.tsv` cells are what stands
    between two tabs, without quoting. Of any other file each line that isn't blank is a text, and its number the id.
    The tag `"und"` is a language that isn't known.

    Args:
        path (`str` or `os.PathLike`): A file, or a BEIR folder.
        part (`str`, *optional*, defaults to `"corpus"`): Of a BEIR folder: `"corpus"` or `"queries"`.
        default_language (`str`, *optional*): Tag of the rows that name none.

    Raises:
        DataError: At the first row that is broken; [`check_rows`] finds all of them beforehand.
        FileNotFoundError: Where there is no such file.
    """
    for found in _scan(rows_file(path, part), default_language):
        if isinstance(found, DataProblem):
            raise DataError([found])
        yield found[1]


def check_rows(
    path: str | os.PathLike[str],
    part: str = "corpus",
    default_language: str | None = None,
    progress: bool = False,
) -> int:
    """
    Reads a whole file before hours are spent on it, in 16 bytes a row.

    Args:
        path, part, default_language: As in [`read_rows`].
        progress (`bool`, *optional*, defaults to `False`): Show how many rows were read.

    Returns:
        `int`: The number of rows.

    Raises:
        DataError: With every problem, up to 10,000 of them: no JSON, a missing or repeated id, no text, an unknown
            language or none, bytes that are no UTF-8.
        ValueError: Where the file holds no row.
        FileNotFoundError: Where there is no such file.
    """
    file = rows_file(path, part)
    problems: list[DataProblem] = []
    keys, rows = array("Q"), array("Q")
    scan = _scan(file, default_language)
    for found in tqdm(scan, desc="checking", unit="row", disable=not progress):
        if isinstance(found, DataProblem):
            problems.append(found)
            if len(problems) == _MOST_PROBLEMS:
                raise DataError(problems)
            continue
        row, item = found
        keys.append(int.from_bytes(hashlib.blake2b(item.id.encode(), digest_size=8).digest(), "little"))
        rows.append(row)
    problems += islice(_repeated(str(file), np.array(keys), np.array(rows)), _MOST_PROBLEMS)
    if problems:
        raise DataError(problems)
    if not rows:
        raise ValueError(f"got {str(file)!r} without any text; expected at least one; check the file")
    return len(rows)


def _repeated(name: str, keys: np.ndarray, rows: np.ndarray) -> Iterator[DataProblem]:
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]]) + 1
    for place in same:
        got = f"the id that row {rows[order[place - 1]]} has"
        yield DataProblem(name, int(rows[order[place]]), "id", got, "each id once", "delete or rename one of the two")


def _scan(file: Path, default_language: str | None) -> Iterator[tuple[int, TextRow] | DataProblem]:
    """Every row, good or bad; that languages are missing is told once."""
    default = _language(default_language) if default_language is not None else None
    readers = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}
    name, told = str(file), False
    for row, cells in readers.get(file.suffix.lower(), _lines)(file):
        found = cells if isinstance(cells, DataProblem) else _item(name, row, cells, default)
        if isinstance(found, DataProblem):
            if found.field == "language" and found.got == _NO_LANGUAGE:
                if told:
                    continue
                told = True
            yield found
        else:
            yield row, found


_NO_LANGUAGE = "no language, here or in rows further down"


def _language(tag: Any) -> str:
    return _UNKNOWN if tag == _UNKNOWN else normalize_language(tag)


def _item(name: str, row: int, cells: Mapping[str, Any], default: str | None) -> TextRow | DataProblem:
    key = next((cells[field] for field in _IDS if cells.get(field) not in (None, "")), None)
    if isinstance(key, bool) or not isinstance(key, int | str) or not str(key).strip():
        return DataProblem(name, row, "id", shorten(key), "an id (a text or an integer)", "give the row an id")
    title, text = cells.get("title") or "", cells.get("text") or ""
    if not isinstance(title, str) or not isinstance(text, str) or not f"{title}{text}".strip():
        return DataProblem(name, row, "text", shorten(cells.get("text")), "a text", "give the row one, or delete it")
    candidates = cells.get("candidates")
    if candidates is not None and not (
        isinstance(candidates, list) and all(isinstance(each, str) and each.strip() for each in candidates)
    ):
        fix = "write a list, or leave the field out"
        return DataProblem(name, row, "candidates", shorten(candidates), "a list of English texts", fix)
    metadata = cells.get("metadata")
    given = cells.get("language") or (metadata.get("language") if isinstance(metadata, dict) else None)
    if given is None and default is None:
        # A column of another name, such as 'lang', is the usual reason.
        fix = "name the field 'language', or give --language (default_language) for rows without, 'und' where unknown"
        return DataProblem(name, row, "language", _NO_LANGUAGE, "a tag such as 'th'", fix)
    try:
        tag = default if given is None else _language(given)
    except (ValueError, TypeError) as error:
        return DataProblem(name, row, "language", shorten(given), f"a language tag: {error}", "write one such as 'ur'")
    for field, value in (("id", str(key)), ("text", f"{title}{text}")):
        if broken_bytes(value):
            return DataProblem(name, row, field, f"bytes that are no UTF-8 in {shorten(value)}", "UTF-8", "save it so")
    if half_characters(str(key)):  # it could not be written beside its vector
        return DataProblem(name, row, "id", f"half a character in {shorten(key)}", "whole ones", "give it another id")
    full = f"{title.strip()} {text.strip()}".strip()
    return TextRow(str(key).strip(), full, None if tag == _UNKNOWN else tag, candidates)


def _lines(file: Path) -> Iterator[_Row]:
    for row, line in read_lines(file):
        if line.strip():
            yield row, {"id": row, "text": line}


def _jsonl(file: Path) -> Iterator[_Row]:
    fix = 'write one JSON object a line, such as {"id": "1", "text": "...", "language": "th"}'
    for row, line in read_lines(file):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield row, DataProblem(str(file), row, None, f"{shorten(line)} ({error})", "valid JSON", fix)
            continue
        if isinstance(record, dict):
            yield row, record
        else:
            yield row, DataProblem(str(file), row, None, shorten(record), "a JSON object", fix)


def _tsv(file: Path) -> Iterator[_Row]:
    yield from _table(file, ((row, line.split("\t")) for row, line in read_lines(file) if line))


def _csv(file: Path) -> Iterator[_Row]:
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv_reader(lines)
        rows = ((reader.line_num, cells) for cells in reader if cells)
        try:
            yield from _table(file, rows)
        except csv.Error as error:
            fix = "double the quotes inside a field, and close the one that is open"
            yield (
                0,
                DataProblem(str(file), reader.line_num, None, f"no row ({error})", "fields with closed quotes", fix),
            )


def _table(file: Path, rows: Iterable[tuple[int, list[str]]]) -> Iterator[_Row]:
    iterator = iter(rows)
    header = [cell.strip().lower() for cell in next(iterator, (1, []))[1]]
    problem = _columns_problem(file, header)
    if problem is not None:
        yield 1, problem
        return
    for row, cells in iterator:
        if len(cells) == len(header):
            # Cells are no lists, so a column of candidates is none of ours.
            yield row, {name: cell for name, cell in zip(header, cells, strict=True) if name != "candidates"}
        else:
            got, expected = f"{len(cells)} cells", f"{len(header)} cells, as in the first line"
            yield row, DataProblem(str(file), row, None, got, expected, "quote or replace separators inside a text")


def _parquet(file: Path) -> Iterator[_Row]:
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            problem = _columns_problem(file, names)
            if problem is not None:
                yield 1, problem
                return
            wanted = [n for n in (*_IDS, "title", "text", "language", "metadata", "candidates") if n in names]
            row = 0
            for batch in opened.iter_batches(_PARQUET_ROWS, columns=wanted):
                for cells in batch.to_pylist():
                    row += 1
                    yield row, cells
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:  # ValueError: text that isn't UTF-8
        fix = "write the file anew; it may have been cut short"
        yield 0, DataProblem(str(file), None, None, f"no Parquet ({error})", "a whole Parquet file", fix)


def _columns_problem(file: Path, names: list[str]) -> DataProblem | None:
    if "text" in names and any(name in names for name in _IDS):
        return None
    fix = "rename the columns, or give a text file with a text a line"
    return DataProblem(str(file), 1, None, f"the columns {shorten(names)}", "columns named 'id' and 'text'", fix)
