"""Real parallel text for a study out of domain: four sets of programs, each with all seven languages."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from lira_hf.data import (
    ParallelPair,
    read_fluent,
    read_gettext,
    read_json_messages,
    remove_near_duplicates,
    split_by_origin,
)

from .corpus import LANGUAGES, MOST_CHARACTERS, Corpus, draw_rows, package_catalogs, unpack_package


__all__ = ["STUDY_LICENSE", "STUDY_PACKAGES", "corpus_counts", "package_versions", "study_corpus"]

logger = logging.getLogger(__name__)

STUDY_LICENSE = "each text under the licence of its program; see usr/share/doc/<package>/copyright of each package"
# Programs of one side have no part in another. Urdu and Filipino are rare: MediaWiki teaches them; MATE, Cinnamon,
# Minetest and aptitude adapt; WordPress, Xfce, dpkg, apt and uBlock Origin are dev, and Firefox is test.
STUDY_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "learn": (
        "libgtk-3-common",
        "libglib2.0-data",
        "gimp-data",
        "libreoffice-l10n-bn",
        "libreoffice-l10n-id",
        "libreoffice-l10n-th",
        "libreoffice-l10n-vi",
        "nautilus-data",
        "gnome-control-center-data",
        "iso-codes",
        "mediawiki",
    ),
    "train": (
        "evolution-common",
        "cinnamon-l10n",
        "caja-common",
        "mate-control-center-common",
        "mate-panel-common",
        "mate-utils-common",
        "pluma-common",
        "minetest-data",
        "aptitude-common",
    ),
    "dev": (
        "wordpress-l10n",
        "dpkg",
        "apt",
        "totem-common",
        "thunar-data",
        "xfce4-settings",
        "xfce4-terminal",
        "webext-ublock-origin-firefox",
    ),
    "test": (
        "firefox-esr",
        "firefox-esr-l10n-bn",
        "firefox-esr-l10n-id",
        "firefox-esr-l10n-ms",
        "firefox-esr-l10n-th",
        "firefox-esr-l10n-tl",
        "firefox-esr-l10n-ur",
        "firefox-esr-l10n-vi",
        "vlc-l10n",
        "tuxpaint-data",
        "audacity-data",
    ),
}
_MOST: Mapping[str, int] = {"learn": 6000, "train": 1500, "dev": 250, "test": 1000}
_JSON_PACKAGES = ("mediawiki", "webext-ublock-origin-firefox")
_FIREFOX = "firefox-esr"


def study_corpus(
    folder: Path,
    languages: Sequence[str] = LANGUAGES,
    most: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Corpus:
    """
    User-interface texts of well-known programs, from Debian packages that are downloaded and unpacked, not installed.

    Test text comes from programs never seen before. What is a near-duplicate of `learn` leaves `train`; what is one of
    either leaves `dev` and `test`, and what is one of `test` leaves `dev`. Inside `dev` and `test`, one of several
    near-duplicates stays, so that a query has one right document. The same packages and seed give the same corpus.

    Args:
        folder (`Path`): Where packages are kept; those that are there are not downloaded again.
        languages (`Sequence[str]`, *optional*): Tags among the seven.
        most (`Mapping[str, int]`, *optional*): Most rows per language of a side; drawn at random. By default 6,000 to
            learn, 1,500 to train, 250 of dev and 1,000 of test.
        seed (`int`, *optional*, defaults to 0): Of that draw.

    Raises:
        RuntimeError: Where apt or dpkg is not at hand, or a package can't be had.
        ImportError: If `fluent.syntax` is not installed.
    """
    most = {**_MOST, **(most or {})}
    pairs: list[ParallelPair] = []
    for side, packages in STUDY_PACKAGES.items():
        for package, found in _side_pairs(packages, folder, languages):
            short = [pair for pair in found if max(len(pair.text), len(pair.english)) <= MOST_CHARACTERS]
            logger.info("%s (%s): %d pairs", package, side, len(short))
            # More than twice the rows that stay would only slow the search for near-duplicates down.
            pairs += draw_rows(_renamed(short, package), 2 * most[side], seed)
    sides = _four_sides(pairs)
    return Corpus(**{side: draw_rows(rows, most[side], seed) for side, rows in sides.items()}, cross_fit=False)


def _side_pairs(
    packages: Sequence[str], folder: Path, languages: Sequence[str]
) -> Iterable[tuple[str, list[ParallelPair]]]:
    unpacked = {package: unpack_package(package, folder) for package in packages}
    for package, files in unpacked.items():
        if package in _JSON_PACKAGES:
            yield package, read_json_messages(files / "usr" / "share", languages, on_error="skip")
        elif not package.startswith(_FIREFOX):
            yield package, read_gettext(package_catalogs(files, languages), on_error="skip")
    # English is in the program's archives, each other language in a package of its own.
    firefox = [files for package, files in unpacked.items() if package.startswith(_FIREFOX)]
    if firefox:
        archives = [path for files in firefox for kind in ("omni.ja", "*.xpi") for path in sorted(files.rglob(kind))]
        yield _FIREFOX, read_fluent(archives, languages, on_error="skip")


def _renamed(pairs: Iterable[ParallelPair], package: str) -> list[ParallelPair]:
    return [
        ParallelPair(pair.language, pair.text, pair.english, f"{package}/{pair.origin}", pair.row) for pair in pairs
    ]


def _four_sides(pairs: Sequence[ParallelPair]) -> dict[str, list[ParallelPair]]:
    present = {pair.origin.split("/", 1)[0] for pair in pairs}
    origins = {side: [name for name in packages if name in present] for side, packages in STUDY_PACKAGES.items()}
    sides = split_by_origin(
        pairs, {"train": origins["learn"] + origins["train"], "dev": origins["dev"], "test": origins["test"]}
    )
    # The rules for three sides: here what learns is the first of them, and what trains another.
    seen = split_by_origin(sides["train"], {"train": origins["learn"], "test": origins["train"]})
    return {
        "learn": seen["train"],
        "train": seen["test"],
        "dev": remove_near_duplicates(sides["dev"]),
        "test": remove_near_duplicates(sides["test"]),
    }


def corpus_counts(corpus: Corpus) -> dict[str, dict[str, dict[str, int]]]:
    """Rows by side, language and package, each in a fixed order."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for side in STUDY_PACKAGES:
        rows = getattr(corpus, side)
        by_language = counts.setdefault(side, {})
        for language in sorted({pair.language for pair in rows}):
            by_package: dict[str, int] = {}
            for pair in rows:
                if pair.language == language:
                    package = pair.origin.split("/", 1)[0]
                    by_package[package] = by_package.get(package, 0) + 1
            by_language[language] = dict(sorted(by_package.items()))
    return counts


def package_versions(folder: Path) -> dict[str, dict[str, str]]:
    """Versions of the study's packages in a folder, by side: as the names of the downloaded archives tell."""
    versions: dict[str, dict[str, str]] = {}
    for side, packages in STUDY_PACKAGES.items():
        found = versions.setdefault(side, {})
        for package in packages:
            archives = sorted(folder.glob(f"{package}_*.deb"), key=lambda path: (path.stat().st_mtime, path.name))
            found[package] = unquote(archives[-1].name.split("_")[1]) if archives else "unknown"
    return versions
