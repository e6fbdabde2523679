"""Rows from every kind of file, and all that is wrong with one in one message."""

import json
import re

import pyarrow as pa
import pyarrow.parquet
import pytest

from lira_hf.data import DataError
from lira_hf.inference import TextRow, check_rows, read_rows


GOOD = [TextRow("1", "กรุงเทพ, เมือง", "th", None), TextRow("b", 'say "red"', "ur", None)]


def write(path, name):
    file = path / name
    columns = {"id": ["1", "b"], "text": [row.text for row in GOOD], "language": ["th", "urd"], "note": [1, 2]}
    name = name.lower()
    if name.endswith("jsonl"):
        rows = [{"_id": 1, "title": "", "text": GOOD[0].text, "metadata": {"language": "th"}}]
        rows += [{"id": "b", "title": "say", "text": '"red"', "language": "ur"}]
        file.write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\r\n", encoding="utf-8")
    elif name.endswith("tsv"):
        file.write_text(f'text\tid\tlanguage\n{GOOD[0].text}\t1\tth\n\nsay "red"\tb\tur\n', encoding="utf-8")
    elif name.endswith("csv"):
        file.write_text(f'language,id,text\nth,1,"{GOOD[0].text}"\n\nur,b,"say ""red"""\n', encoding="utf-8-sig")
    else:
        pa.parquet.write_table(pa.table(columns), file)
    return file


@pytest.mark.parametrize("name", ["a.jsonl", "a.tsv", "a.csv", "a.parquet", "A.CSV"])
def test_every_form_gives_the_same_rows(tmp_path, name):
    file = write(tmp_path, name)
    assert list(read_rows(file)) == GOOD
    assert check_rows(file) == 2


def test_lines_folders_and_candidates(tmp_path, tiny_data):
    (tmp_path / "a.txt").write_text("red moon\n\n  blue \n", encoding="utf-8")
    expected = [TextRow("1", "red moon", "en"), TextRow("3", "blue", "en")]
    assert list(read_rows(tmp_path / "a.txt", default_language="en")) == expected
    assert [row.language for row in read_rows(tmp_path / "a.txt", default_language="und")] == [None, None]
    assert check_rows(tiny_data, default_language="en") == 48
    assert {row.language for row in read_rows(tiny_data, "queries")} == {"vi", "ur"}
    with pytest.raises(FileNotFoundError, match=r"there is no '.*corpus.jsonl'; expected a BEIR folder, a .jsonl"):
        check_rows(tmp_path)
    table = pa.table({"id": [7], "text": ["derv"], "language": ["vi"], "candidates": [["red", "blue"]]})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet")) == [TextRow("7", "derv", "vi", ["red", "blue"])]
    (tmp_path / "long.csv").write_text(f"id,text,language\n1,{'x' * 200_000},en\n")
    assert len(next(read_rows(tmp_path / "long.csv")).text) == 200_000


def test_everything_wrong_is_told_at_once_with_its_row(tmp_path):
    file = tmp_path / "bad.jsonl"
    rows = [
        b'{"id": "a", "text": "good", "language": "vi"}',
        b'{"id": "b", "text": "cut',
        b'["no", "object"]',
        b'{"text": "no id", "language": "vi"}',
        b'{"id": "c", "text": "  ", "language": "vi"}',
        b'{"id": "d", "text": "x", "language": "bengla"}',
        b'{"id": "e", "text": "no language"}',
        b'{"id": "f", "text": "none either"}',
        b'{"id": "g", "text": "\xff", "language": "vi"}',
        b'{"id": "a", "text": "again", "language": "vi"}',
        b'{"id": "h", "text": "x", "language": "vi", "candidates": "red"}',
    ]
    file.write_bytes(b"\n".join(rows))
    with pytest.raises(DataError) as raised:
        check_rows(file)
    message = str(raised.value)
    assert message.startswith("9 problems in the data:")
    for row, field, got in (
        (2, None, "Unterminated string"),
        (3, None, "expected a JSON object"),
        (4, "id", "got None; expected an id"),
        (5, "text", "expected a text"),
        (6, "language", "unknown language tag 'bengla'"),
        (7, "language", "no language, here or in rows further down.*name the field 'language', or give --language"),
        (9, "text", "bytes that are no UTF-8"),
        (10, "id", "got the id that row 1 has; expected each id once"),
        (11, "candidates", "got 'red'; expected a list of English texts"),
    ):
        place = f"{file}, row {row}" + (f", field `{field}`" if field else "")
        assert re.search(f"{re.escape(place)}: .*{got}", message), (row, message)
    with pytest.raises(DataError, match="row 2"):  # without a check the first one ends the reading
        list(read_rows(file))
    with pytest.raises(DataError, match="^8 problems"):
        check_rows(file, default_language="vi")
    with pytest.raises(ValueError, match="unknown language tag 'bengla'"):
        check_rows(file, default_language="bengla")


def test_tables_that_are_none(tmp_path):
    for name, content, message in (
        ("a.csv", "key,text\n1,x\n", r"row 1: got the columns \['key', 'text'\]; expected columns named 'id' and"),
        ("b.csv", 'id,text\n1,"x\n2,y\n', "no row .*expected fields with closed quotes"),
        ("c.tsv", "id\ttext\n1\tx\ty\n", "row 2: got 3 cells; expected 2 cells"),
        ("d.parquet", "PAR1", "expected a whole Parquet file"),
        ("e.tsv", "", "got the columns"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=message):
            check_rows(tmp_path / name, default_language="en")
    for name, content in (("f.txt", "\n \n"), ("g.jsonl", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="without any text; expected at least one"):
            check_rows(tmp_path / name, default_language="en")


def test_a_file_that_is_all_wrong_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("lira_hf.inference.rows._MOST_PROBLEMS", 30)
    (tmp_path / "a.jsonl").write_text("no JSON\n" * 1000)
    with pytest.raises(DataError, match=r"^30 problems") as raised:
        check_rows(tmp_path / "a.jsonl")
    assert len(raised.value.problems) == 30
