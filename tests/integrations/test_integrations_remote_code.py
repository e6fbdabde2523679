"""Checkpoints that carry their code: in fresh processes, offline, with the package and without it."""

import ast
import json
import os
import subprocess
import sys

import pytest
import tiny_lira
import torch
from safetensors.torch import load_file
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from lira_hf import export_remote_code
from lira_hf.integrations.remote_code import model_files


# What the fresh process runs. With `hide`, the package cannot be imported, as where it is not installed.
LOAD = """
import sys
folder, hide = sys.argv[1], sys.argv[2] == "hide"
if hide:
    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "lira_hf":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Hidden())
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultipleChoice, AutoProcessor, pipeline
)
torch.set_num_threads(1)
options = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **options)
processor = AutoProcessor.from_pretrained(folder, **options)
model = AutoModelForCausalLM.from_pretrained(folder, **options)
embedder = AutoModel.from_pretrained(folder, **options)
chooser = AutoModelForMultipleChoice.from_pretrained(folder, **options)
kinds = [type(one) for one in (config, processor, model, embedder, chooser)]
names = ["LiraConfig", "LiraProcessor", "LiraForCausalLM", "LiraModel", "LiraForMultipleChoice"]
assert [kind.__name__ for kind in kinds] == names, kinds
# A full export runs its own copy; a shim gives the installed classes.
assert all(("transformers_modules" in kind.__module__) == hide for kind in kinds), kinds
assert ("lira_hf" in sys.modules) != hide
batch = processor(["cat sat"], candidates=[["the mat"]], languages="bn", prompts=["what is ?"])
choice = processor(["cat sat"], prompts=["the"], choices=[["mat", "dog"]])
with torch.no_grad():
    found = {
        "logits": model(**batch).logits,
        "new": model.generate(**batch, max_new_tokens=4, do_sample=False),
        "embedding": embedder(**batch).pooler_output,
        "choices": chooser(**choice).logits,
    }
if sys.argv[3] == "pipelines":
    answer = pipeline("lira-generation", model=folder, **options)
    print(repr(answer("dog", max_new_tokens=4, do_sample=False)[0]["generated_text"]))
    embed = pipeline("lira-embedding", model=folder, **options)
    found["dog"] = torch.from_numpy(embed("dog").copy())
save_file(found, folder + "/found.safetensors")
"""


@pytest.fixture
def folder(tmp_path):
    model, processor = tiny_lira.causal_with_processor(g="bert", h="bert")
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def run(folder, *arguments):
    # Copied modules go to a home of their own.
    environment = os.environ | {
        "HF_HOME": str(folder.parent / "home"),
        "HF_MODULES_CACHE": str(folder.parent / "modules"),
    }
    command = [sys.executable, "-c", LOAD, str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def answer(folder) -> str:
    from transformers import pipeline

    # Custom pipelines in the configuration want trust, even where the package is there.
    pipe = pipeline("lira-generation", model=str(folder), trust_remote_code=True)
    found = pipe("dog", max_new_tokens=4, do_sample=False)
    return found[0]["generated_text"]


@torch.no_grad()
def expected(folder):
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMultipleChoice, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model, chooser = AutoModelForCausalLM.from_pretrained(folder), AutoModelForMultipleChoice.from_pretrained(folder)
    batch = processor(["cat sat"], candidates=[["the mat"]], languages="bn", prompts=["what is ?"])
    choice = processor(["cat sat"], prompts=["the"], choices=[["mat", "dog"]])
    dog = processor(["dog"], prompts=False)
    return {
        "logits": model(**batch).logits,
        "new": model.generate(**batch, max_new_tokens=4, do_sample=False),
        "embedding": AutoModel.from_pretrained(folder)(**batch).pooler_output,
        "choices": chooser(**choice).logits,
        "dog": model.lira(**dog).pooler_output[0],
    }


@pytest.mark.parametrize("code", ["shim", "full"])
def test_every_auto_class_in_a_fresh_process(folder, code):
    before = expected(folder)
    export_remote_code(folder, code, pipelines=True)
    done = run(folder, "hide" if code == "full" else "installed", "pipelines")
    assert done.returncode == 0, done.stderr
    found = load_file(folder / "found.safetensors")
    assert found.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(found[name], value, msg=name)
    assert done.stdout.strip() == repr(answer(folder))  # which may be blank, from a random model
    # Where the package is imported its own classes are taken, and nobody is asked for trust.
    after = expected(folder)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    config = json.loads((folder / "config.json").read_text())
    assert set(config["auto_map"]) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForMultipleChoice",
    }
    files = {path.name for path in folder.glob("*.py")}
    assert files == ({"lira_shim.py"} if code == "shim" else {path.name for path in model_files()})


def test_a_slim_checkpoint_with_all_its_code(tmp_path):
    from tiny_configs import build

    build("llama").save_pretrained(tmp_path / "base")
    tiny_lira.encoder("bert").save_pretrained(tmp_path / "encoder")
    _, processor = tiny_lira.causal_with_processor()
    model = tiny_lira.LiraForCausalLM.from_backbones(
        str(tmp_path / "base"),
        str(tmp_path / "encoder"),
        prefix_token_id=processor.prefix_token_id,
        languages=["bn", "ur"],
        **tiny_lira.SIZES,
    )
    tiny_lira.disturb(model)
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder, save_backbones=False)
    processor.save_pretrained(folder)
    before = expected(folder)
    export_remote_code(folder, "full")
    done = run(folder, "hide", "no")
    assert done.returncode == 0, done.stderr
    for name, value in load_file(folder / "found.safetensors").items():
        torch.testing.assert_close(value, before[name], msg=name)


def test_a_missing_package_is_named(folder):
    export_remote_code(folder, "shim")
    done = run(folder, "hide", "no")
    assert done.returncode != 0
    assert "lira_hf" in done.stderr
    assert "pip install" in done.stderr


def test_exported_files_import_no_more_than_a_checkpoint_may():
    """
    Siblings, torch and Transformers; of what Transformers itself cannot do without, the Hub's client and safetensors.
    The library's scanner reads docstrings too, so that a line such as "import this" there would be a dependency.
    """
    allowed = {"torch", "transformers", "huggingface_hub", "safetensors"}
    names = {path.stem for path in model_files()}
    for path in model_files():
        assert set(get_imports(path)) <= allowed | set(sys.stdlib_module_names), path.name
        assert set(get_relative_imports(path)) <= names, path.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                # The library finds only `from .sibling import name`.
                assert node.level == 1, f"{path.name}:{node.lineno}"
                assert node.module in names, f"{path.name}:{node.lineno}"
            elif isinstance(node, ast.ImportFrom | ast.Import):
                roots = [node.module] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
                for root in roots:
                    top = root.split(".")[0]
                    assert top in allowed or top in sys.stdlib_module_names, f"{path.name}:{node.lineno} {root}"


def test_every_exported_file_is_reached_from_the_auto_classes():
    """The library copies what the named module imports; a file that nothing imports would be dead weight."""
    from transformers.dynamic_module_utils import get_relative_import_files

    folder = model_files()[0].parent
    reached = set()
    for module in ("modeling_causal_lira", "modeling_choice_lira", "processing_lira", "pipeline_lira"):
        path = folder / f"{module}.py"
        reached |= {os.path.basename(name) for name in get_relative_import_files(path)} | {path.name}
    assert reached == {path.name for path in model_files()}


def test_what_cannot_be_exported_is_refused(folder, tmp_path, tiny_lira_folder):
    with pytest.raises(FileNotFoundError, match="has no config.json; expected a LiRA checkpoint"):
        export_remote_code(tmp_path)
    with pytest.raises(ValueError, match="code is 'all'; expected 'shim' or 'full'"):
        export_remote_code(folder, "all")
    with pytest.raises(ValueError, match=r"encoder_config of .* is a 'lira_ngram'.*use code='shim'"):
        export_remote_code(tiny_lira_folder, "full")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds a 'bert' model; expected a LiRA checkpoint"):
        export_remote_code(tmp_path)


@pytest.fixture
def tiny_lira_folder(tiny_backbones, tmp_path):
    from lira_hf import LiraModel, LiraProcessor

    sizes = {name: value for name, value in tiny_lira.SIZES.items() if name != "num_bins"}
    LiraModel.from_backbones(**tiny_backbones, **sizes).save_pretrained(tmp_path / "ngram")
    LiraProcessor.from_backbones(**tiny_backbones).save_pretrained(tmp_path / "ngram")
    return tmp_path / "ngram"


def test_an_export_can_be_changed_and_repeated(folder):
    export_remote_code(folder, "full", pipelines=True)
    first = (folder / "config.json").read_text()
    export_remote_code(folder, "full", pipelines=True)
    assert (folder / "config.json").read_text() == first
    weights = load_file(folder / "model.safetensors")
    export_remote_code(folder, "shim")
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "lira_shim.LiraModel"
    assert "custom_pipelines" not in config
    assert [path.name for path in folder.glob("*.py")] == ["lira_shim.py"]
    assert all(torch.equal(value, weights[name]) for name, value in load_file(folder / "model.safetensors").items())
