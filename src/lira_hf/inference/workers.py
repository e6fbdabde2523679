"""Several processes that embed, each with the checkpoint loaded by itself; batches in, vectors out in their order
(ours)."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray


if TYPE_CHECKING:
    from .embedder import LiraEmbedder


__all__ = ["EmbedderPool", "WorkerError"]


class WorkerError(RuntimeError):
    """A process that embeds died or can't load what it was told to."""


class EmbedderPool:
    """
    Processes that embed the batches of a [`LiraEmbedder`]. They are spawned, so a script that uses them needs its
    `if __name__ == "__main__":`. Candidates are looked up by the calling process, which alone reads and writes the
    candidate store.

    Args:
        checkpoint (`str`): Folder or name of the checkpoint that every process loads.
        num_processes (`int`, *optional*): How many; one for each device by default.
        devices (`Sequence[str]`, *optional*): Such as `["cuda:0", "cuda:1"]`, given out in turn; by default all GPUs,
            or the CPU, whose cores are shared out.
        batch_size (`int`, *optional*, defaults to 64): Texts in one pass of a backbone.

    Raises:
        ValueError: For less than one process.

    Example:

    ```python
    >>> with EmbedderPool("runs/quickstart-cldr/model", num_processes=4) as pool:
    ...     vectors = embedder.encode(texts, "th", pool=pool)
    ```
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        num_processes: int | None = None,
        devices: Sequence[str] | None = None,
        batch_size: int = 64,
    ) -> None:
        self.devices = list(devices or [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"])
        self.num_processes = len(self.devices) if num_processes is None else num_processes
        if self.num_processes < 1:
            raise ValueError(f"got num_processes={num_processes!r}; expected at least 1; pass a positive number")
        context = multiprocessing.get_context("spawn")
        places = context.SimpleQueue()
        for number in range(self.num_processes):
            places.put(self.devices[number % len(self.devices)])
        threads = max(torch.get_num_threads() // self.num_processes, 1)
        self._executor = ProcessPoolExecutor(
            self.num_processes, context, _start, (os.fspath(checkpoint), places, threads, batch_size)
        )

    def map(self, batches: Iterable[tuple[Any, ...]], fingerprint: str | None = None) -> Iterator[NDArray[np.float32]]:
        """
        Vectors of batches, in their order; a few batches more than there are processes are under way at once.

        Args:
            batches (`Iterable[tuple]`): Arguments of [`LiraEmbedder.encode_batch`].
            fingerprint (`str`, *optional*): Of the calling embedder; the processes' has to be the same.

        Raises:
            WorkerError: A process died, or has another model.
        """
        waiting: deque[Future[NDArray[np.float32]]] = deque()
        try:
            for batch in batches:
                waiting.append(self._executor.submit(_encode, batch, fingerprint))
                if len(waiting) >= 2 * self.num_processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise WorkerError(
                f"got a dead process among {self.num_processes} that embed; expected all to live: one was killed, "
                "often for want of memory, or couldn't start, as in a script without `if __name__ == '__main__':`; "
                "what was finished is kept; run again with fewer processes or smaller batches"
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Ends the processes; batches that none has begun are dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


# What a worker process has: where it works, and the embedder that its first batch loads.
_SETTINGS: tuple[str, str, int] | None = None
_EMBEDDER: "LiraEmbedder | None" = None


def _start(checkpoint: str, places: Any, threads: int, batch_size: int) -> None:
    global _SETTINGS
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _SETTINGS = (checkpoint, places.get(), batch_size)


def _end_with_parent() -> None:
    # A killed parent closes nothing that the executor's own queues would tell its workers of.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode(batch: tuple[Any, ...], fingerprint: str | None) -> NDArray[np.float32]:
    """One batch. The model is loaded here and not at the start, so that its errors reach the caller."""
    global _EMBEDDER
    assert _SETTINGS is not None
    checkpoint, device, batch_size = _SETTINGS
    if _EMBEDDER is None:
        _EMBEDDER = _load(checkpoint, batch_size)
        _ = _EMBEDDER.fingerprint  # while the weights are here
        _EMBEDDER.model.to(device)
    if fingerprint not in (None, _EMBEDDER.fingerprint):
        raise WorkerError(
            f"got {checkpoint} with the fingerprint {_EMBEDDER.fingerprint} in a process that embeds; expected "
            f"{fingerprint}, as the calling embedder's model has; name the checkpoint that it was loaded from"
        )
    with torch.no_grad():
        return _EMBEDDER.encode_batch(*batch)


def _load(checkpoint: str, batch_size: int) -> "LiraEmbedder":
    from lira_hf.models import LiraModel, LiraProcessor

    from .embedder import LiraEmbedder

    model, processor = LiraModel.from_pretrained(checkpoint), LiraProcessor.from_pretrained(checkpoint)
    return LiraEmbedder(model, processor, batch_size=batch_size)
