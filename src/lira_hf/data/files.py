"""Reading and writing files so that a bad byte or a killed process spoils as little as it can."""

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


__all__ = ["broken_bytes", "csv_reader", "half_characters", "read_lines", "replace_files", "strict_json", "write_json"]

# What csv takes as a limit on every machine; its own, 128 KiB a cell, is less than a long document.
_LONGEST_CELL = 2**31 - 1


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """
    Stream a text file as `(row, line)`, rows from 1, without line endings and byte order mark. Only `\\n` and `\\r\\n`
    end a line; bytes that are no UTF-8 come as the surrogates U+DC80 to U+DCFF, see [`broken_bytes`].
    """
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for row, line in enumerate(lines, start=1):
            yield row, (line.removeprefix("\ufeff") if row == 1 else line).rstrip("\r\n")


def broken_bytes(text: str) -> bool:
    """Whether a line of [`read_lines`] holds bytes that are no UTF-8."""
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)


def half_characters(text: str) -> bool:
    """Whether a text holds lone surrogates, from bytes that are no UTF-8 or from JSON's escapes: no file can."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def csv_reader(lines: Iterable[str]) -> Any:
    """A strict `csv.reader` of comma-separated lines, with cells of any length; the limit is the process's."""
    csv.field_size_limit(_LONGEST_CELL)
    return csv.reader(lines, strict=True)


def replace_files(contents: Iterable[tuple[Path, Iterable[bytes]]]) -> None:
    """
    Write files beside their places and move them there once all are complete, so that no reader meets half a file.

    Args:
        contents (`Iterable[tuple[Path, Iterable[bytes]]]`): each file's path and its parts.

    Raises:
        OSError: naming the file that can't be written; all files are as they were, unless a move failed.
    """
    moves: list[tuple[Path, Path]] = []
    path = Path()
    try:
        for path, parts in contents:
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            moves.append((temporary, path))
            with open(temporary, "wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
        for temporary, path in moves:
            os.replace(temporary, path)
    except OSError as error:
        # A full disk's own error names no file.
        raise OSError(
            error.errno,
            f"{path} can't be written ({error.strerror or error}); expected room and the right to write there; make "
            "room, or mend the rights, and start again: what was finished before is kept",
        ) from error
    finally:
        for temporary, _ in moves:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """A JSON file, there whole or not at all; its folder is made. What Python alone can read, such as NaN, stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_files([(path, [json.dumps(value, ensure_ascii=False, indent=1).encode()])])


def strict_json(value: Any) -> str:
    """JSON that every program can read: numbers that JSON has no word for, NaN and the infinities, are null."""
    return json.dumps(_finite(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
