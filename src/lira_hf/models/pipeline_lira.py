"""Pipelines over plain text: `lira-embedding` and `lira-generation`, with candidates given, found, or absent."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import AutoModel, AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY


__all__ = ["LiraEmbeddingPipeline", "LiraGenerationPipeline", "register_pipelines"]

_ITEM = ("text", "language", "candidates", "scores", "kinds", "prompt", "role")


class FindsCandidates(Protocol):
    """What finds candidates of texts, such as `lira_hf.inference.CandidateSource` over a store or a translator."""

    def find(self, texts: Sequence[str], languages: Sequence[str | None]) -> Sequence[Sequence[Any]]:
        """The candidates of each text; each has `text`, `kind` and `scores`."""


class _LiraPipeline(Pipeline):
    """Texts to tensors, a whole batch at once, since only then is it known how wide each road is."""

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def _sanitize_parameters(self, candidate_source: FindsCandidates | None = None, **parameters):
        given = {name: parameters.pop(name) for name in _ITEM[1:] if name in parameters}
        if candidate_source is not None:
            parameters["candidate_source"] = candidate_source
        return given, parameters, {}

    def preprocess(self, input_: Any, **given: Any) -> dict[str, Any]:
        messages = getattr(input_, "messages", None)  # the library has made a Chat of a conversation
        if messages is not None:
            text, prompt = self.processor.chat_prompt(messages)
            input_ = {"text": text, "prompt": prompt}
        elif isinstance(input_, str):
            input_ = {"text": input_}
        wrong = None if isinstance(input_, dict) else type(input_).__name__
        if wrong or not isinstance(input_.get("text"), str) or not input_.keys() <= set(_ITEM):
            got = wrong or f"a dict with {sorted(input_)}"
            raise ValueError(
                f"the input is {got}: {str(input_)[:80]!r}; expected a string, or a dict with the string 'text' and "
                f"of {', '.join(_ITEM[1:])} what is known; convert it"
            )
        return {"items": {**dict.fromkeys(_ITEM), **given, **input_}}

    def _read(self, model_inputs: dict, candidate_source: FindsCandidates | None, **options: Any) -> dict:
        """The processor's tensors of a batch, on the model's device."""
        items = model_inputs["items"]
        items = items if isinstance(items, list) else [items]
        columns = {name: [item[name] for item in items] for name in _ITEM}
        if candidate_source is not None:
            self._find(columns, candidate_source)
        scores = columns["scores"] if any(row is not None for row in columns["scores"]) else None
        # A text without a tag is a text of an unknown language, which is what the model was told in training.
        languages = columns["language"] if any(columns["language"]) else None
        options = {"prompts": columns["prompt"]} | options
        given = {"scores": scores} | {name: columns[name] for name in ("candidates", "kinds", "role")}
        batch = self.processor(columns["text"], languages=languages, **given, **options)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _find(self, columns: dict[str, list], source: FindsCandidates) -> None:
        own = self.processor.anchor_languages
        asked = [
            tag if tag not in own and given is None else None
            for tag, given in zip(columns["language"], columns["candidates"], strict=True)
        ]
        found = source.find(columns["text"], asked)
        for row, tag in enumerate(asked):
            if tag is not None:
                for name, field in (("candidates", "text"), ("scores", "scores"), ("kinds", "kind")):
                    columns[name][row] = [getattr(item, field) for item in found[row]]

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """The model together with its whole processor, which the library's own pipelines leave out."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


class LiraEmbeddingPipeline(_LiraPipeline):
    """
    Texts of any language to embeddings, `pipeline("lira-embedding", model=folder)`. For whole corpora see
    `LiraEmbedder`.

    Call it with a string, a dict (`text`, and of `language`, `candidates`, `scores`, `kinds`, `prompt`, `role` what is
    known), or a list of them; `language`, `candidates` and `role` may also be given for all. `role`, `"query"` or
    `"document"`, puts the processor's prompt for it before what g reads. With `candidate_source` (a `CandidateSource`
    over a store or a translator) candidates of texts that bring none are found.

    Returns:
        `np.ndarray` of shape `(projection_dim,)`, float32, of unit length; one per text.

    Example:

    ```python
    >>> embed = pipeline("lira-embedding", model=folder, candidate_source=CandidateSource(translator=memory))
    >>> query, document = embed([{"text": "ঢাকা", "language": "bn"}, {"text": "Dhaka", "language": "en"}], batch_size=2)
    >>> query @ document
    ```
    """

    def _forward(self, model_inputs: dict, candidate_source: FindsCandidates | None = None, **unknown: Any):
        if unknown:
            raise ValueError(
                f"got {sorted(unknown)}; expected of {_ITEM[1:]} and candidate_source; leave the rest out"
            )
        prompts: dict[str, Any] = {"prompts": False}
        if self.model.config.embedding_source == "language_model":
            prompts = {}
        batch = self._read(model_inputs, candidate_source, **prompts)
        return {"embeddings": self.model(**batch).pooler_output}

    def postprocess(self, model_outputs: dict) -> Any:
        return model_outputs["embeddings"][0].float().numpy()


class LiraGenerationPipeline(_LiraPipeline):
    """
    Texts of any language to the base LM's answers, `pipeline("lira-generation", model=folder)`.

    Call it with a string, a dict (`text`, and of `language`, `candidates`, `scores`, `kinds`, `prompt`, `role` what is
    known), a conversation (a list of turns, whose last is the text), or a list of these. `prompt` is what the base LM
    reads; the soft prefix goes where the processor's `prefix_token` stands in it, at its start where it does not; by
    default it is the text itself. `role` and `candidate_source` as in [`LiraEmbeddingPipeline`]; all else goes to
    `generate`.

    Returns:
        `list[dict]`: Per text the `generated_text` of each returned sequence, without the prompt.

    Example:

    ```python
    >>> answer = pipeline("lira-generation", model=folder)
    >>> answer([{"role": "user", "content": "দুই আর তিনে কত হয়?"}], language="bn", max_new_tokens=20)
    [{'generated_text': 'Five.'}]
    ```
    """

    def _forward(self, model_inputs: dict, candidate_source: FindsCandidates | None = None, **generate: Any):
        batch = self._read(model_inputs, candidate_source)
        sequences = self.model.generate(**batch, **generate)
        sequences = sequences if isinstance(sequences, torch.Tensor) else sequences.sequences
        new = sequences[:, batch["input_ids"].shape[1] :]
        return {"new_ids": new.view(len(batch["input_ids"]), -1, new.shape[-1])}  # (batch, returned, tokens)

    def postprocess(self, model_outputs: dict) -> list[dict[str, str]]:
        texts = self.processor.tokenizer.batch_decode(model_outputs["new_ids"][0], skip_special_tokens=True)
        return [{"generated_text": text} for text in texts]


def register_pipelines() -> None:
    """Makes both tasks known to `pipeline`; once."""
    for task, kind, auto, modality in (
        ("lira-embedding", LiraEmbeddingPipeline, AutoModel, "text"),
        ("lira-generation", LiraGenerationPipeline, AutoModelForCausalLM, "text"),
    ):
        if task not in PIPELINE_REGISTRY.supported_tasks:
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=kind, pt_model=auto, type=modality)
