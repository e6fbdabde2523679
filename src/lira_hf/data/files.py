"""Reading and writing files so that a bad byte or a killed process spoils as little as it can."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


__all__ = ["broken_bytes", "read_lines", "replace_files"]


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


def replace_files(contents: Iterable[tuple[Path, Iterable[bytes]]]) -> None:
    """
    Write files beside their places and move them there once all are complete, so that no reader meets half a file.

    Args:
        contents (`Iterable[tuple[Path, Iterable[bytes]]]`): each file's path and its parts.
    """
    moves: list[tuple[Path, Path]] = []
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
    finally:
        for temporary, _ in moves:
            temporary.unlink(missing_ok=True)
