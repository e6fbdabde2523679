"""A run's checkpoints when they are damaged, two runs in one folder, and what a run doesn't write down."""

import json
import os
import random
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import Trainer

from lira_hf.training import train_recipe
from lira_hf.training.checkpoints import check_checkpoint, newest_sound, one_run


def test_a_damaged_checkpoint_is_passed_over_or_refused(make_trainer, state, tmp_path, caplog):
    options = {"steps": 6, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")  # as if it had been killed before
    last, draw = tmp_path / "run" / "checkpoint-4", random.Random(0)
    names = sorted(path.relative_to(last).as_posix() for path in last.rglob("*") if path.is_file())
    assert {"model.safetensors", "lira_queues.safetensors", "optimizer.pt", "trainer_state.json"} <= set(names)
    names.remove("lira_state.json")
    for name in names:
        path = last / name
        data = path.read_bytes()
        for flip in range(3):
            bent, place = bytearray(data), draw.randrange(len(data))
            if flip:
                bent[place] ^= 1 << draw.randrange(8)
            else:
                del bent[place:]
            path.write_bytes(bent)
            with pytest.raises(ValueError, match=f"got a damaged {name} in .*; expected what was saved; resume from"):
                check_checkpoint(last)
        path.write_bytes(data)
    check_checkpoint(last)
    (last / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match="got no optimizer.pt"):
        make_trainer(output_dir=str(tmp_path / "run"), **options).train(resume_from_checkpoint=str(last))
    # The one before it is sound, and leads to the same end.
    assert newest_sound(tmp_path / "run").endswith("checkpoint-2")
    assert "got no optimizer.pt" in caplog.text
    resumed = make_trainer(output_dir=str(tmp_path / "run"), **options)
    resumed.train(resume_from_checkpoint=True)
    first, second = state(resumed), state(whole)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    (last / "lira_state.json").write_text("{")
    with pytest.raises(ValueError, match="expected the mark of a checkpoint; delete that checkpoint"):
        check_checkpoint(last)


def test_a_disk_that_fills_up_amid_a_checkpoint_is_told(make_trainer, state, tmp_path, monkeypatch):
    options = {"output_dir": str(tmp_path), "steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer, save = make_trainer(**options), Trainer._save_optimizer_and_scheduler

    def fill(self, folder):
        kept = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192 if self.state.global_step == 4 else kept[0], kept[1]))
        try:
            save(self, folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, kept)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", fill)
    with pytest.raises(OSError, match=r"the checkpoint .*checkpoint-4 can't be written \(.*make room, .*and resume"):
        trainer.train()
    monkeypatch.undo()
    assert newest_sound(tmp_path).endswith("checkpoint-2")
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=True)
    whole = make_trainer(**options | {"output_dir": str(tmp_path / "whole")})
    whole.train()
    first, second = state(resumed), state(whole)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_the_newest_checkpoint_is_told_by_its_number_whatever_the_clock_said(tmp_path):
    for step, moment in ((2, 3e9), (10, 1.0), (4, 2e9)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "lira_state.json").write_text(json.dumps({"stage": "lasr", "step": step}))
        os.utime(folder, (moment, moment))
        os.utime(folder / "lira_state.json", (moment, moment))
    assert newest_sound(tmp_path).endswith("checkpoint-10")


def test_a_second_run_in_a_folder_is_refused_and_a_killed_one_leaves_it_free(tiny_backbones, tiny_data, tmp_path):
    script = f"""
import os, signal
from lira_hf.training.checkpoints import one_run
with one_run({str(tmp_path / "run")!r}):
    print("in", flush=True)
    signal.pause()
"""
    recipe = {**tiny_backbones, "data": str(tiny_data), "output_dir": str(tmp_path / "run"), "use_cpu": True}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(ValueError, match="while another run works in it; expected one run in a folder; wait"):
            train_recipe(recipe)
        with one_run(tmp_path / "run", main=False):  # a further process of the same run
            pass
        first.kill()
    with one_run(tmp_path / "run"):
        pass


def test_a_hub_token_is_in_nothing_that_a_run_writes(make_trainer, tmp_path):
    secret = "hf_" + "Secret" * 6
    trainer = make_trainer(save_strategy="steps", save_steps=2, steps=2, hub_token=secret)
    trainer.train()
    trainer.save_model(str(tmp_path / "run"))
    assert trainer.args.hub_token == secret
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert "training_args.bin" in {path.name for path in files}
    assert not [path for path in files if secret.encode() in path.read_bytes()]
