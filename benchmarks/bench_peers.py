"""What LiRA costs beside MindMerger's and LangBridge's mechanics: forward and backward a token, and generation.

The peers' packages don't run on current transformers, so what is measured are references of ours (peers.py) that do
what the papers describe, with plain parts of transformers, on the same base, encoder and texts. All are trained with
base and encoders frozen. A row is a foreign text, which LiRA and MindMerger also put into the prompt, and an answer;
"a token" is one of the text's or the answer's, which are the same for all. LiRA reads K candidates through h besides,
or has its features from the cache, as `lira train` does. Random weights, one thread; all take turns.
Writes benchmarks/results/peers.json.
"""

import os
from collections.abc import Callable
from typing import Any


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch  # noqa: E402
from paired import milliseconds, options, parse, random_base, random_encoder, ratio, take_turns, write  # noqa: E402
from peers import LangBridgeReference, MindMergerReference  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from lira_hf import LiraForCausalLM  # noqa: E402


TARGET = 1.0
BINS = 8
# layers, width, heads and vocabulary of the base; layers, width and heads of both encoders
SHAPES = {"6x256": ((6, 256, 4, 8192), (6, 256, 4)), "12x512": ((12, 512, 8, 32000), (6, 384, 6))}
console = Console(width=118)


def ragged(generator: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    """Ids and mask; rows are between three quarters of the width and the width long, padded on the right."""
    ids = torch.randint(5, 4000, shape, generator=generator)
    lengths = torch.randint(3 * shape[-1] // 4, shape[-1] + 1, shape[:-1], generator=generator)
    lengths[0] = shape[-1]
    return ids, (torch.arange(shape[-1]) < lengths[..., None]).long()


def padded_left(mask: Tensor, *values: Tensor) -> list[Tensor]:
    """A mask and what belongs to it, with the padding moved to the left, before LiRA's slots."""
    order = torch.argsort(mask, dim=1, stable=True)
    return [value.gather(1, order) for value in (mask, *values)]


def batch_of(model: LiraForCausalLM, rows: int, text: int, answer: int, most: int) -> dict[str, Any]:
    """The same rows for every way: the peers' tensors, LiRA's with up to `most` candidates, and the tokens counted."""
    draw = torch.Generator().manual_seed(1)
    source, source_mask = ragged(draw, rows, text)
    anchor, anchor_mask = ragged(draw, rows, most, text)
    prompt, prompt_mask = ragged(draw, rows, text)
    prompt, prompt_mask = prompt.flip(1), prompt_mask.flip(1)  # padded on the left, so that the answer follows
    reply = torch.randint(5, 4000, (rows, answer), generator=draw)
    ids, mask = torch.cat([prompt, reply], 1), torch.cat([prompt_mask, torch.ones_like(reply)], 1)
    labels = torch.cat([torch.full_like(prompt, -100), reply], 1)
    slots = torch.full((rows, model.config.prefix_length), model.config.prefix_token_id)
    rows_mask, rows_ids, rows_labels = padded_left(
        torch.cat([torch.ones_like(slots), mask], 1),
        torch.cat([slots, ids], 1),
        torch.cat([torch.full_like(slots, -100), labels], 1),
    )
    asked_mask, asked_ids = padded_left(
        torch.cat([torch.ones_like(slots), prompt_mask], 1), torch.cat([slots, prompt], 1)
    )
    roads = {"source_ids": source, "source_mask": source_mask}
    with torch.no_grad():
        features = {
            "source_features": model.lira.encode_source(source, source_mask),
            "anchor_features": model.lira.encode_anchor(anchor, anchor_mask),
        }
    return {
        "roads": roads,
        "anchor": (anchor, anchor_mask),
        "features": features,
        "peer": {**roads, "input_ids": ids, "attention_mask": mask, "labels": labels},
        "answer": {**roads, "input_ids": reply, "attention_mask": torch.ones_like(reply), "labels": reply},
        "asked": {**roads, "input_ids": prompt, "attention_mask": prompt_mask},
        "lira": {"input_ids": rows_ids, "attention_mask": rows_mask, "labels": rows_labels},
        "lira_asked": {"input_ids": asked_ids, "attention_mask": asked_mask},
        "tokens": int(prompt_mask.sum()) + reply.numel(),
    }


def trained(model: nn.Module, given: dict[str, Tensor]) -> Callable[[], None]:
    """Forward and backward of a batch."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def run() -> None:
        for weight in weights:
            weight.grad = None
        model(**given).loss.backward()

    return run


def candidates(batch: dict[str, Any], count: int) -> dict[str, Tensor]:
    """LiRA's tensors of the text and its first candidates."""
    ids, mask = batch["anchor"]
    return {**batch["roads"], "anchor_ids": ids[:, :count], "anchor_mask": mask[:, :count]}


def training_ways(parts: dict[str, Any], batch: dict[str, Any]) -> dict[str, Callable[[], None]]:
    """Forward and backward, by name."""
    lira, cached = parts["lira"], batch["features"]
    one = {"source_features": cached["source_features"], "anchor_features": cached["anchor_features"][:, :1]}
    return {
        "mindmerger": trained(parts["mindmerger"], batch["peer"]),
        "langbridge": trained(parts["langbridge"], batch["answer"]),
        "lira, K = 1": trained(lira, batch["lira"] | candidates(batch, 1)),
        "lira, K = 3": trained(lira, batch["lira"] | candidates(batch, 3)),
        "lira, K = 1, cached": trained(lira, batch["lira"] | one),
        "lira, K = 3, cached": trained(lira, batch["lira"] | cached),
    }


def writing_ways(parts: dict[str, Any], batch: dict[str, Any], tokens: int) -> dict[str, Callable[[], Any]]:
    """`generate`, greedy, that many tokens."""
    lira, how = parts["lira"], {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    given = {count: batch["lira_asked"] | candidates(batch, count) for count in (1, 3)}
    return {
        "mindmerger": lambda: parts["mindmerger"].generate(batch["asked"], **how),
        "langbridge": lambda: parts["langbridge"].generate(batch["roads"], **how),
        "lira, K = 1": lambda: lira.generate(**given[1], **how),
        "lira, K = 3": lambda: lira.generate(**given[3], **how),
    }


def measure(shape: str, rows: int, text: int, answer: int, rounds: int) -> dict[str, Any]:
    """Milliseconds, and what each is of MindMerger's in the same round."""
    base_shape, encoder_shape = SHAPES[shape]
    vocabulary = base_shape[-1]
    base, g, h = random_base(*base_shape), *(random_encoder(*encoder_shape, vocabulary) for _ in range(2))
    lira = LiraForCausalLM.from_backbones(base, g, h, num_bins=BINS)
    lira.generation_config.eos_token_id = None
    lira.freeze(arca=True).train()  # stage 2, as `lira train` runs it
    peers = {"mindmerger": MindMergerReference(base, g), "langbridge": LangBridgeReference(base, g)}
    parts, batch = {"lira": lira, **peers}, batch_of(lira, rows, text, answer, 3)
    found: dict[str, Any] = {"tokens": batch["tokens"]}
    ways = {"training": training_ways(parts, batch), "generation": writing_ways(parts, batch, answer)}
    for name, some in ways.items():
        if name == "generation":
            lira.eval()
        taken = take_turns(some, rounds)
        found[name] = milliseconds(taken)
        found[f"{name}_of_mindmerger"] = {one: ratio(taken, one, "mindmerger") for one in some if one != "mindmerger"}
    found["microseconds_a_token"] = {
        one.removesuffix("_ms"): round(1e3 * value / batch["tokens"], 2) for one, value in found["training"].items()
    }
    share = found["training_of_mindmerger"]
    found["met"] = share["lira, K = 1"] <= TARGET and share["lira, K = 3, cached"] <= TARGET
    return found


def main() -> None:
    parser = options("peers", __doc__, rounds=5)
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--text", type=int, default=64, help="tokens of a text, and of a candidate")
    parser.add_argument("--answer", type=int, default=32, help="tokens of an answer")
    arguments = parse(parser)
    torch.set_num_threads(1)
    sizes = {"rows": arguments.rows, "text": arguments.text, "answer": arguments.answer}
    results: dict[str, Any] = {}
    for shape in arguments.shapes:
        found = results[shape] = measure(shape, *sizes.values(), arguments.rounds)
        title = f"base {shape}; forward and backward, generate"
        table = Table("", "us a token", "of MindMerger", "generate ms", "of MindMerger", title=title)
        for name, value in found["microseconds_a_token"].items():
            share = f"{found['training_of_mindmerger'].get(name, 1.0):.3f}"
            written = found["generation"].get(f"{name}_ms")
            beside = found["generation_of_mindmerger"].get(name, 1.0)
            cells = ["", ""] if written is None else [f"{written:.0f}", f"{beside:.3f}"]
            table.add_row(name, f"{value:.1f}", share, *cells)
        console.print(table)
    facts = {**sizes, "bins": BINS, "rounds": arguments.rounds, "threads": 1}
    write(arguments.output, {"training_of_mindmerger": TARGET}, results, **facts)
    console.print(f"written: {arguments.output}")
    if missed := [name for name, one in results.items() if not one["met"]]:
        console.print(f"missed in {', '.join(missed)}: forward and backward at most {TARGET} of MindMerger's")


if __name__ == "__main__":
    main()
