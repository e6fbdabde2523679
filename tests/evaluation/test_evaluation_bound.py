"""The estimators of the paper's bound against plain loops and known distributions; rows, anchors, edits."""

import random

import numpy as np
import pytest
from scipy.stats import entropy

from lira_hf.data import DataError, ParallelPair, Query, write_beir, write_tsv
from lira_hf.evaluation import (
    BoundSettings,
    SemanticBank,
    choose_anchors,
    conformal_quantile,
    edit_tokens,
    fit_constant,
    reached_level,
    read_bound_rows,
    rows_needed,
)


def _unit(*shape: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_the_conformal_quantile_is_the_one_that_counts_the_new_row():
    assert [rows_needed(level) for level in (0.9, 0.99, 0.995)] == [9, 99, 199]
    values = np.arange(1, 100)  # 99 values: of 100 with the new one
    assert conformal_quantile(values, 0.99) == 99
    assert conformal_quantile(values, 0.5) == 50
    assert conformal_quantile(values[:20], 0.99) == 20  # too few: the largest
    assert reached_level(20, 0.99) == 20 / 21
    assert reached_level(99, 0.99) == 0.99
    with pytest.raises(ValueError, match="got no values"):
        conformal_quantile(values[:0], 0.9)


@pytest.mark.parametrize(("count", "level"), [(9, 0.9), (30, 0.9), (250, 0.99)])
def test_new_rows_stay_below_it_as_often_as_promised(count, level):
    draw = np.random.default_rng(0)
    # Of uniform values the share below the quantile is the quantile itself.
    inside = np.mean([conformal_quantile(draw.random(count), level) for _ in range(4000)])
    assert level - 0.002 <= inside <= level + 1.1 / (count + 1)
    naive = np.mean([np.quantile(draw.random(count), level) for _ in range(4000)])
    assert naive < inside


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_fidelity_is_the_divergence_over_the_other_anchors(smoothing):
    bank = SemanticBank(tuple("abcdef"), _unit(6, 8))
    reference, translated = _unit(3, 8, seed=1), _unit(3, 8, seed=2)
    translated[2] = reference[2]
    own = bank.own(["c", "nowhere", "f"])
    assert own.tolist() == [2, -1, 5]
    settings = BoundSettings(temperature=0.3, smoothing=smoothing)
    found = bank.fidelity(reference, translated, own, settings)
    for row in range(3):
        kept = [anchor for anchor in range(6) if anchor != own[row]]
        both = []
        for vector in (reference[row], translated[row]):
            weights = np.exp(bank.vectors[kept] @ vector / 0.3)
            both.append((1 - smoothing) * weights / weights.sum() + smoothing / len(kept))
        assert found[row] == pytest.approx(entropy(*both), abs=1e-6)
    assert found[2] == pytest.approx(0, abs=1e-9)
    assert (found[:2] > 0.05).all()


def test_c_is_enough_at_its_level_and_not_larger_than_needed():
    draw = np.random.default_rng(3)
    fidelity = draw.gamma(1.0, 0.4, size=6000)
    deviation = 0.3 * np.sqrt(2 * fidelity) * draw.random(6000)
    settings = BoundSettings(level=0.995)
    constant = fit_constant(deviation[:3000], fidelity[:3000], settings)
    inside = deviation[3000:] <= constant * np.sqrt(2 * np.maximum(fidelity[3000:], settings.floor))
    assert inside.mean() >= 0.99
    assert constant <= 0.3


def test_rows_that_agree_in_distribution_alone_dont_blow_c_up():
    fidelity = np.full(300, 0.5)
    deviation = np.full(300, 0.2)
    fidelity[:30] = 0.0  # other words, the same distribution
    constant = fit_constant(deviation, fidelity, BoundSettings(floor=1e-2))
    assert constant == pytest.approx(0.2 / np.sqrt(0.02))
    with pytest.raises(ValueError, match="got 198 calibration rows; expected at least 199 for the level 0.995"):
        fit_constant(deviation[:198], fidelity[:198], BoundSettings())


@pytest.mark.parametrize(
    ("name", "value"),
    [("level", 1.0), ("level", 0.2), ("temperature", 0.0), ("smoothing", 1.0), ("floor", 0.0), ("quantile", 0.0)],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; expected"):
        BoundSettings(**{name: value})


def _distance(one: list[int], other: list[int]) -> int:
    """Levenshtein's, by the table."""
    row = list(range(len(other) + 1))
    for i, token in enumerate(one, start=1):
        last, row[0] = row[0], i
        for j, against in enumerate(other, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (token != against))
    return row[-1]


@pytest.mark.parametrize("tokens", [[1, 10, 11, 12, 2], [1, 10, 2], [10, 10, 10]])
def test_edits_are_one_token_away_and_leave_special_tokens_alone(tokens):
    fixed = frozenset({1, 2})
    edits = edit_tokens(tokens, fixed, [10, 20, 21, 22], 30, random.Random(0))
    assert len(edits) >= 20
    lengths = {len(edit) - len(tokens) for edit in edits}
    assert lengths == ({0, 1} if tokens == [1, 10, 2] else {-1, 0, 1})
    for edit in edits:
        assert _distance(edit, tokens) == 1
        assert [token for token in edit if token in fixed] == [token for token in tokens if token in fixed]
        assert edit[0] == tokens[0] or 1 not in tokens
    assert edits == edit_tokens(tokens, fixed, [10, 20, 21, 22], 30, random.Random(0))


def test_nothing_to_edit():
    assert edit_tokens([1, 2], frozenset({1, 2}), [5], 6, random.Random(0)) == []
    assert edit_tokens([1, 5, 2], frozenset({1, 2}), [], 6, random.Random(0)) == []


@pytest.fixture
def folder(tmp_path):
    corpus = {"a": "red cat", "b": "blue moon", "c": "con mèo", "d": "green house", "e": "open file"}
    queries = {
        "1": Query("đỏ", "vi"),
        "2": Query("xanh", "vi"),
        "3": Query("cat", "en"),
        "4": Query("mèo", "vi"),
        "5": Query("سبز", "ur"),
        "6": Query("?"),
    }
    test = {"1": {"a": 1, "b": 2}, "3": {"a": 1}, "4": {"c": 1}, "5": {"d": 1, "a": 0}, "6": {"b": 1}}
    write_beir(tmp_path, corpus, queries, {"test": test, "dev": {"2": {"b": 1}}}, document_languages={"c": "vi"})
    return tmp_path


def test_rows_of_a_folder_have_their_most_relevant_english_document(folder):
    found = read_bound_rows(folder, ["en"])
    read = {(row.text, row.language, row.reference) for row in found.rows}
    assert read == {("đỏ", "vi", "blue moon"), ("سبز", "ur", "green house"), ("?", "und", "blue moon")}
    assert found.left_out == {"in an anchor language": 1, "without a relevant English document": 1}
    assert found.roles == ("query", "document")
    assert set(found.english) == {"red cat", "blue moon", "green house", "open file"}
    sides = {row.reference: row.calibration for row in found.rows}
    assert all(row.calibration == sides[row.reference] for row in found.rows)  # an English is on one side alone


def test_another_split_may_be_for_calibration(folder):
    found = read_bound_rows(folder, ["en"], calibration="dev")
    assert [(row.text, row.calibration) for row in found.rows] == [("xanh", True), ("سبز", False)]
    assert found.left_out["with a reference that the calibration rows have"] == 2


def test_rows_of_parallel_text(tmp_path):
    pairs = [ParallelPair("vi", f"t{number}", f"word {number // 2}", "x") for number in range(200)]
    write_tsv(tmp_path / "pairs.tsv", [*pairs, ParallelPair("en", "a", "b", "x")])
    found = read_bound_rows(tmp_path / "pairs.tsv", ["en"])
    assert len(found.rows) == 200
    assert found.left_out == {"in an anchor language": 1}
    assert found.roles == (None, None)
    assert 60 < sum(row.calibration for row in found.rows) < 140
    halves = {True: set(), False: set()}
    for row in found.rows:
        halves[row.calibration].add(row.reference)
    assert not halves[True] & halves[False]
    assert found == read_bound_rows(tmp_path / "pairs.tsv", ["en"])
    assert found.rows != read_bound_rows(tmp_path / "pairs.tsv", ["en"], seed=1).rows


def test_data_without_references_say_so(folder, tmp_path):
    write_beir(folder, {"c": "con mèo"}, {"1": Query("mèo", "vi")}, {"test": {"1": {"c": 1}}}, {"c": "vi"})
    with pytest.raises(ValueError, match="1 without a relevant English document.*expected queries with a relevant"):
        read_bound_rows(folder, ["en"])
    (tmp_path / "bad.tsv").write_text("language\ttext\nvi\ta\n", encoding="utf-8")
    with pytest.raises(DataError, match="a column named 'english'"):
        read_bound_rows(tmp_path / "bad.tsv", ["en"])


def test_anchors_are_no_references_where_there_are_others(folder, tmp_path):
    found = read_bound_rows(folder, ["en"])
    lines = tmp_path / "bank.txt"
    lines.write_text("\n".join(["blue moon", *(f"sentence {number}" for number in range(20)), ""]), encoding="utf-8")
    chosen = choose_anchors(found, 21, lines)
    assert len(chosen) == 21
    assert chosen[-1] == "blue moon"
    lines.write_text("\n".join(["blue moon", *(f"sentence {number}" for number in reversed(range(20)))]))
    assert choose_anchors(found, 21, lines) == chosen  # the order of the file has no say
    assert choose_anchors(found, 10, lines) == chosen[:10]
    assert choose_anchors(found, 10, lines, seed=1) != chosen[:10]
    with pytest.raises(ValueError, match="got 4 distinct English texts.*at least 8"):
        choose_anchors(found)
