"""The soft prefix in the base LM's prompt: put where its placeholder tokens stand."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import LogitsProcessor


__all__ = [
    "REGISTERING",
    "NeverPlaceholder",
    "RoomForPlaceholder",
    "WithoutPlaceholders",
    "check_placeholders",
    "inject_prefix",
    "merge_prefix",
    "place_prefix",
    "prefix_attention",
    "prompt_positions",
]


# Torch numbers hooks without a lock: two threads could be given the same number, and one hook would be lost.
REGISTERING = threading.Lock()


def check_placeholders(input_ids: torch.Tensor, token_id: int, length: int) -> None:
    """
    Raises:
        ValueError: Where a row has another number of placeholders than the prefix has soft tokens.
    """
    counts = (input_ids == token_id).sum(-1)
    wrong = (counts != length).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"row {row} of input_ids has {int(counts[row])} placeholder tokens (id {token_id}); expected {length}, "
            "one per soft token of the prefix; prepare the prompt with the checkpoint's own AutoProcessor"
        )


def _place(ids: torch.Tensor, embeds: torch.Tensor, prefix: torch.Tensor, token_id: int, used: torch.Tensor | None):
    """`embeds` with the prefix at the placeholders, and how many each row has had so far. Nothing waits for the
    GPU."""
    copies, rest = divmod(len(ids), len(prefix))
    if rest:
        raise ValueError(
            f"the base LM looks up {len(ids)} rows of tokens and the prefix has {len(prefix)}; expected a multiple of "
            "it; continuous batching is not supported: use generate"
        )
    mask = ids == token_id
    count = mask.sum(-1)
    # A prompt may come in several chunks; one that would run over the end is a new pass over the whole prompt.
    start = torch.zeros_like(count) if used is None else torch.where(used + count > prefix.shape[1], 0, used)
    index = (mask.cumsum(-1) - 1 + start.unsqueeze(-1)).clamp(0, prefix.shape[1] - 1)
    prefix = prefix.to(embeds).repeat_interleave(copies, dim=0)
    soft = prefix.gather(1, index.unsqueeze(-1).expand(-1, -1, prefix.shape[-1]))
    return torch.where(mask.unsqueeze(-1), soft, embeds), (start + count) % prefix.shape[1]


def merge_prefix(input_ids: torch.Tensor, prefix: torch.Tensor, token_id: int, embedding: nn.Module) -> torch.Tensor:
    """
    Ready embeddings of a whole prompt, without a hook: for compiling and exporting.

    Args:
        input_ids (`torch.Tensor` of shape `(batch, tokens)`): With the placeholders.
        prefix (`torch.Tensor` of shape `(batch, slots, D)`): The soft tokens.
        token_id (`int`): The placeholder.
        embedding (`nn.Module`): The base's input embedding.

    Returns:
        `torch.Tensor` of shape `(batch, tokens, D)`.
    """
    embeds = embedding(input_ids.masked_fill(input_ids == token_id, 0))
    return place_prefix(input_ids, embeds, prefix, token_id)


def place_prefix(input_ids: torch.Tensor, embeds: torch.Tensor, prefix: torch.Tensor, token_id: int) -> torch.Tensor:
    """`embeds` `(batch, tokens, D)` with the soft tokens where `input_ids` `(batch, tokens)` holds placeholders."""
    return _place(input_ids, embeds, prefix, token_id, None)[0]


@contextmanager
def inject_prefix(
    embedding: nn.Module, prefix: torch.Tensor | None, token_id: int, width: int, checked: bool = True
) -> Iterator[None]:
    """
    While it lasts, and in this thread alone, looking up the placeholder gives the soft tokens, in their order: so that
    prompts, masks, caches, beams and assistants stay with the base's own `generate`.

    Args:
        embedding (`nn.Module`): The base's input embedding.
        prefix (`torch.Tensor` of shape `(batch, slots, D)`, *optional*):
            The soft tokens, shared by a row's beams. `None`: the look-up is only made legal, for an assistant model.
        token_id (`int`): The placeholder; it may lie beyond the vocabulary.
        width (`int`): Tokens of the prompt. Once that many were looked up, single ones are what follows it.
        checked (`bool`, *optional*, defaults to `True`): Raise where nothing was looked up meanwhile.

    Raises:
        RuntimeError: Where the base looks its tokens up elsewhere, and so has not seen the prefix.
    """
    thread = threading.get_ident()
    asked: list[torch.Tensor | None] = []
    used: list[torch.Tensor] = []
    seen = [0]

    def before(module, args):
        # What the library compiles are decoded tokens, and none of them is a placeholder.
        if torch.compiler.is_compiling() or threading.get_ident() != thread:
            return None
        if not args:
            raise RuntimeError(
                f"the base LM calls its input embedding ({type(module).__name__}) by keyword; expected its ids as "
                "the first argument, which is where the soft prefix is put in"
            )
        ids = args[0]
        follows = ids.shape[-1] == 1 and width <= seen[0]
        seen[0] += ids.shape[-1]
        asked.append(None if follows or prefix is None else ids)
        if follows:
            return None  # one decoded token, which costs nothing more than in the bare base
        return (ids.masked_fill(ids == token_id, 0), *args[1:])

    def after(module, args, output):
        if torch.compiler.is_compiling() or threading.get_ident() != thread:
            return None
        if (ids := asked.pop()) is None:
            return None
        before_it = used[-1] if used and len(used[-1]) == len(ids) else None
        output, after_it = _place(ids, output, prefix, token_id, before_it)
        used[:] = [after_it]
        return output

    with REGISTERING:
        handles = [embedding.register_forward_pre_hook(before), embedding.register_forward_hook(after)]
    try:
        yield
        if prefix is not None and checked and not used:
            raise RuntimeError(
                f"the base LM never called its input embedding ({type(embedding).__name__}), so it has not seen the "
                "soft prefix; expected get_input_embeddings() to be the module that looks its tokens up"
            )
    finally:
        with REGISTERING:
            for handle in handles:
                handle.remove()


def prefix_attention(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, prefix_mask: torch.Tensor, token_id: int
) -> torch.Tensor:
    """
    The base's attention mask without the slots that hold nothing: an absent road or bin is masked, never zero-filled.

    Args:
        input_ids (`torch.Tensor` of shape `(batch, tokens)`): With the placeholders.
        attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): `None`: all tokens.
        prefix_mask (`torch.Tensor` of shape `(batch, slots)`): 1 for slots that hold something.

    Returns:
        `torch.Tensor` of shape `(batch, tokens)`, long.
    """
    mask = input_ids == token_id
    index = (mask.cumsum(-1) - 1).clamp(min=0)
    seen = ~mask | prefix_mask.to(input_ids.device).bool().gather(1, index)
    return seen.long() if attention_mask is None else attention_mask * seen.to(attention_mask.dtype)


def prompt_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions `(batch, tokens)` that count attended tokens alone, as `generate` counts them."""
    return (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 0)


class NeverPlaceholder(LogitsProcessor):
    """The placeholder is never generated; for one within the vocabulary."""

    def __init__(self, token_id: int):
        self.token_id = token_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.token_id < scores.shape[-1]:
            scores = scores.clone()
            scores[:, self.token_id] = float("-inf")
        return scores


class WithoutPlaceholders(LogitsProcessor):
    """Another processor over a prompt whose placeholders are overwritten by its last token, which it has seen anyway:
    penalties read the scores at the prompt's ids, and a placeholder may lie beyond them."""

    def __init__(self, processor: LogitsProcessor, token_id: int):
        self.processor, self.token_id = processor, token_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return self.processor(torch.where(input_ids == self.token_id, input_ids[:, -1:], input_ids), scores)


class RoomForPlaceholder(LogitsProcessor):
    """
    Prompt look-up reads, off made-up scores, that of each token it would copy from the prompt: for a placeholder
    beyond the vocabulary there has to be one, minus infinity. The made-up scores are all the same but for what
    processors before this one forbid, which a model's own never are.
    """

    def __init__(self, token_id: int):
        self.token_id = token_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        usual = scores.median()
        if not bool(usual.isfinite()) or bool((scores == usual).float().mean() <= 0.5):
            return scores
        room = self.token_id + 1 - scores.shape[-1]
        return torch.nn.functional.pad(scores, (0, room), value=float("-inf"))
