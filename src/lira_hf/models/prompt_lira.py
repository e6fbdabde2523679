"""Tokenizers, and the base LM's prompts: where the soft prefix goes, and answers to choose from."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file


__all__ = [
    "PREFIX_TOKEN",
    "add_prefix_token",
    "as_choices",
    "as_prompts",
    "clean_text",
    "expand_prefix",
    "load_tokenizer",
    "stack_choices",
]


PREFIX_TOKEN = "<|lira_prefix|>"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)


def clean_text(text: str) -> str:
    """
    Replaces lone surrogates, which no tokenizer, database or file in UTF-8 accepts, by U+FFFD.

    Args:
        text (`str`): Any string.

    Returns:
        `str`: The same string where it was valid Unicode.
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def load_tokenizer(source: str | PreTrainedTokenizerBase, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    A tokenizer by name or folder, or as it is.

    Raises:
        OSError: Where there is none. The library would make one of a few special tokens from the model's
            configuration, and say nothing.
    """
    if isinstance(source, PreTrainedTokenizerBase):
        return source
    missing = {"_raise_exceptions_for_missing_entries": False}
    if not any(cached_file(source, name, **missing, **kwargs) for name in _TOKENIZER_FILES):
        raise OSError(
            f"{source} has no tokenizer; expected one of {', '.join(_TOKENIZER_FILES)} beside the model; save it "
            "there, or give the tokenizer itself"
        )
    return AutoTokenizer.from_pretrained(source, **kwargs)


def add_prefix_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Makes sure that a base LM's tokenizer knows the placeholder, and gives its id."""
    if PREFIX_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(PREFIX_TOKEN, special=True, normalized=False)], special_tokens=True)
    return tokenizer.convert_tokens_to_ids(PREFIX_TOKEN)


def as_prompts(prompts: Any, texts: list[str]) -> list[str]:
    """One prompt per text, with a placeholder; of `None` (the texts themselves), one for all, or one each or
    `None`."""
    if prompts is None or prompts is True or isinstance(prompts, str):
        prompts = [prompts if isinstance(prompts, str) else None] * len(texts)
    rows = list(prompts) if isinstance(prompts, Iterable) else [prompts]
    if len(rows) != len(texts):
        raise ValueError(
            f"got {len(texts)} texts and {len(rows)} prompts; expected one prompt per text, or one for all"
        )
    for number, row in enumerate(rows):
        if row is not None and not isinstance(row, str):
            raise TypeError(
                f"prompt {number} is {type(row).__name__} {str(row)[:60]!r}; expected a string, or None for the text "
                "itself; convert it"
            )
        if row is not None and row.count(PREFIX_TOKEN) > 1:
            raise ValueError(
                f"prompt {number} holds the placeholder {row.count(PREFIX_TOKEN)} times; expected it once, where the "
                "soft prefix goes, or not at all; remove the others"
            )
    # A text that happens to hold the placeholder says nothing about where the prefix goes.
    rows = [text.replace(PREFIX_TOKEN, "") if row is None else row for row, text in zip(rows, texts, strict=True)]
    # At the start; what the tokenizer itself puts there, such as a start of text, still comes first.
    return [row if PREFIX_TOKEN in row else PREFIX_TOKEN + row for row in rows]


def as_choices(choices: Any, count: int) -> list[list[str]]:
    """The answers of each text, checked: lists of the same length that hold strings with something in them."""
    rows = [list(row) if isinstance(row, Sequence) and not isinstance(row, str) else row for row in choices]
    if len(rows) != count:
        raise ValueError(f"got {count} texts and {len(rows)} rows of choices; expected one row per text")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or not row or not all(isinstance(choice, str) and choice for choice in row):
            raise TypeError(
                f"the choices of text {number} are {str(row)[:80]!r}; expected a list of non-empty strings; convert "
                "them"
            )
        if len(row) != len(rows[0]):
            raise ValueError(
                f"text {number} has {len(row)} choices and text 0 has {len(rows[0])}; expected the same number in a "
                "batch; put questions of another number into a batch of their own"
            )
    return rows


def expand_prefix(ids: list[int], token_id: int, length: int) -> list[int]:
    """A tokenized prompt whose one placeholder has become `length`."""
    place = ids.index(token_id)
    return ids[:place] + [token_id] * length + ids[place + 1 :]


def stack_choices(
    prompts: list[list[int]], answers: list[list[list[int]]], pad_token_id: int
) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `choice_mask` `(batch, choices, tokens)`, padded on the left."""
    width = max(len(prompt) + len(answer) for prompt, row in zip(prompts, answers, strict=True) for answer in row)
    shape = (len(prompts), len(answers[0]), width)
    ids = torch.full(shape, pad_token_id)
    attention, chosen = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for number, (prompt, row) in enumerate(zip(prompts, answers, strict=True)):
        for choice, answer in enumerate(row):
            ids[number, choice, width - len(prompt) - len(answer) :] = torch.tensor(prompt + answer)
            attention[number, choice, width - len(prompt) - len(answer) :] = 1
            chosen[number, choice, width - len(answer) :] = 1
    return {"input_ids": ids, "attention_mask": attention, "choice_mask": chosen}
