"""What once broke a reader or writer, or made it give another answer: one minimal example each."""

import json
import struct
import time
import unicodedata
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lira_hf.data import (
    DataError,
    ParallelPair,
    Query,
    SimilarityPair,
    normalize_language,
    read_beir,
    read_chat,
    read_fluent,
    read_gettext,
    read_json_messages,
    read_sts,
    read_tsv,
    tidy_text,
    validate_path,
    write_beir,
    write_sts,
    write_tsv,
)
from lira_hf.data.po_entries import parse_po


@pytest.fixture
def quick():
    """Each of these took minutes to hours; now none takes a second on an idle machine."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 15


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_marks_without_end(quick):
    marks = "a" + "\u0301\u0327" * 50_000
    ordered = "a" + "\u0327" * 50_000 + "\u0301" * 50_000
    assert tidy_text(marks) == unicodedata.normalize("NFC", ordered)


def test_placeholders_without_end(quick, tmp_path):
    for text in ("%" + "0" * 100_000, "{" + " " * 100_000, "[//" * 50_000):
        write(tmp_path / "vi.po", f'msgid "hello {text}"\nmsgstr "chào {text}"\n')
        assert len(read_gettext(tmp_path / "vi.po")) == 1
        write(tmp_path / "i18n" / "en.json", json.dumps({"a": f"hello {text}"}))
        write(tmp_path / "i18n" / "vi.json", json.dumps({"a": f"chào {text}"}))
        assert len(read_json_messages(tmp_path / "i18n")) == 1


def test_po_strings_of_many_lines(quick):
    assert parse_po("x", b'msgid ""\n' + b'"a"\n' * 100_000 + b'msgstr "b"').entries[0].english == ("a" * 100_000,)


def test_po_numbers_of_more_digits_than_python_reads():
    digits = b"1" * 5000
    plural = b'msgid "a"\nmsgid_plural "b"\nmsgstr[0] "c"\nmsgstr[' + digits + b'] "d"\n'
    assert [problem.row for problem in parse_po("x", plural).problems] == [4]
    header = b'msgid ""\nmsgstr "Plural-Forms: nplurals=' + digits + b'; plural=0;\\n"\n'
    assert parse_po("x", header).plural_count == 2


@pytest.mark.parametrize("charset", ["utf-16", "idna", "undefined", "hex", "no-such"])
def test_po_charsets_that_the_file_is_not_in(charset):
    found = parse_po("x", f'# charset={charset}\nmsgid "a"\nmsgstr "b"'.encode())
    assert [problem.field for problem in found.problems] == ["Content-Type"]
    assert len(found.entries) == 1


def test_po_form_that_lacks_is_not_replaced_by_the_next(tmp_path):
    header = 'msgid ""\nmsgstr "Plural-Forms: nplurals=3; plural=n==1 ? 0 : 1;\\n"\n\n'
    path = write(tmp_path / "ru.po", header + 'msgid "a"\nmsgid_plural "as"\nmsgstr[0] "x"\nmsgstr[2] "z"\n')
    with pytest.raises(DataError, match=r"row 4, field `msgstr\[1\]`: got msgstr\[2\] without it"):
        read_gettext(path)


def test_plural_rule_below_zero_is_none(tmp_path):
    header = 'msgid ""\nmsgstr "Plural-Forms: nplurals=2; plural=n-8;\\n"\n\n'
    path = write(
        tmp_path / "ru.po", header + 'msgid "file"\nmsgid_plural "files"\nmsgstr[0] "один"\nmsgstr[1] "два"\n'
    )
    assert [(pair.english, pair.text) for pair in read_gettext(path)] == [("file", "один"), ("files", "два")]


def test_mo_strings_that_overlap(quick, tmp_path):
    count, length = 20_000, 100_000
    start = 28 + 16 * count
    table = struct.pack("<2I", length, start) * count
    content = struct.pack("<7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0) + table + table + b"a" * (length + 1)
    with pytest.raises(DataError, match="strings of 4000000000 bytes, which overlap"):
        read_gettext(write(tmp_path / "th.mo", content))


def fluent(folder, english, thai):
    write(folder / "localization" / "en-US" / "x.ftl", english)
    write(folder / "localization" / "th" / "x.ftl", thai)
    return read_fluent(folder, on_error="skip")


def test_fluent_terms_within_terms(quick, tmp_path):
    bomb = "".join(f"-t{n} = {{ -t{n + 1} }}{{ -t{n + 1} }}\n" for n in range(40)) + "-t40 = x\n"
    chain = (
        "".join(f"-c{n} = {{ -c{n + 1} }}\n" for n in range(1000)) + "-c1000 = x\n-good = Fire { -fox }\n-fox = fox\n"
    )
    pairs = fluent(
        tmp_path, bomb + chain + "a = b { -t0 }{ -c0 }\nb = The { -good }\n", "a = ก { -t0 }\nb = ข { -good }\n"
    )
    assert [(pair.text, pair.english) for pair in pairs][1:] == [("ข Fire fox", "The Fire fox")]
    assert len(pairs[0].text) < 1000


def test_fluent_nesting_without_end_spoils_its_entry_alone(tmp_path):
    pairs = fluent(tmp_path, "a = " + "{" * 5000 + "\nb = hello\n", "a = ก\nb = ข\n")
    assert [(pair.text, pair.english) for pair in pairs] == [("ข", "hello")]


def test_fluent_rows(tmp_path):
    pairs = fluent(
        tmp_path, "".join(f"a{n} = b{n}\n" for n in range(300)), "".join(f"a{n} = ก{n}\n" for n in range(300))
    )
    assert [pair.row for pair in pairs] == list(range(1, 301))


def test_json_numbers_of_more_digits_than_python_reads(tmp_path):
    write(tmp_path / "en.json", '{"a": "hello"}')
    write(tmp_path / "th.json", '{\n"b": ' + "1" * 5000 + ',\n"a": "ก"\n}')
    with pytest.raises(DataError, match="1 entries on lines of their own are kept"):
        read_json_messages(tmp_path)
    assert [pair.text for pair in read_json_messages(tmp_path, on_error="skip")] == ["ก"]


def test_unknown_languages_without_end(quick):
    for number in range(2000):
        with pytest.raises(ValueError, match="expected a tag that CLDR knows"):
            normalize_language(f"klingon{number % 3}")
    with pytest.raises(ValueError, match="expected a tag") as caught:
        normalize_language("k" * 1_000_000)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["x" * 200_000, "a\rb", "a\r\nb", 'a "b"', "a\0b", " a ", "\u2028", "'=1+1"])
def test_csv_comes_back_as_it_was(tmp_path, text):
    text += "."
    write_sts(tmp_path / "sts.csv", [SimilarityPair(text, "b", 1.0)])
    assert read_sts(tmp_path / "sts.csv")[0].text1 == text
    assert validate_path(tmp_path / "sts.csv") == []


def test_csv_header_of_any_length_is_a_problem_and_no_error(tmp_path):
    assert len(validate_path(write(tmp_path / "a.csv", "a" * 200_000 + "\n"))) == 1
    assert len(validate_path(write(tmp_path / "b.csv", '"a\n"'))) == 1


def test_columns_that_are_there_twice(tmp_path):
    table = write(tmp_path / "sts.tsv", "sentence1\tsentence1\tsentence2\tscore\na\tb\tc\t1\n")
    with pytest.raises(DataError, match="row 1, field `sentence1`: got 2 columns of this name; expected one"):
        read_sts(table)
    with pytest.raises(DataError, match="field `text`: got 2 columns"):
        read_tsv(write(tmp_path / "pairs.tsv", "language\ttext\ttext\tenglish\nur\ta\tb\tc\n"))
    with pytest.raises(DataError, match="field `prompt`: got 2 columns"):
        read_chat(write(tmp_path / "chat.csv", "prompt,prompt,completion\na,b,c\n"))
    write_beir(tmp_path / "beir", {"d": "x"}, {"q": "y"}, {"test": {"q": {"d": 1}}})
    write(tmp_path / "beir" / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\tscore\nq\td\t1\t2\n")
    with pytest.raises(DataError, match="field `score`: got 2 columns"):
        read_beir(tmp_path / "beir")


@pytest.mark.parametrize("score", [0.5, float("nan"), float("inf"), 10**30, "much", None])
def test_relevance_is_an_integer_or_an_error(tmp_path, score):
    with pytest.raises(DataError, match="test.tsv, row 2, field `score`"):
        write_beir(tmp_path, {"d": "x"}, {"q": "y"}, {"test": {"q": {"d": score}}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("score", ["1_0", "٣", "9" * 5000, "1.0", ""])
def test_relevance_is_read_in_plain_digits(tmp_path, score):
    write_beir(tmp_path, {"d": "x"}, {"q": "y"}, {"test": {"q": {"d": 1}}})
    write(tmp_path / "qrels" / "test.tsv", f"query-id\tcorpus-id\tscore\nq\td\t{score}\n")
    with pytest.raises(DataError, match="test.tsv, row 2, field `score`"):
        read_beir(tmp_path)


def test_beir_of_wrong_types_names_the_row(tmp_path):
    with pytest.raises(DataError, match="corpus.jsonl, row 1, field `text`: got 5"):
        write_beir(tmp_path, {"d": 5}, {"q": "y"}, {})
    with pytest.raises(DataError, match="queries.jsonl, row 1, field `language`: got 5"):
        write_beir(tmp_path, {"d": "x"}, {"q": Query("y", 5)}, {})


def test_parallel_text_of_an_unknown_language_is_not_written(tmp_path):
    with pytest.raises(DataError, match="row 2, field `language`: got 'klingonese'"):
        write_tsv(tmp_path / "pairs.tsv", [ParallelPair("klingonese", "a", "b", "o")])
    assert list(tmp_path.iterdir()) == []


def test_parquet_text_that_is_no_utf8(tmp_path):
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"sentence1": text, "sentence2": ["a"], "score": [1.0]}), tmp_path / "sts.parquet")
    assert "can't be read after row 0" in str(validate_path(tmp_path / "sts.parquet")[0])
    pq.write_table(pa.table({"prompt": text, "completion": ["a"]}), tmp_path / "chat.parquet")
    assert "can't be read after row 0" in str(validate_path(tmp_path / "chat.parquet")[0])


def test_parquet_columns_whose_names_are_no_utf8(tmp_path):
    path = tmp_path / "sts.parquet"
    pq.write_table(pa.table({"sentence1": ["a"], "sentence2": ["b"], "score": [1.0]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"sentence1", b"sent\xffnce1"))
    assert len(validate_path(path)) == 1
    with pytest.raises(DataError, match="can't be read after row 0"):
        read_sts(path)


def test_archive_members_that_lie(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.xpi", "w") as archive:
        archive.writestr("localization/en-US/x.ftl", "a = hello\n")
        archive.writestr("localization/th/x.ftl", "a = ก\n")
    content = (tmp_path / "a.xpi").read_bytes()
    for place in range(0, len(content), 7):  # each is an answer or a problem, never another error
        write(tmp_path / "b.xpi", content[:place] + b"\xff" + content[place + 1 :])
        read_fluent(tmp_path / "b.xpi", on_error="skip")
