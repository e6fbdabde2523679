"""What the metrics take for rankings, relevant documents and languages, told apart and checked row by row."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any


__all__ = ["as_judgements", "as_language", "as_ranking"]


def as_ranking(row: Any, number: int) -> list[dict[str, Any]]:
    """
    One query's ranking as evaluate stores it.

    Args:
        row: Ids, best first; or a mapping of ids to scores; or a list of `{"id": ..., "score": ...}`.
        number (`int`): Of the query, for the error.

    Returns:
        `list[dict]`: Of each document `id` (`str`) and `score` (`float`); of ids alone the score is the number of
        those that come behind, plus 1.

    Raises:
        TypeError, ValueError: Naming the query.
    """
    pairs = _pairs(row, "score", number, "the ranking")
    if pairs is None:
        ids = [_identifier(item, number, "the ranking") for item in row]
        scored = [(name, float(len(ids) - place)) for place, name in enumerate(ids)]
    else:
        scored = [(name, _score(value, name, number)) for name, value in pairs]
    _refuse_repeated([name for name, _ in scored], number, "the ranking")
    return [{"id": name, "score": score} for name, score in scored]


def as_judgements(row: Any, number: int) -> list[dict[str, Any]]:
    """
    One query's relevant documents as evaluate stores them.

    Args:
        row: Ids, each of grade 1; or a mapping of ids to grades; or a list of `{"id": ..., "grade": ...}`.
        number (`int`): Of the query, for the error.

    Returns:
        `list[dict]`: Of each document `id` (`str`) and `grade` (`int`).

    Raises:
        TypeError, ValueError: Naming the query.
    """
    pairs = _pairs(row, "grade", number, "the relevant documents")
    if pairs is None:
        pairs = [(_identifier(item, number, "the relevant documents"), 1) for item in row]
    _refuse_repeated([name for name, _ in pairs], number, "the relevant documents")
    return [{"id": name, "grade": _grade(value, name, number)} for name, value in pairs]


def as_language(tag: Any, number: int) -> str:
    """
    One query's language.

    Raises:
        TypeError: For what is no string, or empty, naming the query.
    """
    if not isinstance(tag, str) or not tag:
        raise TypeError(f"the language of query {number} is {tag!r}; expected a tag; write 'und' where it isn't known")
    return tag


def _pairs(row: Any, value: str, number: int, what: str) -> list[tuple[str, Any]] | None:
    """Ids with values, or `None` for ids alone."""
    if isinstance(row, Mapping):
        if set(row) == {"id", value} and not isinstance(row["id"], str):
            # As evaluate and datasets turn lists of records about; a document called "id" has no list for a score.
            return [(_identifier(name, number, what), item) for name, item in zip(row["id"], row[value], strict=True)]
        return [(_identifier(name, number, what), item) for name, item in row.items()]
    if isinstance(row, str) or not hasattr(row, "__iter__"):
        raise TypeError(
            f"{what} of query {number} is {type(row).__name__} {str(row)[:60]!r}; expected a list of ids, or ids with "
            f"a {value}; give one list per query"
        )
    rows = list(row)
    if not rows or not isinstance(rows[0], Mapping):
        return None
    for item in rows:
        if not isinstance(item, Mapping) or set(item) != {"id", value}:
            raise TypeError(
                f"{what} of query {number} holds {str(item)[:60]!r}; expected records of 'id' and '{value}' alone; "
                "convert it"
            )
    return [(_identifier(item["id"], number, what), item[value]) for item in rows]


def _identifier(item: Any, number: int, what: str) -> str:
    if isinstance(item, str) or (isinstance(item, Integral) and not isinstance(item, bool)):
        return str(item)
    raise TypeError(
        f"{what} of query {number} holds {type(item).__name__} {str(item)[:60]!r}; expected ids, strings or whole "
        "numbers; convert it"
    )


def _score(value: Any, name: str, number: int) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(
            f"the score of {name!r} for query {number} is {value!r}; expected a finite number; leave that document out"
        )
    return float(value)


def _grade(value: Any, name: str, number: int) -> int:
    if not isinstance(value, Real) or not float(value).is_integer():
        raise ValueError(
            f"the grade of {name!r} for query {number} is {value!r}; expected a whole number, 0 for not relevant; "
            "round it"
        )
    return int(float(value)) if not isinstance(value, Integral) else int(value)


def _refuse_repeated(names: Sequence[str], number: int, what: str) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"{what} of query {number} holds {twice!r} more than once; expected each document once; drop the later"
        )
