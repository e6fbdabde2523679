"""What LiRA costs while it writes: decode speed and time to first token, against the base LM alone, on one thread.

Random Llama shapes on the CPU, greedy, with a cache. The base alone has a prompt of the same length, soft prefix
included; LiRA's first token is held against one pass of g over the text, one of h over the candidates and the base's
first token, one after another; once as it stands and once with compiled heads. All take turns, now one first, now the
other, so that each ratio is between runs a moment apart.
Times are the one thread's own, which on an idle machine is the time that passes. Writes
benchmarks/results/generation.json.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402
from machine import machine_facts  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import (  # noqa: E402
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lira_hf import LiraForCausalLM, __version__  # noqa: E402


DECODE_TARGET, FIRST_TARGET = 0.95, 1.05
BINS, CANDIDATES = 8, 3
TEXT = 32  # tokens of a text, and of a candidate
LARGE_TOKENS = 8  # that a large base writes, at a fifth of a second each


class Shape(NamedTuple):
    """Layers, width, heads and vocabulary of the base; layers, width and heads of g and h; rows x tokens of the
    prompts, without the prefix."""

    base: tuple[int, int, int, int]
    g: tuple[int, int, int]
    h: tuple[int, int, int]
    cells: tuple[str, ...]


CELLS = ("1x64", "1x256", "8x64")
SHAPES = {
    "6x256": Shape((6, 256, 4, 8192), (6, 256, 4), (6, 256, 4), CELLS),
    "12x512": Shape((12, 512, 8, 32000), (6, 384, 6), (6, 384, 6), CELLS),
    # As large as the smallest that users wrap, and their usual encoders; slow on one thread, so one cell.
    "28x1024": Shape((28, 1024, 16, 32000), (24, 1024, 16), (12, 768, 12), CELLS[:1]),
}
console = Console(width=118)


class Clock(StoppingCriteria):
    """Notes when each token was there."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        self.times.append(time.thread_time())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def build(shape: str) -> LiraForCausalLM:
    """Random parts of a shape, joined."""
    torch.manual_seed(0)
    (layers, width, heads, vocabulary), *encoder_shapes, _ = SHAPES[shape]
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=None,
        )
    )
    encoders = [
        BertModel(
            BertConfig(
                vocab_size=vocabulary,
                hidden_size=encoder_width,
                intermediate_size=4 * encoder_width,
                num_hidden_layers=encoder_layers,
                num_attention_heads=encoder_heads,
            )
        )
        for encoder_layers, encoder_width, encoder_heads in encoder_shapes
    ]
    model = LiraForCausalLM.from_backbones(base, *encoders, num_bins=BINS, hidden_size=min(encoder_shapes[0][1], 512))
    model.generation_config.eos_token_id = None  # every run writes all of its tokens
    return model.eval()


def inputs(model: LiraForCausalLM, batch: int, length: int) -> tuple[dict[str, Tensor], Tensor]:
    """LiRA's tensors, and a prompt of the same length for the base alone."""
    generator = torch.Generator().manual_seed(1)

    def draw(*size: int) -> Tensor:
        return torch.randint(5, 4000, size, generator=generator)

    slots = torch.full((batch, model.config.prefix_length), model.config.prefix_token_id)
    prompt = torch.cat([slots, draw(batch, length)], dim=1)
    roads = {"source_ids": draw(batch, TEXT), "anchor_ids": draw(batch, CANDIDATES, TEXT)}
    masks = {name.replace("ids", "mask"): torch.ones_like(value) for name, value in roads.items()}
    lira = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), **roads, **masks}
    return lira, torch.cat([draw(batch, model.config.prefix_length), prompt[:, -length:]], dim=1)


def with_compiled_heads(model: LiraForCausalLM) -> LiraForCausalLM:
    """The same backbones under compiled copies of the heads."""
    twin = LiraForCausalLM(model.config, model.lira.encoder, model.lira.anchor, model.language_model)
    twin.load_state_dict(model.state_dict())
    twin.generation_config = model.generation_config
    twin.eval().compile_heads()
    return twin


def timed(call: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def generation(model: Any, given: dict[str, Tensor], tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and to each of the others."""
    clock = Clock()
    start = time.thread_time()
    model.generate(**given, max_new_tokens=tokens, do_sample=False, stopping_criteria=StoppingCriteriaList([clock]))
    first, *_, last = clock.times
    return first - start, (last - first) / (len(clock.times) - 1)


@torch.no_grad()
def measure(shape: str, batch: int, length: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Medians, and the medians of each round's ratios."""
    model = build(shape)
    compiled = with_compiled_heads(model)
    lira, plain = inputs(model, batch, length)
    base, encoder, anchor = model.language_model, model.lira.encoder, model.lira.anchor
    alone = {"input_ids": plain, "attention_mask": torch.ones_like(plain)}
    base.generation_config.eos_token_id = None
    source = {"input_ids": lira["source_ids"], "attention_mask": lira["source_mask"]}
    english = {
        "input_ids": lira["anchor_ids"].flatten(0, 1),
        "attention_mask": lira["anchor_mask"].flatten(0, 1),
    }
    features = {
        "source_features": model.lira.encode_source(lira["source_ids"], lira["source_mask"]),
        "anchor_features": model.lira.encode_anchor(lira["anchor_ids"], lira["anchor_mask"]),
    }

    def apart() -> tuple[float, ...]:
        encoders = timed(lambda: encoder(**source)), timed(lambda: anchor(**english))
        return *encoders, *generation(base, alone, tokens)

    ways: dict[tuple[str, ...], Callable[[], tuple[float, ...]]] = {
        ("first", "step"): lambda: generation(model, lira, tokens),
        ("compiled_first", "compiled_step"): lambda: generation(compiled, lira, tokens),
        ("g", "h", "base_first", "base_step"): apart,
        # LiRA's own layers: Arca, fusion and projector, which are beyond the sum.
        ("own",): lambda: (timed(lambda: model.find_prefix(lira["input_ids"], **features)),),
        ("compiled_own",): lambda: (timed(lambda: compiled.find_prefix(lira["input_ids"], **features)),),
    }
    taken: dict[str, list[float]] = {name: [] for names in ways for name in names}
    for number in range(rounds + 1):
        for names, way in list(ways.items())[:: -1 if number % 2 else 1]:
            values = way()
            if number:  # the first round is to warm up
                for name, value in zip(names, values, strict=True):
                    taken[name].append(value)
    decode = [base_step / step for base_step, step in zip(taken["base_step"], taken["step"], strict=True)]
    parts = [sum(three) for three in zip(*(taken[name] for name in ("base_first", "g", "h")), strict=True)]
    first, short = ([a / b for a, b in zip(taken[name], parts, strict=True)] for name in ("first", "compiled_first"))
    beyond = [mine - other for mine, other in zip(taken["first"], parts, strict=True)]
    milliseconds = {f"{name}_ms": round(1e3 * statistics.median(values), 3) for name, values in taken.items()}
    return {
        **milliseconds,
        "tokens_per_second": round(batch / statistics.median(taken["step"]), 1),
        "base_tokens_per_second": round(batch / statistics.median(taken["base_step"]), 1),
        "decode_relative_to_base": round(statistics.median(decode), 4),
        "first_relative_to_sum": round(statistics.median(first), 4),
        "compiled_first_relative_to_sum": round(statistics.median(short), 4),
        "first_beyond_sum_ms": round(1e3 * statistics.median(beyond), 3),
        "new_tokens": tokens,
        "prefix_tokens": model.config.prefix_length,
        "rounds": rounds,
        "met": statistics.median(decode) >= DECODE_TARGET and statistics.median(first) <= FIRST_TARGET,
    }


def facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """The machine, and what was run on it."""
    return machine_facts(
        text_tokens=TEXT,
        candidates=CANDIDATES,
        rounds=arguments.rounds,
        torch=torch.__version__,
        transformers=transformers.__version__,
        lira_hf=__version__,
        threads=1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", choices=sorted(SHAPES), default=list(SHAPES))
    parser.add_argument("--cells", nargs="*", help="rows x tokens of the prompt, without the prefix")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "generation.json")
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error(f"--rounds is {arguments.rounds}; expected 5 or more; a median of fewer says little")
    if arguments.tokens < 2:
        parser.error(f"--tokens is {arguments.tokens}; expected 2 or more; the first is no decoding")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    written = {"machine": facts(arguments), "targets": {"decode": DECODE_TARGET, "first": FIRST_TARGET}}
    first = ("first ms", "base + g + h", "own", "relative", "compiled")
    table = Table("base", "prompts", "tokens/s", "base's", "relative", *first)
    results: dict[str, Any] = {}
    for shape in arguments.shapes:
        for cell in arguments.cells or SHAPES[shape].cells:
            batch, length = map(int, cell.split("x"))
            tokens = min(arguments.tokens, LARGE_TOKENS) if SHAPES[shape].base[1] >= 1024 else arguments.tokens
            one = measure(shape, batch, length, tokens, arguments.rounds)
            results[f"{shape}, {batch} x {length}"] = one
            parts = " + ".join(f"{one[f'{name}_ms']:.1f}" for name in ("base_first", "g", "h"))
            own = f"{one['own_ms']:.1f}"
            speeds = (f"{one['tokens_per_second']:.0f}", f"{one['base_tokens_per_second']:.0f}")
            names = ("decode_relative_to_base", "first_relative_to_sum", "compiled_first_relative_to_sum")
            decode, first, short = (f"{one[name]:.3f}" for name in names)
            table.add_row(shape, cell, *speeds, decode, f"{one['first_ms']:.1f}", parts, own, first, short)
    console.print(table)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(written | {"results": results}, indent=2) + "\n", encoding="utf-8")
    console.print(f"written: {arguments.output}")
    if missed := [name for name, one in results.items() if not one["met"]]:
        console.print(f"missed in {', '.join(missed)}: decode >= {DECODE_TARGET}, first token <= {FIRST_TARGET}")


if __name__ == "__main__":
    main()
