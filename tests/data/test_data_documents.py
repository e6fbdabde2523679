import json

import pytest

from lira_hf.data import BeirDataset, DataError, read_documents


ROWS = [
    {"_id": "a", "title": "Rice", "text": "cooker"},
    {"_id": "b", "text": "Nồi cơm điện", "language": "VI"},
    {"_id": "c", "text": "kusinilya", "metadata": {"language": "tl"}},
]


def write(folder, rows):
    file = folder / "corpus.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


def test_documents_of_a_folder_or_file_with_their_languages(tmp_path):
    file = write(tmp_path, ROWS)
    expected = BeirDataset(
        corpus={"a": "Rice cooker", "b": "Nồi cơm điện", "c": "kusinilya"},
        document_languages={"b": "vi", "c": "fil"},
    )
    assert read_documents(tmp_path) == read_documents(file) == expected
    assert list(read_documents(file).corpus) == ["a", "b", "c"]


def test_lines_of_text_name_no_language(tmp_path):
    file = tmp_path / "documents.txt"
    file.write_text("one\n\n  two \n", encoding="utf-8")
    assert read_documents(file) == BeirDataset(corpus={"1": "one", "3": "two"})


def test_what_is_wrong_is_said(tmp_path):
    file = write(tmp_path, [*ROWS, {"_id": "d", "text": "x", "language": "xx-nonsense"}, {"_id": "e"}])
    with pytest.raises(DataError, match="(?s)language.*xx-nonsense.*text") as caught:
        read_documents(file)
    assert [(problem.row, problem.field) for problem in caught.value.problems] == [(4, "language"), (5, "text")]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="without any document; expected at least one"):
        read_documents(tmp_path / "empty.txt")
    with pytest.raises(FileNotFoundError, match="none'.*expected a BEIR folder"):
        read_documents(tmp_path / "none")


def test_lines_in_another_encoding_are_refused(tmp_path):
    """They would be embedded as garbage, and couldn't even be printed."""
    file = tmp_path / "documents.txt"
    file.write_bytes(b"one\n" + "เมือง\n".encode("cp874"))
    with pytest.raises(DataError, match="row 2: got bytes that are no UTF-8.*expected UTF-8"):
        read_documents(file)
