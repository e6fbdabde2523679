"""lm-eval's `lira` over task files and data made here, against the model itself. Skipped where lm-eval isn't there."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_lira import causal_with_processor

from lira_hf.data import read_mgsm, read_xcsqa
from lira_hf.evaluation import ChoiceScorer, evaluate_choices, evaluate_mgsm
from lira_hf.inference import CandidateSource, LiraGenerator
from lira_hf.translation import Candidate, CandidateStore, Identity


lm_eval = pytest.importorskip("lm_eval", reason="lm-eval isn't installed: pip install 'lira-hf[lm-eval]'")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from lira_hf.integrations.lm_eval import LiraLM  # noqa: E402


MARK = "<|lira_prefix|>"
DOCS = [
    {"question": "ঢাকা কী ?", "choices": ["a city", "a big cat on a mat", "house"], "answer": 0, "number": "5"},
    {"question": "নদী কী ?", "choices": ["the cat", "the river"], "answer": 1, "number": "the river"},
    {"question": "the big river", "choices": ["ran", "sat on a mat", "house"], "answer": 0, "number": "7"},
]
FEWSHOT = [{"question": "what is a cat ?", "choices": ["a dog", "big"], "answer": 1, "number": "4"}]
COMMON = {"test_split": "test", "fewshot_split": "train", "metadata": {"version": 1}}
TASKS = {
    "choose_bn": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    },
    "write_bn": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "number",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False, "temperature": 0.0},
        "metric_list": [{"metric": "exact_match"}],
    },
    "read_plain": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "question",
        "metric_list": [{"metric": "word_perplexity"}],
    },
}


@pytest.fixture(scope="module")
def parts():
    return causal_with_processor()


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    """Task files over local JSON."""
    folder = tmp_path_factory.mktemp("tasks")
    files = {}
    for split, rows in (("train", FEWSHOT), ("test", DOCS)):
        files[split] = str(folder / f"{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for name, task in TASKS.items():
        config = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, **COMMON, **task}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "store.sqlite"
    with CandidateStore(path) as opened:
        rows = [("ঢাকা কী ?", [Candidate("what is Dhaka ?", "memory", "x"), Candidate("what is a city", "gloss", "x")])]
        opened.add("bn", rows, Identity("canned", "1"))
    return path


@pytest.fixture
def source(store):
    with CandidateStore(store, read_only=True) as opened:
        yield CandidateSource(opened)


def run(lm, task, manager, **given):
    options = {"task_manager": manager, "bootstrap_iters": 0, **given}
    found = lm_eval.simple_evaluate(lm, tasks=[task], **options)
    return found["results"][task], found["samples"][task]


def road(source, text, language="bn"):
    """What the processor is told of a text, by the source itself."""
    row = source.find([text], [language])[0]
    candidates, kinds = [one.text for one in row], [one.kind for one in row]
    return {"languages": [language], "candidates": [candidates], "kinds": [kinds]}


@torch.no_grad()
def by_hand(parts, prompt, answer, text=None, **road):
    """Sum of log-likelihoods, and whether each token is the best, by one pass over one unpadded row."""
    model, processor = parts
    if text is None:
        batch, asked = {}, torch.tensor([processor.tokenizer(prompt)["input_ids"]])
    else:
        batch = dict(processor([text], prompts=[prompt], **road))
        asked, _ = batch.pop("input_ids"), batch.pop("attention_mask")
    new = torch.tensor([processor.tokenizer(answer, add_special_tokens=False)["input_ids"]])
    logits = model(input_ids=torch.cat([asked, new], 1), **batch).logits[0, -new.shape[1] - 1 : -1]
    best = logits.clone()
    if processor.prefix_token_id < best.shape[-1]:
        best[:, processor.prefix_token_id] = -torch.inf
    total = logits.log_softmax(-1)[torch.arange(new.shape[1]), new[0]].sum()
    return float(total), bool((best.argmax(-1) == new[0]).all())


def test_choices_have_the_models_likelihood(parts, source, manager):
    for size in (1, 4):
        lm = LiraLM(*parts, candidate_source=source, text="question", batch_size=size)
        calls, real = [], lm.loglikelihood
        lm.loglikelihood = lambda requests, real=real, calls=calls, **given: (
            calls.append(len(requests)) or real(requests, **given)
        )
        results, samples = run(lm, "choose_bn", manager)
        assert calls == [sum(len(doc["choices"]) for doc in DOCS)]
        right = []
        for sample in samples:
            doc = sample["doc"]
            prompt = f"Question: {MARK}{doc['question']}\nAnswer:"
            told = road(source, doc["question"])
            expected = [by_hand(parts, prompt, f" {choice}", doc["question"], **told) for choice in doc["choices"]]
            found = [(float(score), greedy) for (score, greedy), *_ in [list(r) for r in sample["resps"]]]
            np.testing.assert_allclose([score for score, _ in found], [score for score, _ in expected], rtol=1e-4)
            assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
            right.append(int(np.argmax([score for score, _ in expected])) == doc["answer"])
        assert results["acc,none"] == pytest.approx(np.mean(right))
        assert lm.get_model_info()["lira_languages"] == {"choose_bn": "bn"}
    # The base LM alone, on the same prompts.
    _, samples = run(LiraLM(*parts, prefix=False), "choose_bn", manager)
    alone = by_hand(parts, f"Question: {DOCS[0]['question']}\nAnswer:", " a city")
    assert float(samples[0]["resps"][0][0][0]) == pytest.approx(alone[0], rel=1e-4)
    assert alone[0] != pytest.approx(
        by_hand(parts, prompt, " a city", "ঢাকা কী ?", **road(source, "ঢাকা কী ?"))[0], rel=1e-3
    )


def test_answers_are_those_of_generate(parts, source, store, manager, tmp_path):
    generator = LiraGenerator(*parts, source, chat=False)
    questions = [doc["question"] for doc in DOCS]
    expected = generator.generate(questions, "bn", max_new_tokens=6, do_sample=False)
    results, samples = run(LiraLM(*parts, candidate_source=source, batch_size=2), "write_bn", manager)
    assert [sample["resps"][0][0] for sample in samples] == expected
    assert results["exact_match,none"] == 0
    # As lm-eval's command line makes it: by its name, from a folder and strings.
    for part in parts:
        part.save_pretrained(tmp_path)
    arguments = f"pretrained={tmp_path},store={store},candidates=1,text=question"
    found = lm_eval.simple_evaluate(
        "lira",
        model_args=arguments,
        tasks=["write_bn"],
        task_manager=manager,
        bootstrap_iters=0,
        batch_size=2,
        device="cpu",
    )
    source.num_candidates = 1
    one = generator.generate(questions, "bn", max_new_tokens=6, do_sample=False)
    assert [sample["resps"][0][0] for sample in found["samples"]["write_bn"]] == one


def test_the_last_user_turn_of_a_chat(parts, source, manager):
    lm = LiraLM(*parts, candidate_source=source)
    _, samples = run(lm, "write_bn", manager, apply_chat_template=True, num_fewshot=1, fewshot_as_multiturn=True)
    turns = [{"role": "user", "content": "what is a cat ?"}, {"role": "assistant", "content": "4"}]
    asked = [[*turns, {"role": "user", "content": doc["question"]}] for doc in DOCS]
    generator = LiraGenerator(*parts, source)
    expected = generator.generate(asked, "bn", max_new_tokens=6, do_sample=False)
    assert [sample["resps"][0][0] for sample in samples] == expected
    prompt = lm.apply_chat_template(asked[0])
    assert prompt == f"user : what is a cat ? assistant : 4 user : {MARK}ঢাকা কী ? assistant :"
    assert lm._question(prompt, {}) == ("ঢাকা কী ?", prompt.split(MARK)[0], prompt.split(MARK)[1])


def test_rolling_is_the_base_alone(parts, manager):
    results, samples = run(LiraLM(*parts, batch_size=2), "read_plain", manager)
    for sample in samples:
        expected, _ = by_hand(parts, "", sample["doc"]["question"])  # the tokenizer starts with <s>
        assert float(sample["resps"][0][0]) == pytest.approx(expected, rel=1e-4)
    assert results["word_perplexity,none"] > 1
    # A window is as long as there is room; each token is predicted once.
    text = "the cat sat on a mat what is a big river ?"
    short = LiraLM(*parts, max_length=5).loglikelihood_rolling([request("", (text,))])[0]
    ids = parts[1].tokenizer(text, add_special_tokens=False)["input_ids"]
    rows, total = [[1, *ids[:4]]], 0.0
    rows += [ids[end - 5 : end] for end in (8, 12)]
    with torch.no_grad():
        for row in rows:
            scores = parts[0](input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
            total += sum(float(scores[place, token]) for place, token in enumerate(row[1:]))
    assert short == pytest.approx(total, rel=1e-4)


XCSQA = """
task: xcsqa_bn
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/bn/dev.jsonl}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "Question: {{question.stem}}\\nAnswer:"
doc_to_choice: "{{question.choices | map(attribute='text') | list}}"
doc_to_target: "{{'ABCDE'.index(answerKey)}}"
metric_list: [{metric: acc}]
"""
MGSM = """
task: mgsm_local_bn
dataset_path: csv
dataset_kwargs: {data_files: {test: FOLDER/mgsm_bn.tsv}, sep: "\\t", names: [question, answer], quoting: 3}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}}\\nStep-by-Step Answer:"
doc_to_target: "{{answer | string}}"
generation_kwargs: {until: ["Question:"], do_sample: false, max_gen_toks: 6}
filter_list:
- name: number
  filter:
  - {function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"}
  - {function: take_first}
metric_list: [{metric: exact_match}]
"""


def test_the_benchmarks_own_files(parts, source, tmp_path):
    """X-CSQA and MGSM through lm-eval, as docs/generation.md has them, and by our own evaluation."""
    questions = [("ঢাকা কী ?", ["a city", "cat", "house"], "A"), ("নদী কী ?", ["a dog", "the river"], "B")]
    rows = []
    for number, (stem, choices, key) in enumerate(questions):
        labelled = [{"label": label, "text": text} for label, text in zip("ABCDE", choices, strict=False)]
        rows.append(
            {"id": str(number), "lang": "bn", "question": {"stem": stem, "choices": labelled}, "answerKey": key}
        )
    (tmp_path / "bn").mkdir()
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "bn" / "dev.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "mgsm_bn.tsv").write_text('"ঢাকা" কী ?\t18\nনদী কী ?\t5\n', encoding="utf-8")
    (tmp_path / "tasks").mkdir()
    for name, text in (("xcsqa", XCSQA), ("mgsm", MGSM)):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text.replace("FOLDER", str(tmp_path)), encoding="utf-8")
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)

    results, samples = run(LiraLM(*parts, candidate_source=source, text="{{question.stem}}"), "xcsqa_bn", manager)
    ours = evaluate_choices(ChoiceScorer(*parts, source, "sum"), read_xcsqa(tmp_path), ["lira"])["lira"]
    assert [sample["acc"] for sample in samples] == ours.values["accuracy"].tolist()
    assert results["acc,none"] == ours.mean()

    _, samples = run(LiraLM(*parts, candidate_source=source, text="question"), "mgsm_local_bn", manager)
    problems = read_mgsm(tmp_path)
    assert [sample["doc"]["question"] for sample in samples] == [problem.question for problem in problems]
    ours = evaluate_mgsm(LiraGenerator(*parts, source, chat=False), problems, [], ["lira"], max_new_tokens=6)["lira"]
    assert [sample["resps"][0][0] for sample in samples] == ours.answers


def request(task, arguments, **doc):
    return Instance("loglikelihood", doc, arguments, 0, metadata=(task, 0, 1))


def test_where_text_and_language_come_from(parts, caplog):
    lm = LiraLM(*parts)
    context = "Question: a\nAnswer: b\n\nQuestion: ঢাকা\nAnswer:"
    place = context.index("Question: ঢাকা")
    assert lm._question(context, {}) == (context[place:], context[:place], context[place:])
    named = LiraLM(*parts, text="{{q.stem}}")
    assert named._question(context, {"q": {"stem": "ঢাকা"}})[:2] == ("ঢাকা", context[: context.index("ঢাকা")])
    assert named._question(context, {"q": {"stem": "শহর"}}) == ("শহর", context[:place], context[place:])
    with pytest.raises(ValueError, match=r"got text='stem', and a document with \['q'\]; expected a field"):
        LiraLM(*parts, text="stem")._question(context, {"q": 1})
    # Languages: the argument, the document, the task's name; only such as the model may mean.
    assert lm._language(request("mgsm_direct_bn", ())) == "bn"
    assert lm._language(request("x", (), lang="urd")) == "ur"
    assert lm._language(request("gsm8k_cot", ())) is None
    assert "the language of task gsm8k_cot isn't known" in caplog.text
    assert lm._language(request("mgsm_direct_de", ())) is None  # not among the trained ones
    assert LiraLM(*parts, language="ben")._language(request("mgsm_direct_ur", ())) == "bn"
    assert LiraLM(*parts, language={"a": "ur"})._language(request("a", ())) == "ur"
    assert LiraLM(*parts, language={"a": "ur"})._language(request("b_bn", ())) is None


def test_long_prompts_lose_their_start_and_keep_the_prefix(parts, caplog):
    lm = LiraLM(*parts, max_length=12)
    text = "a dog ran\n\nthe cat sat on a mat"
    row = lm._row(request("x_bn", ()), text, " house")
    token, ids = parts[1].prefix_token_id, parts[1].tokenizer(text, add_special_tokens=False)["input_ids"]
    assert row.context == [token] * 6 + ids[-5:]
    assert "prompts longer than 11 tokens lose their start" in caplog.text
    row = LiraLM(*parts, max_length=15)._row(request("x_bn", ()), text, " house")
    assert row.context == ids[1:3] + [token] * 6 + ids[3:]
    with pytest.raises(
        ValueError, match="got room for 6 tokens of the prompt; expected more than the soft prefix's 6"
    ):
        LiraLM(*parts, max_length=7)._row(request("x_bn", ()), text, " house")


def test_what_is_refused(parts, tmp_path):
    with pytest.raises(ValueError, match="got a live model without its processor"):
        LiraLM(parts[0])
    with pytest.raises(ValueError, match="got the critic judge without a store"):
        LiraLM(*parts, critic="judge")
    parts[0].language_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a LlamaForCausalLM; expected a LiRA checkpoint with a base LM"):
        LiraLM(str(tmp_path))


def test_the_command_line_knows_the_model():
    """In a fresh process, up to where lm-eval would read its thousands of task files."""
    code = """
import runpy
import lm_eval.__main__ as cli
from lm_eval.api.registry import get_model
cli.cli_evaluate = lambda: print(get_model("lira").__name__, get_model("hf").__name__)
runpy.run_module("lira_hf.integrations.lm_eval", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["LiraLM", "HFLM"], done.stderr
