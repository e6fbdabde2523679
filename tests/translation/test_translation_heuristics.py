"""The heuristic critic on held-out real text."""

import random

import numpy as np
import pytest

from lira_hf.translation import Critic, GlossTranslator, HeuristicCritic


LOWEST = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def critic(lexicon):
    return HeuristicCritic(lexicon)


@pytest.mark.parametrize("language", ["vi", "th", "id", "ms", "ur", "bn", "ja"])
def test_true_english_beats_another_rows(language, critic, split_pairs):
    rows = [(text, english) for tag, text, english in split_pairs[1] if tag == language]
    generator = random.Random(0)
    wins: list[float] = []
    for text, english in rows:
        other = generator.choice([e for _, e in rows if e.casefold() != english.casefold()])
        true, random_one = critic.judge([text], language, [[english, other]])[0]
        wins.append(float(sum(true) > sum(random_one)) + 0.5 * (sum(true) == sum(random_one)))
    assert len(rows) > 25
    assert np.mean(wins) > 0.75, f"{language}: {np.mean(wins):.2f} of {len(rows)}"


def test_each_slot_answers_its_own_question(critic):
    text, good = "Vui lòng nhập ngày 12 %s", "Please enter date 12 %s"
    options = [good, "Please enter date 12", "Please enter date 13 %s", "Пожалуйста 12 %s", good + " and go on " * 9]
    (whole, no_slot, number, script, long) = critic.judge([text], "vi", [options])[0]
    assert whole.pragmatic > number.pragmatic > no_slot.pragmatic
    assert whole.pragmatic > max(script.pragmatic, long.pragmatic)
    assert whole.semantic > script.semantic
    assert long.semantic >= whole.semantic  # adequacy doesn't see what is added ...
    assert long.emotional < whole.emotional  # ... coverage does


def test_adequacy_is_put_on_the_scale_monotonically(critic):
    for language in ("vi", "th", "ja"):
        norms = critic._norms_of(language)
        places, scores = list(norms.adequacy), list(norms.scores)
        assert len(places) > 8
        assert all(np.diff(places) > 0)
        assert all(np.diff(scores) > 0)
        assert (places[0], places[-1], scores[0], scores[-1]) == (0.0, 1.0, 1.0, 10.0)
        assert -1.0 < norms.log_ratio < 1.5
    assert critic._norms_of("ja").log_ratio > critic._norms_of("vi").log_ratio  # kanji are the shorter text


def test_digits_of_any_script_agree_by_value(critic):
    same, other = critic.judge(["১২"], "bn", [["12", "13"]])[0]
    assert same.pragmatic > other.pragmatic
    assert same.semantic > other.semantic


def test_blank_sides_get_the_lowest_score(critic):
    assert critic.judge(["", " ", "ngày"], "vi", [["date"], ["date", ""], ["", "\n"]]) == [
        [LOWEST],
        [LOWEST, LOWEST],
        [LOWEST, LOWEST],
    ]
    assert critic.judge(["ngày", "giờ"], "vi", [[], []]) == [[], []]
    assert critic.judge([], "vi", []) == []


def test_unknown_language_is_judged_by_spelling_and_form(critic):
    same, other = critic.judge(["Москва 5"], "ru", [["Moskva 5", "London 4"]])[0]
    assert all(a > b for a, b in zip(same, other, strict=True))


def test_scores_stay_in_range_for_odd_text(critic):
    odd = ["\ud800", "x" * 100_000, "ไม่ " * 25_000, "?", "🎉", "9" * 5000, "%s" * 50]
    for row in critic.judge(odd, "th", [odd] * len(odd)):
        assert all(1.0 <= value <= 10.0 for score in row for value in score)


def test_wrong_shapes_are_refused(critic):
    with pytest.raises(ValueError, match="2 texts and 1 lists"):
        critic.judge(["a", "b"], "vi", [["c"]])
    with pytest.raises(TypeError, match=r"candidates\[0\] is the string 'date'"):
        critic.judge(["ngày"], "vi", ["date"])


def test_saved_critic_judges_as_before_and_shares_the_lexicon(tmp_path, split_pairs, lexicon):
    assert GlossTranslator(lexicon).lexicon is HeuristicCritic(lexicon).lexicon
    critic = HeuristicCritic.fit([pair for pair in split_pairs[0] if pair[0] == "th"], iterations=3)
    assert isinstance(critic, Critic)
    critic.save(tmp_path)
    loaded = HeuristicCritic.load(tmp_path)
    rows = [(text, english) for tag, text, english in split_pairs[1] if tag == "th"][:30]
    texts, candidates = [text for text, _ in rows], [[english] for _, english in rows]
    assert loaded.judge(texts, "th", candidates) == critic.judge(texts, "th", candidates)
    assert loaded.fingerprint == critic.fingerprint
    assert loaded.lexicon.settings["iterations"] == 3
