"""A run that was killed ends as one that wasn't: same weights, same queue, bit for bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from lira_hf.losses import load_queue_state
from lira_hf.training import last_checkpoint, train_recipe


class Stop(TrainerCallback):
    """Ends a run after a step, as a kill would, without a last word to the trainer."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class StepCount(TrainerCallback):
    steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1


def _same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    ("stage", "extra"),
    [("arca", {}), ("lasr", {"gradient_accumulation_steps": 2}), ("lasr", {"config": {"dropout": 0.1}})],
)
def test_a_resumed_run_is_bit_equal(make_trainer, state, tmp_path, stage, extra):
    options = {"stage": stage, "steps": 11, "save_strategy": "steps", "save_steps": 4, **extra}
    whole = make_trainer(output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    killed = make_trainer(output_dir=str(tmp_path / "killed"), **options)
    killed.add_callback(Stop(9))  # in the second epoch
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    assert last_checkpoint(tmp_path / "killed").endswith("checkpoint-8")
    torch.manual_seed(99)
    resumed = make_trainer(output_dir=str(tmp_path / "killed"), **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 11
    _same(state(resumed), state(whole))
    if stage == "lasr":
        assert len(whole.queue.entries().embeddings) == 20
        load_queue_state(tmp_path / "killed" / "checkpoint-8", {"documents": whole.queue})
        assert not torch.equal(whole.queue.state_dict()["embeddings"], resumed.queue.state_dict()["embeddings"])


@pytest.mark.parametrize("steps", [8, 11])
def test_a_run_that_was_killed_behind_its_last_step_takes_no_other(make_trainer, state, tmp_path, steps):
    options = {"steps": steps, "save_strategy": "steps", "save_steps": 4, "lr_scheduler_type": "constant"}
    whole = make_trainer(**options)
    whole.train()
    last = Path(last_checkpoint(tmp_path / "run"))
    assert last.name == f"checkpoint-{steps}"
    before = {path.name: path.read_bytes() for path in last.iterdir()}
    again = make_trainer(**options)
    count = StepCount()
    again.add_callback(count)
    again.train(resume_from_checkpoint=True)
    assert (count.steps, again.state.global_step) == (0, steps)
    _same(state(again), state(whole))
    assert {path.name: path.read_bytes() for path in last.iterdir()} == before
    assert last_checkpoint(tmp_path / "run") == str(last)
    more = make_trainer(**options | {"steps": steps + 2})
    more.train(resume_from_checkpoint=True)
    assert more.state.global_step == steps + 2


def test_resuming_without_a_checkpoint_starts_anew(make_trainer, state, tmp_path):
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)  # a kill left it half-written
    (tmp_path / "run" / "checkpoint-3" / "model.safetensors").write_bytes(b"half")
    fresh = make_trainer(output_dir=str(tmp_path / "other"))
    fresh.train()
    started = make_trainer()
    started.train(resume_from_checkpoint=True)
    _same(state(started), state(fresh))


def test_last_checkpoint_is_the_newest_whole_one(tmp_path):
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "nowhere") is None
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}" / "lira_state.json").write_text("{}")
    (tmp_path / "checkpoint-100" / "lira_state.json.part").write_text("{}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_the_mark_is_the_last_file_of_a_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer(save_strategy="steps", save_steps=2)
    trainer.train()
    folder = tmp_path / "run" / "checkpoint-4"
    mark = folder / "lira_state.json"
    facts = json.loads(mark.read_text())
    assert (facts["stage"], facts["step"]) == ("lasr", 4)
    assert facts["files"].keys() == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    } - {mark.name}
    assert all(path.stat().st_mtime_ns <= mark.stat().st_mtime_ns for path in folder.iterdir())
    assert {"model.safetensors", "trainer_state.json"} <= {path.name for path in folder.iterdir()}


def test_a_checkpoint_of_another_stage_is_refused(make_trainer):
    make_trainer("arca", save_strategy="steps", save_steps=4).train()
    with pytest.raises(
        ValueError, match="written by stage 'arca'; expected one of stage 'lasr'.*output_dir of its own"
    ):
        make_trainer("lasr").train(resume_from_checkpoint=True)


def test_a_queue_of_another_size_is_refused(make_trainer):
    make_trainer(save_strategy="steps", save_steps=4).train()
    with pytest.raises(ValueError, match="build the queue with the saved"):
        make_trainer(queue_size=32).train(resume_from_checkpoint=True)


_SCRIPT = """
import json, os, signal, sys
from transformers import TrainerCallback
from lira_hf.training import train_recipe, trainer

recipe, step = json.load(open(sys.argv[1])), int(sys.argv[2])

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

def run(kill):
    make = trainer.LiraTrainer.__init__
    if kill:
        def init(self, *args, **kwargs):
            make(self, *args, **kwargs)
            self.add_callback(Kill())
        trainer.LiraTrainer.__init__ = init
    train_recipe(recipe, quiet=True)

# A fork, so that the libraries are imported once; torch has not computed anything yet.
child = os.fork()
if not child:
    run(kill=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
steps = sorted(int(n.split("-")[1]) for n in os.listdir(recipe["output_dir"]) if n.startswith("checkpoint-"))
assert steps == [3, 6], steps
run(kill=False)
"""


def test_a_run_killed_with_sigkill_ends_as_one_that_was_not(tiny_backbones, tiny_data, tmp_path):
    recipe = {
        **tiny_backbones,
        "config": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_bins": 2},
        "data": str(tiny_data),
        "store": str(tiny_data / "store.sqlite"),
        "critic": "judge",
        "critic_fingerprint": "1",
        "features": str(tmp_path / "features"),
        "stage": "lasr",
        "max_steps": 10,
        "save_steps": 3,
        "save_strategy": "steps",
        "queue_size": 20,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 5,
    }
    script, file = tmp_path / "run.py", tmp_path / "recipe.json"
    script.write_text(_SCRIPT)
    file.write_text(json.dumps(recipe | {"output_dir": str(tmp_path / "killed")}))
    done = subprocess.run([sys.executable, script, file, "8"], capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr[-2000:]
    train_recipe(recipe | {"output_dir": str(tmp_path / "whole")}, quiet=True)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole")]
    _same(*weights)
    queues = [load_file(next(Path(tmp_path / name / "checkpoint-10").glob("*queue*"))) for name in ("killed", "whole")]
    _same(*queues)
    # Once more: nothing is left to do, and the result stays.
    shutil.copytree(tmp_path / "killed", tmp_path / "again")
    _, _, _ = train_recipe(recipe | {"output_dir": str(tmp_path / "again")}, quiet=True)
    _same(load_file(tmp_path / "again" / "model.safetensors"), weights[0])
