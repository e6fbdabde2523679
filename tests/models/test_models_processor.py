"""LiraProcessor: every way to hand over texts and candidates, and what is said of rows that are wrong."""

import time

import pytest
import tiny_lira
import torch
from transformers import PreTrainedTokenizerFast

from lira_hf import LiraConfig, LiraProcessor
from lira_hf.models import clean_text
from lira_hf.models.traits_lira import TRAITS, candidate_traits, trait_tensor


@pytest.fixture
def processor(word_tokenizer, ngram_tokenizer):
    return LiraProcessor.from_backbones(
        ngram_tokenizer, word_tokenizer, trained_languages=["bn", "ur"], max_text_length=40
    )


def same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def ids_of(batch, row: int, k: int) -> list[int]:
    return batch["anchor_ids"][row, k][batch["anchor_mask"][row, k].bool()].tolist()


def test_texts_candidates_and_scores_become_tensors(processor, word_tokenizer, ngram_tokenizer):
    texts = ["ঢাকা শহর", "x"]
    batch = processor(
        texts,
        candidates=[["Dhaka city", "the big city"], ["cat"]],
        scores=[[(9, 8, 7.5), None], None],
        languages=["bn", "sw"],
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
    width = shapes["source_ids"][1]
    assert shapes == {
        "source_ids": (2, width),
        "source_mask": (2, width),
        "anchor_ids": (2, 2, 5),
        "anchor_mask": (2, 2, 5),
        "anchor_scores": (2, 2, 3),
        "anchor_traits": (2, 2, len(TRAITS)),
        "language_ids": (2,),
    }
    expected = [[*candidate_traits(texts[0], ["Dhaka city", "the big city"])], [*candidate_traits("x", ["cat"])]]
    torch.testing.assert_close(batch["anchor_traits"], trait_tensor(expected, None, []))
    for row, text in enumerate(texts):
        kept = batch["source_ids"][row][batch["source_mask"][row].bool()].tolist()
        assert kept == ngram_tokenizer(text, truncation=True, max_length=40)["input_ids"]
    assert ids_of(batch, 0, 0) == word_tokenizer("Dhaka city")["input_ids"]
    assert ids_of(batch, 1, 0) == word_tokenizer("cat")["input_ids"]
    assert ids_of(batch, 1, 1) == []
    assert batch["anchor_scores"].tolist() == [[[9, 8, 7.5], [0, 0, 0]], [[0, 0, 0]] * 2]
    assert batch["language_ids"].tolist() == [1, 0]
    assert all(batch[name].dtype == torch.long for name in batch if name not in ("anchor_scores", "anchor_traits"))


def test_pairs_bring_their_candidate(processor):
    expected = processor(["a", "b"], candidates=[["the cat"], ["dog"]])
    same(processor([("a", "the cat"), ("b", "dog")]), expected)
    same(processor(["a", ["b", "dog"]], candidates=[["the cat"], None]), expected)
    with pytest.raises(ValueError, match="text 0 is a pair and has candidates too"):
        processor([("a", "the cat")], candidates=[["dog"]])


def test_a_single_text_with_its_candidates(processor):
    expected = processor(["a"], candidates=[["the cat", "dog"]], scores=[[(1, 2, 3), None]])
    same(processor("a", candidates=["the cat", "dog"], scores=[(1, 2, 3), None]), expected)
    same(processor("a", candidates="dog"), processor(["a"], candidates=[["dog"]]))
    same(processor("a"), processor(["a"]))


def test_rows_without_candidates(processor):
    for none in (None, [], [""], [" \n"]):
        batch = processor(["a", "b"], candidates=[none, ["cat"]])
        assert batch["anchor_mask"].any(-1).tolist() == [[False], [True]]
    assert "anchor_ids" not in processor(["a", "b"], candidates=[None, []])
    assert "anchor_scores" not in processor(["a"], candidates=[None], scores=[None])


def test_english_text_is_its_own_candidate(processor):
    batch = processor(
        ["the cat", "the cat", " ", "dog", "ran"],
        candidates=[None, None, None, ["mat"], []],
        languages=["en", "bn", "en", "en", "en"],
    )
    first = processor(["the cat"], candidates=[["the cat"]])
    assert ids_of(batch, 0, 0) == ids_of(first, 0, 0)
    assert ids_of(batch, 3, 0) == ids_of(processor(["x"], candidates=[["mat"]]), 0, 0)
    assert batch["anchor_mask"].any(-1).flatten().tolist() == [True, False, False, True, False]
    assert processor(["the cat"], languages="en")["anchor_ids"].shape[:2] == (1, 1)
    assert "anchor_ids" not in processor(["the cat"])
    assert "anchor_ids" not in processor([" "], languages="en")


def test_unknown_languages_are_entry_zero(processor):
    assert processor.language_ids(["bn", None, "ur", "tlh", "not a tag", ""]) == [1, 0, 2, 0, 0, 0]
    assert processor(["a", "b"], languages="ur")["language_ids"].tolist() == [2, 2]
    assert "language_ids" not in processor(["a"])


def test_blank_texts_have_no_road(processor, word_tokenizer):
    words = LiraProcessor.from_backbones(word_tokenizer)  # [CLS][SEP] alone would be a road
    for one in (processor, words):
        batch = one(["", " \t\n", "cat"])
        assert batch["source_mask"].any(-1).tolist() == [False, False, True]
        assert one([""])["source_mask"].sum() == 0


def test_a_hundred_thousand_characters(processor):
    start = time.perf_counter()
    text = "the cat sat on a mat " * 5000
    batch = processor([text, "cat"], candidates=[[text], ["cat"]])
    assert time.perf_counter() - start < 2.0
    same(batch, processor([text[:2000], "cat"], candidates=[[text[:2000]], ["cat"]]))
    assert batch["source_ids"].shape == (2, 40)
    assert batch["anchor_ids"].shape == (2, 1, 40)


def test_lone_surrogates_are_replaced(processor):
    assert clean_text("a\ud800b") == "a\ufffdb"
    assert clean_text("\ude00 \U0001f600 ঢাকা") == "\ufffd \U0001f600 ঢাকা"
    found = processor(["a\ud800b"], candidates=[["the \udfff cat"]])
    same(found, processor(["a\ufffdb"], candidates=[["the \ufffd cat"]]))


def test_the_smaller_limit_holds(word_tokenizer, ngram_tokenizer):
    assert word_tokenizer.model_max_length > 1e20
    text = "the cat sat on a mat " * 50
    short = PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer.backend_tokenizer, pad_token="[PAD]", model_max_length=12
    )
    wide = LiraProcessor.from_backbones(word_tokenizer, short, max_text_length=20)
    batch = wide([text], candidates=[[text]])
    assert batch["source_ids"].shape == (1, 20)
    assert batch["anchor_ids"].shape == (1, 1, 12)
    assert wide([text], max_length=5)["source_ids"].shape == (1, 5)
    assert wide([text], max_length=500)["source_ids"].shape == (1, 20)


def test_call_forms_of_other_libraries(processor):
    expected = processor(["the cat", "b"])
    same(
        processor(text=["the cat", "b"], text_kwargs={"padding": True}, common_kwargs={"return_tensors": "pt"}),
        expected,
    )
    same(processor(images=None, text=["the cat", "b"], videos=None, audio=None, text_kwargs=None), expected)
    short = {"padding": "max_length", "max_length": 60, "truncation": True}
    assert processor(text=["a", "b"], text_kwargs=short)["source_ids"].shape == (2, 40)
    left = processor(["the cat", "b"], padding_side="left")["source_mask"]
    assert torch.equal(left.sum(-1), expected["source_mask"].sum(-1))
    assert left[1].tolist() == sorted(left[1].tolist())


# Prompts of the multilingual encoder

PROMPTS = {"query_prompt": "query: ", "document_prompt": "passage: "}


def test_prompts_stand_before_what_g_reads_alone(word_tokenizer, ngram_tokenizer):
    bare = LiraProcessor.from_backbones(ngram_tokenizer, word_tokenizer, trained_languages=["bn"])
    processor = LiraProcessor.from_backbones(ngram_tokenizer, word_tokenizer, trained_languages=["bn"], **PROMPTS)
    texts, given = ["ঢাকা শহর", " ", "the cat"], {"candidates": [["Dhaka city"], None, None]}
    given |= {"languages": ["bn", "bn", "en"], "references": ["a", None, "b"]}
    same(processor(texts, **given), bare(texts, **given))
    for role, prompt in (("query", "query: "), ("document", "passage: ")):
        same(bare(texts, role=role, **given), bare(texts, **given))
        found = processor(texts, role=role, **given)
        expected = bare([prompt + texts[0], " ", prompt + texts[2]], **given)  # the blank one has no road
        assert found["source_mask"].any(-1).tolist() == [True, False, True]
        # English is its own candidate, without the prompt.
        assert ids_of(found, 2, 0) == word_tokenizer("the cat")["input_ids"]
        bare_anchors = bare(texts, **given)
        for name, tensor in found.items():
            assert torch.equal(tensor, (expected if name.startswith("source") else bare_anchors)[name]), name
    each = processor(texts, role=["document", "query", None], **given)
    expected = bare(["passage: " + texts[0], " ", texts[2]], **given)
    assert torch.equal(each["source_ids"], expected["source_ids"])


def test_prompts_of_g_are_not_the_base_models():
    model, processor = tiny_lira.causal_with_processor(**PROMPTS)
    expected = processor(["the cat"])["input_ids"]
    processor.query_prompt = model.config.query_prompt
    assert torch.equal(processor(["the cat"], role="query")["input_ids"], expected)


def test_prompts_are_taken_from_the_configuration_saved_and_loaded(word_tokenizer, ngram_tokenizer, tmp_path):
    config = LiraConfig(**PROMPTS)
    processor = LiraProcessor.from_backbones(ngram_tokenizer, word_tokenizer, config=config)
    processor.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    for found in (processor, LiraProcessor.from_pretrained(tmp_path), LiraConfig.from_pretrained(tmp_path)):
        assert (found.query_prompt, found.document_prompt) == ("query: ", "passage: ")
    assert (LiraConfig().query_prompt, LiraConfig().document_prompt) == ("", "")


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("passage", "role is 'passage'; expected 'query', 'document' or None; name what the text is"),
        (["query", "Document"], "role is 'Document'; expected 'query'"),
        (["query"], "got 2 texts and 1 roles; expected one per text, or one for all"),
    ],
)
def test_wrong_roles_are_named(processor, role, message):
    with pytest.raises(ValueError, match=message):
        processor(["a", "b"], role=role)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "text is NoneType 'None'; expected a string or a list", {"text": None}),
        (TypeError, "text is int '5'; expected a string or a list", {"text": 5}),
        (ValueError, "text is empty; expected at least one text", {"text": []}),
        (TypeError, "text 1 is float 'nan'; expected a string or a pair", {"text": ["a", float("nan")]}),
        (TypeError, r"text 0 is tuple .*expected a string or a pair", {"text": [("a", "b", "c")]}),
        (TypeError, "text 1 is NoneType", {"text": ["a", None]}),
        (ValueError, "1 rows of candidates for 2 texts; expected one list", {"candidates": [["x"]]}),
        (ValueError, "one string of candidates for 2 texts", {"candidates": "xy"}),
        (TypeError, "candidates is int '3'; expected one list", {"candidates": 3}),
        (TypeError, "the candidates of text 1 is float 'nan'; expected a list", {"candidates": [None, float("nan")]}),
        (TypeError, "a candidate of text 1 is int '7'; expected a string", {"candidates": [["x"], ["y", 7]]}),
        (TypeError, "a candidate of text 0 is NoneType", {"candidates": [[None], ["y"]]}),
        (ValueError, "2 texts and 3 languages; expected one tag", {"languages": ["bn", "ur", "en"]}),
        (ValueError, "1 rows of scores for 2 texts", {"candidates": [["x"], ["y"]], "scores": [None]}),
        (
            ValueError,
            "text 1 has 1 candidates and 2 scores",
            {"candidates": [["x"], ["y"]], "scores": [None, [None] * 2]},
        ),
        (ValueError, "text 0 has 0 candidates and 1 scores", {"scores": [[(1, 1, 1)], None]}),
        (TypeError, "scores is float '1.0'; expected one row", {"candidates": [["x"], ["y"]], "scores": 1.0}),
        (TypeError, "the scores of text 0 is int '5'", {"candidates": [["x"], ["y"]], "scores": [5, None]}),
        (ValueError, "got images; expected text alone", {"images": [0]}),
        (ValueError, "return_tensors is 'np'; expected 'pt'", {"return_tensors": "np"}),
    ],
)
def test_wrong_input_is_named(processor, error, message, call):
    with pytest.raises(error, match=message):
        processor(**{"text": ["a", "b"]} | call)


@pytest.mark.parametrize(
    "score", [(0, 5, 5), (11, 5, 5), (5, float("nan"), 5), (5, 5), (5, 5, 5, 5), ("high", 5, 5), 5, (5, None, 5)]
)
def test_wrong_scores_are_named(processor, score):
    with pytest.raises(
        ValueError, match=r"candidate 1 of text 1 has the scores .*; expected three numbers from 1 to 10"
    ):
        processor(["a", "b"], candidates=[["x"], ["y", "z"]], scores=[None, [(1, 10, 5), score]])
