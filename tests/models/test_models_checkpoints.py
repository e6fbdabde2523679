"""Saving, loading and initialising: bit-equal round trips, strict loading, no weight left to chance."""

import json
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoProcessor

from lira_hf import LiraConfig, LiraModel, LiraProcessor


ENCODERS = ["bert", "xlm-roberta", "t5", "qwen3", "modernbert", "lira_ngram"]
PAIRS = [(kind, anchor) for kind in ENCODERS for anchor in (None, "bert")] + [("bert", kind) for kind in ENCODERS[2:]]
# What the fresh process runs: nothing but the import registers the classes.
SCRIPT = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
import lira_hf
from transformers import AutoModel, AutoProcessor

torch.set_num_threads(1)
inputs, embeddings = load_file(sys.argv[1] + "/inputs.safetensors"), {}
for name in json.loads(sys.argv[2]):
    model = AutoModel.from_pretrained(f"{sys.argv[1]}/{name}")
    assert type(model).__name__ == "LiraModel" and not model.training
    with torch.no_grad():
        embeddings[name] = model(**inputs).pooler_output
processor = AutoProcessor.from_pretrained(sys.argv[1] + "/processor")
batch = processor(["the cat", "ঢাকা"], candidates=[None, ["Dhaka city", "the \\ud800"]], languages=["en", "bn"])
embeddings |= {"processor." + key: value for key, value in batch.items()}
save_file(embeddings, sys.argv[1] + "/embeddings.safetensors")
"""


@pytest.fixture(scope="module")
def inputs(token_rows, pad):
    source, source_mask = pad(token_rows(7, 3, 5))
    anchor, anchor_mask = pad(token_rows(6, 4, 2, 8, 5, 3, seed=2))
    scores = torch.randint(1, 11, (3, 2, 3), generator=torch.Generator().manual_seed(3)).float()
    return {
        "source_ids": source,
        "source_mask": source_mask,
        "anchor_ids": anchor.view(3, 2, -1),
        "anchor_mask": anchor_mask.view(3, 2, -1),
        "anchor_scores": scores,
        "language_ids": torch.tensor([0, 1, 2]),
    }


@pytest.fixture(scope="module")
def embed(inputs):
    def run(model: LiraModel) -> torch.Tensor:
        with torch.no_grad():
            return model(**inputs).pooler_output

    return run


@pytest.mark.parametrize(("encoder", "anchor"), PAIRS)
def test_round_trip_is_bit_equal(tmp_path, lira, embed, encoder, anchor):
    model = lira(encoder, anchor, languages=["bn", "ur"], path_weight=0.8)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is LiraModel
    assert torch.equal(embed(model), embed(loaded))
    assert {k: v.dtype for k, v in model.state_dict().items()} == {k: v.dtype for k, v in loaded.state_dict().items()}
    for part in ("encoder", "anchor"):
        kept, config = getattr(loaded, part), getattr(loaded.config, f"{part}_config")
        assert type(kept) is type(getattr(model, part))
        assert config is None if kept is None else config is kept.config
    # Frozen and in evaluation mode, as from_backbones leaves it.
    wants = {name: weight.requires_grad for name, weight in loaded.named_parameters()}
    assert wants == {name: not name.startswith(("encoder.", "anchor.")) for name in wants}
    assert not loaded.training


def test_round_trip_in_a_fresh_process(tmp_path, lira, embed, inputs, word_tokenizer, ngram_tokenizer):
    models = {kind: lira(kind, anchor) for kind, anchor in zip(ENCODERS, [None, "bert"] * 3, strict=True)}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    save_file(inputs, tmp_path / "inputs.safetensors")
    processor = LiraProcessor.from_backbones(
        ngram_tokenizer, word_tokenizer, trained_languages=["ur", "bn"], max_text_length=9
    )
    processor.save_pretrained(tmp_path / "processor")
    models["bert"].config.save_pretrained(tmp_path / "processor")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), json.dumps(list(models))]
    done = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "77"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "embeddings.safetensors")
    for name, model in models.items():
        assert torch.equal(found[name], embed(model)), name
    batch = processor(["the cat", "ঢাকা"], candidates=[None, ["Dhaka city", "the \ud800"]], languages=["en", "bn"])
    assert batch["language_ids"].tolist() == [0, 2]
    for key, value in batch.items():
        assert torch.equal(found[f"processor.{key}"], value), key


def test_shards(tmp_path, lira, embed):
    model = lira()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    assert torch.equal(embed(model), embed(AutoModel.from_pretrained(tmp_path)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_load(tmp_path, lira, embed, inputs, dtype):
    model = lira()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    assert {weight.dtype for weight in loaded.parameters()} == {dtype}
    assert loaded.encode_source(inputs["source_ids"]).dtype == torch.float32
    cosine = torch.cosine_similarity(embed(model), embed(loaded).float())
    assert (cosine > 0.99).all()
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModel.from_pretrained(tmp_path / "again")
    assert again.dtype == dtype
    assert torch.equal(embed(again), embed(loaded))


def test_config_round_trip(tmp_path, encoder_config):
    changed = {
        "num_bins": 5,
        "encoder_pooling": "cls",
        "candidate_mode": "argmax",
        "policy_objective": "expected",
        "anchor_loss": "cosine",
        "languages": ("bn", "ur"),
        "path_weight": 1,  # YAML writes whole numbers without a point
        "reward_weights": [1, 0, 0.5, 2],
        "backbone_info": {"encoder": {"name": "a/b", "fingerprint": "0"}},
    }
    config = LiraConfig(encoder_config=encoder_config("t5"), anchor_config=encoder_config("bert", 24), **changed)
    assert config.projection_dim == 16 + 24
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is LiraConfig
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert {name: getattr(loaded, name) for name in changed} == changed | {"languages": ["bn", "ur"]}
    assert loaded.base_config is None
    assert (type(loaded.encoder_config), type(loaded.anchor_config)) == (
        type(encoder_config("t5")),
        type(encoder_config("bert")),
    )
    config.anchor_config = None
    config.projection_dim = None
    assert LiraConfig.from_dict(config.to_dict()).anchor_config is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"projection_dim": 16}, r"projection_dim is 16.*so 40 is expected"),
        ({"hidden_size": 10, "num_attention_heads": 4}, "hidden_size 10 is not a multiple"),
        ({"num_bins": 0}, "num_bins is 0; expected at least 1"),
        ({"anchor_pooling": "max"}, "anchor_pooling is 'max'"),
        ({"reward_weights": [1.0]}, "reward_weights has 1 numbers; expected 4"),
        ({"path_weight": 1.5}, "path_weight is 1.5"),
        ({"policy_temperature": 0.0}, "policy_temperature is 0.0; expected a number above 0"),
        ({"candidate_mode": "best"}, "candidate_mode"),
    ],
)
def test_wrong_configurations_are_refused(encoder_config, wrong, message):
    with pytest.raises((ValueError, StrictDataclassFieldValidationError), match=message):
        LiraConfig(encoder_config=encoder_config("bert"), anchor_config=encoder_config("bert", 24), **wrong)


@pytest.mark.parametrize(
    "name", ["arca.adaptor.source_projection.weight", "fusion.path_embedding", "encoder.embeddings.LayerNorm.bias"]
)
def test_a_checkpoint_with_a_missing_weight_is_refused(tmp_path, lira, name):
    lira().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "lira_checksums.json").unlink()  # changed on purpose
    with pytest.raises(ValueError, match=f"lacks 1 weights of LiraModel, among them {name}; expected a whole"):
        AutoModel.from_pretrained(tmp_path)


def test_a_weight_of_another_shape_is_refused(tmp_path, lira):
    lira().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["arca.actor.fc1.weight"] = torch.zeros(3, 3)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "lira_checksums.json").unlink()  # changed on purpose
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModel.from_pretrained(tmp_path)


def test_loading_info_is_given_where_asked_for(tmp_path, lira):
    lira().save_pretrained(tmp_path)
    model, info = LiraModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, LiraModel)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_initialisation_leaves_no_memory_as_it_was_found(lira):
    """A weight that `_init_weights` forgets keeps what malloc returned, where a checkpoint lacks it."""
    with torch.device("meta"):
        model = lira("lira_ngram", None, trained=False, languages=["bn"], num_fusion_layers=2)
    model.to_empty(device="cpu")
    for module in model.modules():
        module._is_hf_initialized = False
    tensors = dict(model.state_dict(keep_vars=True)) | dict(model.named_buffers())
    for tensor in tensors.values():
        tensor.data.fill_(1e30)
        tensor._is_hf_initialized = False
    model.initialize_weights()
    for name, tensor in tensors.items():
        assert tensor.abs().max() < 100, name
    zero = ["arca.actor.fc2.weight", "embedding_head.delta.weight", "embedding_head.delta.bias"]
    zero.append("embedding_head.start_map.weight")
    for name in [*zero, "fusion.language_embedding.weight"]:
        assert not tensors[name].any(), name
    deviations = {
        "arca.adaptor.source_projection.weight": 1.0,
        "arca.adaptor.anchor_projection.weight": 1.0,
        "arca.actor.fc1.weight": 48**-0.5,
        "embedding_head.fc1.weight": 16**-0.5,
        "arca.adaptor.fc1.weight": 0.02,
        "fusion.layers.1.attention.q_proj.weight": 0.02,
        "fusion.bin_embedding": 0.02,
    }
    for name, deviation in deviations.items():
        assert tensors[name].std().item() == pytest.approx(deviation, rel=0.35), name


def test_initialisation_leaves_loaded_weights_alone(tmp_path, lira):
    model = lira("lira_ngram", None)
    with torch.no_grad():
        model.encoder.embeddings.weight[0] = 1.0  # the row of the padding token, which a new matrix has at zero
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    for module in loaded.modules():
        module._is_hf_initialized = False
    loaded.initialize_weights()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_more_tokens_survive_a_round_trip(tmp_path, lira, embed):
    model = lira("t5", "bert")
    model.resize_token_embeddings(123, mean_resizing=False)
    assert not any(weight.requires_grad for weight in model.encoder.parameters())
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.get_input_embeddings().weight.shape == (123, 16)
    assert torch.equal(embed(model), embed(loaded))


def test_processor_keeps_its_tokenizers_beside_a_model(tmp_path, lira, word_tokenizer, ngram_tokenizer):
    lira("lira_ngram", "bert").save_pretrained(tmp_path)
    processor = LiraProcessor(
        word_tokenizer,
        ngram_tokenizer,
        word_tokenizer,
        trained_languages=["bn"],
        anchor_languages=["en", "fr"],
        max_text_length=33,
    )
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is LiraProcessor
    assert (loaded.trained_languages, loaded.anchor_languages, loaded.max_text_length) == (["bn"], ["en", "fr"], 33)
    for name in ("tokenizer", "source_tokenizer", "anchor_tokenizer"):
        mine, theirs = getattr(processor, name), getattr(loaded, name)
        assert type(theirs).__name__ == type(mine).__name__ or not isinstance(mine, type(ngram_tokenizer))
        for text in ("the cat sat", "ঢাকা 12"):
            assert theirs(text)["input_ids"] == mine(text)["input_ids"], name
    assert type(loaded.source_tokenizer) is type(ngram_tokenizer)
    assert loaded.source_tokenizer.num_buckets == ngram_tokenizer.num_buckets
