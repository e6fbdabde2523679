"""Greedy and beam search of our own, by a full forward pass without a cache for each token, and their comparison.

Nothing of `generate` is used. A `Scorer` gives the logits that follow each of several id rows of one length.
"""

from collections.abc import Callable

import torch


Scorer = Callable[[torch.Tensor], torch.Tensor]

NEVER = float("-inf")
TIE = 1e-5


def greedy_oracle(score: Scorer, prompt: list[int], steps: int, banned: int | None) -> list[int]:
    """What greedily follows `prompt`."""
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(_without(score(torch.tensor([ids])), banned)[0].argmax()))
    return ids[len(prompt) :]


def beam_oracle(
    score: Scorer, prompt: list[int], steps: int, beams: int, banned: int | None
) -> list[tuple[float, list[int]]]:
    """The `beams` likeliest continuations of `prompt` that a beam search keeps, with their summed
    log-probabilities."""
    kept: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(steps):
        ids = torch.tensor([prompt + new for _, new in kept])
        # Like the library's, the ban comes after the softmax: what is left is not normalised again.
        logs = _without(score(ids).float().log_softmax(-1), banned)
        longer = [
            (total + float(log), [*new, int(token)])
            for (total, new), row in zip(kept, logs, strict=True)
            for log, token in zip(*row.topk(beams), strict=True)
        ]
        kept = sorted(longer, key=lambda beam: -beam[0])[:beams]
    return kept


def sequence_score(score: Scorer, prompt: list[int], new: list[int]) -> float:
    """The summed log-probability of `new` behind `prompt`."""
    total = 0.0
    for place, token in enumerate(new):
        logs = score(torch.tensor([prompt + new[:place]])).float().log_softmax(-1)
        total += float(logs[0, token])
    return total


def compare_greedy(
    score: Scorer, prompt: list[int], found: list[int], wanted: list[int], banned: int | None
) -> tuple[bool, str | None]:
    """Whether `found` parts from `wanted` at a tie, and what is wrong, if it parts elsewhere."""
    if found == wanted:
        return False, None
    place = next((at for at, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1]), 0)
    logits = _without(score(torch.tensor([prompt + wanted[:place]])), banned)[0]
    gap = float(logits[wanted[place]] - logits[found[place]])
    if gap <= TIE:
        return True, None
    return False, f"generate gave {found}, the oracle {wanted}; they part at step {place}, {gap:.3g} apart"


def compare_beams(
    score: Scorer, prompt: list[int], found: list[list[int]], wanted: list[tuple[float, list[int]]]
) -> tuple[int, str | None]:
    """How many of `found` differ from `wanted` at equal scores, and what is wrong, if one differs otherwise."""
    ties = 0
    for place, (new, (total, expected)) in enumerate(zip(found, wanted, strict=False)):
        if new == expected:
            continue
        gap = abs(total - sequence_score(score, prompt, new))
        if not gap <= TIE:
            return ties, f"beam {place} is {new}, the oracle's {expected}; their scores are {gap:.3g} apart"
        ties += 1
    return ties, None


def _without(values: torch.Tensor, banned: int | None) -> torch.Tensor:
    if banned is None:
        return values
    values = values.clone()
    values[:, banned] = NEVER
    return values
