"""Traits of candidates: each says what it says it does, for texts of any script and for broken ones."""

import random

import pytest
import torch

from lira_hf.models.traits_lira import TRAITS, candidate_traits, trait_tensor, trait_width


def trait(name: str, text: str, candidates: list[str]) -> list[float]:
    return [row[TRAITS.index(name)] for row in candidate_traits(text, candidates)]


@pytest.mark.parametrize(
    ("name", "text", "candidates", "expected"),
    [
        ("length", "abcd", ["abcd", "ab", "x" * 4000], [0.0, -0.6931, 3.0]),
        ("latin", "ঢাকা", ["Dhaka", "ঢাকা", "Dhaঢাক", "12"], [1.0, 0.0, 0.6, 1.0]),
        ("numbers", "๑๒ รายการ", ["12 items", "13 items", "items", "12 of 12 items"], [1.0, 0.0, 0.0, 0.5]),
        ("numbers", "ไฟล์", ["file", "2 files"], [1.0, 0.0]),
        ("slots", "%s ไฟล์ {0}", ["%s files {0}", "files {0}", "files"], [1.0, 0.5, 0.0]),
        ("copied", "เปิด LibreOffice ใน Windows", ["Open libreoffice in Windows", "open Windows", "open"], [1, 0.5, 0]),
        ("copied", "ঢাকা", ["Dhaka"], [0.0]),
        ("ending", "کیا؟", ["what?", "what", "what!"], [1.0, 0.0, 0.0]),
        ("ending", "লোড হচ্ছে...", ["loading…", "loading", "loading."], [1.0, 0.0, 0.0]),
        ("ending", "খুলুন।", ["Open.", "Open"], [1.0, 0.0]),
        ("agreement", "x", ["cat", "CAT", "dog"], [0.5, 0.5, 0.0]),
        ("agreement", "x", ["alone"], [0.0]),
        ("order", "x", ["a", "b", "c"], [1.0, 0.5, 1 / 3]),
    ],
)
def test_each_trait_is_what_it_says(name, text, candidates, expected):
    assert trait(name, text, candidates) == pytest.approx(expected, abs=1e-4)


def test_a_blank_candidate_has_no_traits_and_is_no_company():
    rows = candidate_traits("text", ["cat", " ", "cat"])
    assert rows[1] == [0.0] * len(TRAITS)
    assert trait("agreement", "text", ["cat", " ", "cat"]) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("seed", range(50))
def test_any_text_has_finite_traits(seed):
    choose = random.Random(seed)
    alphabet = "aZé9٣๓ঢ্া%s{}0 .…؟\u202e\x00\ud800😀中"
    text, *candidates = ("".join(choose.choices(alphabet, k=choose.randrange(30))) for _ in range(5))
    rows = candidate_traits(text, candidates)
    assert [len(row) for row in rows] == [len(TRAITS)] * len(candidates)
    assert all(-3.0 <= value <= 3.0 for row in rows for value in row)


def test_a_text_of_a_megabyte_is_looked_at_in_part():
    # int() alone would take minutes, and refuses.
    assert candidate_traits("9" * 1_000_000, ["9" * 1_000_000]) == candidate_traits("9" * 2000, ["9" * 2000])


def test_kinds_have_a_column_each():
    rows = [candidate_traits("x", ["a", "b"]), [], candidate_traits("y", ["c"])]
    table = trait_tensor(rows, [["memory", "other"], None, ["gloss"]], ["gloss", "memory"])
    assert table.shape == (3, 2, trait_width(["gloss", "memory"]))
    assert table[:, :, len(TRAITS) :].tolist() == [[[0, 1], [0, 0]], [[0, 0]] * 2, [[1, 0], [0, 0]]]
    torch.testing.assert_close(table[0, :, : len(TRAITS)], torch.tensor(rows[0]))
    assert not table[1].any()
    assert not table[2, 1].any()


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ([["memory"]], r"got 1 rows of kinds for 2 texts; expected one row \(or None\) per text"),
        ([["memory"], None], "text 0 has 2 candidates and the kinds .*; expected one kind each"),
        (["memory", None], "text 0 has 2 candidates and the kinds 'memory'"),
    ],
)
def test_kinds_that_do_not_fit_are_refused(kinds, message):
    with pytest.raises(ValueError, match=message):
        trait_tensor([candidate_traits("x", ["a", "b"]), []], kinds, ["memory"])
