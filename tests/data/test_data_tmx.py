"""Translation memories: what translators' programs write, and what is wrong with what they write."""

import pytest

from lira_hf.data import DataError, ParallelPair, read_parallel, read_tmx, validate_path
from lira_hf.data.tmx import scan_tmx


HEAD = '<?xml version="1.0" encoding="{}"?>\n<tmx version="1.4"><header srclang="en" datatype="plaintext"/><body>\n'
TAIL = "</body></tmx>\n"


def memory(folder, units, encoding="UTF-8", name="memory.tmx", head=HEAD):
    path = folder / name
    path.write_bytes((head.format(encoding) + units + TAIL).encode(encoding))
    return path


def unit(**variants):
    rows = [f'<tuv xml:lang="{tag}"><seg>{text}</seg></tuv>' for tag, text in variants.items()]
    return f"<tu>{''.join(rows)}</tu>\n"


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16", "iso-8859-1"])
def test_pairs_of_every_language_with_the_unit_s_line(tmp_path, encoding):
    other = "cần" if encoding != "iso-8859-1" else "café"
    path = memory(tmp_path, unit(en="to need", vi=other) + unit(fil="bahay", en="house", ms="rumah"), encoding)
    assert read_tmx(path) == [
        ParallelPair("vi", other, "to need", str(path), 3),
        ParallelPair("fil", "bahay", "house", str(path), 4),
        ParallelPair("ms", "rumah", "house", str(path), 4),
    ]
    assert [pair.text for pair in read_tmx(path, ["ms", "ur"])] == ["rumah"]
    assert read_parallel(path) == read_tmx(path)
    assert validate_path(path) == []


def test_codes_go_and_what_they_stand_around_stays(tmp_path):
    text = (
        'Chọn <bpt i="1">&lt;b&gt;<sub>tip</sub></bpt><hi>tệp</hi><ept i="1">&lt;/b&gt;</ept> <ph>%s</ph>\n\t &amp; mở'
    )
    path = memory(tmp_path, unit(**{"en-GB": "Choose a file", "en-US": "Pick a file", "vi_VN": text}))
    (pair,) = read_tmx(path)
    assert (pair.text, pair.english, pair.language) == ("Chọn tệp & mở", "Choose a file", "vi-VN")


def test_nothing_is_made_of_what_says_nothing(tmp_path):
    units = (
        unit(en="one") + unit(en="two", vi="") + unit(en="OK", vi="ok") + unit(en="1", vi="2") + unit(en="", vi="ba")
    )
    assert read_tmx(memory(tmp_path, units + unit(en="four", vi="bốn") * 2)) == [
        ParallelPair("vi", "bốn", "four", str(tmp_path / "memory.tmx"), 8)
    ]


def test_old_versions_name_the_language_otherwise(tmp_path):
    variants = '<tuv lang="EN-US"><seg>sea</seg></tuv><tuv lang="VI"><seg>biển</seg></tuv>'
    units = f'<tu><prop type="x">no text</prop>{variants}</tu>'
    doctype = '<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "tmx11.dtd"><tmx version="1.1"><body>'
    (pair,) = read_tmx(memory(tmp_path, units, head=doctype))
    assert (pair.language, pair.text, pair.english) == ("vi", "biển", "sea")


def test_every_problem_is_told_with_its_line_and_the_rest_is_kept(tmp_path):
    bad = '<tu><tuv xml:lang="en"><seg>six</seg></tuv>\n<tuv><seg>sáu</seg></tuv></tu>\n'
    path = memory(
        tmp_path, unit(fr="un", vi="một") + unit(en="two", vietnamese="hai") + bad + unit(en="ten", vi="mười")
    )
    pairs, problems = scan_tmx(path)
    assert [pair.english for pair in pairs] == ["ten"]
    assert [(problem.row, problem.field) for problem in problems] == [
        (3, "xml:lang"),
        (4, "xml:lang"),
        (6, "xml:lang"),
    ]
    assert "a unit in fr, vi; expected English among its languages" in str(problems[0])
    assert "unknown language tag 'vietnamese'" in str(problems[1])
    assert "a variant without it" in str(problems[2])
    with pytest.raises(DataError, match="row 3"):
        read_tmx(path)
    assert read_tmx(path, on_error="skip") == pairs
    assert validate_path(path) == problems


def test_a_file_that_breaks_off_gives_what_stands_before(tmp_path):
    path = memory(tmp_path, unit(en="one", vi="một") + unit(en="two", vi="hai"))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        pairs, problems = scan_tmx(path)
        assert [pair.english for pair in pairs] == ["one", "two"][: whole[:length].count(b"</tu>")]
        if length < len(whole.rstrip()):
            assert len(problems) == 1
            assert "broken XML" in problems[0].got


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ("<html><body/></html>", "the root element <html>"),
        ("", "broken XML (no element found)"),
        ("language\ttext\tenglish\nvi\tmột\tone\n", "broken XML (syntax error)"),
        ('<?xml version="1.0" encoding="x-none"?><tmx/>', "an encoding that can't be read"),
        ('<?xml version="1.0" encoding="shift_jis"?><tmx/>', "an encoding that can't be read"),
        ('<!DOCTYPE tmx [<!ENTITY a "b">]><tmx version="1.4"/>', "a definition of an entity"),
        ('<!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/passwd">]><tmx/>', "a definition of an entity"),
    ],
)
def test_what_is_no_memory_is_refused(tmp_path, content, got):
    (tmp_path / "x.tmx").write_text(content, encoding="utf-8")
    (problem,) = validate_path(tmp_path / "x.tmx")
    assert got in problem.got
    assert problem.expected
    assert problem.fix


def test_entities_that_a_dtd_would_bring_are_not_fetched(tmp_path):
    (tmp_path / "own.dtd").write_text('<!ENTITY secret SYSTEM "secret.txt">')
    (tmp_path / "secret.txt").write_text("hush")
    head = '<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "own.dtd"><tmx version="1.4"><body>'
    pairs, problems = scan_tmx(memory(tmp_path, unit(en="a word &secret; b", vi="từ"), head=head))
    assert "hush" not in f"{pairs}{problems}"
    assert scan_tmx(tmp_path / "memory.tmx") == (pairs, problems)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tmx(tmp_path / "none.tmx")
