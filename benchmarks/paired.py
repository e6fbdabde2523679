"""What the benchmarks of speed share: ways that take turns, ratios of a round, random models, the written file."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import machine_facts
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from lira_hf import __version__


_BEFORE = machine_facts()  # the load is others', not this run's
RESULTS = Path(__file__).parent / "results"

Way = Callable[[], Any]


def options(name: str, description: str | None, rounds: int = 7) -> argparse.ArgumentParser:
    """`--rounds` and `--output`, which every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="of which medians are taken")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{name}.json")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; fewer than five rounds are refused."""
    found = parser.parse_args(arguments)
    if found.rounds < 5:
        parser.error(f"--rounds is {found.rounds}; expected 5 or more; a median of fewer says little")
    return found


def take_turns(
    ways: dict[str, Way], rounds: int, clock: Callable[[], float] = time.thread_time
) -> dict[str, list[float]]:
    """
    Seconds of each way in each round, after one round to warm up. They take turns, now one first, now the other, so
    that a ratio within a round is between runs a moment apart. The default clock is the one thread's own time, which
    on an idle machine is the time that passes.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in list(ways.items())[:: -1 if number % 2 else 1]:
            start = clock()
            way()
            if number:
                taken[name].append(clock() - start)
    return taken


def ratio(taken: dict[str, list[float]], one: str, other: str) -> float:
    """The median of the rounds' ratios."""
    pairs = zip(taken[one], taken[other], strict=True)
    return round(statistics.median(mine / theirs for mine, theirs in pairs), 4)


def milliseconds(taken: dict[str, list[float]]) -> dict[str, float]:
    """Medians."""
    return {f"{name}_ms": round(1e3 * statistics.median(values), 3) for name, values in taken.items()}


def write(output: Path, targets: dict[str, Any], results: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """Writes what was found beside the machine's facts, as they were before the run, and returns it."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "lira_hf": __version__}
    found = {"machine": {**_BEFORE, **facts, **versions}, "targets": targets, "results": results}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def random_encoder(layers: int, width: int, heads: int, vocabulary: int = 30522) -> BertModel:
    """A BERT of that shape with random weights, without a pooler."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    config = BertConfig(vocab_size=vocabulary, intermediate_size=4 * width, **sizes)
    return BertModel(config, add_pooling_layer=False).eval()


def random_base(layers: int, width: int, heads: int, vocabulary: int) -> LlamaForCausalLM:
    """A Llama of that shape with random weights that never ends a text by itself."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    config = LlamaConfig(vocab_size=vocabulary, intermediate_size=4 * width, **sizes, **special)
    base = LlamaForCausalLM(config).eval()
    base.generation_config.eos_token_id = None
    return base
