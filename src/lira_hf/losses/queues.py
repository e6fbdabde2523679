"""FIFO queues of the paper's LaSR: DocQueue (retrieval) and CorrQueue (ranking), saved exactly by `state_dict`."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn


__all__ = ["CorrEntries", "CorrQueue", "DocEntries", "DocQueue", "FIFOQueue"]


class CorrEntries(NamedTuple):
    """
    Entries of a `CorrQueue`, oldest first: `predictions`, `gold` (float32), `pair_ids` and `ages` (int64, -1 = no id),
    each `(entries,)`.
    """

    predictions: Tensor
    gold: Tensor
    pair_ids: Tensor
    ages: Tensor


class DocEntries(NamedTuple):
    """
    Entries of a `DocQueue`, oldest first: `embeddings` (float32, `(entries, dim)`), `document_ids`, `group_ids` and
    `ages` (int64, `(entries,)`; -1 = no id).
    """

    embeddings: Tensor
    document_ids: Tensor
    group_ids: Tensor
    ages: Tensor


class FIFOQueue(nn.Module):
    """
    Ring buffer of fixed capacity over several aligned fields. Everything is a persistent buffer, so that `state_dict`
    holds the queue exactly and a resumed run continues it; floating fields stay float32 under `half()`, `bfloat16()`
    and `to(dtype)`. Keep the module outside a DDP-wrapped model: DDP would overwrite each rank's queue with rank 0's.

    References:
        LiRA, arXiv 2510.14466 (FIFO queues). Ages: ours.

    Args:
        capacity (`int`): most entries held.
        fields (`Mapping[str, tuple[int, ...]]`): name and shape of one entry of each float32 field.
        id_fields (`tuple[str, ...]`, *optional*, defaults to none): names of the int64 scalar fields.

    Attributes:
        step (`Tensor`): int64 scalar, pushes so far; an entry's age is the number of pushes after its own.

    Raises:
        ValueError: if capacity < 1.

    Relations:
        `DocQueue` and `CorrQueue` are the two that the losses read.
    """

    pointer: Tensor
    filled: Tensor
    step: Tensor
    steps: Tensor

    def __init__(self, capacity: int, fields: Mapping[str, tuple[int, ...]], id_fields: tuple[str, ...] = ()) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(
                f"{type(self).__name__} got capacity={capacity}, expected >= 1; to train without a queue give none."
            )
        self.capacity = capacity
        self.field_names = (*fields, *id_fields)
        for name, shape in fields.items():
            self.register_buffer(name, torch.zeros(capacity, *shape, dtype=torch.float32))
        for name in id_fields:
            self.register_buffer(name, torch.full((capacity,), -1, dtype=torch.int64))
        self.register_buffer("steps", torch.full((capacity,), -1, dtype=torch.int64))
        for name in ("pointer", "filled", "step"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    @property
    def num_entries(self) -> int:
        """`int`: entries held now."""
        return int(self.filled)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `.half()` and the like go through here: follow the device, keep the float32 values.
        floats = {name: buffer for name, buffer in self.named_buffers(recurse=False) if buffer.is_floating_point()}
        super()._apply(fn, recurse)
        for name, kept in floats.items():
            moved = self.get_buffer(name)
            if moved.dtype != torch.float32:
                setattr(self, name, kept.to(moved.device))
        return self

    @torch.no_grad()
    def clear(self) -> None:
        """Empties the queue and sets its step to 0."""
        for name in self.field_names:
            buffer = self.get_buffer(name)
            buffer.fill_(0 if buffer.is_floating_point() else -1)
        self.steps.fill_(-1)
        for counter in (self.pointer, self.filled, self.step):
            counter.zero_()

    @torch.no_grad()
    def _push(self, rows: Mapping[str, Tensor]) -> None:
        """Writes checked rows, `(batch, ...)` a field, over the oldest entries; of too many the last are kept."""
        count = len(next(iter(rows.values())))
        if count == 0:
            return
        written = min(count, self.capacity)
        places = (self.pointer + torch.arange(written, device=self.pointer.device)) % self.capacity
        for name in self.field_names:
            buffer = self.get_buffer(name)
            buffer[places] = rows[name][count - written :].to(device=buffer.device, dtype=buffer.dtype)
        self.steps[places] = self.step
        self.step += 1
        self.pointer.copy_((self.pointer + written) % self.capacity)
        self.filled.copy_((self.filled + written).clamp_max(self.capacity))

    def _places(self, max_age: int | None) -> Tensor:
        """Where the entries are held that are not too old, oldest first: int64 `(entries,)`."""
        held = self.num_entries
        places = (self.pointer - held + torch.arange(held, device=self.pointer.device)) % self.capacity
        return places if max_age is None else places[self.step - 1 - self.steps[places] <= max_age]

    @torch.no_grad()
    def _read(self, places: Tensor) -> dict[str, Tensor]:
        """Copies of the fields and of `ages`: a later push can't change what autograd has saved."""
        ages = self.step - 1 - self.steps[places]
        return {**{name: self.get_buffer(name)[places] for name in self.field_names}, "ages": ages}

    def extra_repr(self) -> str:
        """`str`: the sizes, for `print(module)`."""
        return f"capacity={self.capacity}, filled={self.num_entries}"


class DocQueue(FIFOQueue):
    """
    FIFO of document embeddings with document and group ids: further negatives for `RetrievalLoss`. Embeddings are
    stored in float32, whatever they come in, and carry no gradient.

    References:
        LiRA, arXiv 2510.14466 (LaSR, DocQueue).

    Args:
        capacity (`int`): most documents held.
        dim (`int`): width of an embedding.

    Relations:
        Matters on large pools; in small ones in-batch negatives do. `CorrQueue` serves ranking.

    Example:
        >>> queue = DocQueue(capacity=4, dim=2)
        >>> queue.push(torch.eye(2), torch.tensor([7, 8]))
        >>> queue.entries().document_ids
        tensor([7, 8])
    """

    embeddings: Tensor
    document_ids: Tensor
    group_ids: Tensor

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__(capacity, {"embeddings": (dim,)}, ("document_ids", "group_ids"))
        self.dim = dim

    def push(self, embeddings: Tensor, document_ids: Tensor, group_ids: Tensor | None = None) -> None:
        """
        Adds a batch, replacing the oldest entries. Call it once per micro-batch of training, never in evaluation.

        Args:
            embeddings (`Tensor`): shape `(batch, dim)`; detached and stored as float32.
            document_ids (`Tensor`): integers, shape `(batch,)`; -1 = unknown.
            group_ids (`Tensor`, *optional*, defaults to none): integers, shape `(batch,)`; -1 = no group.

        Raises:
            ValueError: on other shapes, ids that are not integers, embeddings that are not finite in float32.
        """
        if embeddings.dim() != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(
                f"DocQueue.push got embeddings of shape {tuple(embeddings.shape)}, expected (batch, {self.dim}); give "
                "the queue the projection_dim of the model."
            )
        if group_ids is None:
            group_ids = torch.full_like(document_ids, -1)
        for name, ids in (("document_ids", document_ids), ("group_ids", group_ids)):
            if ids.shape != embeddings.shape[:1] or ids.is_floating_point() or ids.dtype == torch.bool:
                raise ValueError(
                    f"DocQueue.push got {name} of shape {tuple(ids.shape)} and type {ids.dtype}, expected "
                    f"({len(embeddings)},) and integers; give one id an embedding."
                )
        rows = {"embeddings": _finite("DocQueue.push", "embeddings", embeddings)}
        self._push({**rows, "document_ids": document_ids, "group_ids": group_ids})

    def entries(self, max_age: int | None = None) -> DocEntries:
        """
        Copies of what is held, oldest first.

        Args:
            max_age (`int`, *optional*, defaults to all): leaves out entries with more pushes than this after theirs.

        Returns:
            `DocEntries`: embeddings, document ids, group ids, ages.
        """
        return DocEntries(**self._read(self._places(max_age)))

    def chunks(self, chunk_size: int, max_age: int | None = None) -> Iterator[DocEntries]:
        """
        The same as `entries`, piece by piece, so that no more than a piece is copied at a time. Don't push meanwhile.

        Args:
            chunk_size (`int`): most entries of a piece, >= 1.
            max_age (`int`, *optional*, defaults to all): as in `entries`.

        Returns:
            `Iterator[DocEntries]`: the pieces, oldest first; none if nothing is held.
        """
        places = self._places(max_age)
        for start in range(0, len(places), chunk_size):
            yield DocEntries(**self._read(places[start : start + chunk_size]))


class CorrQueue(FIFOQueue):
    """
    FIFO of (prediction, gold) pairs: widens the sample over which `CorrelationLoss` takes its correlations.

    References:
        LiRA, arXiv 2510.14466 (LaSR, CorrQueue).

    Args:
        capacity (`int`): most pairs held.

    Relations:
        Training with it was measured to lower Pearson; `entries(max_age=...)` leaves old pairs out, and `refresh`
        takes new predictions for the pairs held. `DocQueue` serves retrieval.

    Example:
        >>> queue = CorrQueue(capacity=4)
        >>> queue.push(torch.tensor([0.5]), torch.tensor([3.0]))
        >>> queue.num_entries
        1
    """

    predictions: Tensor
    gold: Tensor
    pair_ids: Tensor

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, {"predictions": (), "gold": ()}, ("pair_ids",))

    def push(self, predictions: Tensor, gold: Tensor, pair_ids: Tensor | None = None) -> None:
        """
        Adds a batch, replacing the oldest pairs. Call it once per micro-batch of training, never in evaluation.

        Args:
            predictions (`Tensor`): shape `(batch,)`; detached and stored as float32.
            gold (`Tensor`): shape `(batch,)`.
            pair_ids (`Tensor`, *optional*, defaults to none): integers, shape `(batch,)`, by which the pairs can be
                found again to `refresh` their predictions; -1 = unknown.

        Raises:
            ValueError: on other shapes, ids that are not integers, values that are not finite in float32.
        """
        if predictions.dim() != 1 or gold.shape != predictions.shape:
            raise ValueError(
                f"CorrQueue.push got predictions of shape {tuple(predictions.shape)} and gold of {tuple(gold.shape)}, "
                "expected (batch,) for both; flatten them."
            )
        if pair_ids is None:
            pair_ids = torch.full((len(gold),), -1)
        if pair_ids.shape != gold.shape or pair_ids.is_floating_point() or pair_ids.dtype == torch.bool:
            raise ValueError(
                f"CorrQueue.push got pair_ids of shape {tuple(pair_ids.shape)} and type {pair_ids.dtype}, expected "
                f"({len(gold)},) and integers; give one id a pair."
            )
        pairs = (("predictions", predictions), ("gold", gold))
        rows = {name: _finite("CorrQueue.push", name, values) for name, values in pairs}
        self._push({**rows, "pair_ids": pair_ids})

    @torch.no_grad()
    def refresh(self, predictions: Tensor) -> None:
        """
        Replaces the predictions of all pairs held by the present model's *(ours)*; their ages become 0, their order
        stays.

        Args:
            predictions (`Tensor`): shape `(entries,)`, in the order of `entries()`.

        Raises:
            ValueError: on another number of them, or values that are not finite in float32.
        """
        places = self._places(None)
        if predictions.shape != places.shape:
            raise ValueError(
                f"CorrQueue.refresh got predictions of shape {tuple(predictions.shape)}, expected ({len(places)},), "
                "one for each pair held; predict the pairs of `entries()`, in their order."
            )
        self.predictions[places] = _finite("CorrQueue.refresh", "predictions", predictions).to(self.predictions)
        self.steps[places] = self.step - 1

    def entries(self, max_age: int | None = None) -> CorrEntries:
        """
        Copies of what is held, oldest first.

        Args:
            max_age (`int`, *optional*, defaults to all): leaves out pairs with more pushes than this after theirs.

        Returns:
            `CorrEntries`: predictions, gold, pair ids, ages.
        """
        return CorrEntries(**self._read(self._places(max_age)))


def _finite(caller: str, name: str, values: Tensor) -> Tensor:
    """The values as float32 without gradient, or an error that names the first row that isn't finite."""
    floats: Any = values.detach().float()
    wrong = ~floats.isfinite().reshape(len(floats), -1).all(dim=1) if len(floats) else floats.new_zeros(0)
    if bool(wrong.any()):
        raise ValueError(
            f"{caller} got {int(wrong.sum())} of {len(floats)} {name} that are not finite (first: row "
            f"{int(wrong.nonzero()[0])}), expected finite numbers; look for a diverged loss or an fp16 overflow."
        )
    return floats
