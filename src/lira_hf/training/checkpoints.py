"""Checkpoints of a run: which are whole and undamaged, and one run at a time in a folder (ours)."""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lira_hf.data.files import write_json
from lira_hf.models.saving_lira import file_sha256, is_plain_path, read_checksums


__all__ = ["check_checkpoint", "last_checkpoint", "newest_sound", "one_run", "read_mark", "write_mark"]

logger = logging.getLogger(__name__)

# Written last: a checkpoint without it was never finished.
_COMPLETE = "lira_state.json"
# Random states of further processes, which write them by themselves.
_OF_OTHERS = re.compile(r"rng_state_\d+\.pth")


def last_checkpoint(folder: str | os.PathLike) -> str | None:
    """
    The newest checkpoint of a run that was written to its end. A killed run may leave a half-written one behind.

    Args:
        folder (`str` or `os.PathLike`): The run's `output_dir`.

    Returns:
        `str`, *optional*: Its path; `None` where there is none.
    """
    return next(iter(_whole(folder)), None)


def newest_sound(folder: str | os.PathLike) -> str | None:
    """As [`last_checkpoint`], of those whose files are as they were written; damaged ones are warned of."""
    for path in _whole(folder):
        try:
            check_checkpoint(path)
        except ValueError as error:
            logger.warning("%s; an earlier checkpoint is taken, or the run starts anew", error)
        else:
            return path
    return None


def _whole(folder: str | os.PathLike) -> list[str]:
    found = [path.parent for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{_COMPLETE}")]
    # By its number, not by the clock, which may have gone back.
    return [str(path) for path in sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)]


def write_mark(folder: Path, facts: Mapping[str, Any], world_size: int = 1) -> None:
    """The mark of completeness: facts, and the SHA-256 of every file that is there."""
    known = read_checksums(folder)  # what saving the model has just worked out
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _COMPLETE and not (world_size > 1 and _OF_OTHERS.fullmatch(path.name)):
            files[name] = known[name]["sha256"] if name in known else file_sha256(path)
    write_json(folder / _COMPLETE, {**facts, "files": files})


def read_mark(folder: str | os.PathLike) -> dict[str, Any]:
    """
    What [`write_mark`] wrote; empty for a checkpoint without it.

    Raises:
        ValueError: For a damaged mark.
    """
    path = Path(folder) / _COMPLETE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("files", {}), dict):
            raise ValueError("no object with files")
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(
            f"got {path}, which can't be read ({error}); expected the mark of a checkpoint; delete that checkpoint"
        ) from error
    return found


def check_checkpoint(folder: str | os.PathLike) -> None:
    """
    Whether a checkpoint's files are as they were written; one without a list of them, from an earlier version, passes.

    Raises:
        ValueError: Naming a file that is damaged or gone.
    """
    for name, wanted in read_mark(folder).get("files", {}).items():
        path = Path(folder) / name
        if not is_plain_path(name) or not path.is_file() or file_sha256(path) != wanted:
            got = "a damaged" if path.is_file() else "no"
            raise ValueError(
                f"got {got} {name} in {folder}, by the SHA-256 in {_COMPLETE}; expected what was saved; resume from "
                "another checkpoint, or delete this one"
            )


@contextmanager
def one_run(folder: str | os.PathLike, main: bool = True) -> Iterator[None]:
    """
    Keeps a second run out of a run's folder, until this one ends or is killed.

    Args:
        folder (`str` or `os.PathLike`): The run's `output_dir`; made if need be.
        main (`bool`, *optional*, defaults to `True`): Whether this process stands for its run.

    Raises:
        ValueError: Where another run is at work there.
    """
    if not main:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder) / ".run.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"got {folder} while another run works in it; expected one run in a folder; wait for it to end, or choose "
            "another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
