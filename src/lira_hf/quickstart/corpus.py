"""Real parallel text for the quickstart: CLDR and Django from installed packages, or catalogues of Debian packages."""

import logging
import random
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lira_hf.data import (
    ParallelPair,
    Query,
    installed_catalogs,
    read_cldr,
    read_gettext,
    remove_near_duplicates,
    split_by_origin,
    split_parallel,
    write_beir,
)
from lira_hf.data.catalogs import catalog_language


__all__ = ["DEBIAN_PACKAGES", "LANGUAGES", "Corpus", "catalog_corpus", "cldr_corpus", "draw_rows", "write_corpus"]

logger = logging.getLogger(__name__)

LANGUAGES = ("vi", "th", "id", "ms", "ur", "bn", "fil")
# Programs of one side have no part in another. Urdu and Filipino are rare: each side has a program that knows them.
DEBIAN_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "learn": (
        "libgtk-3-common",
        "libglib2.0-data",
        "gimp-data",
        "nautilus-data",
        "gnome-control-center-data",
        "iso-codes",
        "cinnamon-l10n",
    ),
    "train": ("evolution-common", "caja-common"),
    "dev": ("wordpress-l10n", "dpkg", "totem-common"),
    "test": ("vlc-l10n", "tuxpaint-data", "audacity-data", "apt"),
}
MOST_CHARACTERS = 200


@dataclass(frozen=True)
class Corpus:
    """
    Parallel text in four parts.

    Args:
        learn (`list[ParallelPair]`): What the encoder and the translators learn from.
        train (`list[ParallelPair]`): What Arca and LaSR train on.
        dev (`list[ParallelPair]`): What settings are chosen on.
        test (`list[ParallelPair]`): What is reported.
        cross_fit (`bool`): Whether `train` is `learn`, so that candidates for it have to be cross-fitted.
    """

    learn: list[ParallelPair]
    train: list[ParallelPair]
    dev: list[ParallelPair]
    test: list[ParallelPair]
    cross_fit: bool


def cldr_corpus(languages: Sequence[str] = LANGUAGES, seed: int = 0) -> Corpus:
    """
    Names and user-interface texts of CLDR (Babel) and Django; nothing beyond installed packages is read.

    Near-duplicates are removed, and no English string nor a near-duplicate of one is on two sides.
    """
    pairs = read_cldr(list(languages)) + read_gettext(installed_catalogs("django", list(languages)))
    sides = split_parallel(remove_near_duplicates(pairs), seed=seed)
    return Corpus(sides["train"], sides["train"], sides["dev"], sides["test"], cross_fit=True)


def catalog_corpus(
    folder: Path,
    languages: Sequence[str] = LANGUAGES,
    most: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Corpus:
    """
    User-interface texts of well-known programs, from Debian packages that are downloaded and unpacked, not installed.

    Args:
        folder (`Path`): Where packages are kept; those that are there are not downloaded again.
        languages (`Sequence[str]`, *optional*): Tags.
        most (`Mapping[str, int]`, *optional*): Most rows per language of a side; drawn at random.
        seed (`int`, *optional*, defaults to 0): Of that draw.

    Raises:
        RuntimeError: Where apt or dpkg is not at hand, or a package can't be had.
    """
    most = {"learn": 6000, "train": 1500, "dev": 250, "test": 400, **(most or {})}
    origins: dict[str, list[str]] = {side: [] for side in DEBIAN_PACKAGES}
    pairs: list[ParallelPair] = []
    for side, packages in DEBIAN_PACKAGES.items():
        for package in packages:
            unpacked = unpack_package(package, folder)
            found = [
                ParallelPair(pair.language, pair.text, pair.english, f"{package}/{pair.origin}", pair.row)
                for pair in read_gettext(package_catalogs(unpacked, languages), on_error="skip")
                if max(len(pair.text), len(pair.english)) <= MOST_CHARACTERS
            ]
            logger.info("%s: %d pairs", package, len(found))
            origins[side].append(package)
            # The search for near-duplicates is quadratic; it needs no more rows than twice those that stay.
            pairs += draw_rows(found, 2 * most[side], seed)
    # The rules for three sides: what learns is one of them, what trains another.
    sides = _four_sides(pairs, origins)
    drawn = {side: draw_rows(rows, most[side], seed) for side, rows in sides.items()}
    return Corpus(**drawn, cross_fit=False)


def _four_sides(pairs: list[ParallelPair], origins: dict[str, list[str]]) -> dict[str, list[ParallelPair]]:
    """Later sides lose what is a near-duplicate of an earlier one; nothing of dev or test is in learn or train."""
    seen = split_by_origin(
        pairs, {"train": origins["learn"] + origins["train"], "dev": origins["dev"], "test": origins["test"]}
    )
    learn, train = [], []
    for pair in seen["train"]:
        (learn if pair.origin.split("/", 1)[0] in origins["learn"] else train).append(pair)
    return {"learn": learn, "train": train, "dev": seen["dev"], "test": seen["test"]}


def draw_rows(pairs: list[ParallelPair], most: int | None, seed: int = 0) -> list[ParallelPair]:
    """At most so many rows of each language, drawn at random; all of them for `None`."""
    if most is None:
        return pairs
    rows: dict[str, list[ParallelPair]] = {}
    for pair in pairs:
        rows.setdefault(pair.language, []).append(pair)
    drawn: list[ParallelPair] = []
    for language in sorted(rows):
        group = rows[language]
        drawn += random.Random(f"{seed}{language}").sample(group, most) if len(group) > most else group
    return drawn


def package_catalogs(unpacked: Path, languages: Sequence[str]) -> list[Path]:
    """A package's catalogues in these languages; a broken one among them loses its bad entries alone."""
    return [path for path in sorted(unpacked.rglob("*.mo")) if path.is_file() and catalog_language(path) in languages]


def unpack_package(package: str, folder: Path) -> Path:
    """The unpacked files of a Debian package, downloaded once. Errors as those of [`catalog_corpus`]."""
    target = folder / package
    if target.is_dir():
        return target
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RuntimeError(
                f"{tool} was not found; expected a Debian or Ubuntu machine for --corpus catalogs; use --corpus cldr, "
                "which needs installed Python packages alone"
            )
    folder.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", package], folder)
    archive = max(folder.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
    part = folder / f"{package}.part"
    shutil.rmtree(part, ignore_errors=True)
    _run(["dpkg-deb", "-x", str(archive.resolve()), str(part.resolve())], folder)
    _drop_outside_links(part)
    part.rename(target)
    return target


def _drop_outside_links(folder: Path) -> None:
    """A package's links to files that aren't in it would be read from this machine."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            logger.info("%s leads out of its package and is left out", path)
            path.unlink()


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"`{' '.join(command)}` failed: {done.stderr.strip()[:400]}; expected apt to have a package list and a "
            "connection; run `apt-get update`, or use --corpus cldr"
        )


def write_corpus(corpus: Corpus, folder: Path) -> None:
    """
    Writes train, dev and test as one BEIR folder: English strings are the documents, all sides' in one pool; each
    translation is a query with its language.
    """
    documents: dict[str, str] = {}
    queries: dict[str, Query] = {}
    qrels: dict[str, dict[str, dict[str, int]]] = {}
    for side in ("train", "dev", "test"):
        judged = qrels.setdefault(side, {})
        for pair in getattr(corpus, side):
            document = documents.setdefault(pair.english, f"d{len(documents)}")
            query = f"q{len(queries)}"
            queries[query] = Query(pair.text, pair.language)
            judged[query] = {document: 1}
    write_beir(folder, {key: text for text, key in documents.items()}, queries, qrels)
