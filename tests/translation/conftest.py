"""Real parallel text: Django's own gettext catalogues, split by English string."""

import gettext
import zlib
from pathlib import Path

import pytest

from lira_hf.translation import Lexicon


LANGUAGES = ("vi", "th", "id", "ms", "ur", "bn", "ja")


def _catalogue(language: str) -> dict[tuple[str, str], None]:
    import django

    rows: dict[tuple[str, str], None] = {}
    for path in sorted(Path(django.__file__).parent.glob(f"**/locale/{language}/LC_MESSAGES/django.mo")):
        with open(path, "rb") as file:
            catalogue = gettext.GNUTranslations(file)._catalog
        for key, text in catalogue.items():
            english = (key[0] if isinstance(key, tuple) else key).rpartition("\x04")[2]
            if english and text:
                rows[text, english] = None
    return rows


@pytest.fixture(scope="session")
def django_pairs() -> list[tuple[str, str, str]]:
    pytest.importorskip("django")
    return [(language, *row) for language in LANGUAGES for row in _catalogue(language)]


@pytest.fixture(scope="session")
def split_pairs(django_pairs):
    """(train, test): one English string in ten is held out, in all languages at once."""
    held_out = [zlib.crc32(english.casefold().encode()) % 10 == 0 for _, _, english in django_pairs]
    train = [pair for pair, out in zip(django_pairs, held_out, strict=True) if not out]
    return train, [pair for pair, out in zip(django_pairs, held_out, strict=True) if out]


@pytest.fixture(scope="session")
def lexicon(split_pairs) -> Lexicon:
    return Lexicon.fit(split_pairs[0])
