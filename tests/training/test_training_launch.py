"""`accelerate launch` with the configurations of examples/distributed on two CPU processes (gloo): DDP and FSDP2 learn
what one process with the whole batch learns, in both stages and in generation, hold its queues, and resume."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import launched
import numpy as np
import pytest
import tiny_lira as tiny
import torch
from made_up_words import WORDS
from safetensors.torch import load_file
from torch.distributed.fsdp.fully_sharded_data_parallel import StateDictType

from lira_hf import LiraForCausalLM, LiraModel
from lira_hf.data import write_sts
from lira_hf.inference import RoadFeatures
from lira_hf.inference.features import share_of
from lira_hf.training.sharding import check_fsdp, check_launch
from lira_hf.translation import Candidate, CandidateStore, Identity


EXAMPLES = Path(__file__).parents[2] / "examples" / "distributed"
RECIPES = ("arca", "lasr", "answer")
COMMON = {
    "per_device_train_batch_size": 8,
    "save_strategy": "steps",
    "save_steps": 4,
    "adam_epsilon": 0.1,  # large beside the gradients: steps in proportion to them, which Adam's first ones hide
    "learning_rate": 0.05,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "weight_decay": 0.0,
    "path_dropout": 0.0,  # drawn by each process for itself
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "feature_dtype": "float32",
    "critic": "judge",
    "dev_split": "",
    "seed": 3,
}


@pytest.fixture(scope="module")
def given(tiny_backbones, tiny_data, pairs, tmp_path_factory):
    """Recipes of both stages and of generation, each on what the one before has made."""
    folder = tmp_path_factory.mktemp("launch")
    write_sts(folder / "pairs.tsv", pairs)
    tiny.build("gpt2").save_pretrained(folder / "base")  # whose head is its embeddings
    tiny.word_tokenizer(bos=True).save_pretrained(folder / "base")
    chats = _conversations(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "actor_hidden_size": 8}
    sizes |= {"num_bins": 2, "languages": ["vi", "ur"], "judge_dropout": 0.0}
    store = {"store": str(tiny_data / "store.sqlite")}
    tasks = [{"data": str(tiny_data)}, {"data": str(folder / "pairs.tsv"), "task": "ranking"}]
    queues = {"queue_size": 40, "corr_queue_size": 24, "corr_refresh": 2, "hard_negatives": 1}
    runs = {
        "arca": {**tiny_backbones, "config": sizes, "stage": "arca", "data": str(tiny_data), **store, "max_steps": 6},
        "lasr": {"stage": "lasr", "tasks": tasks, **store, **queues, "train_arca": True, "max_steps": 8},
        "answer": {"stage": "lasr", "task": "generation", "base": str(folder / "base"), **chats, "max_steps": 6},
    }
    runs["answer"]["config"] = {"prefix_roads": "merged", "prefix_projection": "vocab"}  # reads the embeddings' table
    return folder, runs


def _conversations(folder: Path) -> dict[str, str]:
    """Answers of one to three words; the dev split has references, by which the gate is calibrated."""
    rows: dict[str, list[dict[str, str]]] = {"train": [], "dev": []}
    with CandidateStore(folder / "chat.sqlite") as store:
        for number in range(60):
            english = " ".join([WORDS[number % 6], WORDS[number % 7], WORDS[number % 5]][: 1 + number % 3])
            text, language = english[::-1], ("vi", "ur")[number % 2]
            row = {"prompt": "what is", "completion": f" {english}", "text": text, "language": language}
            rows["dev" if number % 5 == 4 else "train"].append(row | {"reference": english})
            found = [Candidate(english, "x", "x"), Candidate("moon", "x", "x")]
            store.add(language, [(text, found)], Identity("x", "1"))
    for split, found in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return {"data": str(folder), "store": str(folder / "chat.sqlite"), "critic": None, "dev_split": "dev"}


def _launch(given, name: str, config: str | None) -> Path:
    folder, runs = given
    output = folder / name
    output.mkdir()
    recipes, before = {}, {}
    for stage, recipe in runs.items():
        place = {"output_dir": str(output / stage), "features": str(folder / f"features-{name}")}
        recipes[stage] = COMMON | recipe | place | before
        before = {"model": str(output / "arca")}
    asked = {"recipes": recipes, "output": str(output), "resumed_from": 4}
    if config is None:
        launched.run_all(asked)
        return output
    (output / "given.json").write_text(json.dumps(asked))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launcher += ["--config_file", str(EXAMPLES / config)]
    command = [*launcher, str(Path(__file__).with_name("launched.py")), str(output / "given.json")]
    source = str(Path(__file__).parents[2] / "src")
    environment = os.environ | {"PYTHONPATH": source}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert not done.returncode, (done.stdout + done.stderr)[-6000:]
    return output


@pytest.fixture(scope="module")
def one(given):
    return _launch(given, "one", None)


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def two(request, given):
    return request.param, _launch(given, request.param, f"{request.param}_cpu.yaml")


def _ended(folder: Path, stage: str, rank: int) -> tuple[dict[str, torch.Tensor], dict]:
    return load_file(folder / f"{stage}-{rank}.safetensors"), json.loads((folder / f"{stage}-{rank}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("stage", RECIPES)
def test_two_processes_learn_what_one_learns(one, two, stage):
    kind, folder = two
    alone, facts = _ended(one, stage, 0)
    ranks = [_ended(folder, stage, rank) for rank in (0, 1)]
    for _, found in ranks:
        assert (found["processes"], found["kind"]) == (2, {"ddp": "MULTI_CPU", "fsdp2": "FSDP"}[kind])
        assert bool(found["sharded"]) is (kind == "fsdp2")
        assert found["losses"] == pytest.approx(facts["losses"], abs=2e-5)
        assert found["differ"] == []  # resumed within an epoch
    (first, _), (second, _) = ranks
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, atol=2e-5, rtol=0)
    assert sum(name.startswith("queue.") for name in first) == (0 if stage != "lasr" else 14)


@pytest.mark.slow
@pytest.mark.parametrize("stage", RECIPES)
def test_their_checkpoints_load_in_a_plain_process(two, stage):
    _, folder = two
    kind = LiraForCausalLM if stage == "answer" else LiraModel
    model, (ended, _) = kind.from_pretrained(folder / stage), _ended(folder, stage, 0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, ended[name])
    checkpoint = kind.from_pretrained(folder / stage / "checkpoint-4")
    assert any(not torch.equal(value, ended[name]) for name, value in checkpoint.state_dict().items())


def plugin(**changed):
    """What FSDP is asked for, as examples/distributed says it."""
    said = {"fsdp_version": 2, "state_dict_type": StateDictType.FULL_STATE_DICT, "activation_checkpointing": False}
    return SimpleNamespace(**said | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fsdp_version": 1}, "got fsdp_version=1 for FSDP; expected 2: .* say fsdp_version: 2"),
        (
            {"state_dict_type": StateDictType.SHARDED_STATE_DICT},
            "got state_dict_type=SHARDED_STATE_DICT .* expected FULL_STATE_DICT: .* say fsdp_state_dict_type: FULL_",
        ),
        ({"activation_checkpointing": True}, "expected false: .* gradient_checkpointing: true in the recipe"),
    ],
)
def test_what_fsdp_would_get_wrong_is_refused(changed, message):
    check_fsdp(plugin())
    with pytest.raises(ValueError, match=message):
        check_fsdp(plugin(**changed))
    with pytest.raises(ValueError, match="got lora_rank under FSDP; expected DDP"):
        check_fsdp(plugin(), lora=True)


def test_models_without_weights_are_refused_before_they_are_loaded(monkeypatch):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    check_launch()  # FSDP isn't asked for
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="got fsdp_cpu_ram_efficient_loading=true.*expected every process"):
        check_launch()


def test_processes_fill_one_cache_side_by_side(tiny_lira, tmp_path):
    """One computes for long, and the other need not wait for it."""
    model, processor = tiny_lira()
    slow, other = (RoadFeatures(model, processor, tmp_path, "float32") for _ in range(2))
    other.caches["source"].lock_timeout = slow.caches["source"].lock_timeout = 0.1
    compute = slow.compute

    def computing(road, texts):
        other.get("source", ["green"])
        return compute(road, texts)

    slow.compute = computing
    found = slow.get("source", ["red", "green"])
    assert np.array_equal(found, other.get("source", ["red", "green"]))
    assert len(other.caches["source"]) == 2


def test_every_text_has_one_process_that_computes_it():
    texts = [f"text {number}" for number in range(300)]
    shares = [share_of(text, 3) for text in texts]
    assert {shares.count(rank) > 70 for rank in range(3)} == {True}
    assert shares == [share_of(text, 3) for text in texts]
