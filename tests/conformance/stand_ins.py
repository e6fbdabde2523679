"""Own stand-ins for the modules that transformers' test mixins import and that its source distribution leaves out."""

import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
import transformers


__all__ = ["install", "missing"]

# What the mixins import or read, and what becomes of it where the source distribution lacks it.
_WANTED = {
    "tests/generation/test_utils.py": "GenerationTesterMixin: an empty class stands in, none of its tests run",
    "tests/exporters/test_export.py": "ExportTesterMixin: an empty class stands in, none of its tests run",
    "tests/distributed_testing_utils.py": "the mixins of tensor parallelism, expert parallelism and FSDP do not run",
    "tests/pipelines/test_pipelines_text_generation.py": "what PipelineTesterMixin runs: our own tests stand in",
    "tests/pipelines/test_pipelines_feature_extraction.py": "what PipelineTesterMixin runs: our own tests stand in",
    "tests/utils/tiny_model_summary.json": "for PipelineTesterMixin: tiny LiRA checkpoints made on the spot stand in",
    "tests/utils/test_configuration_utils.py": "config_common_kwargs, for ConfigTester: our own values stand in",
    "utils/fetch_hub_objects_for_ci.py": "url_to_local_path: gives the address back, and no test of a text reads one",
}

_COMMON_CONFIG = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["LiraModel"],
    "problem_type": "regression",
}


class _MissingMixin:
    """Stands in for a mixin that the source distribution lacks; it holds no tests."""


class TextGenerationPipelineTests:
    """A text-generation pipeline over a given model: one text, several, chats, and the generation's own options."""

    def get_test_pipeline(self, model: Any, tokenizer: Any, dtype: str = "float32", **parts: Any) -> tuple[Any, list]:
        """The pipeline under test, and examples for it."""
        pipe = transformers.TextGenerationPipeline(
            model=model, tokenizer=tokenizer, dtype=dtype, max_new_tokens=5, **parts
        )
        return pipe, ["the cat sat", "a big river"]

    def run_pipeline_test(self, pipe: Any, examples: list[str]) -> None:
        """One text, several, without the prompt, and as ids."""
        out = pipe(examples[0])
        assert len(out) == 1, out
        assert out[0]["generated_text"].startswith(examples[0]), out
        rows = pipe(examples, num_return_sequences=2, do_sample=True)
        assert [len(row) for row in rows] == [2, 2], rows
        batched = pipe(examples, num_return_sequences=2, do_sample=True, batch_size=2)
        assert [len(row) for row in batched] == [2, 2], batched
        new = pipe(examples[0], return_full_text=False, do_sample=False)[0]["generated_text"]
        full = pipe(examples[0], do_sample=False)[0]["generated_text"]
        assert full == examples[0] + new, (full, new)
        assert "generated_token_ids" in pipe(examples[0], return_tensors=True)[0]
        try:
            pipe(examples[0], return_full_text=True, return_text=True)
        except ValueError:
            return
        raise AssertionError("return_full_text together with return_text was accepted")


class FeatureExtractionPipelineTests:
    """A feature-extraction pipeline over a given model: as lists, and as tensors."""

    def get_test_pipeline(self, model: Any, tokenizer: Any, dtype: str = "float32", **parts: Any) -> tuple[Any, list]:
        """The pipeline under test, and examples for it."""
        pipe = transformers.FeatureExtractionPipeline(model=model, tokenizer=tokenizer, dtype=dtype, **parts)
        return pipe, ["the cat sat", "a big river"]

    def run_pipeline_test(self, pipe: Any, examples: list[str]) -> None:
        """One text, several, a long one, and as a tensor."""
        out = torch.tensor(pipe(examples[0]))
        assert out.shape[0] == 1, out.shape
        assert out.isfinite().all()
        assert len(pipe(examples)) == len(examples)
        assert torch.tensor(pipe("the cat " * 100, truncation=True)).isfinite().all()
        assert isinstance(pipe(examples[0], return_tensors=True), torch.Tensor)


def missing(tree: Path) -> dict[str, str]:
    """What `tree` lacks of the files that the mixins ask for, and what becomes of each."""
    return {name: note for name, note in _WANTED.items() if not (tree / name).exists()}


def _module(tree: Path, path: str, **members: Any) -> None:
    """A module with these members, unless `tree` has the real one."""
    if (tree / path).exists():
        return
    name = path.removesuffix(".py").replace("/", ".").removeprefix("utils.")
    module = types.ModuleType(name, "Stands in for a module that the source distribution lacks.")
    for key, value in members.items():
        setattr(module, key, value)
    sys.modules[name] = module


def _installed_transformers(path: str, file: str = "__init__.py") -> types.ModuleType:
    """The mixins would load transformers again, from the tree they lie in; the installed one is under test."""
    return transformers


def install(tree: Path) -> None:
    """Makes the stand-ins importable under the names that the mixins of `tree` look for."""
    mixins = {"generation/test_utils": "GenerationTesterMixin", "exporters/test_export": "ExportTesterMixin"}
    for path, name in mixins.items():
        _module(tree, f"tests/{path}.py", **{name: type(name, (_MissingMixin,), {})})
    _module(tree, "tests/utils/test_configuration_utils.py", config_common_kwargs=_COMMON_CONFIG)
    _module(tree, "utils/fetch_hub_objects_for_ci.py", url_to_local_path=lambda address: address)
    pipelines = "tests/pipelines/test_pipelines"
    _module(tree, f"{pipelines}_text_generation.py", TextGenerationPipelineTests=TextGenerationPipelineTests)
    _module(tree, f"{pipelines}_feature_extraction.py", FeatureExtractionPipelineTests=FeatureExtractionPipelineTests)
    transformers.utils.direct_transformers_import = _installed_transformers
    # The pipeline mixin reads this folder when it is imported; the tests put their checkpoints there.
    folder = os.environ.setdefault("TRANSFORMERS_TINY_MODEL_PATH", tempfile.mkdtemp(prefix="lira-conformance-"))
    summary = Path(folder) / "reports" / "tiny_model_summary.json"
    summary.parent.mkdir(parents=True, exist_ok=True)
    classes = {"tokenizer_classes": ["PreTrainedTokenizerFast"], "processor_classes": []}
    summary.write_text(json.dumps({name: classes for name in ("LiraModel", "LiraForCausalLM")}), encoding="utf-8")
