"""Pipelines over plain text: the library's own on a checkpoint, and LiRA's two, with candidates from everywhere."""

import subprocess
import sys

import numpy as np
import pytest
import tiny_lira
import torch
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, pipeline

from lira_hf import CandidateSource, LiraProcessor
from lira_hf.translation import Candidate, CandidateStore, Identity, Score


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = tiny_lira.causal_with_processor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


class Reverser:
    """A translator of which everybody sees what it does."""

    name, fingerprint = "reverser", "1"

    def __init__(self):
        self.asked = []

    def translate(self, texts, language, limit):
        self.asked += texts
        return [[Candidate(" ".join(reversed(text.split())), "reversed", "x")] for text in texts]


def test_text_generation_on_the_checkpoint_is_the_base_alone(folder):
    generate = pipeline("text-generation", model=folder)
    options = {"max_new_tokens": 3, "do_sample": False, "return_full_text": False}
    one, two = generate(["the cat", "dog"], batch_size=2, **options)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = generate.tokenizer(["the cat"], return_tensors="pt")
    expected = model.language_model.generate(**ids, max_new_tokens=3, do_sample=False)[0, -3:]
    assert one[0]["generated_text"] == generate.tokenizer.decode(expected, skip_special_tokens=True)
    assert two == generate("dog", **options)
    assert AutoTokenizer.from_pretrained(folder).padding_side == "left"


def test_a_stock_embedding_pipeline_does_not_feed_base_tokens_to_the_encoder(folder):
    embed = pipeline("feature-extraction", model=folder)
    with pytest.raises(ValueError, match="got input_ids alone, which are the base LM's tokens"):
        embed("the cat")


def test_embeddings_of_plain_text(folder):
    embed = pipeline("lira-embedding", model=folder)
    assert embed.model.language_model is None
    processor = AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        batch = processor(["cat sat"], candidates=[["the mat"]], languages="bn", prompts=False)
        expected = embed.model(**batch).pooler_output[0].numpy()
    single = embed("cat sat", language="bn", candidates=["the mat"])
    assert single.shape == (40,)
    np.testing.assert_allclose(single, expected, atol=1e-6)
    rows = [
        {"text": "cat sat", "language": "bn", "candidates": ["the mat"]},
        {"text": "big river", "language": "en"},
        "dog",
        {"text": "house", "candidates": ["the house", "city"], "scores": [[9, 9, 9], None]},
    ]
    for size in (1, 3):
        found = embed(rows, batch_size=size)
        assert len(found) == 4
        np.testing.assert_allclose(found[0], expected, atol=1e-5)
        np.testing.assert_allclose(found[2], embed("dog"), atol=1e-5)
        # English is its own translation.
        np.testing.assert_allclose(found[1], embed("big river", candidates=["big river"], language="en"), atol=1e-5)
    assert list(embed(row for row in rows))  # a generator streams


def test_roles_of_plain_text(folder):
    embed = pipeline("lira-embedding", model=folder)
    bare = embed("cat sat", role="query")
    np.testing.assert_array_equal(bare, embed("cat sat"))
    embed.processor.query_prompt, embed.processor.document_prompt = "what is ", "the "
    np.testing.assert_array_equal(embed("cat sat"), bare)
    query, document = embed([{"text": "cat sat", "role": "query"}, {"text": "cat sat", "role": "document"}])
    np.testing.assert_allclose(query, embed("what is cat sat"), atol=1e-6)
    np.testing.assert_allclose(document, embed("cat sat", role="document"), atol=1e-6)
    assert np.abs(query - document).max() > 1e-3
    with pytest.raises(ValueError, match="role is 'title'; expected 'query', 'document' or None"):
        embed("cat sat", role="title")


def test_answers_to_plain_text_and_conversations(folder):
    answer = pipeline("lira-generation", model=folder)
    model, processor = answer.model, answer.processor
    options = {"max_new_tokens": 4, "do_sample": False}
    batch = processor(["cat sat"], candidates=[["the mat"]], languages="bn", prompts=["what is ?"])
    expected = processor.decode_new(model.generate(**batch, **options), batch)[0]
    assert answer("cat sat", prompt="what is ?", language="bn", candidates=["the mat"], **options) == [
        {"generated_text": expected}
    ]
    chat = [{"role": "user", "content": "what is the cat ?"}]
    text, prompt = processor.chat_prompt(chat)
    batch = processor([text], prompts=[prompt])
    expected = processor.decode_new(model.generate(**batch, **options), batch)[0]
    assert answer(chat, **options)[0]["generated_text"] == expected
    rows = ["dog", {"text": "cat sat", "prompt": "the"}, "big river house"]
    together, alone = answer(rows, batch_size=3, **options), [answer(row, **options) for row in rows]
    assert together == alone
    several = answer(rows, batch_size=2, num_return_sequences=2, num_beams=2, **options)
    assert [len(row) for row in several] == [2, 2, 2]
    sampled = pipeline("lira-generation", model=folder, do_sample=False, max_new_tokens=4)
    assert sampled("dog") == alone[0]


def test_candidates_from_a_translator_and_a_store(folder, tmp_path):
    translator = Reverser()
    embed = pipeline("lira-embedding", model=folder, candidate_source=CandidateSource(translator=translator))
    rows = [{"text": "cat sat", "language": "bn"}, {"text": "big river", "language": "en"}, "dog ran"]
    found = embed(rows, batch_size=3)
    assert translator.asked == ["cat sat"]  # not English, nor a text of which nobody knows the language
    plain = pipeline("lira-embedding", model=folder)
    np.testing.assert_allclose(found[0], plain("cat sat", language="bn", candidates=["sat cat"]), atol=1e-5)
    np.testing.assert_allclose(found[2], plain("dog ran"), atol=1e-5)
    given = embed({"text": "cat sat", "language": "bn", "candidates": ["the mat"]})
    assert not np.allclose(given, found[0], atol=1e-4)
    judge = Identity("judge", "1")
    with CandidateStore(tmp_path / "store.sqlite") as store:
        store.add(
            "bn", [("cat sat", [Candidate("mat", "a", "x"), Candidate("the cat", "b", "x")])], Identity("t", "1")
        )
        store.add_scores("bn", [("cat sat", "the cat", Score(9, 9, 9)), ("cat sat", "mat", Score(2, 2, 2))], judge)
        source = CandidateSource(store=store, critic=judge)
        stored = plain({"text": "cat sat", "language": "bn"}, candidate_source=source)
        texts, scores = source.get(["cat sat"], ["bn"])
    expected = plain("cat sat", language="bn", candidates=texts[0], scores=[list(score) for score in scores[0]])
    np.testing.assert_allclose(stored, expected, atol=1e-5)
    assert not np.allclose(stored, plain("cat sat", language="bn"), atol=1e-4)


LOAD = """
import sys
import lira_hf
from transformers import pipeline
answer = pipeline("lira-generation", model=sys.argv[1])
assert type(answer.processor).__name__ == "LiraProcessor"
print(answer("dog", max_new_tokens=4, do_sample=False)[0]["generated_text"])
"""


def test_a_saved_pipeline_brings_its_processor(folder, tmp_path):
    answer = pipeline("lira-generation", model=folder)
    answer.save_pretrained(str(tmp_path))
    for name in ("tokenizer", "source_tokenizer", "anchor_tokenizer"):
        assert (tmp_path / ("" if name == "tokenizer" else name) / "tokenizer.json").is_file()
    assert type(AutoProcessor.from_pretrained(tmp_path)) is LiraProcessor
    done = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == answer("dog", max_new_tokens=4, do_sample=False)[0]["generated_text"]


@pytest.mark.parametrize("wrong", [3, {"text": 3}, {"txt": "a"}, {"text": "a", "langage": "bn"}, ["a", "b", 3]])
def test_wrong_inputs_are_named(folder, wrong):
    embed = pipeline("lira-embedding", model=folder)
    with pytest.raises(ValueError, match="the input is .*expected a string, or a dict with the string 'text'"):
        embed(wrong)


def test_wrong_options_are_named(folder):
    with pytest.raises(ValueError, match=r"got \['max_new_tokens'\]; expected of"):
        pipeline("lira-embedding", model=folder)("a", max_new_tokens=3)
    with pytest.raises(ValueError, match="candidate 0 of text 0 has the scores"):
        pipeline("lira-embedding", model=folder)("a", candidates=["b"], scores=[[0, 11, 3]])
