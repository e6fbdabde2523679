"""A reader of .po text that outlives broken entries; Babel's stops at one, or prints it and keeps half a string."""

import re
from dataclasses import dataclass, field

from babel.messages.pofile import unescape

from .problems import DataProblem, shorten


__all__ = ["Entry", "PoFile", "parse_po"]

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_KEYWORD = re.compile(r"(msgctxt|msgid|msgid_plural|msgstr|msgstr\[(?:0|[1-9][0-9]?)\])\s*(?=\"|$)")
_CHARSET = re.compile(rb"charset=([\w.:-]+)")
_HEADER_LINE = re.compile(r"^([\w-]+):[ \t]*(.*)$", re.MULTILINE)
_NPLURALS = re.compile(r"nplurals\s*=\s*([1-9][0-9]?)\s*;\s*plural\s*=\s*([^;\n]+)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One translated message: English (singular, plural), the translation's forms, and the line it starts at."""

    english: tuple[str, ...]
    texts: tuple[str, ...]
    row: int | None


@dataclass(slots=True)
class PoFile:
    """What a .po file holds: good entries, problems, and the header's language and plural rule."""

    entries: list[Entry] = field(default_factory=list)
    problems: list[DataProblem] = field(default_factory=list)
    language: str | None = None
    plural_count: int = 2
    plural_rule: str = "n != 1"


@dataclass(slots=True)
class _Draft:
    """An entry while its lines come in: keyword -> the strings of its lines."""

    row: int
    texts: dict[str, list[str]] = field(default_factory=dict)
    last: str | None = None
    fuzzy: bool = False
    problem: DataProblem | None = None


def parse_po(name: str, content: bytes) -> PoFile:
    """
    Parse a .po file.

    Args:
        name (`str`): the file's name in problems.
        content (`bytes`): the file; its header names the encoding, UTF-8 otherwise.

    Returns:
        [`PoFile`]: translated entries that are neither fuzzy nor obsolete, and a problem for each broken entry.
    """
    result = PoFile()
    lines = _decoded_lines(name, content, result)
    for draft in _drafts(name, lines):
        problem = draft.problem or _incomplete(name, draft)
        if problem is not None:
            result.problems.append(problem)
            continue
        found = {key: "".join(parts) for key, parts in draft.texts.items()}
        if found["msgid"] == "" and "msgctxt" not in found:
            _take_header(result, found.get("msgstr", ""))
        elif not draft.fuzzy:
            english = tuple(found[key] for key in ("msgid", "msgid_plural") if key in found)
            texts = tuple(found[key] for key in sorted(filter(_is_form, found), key=_form))
            if all(texts):
                result.entries.append(Entry(english, texts, draft.row))
    return result


def _decoded_lines(name: str, content: bytes, result: PoFile) -> list[str]:
    match = _CHARSET.search(content)
    charset = match.group(1).decode() if match else "utf-8"
    if charset.upper() == "CHARSET":  # what xgettext leaves in a template
        charset = "utf-8"
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode(charset, errors="surrogateescape")
    except (LookupError, ValueError):  # ValueError: the file isn't in it
        got, expected = f"charset={charset}", "a known encoding, that which the file is in"
        fix = "write `charset=UTF-8` there and save the file so"
        result.problems.append(DataProblem(name, None, "Content-Type", got, expected, fix))
        text = content.decode("utf-8", errors="surrogateescape")
    return text.replace("\r\n", "\n").split("\n")


def _drafts(name: str, lines: list[str]) -> list[_Draft]:
    """Cut the lines into entries: a blank line, a comment behind a translation, `msgctxt` and `msgid` start one."""
    drafts: list[_Draft] = []
    draft: _Draft | None = None
    fuzzy = False
    for row, raw in enumerate(lines, start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            # A blank line inside an entry is legal only where the entry could end.
            draft = draft if draft is not None and line and not _may_end(draft) else None
            fuzzy = (fuzzy or "fuzzy" in line[2:].replace(",", " ").split()) if line.startswith("#,") else fuzzy
            continue
        if _starts_entry(draft, line):
            draft = _Draft(row, fuzzy=fuzzy)
            drafts.append(draft)
            fuzzy = False
        if draft is not None and draft.problem is None:
            draft.problem = _take_line(name, row, line, draft)
    return drafts


def _may_end(draft: _Draft) -> bool:
    return draft.problem is not None or any(key.startswith("msgstr") for key in draft.texts)


def _starts_entry(draft: _Draft | None, line: str) -> bool:
    if draft is None:
        return True
    if line.startswith("msgctxt"):
        return bool(draft.texts) or draft.problem is not None
    if line.startswith("msgid") and not line.startswith("msgid_plural"):
        return "msgid" in draft.texts or draft.problem is not None
    return False


def _take_line(name: str, row: int, line: str, draft: _Draft) -> DataProblem | None:
    keyword = draft.last
    rest = line
    if not line.startswith('"'):
        match = _KEYWORD.match(line)
        if match is None:
            expected = "msgctxt, msgid, msgid_plural, msgstr or msgstr[n], then a string in double quotes"
            return DataProblem(name, row, None, shorten(line), expected, "mend or delete this entry")
        keyword, rest = match.group(1), line[match.end() :]
        if keyword in draft.texts:
            return DataProblem(name, row, keyword, "it a second time", "each keyword once", "delete one of the two")
        draft.texts[keyword] = []
        draft.last = keyword
    if keyword is None:
        return DataProblem(name, row, None, shorten(line), "a keyword before the string", "mend or delete this entry")
    if any("\ud800" <= character <= "\udfff" for character in rest):
        expected = "text in the encoding that the header names, UTF-8 if it names none"
        return DataProblem(
            name, row, keyword, f"other bytes in {shorten(rest)}", expected, "save the file in that encoding"
        )
    if not _QUOTED.fullmatch(rest):
        fix = 'close the string, and write double quotes inside it as \\"'
        return DataProblem(name, row, keyword, shorten(rest), "one string in double quotes", fix)
    draft.texts[keyword].append(unescape(rest))
    return None


def _incomplete(name: str, draft: _Draft) -> DataProblem | None:
    fix = "complete or delete this entry"
    if "msgid" not in draft.texts:
        return DataProblem(name, draft.row, "msgid", "an entry without it", "a msgid", fix)
    forms = list(filter(_is_form, draft.texts))
    wanted = "msgstr[0]" if "msgid_plural" in draft.texts else "msgstr"
    if wanted not in forms or "msgid_plural" not in draft.texts and forms != ["msgstr"]:
        got = f"{', '.join(forms)} only" if forms else "an entry without it"
        return DataProblem(name, draft.row, wanted, got, f"{wanted} behind the msgid", fix)
    for number, key in enumerate(sorted(forms, key=_form)):
        if _form(key) != number:  # else a later form would pass for the one that lacks
            got, wanted = f"{key} without it", f"msgstr[{number}]"
            return DataProblem(name, draft.row, wanted, got, "each form from 0 on", fix)
    return None


def _is_form(key: str) -> bool:
    return key.startswith("msgstr")


def _form(key: str) -> int:
    number = re.search(r"\d+", key)
    return int(number.group()) if number else 0


def _take_header(result: PoFile, header: str) -> None:
    values = {key.lower(): value.strip() for key, value in _HEADER_LINE.findall(header)}
    result.language = values.get("language") or None
    match = _NPLURALS.search(values.get("plural-forms", ""))
    if match:
        result.plural_count, result.plural_rule = int(match.group(1)), match.group(2).strip()
