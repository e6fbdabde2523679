"""What is logged of the actor's choice, by hand, and the warnings."""

import logging

import pytest
import torch
from scipy.stats import spearmanr

from lira_hf.models import LiraModelOutput
from lira_hf.training import LiraTrainingArguments
from lira_hf.training.monitors import CollapseWarnings, choice_statistics, embedding_statistics


@pytest.fixture
def output():
    generator = torch.Generator().manual_seed(0)
    policy = torch.rand(5, 4, generator=generator)
    policy[0, 2:], policy[1, 1:], policy[2] = 0, 0, 0  # two candidates, one, none
    policy = policy / policy.sum(-1, keepdim=True).clamp(min=1e-9)
    similarity, reward = (torch.rand(5, 4, generator=generator) * (policy > 0) for _ in range(2))
    reward[3, :2] = 0.5  # a tie
    return LiraModelOutput(policy=policy, similarity=similarity, reward=reward)


def test_the_statistics_are_those_of_rows_with_a_choice(output):
    found = {name: value.item() for name, value in choice_statistics(output).items()}
    rows = [(row, (output.policy[row] > 0).nonzero().flatten()) for row in (0, 3, 4)]

    def mean(measure):
        return sum(measure(row, there).item() for row, there in rows) / len(rows)

    def spread(row, there):
        policy, reward = output.policy[row, there], output.reward[row, there]
        return (policy * (reward - policy @ reward) ** 2).sum().sqrt()

    expected = {
        "sim_mean": mean(lambda row, there: output.similarity[row, there].mean()),
        "sim_spread": mean(lambda row, there: output.similarity[row, there].std(correction=0)),
        "policy_entropy": mean(lambda row, there: torch.special.entr(output.policy[row, there]).sum()),
        "reward_mean": mean(lambda row, there: output.policy[row, there] @ output.reward[row, there]),
        "advantage_spread": mean(spread),
        "policy_rank": mean(
            lambda row, there: spearmanr(output.policy[row, there], output.reward[row, there]).statistic
        ),
    }
    assert found == pytest.approx(expected, abs=1e-5)


def test_without_a_choice_or_a_reward_there_is_less_to_say(output):
    assert choice_statistics(LiraModelOutput()) == {}
    assert choice_statistics(LiraModelOutput(policy=output.policy[1:3], similarity=output.similarity[1:3])) == {}
    found = choice_statistics(LiraModelOutput(policy=output.policy, similarity=output.similarity))
    assert found.keys() == {"sim_mean", "sim_spread", "policy_entropy"}


def test_each_collapse_is_told_once(tmp_path, caplog):
    warn = CollapseWarnings(LiraTrainingArguments(output_dir=str(tmp_path), report_to="none"))
    healthy = {"sim_mean": 0.4, "sim_spread": 0.1, "policy_entropy": 0.5}
    with caplog.at_level(logging.WARNING, "lira_hf.training.monitors"):
        warn(healthy)
        warn({})
        assert not caplog.records
        for _ in range(2):
            warn(healthy | {"sim_spread": 0.001})
            warn(healthy | {"policy_entropy": 0.001})
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(":")[0] for message in messages] == [
        "the embedding critic collapses",
        "the policy collapses",
    ]
    assert "entropy 0.0010 nats (warning below 0.0100)" in messages[1]


# Embeddings


def test_embedding_statistics_are_the_textbook_ones():
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(30, 8, generator=generator) + torch.tensor([2.0] + [0.0] * 7)
    found = embedding_statistics(torch.cat([rows, torch.zeros(2, 8)]))  # rows of empty texts don't count
    unit = rows.double() / rows.double().norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    singular = torch.linalg.svdvals(unit - unit.mean(0))
    share = singular.square() / singular.square().sum()
    assert float(found["embedding_cosine"]) == pytest.approx(float((cosines.sum() - 30) / (30 * 29)), abs=1e-5)
    assert float(found["embedding_variance"]) == pytest.approx(float(unit.var(0, correction=0).sum()), abs=1e-5)
    assert float(found["embedding_rank"]) == pytest.approx(float((-share * share.log()).sum().exp()), abs=1e-3)
    assert embedding_statistics(rows[:1]) == {}
    alike = embedding_statistics(rows[:1].expand(5, -1))
    assert (float(alike["embedding_cosine"]), float(alike["embedding_rank"])) == (pytest.approx(1.0), 0.0)
    assert float(embedding_statistics(torch.eye(6))["embedding_rank"]) == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize("logs", [{"embedding_cosine": 0.99, "embedding_rank": 9.0}, {"embedding_rank": 1.2}])
def test_embeddings_that_collapse_are_warned_of_once(tmp_path, caplog, logs):
    warn = CollapseWarnings(LiraTrainingArguments(output_dir=str(tmp_path)))
    with caplog.at_level(logging.WARNING, "lira_hf.training.monitors"):
        warn({"embedding_cosine": 0.6, "embedding_rank": 9.0, "embedding_variance": 0.4})
        assert not caplog.records
        warn(logs)
        warn(logs)
    (record,) = caplog.records
    assert "the embeddings collapse" in record.getMessage()
    assert f"effective rank {logs['embedding_rank']:.2f} (warning below 2.00)" in record.getMessage()


def test_training_logs_how_widely_embeddings_are_spread(make_trainer):
    trainer = make_trainer(steps=2)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(-1 <= entry["embedding_cosine"] <= 1 and entry["embedding_rank"] > 1 for entry in logged)
