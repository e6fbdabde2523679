"""Saves and loads the queues beside a training checkpoint, in safetensors, whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn


__all__ = ["QUEUE_STATE_NAME", "load_queue_state", "save_queue_state"]

QUEUE_STATE_NAME = "lira_queues.safetensors"


def save_queue_state(folder: str | os.PathLike[str], modules: Mapping[str, nn.Module]) -> Path:
    """
    Writes every buffer of the modules to `lira_queues.safetensors`. The file appears under its name only when it is
    complete, so that a killed run leaves the former one. With several processes call it on one.

    Args:
        folder (`str` or `os.PathLike`): the checkpoint's folder; made if it is missing.
        modules (`Mapping[str, nn.Module]`): queues under the names by which they are loaded again (no dots).

    Returns:
        `Path`: the file.

    Raises:
        ValueError: if a name is empty or has a dot.
    """
    _check_names(modules)
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().contiguous().clone()
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }
    target = Path(folder) / QUEUE_STATE_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        save_file(tensors, part, metadata={"format": "pt"})
        with part.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def load_queue_state(folder: str | os.PathLike[str], modules: Mapping[str, nn.Module]) -> None:
    """
    Loads what `save_queue_state` wrote into the modules. Nothing is loaded unless all of it fits.

    Args:
        folder (`str` or `os.PathLike`): the checkpoint's folder.
        modules (`Mapping[str, nn.Module]`): queues of the same sizes under the same names.

    Raises:
        FileNotFoundError: if the folder has no queue file.
        ValueError: if names or sizes differ from the saved ones.
    """
    _check_names(modules)
    path = Path(folder) / QUEUE_STATE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"Got {folder} without a {QUEUE_STATE_NAME}, expected the folder of a checkpoint saved with queues; start "
            "with empty queues or choose another checkpoint."
        )
    saved = load_file(path)
    _check_fit(path, saved, modules)
    for name, module in modules.items():
        module.load_state_dict({key: saved[f"{name}.{key}"] for key in module.state_dict()})


def _check_names(modules: Mapping[str, nn.Module]) -> None:
    """Raises unless every name can stand before a dot."""
    for name in modules:
        if not name or "." in name:
            raise ValueError(f"Got the queue name {name!r}, expected one without dots; use for example 'documents'.")


def _check_fit(path: Path, saved: Mapping[str, Tensor], modules: Mapping[str, nn.Module]) -> None:
    """Raises unless the file holds exactly the modules' tensors in their shapes."""
    wanted = {f"{name}.{key}": item for name, module in modules.items() for key, item in module.state_dict().items()}
    missing, surplus = sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys())
    if missing or surplus:
        raise ValueError(
            f"Got {path} with {surplus} too many and {missing} missing, expected the tensors of {sorted(modules)}; "
            "build the queues that the saved run had."
        )
    for key, item in wanted.items():
        if saved[key].shape != item.shape or saved[key].dtype != item.dtype:
            raise ValueError(
                f"Got {key} of size {tuple(saved[key].shape)}, {saved[key].dtype} in {path}, expected "
                f"{tuple(item.shape)}, {item.dtype} as in the queue given; build the queue with the saved "
                "capacity and width."
            )
