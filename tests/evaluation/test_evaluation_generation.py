"""MGSM's exact match against answers worked out by hand, and what each system is asked."""

import re
from decimal import Decimal

import numpy as np
import pytest
from tiny_lira import causal_with_processor

from lira_hf.data import MathProblem
from lira_hf.evaluation import (
    WORKED_EXAMPLES,
    WorkedExample,
    evaluate_mgsm,
    extract_number,
    mgsm_prompt,
    paired_difference,
    system_report,
)
from lira_hf.inference import CandidateSource, LiraGenerator


MARK = "<|lira_prefix|>"
EXAMPLES = [WorkedExample("How many?", "1 + 1 = 2. The answer is 2.")]
PROBLEMS = [
    MathProblem("1", "the cat", Decimal(18), "en", 1),
    MathProblem("2", "a dog", Decimal(5), "en", 2),
    MathProblem("1", "ঢাকা", Decimal(18), "bn", 1),
    MathProblem("2", "নদী", Decimal(5), "bn", 2),
    MathProblem("3", "শহর", Decimal("1250.5"), "bn", 3),
]


class Words:
    """A translator of one word, that counts what it is asked."""

    name, fingerprint = "words", "1"

    def __init__(self):
        self.asked = []

    def translate(self, texts, source, num_candidates=5):
        from lira_hf.translation import Candidate

        self.asked += texts
        return [[Candidate("Dhaka", None, "words")] if text == "ঢাকা" else [] for text in texts]


class Canned(LiraGenerator):
    """Writes down what it is asked; LiRA answers well, the others don't."""

    def stream(self, questions, languages=None, candidates=None, scores=None, prompts=None, **options):
        self.calls.append({"candidates": candidates, "prompts": prompts, **options})
        rows = list(range(len(questions)))
        good = ["The answer is 18.", "5", "The answer is ১৮. So 4.", "5 - 6 = -1 apples", "so $1,250.50"]
        if not options["prefix"]:
            good = ["none"] * 5
        elif candidates is not None:
            good = [*good[:2], "The answer is 18", "", "1,250"]
        yield rows, good


@pytest.fixture(scope="module")
def parts():
    return causal_with_processor()


@pytest.fixture
def canned(parts):
    Canned.calls = []
    return Canned(*parts, CandidateSource(translator=Words()), chat=False)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("3 + 4 = 7. The answer is 7.", "7"),
        ("The answer is 7. Then 9 more.", "7"),
        ("the answer is 1. No: The ANSWER IS: $1,250.50!", "1250.50"),
        ("18", "18"),
        ("I think 4, or 5.", "5"),
        ("The answer is five, of 6 or 7", "6"),
        ("Of 3 the answer is none", "3"),
        ("-12 or \u221213", "-13"),
        ("২৩", "23"),
        ("१,२३४", "1234"),
        ("1,23", "23"),
        ("12,3456", "3456"),
        ("10.", "10"),
        ("none", None),
        ("", None),
    ],
)
def test_the_number_of_an_answer(answer, number):
    assert extract_number(answer) == (None if number is None else Decimal(number))


def test_worked_examples_are_right():
    assert len(WORKED_EXAMPLES) == 8
    for example in WORKED_EXAMPLES:
        sums = re.findall(r"((?:\d[\d.]* [-+*/] )+\d[\d.]*) = (\d[\d.]*\d|\d)", example.answer.replace("%", ""))
        assert sums
        assert all(eval(left) == float(right) for left, right in sums), example
        assert extract_number(example.answer) == Decimal(sums[-1][1])


def test_prompts(parts):
    plain, chat = LiraGenerator(*parts, chat=False), LiraGenerator(*parts)
    expected = "Question: How many?\nStep-by-Step Answer: 1 + 1 = 2. The answer is 2.\n\n"
    assert mgsm_prompt(plain, "ঢাকা", EXAMPLES) == f"{expected}Question: {MARK}ঢাকা\nStep-by-Step Answer:"
    turns = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": EXAMPLES[0].answer}]
    assert mgsm_prompt(chat, "ঢাকা", EXAMPLES) == [*turns, {"role": "user", "content": "ঢাকা"}]


def test_exact_match_per_language_and_the_controls(canned):
    source = canned.candidates
    found = evaluate_mgsm(canned, PROBLEMS, EXAMPLES, max_new_tokens=9)
    assert list(found) == ["lira", "lira_without_translator", "translate_then_base", "base_alone"]
    assert found["lira"].values["exact_match"].tolist() == [1, 1, 1, 0, 1]
    assert found["lira"].per_language() == {"bn": pytest.approx(2 / 3), "en": 1.0}
    assert found["lira"].mean() == pytest.approx(5 / 6)
    assert found["lira_without_translator"].values["answered"].tolist() == [1, 1, 1, 0, 1]
    assert found["lira_without_translator"].values["exact_match"].tolist() == [1, 1, 1, 0, 0]
    assert found["base_alone"].mean() == 0
    assert found["base_alone"].answers == ["none"] * 5
    lira, untranslated, translated, alone = canned.calls
    assert lira["candidates"] is None
    assert untranslated["candidates"] == [None, None, [], [], []]  # an English text is its own
    asked = [[prompt.rsplit("Question: ", 1)[1].split("\n")[0] for prompt in call["prompts"]] for call in canned.calls]
    own = [MARK + problem.question for problem in PROBLEMS]
    assert asked == [own, own, [*own[:2], f"{MARK}Dhaka", *own[3:]], own]
    assert [call["prefix"] for call in canned.calls] == [True, True, False, False]
    assert (alone["do_sample"], alone["max_new_tokens"], alone["stop"]) == (False, 9, ("Question:", "\n\n"))
    assert source.translator.asked == ["ঢাকা", "নদী", "শহর"]  # once each
    assert canned.candidates is source
    without = Canned(canned.model, canned.processor, chat=False)
    assert list(evaluate_mgsm(without, PROBLEMS)) == ["lira", "base_alone"]


def test_the_report_and_its_intervals(canned):
    found = evaluate_mgsm(canned, PROBLEMS, EXAMPLES)
    report = system_report(found)
    assert report["lira"] == {
        "mean": pytest.approx(5 / 6),
        "languages": {"bn": pytest.approx(2 / 3), "en": 1},
        "questions": 5,
    }
    gains = report["base_alone"]["ours_minus_this"]
    expected = paired_difference([found["lira"]], [found["base_alone"]], "exact_match")
    np.testing.assert_allclose(gains["mean"], expected)
    assert expected.difference == pytest.approx(5 / 6)
    # A problem and its translation are drawn together: three clusters, of which the second is half right.
    assert gains["en"] == [1, 1, 1]
    assert gains["bn"][1:] == pytest.approx([0, 1])
    assert "ours_minus_this" not in report["lira"]
    assert report["base_alone"]["languages"] == {"bn": 0, "en": 0}


def test_a_model_answers(parts):
    generator = LiraGenerator(*parts, CandidateSource(translator=Words()), chat=False, batch_size=2)
    found = evaluate_mgsm(generator, PROBLEMS, EXAMPLES, max_new_tokens=5)
    assert sorted(generator.candidates.translator.asked) == sorted(["ঢাকা", "নদী", "শহর"])  # once, for all systems
    for system, given in (("lira", {}), ("base_alone", {"prefix": False})):
        prompts = [mgsm_prompt(generator, problem.question, EXAMPLES) for problem in PROBLEMS]
        asked = [problem.question for problem in PROBLEMS], [problem.language for problem in PROBLEMS]
        options = {"max_new_tokens": 5, "do_sample": False, **given}
        assert found[system].answers == generator.generate(*asked, prompts=prompts, **options)
    assert found["lira"].answers != found["base_alone"].answers
    chat = evaluate_mgsm(LiraGenerator(*parts), PROBLEMS, EXAMPLES, ["lira"], max_new_tokens=3)
    assert list(chat) == ["lira"]


def test_what_is_refused(parts):
    generator = LiraGenerator(*parts, chat=False)
    with pytest.raises(ValueError, match="got no problems"):
        evaluate_mgsm(generator, [])
    with pytest.raises(ValueError, match="got the system 'best'; expected of .*name some of these"):
        evaluate_mgsm(generator, PROBLEMS, systems=["best"])
    with pytest.raises(ValueError, match="got the system 'translate_then_base'.*give a candidate source"):
        evaluate_mgsm(generator, PROBLEMS, systems=["translate_then_base"])
