"""Words from outside made safe for a card: for Markdown, for code and for the metadata at its head."""

import re
import unicodedata
from collections.abc import Iterable

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lira_hf.data import normalize_language


__all__ = ["code", "hub_languages", "is_hub_id", "markdown", "one_line", "slug"]

_SPECIAL = re.compile(r"([\\`*\[\]|~])")
_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LEADING = re.compile(r"^([#>+=-]|\d+[.)])(?=\s|$|[-=]{2})")
_UNSAFE_IN_NAMES = re.compile(r"[^\w.+-]+")
# Invisible, and able to change the order in which the rest is read; joiners are left, since scripts need them.
_CONTROLS = ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
_DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def one_line(text: object) -> str:
    """A text on one line, without control characters and marks of writing direction."""
    kept = (" " if unicodedata.category(sign) in _CONTROLS else sign for sign in str(text) if sign not in _DIRECTIONS)
    return " ".join("".join(kept).split())


def markdown(text: object) -> str:
    """A text as plain words in a line or a table cell of Markdown: no markup, no HTML, no link comes out of it."""
    safe = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    safe = _UNDERSCORE.sub(r"\\_", _SPECIAL.sub(r"\\\1", safe))
    return _LEADING.sub(r"\\\1", safe)


def code(text: object) -> str:
    """A name as a code span, which may stand in a table cell."""
    safe = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", safe)), default=0))
    pad = " " if safe[:1] == "`" or safe[-1:] == "`" else ""
    # A comment's end is no markup in a span, but tools that look for one don't know of spans.
    return (
        f"{fence}{pad}{safe.replace('|', chr(92) + '|').replace('-->', '-- >').replace('<!--', '< !--')}{pad}{fence}"
    )


def slug(text: object) -> str:
    """A name for a place in a line of code."""
    return _UNSAFE_IN_NAMES.sub("-", one_line(text)).strip("-") or "model"


def hub_languages(tags: Iterable[str]) -> list[str]:
    """
    Languages as the Hub's metadata takes them: ISO 639 codes of two or three letters, without script and territory.

    Filipino stays `"fil"`, as `"tl"` becomes; what no standard knows, `"und"` and the like are left out.

    Args:
        tags (`Iterable[str]`): Language tags.

    Returns:
        `list[str]`: Codes, each once, in the order of the tags.
    """
    found = []
    for tag in tags:
        try:
            found.append(normalize_language(tag).split("-")[0])
        except (ValueError, TypeError):
            continue
    return list(dict.fromkeys(found))


def is_hub_id(name: object) -> bool:
    """Whether a text has the form of a repository's id on the Hub, with its owner."""
    if not isinstance(name, str) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
