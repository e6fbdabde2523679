"""One corpus embedded on several machines: each takes its share of the shards, and the folders are merged into the one
that a single process would have written (ours)."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lira_hf.data.files import replace_files

from .embedder import LiraEmbedder
from .features import share_of
from .stream import EmbedReport, embed_rows, source_name
from .vectors import TextRow, VectorFolder, VectorsError
from .workers import EmbedderPool


__all__ = ["Share", "embed_share", "merge_shares"]

_FILE = "share.json"
_FORMAT = "lira-share-1"
_COPY_BYTES = 1 << 24
# What the shares of one corpus have in common.
_SAME = ("of", "shard_rows", "rows", "texts", "source", "role")


class Share(NamedTuple):
    """
    One of several shares of a corpus.

    Args:
        number (`int`): From 1 to `of`.
        of (`int`): How many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Share":
        """
        Args:
            text (`str`): Such as `"3/8"`.

        Raises:
            ValueError: For anything else.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        share = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= share.number <= share.of:
            raise ValueError(f"got the share {text!r}; expected NUMBER/OF, from 1/8 to 8/8 for eight machines")
        return share

    def holds(self, row: int, shard_rows: int) -> bool:
        """Whether the row of that number, from 0, is in this share; whole shards are, in turn."""
        return row // shard_rows % self.of == self.number - 1

    def holds_text(self, text: str) -> bool:
        """Whether a text's features are in this share; it depends on the text alone."""
        return share_of(text, self.of) == self.number - 1

    def count(self, rows: int, shard_rows: int) -> int:
        """How many of so many rows this share has."""
        starts = range((self.number - 1) * shard_rows, rows, self.of * shard_rows)
        return sum(min(shard_rows, rows - start) for start in starts)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def embed_share(
    embedder: LiraEmbedder,
    rows: Iterable[TextRow],
    folder: VectorFolder,
    share: Share,
    *,
    pool: EmbedderPool | None = None,
    shard_rows: int = 8192,
    total: int | None = None,
    role: str | None = None,
) -> EmbedReport:
    """
    Embeds every `of`-th shard of the rows. All machines read the same rows, and no machine knows of another; a run
    that was killed is started again as it was.

    Args:
        embedder, folder, pool, shard_rows, total, role: As in [`embed_rows`].
        rows (`Iterable[TextRow]`): All rows of the corpus, in the order that every machine has them in.
        share ([`Share`]): Which of them are embedded here.

    Returns:
        [`EmbedReport`]: What became of the share's rows.

    Raises:
        VectorsError: For a folder that holds something else than this share, and as in [`embed_rows`].
    """
    facts = {"format": _FORMAT, "number": share.number, "of": share.of, "shard_rows": shard_rows, "role": role}
    facts |= {"source": source_name(embedder.candidates)}
    _check_folder(folder, facts)
    _write(folder.folder, {**facts, "finished": False})
    reader = _ShareReader(rows, share, shard_rows)
    report = embed_rows(embedder, reader, folder, pool=pool, shard_rows=shard_rows, total=total, role=role)
    found = {"finished": True, "rows": reader.rows, "texts": reader.digest.hexdigest(), "vectors": len(folder)}
    _write(folder.folder, {**facts, **found})
    return report


class _ShareReader:
    """The share's rows; counts and hashes all."""

    def __init__(self, rows: Iterable[TextRow], share: Share, shard_rows: int):
        self._all, self._share, self._size = rows, share, shard_rows
        self.rows, self.digest = 0, hashlib.blake2b(digest_size=16)

    def __iter__(self) -> Iterator[TextRow]:
        for row in self._all:
            mine = self._share.holds(self.rows, self._size)
            self.rows += 1
            self.digest.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
            if mine:
                yield row


def merge_shares(output: str | os.PathLike[str], folders: Sequence[str | os.PathLike[str]]) -> VectorFolder:
    """
    Puts all shares of one corpus into one folder, the same byte for byte as that of one process. A merge that was
    killed goes on where it was.

    Args:
        output (`str` or `os.PathLike`): A new folder, or the one of a merge that was killed.
        folders (`Sequence[str]`): The shares, in any order.

    Returns:
        [`VectorFolder`]: The merged folder.

    Raises:
        VectorsError: For shares of different models, texts or settings, for one that is missing, twice there, damaged
            or not finished, and for an output that holds something else; the message names the folder.
    """
    shares = sorted((_open(Path(folder)) for folder in folders), key=lambda pair: pair[1]["number"])
    if not shares:
        raise VectorsError("got no folders to merge; expected every share of one corpus; name them")
    _check_same(shares)
    _check_ids(shares)
    first = shares[0][0]
    kept = (first.manifest[name] for name in ("dim", "precision", "model", "fingerprint"))
    most = max(len(folder.shards) for folder, _ in shares)
    sources = [(folder, n) for n in range(most) for folder, _ in shares if n < len(folder.shards)]
    with VectorFolder.create(output, *kept) as merged:
        there = {shard["number"]: shard for shard in merged.shards}
        for number, (folder, place) in enumerate(sources):
            _copy(folder, place, merged.folder, number, there.pop(number, None))
        if there:
            raise _occupied(merged.folder, next(iter(there)))
        merged.refresh()
        merged.check()
    return VectorFolder(output)


def _open(path: Path) -> tuple[VectorFolder, dict[str, Any]]:
    folder, facts = VectorFolder(path), _read(path)
    if facts is None:
        raise VectorsError(
            f"got {path}, which is no share; expected folders that `lira embed --share NUMBER/OF` made; name those"
        )
    label = f"share {facts['number']}/{facts['of']}"
    if not facts["finished"]:
        raise VectorsError(
            f"got {path}, whose {label} isn't finished ({len(folder):,} vectors so far); expected a finished one; run "
            "the same `lira embed` again, it goes on where it was"
        )
    if facts["vectors"] != len(folder):
        raise VectorsError(
            f"got {path} with {len(folder):,} vectors; expected the {facts['vectors']:,} that its {label} has; run "
            "the same `lira embed` again, or restore the folder from a copy"
        )
    folder.check()
    return folder, facts


def _check_same(shares: list[tuple[VectorFolder, dict[str, Any]]]) -> None:
    first, facts = shares[0]
    for folder, own in shares[1:]:
        for name in ("fingerprint", "dim", "precision"):
            if folder.manifest[name] != first.manifest[name]:
                raise VectorsError(
                    f"got {folder.folder} with {name} {folder.manifest[name]!r} (model {folder.manifest['model']!r}) "
                    f"and {first.folder} with {first.manifest[name]!r} (model {first.manifest['model']!r}); expected "
                    "shares by one model and in one precision, since others can't be compared; embed one of them anew"
                )
        for name in _SAME:
            if own[name] != facts[name]:
                what = "other texts" if name in ("rows", "texts") else f"{name} {own[name]!r}"
                raise VectorsError(
                    f"got {folder.folder}, a share with {what} than {first.folder} ({name}: {own[name]!r} and "
                    f"{facts[name]!r}); expected shares of one corpus, embedded with the same options; embed one of "
                    "them anew"
                )
    numbers = [own["number"] for _, own in shares]
    wanted = list(range(1, facts["of"] + 1))
    if numbers != wanted:
        lacking = sorted(set(wanted) - set(numbers))
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        raise VectorsError(
            f"got the shares {numbers} of {facts['of']}: missing {lacking}, more than once {twice}; expected each "
            "once; name one folder for each share"
        )


def _check_ids(shares: list[tuple[VectorFolder, dict[str, Any]]]) -> None:
    keys = np.sort(np.concatenate([folder._index().keys for folder, _ in shares]))
    repeated = int((keys[1:] == keys[:-1]).sum())
    if repeated:
        raise VectorsError(
            f"got {repeated:,} ids that more than one share holds; expected each id once in the corpus; rename the "
            "repeated ones and embed anew"
        )


def _copy(source: VectorFolder, place: int, target: Path, number: int, there: dict[str, Any] | None) -> None:
    shard = source.shards[place]
    if there is not None:
        if any(there[name] != shard[name] for name in ("rows", "npy", "arrow")):
            raise _occupied(target, number)
        return
    # In this order: with the last one the shard is there.
    names = [(f"shard-{shard['number']:06d}.{e}", f"shard-{number:06d}.{e}") for e in ("npy", "arrow", "json")]
    replace_files([(target / new, _blocks(source.folder / old)) for old, new in names])


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_COPY_BYTES):
            yield block


def _occupied(target: Path, number: int) -> VectorsError:
    return VectorsError(
        f"got {target}, whose shard {number} is none of these shares'; expected a new folder, or the one of the same "
        "merge; name another"
    )


def _check_folder(folder: VectorFolder, facts: dict[str, Any]) -> None:
    known = _read(folder.folder)
    if known is None and len(folder):
        raise VectorsError(
            f"got {folder.folder} with {len(folder):,} vectors that are no share; expected a new folder for the share "
            f"{facts['number']}/{facts['of']}; name another"
        )
    other = [name for name in facts if known is not None and known.get(name) != facts[name]]
    if known is not None and other:
        raise VectorsError(
            f"got {folder.folder}, which holds the share {known['number']}/{known['of']} ({other[0]}: "
            f"{known.get(other[0])!r}), and {other[0]}: {facts[other[0]]!r}; expected the same share with the same "
            "options; write to another folder"
        )


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / _FILE
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        raise VectorsError(
            f"got {path}, which isn't what lira-hf writes; expected the format {_FORMAT!r}; embed that share into "
            "a new folder"
        )
    return facts


def _write(folder: Path, facts: dict[str, Any]) -> None:
    replace_files([(folder / _FILE, [(json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()])])
