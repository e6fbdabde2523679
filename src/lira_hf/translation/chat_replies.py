"""What a chat model replied, read as data: JSON wherever it stands, one more try, refusals told apart (ours)."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .base import Failure


if TYPE_CHECKING:
    from .chat import ChatModel, Conversation, Reply

__all__ = ["ask_for", "json_values", "request"]

T = TypeVar("T")
# A reply is short; what is longer, or has more brackets, is noise that must not cost time.
LONGEST = 64_000
_MOST_STARTS = 300
_OPENING = re.compile(r"[\[{]")
_REFUSAL = re.compile(
    r"\b(i['’]?m sorry|i am sorry|i apologi[sz]e|i (can['’]?t|cannot|can not|won['’]?t|will not)"
    r"|i['’]?m (unable|not able)|i am (unable|not able)|unable to (help|assist|comply)|as an ai)\b",
    re.IGNORECASE,
)
_REMINDER = (
    "\n\nAn earlier reply to this could not be read. Reply with that JSON object alone: no other words, no code "
    "fence, the keys in English as above, numbers as digits."
)


def request(instruction: str, data: Mapping[str, Any]) -> "Conversation":
    """
    A conversation that keeps instruction and data apart: the data is JSON in a message of its own.

    Args:
        instruction (`str`): What to do; never holds text from a corpus.
        data (`Mapping[str, Any]`): JSON values, encoded so that no text can close its string.

    Returns:
        `Conversation`: A system and a user message.
    """
    return [
        {"role": "system", "content": instruction},
        {"role": "user", "content": json.dumps(data, ensure_ascii=False)},
    ]


def without_thoughts(text: str) -> str:
    """The reply after a reasoning model's thoughts; nothing if it is still thinking where it was cut off."""
    if "</think>" in text:
        return text.rpartition("</think>")[2][:LONGEST]
    return "" if text.lstrip().startswith("<think>") else text[:LONGEST]


def json_values(text: str) -> list[Any]:
    """
    The outermost JSON objects and arrays of a text, in order, with anything around them left out.

    Of one that is cut off or broken, the whole ones inside it count.

    Args:
        text (`str`): Any text.

    Returns:
        `list[Any]`: Dictionaries and lists, possibly none.
    """
    decoder = json.JSONDecoder()
    values, position = [], 0
    for _ in range(_MOST_STARTS):
        opening = _OPENING.search(text, position)
        if opening is None:
            break
        try:
            value, position = decoder.raw_decode(text, opening.start())
            values.append(value)
        except (ValueError, RecursionError):  # also a number of more digits than Python reads
            position = opening.end()
    return values


def ask_for(
    chat: "ChatModel",
    conversations: Sequence["Conversation"],
    parse: Callable[[int, "Reply"], T | None],
    *,
    language: str,
    schema: Mapping[str, Any],
    on_reask: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, T | Failure]]:
    """
    Ask, read each reply as it arrives, and ask once more where nothing could be read.

    Args:
        chat (`ChatModel`): Who is asked.
        conversations (`Sequence[Conversation]`): From [`request`].
        parse (`Callable[[int, Reply], T | None]`): Position and reply to what is wanted; `None` if it isn't there.
        language (`str`): Language tag of the texts, for the counts.
        schema (`Mapping[str, Any]`): JSON schema of the reply.
        on_reask (`Callable[[int], None]`, *optional*): Called with the position of what is asked again.

    Returns:
        `Iterator[tuple[int, T | Failure]]`: Each position once, those that were asked again last.
    """
    again: list[int] = []
    for position, reply in chat.answer(conversations, language=language, schema=schema):
        parsed = reply if isinstance(reply, Failure) else parse(position, reply)
        if parsed is None:
            again.append(position)
        else:
            yield position, parsed
    if not again:
        return
    for position in again:
        if on_reask is not None:
            on_reask(position)
    second = [_reminded(conversations[position]) for position in again]
    for number, reply in chat.answer(second, language=language, schema=schema):
        position = again[number]
        parsed = reply if isinstance(reply, Failure) else parse(position, reply)
        # A failure is never None.
        yield position, _unreadable(reply) if parsed is None else parsed  # type: ignore[arg-type]


def _reminded(conversation: "Conversation") -> "Conversation":
    system, *rest = conversation
    return [{**system, "content": system["content"] + _REMINDER}, *rest]


def _unreadable(reply: "Reply") -> Failure:
    text = without_thoughts(reply.text).strip()
    if reply.refused or _REFUSAL.search(text[:400]):
        return Failure("refused", f"the model refused twice: {text!r:.120}", replied=True)
    if reply.truncated:
        return Failure(
            "truncated", f"the reply ends too early: {text[-80:]!r}; raise the chat model's max_tokens", replied=True
        )
    return Failure("unusable", f"two replies in a row that could not be read, the last {text!r:.120}", replied=True)
