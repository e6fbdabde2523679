"""The benchmark of reasoning through a base LM: its data, its scoring, and the whole path on models of no use."""

import json
import random
import sys
from pathlib import Path

import pytest


EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from number_words import read, solve  # noqa: E402
from number_words.base_models import (  # noqa: E402
    BaseSettings,
    EncoderSettings,
    answer_text,
    base_tokenizer,
    english_words,
    parse_equation,
)
from number_words.problems import Problem, generate  # noqa: E402
from number_words.reasoning import Settings, main  # noqa: E402
from number_words.reasoning_data import DataSettings, read_items, write_data  # noqa: E402
from number_words.reasoning_systems import CONTROLS, HeadSettings  # noqa: E402

from lira_hf.data import read_chat  # noqa: E402
from lira_hf.translation import CandidateStore, Identity  # noqa: E402


PAIRS = {"vi": 6, "th": 6, "id": 6, "ms": 6, "ur": 3, "bn": 6, "fil": 3}
TWICE = "LiRA, both roads side by side (2S)"
DATA = DataSettings(pairs=PAIRS, after=20, repeats={"ur": 2}, dev=2, test=3)


def small_settings() -> Settings:
    config = {"num_bins": 8, "hidden_size": 16, "intermediate_size": 16, "prefix_projection": "vocab"}
    config |= {"prefix_roads": "merged", "candidate_mode": "argmax"}
    return Settings(
        BaseSettings(hidden_size=16, layers=1, problems=60, equation_steps=2, question_steps=2, batch_size=4),
        EncoderSettings(hidden_size=16, layers=1, pairs=dict.fromkeys(PAIRS, 20), slots=8, steps=2, batch_size=4),
        DATA,
        HeadSettings(config=config, arca_steps=2, arca_batch=4, steps=2, batch=4, answer_steps=1),
    )


@pytest.mark.parametrize(
    ("kind", "numbers", "answer", "text"),
    [
        ("addition", (7, 35), 42, "0 7 + 3 5 = 4 2"),
        ("subtraction", (76, 29), 47, "7 6 - 2 9 = 4 7"),
        ("difference", (29, 76), 47, "7 6 - 2 9 = 4 7"),
        ("multiplication", (9, 8), 72, "0 9 * 0 8 = 7 2"),
        ("two_steps", (20, 5, 25), 0, "2 0 + 0 5 = 2 5 2 5 - 2 5 = 0 0"),
    ],
)
def test_answers_are_equations_that_can_be_read_back(kind, numbers, answer, text):
    assert answer_text(Problem(kind, 0, numbers, ("adam", "nina"), "apple", answer)) == text
    assert parse_equation(text) == answer


@pytest.mark.parametrize("text", ["", "4 7", "7 6 - 2 9 =", "7 6 = x", "= 4 7 ?"])
def test_what_is_no_equation_has_no_answer(text):
    assert parse_equation(text) is None


def test_the_base_knows_every_english_word_and_a_number_is_one():
    tokenizer = base_tokenizer()
    for problem in generate(300, 3, split=None):
        ids = tokenizer(f"question : {problem.text('en')} answer : {answer_text(problem)}")["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
    assert english_words("Has Adam thirty-five apples?") == ["has", "adam", "thirty-five", "apples", "?"]


def test_the_data_are_read_by_the_library_and_agree_with_each_other(tmp_path):
    folder = write_data(DATA, tmp_path)
    assert write_data(DATA, tmp_path) == folder  # once
    items, rows = read_items(folder, "train"), read_chat(folder / "train.jsonl")
    assert len(items) == sum(PAIRS.values())
    assert len(rows) == len(items) + PAIRS["ur"]  # Urdu is there twice
    for item in items + read_items(folder, "test"):
        reading = read(item.text, item.language)
        assert solve(reading.kind, reading.numbers) == item.answer
        assert read(item.reference).numbers == reading.numbers
    assert {row.text for row in rows} == {item.text for item in items}
    with CandidateStore(folder / "candidates.sqlite", read_only=True) as store:
        for item in random.Random(0).sample(items, 10):
            (found,) = store.get(item.language, [item.text], critic=Identity("weak", "0"))
            scored = {one.text: list(one.scores) for one in found}
            assert scored == dict(zip(item.drafts, item.scores, strict=True))


def test_training_shares_no_problem_with_the_encoder_nor_with_test(tmp_path):
    folder = write_data(DATA, tmp_path)
    train, test = ([item.reference for item in read_items(folder, split)] for split in ("train", "test"))
    seen = {problem.text("en") for problem in generate(DATA.after, DATA.encoder_seed + 11, split="train")}
    assert len(set(train)) == sum(PAIRS.values())  # a problem each
    assert not set(train) & (seen | set(test))
    clusters = {(item.cluster, item.answer) for item in read_items(folder, "test")}
    assert len(clusters) == DATA.test  # the same problems in every language


def test_the_whole_path(tmp_path):
    told: list[str] = []
    names = ["LiRA", "g only", "h only", TWICE]
    command = ["--output", str(tmp_path), "--seeds", "3", "--processes", "0", "--systems", *names]
    main(command, told.append, small_settings())
    report = json.loads((tmp_path / "reasoning.json").read_text(encoding="utf-8"))
    assert list(report["test"]) == [*CONTROLS, *names]
    for row in report["test"].values():
        shares = [row[tag] for tag in PAIRS]
        assert all(0 <= share <= 1 for share in shares)
        assert row["mean"] == pytest.approx(sum(shares) / 7, abs=1e-3)
    assert "LiRA minus this" not in report["test"]["LiRA"]
    low, high = report["test"]["g only"]["LiRA minus this"]["mean"][1:]
    assert low <= high
    gates = report["gates"]["3"]
    assert set(gates["LiRA"]) == set(PAIRS)
    assert not gates[TWICE]
    assert "".join(told).count("\n| ") == len(report["test"])
