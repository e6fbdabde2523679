"""Joining backbones: names, folders and live modules; what joining must leave alone; fingerprints."""

import copy

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertModel,
    M2M100Config,
    M2M100Model,
    Qwen3Model,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from lira_hf import LiraModel
from lira_hf.models.backbones_lira import backbone_fingerprint, build_encoder, encode_tokens, load_encoder


SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_bins": 3}


@pytest.fixture
def folder(tmp_path, encoder_config):
    """`folder(kind)`: a saved backbone of that kind, and the live one."""

    def make(kind: str, dim: int = 16):
        model = build_encoder(encoder_config(kind, dim)).eval()
        model.save_pretrained(tmp_path / kind)
        return tmp_path / kind, model

    return make


def test_names_folders_and_live_modules_join_alike(folder, token_rows):
    (source, live_source), (anchor, live_anchor) = folder("xlm-roberta"), folder("t5", 24)
    ids = {"source_ids": token_rows(6)[0][None], "anchor_ids": token_rows(2, 4)[1][None]}
    embeddings = []
    for g, h in ((str(source), str(anchor)), (source, anchor), (live_source, live_anchor), (str(source), live_anchor)):
        model = LiraModel.from_backbones(g, h, path_weight=0.7, **SIZES)
        assert not model.training
        assert not any(weight.requires_grad for weight in [*model.encoder.parameters(), *model.anchor.parameters()])
        assert model.config.projection_dim == 40
        info = model.config.backbone_info
        assert info["encoder"]["fingerprint"] == backbone_fingerprint(live_source)
        assert info["anchor"]["fingerprint"] == backbone_fingerprint(live_anchor)
        assert info["encoder"]["name"] in ("", str(source))
        with torch.no_grad():
            embeddings.append(model(**ids).pooler_output)
    assert all(torch.equal(embedding, embeddings[0]) for embedding in embeddings)
    assert LiraModel.from_backbones(str(source)).config.backbone_info["encoder"]["name"] == str(source)


def test_a_shared_encoder_is_held_and_saved_once(tmp_path, folder):
    path, live = folder("bert")
    for model in (LiraModel.from_backbones(str(path), **SIZES), LiraModel.from_backbones(live, live, **SIZES)):
        assert model.anchor is None
        assert model.anchor_encoder is model.encoder
        assert model.config.anchor_config is None
        assert set(model.config.backbone_info) == {"encoder"}
        assert model.config.projection_dim == 32
        model.save_pretrained(tmp_path / "joined")
        assert AutoModel.from_pretrained(tmp_path / "joined").anchor is None


def test_a_decoder_stays_causal_after_joining(tmp_path, encoder_config, token_rows):
    """A composite configuration resets _attn_implementation on live ones; without it a decoder sees its future."""
    torch.manual_seed(0)
    live = Qwen3Model(encoder_config("qwen3")).eval()
    implementation = live.config._attn_implementation
    ids = token_rows(8)[0][None]
    changed = ids.clone()
    changed[0, -1] += 1
    with torch.no_grad():
        before = live(input_ids=ids)[0]
        model = LiraModel.from_backbones(live, **SIZES)
        model.save_pretrained(tmp_path)
        for backbone in (live, model.encoder, AutoModel.from_pretrained(tmp_path).encoder):
            assert backbone.config._attn_implementation == implementation == "sdpa"
            states, other = backbone(input_ids=ids)[0], backbone(input_ids=changed)[0]
            assert torch.equal(states, before)
            torch.testing.assert_close(states[:, :-1], other[:, :-1], rtol=0, atol=1e-6)
            assert (states[:, -1] - other[:, -1]).abs().max() > 1e-3


def test_joining_leaves_a_live_module_as_it_was(encoder_config):
    live = BertModel(encoder_config("bert"), add_pooling_layer=False).eval()
    live.set_attn_implementation("eager")
    weights = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    config = copy.deepcopy(live.config.to_dict())
    model = LiraModel.from_backbones(live, **SIZES)
    assert model.encoder is live
    assert model.config.encoder_config is live.config
    assert live.config._attn_implementation == "eager"
    assert live.config.to_dict() == config
    assert all(torch.equal(tensor, weights[name]) for name, tensor in live.state_dict().items())
    model.set_attn_implementation({"": "eager", "encoder_config": "sdpa"})
    assert live.config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("auto", "kind", "part"),
    [(AutoModelForMaskedLM, "bert", BertModel), (AutoModelForCausalLM, "qwen3", Qwen3Model)],
)
def test_a_live_model_with_a_head_gives_its_backbone(tmp_path, encoder_config, token_rows, auto, kind, part):
    live = auto.from_config(encoder_config(kind)).eval()
    model = LiraModel.from_backbones(live, **SIZES)
    assert type(model.encoder) is part
    assert model.encoder is live.base_model
    model.save_pretrained(tmp_path)
    ids = token_rows(5)[0][None]
    with torch.no_grad():
        assert torch.equal(
            AutoModel.from_pretrained(tmp_path)(source_ids=ids).pooler_output, model(source_ids=ids).pooler_output
        )


def test_encoder_decoders_give_their_encoder(tmp_path, encoder_config, token_rows):
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = M2M100Config(vocab_size=100, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **sizes)
    live = M2M100Model(config).eval()
    live.save_pretrained(tmp_path / "m2m")
    T5ForConditionalGeneration(encoder_config("t5")).save_pretrained(tmp_path / "t5")
    joined = LiraModel.from_backbones(live, str(tmp_path / "t5"), **SIZES)
    assert joined.encoder is live.encoder
    assert type(joined.anchor) is T5EncoderModel
    joined.save_pretrained(tmp_path / "joined")
    ids = {"source_ids": token_rows(5)[0][None], "anchor_ids": token_rows(4)[0][None]}
    with torch.no_grad():
        embeddings = [
            model(**ids).pooler_output
            for model in (
                joined,
                AutoModel.from_pretrained(tmp_path / "joined"),
                LiraModel.from_backbones(tmp_path / "m2m", str(tmp_path / "t5"), **SIZES),
            )
        ]
    assert torch.equal(embeddings[0], embeddings[1])
    assert torch.equal(embeddings[0], embeddings[2])


def test_a_live_module_that_could_not_be_loaded_again_is_refused(encoder_config):
    live = T5ForConditionalGeneration(encoder_config("t5"))
    with pytest.raises(TypeError, match="live T5ForConditionalGeneration; expected a T5EncoderModel"):
        LiraModel.from_backbones(live, **SIZES)


@pytest.mark.parametrize("wrong", [None, 3, torch.nn.Linear(2, 2)])
def test_what_is_no_backbone_is_refused(wrong):
    with pytest.raises(
        TypeError, match=f"a backbone is a {type(wrong).__name__}; expected a model name, a folder or a"
    ):
        load_encoder(wrong)


def test_loading_options_reach_each_backbone(folder):
    (source, live), (anchor, _) = folder("bert"), folder("modernbert")
    model = LiraModel.from_backbones(str(source), str(anchor), encoder_kwargs={"dtype": torch.bfloat16}, **SIZES)
    assert model.encoder.dtype == torch.bfloat16
    assert model.anchor.dtype == model.arca.adaptor.fc1.weight.dtype == torch.float32
    assert model(source_ids=torch.tensor([[5, 6]])).pooler_output.dtype == torch.float32
    with pytest.raises(ValueError, match="got \\['dtype'\\] for a live BertModel"):
        LiraModel.from_backbones(live, encoder_kwargs={"dtype": torch.bfloat16})


def test_poolers_are_left_out(tmp_path, encoder_config, caplog):
    live = BertModel(encoder_config("bert")).eval()
    live.save_pretrained(tmp_path / "bert")
    loaded = load_encoder(str(tmp_path / "bert"))
    assert loaded.pooler is None
    assert build_encoder(encoder_config("bert")).pooler is None
    # A live one keeps it, unused; the fingerprint stays what it will be after loading.
    model = LiraModel.from_backbones(live, **SIZES)
    assert model.config.backbone_info["encoder"]["fingerprint"] == backbone_fingerprint(loaded)
    model.save_pretrained(tmp_path / "lira")
    _, info = LiraModel.from_pretrained(tmp_path / "lira", output_loading_info=True)
    assert not info["unexpected_keys"]


def test_fingerprints_see_every_weight(encoder_config):
    torch.manual_seed(0)
    model = build_encoder(encoder_config("bert"))
    first = backbone_fingerprint(model)
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert backbone_fingerprint(copy.deepcopy(model).eval()) == first
    seen = {first}
    for name, weight in model.named_parameters():
        with torch.no_grad():
            weight.view(-1)[-1] += 1.0
        mark = backbone_fingerprint(model)
        assert mark not in seen, name
        seen.add(mark)


def test_fingerprints_sample_large_weights_to_their_end():
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.arange(4096.0 * 2 - 1))

    model = Holder()
    first = backbone_fingerprint(model)
    model.weight[4500:] += 1.0
    assert backbone_fingerprint(model) != first


def test_rows_without_tokens_cost_no_pass(encoder_config, token_rows):
    encoder = build_encoder(encoder_config("bert")).eval()
    calls = []
    encoder.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    ids = torch.stack(token_rows(4, 4, 4))
    mask = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    features = encode_tokens(encoder, ids, mask, 3, "mean")
    assert calls == [(1, 2)]
    assert features.shape == (3, 4, 16)
    assert features.any(-1).any(-1).tolist() == [False, True, False]
    assert not encode_tokens(encoder, ids, torch.zeros_like(mask), 3, "mean").any()
    assert encode_tokens(encoder, ids[:, :0], None, 3, "mean").shape == (3, 4, 16)
    assert calls == [(1, 2)]
