"""Reports of every form that this package writes, and files that are none."""

import json
import math

import pytest

from lira_hf.data import read_beir
from lira_hf.evaluation import AnswerScores, evaluate_embedder, system_report
from lira_hf.inference import LiraEmbedder
from lira_hf.model_card import read_report


def test_the_quickstarts(report):
    first, *others = read_report(report, "names")
    assert [one.metric for one in (first, *others)] == ["ndcg@10", "recall@1", "mrr"]
    assert (first.ours, first.strongest, first.dataset, first.split) == ("LiRA", "concat, equal", "names", "test")
    assert first.systems["g alone"] == {"mean": 0.5, "vi": 0.6, "ur": 0.4}
    assert first.gains["g alone"]["ur"] == (0.15, pytest.approx(0.14), pytest.approx(0.16))
    assert first.notes == ["78 queries", "910 documents", "mean of 2 seeds"]
    assert others[0].gains == {}
    assert others[0].gains_table() == ""


def test_that_of_an_ablation():
    row = {"pearson": {"mean": 0.6, "ur": 0.6}, "spearman": {"mean": 0.5, "ur": 0.5}, "seeds": [0.6], "about": "x"}
    report = {
        "task": "ranking",
        "metrics": ["pearson", "spearman"],
        "systems": {"LiRA": row | {"kind": "full"}, "no queue": row | {"kind": "ablation", "dev": 0.3}},
        "differences": {"no queue": {"pearson": {"mean": {"difference": 0.1, "low": 0.0, "high": 0.2}}}},
        "facts": {"seeds": [0], "data": {"test": {"pairs": 40}}},
        "verdicts": {},
    }
    first, second = read_report(report, "pairs")
    assert (first.title, first.task, first.notes) == ("Pearson", "sentence-similarity", ["40 pairs", "mean of 1 seed"])
    assert "| no queue | 60.0 | 60.0 | +10.0 [0.0, 20.0] |" in first.table()
    assert {one.metric_type for one in second.results()} == {"spearman"}


def test_one_document_gives_no_interval(report, tmp_path):
    report["differences"]["g alone"]["ndcg@10"]["vi"] = {"difference": 0.1, "low": math.nan, "high": math.nan}
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))  # with NaN, as Python writes it
    first = read_report(file, "names")[0]
    assert "| g alone | +10.0 | +15.0 [14.0, 16.0] |" in first.gains_table()


def test_that_of_lira_evaluate(tiny_lira, tiny_data):
    scores = evaluate_embedder(LiraEmbedder(*tiny_lira()), read_beir(tiny_data, "test"))
    found = {m: {"mean": scores.mean(m), **scores.per_language(m)} for m in ("ndcg@10", "recall@1", "mrr")}
    with_it = {m: {tag: value / 2 for tag, value in row.items()} for m, row in found.items()}
    first = read_report({"without translation": found, "with translation": with_it}, "tiny", "test")[0]
    assert first.ours == "with translation"
    assert first.table().splitlines()[0] == "| | `ur` | `vi` | mean |"
    results = {one.dataset_config: one.metric_value for one in first.results()}
    assert results["ur"] == pytest.approx(scores.per_language()["ur"] / 2, abs=1e-4)
    # The report doesn't say what was measured on: a table, and nothing in the metadata.
    assert read_report({"without translation": found})[0].results() == []


def test_that_of_answers():
    import numpy as np

    def scores(*right):
        return AnswerScores(list("abcd"), ["bn", "bn", "ur", "ur"], list("1212"), {"exact_match": np.array(right)}, [])

    report = system_report({"lira": scores(1.0, 1, 1, 0), "base_alone": scores(0.0, 0, 1, 0)})
    (found,) = read_report(json.loads(json.dumps(report)))
    assert (found.ours, found.notes, found.results()) == ("lira", ["4 questions"], [])
    assert found.systems["lira"] == {"bn": 1.0, "ur": 0.5, "mean": 0.75}
    assert found.gains["base_alone"]["bn"].difference == 1.0
    assert "| base\\_alone |" not in found.table()  # within a word an underscore is no markup
    assert "| base_alone |" in found.table()


def test_that_of_mteb():
    rows = [{"hf_subset": "de-en", "main_score": 0.5, "x": None}, {"hf_subset": "fr", "main_score": 0.7}]
    report = {"without translation": {"STS22.v2": {"test": rows, "dev": rows[:1]}}}
    first, second = read_report(report)
    assert (first.dataset, first.split, second.split) == ("mteb STS22.v2", "test", "dev")
    assert first.systems["without translation"] == {"de-en": 0.5, "fr": 0.7, "mean": pytest.approx(0.6)}
    assert first.results() == []


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"systems": {}},
        {"systems": {"LiRA": {"ndcg@10": {}}}},
        {"systems": {"LiRA": {"ndcg@10": {"mean": "much"}}}},
        {"systems": {"LiRA": {"ndcg@10": {"mean": True}}}},
        {"systems": {"LiRA": {"ndcg@10": {"mean": math.inf}}}},
        {"systems": 3},
        {"a": {"b": {"c": 1}}},
        {"a": {"mean": 1.0, "languages": {"bn": None}, "questions": 1}},
        {"without translation": {"T": {"test": [{"hf_subset": "x"}]}}},
    ],
)
def test_what_is_no_report(content, tmp_path):
    file = tmp_path / "report.json"
    file.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"got .*report.json with .*; expected the report.json of `lira quickstart` or"
    ):
        read_report(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is no JSON"), (b"\xff\xfe\x00", "is no JSON"), (b"[1]", "holds a list"), (b"", "is no JSON")],
)
def test_files_that_are_broken(tmp_path, content, message):
    file = tmp_path / "report.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"got the report .*report.json, which {message}.*expected"):
        read_report(file)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="got the report .*none.json', which is no file"):
        read_report(tmp_path / "none.json")
