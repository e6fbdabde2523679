"""Conversations to rows, and rows to batches: what the base LM is asked with, what it learns, and what is left out."""

import json
import logging

import pytest
import tiny_lira
import torch
from torch.nn import functional as F

from lira_hf.data import Conversation, DataError, SimilarityPair
from lira_hf.inference import FoundCandidate, RoadFeatures
from lira_hf.models.pooling_lira import temporal_pool
from lira_hf.training import (
    DataArguments,
    GenerationCollator,
    LiraCollator,
    Task,
    TaskMixture,
    generation_rows,
    ranking_rows,
    reference_slots,
)
from lira_hf.training.mixture import task_kinds
from lira_hf.training.tasks import TaskData, fill_features, join_tasks, load_task


TURNS = "{{ bos_token }}{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' </s> ' }}{% endfor %}"
CHATML = TURNS + "{% if add_generation_prompt %}assistant : {% endif %}"
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'system' %}{{ raise_exception('no system turn') }}{% else %} {{ m['content'] }}</s>"
    "{% endif %}{% endfor %}"
)
THINK = TURNS + "{% if add_generation_prompt %}assistant : <think> {% endif %}"
BARE = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


class Found:
    """Two candidates of every text in a known language, one of them judged."""

    def find(self, texts, languages):
        pair = [FoundCandidate("the cat", "memory", (9.0, 8.0, 7.0)), FoundCandidate("a dog sat")]
        return [pair if language else [] for language in languages]


CHATS = [
    Conversation([user("what is the cat ?"), bot("big")], language="bn", reference="what is", row=1),
    Conversation([user("a"), bot("dog"), user("the river"), bot("is a big river")], row=2),
    Conversation([{"role": "system", "content": "on"}, user("the mat"), bot("ran")], language="en", row=5),
    Conversation(None, "what is ?", " the house", language="ur", reference="the cat sat on a mat", row=7),
]


@pytest.fixture
def pair():
    """Model and processor, with a chat template that opens an answer when it is asked to."""
    model, processor = tiny_lira.causal_with_processor(base="llama")
    processor.chat_template = CHATML
    return model, processor


@pytest.fixture
def processor(pair):
    return pair[1]


def words(processor, ids):
    return " ".join(processor.tokenizer.convert_ids_to_tokens(ids)).replace(processor.prefix_token, "P")


def test_the_answer_alone_is_learned_behind_the_prompt_of_inference(pair):
    model, processor = pair
    rows = generation_rows(CHATS, Found(), processor)
    batch = GenerationCollator(RoadFeatures(model.lira, processor))(list(rows))
    learned = batch["labels"] != -100
    assert [words(processor, row[keep]) for row, keep in zip(batch["labels"], learned, strict=True)] == [
        "big </s>",
        "is a big river </s>",
        "ran </s>",
        "the house </s>",
    ]
    assert torch.equal(batch["labels"][learned], batch["input_ids"][learned])
    # Padded on the left, so that the answers stand at the end, one token after the other.
    assert learned.sum(-1).tolist() == [2, 5, 2, 3]
    assert all(row[-count:].all() for row, count in zip(learned, [2, 5, 2, 3], strict=True))
    assert (batch["attention_mask"].diff(dim=-1) >= 0).all()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == processor.tokenizer.pad_token_id).all()
    asked = (batch["attention_mask"] == 1) & ~learned
    for number, item in enumerate(CHATS):
        if item.messages is None:
            prompt = processor([item.prompt])
        else:
            prompt = processor.apply_chat_template(item.messages[:-1], tokenize=True, add_generation_prompt=True)
            again = processor([rows[number]["text"]], prompts=[rows[number]["prompt"]])
            assert torch.equal(prompt["input_ids"], again["input_ids"])
        assert torch.equal(batch["input_ids"][number][asked[number]], prompt["input_ids"][0])
    assert words(processor, batch["input_ids"][3][asked[3]]) == "<s> P P P P P P what is ?"


def test_rows_hold_what_the_roads_read(processor):
    rows = generation_rows(CHATS, Found(), processor)
    assert rows["text"] == ["what is the cat ?", "the river", "the mat", "what is ?"]
    assert rows["row"] == [1, 2, 5, 7]
    assert rows["candidates"] == [["the cat", "a dog sat"], [], ["the mat"], ["the cat", "a dog sat"]]
    assert (rows["scores"][0], rows["kinds"][0]) == ([[9, 8, 7], []], ["memory", None])
    assert [len(row) for row in rows["traits"]] == [2, 0, 1, 2]
    # English is its own reference.
    assert rows["reference"] == ["what is", None, "the mat", "the cat sat on a mat"]
    token = processor.prefix_token
    plain = [
        Conversation(None, f"the {token} cat", f"sat{token}</s>", text="cat"),
        Conversation(None, f"the {token} cat", "sat"),
        Conversation([user([{"type": "text", "text": "what \ud83d"}]), bot("a")]),
    ]
    processor.chat_template = "{{ messages[0].content[0].text }}{% if messages[1] %}a</s>{% endif %}"
    rows = generation_rows(plain, None, processor)
    assert rows["prompt"][:2] == [f"the {token} cat"] * 2  # where it stands
    assert rows["completion"] == ["sat</s>", "sat</s>", "a</s>"]  # one end of text each
    assert rows["text"] == ["cat", "the  cat", "what \ufffd"]  # a lone surrogate, which Arrow refuses
    assert rows["row"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("template", "completion"),
    [
        (CHATML, "big </s> "),
        (TURNS, "assistant : big </s> "),  # never opens an answer: it is learned with its opening
        (INST, " big</s>"),
        (BARE, "big</s>"),
        (tiny_lira.CHAT, " big</s>"),  # always opens one, also behind the last, and ends turns with mere space
        (TURNS + "assistant : ", "big </s> "),
    ],
)
def test_what_a_chat_template_adds_for_the_answer(processor, template, completion):
    processor.chat_template = template
    row = generation_rows([CHATS[0], Conversation([user("what"), bot("big")])], None, processor)[0]
    assert row["completion"] == completion
    assert row["prompt"].count(processor.prefix_token) == 1


def test_rows_that_cannot_be_written_are_named(processor):
    token = processor.prefix_token
    twice = Conversation(None, f"{token} the {token}", "cat", row=9)
    with pytest.raises(DataError) as error:
        generation_rows([*CHATS, twice], None, processor)
    assert [(one.row, one.field, one.got) for one in error.value.problems] == [
        (9, "prompt", "the placeholder 2 times")
    ]
    processor.chat_template = INST
    with pytest.raises(DataError, match=r"row 5, field `messages`: got TemplateError: no system turn; expected turns"):
        generation_rows(CHATS, None, processor)
    processor.chat_template = THINK
    with pytest.raises(
        DataError, match="that goes on with '.*<think> ' where the whole conversation has '.*: big <"
    ) as e:
        generation_rows(CHATS, None, processor)
    assert [problem.row for problem in e.value.problems] == [1, 2, 5]
    processor.chat_template, processor.tokenizer.eos_token = tiny_lira.CHAT, None
    with pytest.raises(ValueError, match="got a chat template that ends an answer with nothing, and a tokenizer with"):
        generation_rows(CHATS[:3], None, processor)
    with pytest.raises(ValueError, match="got plain completions, and the base LM's tokenizer has no end of text"):
        generation_rows(CHATS[3:], None, processor)
    processor.chat_template, processor.tokenizer.eos_token = "a", "</s>"
    with pytest.raises(DataError, match="got 0 placeholders in the prompt; expected one"):
        generation_rows(CHATS[:1], None, processor)
    processor.chat_template = None
    with pytest.raises(ValueError, match="got messages, and the base LM's tokenizer has no chat template"):
        generation_rows(CHATS, None, processor)
    assert len(generation_rows(CHATS[3:], None, processor)) == 1
    processor.prefix_length = 0
    with pytest.raises(ValueError, match="got a processor without a base LM's tokenizer"):
        generation_rows(CHATS[3:], None, processor)


def test_the_warm_up_has_no_prompts(pair):
    model, processor = pair
    features, rows = RoadFeatures(model.lira, processor), list(generation_rows(CHATS, None, processor))
    whole, warm = GenerationCollator(features)(rows), GenerationCollator(features, prompts=False)(rows)
    assert whole.keys() - warm.keys() == {"input_ids", "attention_mask", "labels"}
    assert all(torch.equal(warm[name], whole[name]) for name in warm)


def test_long_rows_are_left_out_and_told(pair, caplog):
    model, processor = pair
    collator = GenerationCollator(RoadFeatures(model.lira, processor))
    lengths = [int(collator([row])["input_ids"].shape[1]) for row in generation_rows(CHATS, None, processor)]
    longest = max(lengths)
    assert lengths.count(longest) == 1
    with caplog.at_level(logging.WARNING, "lira_hf"):
        assert len(generation_rows(CHATS, None, processor, max_length=longest)) == 4
        assert not caplog.records
        rows = generation_rows(CHATS, None, processor, max_length=longest - 1)
    gone = CHATS[lengths.index(longest)].row
    assert rows["row"] == [item.row for item in CHATS if item.row != gone]
    assert f"left out 1 of 4 conversations, which have more than {longest - 1} tokens" in caplog.text
    assert f"(rows {gone})" in caplog.text
    with pytest.raises(ValueError, match="got 4 conversations, of which none has at most 3 tokens"):
        generation_rows(CHATS, None, processor, max_length=3)


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_slots_stand_for_the_bins_of_temporal_pooling(slots):
    rows = [list(range(100, 100 + length)) for length in (0, 1, 3, slots, slots + 1, 2 * slots, 3 * slots + 2)]
    labels = reference_slots(rows, slots)
    assert (labels.dtype, labels.shape[:2]) == (torch.int64, (len(rows), slots))
    assert (labels[0] == -100).all()
    for row, found in zip(rows, labels, strict=True):
        # Which tokens a bin is the mean of, by pooling their unit vectors.
        bins = temporal_pool(torch.eye(max(len(row), 1))[None], torch.ones(1, max(len(row), 1)), slots)[0]
        expected = [[row[place] for place in weight.nonzero().flatten()] if row else [] for weight in bins]
        assert [[token for token in slot if token != -100] for slot in found.tolist()] == expected
    assert reference_slots([[], []], slots).tolist() == [[[-100]] * slots] * 2


def test_references_become_slots_without_special_tokens(pair):
    model, processor = pair
    batch = GenerationCollator(RoadFeatures(model.lira, processor))(list(generation_rows(CHATS, None, processor)))
    shown = [[words(processor, slot[slot != -100]) for slot in row] for row in batch["reference_slots"]]  # three bins
    assert shown == [["what", "is", ""], [""] * 3, ["the", "mat", ""], ["the cat", "sat on", "a mat"]]


def test_a_batch_feeds_the_model_as_tokens_would(pair):
    model, processor = pair
    rows = list(generation_rows(CHATS, Found(), processor))
    batch = GenerationCollator(RoadFeatures(model.lira, processor))(rows)
    batch.pop("reference_slots")
    with torch.no_grad():
        output = model.eval()(**batch)
        tokens = processor(
            [row["text"] for row in rows],
            candidates=[row["candidates"] for row in rows],
            scores=[[score or None for score in row["scores"]] for row in rows],
            kinds=[row["kinds"] for row in rows],
            languages=[row["language"] for row in rows],
            prompts=False,
        )
        read = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}, **tokens)
    assert torch.isfinite(output.loss)
    torch.testing.assert_close(output.logits, read.logits, atol=1e-4, rtol=1e-4)
    assert batch["language_ids"].tolist() == [1, 0, 0, 2]
    places = (batch["labels"] != -100).nonzero().tolist()
    # By hand: each learned token from the logits of the place before it.
    by_hand = [F.cross_entropy(output.logits[row, place - 1], batch["labels"][row, place]) for row, place in places]
    assert float(output.loss) == pytest.approx(float(torch.stack(by_hand).mean()), rel=1e-5)


def test_splits_are_read_into_a_task(pair, tmp_path):
    model, processor = pair
    train = [{"messages": [user("the cat"), bot("sat")], "language": "bn"}, {"messages": [user("a"), bot("b")]}]
    dev = [{"messages": [user("the mat"), bot("ran")], "language": "en"}, {"messages": [user("dog"), bot("is")]}]
    folder = tmp_path / "chats"
    folder.mkdir()
    for name, rows in (("train", train), ("dev", dev)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    both = [row | {"split": "train"} for row in train] + [row | {"split": "dev"} for row in dev]
    one = tmp_path / "all.jsonl"
    one.write_text("\n".join(map(json.dumps, both)), encoding="utf-8")
    for path in (folder, one):
        arguments = DataArguments(data=str(path), task="generation")
        task = load_task(arguments, ["en"], dev=True, processor=processor)
        assert (task.rows["text"], task.dev_rows()["text"]) == (["the cat", "a"], ["the mat", "dog"])
        assert [item.language for item in task.english_dev()] == ["en"]
        assert load_task(arguments, ["en"], False, processor).dev is None
    with pytest.raises(ValueError, match=r"got the split 'test' of .*; expected one of \['dev', 'train'\]"):
        load_task(DataArguments(data=str(one), task="generation", train_split="test"), ["en"], False, processor)
    with pytest.raises(
        FileNotFoundError, match=r"with the files \['dev.jsonl', 'train.jsonl'\]; expected one named 'te"
    ):
        load_task(DataArguments(data=str(folder), task="generation", train_split="te"), ["en"], False, processor)
    with pytest.raises(ValueError, match="got generation on .* and no processor"):
        load_task(arguments, ["en"], False)
    loose = load_task(DataArguments(data=str(folder / "dev.jsonl"), task="generation"), ["en"], True, processor)
    assert (len(loose.rows), loose.dev) == (2, None)  # a file without splits is trained on whole
    with pytest.raises(ValueError, match="of which none has at most 5 tokens"):
        load_task(DataArguments(data=str(one), task="generation", max_sequence_length=5), ["en"], False, processor)
    with pytest.raises(ValueError, match="max_sequence_length is 0; expected 1 token or more"):
        DataArguments(data="x", max_sequence_length=0)


def test_generation_in_a_mixture(pair, tmp_path):
    model, processor = pair
    processor.query_prompt = "a "  # for retrieval and ranking alone
    features = RoadFeatures(model.lira, processor, tmp_path, "float32")
    pairs = [SimilarityPair("the cat", "a cat", 1.0, "bn", "en"), SimilarityPair("dog", "mat", 0.0, "bn", "en")]
    tasks = [
        TaskData(DataArguments(data="x", task="ranking"), None, pairs, ranking_rows(pairs)),
        TaskData(DataArguments(data="y", task="generation"), None, CHATS, generation_rows(CHATS, Found(), processor)),
    ]
    mixture = join_tasks(tasks)
    assert isinstance(mixture, TaskMixture)
    assert task_kinds(mixture) == {"ranking", "generation"}
    assert task_kinds(tasks[1].rows) == {"generation"}
    assert Task("y", tasks[1].rows).kind == "generation"
    fill_features(features, tasks)
    features.compute = None  # what an epoch reads is there
    collator = LiraCollator(features, generation=GenerationCollator(features))
    assert "gold" in collator([mixture[0], mixture[1]])
    batch = collator([mixture[2], mixture[5]])
    assert batch["labels"].shape == batch["input_ids"].shape
    with pytest.raises(ValueError, match="got rows of ranking and of generation in one batch"):
        collator([mixture[1], mixture[2]])
    with pytest.raises(ValueError, match="got rows of generation and no collator for them"):
        LiraCollator(features)([mixture[2]])
