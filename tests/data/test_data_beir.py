import json

import pytest

from lira_hf.data import BeirDataset, DataError, Query, read_beir, write_beir


CORPUS = {"d1": "Rice cooker", "d2": "Nồi cơm điện", "d3": "A lone \ud800 surrogate"}
QUERIES = {"q1": Query("nồi cơm", "vi"), "q2": Query("چاول", "ur"), "q3": Query("no language")}
QRELS = {"test": {"q1": {"d1": 1, "d2": 0}, "q3": {"d3": 2}}, "dev": {"q2": {"d1": 1}}}


def folder_of(tmp_path, corpus=(), queries=(), qrels=("query-id\tcorpus-id\tscore",), end="\n"):
    (tmp_path / "qrels").mkdir()
    for name, rows in (("corpus.jsonl", corpus), ("queries.jsonl", queries), ("qrels/test.tsv", qrels)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_bytes(("\ufeff" + end.join(lines) + end).encode("utf-8", "surrogateescape"))
    return tmp_path


def test_round_trip(tmp_path):
    write_beir(tmp_path / "set", CORPUS, {**QUERIES, "q3": "no language"}, QRELS)
    test = read_beir(tmp_path / "set")
    assert test == BeirDataset(CORPUS, {key: QUERIES[key] for key in ("q1", "q3")}, QRELS["test"])
    dev = read_beir(tmp_path / "set", "dev", default_language="tl")
    assert (dev.queries, dev.qrels) == ({"q2": QUERIES["q2"]}, QRELS["dev"])
    assert read_beir(tmp_path / "set", default_language="tl").queries["q3"].language == "fil"
    assert not list((tmp_path / "set").rglob("*.tmp"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_is_tolerated(tmp_path, end):
    corpus = [{"_id": 7, "title": "Title ", "text": " text\u2028more", "url": "x"}, "", {"_id": "b", "title": "Only"}]
    queries = [{"_id": "q", "text": "hỏi", "metadata": {"language": "tl"}}, {"_id": "spare", "text": "unjudged"}]
    qrels = ["corpus-id\tscore\tquery-id\tnote", "7\t1\tq\tx", "b\t-1\tq\ty", "7\t1\tq\tagain"]
    data = read_beir(folder_of(tmp_path, corpus, queries, qrels, end))
    assert data.corpus == {"7": "Title text\u2028more", "b": "Only"}
    assert data.queries == {"q": Query("hỏi", "fil")}
    assert data.qrels == {"q": {"7": 1, "b": -1}}


def test_every_problem_of_one_pass(tmp_path, caplog):
    corpus = [
        {"_id": "good", "text": "text"},
        '{"_id": "cut", "text": "te',
        {"id": "1", "text": "no _id"},
        {"_id": "good", "text": "again"},
        {"_id": "empty", "title": "", "text": " "},
        '["a list"]',
        '{"_id": "bytes", "text": "\udce1"}',
        {"_id": "number", "text": 5},
        {"_id": True, "text": "x"},
    ]
    queries = [{"_id": "q", "text": "hỏi"}, {"_id": "q2", "text": None}, {"_id": "q3", "text": "x", "language": "xx"}]
    qrels = [
        "query-id\tcorpus-id\tscore",
        "q\tgood\t1",
        "q\tnowhere\t1",
        "nobody\tgood\t1",
        "q\tgood\t1.5",
        "q\tgood",
        "q\tgood\t0",
        "q2\tgood\t1",
    ]
    root = folder_of(tmp_path, corpus, queries, qrels)
    with pytest.raises(DataError) as caught:
        read_beir(root)
    found = [(problem.file.removeprefix(f"{root}/"), problem.row, problem.field) for problem in caught.value.problems]
    assert found == [
        ("corpus.jsonl", 2, None),
        ("corpus.jsonl", 3, "_id"),
        ("corpus.jsonl", 4, "_id"),
        ("corpus.jsonl", 5, "text"),
        ("corpus.jsonl", 6, None),
        ("corpus.jsonl", 7, None),
        ("corpus.jsonl", 8, "text"),
        ("corpus.jsonl", 9, "_id"),
        ("queries.jsonl", 2, "text"),
        ("queries.jsonl", 3, "language"),
        ("qrels/test.tsv", 3, "corpus-id"),
        ("qrels/test.tsv", 4, "query-id"),
        ("qrels/test.tsv", 5, "score"),
        ("qrels/test.tsv", 6, None),
        ("qrels/test.tsv", 7, "score"),
        ("qrels/test.tsv", 8, "query-id"),
    ]
    message = str(caught.value)
    assert (
        "row 3, field `corpus-id`: got 'nowhere'; expected the `_id` of a good row of corpus.jsonl; to fix:" in message
    )
    assert "got 'good', which row 1 has; expected each id once" in message
    assert "got '1.5'; expected an integer" in message
    assert "got 0 for query 'q' and document 'good', judged 1 above" in message
    with caplog.at_level("WARNING"):
        data = read_beir(root, on_error="skip")
    assert data == BeirDataset({"good": "text"}, {"q": Query("hỏi")}, {"q": {"good": 1}})
    assert "16 problems" in caplog.text


def test_missing_files_and_header(tmp_path):
    with pytest.raises(FileNotFoundError, match="without corpus.jsonl, queries.jsonl, qrels/test.tsv; expected"):
        read_beir(tmp_path)
    root = folder_of(tmp_path, [{"_id": "d", "text": "x"}], [{"_id": "q", "text": "x"}], ["q 0 d 1"])
    with pytest.raises(FileNotFoundError, match=r"with the splits \['test'\] and without qrels/train.tsv"):
        read_beir(root, "train")
    with pytest.raises(DataError, match=r"(?s)field `query-id`: got the columns \['q 0 d 1'\].*field `score`"):
        read_beir(root)
    with pytest.raises(ValueError, match="unknown language tag 'xx'"):
        read_beir(root, default_language="xx")


def test_writing_is_all_or_nothing(tmp_path):
    write_beir(tmp_path, CORPUS, QUERIES, QRELS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    bad_queries = {"q1": Query(" "), "q\n2": "text", "q3": Query("x", "xx")}
    with pytest.raises(DataError) as caught:
        write_beir(tmp_path, {"d1": "x"}, bad_queries, {"test": {"q1": {"d1": 1, "d9": 1}, "q9": {"d1": 1}}})
    fields = [(problem.file.rpartition("/")[2], problem.row, problem.field) for problem in caught.value.problems]
    assert fields == [
        ("queries.jsonl", 1, "text"),
        ("queries.jsonl", 2, "_id"),
        ("queries.jsonl", 3, "language"),
        ("test.tsv", 3, "corpus-id"),
        ("test.tsv", 4, "query-id"),
    ]
    # Failing midway (the last file's folder isn't there), the files written first must not have moved.
    with pytest.raises(FileNotFoundError):
        write_beir(tmp_path, {"d1": "new"}, {"q1": "new"}, {"no/such": {"q1": {"d1": 1}}})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_documents_may_name_their_language(tmp_path):
    write_beir(tmp_path / "set", CORPUS, QUERIES, QRELS, {"d1": "en", "d2": "tl"})
    data = read_beir(tmp_path / "set", default_language="ur")
    assert data.document_languages == {"d1": "en", "d2": "fil"}  # the default is the queries'
    assert data.corpus == CORPUS
    lines = (tmp_path / "set" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    assert ["language" in json.loads(line) for line in lines] == [True, True, False]
    corpus = [
        {"_id": "a", "text": "x", "metadata": {"language": "tl"}},
        {"_id": "b", "text": "x", "language": "xx"},
        {"_id": "c", "text": "x", "language": 7},
    ]
    root = folder_of(tmp_path, corpus, [{"_id": "q", "text": "x"}], ["query-id\tcorpus-id\tscore", "q\ta\t1"])
    with pytest.raises(DataError) as caught:
        read_beir(root)
    assert [(problem.row, problem.field, problem.got) for problem in caught.value.problems] == [
        (2, "language", "'xx'"),
        (3, "language", "7"),
    ]
    skipped = read_beir(root, on_error="skip")
    assert (skipped.corpus, skipped.document_languages) == ({"a": "x"}, {"a": "fil"})


def test_wrong_document_languages_are_not_written(tmp_path):
    with pytest.raises(DataError) as caught:
        write_beir(tmp_path / "set", CORPUS, QUERIES, QRELS, {"d2": "xx", "d9": "vi"})
    found = [(problem.row, problem.field, problem.got) for problem in caught.value.problems]
    assert found == [(2, "language", "'xx'"), (None, "language", "'d9'")]
    assert not (tmp_path / "set").exists()
