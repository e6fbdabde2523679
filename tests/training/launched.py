"""
Runs recipes one after the other, to their end; several processes, which `accelerate launch` starts, each once more
from a checkpoint within an epoch. For test_training_launch.py; every process writes what it ended with.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from lira_hf.training import LiraTrainer, recipes
from lira_hf.training.sharding import whole_state


_TRAINERS: list[LiraTrainer] = []


class _Kept(LiraTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _TRAINERS.append(self)


def _state(trainer: LiraTrainer) -> dict[str, torch.Tensor]:
    found = {name: value.clone() for name, value in whole_state(trainer.model.state_dict()).items()}
    for queue, held in trainer.queues.items():
        found |= {f"queue.{queue}.{name}": value.clone() for name, value in held.state_dict().items()}
    return {name: value.contiguous() for name, value in found.items()}


def _run(name: str, recipe: dict, output: Path, resumed_from: int) -> None:
    recipes.train_recipe(recipe, quiet=True)
    trainer = _TRAINERS.pop()
    rank, found = trainer.args.process_index, _state(trainer)
    facts = {
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "processes": trainer.args.world_size,
        "kind": str(trainer.accelerator.distributed_type).rsplit(".", 1)[-1],
        "sharded": [key for key, value in trainer.model.named_parameters() if isinstance(value, DTensor)],
    }
    save_file(found, output / f"{name}-{rank}.safetensors")
    if trainer.args.world_size > 1:
        facts["differ"] = _resume(trainer, recipe, found, resumed_from)
    (output / f"{name}-{rank}.json").write_text(json.dumps(facts))


def _resume(trainer: LiraTrainer, recipe: dict, found: dict[str, torch.Tensor], resumed_from: int) -> list[str]:
    """Names of what is another after going on from a checkpoint."""
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():  # as if it had been killed behind that checkpoint
        shutil.copytree(recipe["output_dir"], again := f"{recipe['output_dir']}-again")
        for checkpoint in Path(again).glob("checkpoint-*"):
            if checkpoint.name != f"checkpoint-{resumed_from}":
                shutil.rmtree(checkpoint)
    trainer.accelerator.wait_for_everyone()
    recipes.train_recipe(recipe | {"output_dir": f"{recipe['output_dir']}-again"}, quiet=True)
    resumed = _state(_TRAINERS.pop())
    return [key for key, value in found.items() if not torch.equal(value, resumed[key])]


def run_all(given: dict) -> None:
    """All recipes of `given`, with their batches divided among the processes."""
    recipes.LiraTrainer, before = _Kept, recipes.LiraTrainer
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    for name, recipe in given["recipes"].items():
        share = {"per_device_train_batch_size": recipe["per_device_train_batch_size"] // processes}
        _run(name, recipe | share, Path(given["output"]), given["resumed_from"])
    recipes.LiraTrainer = before


if __name__ == "__main__":
    run_all(json.loads(Path(sys.argv[1]).read_text()))
    if dist.is_initialized():
        dist.destroy_process_group()
