"""Seeded samples and comparable scores of an encoder-decoder's hypotheses, whatever the batch they are in (ours)."""

import hashlib
from collections.abc import Sequence

import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel


__all__ = ["SeededSampling", "counted_tokens", "hypothesis_scores"]

# Logits held at once when hypotheses are scored: 256 MB in float32. A vocabulary of 256,000 needs the bound.
_LOGIT_CELLS = 64_000_000


class SeededSampling(LogitsProcessor):
    """
    Makes a greedy search a sampler with random numbers of its own for each row.

    The likeliest token after Gumbel noise was added to logits / temperature is a draw from their softmax. So the rest
    of the batch and PyTorch's global generator have no part in the result.

    Args:
        rows (`Sequence[tuple[str, int]]`): Text and number of the sample, for each row of the batch.
        temperatures (`Sequence[float]`): Taken in turn by the samples of a text.
        top_k (`int`): Tokens to draw from.
        seed (`int`): Hashed with text and number.
    """

    def __init__(self, rows: Sequence[tuple[str, int]], temperatures: Sequence[float], top_k: int, seed: int):
        self._generators = [torch.Generator().manual_seed(_row_seed(seed, text, number)) for text, number in rows]
        self._temperatures = torch.tensor([temperatures[number % len(temperatures)] for _, number in rows])
        self._top_k = top_k

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits `(rows, vocabulary)` with minus infinity for all but the drawn token."""
        values, tokens = scores.float().topk(min(self._top_k, scores.shape[-1]), dim=-1)
        # Noise is drawn on the CPU, so that a seed means the same on every device.
        drawn = torch.stack([torch.rand(values.shape[-1], generator=generator) for generator in self._generators])
        noise = -torch.log(-torch.log(drawn.clamp(1e-20, 1 - 1e-7)))
        perturbed = values / self._temperatures.to(values.device)[:, None] + noise.to(values.device)
        chosen = tokens.gather(-1, perturbed.argmax(-1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)


def _row_seed(seed: int, text: str, number: int) -> int:
    digest = hashlib.blake2b(f"{seed}\0{number}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # a generator takes 63 bits


def hypothesis_scores(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], sequences: torch.Tensor, config: GenerationConfig
) -> torch.Tensor:
    """
    What a beam search would have given as score: the sum of the tokens' log-probabilities over length^penalty.

    Args:
        model (`PreTrainedModel`): An encoder-decoder.
        inputs (`dict[str, torch.Tensor]`): `input_ids` and `attention_mask` of shape `(rows, source tokens)`.
        sequences (`torch.Tensor` of shape `(rows, tokens)`): The decoder's tokens, start token first, padded.
        config (`GenerationConfig`): For the tokens with a meaning and the length penalty.

    Returns:
        `torch.Tensor` of shape `(rows,)`. A forced first token counts as certain; the end token counts.
    """
    targets = sequences[:, 1:]
    counted = counted_tokens(targets, config)
    lengths = counted.sum(-1).clamp(min=1)
    if config.forced_bos_token_id is not None:
        counted[:, 0] = False
    vocabulary = getattr(model.config, "decoder_vocab_size", None) or model.config.vocab_size
    chunk = max(1, _LOGIT_CELLS // (vocabulary * max(1, targets.shape[1])))
    sums = []
    for start in range(0, len(sequences), chunk):
        rows = slice(start, start + chunk)
        logits = model(
            input_ids=inputs["input_ids"][rows],
            attention_mask=inputs["attention_mask"][rows],
            decoder_input_ids=sequences[rows, :-1],
            use_cache=False,
        ).logits
        chances = logits.float().log_softmax(-1).gather(-1, targets[rows, :, None]).squeeze(-1)
        # Not a product: a token that was never counted may have a chance of minus infinity.
        sums.append(chances.masked_fill(~counted[rows], 0.0).sum(-1))
    penalty = 1.0 if config.length_penalty is None else config.length_penalty
    return torch.cat(sums) / lengths.float() ** penalty


def counted_tokens(targets: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """
    Tokens up to the first end token, with it; what follows is padding, which may be the same token (ours).

    Args:
        targets (`torch.Tensor` of shape `(rows, tokens)`): The decoder's tokens without the start token.
        config (`GenerationConfig`): For the end tokens.

    Returns:
        `torch.Tensor` of booleans of the same shape.
    """
    ends = config.eos_token_id
    ends = torch.tensor([] if ends is None else ends, device=targets.device).reshape(-1)
    is_end = torch.isin(targets, ends)
    return (is_end.cumsum(-1) - is_end.long()) == 0
