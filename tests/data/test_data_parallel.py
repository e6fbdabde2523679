import random
import subprocess
import sys
from collections import Counter

import pytest
from babel import Locale, localedata

from lira_hf.data import DataError, ParallelPair, read_cldr, read_tsv, tidy_text, write_tsv


LANGUAGES = ("vi", "th", "id", "ms", "ur", "bn", "fil")


@pytest.fixture(scope="module")
def cldr():
    return read_cldr(LANGUAGES)


def test_cldr_yields_every_kind_of_name(cldr):
    pairs = {(pair.language, pair.english): pair.text for pair in cldr}
    bengali, urdu, english = Locale("bn"), Locale("ur"), Locale("en")
    assert pairs["bn", "Croatian Dinar"] == bengali.currencies["HRD"]
    assert pairs["ur", english.languages["vi"]] == tidy_text(urdu.languages["vi"])
    assert pairs["bn", "Sunday"] == bengali.days["format"]["wide"][6]
    # The parts that hide behind mappings which are no dicts: units, zones, cities, plural currencies.
    assert pairs["bn", "microseconds"] == bengali.unit_display_names["duration-microsecond"]["long"]
    assert pairs["bn", "Galapagos Time"] == bengali.meta_zones["Galapagos"]["long"]["standard"]
    assert pairs["bn", "Dhaka"] == bengali.time_zones["Asia/Dhaka"]["city"]
    plural = localedata.LocaleDataDict(localedata.load("bn"))["currency_names_plural"]["NOK"]["other"]
    assert pairs["bn", "Norwegian kroner"] == plural


def test_cldr_yield(cldr):
    counts = Counter(pair.language for pair in cldr)
    assert set(counts) == set(LANGUAGES)
    assert min(counts.values()) > 900
    assert len({pair.english for pair in cldr}) > 2800


def test_cldr_has_no_untranslated_inherited_or_empty_text(cldr):
    root = set()

    def collect(node):
        for value in node.values():
            if isinstance(value, str):
                root.add(value)
            elif hasattr(value, "values"):
                collect(value)

    collect(localedata.LocaleDataDict(localedata.load("root")))
    for pair in cldr:
        assert pair.text.casefold() != pair.english.casefold()
        assert any(character.isalpha() for character in pair.text)
        assert "{0}" not in pair.text + pair.english
        assert pair.text == tidy_text(pair.text)
    assert not any(pair.text in root and pair.text.startswith("M0") for pair in cldr)
    # A language written in another script keeps none of root's Latin codes.
    latin = [pair for pair in cldr if pair.language == "bn" and pair.text.isascii()]
    assert len(latin) < 0.01 * sum(pair.language == "bn" for pair in cldr)


def test_cldr_leaves_babels_own_data_whole():
    # Loading a locale unmerged would poison Babel's cache: Locale("pt_PT") would lose what it takes from pt.
    read_cldr(["pt-PT"])
    assert Locale("pt_PT").languages["aa"] == Locale("pt").languages["aa"]


def test_cldr_language_aliases_scripts_and_unknown():
    assert {pair.language for pair in read_cldr(["tl", "fil"])} == {"fil"}
    assert [pair.text for pair in read_cldr(["ur-Arab"])] == [pair.text for pair in read_cldr(["ur"])]
    for tag in ("ace", "ur-Latn"):
        with pytest.raises(ValueError, match=f"'{tag}', of which Babel has no locale data; expected .*; leave it out"):
            read_cldr([tag])
    with pytest.raises(ValueError, match="unknown language tag 'xx'"):
        read_cldr(["xx"])


def test_tsv_round_trip_of_real_text(cldr, tmp_path):
    sample = random.Random(0).sample(cldr, 500)
    sample.append(ParallelPair("ur", 'a "quoted" \\n text\u2028here\x85', '"open quote', "some/program"))
    path = tmp_path / "pairs.tsv"
    assert write_tsv(path, sample) == 501
    back = read_tsv(path)
    assert [pair.row for pair in back] == list(range(2, 503))
    assert [(p.language, p.text, p.english, p.origin) for p in back] == [
        (p.language, p.text, p.english, p.origin) for p in sample
    ]


def test_tsv_collects_every_problem_with_its_row(tmp_path, caplog):
    path = tmp_path / "pairs.tsv"
    lines = [
        "\ufeffEnglish\tnote\tlanguage\ttext".encode(),
        b"House\tx\ry\ttl\tBahay",
        b"Two\tvi\thai",
        b"Three\tx\txx\tba",
        b"\tx\tvi\tbon",
        b"",
        b"Six\tx\tvi\ts\xe1u",
        "Seven\tx\tvi\tbảy".encode(),
    ]
    path.write_bytes(b"\r\n".join(lines) + b"\r\n")
    with pytest.raises(DataError) as caught:
        read_tsv(path)
    found = [(problem.row, problem.field) for problem in caught.value.problems]
    assert found == [(3, None), (4, "language"), (5, "english"), (7, "text")]
    message = str(caught.value)
    assert "4 problems" in message
    assert "row 3: got 3 cells; expected 4 cells, as in the first line; to fix: " in message
    assert "row 4, field `language`: got the unknown language tag 'xx'; expected a tag" in message
    with caplog.at_level("WARNING"):
        good = read_tsv(path, on_error="skip")
    assert [(p.language, p.text, p.english, p.row) for p in good] == [
        ("fil", "Bahay", "House", 2),
        ("vi", "bảy", "Seven", 8),
    ]
    assert "4 problems" in caplog.text


def test_tsv_missing_columns_and_wrong_mode(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("language\tsentence\nvi\tba\n")
    with pytest.raises(DataError, match="(?s)field `text`: got the columns .*field `english`"):
        read_tsv(path)
    path.write_text("")
    with pytest.raises(DataError, match="3 problems"):
        read_tsv(path)
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        read_tsv(path, on_error="ignore")


def test_write_tsv_refuses_what_it_could_not_read_back(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("before")
    pairs = [
        ParallelPair("vi", "một", "one", "x"),
        ParallelPair("vi", "a\tb", "two", "x"),
        ParallelPair("vi", "\ud800", " ", "x"),
    ]
    with pytest.raises(DataError) as caught:
        write_tsv(path, pairs)
    assert [(problem.row, problem.field) for problem in caught.value.problems] == [
        (3, "text"),
        (4, "text"),
        (4, "english"),
    ]
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_error_shows_twenty_and_keeps_all(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("language\ttext\tenglish\n" + "vi\t\tx\n" * 57)
    with pytest.raises(DataError, match="57 problems") as caught:
        read_tsv(path)
    assert len(caught.value.problems) == 57
    assert str(caught.value).count("to fix") == 20
    assert "and 37 more" in str(caught.value)


def test_cldr_is_the_same_whatever_has_been_read_of_babel_before():
    script = "from lira_hf.data import read_cldr; print(repr(read_cldr(['vi', 'bn'])))"
    fresh = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)

    def resolve(node, depth=0):
        if depth < 6 and hasattr(node, "items"):
            for _, value in list(node.items()):
                resolve(value, depth + 1)

    for tag in ("en", "vi", "bn"):
        resolve(Locale.parse(tag)._data)  # aliases are replaced in Babel's cache by what they stand for
    assert repr(read_cldr(["vi", "bn"])) == fresh.stdout.strip()
