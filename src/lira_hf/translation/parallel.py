"""Parallel text that translators and critics learn from, their folders: text and settings, refit on load (ours)."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from .base import clean_text, stable_hash


__all__ = ["FittedOnText", "Pair", "ParallelText", "read_manifest", "write_manifest"]

Pair = tuple[str, str, str]
"""(language, text, English text)"""

MANIFEST_NAME = "translator.json"
TEXT_NAME = "parallel.jsonl"
# Raised when the same text and settings begin to give other answers, so that stores ask again.
ALGORITHM_VERSION = 1


class ParallelText:
    """
    Checked, distinct pairs, grouped by language. Rows with a blank side are left out.

    Args:
        pairs (`Iterable[Pair]`): Rows (language, text, English text). `ParallelText` itself is such an iterable.

    Raises:
        `ValueError`: a row that isn't three strings, or no usable row at all.
    """

    def __init__(self, pairs: Iterable[Pair]):
        grouped: dict[str, dict[tuple[str, str], None]] = {}
        for row, pair in enumerate(pairs):
            if len(pair) != 3 or not all(isinstance(part, str) for part in pair):
                raise ValueError(
                    f"pair {row} is {pair!r:.200}; expected three strings (language, text, English text); "
                    "mend or drop that row"
                )
            language, text, english = pair
            if text.strip() and english.strip():
                grouped.setdefault(language, {})[clean_text(text), clean_text(english).strip()] = None
        if not grouped:
            raise ValueError(
                "parallel text has no pair with both sides filled; expected at least one; "
                "check the path, and that the iterable wasn't consumed before"
            )
        self._grouped = {language: list(rows) for language, rows in grouped.items()}
        self._digest: str | None = None

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> "ParallelText":
        """Take pairs as they are if they are checked already."""
        return pairs if isinstance(pairs, ParallelText) else cls(pairs)

    def __iter__(self) -> Iterator[Pair]:
        for language, rows in self._grouped.items():
            for text, english in rows:
                yield language, text, english

    def __len__(self) -> int:
        return sum(map(len, self._grouped.values()))

    @property
    def languages(self) -> list[str]:
        """The languages, in order of first appearance."""
        return list(self._grouped)

    def rows(self, language: str) -> list[tuple[str, str]]:
        """The (text, English text) rows of a language; none for one that isn't there."""
        return self._grouped.get(language, [])

    @property
    def digest(self) -> str:
        """Hash of all rows in their order."""
        if self._digest is None:
            digest = hashlib.blake2b(digest_size=16)
            for pair in self:
                digest.update(json.dumps(pair).encode() + b"\n")
            self._digest = digest.hexdigest()
        return self._digest

    def save(self, path: Path) -> None:
        """Write one JSON array a line, atomically."""
        _write_atomically(path, (json.dumps(pair, ensure_ascii=False) + "\n" for pair in self))

    @classmethod
    def load(cls, path: Path) -> "ParallelText":
        """
        Read what `save` wrote.

        Raises:
            `ValueError`: a line that isn't a JSON array of three strings; the line is named.
        """
        with open(path, "rb") as lines:
            return cls(_parse_line(line, number, path) for number, line in enumerate(lines, start=1))


def _parse_line(line: bytes, number: int, path: Path) -> Pair:
    try:
        pair = json.loads(line.decode())
    except (ValueError, RecursionError):
        pair = None
    if not isinstance(pair, list) or len(pair) != 3 or not all(isinstance(part, str) for part in pair):
        raise ValueError(
            f"{path}, line {number} is {line.decode(errors='replace')!r:.80}; expected a JSON array [language, text, "
            "English text]; the file is damaged, so save the translator again"
        )
    return pair[0], pair[1], pair[2]


def _write_atomically(path: Path, chunks: Iterable[str]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_manifest(folder: str | os.PathLike, manifest: Mapping[str, Any]) -> None:
    """
    Write a translator's settings. It goes last: a folder without it is a save that was cut off.

    Args:
        folder (`str` or `os.PathLike`): The translator's folder.
        manifest (`Mapping[str, Any]`): JSON values; `kind` says which class reads the folder.
    """
    text = json.dumps({"format": ALGORITHM_VERSION, **manifest}, indent=2, sort_keys=True, ensure_ascii=False)
    _write_atomically(Path(folder) / MANIFEST_NAME, [text + "\n"])


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """
    Read what `write_manifest` wrote.

    Args:
        folder (`str` or `os.PathLike`): The translator's folder.

    Returns:
        `dict[str, Any]`: The manifest.

    Raises:
        `FileNotFoundError`: no manifest there.
        `ValueError`: not a manifest, or one of another format.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {MANIFEST_NAME}; expected a folder written by a translator's or critic's save(); "
            "check the path, or save again if the save was cut off"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} isn't JSON ({error}); expected a manifest from save(); save again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != ALGORITHM_VERSION or "kind" not in manifest:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise ValueError(
            f"{path} has format {found!r}; expected {ALGORITHM_VERSION}; "
            "fit and save it again with this version of lira-hf"
        )
    return manifest


class FittedOnText:
    """
    Base of what is fully determined by parallel text and settings, and so is saved as these two (ours).

    Args:
        parallel (`ParallelText`): What it learns from.
        settings (`Mapping[str, Any]`): Keyword arguments of `fit` that make the same object again; JSON values.
    """

    kind: ClassVar[str]

    def __init__(self, parallel: ParallelText, settings: Mapping[str, Any]):
        self.parallel = parallel
        self.settings = dict(settings)

    @classmethod
    def fit(cls, pairs: Iterable[Pair], **settings: Any) -> Self:
        """
        Learn from parallel text. Each language is learned when it is first asked for.

        Args:
            pairs (`Iterable[Pair]`): Rows (language, text, English text).
            settings (`Any`, *optional*): Keyword arguments of the class.

        Returns:
            An object of this class.
        """
        return cls(ParallelText.of(pairs), **settings)

    @property
    def name(self) -> str:
        """Short name, the same as the kind."""
        return self.kind

    @property
    def fingerprint(self) -> str:
        """Hash of kind, text and settings, the same in every process."""
        return stable_hash(ALGORITHM_VERSION, self.kind, self.parallel.digest, self.settings)

    def save(self, folder: str | os.PathLike) -> None:
        """
        Write text and settings; nothing that was learned, so that no pickle is needed.

        Args:
            folder (`str` or `os.PathLike`): Made if it isn't there; what another `save` left is replaced.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / MANIFEST_NAME).unlink(missing_ok=True)  # from here on the folder counts as unfinished
        self.parallel.save(Path(folder) / TEXT_NAME)
        write_manifest(folder, {"kind": self.kind, "settings": self.settings, "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Self:
        """
        Make again what `save` wrote.

        Args:
            folder (`str` or `os.PathLike`): Where it was saved.

        Returns:
            An object of this class with the fingerprint that it was saved with.

        Raises:
            `ValueError`: another kind, settings that don't fit, or text that isn't the saved one.
            `FileNotFoundError`: nothing saved there.
        """
        manifest = read_manifest(folder)
        if manifest["kind"] != cls.kind:
            raise ValueError(
                f"{folder} holds a {manifest['kind']!r}; expected a {cls.kind!r}; "
                "load it with its own class, or a translator of any kind with load_translator()"
            )
        loaded = cls.fit(ParallelText.load(Path(folder) / TEXT_NAME), **manifest["settings"])
        if loaded.fingerprint != manifest["fingerprint"]:
            raise ValueError(
                f"{folder} has fingerprint {loaded.fingerprint}; expected {manifest['fingerprint']} as when it was "
                f"saved; {TEXT_NAME} or {MANIFEST_NAME} was changed since, so fit and save again"
            )
        return loaded
