"""`generate` and `forward` in the corners: look-up, guidance, ready embeddings, caches that go on, compiled
decoding."""

import functools

import pytest
import tiny_lira
import torch
from transformers import GenerationConfig, StaticCache
from transformers.utils import logging


GREEDY = {"max_new_tokens": 5, "do_sample": False}


@pytest.fixture(scope="module")
def llama():
    return tiny_lira.causal("llama")


@pytest.fixture
def quiet():
    """The library's assisted decoding uses, within itself, what the library calls deprecated."""
    logging.set_verbosity_error()
    yield
    logging.set_verbosity_warning()


def batch_for(model, *lengths, **kwargs):
    return tiny_lira.prompts(model, *lengths) | tiny_lira.texts(len(lengths), **kwargs)


def new_tokens(model, batch, **kwargs):
    return model.generate(**batch, **GREEDY | kwargs)[:, batch["input_ids"].shape[1] :]


@pytest.mark.usefixtures("quiet")
def test_prompt_look_up_may_run_into_the_placeholders():
    """The last tokens of the prompt also stand before its placeholders, which lie beyond the vocabulary."""
    model = tiny_lira.causal("llama")
    batch = batch_for(model, 4)
    batch["input_ids"][0, -1] = batch["input_ids"][0, 0]
    plain = new_tokens(model, batch, max_new_tokens=8)
    for options in ({}, {"min_new_tokens": 8, "eos_token_id": 7}, {"suppress_tokens": [1, 2, 3]}):
        wanted = new_tokens(model, batch, max_new_tokens=8, **options)
        assert torch.equal(new_tokens(model, batch, max_new_tokens=8, prompt_lookup_num_tokens=3, **options), wanted)
    assert torch.equal(new_tokens(model, batch, max_new_tokens=8), plain)
    torch.manual_seed(0)
    assert new_tokens(model, batch, do_sample=True, top_k=5, prompt_lookup_num_tokens=3).shape == (1, 5)


@pytest.mark.parametrize("token_id", [99, 98])
def test_guidance_by_a_negative_prompt(token_id):
    """A negative prompt may be shorter than the prompt, and holds the placeholders as well."""
    model = tiny_lira.causal("llama", prefix_token_id=token_id)
    batch = batch_for(model, 6)
    batch |= {name: torch.ones_like(batch[name]) for name in ("source_mask", "anchor_mask")}
    negative = batch["input_ids"][:, :-3]
    found = model.generate(
        **batch, max_new_tokens=1, guidance_scale=1.5, negative_prompt_ids=negative, output_scores=True,
        return_dict_in_generate=True, do_sample=False,
    ).scores[0]  # fmt: skip
    ours = model(**batch).logits[:, -1].log_softmax(-1)
    other = model(**batch | {"input_ids": negative, "attention_mask": torch.ones_like(negative)}).logits[:, -1]
    expected = 1.5 * (ours - other.log_softmax(-1)) + other.log_softmax(-1)
    seen = torch.arange(99) != token_id
    torch.testing.assert_close(found[:, seen], expected[:, seen], rtol=1e-4, atol=1e-4)


def test_ready_embeddings_take_the_prefix_too():
    model = tiny_lira.causal("llama")
    batch = batch_for(model, 3, 6, empty=True)
    embeds = model.get_input_embeddings()(batch["input_ids"].clamp(max=98))
    torch.testing.assert_close(model(**batch, inputs_embeds=embeds).logits, model(**batch).logits)
    expected = new_tokens(model, batch)
    assert torch.equal(new_tokens(model, batch, inputs_embeds=embeds), expected)
    # Without a text they are the base's own affair.
    ids, mask = batch["input_ids"], batch["attention_mask"]
    plain = model.generate(ids, attention_mask=mask, inputs_embeds=embeds, **GREEDY)
    assert torch.equal(
        plain[:, ids.shape[1] :],
        model.language_model.generate(None, inputs_embeds=embeds, attention_mask=mask, **GREEDY),
    )


@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_going_on_from_a_cache(base):
    """The text has been read: it may be given again or not, and empty slots stay masked."""
    model = tiny_lira.causal(base)
    batch = batch_for(model, 3, 6, empty=True)
    batch["source_mask"][0, 2:] = 0
    text = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    expected = tiny_lira.step_by_step(model, batch, 6)
    first = model.generate(**batch, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    ids = first.sequences
    mask = torch.cat([batch["attention_mask"], torch.ones(2, 3, dtype=torch.long)], dim=1)
    for given in ({}, text):
        again = model.generate(**batch, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        options = {"past_key_values": again.past_key_values, "attention_mask": mask} | given
        found = model.generate(ids, max_new_tokens=3, do_sample=False, **options)
        assert torch.equal(found[:, -6:], expected)
    # By hand, one token at a time.
    for given in ({}, text):
        output, row, mask = model(**batch, use_cache=True), batch["input_ids"], batch["attention_mask"]
        for _ in range(6):
            token = output.logits[:, -1].argmax(-1, keepdim=True)
            row, mask = torch.cat([row, token], dim=1), torch.cat([mask, torch.ones_like(token)], dim=1)
            past = {"past_key_values": output.past_key_values, "attention_mask": mask, "use_cache": True}
            output = model(input_ids=token, **past, **given)
        assert torch.equal(row[:, -6:], expected)


@torch.no_grad()
def test_a_cache_that_was_reset_has_no_gaps_of_before(llama):
    cache = StaticCache(config=llama.config.get_text_config(), max_cache_len=40)
    whole = batch_for(llama, 6, 6)
    whole["source_mask"], whole["anchor_mask"] = (
        torch.ones_like(whole[f"{road}_mask"]) for road in ("source", "anchor")
    )
    ids, width = llama.generate(**whole, **GREEDY), whole["input_ids"].shape[1]
    expected = llama(**whole | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[:, width:]
    with_gaps = batch_for(llama, 3, 6, empty=True)
    for read in (llama, functools.partial(llama.generate, **GREEDY, return_dict_in_generate=True)):
        read(**with_gaps, past_key_values=cache)
        cache.reset()
        llama(**whole, past_key_values=cache)
        rest = {"input_ids": ids[:, width:], "attention_mask": torch.ones_like(ids)}
        torch.testing.assert_close(llama(**rest, past_key_values=cache).logits, expected)
        cache.reset()


def test_settings_of_every_place_count():
    model = tiny_lira.causal("llama")
    batch = batch_for(model, 3, 6, empty=True)
    expected = new_tokens(model, batch)
    bare = {name: value for name, value in batch.items() if name != "attention_mask"}
    model.generation_config.pad_token_id = None
    for options in ({"pad_token_id": 0}, {"generation_config": GenerationConfig(pad_token_id=0, **GREEDY)}):
        options = GREEDY | options if "generation_config" not in options else options
        assert torch.equal(model.generate(**bare, **options)[:, -5:], expected)
    with pytest.raises(ValueError, match="cache_implementation is 'paged', which is continuous batching"):
        new_tokens(model, batch, cache_implementation="paged")
    with pytest.raises(ValueError, match="got inputs and input_ids; expected one of them"):
        model.generate(batch["input_ids"], **batch)
    penalised = new_tokens(model, batch, encoder_repetition_penalty=1.5, pad_token_id=0)
    assert penalised.shape == (2, 5)
    model.eval()
    assert model(**batch).past_key_values is not None
    assert model.train()(**batch).past_key_values is None


@pytest.mark.usefixtures("quiet")
def test_an_assistants_own_settings_count(llama):
    assistant = tiny_lira.causal("llama", seed=5)
    assistant.generation_config.num_assistant_tokens = 2
    widths, batch = [], batch_for(llama, 4)
    hook = llama.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    new_tokens(llama, batch, assistant_model=assistant, max_new_tokens=12)
    hook.remove()
    assert max(widths[1:]) <= 3


def test_compiled_decoding_has_one_graph():
    """As the library compiles it: single tokens over a static cache; the hooks must not break the graph."""
    model = tiny_lira.causal("llama")
    batch = batch_for(model, 3, 6)
    expected = new_tokens(model, batch)
    graphs, plain = [], model.language_model.forward

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(plain, backend=count, fullgraph=True)

    @functools.wraps(plain)
    def forward(*args, **kwargs):
        return (compiled if kwargs["input_ids"].shape[1] == 1 else plain)(*args, **kwargs)

    model.language_model.forward = forward
    try:
        found = new_tokens(model, batch, cache_implementation="static", disable_compile=True)
    finally:
        model.language_model.forward = plain
        torch._dynamo.reset()
    assert torch.equal(found, expected)
    assert len(graphs) == 1
