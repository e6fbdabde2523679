"""LiraGenerator against the model's own generate, and files of questions to files of answers."""

import json

import pytest
import torch
from tiny_lira import CHAT, causal_with_processor

from lira_hf.inference import (
    AnswersError,
    CandidateSource,
    LiraGenerator,
    QuestionRow,
    RoadFeatures,
    answer_file,
    cut_at_stop,
    read_questions,
)
from lira_hf.translation import Candidate, CandidateStore, Identity, Score


QUESTIONS = ["ঢাকা", "the cat sat on a mat", "নদী big", "what is the big river ?", "ঢাকা city ran on"]
LANGUAGES = ["bn", "en", "ur", "en", None]
LIMIT = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def parts():
    return causal_with_processor()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    store = CandidateStore(tmp_path_factory.mktemp("store") / "store.sqlite")
    who, judge = Identity("canned", "1"), Identity("judge", "1")
    rows = [Candidate("the city", "memory", "x"), Candidate("Dhaka city", "gloss", "x")]
    store.add("bn", [("ঢাকা", rows)], who)
    store.add_scores("bn", [("ঢাকা", "the city", Score(2, 3, 4)), ("ঢাকা", "Dhaka city", Score(9, 9, 9))], judge)
    yield CandidateSource(store, critic=judge)
    store.close()


def plain(parts, text, **given):
    """What the model itself answers to one text, through the processor alone."""
    model, processor = parts
    batch = processor([text], **given)
    return processor.decode_new(model.generate(**batch, **LIMIT), batch)[0]


def test_answers_are_those_of_the_model_whatever_the_batch(parts, source):
    expected = [
        plain(
            parts,
            "ঢাকা",
            languages=["bn"],
            candidates=[["the city", "Dhaka city"]],
            scores=[[(2, 3, 4), (9, 9, 9)]],
            kinds=[["memory", "gloss"]],
        ),
        plain(parts, QUESTIONS[1], languages=["en"], candidates=[[QUESTIONS[1]]]),
        plain(parts, QUESTIONS[2], languages=["ur"]),
        plain(parts, QUESTIONS[3], languages=["en"], candidates=[[QUESTIONS[3]]]),
        plain(parts, QUESTIONS[4]),
    ]
    assert len(set(expected)) > 2
    for size in (1, 2, 5):
        generator = LiraGenerator(*parts, source, chat=False, batch_size=size)
        assert generator.generate(QUESTIONS, LANGUAGES, **LIMIT) == expected
    assert generator.generate(QUESTIONS[0], "bn", **LIMIT) == expected[0]
    batch = generator.prepare(["a"], ["en"], None, None, ["a"])
    whole = parts[0].generate(**batch, max_new_tokens=256)
    assert generator.generate("a", "en") == parts[1].decode_new(whole, batch)[0]  # the library's own limit is 20
    # Without a translator: no candidates, given as such.
    assert generator.generate(["ঢাকা"], "bn", [[]], **LIMIT) == [plain(parts, "ঢাকা", languages=["bn"])]
    given = generator.generate(["ঢাকা"], "bn", [["Dhaka"]], [[(9, 9, 9)]], **LIMIT)
    assert given == [plain(parts, "ঢাকা", languages=["bn"], candidates=[["Dhaka"]], scores=[[(9, 9, 9)]])]


def test_features_of_a_cache_give_the_same_answers(parts, tmp_path):
    scores = [[(3, 4, 5)], [], None, [(9, 9, 9)], None]
    given = [["Dhaka"], [], None, [QUESTIONS[3]], None]
    asked = (QUESTIONS, LANGUAGES, given, scores)
    features = RoadFeatures(parts[0].base_model, parts[1], tmp_path, "float32", batch_size=2)
    plain, cached = (LiraGenerator(*parts, chat=False, batch_size=2, features=one) for one in (None, features))
    expected = plain.generate(*asked, **LIMIT)
    assert cached.generate(*asked, **LIMIT) == expected
    parts[0].base_model.encoder.forward = None  # all is read from the cache
    try:
        assert cached.generate(*asked, **LIMIT) == expected
        with torch.no_grad():
            logits = parts[0](**cached.prepare(["ঢাকা"], [None], [["Dhaka"]], None, ["the cat"])).logits
    finally:
        del parts[0].base_model.encoder.forward
    again = parts[0](**plain.prepare(["ঢাকা"], [None], [["Dhaka"]], None, ["the cat"])).logits
    torch.testing.assert_close(logits, again)


def test_prompts_are_padded_on_the_left(parts):
    model, processor = parts
    batch = LiraGenerator(*parts, chat=False).prepare(
        ["a", "the cat sat"], [None] * 2, None, None, ["a", "the cat sat"]
    )
    assert batch["attention_mask"].tolist() == [[0, 0] + [1] * 8, [1] * 10]
    assert batch["input_ids"][0, :2].tolist() == [processor.tokenizer.pad_token_id] * 2
    assert (batch["input_ids"] == model.config.prefix_token_id).sum(1).tolist() == [6, 6]


def test_the_chat_template_where_there_is_one(parts):
    model, processor = parts
    generator = LiraGenerator(model, processor)
    assert generator.chat
    turns = [{"role": "user", "content": "the dog"}, {"role": "assistant", "content": "ran"}]
    turns.append({"role": "user", "content": "ঢাকা"})
    found = generator.generate([turns, "the cat"], ["bn", None], **LIMIT)
    prompts = [processor.chat_prompt(turns)[1], "user : <|lira_prefix|>the cat assistant :"]
    assert prompts[1] == processor.chat_prompt([{"role": "user", "content": "the cat"}])[1]
    expected = [plain(parts, "ঢাকা", languages=["bn"], prompts=prompts[:1])]
    assert found == [*expected, plain(parts, "the cat", prompts=prompts[1:])]
    assert generator.generate(turns, "bn", **LIMIT) == expected[0]
    asked = LiraGenerator(model, processor, system="a big house").read("the cat")
    assert asked == ("the cat", "system : a big house user : <|lira_prefix|>the cat assistant :")
    # What the base reads may differ from what the roads read.
    other = generator.generate(["ঢাকা"], "bn", prompts=[[{"role": "user", "content": "what is ঢাকা ?"}]], **LIMIT)
    prompt = "user : <|lira_prefix|>what is ঢাকা ? assistant :"
    assert other == [plain(parts, "ঢাকা", languages=["bn"], prompts=[prompt])]


def test_the_base_alone(parts):
    model, processor = parts
    generator = LiraGenerator(model, processor, chat=False)
    found = generator.generate(["the cat", "what is a big river ?"], "en", prefix=False, **LIMIT)
    for text, answer in zip(["the cat", "what is a big river ?"], found, strict=True):
        ids = processor.tokenizer(text, return_tensors="pt")["input_ids"]
        new = model.language_model.generate(ids, **LIMIT)[0, ids.shape[1] :]
        assert answer == processor.tokenizer.decode(new, skip_special_tokens=True)
    assert found != generator.generate(["the cat", "what is a big river ?"], "en", **LIMIT)
    # In a chat, on the very prompt without its placeholder.
    chat = LiraGenerator(model, processor).generate("the cat", "en", prefix=False, **LIMIT)
    assert chat == generator.generate("user : the cat assistant :", "en", prefix=False, **LIMIT)


def test_stop_strings_end_an_answer(parts):
    generator = LiraGenerator(*parts, chat=False)
    batch, options = generator.prepare(["a mat"], ["en"], None, None, ["a mat"]), {"max_new_tokens": 12}
    new = parts[0].generate(**batch, **options)[0, batch["input_ids"].shape[1] :]
    told = [parts[1].tokenizer.decode(new[:count], skip_special_tokens=True) for count in range(13)]
    stop = told[-1].split()[1]
    count = next(count for count, text in enumerate(told) if stop in text)
    assert count < 12
    steps = []
    watch = lambda ids, scores: steps.append(1) or torch.zeros(len(ids), dtype=torch.bool)  # noqa: E731
    found = generator.generate("a mat", "en", stop=["|", stop], stopping_criteria=[watch], **options)
    assert found == told[-1][: told[-1].index(stop)]
    assert len(steps) == count  # it was ended, not merely cut
    assert cut_at_stop("a b c b", ["c", "b"]) == "a "
    assert cut_at_stop("a b", []) == "a b"


def test_what_is_refused(parts):
    model, processor = parts
    generator = LiraGenerator(model, processor, chat=False)
    with pytest.raises(ValueError, match="got 2 questions and 1 languages; expected one of each"):
        generator.generate(["a", "the"], ["en"])
    with pytest.raises(ValueError, match="got num_return_sequences=2; expected one answer"):
        generator.generate(["a"], num_return_sequences=2)
    with pytest.raises(ValueError, match="got batch_size=0"):
        LiraGenerator(model, processor, batch_size=0)
    with pytest.raises(ValueError, match="got the system turn 'x' without a chat"):
        LiraGenerator(model, processor, chat=False, system="x")
    template, processor.chat_template = processor.chat_template, None
    try:
        assert not LiraGenerator(model, processor).chat
        with pytest.raises(ValueError, match="got chat=True and a base LM without a chat template"):
            LiraGenerator(model, processor, chat=True)
    finally:
        processor.chat_template = template


def test_the_fingerprint_tells_what_answers_depend_on(parts):
    model, processor = parts
    first = LiraGenerator(model, processor).fingerprint
    assert LiraGenerator(model, processor).fingerprint == first
    others = {LiraGenerator(model, processor, **given).fingerprint for given in ({"chat": False}, {"system": "a"})}
    with torch.no_grad():
        weight = model.lira.prefix_projector.parameters().__next__()
        weight.add_(1.0)
        others.add(LiraGenerator(model, processor).fingerprint)
        weight.sub_(1.0)
    assert first not in others
    assert len(others) == 3


# Files

ROWS = [
    {"id": "q1", "text": "ঢাকা", "language": "bn", "candidates": ["Dhaka"]},
    {"question": "the cat sat on a mat", "language": "en"},
    {"text": "  "},
    {"id": 4, "messages": [{"role": "user", "content": "a dog"}]},
    {"text": "নদী", "language": "nonsense"},
    {"text": "নদী", "candidates": "river"},
    {"messages": [{"role": "assistant", "content": "a dog"}]},
    {"text": "a big river ran on a mat", "id": [1]},
    {"text": "big"},
]


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path.write_text("\n".join([*lines, "{", ""]), encoding="utf-8")
    return path


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_file_with_bad_rows(parts, questions, tmp_path):
    generator = LiraGenerator(*parts, batch_size=2)
    report = answer_file(generator, questions, tmp_path / "out.jsonl", "ur", **LIMIT)
    assert (report.written, report.skipped) == (4, 0)
    found = [(problem.row, problem.field) for problem in report.problems]
    assert found == [
        (3, "text"), (5, "language"), (6, "candidates"), (7, "messages"), (8, "id"), (10, None),
    ]  # fmt: skip
    answers = lines_of(tmp_path / "out.jsonl")
    assert [row["row"] for row in answers] == [1, 2, 4, 9]
    assert [row["language"] for row in answers] == ["bn", "en", "ur", "ur"]
    assert [row.get("id") for row in answers] == ["q1", None, 4, None]
    expected = generator.generate(
        ["ঢাকা", ROWS[1]["question"], ROWS[3]["messages"], "big"],
        ["bn", "en", "ur", "ur"],
        [["Dhaka"], None, None, None],
        **LIMIT,
    )
    assert [row["answer"] for row in answers] == expected
    assert answers[2]["messages"] == ROWS[3]["messages"]


def test_a_killed_run_goes_on(parts, questions, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    answer_file(LiraGenerator(*parts, batch_size=1), questions, whole, "ur", **LIMIT)
    generator = LiraGenerator(*parts, batch_size=1)
    run, calls = generator._answers, []

    def killed(*given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(*given)

    monkeypatch.setattr(generator, "_answers", killed)
    with pytest.raises(KeyboardInterrupt):
        answer_file(generator, questions, cut, "ur", **LIMIT)
    assert len(lines_of(cut)) == 2
    with open(cut, "a") as file:
        file.write('{"row": 9, "answ')  # the line that it was at
    again = LiraGenerator(*parts, batch_size=1)
    report = answer_file(again, questions, cut, "ur", **LIMIT)
    assert (report.written, report.skipped) == (2, 2)
    assert cut.read_bytes() == whole.read_bytes()
    assert answer_file(again, questions, cut, "ur", **LIMIT).written == 0


def test_a_second_run_into_the_same_file_is_refused(parts, questions, tmp_path, monkeypatch):
    out, generator = tmp_path / "out.jsonl", LiraGenerator(*parts)
    run, refused = generator._answers, []

    def meanwhile(*given):
        with pytest.raises(AnswersError, match=r"got .*out.jsonl while another run writes its answers there") as error:
            answer_file(LiraGenerator(*parts), questions, out, "ur", **LIMIT)
        refused.append(error)
        return run(*given)

    monkeypatch.setattr(generator, "_answers", meanwhile)
    assert answer_file(generator, questions, out, "ur", **LIMIT).written == 4
    assert refused
    assert answer_file(LiraGenerator(*parts), questions, out, "ur", **LIMIT).skipped == 4


def test_answers_of_another_run_are_refused(parts, questions, tmp_path):
    out = tmp_path / "out.jsonl"
    answer_file(LiraGenerator(*parts), questions, out, "ur", **LIMIT)
    before = out.read_bytes()
    with pytest.raises(AnswersError, match=r"line 1 is of the run \w{16}; expected this run's"):
        answer_file(LiraGenerator(*parts), questions, out, "ur", max_new_tokens=7)
    (tmp_path / "other.jsonl").write_text("nothing of ours\n")
    with pytest.raises(AnswersError, match="line 1 is b'nothing.*expected answers as `lira generate`"):
        answer_file(LiraGenerator(*parts), questions, tmp_path / "other.jsonl", "ur", **LIMIT)
    assert out.read_bytes() == before
    # A changed question is asked anew.
    text = questions.read_text(encoding="utf-8").replace("the cat sat", "the dog sat")
    questions.write_text(text, encoding="utf-8")
    report = answer_file(LiraGenerator(*parts), questions, out, "ur", **LIMIT)
    assert (report.written, report.skipped) == (1, 3)


def test_a_text_file_and_a_base_without_a_template(parts, tmp_path):
    model, processor = parts
    path = tmp_path / "questions.txt"
    path.write_bytes("ঢাকা\n\n  the cat \n".encode() + b"\xff\n")
    rows = list(read_questions(path, "bn"))
    assert rows[:2] == [QuestionRow(1, "ঢাকা", "bn"), QuestionRow(3, "the cat", "bn")]
    assert rows[2].got.startswith("bytes that are no UTF-8")
    with pytest.raises(FileNotFoundError, match="which is no file; expected a .jsonl file"):
        read_questions(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="questions.csv'; expected a .jsonl file.*write its rows as JSON"):
        read_questions(tmp_path / "questions.csv")
    with pytest.raises(ValueError, match="unknown language tag 'nonsense'"):
        read_questions(path, "nonsense")
    (tmp_path / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    template, processor.chat_template = processor.chat_template, None
    try:
        report = answer_file(LiraGenerator(model, processor), tmp_path / "chat.jsonl", tmp_path / "out.jsonl", **LIMIT)
    finally:
        processor.chat_template = template
    assert "a base LM without a chat template; expected a conversation" in str(report.problems[0])
    assert CHAT == processor.chat_template
