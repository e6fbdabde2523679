"""Arca's losses against hand-worked numbers, REINFORCE against its exact expectation, stage 1 under the Trainer."""

import math

import pytest
import torch
from transformers import Trainer, TrainingArguments

from lira_hf.models.loss_arca import (
    anchor_loss,
    candidate_reward,
    contrastive_loss,
    cosine_anchor_loss,
    mixture_loss,
    policy_loss,
)
from lira_hf.models.traits_lira import trait_width


PLANE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
EVERYWHERE = torch.ones(1, 3, dtype=torch.bool)


def test_cosine_anchor_loss_by_hand():
    anchors = torch.tensor([[2.0, 0.0], [0.0, -3.0], [0.8, 0.6]])  # cosines 1, -1 and .96
    assert cosine_anchor_loss(PLANE, anchors).item() == pytest.approx((0 + 2 + 0.04) / 3, abs=1e-6)


def test_contrastive_loss_by_hand():
    source, anchors = PLANE[:2], PLANE[[0, 2]]  # cosines [[1, .6], [0, .8]]
    rows = [math.log(1 + math.exp((0.6 - 1) / 0.5)), math.log(1 + math.exp((0 - 0.8) / 0.5))]
    columns = [math.log(1 + math.exp((0 - 1) / 0.5)), math.log(1 + math.exp((0.6 - 0.8) / 0.5))]
    expected = (sum(rows) + sum(columns)) / 4
    assert contrastive_loss(source, anchors, 0.5).item() == pytest.approx(expected, abs=1e-6)
    assert contrastive_loss(source[:1], anchors[:1], 0.5).item() == 0.0
    both = anchor_loss(source, anchors, "contrastive", contrastive_weight=0.3, temperature=0.5)
    assert both.item() == pytest.approx(0.1 + 0.3 * expected, abs=1e-6)
    assert anchor_loss(source, anchors, "cosine").item() == pytest.approx(0.1, abs=1e-6)


def test_rows_with_the_same_translation_are_no_negatives_of_each_other():
    anchors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    # Row 0 without row 1's column is the two-way problem of rows 0 and 2, and so on.
    cosine = PLANE @ torch.nn.functional.normalize(anchors, dim=-1).T / 0.5
    terms = [math.log(1 + math.exp(scores[i, 2] - scores[i, i])) for i in (0, 1) for scores in (cosine, cosine.T)]
    for scores in (cosine[2], cosine[:, 2]):
        terms.append(math.log(sum(math.exp(value - cosine[2, 2]) for value in scores)))
    assert contrastive_loss(PLANE, anchors, 0.5, same).item() == pytest.approx(sum(terms) / 6, abs=1e-6)
    assert contrastive_loss(PLANE, anchors[[0, 0, 0]], 0.5, torch.ones(3, 3, dtype=torch.bool)).item() == 0.0
    # Embeddings that only collapsed stay negatives.
    assert contrastive_loss(PLANE[[0, 0, 0]], anchors[[0, 0, 0]], 0.5).item() == pytest.approx(math.log(3), abs=1e-6)


def test_reward_by_hand():
    scores = torch.tensor([[[8.0, 6.0, 4.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    similarity = torch.tensor([[0.5, -0.25]], requires_grad=True)
    reward = candidate_reward(scores.detach(), similarity, [1.0, 0.5, 0.25, 2.0])
    torch.testing.assert_close(reward, torch.tensor([[2.2, -0.5]]))
    assert not reward.requires_grad
    torch.testing.assert_close(candidate_reward(None, similarity, [1, 1, 1, 2.0]), torch.tensor([[1.0, -0.5]]))


def policy_gradient(logits: torch.Tensor, reward: torch.Tensor, **kwargs) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    loss = policy_loss(torch.log_softmax(logits, -1), reward, EVERYWHERE, **kwargs)
    return torch.autograd.grad(loss, logits)[0]


def test_reinforce_by_hand():
    log_policy = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    reward = torch.tensor([[1.0, 2.0, 4.0]])  # b = 1.9
    loss = policy_loss(log_policy, reward, EVERYWHERE, "reinforce", action=torch.tensor([2]))
    assert loss.item() == pytest.approx(-math.log(0.2) * (4 - 1.9), abs=1e-5)
    assert policy_loss(log_policy, reward, EVERYWHERE, "expected").item() == pytest.approx(-1.9, abs=1e-6)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    loss = policy_loss(log_policy, reward, EVERYWHERE, "expected", entropy_weight=0.1)
    assert loss.item() == pytest.approx(-1.9 - 0.1 * entropy, abs=1e-6)


def test_the_expectation_of_reinforce_is_the_gradient_of_the_expected_reward():
    logits, reward = torch.tensor([[0.3, -1.2, 0.8]]), torch.tensor([[1.0, 2.5, -0.5]])
    policy = logits.softmax(-1)[0]
    sampled = sum(
        policy[a] * policy_gradient(logits, reward, objective="reinforce", action=torch.tensor([a])) for a in range(3)
    )
    probability = logits.clone().requires_grad_()
    exact = torch.autograd.grad(-(probability.softmax(-1) * reward).sum(), probability)[0]
    torch.testing.assert_close(sampled, exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(policy_gradient(logits, reward, objective="expected"), exact, rtol=0, atol=1e-6)


def test_reward_and_baseline_are_detached():
    logits = torch.tensor([[0.3, -1.2, 0.8]], requires_grad=True)
    reward = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    action = torch.tensor([1])
    policy_loss(torch.log_softmax(logits, -1), reward, EVERYWHERE, "reinforce", action=action).backward()
    assert reward.grad is None
    # With a constant for the baseline, d loss / d logit_k = -(R_a - b) (1[k = a] - pi_k).
    policy = logits.detach().softmax(-1)
    advantage = 2.0 - (policy * reward.detach()).sum()
    expected = -advantage * (torch.nn.functional.one_hot(action, 3) - policy)
    torch.testing.assert_close(logits.grad, expected, rtol=0, atol=1e-6)


def test_the_entropy_bonus_flattens_the_policy():
    logits, level = torch.tensor([[2.0, 0.0, -1.0]]), torch.ones(1, 3)
    for options in ({"objective": "reinforce", "action": torch.tensor([0])}, {"objective": "expected"}):
        assert policy_gradient(logits, level, **options).abs().max() < 1e-6
        step = logits - policy_gradient(logits, level, entropy_weight=0.5, **options)
        before, after = logits.softmax(-1), step.softmax(-1)
        assert -(after * after.log()).sum() > -(before * before.log()).sum() + 0.01


@pytest.mark.parametrize("objective", ["reinforce", "expected"])
def test_rows_without_candidates_are_left_out(objective):
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    lowest = torch.finfo(torch.float32).min
    logits = torch.tensor([[0.5, -0.5], [0.3, 0.1], [0.2, 0.0]]).masked_fill(~mask, lowest).requires_grad_()
    reward, action = torch.tensor([[1.0, 2.0], [50.0, 60.0], [3.0, 70.0]]), torch.tensor([1, 0, 0])

    def loss(rows: list[int]) -> torch.Tensor:
        log_policy = torch.log_softmax(logits[rows], -1).clamp(min=lowest)
        return policy_loss(log_policy, reward[rows], mask[rows], objective, 0.1, action[rows])

    torch.testing.assert_close(loss([0, 1, 2]), loss([0, 2]))
    loss([0, 1, 2]).backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[1].any()
    assert loss([1]).item() == 0.0


def test_wrong_objectives_are_refused():
    log_policy, reward = torch.zeros(1, 3), torch.zeros(1, 3)
    with pytest.raises(ValueError, match="'ppo'; expected 'reinforce' or 'expected'"):
        policy_loss(log_policy, reward, EVERYWHERE, "ppo")
    with pytest.raises(ValueError, match="action is None; REINFORCE needs"):
        policy_loss(log_policy, reward, EVERYWHERE)
    with pytest.raises(ValueError, match="'l2'; expected 'contrastive' or 'cosine'"):
        anchor_loss(PLANE, PLANE, "l2")


@pytest.fixture
def features():
    """Pooled features of 8 texts with 3 candidates each; row 6 has no candidate, row 7 no text."""
    generator = torch.Generator().manual_seed(0)
    source, anchor = torch.randn(8, 4, 16, generator=generator), torch.randn(8, 3, 4, 24, generator=generator)
    scores = torch.randint(1, 11, (8, 3, 3), generator=generator).float()
    anchor[0, 2], anchor[6], source[7] = 0.0, 0.0, 0.0
    return {"source_features": source, "anchor_features": anchor, "anchor_scores": scores}


def test_the_arca_loss_is_put_together_from_what_the_model_returns(lira, features):
    # Rows 1 and 2 have the same translations, so that they are no negatives of each other.
    features["anchor_features"][2] = features["anchor_features"][1]
    features["anchor_scores"][2] = features["anchor_scores"][1]
    weights = {"anchor_weight": 0.7, "entropy_weight": 0.2, "contrastive_weight": 0.4}
    model = lira(reward_weights=[1.0, 0.5, 0.25, 2.0], policy_objective="reinforce", **weights)
    with torch.no_grad():
        output = model(**features, return_loss=True)
    rows = range(6)
    actions = [int(output.policy[i].argmax()) for i in rows]
    policy_terms = []
    for i, action in zip(rows, actions, strict=True):
        present = [k for k in range(3) if output.policy[i, k] > 0]
        pi = {k: output.policy[i, k].item() for k in present}
        s = features["anchor_scores"][i]
        reward = {
            k: 0.1 * (s[k, 0] + 0.5 * s[k, 1] + 0.25 * s[k, 2]).item() + 2 * output.similarity[i, k].item()
            for k in present
        }
        baseline = sum(pi[k] * reward[k] for k in present)
        entropy = -sum(pi[k] * math.log(pi[k]) for k in present)
        policy_terms.append(-math.log(pi[action]) * (reward[action] - baseline) - 0.2 * entropy)
    source = output.source_embeds[:6]
    chosen = output.anchor_embeds[torch.arange(6), torch.tensor(actions)]
    logits = source @ chosen.T / 0.07
    assert actions[1] == actions[2]
    logits[1, 2] = logits[2, 1] = float("-inf")
    both = torch.nn.functional.cross_entropy
    contrast = 0.5 * (both(logits, torch.arange(6)) + both(logits.T, torch.arange(6)))
    expected = sum(policy_terms) / 6 + 0.7 * ((1 - (source * chosen).sum(-1)).mean() + 0.4 * contrast)
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-5)


def test_training_samples_the_candidate_and_evaluation_does_not(lira, features):
    model = lira(policy_temperature=5.0)
    with torch.no_grad():
        assert len({model(**features, return_loss=True).loss.item() for _ in range(5)}) == 1
        model.train()
        assert len({model(**features, return_loss=True).loss.item() for _ in range(5)}) > 1


@pytest.mark.parametrize("objective", ["reinforce", "expected", "mixture"])
@pytest.mark.parametrize(
    "keep", [("source_features",), ("anchor_features",), ("anchor_features", "none"), ("source_features", "none")]
)
def test_a_batch_without_pairs_costs_nothing_and_stops_nothing(lira, features, objective, keep):
    model = lira(policy_objective=objective).train()
    inputs = {name: features[name] for name in keep if name != "none"}
    if "none" in keep:
        inputs["anchor_features"] = features["anchor_features"][:, :0]
    loss = model(**inputs, return_loss=True).loss
    assert loss.item() == 0.0
    loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_gradients_reach_arca_and_not_the_backbones(lira, token_rows):
    model = lira("t5", "bert").train()
    assert not model.encoder.training
    assert not model.anchor.training
    assert model.arca.training
    # Asked again, as the Trainer does at each step: what was put in another mode meanwhile is put right.
    model.arca.eval()
    model.encoder.train()
    model.train()
    assert model.arca.training
    assert not any(module.training for module in model.encoder.modules())
    assert not any(module.training for module in model.eval().modules())
    assert model.train().arca.training
    ids, anchor = torch.stack(token_rows(6, 6, 6, 6)), torch.stack(token_rows(*[5] * 8, seed=2)).view(4, 2, 5)
    torch.manual_seed(0)
    model(source_ids=ids, anchor_ids=anchor, return_loss=True).loss.backward()
    for name, weight in model.named_parameters():
        if name.startswith(("encoder.", "anchor.")):
            assert weight.grad is None, name
        elif name.startswith("arca.") and not name.endswith("actor.fc2.bias"):  # softmax ignores a constant
            assert weight.grad.abs().sum() > 0, name
    model.freeze(encoder=False, lasr=True).train()
    assert model.encoder.training
    assert not model.anchor.training
    model(source_ids=ids, anchor_ids=anchor, return_loss=True).loss.backward()
    assert model.encoder.get_input_embeddings().weight.grad.any()
    assert not any(weight.requires_grad for weight in model.embedding_head.parameters())


def test_gradient_checkpointing_gives_the_same_gradients(lira, token_rows):
    ids = torch.stack(token_rows(6, 6))
    gradients = []
    for checkpointing in (False, True):
        model = lira("bert", None, num_fusion_layers=2).freeze(encoder=False).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.fusion.layers[0].gradient_checkpointing
        model.encoder.eval()  # its dropout would differ
        model(source_ids=ids, anchor_ids=ids).pooler_output[:, 0].sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[1]["fusion.layers.0.attention.q_proj.weight"].any()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-5)


def test_the_stock_trainer_runs_stage_1(tmp_path, lira, features):
    model = lira(trained=False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    rows = [{name: tensor[i] for name, tensor in features.items()} for i in range(8)]

    def collate(batch: list[dict]) -> dict:
        return {name: torch.stack([row[name] for row in batch]) for name in batch[0]} | {"return_loss": True}

    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = Trainer(model=model, args=args, train_dataset=rows, eval_dataset=rows, data_collator=collate)
    # The loss is a mean over the batch, so accumulated gradients are divided by their number.
    assert not trainer.model_accepts_loss_kwargs
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert {name.split(".")[0] for name in changed} == {"arca"}
    for name in ("adaptor.source_projection", "adaptor.anchor_projection", "adaptor.fc2", "actor.fc1", "actor.fc2"):
        assert f"arca.{name}.weight" in changed


# Mixture and reference


def test_the_mixture_loss_is_info_nce_of_the_mixed_vectors():
    generator = torch.Generator().manual_seed(0)
    policy = torch.rand(5, 3, generator=generator).softmax(-1)
    sentences = torch.nn.functional.normalize(torch.randn(5, 3, 8, generator=generator), dim=-1)
    reference = torch.randn(5, 8, generator=generator)
    reference[4] = 2 * reference[1]  # one translation of two texts: no negatives of each other
    terms = []
    for i in range(5):
        mixed = sum(policy[i, k] * sentences[i, k] for k in range(3))
        cosines = torch.nn.functional.cosine_similarity(mixed[None], reference, dim=-1) / 0.1
        negatives = [j for j in range(5) if {i, j} != {1, 4}]
        terms.append(-cosines[i] + cosines[negatives].logsumexp(0))
    found = mixture_loss(policy, sentences, reference, 0.1)
    torch.testing.assert_close(found, torch.stack(terms).mean())
    assert mixture_loss(policy[:1], sentences[:1], reference[:1]).item() == 0.0


def test_rows_without_a_reference_learn_from_the_reward(lira, features):
    settings = {"anchor_weight": 0.0, "entropy_weight": 0.3, "reference_weight": 2.0}
    model = lira(policy_objective="mixture", **settings)
    reference = torch.randn(len(features["source_features"]), *features["anchor_features"].shape[2:])
    reference[2:] = 0
    with torch.no_grad():
        output = model(**features, reference_features=reference, return_loss=True)
        sentences = torch.nn.functional.normalize(features["anchor_features"][:, :, 0], dim=-1)
        h = torch.nn.functional.normalize(reference[:, 0], dim=-1)
        plain = model(**features, return_loss=True)
    closeness = (sentences * h[:, None]).sum(-1) * (output.policy > 0)
    torch.testing.assert_close(output.reward, plain.reward + 2.0 * closeness)
    entropy = -(output.policy * output.policy.clamp(min=1e-9).log()).sum(-1)
    mixed = mixture_loss(output.policy[:2], sentences[:2], h[:2]) - 0.3 * entropy[:2].mean()
    taught = list(range(2, 6))  # the last rows lack a text or candidates
    rest = -((output.policy * output.reward).sum(-1) + 0.3 * entropy)[taught].mean()
    torch.testing.assert_close(output.loss, (2 * mixed + 4 * rest) / 6, rtol=1e-5, atol=1e-5)


def test_a_hidden_judge_leaves_no_trace_in_the_policy(lira, features):
    model = lira(judge_dropout=1.0, policy_prior=2.0)
    without = {name: value for name, value in features.items() if name != "anchor_scores"}
    with torch.no_grad():
        heard, unheard = model(**features).policy, model(**without).policy
        model.train()
        hidden = model(**features, return_loss=True)
    torch.testing.assert_close(hidden.policy, unheard)
    assert (heard - unheard).abs().max() > 0.01
    # What is hidden from the actor still rewards it.
    model.eval()
    torch.testing.assert_close(hidden.reward, model(**features, return_loss=True).reward)


def test_traits_reach_the_policy_and_absent_ones_are_zeros(lira, features):
    model = lira(candidate_kinds=["gloss", "memory"])
    with torch.no_grad():
        model.arca.actor.fc2.weight.normal_()
        width = trait_width(["gloss", "memory"])
        traits = torch.zeros(*features["anchor_features"].shape[:2], width)
        plain = model(**features).policy
        torch.testing.assert_close(model(**features, anchor_traits=traits).policy, plain)
        traits[:, 0, -1] = 1.0
        assert (model(**features, anchor_traits=traits).policy - plain)[:4].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"anchor_traits": torch.zeros(8, 3, 5)}, r"anchor_traits has shape \(8, 3, 5\); expected \(8, 3, 8\)"),
        ({"reference_features": torch.zeros(8, 3)}, r"reference_features has shape \(8, 3\); expected \(batch"),
        (
            {"reference_features": torch.zeros(8, 4, 24), "reference_ids": torch.zeros(8, 2, dtype=torch.long)},
            "got reference_ids and reference_features; expected one of them",
        ),
    ],
)
def test_wrong_traits_and_references_are_refused(lira, features, given, message):
    with pytest.raises(ValueError, match=message):
        lira()(**features, **given, return_loss=True)
