"""One commit on the Hub, or one folder, that holds everything: model, processor, card, and the code if wanted."""

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError

from lira_hf.model_card import CardError, config_facts, write_model_card
from lira_hf.models import LiraPreTrainedModel, LiraProcessor
from lira_hf.models.saving_lira import renew_checksums
from lira_hf.training import heads_fingerprint, read_run_facts, write_run_facts

from .remote_code import export_remote_code


__all__ = ["push_to_hub", "save_checkpoint"]

logger = logging.getLogger(__name__)


def save_checkpoint(
    folder: str | os.PathLike,
    model: LiraPreTrainedModel,
    processor: LiraProcessor,
    card: ModelCard | str | None = None,
    *,
    remote_code: Literal["shim", "full"] | None = "shim",
    save_backbones: bool | None = None,
    max_shard_size: int | str = "5GB",
    name: str | None = None,
) -> Path:
    """
    Saves a whole repository.

    Args:
        folder (`str` or `os.PathLike`): Where to.
        model ([`LiraModel`], [`LiraForCausalLM`], ...): The model.
        processor ([`LiraProcessor`]): Its processor, with every tokenizer.
        card (`ModelCard` or `str`, *optional*): README.md. `None`: one with what the configuration knows and,
            as long as the model's heads are still those of the checkpoint that it was loaded from, the runs behind
            that. What a person has put into an existing one stays; see [`write_model_card`].
        remote_code (`str`, *optional*, defaults to `"shim"`): As in [`export_remote_code`]; `None`: no code.
        save_backbones (`bool`, *optional*): As in `save_pretrained`.
        max_shard_size (`int` or `str`, *optional*, defaults to `"5GB"`): Of one file of weights.
        name (`str`, *optional*): What the card calls the model; by default the folder's name.

    Returns:
        `Path`: The folder.
    """
    folder = Path(folder)
    _check(model, processor)
    model.save_pretrained(folder, save_backbones=save_backbones, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)
    _forget_local_folders(folder / "config.json")
    renew_checksums(folder)
    if remote_code is not None:
        export_remote_code(folder, remote_code)
    runs = _known_runs(model)
    if runs:
        write_run_facts(folder, runs)
    if card is not None:
        (folder / "README.md").write_text(str(card), encoding="utf-8")
        return folder
    try:
        write_model_card(config_facts(model.config, name or folder.resolve().name, runs), folder)
    except CardError as error:
        logger.warning("The card stays as it is: %s.", error)
    return folder


def _known_runs(model: LiraPreTrainedModel) -> list[dict[str, Any]]:
    """The facts beside the checkpoint that a model was loaded from; none of a model that was trained on since."""
    place = model.config.name_or_path
    runs = read_run_facts(place, strict=False) if place and os.path.isdir(place) else []
    return runs if runs and runs[-1].get("heads") == heads_fingerprint(model) else []


def push_to_hub(
    repo_id: str,
    model: LiraPreTrainedModel,
    processor: LiraProcessor,
    card: ModelCard | str | None = None,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload LiRA model, processor and card",
    remote_code: Literal["shim", "full"] | None = "shim",
    save_backbones: bool | None = None,
    max_shard_size: int | str = "5GB",
) -> str:
    """
    Pushes model, processor and card in one commit, so that no reader ever meets one without the others. What a person
    has put into the repository's card stays, unless a `card` is given.

    Args:
        repo_id (`str`): Repository, such as `"org/lira-qwen3-urdu"`; made where there is none.
        model, processor, card, remote_code, save_backbones, max_shard_size: As in [`save_checkpoint`].
        private (`bool`, *optional*): Of a new repository; `None`: as the organisation has it.
        token (`str` or `bool`, *optional*): As in `huggingface_hub`; read from the environment or the login by
            default.
        revision (`str`, *optional*): Branch; made where there is none.
        commit_message (`str`, *optional*): Of the commit.

    Returns:
        `str`: The commit's address.
    """
    api = HfApi(token=token)
    _check(model, processor)
    slim = not (model.config.backbones_saved if save_backbones is None else save_backbones)
    local = [part for part, known in (model.config.backbone_info or {}).items() if _is_folder(known["name"])]
    if slim and local:
        raise ValueError(
            f"the backbones {local} of a slim checkpoint lie in folders of this machine; expected names on the Hub, "
            "which others can load; push those first and join the model from their names, or push with "
            "save_backbones=True"
        )
    # Asked first: what is refused is refused before gigabytes are written.
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lira-push-") as folder:
        if card is None:
            _fetch_card(api, repo_id, revision, Path(folder))
        save_checkpoint(
            folder,
            model,
            processor,
            card,
            remote_code=remote_code,
            save_backbones=save_backbones,
            max_shard_size=max_shard_size,
            name=repo_id.split("/")[-1],
        )
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            delete_patterns=["*.safetensors", "*.safetensors.index.json"],  # shards of an earlier push
        ).commit_url


def _fetch_card(api: HfApi, repo_id: str, revision: str | None, folder: Path) -> None:
    """The repository's card, where it has one, as the existing one of the folder."""
    with tempfile.TemporaryDirectory(prefix="lira-card-") as cache:
        try:
            found = api.hf_hub_download(repo_id, "README.md", revision=revision, cache_dir=cache)
        except EntryNotFoundError:
            return
        (folder / "README.md").write_bytes(Path(found).read_bytes())


def _forget_local_folders(path: Path) -> None:
    """A whole checkpoint needs nothing from where its backbones once lay, and the paths are nobody's business."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if not config.get("backbones_saved", True):
        return

    def forget(node: object) -> object:
        if isinstance(node, list):
            return [forget(value) for value in node]
        if not isinstance(node, dict):
            return node
        local = {key: Path(node[key]).name for key in ("name", "_name_or_path") if _is_folder(node.get(key))}
        return {key: forget(value) for key, value in (node | local).items()}

    path.write_text(json.dumps(forget(config), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _is_folder(name: object) -> bool:
    return isinstance(name, str) and os.path.isdir(name)


def _check(model: LiraPreTrainedModel, processor: LiraProcessor) -> None:
    if not isinstance(processor, LiraProcessor):
        raise TypeError(
            f"the processor is a {type(processor).__name__}; expected a LiraProcessor, which holds every tokenizer; "
            "make one by LiraProcessor.from_backbones or AutoProcessor"
        )
    length = 0 if model.base_model.language_model is None else model.config.prefix_length
    if length and processor.prefix_length != length:
        raise ValueError(
            f"the processor makes {processor.prefix_length} placeholders, the model's prefix has {length} soft "
            "tokens; expected the same; make the processor with from_backbones(..., base=..., config=model.config)"
        )
    if length and processor.prefix_token_id != model.config.prefix_token_id:
        raise ValueError(
            f"the processor's placeholder has the id {processor.prefix_token_id}, the model's "
            f"{model.config.prefix_token_id}; expected the same; make the processor with config=model.config"
        )
