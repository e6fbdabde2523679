"""Generation data: conversations, or prompts with their completions, from the files that people have of them."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .files import broken_bytes
from .languages import normalize_language
from .problems import DataProblem, OnError, repeated_columns, rows_of_split, settle_problems, shorten
from .similarity import scan_table, table_columns


__all__ = ["ChatRow", "Conversation", "chat_form", "chat_rows", "read_chat", "scan_chat"]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_COLUMNS = ("messages", "prompt", "completion", "text", "language", "reference", "split")
_FORMS = "messages, or prompt and completion"


@dataclass(frozen=True, slots=True)
class Conversation:
    """
    A conversation whose last answer is learned, or a prompt with its completion.

    Args:
        messages (`list[dict]`, *optional*): turns with `role` and `content` (a text, or a list of parts), the last of
            them the assistant's, one before it the user's. `None` where prompt and completion are texts.
        prompt (`str`, *optional*): what the base LM reads, where there are no messages.
        completion (`str`, *optional*): what it is to write then.
        text (`str`, *optional*): what both roads read, where it isn't the whole prompt; of messages it is always the
            last user turn.
        language (`str`, *optional*): canonical tag of that text's language.
        reference (`str`, *optional*): English original, or translation, of that text.
        split (`str`, *optional*): such as `"dev"`.
        row (`int`, *optional*): line in the file, from 1; of a Parquet file the number of the row, from 1.
    """

    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    language: str | None = None
    reference: str | None = None
    split: str | None = None
    row: int | None = None


class ChatRow(NamedTuple):
    """
    What one row of a file gave.

    Args:
        form (`str`, *optional*): `"messages"` or `"prompt and completion"`; `None` where it is neither.
        conversation ([`Conversation`], *optional*): where nothing is wrong with it.
        problems (`list[DataProblem]`): what is.
    """

    form: str | None
    conversation: Conversation | None
    problems: list[DataProblem]


def read_chat(
    path: str | os.PathLike[str], split: str | None = None, on_error: OnError = "raise"
) -> list[Conversation]:
    """
    Read conversations from a `.jsonl` or `.parquet` file, prompts and completions as text also from `.csv` and `.tsv`.

    A row holds `messages`, a list of `{"role": ..., "content": ...}`; or `prompt` and `completion`, both as text or
    both as such lists, which are joined. What is learned is the last message, the assistant's. Further fields, each
    *optional*: `language`, `reference` (English original of the last user turn, for the warm-up), `text` (what both
    roads read in place of a whole text prompt), `split`. All else is ignored.

    Args:
        path (`str` or `os.PathLike`): the file.
        split (`str`, *optional*): only rows of this split.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`, see [`settle_problems`].

    Returns:
        `list[Conversation]`: the good rows, in their order.

    Raises:
        DataError: with every problem of the file, of all splits.
        FileNotFoundError: if there is no such file.
        ValueError: if no row is of the split that was asked for; the message has those there are.
    """
    conversations, problems = scan_chat(path)
    settle_problems(problems, on_error)
    return conversations if split is None else rows_of_split(conversations, split, os.fspath(path))


def scan_chat(path: str | os.PathLike[str]) -> tuple[list[Conversation], list[DataProblem]]:
    """Good rows and problems of a file of conversations."""
    conversations: list[Conversation] = []
    problems: list[DataProblem] = []
    for row in chat_rows(path):
        problems += row.problems
        if row.conversation is not None:
            conversations.append(row.conversation)
    return conversations, problems


def chat_rows(path: str | os.PathLike[str]) -> Iterator[ChatRow]:
    """
    Stream a file of conversations row by row, with what is wrong with each.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    place = Path(path)
    name, forms = str(place), Counter[str]()
    if place.suffix.lower() in (".csv", ".tsv", ".parquet"):  # all rows have the same fields: say it once
        columns = table_columns(place)
        if columns and chat_form(columns) is None:
            yield ChatRow(None, None, [_no_form(name, None, columns)])
            return
        if repeated := repeated_columns(name, columns, _COLUMNS):
            yield ChatRow(None, None, repeated)
            return
    for row, record in scan_table(place):
        if isinstance(record, DataProblem):
            yield ChatRow(None, None, [record])
            continue
        form = chat_form(record)
        if form is None:
            yield ChatRow(None, None, [_no_form(name, row, record)])
            continue
        first = next(iter(forms), form)
        forms[form] += 1
        problems = list(_conversation_problems(name, row, record, form))
        if form != first:
            expected = f"{first}, as in the rows before"
            problems.append(DataProblem(name, row, None, form, expected, "write all rows of a file in one form"))
        problems += _field_problems(name, row, record, form)
        yield ChatRow(form, None if problems else _conversation(row, record), problems)


def chat_form(fields: Iterable[str]) -> str | None:
    """Which form of conversation a row of these fields has; `None` for none."""
    fields = set(fields)
    if "messages" in fields:
        return "messages"
    return "prompt and completion" if {"prompt", "completion"} <= fields else None


def _no_form(name: str, row: int | None, fields: Iterable[str]) -> DataProblem:
    fix = "rename the fields" if row is None else "rename the fields, or delete the row"
    return DataProblem(name, row, None, f"the fields {shorten(list(fields))}", _FORMS, fix)


def _conversation(row: int, record: dict[str, Any]) -> Conversation:
    language, text, reference, split = (_given(record, name) for name in ("language", "text", "reference", "split"))
    shared = {
        "language": None if language is None else normalize_language(language),
        "reference": reference,
        "split": None if split is None else str(split),
        "row": row,
    }
    if "messages" in record:
        return Conversation([_turn(message) for message in record["messages"]], **shared)
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list):
        return Conversation([_turn(message) for message in (*prompt, *completion)], **shared)
    return Conversation(None, prompt, completion, text, **shared)


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    """A turn without the fields that only other rows of a Parquet file have; chat templates ask whether they are
    there."""
    return {"content": ""} | {name: value for name, value in message.items() if value is not None}


def _given(record: dict[str, Any], name: str) -> Any:
    """A field's value; `None` also for an empty cell."""
    value = record.get(name)
    return None if value == "" else value


def _conversation_problems(name: str, row: int, record: dict[str, Any], form: str) -> Iterator[DataProblem]:
    if form == "messages":
        yield from _whole_problems(name, row, "messages", record["messages"])
        return
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        found = list(_message_problems(name, row, "prompt", prompt, None))
        found += _message_problems(name, row, "completion", completion, "assistant")
        yield from found
        if not found:
            yield from _question_problems(name, row, "prompt", [*prompt, *completion])
        return
    for part, value in (("prompt", prompt), ("completion", completion)):
        if isinstance(value, list):
            yield from _message_problems(name, row, part, value, "assistant" if part == "completion" else None)
        else:
            expected, fix = "a text, or a list of messages", "write one, or delete the row"
            yield from _text_problems(name, row, part, value, expected, fix)
    if isinstance(prompt, list) != isinstance(completion, list):
        got = f"{type(prompt).__name__} and {type(completion).__name__}"
        expected, fix = "prompt and completion both as text, or both as messages", "write both in one form"
        yield DataProblem(name, row, None, got, expected, fix)


def _whole_problems(name: str, row: int, part: str, messages: Any) -> Iterator[DataProblem]:
    found = list(_message_problems(name, row, part, messages, "assistant"))
    yield from found or _question_problems(name, row, part, messages)


def _question_problems(name: str, row: int, part: str, messages: list[dict[str, Any]]) -> Iterator[DataProblem]:
    """Both roads read the user's last turn, so that there has to be one; of messages that are right in themselves."""
    if not any(turn["role"] == "user" and _says_something(turn.get("content")) for turn in messages):
        got = f"the roles {shorten([turn['role'] for turn in messages])}"
        expected, fix = "a message of the user before the answer", "add what is answered, or delete the row"
        yield DataProblem(name, row, part, got, expected, fix)


def _message_problems(name: str, row: int, part: str, messages: Any, closing: str | None) -> Iterator[DataProblem]:
    example = '{"role": "user", "content": "..."}'
    if not isinstance(messages, list) or not messages:
        yield DataProblem(name, row, part, shorten(messages), f"a list of messages such as {example}", "write them")
        return
    for place, message in enumerate(messages):
        where = f"{part}[{place}]"
        if not isinstance(message, dict):
            yield DataProblem(name, row, where, shorten(message), f"an object such as {example}", "write it so")
            continue
        role = message.get("role")
        if role not in _ROLES:
            fix = "rename the role, such as 'human' to 'user' and 'gpt' to 'assistant'"
            yield DataProblem(name, row, f"{where}.role", shorten(role), f"one of {', '.join(_ROLES)}", fix)
        elif role == "system" and place > 0:
            fix = "put it first; many chat templates refuse it elsewhere"
            yield DataProblem(name, row, f"{where}.role", "'system'", "the system message before all others", fix)
        if not _says_something(message.get("content")) and not message.get("tool_calls"):
            got, fix = shorten(message.get("content")), "write a text, or leave the message out"
            yield DataProblem(name, row, f"{where}.content", got, "a text that isn't empty", fix)
    last = messages[-1]
    if closing is not None and isinstance(last, dict) and last.get("role") in _ROLES and last["role"] != closing:
        fix = "add the answer, or leave out what follows the last one"
        got, expected = f"{last['role']!r} as the last role", f"{closing!r}: what is learned"
        yield DataProblem(name, row, part, got, expected, fix)


def _field_problems(name: str, row: int, record: dict[str, Any], form: str) -> Iterator[DataProblem]:
    """What is wrong with the fields that a row may have."""
    language = _given(record, "language")
    if language is not None:
        try:
            normalize_language(language)
        except (ValueError, TypeError) as error:
            fix = "write a tag such as 'ur', or leave the field out"
            yield DataProblem(name, row, "language", shorten(language), f"a language tag: {error}", fix)
    wanted = {"reference": "the English of the last user turn"}
    if form != "messages" and not isinstance(record["prompt"], list):  # elsewhere such a field means something else
        wanted["text"] = "the text that is put to the model"
    for field, what in wanted.items():
        value = _given(record, field)
        if value is not None:
            yield from _text_problems(name, row, field, value, what, "write it as text, or leave the field out")


def _text_problems(name: str, row: int, field: str, value: Any, expected: str, fix: str) -> Iterator[DataProblem]:
    if isinstance(value, str) and broken_bytes(value):
        got = f"bytes that are no UTF-8 in {shorten(value)}"
        yield DataProblem(name, row, field, got, "UTF-8", "save the file so")
    elif not isinstance(value, str) or not value.strip():
        yield DataProblem(name, row, field, shorten(value), expected, fix)


def _says_something(content: Any) -> bool:
    if isinstance(content, list):  # parts, as multimodal templates have them
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return any(isinstance(text, str) and text.strip() for text in texts)
    return isinstance(content, str) and bool(content.strip())
