"""Candidates from columns: rows, Dataset and files give the same; what is wrong is told with row and column."""

import csv
import json

import pytest

from lira_hf.translation import Candidate, Translator
from lira_hf.translation.columns import ColumnTranslator


ROWS = [
    {"text": "rumah besar", "language": "id", "google": "big house", "nllb": "large house"},
    {"text": "kucing", "language": "id", "google": "", "nllb": "cat"},
    {"text": "rumah besar", "language": "ms", "google": "BIG HOME", "nllb": "big home"},
    {"text": "rumah besar ", "language": "in", "google": "a big house", "nllb": "Big House"},
]


def texts_of(answers) -> list[list[str]]:
    return [[candidate.text for candidate in row] for row in answers]


def sources(tmp_path):
    """The same rows in every form."""
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.to_parquet(tmp_path / "rows.parquet")
    lines = "\ufeff" + "\n".join(json.dumps(row) for row in ROWS) + "\n\n"
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        with open(tmp_path / f"rows{suffix}", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
    files = [tmp_path / f"rows{suffix}" for suffix in (".parquet", ".jsonl", ".csv", ".tsv")]
    return [ROWS, iter(ROWS), dataset, str(files[0]), *files]


def test_rows_datasets_and_files_give_the_same(tmp_path):
    prints = set()
    for source in sources(tmp_path):
        one = ColumnTranslator(source, candidate_columns=["google", "nllb"])
        assert isinstance(one, Translator)
        answers = one.translate(["rumah besar", "kucing", "anjing", " kucing"], "id", 3)
        assert texts_of(answers) == [["big house", "large house", "a big house"], ["cat"], [], ["cat"]]
        assert answers[0][1] == Candidate("large house", "columns", "columns:nllb", None)
        assert texts_of(one.translate(["rumah besar"], "ms-MY", 5)) == [["BIG HOME"]]
        assert one.translate(["rumah besar"], "ur", 5) == [[]]
        assert texts_of(one.translate(["rumah besar"], "ind_Latn", 1)) == [["big house"]]
        assert one.languages == ["id-Latn", "ms-Latn"]
        prints.add(one.fingerprint)
    assert len(prints) == 1
    assert ColumnTranslator(ROWS, candidate_columns=["nllb", "google"]).fingerprint not in prints
    assert ColumnTranslator(ROWS[:3], candidate_columns=["google", "nllb"]).fingerprint not in prints


def test_scores_put_the_best_first():
    rows = [
        {"q": "a", "en": "one", "s": 0.1, "more": ["two", None, "three", "ONE"], "more_s": [0.5, 9.0, None, 0.4]},
        {"q": "a", "en": "four", "s": "0.7", "more": [], "more_s": []},
        {"q": "b", "en": None, "s": None, "more": ["x", "y"], "more_s": [-2, -1]},
    ]
    one = ColumnTranslator(
        rows,
        text_column="q",
        candidate_columns=["en", "more"],
        score_columns=["s", "more_s"],
        language="vi",
        name="mt",
    )
    a, b = one.translate(["a", "b"], "vi", 9)
    assert [(c.text, c.score) for c in a] == [("four", 0.7), ("two", 0.5), ("ONE", 0.4), ("three", None)]
    assert [(c.text, c.score, c.translator) for c in b] == [("y", -1.0, "mt:more"), ("x", -2.0, "mt:more")]
    one = ColumnTranslator(rows, text_column="q", candidate_columns="more", language="vi")
    assert texts_of(one.translate(["a"], "vi", 2)) == [["two", "three"]]
    assert one.translate(["a"], "vi", 1)[0][0].translator == "columns"


def test_an_answer_is_the_caller_s_own():
    one = ColumnTranslator(ROWS, candidate_columns="nllb")
    one.translate(["kucing"], "id", 3)[0].clear()
    assert texts_of(one.translate(["kucing"], "id", 3)) == [["cat"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nllb": 5}, r"row 1, column 'nllb' holds 5; expected an English text, a list of them, or nothing; mend"),
        ({"nllb": ["a", 7], "s": [1, 2]}, "row 1, column 'nllb' holds 7"),
        ({"text": None}, "row 1, column 'text' holds None; expected a string"),
        ({"language": 3}, "row 1, column 'language' holds 3; expected a string"),
        ({"s": "high"}, "row 1, column 's' holds 'high'; expected a number, or nothing"),
        ({"s": True}, "row 1, column 's' holds True"),
        ({"s": float("nan")}, "row 1, column 's' holds nan"),
        ({"nllb": ["a", "b"], "s": [1.0]}, r"row 1, column 's' holds \[1.0\]; expected a list of 2 scores"),
        ({"nllb": ["a", "b"]}, "row 1, column 's' holds 1.0; expected a list of 2 scores, as 'nllb' has"),
    ],
)
def test_wrong_cells(change, message):
    rows = [{**row, "s": 1.0} for row in ROWS]
    rows[1] |= change
    with pytest.raises(ValueError, match=message):
        ColumnTranslator(rows, candidate_columns=["nllb"], score_columns=["s"])


def test_wrong_rows_and_files(tmp_path):
    with pytest.raises(ValueError, match=r"row 0 has the columns \['text', .*\]; expected 'translation' among them"):
        ColumnTranslator(ROWS)
    with pytest.raises(ValueError, match="row 1 is 'x'; expected a dictionary"):
        ColumnTranslator([ROWS[0], "x"], candidate_columns="nllb")
    with pytest.raises(ValueError, match="rows has no row"):
        ColumnTranslator([])
    with pytest.raises(ValueError, match="score column for each or none"):
        ColumnTranslator(ROWS, candidate_columns=["google", "nllb"], score_columns="s")
    with pytest.raises(ValueError, match=r"ends with '.xlsx'; expected one of \['.csv', '.jsonl', '.parquet', '.tsv'"):
        ColumnTranslator(tmp_path / "rows.xlsx")
    with pytest.raises(FileNotFoundError):
        ColumnTranslator(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".jsonl", '{"text": "a", "language": "id", "translation": "b"}\n\n{"text": \n', "jsonl, line 3 is no JSON"),
        (".jsonl", "[1]\n", "jsonl, line 1 is '.1.'; expected a JSON object"),
        (".jsonl", '\n{"text": "a", "translation": "b"}\n', "jsonl, line 2 has the columns .* expected 'language'"),
        (".csv", "text,language,translation\na,id,b\na,id\n", "csv, line 3 has more or fewer than 3 fields"),
        (".csv", "text,language,translation\na,id,b,c\n", "csv, line 2 has more or fewer than 3 fields"),
        (".csv", 'text,language,translation\n"a"x,id,b\n', "csv, after line 1: no row"),
        (".tsv", "text\ttranslation\na\tb\n", "tsv, line 2 has the columns .* expected 'language'"),
    ],
)
def test_wrong_lines(suffix, content, message, tmp_path):
    (tmp_path / f"rows{suffix}").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        ColumnTranslator(tmp_path / f"rows{suffix}")


def test_a_csv_field_with_a_line_break(tmp_path):
    (tmp_path / "rows.csv").write_text('text,language,translation\n"a\nb",id,"c, ""d"""\n', encoding="utf-8")
    one = ColumnTranslator(tmp_path / "rows.csv")
    assert texts_of(one.translate(["a\nb"], "id", 1)) == [['c, "d"']]
