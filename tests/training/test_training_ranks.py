"""Two processes (gloo): both hold the queues, and end with the weights, of one process with the whole batch, and go on
within an epoch as if they had not been stopped."""

import json
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from lira_hf.data import write_sts


pytestmark = pytest.mark.slow

_SCRIPT = """
import json, os, sys
import torch, torch.distributed as dist
from safetensors.torch import save_file
from lira_hf import LiraModel, LiraProcessor
from lira_hf.data import read_beir, read_sts
from lira_hf.inference import CandidateSource, RoadFeatures
from lira_hf.training import *
from lira_hf.training.gather import RankRows
from lira_hf.translation import CandidateStore, Identity

given = json.load(open(sys.argv[1]))

def uneven(rank):
    # As the last batch may be: two rows here, five there.
    own = torch.full((2 + 3 * rank, 3), rank + 1.0, requires_grad=True)
    gather = RankRows(len(own), own.device)
    parts = gather(own)
    (torch.cat(parts).sum() * (rank + 1)).backward()
    assert [len(part) for part in parts] == gather.counts == [2, 5]
    assert parts[1 - rank].unique().tolist() == [2.0 - rank] and len(gather.others(parts)) == 1
    assert own.grad.unique().tolist() == [3.0]  # 1 from rank 0 and 2 from rank 1
    assert [part.tolist() for part in gather(torch.arange(2 + 3 * rank))] == [[0, 1], [0, 1, 2, 3, 4]]
    assert [len(part) for part in RankRows(0, own.device)(own[:0])] == [0, 0]

def run(name, batch, rank=None):
    if rank is not None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": str(given["port"])}
    folder = given["output"] + ("/whole" if rank is None else "/ranks")
    args = LiraTrainingArguments(per_device_train_batch_size=batch, output_dir=folder,
        ddp_backend=None if rank is None else "gloo", **given["arguments"])
    processor = LiraProcessor.from_pretrained(given["model"])
    store = CandidateStore(given["data"] + "/store.sqlite", read_only=True)
    source = CandidateSource(store, critic=Identity("judge", "1"))
    beir, pairs = read_beir(given["data"], "train"), read_sts(given["pairs"])
    asked, ids = list(beir.queries), list(beir.corpus)
    negatives = {query: ids[40 : 40 + number % 3] for number, query in enumerate(asked)}  # another number each
    mixture = TaskMixture([Task("search", retrieval_rows(beir, source, negatives=negatives)),
                           Task("likeness", ranking_rows(pairs, source))])
    def train(**options):
        model = LiraModel.from_pretrained(given["model"])
        trainer = LiraTrainer(model=model, args=args, train_dataset=mixture, eval_dataset=mixture.tasks[0].rows,
            data_collator=LiraCollator(RoadFeatures(model, processor)))
        trainer.train(**options)
        found = {k: v.clone() for k, v in model.state_dict().items()}
        for queue, held in trainer.queues.items():
            found |= {f"queue.{queue}.{k}": v.clone() for k, v in held.state_dict().items()}
        return trainer, found

    trainer, found = train()
    save_file(found, given["output"] + f"/{name}.safetensors")
    resumed, again = train(resume_from_checkpoint=args.output_dir + "/checkpoint-13")
    assert resumed.state.global_step == 15
    assert not [k for k in found if not torch.equal(found[k], again[k])]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    json.dump({"losses": losses, "eval": trainer.evaluate()["eval_loss"], "world": args.world_size},
              open(given["output"] + f"/{name}.json", "w"))
    if rank is not None:
        uneven(rank)
        dist.barrier()
        dist.destroy_process_group()

# Forks, so that the libraries are imported once; torch has not computed anything yet.
children = []
for options in (("whole", 8), ("rank0", 4, 0), ("rank1", 4, 1)):
    child = os.fork()
    if not child:
        try:
            run(*options)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        sys.stderr.flush()
        os._exit(0)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
assert codes == [0, 0, 0], codes
"""
_ARGUMENTS = {
    "max_steps": 15,  # an epoch has 11
    "save_strategy": "steps",
    "save_steps": 13,
    "optim": "sgd",  # whose steps are in proportion to the gradient: Adam's first ones hide its size
    "learning_rate": 0.5,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "weight_decay": 0.0,
    "path_dropout": 0.0,  # drawn by each process for itself
    "queue_size": 40,
    "corr_queue_size": 24,
    "corr_refresh": 2,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "seed": 3,
}


@pytest.fixture(scope="module")
def outcome(tiny_lira, tiny_data, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    model, processor = tiny_lira(judge_dropout=0.0)  # which each process draws for itself
    for part in (model, processor):
        part.save_pretrained(folder / "model")
    write_sts(folder / "pairs.tsv", pairs)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"model": str(folder / "model"), "data": str(tiny_data), "pairs": str(folder / "pairs.tsv")}
    given |= {"output": str(folder), "port": port, "arguments": _ARGUMENTS}
    (folder / "run.py").write_text(_SCRIPT)
    (folder / "given.json").write_text(json.dumps(given))
    command = [sys.executable, folder / "run.py", folder / "given.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr[-4000:]
    names = ("whole", "rank0", "rank1")
    start = {name: value.clone() for name, value in model.state_dict().items()}
    logs = [json.loads((folder / f"{name}.json").read_text()) for name in names]
    return start, [load_file(folder / f"{name}.safetensors") for name in names], logs


def test_both_processes_hold_the_same_queues(outcome):
    _, (_, one, other), logs = outcome
    assert [log["world"] for log in logs] == [1, 2, 2]
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert one["queue.pairs.filled"] > 0
    assert one["queue.documents.filled"] == 40


def test_they_hold_what_one_process_with_the_whole_batch_holds(outcome):
    _, (whole, one, _), _ = outcome
    queues = [name for name in whole if name.startswith("queue.")]
    assert len(queues) > 8
    for name in queues:
        torch.testing.assert_close(one[name], whole[name], atol=1e-5, rtol=0)


def test_they_learn_what_one_process_with_the_whole_batch_learns(outcome):
    start, (whole, one, _), logs = outcome
    moved = [name for name in start if not torch.equal(start[name], whole[name])]
    assert len(moved) > 4
    distance = sum(float((whole[name] - start[name]).abs().sum()) for name in moved)
    apart = sum(float((whole[name] - one[name]).abs().sum()) for name in moved)
    assert apart < 1e-5 * distance
    for name in moved:
        torch.testing.assert_close(one[name], whole[name], atol=1e-5, rtol=0)
    assert logs[1]["losses"] == pytest.approx(logs[0]["losses"], abs=1e-5)
