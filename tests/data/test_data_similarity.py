"""Scored pairs of texts: what is read from which table, what is wrong in which row, and what comes back."""

import csv
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lira_hf.data import DataError, SimilarityPair, read_sts, write_sts


PAIRS = [
    SimilarityPair('say "hi", you', "چائے", 3.5, "en", "ur", "g1", "dev"),
    SimilarityPair("b", "c", -0.25, "vi", None, None, "test"),
    SimilarityPair("d", "e", 1e-7, None, None, "g2", "test"),
]


def where(error):
    return [(problem.row, problem.field) for problem in error.value.problems]


@pytest.mark.parametrize(("suffix", "first"), [(".tsv", 2), (".csv", 2), (".jsonl", 1), (".parquet", 1)])
def test_what_is_written_is_read(tmp_path, suffix, first):
    path = tmp_path / f"sts{suffix}"
    assert write_sts(path, PAIRS) == 3
    found = read_sts(path)
    assert [pair.row for pair in found] == [first, first + 1, first + 2]
    assert [replace(pair, row=None) for pair in found] == PAIRS
    assert [pair.text1 for pair in read_sts(path, split="test", default_language="in")] == ["b", "d"]
    assert read_sts(path, default_language="in")[2].language2 == "id"
    with pytest.raises(ValueError, match=r"split='train'.*\['dev', 'test'\]"):
        read_sts(path, split="train")


def test_other_columns_and_one_language_for_both(tmp_path):
    path = tmp_path / "sts.csv"
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(
            [
                ["id", "left", "right", "gold", "language"],
                ["7", "one\nline", "x", "4", "ms_MY"],
                ["8", "y", "z", "5", ""],
            ]
        )
    found = read_sts(path, text1_column="left", text2_column="right", score_column="gold")
    assert found == [
        SimilarityPair("one\nline", "x", 4.0, "ms-MY", "ms-MY", "7", None, 2),
        SimilarityPair("y", "z", 5.0, None, None, "8", None, 4),
    ]
    with pytest.raises(DataError, match="'sentence1'.*\n.*'sentence2'.*\n.*'score'"):
        read_sts(path)
    with pytest.raises(DataError, match="a column named 'lang'"):
        read_sts(path, text1_column="left", text2_column="right", score_column="gold", language1_column="lang")


def test_every_problem_of_one_pass(tmp_path):
    path = tmp_path / "sts.tsv"
    rows = [
        "sentence1\tsentence2\tscore\tlanguage",
        "a\tb\t1\tvi",
        " \tb\tnan\txx",
        "a\tb\t3,5\tvi",
        "a\tb\t1",
        "a\tb\tinf\t",
        "c\td\t2\tur",
    ]
    path.write_bytes("\n".join(rows).encode() + b"\ne\xff\tf\t1\tvi\n")
    with pytest.raises(DataError) as error:
        read_sts(path)
    assert where(error) == [
        (3, "sentence1"),
        (3, "score"),
        (3, "language"),
        (4, "score"),
        (5, None),
        (6, "score"),
        (8, "sentence1"),
    ]
    assert "got '3,5'; expected a finite number such as 3.5; to fix: write one with a decimal point" in str(
        error.value
    )
    assert [pair.text1 for pair in read_sts(path, on_error="skip")] == ["a", "c"]


def test_problems_of_json_lines(tmp_path):
    path = tmp_path / "sts.jsonl"
    good = {"sentence1": "a", "sentence2": "b", "score": "2.5"}
    rows = [good, {**good, "score": True}, {**good, "sentence2": 3}, [1], {"score": 1}, {**good, "language2": 7}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n{\n\n")
    with pytest.raises(DataError) as error:
        read_sts(path)
    expected = [(2, "score"), (3, "sentence2"), (4, None), (5, "sentence1"), (5, "sentence2"), (6, "language2")]
    assert where(error) == [*expected, (7, None)]
    assert read_sts(path, on_error="skip") == [SimilarityPair("a", "b", 2.5, row=1)]
    path.write_text(json.dumps(good))
    with pytest.raises(DataError, match="a column named 'lang'"):
        read_sts(path, language1_column="lang")


def test_problems_of_csv_and_parquet(tmp_path):
    path = tmp_path / "sts.csv"
    path.write_text('sentence1,sentence2,score\n"a"b,c,1\na,"b\nc",2\nx,y,3\n"open,z,1\n')
    with pytest.raises(DataError) as error:
        read_sts(path)
    assert where(error) == [(2, None), (6, None)]
    assert [(pair.text2, pair.row) for pair in read_sts(path, on_error="skip")] == [("b\nc", 3), ("y", 5)]
    path = tmp_path / "sts.parquet"
    pq.write_table(pa.table({"sentence1": ["a", None], "sentence2": ["b", "c"], "score": [1.0, float("inf")]}), path)
    with pytest.raises(DataError) as error:
        read_sts(path)
    assert where(error) == [(2, "sentence1"), (2, "score")]
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="expected a whole Parquet file"):
        read_sts(path)


def test_what_is_no_table(tmp_path):
    for name in ("sts.csv", "sts.tsv"):
        (tmp_path / name).write_text("")
        with pytest.raises(DataError, match="a column named 'sentence1'"):
            read_sts(tmp_path / name)
    (tmp_path / "sts.txt").write_text("a")
    with pytest.raises(DataError, match=r"ending in '.txt'; expected one of .tsv"):
        read_sts(tmp_path / "sts.txt")
    for suffix in ("tsv", "csv", "jsonl", "parquet"):
        with pytest.raises(FileNotFoundError):
            read_sts(tmp_path / f"none.{suffix}")


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "sts.tsv"
    path.write_text("old")
    wrong = [
        SimilarityPair("a\tb", "c", 1.0),
        SimilarityPair("", "c", float("nan")),
        SimilarityPair("a", "\ud800", 1.0, "xx"),
    ]
    with pytest.raises(DataError) as error:
        write_sts(path, wrong)
    found = [(2, "sentence1"), (3, "sentence1"), (3, "score"), (4, "sentence2"), (4, "language1")]
    assert where(error) == found
    assert path.read_text() == "old"
    write_sts(tmp_path / "sts.csv", wrong[:1])
    assert read_sts(tmp_path / "sts.csv")[0].text1 == "a\tb"
    with pytest.raises(ValueError, match="ending in '.txt'"):
        write_sts(tmp_path / "sts.txt", [])
