"""Several tasks as one data set, of which each batch holds one, drawn by its weight (ours)."""

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset, Sampler


__all__ = ["MixtureSampler", "Task", "TaskMixture", "rows_kind", "task_kinds"]

# Ids of documents and of pairs, which two data sets must not share in a queue.
_IDS = ("document_id", "pair_id")


@dataclass(frozen=True)
class Task:
    """
    One part of a mixture.

    Args:
        name (`str`): what it is called.
        rows (`datasets.Dataset`): of [`retrieval_rows`], [`ranking_rows`] or [`generation_rows`].
        weight (`float`, *optional*, defaults to 1.0): how often its batches are drawn, relative to the others'.
    """

    name: str
    rows: datasets.Dataset
    weight: float = 1.0

    @property
    def kind(self) -> str:
        """`str`: `"retrieval"`, `"ranking"` or `"generation"`, see [`rows_kind`]."""
        return rows_kind(self.rows.column_names)


def rows_kind(columns: Container[str]) -> str:
    """What rows of these columns are for: `"ranking"` where they have a score, `"generation"` where they have a
    reference, else `"retrieval"`."""
    if "completion" in columns or "reference" in columns:
        return "generation"
    return "ranking" if "gold" in columns else "retrieval"


def task_kinds(dataset: Any) -> set[str]:
    """Of `"retrieval"`, `"ranking"` and `"generation"` what a data set for the Trainer is for."""
    if isinstance(dataset, TaskMixture):
        return {task.kind for task in dataset.tasks}
    if isinstance(dataset, dict):  # of several, as the Trainer evaluates on
        return set().union(*map(task_kinds, dataset.values()))
    columns = getattr(dataset, "column_names", None)
    if columns is None and dataset is not None:
        columns = next(iter(dataset), None)  # a list of rows, or a stream that was mapped, names none
    return {rows_kind(columns or ())}


class TaskMixture(Dataset):
    """
    Rows of several tasks, one after another. Ids of documents and pairs are shifted, so that no two tasks share one.

    Args:
        tasks (`Sequence[Task]`): The tasks, of different names.

    Raises:
        ValueError: Without tasks, for a name that comes twice, a weight that is not above 0, or a task without rows.
    """

    def __init__(self, tasks: Sequence[Task]):
        if not tasks:
            raise ValueError("got no tasks; expected at least one; name some")
        names = [task.name for task in tasks]
        for task in tasks:
            if names.count(task.name) > 1 or not 0 < task.weight < math.inf or not len(task.rows):
                raise ValueError(
                    f"got the task {task.name!r} with weight {task.weight} and {len(task.rows)} rows, among {names}; "
                    "expected names that differ, weights above 0 and at least one row; mend or drop it"
                )
        self.tasks = list(tasks)
        self.starts = [0]
        shift = 0
        self.shifts: list[int] = []
        for task in tasks:
            self.starts.append(self.starts[-1] + len(task.rows))
            self.shifts.append(shift)
            shift += 1 + _highest_id(task.rows)

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for number, task in enumerate(self.tasks):
            start, end = self.starts[number], self.starts[number + 1]
            own = [place for place in dict.fromkeys(places) if start <= place < end]
            if own:
                rows = task.rows.__getitems__([place - start for place in own])
                found |= {place: self._shifted(row, number) for place, row in zip(own, rows, strict=True)}
        try:
            return [found[place] for place in places]
        except KeyError as error:
            raise IndexError(f"got row {error}; expected 0 up to {len(self) - 1}") from error

    def _shifted(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        shift = self.shifts[number]
        row = row | {name: row[name] + shift for name in _IDS if name in row}
        if "positive_ids" in row:
            row["positive_ids"] = [value + shift for value in row["positive_ids"]]
        if "negatives" in row:
            row["negatives"] = [item | {"document_id": item["document_id"] + shift} for item in row["negatives"]]
        return row


class MixtureSampler(Sampler[int]):
    """
    Rows of a mixture in blocks of one task each. Which task is drawn by weight; within a task every row comes once
    before any comes again. An epoch has as many whole blocks as the rows of all tasks fill, at least one. Order and
    draws depend on seed and epoch alone, so that a run that goes on within an epoch reads what it would have read.

    Args:
        mixture ([`TaskMixture`]): The rows.
        block (`int`): Rows of a block: of one batch of all processes together, which thus have the same task.
        seed (`int`, *optional*, defaults to 0): Of order and draws.
    """

    def __init__(self, mixture: TaskMixture, block: int, seed: int = 0):
        self.mixture, self.block, self.seed, self.epoch = mixture, block, seed, 0
        self.num_blocks = max(len(mixture) // block, 1)

    def set_epoch(self, epoch: int) -> None:
        """Takes the order of that epoch from the next iteration on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_blocks * self.block

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        weights = torch.tensor([task.weight for task in self.mixture.tasks], dtype=torch.float64)
        drawn = torch.multinomial(weights, self.num_blocks, replacement=True, generator=generator).tolist()
        seeds = torch.randint(2**62, (len(weights),), generator=generator).tolist()
        streams = [
            _endless(len(task.rows), start, torch.Generator().manual_seed(seed))
            for task, start, seed in zip(self.mixture.tasks, self.mixture.starts[:-1], seeds, strict=True)
        ]
        for number in drawn:
            for _ in range(self.block):
                yield next(streams[number])


def _endless(count: int, start: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        for place in torch.randperm(count, generator=generator).tolist():
            yield start + place


def _highest_id(rows: datasets.Dataset) -> int:
    highest = -1
    for name in _IDS:
        if name in rows.column_names:
            highest = max(highest, max(rows[name]))
    if "negatives" in rows.column_names:
        mined = (item["document_id"] for row in rows["negatives"] for item in row)
        highest = max(highest, max(mined, default=-1))
    if "positive_ids" in rows.column_names:
        highest = max(highest, max((value for row in rows["positive_ids"] for value in row), default=-1))
    return highest
