"""What an ablation stands on: scores of pairs with their intervals, and parts that a configuration switches off."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from lira_hf import LiraConfig, LiraModel
from lira_hf.data import SimilarityPair
from lira_hf.evaluation import PairScores, pair_difference
from lira_hf.evaluation.ablation_tasks import PairSplit, dump_scores, load_scores
from lira_hf.training import LiraTrainingArguments
from lira_hf.training.objective import LasrObjective


def pair_scores(cosines, gold, tags):
    groups = [str(number) for number in range(len(tags))]
    return PairScores(list(tags), groups, np.asarray(gold, dtype=float), np.asarray(cosines, dtype=float))


def test_scores_of_pairs_are_scipys_by_language():
    generator = np.random.default_rng(0)
    gold, tags = generator.random(60), ["vi"] * 20 + ["ur"] * 40
    one = pair_scores(gold + generator.normal(0, 0.3, 60), gold, tags)
    for metric, oracle in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        expected = {
            "ur": oracle(one.cosines[20:], gold[20:]).statistic,
            "vi": oracle(one.cosines[:20], gold[:20]).statistic,
        }
        assert one.per_language(metric) == pytest.approx(expected)
        assert one.mean(metric) == pytest.approx(np.mean(list(expected.values())))
    flat = pair_scores(np.zeros(60), gold, tags)
    assert flat.mean() == 0.0


def test_the_interval_of_pairs_is_that_of_a_bootstrap_by_hand():
    generator = np.random.default_rng(0)
    gold, tags = generator.random(80), ["vi"] * 40 + ["ur"] * 40
    ours = [pair_scores(gold + generator.normal(0, 0.2, 80), gold, tags) for _ in range(2)]
    theirs = [pair_scores(gold + generator.normal(0, 0.5, 80), gold, tags)]
    found = pair_difference(ours, theirs, resamples=2000)
    assert found.difference == pytest.approx(np.mean([one.mean() for one in ours]) - theirs[0].mean())
    draws = []
    for _ in range(2000):
        drawn = generator.integers(0, 80, 80)
        gains = []
        for rows in (drawn[drawn < 40], drawn[drawn >= 40]):
            mine = np.mean([stats.pearsonr(one.cosines[rows], gold[rows]).statistic for one in ours])
            gains.append(mine - stats.pearsonr(theirs[0].cosines[rows], gold[rows]).statistic)
        draws.append(np.mean(gains))
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)
    same = pair_difference(ours, ours)
    assert tuple(same) == (0, 0, 0)
    alone = pair_difference(ours, theirs, language="vi")
    assert alone.difference == pytest.approx(
        np.mean([one.per_language()["vi"] for one in ours]) - theirs[0].per_language()["vi"]
    )
    with pytest.raises(ValueError, match="different pairs"):
        pair_difference(ours, [pair_scores(gold, gold[::-1], tags)])


def test_spearman_too_is_that_of_a_bootstrap_by_hand_ties_and_groups_included():
    generator = np.random.default_rng(1)
    gold, tags = generator.integers(0, 5, 60).astype(float), ["vi"] * 30 + ["ur"] * 30
    groups = [str(number // 3) for number in range(60)]
    ours, theirs = (PairScores(tags, groups, gold, gold + generator.normal(0, noise, 60).round(1)) for noise in (1, 3))
    found, draws = pair_difference([ours], [theirs], "spearman", resamples=2000), []
    for _ in range(2000):
        drawn = np.concatenate([np.arange(3) + 3 * group for group in generator.integers(0, 20, 20)])
        gains = []
        for rows in (drawn[drawn < 30], drawn[drawn >= 30]):
            one, other = (stats.spearmanr(side.cosines[rows], gold[rows]).statistic for side in (ours, theirs))
            gains.append(one - other)
        draws.append(np.mean(gains))
    assert found.difference == pytest.approx(ours.mean("spearman") - theirs.mean("spearman"))
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)
    again = load_scores(dump_scores(ours))
    assert pair_difference([again], [ours], "spearman") == (0, 0, 0)


def test_both_texts_of_a_pair_name_its_language():
    pairs = [
        SimilarityPair("a", "b", 1.0, "ur", "ur"),
        SimilarityPair("a", "b", 1.0, "vi", "en"),
        SimilarityPair("a", "b", 1),
    ]
    ones = np.ones((3, 2), dtype=np.float32)
    assert PairSplit(pairs).score(ones, ones).languages == ["ur", "vi-en", "und"]


# The parts that a configuration switches off


def test_without_names_parts(tiny_lira):
    with pytest.raises(ValueError, match=r"without names \['queue'\]; expected parts of \['embedding_critic'"):
        LiraConfig(without=["queue"])
    assert list(LiraConfig(without=["embedding_critic"]).without) == ["embedding_critic"]
    assert not LiraConfig().without


@pytest.mark.parametrize("part", ["embedding_critic", "multilingual_encoder"])
def test_stage_one_without_a_part_still_teaches_the_actor(tiny_lira, part):
    model: LiraModel = tiny_lira(without=[part])[0].train()
    model.freeze(lasr=True)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "source_features": torch.randn(6, 3, 16, generator=generator),
        "anchor_features": torch.randn(6, 3, 3, 24, generator=generator),
        "reference_features": torch.randn(6, 3, 24, generator=generator),
    }
    model(**batch, return_loss=True).loss.backward()
    assert model.arca.actor.fc2.weight.grad.abs().sum() > 0
    assert not model.arca.adaptor.fc1.weight.grad.any()  # nothing is anchored
    full = tiny_lira()[0].train()
    full(**batch, return_loss=True).loss.backward()
    assert full.arca.adaptor.fc1.weight.grad.abs().sum() > 0


def test_texts_of_neither_road_do_no_harm_to_the_gradient(tiny_lira, tmp_path):
    """Without g a query without candidates has nothing at all, and others learn as if it weren't there."""
    model = tiny_lira(without=["multilingual_encoder"])[0].train()
    model.freeze(arca=False, lasr=False)
    args = LiraTrainingArguments(str(tmp_path), path_dropout=0.0, consistency_weight=0.0, report_to="none")
    generator = torch.Generator().manual_seed(0)
    sides = {
        f"{prefix}{name}": torch.randn(4, *shape, generator=generator)
        for prefix in ("", "document_")
        for name, shape in (("source_features", (3, 16)), ("anchor_features", (2, 3, 24)))
    }
    ids = {f"{prefix}language_ids": torch.zeros(4, dtype=torch.long) for prefix in ("", "document_")}
    sides["anchor_features"][3] = 0
    batch = sides | ids | {"document_ids": torch.arange(4), "positive_ids": torch.arange(4)[:, None]}
    found = LasrObjective(args, model.config.projection_dim, ["retrieval"], torch.device("cpu"))(model, batch)
    found.loss.backward()
    assert not found.output.pooler_output[3].any()
    assert_close(found.output.pooler_output[:3].norm(dim=-1), torch.ones(3))
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert max(float(gradient.abs().max()) for gradient in gradients) < 100
    assert model.embedding_head.delta.weight.grad.abs().sum() > 0
