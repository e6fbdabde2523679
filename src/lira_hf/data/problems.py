"""What is wrong with a data file, row by row: every problem of one pass, never only the first."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar


__all__ = [
    "DataError",
    "DataProblem",
    "OnError",
    "repeated_columns",
    "rows_of_split",
    "settle_problems",
    "shorten",
]

OnError = Literal["raise", "skip"]

_SHOWN_PROBLEMS = 20

logger = logging.getLogger(__name__)


def shorten(value: object, limit: int = 80) -> str:
    """`repr` of a value, cut in the middle of a message at `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


@dataclass(frozen=True, slots=True)
class DataProblem:
    """
    One thing wrong in one place of one file.

    Args:
        file (`str`): path of the file (or folder).
        row (`int`, *optional*): line of the file, counted from 1 as an editor does; `None` for the whole file.
        field (`str`, *optional*): column, key or keyword.
        got (`str`): what stands there.
        expected (`str`): what should stand there.
        fix (`str`): what to do about it.
    """

    file: str
    row: int | None
    field: str | None
    got: str
    expected: str
    fix: str

    @classmethod
    def from_message(
        cls,
        file: str,
        row: int | None,
        field: str | None,
        message: str,
        expected: str = "something else",
        fix: str = "mend it",
    ) -> "DataProblem":
        """The problem that an error "got ...; expected ...; what to do" tells; `expected` and `fix` where it lacks
        them."""
        got, _, rest = message.removeprefix("got ").partition("; expected ")
        wanted, _, advice = rest.partition("; ")
        return cls(file, row, field, got, wanted or expected, advice.rstrip(".") or fix)

    def __str__(self) -> str:
        place = self.file
        if self.row is not None:
            place += f", row {self.row}"
        if self.field is not None:
            place += f", field `{self.field}`"
        return f"{place}: got {self.got}; expected {self.expected}; to fix: {self.fix}"


class DataError(ValueError):
    """
    Raised at the end of a pass in strict mode.

    Args:
        problems (`Sequence[DataProblem]`): every problem of the pass; kept as the tuple `problems`. The message shows
            the first 20 and the count.
    """

    def __init__(self, problems: Sequence[DataProblem]) -> None:
        self.problems: tuple[DataProblem, ...] = tuple(problems)
        super().__init__(_summary(self.problems))

    def __reduce__(self) -> tuple[type["DataError"], tuple[tuple[DataProblem, ...]]]:
        return DataError, (self.problems,)


def settle_problems(problems: Sequence[DataProblem], on_error: OnError = "raise") -> None:
    """
    End a reading pass.

    Args:
        problems (`Sequence[DataProblem]`): what the pass collected.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` raises if there is any problem; `"skip"` logs
            one warning with the count and lets the good rows through.

    Raises:
        DataError: with `on_error="raise"` and at least one problem.
        ValueError: for another `on_error`.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"got on_error={on_error!r}; expected 'raise' or 'skip'; pass one of the two.")
    if not problems:
        return
    if on_error == "raise":
        raise DataError(problems)
    logger.warning("%s", _summary(problems, "left out what has "))


def _summary(problems: Sequence[DataProblem], prefix: str = "") -> str:
    count = len(problems)
    lines = [f"{prefix}{count} problem{'' if count == 1 else 's'} in the data:"]
    lines += [f"  {problem}" for problem in problems[:_SHOWN_PROBLEMS]]
    if count > _SHOWN_PROBLEMS:
        lines.append(f"  ... and {count - _SHOWN_PROBLEMS} more (all in `DataError.problems`).")
    return "\n".join(lines)


def repeated_columns(file: str, there: Sequence[str], read: Collection[str], row: int | None = 1) -> list[DataProblem]:
    """A problem for each column that is read and stands there more than once: nobody knows which one is meant."""
    fix = "rename or delete all but one"
    return [
        DataProblem(file, row, name, f"{there.count(name)} columns of this name", "one", fix)
        for name in dict.fromkeys(there)
        if name in read and there.count(name) > 1
    ]


class _WithSplit(Protocol):
    @property
    def split(self) -> str | None: ...


_Row = TypeVar("_Row", bound=_WithSplit)


def rows_of_split(rows: Sequence[_Row], split: str, name: str) -> list[_Row]:
    """Those rows of the file `name` that are of a split; a `ValueError` with the splits there are where none is."""
    kept = [row for row in rows if row.split == split]
    if not kept:
        there = sorted({row.split for row in rows if row.split is not None})
        raise ValueError(
            f"got split={split!r} and no such row in {name}; expected one of the splits {there}; name one, or leave "
            "it out to read all rows."
        )
    return kept
