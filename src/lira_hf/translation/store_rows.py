"""One row of an exported candidate store: its fields, and what an imported one has to be (ours)."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from .base import clean_text


__all__ = ["ROW_SCHEMA", "RowProblem"]

_SCORE = pa.struct(
    [
        ("critic", pa.string()),
        ("fingerprint", pa.string()),
        ("meta", pa.string()),
        ("semantic", pa.float64()),
        ("emotional", pa.float64()),
        ("pragmatic", pa.float64()),
        ("created", pa.int64()),
    ]
)
# A row for each candidate, and one without a candidate for a text to which a translator had no answer. The scores are
# a list, not columns: the same schema for every store, however many critics judged.
ROW_SCHEMA = pa.schema(
    [
        ("language", pa.string()),
        ("text", pa.string()),
        ("translator", pa.string()),
        ("fingerprint", pa.string()),
        ("meta", pa.string()),
        ("created", pa.int64()),
        ("rank", pa.int64()),
        ("candidate", pa.string()),
        ("kind", pa.string()),
        ("maker", pa.string()),
        ("score", pa.float64()),
        ("scores", pa.list_(_SCORE)),
    ]
)
_FIELDS = frozenset(ROW_SCHEMA.names)
_SCORE_FIELDS = frozenset(field.name for field in _SCORE)
_OF_CANDIDATES = ("kind", "maker", "score", "scores")


class RowProblem(NamedTuple):
    """
    A row that can't be imported.

    Args:
        file (`str`): Name of the file or data set.
        row (`int`): Its number there, from 1; 0 if the file as a whole is meant.
        message (`str`): What was got, what was expected, how to fix it.
    """

    file: str
    row: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.message}" if self.row else f"{self.file}: {self.message}"


def checked_row(row: Any) -> dict[str, Any]:
    """
    An imported row with every field, texts cleaned.

    Args:
        row (`Any`): A mapping. `language`, `text`, `translator` and `fingerprint` are needed; with `rank`, `candidate`
            and `kind` it is a candidate, without `candidate` the row of a text that has none.

    Returns:
        `dict[str, Any]`: All fields of `ROW_SCHEMA`.

    Raises:
        `ValueError`: every problem of the row, in one message.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"it is {row!r:.60}; expected an object with the fields of an export; write one a row")
    problems = list(_problems(row))
    if problems:
        raise ValueError("; and ".join(problems))
    checked: dict[str, Any] = {name: row.get(name) for name in ROW_SCHEMA.names}
    checked["text"] = clean_text(checked["text"])
    if checked["score"] is not None:
        checked["score"] = float(checked["score"])  # SQLite takes no whole number of more than 64 bits
    checked["scores"] = [{name: score.get(name) for name in _SCORE_FIELDS} for score in checked["scores"] or []]
    if checked["candidate"] is not None:
        checked["candidate"] = clean_text(checked["candidate"])
        checked["maker"] = checked["maker"] or checked["translator"]
    return checked


def _problems(row: Mapping[str, Any]) -> Iterator[str]:
    if unknown := [name for name in row if name not in _FIELDS]:
        yield f"unknown fields {unknown}; expected {ROW_SCHEMA.names}; rename or drop them"
    if not isinstance(row.get("text"), str):
        yield f"text is {row.get('text')!r:.60}; expected a string; write the text"
    for name in ("language", "translator", "fingerprint"):
        yield from _name(row, name)
    yield from _meta_and_time(row)
    if row.get("candidate") is None:
        for name in ("rank", *_OF_CANDIDATES):
            if row.get(name) is not None and row[name] != []:
                yield f"{name} is {row[name]!r:.60} without a candidate; expected none; write the candidate or drop it"
        return
    if not isinstance(row["candidate"], str):
        yield f"candidate is {row['candidate']!r:.60}; expected a string; write the English text"
    if not _is_count(row.get("rank")):
        yield f"rank is {row.get('rank')!r:.60}; expected a whole number, 0 for the best; number the candidates"
    yield from _name(row, "kind")
    if row.get("maker") is not None:
        yield from _name(row, "maker")
    if row.get("score") is not None and not _is_number(row["score"]):
        yield f"score is {row['score']!r:.60}; expected a finite number or null; leave it out if there is none"
    yield from _scores(row.get("scores"))


def _scores(scores: Any) -> Iterator[str]:
    if scores is None:
        return
    if not isinstance(scores, list) or not all(isinstance(score, Mapping) for score in scores):
        yield f"scores is {scores!r:.60}; expected a list of objects, one a critic; see an export"
        return
    for place, score in enumerate(scores):
        found = []
        if unknown := [name for name in score if name not in _SCORE_FIELDS]:
            found.append(f"unknown fields {unknown}; expected {sorted(_SCORE_FIELDS)}; rename or drop them")
        for name in ("critic", "fingerprint"):
            found.extend(_name(score, name))
        found.extend(_meta_and_time(score))
        for name in ("semantic", "emotional", "pragmatic"):
            if not _is_number(score.get(name)) or not 1 <= score[name] <= 10:
                found.append(f"{name} is {score.get(name)!r:.60}; expected a number in 1..10; clamp or rescale it")
        yield from (f"scores[{place}]: {message}" for message in found)


def _name(row: Mapping[str, Any], name: str) -> Iterator[str]:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        yield f"{name} is {value!r:.60}; expected a string that isn't empty; write one"
    elif clean_text(value) != value:
        yield f"{name} is {value!r:.60}; expected text that UTF-8 can hold; write another name"


def _meta_and_time(row: Mapping[str, Any]) -> Iterator[str]:
    if row.get("created") is not None and not _is_count(row["created"]):
        yield f"created is {row['created']!r:.60}; expected whole seconds since 1970 or null; leave it out if unknown"
    if (meta := row.get("meta")) is not None:
        try:
            valid = isinstance(meta, str) and isinstance(json.loads(meta), dict) and clean_text(meta) == meta
        except (ValueError, RecursionError):
            valid = False
        if not valid:
            yield f"meta is {meta!r:.60}; expected a JSON object in a string, or null; leave it out if unknown"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False
