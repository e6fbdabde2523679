"""The likelihood of choices against plain passes of the base LM, and what each system is asked."""

import numpy as np
import pytest
import torch
from tiny_lira import causal_with_processor

from lira_hf import LiraForMultipleChoice
from lira_hf.data import ChoiceQuestion
from lira_hf.evaluation import ChoiceScorer, choice_prompt, evaluate_choices, system_report
from lira_hf.inference import CandidateSource
from lira_hf.translation import Candidate


MARK = "<|lira_prefix|>"
LETTERS = ("A", "B", "C")
QUESTIONS = [
    ChoiceQuestion("1", "what is Dhaka ?", ("a city", "a big cat on a mat", "house"), LETTERS, 0, "en", 1),
    ChoiceQuestion("2", "what sat on a mat ?", ("the cat", "the river"), LETTERS[:2], 0, "en", 2),
    ChoiceQuestion("1", "ঢাকা কী ?", ("শহর", "a big cat", "house"), LETTERS, 0, "bn", 1),
    ChoiceQuestion("2", "কে ?", ("the cat", "the river"), LETTERS[:2], 1, "bn", 2),
]


class Canned:
    """Translates a question and a choice."""

    name, fingerprint = "canned", "1"

    def translate(self, texts, source, num_candidates=5):
        known = {"ঢাকা কী ?": "what is Dhaka ?", "শহর": "city"}
        return [[Candidate(known[text], "memory", "canned")] if text in known else [] for text in texts]


@pytest.fixture(scope="module")
def parts():
    return causal_with_processor()


@pytest.fixture(scope="module")
def headed(parts, tmp_path_factory):
    """A LiraForMultipleChoice of the same weights, whose head has a say."""
    folder = tmp_path_factory.mktemp("checkpoint")
    parts[0].save_pretrained(folder)
    model = LiraForMultipleChoice.from_pretrained(folder).eval()
    with torch.no_grad():
        model.choice_head.weight.normal_(generator=torch.Generator().manual_seed(3))
    return model


@pytest.fixture
def source():
    return CandidateSource(translator=Canned())


@torch.no_grad()
def by_hand(parts, prompt, answer, **road):
    """Log-likelihoods of an answer's tokens, by one pass over one unpadded row."""
    model, processor = parts
    if road:
        batch = dict(processor([road.pop("text")], prompts=[prompt], **road))
        asked = batch.pop("input_ids")
        batch.pop("attention_mask")
    else:
        batch, asked = {}, torch.tensor([processor.tokenizer(prompt.replace(MARK, ""))["input_ids"]])
    new = torch.tensor([processor.tokenizer(answer, add_special_tokens=False)["input_ids"]])
    logits = model(input_ids=torch.cat([asked, new], 1), **batch).logits[0, -new.shape[1] - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(new.shape[1]), new[0]].tolist()


def test_scores_are_the_bases_likelihoods(parts, source):
    one = QUESTIONS[2]
    for size in (1, 3):
        for reduce, normalization in ((np.mean, "mean"), (np.sum, "sum")):
            scorer = ChoiceScorer(*parts, source, normalization, batch_size=size)
            columns = [[getattr(q, name) for q in QUESTIONS] for name in ("question", "choices", "language")]
            scores = scorer.score(*columns)
            assert [len(row) for row in scores] == [3, 2, 3, 2]
            road = {"text": one.question, "languages": ["bn"], "candidates": [["what is Dhaka ?"]]}
            expected = [
                reduce(by_hand(parts, one.question, answer, **road, kinds=[["memory"]])) for answer in one.choices
            ]
            np.testing.assert_allclose(scores[2], expected, rtol=1e-4)
            road = {"text": QUESTIONS[3].question, "languages": ["bn"]}
            expected = [reduce(by_hand(parts, road["text"], answer, **road)) for answer in QUESTIONS[3].choices]
            np.testing.assert_allclose(scores[3], expected, rtol=1e-4)
            alone = scorer.score(*columns, prefix=False)
            expected = [reduce(by_hand(parts, one.question, answer)) for answer in one.choices]
            np.testing.assert_allclose(alone[2], expected, rtol=1e-4)


def test_the_multiple_choice_class(parts, headed, source):
    columns = [[getattr(q, name) for q in QUESTIONS] for name in ("question", "choices", "language")]
    plain, scorer = ChoiceScorer(*parts, source), ChoiceScorer(headed, parts[1], source)
    found = scorer.score(*columns)
    batch = parts[1](
        [QUESTIONS[2].question],
        choices=[QUESTIONS[2].choices],
        languages=["bn"],
        candidates=[["what is Dhaka ?"]],
        kinds=[["memory"]],
    )
    with torch.no_grad():
        expected = headed(**batch).logits[0]
    np.testing.assert_allclose(found[2], expected, rtol=1e-4)
    assert np.abs(found[2] - plain.score(*columns)[2]).max() > 0.1  # the head's part
    for one, other in zip(scorer.score(*columns, prefix=False), plain.score(*columns, prefix=False), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)  # the base alone has no head
    with pytest.raises(ValueError, match="got normalization='sum' and a LiraForMultipleChoice; expected one of"):
        ChoiceScorer(headed, parts[1], normalization="sum")


def test_prompts(parts):
    one = QUESTIONS[0]
    plain, chat = ChoiceScorer(*parts), ChoiceScorer(*parts, chat=True)
    asked = (one.question, one.choices, one.labels)
    assert choice_prompt(plain, *asked) == (
        f"Question: {MARK}what is Dhaka ?\nAnswer:",
        [" a city", " a big cat on a mat", " house"],
    )
    shown = "what is Dhaka ?\nA. a city\nB. a big cat on a mat\nC. house"
    assert choice_prompt(plain, *asked, "letters") == (f"Question: {MARK}{shown}\nAnswer:", [" A", " B", " C"])
    assert choice_prompt(chat, *asked, "letters") == (f"user : {MARK}{shown} assistant :", ["A", "B", "C"])
    with pytest.raises(ValueError, match="got style='words'; expected 'text' or 'letters'"):
        choice_prompt(plain, *asked, "words")


def test_accuracy_per_language_and_the_controls(parts, source, monkeypatch):
    scorer = ChoiceScorer(*parts, source, batch_size=2)
    calls, real = [], scorer.score

    def score(texts, choices, languages, **given):
        calls.append({"texts": texts, "choices": choices, **given})
        return real(texts, choices, languages, **given)

    monkeypatch.setattr(scorer, "score", score)
    found = evaluate_choices(scorer, QUESTIONS)
    lira, untranslated, translated, alone = calls
    assert list(found) == ["lira", "lira_without_translator", "translate_then_base", "base_alone"]
    assert [call["prefix"] for call in calls] == [True, True, False, False]
    assert untranslated["candidates"] == [None, None, [], []]
    assert all(call["texts"] == [one.question for one in QUESTIONS] for call in calls)
    assert translated["prompts"][2:] == [
        f"Question: {MARK}what is Dhaka ?\nAnswer:",
        f"Question: {MARK}কে ?\nAnswer:",  # nobody translated it
    ]
    assert translated["choices"][2] == [" city", " a big cat", " house"]
    assert alone["choices"][2][0] == " শহর"
    for system, call in zip(found, calls, strict=True):
        given = {name: call[name] for name in ("prompts", "prefix", "candidates") if name in call}
        best = [
            int(row.argmax()) for row in real(call["texts"], call["choices"], [q.language for q in QUESTIONS], **given)
        ]
        right = [place == one.answer for place, one in zip(best, QUESTIONS, strict=True)]
        assert found[system].values["accuracy"].tolist() == right
        assert found[system].answers == [one.labels[place] for place, one in zip(best, QUESTIONS, strict=True)]
        assert found[system].per_language() == {"bn": np.mean(right[2:]), "en": np.mean(right[:2])}
    assert "ours_minus_this" in system_report(found)["base_alone"]
    letters = evaluate_choices(ChoiceScorer(*parts), QUESTIONS, style="letters")
    assert list(letters) == ["lira", "base_alone"]
    with pytest.raises(ValueError, match="got no questions"):
        evaluate_choices(scorer, [])
