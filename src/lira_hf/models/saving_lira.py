"""Checkpoint folders that a kill can't tear and damage can't enter: files moved in whole, with SHA-256 (ours)."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


__all__ = ["CHECKSUMS_NAME", "check_files", "check_shard_names", "finish_saving", "renew_checksums", "staged"]

logger = logging.getLogger(__name__)

CHECKSUMS_NAME = "lira_checksums.json"
_FORMAT = 1
# A folder's next content: while a process writes it, and from when it is whole until all of it is in its place.
_WRITING, _READY = ".lira-saving-", ".lira-saved"
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


@contextmanager
def staged(folder: str | os.PathLike) -> Iterator[str]:
    """
    A place to save a checkpoint's files in. At the end all of them are moved into the folder, with their sizes and
    SHA-256 in `lira_checksums.json`; of an error, or a kill before that, the folder keeps what it had. A kill during
    the moves is made good by the next that saves or loads there, see [`finish_saving`].

    Args:
        folder (`str` or `os.PathLike`): The checkpoint's folder; made if need be.

    Returns:
        `str`: An empty folder within it.
    """
    target = Path(folder)
    finish_saving(target)
    _clear(target)
    writing = target / f"{_WRITING}{os.getpid()}"
    writing.mkdir(parents=True)
    try:
        yield str(writing)
        files = {}
        for path in _files(writing):
            files[path.relative_to(writing).as_posix()] = _facts(path)
            _to_disk(path)
        stale: list[str] = []
        if any(_WEIGHTS.fullmatch(name) for name in files):  # shards of an earlier save
            stale = sorted(p.name for p in target.glob("model*") if _WEIGHTS.fullmatch(p.name) and p.name not in files)
        kept = {}
        with suppress(ValueError):  # a damaged list is no reason not to save
            kept = {k: v for k, v in read_checksums(target).items() if (target / k).is_file() and k not in stale}
        _write_checksums(writing / CHECKSUMS_NAME, {**kept, **files}, stale)
        while True:
            try:
                os.replace(writing, target / _READY)
                break
            except OSError:
                if not (target / _READY).is_dir():
                    raise
                finish_saving(target)  # another process has saved there meanwhile, and hasn't moved all of it yet
    finally:
        _remove(writing)
    finish_saving(target)


def finish_saving(folder: str | os.PathLike) -> None:
    """
    Puts into its place what a save that was killed at its very end has left; else does nothing.

    Raises:
        OSError: Where the folder can't be written to.
    """
    target = Path(folder)
    ready = target / _READY
    if not ready.is_dir():
        return
    try:
        _move(ready / CHECKSUMS_NAME, target / CHECKSUMS_NAME)
        for name in _read(target / CHECKSUMS_NAME).get("stale", []):
            if _WEIGHTS.fullmatch(name):
                (target / name).unlink(missing_ok=True)
        for path in _files(ready):
            _move(path, target / path.relative_to(ready))
        # Empty folders alone: another process may have put its own save there by now.
        for place, _, _ in os.walk(ready, topdown=False):
            with suppress(OSError):
                os.rmdir(place)
    except OSError as error:
        raise OSError(
            f"got {folder}, where saving was interrupted when it was almost done, and which can't be finished "
            f"({error}); expected a folder that can be written to; load it once where it can, or save it again"
        ) from error


def check_files(folder: str | os.PathLike, weights: bool) -> None:
    """
    Whether a checkpoint's files are as they were saved; nothing for a folder without `lira_checksums.json`.

    Args:
        folder (`str` or `os.PathLike`): The checkpoint.
        weights (`bool`): Look at weights and their configuration; else at the other files, a processor's.

    Raises:
        ValueError: Naming a damaged file of weights. Other files may have been edited by hand: of those that differ a
            warning is logged.
    """
    place = Path(folder)
    for name, facts in read_checksums(place).items():
        path = place / name
        heavy = name.endswith(".safetensors")
        if (heavy or name in ("config.json", "generation_config.json")) is not weights or not path.is_file():
            continue
        if path.stat().st_size == facts["bytes"] and file_sha256(path) == facts["sha256"]:
            continue
        if heavy:
            raise ValueError(
                f"got a damaged {name} in {folder}: its size or SHA-256 isn't that in {CHECKSUMS_NAME}; expected the "
                "weights that were saved; restore the file from a copy, or delete that line if you changed it on "
                "purpose"
            )
        logger.warning(
            "%s of %s isn't as it was saved (its SHA-256 differs); restore it from a copy unless it was edited",
            name,
            folder,
        )


def check_shard_names(folder: str | os.PathLike) -> None:
    """
    Raises:
        ValueError: Where an index of weights names a file outside the checkpoint's folder, or can't be read.
    """
    for path in Path(folder).glob("*.safetensors.index.json"):
        try:
            names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"got {path}, which can't be read ({error}); expected an index of weights; restore it from a copy"
            ) from error
        for name in names:
            if not is_plain_name(name):
                raise ValueError(
                    f"got {path}, which names the file {name!r}; expected names of files beside it; don't use this "
                    "checkpoint unless you know where it comes from"
                )


def renew_checksums(folder: str | os.PathLike) -> None:
    """Takes in what was changed on purpose, since saving, of files that are no weights."""
    place = Path(folder)
    found = read_checksums(place)
    if found:
        kept = {name: facts for name, facts in found.items() if (place / name).is_file()}
        _write_checksums(
            place / CHECKSUMS_NAME,
            {k: v if k.endswith(".safetensors") else _facts(place / k) for k, v in kept.items()},
        )


def read_checksums(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """
    `bytes` and `sha256` of each file that was saved there; empty where nothing says so.

    Raises:
        ValueError: For a damaged list.
    """
    return dict(_read(Path(folder) / CHECKSUMS_NAME).get("files", {}))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT or not all(
            is_plain_path(name) and isinstance(facts["bytes"], int) and isinstance(facts["sha256"], str)
            for name, facts in found["files"].items()
        ):
            raise ValueError(f"not of format {_FORMAT}, or with paths that lead elsewhere")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"got {path}, which can't be read ({error}); expected what was saved; restore it from a copy, or delete "
            "it and trust the files as they are"
        ) from error
    return found


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal digits; that of the Hub's large files is the same."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_plain_name(name: object) -> bool:
    """Whether a name from a file names a file or folder right where it stands."""
    return isinstance(name, str) and bool(name) and not re.search(r"[/\\\0:]", name) and name not in (".", "..")


def is_plain_path(name: object) -> bool:
    """Whether a relative path from a file stays below where it stands."""
    return isinstance(name, str) and all(is_plain_name(part) for part in name.split("/"))


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _write_checksums(path: Path, files: dict[str, dict[str, Any]], stale: list[str] | None = None) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    content = {"format": _FORMAT, "files": dict(sorted(files.items())), **({"stale": stale} if stale else {})}
    try:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        _to_disk(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(path, target)
    except FileNotFoundError:
        if not target.is_file():  # else another process was quicker
            raise


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _clear(folder: Path) -> None:
    """Drops what saves that were killed have left half-written; not what another process is writing."""
    for path in folder.glob(f"{_WRITING}*"):
        process = path.name.removeprefix(_WRITING)
        try:
            os.kill(int(process), 0)
        except (ValueError, OverflowError, ProcessLookupError):
            _remove(path)
        except OSError:  # it is another user's, and lives
            continue
        else:
            if int(process) == os.getpid():
                _remove(path)


def _remove(folder: Path) -> None:
    """A folder and all in it; other processes may be at the same."""
    for place, folders, files in os.walk(folder, topdown=False):
        for name, drop in [*((name, os.unlink) for name in files), *((name, os.rmdir) for name in folders)]:
            _quietly(drop, os.path.join(place, name))
    _quietly(os.rmdir, str(folder))


def _quietly(drop: Callable[[str], None], path: str) -> None:
    with suppress(FileNotFoundError):
        drop(path)
