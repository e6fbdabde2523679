"""One look at a file or folder of data: everything that is wrong with it, before any training starts."""

import os
from pathlib import Path

from .beir import scan_beir
from .catalogs import scan_catalogs
from .parallel import scan_tsv
from .problems import DataProblem


__all__ = ["validate_path"]

_FORMATS = "a BEIR folder, a .tsv file of parallel text, or gettext catalogues (.po, .mo, or a folder of them)"


def validate_path(path: str | os.PathLike[str]) -> list[DataProblem]:
    """
    Recognise a BEIR folder, a TSV file of parallel text, a gettext catalogue or a folder of them, and check it whole.

    Args:
        path (`str` or `os.PathLike`): the file or folder.

    Returns:
        `list[DataProblem]`: everything found in one pass (all splits of a BEIR folder); empty if all is well. What
            can't
        be recognised or isn't there is a problem too, never an exception.
    """
    place = Path(path)
    if not place.exists():
        return [DataProblem(str(place), None, None, "nothing of this name", _FORMATS, "mend the path")]
    if place.is_dir():
        return _check_folder(place)
    suffix = place.suffix.lower()
    if suffix == ".tsv":
        return scan_tsv(place)[1]
    if suffix in (".po", ".mo"):
        return scan_catalogs(place)[1]
    if place.name in ("corpus.jsonl", "queries.jsonl"):
        return _check_folder(place.parent)
    got = f"a file ending in {suffix!r}" if suffix else "a file without an ending"
    return [DataProblem(str(place), None, None, got, _FORMATS, "convert it, or mend its name")]


def _check_folder(folder: Path) -> list[DataProblem]:
    parts = ("corpus.jsonl", "queries.jsonl", "qrels")
    if any((folder / part).exists() for part in parts):
        splits = sorted(file.stem for file in folder.glob("qrels/*.tsv"))
        missing = [part for part in parts[:2] if not (folder / part).is_file()]
        missing += [] if splits else ["qrels/<split>.tsv"]
        if not missing:
            return scan_beir(folder, splits)[1]
        fix = "put the file there"
        return [
            DataProblem(str(folder / name), None, None, "no such file", "a BEIR folder's", fix) for name in missing
        ]
    if any(folder.rglob("*.[pm]o")):
        return scan_catalogs(folder)[1]
    files = sorted(folder.glob("*.tsv"))
    if files:
        return [problem for file in files for problem in scan_tsv(file)[1]]
    return [DataProblem(str(folder), None, None, "a folder with none of these", _FORMATS, "mend the path")]
