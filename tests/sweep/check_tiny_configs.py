"""Proves, type by type and without LiRA, that the tiny models of `tiny_configs` run: forward, backward, generation.

python tests/sweep/check_tiny_configs.py [types ...] [--limit 120]
"""

import argparse
import multiprocessing
import sys
import time
import traceback
import warnings
from multiprocessing.connection import Connection

import torch
from tiny_configs import DECODER_ONLY, PADDING_MATTERS, SKIPPED, UNCACHED, build
from transformers import PreTrainedModel
from transformers.utils import logging


PROMPT = [7, 21, 5, 64, 33, 12, 50]
OTHER = [71, 8, 45, 19, 86, 27, 50]
NEW_TOKENS = 5


def stepwise(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Greedy continuation of `ids`, by a full forward pass without a cache for each token."""
    for _ in range(NEW_TOKENS):
        logits = model(input_ids=ids, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids


def gradient_at_embeddings(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Gradient of a weighted sum of the logits at what the input embedding layer gave out."""
    held: list[torch.Tensor] = []

    def hold(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> None:
        output.retain_grad()
        held.append(output)

    handle = model.get_input_embeddings().register_forward_hook(hold)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    if len(held) != 1:
        raise RuntimeError(f"the input embedding layer ran {len(held)} times, expected once")
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    if held[0].grad is None:
        raise RuntimeError("no gradient reached the input embeddings")
    return held[0].grad


def generate(model: PreTrainedModel, prompt: list[int], padding: int) -> tuple[list[int], torch.Tensor]:
    """What `generate` adds to `prompt` behind `padding` columns, and the logits of its first new token."""
    ids = torch.tensor([[0] * padding + prompt])
    mask = torch.tensor([[0] * padding + [1] * len(prompt)])
    output = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        num_beams=1,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return output.sequences[0, ids.shape[1] :].tolist(), output.logits[0][0]


def examine(model_type: str) -> tuple[int, str]:
    """The parameters of the tiny `model_type`, and what is wrong with it, or "ok"."""
    model = build(model_type)
    size = sum(weight.numel() for weight in model.parameters())
    gradient = gradient_at_embeddings(model, torch.tensor([PROMPT]))
    if not torch.isfinite(gradient).all():
        return size, "the gradient is not finite"
    if not gradient.abs().amax(dim=-1).gt(0).all():
        return size, "some position has no gradient"
    with torch.no_grad():
        expected, other = (stepwise(model, torch.tensor([row]))[0, len(row) :].tolist() for row in (PROMPT, OTHER))
    if expected == other:
        return size, "two prompts with one last token go on alike"
    new, logits = generate(model, PROMPT, padding=0)
    if new != expected:
        return size, f"generate gave {new}, expected {expected}"
    new, padded = generate(model, PROMPT, padding=3)
    differs = new != expected or ((padded - logits).abs().max() / logits.std()).item() > 1e-3
    if differs != (model_type in PADDING_MATTERS):
        return size, f"left padding {'matters' if differs else 'does not matter'}, and PADDING_MATTERS says otherwise"
    if model_type in UNCACHED:
        model.generation_config.use_cache = True
        if generate(model, PROMPT, padding=0)[0] == expected:
            return size, "cached generation is right, and UNCACHED says otherwise"
    return size, "ok"


def _child(model_type: str, answers: Connection) -> None:
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    try:
        answers.send(examine(model_type))
    except Exception as error:  # the reason is the answer
        frame = traceback.extract_tb(error.__traceback__)[-1]
        answers.send((0, f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})".replace("\n", " ")))


def check(model_type: str, limit: float) -> bool:
    """Examines `model_type` in a process of its own for at most `limit` seconds, and writes a line about it."""
    start = time.monotonic()
    context = multiprocessing.get_context("fork")  # transformers is imported once, not once a type
    answers, answer = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(model_type, answer))
    process.start()
    answer.close()
    size, verdict = 0, f"no answer within {limit:.0f} s"
    try:
        if answers.poll(limit):
            size, verdict = answers.recv()
    except EOFError:
        verdict = "the process died"
    process.kill()
    process.join()
    if model_type in SKIPPED:
        verdict = f"{verdict} [skipped: {SKIPPED[model_type]}]"
    sys.stdout.write(f"{model_type:24} {size:>9,} {time.monotonic() - start:6.1f} s  {verdict}\n")
    sys.stdout.flush()
    return verdict == "ok"


def main() -> int:
    """Checks the types named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", default=DECODER_ONLY, help="model types; all by default")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for a type")
    options = parser.parse_args()
    torch.set_num_threads(1)
    passed = sum(check(model_type, options.limit) for model_type in options.types)
    sys.stdout.write(f"{passed} of {len(options.types)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
