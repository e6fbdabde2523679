"""What may reach LiRA from anywhere, for hypothesis: texts of every script and of none, numbers, bytes, shapes."""

import functools
import json
import os
import unicodedata
from collections.abc import Callable
from typing import Any

from babel import Locale
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st


# LIRA_FUZZ=50 tries fifty times as much, each time something else; without it every run is the same.
FACTOR = int(os.environ.get("LIRA_FUZZ", "1"))
# A line of a megabyte; a tenth of it in every run of the tests, which is enough to hang on what is quadratic.
LONG = 1_000_000 if FACTOR > 1 else 100_000
# A language for each of these scripts, and some more of the paper's.
_LOCALES = (
    "am ar bn bo chr de el en fa fil gu he hi hy id ja ka km kn ko lo ml mn mr my ne or pa ru si ta te th ti ur vi zh"
)
_BIDI = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_EMOJI = ("👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇧🇩", "❤️‍🔥", "🧑‍💻", "1️⃣", "🏴󠁧󠁢󠁳󠁣󠁴󠁿")
_BLANK = ("", " ", "\n", "\t \r\n", "\u3000", "\xa0", "\u2028", "\u200b", "\ufeff")
_MARKS = "".join(chr(code) for code in range(0x20000) if unicodedata.combining(chr(code)))


def tries(count: int) -> Callable[[Any], Any]:
    """The settings of a test of that many tries."""
    phases = [phase for phase in Phase if phase is not Phase.explain]
    return settings(
        max_examples=count * FACTOR,
        derandomize=FACTOR == 1,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )


@functools.cache
def words() -> tuple[str, ...]:
    """Real words of some forty languages: CLDR's names of languages, in their own script."""
    names = (list(Locale.parse(tag).languages.values()) for tag in _LOCALES.split())
    return tuple(name for row in names for name in row[:: max(1, len(row) // 12)])


def sentences() -> st.SearchStrategy[str]:
    """Some words of any scripts, mixed, with marks of direction between them."""
    spaces = st.sampled_from([" ", "  ", "\t", "\u200b", "\u200d", "", *_BIDI])
    return st.lists(st.tuples(st.sampled_from(words()), spaces), min_size=1, max_size=8).map(
        lambda pairs: "".join(word + space for word, space in pairs)
    )


def whole_texts() -> st.SearchStrategy[str]:
    """Texts that UTF-8 can hold, of up to a few hundred characters; also empty and blank ones."""
    marks = st.tuples(st.sampled_from(words()), st.text(_MARKS, min_size=1, max_size=80)).map("".join)
    return st.one_of(
        sentences(),
        st.sampled_from(_BLANK),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        st.lists(st.sampled_from([*_EMOJI, *words()[:5]]), min_size=1, max_size=6).map("".join),
        marks,
        st.text(_BIDI + "abcابپ", max_size=20),
        st.sampled_from(
            ["\0", "a\0b", "\0\0\0", "{0} %s %(name)s", "%000000d", "<b>&amp;</b>", "\"',;\t", "\x1b[31m"]
        ),
    )


def texts() -> st.SearchStrategy[str]:
    """Any string, with half characters too."""
    halves = st.text(st.sampled_from("ab \ud800\udbff\udc00\udfff\udc80\U0001f600"), min_size=1, max_size=8)
    return st.one_of(whole_texts(), halves, st.text(max_size=20), st.tuples(sentences(), halves).map("".join))


def long_lines() -> st.SearchStrategy[str]:
    """One short text over and over, `LONG` bytes of it, in one line."""
    units = st.one_of(
        st.text(min_size=1, max_size=3),
        st.sampled_from(
            [
                "\u0301\u0327",
                "%",
                "0",
                "%0",
                "{",
                "{ ",
                "[//",
                "[[",
                "<",
                "&",
                '"',
                "\\",
                "_",
                "'",
                "a",
                "1",
                "ก",
                "字",
            ]
        ),
    )
    ends = st.sampled_from(["", "x", "%0", "{{", "8", '"'])
    return st.tuples(ends, units, ends).map(
        lambda parts: parts[0] + parts[1] * (LONG // len(parts[1].encode("utf-8", "surrogatepass"))) + parts[2]
    )


def numbers() -> st.SearchStrategy[Any]:
    """Numbers, and what passes for them: NaN, infinities, out of range, too large for a float, text, nothing."""
    odd = [float("nan"), float("inf"), float("-inf"), -0.0, 1e308, 5e-324, 10**20, 10**400, 2**63, -1, 0, 11, True]
    return st.one_of(
        st.sampled_from([*odd, None, "", "1_0", "٣", "nan", "999", [], {}]),
        st.floats(),
        st.integers(-3, 12),
        st.floats(1, 10),
    )


def values() -> st.SearchStrategy[Any]:
    """What a field of a JSON object may hold."""
    leaves = st.one_of(texts(), numbers(), st.none(), st.booleans())
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts(), inner, max_size=3)),
        max_leaves=6,
    )


def json_lines(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[bytes]:
    """A file of JSON lines with such fields, some of them left out or of any kind, some lines broken."""
    spoiled = {name: st.one_of(strategy, strategy, strategy, values()) for name, strategy in fields.items()}
    record = st.fixed_dictionaries({}, optional={**spoiled, "more": values()}).map(
        lambda row: json.dumps(row, ensure_ascii=True).encode()
    )
    broken = [b"", b"[]", b"{", b'"a"', b"\xff\xfe", b"[" * 5000, b'{"_id": ' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}"]
    return st.lists(st.one_of(record, record, record, st.sampled_from(broken)), max_size=5).map(b"\n".join)


def tables(columns: list[str], separator: str) -> st.SearchStrategy[bytes]:
    """A table as text: a header of these columns in some order, cells of any text, some rows too short or too long."""
    cell = st.one_of(texts(), numbers().map(_shown), st.sampled_from(["ur", "en", "1", "0.5"]))
    header = st.one_of(st.permutations(columns), st.lists(st.sampled_from(columns), max_size=len(columns) + 1))
    row = st.one_of(st.lists(cell, min_size=len(columns), max_size=len(columns)), st.lists(cell, max_size=6))
    return st.tuples(header, st.lists(row, max_size=4)).map(
        lambda parts: "\n".join(separator.join(cells) for cells in [parts[0], *parts[1]]).encode(
            "utf-8", "surrogatepass"
        )
    )


def _shown(value: Any) -> str:
    return "9" * 400 if isinstance(value, int) and abs(value) > 10**100 else str(value)


def mutated(seed: bytes) -> st.SearchStrategy[bytes]:
    """A file with some bytes cut, doubled, overwritten or put in."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        content = seed
        for place, length, new in edits:
            start = place % (len(content) + 1)
            content = content[:start] + new + content[start + length :]
        return content

    new = st.one_of(
        st.binary(max_size=4), st.sampled_from([b"{", b"}", b'"', b"\n", b"\0", b"9" * 5000, b"\xed\xa0\x80"])
    )
    return st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 8), new), max_size=4).map(apply)
