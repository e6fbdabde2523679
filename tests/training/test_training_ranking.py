"""Ranking over scored pairs, and documents in any language: rows, loss, queue, and what the queue's age does."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from lira_hf.data import BeirDataset, Query, SimilarityPair
from lira_hf.inference import LiraEmbedder, RoadFeatures
from lira_hf.losses import soft_spearman_correlation
from lira_hf.training import LiraCollator, LiraTrainingArguments, ranking_rows, retrieval_rows


PLAIN = {"path_dropout": 0.0, "corr_queue_size": 20}


def _losses(trainer, key="loss") -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def _batch(trainer, count=8):
    return trainer.data_collator([trainer.train_dataset[number] for number in range(count)])


def _cosines(trainer, pairs, source) -> np.ndarray:
    """Of the model with candidates as at inference, text by text: an oracle beside rows, collator and join."""
    embedder = LiraEmbedder(trainer.model, trainer.data_collator.processor, source, batch_size=1)
    sides = [embedder.encode([pair.text1 for pair in pairs], [pair.language1 for pair in pairs])]
    sides.append(embedder.encode([pair.text2 for pair in pairs], [pair.language2 for pair in pairs]))
    return (sides[0] * sides[1]).sum(-1)


def test_rows_hold_both_sides_with_their_candidates(pairs, pair_rows, source):
    assert pair_rows["pair_id"] == list(range(40))
    assert pair_rows["gold"] == [pair.score for pair in pairs]
    first, second = pair_rows[0], pair_rows[1]
    assert (first["text"], first["language"]) == (pairs[0].text1, "vi")
    assert (first["document"], first["document_language"]) == (pairs[0].text2, "ur")
    assert [len(first[name]) for name in ("candidates", "scores", "traits", "kinds")] == [2] * 4
    assert first["document_candidates"] == [found.text for found in source.find([pairs[0].text2], ["ur"])[0]]
    assert first["document_scores"] == [[4, 4, 4], [9, 9, 9]]
    assert first["document_kinds"] == ["poor", "good"]
    assert second["document_candidates"] == [pairs[1].text2]  # English is its own candidate
    bare = ranking_rows([SimilarityPair("x", "y", 1.0)], source)[0]  # of unknown languages
    assert (bare["candidates"], bare["document_candidates"]) == ([], [])
    with pytest.raises(ValueError, match="got no pairs; expected at least one pair"):
        ranking_rows([])


def test_the_loss_correlates_cosines_with_gold(make_trainer, pairs, pair_rows, source):
    trainer = make_trainer(data=pair_rows, pearson_weight=0.3, start_weight=0.0, consistency_weight=0.0, **PLAIN)
    trainer.train()  # away from the start, with a queue
    with torch.no_grad():
        loss = float(trainer.compute_loss(trainer.model.eval(), _batch(trainer)))
    held = trainer.corr_queue.entries()
    predicted = np.concatenate([held.predictions, _cosines(trainer, pairs[:8], source)])
    gold = np.concatenate([held.gold, [pair.score for pair in pairs[:8]]])
    soft = float(soft_spearman_correlation(torch.tensor(predicted), torch.tensor(gold)))
    assert len(predicted) == 28
    assert loss == pytest.approx(0.3 * (1 - pearsonr(predicted, gold).statistic) + 0.7 * (1 - soft), abs=1e-4)


def test_regularisers_are_those_of_retrieval(make_trainer, pair_rows):
    losses = []
    for start, consistency in ((0.0, 0.0), (0.7, 0.0), (0.0, 0.2)):
        trainer = make_trainer(data=pair_rows, start_weight=start, consistency_weight=consistency, path_dropout=0.0)
        with torch.no_grad():
            for name, weight in trainer.model.named_parameters():
                if name.startswith(("fusion", "embedding_head")):
                    weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
            losses.append(float(trainer.compute_loss(trainer.model.eval(), _batch(trainer))))
    trainer = make_trainer(data=pair_rows, path_dropout=0.9)
    with torch.no_grad():
        loud = {float(trainer.compute_loss(trainer.model.train(), _batch(trainer))) for _ in range(3)}
    assert losses[1] > losses[0] + 1e-4
    assert losses[2] > losses[0] + 1e-4
    assert len(loud) == 3


def test_ranking_learns(make_trainer, pairs, pair_rows, source):
    trainer = make_trainer(data=pair_rows, steps=60, per_device_train_batch_size=20, learning_rate=3e-3)
    before = _cosines(trainer, pairs, source)
    trainer.train()
    gold = [pair.score for pair in pairs]
    start, end = (pearsonr(cosines, gold).statistic for cosines in (before, _cosines(trainer, pairs, source)))
    assert end > start + 0.05
    assert trainer.queue is None  # retrieval isn't trained
    assert trainer.corr_queue is None  # by default there is none: it was measured to be harmful
    # What is logged is of the batch, under these names.
    assert _losses(trainer, "pearson")[-1] > _losses(trainer, "pearson")[0]
    assert -1 <= _losses(trainer, "spearman")[-1] <= 1


def test_the_queue_is_filled_once_a_batch_in_training_only(make_trainer, pair_rows, state):
    trainer = make_trainer(
        data=pair_rows, steps=2, gradient_accumulation_steps=2, eval_strategy="steps", eval_steps=1,
        corr_queue_size=100,
    )  # fmt: skip
    trainer.train()
    entries = trainer.corr_queue.entries()
    assert len(entries.gold) == 32  # two steps of two micro-batches of 8, in spite of two evaluations
    assert int(trainer.corr_queue.step) == 4
    assert entries.gold.tolist() == [pair_rows[number]["gold"] for number in entries.pair_ids.tolist()]
    kept = state(trainer)
    trainer.evaluate()
    assert all(torch.equal(value, kept[name]) for name, value in state(trainer).items())
    assert _losses(trainer, "pairs") == [12, 28]  # means of 8, 16 and of 24, 32


@pytest.mark.parametrize("kind", ["streamed", "listed"])
def test_rows_that_name_no_columns_have_the_queue_too(make_trainer, pair_rows, kind):
    rows = pair_rows.to_iterable_dataset().map(dict) if kind == "streamed" else list(pair_rows)
    assert getattr(rows, "column_names", None) is None
    trainer = make_trainer(data=rows, steps=2, corr_queue_size=100)
    trainer.train()
    assert trainer.corr_queue.num_entries == 16
    assert trainer.queue is None


def test_an_age_limit_leaves_old_pairs_out(make_trainer, pair_rows):
    trainer = make_trainer(data=pair_rows, steps=4, corr_queue_size=100, corr_max_age=1)
    trainer.train()
    assert _losses(trainer, "pairs") == [8, 16, 24, 24]
    assert trainer.corr_queue.num_entries == 32


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_the_weighted_gradient_is_as_large_as_without_a_queue(make_trainer, pairs, pair_rows, source, alpha):
    def found(copies: int, weighted: bool) -> tuple[float, torch.Tensor]:
        trainer = make_trainer(
            data=pair_rows, pearson_weight=alpha, start_weight=0.0, consistency_weight=0.0, path_dropout=0.0,
            corr_queue_size=64, corr_max_age=2, **({} if weighted else {"corr_gradient_weight": False}),
        )  # fmt: skip
        batch, cosines = _batch(trainer), torch.from_numpy(_cosines(trainer, pairs[:8], source))
        for _ in range(copies):
            trainer.corr_queue.push(cosines, batch["gold"], batch["pair_ids"])
        loss = trainer.compute_loss(trainer.model.eval(), batch)
        loss.backward()
        grads = [weight.grad.flatten() for weight in trainer.model.parameters() if weight.grad is not None]
        return float(loss.detach()), torch.cat(grads)

    # A queue that holds the batch's own pairs changes no mean and no deviation, so that nothing but the size differs;
    # the fourth and fifth copy are too old to count.
    alone, diluted, weighted = found(0, False), found(5, False), found(5, True)
    assert alone[1].norm() > 1e-3
    torch.testing.assert_close(diluted[1], alone[1] / 4, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(weighted[1], alone[1], rtol=1e-3, atol=1e-7)
    assert weighted[0] == diluted[0]  # the value that is logged stays
    assert torch.equal(found(0, True)[1], alone[1])


@pytest.mark.parametrize("every", [0, 2])
def test_a_refreshed_queue_holds_what_the_present_model_predicts(make_trainer, pairs, pair_rows, source, every):
    trainer = make_trainer(data=pair_rows, steps=4, learning_rate=3e-2, **PLAIN | {"corr_refresh": every})
    seen, plain = [], trainer.objective.correlation.forward

    def watched(predictions, gold, queue, max_age):
        held = queue.entries()
        if int(queue.step) == 2:
            asked = [pairs[number] for number in held.pair_ids.tolist()]
            training = trainer.model.training
            seen.append(np.abs(held.predictions.numpy() - _cosines(trainer, asked, source)).max())
            trainer.model.train(training)
            assert held.ages.tolist() == ([0] * 16 if every else [1] * 8 + [0] * 8)
        return plain(predictions, gold, queue, max_age)

    trainer.objective.correlation.forward = watched
    trainer.train()
    assert len(seen) == 1
    assert (seen[0] < 1e-5) if every else (seen[0] > 1e-3)


# Documents in any language


@pytest.fixture
def spoken():
    """An English query of a Vietnamese document, a Vietnamese one of an English document."""
    return BeirDataset(
        corpus={"a": "derv neergv eulbv", "b": "red green blue", "c": "red moon"},
        queries={"q": Query("red green blue", "en"), "r": Query("derv neergv eulbv", "vi")},
        qrels={"q": {"a": 1, "c": 1}, "r": {"b": 1}},
        document_languages={"a": "vi"},
    )


def test_documents_and_queries_of_any_language_have_candidates(spoken, source):
    rows = retrieval_rows(spoken, source)
    assert rows["candidates"] == [["red green blue"], ["red green blue"], ["red green moon", "red green blue"]]
    assert rows["document_language"] == ["vi", "en", "en"]
    assert rows["document_candidates"] == [["red green moon", "red green blue"], ["red moon"], ["red green blue"]]
    assert rows["document_scores"] == [[[4, 4, 4], [9, 9, 9]], [[]], [[]]]
    assert rows["positive_ids"] == [[0, 2], [0, 2], [1]]


def test_documents_are_embedded_as_at_inference(spoken, source, tiny_lira):
    model, processor = tiny_lira()
    collator = LiraCollator(RoadFeatures(model, processor))
    batch = collator([retrieval_rows(spoken, source)[number] for number in range(3)])
    names = ("source_features", "anchor_features", "anchor_scores", "anchor_traits", "language_ids")
    with torch.no_grad():
        found = model.eval()(**{name: batch[f"document_{name}"] for name in names}).pooler_output
    embedder = LiraEmbedder(model, processor, source)
    expected = embedder.encode(["derv neergv eulbv", "red moon", "red green blue"], ["vi", "en", "en"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert batch["positive_ids"].tolist() == [[0, 2], [0, 2], [1, -1]]


def test_another_document_of_the_query_is_no_negative(make_trainer, spoken, source):
    trainer = make_trainer(data=retrieval_rows(spoken, source), queue_size=0, safe_similarity=2.0)
    with torch.no_grad():
        trainer.compute_loss(trainer.model.eval(), _batch(trainer, 3))
    assert float(trainer._stats["negatives"][0]) == pytest.approx((1 + 1 + 2) / 3)


def test_references_are_english_documents_alone(spoken, source, tiny_lira):
    collator = LiraCollator(RoadFeatures(*tiny_lira()), documents=False, references=True)
    batch = collator([retrieval_rows(spoken, source)[number] for number in range(3)])
    assert batch["reference_features"].flatten(1).any(-1).tolist() == [False, True, True]


def test_stage_1_learns_from_both_texts_of_pairs(make_trainer, pair_rows):
    trainer = make_trainer("arca", data=pair_rows, steps=2)
    assert len(_batch(trainer)["source_features"]) == 16
    trainer.train()
    assert np.isfinite(_losses(trainer)).all()


def test_rows_of_both_tasks_are_no_batch(rows, pair_rows, tiny_lira):
    with pytest.raises(ValueError, match="retrieval and of ranking in one batch; expected one task"):
        LiraCollator(RoadFeatures(*tiny_lira()))([rows[0], pair_rows[0]])


def test_spearman_of_the_log_is_near_the_hard_one(make_trainer, pairs, pair_rows, source):
    trainer = make_trainer(data=pair_rows)
    with torch.no_grad():
        trainer.compute_loss(trainer.model.eval(), _batch(trainer, 40))
    hard = spearmanr(_cosines(trainer, pairs, source), [pair.score for pair in pairs]).statistic
    assert float(trainer._stats["spearman"][0]) == pytest.approx(hard, abs=0.15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pearson_weight": 1.5}, "pearson_weight is 1.5; expected a share from 0 to 1"),
        ({"corr_queue_size": -1}, "corr_queue_size is -1; expected 0 or more"),
        ({"corr_refresh": -2}, "corr_refresh is -2; expected 0 or more"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        LiraTrainingArguments(output_dir=str(tmp_path), **arguments)
