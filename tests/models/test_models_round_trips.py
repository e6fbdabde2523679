"""Checkpoints with a base LM: every pairing of families saved whole and slim, shards, ties, dtypes, what is
refused."""

import json

import pytest
import tiny_lira
import torch
from safetensors.torch import load_file, save_file
from tiny_configs import build
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultipleChoice, LlamaForCausalLM

from lira_hf import LiraConfig, LiraForCausalLM, LiraForMultipleChoice, LiraModel


BASES = ["llama", "qwen3", "gemma3_text", "gpt2", "mamba", "mixtral"]
ENCODERS = ["bert", "xlm-roberta", "t5", "qwen3"]


@pytest.fixture(scope="session")
def part(tmp_path_factory):
    """`part(kind)`: the folder of a saved base LM, or of an encoder of that width."""
    folder, made = tmp_path_factory.mktemp("parts"), {}

    def make(kind: str, dim: int | None = None) -> str:
        name = f"{kind}-{dim}"
        if name not in made:
            model = build(kind) if dim is None else tiny_lira.encoder(kind, dim)
            model.save_pretrained(folder / name)
            made[name] = str(folder / name)
        return made[name]

    return make


@pytest.fixture
def join(part):
    """`join(base, encoder, anchor)`: a model over saved parts, so that a slim checkpoint can name them."""

    def make(base="llama", g="bert", h="bert", kind=LiraForCausalLM, **config):
        torch.manual_seed(0)
        anchor = None if h is None else part(h, 24)
        model = kind.from_backbones(part(base), part(g, 16), anchor, **tiny_lira.SIZES | config)
        tiny_lira.disturb(model)
        return model

    return make


@torch.no_grad()
def results(model, batch):
    """Logits of the base LM, and the embedding from the same checkpoint's core."""
    roads = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    return model(**batch).logits, model.lira(**roads).pooler_output


def batch_for(model):
    return tiny_lira.prompts(model, 3, 6) | tiny_lira.texts(2)


@pytest.mark.parametrize("anchor", ["separate", "shared"])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("base", BASES)
def test_round_trip_is_bit_equal(tmp_path, join, base, encoder, anchor):
    model = join(base, encoder, "bert" if anchor == "separate" else None)
    batch = batch_for(model)
    logits, embedding = results(model, batch)
    for slim in (False, True):
        folder = tmp_path / f"slim-{slim}"
        model.save_pretrained(folder, save_backbones=not slim)
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        assert type(loaded) is LiraForCausalLM
        assert not loaded.training
        found = results(loaded, batch)
        assert torch.equal(found[0], logits)
        assert torch.equal(found[1], embedding)
        # For embedding, the base LM's weights stay on the disk.
        embedder = AutoModel.from_pretrained(folder)
        assert type(embedder) is LiraModel
        assert embedder.language_model is None
        roads = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
        assert torch.equal(embedder(**roads).pooler_output, embedding)
        chooser = AutoModelForMultipleChoice.from_pretrained(folder)
        assert type(chooser) is LiraForMultipleChoice
        assert not chooser.choice_head.weight.any()
        assert {n: p.requires_grad for n, p in loaded.named_parameters()} == {
            n: p.requires_grad for n, p in model.named_parameters()
        }
        weights = load_file(folder / "model.safetensors")
        kept = {name.split(".")[1] for name in weights}
        heads = {"arca", "fusion", "embedding_head", "prefix_projector"}
        assert kept == heads if slim else heads < kept


def test_a_multimodal_base_is_wrapped_as_its_causal_class(tmp_path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    text = build("gemma3_text").config
    text = Gemma3TextConfig(**{k: v for k, v in text.to_dict().items() if k not in ("model_type", "architectures")})
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = SiglipVisionConfig(image_size=14, patch_size=7, **sizes)
    torch.manual_seed(0)
    base = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4))
    model = LiraForCausalLM.from_backbones(base.eval(), tiny_lira.encoder("bert"), **tiny_lira.SIZES)
    tiny_lira.disturb(model)
    batch = batch_for(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded.language_model) is Gemma3ForConditionalGeneration
    assert torch.equal(results(loaded, batch)[0], results(model, batch)[0])
    new = model.generate(**batch, max_new_tokens=4, do_sample=False)[:, -4:]
    assert torch.equal(new, tiny_lira.step_by_step(model, batch, 4))


def test_shards(tmp_path, join):
    model = join()
    batch = batch_for(model)
    model.save_pretrained(tmp_path / "full", max_shard_size="20KB")
    assert len(list((tmp_path / "full").glob("model-*.safetensors"))) > 3
    model.save_pretrained(tmp_path / "slim", max_shard_size="10KB", save_backbones=False)
    assert len(list((tmp_path / "slim").glob("model-*.safetensors"))) > 1
    for folder in ("full", "slim"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert torch.equal(results(loaded, batch)[0], results(model, batch)[0])


def test_a_tied_base_stays_tied_and_a_larger_vocabulary_stays_larger(tmp_path):
    model = tiny_lira.causal("gpt2")
    assert model.language_model.config.tie_word_embeddings
    model.resize_token_embeddings(120, mean_resizing=False)
    assert model.config.vocab_size == model.vocab_size == 120
    assert model.config.prefix_token_id == 99  # the placeholder stays what the processor makes it
    batch = batch_for(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for one in (model, loaded):
        assert one.get_output_embeddings().weight is one.get_input_embeddings().weight
        assert one.get_input_embeddings().weight.shape == (120, 32)
    assert torch.equal(results(loaded, batch)[0], results(model, batch)[0])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_each_part_keeps_its_dtype(tmp_path, part, half):
    torch.manual_seed(0)
    options = {"base_kwargs": {"dtype": half}, "anchor_kwargs": {"dtype": half}}
    model = LiraForCausalLM.from_backbones(
        part("llama"), part("bert", 16), part("bert", 24), **options, **tiny_lira.SIZES
    )
    tiny_lira.disturb(model)
    batch = batch_for(model)
    logits, embedding = results(model, batch)
    assert (model.dtype, model.language_model.dtype, model.lira.encoder.dtype) == (half, half, torch.float32)

    def kinds(one):
        return {name: weight.dtype for name, weight in one.named_parameters()}

    for slim in (False, True):
        model.save_pretrained(tmp_path / f"{slim}", save_backbones=not slim)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / f"{slim}")
        assert kinds(loaded) == kinds(model)
        found = results(loaded, batch)
        assert torch.equal(found[0], logits)
        assert torch.equal(found[1], embedding)
        # What the caller asks for counts for all parts.
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / f"{slim}", dtype=torch.float32)
        assert set(kinds(whole).values()) == {torch.float32}
    assert json.loads((tmp_path / "False/config.json").read_text())["part_dtypes"]["base"] == str(half)[6:]


def test_two_half_precision_types_are_both_kept(tmp_path, part):
    kwargs = {"base_kwargs": {"dtype": torch.bfloat16}, "encoder_kwargs": {"dtype": torch.float16}}
    model = LiraForCausalLM.from_backbones(
        part("llama"), part("bert", 16), part("bert", 24), **kwargs, **tiny_lira.SIZES
    )
    with torch.no_grad():
        model.language_model.get_input_embeddings().weight[0, 0] = 1e6  # beyond float16
    model.save_pretrained(tmp_path / "both")
    for kind in (LiraForCausalLM, LiraModel):
        loaded, expected = kind.from_pretrained(tmp_path / "both"), model if kind is LiraForCausalLM else model.lira
        kept = dict(expected.named_parameters())
        for name, weight in loaded.named_parameters():
            assert weight.dtype == kept[name].dtype
            assert torch.equal(weight, kept[name])
        buffers = dict(expected.named_buffers())
        assert all(value.dtype == buffers[name].dtype for name, value in loaded.named_buffers())


def test_device_map_and_attention_of_each_part(tmp_path, join):
    model = join()
    for slim in (False, True):
        model.save_pretrained(tmp_path / f"{slim}", save_backbones=not slim)
        attention = {"": "eager", "base_config": "eager", "encoder_config": "sdpa"}
        loaded = AutoModelForCausalLM.from_pretrained(
            tmp_path / f"{slim}", device_map="cpu", attn_implementation=attention
        )
        config = loaded.config
        assert config._attn_implementation == config.base_config._attn_implementation == "eager"
        assert config.encoder_config._attn_implementation == "sdpa"
        batch = batch_for(model)
        seen = batch["attention_mask"].bool()
        torch.testing.assert_close(results(loaded, batch)[0][seen], results(model, batch)[0][seen])


def test_what_a_slim_checkpoint_says_of_its_backbones(tmp_path, join, part):
    join().save_pretrained(tmp_path, save_backbones=False)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["backbones_saved"] is False
    assert config["lira_version"]
    assert config["transformers_version"]
    assert set(config["backbone_info"]) == {"base", "encoder", "anchor"}
    for name, known in config["backbone_info"].items():
        assert known["name"] == {"base": part("llama"), "encoder": part("bert", 16), "anchor": part("bert", 24)}[name]
        assert len(known["fingerprint"]) == 16
        assert known["dtype"] == "float32"


def test_a_slim_checkpoint_refuses_a_changed_backbone(tmp_path, join):
    model = join()
    moved = {}
    for name, one in model.backbones().items():
        one.save_pretrained(tmp_path / name)
        moved[f"{name}_kwargs"] = {"name": str(tmp_path / name)}
    model.save_pretrained(tmp_path / "slim", save_backbones=False)
    batch = batch_for(model)
    elsewhere = AutoModelForCausalLM.from_pretrained(tmp_path / "slim", **moved)
    assert torch.equal(results(elsewhere, batch)[0], results(model, batch)[0])
    for name in ("base", "encoder", "anchor"):
        path = tmp_path / name / "model.safetensors"
        weights = load_file(path)
        key = max(weights, key=lambda key: weights[key].numel())
        save_file(weights | {key: weights[key] * 1.01}, path, metadata={"format": "pt"})
        message = f"the backbone {name!r} at .*{name}' has the fingerprint .*; the slim checkpoint .* was trained with"
        with pytest.raises(ValueError, match=message):
            AutoModelForCausalLM.from_pretrained(tmp_path / "slim", **{f"{name}_kwargs": moved[f"{name}_kwargs"]})


def test_a_slim_checkpoint_says_which_backbone_it_misses(tmp_path, join):
    join().save_pretrained(tmp_path, save_backbones=False)
    with pytest.raises(OSError, match=r"needs its backbone 'base' from '/no/where'.*base_kwargs=\{'name'"):
        AutoModelForCausalLM.from_pretrained(tmp_path, base_kwargs={"name": "/no/where"})


def test_what_could_not_be_loaded_again_is_not_saved_slim(tmp_path, join, caplog):
    with pytest.raises(ValueError, match="'encoder' has no name or folder"):
        tiny_lira.causal().save_pretrained(tmp_path / "a", save_backbones=False)
    model = join(backbones_saved=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[5] += 1
    with pytest.raises(ValueError, match="weights of the backbone 'base' have changed"):
        model.save_pretrained(tmp_path / "b", save_backbones=False)
    # A training run that saves as its configuration says must not stop there, nor lose anything.
    model.save_pretrained(tmp_path / "c")
    assert "saving the whole model" in caplog.text
    batch = batch_for(model)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "c")
    assert torch.equal(results(loaded, batch)[0], results(model, batch)[0])


@pytest.mark.parametrize("slim", [False, True])
def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path, join, slim):
    join().save_pretrained(tmp_path, save_backbones=not slim)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lira.prefix_projector.projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "lira_checksums.json").unlink()  # changed on purpose
    with pytest.raises(ValueError, match="lacks 1 weights of LiraForCausalLM, among them lira.prefix_projector.proj"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    save_file(weights | {"lira.arca.more": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    if slim:
        with pytest.raises(ValueError, match="1 weights that LiraForCausalLM has no place for, among them arca.more"):
            AutoModelForCausalLM.from_pretrained(tmp_path)


def test_an_embedding_checkpoint_is_no_causal_lm(tmp_path, join):
    model = join()
    model.save_pretrained(tmp_path / "generation")
    embedder = AutoModel.from_pretrained(tmp_path / "generation")
    embedder.save_pretrained(tmp_path / "embedding")
    assert embedder.config.base_config is not None  # saving says so of the checkpoint, not of the model
    assert AutoConfig.from_pretrained(tmp_path / "embedding").base_config is None
    for auto in (AutoModelForCausalLM, AutoModelForMultipleChoice):
        with pytest.raises(ValueError, match=r"has no base LM \(base_config is None\).*AutoModel"):
            auto.from_pretrained(tmp_path / "embedding")


def test_a_newer_major_version_is_refused(tmp_path, join):
    join().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"lira_version": "7.0.1"}))
    for auto in (AutoConfig, AutoModel, AutoModelForCausalLM):
        with pytest.raises(ValueError, match=r"written by lira_hf 7.0.1; expected.*pip install --upgrade lira-hf"):
            auto.from_pretrained(tmp_path)


def test_an_encoder_of_another_width_is_refused(tmp_path, join, part):
    model = join()
    model.save_pretrained(tmp_path, save_backbones=False)
    with pytest.raises(ValueError, match=r"encoder is 24 wide.*expected 16"):
        AutoModelForCausalLM.from_pretrained(tmp_path, encoder_kwargs={"name": part("bert", 24)})
    with pytest.raises(ValueError, match=r"encoder is 24 wide.*expected 16"):
        LiraModel(LiraConfig(encoder_config=tiny_lira.encoder_config("bert")), encoder=tiny_lira.encoder("bert", 24))


def test_a_live_base_that_is_no_causal_lm_is_refused():
    with pytest.raises(TypeError, match="live LlamaModel, which has no language-model head"):
        LiraForCausalLM.from_backbones(build("llama").model, tiny_lira.encoder("bert"))


def test_a_decoder_base_stays_causal_after_joining(tmp_path, join):
    """A composite configuration resets _attn_implementation on live ones; without it a decoder sees its future."""
    live = build("llama")
    kind, ids = live.config._attn_implementation, torch.randint(5, 90, (1, 8))
    changed = ids.clone()
    changed[0, -1] += 1
    expected = live(input_ids=ids).logits
    model = LiraForCausalLM.from_backbones(live, tiny_lira.encoder("qwen3"), **tiny_lira.SIZES)
    model.save_pretrained(tmp_path)
    for base in (live, model.language_model, AutoModelForCausalLM.from_pretrained(tmp_path).language_model):
        assert isinstance(base, LlamaForCausalLM)
        assert base.config._attn_implementation == kind == "sdpa"
        assert torch.equal(base(input_ids=ids).logits, expected)
        torch.testing.assert_close(base(input_ids=changed).logits[:, :-1], expected[:, :-1])
    # Through LiRA too: what comes after a token does not change its logits.
    batch = batch_for(model)
    other = batch | {"input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, -1] = 7
    torch.testing.assert_close(model(**batch).logits[:, :-1], model(**other).logits[:, :-1])


def test_freeze_says_what_is_trainable():
    model = tiny_lira.causal()
    parts = model.trainable_parts()
    assert {name for name, (trained, _) in parts.items() if trained} == {"arca", "fusion", "prefix_projector"}
    assert sum(total for _, total in parts.values()) == model.num_parameters()
    model.freeze(base=False, arca=True, lasr=True)
    assert {name for name, (trained, _) in model.trainable_parts().items() if trained} == {"language_model"}
    assert model.train().language_model.training
    model.freeze()
    assert not model.train().language_model.training
    assert model.lira.arca.training


def test_embeddings_read_off_the_base_lm(tmp_path, part):
    options = tiny_lira.SIZES | {"base": part("llama")}
    torch.manual_seed(0)
    model = LiraModel.from_backbones(part("bert", 16), part("bert", 24), **options)
    assert model.config.embedding_source == "language_model"
    batch = batch_for(model)
    assert torch.equal(model(**batch).pooler_output, model(**batch).start_embeds)  # untrained: the start itself
    tiny_lira.disturb(model)
    embedding = model(**batch).pooler_output
    changed = batch | {"input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, -1] = 7
    found = model(**changed).pooler_output
    assert not torch.allclose(found[0], embedding[0], atol=1e-4)
    assert torch.equal(found[1], embedding[1])
    right = tiny_lira.prompts(model, 3, 6, side="right") | tiny_lira.texts(2)
    torch.testing.assert_close(model(**right).pooler_output, embedding)
    for slim in (False, True):
        model.save_pretrained(tmp_path / f"{slim}", save_backbones=not slim)
        loaded = AutoModel.from_pretrained(tmp_path / f"{slim}")
        assert loaded.language_model is not None
        assert torch.equal(loaded(**batch).pooler_output, embedding)
    embedding.sum().backward()
    assert model.prefix_projector.projection.weight.grad.any()
    paths = model(**batch, output_paths=True)
    assert not torch.allclose(paths.source_path_embeds, paths.anchor_path_embeds)
    with pytest.raises(ValueError, match="got no input_ids; expected the base LM's tokens"):
        model(**tiny_lira.texts(2))
