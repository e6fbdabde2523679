"""The processor with a base LM: where the prefix goes, conversations, answers to choose from, multiple choice."""

import pytest
import tiny_lira
import torch
from tiny_configs import build
from transformers import AutoModelForMultipleChoice, AutoProcessor

from lira_hf import LiraForMultipleChoice, LiraProcessor


@pytest.fixture(scope="module")
def pair():
    return tiny_lira.causal_with_processor()


@pytest.fixture(scope="module")
def processor(pair):
    return pair[1]


def shown(processor, ids):
    """Ids as words, with P for a placeholder."""
    words = processor.tokenizer.convert_ids_to_tokens(ids)
    return " ".join("P" if word == processor.prefix_token else word for word in words)


def test_the_prefix_goes_where_the_prompt_says(processor):
    prompts = ["what is the cat ?", f"the dog {processor.prefix_token} ran", None]
    batch = processor(["cat sat", "dog", "big river"], prompts=prompts)
    six = "P P P P P P"
    rows = [
        shown(processor, row[mask.bool()])
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert rows == [f"<s> {six} what is the cat ?", f"<s> the dog {six} ran", f"<s> {six} big river"]
    assert batch["attention_mask"][2].tolist() == [0] * 3 + [1] * 9  # padded on the left
    assert shown(processor, processor("cat", prompts="what is")["input_ids"][0]) == f"<s> {six} what is"
    assert "input_ids" not in processor(["cat"], prompts=False)
    # A text that happens to hold the placeholder does not say where the prefix goes.
    sly = processor([f"cat {processor.prefix_token} {processor.prefix_token} sat"])["input_ids"][0]
    assert shown(processor, sly) == f"<s> {six} cat sat"


def test_a_conversation_becomes_text_and_prompt(processor):
    turns = [
        {"role": "user", "content": "what is the dog ?"},
        {"role": "assistant", "content": "big"},
        {"role": "user", "content": f"what is {processor.prefix_token} the cat ?"},
    ]
    text, prompt = processor.chat_prompt(turns)
    assert text.split() == "what is the cat ?".split()
    ids = processor([text], prompts=[prompt])["input_ids"][0]
    unknown = "<unk>"  # for "user", ":" and "assistant"
    words = shown(processor, ids).split()
    assert words.count("<s>") == 1
    assert words.index("P") > len(words) - 15
    assert words[words.index("P") + 6 :] == ["what", "is", "the", "cat", "?", unknown, unknown]
    batch = processor.apply_chat_template(
        [turns, turns[:1]], tokenize=True, add_generation_prompt=True, languages="bn", candidates=[["the cat"], None]
    )
    assert torch.equal(batch["input_ids"][0], ids)
    assert torch.equal(batch["source_ids"][0], processor([text])["source_ids"][0])
    assert (batch["input_ids"] == processor.prefix_token_id).sum(-1).tolist() == [6, 6]
    assert batch["language_ids"].tolist() == [1, 1]
    assert batch["anchor_mask"][:, 0].any(-1).tolist() == [True, False]
    parts = [{"role": "user", "content": [{"type": "text", "text": "what is"}, {"type": "text", "text": "it ?"}]}]
    assert processor.chat_prompt([*turns[:2], *parts], chat_template="{{ messages[-1].content[0].text }}") == (
        "what is it ?",
        processor.prefix_token + "what is",
    )


def test_a_turn_that_calls_a_tool_needs_no_content(processor):
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {}}}]}
    for calling in (call, call | {"content": None}, call | {"content": ""}):
        turns = [{"role": "user", "content": "what is it ?"}, calling, {"role": "tool", "content": "the cat"}]
        text, prompt = processor.chat_prompt(turns)
        assert text == "what is it ?"
        assert prompt.split() == "user : <|lira_prefix|>what is it ? assistant : tool : the cat assistant :".split()
        batch = processor.apply_chat_template(turns, tokenize=True, add_generation_prompt=True)
        assert torch.equal(batch["input_ids"], processor([text], prompts=[prompt])["input_ids"])


def test_answers_stand_behind_their_prompt(processor):
    batch = processor(["cat", "dog"], prompts=["what is ?", "the"], choices=[["big", "mat on"], ["a", "river"]])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["choice_mask"].shape
    assert batch["input_ids"].shape[:2] == (2, 2)
    chosen = [
        shown(processor, row[mask.bool()])
        for row, mask in zip(batch["input_ids"].flatten(0, 1), batch["choice_mask"].flatten(0, 1), strict=True)
    ]
    assert chosen == ["big", "mat on", "a", "river"]
    first = batch["input_ids"][0, 1][batch["attention_mask"][0, 1].bool()]
    assert shown(processor, first) == "<s> P P P P P P what is ? mat on"


def test_the_processor_is_saved_with_its_placeholder(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "lira"}')
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is LiraProcessor
    assert (loaded.prefix_length, loaded.prefix_token_id) == (6, processor.prefix_token_id)
    assert loaded.tokenizer.padding_side == "left"
    assert loaded.tokenizer.pad_token == "</s>"
    turns = [{"role": "user", "content": "what is the cat ?"}]
    assert loaded.chat_prompt(turns) == processor.chat_prompt(turns)
    mine, theirs = processor(["cat sat"], candidates=["mat"]), loaded(["cat sat"], candidates=["mat"])
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_model_and_processor_agree_on_the_placeholder(pair):
    model, processor = pair
    parts = (tiny_lira.word_tokenizer(), tiny_lira.word_tokenizer())
    base = tiny_lira.word_tokenizer(bos=True)
    made = LiraProcessor.from_backbones(*parts, base=base, config=model.config)
    assert (made.prefix_length, made.trained_languages) == (model.config.prefix_length, ["bn", "ur"])
    other = tiny_lira.causal(prefix_token_id=50)
    with pytest.raises(ValueError, match=r"placeholder has the id 50, the tokenizer's 20; expected the same"):
        LiraProcessor.from_backbones(*parts, base=base, config=other.config)
    assert processor.decode_new(torch.tensor([[1, 2, 5, 6]]), {"input_ids": torch.zeros(1, 2)}) == ["cat sat"]


def test_one_tokenizer_for_base_and_encoder_stays_the_encoders():
    shared = tiny_lira.word_tokenizer(bos=True, pad_token="<x>")
    made = LiraProcessor.from_backbones(shared, base=shared, prefix_length=6)
    assert shared.padding_side == "right"
    assert made.prefix_token not in made.source_tokenizer.get_vocab()
    assert made.prefix_token in made.tokenizer.get_vocab()


def test_a_base_without_tokenizer_files_is_no_tokenizer(tmp_path):
    """The library makes a tokenizer of a few special tokens from the model's configuration, silently."""
    build("qwen3").save_pretrained(tmp_path)
    with pytest.raises(OSError, match="has no tokenizer; expected one of tokenizer.json"):
        LiraProcessor.from_backbones(tiny_lira.word_tokenizer(), base=str(tmp_path))


def test_multiple_choice_starts_at_the_likelihood_of_the_choices(pair, tmp_path):
    model, processor = pair
    model.save_pretrained(tmp_path)
    chooser = AutoModelForMultipleChoice.from_pretrained(tmp_path)
    assert type(chooser) is LiraForMultipleChoice
    choices = [["big", "mat on", "a"], ["a", "river", "the big mat"]]
    texts = {"text": ["cat", "dog ran"], "candidates": [["the cat"], None], "languages": ["bn", "ur"]}
    batch = processor(**texts, prompts=["what is ?", "the"], choices=choices)
    output = chooser(**batch, labels=torch.tensor([0, 2]))
    for row, prompt in enumerate(["what is ?", "the"]):
        one = {key: value[row : row + 1] for key, value in processor(**texts).items()}
        for choice, answer in enumerate(choices[row]):
            before = processor(["x"], prompts=[prompt])["input_ids"]
            after = processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
            one["input_ids"] = torch.cat([before, after], dim=1)
            one["attention_mask"] = torch.ones_like(one["input_ids"])
            scores = model(**one).logits.log_softmax(-1)[0, before.shape[1] - 1 : -1]
            expected = scores.gather(1, after[0][:, None]).mean()
            torch.testing.assert_close(output.logits[row, choice], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 2])))
    with torch.no_grad():
        chooser.choice_head.weight.normal_()
    trained = chooser(**batch)
    assert not torch.allclose(trained.logits, output.logits)
    assert torch.equal(trained.choice_log_likelihood, output.choice_log_likelihood)
    chooser.save_pretrained(tmp_path / "trained")
    again = AutoModelForMultipleChoice.from_pretrained(tmp_path / "trained")
    assert torch.equal(again.choice_head.weight, chooser.choice_head.weight)
    torch.testing.assert_close(again(**batch).logits, trained.logits)
    trained.logits[0, 0].backward()
    assert chooser.choice_head.weight.grad.any()
    with pytest.raises(ValueError, match=r"input_ids has shape \(6, .*expected \(batch, choices, tokens\)"):
        chooser(**batch | {"input_ids": batch["input_ids"].flatten(0, 1)})


@pytest.mark.parametrize("base", ["gemma3n_text", "blt", "llama4_text", "mamba"])
def test_multiple_choice_over_unusual_bases(base):
    torch.manual_seed(0)
    model = LiraForMultipleChoice.from_backbones(
        build(base), tiny_lira.encoder("bert"), prefix_token_id=98, **tiny_lira.SIZES
    )
    torch.nn.init.normal_(model.choice_head.weight)
    batch = tiny_lira.prompts(model, 3, 3) | tiny_lira.texts(2)
    batch |= {name: batch[name][:, None].repeat(1, 2, 1) for name in ("input_ids", "attention_mask")}
    batch["input_ids"][:, 1, -1] = 7
    logits = model(**batch).logits
    assert logits.shape == (2, 2)
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        torch.testing.assert_close(model(**one).logits[0], logits[row], rtol=1e-4, atol=1e-4)


def _batch(model, **changes):
    return {**tiny_lira.prompts(model, 3, 6), **tiny_lira.texts(2), **changes}


WRONG = [
    (lambda b: b | {"input_ids": b["input_ids"][:, 2:]}, r"row \d of input_ids has 5 placeholder tokens.*expected 6"),
    (
        lambda b: {k: b[k] for k in ("input_ids", "attention_mask")},
        "holds the prefix's placeholders and there is no text",
    ),
    (lambda b: {k: v for k, v in b.items() if k != "input_ids"}, "got a text for the soft prefix and no input_ids"),
    (
        lambda b: b | {"source_ids": b["source_ids"][:1], "source_mask": b["source_mask"][:1]},
        "got 1 texts and 2 rows of",
    ),
    (
        lambda b: b | {"anchor_scores": torch.ones(2, 3, 3)},
        r"anchor_scores has shape \(2, 3, 3\); expected \(2, 2, 3\)",
    ),
    (lambda b: b | {"anchor_scores": torch.full((2, 2, 3), 11.0)}, "row 0.*candidate 0.*11.0.*from 1 to 10"),
    (lambda b: b | {"anchor_scores": torch.full((2, 2, 3), torch.nan)}, "row 0.*candidate 0.*nan.*from 1 to 10"),
    (lambda b: b | {"anchor_mask": b["anchor_mask"][:, :1]}, r"anchor_mask has shape .*; expected that of anchor_ids"),
    (lambda b: b | {"source_mask": b["source_mask"][:, :3]}, "the mask has shape"),
    (
        lambda b: b | {"prefix_embeds": torch.zeros(2, 4, 32), "source_ids": None},
        r"soft prefix has shape \(2, 4, 32\)",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_bad_tensors_are_named(change, message):
    model = tiny_lira.causal()
    batch = change(_batch(model))
    with pytest.raises(ValueError, match=message):
        model(**batch)
    with pytest.raises(ValueError, match=message):
        model.generate(**batch, max_new_tokens=1)


def test_base_tokens_are_no_source_tokens(pair, tmp_path):
    model, processor = pair
    model.save_pretrained(tmp_path)
    embedder = model.lira
    with pytest.raises(ValueError, match="got input_ids alone, which are the base LM's tokens in this checkpoint"):
        embedder(**processor.tokenizer(["cat sat"], return_tensors="pt"))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "prompt 0 holds the placeholder 2 times", {"prompts": "<|lira_prefix|> a <|lira_prefix|>"}),
        (ValueError, "got 1 texts and 2 prompts", {"prompts": ["a", "b"]}),
        (TypeError, "prompt 0 is int '3'; expected a string", {"prompts": [3]}),
        (ValueError, "got 1 texts and 2 rows of choices", {"choices": [["a"], ["b"]]}),
        (TypeError, "the choices of text 0 are 'ab'", {"choices": ["ab"]}),
        (TypeError, r"the choices of text 0 are .\['a', ''\]", {"choices": [["a", ""]]}),
    ],
)
def test_wrong_prompts_are_named(processor, error, message, call):
    with pytest.raises(error, match=message):
        processor(["cat"], **call)


def test_rows_of_different_numbers_of_choices_are_named(processor):
    with pytest.raises(ValueError, match="text 1 has 1 choices and text 0 has 2"):
        processor(["cat", "dog"], choices=[["a", "big"], ["a"]])
    with pytest.raises(ValueError, match="a conversation without a text of the user"):
        processor.chat_prompt([{"role": "assistant", "content": "big"}])
    plain = LiraProcessor.from_backbones(tiny_lira.word_tokenizer())
    with pytest.raises(ValueError, match="this processor has no base LM's tokenizer"):
        plain(["cat"], prompts=["what"])
