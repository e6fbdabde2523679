import pytest

from lira_hf.data import DataProblem, installed_catalogs, validate_path, write_beir


def test_good_data_has_no_problems(tmp_path):
    write_beir(tmp_path, {"d": "x"}, {"q": "x"}, {"test": {"q": {"d": 1}}, "dev": {"q": {"d": 0}}})
    assert validate_path(tmp_path) == []
    assert validate_path(tmp_path / "corpus.jsonl") == []
    catalogue = installed_catalogs("django", ["vi"])[0]
    assert validate_path(catalogue) == []
    assert validate_path(catalogue.parent) == []


def test_beir_folder_is_checked_in_all_splits(tmp_path):
    write_beir(tmp_path, {"d": "x"}, {"q": "x"}, {"test": {"q": {"d": 1}}, "dev": {"q": {"d": 0}}})
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq\tgone\t1\n")
    with open(tmp_path / "corpus.jsonl", "a") as file:
        file.write("not json\n")
    found = [(problem.file.rpartition("/")[2], problem.row) for problem in validate_path(tmp_path)]
    assert found == [
        ("corpus.jsonl", 2),
        ("dev.tsv", 2),
    ]
    (tmp_path / "queries.jsonl").unlink()
    assert [problem.file.rpartition("/")[2] for problem in validate_path(tmp_path)] == ["queries.jsonl"]


def test_files_are_recognised_by_their_ending(tmp_path):
    (tmp_path / "a.tsv").write_text("language\ttext\tenglish\nxx\ta\tb\n")
    (tmp_path / "vi.po").write_text('msgid "a"\nmsgstr "b\n')
    (tmp_path / "vi.mo").write_bytes(b"\xde\x12\x04\x95")
    (tmp_path / "notes.txt").write_text("x")
    rows = {name: [problem.row for problem in validate_path(tmp_path / name)] for name in ("a.tsv", "vi.po", "vi.mo")}
    assert rows == {"a.tsv": [2], "vi.po": [2], "vi.mo": [None]}


@pytest.mark.parametrize(
    ("name", "got"), [("nowhere", "nothing of this name"), ("notes.txt", "'.txt'"), ("empty", "none of these")]
)
def test_what_it_cannot_recognise_is_a_problem(tmp_path, name, got):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (problem,) = validate_path(tmp_path / name)
    assert isinstance(problem, DataProblem)
    assert got in problem.got
    assert "BEIR folder" in problem.expected
