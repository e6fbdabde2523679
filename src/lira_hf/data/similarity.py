"""Ranking data: pairs of texts with a score of how alike they are (STS), from the files that people have of them."""

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from .files import broken_bytes, csv_reader, read_lines, replace_files
from .languages import normalize_language
from .problems import DataError, DataProblem, OnError, repeated_columns, rows_of_split, settle_problems, shorten


__all__ = ["TABLE_SUFFIXES", "SimilarityPair", "read_sts", "scan_sts", "scan_table", "table_columns", "write_sts"]

TABLE_SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
_PARQUET_ROWS = 10_000
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_COLUMN_FIX = "name the columns sentence1, sentence2 and score, or tell `read_sts` what they are called"


@dataclass(frozen=True, slots=True)
class SimilarityPair:
    """
    Two texts and how alike they are.

    Args:
        text1 (`str`): the first text.
        text2 (`str`): the second text.
        score (`float`): how alike they are, on the data set's own scale; finite.
        language1 (`str`, *optional*): canonical tag of the first text's language.
        language2 (`str`, *optional*): that of the second.
        group (`str`, *optional*): what the pair belongs to, or its id.
        split (`str`, *optional*): such as `"test"`.
        row (`int`, *optional*): line in the file, from 1; of a Parquet file the number of the row, from 1.
    """

    text1: str
    text2: str
    score: float
    language1: str | None = None
    language2: str | None = None
    group: str | None = None
    split: str | None = None
    row: int | None = None


class _Columns(NamedTuple):
    text1: str
    text2: str
    score: str
    # Of these the first that is there: a column that was asked for by name, or those that it goes by.
    language1: tuple[str, ...]
    language2: tuple[str, ...]
    group: tuple[str, ...]
    split: tuple[str, ...]
    required: tuple[str, ...]


def read_sts(
    path: str | os.PathLike[str],
    *,
    text1_column: str = "sentence1",
    text2_column: str = "sentence2",
    score_column: str = "score",
    language1_column: str | None = None,
    language2_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    split: str | None = None,
    default_language: str | None = None,
    on_error: OnError = "raise",
) -> list[SimilarityPair]:
    """
    Read scored pairs of texts from a table: `.tsv`, `.csv`, `.jsonl` or `.parquet`.

    A `.tsv` file has no quoting: what stands between two tabs is the text, as in [`read_tsv`]; a `.csv` file has the
    usual double quotes. Other columns are ignored.

    Args:
        path (`str` or `os.PathLike`): the file.
        text1_column (`str`, *optional*, defaults to `"sentence1"`): column of the first texts.
        text2_column (`str`, *optional*, defaults to `"sentence2"`): column of the second texts.
        score_column (`str`, *optional*, defaults to `"score"`): column of the scores: finite numbers on any scale.
        language1_column (`str`, *optional*): column of the first texts' languages; by default `language1`, else
            `language`, where there is one.
        language2_column (`str`, *optional*): the same of the second texts; `language2`, else `language`.
        group_column (`str`, *optional*): column of what a pair belongs to; `group`, else `id`.
        split_column (`str`, *optional*): column of the splits; `split`.
        split (`str`, *optional*): only rows of this split.
        default_language (`str`, *optional*): language of texts that name none.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`, see [`settle_problems`].

    Returns:
        `list[SimilarityPair]`: the good rows, in their order.

    Raises:
        DataError: with every problem of the file, of all splits: a missing column, a wrong number of cells, an empty
            text, a score that is no finite number, an unknown language, broken JSON or quotes, bytes that are no
            UTF-8, a file of another format.
        FileNotFoundError: if there is no such file.
        ValueError: if no row is of the split that was asked for; the message has those there are.
    """
    tag = None if default_language is None else normalize_language(default_language)
    optional = (language1_column, language2_column, group_column, split_column)
    columns = _columns((text1_column, text2_column, score_column), optional)
    pairs, problems = _scan(Path(path), columns, tag)
    settle_problems(problems, on_error)
    return pairs if split is None else rows_of_split(pairs, split, os.fspath(path))


def scan_sts(path: str | os.PathLike[str]) -> tuple[list[SimilarityPair], list[DataProblem]]:
    """Good rows and problems of a table with the usual columns."""
    return _scan(Path(path), _columns(("sentence1", "sentence2", "score"), (None,) * 4))


def _columns(needed: tuple[str, str, str], optional: Sequence[str | None]) -> _Columns:
    """What is read where; a column that was asked for by name has to be there."""
    usual = (("language1", "language"), ("language2", "language"), ("group", "id"), ("split",))
    names = [(name,) if name else default for name, default in zip(optional, usual, strict=True)]
    language1, language2, group, split = names
    return _Columns(*needed, language1, language2, group, split, (*needed, *filter(None, optional)))


def _scan(
    path: Path, columns: _Columns, default_language: str | None = None
) -> tuple[list[SimilarityPair], list[DataProblem]]:
    name = str(path)
    pairs: list[SimilarityPair] = []
    problems: list[DataProblem] = []
    suffix = path.suffix.lower()
    if suffix in (".tsv", ".csv") or (suffix == ".parquet" and table_columns(path)):
        problems = _missing(path, columns, table_columns(path), None if suffix == ".parquet" else 1)
        if problems:
            return [], problems
    seen: set[str] = set()
    for row, record in scan_table(path):
        if isinstance(record, DataProblem):
            problems.append(record)
            continue
        seen.update(record)
        found = list(_row_problems(name, row, record, columns))
        problems += found
        if not found:
            pairs.append(_pair(row, record, columns, default_language))
    if suffix == ".jsonl" and pairs:  # a field that no object has was misspelled
        problems += _missing(path, columns, sorted(seen), None)
    return pairs, problems


def _missing(path: Path, columns: _Columns, there: list[str], row: int | None) -> list[DataProblem]:
    missing = [column for column in dict.fromkeys(columns.required) if column not in there]
    got = f"the columns {shorten(there)}"
    names = {*columns[:3], *(name for names in columns[3:7] for name in names)}
    return repeated_columns(str(path), there, names, row) + [
        DataProblem(str(path), row, one, got, f"a column named {one!r}", _COLUMN_FIX) for one in missing
    ]


def _row_problems(name: str, row: int, record: Mapping[str, Any], columns: _Columns) -> Iterator[DataProblem]:
    for column in (columns.text1, columns.text2):
        text = record.get(column)
        if isinstance(text, str) and broken_bytes(text):
            yield DataProblem(name, row, column, f"bytes that are no UTF-8 in {shorten(text)}", "UTF-8", "save it so")
        elif not isinstance(text, str) or not text.strip():
            yield DataProblem(name, row, column, _got(record, column), "a text", "write one, or delete the row")
    if _number(record.get(columns.score)) is None:
        expected, fix = "a finite number such as 3.5", "write one with a decimal point, or delete the row"
        yield DataProblem(name, row, columns.score, _got(record, columns.score), expected, fix)
    for column, given in dict([_first(record, names) for names in (columns.language1, columns.language2)]).items():
        if given is not None:
            try:
                normalize_language(given)
            except (ValueError, TypeError) as error:
                fix = "write a tag such as 'ur' (see the message), or leave the field out"
                yield DataProblem(name, row, column, shorten(given), f"a language tag: {error}", fix)


def _pair(row: int, record: Mapping[str, Any], columns: _Columns, default_language: str | None) -> SimilarityPair:
    given = [_first(record, names)[1] for names in (columns.language1, columns.language2)]
    language1, language2 = (default_language if tag is None else normalize_language(tag) for tag in given)
    group, split = (_first(record, names)[1] for names in (columns.group, columns.split))
    score = _number(record[columns.score])
    return SimilarityPair(
        record[columns.text1],
        record[columns.text2],
        math.nan if score is None else score,  # never None: such a row is a problem
        language1,
        language2,
        None if group is None else str(group),
        None if split is None else str(split),
        row,
    )


def _first(record: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    """The first of several columns that holds something, and what."""
    for name in names:
        value = record.get(name)
        if value is not None and value != "":
            return name, value.strip() if isinstance(value, str) else value
    return names[0], None


def _got(record: Mapping[str, Any], column: str) -> str:
    return shorten(record[column]) if column in record else f"the fields {shorten(list(record))}"


def _number(value: Any) -> float | None:
    """A finite number, also where a text file has it as text; `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


# Tables


def table_columns(path: str | os.PathLike[str]) -> list[str]:
    """Names of a table's columns; of JSON lines those of the first object. Empty if nothing can be read."""
    place = Path(path)
    suffix = place.suffix.lower()
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return list(pyarrow.parquet.read_schema(place).names)
        except (OSError, ValueError, pyarrow.ArrowException):  # ValueError: names that aren't UTF-8
            return []
    if suffix == ".jsonl":
        return next((list(record) for _, record in scan_table(place) if not isinstance(record, DataProblem)), [])
    line = next(read_lines(place), (1, ""))[1]
    try:
        cells = line.split("\t") if suffix == ".tsv" else next(csv_reader([line]), [])
    except csv.Error:  # a name with a line break, or an open quote, which the rows' reader tells of
        cells = line.split(",")
    return [cell.strip() for cell in cells]


def scan_table(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any] | DataProblem]]:
    """
    Stream a `.tsv`, `.csv`, `.jsonl` or `.parquet` file as `(row, record)`, with a problem in place of each row that
    can't be read; blank lines are left out.
    """
    place = Path(path)
    readers = {".tsv": _tsv_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    reader = readers.get(place.suffix.lower())
    if reader is None:
        got, expected = f"a file ending in {place.suffix!r}", f"one of {', '.join(readers)}"
        yield 0, DataProblem(str(place), None, None, got, expected, "convert it, or mend its name")
        return
    yield from reader(place)


def _tsv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataProblem]]:
    lines = read_lines(path)
    header = [cell.strip() for cell in next(lines, (1, ""))[1].split("\t")]
    for row, line in lines:
        if line:
            fix = "replace tabs and line breaks inside a text by spaces, and give every row each column"
            yield row, _cells(path, row, header, line.split("\t"), fix)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataProblem]]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv_reader(lines)
        header: list[str] | None = None
        while True:
            row = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                got, expected = f"no row ({error})", "cells with their quotes closed, and doubled inside a text"
                yield row, DataProblem(str(path), row, None, got, expected, "mend the quotes of that row")
                continue
            if cells is None:
                return
            if header is None:
                header = [cell.strip() for cell in cells]
            elif cells:
                yield row, _cells(path, row, header, cells, "quote the cells that hold a comma")


def _cells(path: Path, row: int, header: list[str], cells: list[str], fix: str) -> dict[str, Any] | DataProblem:
    if len(cells) == len(header):
        return dict(zip(header, cells, strict=True))
    expected = f"{len(header)} cells, as in the first line"
    return DataProblem(str(path), row, None, f"{len(cells)} cells", expected, fix)


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataProblem]]:
    for row, line in read_lines(path):
        if not line.strip():
            continue
        if broken_bytes(line):
            got = f"bytes that are no UTF-8 in {shorten(line)}"
            yield row, DataProblem(str(path), row, None, got, "UTF-8", "save the file so")
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            got = f"{shorten(line)} ({error})"
            yield row, DataProblem(str(path), row, None, got, "valid JSON", "write one JSON object a line")
            continue
        if isinstance(record, dict):
            yield row, record
        else:
            yield row, DataProblem(str(path), row, None, shorten(record), "a JSON object", "write one object a line")


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataProblem]]:
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_ROWS):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
    except FileNotFoundError:
        raise
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:  # ValueError: text that isn't UTF-8
        got = f"something that can't be read after row {row} ({error})"
        yield row, DataProblem(str(path), None, None, got, "a whole Parquet file", "write it anew")


# Writing


def write_sts(path: str | os.PathLike[str], pairs: Iterable[SimilarityPair]) -> int:
    """
    Write pairs so that [`read_sts`] gives them back (with `row` set). The file appears whole or not at all.

    Args:
        path (`str` or `os.PathLike`): a `.tsv`, `.csv`, `.jsonl` or `.parquet` file; one that exists is replaced.
        pairs (`Iterable[SimilarityPair]`): the pairs. Languages, groups and splits are written if any pair has them.

    Returns:
        `int`: the number of rows.

    Raises:
        DataError: for an empty text or a lone surrogate, in a `.tsv` file also a tab or line break, a score that isn't
            finite, an unknown language; nothing is written then.
        ValueError: for another ending.
    """
    place, rows = Path(path), list(pairs)
    suffix = place.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise ValueError(f"got a path ending in {place.suffix!r}; expected one of {TABLE_SUFFIXES}; mend the name.")
    optional = [name for name in ("language1", "language2", "group", "split") if any(getattr(p, name) for p in rows)]
    columns = {"sentence1": "text1", "sentence2": "text2", "score": "score"} | {name: name for name in optional}
    problems = [
        problem
        for row, pair in enumerate(rows, start=2 if suffix in (".tsv", ".csv") else 1)
        for problem in _unwritable(str(place), row, pair, columns, suffix == ".tsv")
    ]
    if problems:
        raise DataError(problems)
    records = [{column: getattr(pair, field) for column, field in columns.items()} for pair in rows]
    replace_files([(place, _encoded(suffix, list(columns), records))])
    return len(rows)


def _unwritable(
    name: str, row: int, pair: SimilarityPair, columns: Mapping[str, str], tabbed: bool
) -> Iterator[DataProblem]:
    bad = re.compile("[\t\n\r\ud800-\udfff]" if tabbed else "[\ud800-\udfff]")
    what = "tabs, line breaks and lone surrogates" if tabbed else "lone surrogates"
    for column, field in columns.items():
        value = getattr(pair, field)
        if field == "score":
            if _number(value) is None or isinstance(value, str):
                yield DataProblem(name, row, column, shorten(value), "a finite number", "leave the pair out")
            continue
        if not value and not field.startswith("text"):
            continue
        if not isinstance(value, str) or not value.strip() or bad.search(value):
            yield DataProblem(name, row, column, shorten(value), f"a text without {what}", "use `tidy_text`")
        elif field.startswith("language"):
            try:
                normalize_language(value)
            except ValueError as error:
                yield DataProblem(name, row, column, shorten(value), f"a language tag: {error}", "write such a tag")


def _encoded(suffix: str, columns: list[str], records: list[dict[str, Any]]) -> Iterator[bytes]:
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        fields = [(name, pyarrow.float64() if name == "score" else pyarrow.string()) for name in columns]
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, pyarrow.schema(fields)), buffer)
        yield buffer.getvalue()
    elif suffix == ".jsonl":
        for record in records:
            filled = {name: value for name, value in record.items() if value is not None}
            yield json.dumps(filled, ensure_ascii=False).encode() + b"\n"
    else:
        # Quoting only where the reader knows it: a text of a .tsv file may begin with a quote of its own.
        rows = [columns, *([("" if v is None else str(v)) for v in record.values()] for record in records)]
        for row in rows:
            if suffix == ".tsv":
                yield ("\t".join(row) + "\n").encode()
                continue
            line = io.StringIO(newline="")
            # With a line end of "\n" the writer leaves a lone "\r" bare, which a reader takes for the end of the row.
            csv.writer(line, lineterminator="\r\n").writerow(row)
            yield line.getvalue().removesuffix("\r\n").encode() + b"\n"
