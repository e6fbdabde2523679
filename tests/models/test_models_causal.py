"""LiraForCausalLM: generate in every mode against a step-by-step oracle, the loss, the prefix, threads, compiling."""

import threading

import pytest
import tiny_lira
import torch
from tiny_configs import build
from torch._dynamo.utils import counters
from transformers import GenerationConfig, StaticCache
from transformers.generation import LogitsProcessorList, TemperatureLogitsWarper
from transformers.utils import logging


GREEDY = {"max_new_tokens": 5, "do_sample": False}
BASES = ["llama", "gpt2", "mamba", "gemma3_text"]


@pytest.fixture(scope="module", params=BASES)
def model(request):
    return tiny_lira.causal(request.param)


@pytest.fixture(scope="module")
def llama():
    return tiny_lira.causal("llama")


def batch_for(model, *lengths, **kwargs):
    return tiny_lira.prompts(model, *lengths) | tiny_lira.texts(len(lengths), **kwargs)


def new_tokens(model, batch, **kwargs):
    return model.generate(**batch, **GREEDY | kwargs)[:, batch["input_ids"].shape[1] :]


def test_greedy_generation_equals_plain_passes_over_unpadded_rows(model):
    batch = batch_for(model, 3, 6, 1)
    found = new_tokens(model, batch)
    assert torch.equal(found, tiny_lira.step_by_step(model, batch))
    other = batch | tiny_lira.texts(3, seed=9)
    assert not torch.equal(found, new_tokens(model, other))  # the answer depends on the text
    assert torch.equal(model.generate(**batch, **GREEDY)[:, : batch["input_ids"].shape[1]], batch["input_ids"])


@pytest.mark.parametrize(
    "mode",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 1},
        {"prefill_chunk_size": 3},
        {"prefill_chunk_size": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_every_cache_gives_the_same(base, mode):
    model = tiny_lira.causal(base)
    batch = batch_for(model, 3, 6, 1)
    assert torch.equal(new_tokens(model, batch, **mode), tiny_lira.step_by_step(model, batch))


@pytest.fixture
def quiet():
    """The library's assisted decoding uses, within itself, what the library calls deprecated."""
    logging.set_verbosity_error()
    yield
    logging.set_verbosity_warning()


@pytest.mark.usefixtures("quiet")
def test_assisted_decoding_gives_the_same(llama):
    batch = batch_for(llama, 4)
    expected = tiny_lira.step_by_step(llama, batch)
    plain, with_prefix = build("llama", 5), tiny_lira.causal("llama", seed=5)
    for options in ({"assistant_model": plain}, {"assistant_model": with_prefix}, {"prompt_lookup_num_tokens": 3}):
        assert torch.equal(new_tokens(llama, batch, **options), expected), options


@pytest.mark.usefixtures("quiet")
def test_an_assistant_of_lira_reads_the_text(llama):
    """An assistant that is the model itself is always right; one that does not see the prefix is not."""
    batch, calls = batch_for(llama, 4), []
    handle = llama.language_model.register_forward_hook(lambda *args: calls.append(1))
    counts = []
    for assistant in (tiny_lira.causal("llama"), build("llama")):
        calls.clear()
        new_tokens(llama, batch, assistant_model=assistant, max_new_tokens=12)
        counts.append(len(calls))
    handle.remove()
    assert counts[0] < counts[1]
    other = tiny_lira.causal("llama", prefix_token_id=98)
    with pytest.raises(ValueError, match="the assistant's placeholder has the id 98, the model's 99"):
        new_tokens(llama, batch, assistant_model=other)


def test_beams_and_samples_of_a_row_share_its_prefix(model):
    batch = batch_for(model, 3, 6)
    beams = new_tokens(model, batch, num_beams=3, num_return_sequences=3)
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        one["input_ids"] = one["input_ids"][:, one["attention_mask"][0].bool()]
        one["attention_mask"] = torch.ones_like(one["input_ids"])
        alone = new_tokens(model, one, num_beams=3, num_return_sequences=3, use_cache=False)
        assert torch.equal(beams[3 * row : 3 * row + 3], alone)
    # A temperature of next to nothing makes each sample the greedy answer.
    torch.manual_seed(0)
    cold = new_tokens(model, batch, do_sample=True, temperature=1e-4, num_return_sequences=4, top_k=0)
    assert torch.equal(cold, tiny_lira.step_by_step(model, batch).repeat_interleave(4, dim=0))
    torch.manual_seed(0)
    warm = new_tokens(model, batch, do_sample=True, temperature=2.0, num_return_sequences=4)
    assert len({tuple(row.tolist()) for row in warm}) > 2


def test_generation_configuration_and_processors_of_the_caller_are_used(llama):
    batch = batch_for(llama, 3)
    expected = tiny_lira.step_by_step(llama, batch, 3)
    config = GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert torch.equal(llama.generate(**batch, generation_config=config)[:, -3:], expected)
    seen = []

    class Watch(TemperatureLogitsWarper):
        def __call__(self, input_ids, scores):
            seen.append(input_ids.shape)
            return scores

    new_tokens(llama, batch, logits_processor=LogitsProcessorList([Watch(1.0)]))
    assert len(seen) == 5
    llama.generation_config.max_new_tokens = 2
    assert llama.generate(**batch, do_sample=False).shape[1] == batch["input_ids"].shape[1] + 2
    llama.generation_config.max_new_tokens = None
    output = llama.generate(
        **batch, **GREEDY, return_dict_in_generate=True, output_scores=True, output_hidden_states=True
    )
    assert len(output.scores) == len(output.hidden_states) == 5


@pytest.mark.parametrize("token_id", [99, 98])
def test_penalties_and_placeholders_do_not_meet(token_id):
    """A penalty reads the scores at the prompt's ids; the placeholder may lie beyond them (99), or among them (98)."""
    model = tiny_lira.causal("llama", prefix_token_id=token_id)
    batch = batch_for(model, 3, 5)
    plain = new_tokens(model, batch, max_new_tokens=20)
    options = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 2, "max_new_tokens": 20}
    penalised = new_tokens(model, batch, **options)
    given = GenerationConfig(pad_token_id=0, do_sample=False, **options)
    assert torch.equal(penalised, model.generate(**batch, generation_config=given)[:, -20:])
    assert given.repetition_penalty == 3.0  # the caller's object is left as it was

    def repeats(rows):
        return sum(len(row) - len(set(row)) for row in rows.tolist())

    assert repeats(penalised) < repeats(plain)


def test_the_placeholder_is_never_generated():
    model = tiny_lira.causal("llama", prefix_token_id=98)
    batch = batch_for(model, 3, 5)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[98] = 2 * head[model(**batch).logits[0, -1].argmax()]
    assert model(**batch).logits[0, -1].argmax() == 98
    assert not (new_tokens(model, batch, max_new_tokens=10) == 98).any()
    assert not (new_tokens(model, batch, max_new_tokens=10, num_beams=2) == 98).any()


def test_slots_that_hold_nothing_are_masked_away(model):
    """A short text leaves bins empty, an absent translation a whole road: the base must not see what is there."""
    batch = batch_for(model, 3, 6, empty=True)
    batch["source_mask"][0, 2:] = 0
    prefix = model.find_prefix(batch["input_ids"], **{k: batch[k] for k in ("source_ids", "source_mask")})
    assert prefix["prefix_mask"].tolist()[0] == [1, 1, 0, 0, 0, 0]
    assert not prefix["prefix_embeds"][0, 2:].any()
    assert torch.equal(new_tokens(model, batch), tiny_lira.step_by_step(model, batch))
    if model.config.base_config.model_type in ("mamba", "gemma3_text"):
        return  # a recurrence counts a masked place as a step, a sliding window as a place
    found = model.find_prefix(
        batch["input_ids"], **{k: v for k, v in batch.items() if k not in ("attention_mask", "input_ids")}
    )
    embedding, base = model.get_input_embeddings(), model.language_model
    for row in range(2):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        slots = ids == model.config.prefix_token_id
        parts = [
            embedding(ids[:1]),
            found["prefix_embeds"][row][found["prefix_mask"][row].bool()],
            embedding(ids[~slots][1:]),
        ]
        alone = base(inputs_embeds=torch.cat(parts)[None]).logits[0, -1]
        together = model(**batch).logits[row, -1]
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_do_not_depend_on_the_padding(model, side):
    lengths = (3, 6)
    batch = tiny_lira.prompts(model, *lengths, side=side) | tiny_lira.texts(2)
    logits = model(**batch).logits
    for row, length in enumerate(lengths):
        mask = batch["attention_mask"][row].bool()
        one = {name: value[row : row + 1] for name, value in batch.items()}
        one |= {"input_ids": one["input_ids"][:, mask], "attention_mask": one["attention_mask"][:, mask]}
        torch.testing.assert_close(logits[row][mask], model(**one).logits[0], rtol=1e-4, atol=1e-5)
        assert mask.sum() == length + 1 + model.config.prefix_length


def test_threads_with_different_texts_do_not_mix(llama):
    batches = [batch_for(llama, 3, 6, seed=seed) for seed in range(4)]
    expected = [new_tokens(llama, batch) for batch in batches]
    assert len({str(rows.tolist()) for rows in expected}) == 4
    found, errors = {}, []

    def work(number):
        try:
            for _ in range(5):
                found.setdefault(number, []).append(new_tokens(llama, batches[number]))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for number, rows in found.items():
        assert all(torch.equal(row, expected[number]) for row in rows)
    assert not llama.get_input_embeddings()._forward_hooks
    assert not llama.get_input_embeddings()._forward_pre_hooks


def test_without_a_text_it_is_the_base_alone(model):
    ids = torch.randint(5, 90, (2, 6))
    base = model.language_model
    assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
    assert torch.equal(model.generate(ids, **GREEDY), base.generate(ids, **GREEDY))


def test_the_loss_is_the_cross_entropy_of_the_answer(model):
    batch = batch_for(model, 3, 6)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    output = model(**batch, labels=labels)
    slots = batch["input_ids"] == model.config.prefix_token_id
    keep = (labels != -100) & ~slots
    logits = output.logits[:, :-1][keep[:, 1:]]
    expected = torch.nn.functional.cross_entropy(logits, labels[:, 1:][keep[:, 1:]])
    torch.testing.assert_close(output.loss, expected)
    items = model(**batch, labels=labels, num_items_in_batch=torch.tensor(7)).loss
    torch.testing.assert_close(items, expected * keep[:, 1:].sum() / 7)
    assert torch.equal(model(**batch, labels=labels, return_dict=False)[0], output.loss)


def test_gradients_reach_the_heads_and_nothing_frozen(model):
    batch = batch_for(model, 3, 6)
    model.zero_grad()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    for name, weight in model.named_parameters():
        wanted = name.startswith(("lira.arca", "lira.fusion", "lira.prefix_projector"))
        assert weight.requires_grad == wanted, name
        if name.endswith(("actor.fc2.bias", "k_proj.bias")):
            continue  # a softmax does not see what is added to all of it
        assert (weight.grad is not None and bool(weight.grad.any())) == wanted, name
    model.zero_grad()


def test_gradient_checkpointing_changes_nothing():
    model = tiny_lira.causal("llama")
    batch = batch_for(model, 3, 6)
    gradients = []
    for enabled in (False, True):
        if enabled:
            model.activation_checkpointing_enable()
        model.train()
        model.zero_grad()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        gradients.append(model.lira.prefix_projector.projection.weight.grad.clone())
    assert model.language_model.training  # it works in training mode alone
    torch.testing.assert_close(*gradients)


def test_vocabulary_projection_stays_within_the_bases_embeddings():
    model = tiny_lira.causal("gemma3_text", prefix_projection="vocab")  # which multiplies what it looks up
    batch = batch_for(model, 3, 6)
    assert torch.equal(new_tokens(model, batch), tiny_lira.step_by_step(model, batch))
    roads = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    arca, source, anchor = model.lira.anchor_roads(**roads)
    fused = model.lira.fuse(arca, source, anchor)
    embedding, projector = model.get_input_embeddings(), model.lira.prefix_projector
    weights = projector.slot_logits(fused.last_hidden_state, embedding).softmax(-1)
    table = embedding(torch.arange(99))
    expected = (weights @ table) * fused.fusion_mask.unsqueeze(-1)
    torch.testing.assert_close(model.find_prefix(batch["input_ids"], **roads)["prefix_embeds"], expected)


def test_the_graph_through_the_chosen_candidate_alone_has_the_gradient_of_that_through_all():
    model = tiny_lira.causal("llama", prefix_projection="vocab", candidate_mode="argmax")
    model.freeze(arca=False)
    batch = batch_for(model, 3, 6, 2)
    batch["anchor_ids"][2] = 0  # a text without candidates
    batch["anchor_mask"][2] = 0
    roads = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    slots = torch.randint(0, 99, (3, model.config.num_bins, 2))
    found = []
    for alone in (True, False):
        model.zero_grad()
        arca, source, anchor = model.lira.anchor_roads(**roads, candidate_gradients=not alone)
        assert (arca.chosen_tokens is not None) == alone
        fused = model.lira.fuse(arca, source, anchor, head=False)
        model.reference_loss(slots, fused).backward()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert any("anchor_projection" in name for name in found[0])
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=lambda text, name=name: f"{name}: {text}")


def test_the_prefix_starts_at_the_length_of_the_bases_embeddings():
    for base in ("llama", "gemma3_text"):
        model = tiny_lira.causal(base)
        table = model.get_input_embeddings()(torch.arange(99))
        assert model.lira.prefix_projector.scale is not None
        fresh = type(model).from_backbones(
            build(base), tiny_lira.encoder("bert"), tiny_lira.encoder("bert"), **tiny_lira.SIZES
        )
        batch = batch_for(fresh, 3, 6)
        roads = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
        prefix = fresh.find_prefix(batch["input_ids"], **roads)
        lengths = prefix["prefix_embeds"][prefix["prefix_mask"].bool()].norm(dim=-1)
        assert 0.5 < lengths.mean() / table.norm(dim=-1).mean() < 2


@pytest.mark.parametrize("base", ["llama", "gpt2", "mamba"])
def test_ready_embeddings_give_the_same_logits(base):
    model = tiny_lira.causal(base)
    batch = batch_for(model, 3, 6, empty=True)
    hooked = model(**batch).logits
    model.config.prefix_injection = "inputs_embeds"
    torch.testing.assert_close(model(**batch).logits, hooked)
    assert torch.equal(new_tokens(model, batch), tiny_lira.step_by_step(model, batch))


def test_compiling_and_exporting_by_ready_embeddings():
    model = tiny_lira.causal("llama", prefix_injection="inputs_embeds")
    batch = batch_for(model, 3, 6, empty=True)
    roads = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    features = {
        "source_features": model.lira.encode_source(roads["source_ids"], roads["source_mask"]),
        "anchor_features": model.lira.encode_anchor(roads["anchor_ids"], roads["anchor_mask"]),
    }
    ready = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model(**batch).logits
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        found = compiled(**ready, **features, use_cache=False).logits
        torch.testing.assert_close(found, expected)
        prefix = model.find_prefix(batch["input_ids"], **roads)
        ready |= {name: prefix[name] for name in ("prefix_embeds", "prefix_mask")}
        program = torch.export.export(model, (), {**ready, "use_cache": False, "return_dict": False}, strict=False)
        torch.testing.assert_close(program.module()(**ready, use_cache=False, return_dict=False)[0], expected)


def test_compiled_heads_answer_and_learn_alike():
    model, other = tiny_lira.causal("llama"), tiny_lira.causal("llama")
    other.load_state_dict(model.state_dict())
    counters.clear()
    other.compile_heads(backend="aot_eager")
    assert other.state_dict().keys() == model.state_dict().keys()
    for lengths in ((3, 6), (2, 2, 5)):  # a batch of another size is compiled anew, or with a size that may change
        batch = batch_for(model, *lengths, empty=True)
        assert torch.equal(new_tokens(other, batch), new_tokens(model, batch))
        gradients = []
        for one in (model, other):
            found = one(**batch, labels=batch["input_ids"])
            found.loss.backward()
            gradients.append({name: weight.grad for name, weight in one.lira.fusion.named_parameters()})
            one.zero_grad()
        torch.testing.assert_close(*gradients)
    assert counters["stats"]["unique_graphs"] >= 3  # they were compiled indeed


def test_a_static_cache_of_the_callers_own(llama):
    batch = batch_for(llama, 3, 6)
    cache = StaticCache(config=llama.config.get_text_config(), max_cache_len=40)
    assert torch.equal(new_tokens(llama, batch, past_key_values=cache), tiny_lira.step_by_step(llama, batch))


def test_bases_with_a_second_table_say_what_they_need():
    """They look the placeholder itself up too, so it has to lie within the vocabulary, and embeddings alone don't
    do."""
    model = tiny_lira.causal("gemma4_text")
    batch = batch_for(model, 3)
    message = (
        "the placeholder has the id 99, and the base LM .gemma4_text. of 99 tokens looks ids up in a second table"
    )
    with pytest.raises(ValueError, match=message):
        model(**batch)
    with pytest.raises(ValueError, match=message):
        new_tokens(model, batch)
    model = tiny_lira.causal("gemma3n_text", prefix_token_id=98)
    batch = batch_for(model, 3, 6)
    assert torch.equal(new_tokens(model, batch), tiny_lira.step_by_step(model, batch))
    model.config.prefix_injection = "inputs_embeds"
    with pytest.raises(ValueError, match="looks its tokens up in every layer too"):
        model(**batch)
