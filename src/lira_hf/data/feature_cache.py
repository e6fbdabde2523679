"""Frozen features on disk, `(rows, dim)` a text: written once, memory-mapped, checksummed, safe to kill (ours)."""

import functools
import hashlib
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]

from .problems import DataProblem, shorten


__all__ = ["CacheError", "FeatureCache", "scan_cache"]

P = ParamSpec("P")
T = TypeVar("T")
_FORMAT = "lira-features-1"
_LOOKUP = 500  # keys in one SQL statement; old SQLite takes 999 at most
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entries (
    key BLOB PRIMARY KEY, place INTEGER NOT NULL UNIQUE, checksum INTEGER NOT NULL
) WITHOUT ROWID;
"""


class CacheError(RuntimeError):
    """The cache on disk isn't what was asked for, is damaged, or has another writer."""


def _told(method: Callable[P, T]) -> Callable[P, T]:
    """A method of a cache whose files may be damaged, or on a disk that is full."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # a damaged schema may be no text at all
            folder = getattr(args[0], "folder", None)
            raise CacheError(
                f"got an index in {folder} that can't be read or written ({error}); {_INDEX_FIX}"
            ) from error

    return call


class FeatureCache:
    """
    Features of texts on disk.

    `features.bin` holds one record after another; `index.sqlite` holds each text's blake2b-128 key, the record's place
    and its CRC-32. A batch's records are on the disk before the index names them, so a process killed at any moment
    leaves at worst a tail that the index doesn't know and the next writer overwrites. Any number of processes may read
    while one writes. Instances can be pickled, and used after a fork and from several threads.

    Args:
        folder (`str` or `os.PathLike`): made if need be.
        dim_shape (`tuple[int, int]`): `(rows, dim)` of one text's features. What the rows mean is the caller's
            business; the project keeps the sentence vector in row 0 and the temporal bins behind it.
        fingerprint (`str`): what the features depend on: backbone, weights, pooling.
        dtype (`str`, *optional*, defaults to `"float16"`): `"float16"` or `"float32"`, on disk and in what `get`
            returns.
        verify (`bool`, *optional*, defaults to `True`): check each record's CRC-32 when it is read.
        lock_timeout (`float`, *optional*, defaults to 10.0): seconds to wait for another writer to end.

    Raises:
        CacheError: if the folder holds features of another fingerprint, shape or dtype, or its files are damaged.
        ValueError: for a shape or dtype that can't be.

    Example:
        ```python
        cache = FeatureCache("features/bge-m3", (9, 1024), fingerprint="bge-m3@5617a9f/mean/8")
        cache.fill(texts, encode, batch_size=64)
        features = cache.get(texts[:32])  # (32, 9, 1024)
        ```
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        dim_shape: tuple[int, int],
        fingerprint: str,
        dtype: str = "float16",
        *,
        verify: bool = True,
        lock_timeout: float = 10.0,
    ) -> None:
        if dtype not in ("float16", "float32"):
            raise ValueError(f"got dtype={dtype!r}; expected 'float16' or 'float32'; pass one of the two.")
        shape = tuple(dim_shape)
        if len(shape) != 2 or not all(isinstance(size, int | np.integer) and size > 0 for size in shape):
            raise ValueError(
                f"got dim_shape={dim_shape!r}; expected (rows, dim), two positive integers; mend the shape."
            )
        self.folder = Path(folder)
        self.dim_shape = (int(shape[0]), int(shape[1]))
        self.fingerprint = fingerprint
        self.dtype = dtype
        self.verify = verify
        self.lock_timeout = lock_timeout
        self._stored = np.dtype(dtype).newbyteorder("<")
        self._record = self.dim_shape[0] * self.dim_shape[1] * self._stored.itemsize
        self._local = threading.local()
        self._open_lock()
        self._prepare()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_local", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()
        self._open_lock()

    @_told
    def __len__(self) -> int:
        """Number of texts."""
        return int(self._connection().execute("SELECT COUNT(*) FROM entries").fetchone()[0])

    @_told
    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and bool(self._find([_key(text)]))

    @_told
    def missing(self, texts: Sequence[str]) -> list[str]:
        """
        The distinct texts that have no features yet, in their order.

        Args:
            texts (`Sequence[str]`): any texts.

        Returns:
            `list[str]`: those to compute.
        """
        keys = {text: _key(text) for text in dict.fromkeys(_checked_texts(texts))}
        found = self._find(list(keys.values()))
        return [text for text, key in keys.items() if key not in found]

    @_told
    def get(self, texts: Sequence[str]) -> NDArray[np.floating[Any]]:
        """
        Features of texts.

        Args:
            texts (`Sequence[str]`): texts, repeats allowed.

        Returns:
            `np.ndarray` of shape `(len(texts), rows, dim)`: a copy, in the cache's dtype.

        Raises:
            KeyError: naming the first text that has no features.
            CacheError: if a record is damaged; it names the text.
        """
        keys = [_key(text) for text in _checked_texts(texts)]
        found = self._find(keys)
        for text, key in zip(texts, keys, strict=True):
            if key not in found:
                raise KeyError(
                    f"got the text {shorten(text)}, which the feature cache {self.folder} lacks; "
                    "expected texts that were filled in; call `fill` first."
                )
        places = np.array([found[key][0] for key in keys], dtype=np.int64)
        records = self._map(int(places.max()) + 1) if len(places) else np.zeros((0, *self.dim_shape), self._stored)
        features = np.asarray(records[places])
        if self.verify:
            for row, key in enumerate(keys):
                if zlib.crc32(features[row]) != found[key][1]:
                    raise CacheError(
                        f"got a damaged record for the text {shorten(texts[row])} in {self.folder}; expected the "
                        "features that were written (CRC-32 differs); call `discard([text])`, fill it in again, and "
                        "check the disk."
                    )
        return features.astype(self.dtype, copy=False)

    @_told
    def append(self, texts: Sequence[str], features: Any) -> int:
        """
        Write features. When it returns, they are on the disk and outlive the process.

        Args:
            texts (`Sequence[str]`): the texts. One that has features already keeps them; of repeats the first counts.
            features (array of shape `(len(texts), rows, dim)`): finite, and within the dtype's range.

        Returns:
            `int`: how many texts were new.

        Raises:
            ValueError: for another shape or number of rows, and for values that aren't finite or overflow the dtype
                (the row and its text are named); nothing of the batch is written then.
            CacheError: if another process keeps writing longer than `lock_timeout`.
            OSError: where the disk is full or can't be written to.
        """
        rows = self._checked_features(_checked_texts(texts), features)
        with self._writing():
            keys: dict[bytes, int] = {}
            for number, text in enumerate(texts):
                keys.setdefault(_key(text), number)
            known = self._find(list(keys))
            fresh = [(key, number) for key, number in keys.items() if key not in known]
            if not fresh:
                return 0
            records = np.ascontiguousarray(rows[[number for _, number in fresh]])
            connection = self._connection()
            start = self._end()
            try:
                with open(self._data_path, "r+b") as file:
                    file.seek(start * self._record)
                    file.write(records.data)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"got {self._data_path}, which can't be written ({error.strerror or error}); expected room and "
                    "the right to write; make room, or mend the rights, and start again: what was written is kept.",
                ) from error
            entries = [(key, start + i, zlib.crc32(records[i])) for i, (key, _) in enumerate(fresh)]
            with connection:
                connection.executemany("INSERT INTO entries VALUES (?, ?, ?)", entries)
        return len(fresh)

    def fill(
        self,
        texts: Sequence[str],
        compute: Callable[[list[str]], Any],
        batch_size: int = 32,
        progress: bool = False,
        measure: Callable[[list[str]], Sequence[int]] | None = None,
    ) -> int:
        """
        Compute and write what is missing: distinct texts, longest first (so that memory runs out at once or never),
        batch by batch; a killed run goes on where it was.

        Args:
            texts (`Sequence[str]`): all texts that are needed.
            compute (`Callable[[list[str]], np.ndarray]`): texts to features `(n, rows, dim)`.
            batch_size (`int`, *optional*, defaults to 32): texts in one call of `compute`.
            progress (`bool`, *optional*, defaults to `False`): show a progress bar.
            measure (`Callable[[list[str]], Sequence[int]]`, *optional*): how long texts are; in characters without.

        Returns:
            `int`: how many texts were computed.

        Raises:
            CacheError: if another process keeps writing longer than `lock_timeout`.
        """
        if batch_size < 1:
            raise ValueError(f"got batch_size={batch_size!r}; expected at least 1; pass a positive number.")
        with self._writing():
            missing = self.missing(texts)
            lengths = list(map(len, missing)) if measure is None else measure(missing)
            todo = [missing[place] for place in sorted(range(len(missing)), key=lengths.__getitem__, reverse=True)]
            with tqdm(total=len(todo), desc="features", unit="text", disable=not progress) as bar:
                for start in range(0, len(todo), batch_size):
                    batch = todo[start : start + batch_size]
                    self.append(batch, compute(batch))
                    bar.update(len(batch))
        return len(todo)

    @_told
    def discard(self, texts: Sequence[str]) -> int:
        """
        Forget texts, so that `fill` computes them anew; their room on the disk stays taken.

        Args:
            texts (`Sequence[str]`): texts, unknown ones are passed over.

        Returns:
            `int`: how many were forgotten.
        """
        with self._writing(), self._connection() as connection:
            keys = [(_key(text),) for text in _checked_texts(texts)]
            return connection.executemany("DELETE FROM entries WHERE key = ?", keys).rowcount

    def close(self) -> None:
        """Let go of this thread's connection and mapping; the next call opens them again."""
        connection = getattr(self._local, "connection", None)
        if connection is not None and self._local.process == os.getpid():
            connection.close()
        self._local = threading.local()

    @property
    def _data_path(self) -> Path:
        return self.folder / "features.bin"

    def _open_lock(self) -> None:
        self._lock, self._locker = FileLock(self.folder / "write.lock", timeout=self.lock_timeout), os.getpid()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._locker != os.getpid():
            self._open_lock()  # a lock must not cross a fork
        try:
            self._lock.acquire()
        except Timeout as error:
            raise CacheError(
                f"got the feature cache {self.folder} while another process writes to it; expected one writer at a "
                f"time; wait for it to end, or raise `lock_timeout` (now {self.lock_timeout} seconds)."
            ) from error
        try:
            yield
        finally:
            self._lock.release()

    @_told
    def _prepare(self) -> None:
        wanted = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "dim_shape": f"{self.dim_shape[0]}x{self.dim_shape[1]}",
            "dtype": self.dtype,
        }
        if not (self.folder / "index.sqlite").exists() or not self._meta():
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._writing():
                self._data_path.touch()
                connection = self._connection()
                connection.executescript(_SCHEMA)
                if not self._meta():
                    with connection:
                        connection.executemany("INSERT INTO meta VALUES (?, ?)", wanted.items())
        stored = self._meta()
        for name, value in wanted.items():
            if stored.get(name) != value:
                raise CacheError(
                    f"got the feature cache {self.folder} with {name} {stored.get(name)!r}; expected {value!r}; "
                    "delete that folder, or use another one for these features."
                )
        self._map(self._end())

    def _meta(self) -> dict[str, str]:
        try:
            return dict(self._connection().execute("SELECT name, value FROM meta").fetchall())
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return {}
            raise

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection; SQLite's must cross neither threads nor forks."""
        local = self._local
        if getattr(local, "connection", None) is None or local.process != os.getpid():
            path = self.folder / "index.sqlite"
            if os.access(self.folder, os.W_OK):
                local.connection = sqlite3.connect(path, timeout=60)
                local.connection.execute("PRAGMA synchronous = FULL")
            else:
                local.connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=60, uri=True)
            local.process = os.getpid()
            local.records = None
        connection: sqlite3.Connection = local.connection
        return connection

    def _end(self) -> int:
        last = self._connection().execute("SELECT MAX(place) FROM entries").fetchone()[0]
        if last is not None and not _is_place(last):
            raise sqlite3.DatabaseError("an entry that holds other than numbers")
        return 0 if last is None else int(last) + 1

    def _find(self, keys: list[bytes]) -> dict[bytes, tuple[int, int]]:
        """Place and checksum of each key that is there."""
        distinct = list(dict.fromkeys(keys))
        found: dict[bytes, tuple[int, int]] = {}
        for start in range(0, len(distinct), _LOOKUP):
            some = distinct[start : start + _LOOKUP]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, place, checksum FROM entries WHERE key IN ({marks})"
            found.update((key, (place, checksum)) for key, place, checksum in self._connection().execute(query, some))
        if not all(_is_place(number) for entry in found.values() for number in entry):
            raise sqlite3.DatabaseError("an entry that holds other than numbers")
        return found

    def _map(self, count: int) -> NDArray[np.floating[Any]]:
        """The records, at least `count` of them, without reading them."""
        self._connection()
        records: NDArray[np.floating[Any]] | None = self._local.records
        if records is None or len(records) < count:
            try:
                there = self._data_path.stat().st_size // self._record
            except FileNotFoundError:
                there = 0
            if there < count:
                raise CacheError(
                    f"got {there} whole records in {self._data_path}; expected the {count} that the index names; "
                    "restore the file, or delete the folder and fill it in again."
                )
            shape = (there, *self.dim_shape)
            empty = np.zeros(shape, self._stored)[:0] if not there else None
            records = empty if empty is not None else np.memmap(self._data_path, self._stored, "r", shape=shape)
            self._local.records = records
        return records

    def _checked_features(self, texts: Sequence[str], features: Any) -> NDArray[np.floating[Any]]:
        given = np.asarray(features)
        shape = (len(texts), *self.dim_shape)
        if given.shape != shape:
            raise ValueError(
                f"got features of shape {given.shape}; expected {shape}: (texts, rows, dim); "
                "let `compute` give one array of the cache's `dim_shape` for each text."
            )
        with np.errstate(over="ignore"):
            rows = given.astype(self._stored)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=(1, 2)))
        if len(bad):
            row = int(bad[0])
            finite = bool(np.isfinite(given[row]).all())
            got = (
                f"{np.abs(given[row]).max():.6g}, too large for {self.dtype},"
                if finite
                else "a value that isn't finite"
            )
            fix = "use a cache with dtype='float32'" if finite else "mend the encoder, or encode in float32"
            limit = float(np.finfo(self._stored).max)
            raise ValueError(
                f"got {got} in row {row} (the text {shorten(texts[row])}) of {len(bad)} such rows; "
                f"expected finite values up to {limit:.6g}; {fix}."
            )
        return rows


def scan_cache(folder: str | os.PathLike[str]) -> tuple[int, list[DataProblem]]:
    """
    Check every record of a feature cache against its CRC-32; nothing is written, and any fingerprint is fine.

    Args:
        folder (`str` or `os.PathLike`): one cache's folder.

    Returns:
        `tuple[int, list[DataProblem]]`: the number of texts, and everything that is damaged.
    """
    place = Path(folder)
    index, data = place / "index.sqlite", place / "features.bin"
    missing = [str(path) for path in (index, data) if not path.is_file()]
    if missing:
        return 0, [DataProblem(path, None, None, "no such file", "a feature cache's", _WHOLE_FIX) for path in missing]
    try:
        connection = sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro", timeout=60, uri=True)
        try:
            meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
            entries = connection.execute("SELECT place, checksum FROM entries ORDER BY place").fetchall()
        finally:
            connection.close()
        rows, dim = map(int, meta["dim_shape"].split("x"))
        record = rows * dim * {"float16": 2, "float32": 4}[meta["dtype"]]
        if meta.get("format") != _FORMAT:
            raise ValueError(f"format {meta.get('format')!r}")
    except (sqlite3.DatabaseError, KeyError, ValueError) as error:
        got = f"an index that can't be read ({error!r})"
        return 0, [DataProblem(str(index), None, None, got, f"SQLite's index of {_FORMAT}", _WHOLE_FIX)]
    problems = []
    with open(data, "rb") as file:
        for number, checksum in entries:
            file.seek(number * record)
            found = file.read(record)
            if len(found) < record or zlib.crc32(found) != checksum:
                got = "a damaged record" if len(found) == record else f"the file's end after {len(found)} bytes"
                expected = f"{record} bytes with the CRC-32 {checksum:08x}"
                problems.append(DataProblem(str(data), None, f"record {number}", got, expected, _WHOLE_FIX))
    return len(entries), problems


_WHOLE_FIX = "delete the cache's folder and let it be computed anew, or restore it from a copy; and check the disk"
_INDEX_FIX = (
    "expected SQLite's index of the features, and room on its disk; make room; or, if it is damaged, delete the "
    "folder and fill it in again, or restore it from a copy."
)


def _is_place(number: Any) -> bool:
    return isinstance(number, int) and 0 <= number < 2**48


def _checked_texts(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise TypeError(f"got the string {shorten(texts)}; expected a list of texts; wrap it in a list.")
    return texts


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
