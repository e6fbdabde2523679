"""Noise in texts and candidates: what may change, how much comes out, and that chance is all in the seed."""

import itertools
import subprocess
import sys
import unicodedata

import pytest
import regex

from lira_hf.data import add_typos, corrupt_candidates, drop_diacritics, learn_alphabet, mix_code
from lira_hf.translation import LexicalTable, Lexicon


TEXTS = {
    "vi": "Tiếng Việt có thanh điệu và rất nhiều dấu phụ",
    "th": "ภาษาไทยมีวรรณยุกต์ที่เขียนเหนือพยัญชนะต้น",
    "bn": "বাংলা ভাষার ক্ষমতা ও যুক্তাক্ষর দেখা যায়",
    "ur": "اُردُو زَبان میں آئندہ بھی اعراب کم لکھے جاتے ہیں",
    "fil": "Ang wikang Filipino ay may kaunting tuldik",
}
RATES = (0.0, 0.1, 0.4, 1.0)


def clusters(text):
    return regex.findall(r"\X", text)


def letters(text):
    return [cluster for cluster in clusters(text) if regex.match(r"\p{L}", cluster)]


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_is_a_share(rate):
    for corrupt in (add_typos, mix_code, drop_diacritics):
        with pytest.raises(ValueError, match="got the rate .*; expected a share from 0 to 1; write 10 % as 0.1"):
            corrupt("text", rate)
    with pytest.raises(ValueError, match="got the rate"):
        corrupt_candidates(["text"], rate)


@pytest.mark.parametrize("language", TEXTS)
def test_the_same_in_every_process_and_another_for_another_seed(language):
    text = TEXTS[language]
    code = "import sys; from lira_hf.data import add_typos; print(ascii(add_typos(sys.argv[1], .4, 3).text))"
    if language == "bn":  # one process says it for all
        done = subprocess.run([sys.executable, "-c", code, text], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == ascii(add_typos(text, 0.4, 3).text)
    assert add_typos(text, 0.4, 3) == add_typos(text, 0.4, 3)
    assert add_typos(text, 0.4, 3).text != add_typos(text, 0.4, 4).text


# Typos


@pytest.mark.parametrize("language", TEXTS)
def test_typos_move_whole_letters(language):
    text, known = TEXTS[language], set(letters(TEXTS[language]))
    assert add_typos(text, 0.0) == (text, len(letters(text)), ())
    for rate, seed in itertools.product(RATES[1:], range(20)):
        found = add_typos(text, rate, seed)
        # Letter and marks are one. Compared by code points: neighbours may join into a conjunct when drawn anew.
        marks = {"".join(regex.findall(r"\p{M}+", letter)) for letter in known}
        assert not regex.match(r"\p{M}", found.text)
        assert {"".join(regex.findall(r"\p{M}+", letter)) for letter in letters(found.text)} <= marks | {""}
        assert set("".join(letters(found.text))) <= set("".join(known))
        assert regex.sub(r"[\p{L}\p{M}\u200c\u200d]", "", found.text) == regex.sub(
            r"[\p{L}\p{M}\u200c\u200d]", "", text
        )
        assert len(found.text.split()) == len(text.split())  # no word is lost


def test_each_typo_by_itself():
    swapped = dropped = doubled = replaced = 0
    for seed in range(300):
        found = add_typos("abcdefgh", 0.13, seed, learn_alphabet(["abcdefgh xyz"]))
        if len(found.changes) != 1:
            continue
        (change,), text = found.changes, found.text
        if change == "swapped":
            swapped += 1
            assert sorted(text) == sorted("abcdefgh")
            places = [place for place in range(8) if text[place] != "abcdefgh"[place]]
            assert len(places) == 2
            assert places[1] == places[0] + 1
        elif change == "dropped":
            dropped += 1
            assert text in {"abcdefgh".replace(letter, "") for letter in "abcdefgh"}
        elif change == "doubled":
            doubled += 1
            assert text in {"abcdefgh".replace(letter, 2 * letter) for letter in "abcdefgh"}
        else:
            replaced += 1
            assert len(text) == 8
            assert sum(one != other for one, other in zip(text, "abcdefgh", strict=True)) == 1
    assert min(swapped, dropped, doubled, replaced) > 5


def test_the_share_of_typos_is_the_rate_and_higher_rates_hit_more():
    text = "the quick brown fox jumps over the lazy dog " * 200
    for rate in (0.1, 0.4):
        found = add_typos(text, rate)
        assert len(found.changes) / found.units == pytest.approx(rate, abs=0.02)
    counts = [len(add_typos(TEXTS["vi"], rate / 20).changes) for rate in range(21)]
    assert counts == sorted(counts)
    assert counts[-1] == len(letters(TEXTS["vi"]))


def test_replaced_letters_are_of_the_script_and_case_and_as_common_as_there():
    alphabet = learn_alphabet(["a" * 90 + "b" * 10, "Ж ж", "Q"])
    assert alphabet["LATIN Ll"] == (("a", "b"), (90, 100))
    for seed in range(60):
        assert set(add_typos("c", 1.0, seed, alphabet).text) <= set("abc")
        assert set(add_typos("C", 1.0, seed, alphabet).text) <= set("QC")
        assert set(add_typos("ы", 1.0, seed, alphabet).text) <= set("жы")
    drawn = [add_typos("c", 1.0, seed, alphabet) for seed in range(400)]
    replaced = [found.text for found in drawn if found.changes == ("replaced",)]
    assert replaced.count("a") / len(replaced) == pytest.approx(0.9, abs=0.06)


def test_placeholders_digits_and_lone_letters():
    for seed in range(50):
        found = add_typos("Có %(count)d tệp {0} 2024", 1.0, seed)
        assert "%(count)d" in found.text
        assert "{0}" in found.text
        assert "2024" in found.text
        assert found.units == 5
        assert add_typos("a b", 1.0, seed).text.replace("a", "").replace("b", "") == " "  # both words are there
    assert add_typos("", 1.0) == ("", 0, ())
    assert add_typos("x", 1.0) == ("xx", 1, ("doubled",))  # no other letter is known


# Missing diacritics


@pytest.mark.parametrize(
    ("text", "language", "without", "marks"),
    [
        ("Tiếng Việt đẹp, Đà Nẵng", "vi", "Tieng Viet dep, Da Nang", 10),
        ("Łódź, żółć", "pl", "Lodz, zolc", 7),
        ("İstanbul ışık", "tr", "Istanbul isik", 4),
        ("اُردُو زَبانٌ شدّت رحمٰن", "ur", "اردو زبان شدت رحمن", 6),
        ("آئندہ مؤثر أخ", "ur", "آئندہ مؤثر أخ", 0),  # madda and hamza make letters
        ("ที่นี่ไม่ได้ก็ลิฟท์", "th", "ทีนีไมไดก็ลิฟท์", 4),  # neither vowels, U+0E47 nor U+0E4C
        ("ຂ້ອຍ", "lo", "ຂອຍ", 1),
        ("שָׁלוֹם", "he", "שלום", 3),
        ("Ελλάδα, ρολόι, προϊόν", "el", "Ελλαδα, ρολοι, προϊον", 3),
        ("বাংলা ড় য় ক্ষমতা চাঁদ", "bn", "বাংলা ড় য় ক্ষমতা চাঁদ", 0),
        ("हिन्दी में क़लम", "hi", "हिन्दी में क़लम", 0),
        ("ёлка и йод", "ru", "ёлка и йод", 0),
        ("كٲشُر", "ks", "كٲشُر", 0),
        ("ייִדיש אָ", "yi", "ייִדיש אָ", 0),
    ],
)
def test_what_people_leave_out(text, language, without, marks):
    found = drop_diacritics(text, 1.0, language=language)
    assert unicodedata.normalize("NFC", found.text) == unicodedata.normalize("NFC", without)
    assert (found.units, len(found.changes)) == (marks, marks)
    assert drop_diacritics(text, 0.0, language=language) == (text, marks, ())
    decomposed = drop_diacritics(unicodedata.normalize("NFD", text), 1.0, language=language)
    assert unicodedata.normalize("NFC", decomposed.text) == unicodedata.normalize("NFC", without)


def test_what_is_not_changed_stays_to_the_byte_and_higher_rates_leave_out_more():
    text = unicodedata.normalize("NFD", "cà phê") + " ড় é"
    found = drop_diacritics(text, 0.0)
    assert found.text == text
    kept = [len(unicodedata.normalize("NFD", drop_diacritics(TEXTS["vi"], rate / 10).text)) for rate in range(11)]
    assert kept == sorted(kept, reverse=True)
    many = drop_diacritics(TEXTS["vi"] * 100, 0.3, seed=1)
    assert len(many.changes) / many.units == pytest.approx(0.3, abs=0.04)


# Code-mixing


TABLE = LexicalTable({"nhà": {"house": 0.9}, "đẹp": {"beautiful": 0.2, "nice": 0.1}, "5": {"five": 0.9}})


def test_known_words_become_english_and_the_rest_stays():
    found = mix_code("Nhà, rất đẹp (nhà) %(nhà)s 5", 1.0, table=TABLE)
    assert found == ("house, rất đẹp (house) %(nhà)s 5", 5, ("English", "English"))
    assert mix_code("Nhà đẹp", 1.0, table=TABLE, min_probability=0.15).text == "house beautiful"
    assert mix_code("Nhà đẹp", 1.0) == ("Nhà đẹp", 2, ())
    assert mix_code("Nhà đẹp", 0.0, table=TABLE) == ("Nhà đẹp", 2, ())
    many = mix_code("nhà " * 2000, 0.2, table=TABLE)
    assert len(many.changes) / many.units == pytest.approx(0.2, abs=0.03)


def test_a_script_without_spaces_is_split_as_the_lexicon_does():
    words = {"บ้าน": "house", "แม่น้ำ": "river", "สีแดง": "red", "เก่า": "old"}
    pairs = [("th", thai, english) for thai, english in words.items()] * 3
    pairs += [("th", a + b, f"{words[a]} {words[b]}") for a, b in itertools.permutations(words, 2)]
    table = Lexicon.fit(pairs).table("th")
    text = "บ้านสีแดง แม่น้ำเก่า"
    assert table.split_source("บ้านสีแดง") == ["บ้าน", "สีแดง"]  # what the test rests on
    found = mix_code(text, 1.0, table=table)
    assert found.text.startswith("house red ")
    assert found.units == len(table.split_source(text))
    for seed in range(30):
        some = mix_code(text, 0.5, seed, table)
        assert regex.sub(r"[a-z ]", "", some.text) in {
            "".join(part) for count in range(6) for part in itertools.combinations(words, count)
        } | {"บ้านสีแดงแม่น้ำเก่า", "บ้านสีแดงเก่า", "บ้านแม่น้ำเก่า", "สีแดงแม่น้ำเก่า", "สีแดงแม่น้ำ", "บ้านสีแดงแม่น้ำ", "สีแดงเก่า"}


# Candidates


def test_candidates_are_hit_at_the_rate_in_the_ways_that_are_possible():
    row, others = ["the old house", "12 houses", "house"], ["a river", "the moon", "HOUSE"]
    clean = corrupt_candidates(row, 0.0, others=others)
    assert [found.text for found in clean] == row
    seen = {}
    for seed in range(200):
        found = corrupt_candidates(row, 1.0, seed, "nhà", others)
        assert all(len(one.changes) == 1 for one in found)
        for candidate, one in zip(row, found, strict=True):
            seen.setdefault((candidate, one.changes[0]), set()).add(one.text)
    assert seen["the old house", "another row's"] == {"a river", "the moon"}  # never one of its own
    assert seen["the old house", "words missing"] <= {"the", "old", "house", "the old", "the house", "old house"}
    assert ("the old house", "wrong number") not in seen
    numbers = seen["12 houses", "wrong number"]
    assert all(regex.fullmatch(r"[1-9]\d houses", text) and text != "12 houses" for text in numbers)
    assert all(sum(a != b for a, b in zip(text, "12 houses", strict=True)) == 1 for text in numbers)
    assert {change for candidate, change in seen if candidate == "house"} == {"another row's"}
    assert corrupt_candidates(["house"], 1.0) == [("house", 1, ())]  # nothing can happen to it
    hit = sum(len(one.changes) for n in range(1000) for one in corrupt_candidates(row, 0.2, 0, str(n), others))
    assert hit / 3000 == pytest.approx(0.2, abs=0.03)


def test_what_is_hit_at_one_rate_is_hit_the_same_way_at_a_higher_one():
    row, others = ["the old house", "12 houses"], ["a river", "the moon"]
    for text in map(str, range(100)):
        low, high = (corrupt_candidates(row, rate, 0, text, others) for rate in (0.2, 0.6))
        assert all(one == other for one, other in zip(low, high, strict=True) if one.changes)
    slot = corrupt_candidates(["{0} of {1}"], 1.0, 0)
    assert slot[0].changes == ("words missing",)  # the numbers of slots are none
