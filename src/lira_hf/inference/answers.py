"""A file of questions to a file of answers: bad rows are told, a killed run goes on where it was (ours)."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout
from jinja2 import TemplateError
from tqdm.auto import tqdm

from lira_hf.data import DataProblem, normalize_language
from lira_hf.data.files import broken_bytes, read_lines, replace_files
from lira_hf.data.problems import shorten

from .generator import LiraGenerator, Question


__all__ = ["AnswerReport", "AnswersError", "QuestionRow", "answer_file", "read_questions"]

_UNKNOWN = "und"  # BCP 47's "undetermined"
_FIX = 'write one JSON object a line, such as {"text": "...", "language": "th"}'
_FIELDS = ("text", "question", "messages")
_TABLES = (".csv", ".json", ".parquet", ".tsv")
_BATCHES = 16  # of a chunk, within which questions are sorted by length


class AnswersError(RuntimeError):
    """The file of answers isn't of this run, or is damaged."""


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """
    A question of a file.

    Args:
        row (`int`): Its line, from 1.
        question (`str` or `list[dict]`): A text, or a conversation.
        language (`str`, *optional*): Tag of the text.
        candidates (`list[str]`, *optional*): Its own candidates.
        id (`str` or `int`, *optional*): The file's name for it.
    """

    row: int
    question: Question
    language: str | None = None
    candidates: list[str] | None = None
    id: str | int | None = None

    @property
    def digest(self) -> str:
        """Tells the question from another that may stand in its line; 16 hexadecimal digits."""
        asked = json.dumps([self.question, self.language, self.candidates], ensure_ascii=False)
        return hashlib.blake2b(asked.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass
class AnswerReport:
    """
    What became of a file's rows.

    Args:
        written (`int`): Answered now.
        skipped (`int`): Answered before.
        problems (`list[DataProblem]`): Rows that couldn't be asked.
    """

    written: int = 0
    skipped: int = 0
    problems: list[DataProblem] = field(default_factory=list)


def read_questions(
    path: str | os.PathLike[str], default_language: str | None = None
) -> Iterator[QuestionRow | DataProblem]:
    """
    Questions of a file, one at a time; any size.

    A row of a `.jsonl` file has `text` or `question`, or as `messages` a conversation whose last user turn is the
    text, and may have `id`, `language` and, as a list, `candidates`. Of any other file each line that isn't blank is a
    question. The tag `"und"` is a language that isn't known.

    Args:
        path (`str` or `os.PathLike`): The file.
        default_language (`str`, *optional*): Tag of the rows that name none.

    Returns:
        `Iterator`: each row, or what is wrong with it.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: For an unknown `default_language`, or a table.
    """
    file = Path(path)
    if file.suffix.lower() in _TABLES:
        raise ValueError(
            f"got {str(file)!r}; expected a .jsonl file, or a text file with a question a line; write its rows as "
            "JSON objects with 'text' and 'language'"
        )
    if not file.is_file():
        raise FileNotFoundError(
            f"got {str(file)!r}, which is no file; expected a .jsonl file, or a text file with a question a line; "
            "mend the path"
        )
    default = None if default_language is None else _language(default_language)
    return _scan(file, default)


def answer_file(
    generator: LiraGenerator,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    default_language: str | None = None,
    **options: Any,
) -> AnswerReport:
    """
    Answers the questions that a file of answers lacks, and appends each batch to it as it comes. A killed run has lost
    the batch that it was at; started again with the same arguments it goes on behind it.

    Each line of the answers is a JSON object: `row`, `id` where there is one, `text` (or `messages`), `language`,
    `answer`, `question` (a hash of what was asked) and `run` (a hash of the model and of the options). A finished file
    is in the order of the questions.

    Args:
        generator ([`LiraGenerator`]): Its `progress` says whether a bar is shown.
        source (`str` or `os.PathLike`): Questions, as in [`read_questions`].
        output (`str` or `os.PathLike`): The file of answers; made, or added to.
        default_language (`str`, *optional*): Tag of the rows that name none.
        options: As of [`LiraGenerator.stream`], such as `max_new_tokens`.

    Returns:
        [`AnswerReport`]: What became of the rows; bad ones are left out and told.

    Raises:
        AnswersError: The answers are another model's, of other options or candidates, or no such file; or another run
            writes them.
        FileNotFoundError: Where there are no questions.
    """
    target, report = Path(output), AnswerReport()
    found = read_questions(source, default_language)
    run = _run(generator, options)
    with (
        _one_writer(target),
        tqdm(desc="answering", unit="question", disable=not generator.progress) as bar,
    ):
        rows = _fresh(found, _done(target, run), report, generator, os.fspath(source))
        _write(target, rows, run, generator, options, report, bar)
        _put_in_order(target)
    return report


@contextmanager
def _one_writer(target: Path) -> Iterator[None]:
    # Beside the answers, which are replaced when they are put in order. It stays: to delete a lock is no safe thing.
    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise AnswersError(
            f"got {target} while another run writes its answers there; expected one run a file; wait for it to end, "
            "or name another file"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _write(
    target: Path,
    rows: Iterator[QuestionRow],
    run: str,
    generator: LiraGenerator,
    options: dict[str, Any],
    report: AnswerReport,
    bar: tqdm,
) -> None:
    """Appends the answers to rows, batch by batch."""
    with open(target, "a", encoding="utf-8") as file:
        while chunk := list(islice(rows, _BATCHES * generator.batch_size)):
            for places, answers in _ask(generator, chunk, options):
                file.writelines(_line(chunk[p], answer, run) for p, answer in zip(places, answers, strict=True))
                file.flush()
                os.fsync(file.fileno())
                report.written += len(places)
                bar.update(len(places))


def _ask(
    generator: LiraGenerator, chunk: list[QuestionRow], options: dict[str, Any]
) -> Iterator[tuple[list[int], list[str]]]:
    shown, generator.progress = generator.progress, False  # one bar for the file
    try:
        yield from generator.stream(
            [row.question for row in chunk],
            [row.language for row in chunk],
            [row.candidates for row in chunk],
            **options,
        )
    finally:
        generator.progress = shown


def _fresh(
    rows: Iterator[QuestionRow | DataProblem],
    done: set[tuple[int, str]],
    report: AnswerReport,
    generator: LiraGenerator,
    name: str,
) -> Iterator[QuestionRow]:
    for row in rows:
        if isinstance(row, QuestionRow) and not isinstance(row.question, str):
            row = _templated(row, generator, name)
        if isinstance(row, DataProblem):
            report.problems.append(row)
        elif (row.row, row.digest) in done:
            report.skipped += 1
        else:
            yield row


def _templated(row: QuestionRow, generator: LiraGenerator, name: str) -> QuestionRow | DataProblem:
    """A conversation that the base's template takes, or what it says against it."""
    got = f"{shorten(row.question)} and a base LM without a chat template"
    if generator.processor.chat_template is not None:
        try:
            generator.read(row.question)
            return row
        except (TemplateError, ValueError, TypeError) as error:
            got = f"{shorten(row.question)} ({error})"
    expected = "a conversation in the base's chat template"
    return DataProblem(name, row.row, "messages", got, expected, "mend its turns, or write a 'text'")


def _run(generator: LiraGenerator, options: dict[str, Any]) -> str:
    source, parts = generator.candidates, [generator.fingerprint, json.dumps(options, sort_keys=True, default=str)]
    if source is not None:
        asked = [None if who is None else (who.name, who.fingerprint) for who in (source.translator, source.critic)]
        parts.append(repr((source.store is not None, asked, source.num_candidates)))
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def _done(target: Path, run: str) -> set[tuple[int, str]]:
    """Row and digest of the answers that there are; a last line that was cut short is taken off."""
    if not target.exists():
        return set()
    done: set[tuple[int, str]] = set()
    end = 0
    with open(target, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                record = {}
            if record is None:
                break
            if not isinstance(record, dict) or not record.keys() >= {"row", "question", "run"}:
                raise AnswersError(
                    f"got {target}, whose line {number} is {shorten(line)}; expected answers as `lira generate` "
                    "writes them; name another file, or delete this one"
                )
            if record["run"] != run:
                raise AnswersError(
                    f"got {target}, whose line {number} is of the run {record['run']}; expected this run's, {run}: "
                    "the same model, candidates and options; write to a new file, or delete this one"
                )
            done.add((record["row"], record["question"]))
            end += len(line)
    os.truncate(target, end)
    return done


def _line(row: QuestionRow, answer: str, run: str) -> str:
    named = {} if row.id is None else {"id": row.id}
    asked = {"text": row.question} if isinstance(row.question, str) else {"messages": row.question}
    record = {"row": row.row, **named, **asked, "language": row.language, "answer": answer}
    return json.dumps(record | {"question": row.digest, "run": run}, ensure_ascii=False) + "\n"


def _put_in_order(target: Path) -> None:
    """Sorts the answers by row, holding of each its place alone."""
    places: list[tuple[int, int, int]] = []
    with open(target, "rb") as file:
        for line in file:
            places.append((json.loads(line)["row"], file.tell() - len(line), len(line)))
    ordered = sorted(places)
    if ordered != places:
        with open(target, "rb") as file:
            replace_files([(target, (_read_at(file, start, size) for _, start, size in ordered))])


def _read_at(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _language(tag: Any) -> str | None:
    return None if tag == _UNKNOWN else normalize_language(tag)


def _scan(file: Path, default: str | None) -> Iterator[QuestionRow | DataProblem]:
    name, as_json = str(file), file.suffix.lower() == ".jsonl"
    for row, line in read_lines(file):
        if not line.strip():
            continue
        if broken_bytes(line):
            yield DataProblem(name, row, None, f"bytes that are no UTF-8 in {shorten(line)}", "UTF-8", "save it so")
        elif as_json:
            yield _parsed(name, row, line, default)
        else:
            yield QuestionRow(row, line.strip(), default)


def _parsed(name: str, row: int, line: str, default: str | None) -> QuestionRow | DataProblem:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return DataProblem(name, row, None, f"{shorten(line)} ({error})", "valid JSON", _FIX)
    if not isinstance(record, dict):
        return DataProblem(name, row, None, shorten(record), "a JSON object", _FIX)
    key = next((key for key in _FIELDS if record.get(key) is not None), "text")
    question = record.get(key)
    if key == "messages" and not _is_conversation(question):
        expected = "turns with 'role' and 'content', one of them the user's with a text"
        return DataProblem(name, row, key, shorten(question), expected, "write such turns, or a 'text'")
    if key != "messages" and not (isinstance(question, str) and question.strip()):
        return DataProblem(name, row, key, shorten(question), "a text", "give the row one, or delete it")
    candidates = record.get("candidates")
    if candidates is not None and not (
        isinstance(candidates, list) and all(isinstance(each, str) and each.strip() for each in candidates)
    ):
        fix = "write a list, or leave the field out"
        return DataProblem(name, row, "candidates", shorten(candidates), "a list of English texts", fix)
    own = record.get("id")
    if own is not None and (isinstance(own, bool) or not isinstance(own, int | str)):
        return DataProblem(name, row, "id", shorten(own), "a text or an integer", "write one, or leave the field out")
    try:
        tag = default if record.get("language") is None else _language(record["language"])
    except (ValueError, TypeError) as error:
        expected, fix = f"a language tag: {error}", "write one such as 'ur'"
        return DataProblem(name, row, "language", shorten(record["language"]), expected, fix)
    return QuestionRow(row, question, tag, candidates, own)


def _is_conversation(turns: Any) -> bool:
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    ):
        return False
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    return bool(asked) and bool(asked[-1].strip())
