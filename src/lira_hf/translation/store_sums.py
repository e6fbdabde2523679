"""Checksums of a candidate store's rows, and its library's errors told in the store's own words (ours)."""

import functools
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from .store_schema import StoreError, id_batches, text_key


__all__ = ["answer_sum", "candidate_sum", "score_sum"]

P = ParamSpec("P")
T = TypeVar("T")


# Every sum holds the language and key of the text that its row is of: damage in an index, which leads to a row that is
# whole but another text's, is found as well. SQLite itself checks no content.


def answer_sum(language: str, text: bytes, translator: int, candidates: Iterable[int | None]) -> int:
    """CRC-32 of a row of `asked`, with those of the answer's candidates by rank: none of them may go missing."""
    return zlib.crc32(text + f"{language}\0{translator}\0{[*candidates]}".encode())


def candidate_sum(
    language: str, text: bytes, translator: int, rank: int, key: bytes, kind: str, maker: str, score: float | None
) -> int:
    """CRC-32 of a row of `candidates`; its text counts by its key."""
    fields = f"{language}\0{translator}\0{rank}\0{kind}\0{maker}\0{_number(score)}"
    return zlib.crc32(text + _bytes(key) + fields.encode(errors="replace"))


def score_sum(
    language: str, text: bytes, key: bytes, critic: int, semantic: float, emotional: float, pragmatic: float
) -> int:
    """CRC-32 of a row of `scores`."""
    fields = f"{language}\0{critic}\0{_number(semantic)}\0{_number(emotional)}\0{_number(pragmatic)}"
    return zlib.crc32(text + _bytes(key) + fields.encode(errors="replace"))


def seal_answers(
    db: sqlite3.Connection, answers: Iterable[tuple[int, int]], texts: Mapping[int, tuple[str, bytes]]
) -> None:
    """Writes the sums of answers, by text and translator, whose candidates are there by now."""
    found: dict[tuple[int, int], list[int | None]] = {answer: [] for answer in answers}
    for batch, marks in id_batches(dict.fromkeys(text for text, _ in found)):
        query = (
            f"SELECT text_id, translator_id, checksum FROM candidates WHERE text_id IN ({marks}) ORDER BY 1, 2, rank"
        )
        for text, who, checksum in db.execute(query, batch):
            if (text, who) in found:
                found[text, who].append(checksum)
    db.executemany(
        "UPDATE asked SET checksum = ? WHERE text_id = ? AND translator_id = ?",
        [(answer_sum(*texts[text], who, sums), text, who) for (text, who), sums in found.items()],
    )


def _number(value: float | None) -> str:
    # As SQLite gives it back: NaN as NULL, and no negative zero.
    if value is None or value != value:
        return ""
    return repr(value + 0.0) if isinstance(value, int | float) else repr(value)  # damage changes types too


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else repr(value).encode()


def check_text(path: Path, text: str, key: bytes, what: Callable[[], str]) -> None:
    """
    Raises:
        `StoreError`: a text that isn't the one of its key.
    """
    if not isinstance(text, str) or text_key(text) != key:
        raise damaged(path, f"{what()} {text!r:.60}, which isn't the text of its key")


def check_sum(path: Path, found: int | None, expected: int, what: Callable[[], str]) -> None:
    """
    Rows from before the schema had checksums have none, and pass.

    Raises:
        `StoreError`: a row that isn't as it was written.
    """
    if found is not None and found != expected:
        raise damaged(path, f"{what()}, which isn't as it was written (its CRC-32 differs)")


def damaged(path: Path, what: str) -> StoreError:
    """The error of a row that can't be trusted."""
    return StoreError(
        f"{path} holds {what}; expected what was stored; look through it with `lira validate`, then restore a copy, "
        "or have `CandidateStore.forget(language, [text])` drop that text and ask for it again; and check the disk"
    )


def told(method: Callable[P, T]) -> Callable[P, T]:
    """A method of a store whose file may be damaged, locked for too long, or without room on its disk."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # a damaged schema may be no text at all
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise  # the caller's mistake, not the file's
            path: Any = getattr(args[0], "path", "the store")
            raise unusable(path, error) from error

    return call


def unusable(path: Path, error: Exception) -> StoreError:
    """What is told where SQLite fails."""
    if "full" in str(error) or "disk I/O" in str(error):
        return StoreError(
            f"{path} can't be written ({error}); expected room on its disk; make some and start the same run again: "
            "what was stored before is kept"
        )
    return StoreError(
        f"{path} can't be read or written ({error}); expected a sound SQLite file that no other process holds; look "
        "through it with `lira validate`, and restore a copy if it is damaged"
    )
