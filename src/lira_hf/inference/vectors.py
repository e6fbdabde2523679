"""A folder of vectors with ids and metadata: memory-mapped, checksummed, appended to shard by shard, safe to kill
(ours)."""

import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from lira_hf.data.files import replace_files
from lira_hf.models.configuration_lira import LIRA_VERSION
from lira_hf.translation import clean_text

from .id_index import IdIndex
from .precision import check_precision, quantize, stored_dtype, stored_width


__all__ = ["TextRow", "VectorFolder", "VectorsError"]

logger = logging.getLogger(__name__)

_FORMAT = "lira-vectors-1"
_ENCODINGS = {
    "float32": "the unit vector",
    "float16": "the unit vector, rounded",
    "int8": "the unit vector times 127 / max |value| of the row, rounded; row / norm(row) is the unit vector",
    "binary": "signs, one bit a dimension, the first in the highest bit, 1 above 0 (numpy.packbits)",
}
_SHARD = re.compile(r"shard-\d{6,}\.json")
_FACTS = ("bytes", "crc32")
_SCHEMA = pa.schema(
    [
        ("id", pa.large_string()),
        ("language", pa.string()),
        ("text", pa.large_string()),
        ("key", pa.uint64()),  # blake2b of the id
        ("digest", pa.uint64()),  # blake2b of what the vector was made from
    ]
)


class VectorsError(RuntimeError):
    """The folder isn't what was asked for, is damaged, or has another writer."""


class TextRow(NamedTuple):
    """
    A text to embed.

    Args:
        id (`str`): Its name, once in a folder.
        text (`str`): The text.
        language (`str`, *optional*): Its tag.
        candidates (`Sequence[str]`, *optional*): English candidates; `None`: those of the embedder's source.
        scores (`Sequence`, *optional*): The judge's (s, e, p) of each candidate, or `None`.
    """

    id: str
    text: str
    language: str | None = None
    candidates: Sequence[str] | None = None
    scores: Sequence[Sequence[float] | None] | None = None


class VectorFolder:
    """
    Vectors on disk.

    `manifest.json` says what they are: dimension, precision, the model and its fingerprint. A shard is
    `shard-000000.npy` (one stored vector a row), `shard-000000.arrow` (id, language, text; an Arrow file, which
    pandas, polars and DuckDB read) and `shard-000000.json` (rows, sizes, CRC-32), which is moved into place last: a
    shard without it was never finished, isn't read, and is written over. Any number of processes may read while one
    writes; a reader sees the shards that there were when it opened the folder, until [`~VectorFolder.refresh`].

    Args:
        folder (`str` or `os.PathLike`): An existing folder; [`VectorFolder.create`] makes one.
        verify (`bool`, *optional*, defaults to `True`): Check a shard's CRC-32 when this object first reads it. Sizes
            are checked in any case, when the folder is opened.

    Raises:
        VectorsError: No such folder, or a damaged one.
    """

    def __init__(self, folder: str | os.PathLike[str], verify: bool = True) -> None:
        self.folder = Path(folder)
        self.verify = verify
        self._lock: FileLock | None = None
        self.manifest = self._read_json("manifest.json", "format", "dim", "precision", "fingerprint")
        if self.manifest["format"] != _FORMAT:
            raise VectorsError(
                f"got {self.folder} with the format {self.manifest['format']!r}; expected {_FORMAT!r}; make it "
                "anew with `lira embed`, or use the version of lira-hf that made it"
            )
        self.dim: int = self.manifest["dim"]
        self.precision: str = self.manifest["precision"]
        if not _is_count(self.dim) or not self.dim or self.precision not in _ENCODINGS:
            raise VectorsError(
                f"got {self.folder} with dim {self.dim!r} and precision {self.precision!r} in manifest.json; expected "
                f"a whole number above 0 and one of {', '.join(_ENCODINGS)}; restore manifest.json from a copy"
            )
        self.shards: list[dict[str, Any]] = []
        self.refresh()

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        dim: int,
        precision: str = "float32",
        model: str = "",
        fingerprint: str = "",
        lock_timeout: float = 10.0,
    ) -> Self:
        """
        Opens a folder to append to, and makes it where there is none. Close it, or use it in a `with`.

        Args:
            folder (`str` or `os.PathLike`): The folder.
            dim (`int`): Values of a vector.
            precision (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"float16"`, `"int8"`, `"binary"`.
            model (`str`, *optional*): The model's name, for people.
            fingerprint (`str`, *optional*): What tells one model from another, see [`LiraEmbedder.fingerprint`].
            lock_timeout (`float`, *optional*, defaults to 10.0): Seconds to wait for another writer to end.

        Raises:
            VectorsError: The folder holds vectors of another model, dimension or precision, or is being written to.
        """
        check_precision(precision)
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / "write.lock", timeout=lock_timeout)
        try:
            lock.acquire()
        except Timeout as error:
            raise VectorsError(
                f"got {path} while another process writes to it; expected one writer at a time; wait for it to end, "
                "or write to another folder"
            ) from error
        try:
            wanted = {"dim": dim, "precision": precision, "fingerprint": fingerprint}
            if not (path / "manifest.json").exists():
                others = sorted(
                    entry.name for entry in path.iterdir() if entry.name[0] != "." and entry.suffix != ".lock"
                )
                if others:
                    raise VectorsError(
                        f"got the folder {path}, which holds {', '.join(others[:3])} and no manifest.json; expected a "
                        "folder of vectors, an empty one or none; choose another"
                    )
                facts = {"format": _FORMAT, **wanted, "encoding": _ENCODINGS[precision], "model": model}
                _write_json(path / "manifest.json", {**facts, "lira_version": LIRA_VERSION})
            found = cls(path)
            found._check_same(wanted, model)
            for leftover in path.glob(".*.tmp"):
                leftover.unlink()
        except BaseException:
            lock.release()
            raise
        found._lock = lock
        return found

    def close(self) -> None:
        """Let another writer have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of vectors."""
        return int(self.offsets[-1])

    def check_model(self, fingerprint: str, name: str = "a model") -> None:
        """
        Whether a model's queries can be looked for here.

        Args:
            fingerprint (`str`): Of the model, see [`LiraEmbedder`].
            name (`str`, *optional*): Of the model, for the message.

        Raises:
            VectorsError: For a folder of another model's vectors, or without any.
        """
        if not len(self):
            raise VectorsError(f"got {self.folder} without vectors; expected some; run `lira embed` to its end")
        if self.manifest["fingerprint"] != fingerprint:
            raise VectorsError(
                f"got {name} (fingerprint {fingerprint}) and {self.folder}, whose vectors are of "
                f"{self.manifest['model']} (fingerprint {self.manifest['fingerprint']}); expected the same, since two "
                "models' vectors can't be compared; name that one, or embed anew"
            )

    def refresh(self) -> None:
        """Take in the shards that were finished since."""
        names = {_number(path): path.name for path in self.folder.glob("shard-*.json") if _SHARD.fullmatch(path.name)}
        last = max(names, default=-1)
        lost = sorted(set(range(last)) - set(names))
        torn = [_name(n, "npy") for n in lost if (self.folder / _name(n, "npy")).exists()]
        if torn:
            raise VectorsError(
                f"got {', '.join(torn[:5])} in {self.folder} without a .json of the same name; expected one for each "
                "shard before the last; restore it from a copy, or delete the rest of that shard and embed its texts "
                "again"
            )
        if lost:
            logger.warning(
                "%s lacks %d shards, the first is %d; their texts aren't in it", self.folder, len(lost), lost[0]
            )
        before = {shard["number"]: shard for shard in self.shards}
        self.shards = [before.get(number) or self._read_shard(number) for number in sorted(names)]
        # `offsets[i]` is the place of shard i's first vector; the last is their number.
        self.offsets = np.cumsum([0, *(shard["rows"] for shard in self.shards)], dtype=np.int64)
        self._known: IdIndex | None = None

    def _read_shard(self, number: int) -> dict[str, Any]:
        shard = {**self._read_json(_name(number, "json"), "rows", "npy", "arrow"), "number": number, "verified": False}
        parts = [shard[ending] for ending in ("npy", "arrow")]
        sizes = [shard["rows"], *(part.get(key) for part in parts if isinstance(part, dict) for key in _FACTS)]
        if len(sizes) != 5 or not all(map(_is_count, sizes)):
            raise self._damaged(number, f"{_name(number, 'json')} without the numbers that it should hold")
        for ending in ("npy", "arrow"):
            path = self.folder / _name(number, ending)
            size = path.stat().st_size if path.exists() else None
            if size != shard[ending]["bytes"]:
                raise self._damaged(number, f"{path.name} with {size} bytes, not {shard[ending]['bytes']},")
        return shard

    def vectors(self, place: int) -> NDArray[Any]:
        """
        The stored vectors of a shard, memory-mapped: `(rows, dim)`, or `(rows, ceil(dim / 8))` of packed signs.

        Args:
            place (`int`): The shard, from 0 to `len(self.shards) - 1`.

        Raises:
            VectorsError: The shard is damaged.
        """
        shard = self._verified(place)
        path = self.folder / _name(shard["number"], "npy")
        # Mapped anew by each call: a mapping holds a file open, and there may be more shards than a process may open.
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        shape = (shard["rows"], stored_width(self.precision, self.dim))
        if found.shape != shape or found.dtype != stored_dtype(self.precision):
            got = f"vectors of shape {found.shape} and type {found.dtype}, not {shape},"
            raise self._damaged(shard["number"], got)
        return found

    def table(self, place: int) -> pa.Table:
        """A shard's ids, languages and texts, memory-mapped; the same rows as its vectors."""
        shard = self._verified(place)
        with pa.memory_map(str(self.folder / _name(shard["number"], "arrow"))) as source:
            found = pa.ipc.open_file(source).read_all()
        if found.num_rows != shard["rows"]:
            raise self._damaged(shard["number"], f"{found.num_rows} texts, not {shard['rows']},")
        return found

    def check(self) -> None:
        """Read everything once; raises a [`VectorsError`] that names every damaged shard."""
        problems = []
        for place, shard in enumerate(self.shards):
            shard["verified"] = False
            try:
                self._verified(place, always=True)
            except VectorsError as error:
                problems.append(str(error))
        if problems:
            raise VectorsError("\n".join(problems))

    def known(self, rows: Sequence[TextRow], sources: Sequence[str] | None = None) -> NDArray[np.bool_]:
        """
        Which rows the folder holds.

        Args:
            rows (`Sequence[TextRow]`): Any rows.
            sources (`Sequence[str]`, *optional*): What each one's candidates come from, as in
                [`~VectorFolder.append`].

        Raises:
            VectorsError: The folder has an id with another text, language or candidates; the message names them.
        """
        found, digests = self._index().find(np.array([_hash(row.id) for row in rows], dtype=np.uint64))
        made_from = _digests(rows, sources)
        there = np.flatnonzero(found).tolist()
        others = [f"{rows[n].id!r}" for n in there if digests[n] != made_from[n]]
        if others:
            raise VectorsError(
                f"got {len(others)} ids that {self.folder} holds with another text, language or source of candidates: "
                f"{', '.join(others[:5])}; expected each id with what it was embedded from; write to a new folder, or "
                "give changed texts new ids"
            )
        return found

    def append(
        self, rows: Sequence[TextRow], vectors: NDArray[np.float32], sources: Sequence[str] | None = None
    ) -> None:
        """
        Writes one shard. When it returns, the shard is on the disk and outlives the process.

        Args:
            rows (`Sequence[TextRow]`): New rows, each id once.
            vectors (`np.ndarray` of shape `(rows, dim)`): Their float vectors, of unit length or zero.
            sources (`Sequence[str]`, *optional*): What each one's candidates come from, in words; a row with other
                words is another row.

        Raises:
            ValueError: Another shape, or a vector that isn't finite or of unit length; nothing is written then.
            VectorsError: The folder was opened for reading.
        """
        if self._lock is None:
            raise VectorsError(
                f"got {self.folder}, opened for reading; expected one opened for appending; use VectorFolder.create"
            )
        self._check_vectors(rows, vectors)
        if not len(rows):
            return
        stored = np.ascontiguousarray(quantize(vectors, self.precision))
        keys = np.array([_hash(row.id) for row in rows], dtype=np.uint64)
        digests = _digests(rows, sources)
        contents = {"npy": _npy_bytes(stored), "arrow": _arrow_bytes(rows, keys, digests)}
        facts: dict[str, Any] = {"rows": len(rows)}
        for ending, data in contents.items():
            facts[ending] = {"bytes": len(data), "crc32": zlib.crc32(data)}
        number = self.shards[-1]["number"] + 1 if self.shards else 0
        files = [(self.folder / _name(number, ending), [data]) for ending, data in contents.items()]
        # In this order: with the last one the shard is there.
        replace_files([*files, (self.folder / _name(number, "json"), [_json_bytes(facts)])])
        known = self._index()
        self.shards.append({**facts, "number": number, "verified": True})
        self.offsets = np.append(self.offsets, self.offsets[-1] + len(rows))
        known.add(keys, digests)

    def _check_vectors(self, rows: Sequence[TextRow], vectors: NDArray[np.float32]) -> None:
        if vectors.shape != (len(rows), self.dim):
            raise ValueError(
                f"got {len(rows)} rows and vectors of shape {vectors.shape}; expected {(len(rows), self.dim)}; give "
                "one vector of the folder's dimension for each row"
            )
        norms = np.linalg.norm(vectors, axis=1)
        bad = np.flatnonzero(~((np.abs(norms - 1) < 1e-2) | (norms == 0)))
        if len(bad):
            row = int(bad[0])
            raise ValueError(
                f"got a vector of length {norms[row]:.4g} for {rows[row].id!r}, and {len(bad)} such in all; expected "
                "length 1, or 0 for an empty text; divide by it, and check the model where it isn't finite"
            )

    def _index(self) -> IdIndex:
        if self._known is None:
            index = IdIndex()
            for place in range(len(self.shards)):
                table = self.table(place)
                # Copies, so that the file is let go: there may be more shards than a process may open.
                index.add(np.array(table.column("key")), np.array(table.column("digest")))
            self._known = index
        return self._known

    def _check_same(self, wanted: dict[str, Any], model: str) -> None:
        for name, value in wanted.items():
            if self.manifest.get(name) != value:
                raise VectorsError(
                    f"got {name} {value!r} (model {model!r}) for the folder {self.folder}, which holds vectors with "
                    f"{name} {self.manifest.get(name)!r} (model {self.manifest.get('model')!r}); expected the same, "
                    "since such vectors can't be compared; write to a new folder, or delete this one"
                )

    def _verified(self, place: int, always: bool = False) -> dict[str, Any]:
        shard = self.shards[place]
        if shard["verified"] or not (self.verify or always):
            return shard
        for ending in ("npy", "arrow"):
            path = self.folder / _name(shard["number"], ending)
            if zlib.crc32(np.memmap(path, np.uint8, "r").data) != shard[ending]["crc32"]:
                raise self._damaged(shard["number"], f"a damaged {path.name}")
        shard["verified"] = True
        return shard

    def _damaged(self, number: int, got: str) -> VectorsError:
        return VectorsError(
            f"got {got} in {self.folder}; expected what was written, by the size and CRC-32 in "
            f"{_name(number, 'json')}; restore it from a copy, or delete {_name(number, '*')} and embed the same data "
            "again: only that shard's texts are computed anew"
        )

    def _read_json(self, name: str, *fields: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise VectorsError(
                f"got {str(self.folder)!r}, where there is no {name}; expected a folder of vectors; make one with "
                "`lira embed`, or mend the path"
            ) from error
        except ValueError as error:
            raise VectorsError(
                f"got {path}, which is no JSON ({error}); expected what was written; restore it from a copy, or embed "
                "into a new folder"
            ) from error
        if not isinstance(found, dict) or not found.keys() >= set(fields):
            raise VectorsError(
                f"got {path}, which isn't what lira-hf writes; expected an object with {', '.join(fields)}; "
                "restore it from a copy, or embed into a new folder"
            )
        return found


def _name(number: int, ending: str) -> str:
    return f"shard-{number:06d}.{ending}"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("shard-"))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(clean_text(text).encode(), digest_size=8).digest(), "little")


def _digests(rows: Sequence[TextRow], sources: Sequence[str] | None) -> NDArray[np.uint64]:
    """What each vector is made from, besides the model."""
    found = np.zeros(len(rows), dtype=np.uint64)
    for number, row in enumerate(rows):
        made_from: Any = "" if sources is None else sources[number]
        if row.candidates is not None:
            scores = None if row.scores is None else [None if score is None else [*score] for score in row.scores]
            made_from = [[*row.candidates], scores]
        found[number] = _hash(json.dumps([row.text, row.language, made_from], ensure_ascii=False))
    return found


def _npy_bytes(stored: NDArray[Any]) -> Any:
    sink = pa.BufferOutputStream()
    np.lib.format.write_array(sink, stored, allow_pickle=False)
    return sink.getvalue()


def _arrow_bytes(rows: Sequence[TextRow], keys: NDArray[np.uint64], digests: NDArray[np.uint64]) -> Any:
    ids, texts = (
        [clean_text(value) for value in column] for column in zip(*((r.id, r.text) for r in rows), strict=True)
    )
    table = pa.table([ids, [row.language for row in rows], texts, keys, digests], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _json_bytes(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()


def _write_json(path: Path, facts: dict[str, Any]) -> None:
    replace_files([(path, [_json_bytes(facts)])])
