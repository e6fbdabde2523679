"""Checkpoints that sentence-transformers loads with its own modules alone."""

import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCard

from lira_hf.model_card import basic_model_card
from lira_hf.models import LiraPreTrainedModel, LiraProcessor
from lira_hf.models.saving_lira import renew_checksums

from .hub import save_checkpoint


__all__ = ["export_sentence_transformers"]

_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    {
        "idx": 1,
        "name": "1",
        "path": "1_Normalize",
        "type": "sentence_transformers.base.modules.normalize.Normalize",
    },
]
# Without it the library would take the mean of the fused bins, which is not LiRA's embedding.
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
    "module_output_name": "sentence_embedding",
}
_NORMALIZE = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
_TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction")


def export_sentence_transformers(
    model: LiraPreTrainedModel,
    processor: LiraProcessor,
    folder: str | os.PathLike,
    *,
    remote_code: Literal["shim", "full"] | None = "shim",
    similarity: str = "cosine",
    card: ModelCard | str | None = None,
    save_backbones: bool | None = None,
    max_shard_size: int | str = "5GB",
) -> Path:
    """
    Saves a checkpoint that `SentenceTransformer(folder)` loads, and every class of LiRA too.

    Its prompts are the processor's, as `"query"` and `"document"`: `encode_query` and `encode_document` put them
    before a text, as [`LiraEmbedder`] does for a role. A pair `(text, English)` brings its candidate. The languages
    of texts can't be told there, so that each counts as unknown, and an English text is no candidate of its own:
    give it as `(text, text)`.

    Args:
        model ([`LiraModel`], [`LiraForCausalLM`], ...): The model. The base LM of a generation checkpoint is saved,
            and left unloaded by the library where the embedding isn't read off it.
        processor ([`LiraProcessor`]): Its processor.
        folder (`str` or `os.PathLike`): Where to.
        remote_code (`str`, *optional*, defaults to `"shim"`): As in [`export_remote_code`], for
            `SentenceTransformer(folder, trust_remote_code=True)` where `lira_hf` is not imported: `"shim"` needs the
            package installed, `"full"` doesn't. `None`: no code, for after `import lira_hf` alone.
        similarity (`str`, *optional*, defaults to `"cosine"`): What `model.similarity` computes: `"cosine"`,
            `"dot"`, `"euclidean"` or `"manhattan"`.
        card, save_backbones, max_shard_size: As in [`save_checkpoint`].

    Returns:
        `Path`: The folder.

    Raises:
        TypeError: For another processor.
        ValueError: For another similarity; for prompts where the embedding is read off the base LM, which would read
            them too; and what [`save_checkpoint`] and [`export_remote_code`] refuse.

    Example:

    ```python
    >>> export_sentence_transformers(model, processor, "my-model")
    >>> from sentence_transformers import SentenceTransformer
    >>> SentenceTransformer("my-model").encode_query([("ঢাকা", "Dhaka"), "চট্টগ্রাম"])
    ```
    """
    if similarity not in _SIMILARITIES:
        raise ValueError(f"similarity is {similarity!r}; expected one of {', '.join(_SIMILARITIES)}; choose one")
    _refuse_prompts_of_base(model, processor)
    folder = Path(folder)
    if card is None:
        card = basic_model_card(model.config, folder.resolve().name)
        card.data["tags"] = [*(card.data.get("tags") or []), *_TAGS]
    save_checkpoint(
        folder,
        model,
        processor,
        card,
        remote_code=remote_code,
        save_backbones=save_backbones,
        max_shard_size=max_shard_size,
    )
    (folder / "1_Normalize").mkdir(exist_ok=True)
    _write(folder / "1_Normalize" / "config.json", _NORMALIZE)
    _write(folder / "sentence_bert_config.json", _TRANSFORMER)
    _write(folder / "config_sentence_transformers.json", _settings(processor, similarity))
    _limit_root_tokenizer(folder, processor)
    # Last: the folder is a sentence-transformers model from here on.
    _write(folder / "modules.json", _MODULES)
    renew_checksums(folder)
    return folder


def _settings(processor: LiraProcessor, similarity: str) -> dict[str, Any]:
    return {
        "__version__": {
            name: _version(package)
            for name, package in (
                ("sentence_transformers", "sentence-transformers"),
                ("transformers", "transformers"),
                ("pytorch", "torch"),
            )
        },
        "model_type": "SentenceTransformer",
        "prompts": {"query": processor.query_prompt, "document": processor.document_prompt},
        "default_prompt_name": None,
        "similarity_fn_name": similarity,
    }


def _version(package: str) -> str:
    """That of the package; where sentence-transformers isn't installed, the one that these files are for."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "6.2.0"


def _limit_root_tokenizer(folder: Path, processor: LiraProcessor) -> None:
    """
    The library tells the root tokenizer's limit as `max_seq_length`, which for many is 10^30. In an embedding-only
    checkpoint nothing else reads that tokenizer; where it is a base LM's, it is left alone.
    """
    path = folder / "tokenizer_config.json"
    if processor.prefix_length or not path.is_file():
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["model_max_length"] = min(processor.max_text_length, processor.source_tokenizer.model_max_length)
    _write(path, settings)


def _refuse_prompts_of_base(model: LiraPreTrainedModel, processor: LiraProcessor) -> None:
    if not isinstance(processor, LiraProcessor):  # told by `save_checkpoint`
        return
    found = {name for name in ("query_prompt", "document_prompt") if getattr(processor, name)}
    if model.config.embedding_source == "language_model" and found:
        raise ValueError(
            f"got {', '.join(sorted(found))} and embedding_source='language_model'; expected a base LM that reads the "
            "bare text, but sentence-transformers puts a prompt before all that is read; export with a processor "
            "without prompts, or embed by LiraEmbedder"
        )


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
