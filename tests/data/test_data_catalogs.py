import io
import shutil

import pytest
from babel.messages import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from lira_hf.data import DataError, installed_catalogs, read_gettext, tidy_text
from lira_hf.data.catalogs import catalog_language
from lira_hf.data.po_entries import parse_po


HEADER = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n"Plural-Forms: {plural}\\n"\n\n'
TWO = "nplurals=2; plural=(n != 1);"


def po(tmp_path, body, name="vi.po", plural=TWO):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(HEADER.format(plural=plural).encode() + (body if isinstance(body, bytes) else body.encode()))
    return path


def sides(pairs):
    return [(pair.english, pair.text) for pair in pairs]


def test_parser_agrees_with_babel_on_every_django_catalogue():
    paths = installed_catalogs("django")
    assert len(paths) > 500
    for path in paths[::6]:
        content = path.read_bytes()
        parsed = parse_po(str(path), content)
        oracle = []
        for message in read_po(io.BytesIO(content), ignore_obsolete=True):
            texts = message.string if isinstance(message.string, tuple) else (message.string,)
            while (
                texts and not texts[-1]
            ):  # Babel fills up to the header's nplurals, which Hebrew's file falls short of
                texts = texts[:-1]
            if message.id and not message.fuzzy and texts and all(texts):
                oracle.append((message.id if isinstance(message.id, tuple) else (message.id,), texts))
        assert parsed.problems == []
        # Portuguese has entries with more forms than its header says: Babel cuts them.
        found = {(entry.english, entry.texts[: parsed.plural_count]) for entry in parsed.entries}
        assert sorted(found) == sorted(set(oracle)), path


def test_django_text(tmp_path):
    pairs = read_gettext(installed_catalogs("django", ["ur", "vi", "id", "fil"]), on_error="raise")
    assert {pair.language for pair in pairs} == {"ur", "vi", "id"}
    assert {"django/conf", "django/contrib/admin"} <= {pair.origin for pair in pairs}
    assert ("Cancel", "منسوخ کریں") in sides(pair for pair in pairs if pair.language == "ur")
    assert all(pair.text == tidy_text(pair.text) for pair in pairs)
    row = next(pair for pair in pairs if pair.english == "Cancel" and pair.language == "ur")
    files = [path for path in installed_catalogs("django", ["ur"]) if "contrib/admin/locale" in str(path)]
    assert 'msgid "Cancel"' in [path.read_text().splitlines()[row.row - 1] for path in files]
    with pytest.raises(ValueError, match="'no_such_package', which is not installed"):
        installed_catalogs("no_such_package")


def test_mo_and_po_say_the_same(tmp_path):
    source = next(p for p in installed_catalogs("django", ["id"]) if "conf/locale" in str(p))
    folder = tmp_path / "locale" / "id" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    shutil.copy(source, folder / "app.po")
    from_po = read_gettext(folder)
    with open(source, "rb") as file, open(folder / "app.mo", "wb") as target:
        write_mo(target, read_po(file))
    assert read_gettext(folder) == from_po  # not twice
    (folder / "app.po").unlink()
    from_mo = read_gettext(tmp_path)
    assert sorted(sides(from_mo)) == sorted(sides(from_po))
    assert {(pair.language, pair.origin, pair.row) for pair in from_mo} == {("id", "app", None)}


def test_what_is_left_out_and_collapsed(tmp_path):
    body = """\
#, fuzzy
msgid "Fuzzy"
msgstr "Mờ"

#, fuzzy, python-format
#| msgid "old"
msgid "Also fuzzy %s"
msgstr "Cũng mờ %s"

#~ msgid "Obsolete"
#~ msgstr "Cũ"

msgid "Empty"
msgstr ""

msgid "Django"
msgstr "django"

msgid "%(count)s / {name} <b>%d</b> &nbsp;"
msgstr "{name} – %(count)s <b>%d</b>"

#, python-format
msgctxt "a menu"
msgid ""
"Two\\n"
"  lines\\tof \\"text\\""
msgstr "Hai\\n dòng"
msgid "No blank line before"
msgstr "Không có dòng trống"
"""
    expected = [('Two lines of "text"', "Hai dòng"), ("No blank line before", "Không có dòng trống")]
    assert sides(read_gettext(po(tmp_path, body))) == expected


@pytest.mark.parametrize(
    ("english", "text", "cleaned"),
    [
        ("_File", "_Tệp", ("File", "Tệp")),
        ("Save &As", "Lưu &như", ("Save As", "Lưu như")),
        ("~Edit", "Sửa(~E)", ("Edit", "Sửa")),
        ("_Open", "Mở (_O)", ("Open", "Mở")),
        ("_Quit", "Thoát", ("Quit", "Thoát")),
        ("E&xit", "T&hoát", ("Exit", "Thoát")),
        ("Set max_length here", "Đặt max_length ở đây", ("Set max_length here", "Đặt max_length ở đây")),
        ("R&D team", "Nhóm R&D", ("R&D team", "Nhóm R&D")),
        ("Tom & Jerry", "Tom và Jerry", ("Tom & Jerry", "Tom và Jerry")),
        ("Bread &amp; butter", "Bánh mì &amp; bơ", ("Bread &amp; butter", "Bánh mì &amp; bơ")),
        ("A && B_c d_e", "A && B_c và d_e", ("A && B_c d_e", "A && B_c và d_e")),
    ],
)
def test_accelerators(tmp_path, english, text, cleaned):
    assert sides(read_gettext(po(tmp_path, f'msgid "{english}"\nmsgstr "{text}"\n'))) == [cleaned]


@pytest.mark.parametrize(
    ("plural", "forms", "expected"),
    [
        ("nplurals=1; plural=0;", ["%d ngày"], [("%d days", "%d ngày")]),
        (TWO, ["%d jour", "%d jours"], [("%d day", "%d jour"), ("%d days", "%d jours")]),
        # Arabic keeps form 0 for none and form 1 for one: a fixed "first and last" would be wrong.
        (
            "nplurals=6; plural=n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n%100>=3 && n%100<=10 ? 3 : n%100>=11 ? 4 : 5;",
            ["zero", "one", "two", "few", "many", "other"],
            [("%d day", "one"), ("%d days", "few")],
        ),
    ],
)
def test_plurals_follow_the_catalogues_rule(tmp_path, plural, forms, expected):
    body = 'msgid "%d day"\nmsgid_plural "%d days"\n' + "".join(f'msgstr[{i}] "{f}"\n' for i, f in enumerate(forms))
    path = po(tmp_path, body, plural=plural)
    assert sides(read_gettext(path)) == expected
    mo = tmp_path / "fr.mo"
    with open(path, "rb") as file, open(mo, "wb") as target:
        write_mo(target, read_po(file, locale="fr"))  # without a locale Babel leaves the plural rule out
    assert sides(read_gettext(mo)) == expected


def test_broken_entries_are_named_and_the_others_kept(tmp_path, caplog):
    body = b"""\
msgid "One"
msgstr "M\xe1\xbb\x99t"

msgid "Unfinished
msgstr "Hai"

msgid "Three"
msgstr "Ba"

msgid "No translation"

msgid "Five"
mgstr "N\xc4\x83m"

msgid "Six"
msgstr "S\xe1u"

"a string alone"

msgid "Inner "quote""
msgstr "x"

msgid "Eight"
msgstr "T\xc3\xa1m"
<<<<<<< HEAD

msgid "Nine"
msgstr "Ch\xc3\xadn"
"""
    path = po(tmp_path, body)
    first = HEADER.count("\n")
    with caplog.at_level("WARNING"):
        pairs = read_gettext(path, on_error="skip")
    assert sides(pairs) == [("One", "Một"), ("Three", "Ba"), ("Nine", "Chín")]
    assert [pair.row - first for pair in pairs] == [1, 7, 27]
    assert "7 problems" in caplog.text
    with pytest.raises(DataError) as caught:
        read_gettext(path)
    rows = [(problem.row - first, problem.field) for problem in caught.value.problems]
    assert rows == [
        (4, "msgid"),
        (10, "msgstr"),
        (13, None),
        (16, "msgstr"),
        (18, None),
        (20, "msgid"),
        (25, None),
    ]
    assert str(path) in str(caught.value)


def test_old_encodings_are_read_by_their_header(tmp_path):
    path = tmp_path / "fr.po"
    text = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=ISO-8859-15\\n"\n\nmsgid "Been"\nmsgstr "Été"\n'
    path.write_bytes(text.encode("iso-8859-15"))
    assert sides(read_gettext(path)) == [("Been", "Été")]
    path.write_bytes(text.replace("ISO-8859-15", "no-such").encode())
    with pytest.raises(DataError, match="charset=no-such; expected a known encoding"):
        read_gettext(path)


@pytest.mark.parametrize("keep", [0, 3, 30, 200, -40])
def test_truncated_mo_is_one_clear_problem(tmp_path, keep):
    catalog = Catalog(locale="vi")
    for number in range(40):
        catalog.add(f"message {number}", f"thông điệp {number}")
    buffer = io.BytesIO()
    write_mo(buffer, catalog)
    path = tmp_path / "vi.mo"
    path.write_bytes(buffer.getvalue()[:keep])
    with pytest.raises(
        DataError, match=r"vi\.mo: got \d+ bytes that can't be read .*; expected a complete GNU \.mo file"
    ):
        read_gettext(path)
    assert read_gettext(path, on_error="skip") == []


def test_language_comes_from_path_header_or_caller(tmp_path):
    body = 'msgid "One"\nmsgstr "Một"\n'
    names = {
        "locale/vi/LC_MESSAGES/x.mo": "vi",
        "locale/sr@latin/LC_MESSAGES/x.po": "sr-Latn",
        "gimp/po/pt_BR.po": "pt-BR",
        "locale/tl/app.po": "fil",
        "a/messages.po": None,
    }
    assert {name: catalog_language(name) for name in names} == names
    assert read_gettext(po(tmp_path, body, "gimp/po/vi.po"))[0].origin == "gimp"
    loose = po(tmp_path, body, "loose/messages.po")
    with pytest.raises(DataError, match="got no language in the path, and None in the header.*pass `language=`"):
        read_gettext(loose)
    assert read_gettext(loose, language="tl", origin="mine")[0].language == "fil"
    loose.write_text('msgid ""\nmsgstr "Language: vi\\n"\n\n' + body)
    assert read_gettext(loose)[0].language == "vi"
    assert read_gettext(loose, languages=["th"]) == []
    with pytest.raises(FileNotFoundError, match="which doesn't exist"):
        read_gettext(tmp_path / "nowhere")
