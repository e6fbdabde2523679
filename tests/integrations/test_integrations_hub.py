"""Model, processor and card in one commit, by the Hub's real client over a stand-in server, and back in a fresh
process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_lira
import torch
from hub_server import HubServer
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tiny_configs import build

from lira_hf import LiraForCausalLM, LiraProcessor, push_to_hub, save_checkpoint


HELPERS = [str(Path(module.__file__).parent) for module in (tiny_lira, sys.modules["tiny_configs"])]
PUSH = """
import sys
import tiny_lira
import torch
from safetensors.torch import save_file
from tiny_configs import build
from transformers import AutoModel, AutoModelForCausalLM
from lira_hf import LiraForCausalLM, push_to_hub

torch.set_num_threads(1)
folder = sys.argv[1]
model, processor = tiny_lira.causal_with_processor(g="bert", h="bert")
print(push_to_hub("org/lira-tiny", model, processor, max_shard_size="30KB", private=True))
# Backbones that have their own repositories, and a slim checkpoint over them.
build("llama").push_to_hub("org/base")
tiny_lira.encoder("bert").push_to_hub("org/encoder")
slim = LiraForCausalLM.from_backbones(
    "org/base", "org/encoder", languages=["bn", "ur"], prefix_token_id=processor.prefix_token_id, **tiny_lira.SIZES
)
tiny_lira.disturb(slim)
assert len(slim.config.backbone_info["base"]["revision"]) == 40, slim.config.backbone_info
push_to_hub("org/lira-slim", slim, processor, card="# By hand", remote_code="full", save_backbones=False)
# A later push to the base's repository must not change what the slim checkpoint means.
build("llama", 5).push_to_hub("org/base")
push_to_hub("org/lira-tiny", model, processor, revision="experiment", commit_message="Another branch")
# The model's own method alone, as any model's.
model.push_to_hub("org/lira-model")
AutoModelForCausalLM.from_pretrained("org/lira-model")
batch = processor(["cat sat"], candidates=[["the mat"]], languages="bn", prompts=["what is ?"])
with torch.no_grad():
    found = {"tiny": model(**batch).logits, "slim": slim(**batch).logits}
save_file(found, folder + "/pushed.safetensors")
"""
PULL = """
import sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModel, AutoProcessor
import lira_hf

torch.set_num_threads(1)
found = {}
for name in ("tiny", "slim"):
    repository = f"org/lira-{name}"
    model, processor = AutoModelForCausalLM.from_pretrained(repository), AutoProcessor.from_pretrained(repository)
    assert type(processor) is lira_hf.LiraProcessor
    batch = processor(["cat sat"], candidates=[["the mat"]], languages="bn", prompts=["what is ?"])
    with torch.no_grad():
        found[name] = model(**batch).logits
    assert AutoModel.from_pretrained(repository).language_model is None
AutoModelForCausalLM.from_pretrained("org/lira-tiny", revision="experiment")
save_file(found, sys.argv[1] + "/pulled.safetensors")
"""
FULL = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoProcessor

options = {"trust_remote_code": True}
model = AutoModelForCausalLM.from_pretrained("org/lira-slim", **options)
processor = AutoProcessor.from_pretrained("org/lira-slim", **options)
assert "transformers_modules" in type(model).__module__
assert "lira_hf" not in sys.modules
model.generate(**processor(["cat sat"]), max_new_tokens=2)
"""


def run(hub, script, folder, name):
    """A fresh process with an empty cache of its own."""
    environment = os.environ | hub.environment(folder / name) | {"PYTHONPATH": os.pathsep.join(HELPERS)}
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_push_and_load_back(tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        pushed = run(hub, PUSH, tmp_path, "push")
        assert "org/lira-tiny" in pushed
        commits = [request for request in hub.requests if "/commit/" in request.path]
        assert len([request for request in commits if "org/lira-tiny/commit/main" in request.path]) == 1
        run(hub, PULL, tmp_path, "pull")
        run(hub, FULL, tmp_path, "full")
        files = {
            name: hub.api.repositories["models", f"org/lira-{name}"].branches["main"] for name in ("tiny", "slim")
        }
        outside = [request for request in hub.requests if request.method == "CONNECT"]
    assert not outside
    one, other = load_file(tmp_path / "pushed.safetensors"), load_file(tmp_path / "pulled.safetensors")
    for name in ("tiny", "slim"):
        assert torch.equal(one[name], other[name])
        assert files[name]


@pytest.fixture(scope="module")
def pair():
    return tiny_lira.causal_with_processor(g="bert", h="bert")


def test_a_folder_that_holds_everything(pair, tmp_path):
    model, processor = pair
    folder = save_checkpoint(tmp_path / "lira-thing", model, processor)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} < names
    assert {"generation_config.json", "source_tokenizer", "anchor_tokenizer", "lira_shim.py"} < names
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.library_name == "transformers"
    assert card.data.language == ["bn", "ur", "en"]
    assert "# lira-thing" in card.text
    assert "Base LM: llama" in card.text
    assert "written from the configuration alone" in card.text
    save_checkpoint(tmp_path / "embedding", model.lira, processor, card="# Mine", remote_code=None)
    assert (tmp_path / "embedding/README.md").read_text() == "# Mine"
    assert not list((tmp_path / "embedding").glob("*.py"))


def test_folders_of_this_machine_are_not_published(pair, tmp_path):
    _, processor = pair
    build("llama").save_pretrained(tmp_path / "secret/base")
    tiny_lira.encoder("bert").save_pretrained(tmp_path / "secret/encoder")
    model = LiraForCausalLM.from_backbones(
        str(tmp_path / "secret/base"),
        str(tmp_path / "secret/encoder"),
        prefix_token_id=processor.prefix_token_id,
        **tiny_lira.SIZES,
    )
    folder = save_checkpoint(tmp_path / "out", model, processor)
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".md"):
            assert str(tmp_path) not in path.read_text(), path
    assert "Base LM: base (llama)" in (folder / "README.md").read_text()
    with pytest.raises(
        ValueError, match=r"the backbones \['encoder', 'base'\] of a slim checkpoint lie in folders of"
    ):
        push_to_hub("org/x", model, processor, save_backbones=False)


def test_a_processor_that_does_not_fit_is_refused(pair, tmp_path):
    model, _ = pair
    parts = (tiny_lira.word_tokenizer(), tiny_lira.word_tokenizer())
    longer = LiraProcessor.from_backbones(*parts, base=tiny_lira.word_tokenizer(bos=True), prefix_length=8)
    with pytest.raises(ValueError, match="makes 8 placeholders, the model's prefix has 6 soft tokens"):
        save_checkpoint(tmp_path, model, longer)
    with pytest.raises(TypeError, match="the processor is a .*; expected a LiraProcessor"):
        push_to_hub("org/x", model, parts[0])
    other = tiny_lira.causal(prefix_token_id=50)
    fits = LiraProcessor.from_backbones(*parts, base=tiny_lira.word_tokenizer(bos=True), prefix_length=6)
    with pytest.raises(ValueError, match="placeholder has the id 20, the model's 50"):
        save_checkpoint(tmp_path, other, fits)
