"""Documents to search: a BEIR folder, its corpus.jsonl alone, or a text file with a document a line."""

import os
from pathlib import Path

from .beir import BeirDataset, read_corpus_file
from .files import broken_bytes, read_lines
from .problems import DataError, DataProblem, shorten


__all__ = ["read_documents"]


def read_documents(path: str | os.PathLike[str]) -> BeirDataset:
    """
    Args:
        path (`str` or `os.PathLike`): A folder with `corpus.jsonl`, a `.jsonl` file of the same form, or any other
            file with one document a line; blank lines are left out, and a line's number is its id.

    Returns:
        [`BeirDataset`]: `corpus`, and `document_languages` of those that name a language, as [`read_beir`] reads them;
        lines of text name none. Without queries.

    Raises:
        FileNotFoundError: Where there is no such file.
        DataError: With every problem of a `.jsonl` file, and every line of another that is no UTF-8.
        ValueError: Where no document is found.
    """
    place = Path(path)
    file = place / "corpus.jsonl" if place.is_dir() else place
    if not file.is_file():
        raise FileNotFoundError(
            f"got {str(place)!r}, and there is no {str(file)!r}; expected a BEIR folder, a .jsonl file or a text file "
            "with a document a line; mend the path"
        )
    if file.suffix == ".jsonl":
        found = read_corpus_file(file)
    else:
        found = BeirDataset()
        found.corpus = _texts(file)
    if not found.corpus:
        raise ValueError(f"got {str(file)!r} without any document; expected at least one; check the file")
    return found


def _texts(file: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    problems: list[DataProblem] = []
    for row, line in read_lines(file):
        if broken_bytes(line):
            got = f"bytes that are no UTF-8 in {shorten(line)}"
            problems.append(DataProblem(str(file), row, None, got, "UTF-8", "save it so"))
        elif line.strip():
            texts[str(row)] = line.strip()
    if problems:
        raise DataError(problems)
    return texts
