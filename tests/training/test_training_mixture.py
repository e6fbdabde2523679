"""Several tasks in one run: what a batch holds, what is drawn how often, ids that stay apart, recipes, resuming."""

from collections import Counter

import pytest
import torch
import yaml
from transformers import TrainerCallback

from lira_hf.data import BeirDataset, Query, SimilarityPair, read_beir, write_beir, write_sts
from lira_hf.evaluation import dev_metrics
from lira_hf.training import Task, TaskMixture, last_checkpoint, read_recipe, retrieval_rows, train_recipe
from lira_hf.training.mixture import MixtureSampler
from lira_hf.training.recipes import check_recipe


class Stop(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="session")
def mixture(rows, pair_rows):
    return TaskMixture([Task("search", rows, 3.0), Task("likeness", pair_rows, 1.0)])


# Batches


def _blocks(sampler):
    order = list(sampler)
    return [order[start : start + sampler.block] for start in range(0, len(order), sampler.block)]


def test_a_block_holds_one_task_drawn_by_weight(rows, pair_rows):
    mixture = TaskMixture([Task("a", rows, 3.0), Task("b", pair_rows, 1.0)])
    sampler, drawn, first = MixtureSampler(mixture, 8, seed=1), Counter(), {}
    for epoch in range(100):
        sampler.set_epoch(epoch)
        blocks = _blocks(sampler)
        assert len(blocks) == (len(rows) + 40) // 8 == len(sampler) // 8
        for block in blocks:
            tasks = {place >= len(rows) for place in block}
            assert len(tasks) == 1
            drawn[tasks.pop()] += 1
        first[epoch] = blocks[0]
    assert drawn[False] / sum(drawn.values()) == pytest.approx(0.75, abs=0.04)
    assert len({tuple(block) for block in first.values()}) > 90  # each epoch another order
    sampler.set_epoch(3)
    assert _blocks(sampler)[0] == first[3]  # and always the same one
    assert _blocks(MixtureSampler(mixture, 8, seed=2)) != _blocks(MixtureSampler(mixture, 8, seed=1))


def test_within_a_task_no_row_comes_again_before_all_have_come(pair_rows):
    small = TaskMixture([Task("a", pair_rows.select(range(5))), Task("b", pair_rows.select(range(30)))])
    order = [place for block in _blocks(MixtureSampler(small, 3, seed=0)) for place in block]
    for low, high in ((0, 5), (5, 35)):
        own = [place for place in order if low <= place < high]
        counts = Counter(own)
        assert max(counts.values()) - min(counts.get(place, 0) for place in range(low, high)) <= 1


def test_ids_of_two_tasks_stay_apart(rows, pair_rows):
    beir = BeirDataset({"x": "red", "y": "blue"}, {"q": Query("der", "vi")}, {"q": {"x": 1}})
    mined = retrieval_rows(beir, negatives={"q": ["y"]})
    mixture = TaskMixture([Task("a", mined), Task("b", rows), Task("c", pair_rows), Task("d", mined)])
    one, other, last = mixture[0], mixture[1], mixture[len(mixture) - 1]
    assert (one["document_id"], one["negatives"][0]["document_id"], one["positive_ids"]) == (0, 1, [0])
    assert other["document_id"] == rows[0]["document_id"] + 2
    assert last["negatives"][0]["document_id"] == last["document_id"] + 1
    documents = Counter(mixture[place].get("document_id") for place in range(len(mixture)))
    assert documents[0] == 1
    pairs = {mixture[place].get("pair_id") for place in range(len(mixture))} - {None}
    assert len(pairs) == 40
    assert mixture.__getitems__([1, 0, 1])[0] == mixture[1]
    with pytest.raises(IndexError, match="expected 0 up to"):
        mixture[len(mixture)]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (lambda rows: [], "got no tasks"),
        (lambda rows: [Task("a", rows), Task("a", rows)], r"'a' with weight 1.0.*names that differ"),
        (lambda rows: [Task("a", rows, 0.0)], "weight 0.0"),
        (lambda rows: [Task("a", rows.select([]))], "0 rows"),
    ],
)
def test_wrong_mixtures(rows, tasks, message):
    with pytest.raises(ValueError, match=message):
        TaskMixture(tasks(rows))


# Training


def test_one_trainer_trains_both_and_fills_both_queues(make_trainer, mixture, state):
    trainer = make_trainer(steps=30, data=mixture, corr_queue_size=30, learning_rate=3e-3)
    trainer.train()
    logs = trainer.state.log_history
    ranked, found = ([name in entry for entry in logs if "loss" in entry] for name in ("pearson", "ranking"))
    assert [one != other for one, other in zip(ranked, found, strict=True)] == [True] * 30  # one task a batch
    assert 3 <= sum(ranked) <= 13
    assert int(trainer.corr_queue.step) == sum(ranked)
    assert int(trainer.queue.step) == sum(found)
    assert set(trainer.queues) == {"documents", "pairs"}


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("mixture", {}),
        ("mixture", {"gradient_accumulation_steps": 2, "corr_refresh": 2}),
        ("ranking", {"corr_refresh": 2}),
    ],
)
def test_a_resumed_run_is_bit_equal(make_trainer, mixture, pair_rows, state, tmp_path, kind, extra):
    options = {"steps": 15, "save_strategy": "steps", "save_steps": 4, "corr_queue_size": 20, "max_grad_norm": 1.0}
    options |= {"data": mixture if kind == "mixture" else pair_rows, "config": {"dropout": 0.1}, **extra}
    whole = make_trainer(output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    assert whole.state.epoch > 1.2
    killed = make_trainer(output_dir=str(tmp_path / "killed"), **options)
    killed.add_callback(Stop(14))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    assert last_checkpoint(tmp_path / "killed").endswith("checkpoint-12")
    torch.manual_seed(99)
    resumed = make_trainer(output_dir=str(tmp_path / "killed"), **options)
    resumed.train(resume_from_checkpoint=True)
    one, other = state(resumed), state(whole)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert whole.corr_queue.num_entries


# Recipes


@pytest.fixture
def tasks(tiny_backbones, tiny_data, pairs, tmp_path):
    """A recipe of retrieval and ranking; dev has English queries and English pairs too."""
    data = [read_beir(tiny_data, split) for split in ("train", "dev")]
    english = {f"e{key}": Query(data[1].corpus[key], "en") for key in list(data[1].corpus)[:6]}
    qrels = {split: part.qrels for split, part in zip(("train", "dev"), data, strict=True)}
    qrels["dev"] = qrels["dev"] | {key: {key[1:]: 1} for key in english}
    write_beir(tmp_path / "beir", data[0].corpus, data[0].queries | data[1].queries | english, qrels)
    own = [SimilarityPair(a, b, s, "en", "en", split="dev") for a, b, s in [("red", "red", 2), ("red", "moon x", 0)]]
    held = [SimilarityPair(p.text1, p.text2, p.score, p.language1, p.language2, split="dev") for p in pairs[:6]]
    write_sts(tmp_path / "sts.tsv", [*pairs, *held, *own])
    return {
        **tiny_backbones,
        "config": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_bins": 2},
        "tasks": [
            {"data": str(tmp_path / "beir"), "weight": 2},
            {"data": str(tmp_path / "sts.tsv"), "task": "ranking", "name": "sts"},
        ],
        "store": str(tiny_data / "store.sqlite"),
        "critic": "judge",
        "critic_fingerprint": "1",
        "output_dir": str(tmp_path / "out"),
        "max_steps": 8,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def test_a_recipe_of_several_tasks(tasks, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tasks))
    assert not check_recipe(file)
    each = read_recipe(file)[1].each()
    assert [(task.task, task.weight, task.critic) for task in each] == [
        ("retrieval", 2, "judge"),
        ("ranking", 1.0, "judge"),
    ]
    controls = lambda embedder, dev: {"g_alone": float(len(dev.queries))}  # noqa: E731
    _, _, metrics = train_recipe(file, dev_metrics, quiet=True, controls=controls)
    for name in ("ndcg@10", "pearson", "spearman", "english_ndcg@10", "english_pearson"):
        assert -1 <= metrics[f"eval_{name}"] <= 1
    assert "eval_baseline_g_alone" not in metrics  # they were logged with the first evaluation, and then no more
    log = yaml.safe_load((tmp_path / "out" / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    first, second = (entry for entry in log if "eval_loss" in entry)
    assert first["eval_baseline_g_alone"] == 30
    assert first["eval_baseline_untrained_ndcg@10"] > 0
    assert "eval_baseline_untrained_pearson" in first
    assert "eval_baseline_g_alone" not in second
    assert {"pearson", "ranking"} <= {name for entry in log for name in entry}


def test_a_recipe_of_ranking_alone(tasks, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("train", "dev"):
        write_sts(
            tmp_path / "folder" / f"{name}.tsv", [SimilarityPair("red moon", f"red {name}", 1.0, "en", "en")] * 3
        )
    recipe = tasks | {"task": "ranking", "data": str(tmp_path / "sts.tsv")}
    del recipe["tasks"]
    _, _, metrics = train_recipe(recipe, quiet=True)  # no evaluator is needed
    assert {"eval_pearson", "eval_spearman", "eval_loss"} <= metrics.keys()
    assert "eval_ndcg@10" not in metrics
    recipe |= {"data": str(tmp_path / "folder"), "output_dir": str(tmp_path / "other"), "max_steps": 1}
    assert train_recipe(recipe | {"eval_strategy": "no"}, quiet=True)[2] == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "x"}, "tasks has 2 entries beside data='x'; expected either data"),
        ({"tasks": []}, "tasks has 0 entries"),
        ({"tasks": ["x"]}, "tasks has 'x' as task 1; expected 'name: value'"),
        ({"tasks": [{"data": "x", "kind": "ranking"}]}, r"unknown keys \['kind'\] in task 1"),
        ({"tasks": [{"data": "x", "task": "sorting"}]}, "wrong task 1: task is 'sorting'; expected one of"),
        ({"tasks": [{"data": "x"}, {"weight": 1}]}, "wrong task 2: data is empty"),
        ({"tasks": [{"data": "x", "weight": 0}]}, "weight is 0; expected a number above 0"),
    ],
)
def test_wrong_recipes_of_tasks(tasks, change, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(tasks | change)


def test_what_is_missing_of_a_task_is_found(tasks, tmp_path):
    write_sts(tmp_path / "other.tsv", [SimilarityPair("a", "b", 1.0, split="test")])
    tasks["tasks"][0]["data"] = str(tmp_path / "nowhere")
    tasks["tasks"][1]["data"] = str(tmp_path / "other.tsv")
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tasks))
    found = [(problem.field, problem.got) for problem in check_recipe(file)]
    assert [field for field, _ in found] == ["tasks", "tasks"]
    assert "without corpus.jsonl, queries.jsonl" in found[0][1]
    assert "the split 'train' of" in found[1][1]
    tasks["tasks"][1]["data"] = str(tmp_path / "none.tsv")
    file.write_text(yaml.safe_dump(tasks))
    assert "none.tsv', which isn't there" in check_recipe(file)[1].got
    tasks["tasks"][1]["data"] = str(tmp_path)  # holds other.tsv and sts.tsv
    file.write_text(yaml.safe_dump(tasks))
    assert "with the tables ['other.tsv', 'sts.tsv']" in check_recipe(file)[1].got


# English


def test_english_that_suffers_is_warned_of(make_trainer, caplog):
    figures = iter([{"ndcg@10": 0.9, "mrr": 0.5}, {"ndcg@10": 0.895, "mrr": 0.6}, {"ndcg@10": 0.85, "mrr": 0.4}])
    trainer = make_trainer(steps=2, eval_strategy="steps", eval_steps=1, english_evaluator=lambda model: next(figures))
    with caplog.at_level("WARNING", "lira_hf.training.monitors"):
        trainer.train()
    messages = [record.getMessage() for record in caplog.records if "English" in record.getMessage()]
    assert [message.split(";")[0] for message in messages] == [
        "English suffers: ndcg@10 fell from 0.9000 (untrained start) to 0.8500 at step 2, by 0.0500",
        "English suffers: mrr fell from 0.5000 (untrained start) to 0.4000 at step 2, by 0.1000",
    ]
    logged = [entry for entry in trainer.state.log_history if "eval_english_mrr" in entry]
    assert [entry["eval_english_ndcg@10"] for entry in logged] == [0.895, 0.85]


def test_the_start_is_the_untrained_one_in_a_resumed_run_too(make_trainer):
    options = {"steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 3e-2}
    starts = []

    def figures(model):
        return {"weight": float(sum(value.double().abs().sum() for value in model.state_dict().values()))}

    for steps in (2, 4):
        trainer = make_trainer(english_evaluator=figures, **options | {"steps": steps})
        trainer.train(resume_from_checkpoint=True)
        starts.append(trainer._english.start["weight"])
    assert trainer.state.global_step == 4
    assert starts[0] == starts[1] != figures(trainer.model)["weight"]
