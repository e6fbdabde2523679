"""Hard negatives against brute force, and what training does with them."""

import numpy as np
import pytest
import torch

from lira_hf.data import read_beir
from lira_hf.inference import LiraEmbedder, RoadFeatures
from lira_hf.losses import RetrievalLoss
from lira_hf.training import LiraCollator, mine_hard_negatives, retrieval_rows, train_recipe
from lira_hf.training.recipes import read_recipe
from lira_hf.training.tasks import load_task


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def corpus():
    generator = np.random.default_rng(0)
    documents = generator.standard_normal((300, 6)).astype(np.float32) * generator.uniform(0.5, 3, (300, 1))
    queries = (documents[:40] + 0.3 * generator.standard_normal((40, 6))).astype(np.float32)
    documents[100:140] = 2 * documents[:40] + 1e-3  # copies of the positives
    positives = [[number, 200 + number] if number % 2 else [number] for number in range(40)]
    groups = [number % 60 if number < 250 else -1 for number in range(300)]
    return queries, documents, positives, groups


@pytest.mark.parametrize(
    ("skip", "grouped", "limit"), [(0, False, 0.95), (3, True, 0.95), (1, True, 0.5), (0, True, 2.0)]
)
@pytest.mark.parametrize("chunk", [7, 100_000])
def test_what_is_mined_is_what_brute_force_finds(corpus, skip, grouped, limit, chunk):
    queries, documents, positives, groups = corpus
    found = mine_hard_negatives(
        queries, documents, positives, 5,
        groups=groups if grouped else None, max_similarity=limit, skip=skip, chunk_size=chunk,
    )  # fmt: skip
    asked, held = _unit(queries), _unit(documents)
    for number, own in enumerate(positives):
        order = [place for place in np.argsort(-(held @ asked[number]), kind="stable") if place not in own][skip:]
        if grouped:
            order = [p for p in order if groups[p] == -1 or groups[p] not in {groups[place] for place in own}]
        order = [p for p in order if max(held[p] @ held[place] for place in own) <= limit]
        assert found[number] == order[:5]
    copied = [100 + number in row for number, row in enumerate(found)]  # its own positive's copy comes second
    assert any(copied) == (limit > 1)


def test_few_documents_give_few_negatives(corpus):
    queries, documents, _, _ = corpus
    assert mine_hard_negatives(queries[:2], documents[:3], [[0], []], 5) == [
        sorted([1, 2], key=lambda p: -float(_unit(documents)[p] @ queries[0])),
        sorted([0, 1, 2], key=lambda p: -float(_unit(documents)[p] @ queries[1])),
    ]
    assert mine_hard_negatives(queries[:0], documents, [], 5) == []
    assert mine_hard_negatives(queries.astype(np.float16)[:1], documents.astype(np.float16), [[0]], 2)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.zeros((2, 5), np.float32)}, "expected .queries, dim. and .documents, dim."),
        ({"positives": [[0]]}, "positives of 1 queries and groups of None documents; expected 2 and 9"),
        ({"positives": [[0], [9]]}, "got the positive 9; expected places from 0 to 8"),
        ({"k": 0}, "got k=0"),
    ],
)
def test_wrong_input(change, message):
    good = {"queries": np.ones((2, 4), np.float32), "documents": np.ones((9, 4), np.float32), "positives": [[0], [1]]}
    with pytest.raises(ValueError, match=message):
        mine_hard_negatives(**good | change)


def test_rows_hold_negatives_and_training_ranks_against_them(make_trainer, tiny_data, source):
    beir = read_beir(tiny_data, "train")
    query = next(iter(beir.queries))
    other = [document for document in beir.corpus if document not in beir.qrels[query]][:3]
    mined = retrieval_rows(beir, source, negatives={query: other})
    assert [item["text"] for item in mined[0]["negatives"]] == [beir.corpus[document] for document in other]
    assert mined[0]["negatives"][0]["candidates"] == [beir.corpus[other[0]]]
    assert mined[1]["negatives"] == []
    with pytest.raises(ValueError, match="got the negative 'x' of query .*expected the id of a document"):
        retrieval_rows(beir, source, negatives={query: ["x"]})
    trainer = make_trainer(data=mined, queue_size=0, start_weight=0.0, consistency_weight=0.0, path_dropout=0.9)
    batch = trainer.data_collator([mined[number] for number in range(4)])
    model = trainer.model.eval()
    names = ("source_features", "anchor_features", "anchor_scores", "anchor_traits", "language_ids")
    with torch.no_grad():
        loss = float(trainer.compute_loss(model, batch))
        queries, documents, negatives = (
            model(**{name: batch[prefix + name] for name in names if prefix + name in batch}).pooler_output
            for prefix in ("", "document_", "negative_")
        )
    ids = torch.tensor([list(beir.corpus).index(document) for document in other])
    assert torch.equal(batch["negative_ids"], ids)
    expected = RetrievalLoss()(
        queries, documents, batch["document_ids"], extra_documents=negatives, extra_document_ids=ids
    )
    assert loss == pytest.approx(float(expected.loss), abs=1e-5)
    assert float(trainer._stats["negatives"][0]) == pytest.approx(float(expected.num_negatives))


def test_a_recipe_mines_by_the_untrained_model(tiny_backbones, tiny_data, tiny_lira, tmp_path):
    recipe = {
        **tiny_backbones,
        "config": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_bins": 2},
        "data": str(tiny_data), "store": str(tiny_data / "store.sqlite"), "features": str(tmp_path / "features"),
        "hard_negatives": 2, "hard_negative_skip": 1, "max_steps": 2, "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 8, "logging_steps": 1, "report_to": "none", "use_cpu": True,
        "disable_tqdm": True,
    }  # fmt: skip
    task = load_task(read_recipe(recipe)[1], ["en"], dev=False)
    model, processor = tiny_lira()
    task.mine(LiraEmbedder(model, processor, task.source, RoadFeatures(model, processor)))
    assert all(len(row) == 2 for row in task.rows["negatives"])
    for row in task.rows:
        mined = [item["document_id"] for item in row["negatives"]]
        assert not set(mined) & set(row["positive_ids"])
    train_recipe(recipe, quiet=True)
    log = (tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text()
    assert '"negatives": ' in log
    batch = LiraCollator(RoadFeatures(model, processor))([task.rows[number] for number in range(8)])
    assert len(batch["negative_ids"]) == 16
