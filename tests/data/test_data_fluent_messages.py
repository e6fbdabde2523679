import builtins
import zipfile

import pytest

from lira_hf.data import DataError, read_fluent


def put(root, **files):
    for place, content in files.items():
        path = root / f"{place.replace('__', '/')}.ftl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def both(tmp_path, english, text, language="vi"):
    put(tmp_path / "en-US", a=english)
    put(tmp_path / language, a=text)
    return tmp_path


def sides(pairs):
    return [(pair.english, pair.text) for pair in pairs]


def test_messages_and_attributes_of_the_same_file_are_paired(tmp_path):
    put(tmp_path / "l10n" / "en-US", browser__menu="save = Save\n", toolkit__menu="save = Keep\nmore = More\n")
    put(
        tmp_path / "l10n" / "tl",
        toolkit__menu="# A note\n\nsave = Itago\n",
        browser__menu="save = I-save\nnew = Bago\n",
    )
    put(tmp_path / "l10n" / "ur", browser__menu="save =\n    .label = محفوظ\n")
    put(tmp_path / "l10n" / "en-GB", browser__menu="save = Store\n")
    put(tmp_path / "app", loose="save = nowhere\n")
    pairs = read_fluent(tmp_path)
    assert sides(pairs) == [("Save", "I-save"), ("Keep", "Itago")]
    assert [(pair.language, pair.origin, pair.row) for pair in pairs] == [("fil", "browser", 1), ("fil", "toolkit", 3)]
    assert read_fluent(tmp_path, ["ur"]) == []
    assert read_fluent(tmp_path, ["fil"], origin="mine")[0].origin == "mine"
    alone = [tmp_path / "l10n" / "en-US", tmp_path / "l10n" / "tl"]
    assert sides(read_fluent(alone)) == sides(pairs)
    with pytest.raises(DataError, match="got no English .ftl file; expected `localization/en-US"):
        read_fluent(alone[1])
    with pytest.raises(FileNotFoundError, match="which doesn't exist"):
        read_fluent(tmp_path / "nowhere")


def test_choices_terms_and_placeholders(tmp_path):
    english = """\
-brand = Firefox
-engine = Gecko
-loop = { -loop } again
with-term = About { -brand } and { -engine }
count =
    { $number ->
        [one] { $number } tab
       *[other] { $number } tabs
    } open
loop = In a { -loop }
literal = Type { "{" } or { 5 } for { DATETIME($day) }
button =
    .label = Quit
        now
    .accesskey = Q
    .style = width: 40em
find-commandkey = f
only-place = { $number } { -brand }
same = Firefox
markup = <b>{ $number }</b> &nbsp;
"""
    text = """\
-brand = Hỏa Hồ
with-term = Về { -brand } và { -engine }
count = { $number ->
   *[other] { $number } thẻ
} đang mở
loop = Trong { -loop }
literal = Gõ { "{" } hay { 5 } cho { DATETIME($day) }
button =
    .label = Thoát
    .accesskey = T
    .style = width: 50em
find-commandkey = t
only-place = { $number }
same = firefox
markup = <i>{ $number }</i>
"""
    assert sides(read_fluent(both(tmp_path, english, text))) == [
        ("About Firefox and Gecko", "Về Hỏa Hồ và Gecko"),
        ("{ $number } tabs open", "{ $number } thẻ đang mở"),
        ("In a { -loop } again", "Trong { -loop } again"),
        ("Type { or 5 for { DATETIME($day) }", "Gõ { hay 5 cho { DATETIME($day) }"),
        ("Quit now", "Thoát"),
    ]


def test_broken_entries_are_named_and_the_others_kept(tmp_path, caplog):
    english = "".join(f"{key} = Text {key}\n" for key in "abcdef")
    text = b"a = m\xe1\xbb\x99t\r\nb = { $open\r\nc = ba\r\n!! what\r\nd =\r\ne = n\xff\r\nf = s\xc3\xa1u\r\n"
    folder = both(tmp_path, english, text)
    with caplog.at_level("WARNING"):
        pairs = read_fluent(folder, on_error="skip")
    assert [(pair.english, pair.text, pair.row) for pair in pairs] == [
        ("Text a", "một", 1),
        ("Text c", "ba", 3),
        ("Text f", "sáu", 7),
    ]
    assert "4 problems" in caplog.text
    with pytest.raises(DataError) as caught:
        read_fluent(folder)
    found = [(problem.file, problem.row, problem.field) for problem in caught.value.problems]
    place = str(folder / "vi" / "a.ftl")
    assert found == [(place, 2, None), (place, 4, None), (place, 5, None), (place, 6, "e")]
    assert "E0003" in str(caught.value)


def test_archives_as_firefox_has_them(tmp_path):
    with zipfile.ZipFile(tmp_path / "omni.ja", "w") as archive:
        archive.writestr("localization/en-US/browser/a.ftl", "save = Save the page\n")
        archive.writestr("chrome/vi/a.txt", "no")
    with zipfile.ZipFile(tmp_path / "langpack-th.xpi", "w") as archive:
        archive.writestr("localization/th/browser/a.ftl", "save = บันทึกหน้า\n")
        archive.writestr("localization/th/browser/b.ftl", "other = อื่น\n" * 50)
    (tmp_path / "broken.xpi").write_bytes(b"PK\x03\x04 and nothing more")
    paths = [tmp_path / "langpack-th.xpi", tmp_path / "omni.ja"]
    assert [(pair.language, pair.english, pair.text, pair.origin) for pair in read_fluent(paths)] == [
        ("th", "Save the page", "บันทึกหน้า", "browser")
    ]
    with pytest.raises(DataError, match=r"broken\.xpi: got what is no zip archive .*; expected a folder or a zip"):
        read_fluent([*paths, tmp_path / "broken.xpi"])
    content = bytearray(paths[0].read_bytes())
    at = content.index(b"other = ")
    content[at : at + 5] = b"OTHER"  # the checksum tells
    paths[0].write_bytes(content)
    assert len(read_fluent([*paths, tmp_path / "broken.xpi"], on_error="skip")) == 1
    with pytest.raises(
        DataError, match=r"langpack-th\.xpi/localization/th/browser/b\.ftl: got a member that can't be"
    ):
        read_fluent(paths)


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("fluent"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"needs `fluent.syntax`, .*lira-hf\[quickstart\]"):
        read_fluent(both(tmp_path, "a = Text", "a = chữ"))
