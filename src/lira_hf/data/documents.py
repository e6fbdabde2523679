"""Documents to search: a BEIR folder, its corpus.jsonl alone, or a text file with a document a line."""

import os
from pathlib import Path

from .beir import BeirDataset, read_corpus_file
from .files import read_lines


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
        DataError: With every problem of a `.jsonl` file.
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
        found.corpus = {str(row): line.strip() for row, line in read_lines(file) if line.strip()}
    if not found.corpus:
        raise ValueError(f"got {str(file)!r} without any document; expected at least one; check the file")
    return found
