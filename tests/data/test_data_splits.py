import difflib
import random
from itertools import combinations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from lira_hf.data import (
    ParallelPair,
    installed_catalogs,
    read_cldr,
    read_gettext,
    remove_near_duplicates,
    split_by_origin,
    split_parallel,
)
from lira_hf.data.splits import _near_duplicates, text_key


LANGUAGES = ("vi", "id", "ms", "ur", "bn", "fil")


@pytest.fixture(scope="module")
def pairs():
    return read_cldr(LANGUAGES) + read_gettext(installed_catalogs("django", LANGUAGES))


@pytest.fixture(scope="module")
def sides(pairs):
    return split_parallel(pairs, seed=3)


def trigram_overlap(first, second):
    """Jaccard index of character trigrams: a near-duplicate measure of its own, without weights."""
    a, b = ({f" {text} "[i : i + 3] for i in range(len(text))} for text in (first, second))
    return len(a & b) / max(1, len(a | b))


def row(english, text="chữ", language="vi", origin="x"):
    return ParallelPair(language, text, english, origin)


def test_no_row_is_lost_and_shares_are_kept(pairs, sides):
    assert sorted(map(repr, (pair for side in sides.values() for pair in side))) == sorted(map(repr, pairs))
    keys = {name: {text_key(pair.english) for pair in side} for name, side in sides.items()}
    total = sum(map(len, keys.values()))
    for name, share in (("train", 0.7), ("dev", 0.1), ("test", 0.2)):
        assert len(keys[name]) / total == pytest.approx(share, abs=0.01)
        position = {id(pair): number for number, pair in enumerate(pairs)}
        order = [position[id(pair)] for pair in sides[name]]
        assert order == sorted(order)


@pytest.mark.parametrize("column", ["english", "text"])
def test_nothing_is_shared_between_sides_by_brute_force(sides, column):
    texts = {name: sorted({text_key(getattr(pair, column)) for pair in side}) for name, side in sides.items()}
    sample = random.Random(0)
    for first, second in combinations(texts, 2):
        assert not set(texts[first]) & set(texts[second])
        for one in sample.sample(texts[second], 15):
            if len(one) < 12:
                continue  # in a short word one letter is another word
            for other in texts[first]:
                near = trigram_overlap(one, other) > 0.9 and difflib.SequenceMatcher(None, one, other).ratio() > 0.95
                assert not near, (one, other)


def test_split_is_the_same_for_a_seed_whatever_the_order(pairs):
    some = pairs[::6]
    first, other = split_parallel(some, seed=3), split_parallel(some, seed=4)
    again = split_parallel(random.Random(1).sample(some, len(some)), seed=3)
    for name in first:
        assert set(again[name]) == set(first[name])
    assert set(other["test"]) != set(first["test"])
    assert split_parallel(pairs[:1], seed=3)["train"] == pairs[:1]
    assert split_parallel([]) == {"train": [], "dev": [], "test": []}


def test_links_by_case_digits_foreign_text_and_chains():
    # a ~ b by key, b ~ c by nearly the same foreign text, c ~ d by n-grams: all four go together, whatever the seed.
    linked = [
        row("Delete 3 files!", "một"),
        row("delete  12 FILES", "xoá các tập tin này"),
        row("Remove documents", "xoá các tập tin", "th"),
        row("Remove the documents", "bốn", "th"),
    ]
    others = [
        row(f"{word} {number}", f"{word}{word}") for number, word in enumerate("alpha beta gamma delta kappa".split())
    ]
    for seed in range(12):
        result = split_parallel(linked + others, (0.4, 0.3, 0.3), seed, near_duplicate_threshold=0.7)
        homes = [name for name, side in result.items() for pair in linked if pair in side]
        assert len(homes) == 4
        assert len(set(homes)) == 1


def test_a_cluster_larger_than_a_side_goes_where_room_is(caplog):
    same = [row(f"The same text number {number}", f"văn bản {number}") for number in range(6)]
    chain = [row(f"{'abcdefgh'[number : number + 5]} word", "x") for number in range(4)]
    result = split_parallel(same + chain + [row("zebra", "y")], (0.5, 0.25, 0.25), near_duplicate_threshold=1.0)
    assert sum(map(len, result.values())) == 11
    everything = [row(f"text {chr(97 + n)}", "cùng một chữ") for n in range(20)]
    assert len(split_parallel(everything)["train"]) == 20
    assert "one cluster" in caplog.text
    assert split_parallel(everything, (0.0, 0.0, 1.0))["test"] == everything


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.8, 0.3, -0.1), (0.7, 0.2, 0.2), (float("nan"), 0.5, 0.5)])
def test_bad_fractions_and_thresholds(fractions):
    with pytest.raises(ValueError, match="expected three shares for train, dev and test"):
        split_parallel([row("a")], fractions)
    for threshold in (0, 1.5):
        with pytest.raises(ValueError, match="expected a cosine above 0"):
            split_parallel([row("a")], near_duplicate_threshold=threshold)


def test_split_by_origin_takes_near_duplicates_out_of_dev_and_test():
    rows = [
        row("Save the current file", "Lưu tệp", origin="gimp"),
        row("Save current file", "Ghi lại", origin="gtk/a"),
        row("Open the recent documents", "Mở gần đây", origin="gtk/b"),
        row("Open recent documents", "Mở tài liệu", origin="apt"),
        row("Something else", "LƯU tệp.", origin="apt"),
        row("Quite another", "Khác hẳn", origin="apt/sub"),
        row("Not asked for", "Không", origin="gtkmm"),
    ]
    result = split_by_origin(rows, {"train": ["gimp"], "dev": ["apt"], "test": ["gtk"]}, 0.7)
    assert result == {"train": [rows[0]], "dev": [rows[5]], "test": [rows[2]]}
    result = split_by_origin(rows, {"train": ["apt", "gimp"], "test": ["apt/sub"]})
    assert result["test"] == [rows[5]]


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.8])
def test_near_duplicates_are_those_of_all_pairs(pairs, threshold):
    keys = sorted({text_key(pair.english) for pair in pairs} | {text_key(pair.text) for pair in pairs[::5]})[::6]
    keys += [f"{key} {key[:3]}" for key in keys[::4]] + [""]
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit_transform(keys).toarray()
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, 1.0)  # the empty text's too
    unclear = np.abs(cosines - threshold) < 1e-6  # of single precision
    found = _near_duplicates(keys, threshold).toarray()
    assert set(np.unique(found)) == {0.0, 1.0}
    assert ((found > 0) == (cosines >= threshold))[~unclear].all()
    assert unclear.sum() < 10
    assert found.sum() > len(keys) + 20


def test_split_by_origin_refuses_unclear_origins():
    rows = [row("a", origin="cldr")]
    with pytest.raises(ValueError, match=r"got origin 'gimp', which no row has; expected one of \['cldr'\]"):
        split_by_origin(rows, {"train": ["cldr"], "test": ["gimp"]})
    with pytest.raises(ValueError, match="got origin 'cldr/' on two sides"):
        split_by_origin(rows, {"train": ["cldr"], "test": ["cldr/"]})
    with pytest.raises(ValueError, match="got 'valid': .*; expected 'train', 'dev' or 'test'"):
        split_by_origin(rows, {"valid": ["cldr"]})
    with pytest.raises(ValueError, match="with a list of origins"):
        split_by_origin(rows, {"train": "cldr"})


def test_thinned_pool_has_one_document_for_a_query(pairs):
    pool = remove_near_duplicates(pairs)
    assert 2800 < len({pair.english for pair in pool}) < len({pair.english for pair in pairs})
    assert len({(pair.language, text_key(pair.english)) for pair in pool}) == len(pool)
    assert len({text_key(pair.english) for pair in pool}) == len({pair.english for pair in pool})
    rows = [
        row("Two files"),
        row("Two  FILES"),
        row("Two files", "khác"),
        row("Two files", language="id"),
        row("Two file", language="th"),
        row("One", "m"),
    ]
    assert remove_near_duplicates(rows, 0.6) == [rows[0], rows[3], rows[5]]
