"""Reasoning benchmarks from local files in their own formats: MGSM (arithmetic) and X-CSQA (multiple choice)."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from .files import broken_bytes, read_lines
from .languages import normalize_language
from .problems import DataProblem, OnError, settle_problems, shorten


__all__ = ["ChoiceQuestion", "MathProblem", "read_mgsm", "read_xcsqa"]

_MGSM_FILE = re.compile(r"mgsm_([A-Za-z]{2,3}(?:[-_]\w+)?)\.tsv")
# As the benchmark writes them: digits, commas between thousands, a point before decimals.
_NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?")
_OWN_TAGS = {"jap": "ja"}  # X-CSQA's tag of Japanese
_NO_UTF8 = ("UTF-8", "save the file so")


@dataclass(frozen=True, slots=True)
class MathProblem:
    """
    A word problem whose answer is a number.

    Args:
        id (`str`): The same in every language: the number of the line, which MGSM's files share.
        question (`str`): The problem.
        answer (`Decimal`): The number.
        language (`str`): Canonical tag.
        row (`int`): Line in the file, from 1.
    """

    id: str
    question: str
    answer: Decimal
    language: str
    row: int


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """
    A question with answers to choose from.

    Args:
        id (`str`): The benchmark's own, the same in every language.
        question (`str`): The question.
        choices (`tuple[str, ...]`): Texts of the choices.
        labels (`tuple[str, ...]`): Their labels, such as `"A"`.
        answer (`int`): Place of the right one.
        language (`str`): Canonical tag.
        row (`int`): Line in the file, from 1.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    labels: tuple[str, ...]
    answer: int
    language: str
    row: int


def read_mgsm(
    path: str | os.PathLike[str], languages: Sequence[str] | None = None, on_error: OnError = "raise"
) -> list[MathProblem]:
    """
    MGSM's test problems: `mgsm_<language>.tsv`, a question, a tab and a number a line, without a header or quoting.

    Args:
        path (`str` or `os.PathLike`): A file of that name, or a folder of such files.
        languages (`Sequence[str]`, *optional*): Of a folder, only these.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`, see [`settle_problems`].

    Returns:
        `list[MathProblem]`: The good rows; files by language, rows in their order.

    Raises:
        DataError: With every problem of all files: another number of cells, no question, no number, no UTF-8.
        FileNotFoundError: Where there is no such file, or none of a language that was asked for.
        ValueError: For a name that tells no language, or an unknown tag.
    """
    place = Path(path)
    files = {_mgsm_language(file): file for file in _mgsm_files(place)}
    rows: list[MathProblem] = []
    problems: list[DataProblem] = []
    for tag in _wanted(files, languages, place, "mgsm_<language>.tsv"):
        for found in _scan_mgsm(files[tag], tag):
            (problems if isinstance(found, DataProblem) else rows).append(found)  # type: ignore[arg-type]
    settle_problems(problems, on_error)
    return rows


def read_xcsqa(
    path: str | os.PathLike[str],
    split: str = "dev",
    languages: Sequence[str] | None = None,
    on_error: OnError = "raise",
) -> list[ChoiceQuestion]:
    """
    X-CSQA's questions: a JSON object a line with `id`, `lang`, `question` (`stem`, and `choices` of `label` and
    `text`) and `answerKey`. The choices may also be two lists, as the same data has them on the Hub.

    The answers of the benchmark's test files are not public; the dev files are what is scored without the
    leaderboard.

    Args:
        path (`str` or `os.PathLike`): A `.jsonl` file, or a folder with `<language>/<split>.jsonl`.
        split (`str`, *optional*, defaults to `"dev"`): Of a folder: which files.
        languages (`Sequence[str]`, *optional*): Only these.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`, see [`settle_problems`].

    Returns:
        `list[ChoiceQuestion]`: The good rows; files by name, rows in their order.

    Raises:
        DataError: With every problem of all files: no JSON, no id or one that its language has twice, an unknown
            language, no question, fewer than two choices, labels that repeat, an answer that is none of them.
        FileNotFoundError: Where there is no such file, or no row of a language that was asked for.
        ValueError: For an unknown tag.
    """
    place = Path(path)
    files = sorted(place.glob(f"*/{split}.jsonl")) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise FileNotFoundError(
            f"got {str(place)!r}, where there is no X-CSQA; expected a .jsonl file, or a folder with "
            f"<language>/{split}.jsonl; mend the path, or name another split"
        )
    rows: list[ChoiceQuestion] = []
    problems: list[DataProblem] = []
    for file in files:
        for found in _scan_xcsqa(file):
            (problems if isinstance(found, DataProblem) else rows).append(found)  # type: ignore[arg-type]
    settle_problems(problems, on_error)
    kept = _wanted(dict.fromkeys(row.language for row in rows), languages, place, "rows with that 'lang'")
    return rows if languages is None else [row for row in rows if row.language in kept]


def _wanted(there: dict[str, Any], languages: Sequence[str] | None, place: Path, what: str) -> list[str]:
    if languages is None:
        return list(there)
    tags = [normalize_language(tag) for tag in languages]
    if missing := [tag for tag in tags if tag not in there]:
        raise FileNotFoundError(
            f"got {str(place)!r} without {missing}; expected {what}; there are {sorted(there)}; name some of these"
        )
    return tags


# MGSM


def _mgsm_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    files = sorted(file for file in place.glob("mgsm_*.tsv") if _MGSM_FILE.fullmatch(file.name))
    if not files:
        raise FileNotFoundError(
            f"got {str(place)!r}, where there is no MGSM; expected a file mgsm_<language>.tsv, or a folder of them; "
            "mend the path"
        )
    return files


def _mgsm_language(file: Path) -> str:
    named = _MGSM_FILE.fullmatch(file.name)
    if named is None:
        raise ValueError(
            f"got {file.name!r}, which tells no language; expected mgsm_<language>.tsv, such as mgsm_bn.tsv; rename "
            "the file"
        )
    return normalize_language(named[1])


def _scan_mgsm(file: Path, tag: str) -> Iterator[MathProblem | DataProblem]:
    name = str(file)
    for row, line in read_lines(file):
        if not line.strip():
            continue
        cells = line.split("\t")
        if broken_bytes(line):
            yield DataProblem(name, row, None, f"bytes that are no UTF-8 in {shorten(line)}", *_NO_UTF8)
        elif len(cells) != 2:
            got = f"{len(cells)} cells in {shorten(line)}"
            yield DataProblem(name, row, None, got, "2: a question and a number", "put one tab between the two")
        elif not cells[0].strip():
            yield DataProblem(name, row, "question", shorten(cells[0]), "a text", "write one, or delete the row")
        elif not _NUMBER.fullmatch(cells[1].strip()):
            expected, fix = "a number such as 18 or 1,250.5", "write the bare number"
            yield DataProblem(name, row, "answer", shorten(cells[1]), expected, fix)
        else:
            answer = Decimal(cells[1].strip().replace(",", ""))
            yield MathProblem(str(row), cells[0].strip(), answer, tag, row)


# X-CSQA


def _scan_xcsqa(file: Path) -> Iterator[ChoiceQuestion | DataProblem]:
    seen: dict[tuple[str, str], int] = {}
    for row, line in read_lines(file):
        if not line.strip():
            continue
        found = _parse_xcsqa(str(file), row, line)
        if isinstance(found, ChoiceQuestion):
            first = seen.setdefault((found.language, found.id), row)
            if first != row:
                got, expected = f"the id that row {first} has, {found.id!r}", "each id once in a language"
                yield DataProblem(str(file), row, "id", got, expected, "delete one of the two")
                continue
        yield found


def _parse_xcsqa(name: str, row: int, line: str) -> ChoiceQuestion | DataProblem:
    if broken_bytes(line):
        return DataProblem(name, row, None, f"bytes that are no UTF-8 in {shorten(line)}", *_NO_UTF8)
    fix = 'write {"id": ..., "lang": ..., "question": {"stem": ..., "choices": [...]}, "answerKey": "A"}'
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return DataProblem(name, row, None, f"{shorten(line)} ({error})", "valid JSON", fix)
    if not isinstance(record, dict):
        return DataProblem(name, row, None, shorten(record), "a JSON object", fix)
    key = record.get("id")
    if isinstance(key, bool) or not isinstance(key, int | str) or not str(key).strip():
        return DataProblem(name, row, "id", shorten(key), "an id (a text or an integer)", "give the row an id")
    try:
        given = record.get("lang")
        tag = normalize_language(_OWN_TAGS.get(given, given) if isinstance(given, str) else given)
    except (ValueError, TypeError) as error:
        return DataProblem(name, row, "lang", shorten(given), f"a language tag: {error}", "write one such as 'ur'")
    asked: dict[str, Any] = record["question"] if isinstance(record.get("question"), dict) else {}
    stem = asked.get("stem")
    if not isinstance(stem, str) or not stem.strip():
        return DataProblem(name, row, "question.stem", shorten(stem), "a text", "write one, or delete the row")
    choices = _choices(asked.get("choices"))
    if choices is None:
        got, expected = shorten(asked.get("choices")), "two or more choices, each with a label of its own and a text"
        return DataProblem(name, row, "question.choices", got, expected, fix)
    labels, texts = choices
    answer = record.get("answerKey")
    if answer not in labels:
        expected = f"one of the labels {list(labels)}"
        return DataProblem(name, row, "answerKey", shorten(answer), expected, "take a file with answers, such as dev")
    return ChoiceQuestion(str(key), stem.strip(), texts, labels, labels.index(answer), tag, row)


def _choices(given: Any) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Labels and texts, or `None` where they are not what they should be."""
    if isinstance(given, dict) and all(isinstance(given.get(name), list) for name in ("label", "text")):
        labels, texts = given["label"], given["text"]
    elif isinstance(given, list) and all(isinstance(one, dict) for one in given):
        labels, texts = ([one.get(name) for one in given] for name in ("label", "text"))
    else:
        return None
    strings = all(isinstance(one, str) and one.strip() for one in (*labels, *texts))
    if not strings or len(labels) < 2 or len(labels) != len(texts) or len(set(labels)) != len(labels):
        return None
    return tuple(labels), tuple(text.strip() for text in texts)
