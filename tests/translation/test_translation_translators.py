"""Memory, gloss, repair, union and cross-fitting on real text and against independent oracles."""

import json
import os
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest

from lira_hf.translation import (
    Candidate,
    GlossTranslator,
    Lexicon,
    ParallelText,
    RepairTranslator,
    Score,
    TranslationMemory,
    Translator,
    TranslatorUnion,
    clean_text,
    cross_fit,
    load_translator,
)
from lira_hf.translation.memory import _first_sorted
from lira_hf.translation.segmentation import Segmenter, number_values, placeholders


TOY = [
    ("xx", "rumah besar", "big house"),
    ("xx", "rumah kecil", "small house"),
    ("xx", "kucing besar", "big cat"),
    ("xx", "kucing kecil", "small cat"),
    ("xx", "anjing besar", "big dog"),
    ("xx", "anjing kecil", "small dog"),
]


def cosine_oracle(query: str, text: str, corpus: list[str]) -> float:
    """TF-IDF cosine of padded 2-4-grams, written out by hand: (1 + ln tf) * (1 + ln((1 + n) / (1 + df)))."""

    def grams(value):
        words = [f" {word} " for word in value.casefold().split()]
        return Counter(w[i : i + n] for w in words for n in (2, 3, 4) for i in range(len(w) - n + 1))

    df = Counter(gram for other in corpus for gram in grams(other))
    df = {gram: sum(gram in grams(other) for other in corpus) for gram in df}

    def vector(value):
        return {
            g: (1 + np.log(c)) * (1 + np.log((1 + len(corpus)) / (1 + df[g])))
            for g, c in grams(value).items()
            if g in df
        }

    a, b = vector(query), vector(text)
    dot = sum(weight * b.get(gram, 0.0) for gram, weight in a.items())
    return dot / np.sqrt(sum(w * w for w in a.values()) * sum(w * w for w in b.values()))


def test_memory_ranks_and_scores_as_a_brute_force_cosine_does():
    corpus = [text for _, text, _ in TOY]
    hits = TranslationMemory.fit(TOY).nearest(["Rumah kecil sekali"], "xx", 6)[0]
    expected = sorted(((cosine_oracle("Rumah kecil sekali", text, corpus), text) for text in corpus), reverse=True)
    expected = [(score, text) for score, text in expected if score > 0]
    assert [hit.text for hit in hits][:2] == [text for _, text in expected][:2]
    assert [hit.similarity for hit in hits] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_memory_finds_known_strings_exactly_whatever_the_chunks(django_pairs, monkeypatch):
    memory = TranslationMemory.fit(django_pairs)
    for language in ("vi", "th", "ur", "ja"):
        rows = [(text, english) for tag, text, english in django_pairs if tag == language]
        answers = memory.translate([text for text, _ in rows], language, 3)
        known: dict[str, set[str]] = {}
        for text, english in rows:
            known.setdefault(text.casefold(), set()).add(english.strip().casefold())
        exact = [answer[0].score == pytest.approx(1.0, abs=1e-5) for answer in answers]
        assert all(exact)
        first = [
            answer[0].text.casefold() in known[text.casefold()]
            for (text, _), answer in zip(rows, answers, strict=True)
        ]
        assert np.mean(first) > 0.99  # other text may have the very same n-grams
        monkeypatch.setattr("lira_hf.translation.memory._PRODUCT_CELLS", 7 * len(rows))
        assert memory.translate([text for text, _ in rows[:50]], language, 3) == answers[:50]


def test_memory_gives_k_distinct_english_even_when_the_nearest_all_share_one():
    pairs = [("xx", f"salin berkas {i}", "Copy file") for i in range(40)]
    pairs += [("xx", "salin folder", "copy FILE"), ("xx", "salin map", "Copy folder")]
    answer = TranslationMemory.fit(pairs).translate(["salin berkas 7"], "xx", 2)[0]
    assert [candidate.text for candidate in answer] == ["Copy file", "Copy folder"]
    assert answer[0].kind == answer[0].translator == "memory"


def test_first_sorted_keeps_ties_and_memory_order():
    similarity = np.array([0.5, 0.9, 0.5, 0.5, 0.1], dtype=np.float32)
    entries = np.array([7, 3, 2, 9, 1])
    assert entries[_first_sorted(entries, similarity, 2)].tolist() == [3, 2, 7, 9]
    assert entries[_first_sorted(entries, similarity, 99)].tolist() == [3, 2, 7, 9, 1]


@pytest.mark.parametrize("cls", [TranslationMemory, GlossTranslator, RepairTranslator])
def test_translators_take_any_text(cls, split_pairs):
    translator = cls.fit(split_pairs[0])
    assert isinstance(translator, Translator)
    texts = ["", "  \n", "\ud800 lỗi \udcff", "ไม่" * 33_334, "x" * 100_000, "?!", "🎉"]
    for language in ("vi", "th"):
        answers = translator.translate(texts, language, 3)
        assert len(answers) == len(texts)
        assert answers[0] == answers[1] == []
        for row in answers:
            assert len(row) <= 3
            assert len({c.text.casefold() for c in row}) == len(row)
            assert all(c.text == clean_text(c.text) for c in row)
    assert translator.translate(["Xin chào"], "tlh", 3) == [[]]
    assert translator.translate([], "vi", 3) == []
    with pytest.raises(TypeError, match="expected a sequence of strings"):
        translator.translate("abc", "vi", 3)
    with pytest.raises(ValueError, match="num_candidates is 0"):
        translator.translate(["abc"], "vi", 0)


def test_gloss_learns_each_word_from_their_cooccurrence():
    gloss = GlossTranslator.fit([pair for pair in TOY if pair[1] != "anjing kecil"])
    answer = gloss.translate(["anjing kecil"], "xx", 4)[0]
    assert answer[0].text == "dog small"
    assert len({candidate.text for candidate in answer}) == len(answer) == 4
    assert answer[0].score == max(candidate.score for candidate in answer)


def test_gloss_passes_names_numbers_and_placeholders_through():
    gloss = GlossTranslator.fit([*TOY, ("xx", "{0} kucing", "{0} cats"), ("bn", "বড়", "big")])
    slots = GlossTranslator.fit([("xx", "sebanyak {0}", "{0}"), ("xx", "sebanyak %s", "%s")])
    assert slots.translate(["sebanyak 3"], "xx", 1)[0][0].text == "sebanyak 3"  # a slot translates no word
    (first,) = gloss.translate(["rumah Москва ১২ %(name)s Đà {0}"], "xx", 1)[0]
    assert first.text == "house moskva 12 %(name)s đà {0}"
    assert gloss.translate(["7 7"], "xx", 1)[0][0].text == "7 7"


@pytest.mark.parametrize(
    ("language", "word", "english"),
    [
        ("id", "berkas", "file"),
        ("ms", "fail", "file"),
        ("vi", "ngày", "date"),
        ("bn", "পাসওয়ার্ড", "password"),
        ("ur", "صفحہ", "page"),
        ("th", "รหัสผ่าน", "password"),
        ("ja", "パスワード", "password"),
    ],
)
def test_gloss_knows_frequent_words_of_real_text(language, word, english, lexicon):
    candidates = GlossTranslator(lexicon).translate([word], language, 1)[0]
    assert english in candidates[0].text.split()


def test_repair_exchanges_the_word_that_differs():
    pairs = [*TOY[:4], ("xx", "hapus rumah besar ini", "Delete this big house.")]
    repair = RepairTranslator.fit(pairs)
    texts = [candidate.text for candidate in repair.translate(["hapus rumah kecil ini"], "xx", 3)[0]]
    assert texts == ["Delete this small house."]
    assert repair.translate(["hapus rumah besar ini"], "xx", 3) == [[]]  # nothing differs: the memory has it


class Canned:
    """A translator that gives fixed candidates."""

    def __init__(self, name, answers):
        self.name, self.fingerprint, self.answers = name, f"{name}-1", answers

    def translate(self, texts, language, num_candidates):
        return [
            [Candidate(answer, self.name, self.name) for answer in self.answers.get(text, [])][:num_candidates]
            for text in texts
        ]


def test_union_takes_turns_and_keeps_who_made_what():
    union = TranslatorUnion([Canned("a", {"t": ["One", "Two", "Three"]}), Canned("b", {"t": ["one ", "Four"]})])
    answer = union.translate(["t", "u"], "xx", 3)
    assert [(c.text, c.translator) for c in answer[0]] == [("One", "a"), ("Two", "a"), ("Four", "b")]
    assert answer[1] == []
    assert union.name == "a+b"
    other = TranslatorUnion([Canned("b", {}), Canned("a", {})])
    assert union.fingerprint != other.fingerprint
    with pytest.raises(ValueError, match="expected at least one"):
        TranslatorUnion([])


def test_cross_fitted_candidates_never_come_from_the_rows_own_english(split_pairs):
    pairs = split_pairs[0][:900] + [("id", "Hapus", "delete "), ("ms", "Hapuskan", "DELETE")]
    seen: list[set[str]] = []

    def factory(part):
        seen.append({english.strip().casefold() for _, _, english in part})
        return TranslationMemory.fit(part)

    answers = cross_fit(factory, pairs, 3, folds=4, seed=1)
    assert len(answers) == len(pairs)
    assert len(seen) == 4
    everything = {english.strip().casefold() for _, _, english in pairs}
    left_out = [everything - part for part in seen]
    assert set.union(*left_out) == everything
    assert sum(map(len, left_out)) == len(everything)
    for (_, _, english), answer in zip(pairs, answers, strict=True):
        assert english.strip().casefold() not in {candidate.text.casefold() for candidate in answer}
    assert sum(map(bool, answers)) > 0.95 * len(pairs)
    assert cross_fit(TranslationMemory.fit, pairs, 3, folds=4, seed=1) == answers
    with pytest.raises(ValueError, match="1 distinct English texts"):
        cross_fit(TranslationMemory.fit, [("xx", "a", "One"), ("yy", "b", "one")])


def test_saved_translators_answer_as_before(tmp_path, split_pairs):
    train, test = split_pairs
    pairs = [pair for pair in train if pair[0] in ("th", "id")]
    lexicon = Lexicon.fit(pairs, iterations=2)
    union = TranslatorUnion([TranslationMemory.fit(pairs), GlossTranslator(lexicon), RepairTranslator(lexicon)])
    union.save(tmp_path / "union")
    loaded = load_translator(tmp_path / "union")
    assert loaded.fingerprint == union.fingerprint
    for language in ("th", "id"):
        texts = [text for tag, text, _ in test if tag == language][:40]
        assert loaded.translate(texts, language, 5) == union.translate(texts, language, 5)
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(ValueError, match=r"holds a 'memory'; expected a 'gloss'"):
        GlossTranslator.load(tmp_path / "union" / "0-memory")
    with pytest.raises(FileNotFoundError, match=r"has no translator\.json"):
        load_translator(tmp_path)
    with open(tmp_path / "union" / "0-memory" / "parallel.jsonl", "a", encoding="utf-8") as file:
        file.write('["id", "baru", "new"]\n')
    with pytest.raises(ValueError, match="was changed since"):
        load_translator(tmp_path / "union")


def test_saving_keeps_line_breaks_and_odd_characters(tmp_path):
    pairs = [("xx", 'a\tb\n"c"\u2028\x85', "one\ntwo"), ("yy", "\ud800", "lone")]
    TranslationMemory.fit(pairs).save(tmp_path)
    assert list(TranslationMemory.load(tmp_path).parallel) == [pairs[0], ("yy", "\ufffd", "lone")]
    (tmp_path / "parallel.jsonl").write_text('["xx", "a", "b"]\n["xx", \n')
    with pytest.raises(ValueError, match="line 2"):
        TranslationMemory.load(tmp_path)


def test_fingerprints_follow_text_and_settings():
    one = TranslationMemory.fit(TOY).fingerprint
    assert one == TranslationMemory.fit(iter(TOY)).fingerprint
    others = [TranslationMemory.fit(TOY[:-1]), TranslationMemory.fit(TOY, longest=3), GlossTranslator.fit(TOY)]
    assert len({one, *(other.fingerprint for other in others)}) == 4


def test_answers_are_the_same_in_every_process(split_pairs, tmp_path):
    gloss = GlossTranslator.fit([pair for pair in split_pairs[0] if pair[0] in ("th", "ja")])
    gloss.save(tmp_path)
    texts = [text for language, text, _ in split_pairs[1] if language == "th"][:30]
    code = (
        "import sys, json; from lira_hf.translation.gloss import GlossTranslator; "
        "gloss = GlossTranslator.load(sys.argv[1]); rows = gloss.translate(json.loads(sys.argv[2]), 'th', 3); "
        "print(json.dumps([gloss.fingerprint, [[[c.text, c.score] for c in row] for row in rows]]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), json.dumps(texts)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    here = [[[c.text, c.score] for c in row] for row in gloss.translate(texts, "th", 3)]
    assert json.loads(other.stdout) == [gloss.fingerprint, here]
    assert sum(map(len, here)) > 50


def test_parallel_text_names_the_bad_row():
    with pytest.raises(ValueError, match=r"pair 1 is \('vi', 'x'\)"):
        ParallelText([("vi", "a", "b"), ("vi", "x")])
    with pytest.raises(ValueError, match="no pair with both sides filled"):
        TranslationMemory.fit([("vi", " ", "b"), ("vi", "a", "")])
    assert len(ParallelText([("vi", "a", "b"), ("vi", "a", "b "), ("vi", "c", "")])) == 1


def test_segmenter_splits_scripts_without_spaces_and_drops_nothing(django_pairs):
    for language in ("th", "ja"):
        texts = [text for tag, text, _ in django_pairs if tag == language]
        segmenter = Segmenter.fit(texts)
        longest = max(texts, key=len)
        assert len(segmenter.split(longest)) > 2 * len(Segmenter().split(longest))
        for text in texts[:200]:
            assert "".join(segmenter.split(text)) == "".join(Segmenter().split(text))
        pieces = {piece for text in texts for piece in segmenter.split(text)}
        assert not [piece for piece in pieces if unicodedata.category(piece[0]) == "Mn"]
        assert segmenter._model.to_str() == Segmenter.fit(texts)._model.to_str()  # though the trainer's own varies


def test_words_numbers_and_placeholders_are_told_apart():
    words = Segmenter().split("Đã xoá %(count)d mục, ১২,৫ {name:.2f} ${x} don’t 100% sure 2nd क्षमा")
    assert words == "đã xoá %(count)d mục 12 5 {name:.2f} ${x} don’t 100 sure 2nd क्षमा".split()
    assert number_values("১২ 12 ٣ %1$s {0}") == Counter({12: 2, 3: 1})
    assert placeholders("%s %(a)s {0} 50% off") == Counter(["%s", "%(a)s", "{0}"])


def test_clean_text_and_score_check_their_values():
    assert clean_text("a\ud800b\udfffé😀") == "a\ufffdb\ufffdé😀"
    assert Score(1, 5.5, 10) == (1.0, 5.5, 10.0)
    for wrong in (0.99, 10.01, float("nan")):
        with pytest.raises(ValueError, match="score 'emotional' is .*expected a number in 1..10"):
            Score(2, wrong, 2)
