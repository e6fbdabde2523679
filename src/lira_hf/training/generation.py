"""Generation data as rows: what both roads read, the base LM's prompt and completion, and the English that the soft
prefix is warmed up on (ours)."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import datasets
import torch
from jinja2 import TemplateError

from lira_hf.data import Conversation, DataError, DataProblem
from lira_hf.data.problems import shorten
from lira_hf.inference import CandidateSource
from lira_hf.models import LiraProcessor
from lira_hf.models.chat_lira import last_user_text
from lira_hf.models.processing_lira import clean_text
from lira_hf.models.prompt_lira import expand_prefix

from .dataset import CHUNK, SIDE_FEATURES, find_sides


__all__ = ["generation_rows", "reference_rows", "reference_slots", "tokenize_rows"]

logger = logging.getLogger(__name__)
_WHERE = "the conversations"
_SHOWN_ROWS = 20
_TEMPLATE_ERRORS = (TemplateError, ValueError, TypeError, LookupError, AttributeError)
_GENERATION = datasets.Features(
    {
        "row": datasets.Value("int64"),
        "text": datasets.Value("large_string"),
        **SIDE_FEATURES,
        "prompt": datasets.Value("large_string"),
        "completion": datasets.Value("large_string"),
        "reference": datasets.Value("large_string"),
    }
)
_REFERENCES = datasets.Features({k: v for k, v in _GENERATION.items() if k not in ("prompt", "completion")})
_QUESTION = {"role": "user", "content": "lira question"}
_ANSWER = {"role": "assistant", "content": "lira answer"}


def generation_rows(
    conversations: Sequence[Conversation],
    candidates: CandidateSource | None,
    processor: LiraProcessor,
    anchor_languages: Sequence[str] = ("en",),
    max_length: int = 1024,
) -> datasets.Dataset:
    """
    One row per conversation, or prompt and completion. What is in an anchor language is its own candidate, and its own
    reference.

    Of messages the base LM's chat template writes everything up to the last answer as prompt, and what it adds for
    that answer, with what ends a turn, as completion. Plain prompts stay as they are and their completion ends with
    the end of text. The soft prefix stands at the start of the last user turn; of a plain prompt where
    `processor.prefix_token` stands in it, at its start where it does not.

    Args:
        conversations (`Sequence[Conversation]`): As of [`read_chat`].
        candidates ([`CandidateSource`], *optional*): Where candidates come from; without it only English has any.
        processor ([`LiraProcessor`]): Of the model that is trained, with a base LM.
        anchor_languages (`Sequence[str]`, *optional*, defaults to `("en",)`): The model's.
        max_length (`int`, *optional*, defaults to 1024): Tokens of prompt, soft prefix and completion together. Longer
            rows are left out, which is logged with their numbers: cut, they would teach to stop midway.

    Returns:
        `datasets.Dataset`: Columns row (number in the file; place among the conversations where they have none), text
        (of a conversation the last user turn before the answer), language, candidates, scores, kinds and traits as of
        [`retrieval_rows`], prompt (with the placeholder once), completion, reference (English, or `None`).

    Raises:
        DataError: With the number of every row that the chat template can't write, or writes so that the prompt isn't
            the beginning of the whole; and of those whose prompt holds the placeholder several times.
        ValueError: Without a base LM, or where no row is left.
    """
    _check_processor(processor, conversations)
    ending = _Ending(processor) if any(item.messages is not None for item in conversations) else None
    problems: list[DataProblem] = []
    found: list[dict[str, Any]] = []
    for place, item in enumerate(conversations):
        row = place if item.row is None else item.row
        try:
            text, prompt, completion = _plain(item, processor) if ending is None else _written(item, processor, ending)
        except _RowError as error:
            problems.append(DataProblem(_WHERE, row, *error.args))
            continue
        reference = item.reference or (text if item.language in anchor_languages else None)
        texts = {"text": text, "prompt": prompt, "completion": completion, "reference": reference}
        cleaned = {name: None if value is None else clean_text(value) for name, value in texts.items()}
        found.append({"row": row, "language": item.language, **cleaned})
    if problems:
        raise DataError(problems)
    kept = _of_length(found, processor, max_length)
    if not kept:
        raise ValueError(
            f"got {len(conversations)} conversations, of which none has at most {max_length} tokens; expected one at "
            "least; check the file and the split, or raise max_sequence_length"
        )
    for start in range(0, len(kept), CHUNK):
        chunk = kept[start : start + CHUNK]
        sides = find_sides([(row["text"], row["language"]) for row in chunk], candidates, anchor_languages)
        for kept_row, side in zip(chunk, sides, strict=True):
            kept_row |= side
    return datasets.Dataset.from_list(kept, features=_GENERATION)


def reference_rows(
    conversations: Sequence[Conversation],
    candidates: CandidateSource | None,
    anchor_languages: Sequence[str] = ("en",),
) -> datasets.Dataset:
    """
    What stage 1 needs of conversations: texts with their candidates and references. No base LM has a part in it.

    Args:
        conversations, candidates, anchor_languages: As of [`generation_rows`].

    Returns:
        `datasets.Dataset`: Columns row, text, language, candidates, scores, kinds, traits and reference.
    """
    rows = []
    for start in range(0, len(conversations), CHUNK):
        chunk = conversations[start : start + CHUNK]
        texts = [
            last_user_text(item.messages[:-1]) if item.messages is not None else (item.text or item.prompt or "")
            for item in chunk
        ]
        sides = find_sides(
            [(clean_text(text), item.language) for text, item in zip(texts, chunk, strict=True)],
            candidates,
            anchor_languages,
        )
        for place, (item, side) in enumerate(zip(chunk, sides, strict=True), start):
            reference = item.reference or (side["text"] if item.language in anchor_languages else None)
            row = place if item.row is None else item.row
            rows.append({"row": row, **side, "reference": None if reference is None else clean_text(reference)})
    return datasets.Dataset.from_list(rows, features=_REFERENCES)


def tokenize_rows(
    processor: LiraProcessor, prompts: Sequence[str], completions: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """
    Tokens of prompts and of their completions, each by itself, as generation has them.

    Args:
        processor ([`LiraProcessor`]): With a base LM.
        prompts (`Sequence[str]`): With the placeholder once each.
        completions (`Sequence[str]`): As many.

    Returns:
        `list[tuple[list[int], list[int]]]`: Per row the prompt's ids, with the placeholders and what the tokenizer
        adds by itself, such as a start of text; and the completion's, without.
    """
    tokenizer, token, length = processor.tokenizer, processor.prefix_token_id, processor.prefix_length
    asked = tokenizer(list(prompts))["input_ids"]
    written = tokenizer(list(completions), add_special_tokens=False)["input_ids"]
    return [(expand_prefix(ids, token, length), answer) for ids, answer in zip(asked, written, strict=True)]


def reference_slots(rows: Sequence[Sequence[int]], num_slots: int) -> torch.Tensor:
    """
    Which tokens each slot of the soft prefix stands for: the slots are equal time bins of a text, as of
    [`temporal_pool`]. A text with no more tokens than slots has one token a slot, and leaves the last ones empty.

    Args:
        rows (`Sequence[Sequence[int]]`): Per text its token ids; empty where there is none.
        num_slots (`int`): S, `config.num_bins`.

    Returns:
        `torch.Tensor` of shape `(batch, slots, most tokens in a slot)`, long, padded with -100; of a text without
        tokens all is -100.
    """
    most = max((-(-len(row) // num_slots) for row in rows), default=0) or 1
    labels = torch.full((len(rows), num_slots, most), -100)
    for number, row in enumerate(rows):
        count, ids = len(row), torch.tensor(row, dtype=torch.long)
        if count <= num_slots:
            labels[number, :count, 0] = ids
        else:
            places = torch.arange(count)
            slots = places * num_slots // count
            # A slot's first token is the first whose place, scaled, reaches the slot.
            labels[number, slots, places - -(-slots * count // num_slots)] = ids
    return labels


class _RowError(Exception):
    """Field, got, expected and fix of a row that can't be written."""


class _Ending:
    """
    How a chat template ends an answer, found out on a conversation of two turns.

    Args:
        processor ([`LiraProcessor`]): With a chat template.
    """

    def __init__(self, processor: LiraProcessor):
        self.eos = processor.tokenizer.eos_token or ""
        self.extra, self.open = "", False
        try:
            asked, opened, answered, followed = (
                processor.chat_prompt(turns, add_generation_prompt=flag)[1].replace(processor.prefix_token, "")
                for turns, flag in (
                    ([_QUESTION], False),
                    ([_QUESTION], True),
                    ([_QUESTION, _ANSWER], False),
                    ([_QUESTION, _ANSWER, _QUESTION], False),
                )
            )
        except _TEMPLATE_ERRORS:
            return  # a template that wants other turns than these
        if asked == opened:
            # It opens an answer whether asked to or not, after the last one too: that is no part of what is learned.
            extra = answered[len(os.path.commonprefix([answered, followed])) :]
            self.extra = extra if asked.endswith(extra) else ""
        tail = answered.removesuffix(self.extra).rpartition(_ANSWER["content"])
        self.open = bool(tail[1]) and not tail[2].strip()
        if self.open and not self.eos:
            raise ValueError(
                "got a chat template that ends an answer with nothing, and a tokenizer without an end of text; "
                "expected one of them, which the model learns to stop with; set processor.tokenizer.eos_token"
            )

    def __call__(self, completion: str) -> str:
        """A completion as it is learned: it has to end with something that isn't mere space."""
        completion = completion.removesuffix(self.extra) if self.extra else completion
        return completion.rstrip() + self.eos if self.open else completion


def _check_processor(processor: LiraProcessor, conversations: Sequence[Conversation]) -> None:
    if not processor.prefix_length:
        raise ValueError(
            "got a processor without a base LM's tokenizer; expected that of a generation checkpoint; give "
            "LiraProcessor.from_backbones a base"
        )
    if any(item.messages is not None for item in conversations) and not processor.chat_template:
        raise ValueError(
            "got messages, and the base LM's tokenizer has no chat template; expected one to write them with; set "
            "processor.chat_template, or write prompt and completion as text"
        )
    if any(item.messages is None for item in conversations) and not processor.tokenizer.eos_token:
        raise ValueError(
            "got plain completions, and the base LM's tokenizer has no end of text; expected one, which the model "
            "learns to stop with; set processor.tokenizer.eos_token"
        )


def _written(item: Conversation, processor: LiraProcessor, ending: _Ending) -> tuple[str, str, str]:
    """Text, prompt and completion of a conversation, as the base LM's chat template writes them."""
    if item.messages is None:
        return _plain(item, processor)
    try:
        text, prompt = processor.chat_prompt(item.messages[:-1])
        whole = processor.chat_prompt(item.messages, add_generation_prompt=False)[1]
    except _TEMPLATE_ERRORS as error:
        expected, fix = "turns that the base LM's chat template can write", "mend or delete the row"
        raise _RowError("messages", f"{type(error).__name__}: {error}", expected, fix) from error
    count = prompt.count(processor.prefix_token)
    if count != 1:
        expected = "one: a chat template that writes the user's last turn"
        raise _RowError("messages", f"{count} placeholders in the prompt", expected, "take another chat template")
    if not whole.startswith(prompt):
        same = len(os.path.commonprefix([prompt, whole]))
        start = max(same - 20, 0)
        raise _RowError(
            "messages",
            f"a prompt that goes on with {shorten(prompt[start:])} where the whole conversation has "
            f"{shorten(whole[start : start + 80])}",
            "a chat template that writes an answer behind the same prompt that it is asked with",
            "take a chat template that does, or write prompt and completion as text",
        )
    completion = ending(whole[len(prompt) :])
    if not completion.strip():
        expected = "what the chat template writes for the last answer"
        raise _RowError("messages", "nothing", expected, "take a chat template that writes answers out")
    return text, prompt, completion


def _plain(item: Conversation, processor: LiraProcessor) -> tuple[str, str, str]:
    """Text, prompt and completion, as they are; with the placeholder and the end of text."""
    prompt, completion, token = item.prompt or "", item.completion or "", processor.prefix_token
    if prompt.count(token) > 1:
        expected = "it once, where the soft prefix goes, or not at all"
        raise _RowError("prompt", f"the placeholder {prompt.count(token)} times", expected, "remove the others")
    text = item.text if item.text is not None else prompt.replace(token, "")
    # A completion that happens to hold the placeholder says nothing of where the prefix goes.
    completion = completion.replace(token, "").removesuffix(processor.tokenizer.eos_token)
    return text, prompt if token in prompt else token + prompt, completion + processor.tokenizer.eos_token


def _of_length(rows: list[dict[str, Any]], processor: LiraProcessor, max_length: int) -> list[dict[str, Any]]:
    """Rows of at most that many tokens; the others are logged."""
    kept: list[dict[str, Any]] = []
    dropped: list[int] = []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        pairs = tokenize_rows(processor, [row["prompt"] for row in chunk], [row["completion"] for row in chunk])
        for row, (prompt, completion) in zip(chunk, pairs, strict=True):
            if len(prompt) + len(completion) <= max_length:
                kept.append(row)
            else:
                dropped.append(row["row"])
    if dropped:
        shown = ", ".join(map(str, dropped[:_SHOWN_ROWS])) + (", ..." if len(dropped) > _SHOWN_ROWS else "")
        logger.warning(
            "left out %d of %d conversations, which have more than %d tokens with the soft prefix (rows %s); to keep "
            "them, raise max_sequence_length",
            len(dropped),
            len(rows),
            max_length,
            shown,
        )
    return kept
