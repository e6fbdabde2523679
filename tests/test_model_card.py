"""The model card: metadata that the Hub reads, and every figure of the report."""

import pytest
from huggingface_hub import ModelCard

from lira_hf.model_card import ModelFacts, write_model_card


@pytest.fixture
def facts():
    def figures(mean):
        return {
            metric: {"mean": mean, "vi": mean + 0.1, "ur": mean - 0.1} for metric in ("ndcg@10", "recall@1", "mrr")
        }

    systems = {"g alone": figures(0.5), "concat, equal": figures(0.61), "LiRA": figures(0.71239)}
    gain = {"difference": 0.2124, "low": 0.1, "high": -0.3456}
    report = {
        "systems": systems,
        "differences": {name: {"ndcg@10": {"mean": gain}} for name in ("g alone", "concat, equal")},
        "sizes": {"learn": 5, "train": 1234, "dev": 56, "test": 78, "pool": 910},
        "settings": {"seeds": [0, 1]},
        "versions": {"torch": "2.13.0", "python": "3.11.2"},
    }
    return ModelFacts(
        name="lira-test",
        languages=["vi", "ur"],
        encoder="the encoder",
        anchor="the anchor",
        data="some data (CC0)",
        candidates="a gloss",
        critic="nobody",
        report=report,
        licence="mit",
    )


def test_the_hub_reads_its_metadata(facts, tmp_path):
    path = write_model_card(facts, tmp_path)
    assert path == tmp_path / "README.md"
    data = ModelCard.load(path).data
    assert data.language == ["vi", "ur", "en"]
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "transformers", "feature-extraction")
    assert "lira" in data.tags
    results = {result.dataset_name: result for result in data.eval_results}
    assert results.keys() == {"lira-test test, mean", "lira-test test, vi", "lira-test test, ur"}
    assert results["lira-test test, mean"].metric_value == 0.7124
    assert {result.metric_type for result in data.eval_results} == {"ndcg_at_10"}


def test_the_table_has_every_system_and_nothing_is_left_unfilled(facts, tmp_path):
    text = ModelCard.load(write_model_card(facts, tmp_path)).text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows == [
        "| | vi | ur | mean | LiRA minus it |",
        "|---|---:|---:|---:|---:|",
        "| g alone | 60.0 | 40.0 | 50.0 | +21.2 [10.0, -34.6] |",
        "| concat, equal | 71.0 | 51.0 | 61.0 | +21.2 [10.0, -34.6] |",
        "| LiRA | 81.2 | 61.2 | 71.2 |  |",
    ]
    for fact in (
        "the encoder",
        "the anchor",
        "some data (CC0)",
        "a gloss",
        "nobody",
        "1234",
        "78",
        "910",
        "mean of 2 seeds",
    ):
        assert fact in text
    assert "torch 2.13.0, python 3.11.2" in text
    assert "{{" not in text
    assert "}}" not in text
