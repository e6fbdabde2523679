"""Checkpoints that bring code or lead elsewhere: nothing of them runs unless trust is asked for."""

import contextlib
import json
import os
import shutil

import pytest
from transformers import AutoModel, AutoProcessor, AutoTokenizer

from lira_hf import LiraModel, LiraProcessor


EVIL = """
import os
open(os.environ["EVIL"], "w").close()
from transformers import PreTrainedModel, PreTrainedConfig, PreTrainedTokenizerFast, ProcessorMixin
class Evil(PreTrainedModel): config_class = PreTrainedConfig
class EvilConfig(PreTrainedConfig): model_type = "evil"
class EvilTokenizer(PreTrainedTokenizerFast): pass
"""


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Whether code of a checkpoint has run."""
    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    # The library asks a person, who isn't there.
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the library asked for trust and waits"))
    monkeypatch.setattr("transformers.dynamic_module_utils.TIME_OUT_REMOTE_CODE", 0)
    return lambda: (tmp_path / "ran").exists()


def bring_code(folder, **changes):
    """Code beside a checkpoint, and its files naming it."""
    (folder / "evil.py").write_text(EVIL)
    for path in folder.rglob("*config.json"):
        config = json.loads(path.read_text())
        config["auto_map"] = {
            "AutoConfig": "evil.EvilConfig",
            "AutoModel": "evil.Evil",
            "AutoProcessor": "evil.EvilTokenizer",
            "AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"],
        }
        path.write_text(json.dumps(config | changes))


def test_a_lira_checkpoint_with_code_loads_as_the_packages_own_classes(tiny_lira, tmp_path, ran):
    model, processor = tiny_lira()
    model.save_pretrained(tmp_path / "c")
    processor.save_pretrained(tmp_path / "c")
    bring_code(tmp_path / "c")
    assert type(AutoModel.from_pretrained(tmp_path / "c")) is LiraModel
    assert type(AutoProcessor.from_pretrained(tmp_path / "c")) is LiraProcessor
    assert not ran()


def test_a_backbone_with_code_is_refused_unless_trusted(tiny_backbones, tmp_path, ran):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_bins": 2}
    encoder = shutil.copytree(tiny_backbones["encoder"], tmp_path / "g")
    model = LiraModel.from_backbones(str(encoder), tiny_backbones["anchor"], **sizes)
    model.save_pretrained(tmp_path / "slim", save_backbones=False)
    bring_code(encoder, model_type="evil")
    for load in (
        lambda: LiraModel.from_backbones(str(encoder), tiny_backbones["anchor"], **sizes),
        lambda: LiraModel.from_pretrained(tmp_path / "slim"),
        # Trust in a checkpoint's code is none in that of the repositories it names.
        lambda: LiraModel.from_pretrained(tmp_path / "slim", trust_remote_code=True),
    ):
        with pytest.raises((ValueError, OSError), match=r"trust_remote_code|custom code"):
            load()
    with contextlib.suppress(ValueError, OSError):
        AutoTokenizer.from_pretrained(encoder)
    assert not ran()


def test_a_pickled_adapter_is_not_run(tiny_lira, tmp_path, ran):
    import torch

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {os.environ['EVIL']}",))

    model, _ = tiny_lira()
    model.save_pretrained(tmp_path / "c")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "c"), "target_modules": ["dense"], "r": 2}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    torch.save({"a": Evil()}, adapter / "adapter_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only|unpickl|safetensors|not found|no file"):
        LiraModel.from_pretrained(adapter)
    assert not ran()
