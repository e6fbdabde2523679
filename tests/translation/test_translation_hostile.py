"""What once broke the store, its imports or the readers of replies, or hung them: one minimal example each."""

import json
import time
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lira_hf.translation import Candidate, CandidateStore, ColumnTranslator, Identity, StoreError, import_store
from lira_hf.translation.chat import Reply
from lira_hf.translation.chat_translator import parse_translations
from lira_hf.translation.judge import parse_scores
from lira_hf.translation.parallel import ParallelText
from lira_hf.translation.segmentation import Segmenter, placeholders
from lira_hf.translation.unicode_forms import normal_form


WHO = Identity("made up", "1")
ROW = {
    "language": "ur",
    "text": "x",
    "translator": "t",
    "fingerprint": "f",
    "rank": 0,
    "candidate": "c",
    "kind": "k",
}
GRADES = {"critic": "c", "fingerprint": "f", "semantic": 1, "emotional": 1, "pragmatic": 1}


@pytest.fixture
def store(tmp_path):
    with CandidateStore(tmp_path / "store.sqlite") as opened:
        yield opened


@pytest.fixture
def quick():
    """Each of these took minutes to hours; now none takes a second on an idle machine."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 15


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"score": 10**400}, "score is 1000"),
        ({"scores": [GRADES | {"semantic": 10**400}]}, "semantic is 1000"),
        ({"meta": "[" * 100_000}, "meta is"),
        ({"meta": '{"a": "\ud800"}'}, "meta is"),
        ({"meta": 5}, "meta is 5"),
    ],
)
def test_imports_name_the_row(store, tmp_path, fields, message):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW | fields) + "\n", encoding="utf-8")
    with pytest.raises(StoreError, match=rf"rows.jsonl, row 1: (scores\[0\]: )?{message}"):
        import_store(store, tmp_path / "rows.jsonl")
    assert len(store) == 0


def test_whole_scores_of_more_than_64_bits(store, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW | {"score": 10**20}) + "\n", encoding="utf-8")
    assert import_store(store, tmp_path / "rows.jsonl").candidates == 1
    assert store.get("ur", ["x"])[0][0].score == 1e20
    store.add("ur", [("y", [Candidate("c", "k", "t", 10**20)])], WHO)
    assert store.get("ur", ["y"])[0][0].score == 1e20


def test_import_of_parquet_text_that_is_no_utf8(store, tmp_path):
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    pq.write_table(
        pa.table({name: text if name == "text" else [value] for name, value in ROW.items()}), tmp_path / "a.parquet"
    )
    with pytest.raises(StoreError, match="a.parquet can't be read"):
        import_store(store, tmp_path / "a.parquet")


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), 10**400, "8"])
def test_scores_that_sqlite_would_change_are_refused(store, score):
    with pytest.raises(ValueError, match=r"row 1 \('b'\) has the score .*; expected a finite number or None"):
        store.add("ur", [("a", [Candidate("x", "k", "t", 0.5)]), ("b", [Candidate("y", "k", "t", score)])], WHO)
    assert len(store) == 0


def test_names_that_no_export_could_bring_back_are_refused(store):
    for language in ("", "\ud800", None):
        with pytest.raises(ValueError, match="language is .*; expected a string that isn't empty"):
            store.add(language, [("a", [])], WHO)
    for candidate in (Candidate("x", "", "t"), Candidate("x", "\ud800", "t"), Candidate("x", "k", "")):
        with pytest.raises(ValueError, match="of a candidate of row 0"):
            store.add("ur", [("a", [candidate])], WHO)
    with pytest.raises(TypeError, match="row 0 .'a'. has the candidate 5; expected a string"):
        store.add("ur", [("a", [Candidate(5, "k", "t")])], WHO)
    with pytest.raises(TypeError, match="row 0 has the text 5; expected a string"):
        store.add("ur", [(5, [])], WHO)


def test_meta_with_half_a_character_comes_back(store):
    store.add("ur", [("a", [])], WHO, meta={"prompt": "\ud83d"})
    assert store.provenance()["translators"][0]["meta"] == {"prompt": "\ud83d"}


def test_grades_with_white_space_without_end(quick):
    assert parse_scores(Reply('{"s": "8' + " " * 60_000 + 'x", "e": 7, "p": 9}'), 2) == [None, None]
    assert parse_scores(Reply('{"s": "8' + " " * 60_000 + '/ 10", "e": 7, "p": 9}'), 1) == [(8, 7, 9)]


def test_keys_of_digits_and_marks_without_end(quick):
    assert parse_scores(Reply('{"' + "1" * 60_000 + 'x": {"s": 1}}'), 1) == [None]
    assert parse_scores(Reply('{"' + "\u0301\u0327" * 15_000 + '": "' + "\u0301\u0327" * 15_000 + '"}'), 1) == [None]


def test_replies_of_line_ends_alone(quick):
    assert parse_translations(Reply("\n" * 60_000)) is None
    assert parse_translations(Reply("1. one\n 2) two\n\n\n- three")) == ["one", "two", "three"]


@pytest.mark.parametrize("depth", [100, 990])
def test_grades_nested_without_end(depth):
    nested = "[" * depth + "]" * depth
    assert parse_scores(Reply('{"id": ' + nested + ', "s": 1, "e": 2, "p": 3}'), 1) in ([(1, 2, 3)], [None])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a", "translation": "b", "language": "ur"}\n{"text": "\xff"}\n', "line 2 is no JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1 is no JSON"),
        ("a.csv", b"text,translation,language\na,b,ur\n\xff,b,ur\n", "after line"),
        ("a.parquet", b"PAR1 and no more PAR1", "can't be read"),
    ],
)
def test_columns_name_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        ColumnTranslator(tmp_path / name)


def test_columns_of_long_texts_and_odd_scores(tmp_path):
    text = "a" * 200_000
    (tmp_path / "a.csv").write_text(f"text,translation,language\n{text},b,ur\n", encoding="utf-8")
    assert ColumnTranslator(tmp_path / "a.csv").translate([text], "ur", 1)[0][0].text == "b"
    for score in (10**400, "1_0"):
        row = {"text": "a", "translation": "b", "language": "ur", "s": score}
        with pytest.raises(ValueError, match="row 0, column 's' holds"):
            ColumnTranslator([row], score_columns="s")


@pytest.mark.parametrize("line", [b"5", b'"abc"', b"[" * 5000, b'["ur", "a", 5]', b'["ur", "\xff", "b"]'])
def test_damaged_parallel_text_names_the_line(tmp_path, line):
    (tmp_path / "parallel.jsonl").write_bytes(b'["ur", "a", "b"]\n' + line + b"\n")
    with pytest.raises(ValueError, match="parallel.jsonl, line 2 is"):
        ParallelText.load(tmp_path / "parallel.jsonl")


def test_texts_without_end_are_split_in_linear_time(quick):
    for text in ("%" + "0" * 100_000, "{" + " " * 100_000, "a" + "\u0301\u0327" * 50_000):
        placeholders(text)
        Segmenter().split(text)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_normal_forms_are_unicodes(form):
    marks = (
        "".join(chr(code) for code in range(0x300, 0xFA0) if unicodedata.category(chr(code))[0] == "M")
        + "\uff9e\uff9f"
    )
    for text in (marks, marks[::-1], "か" + marks[::-3], "a" + marks[::7] + "\u0344\u0f73\u0f75\u0f81" * 20 + "ﬁ"):
        assert normal_form(form, text) == unicodedata.normalize(form, text)
