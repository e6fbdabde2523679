"""Metrics of ranked retrieval through evaluate, against brute force, pytrec_eval and scikit-learn."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, recall_score

from lira_hf.metrics import METRIC_NAMES, metric_path


evaluate = pytest.importorskip("evaluate")


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    import evaluate.config

    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)  # read when it was imported
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


def load(name, config=None):
    # In memory: a compute that fails keeps the lock of its file, for which the next one waits a second.
    return evaluate.load(metric_path(name), config, keep_in_memory=True)


def draw(seed, queries=40, documents=12):
    """Rankings with ties, of no to all documents, and graded judgements, some of them empty."""
    generator = np.random.default_rng(seed)
    rankings, relevant = [], []
    for _ in range(queries):
        found = generator.choice(documents, generator.integers(0, documents + 1), replace=False)
        rankings.append({f"d{name}": float(generator.integers(0, 5)) / 4 for name in found})
        judged = generator.choice(documents, generator.integers(0, 6), replace=False)
        relevant.append({f"d{name}": int(generator.integers(-2, 4)) for name in judged})
    return rankings, relevant


def by_hand(ranking, relevant, k, level=1):
    """nDCG, RR and recall at k; of equal scores the last id comes first."""
    order = sorted(ranking, key=lambda name: (np.float32(ranking[name]), name), reverse=True)[:k]
    gains = [max(relevant.get(name, 0), 0) for name in order]
    ideal = sorted((max(grade, 0) for grade in relevant.values()), reverse=True)[:k]
    discounted, best = (sum(g / math.log2(r) for r, g in enumerate(row, start=2)) for row in (gains, ideal))
    wanted = {name for name, grade in relevant.items() if grade >= level}
    ranks = [rank for rank, name in enumerate(order, start=1) if name in wanted]
    recall = len(ranks) / len(wanted) if wanted else 0.0
    return (discounted / best if best else 0.0), (1 / ranks[0] if ranks else 0.0), recall


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_brute_force_with_ties_few_documents_grades_and_empty_sets(seed):
    rankings, relevant = draw(seed)
    cuts = [1, 3, 10, 100]
    ndcg = load("lira_ndcg").compute(predictions=rankings, references=relevant, k=cuts)
    mrr = load("lira_mrr").compute(predictions=rankings, references=relevant, k=cuts, relevance_level=2)
    recall = load("lira_recall").compute(predictions=rankings, references=relevant, k=cuts, relevance_level=2)
    for k in cuts:
        rows = np.array([by_hand(*pair, k, level=2) for pair in zip(rankings, relevant, strict=True)])
        expected = rows.mean(0)
        found = [ndcg[f"ndcg@{k}"], mrr[f"mrr@{k}"], recall[f"recall@{k}"]]
        np.testing.assert_allclose(found, expected, atol=1e-9)
    whole = load("lira_mrr").compute(predictions=rankings, references=relevant)
    assert whole["mrr"] == pytest.approx(np.mean([by_hand(*p, None)[1] for p in zip(rankings, relevant, strict=True)]))


def test_equal_to_pytrec_eval_on_the_judged_queries():
    rankings, relevant = draw(7)
    relevant = [{name: max(grade, 0) for name, grade in row.items()} for row in relevant]
    judged = [number for number, row in enumerate(relevant) if any(row.values())]
    assert 0 < len(judged) < len(relevant)
    qrels = {str(number): relevant[number] for number in judged}
    names = {"ndcg_cut_5": "lira_ndcg", "recall_5": "lira_recall", "recip_rank": "lira_mrr"}
    found = pytrec_eval.RelevanceEvaluator(qrels, set(names)).evaluate({str(n): rankings[n] for n in judged})
    for measure, name in names.items():
        settings = {} if name == "lira_mrr" else {"k": 5}
        ours = load(name).compute(predictions=rankings, references=relevant, empty="skip", **settings)
        assert list(ours.values()) == [pytest.approx(np.mean([row[measure] for row in found.values()]))]


def test_equal_to_scikit_learn_on_full_rankings():
    generator = np.random.default_rng(0)
    scores, grades = generator.permuted(np.tile(np.arange(9.0), (20, 1)), axis=1), generator.integers(0, 4, (20, 9))
    grades[:, 0] = 1  # at least one is relevant
    names = [f"d{number}" for number in range(9)]
    rankings = [dict(zip(names, row, strict=True)) for row in scores.tolist()]
    relevant = [dict(zip(names, row, strict=True)) for row in grades.tolist()]
    inputs = {"predictions": rankings, "references": relevant}
    for k in (1, 4, 9):
        assert load("lira_ndcg").compute(**inputs, k=k)[f"ndcg@{k}"] == pytest.approx(ndcg_score(grades, scores, k=k))
        taken = scores >= 9 - k
        expected = recall_score(grades >= 2, taken, average="samples", zero_division=0.0)
        ours = load("lira_recall").compute(**inputs, k=k, relevance_level=2)
        assert ours[f"recall@{k}"] == pytest.approx(expected)
    one = np.eye(9, dtype=int)[generator.integers(0, 9, 20)]
    ours = load("lira_mrr").compute(predictions=rankings, references=[[names[row.argmax()]] for row in one])
    assert ours["mrr"] == pytest.approx(label_ranking_average_precision_score(one, scores))


def test_every_form_of_the_inputs_gives_the_same():
    ranked, scored = ["b", "a", "c"], {"a": 0.2, "c": 0.1, "b": 0.3}
    records = [{"id": name, "score": score} for name, score in scored.items()]
    columns = {"id": list(scored), "score": list(scored.values())}
    judged = {"a": 1, "c": 1}
    forms = [["a", "c"], ("a", "c"), judged, [{"id": name, "grade": np.int64(1)} for name in judged]]
    expected = pytest.approx(by_hand(scored, judged, 10)[0])
    for found in (ranked, np.array(ranked), scored, records, columns):
        for wanted in forms:
            assert load("lira_ndcg").compute(predictions=[found], references=[wanted]) == {"ndcg@10": expected}
    # Ranked ids have no ties, whatever their names; numbers are ids too.
    assert load("lira_mrr").compute(predictions=[[10, 9, 8]], references=[[9]]) == {"mrr": 0.5}
    assert load("lira_mrr").compute(predictions=[{"d1": 1.0, "d2": 1.0}], references=[["d1"]]) == {"mrr": 0.5}


def test_batches_and_rows_add_up_to_one_call():
    rankings, relevant = draw(3, queries=9)
    metric = evaluate.load(metric_path("lira_recall"))  # on disk, as by default
    metric.add_batch(predictions=rankings[:4], references=relevant[:4])
    metric.add(prediction=rankings[4], reference=relevant[4])
    metric.add_batch(predictions=rankings[5:], references=relevant[5:])
    pieces = metric.compute(k=[2, 5])
    assert pieces == metric.compute(predictions=rankings, references=relevant, k=[2, 5])
    both = evaluate.combine([load("lira_ndcg"), load("lira_mrr")])
    found = both.compute(predictions=rankings, references=relevant)
    assert found.keys() == {"ndcg@10", "mrr"}


@pytest.mark.parametrize("name", ["lira_ndcg", "lira_mrr", "lira_recall"])
def test_per_language_is_each_language_by_itself_and_their_mean(name, tmp_path):
    rankings, relevant = draw(11)
    tags = (["bn"] * 25 + ["ur"] * 10 + ["sw"] * 5)[::-1]
    found = load("lira_per_language", name).compute(
        predictions=rankings, references=relevant, languages=tags, empty="skip"
    )
    (figure,) = found.keys() - {"per_language"}
    assert list(found["per_language"]) == ["bn", "sw", "ur"]
    for tag, row in found["per_language"].items():
        own = [number for number, other in enumerate(tags) if other == tag]
        alone = load(name).compute(
            predictions=[rankings[n] for n in own], references=[relevant[n] for n in own], empty="skip"
        )
        assert row[figure] == pytest.approx(alone[figure])
        assert row["queries"] == sum(any(grade > 0 for grade in relevant[n].values()) for n in own)
    rows = [row[figure] for row in found["per_language"].values()]
    assert found[figure] == pytest.approx(np.mean(rows))
    evaluate.save(tmp_path / "result.json", **found)
    assert json.loads((tmp_path / "result.json").read_text())["per_language"] == found["per_language"]


def test_per_language_takes_batches_and_ndcg_by_default():
    metric = load("lira_per_language")
    metric.add_batch(predictions=[["a"], ["b", "a"]], references=[["a"], ["a"]], languages=["bn", "ur"])
    metric.add(prediction=["a"], reference=["a"], languages="ur")
    half = 1 / math.log2(3)
    expected = {"bn": {"ndcg@10": 1.0, "queries": 1}, "ur": {"ndcg@10": pytest.approx((1 + half) / 2), "queries": 2}}
    assert metric.compute() == {"ndcg@10": pytest.approx((3 + half) / 4), "per_language": expected}


def test_queries_without_a_relevant_document_are_told(caplog):
    inputs = {"predictions": [["a"], ["a"], ["a"]], "references": [["a"], [], {"a": 0}]}
    assert load("lira_ndcg").compute(**inputs) == {"ndcg@10": pytest.approx(1 / 3)}
    assert "2 of 3 queries have no relevant document and count as 0; give empty='skip'" in caplog.text
    assert load("lira_ndcg").compute(**inputs, empty="skip") == {"ndcg@10": 1.0}
    with pytest.raises(ValueError, match="none of 1 queries has a relevant document"):
        load("lira_mrr").compute(predictions=[["a"]], references=[[]], empty="skip")
    with pytest.raises(ValueError, match="empty is 'drop'; expected 'zero' or 'skip'"):
        load("lira_mrr").compute(predictions=[["a"]], references=[["a"]], empty="drop")


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["abc"], [["a"]], r"the ranking of query 0 is str 'abc'; expected a list of ids"),
        ([["a"], ["b", "b"]], [["a"], ["a"]], r"the ranking of query 1 holds 'b' more than once"),
        ([{"a": float("nan")}], [["a"]], r"the score of 'a' for query 0 is nan; expected a finite number"),
        ([[1.5]], [["a"]], r"the ranking of query 0 holds float '1.5'; expected ids"),
        ([["a"]], [{"a": 1.5}], r"the grade of 'a' for query 0 is 1.5; expected a whole number"),
        ([[{"id": "a", "rank": 1}]], [["a"]], r"holds .*'rank': 1.*; expected records of 'id' and 'score' alone"),
        ([["a"], ["b"]], [["a"]], r"got 2 predictions, 1 references; expected as many of each"),
        ([["a"]], None, r"got 1 predictions, no references"),
        ([], [], r"got no query; expected one at least"),
    ],
)
def test_inputs_that_are_wrong_are_named(predictions, references, message):
    with pytest.raises((TypeError, ValueError), match=message):
        load("lira_ndcg").compute(predictions=predictions, references=references)


def test_settings_that_are_wrong_are_named():
    inputs = {"predictions": [["a"]], "references": [["a"]]}
    for k in (0, -1, 2.5, True, "10", []):
        with pytest.raises(ValueError, match=r"k is .*; expected a whole number >= 1"):
            load("lira_recall").compute(**inputs, k=k)
    with pytest.raises(ValueError, match="relevance_level is 0; expected >= 1"):
        load("lira_mrr").compute(**inputs, relevance_level=0)
    with pytest.raises(ValueError, match="got the configuration 'ndcg'; expected one of lira_ndcg"):
        load("lira_per_language", "ndcg")
    with pytest.raises(TypeError, match="the language of query 1 is None; expected a tag"):
        load("lira_per_language").compute(
            predictions=[["a"], ["a"]], references=[["a"], ["a"]], languages=["bn", None]
        )
    with pytest.raises(ValueError, match="got the metric 'ndcg'; expected one of lira_mrr"):
        metric_path("ndcg")


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_what_evaluate_shows_of_a_module(name):
    metric = load(name)
    assert metric.name == name
    assert metric.module_type == "metric"
    assert all((metric.description, metric.citation, metric.reference_urls))
    assert "predictions" in metric.compute.__doc__
    call, result = metric.inputs_description.split(">>> ")[-1].strip().split("\n")
    assert eval(call, {"metric": metric}) == eval(result)  # the example, as it stands there


@pytest.mark.slow  # for what a fresh process imports
def test_a_fresh_process_loads_by_path_alone(tmp_path):
    code = (
        "import sys, evaluate\n"
        "metric = evaluate.load(sys.argv[1], 'lira_mrr')\n"
        "print(metric.compute(predictions=[['b', 'a']], references=[['a']], languages=['bn'])['mrr'])"
    )
    homes = {"HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_EVALUATE_OFFLINE": "1"}
    command = [sys.executable, "-c", code, metric_path("lira_per_language")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | homes)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0.5"


def test_the_page_runs_as_it_stands(capsys):
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names = {}
    for block in blocks:
        exec(block, names)
    promised = re.search(r"^# (\{.*\})$", blocks[1], re.MULTILINE).group(1)
    printed = capsys.readouterr().out.strip().split("\n")
    assert printed[1] == promised
    assert eval(printed[0]) == {"ndcg@1": pytest.approx(0.5), "ndcg@10": pytest.approx((1 / math.log2(3) + 1) / 2)}
