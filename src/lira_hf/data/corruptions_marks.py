"""Missing diacritics (paper: noise-amplified settings): which marks people leave out when they type, script by
script (ours)."""

import regex  # type: ignore[import-untyped]

from lira_hf.translation.unicode_forms import normal_form

from .corruptions import Corrupted, check_rate, noise_source


__all__ = ["drop_diacritics"]

_CLUSTER = regex.compile(r"\X")
# Script of the letter, and the marks on it that are left out in practice. A script that isn't here loses nothing: the
# signs of Bengali, Devanagari, Tamil, Khmer or Myanmar spell vowels and consonants, and Cyrillic й and ё are letters.
_LEFT_OUT = [
    (regex.compile(pattern), regex.compile(marks))
    for pattern, marks in (
        # Vietnamese "không dấu": tones and the marks of vowel quality alike; so with Polish, Turkish, Spanish, ...
        (r"\p{Script=Latin}", r"\p{Mn}"),
        # Harakat, tanwin, shadda, sukun, small alefs. Not madda and hamza (U+0653-0655), which make another letter.
        (r"\p{Script=Arabic}", r"[\u064b-\u0652\u0656-\u0658\u0670\u08f0-\u08f2]"),
        # Niqqud and cantillation.
        (r"\p{Script=Hebrew}", r"[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]"),
        # Tone marks. Not the vowel signs, the shortener U+0E47 or the silencer U+0E4C.
        (r"\p{Script=Thai}", r"[\u0e48-\u0e4b]"),
        (r"\p{Script=Lao}", r"[\u0ec8-\u0ecb]"),
        # Accents and breathings. Not the dialytika.
        (r"\p{Script=Greek}", r"[\u0300\u0301\u0313\u0314\u0342\u0345]"),
    )
]
# Strokes that Unicode doesn't take apart; this is how they are typed without.
_STROKES = {"đ": "d", "Đ": "D", "ł": "l", "Ł": "L", "ı": "i"}
# Where the marks are vowels that have to be written.
_LETTERS_IN_ALL_BUT_NAME = {"ks": "Arab", "yi": "Hebr"}


def drop_diacritics(text: str, rate: float, seed: int = 0, language: str | None = None) -> Corrupted:
    """
    A text typed without some of its diacritics (ours).

    Each mark that people leave out is missing with chance `rate`; 1 is a text typed without any. These are: on Latin
    letters all marks, and the strokes of đ, ł and the dotless ı (Vietnamese without tones and vowel marks); in Arabic
    script harakat, never hamza or madda; Hebrew niqqud; the tone marks of Thai and Lao, never their vowel signs; Greek
    accents. Any other script, such as Bengali, loses nothing, nor does Kashmiri or Yiddish, whose marks are vowels.
    What is missing at one rate is missing at every higher one.

    Args:
        text (`str`): The text.
        rate (`float`): Share of those marks, 0 to 1.
        seed (`int`, *optional*, defaults to 0): Of the noise.
        language (`str`, *optional*): Tag of its language.

    Returns:
        [`Corrupted`]: Units are marks that could be left out; the change is `"left out"`. A letter that lost one is in
        NFC, all else as it was.

    Raises:
        ValueError: For a rate that is no share.
    """
    check_rate(rate)
    if language is not None and language.split("-")[0] in _LETTERS_IN_ALL_BUT_NAME:
        return Corrupted(text, 0, ())
    chance = noise_source("diacritics", seed, text)
    out, units, lost = [], 0, 0
    for cluster in _CLUSTER.findall(text):
        letter, marks = _taken_apart(cluster)
        kept, missing = [], 0
        for mark, optional in marks:
            gone = optional and chance.random() < rate
            units += optional
            missing += gone
            if not gone:
                kept.append(mark)
        if letter in _STROKES:
            units += 1
            if chance.random() < rate:
                letter, missing = _STROKES[letter], missing + 1
        out.append(normal_form("NFC", letter + "".join(kept)) if missing else cluster)
        lost += missing
    return Corrupted("".join(out), units, ("left out",) * lost)


def _taken_apart(cluster: str) -> tuple[str, list[tuple[str, bool]]]:
    """The letter of a cluster, and what follows it, each with whether people leave it out."""
    letter, *rest = list(normal_form("NFD", cluster))
    optional = next((marks for script, marks in _LEFT_OUT if script.match(letter)), None)
    return letter, [(mark, optional is not None and optional.fullmatch(mark) is not None) for mark in rest]
