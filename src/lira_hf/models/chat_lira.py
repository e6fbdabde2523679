"""Conversations: the text that both roads encode is the last user turn, and the soft prefix stands at its start."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

from .prompt_lira import PREFIX_TOKEN, clean_text, expand_prefix


__all__ = ["LiraChatMixin", "last_user_text"]

_ROADS = ("candidates", "scores", "languages")


class LiraChatMixin(ProcessorMixin):
    """What a processor with a base LM knows of conversations, in the base's own chat template."""

    def chat_prompt(self, messages: Sequence[dict[str, Any]], **kwargs: Any) -> tuple[str, str]:
        """
        A conversation as a text for the two roads and a prompt for the base LM.

        Args:
            messages (`list[dict]`): Turns with `role` and `content`, of which one at least is the user's.
            kwargs: For the tokenizer's `apply_chat_template`.

        Returns:
            `tuple`: the last user turn's text, and the prompt with the soft prefix at the start of that turn.
        """
        text, turns = _mark(messages)
        options = {"tokenize": False, "add_generation_prompt": True, "chat_template": self.chat_template} | kwargs
        prompt = self.tokenizer.apply_chat_template(turns, **options)
        start = self.tokenizer.bos_token
        # The template writes the start of text out, and tokenizing the prompt would add it again.
        ids = self.tokenizer("a")["input_ids"]
        adds_start = bool(ids) and ids[0] == self.tokenizer.bos_token_id
        return text, prompt.removeprefix(start) if start and adds_start else prompt

    def apply_chat_template(
        self,
        conversation: Sequence[dict[str, Any]] | Sequence[Sequence[dict[str, Any]]],
        chat_template: str | None = None,
        tokenize: bool = False,
        return_assistant_tokens_mask: bool = False,
        return_tensors: str | None = "pt",
        return_dict: bool = True,
        processor_kwargs: dict | None = None,
        padding_side: str | None = None,
        **kwargs: Any,
    ) -> str | list[str] | BatchFeature:
        """
        As in Transformers. With `tokenize=True` every tensor of the conversations: of both roads over the last user
        turn, and of the base LM over all turns with the soft prefix at the start of that one.

        Args:
            conversation (`list[dict]` or `list[list[dict]]`): One or several; turns with `role` and `content`.
            candidates, scores, languages (*optional*): As in `__call__`; also within `processor_kwargs`.
            return_assistant_tokens_mask (`bool`, *optional*, defaults to `False`):
                Also `assistant_masks` `(batch, tokens)`: what the assistant said, where the template marks it.

        Returns:
            `str` or `list[str]`, or a `BatchFeature`.
        """
        template = chat_template or self.chat_template
        if not tokenize:
            return super().apply_chat_template(conversation, chat_template=template, tokenize=False, **kwargs)
        options = {name: kwargs.pop(name) for name in _ROADS if name in kwargs} | (processor_kwargs or {})
        for name in ("padding", "images", "videos", "audio"):
            kwargs.pop(name, None)
        single = bool(conversation) and isinstance(conversation[0], dict)
        marked = [_mark(one) for one in ([conversation] if single else conversation)]
        ids, masks = [], []
        for _, turns in marked:
            told = self.tokenizer.apply_chat_template(
                turns,
                chat_template=template,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=return_assistant_tokens_mask,
                **kwargs,
            )
            mask = told.get("assistant_masks") or [0] * len(told["input_ids"])
            place = told["input_ids"].index(self.prefix_token_id)
            ids.append(expand_prefix(told["input_ids"], self.prefix_token_id, self.prefix_length))
            masks.append(mask[:place] + [0] * self.prefix_length + mask[place + 1 :])
        padded = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side=padding_side)
        data = {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
        if return_assistant_tokens_mask:
            spread = torch.zeros_like(data["input_ids"])
            spread[data["attention_mask"].bool()] = torch.tensor([value for row in masks for value in row])
            data["assistant_masks"] = spread
        return BatchFeature(data | self([text for text, _ in marked], prompts=False, **options))


def last_user_text(messages: Sequence[dict[str, Any]]) -> str:
    """What both roads read of a conversation: the text of the last user turn."""
    return _mark(messages)[0]


def _mark(messages: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The last user turn's text, and the turns with the placeholder at its start and nowhere else."""
    # A turn that calls tools may have no content; in rows of training it is empty too.
    turns = [turn | {"content": _without(turn.get("content") or "")} for turn in messages if isinstance(turn, dict)]
    last = next((place for place in reversed(range(len(turns))) if turns[place].get("role") == "user"), None)
    pieces = [] if last is None else _pieces(turns[last]["content"])
    if not pieces:
        raise ValueError(
            f"got a conversation without a text of the user: {str(list(messages))[:120]}; expected turns with "
            "'role' and 'content', one of them the user's; add what is to be answered"
        )
    text = " ".join(piece["text"] for piece in pieces)
    if isinstance(turns[last]["content"], str):
        turns[last]["content"] = PREFIX_TOKEN + text
    else:
        pieces[0]["text"] = PREFIX_TOKEN + pieces[0]["text"]
    return text, turns


def _without(content: Any) -> Any:
    if isinstance(content, str):
        return clean_text(content.replace(PREFIX_TOKEN, ""))
    return [
        part | {"text": clean_text(part["text"].replace(PREFIX_TOKEN, ""))} if "text" in part else dict(part)
        for part in content
    ]


def _pieces(content: Any) -> list[dict[str, Any]]:
    """The parts of a turn that hold text, to be written to."""
    if isinstance(content, str):
        return [{"text": content}]
    return [part for part in content if isinstance(part.get("text"), str)]
