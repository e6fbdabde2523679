"""LiraTrainer: what each stage learns, what it leaves alone, and what it watches."""

import logging

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from lira_hf.data import BeirDataset, Query
from lira_hf.inference import RoadFeatures
from lira_hf.losses import RetrievalLoss
from lira_hf.training import LiraCollator, LiraTrainer, LiraTrainingArguments, retrieval_rows
from lira_hf.training.objective import drop_paths


LASR = {"learning_rate": 3e-3, "queue_size": 0, "path_dropout": 0.0}


def _changed(before, after) -> set[str]:
    """First name of every weight that changed in any bit."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def _losses(trainer, key="loss") -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@pytest.mark.parametrize(
    ("stage", "arguments", "trained"),
    [
        ("arca", {}, {"arca"}),
        ("lasr", LASR, {"fusion", "embedding_head"}),
        ("lasr", LASR | {"train_arca": True}, {"arca", "fusion", "embedding_head"}),
    ],
)
def test_each_stage_learns_and_changes_its_parts_alone(make_trainer, state, stage, arguments, trained):
    trainer = make_trainer(stage, steps=40, weight_decay=0.1, **arguments)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    losses = _losses(trainer)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert _changed(before, trainer.model.state_dict()) == trained


def test_stage_1_learns_to_prefer_the_better_candidate(make_trainer, tiny_lira, features_folder, rows):
    config = {"policy_prior": 0.0, "anchor_weight": 0.0}
    trainer = make_trainer("arca", steps=60, config=config)
    trainer.train()
    batch = trainer.data_collator([rows[i] for i in range(16)])
    with torch.no_grad():
        found = trainer.model.eval()(**batch).policy
        start = tiny_lira(**config)[0](**batch).policy
    torch.testing.assert_close(start, torch.full_like(start, 0.5))
    assert found[:, 1].mean() > 0.8  # the second one is good in every row


def test_the_actor_learns_from_the_document_and_does_without_the_judge(make_trainer, rows):
    config = {"policy_prior": 0.0, "anchor_weight": 0.0, "reward_weights": [0.0, 0.0, 0.0, 0.0]}
    trainer = make_trainer("arca", steps=60, config=config, references=True, actor_learning_rate=3e-2)
    trainer.train()
    batch = trainer.data_collator([rows[i] for i in range(16)])
    del batch["anchor_scores"]
    with torch.no_grad():
        found = trainer.model.eval()(**batch).policy
    assert found[:, 1].mean() > 0.9  # the second one is the document in every row
    assert _losses(trainer, "policy_rank")[-1] > 0.5
    assert len({group["lr"] for group in trainer.optimizer.param_groups}) == 1  # all at the schedule's end
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {3e-2, trainer.args.learning_rate}


def test_the_queue_is_filled_in_training_only(make_trainer, state):
    trainer = make_trainer(steps=2, eval_strategy="steps", eval_steps=1, queue_size=100)
    trainer.train()
    entries = trainer.queue.entries()
    assert len(entries.embeddings) == 16  # two steps of 8 documents, in spite of two evaluations
    kept = state(trainer)
    assert trainer.evaluate()["eval_loss"] > 0
    assert not _changed(kept, state(trainer))
    documents = trainer.train_dataset["document_id"]
    assert set(entries.document_ids.tolist()) <= set(documents)
    torch.testing.assert_close(entries.embeddings.norm(dim=-1), torch.ones(16))


@pytest.mark.parametrize("size", [0, 20])
def test_the_lasr_loss_is_the_sum_of_its_parts(make_trainer, size):
    trainer = make_trainer(path_dropout=0.0, queue_size=size, start_weight=0.7, consistency_weight=0.2)
    trainer.train()  # away from the start, with a queue
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    model = trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(model, batch)
        names = ("source_features", "anchor_features", "anchor_scores", "language_ids")
        sides = [
            {name: batch[name] for name in names},
            {
                "source_features": batch["document_source_features"],
                "anchor_features": batch["document_anchor_features"],
                "language_ids": batch["document_language_ids"],
            },
        ]
        query, document = (model(**side, output_paths=True) for side in sides)
        args = trainer.args
        ranking = RetrievalLoss(
            "soft_ndcg", args.ndcg_k, args.tau, hinge_weight=0.1, mean_variance_weight=0.01, threshold=0.95
        )(query.pooler_output, document.pooler_output, batch["document_ids"], queue=trainer.queue).loss
        cosine = torch.nn.functional.cosine_similarity
        whole, start, g, h = (
            torch.cat([getattr(side, name) for side in (query, document)])
            for name in ("pooler_output", "start_embeds", "source_path_embeds", "anchor_path_embeds")
        )
        away = (1 - cosine(whole, start)).mean()
        apart = ((1 - cosine(g, whole)).mean() + (1 - cosine(h, whole)).mean()) / 2
    assert float(away) > 1e-3
    assert float(loss) == pytest.approx(float(ranking + 0.7 * away + 0.2 * apart), abs=1e-5)


@pytest.mark.parametrize("stage", ["arca", "lasr"])
def test_gradient_accumulation_means_the_mean(make_trainer, stage):
    fixed = {"learning_rate": 0.0, "path_dropout": 0.0, "queue_size": 0, "config": {"policy_objective": "expected"}}
    runs = []
    for accumulate, steps in ((1, 4), (2, 2)):
        trainer = make_trainer(stage, steps=steps, gradient_accumulation_steps=accumulate, max_grad_norm=0.0, **fixed)
        trainer.train()
        runs.append(_losses(trainer))
    one, two = runs
    np.testing.assert_allclose(two, [(one[0] + one[1]) / 2, (one[2] + one[3]) / 2], atol=1e-5)


# Collapse


def test_collapse_is_warned_of_once(make_trainer, caplog):
    config = {"anchor_loss": "cosine"}
    with caplog.at_level(logging.WARNING, "lira_hf.training.monitors"):
        trainer = make_trainer("arca", steps=60, config=config, learning_rate=3e-2)
        trainer.train()
    assert _losses(trainer, "sim_mean")[-1] > 0.98
    assert sum("critic collapses" in record.message for record in caplog.records) == 1


def test_no_warning_without_a_collapse(make_trainer, caplog):
    with caplog.at_level(logging.WARNING, "lira_hf.training.monitors"):
        trainer = make_trainer("arca", steps=40, learning_rate=1e-3, config={"judge_dropout": 0.0})
        trainer.train()
    assert not [record for record in caplog.records if "critic collapses" in record.message]
    # The prior's policy: the judge's part of the reward is 1.2 for one candidate, 2.7 for the other, times 3.
    likely = 1 / (1 + np.exp(-3 * 1.5))
    entropy = -(likely * np.log(likely) + (1 - likely) * np.log(1 - likely))
    assert _losses(trainer, "policy_entropy")[0] == pytest.approx(entropy, abs=0.01)


# Missing roads


@pytest.mark.parametrize("stage", ["arca", "lasr"])
@pytest.mark.parametrize("keep", [lambda i: False, lambda i: i % 2, lambda i: i == 5], ids=["none", "half", "one"])
def test_rows_without_candidates_are_fine(make_trainer, rows, state, stage, keep):
    def strip(row, index):
        return row if keep(index) else row | {"candidates": [], "scores": [], "kinds": [], "traits": []}

    trainer = make_trainer(stage, steps=3, data=rows.select(range(16)).map(strip, with_indices=True))
    trainer.train()
    assert all(np.isfinite(_losses(trainer)))
    assert all(torch.isfinite(value).all() for value in state(trainer).values() if value.is_floating_point())


def test_empty_texts_do_not_disturb_training(make_trainer, rows, state):
    def empty(row, index):
        return row | ({"text": ""} if index % 3 == 0 else {})

    for stage in ("arca", "lasr"):
        trainer = make_trainer(stage, steps=3, data=rows.select(range(16)).map(empty, with_indices=True))
        trainer.train()
        assert all(torch.isfinite(value).all() for value in state(trainer).values() if value.is_floating_point())


def test_path_dropout_takes_one_road_from_queries_that_have_both():
    torch.manual_seed(0)
    both = torch.rand(4000) < 0.8
    kept = drop_paths(both, 3000, 0.3)
    source, anchor = kept["keep_source"], kept["keep_anchor"]
    assert (source | anchor).all()
    assert source[~both].all()
    assert anchor[~both].all()
    assert source[3000:].all()
    assert anchor[3000:].all()
    queries = both[:3000]
    for road in (source, anchor):
        assert (~road[:3000][queries]).float().mean() == pytest.approx(0.15, abs=0.02)


def test_path_dropout_is_for_training_only(make_trainer):
    trainer = make_trainer(path_dropout=0.9, queue_size=0)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    with torch.no_grad():
        quiet = {float(trainer.compute_loss(trainer.model.eval(), batch)) for _ in range(3)}
        loud = {float(trainer.compute_loss(trainer.model.train(), batch)) for _ in range(3)}
    assert len(quiet) == 1
    assert len(loud) == 3


# Evaluation


def test_the_evaluators_figures_choose_the_best_checkpoint(make_trainer, state):
    figures, seen = iter([0.2, 0.9, 0.1, 0.5]), []

    def evaluator(model):
        assert not model.training
        seen.append(state(trainer))
        return {"ndcg@10": next(figures)}

    trainer = make_trainer(
        steps=3,
        evaluator=evaluator,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_ndcg@10",
        greater_is_better=True,
    )
    trainer.train()
    assert _losses(trainer, "eval_ndcg@10") == [0.2, 0.9, 0.1]
    assert trainer.state.best_global_step == 2
    best = {name: value for name, value in seen[1].items() if not name.startswith("queue")}
    assert not _changed(best, trainer.model.state_dict())
    metrics = trainer.evaluate()
    assert metrics["eval_ndcg@10"] == 0.5
    assert metrics["eval_loss"] > 0


# Rows and collator


def test_rows_hold_every_relevant_document(source):
    dataset = BeirDataset(
        corpus={"a": "red", "b": "green", "c": "blue"},
        queries={"q": Query("derv neergv eulbv", "vi"), "r": Query("x", None)},
        qrels={"q": {"c": 1, "b": 0, "a": 2}, "r": {"b": 1}},
    )
    rows = retrieval_rows(dataset, source)
    assert rows["query_id"] == ["q", "q", "r"]
    assert rows["document"] == ["blue", "red", "green"]
    assert rows["document_id"] == [2, 0, 1]
    assert rows["candidates"][2] == []
    assert rows["candidates"][0] == ["red green moon", "red green blue"]
    assert rows["scores"][0] == [[4, 4, 4], [9, 9, 9]]
    assert retrieval_rows(dataset)["candidates"] == [[], [], []]
    dataset.qrels = {"q": {"b": 0}}
    with pytest.raises(ValueError, match="no query has a relevant document"):
        retrieval_rows(dataset)


def test_the_collator_reads_features_of_the_right_texts(tiny_lira, rows):
    features = RoadFeatures(*tiny_lira())
    some = [rows[i] for i in (3, 0)]
    batch = LiraCollator(features)(some)
    for name, road, texts in (
        ("source_features", "source", [row["text"] for row in some]),
        ("document_source_features", "source", [row["document"] for row in some]),
        ("document_anchor_features", "anchor", [row["document"] for row in some]),
    ):
        found = batch[name].reshape(2, 3, -1).numpy()
        np.testing.assert_allclose(found, features.get(road, texts), atol=1e-6)
    assert batch["anchor_scores"].tolist() == [[[4, 4, 4], [9, 9, 9]]] * 2
    assert batch["language_ids"].tolist() == [["vi", "ur", "en"].index(row["language"]) + 1 for row in some]
    assert batch["document_language_ids"].tolist() == [3, 3]
    assert batch["document_ids"].tolist() == [row["document_id"] for row in some]
    without = LiraCollator(features, documents=False)([row | {"candidates": [], "scores": []} for row in some])
    assert without.keys() == {"source_features", "language_ids"}


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": "laser"}, "stage is 'laser'; expected 'arca'"),
        ({"path_dropout": 1.0}, "path_dropout is 1.0; expected a share"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        LiraTrainingArguments(output_dir=str(tmp_path), **arguments)


def test_plain_training_arguments_are_refused(tiny_lira, tmp_path):
    with pytest.raises(TypeError, match="args is TrainingArguments; expected LiraTrainingArguments"):
        LiraTrainer(model=tiny_lira()[0], args=TrainingArguments(output_dir=str(tmp_path)))
