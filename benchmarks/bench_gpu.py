"""The whole table on one GPU in bfloat16: right first, then fast. Random weights of real shapes.

Base 0.6B (Qwen3-0.6B's shape), g 0.56B (XLM-R large's), h 0.11B (BERT base's); backbones in bfloat16, LiRA's heads in
float32, as `from_backbones(..., encoder_kwargs={"dtype": ...})` has them. First everything is compared with float32 on
the CPU; figures of a device that computes something else are worth nothing, and the script ends there. Times are
between CUDA events, medians of rounds in which the ways take turns; the host waits for the device before and after.
`--tiny` runs all of it on the CPU in seconds, with tiny shapes; `--rehearse` the comparison alone, with the real ones:
whether bfloat16 is near enough. Writes benchmarks/results/gpu.json, or gpu_rehearsal.json.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gpu_parts import (  # noqa: E402
    REAL,
    TINY,
    Sizes,
    answers,
    build,
    compare,
    features_of,
    moved,
    place,
    prompts,
    roads,
)
from paired import RESULTS, Way, options, ratio, write  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402
from transformers import StoppingCriteria, StoppingCriteriaList  # noqa: E402

from lira_hf import LiraForCausalLM, LiraModel  # noqa: E402
from lira_hf.inference import SearchIndex  # noqa: E402
from lira_hf.losses import DocQueue, RetrievalLoss, info_nce_loss  # noqa: E402
from lira_hf.training import LiraTrainingArguments  # noqa: E402
from lira_hf.training.objective import LasrObjective  # noqa: E402


BUDGET = 480.0  # seconds
EMBED, DECODE, FIRST = 0.95, 0.95, 1.05
console = Console(width=118)


# Timing


class Clock:
    """Seconds of a call on a device."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"

    def __call__(self, way: Way) -> float:
        if not self.cuda:
            start = time.perf_counter()
            way()
            return time.perf_counter() - start
        torch.cuda.synchronize()  # nothing of the last call is under way
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        way()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3


def take_turns(ways: dict[str, Way], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """As of `paired`, by the device's clock; two rounds warm up, since the first picks kernels."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, way in list(ways.items())[:: -1 if number % 2 else 1]:
            seconds = clock(way)
            if number > 1:
                taken[name].append(seconds)
    return taken


def middle(taken: dict[str, list[float]]) -> dict[str, float]:
    return {f"{name}_ms": round(1e3 * statistics.median(values), 3) for name, values in taken.items()}


# Then fast


@torch.no_grad()
def embedding(core: LiraModel, sizes: Sizes, device: torch.device, rounds: int, clock: Clock) -> dict[str, Any]:
    """LiRA against one pass of g and one of h on the same tensors."""
    found: dict[str, Any] = {}
    for count in (0, 1):
        batch = moved(roads(sizes, sizes.batch, count), device)

        def bare(batch: dict[str, Tensor] = batch) -> None:
            core.encoder(input_ids=batch["source_ids"], attention_mask=batch["source_mask"])
            if "anchor_ids" in batch:
                core.anchor(input_ids=batch["anchor_ids"][:, 0], attention_mask=batch["anchor_mask"][:, 0])

        features = features_of(core, batch)
        ways = {
            "lira": partial(core, **batch),
            "bare": bare,
            "heads": partial(core, **features),
        }
        taken = take_turns(ways, rounds, clock)
        share = ratio(taken, "bare", "lira")
        speed = round(sizes.batch / statistics.median(taken["lira"]), 1)
        found[f"K = {count}"] = {**middle(taken), "texts_per_second": speed, "relative": share, "met": share >= EMBED}
    return found


def training(core: LiraModel, sizes: Sizes, device: torch.device, rounds: int, clock: Clock) -> dict[str, Any]:
    """Steps a second of both stages, with the backbones in every step and on cached features."""
    batch = moved(roads(sizes, sizes.batch, sizes.candidates), device)
    other = moved(roads(sizes, sizes.batch, 1, seed=5), device)
    with torch.no_grad():
        cached, cached_other = features_of(core, batch), features_of(core, other)
    ids = torch.arange(sizes.batch, device=device)
    scores = torch.full((sizes.batch, sizes.candidates, 3), 5.0, device=device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = LiraTrainingArguments(
            output_dir=folder, stage="lasr", queue_size=4096, report_to="none", use_cpu=device.type == "cpu"
        )
    objective = LasrObjective(arguments, core.config.projection_dim, ["retrieval"], device)

    def inputs(fresh: bool) -> dict[str, Tensor]:
        with torch.no_grad():
            one, two = (features_of(core, batch), features_of(core, other)) if fresh else (cached, cached_other)
        documents = {f"document_{name}": value for name, value in two.items()}
        language = torch.zeros_like(ids)
        return {**one, **documents, "language_ids": language, "document_language_ids": language, "document_ids": ids}

    def arca(optimizer: torch.optim.Optimizer, fresh: bool) -> None:
        given = batch if fresh else cached
        core(**given, anchor_scores=scores, return_loss=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def lasr(optimizer: torch.optim.Optimizer, fresh: bool) -> None:
        objective(core, inputs(fresh)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    found: dict[str, Any] = {}
    for stage, step in (("arca", arca), ("lasr", lasr)):
        core.freeze(arca=stage == "lasr", lasr=stage == "arca").train()
        weights = [weight for weight in core.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-5)
        ways = {"uncached": partial(step, optimizer, True), "cached": partial(step, optimizer, False)}
        taken = take_turns(ways, rounds, clock)
        speeds = {f"{name}_steps_per_second": round(1 / statistics.median(taken[name]), 2) for name in ways}
        found[stage] = {**middle(taken), **speeds, "speedup": round(1 / ratio(taken, "cached", "uncached"), 2)}
    core.freeze().eval()
    return found


def losses(sizes: Sizes, device: torch.device, rounds: int, clock: Clock) -> dict[str, Any]:
    """Ranking losses with a queue against InfoNCE on the same scores, forward and backward."""
    return {f"queue of {entries:,}": queue_losses(entries, device, rounds, clock) for entries in sizes.queues}


def queue_losses(entries: int, device: torch.device, rounds: int, clock: Clock) -> dict[str, Any]:
    """32 queries, 1,024 dimensions, one length of queue."""
    dim, rows, generator = 1024, 32, torch.Generator().manual_seed(0)
    leaves = [torch.randn(rows, dim, generator=generator).to(device).requires_grad_() for _ in range(2)]
    held = normalize(torch.randn(entries, dim, generator=generator)).to(device)
    queue, ids = DocQueue(max(entries, 1), dim).to(device), torch.arange(rows, device=device)
    queue.push(held, torch.arange(entries, device=device) + rows)
    positives = torch.nn.functional.pad(torch.eye(rows, dtype=torch.bool, device=device), (0, entries))

    def plain() -> Tensor:
        own, other = (normalize(leaf, dim=1) for leaf in leaves)
        return info_nce_loss(torch.cat([own @ other.T, own @ held.T], dim=1), positives, torch.ones_like(positives))

    def ranked(kind: str) -> Tensor:
        return RetrievalLoss(kind)(*leaves, ids, queue=queue).loss

    def backward(loss: Callable[[], Tensor]) -> None:
        for leaf in leaves:
            leaf.grad = None
        loss().backward()

    ways = {"info_nce": partial(backward, plain)}
    ways |= {kind: partial(backward, partial(ranked, kind)) for kind in ("soft_ndcg", "infonce")}
    taken = take_turns(ways, rounds, clock)
    shares = {f"{kind}_relative": ratio(taken, kind, "info_nce") for kind in ("soft_ndcg", "infonce")}
    return {**middle(taken), **shares}


class TokenTimes(StoppingCriteria):
    """Notes when the host has each token. `generate` waits for the device at every token, so these times are real."""

    def __init__(self, device: torch.device):
        self.cuda, self.times = device.type == "cuda", []

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        if self.cuda:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def writing(model: Any, given: dict[str, Tensor], tokens: int, device: torch.device) -> tuple[float, float]:
    """Seconds to the first token, and to each of the others."""
    clock = TokenTimes(device)
    if clock.cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    criteria = StoppingCriteriaList([clock])
    model.generate(**given, max_new_tokens=tokens, do_sample=False, pad_token_id=0, stopping_criteria=criteria)
    return clock.times[0] - start, (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1)


@torch.no_grad()
def generation(
    model: LiraForCausalLM, sizes: Sizes, device: torch.device, rounds: int, clock: Clock
) -> dict[str, Any]:
    """Decoding and the first token against the base alone on a prompt of the same length, and one pass of g and h."""
    found: dict[str, Any] = {}
    core = model.lira
    for rows in (1, 8):
        prompt, text = moved(prompts(model, sizes, rows), device), moved(roads(sizes, rows, sizes.candidates), device)
        plain = prompt["input_ids"].clone()
        plain[:, : model.config.prefix_length] = 7
        alone = {"input_ids": plain, "attention_mask": prompt["attention_mask"]}
        taken: dict[str, list[float]] = {name: [] for name in ("first", "step", "base_first", "base_step", "roads")}
        flat = {name: text[name].flatten(0, 1) for name in ("anchor_ids", "anchor_mask")}

        def bare(text: dict[str, Tensor] = text, flat: dict[str, Tensor] = flat) -> None:
            core.encoder(input_ids=text["source_ids"], attention_mask=text["source_mask"])
            core.anchor(input_ids=flat["anchor_ids"], attention_mask=flat["anchor_mask"])

        for number in range(rounds + 1):
            mine = writing(model, prompt | text, sizes.new_tokens, device)
            theirs = writing(model.language_model, alone, sizes.new_tokens, device)
            values = (*mine, *theirs, clock(bare))
            if number:
                for name, value in zip(taken, values, strict=True):
                    taken[name].append(value)
        both = list(zip(taken["first"], taken["base_first"], taken["roads"], strict=True))
        first = statistics.median(one / (base + encoders) for one, base, encoders in both)
        decode = ratio(taken, "base_step", "step")
        found[f"{rows} x {sizes.prompt}"] = {
            **middle(taken),
            "tokens_per_second": round(rows / statistics.median(taken["step"]), 1),
            "decode_relative_to_base": decode,
            "first_relative_to_sum": round(first, 4),
            "met": decode >= DECODE and first <= FIRST,
        }
    return found


def search(sizes: Sizes, device: torch.device, rounds: int) -> dict[str, Any]:
    """100 queries: the library's search, which faiss does on the CPU, and as a yardstick one product on the device."""
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((sizes.vectors, 1024), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = vectors[:100] + 0.01 * draw.standard_normal((100, 1024), dtype=np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    index = SearchIndex([str(number) for number in range(len(vectors))], vectors)
    there, questions = (torch.from_numpy(one).to(device) for one in (vectors, asked))
    ways = {
        "lira": lambda: index.search(asked, 10),
        "device": lambda: (questions @ there.T).topk(10, dim=1)[1].cpu(),
    }
    # By the host's clock: the first runs on the CPU, and the second ends with a copy to it.
    taken = take_turns(ways, rounds, Clock(torch.device("cpu")))
    mine = [[int(hit.id) for hit in row[:1]] for row in index.search(asked, 10)]
    best = (questions @ there.T).argmax(dim=1, keepdim=True).cpu().tolist()
    return {**middle(taken), "vectors": sizes.vectors, "same_first": mine == best, "met": mine == best}


# The run


def memory(device: torch.device) -> dict[str, float]:
    return {"peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2)} if device.type == "cuda" else {}


def sections(
    model: LiraForCausalLM, sizes: Sizes, device: torch.device, rounds: int, clock: Clock
) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, in its order; training last among the model's, as it changes weights."""
    return {
        "embedding": lambda: embedding(model.lira, sizes, device, rounds, clock),
        "generation": lambda: generation(model, sizes, device, rounds, clock),
        "training": lambda: training(model.lira, sizes, device, rounds, clock),
        "losses": lambda: losses(sizes, device, rounds, clock),
        "search": lambda: search(sizes, device, rounds),
    }


def show(results: dict[str, Any]) -> None:
    table = Table("part", "case", "figures", "met")
    for part, found in results.items():
        cases = found if all(isinstance(one, dict) for one in found.values()) else {"": found}
        for case, one in cases.items():
            figures = ", ".join(
                f"{name} {value}" for name, value in one.items() if isinstance(value, float | int) and name != "met"
            )
            table.add_row(part, case, figures, str(one.get("met", "")))
    console.print(table)


def missed(results: dict[str, Any]) -> list[str]:
    """Cases whose target isn't met."""
    found = []
    for part, cases in results.items():
        flat = {"": cases} if "met" in cases else cases
        found += [
            f"{part} {case}".strip() for case, one in flat.items() if isinstance(one, dict) and not one.get("met", 1)
        ]
    return found


def read_arguments() -> argparse.Namespace:
    parser = options("gpu", __doc__)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU: whether the script runs")
    parser.add_argument("--rehearse", action="store_true", help="real shapes on the CPU, compared and not timed")
    arguments = parser.parse_args()
    there, own = RESULTS / "gpu.json", arguments.output != RESULTS / "gpu.json"
    if arguments.rounds < 5 and not arguments.tiny:
        parser.error(f"--rounds is {arguments.rounds}; expected 5 or more; a median of fewer says little")
    if arguments.tiny and arguments.rehearse:
        parser.error("got --tiny and --rehearse; expected one of them; the second has real shapes")
    if arguments.tiny and not own:
        parser.error("got --tiny without --output; expected another file than that of real figures; name one")
    if not (arguments.tiny or arguments.rehearse or torch.cuda.is_available()):
        parser.error(
            "found no CUDA device; expected one; run it where there is a GPU, or look at it with --tiny or --rehearse"
        )
    arguments.output = arguments.output if own or not arguments.rehearse else there.with_name("gpu_rehearsal.json")
    return arguments


def main() -> None:
    arguments = read_arguments()
    on_cpu = arguments.tiny or arguments.rehearse
    sizes, device = TINY if arguments.tiny else REAL, torch.device("cpu" if on_cpu else "cuda")
    begin, clock = time.perf_counter(), Clock(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = build(sizes)
    truth, correct = answers(model, sizes, torch.device("cpu")), {}
    for name in ("bfloat16",) if arguments.rehearse else ("float32", "bfloat16"):
        correct[name] = compare(answers(place(model, device, getattr(torch, name)), sizes, device), truth, name)
    results: dict[str, Any] = {"correctness": correct}
    if not missed(results) and not arguments.rehearse:
        for name, section in sections(model, sizes, device, arguments.rounds, clock).items():
            start = time.perf_counter()
            results[name] = section()
            console.print(f"{name}: {time.perf_counter() - start:.0f} s")
    seconds = round(time.perf_counter() - begin, 1)
    facts = {
        "rounds": arguments.rounds,
        "tiny": arguments.tiny,
        "rehearsal": arguments.rehearse,
        "seconds": seconds,
        **memory(device),
    }
    facts["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    targets = {"embedding": EMBED, "decode": DECODE, "first": FIRST, "seconds": BUDGET}
    write(arguments.output, targets, results, **facts)
    show(results)
    console.print(f"{seconds:.0f} s of {BUDGET:.0f}; written: {arguments.output}")
    if wrong := missed({"correctness": correct}):
        console.print(f"wrong, so that nothing was timed: {', '.join(wrong)}")
        sys.exit(1)
    slow = missed(results) + (["the time for all of it"] if seconds > BUDGET else [])
    if slow:
        console.print(f"missed: {', '.join(slow)}")


if __name__ == "__main__":
    main()
