"""Checkpoints that load by trust_remote_code: a shim that asks for the package, or all of the code in flat files."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import lira_hf.models
from lira_hf.models.saving_lira import renew_checksums


__all__ = ["export_remote_code"]

_SHIM = "lira_shim"
_SHIM_SOURCE = '''"""Loads LiRA's classes from the installed package: pip install lira-hf."""

from lira_hf import LiraConfig
from lira_hf import LiraEmbeddingPipeline
from lira_hf import LiraForCausalLM
from lira_hf import LiraForMultipleChoice
from lira_hf import LiraGenerationPipeline
from lira_hf import LiraModel
from lira_hf import LiraProcessor
'''
# Auto class, or task of a pipeline: the module that holds its class, the class.
_AUTO_CLASSES = {
    "AutoConfig": ("configuration_lira", "LiraConfig"),
    "AutoModel": ("modeling_lira", "LiraModel"),
    "AutoModelForCausalLM": ("modeling_causal_lira", "LiraForCausalLM"),
    "AutoModelForMultipleChoice": ("modeling_choice_lira", "LiraForMultipleChoice"),
}
_PROCESSOR = ("processing_lira", "LiraProcessor")
_PIPELINES = {
    "lira-embedding": ("pipeline_lira", "LiraEmbeddingPipeline", "AutoModel"),
    "lira-generation": ("pipeline_lira", "LiraGenerationPipeline", "AutoModelForCausalLM"),
}


def export_remote_code(
    folder: str | os.PathLike, code: Literal["shim", "full"] = "shim", pipelines: bool = False
) -> Path:
    """
    Makes a saved checkpoint loadable by `trust_remote_code=True` where `lira_hf` has not been imported.

    Where it has been, its own classes are taken, with or without the flag.

    Args:
        folder (`str` or `os.PathLike`): A checkpoint, with its processor if it has one.
        code (`str`, *optional*, defaults to `"shim"`):
            `"shim"`: one small file that imports the installed package. `"full"`: every file of `lira_hf.models`, for
            where the package can't be installed; such a checkpoint does not follow later repairs.
        pipelines (`bool`, *optional*, defaults to `False`):
            Also name the two pipelines in the configuration. `pipeline` then wants `trust_remote_code=True` for these
            tasks even where `lira_hf` is imported.

    Returns:
        `Path`: The folder.

    Raises:
        FileNotFoundError: For a folder without a config.json.
        ValueError: For another checkpoint than LiRA's, or a full export of one whose encoder or tokenizer is itself
            code of the package.
    """
    folder = Path(folder)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json; expected a LiRA checkpoint; save the model there first: save_pretrained"
        )
    config = _read(config_path)
    if config.get("model_type") != "lira":
        raise ValueError(
            f"{folder} holds a {config.get('model_type')!r} model; expected a LiRA checkpoint; name another"
        )
    if code not in ("shim", "full"):
        raise ValueError(f"code is {code!r}; expected 'shim' or 'full'")
    _write_code(folder, config, code)

    def place(module: str, name: str) -> str:
        return f"{module if code == 'full' else _SHIM}.{name}"

    config["auto_map"] = {auto: place(*where) for auto, where in _AUTO_CLASSES.items()}
    config.pop("custom_pipelines", None)
    if pipelines:
        config["custom_pipelines"] = {
            task: {"impl": place(module, name), "pt": [auto], "type": "text"}
            for task, (module, name, auto) in _PIPELINES.items()
        }
    _write(config_path, config)
    for name in ("processor_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found = _read(folder / name)
            found["auto_map"] = found.get("auto_map", {}) | {"AutoProcessor": place(*_PROCESSOR)}
            _write(folder / name, found)
    renew_checksums(folder)
    return folder


def _write_code(folder: Path, config: dict[str, Any], code: str) -> None:
    if code == "full":
        _refuse_own_backbones(folder, config)
        for path in model_files():
            shutil.copyfile(path, folder / path.name)
        (folder / f"{_SHIM}.py").unlink(missing_ok=True)
        return
    for path in model_files():  # of an earlier full export
        (folder / path.name).unlink(missing_ok=True)
    (folder / f"{_SHIM}.py").write_text(_SHIM_SOURCE, encoding="utf-8")


def model_files() -> list[Path]:
    """The files that a full export carries: flat siblings that import each other, torch and Transformers alone."""
    room = Path(lira_hf.models.__file__).parent
    return sorted(path for path in room.glob("*.py") if path.name != "__init__.py")


def _refuse_own_backbones(folder: Path, config: dict[str, Any]) -> None:
    own = {"lira_ngram", "NgramTokenizer"}
    for part in ("encoder_config", "anchor_config"):
        kind = (config.get(part) or {}).get("model_type")
        if kind in own:
            raise ValueError(
                f"{part} of {folder} is a {kind!r}, whose code is in lira_hf and not among the exported files; "
                "expected a backbone that Transformers knows; use code='shim'"
            )
    for path in folder.glob("**/tokenizer_config.json"):
        if _read(path).get("tokenizer_class") in own:
            raise ValueError(
                f"{path} names a tokenizer whose code is in lira_hf and not among the exported files; expected one "
                "that Transformers knows; use code='shim'"
            )


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path)
