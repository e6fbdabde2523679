import json

import pytest

from lira_hf.data import DataError, read_json_messages


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, bytes | str) else json.dumps(content, indent="\t", ensure_ascii=False)
        (folder / f"{name.replace('_', '-')}.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def sides(pairs):
    return [(pair.language, pair.english, pair.text) for pair in pairs]


def test_messages_are_paired_by_key_over_nested_folders(tmp_path):
    english = {"@metadata": {"authors": ["Ann"]}, "save": "Save page", "talk": "Talk", "only-english": "More"}
    put(
        tmp_path / "wiki" / "i18n",
        en=english,
        tl={"@metadata": {"authors": ["Bea"]}, "talk": "Usapan", "save": "Itala ang pahina", "unknown": "Wala"},
        zh_hans={"talk": "讨论"},
        en_gb={"talk": "Discussion"},
        qqq={"talk": "Title of the discussion tab"},
    )
    put(tmp_path / "Filter" / "i18n" / "api", en={"a": {"b": "Deep text"}}, ur={"a": {"b": "گہرا متن"}})
    put(tmp_path / "alone", th={"talk": "พูดคุย"})
    pairs = read_json_messages(tmp_path)
    assert sides(pairs) == [
        ("ur", "Deep text", "گہرا متن"),
        ("fil", "Talk", "Usapan"),
        ("fil", "Save page", "Itala ang pahina"),
        ("zh-Hans", "Talk", "讨论"),
    ]
    assert [(pair.origin, pair.row) for pair in pairs] == [("Filter", 3), ("wiki", 7), ("wiki", 8), ("wiki", 2)]
    assert {pair.language for pair in read_json_messages(tmp_path, ["fil", "th"])} == {"fil"}
    assert read_json_messages(tmp_path, ["ur"], origin="mine")[0].origin == "mine"
    assert read_json_messages([]) == []
    with pytest.raises(FileNotFoundError, match="which is no folder; expected a folder with `en.json`"):
        read_json_messages(tmp_path / "nowhere")


def test_web_extensions(tmp_path):
    folder = tmp_path / "blocker" / "_locales"
    text = {"name": {"message": "Block $ad$", "description": "d", "placeholders": {"ad": {"content": "$1"}}}}
    put(folder / "en", messages=text)
    put(folder / "th", messages={"name": {"message": "ปิดกั้น $ad$"}})
    put(folder / "ur", messages={"name": {"message": "Block $ad$"}})
    (found,) = read_json_messages(tmp_path)
    assert (found.language, found.text, found.english, found.origin, found.row) == (
        "th", "ปิดกั้น $ad$", "Block $ad$", "blocker", 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("english", "plain"),
    [
        ("$1 {{PLURAL:$1|page|pages}}", "$1 pages"),
        ("{{PLURAL:$1|0=none|one page|12=a dozen|{{GENDER:$2|his|her}} pages}}", "his pages"),
        ("{{GENDER:$2|changed|also}} the [[Special:Log/x|log of {{SITENAME}}]]", "changed the log of {{SITENAME}}"),
        ("see [https://example.org/a b], [[Help]] or [$1 this]", "see b, Help or this"),
        ("'''Bold''' and ''slanted'', don't touch", "Bold and slanted, don't touch"),
        ("two\n\n lines\u200e", "two lines"),
        ("<b>Text</b> {{PLURAL:$1}}", "<b>Text</b> {{PLURAL:$1}}"),
    ],
)  # fmt: skip
def test_wiki_syntax(tmp_path, english, plain):
    put(tmp_path, en={"a": english}, vi={"a": "chữ"})
    assert sides(read_json_messages(tmp_path)) == [("vi", plain, "chữ")]


@pytest.mark.parametrize(
    ("key", "english", "text"),
    [
        ("a", "MediaWiki", "mediawiki"),
        ("a", "$1", "chữ"),
        ("a", "$1 {{SITENAME}} <br/> &nbsp;", "$1 – {{SITENAME}}"),
        ("a", "Text", ""),
        ("accesskey-t-print", "p", "ط"),
        ("menu-commandkey2", "p", "ط"),
    ],
)
def test_what_is_left_out(tmp_path, key, english, text):
    put(tmp_path, en={key: english, "keyboard": "Keys"}, ur={key: text, "keyboard": "چابیاں"})
    assert sides(read_json_messages(tmp_path)) == [("ur", "Keys", "چابیاں")]


def test_broken_files_lose_their_bad_entries_alone(tmp_path, caplog):
    english = {key: f"Text {key}" for key in "abcde"}
    broken = b'{\n"a": "m\xe1\xbb\x99t",\n"b": "hai,\n"c": "ba"\n"d": "b\xe1\xbb\x91n",\n"e": ["n"]\n'
    put(tmp_path, en=english, vi=broken, id={"a": "satu", "b": 2, "c": None, "d": ["empat"], "e": "lima"})
    put(tmp_path, ms=b'{\n"a": "satu",\n"b": "du\xff",\n"c": "\\ud800"}', th="[1]", fil="", bn="[" * 100_000)
    with caplog.at_level("WARNING"):
        pairs = read_json_messages(tmp_path, on_error="skip")
    assert sides(pairs) == [
        ("id", "Text a", "satu"),
        ("id", "Text e", "lima"),
        ("ms", "Text a", "satu"),
        ("vi", "Text a", "một"),
        ("vi", "Text c", "ba"),
        ("vi", "Text d", "bốn"),
    ]
    with pytest.raises(DataError) as caught:
        read_json_messages(tmp_path)
    found = [(problem.file.rpartition("/")[2], problem.row, problem.field) for problem in caught.value.problems]
    assert ("bn.json", found[0][1], None) == found[0]
    assert found[1:] == [
        ("fil.json", 1, None),
        ("id.json", 3, "'b'"),
        ("id.json", 4, "'c'"),
        ("id.json", 5, "'d'"),
        ("ms.json", 3, "'b'"),
        ("ms.json", 4, "'c'"),
        ("th.json", 1, None),
        ("vi.json", 3, None),
    ]
    assert "id.json, row 3, field `'b'`: got 2; expected a text; to fix: write the text" in str(caught.value)


def test_a_broken_web_extension_pairs_nothing_wrongly(tmp_path):
    messages = {key: {"message": f"Text {key}"} for key in "abc"}
    put(tmp_path / "_locales" / "en", messages=messages)
    put(tmp_path / "_locales" / "vi", messages=json.dumps(messages, indent=1).replace("Text", "chữ")[:-2])
    with pytest.raises(DataError, match=r"vi/messages.json, row 10: got what is no JSON .*; 0 entries on lines"):
        read_json_messages(tmp_path)
    assert read_json_messages(tmp_path, on_error="skip") == []
