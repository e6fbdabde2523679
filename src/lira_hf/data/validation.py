"""One look at a file or folder of data: everything that is wrong with it, before any training starts."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .beir import scan_beir
from .catalogs import scan_catalogs
from .chat import chat_form, chat_rows
from .feature_cache import scan_cache
from .parallel import scan_parallel
from .problems import DataProblem, shorten
from .similarity import TABLE_SUFFIXES, scan_sts, scan_table, table_columns


__all__ = ["DATA_KINDS", "DataCheck", "check_data", "guess_kind", "validate_path"]

DATA_KINDS = {
    "beir": "a BEIR folder",
    "parallel": "a .tsv or .tmx file of parallel text",
    "gettext": "gettext catalogues (.po, .mo, or a folder of them)",
    "sts": "a table of scored pairs of texts (.tsv, .csv, .jsonl, .parquet)",
    "chat": "a file of conversations, or of prompts and completions (.jsonl, .parquet, .csv, .tsv)",
    "features": "a feature cache",
}
_BEIR_PARTS = ("corpus.jsonl", "queries.jsonl", "qrels")


@dataclass(slots=True)
class DataCheck:
    """
    What a look at a file or folder found.

    Args:
        kind (`str`): what it was taken for, such as `"beir"`.
        problems (`list[DataProblem]`): everything that is wrong.
        counts (`dict[str, int]`): the good texts of each language; `""` for those of unknown language.
        notes (`list[str]`): what is worth knowing and no fault.
    """

    kind: str
    problems: list[DataProblem] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def validate_path(path: str | os.PathLike[str]) -> list[DataProblem]:
    """
    Recognise data of one of the `DATA_KINDS`, or a folder of such files, and check it whole.

    Args:
        path (`str` or `os.PathLike`): the file or folder.

    Returns:
        `list[DataProblem]`: everything found in one pass (all splits of a BEIR folder); empty if all is well. What
        can't be recognised or isn't there is a problem too, never an exception.
    """
    place = Path(path)
    kind = guess_kind(place)
    if kind is not None:
        return check_data(place, kind).problems
    files = [file for file in sorted(place.glob("*.*")) if file.is_file() and guess_kind(file)]
    if files:
        return [problem for file in files for problem in validate_path(file)]
    return [unknown_data(place, DATA_KINDS.values())]


def unknown_data(path: Path, formats: Iterable[str]) -> DataProblem:
    """The problem of a path that holds none of some formats."""
    *most, last = formats
    expected = f"{', '.join(most)} or {last}"
    if not path.exists():
        return DataProblem(str(path), None, None, "nothing of this name", expected, "mend the path")
    if path.is_dir():
        return DataProblem(str(path), None, None, "a folder with none of these", expected, "mend the path")
    got = f"a file ending in {path.suffix!r}" if path.suffix else "a file without an ending"
    if path.suffix.lower() in TABLE_SUFFIXES:
        columns = table_columns(path)
        if not columns:  # which kind it was meant to be can't be told, but why not
            for _, row in scan_table(path):
                if isinstance(row, DataProblem):
                    return row
        got += f" with the columns {shorten(columns)}"
    return DataProblem(str(path), None, None, got, expected, "convert it, mend its name, or say its kind")


def guess_kind(path: str | os.PathLike[str]) -> str | None:
    """
    What a file or folder seems to be, by its names and the columns of its first line.

    Args:
        path (`str` or `os.PathLike`): the file or folder.

    Returns:
        `str`, *optional*: a key of `DATA_KINDS`; `None` if it is none of them, or isn't there.
    """
    place = Path(path)
    if place.is_dir():
        if any((place / part).exists() for part in _BEIR_PARTS):
            return "beir"
        if _caches(place):
            return "features"
        return "gettext" if any(place.rglob("*.[pm]o")) else None
    suffix = place.suffix.lower()
    if not place.is_file():
        return None
    if place.name in _BEIR_PARTS or (suffix == ".tsv" and place.parent.name == "qrels"):
        return "beir"
    if suffix in (".po", ".mo"):
        return "gettext"
    if suffix == ".tmx":
        return "parallel"
    if place.name == "index.sqlite" and (place.parent / "features.bin").is_file():
        return "features"
    if suffix not in TABLE_SUFFIXES:
        return None
    columns = set(table_columns(place))
    if {"sentence1", "sentence2"} & columns:
        return "sts"
    # A cell can't hold messages; the first line of parallel text without a header may well be that word.
    if chat_form(columns if suffix in (".jsonl", ".parquet") else columns - {"messages"}):
        return "chat"
    return "parallel" if suffix == ".tsv" else None


def check_data(path: str | os.PathLike[str], kind: str) -> DataCheck:
    """
    Check a file or folder that is of one kind.

    Args:
        path (`str` or `os.PathLike`): the file or folder.
        kind (`str`): a key of `DATA_KINDS`.

    Returns:
        [`DataCheck`]: problems of the whole file or folder, and counts of what is right. A path that isn't there is a
        problem.

    Raises:
        ValueError: for another kind.
    """
    checks: dict[str, Callable[[Path], DataCheck]] = {
        "beir": _check_beir,
        "parallel": lambda place: _of_pairs("parallel", *scan_parallel(place)),
        "gettext": lambda place: _of_pairs("gettext", *scan_catalogs(place)),
        "sts": _check_sts,
        "chat": _check_chat,
        "features": _check_features,
    }
    if kind not in checks:
        raise ValueError(f"got kind={kind!r}; expected one of {sorted(checks)}; name one of them.")
    place = Path(path)
    if not place.exists():
        return DataCheck(kind, [unknown_data(place, [DATA_KINDS[kind], "a folder of such"])])
    if place.is_dir() and kind in ("parallel", "sts", "chat"):
        got, expected = "a folder", DATA_KINDS[kind]
        return DataCheck(kind, [DataProblem(str(place), None, None, got, expected, "name the file itself")])
    return checks[kind](place)


def _of_pairs(kind: str, pairs: Iterable[Any], problems: list[DataProblem]) -> DataCheck:
    return DataCheck(kind, problems, dict(Counter(pair.language for pair in pairs)))


def _check_beir(place: Path) -> DataCheck:
    if place.is_file():
        place = place.parent.parent if place.parent.name == "qrels" else place.parent
    splits = sorted(file.stem for file in place.glob("qrels/*.tsv"))
    missing = [part for part in _BEIR_PARTS[:2] if not (place / part).is_file()]
    missing += [] if splits else ["qrels/<split>.tsv"]
    if missing:
        fix = "put the file there"
        return DataCheck(
            "beir",
            [DataProblem(str(place / name), None, None, "no such file", "a BEIR folder's", fix) for name in missing],
        )
    found, problems = scan_beir(place, splits)
    queries = {key: query.language or "" for data in found.values() for key, query in data.queries.items()}
    notes = [f"{len(next(iter(found.values())).corpus):,} documents", f"splits {', '.join(splits)}"]
    return DataCheck("beir", problems, dict(Counter(queries.values())), notes)


def _check_sts(place: Path) -> DataCheck:
    pairs, problems = scan_sts(place)
    check = DataCheck("sts", problems)
    languages = Counter(language or "" for pair in pairs for language in (pair.language1, pair.language2))
    check.counts = dict(languages)
    if pairs:
        scores = [pair.score for pair in pairs]
        check.notes.append(f"{len(pairs):,} pairs, scores from {min(scores):g} to {max(scores):g}")
        if len(pairs) > 1 and min(scores) == max(scores):
            check.notes.append("all scores are the same: nothing to rank")
    return check


def _caches(folder: Path) -> list[Path]:
    """A folder's feature caches: itself, or one for each backbone in it."""
    return [
        place
        for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir()))
        if (place / "index.sqlite").is_file() and (place / "features.bin").is_file()
    ]


def _check_features(place: Path) -> DataCheck:
    folder = place if place.is_dir() else place.parent
    check = DataCheck("features")
    for cache in _caches(folder) or [folder]:
        texts, problems = scan_cache(cache)
        check.problems += problems
        check.notes.append(f"{cache.name}: {texts:,} texts")
    return check


def _check_chat(place: Path) -> DataCheck:
    check = DataCheck("chat")
    forms, counts = Counter[str](), Counter[str]()
    for row in chat_rows(place):
        check.problems += row.problems
        if row.form is not None:
            forms[row.form] += 1
        if row.conversation is not None:
            counts[row.conversation.language or ""] += 1
    check.counts = dict(counts)
    check.notes = [f"{count:,} rows of {form}" for form, count in forms.items()]
    return check
