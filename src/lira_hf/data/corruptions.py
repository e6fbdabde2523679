"""Noise in source texts (paper: noise-amplified settings): typos, code-mixing and missing diacritics, each a pure
function of (text, rate, seed)."""

import hashlib
import random
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

import regex  # type: ignore[import-untyped]

from lira_hf.translation.lexicon import LexicalTable
from lira_hf.translation.segmentation import is_number, is_placeholder, placeholders
from lira_hf.translation.unicode_forms import normal_form


__all__ = ["Alphabet", "Corrupted", "add_typos", "learn_alphabet", "mix_code"]

_CLUSTER = regex.compile(r"\X")
_LETTER = regex.compile(r"\p{L}")
# What a lexicon looks up: letters with their marks, and digits; joiners and apostrophes inside.
_CHUNK = regex.compile(r"[\p{L}\p{M}\p{N}\u200c\u200d]+(?:['’][\p{L}\p{M}\p{N}\u200c\u200d]+)*")
_TYPOS = ("swapped", "dropped", "doubled", "replaced")
Span = tuple[int, int]


class Corrupted(NamedTuple):
    """
    A text after noise.

    Args:
        text (`str`): The text as it came out.
        units (`int`): What could have been hit: letters, words, marks or candidates.
        changes (`tuple[str, ...]`): What was done to each unit that was hit, such as `"swapped"`.
    """

    text: str
    units: int
    changes: tuple[str, ...]


class Alphabet(NamedTuple):
    """
    Letters of one script and case: grapheme clusters by falling count, ties by code point, and their running counts.
    """

    letters: tuple[str, ...]
    counts: tuple[int, ...]


def noise_source(kind: str, seed: int, *keys: str) -> random.Random:
    """Chance that depends on these alone: the same in every process, and whatever other texts there are."""
    digest = hashlib.blake2b("\0".join((kind, str(seed), *keys)).encode("utf-8", "surrogatepass"), digest_size=8)
    return random.Random(int.from_bytes(digest.digest(), "big"))


def check_rate(rate: float) -> None:
    """Raise a `ValueError` for a rate that is no share."""
    if not 0 <= rate <= 1:
        raise ValueError(f"got the rate {rate!r}; expected a share from 0 to 1; write 10 % as 0.1")


def pick(chance: float, count: int) -> int:
    """A place among `count`, from a number in [0, 1)."""
    return min(int(chance * count), count - 1)


def protected_spans(text: str) -> list[Span]:
    """Where the slots that a program fills stand, such as `%(name)s`: nobody mistypes or translates those."""
    slots = sorted(placeholders(text), key=len, reverse=True)
    if not slots:
        return []
    return [match.span() for match in regex.finditer("|".join(map(regex.escape, slots)), text)]


def _clear(start: int, end: int, spans: Iterable[Span]) -> bool:
    return all(end <= first or last <= start for first, last in spans)


# Typos


def letter_group(cluster: str) -> str:
    """Script and case of a cluster's letter, such as `"LATIN Ll"`: the first word of its Unicode name says which."""
    return f"{unicodedata.name(cluster[0], '?').split()[0]} {unicodedata.category(cluster[0])}"


def learn_alphabet(texts: Iterable[str]) -> dict[str, Alphabet]:
    """
    The letters of a language, for [`add_typos`].

    Args:
        texts (`Iterable[str]`): Texts of the language.

    Returns:
        `dict[str, Alphabet]`: By script and case, see [`Alphabet`]; each letter is a whole grapheme cluster.
    """
    counts: dict[str, Counter[str]] = {}
    for text in texts:
        for cluster in _CLUSTER.findall(text):
            if _LETTER.match(cluster):
                counts.setdefault(letter_group(cluster), Counter())[cluster] += 1
    found = {}
    for group, counter in counts.items():
        rows = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
        found[group] = Alphabet(tuple(letter for letter, _ in rows), tuple(accumulate(count for _, count in rows)))
    return found


def add_typos(text: str, rate: float, seed: int = 0, alphabet: Mapping[str, Alphabet] | None = None) -> Corrupted:
    """
    A text with typing errors (ours).

    Each letter is hit with chance `rate`, and then swapped with the next one of its word, dropped, doubled, or
    replaced by another letter of the same script and case, drawn as often as the alphabet has it. A letter is a whole
    Unicode grapheme cluster (`\\X`): its vowel signs and marks go with it. Digits, punctuation and placeholders stay,
    and no word loses its last letter. What is hit at one rate is hit at every higher one.

    Args:
        text (`str`): The text.
        rate (`float`): Share of the letters, 0 to 1.
        seed (`int`, *optional*, defaults to 0): Of the noise.
        alphabet (`Mapping[str, Alphabet]`, *optional*): As of [`learn_alphabet`]; the text's own letters without.

    Returns:
        [`Corrupted`]: Units are letters; the changes are `"swapped"`, `"dropped"`, `"doubled"` or `"replaced"`.

    Raises:
        ValueError: For a rate that is no share.
    """
    check_rate(rate)
    known = learn_alphabet([text]) if alphabet is None else alphabet
    clusters, words = _letters(text)
    chance = noise_source("typos", seed, text)
    draws = {place: (chance.random(), chance.random(), chance.random()) for place in words}
    hit = {place for place, (drawn, _, _) in draws.items() if drawn < rate}
    left = Counter(words.values())
    out, done = list(clusters), []
    for place in sorted(hit):
        _, which, choice = draws[place]
        letter, following = clusters[place], place + 1
        typo = _TYPOS[pick(which, len(_TYPOS))]
        swappable = words.get(following) == words[place] and following not in hit and clusters[following] != letter
        if (typo == "swapped" and not swappable) or (typo == "dropped" and left[words[place]] < 2):
            typo = "replaced"
        other = _another(letter, known, choice) if typo == "replaced" else None
        if typo == "swapped":
            out[place], out[following] = clusters[following], letter
        elif typo == "dropped":
            out[place] = ""
            left[words[place]] -= 1
        elif other is not None:
            out[place] = other
        else:  # the only letter of its kind
            typo, out[place] = "doubled", letter + letter
        done.append(typo)
    return Corrupted("".join(out), len(words), tuple(done))


def _letters(text: str) -> tuple[list[str], dict[int, int]]:
    """All clusters of a text, and of those that are letters the number of the word that each is in."""
    spans = protected_spans(text)
    clusters, words, place, word = [], {}, 0, 0
    for number, cluster in enumerate(_CLUSTER.findall(text)):
        clusters.append(cluster)
        if _LETTER.match(cluster) and _clear(place, place + len(cluster), spans):
            words[number] = word
        else:
            word += 1
        place += len(cluster)
    return clusters, words


def _another(letter: str, alphabet: Mapping[str, Alphabet], choice: float) -> str | None:
    letters, counts = alphabet.get(letter_group(letter), Alphabet((), ()))
    if len(letters) < 2:
        return letters[0] if letters and letters[0] != letter else None
    place = bisect_right(counts, choice * counts[-1])
    return letters[place] if letters[place] != letter else letters[(place + 1) % len(letters)]


# Code-mixing


def mix_code(
    text: str, rate: float, seed: int = 0, table: LexicalTable | None = None, min_probability: float = 0.3
) -> Corrupted:
    """
    A text with some of its words in English, as bilingual people write (ours).

    Each word is hit with chance `rate`; one whose English the table doesn't know, or isn't sure of, stays. So the
    share that comes out is below the rate, by what the table lacks. Scripts without spaces are split as the table does
    it. What is hit at one rate is hit at every higher one.

    Args:
        text (`str`): The text.
        rate (`float`): Share of the words, 0 to 1.
        seed (`int`, *optional*, defaults to 0): Of the noise.
        table ([`LexicalTable`], *optional*): The language's, of a [`Lexicon`]; without one nothing is changed.
        min_probability (`float`, *optional*, defaults to 0.3): t(e|f) from which on the likeliest English is taken.

    Returns:
        [`Corrupted`]: Units are words, known or not; the change is `"English"`.

    Raises:
        ValueError: For a rate that is no share.
    """
    check_rate(rate)
    words = _words(text, table)
    chance = noise_source("code-mixing", seed, text)
    draws = [chance.random() for _ in words]
    out, end, done = [], 0, []
    for drawn, (first, last, key) in zip(draws, words, strict=True):
        english = _english(table, key, min_probability) if drawn < rate else None
        if english is None:
            continue
        out.append(_spaced(text[end:first], english, text[last:]))
        end = last
        done.append("English")
    return Corrupted("".join(out) + text[end:], len(words), tuple(done))


def _english(table: LexicalTable | None, word: str, min_probability: float) -> str | None:
    if table is None or is_number(word):
        return None
    best = next(iter(table.english.get(word, {}).items()), None)
    if best is None or best[1] < min_probability or best[0] == word or is_placeholder(best[0]) or is_number(best[0]):
        return None
    return best[0]


def _spaced(before: str, english: str, after: str) -> str:
    """The English word behind what stands before it; spaces keep it apart where the script has none."""
    left = " " if before and _LETTER.match(before[-1]) else ""
    right = " " if after and _CLUSTER.match(after) and _LETTER.match(after[0]) else ""
    return f"{before}{left}{english}{right}"


def _words(text: str, table: LexicalTable | None) -> list[tuple[int, int, str]]:
    """Start, end and key in the table of each word."""
    spans, found = protected_spans(text), []
    for match in _CHUNK.finditer(text):
        if not _clear(match.start(), match.end(), spans):
            continue
        pieces = [match.group()] if table is None else table.split_source(match.group())
        cuts = _cuts(match.group(), pieces) if len(pieces) > 1 else None
        if cuts is None:  # one word, or pieces that can't be found in the text again
            found.append((*match.span(), pieces[0] if len(pieces) == 1 else ""))
            continue
        found += [
            (match.start() + first, match.start() + last, key)
            for first, last, key in zip(cuts, cuts[1:], pieces, strict=False)
        ]
    return found


def _cuts(chunk: str, pieces: list[str]) -> list[int] | None:
    """Where the pieces of a chunk begin and end in it; the table has it in NFKC, which may be of another length."""
    cuts, place, length, number = [0], 0, 0, 0
    ends = list(accumulate(map(len, pieces)))
    for cluster in _CLUSTER.findall(chunk):
        place += len(cluster)
        length += len(normal_form("NFKC", cluster))
        if number < len(ends) and length == ends[number]:
            cuts.append(place)
            number += 1
        elif number < len(ends) and length > ends[number]:
            return None  # a piece ends inside a cluster
    return cuts if number == len(ends) and place == len(chunk) else None
