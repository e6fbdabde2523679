"""What once gave wrong vectors or errors from deep inside: one minimal example each."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lira_hf import LiraEmbedder
from lira_hf.data import DataError
from lira_hf.inference.rows import check_rows


@pytest.fixture(scope="module")
def embedder(tiny_lira):
    return LiraEmbedder(*tiny_lira())


def test_one_string_is_one_candidate_and_not_its_letters(embedder):
    texts = ["ঢাকা", "ลอนดอน"]
    listed = embedder.encode(texts, "vi", candidates=[["big river"], ["house"]])
    assert np.array_equal(embedder.encode(texts, "vi", candidates=["big river", "house"]), listed)
    assert np.array_equal(embedder.encode(texts, "vi", candidates=[None, []]), embedder.encode(texts, "vi"))


@pytest.mark.parametrize(
    "score", [(float("nan"), 5, 5), (0, 5, 5), (11, 5, 5), (5, 5), 5, "555", (10**400, 5, 5), ("a", 5, 5)]
)
def test_scores_are_three_numbers_from_1_to_10(embedder, score):
    with pytest.raises(ValueError, match="candidate 0 of text 1 has the scores"):
        embedder.encode(["a", "b"], "vi", candidates=[["x"], ["y"]], scores=[[None], [score]])


def test_scores_that_do_not_fit_the_candidates(embedder):
    with pytest.raises(ValueError, match="got 1 rows of scores for 2 texts"):
        embedder.encode(["a", "b"], "vi", candidates=[["x"], ["y"]], scores=[[None]])
    with pytest.raises(ValueError, match="text 0 has 1 candidates and 2 scores"):
        embedder.encode(["a"], "vi", candidates=[["x"]], scores=[[None, None]])
    with pytest.raises(ValueError, match="scores without candidates"):
        embedder.encode(["a"], "vi", scores=[[(5, 5, 5)]])


def test_rows_of_wrong_types_are_named(embedder):
    with pytest.raises(TypeError, match="text 1 is int '5'; expected a string"):
        embedder.encode(["a", 5], "vi")
    with pytest.raises(TypeError, match="a candidate of text 1 is NoneType"):
        embedder.encode(["a", "b"], "vi", candidates=[[], ["x", None]])


def test_id_of_half_a_character_is_a_problem(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "\ud83d", "text": "x"}), encoding="utf-8")
    with pytest.raises(DataError, match="row 1, field `id`: got half a character"):
        check_rows(tmp_path / "a.jsonl", default_language="ur")


def test_parquet_text_that_is_no_utf8_is_a_problem(tmp_path):
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"id": ["1"], "text": text}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="expected a whole Parquet file"):
        check_rows(tmp_path / "a.parquet", default_language="ur")
