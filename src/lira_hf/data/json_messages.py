"""Parallel text from JSON messages: MediaWiki's `i18n/th.json` and web extensions' `_locales/th/messages.json`."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalogs import _FOLDERS_WITHOUT_NAME, _MARKUP, _tag_or_none
from .files import read_lines
from .languages import normalize_language
from .pairs import ParallelPair, distinct, has_letters, tidy_text, worth_keeping
from .problems import DataProblem, OnError, settle_problems, shorten


__all__ = ["is_key_name", "message_pair", "read_json_messages", "scan_json_messages"]

_MOST_NESTING = 5
_ENTRY = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*:')
_SURROGATE = re.compile("[\ud800-\udfff]")
_KEY_NAME = re.compile(r"(?:access|command)-?keys?(?:$|[-_.\d])|(?:^|[-_.])(?:key)?shortcuts?\d*$", re.IGNORECASE)
# Wiki syntax that chooses a form or dresses a word; what is only a placeholder stays, as in gettext catalogues.
_LINKS = (
    re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]"),
    re.compile(r"\[(?:(?:https?:)?//[^\s\[]+|\$\d+|\{\{[^{}]*\}\}) ([^\[\]]+)\]"),
)
_CHOICE = re.compile(r"\{\{\s*(PLURAL|GENDER)\s*:[^{}|]*\|([^{}]*)\}\}", re.IGNORECASE)
_QUOTES = re.compile("'{2,}")


@dataclass(frozen=True, slots=True)
class _Message:
    text: str
    row: int | None


_Messages = dict[tuple[str, ...], _Message]


def read_json_messages(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    languages: Iterable[str] | None = None,
    *,
    origin: str | None = None,
    on_error: OnError = "raise",
) -> list[ParallelPair]:
    """
    Read messages that programs keep as JSON: folders, searched through, with a file for each language and the same
    keys in each. Two layouts are known: `en.json` beside `th.json` (MediaWiki and what uses its format), and
    `_locales/en/messages.json` beside `_locales/th/messages.json` (web extensions).

    A value is a text, an object with the text as `"message"`, or an object of further keys. Left out: `"@metadata"`,
    access keys, untranslated entries, and those of nothing but markup and placeholders. Of wiki syntax,
    `{{PLURAL:...}}` gives its last form, `{{GENDER:...}}` its first, and a link its label; the rest stays. Files whose
    name CLDR doesn't know as a language (`qqq.json`) are passed over.

    A broken file is a problem with its row; entries that stand on a line of their own are kept.

    Args:
        paths (`str`, `os.PathLike` or an iterable of them): folders.
        languages (`Iterable[str]`, *optional*): keep only these languages; all by default.
        origin (`str`, *optional*): origin of every pair. By default the folder that the messages belong to:
            `"AbuseFilter"` for `AbuseFilter/i18n/th.json`.
        on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`, see [`settle_problems`].

    Returns:
        `list[ParallelPair]`: distinct pairs; `row` is the key's line in the language's file.

    Raises:
        DataError: with every problem of every file.
        FileNotFoundError: if a path is no folder.
    """
    pairs, problems = scan_json_messages(paths, languages, origin=origin)
    settle_problems(problems, on_error)
    return pairs


def scan_json_messages(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    languages: Iterable[str] | None = None,
    *,
    origin: str | None = None,
) -> tuple[list[ParallelPair], list[DataProblem]]:
    """Pairs and problems of JSON message files; arguments as in [`read_json_messages`]."""
    wanted = None if languages is None else {normalize_language(tag) for tag in languages}
    pairs: list[ParallelPair] = []
    problems: list[DataProblem] = []
    for english_file in _english_files(paths):
        translations = [
            (tag, path)
            for tag, path in _translations(english_file)
            if tag.partition("-")[0] != "en" and (wanted is None or tag in wanted)
        ]
        if not translations:
            continue
        english, found = _read(english_file)
        problems += found
        for tag, path in translations:
            messages, found = _read(path)
            problems += found
            pairs += _message_pairs(english, messages, tag, origin or _program(english_file))
    return distinct(pairs), problems


def is_key_name(name: str) -> bool:
    """Whether a message of this name holds a key to press, which is no text."""
    return _KEY_NAME.search(name) is not None


def message_pair(language: str, text: str, english: str, origin: str, row: int | None) -> ParallelPair | None:
    """The pair of two messages, `None` for one untranslated or of nothing but markup and placeholders."""
    text, english = tidy_text(text), tidy_text(english)
    if not worth_keeping(text, english):
        return None
    if not (has_letters(_MARKUP.sub("", english)) and has_letters(_MARKUP.sub("", text))):
        return None
    return ParallelPair(language, text, english, origin, row)


def _english_files(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    for entry in [paths] if isinstance(paths, str | os.PathLike) else paths:
        folder = Path(entry)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"got {str(folder)!r}, which is no folder; expected a folder with `en.json` or "
                "`_locales/en/messages.json` in it or below; mend the path."
            )
        found = [*folder.rglob("en.json"), *folder.rglob("_locales/en/messages.json")]
        yield from sorted(path for path in found if path.is_file())


def _translations(english_file: Path) -> Iterator[tuple[str, Path]]:
    if english_file.name == "en.json":
        for path in sorted(english_file.parent.glob("*.json")):
            tag = _tag_or_none(path.stem)
            if tag:
                yield tag, path
        return
    for path in sorted(english_file.parent.parent.glob(f"*/{english_file.name}")):
        tag = _tag_or_none(path.parent.name)
        if tag:
            yield tag, path


def _program(english_file: Path) -> str:
    folders = [part for part in english_file.parent.parts if part != english_file.anchor]
    generic = [at for at, part in enumerate(folders) if at and part in {*_FOLDERS_WITHOUT_NAME, "_locales"}]
    return folders[generic[-1] - 1] if generic else folders[-1] if folders else "json"


def _read(path: Path) -> tuple[_Messages, list[DataProblem]]:
    name = str(path)
    lines = list(read_lines(path))
    rows = _rows(lines)
    problems: list[DataProblem] = []
    try:
        data = json.loads("\n".join(line for _, line in lines))
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        row = error.lineno if isinstance(error, json.JSONDecodeError) else None
        data = _lone_entries(lines)
        got = f"what is no JSON ({error}); {len(data)} entries on lines of their own are kept"
        problems.append(DataProblem(name, row, None, got, "a JSON object of messages", "mend the file at this row"))
    if not isinstance(data, dict):
        got, fix = f"a JSON {type(data).__name__}", "put the messages into {}, each behind its key"
        return {}, [DataProblem(name, 1, None, got, "a JSON object of messages", fix)]
    messages: _Messages = {}
    for keys, value in _flat(data, ()):
        row, field = rows.get(keys[-1]), shorten("/".join(keys))
        if not isinstance(value, str):
            got, fix = shorten(value), "write the text between quotation marks, or delete the entry"
            problems.append(DataProblem(name, row, field, got, "a text", fix))
        elif _SURROGATE.search(value):
            got, fix = f"bytes that are no UTF-8, or half a character, in {shorten(value)}", "save the file as UTF-8"
            problems.append(DataProblem(name, row, field, got, "UTF-8", fix))
        else:
            messages[keys] = _Message(value, row)
    return messages, problems


def _rows(lines: Iterable[tuple[int, str]]) -> dict[str, int | None]:
    """Line of each key, `None` for one that several lines start with."""
    rows: dict[str, int | None] = {}
    for row, line in lines:
        entry = _ENTRY.match(line)
        if entry:
            try:
                key = json.loads(entry[1])
            except json.JSONDecodeError:
                continue
            rows[key] = None if key in rows else row
    return rows


def _lone_entries(lines: Iterable[tuple[int, str]]) -> dict[str, Any]:
    """What a broken file says on single lines; a key that comes again (`"message"`) has lost what it belonged to."""
    found: dict[str, Any] = {}
    repeated = set()
    for _, line in lines:
        try:
            entry = json.loads("{" + line.strip().removeprefix("{").rstrip(" ,}") + "}")
        except (ValueError, RecursionError):
            continue
        repeated |= found.keys() & entry.keys()
        found.update((key, value) for key, value in entry.items() if isinstance(value, str))
    return {key: value for key, value in found.items() if key not in repeated}


def _flat(data: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in data.items():
        if key.startswith("@"):
            continue
        if not isinstance(value, dict) or len(above) == _MOST_NESTING:
            yield (*above, key), value
        elif isinstance(value.get("message"), str):
            yield (*above, key), value["message"]
        else:
            yield from _flat(value, (*above, key))


def _message_pairs(english: _Messages, messages: _Messages, language: str, origin: str) -> Iterator[ParallelPair]:
    for keys, message in messages.items():
        source = english.get(keys)
        if source is None or any(map(is_key_name, keys)):
            continue
        pair = message_pair(language, _plain(message.text), _plain(source.text), origin, message.row)
        if pair:
            yield pair


def _plain(text: str) -> str:
    for link in _LINKS:
        text = link.sub(r"\1", text)
    # From the inside outwards: a form may hold another choice.
    for _ in range(_MOST_NESTING):
        text, count = _CHOICE.subn(_form, text)
        if not count:
            break
    return _QUOTES.sub("", text)


def _form(choice: re.Match[str]) -> str:
    # "0=none" is for one number alone.
    forms = [form for form in choice[2].split("|") if not re.match(r"\s*\d+=", form)] or [""]
    return forms[-1] if choice[1].upper() == "PLURAL" else forms[0]
