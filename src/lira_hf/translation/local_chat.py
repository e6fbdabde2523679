"""A chat model in this process: a causal LM of transformers with its own chat template (ours)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError

from lira_hf.models.backbones_lira import backbone_fingerprint

from .base import Failure, batches, stable_hash
from .chat import ChatUsage, Conversation, Reply


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["LocalChat"]


# The values that say nothing: a chat model's own settings are for sampling, and transformers warns of them otherwise.
_GREEDY = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}


class LocalChat:
    """
    A causal LM that answers conversations in batches, greedily unless told otherwise.

    The counts are in `usage`, by language. A JSON schema isn't enforced here; the reader of the replies is tolerant.

    Args:
        model (`PreTrainedModel`): A causal LM, on the device where it is to run.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, with a chat template that takes a system message.
        name (`str`, *optional*): Short name; by default the last part of the path that the model came from.
        batch_size (`int`, *optional*, defaults to 8): Conversations generated at once.
        max_new_tokens (`int`, *optional*, defaults to 512): The longest reply.
        generation (`Mapping[str, Any]`, *optional*): Further arguments of `generate`, such as `{"do_sample": True}`.
            JSON values: they are part of the fingerprint.

    Raises:
        `ValueError`: a tokenizer without a chat template, or a limit below 1.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        name: str | None = None,
        batch_size: int = 8,
        max_new_tokens: int = 512,
        generation: Mapping[str, Any] | None = None,
    ):
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer of {model.config.name_or_path!r} has no chat template; expected that of a chat model; "
                "take an instruction-tuned model, or set tokenizer.chat_template"
            )
        for label, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
            if value < 1:
                raise ValueError(f"{label} is {value}; expected at least 1; leave it out for the default")
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.generation = {**(_GREEDY if not (generation or {}).get("do_sample") else {}), **(generation or {})}
        self.usage: dict[str, ChatUsage] = {}
        self._name = name or str(model.config.name_or_path).rstrip("/").rpartition("/")[2] or model.config.model_type
        self._fingerprint: str | None = None

    @property
    def name(self) -> str:
        """Short name of the model."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """Hash of weights, chat template and settings, the model's own generation settings among them."""
        if self._fingerprint is None:
            own = json.loads(self.model.generation_config.to_json_string())  # what it doesn't override counts too
            own.pop("transformers_version", None)
            settings = [self.max_new_tokens, self.generation, own, self.tokenizer.chat_template]
            self._fingerprint = stable_hash("local", self._name, backbone_fingerprint(self.model), settings)
        return self._fingerprint

    def __repr__(self) -> str:
        return f"LocalChat({self._name!r})"

    def answer(
        self, conversations: Sequence[Conversation], *, language: str = "", schema: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """
        Answer conversations; see [`ChatModel.answer`]. Prompts of about one length go together.

        Args:
            conversations (`Sequence[Conversation]`): The conversations.
            language (`str`, *optional*, defaults to `""`): Language tag that the counts go to.
            schema (`Mapping[str, Any]`, *optional*): Not used.

        Returns:
            `Iterator[tuple[int, Reply | Failure]]`: Each position once, short prompts first.
        """
        usage = self.usage.setdefault(language, ChatUsage())
        prompts: dict[int, list[int]] = {}
        for position, conversation in enumerate(conversations):
            prompt = self._prompt(conversation)
            if isinstance(prompt, Failure):
                usage.add(prompt)
                yield position, prompt
            else:
                prompts[position] = prompt
        by_length = sorted(prompts, key=lambda position: len(prompts[position]))
        for batch in batches(by_length, self.batch_size):
            replies = self._generate([prompts[position] for position in batch])
            for position, reply in zip(batch, replies, strict=True):
                usage.requests += 1
                usage.add(reply)
                yield position, reply

    def _prompt(self, conversation: Conversation) -> list[int] | Failure:
        messages = [dict(message) for message in conversation]
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:  # such as a template without a system role
            return Failure("rejected", f"the chat template of {self._name!r} refuses the conversation: {error}")
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and len(ids) + self.max_new_tokens > room:
            return Failure(
                "rejected",
                f"the prompt has {len(ids)} tokens and the reply up to {self.max_new_tokens}, more than the "
                f"{room} that {self._name!r} takes; shorten the text or lower max_new_tokens",
            )
        return ids

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[list[int]]) -> list[Reply]:
        width = max(map(len, prompts))
        ends = self._end_ids()
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(ends, default=0)
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=self.model.device)
        mask = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.model.device
        )
        options = {"max_new_tokens": self.max_new_tokens, "pad_token_id": pad, **self.generation}
        output = self.model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, **options
        )[:, width:].tolist()
        replies = []
        for prompt, row in zip(prompts, output, strict=True):
            end = next((place for place, token in enumerate(row) if token in ends), None)
            written = row if end is None else row[:end]
            replies.append(
                Reply(
                    str(self.tokenizer.decode(written, skip_special_tokens=True)),
                    truncated=end is None,
                    prompt_tokens=len(prompt),
                    completion_tokens=len(written) + (end is not None),
                )
            )
        return replies

    def _end_ids(self) -> set[int]:
        ends = self.generation.get("eos_token_id", self.model.generation_config.eos_token_id)
        if ends is None:
            ends = self.tokenizer.eos_token_id
        return {ends} if isinstance(ends, int) else set(ends or ())
