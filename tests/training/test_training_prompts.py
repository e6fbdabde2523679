"""Prompts of the multilingual encoder in training: what batches hold is what is asked for at inference."""

import pytest
import torch

from lira_hf import LiraProcessor
from lira_hf.data import read_beir
from lira_hf.evaluation import baseline_controls, dev_metrics
from lira_hf.inference import LiraEmbedder, RoadFeatures
from lira_hf.training import LiraCollator, load_model, read_recipe, retrieval_rows, train_recipe
from lira_hf.training.arguments import DataArguments
from lira_hf.training.tasks import TaskData, fill_features, pair_correlation


PROMPTS = {"query_prompt": "query: ", "document_prompt": "passage: "}


@pytest.fixture
def prompted(tiny_lira):
    model, processor = tiny_lira(**PROMPTS)
    processor.query_prompt, processor.document_prompt = PROMPTS.values()
    return model, processor


@pytest.fixture
def mined(tiny_data, source):
    """Rows with a hard negative each."""
    beir = read_beir(tiny_data, "train")
    return beir, retrieval_rows(beir, source, negatives={query: ["d3"] for query in beir.queries})


def _without_prompts(processor):
    return LiraProcessor.from_backbones(
        processor.source_tokenizer, processor.anchor_tokenizer, trained_languages=processor.trained_languages
    )


def _spoken(features, texts, prompt):
    return torch.from_numpy(features.get("source", [prompt + text for text in texts])).float()


def test_batches_of_retrieval(prompted, mined):
    features, rows = RoadFeatures(*prompted), mined[1].select(range(5))
    batch = LiraCollator(features, references=True)(list(rows))
    plain = LiraCollator(features, references=True, processor=_without_prompts(prompted[1]))(list(rows))
    torch.testing.assert_close(batch["source_features"], _spoken(features, rows["text"], "query: "))
    torch.testing.assert_close(batch["document_source_features"], _spoken(features, rows["document"], "passage: "))
    negatives = [row["negatives"][0]["text"] for row in rows]
    torch.testing.assert_close(batch["negative_source_features"], _spoken(features, negatives, "passage: "))
    assert batch.keys() == plain.keys()
    for name, tensor in batch.items():  # h's candidates, traits and references are of the bare text
        same = torch.equal(tensor, plain[name])
        assert same != name.endswith("source_features"), name


def test_batches_of_pairs_are_queries_on_both_sides(prompted, pair_rows):
    features, rows = RoadFeatures(*prompted), pair_rows.select(range(4))
    first, second = (_spoken(features, rows[name], "query: ") for name in ("text", "document"))
    batch = LiraCollator(features)(list(rows))
    torch.testing.assert_close(batch["source_features"], first)
    torch.testing.assert_close(batch["document_source_features"], second)
    stage1 = LiraCollator(features, documents=False)(list(rows))
    torch.testing.assert_close(stage1["source_features"], torch.cat([first, second]))


def test_what_is_filled_is_what_batches_read(prompted, mined, pairs, pair_rows, source, tmp_path, monkeypatch):
    model, processor = prompted
    features = RoadFeatures(model, _without_prompts(processor), tmp_path)  # another's, as cross-fitted ones are
    tasks = [
        TaskData(DataArguments(data="x"), source, mined[0], mined[1]),
        TaskData(DataArguments(data="x", task="ranking"), source, pairs, pair_rows),
    ]
    fill_features(features, tasks, processor)
    monkeypatch.setattr(features, "compute", lambda road, texts: pytest.fail(f"{road} lacks {texts}"))
    LiraCollator(features, references=True, processor=processor)(list(mined[1]))
    LiraCollator(features, processor=processor)(list(pair_rows))


def test_pairs_and_mined_negatives_are_asked_for_in_their_roles(prompted, tiny_data, source, pairs, monkeypatch):
    embedder, roles = LiraEmbedder(*prompted, source), []
    encode = embedder.encode
    monkeypatch.setattr(
        embedder, "encode", lambda *a, role=None, **k: roles.append(role) or encode(*a, role=role, **k)
    )
    pair_correlation(embedder, pairs)
    beir = read_beir(tiny_data, "train")
    TaskData(DataArguments(data="x", hard_negatives=1), source, beir, retrieval_rows(beir, source)).mine(embedder)
    assert roles == ["query", "query", "query", "document"]


def test_a_recipe_with_prompts(tiny_backbones, tiny_data, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "languages": ["vi", "ur", "en"]}
    recipe = {
        **tiny_backbones, "config": sizes | PROMPTS, "data": str(tiny_data), "store": str(tiny_data / "store.sqlite"),
        "output_dir": str(tmp_path / "out"), "stage": "lasr", "max_steps": 2, "eval_strategy": "steps",
        "eval_steps": 1, "save_steps": 2, "per_device_train_batch_size": 8, "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "hard_negatives": 1, "queue_size": 20, "features": str(tmp_path / "features"),
    }  # fmt: skip
    seen = []

    def controls(embedder, dataset):
        seen.append(baseline_controls(embedder, dataset))
        return seen[-1]

    _, processor, metrics = train_recipe(recipe, dev_metrics, quiet=True, controls=controls)
    assert (processor.query_prompt, processor.document_prompt) == ("query: ", "passage: ")
    assert 0 <= metrics["eval_ndcg@10"] <= 1
    assert len(seen) == 1
    # A checkpoint keeps them, and a recipe may change them.
    change = {"model": str(tmp_path / "out"), "data": "x", "config": {"query_prompt": "Q "}}
    model, processor = load_model(read_recipe(change)[0])
    assert (processor.query_prompt, processor.document_prompt) == ("Q ", "passage: ")
    assert model.config.query_prompt == "Q "
