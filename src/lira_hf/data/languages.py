"""Language tags: one canonical spelling for each language, its English name and its usual script."""

import difflib
import re
from functools import lru_cache

from babel import Locale
from babel.core import get_global, parse_locale

from .problems import shorten


__all__ = ["language_name", "likely_script", "normalize_language"]

# gettext writes scripts as modifiers: sr@latin, uz@cyrillic.
_SCRIPT_MODIFIERS = {"latin": "Latn", "cyrillic": "Cyrl", "arabic": "Arab", "devanagari": "Deva", "iqtelif": "Latn"}
_SPECIAL = ("und", "root", "zxx", "mul", "mis")
_REGISTRY = "https://www.iana.org/assignments/language-subtag-registry"
# Longer than any tag or name of a language.
_LONGEST_HINTED = 80
_VARIANT = re.compile(r"[a-z]{5,8}|\d[a-z\d]{3}")


@lru_cache(maxsize=4096)
def normalize_language(tag: str) -> str:
    """
    The canonical tag of a language: `language[-Script][-TERRITORY][-variant]` as in BCP 47, with CLDR's aliases
    resolved.

    `"pt_BR"` gives `"pt-BR"`, `"tl"` and `"tgl"` give `"fil"`, `"in"` gives `"id"`, `"iw"` gives `"he"`, `"urd_Arab"`
    gives `"ur-Arab"`, `"sr@latin"` gives `"sr-Latn"`. Scripts and territories are kept when given and never added.

    Args:
        tag (`str`): a language tag in BCP 47, POSIX (`"vi_VN.UTF-8"`), gettext or ISO 639-2/3 spelling.

    Returns:
        `str`: the canonical tag.

    Raises:
        ValueError: if CLDR knows no such language; the message has the closest tags.
        TypeError: if `tag` is no string.
    """
    if not isinstance(tag, str):
        raise TypeError(f"got a language tag of type {type(tag).__name__}; expected a string such as 'ur' or 'pt-BR'.")
    try:
        parts = parse_locale(tag.strip().replace("-", "_"))
    except ValueError as error:
        raise _unknown(tag) from error
    language, territory, script, variant, modifier = (*parts, None)[:5]
    alias = parse_locale(get_global("language_aliases").get(language, language))
    language, script = alias[0], script or alias[2]
    known = get_global("likely_subtags")
    if language in _SPECIAL or not (language in _names() or language in known):
        raise _unknown(tag)
    if modifier:
        as_script = _SCRIPT_MODIFIERS.get(modifier.lower(), modifier.title())
        if as_script in _english().scripts:
            script = script or as_script
        else:
            variant = variant or modifier
    if script and script not in _english().scripts or territory and territory not in _english().territories:
        raise _unknown(tag)
    variant = variant.lower() if variant and _VARIANT.fullmatch(variant.lower()) else None
    return "-".join(part for part in (language, script, territory, variant) if part)


def language_name(tag: str) -> str:
    """
    English name of a language, such as `"Urdu"` or `"Portuguese (Brazil)"`; the bare code where CLDR has no name.

    Args:
        tag (`str`): anything that [`normalize_language`] takes.

    Returns:
        `str`: the name, as a prompt for a translator can use it.
    """
    language, script, territory = _split(normalize_language(tag))
    name = _names().get(language, language)
    details = [_english().scripts[script]] if script else []
    details += [_english().territories[territory]] if territory else []
    return f"{name} ({', '.join(details)})" if details else name


def likely_script(tag: str) -> str:
    """
    ISO 15924 code of the script that a language is usually written in: `"Arab"` for `"ur"`, `"Hant"` for `"zh-TW"`.

    Args:
        tag (`str`): anything that [`normalize_language`] takes; a script in it is the answer.

    Returns:
        `str`: four letters; `"Zyyy"` (common) where CLDR doesn't know.
    """
    language, script, territory = _split(normalize_language(tag))
    if script:
        return script
    likely = get_global("likely_subtags")
    expanded = likely.get(f"{language}_{territory}") or likely.get(language)
    return (parse_locale(expanded)[2] if expanded else None) or "Zyyy"


def _split(tag: str) -> tuple[str, str | None, str | None]:
    language, territory, script = parse_locale(tag.replace("-", "_"))[:3]
    return language, script, territory


@lru_cache(maxsize=1)
def _english() -> Locale:
    return Locale("en")


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    return {code: name for code, name in _english().languages.items() if "_" not in code}


def _unknown(tag: str) -> ValueError:
    hint = _hint(tag.strip().replace("_", "-")[:_LONGEST_HINTED])
    return ValueError(
        f"got the unknown language tag {shorten(tag)}; expected a tag that CLDR knows, such as 'ur' or 'pt-BR'; "
        f"{hint}."
    )


@lru_cache(maxsize=4096)  # a file may repeat its mistake in every row, and looking for what is like it takes 50 ms
def _hint(cleaned: str) -> str:
    head = cleaned.partition("-")[0]
    names = _names()
    by_name = {name.casefold(): code for code, name in names.items()}
    close = [by_name[name] for name in difflib.get_close_matches(cleaned.casefold(), by_name, n=3, cutoff=0.75)]
    close += difflib.get_close_matches(head.lower(), [code for code in names if code not in _SPECIAL], n=3, cutoff=0.5)
    hints = ", ".join(f"{code!r} ({names[code]})" for code in dict.fromkeys(close))
    return f"use one of the close tags {hints}" if hints else f"look the tag up at {_REGISTRY}"
