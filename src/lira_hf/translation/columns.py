"""Candidates that already stand in columns of a data set: rows, a `datasets.Dataset` or a file (ours)."""

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import Candidate, check_request, clean_text, distinct_candidates, stable_hash
from .language_codes import language_key


__all__ = ["ColumnTranslator"]

_PARQUET_ROWS = 10_000
_Columns = str | Sequence[str]
_Row = tuple[str, Mapping[str, Any]]


class ColumnTranslator:
    """
    Looks candidates up that somebody else has made.

    The candidates of a text are, in this order, those of its rows, of the columns as they are listed, and of a list
    column's items. With scores those with the highest come first, and those without one last.

    Args:
        rows (`Iterable[Mapping]`, `str` or `os.PathLike`): Rows as dictionaries, which a `datasets.Dataset` gives, or
            the path of a `.jsonl`, `.csv`, `.tsv` or `.parquet` file.
        text_column (`str`, *optional*, defaults to `"text"`): Where the texts are.
        candidate_columns (`str` or `Sequence[str]`, *optional*, defaults to `"translation"`): One or several columns
            of English texts or of lists of them. Empty cells are no candidates.
        score_columns (`str` or `Sequence[str]`, *optional*): As many columns of the translators' own scores, in the
            same order; beside a list column, lists as long.
        language_column (`str`, *optional*, defaults to `"language"`): Where the texts' language tags are.
        language (`str`, *optional*): The one language of all texts, in place of the column.
        name (`str`, *optional*, defaults to `"columns"`): Kept with each candidate, with the column's name behind it
            where there are several: `"columns:google"`.

    Raises:
        `ValueError`: a row without one of the columns, with something else in it than belongs there, or no row at
            all. The message has row and column: lines of a text file count from 1, other rows from 0.
        `FileNotFoundError`: no such file.
    """

    kind = "columns"

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]] | str | os.PathLike,
        *,
        text_column: str = "text",
        candidate_columns: _Columns = "translation",
        score_columns: _Columns | None = None,
        language_column: str = "language",
        language: str | None = None,
        name: str = "columns",
    ):
        columns, scores = _listed(candidate_columns), _listed(score_columns or ())
        if not columns or (scores and len(scores) != len(columns)):
            raise ValueError(
                f"candidate_columns is {columns} and score_columns {scores}; expected at least one column, and a "
                "score column for each or none at all; list them in the same order"
            )
        self.name = name
        self._names = {column: name if len(columns) == 1 else f"{name}:{column}" for column in columns}
        self._found: dict[tuple[str, str], list[Candidate]] = {}
        digest = hashlib.blake2b(digest_size=16)
        count = 0
        for place, row in _read(rows):
            count += 1
            text = clean_text(_string(row, text_column, place)).strip()
            tag = language if language is not None else _string(row, language_column, place)
            found = self._candidates(row, columns, scores, place)
            if text:
                self._found.setdefault((language_key(tag), text), []).extend(found)
            digest.update(repr((tag, text, [(c.text, c.translator, c.score) for c in found])).encode())
        if not count:
            raise ValueError(
                "rows has no row; expected at least one; check the path, and that the iterable wasn't consumed before"
            )
        for key, candidates in self._found.items():
            # Sorting is stable: without scores the order of rows and columns stays.
            candidates.sort(
                key=lambda candidate: -math.inf if candidate.score is None else candidate.score, reverse=True
            )
            self._found[key] = distinct_candidates(candidates, len(candidates))
        self._digest = digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """Hash of all texts, candidates and scores in their order."""
        return stable_hash(self.kind, self._digest)

    @property
    def languages(self) -> list[str]:
        """Language and script of the texts, in order of first appearance."""
        return list(dict.fromkeys(language for language, _ in self._found))

    def translate(self, texts: Sequence[str], language: str, num_candidates: int) -> list[list[Candidate]]:
        """See [`Translator.translate`]; the score is that of the score column. Texts that no row has give none."""
        check_request(texts, num_candidates)
        key = language_key(language)
        return [self._found.get((key, clean_text(text).strip()), [])[:num_candidates] for text in texts]

    def _candidates(
        self, row: Mapping[str, Any], columns: list[str], scores: list[str], place: str
    ) -> list[Candidate]:
        found = []
        for number, column in enumerate(columns):
            cell = _cell(row, column, place)
            items = cell if isinstance(cell, list | tuple) else [cell]
            values: Sequence[Any] = [None] * len(items)
            if scores:
                values = _cell(row, scores[number], place)
                values = values if isinstance(cell, list | tuple) else [values]
                if not isinstance(values, list | tuple) or len(values) != len(items):
                    raise _wrong(place, scores[number], values, f"a list of {len(items)} scores, as '{column}' has")
            for item, value in zip(items, values, strict=True):
                if item is not None and not isinstance(item, str):
                    raise _wrong(place, column, item, "an English text, a list of them, or nothing")
                if item is not None and item.strip():
                    score = _number(value, scores[number], place) if scores else None
                    found.append(Candidate(clean_text(item).strip(), self.kind, self._names[column], score))
        return found


def _listed(columns: _Columns) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)


def _cell(row: Mapping[str, Any], column: str, place: str) -> Any:
    if column not in row:
        raise ValueError(
            f"{place} has the columns {list(row)}; expected '{column}' among them; name the column that is meant"
        )
    return row[column]


def _string(row: Mapping[str, Any], column: str, place: str) -> str:
    cell = _cell(row, column, place)
    if not isinstance(cell, str):
        raise _wrong(place, column, cell, "a string")
    return cell


def _number(value: Any, column: str, place: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        # Text files hold numbers as text; True is a number to Python only.
        number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(place, column, value, "a number, or nothing")
    return number


def _wrong(place: str, column: str, got: Any, expected: str) -> ValueError:
    return ValueError(f"{place}, column '{column}' holds {got!r:.80}; expected {expected}; mend or drop that row")


def _read(rows: Iterable[Mapping[str, Any]] | str | os.PathLike) -> Iterator[_Row]:
    """Each row, and how to name it in an error."""
    if not isinstance(rows, str | os.PathLike):
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise ValueError(
                    f"row {number} is {row!r:.80}; expected a dictionary of columns; give rows, a datasets.Dataset or "
                    "a path"
                )
            yield f"row {number}", row
        return
    path = Path(rows)
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(
            f"{path} ends with {path.suffix!r}; expected one of {sorted(readers)}; read it with the datasets library "
            "and give the rows"
        )
    yield from readers[path.suffix](path)


def _read_jsonl(path: Path) -> Iterator[_Row]:
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            try:
                row = json.loads(line.decode())
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{place} is no JSON ({error}); expected an object a line; mend that line") from error
            if not isinstance(row, dict):
                raise ValueError(f"{place} is {line.decode().strip()!r:.80}; expected a JSON object; mend that line")
            yield place, row


def _read_csv(path: Path) -> Iterator[_Row]:
    with open(path, encoding="utf-8-sig", newline="") as lines:
        csv.field_size_limit(2**31 - 1)  # by default a text of 128 KiB is an error
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        while True:
            try:
                row = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{path}, after line {reader.line_num}: no row ({error}); expected fields in UTF-8 with their "
                    "quotes closed; mend that line"
                ) from error
            if row is None:
                return
            if None in row or None in row.values():
                width = len(reader.fieldnames or ())
                raise ValueError(
                    f"{path}, line {reader.line_num} has more or fewer than {width} fields; expected one for each of "
                    f"the columns {reader.fieldnames}; quote the fields that hold the separator"
                )
            yield f"{path}, line {reader.line_num}", row


def _read_parquet(path: Path) -> Iterator[_Row]:
    import pyarrow.parquet  # not needed for the rest, and slow to import

    number = 0
    for batch in _parquet_batches(path, pyarrow):
        for row in batch:
            yield f"{path}, row {number}", row
            number += 1


def _parquet_batches(path: Path, pyarrow: Any) -> Iterator[list[dict[str, Any]]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_ROWS):
                yield batch.to_pylist()
    except FileNotFoundError:
        raise
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:  # ValueError: text that isn't UTF-8
        raise ValueError(f"{path} can't be read ({error}); expected a whole Parquet file; write it anew") from error
