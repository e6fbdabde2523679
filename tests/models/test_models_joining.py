"""Joining a base LM: families of encoders, options of each backbone, remote code, quantised weights."""

import json

import pytest
import tiny_lira
import torch
from tiny_configs import build
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    M2M100Config,
    M2M100Model,
    MT5Config,
    MT5EncoderModel,
)
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from lira_hf import LiraForCausalLM


GREEDY = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    build("llama").save_pretrained(root / "base")
    tiny_lira.encoder("bert").save_pretrained(root / "encoder")
    return root


def batch_for(model):
    return tiny_lira.prompts(model, 3, 6) | tiny_lira.texts(2)


def mt5():
    return MT5EncoderModel(MT5Config(vocab_size=100, d_model=16, d_ff=32, num_layers=2, num_heads=2, d_kv=8))


def m2m100():
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return M2M100Model(M2M100Config(vocab_size=100, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **sizes))


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "modernbert", "t5", "mt5", "m2m100", "qwen3", "lira_ngram"])
@pytest.mark.parametrize("way", ["live", "folder"])
def test_encoders_of_every_family(kind, way, tmp_path):
    """The checkpoint gives the same logits, and the same text in another batch the same answer."""
    torch.manual_seed(0)
    g = {"mt5": mt5, "m2m100": m2m100}[kind]() if kind in ("mt5", "m2m100") else tiny_lira.encoder(kind)
    g.eval().save_pretrained(tmp_path / "g")
    model = LiraForCausalLM.from_backbones(
        build("llama"), g if way == "live" else str(tmp_path / "g"), **tiny_lira.SIZES
    )
    tiny_lira.disturb(model)
    batch = batch_for(model)
    assert torch.equal(model.generate(**batch, **GREEDY)[:, -4:], tiny_lira.step_by_step(model, batch, 4))
    model.save_pretrained(tmp_path / "lira")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "lira")
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert type(loaded.lira.encoder) is type(model.lira.encoder)


def test_options_reach_each_backbone(folders, tmp_path):
    options = {
        "base_kwargs": {"dtype": torch.bfloat16, "attn_implementation": "eager"},
        "encoder_kwargs": {"device_map": "cpu", "attn_implementation": "sdpa"},
    }
    model = LiraForCausalLM.from_backbones(folders / "base", folders / "encoder", **options, **tiny_lira.SIZES)
    assert model.language_model.dtype == torch.bfloat16
    assert model.lira.encoder.dtype == model.lira.arca.adaptor.fc1.weight.dtype == torch.float32
    assert model.config.base_config._attn_implementation == "eager"
    assert model.config.encoder_config._attn_implementation == "sdpa"
    assert model(**batch_for(model)).logits.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"got \['dtype'\] for a live LlamaForCausalLM"):
        LiraForCausalLM.from_backbones(build("llama"), folders / "encoder", base_kwargs={"dtype": torch.bfloat16})
    with pytest.raises(ValueError, match="got anchor_kwargs without that backbone; expected both or neither"):
        LiraForCausalLM.from_backbones(build("llama"), folders / "encoder", anchor_kwargs={"dtype": torch.bfloat16})
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="got base_kwargs; the checkpoint holds its backbones; only a slim one"):
        AutoModelForCausalLM.from_pretrained(tmp_path, base_kwargs={"dtype": torch.float32})


def test_the_generation_settings_of_the_base_are_kept(folders, tmp_path):
    base = build("llama")
    base.generation_config.update(temperature=0.3, do_sample=True, max_new_tokens=7)
    model = LiraForCausalLM.from_backbones(base, folders / "encoder", **tiny_lira.SIZES)
    model.save_pretrained(tmp_path)
    for one in (model, AutoModelForCausalLM.from_pretrained(tmp_path)):
        settings = one.generation_config
        assert (settings.temperature, settings.do_sample, settings.max_new_tokens) == (0.3, True, 7)
        batch = batch_for(one)
        assert one.generate(**batch).shape[1] == batch["input_ids"].shape[1] + 7
    assert base.generation_config is not model.generation_config or base is model.language_model


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OddConfig(LlamaConfig):
    model_type = "odd_llama"


class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig
"""


def test_a_base_whose_code_comes_with_its_repository(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "odd"
    build("llama").save_pretrained(folder)
    (folder / "odd.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddForCausalLM"}
    config |= {"model_type": "odd_llama", "architectures": ["OddForCausalLM"], "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        LiraForCausalLM.from_backbones(folder, folders / "encoder", **tiny_lira.SIZES)
    trust = {"base_kwargs": {"trust_remote_code": True}}
    model = LiraForCausalLM.from_backbones(folder, folders / "encoder", **trust, **tiny_lira.SIZES)
    tiny_lira.disturb(model)
    assert type(model.language_model).__name__ == "OddForCausalLM"
    batch = batch_for(model)
    assert torch.equal(model.generate(**batch, **GREEDY)[:, -4:], tiny_lira.step_by_step(model, batch, 4))
    with pytest.raises(ValueError, match="'base' .OddForCausalLM. is of a type that Transformers does not know"):
        model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "slim", save_backbones=False)
    # Trust in the checkpoint is no trust in the repositories that it names.
    for options in ({}, {"trust_remote_code": True}):
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            AutoModelForCausalLM.from_pretrained(tmp_path / "slim", **options)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "slim", **trust)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    # For embedding nobody needs the base, nor its code.
    from transformers import AutoModel

    assert AutoModel.from_pretrained(tmp_path / "slim").language_model is None


@pytest.fixture(scope="module")
def rounding():
    """A quantisation made for this test: weights of the base's linear layers, rounded to eighths."""

    @register_quantization_config("test_rounding")
    class RoundingConfig(QuantizationConfigMixin):
        def __init__(self, steps: int = 8, **kwargs):
            self.quant_method, self.steps = "test_rounding", steps

    @register_quantizer("test_rounding")
    class RoundingQuantizer(HfQuantizer):
        requires_calibration = False

        def _process_model_after_weight_loading(self, model, **kwargs):
            steps = self.quantization_config.steps
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.data = (module.weight.data * steps).round() / steps
            return model

        @property
        def is_trainable(self):
            return False

        def is_serializable(self, **kwargs):
            return True

    return RoundingConfig


def test_a_quantised_base(folders, tmp_path, rounding):
    kwargs = {"base_kwargs": {"quantization_config": rounding(steps=8)}}
    model = LiraForCausalLM.from_backbones(folders / "base", folders / "encoder", **kwargs, **tiny_lira.SIZES)
    tiny_lira.disturb(model)
    weight = model.language_model.model.layers[0].self_attn.q_proj.weight
    assert torch.equal(weight * 8, (weight * 8).round())
    batch = batch_for(model)
    with pytest.raises(ValueError, match="the backbone 'base' .LlamaForCausalLM. is quantised.*save_backbones=False"):
        model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "slim", save_backbones=False)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "slim")
    assert loaded.language_model.hf_quantizer is not None
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "slim", quantization_config=rounding(steps=64))
    assert not torch.equal(other(**batch).logits, model(**batch).logits)


def test_a_checkpoint_of_an_unknown_type_says_what_to_do(tmp_path):
    from lira_hf import LiraConfig, LiraModel

    config = LiraConfig(encoder_config={"model_type": "odd", "hidden_size": 16})
    assert config.encoder_config.hidden_size == 16
    config.save_pretrained(tmp_path)
    assert LiraConfig.from_pretrained(tmp_path).encoder_config.model_type == "odd"
    with pytest.raises(ValueError, match="encoder_config has the model type 'odd', which Transformers does not know"):
        LiraModel(config)
    config = LiraConfig(encoder_config=tiny_lira.encoder_config("bert"), base_config=tiny_lira.encoder_config("t5"))
    with pytest.raises(ValueError, match="base_config is a T5Config; expected that of a causal LM"):
        LiraForCausalLM(config)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's own asking
def test_a_live_base_is_taken_as_it_is(folders):
    base = build("llama")
    model = LiraForCausalLM.from_backbones(base, folders / "encoder", **tiny_lira.SIZES)
    assert model.language_model is base
    assert isinstance(base, LlamaForCausalLM)
    assert model.config.base_config is base.config
    assert model.config.prefix_token_id == 99
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(build("llama"), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(TypeError, match="a backbone is a PeftModel; expected.*merge_and_unload.*lira_lora_config"):
        LiraForCausalLM.from_backbones(wrapped, folders / "encoder", **tiny_lira.SIZES)


def test_one_live_module_for_base_and_encoder_is_refused():
    base = build("llama")
    with pytest.raises(ValueError, match="the encoder and the base LM are the same live module"):
        LiraForCausalLM.from_backbones(base, base, **tiny_lira.SIZES)
