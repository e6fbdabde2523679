"""Writes the tables of docs/performance.md from benchmarks/results/*.json, between the page's markers.

A table stands between `<!-- table NAME -->` and `<!-- end -->`. One whose results aren't there says which command
makes them. `--check` writes nothing and fails where the page isn't what the results say.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance.md"
_MARKED = re.compile(r"<!-- table (\w+) -->\n.*?<!-- end -->", re.DOTALL)

Rows = list[list[str]]


def table(header: list[str], rows: Rows) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def mark(value: float, met: bool | None, digits: int = 3) -> str:
    """A figure, in bold where it misses its target."""
    text = f"{value:.{digits}f}"
    return text if met is None or met else f"**{text}**"


def embedding(found: dict[str, Any]) -> str:
    target, rows = found["targets"]["relative"], []
    for name, one in found["results"]["rows"].items():
        texts, tensors, judged = one["texts"], one.get("passes"), "met" in one
        speed = mark(texts["relative"], texts["relative"] >= target if judged else None)
        cells = ["", ""]
        if tensors:
            cells = [mark(tensors["relative"], tensors["relative"] >= target), f"{tensors['heads_ms']:.1f}"]
            cells[1] += f" of {tensors['lira_ms']:.0f}"
        rows.append([name, f"{texts['texts_per_second']:.1f}", speed, *cells])
    header = ["g, h; candidates", "texts/s", "texts in, of the bare", "tensors in, of the bare", "heads, ms"]
    shares = ", ".join(f"{name} {100 * share:.1f}" for name, share in found["results"]["padding"].items())
    return (
        f"{table(header, rows)}\n\nOf a batch's tokens are padding, in %, texts of four languages together: {shares}."
    )


def imports(found: dict[str, Any]) -> str:
    one, other = found["results"]["import"], found["results"]["from_pretrained"]
    rows = [
        ["import", f"{one['lira_hf_ms']:,.0f}", f"{one['transformers_ms']:,.0f}", mark(one["relative"], one["met"])],
        ["`from_pretrained`", f"{other['lira_ms']:,.0f}", f"{other['bare_ms']:,.0f}", mark(other["relative"], None)],
    ]
    return table(["", "lira_hf, ms", "transformers, ms", "relative"], rows)


def search(found: dict[str, Any]) -> str:
    results = found["results"]
    rows = [["plain faiss (`IndexFlatIP`)", f"{results['faiss_ms']:,.0f}", "1", ""]]
    for name, title in (("index", "`SearchIndex`, in memory"), ("folder", "`VectorIndex`, a folder on the disk")):
        one = results[name]
        same = "the same" if one["same_ids"] else "others"
        rows.append([title, f"{results[f'{name}_ms']:,.0f}", mark(one["relative"], one["met"]), same])
    return table(["", "ms", "relative", "what is found"], rows)


def growth(found: dict[str, Any]) -> str:
    rows = []
    for name, one in found["results"].items():
        values = one.get("ms") or one["peak_mib"]
        unit = "ms" if "ms" in one else "MiB"
        sizes = [f"{size:,}" for size in (one["sizes"][0], one["sizes"][-1])]
        figures = f"{values[0]:,.1f} to {values[-1]:,.1f} {unit}"
        last = (
            f"{one['bytes_per_text']:.0f} bytes a text" if "bytes_per_text" in one else f"{one['last_exponent']:.2f}"
        )
        rows.append([name, " to ".join(sizes), figures, mark(one["exponent"], one["met"], 2), last])
    written = table(["what grows", "from, to", "cost", "exponent", "of the last step"], rows)
    return f"{written}\n\n![How cost grows](images/growth.png)"


def peers(found: dict[str, Any]) -> str:
    rows, most = [], found["targets"]["training_of_mindmerger"]
    for shape, one in found["results"].items():
        for name, value in one["microseconds_a_token"].items():
            share = one["training_of_mindmerger"].get(name, 1.0)
            # The target is LiRA's: with one candidate, and from the cache, as it is trained.
            judged = share <= most if name in ("lira, K = 1", "lira, K = 3, cached") else None
            written = one["generation"].get(f"{name}_ms")
            beside = one["generation_of_mindmerger"].get(name, 1.0)
            cells = ["", ""] if written is None else [f"{written:,.0f}", f"{beside:.3f}"]
            rows.append([shape, name, f"{value:.1f}", mark(share, judged), *cells])
    header = ["base", "", "forward and backward, us a token", "of MindMerger", "`generate`, ms", "of MindMerger"]
    return table(header, rows)


def losses(found: dict[str, Any]) -> str:
    ranking = found["results"]["ranking"]
    names = list(dict.fromkeys(name for ways in ranking.values() for name in ways if name != "info_nce"))
    rows = []
    for entries, ways in ranking.items():
        cells = [f"{ways[name]['relative_to_info_nce']:.2f}" if name in ways else "" for name in names]
        rows.append([f"{int(entries):,}", f"{ways['info_nce']['ms']:.1f}", *cells])
    return table(["queue", "InfoNCE, ms", *(f"{name}, of it" for name in names)], rows)


def features(found: dict[str, Any]) -> str:
    results = found["results"]
    rows = [["none", f"{results['uncached']['epoch_s']:.2f}", "1", ""]]
    for name in ("float32", "float16"):
        one = results[name]
        figures = [f"{one['epoch_s']:.2f}", f"{one['speedup']:.0f} times", f"{one['largest_loss_difference']:.0e}"]
        rows.append([name, *figures])
    return table(["cache", "an epoch of stage 1, s", "as fast", "losses differ by"], rows)


def generation(found: dict[str, Any]) -> str:
    targets, rows = found["targets"], []
    for name, one in found["results"].items():
        decode, first = one["decode_relative_to_base"], one["first_relative_to_sum"]
        short = one["compiled_first_relative_to_sum"]
        figures = [mark(decode, decode >= targets["decode"]), mark(first, first <= targets["first"])]
        figures += [mark(short, short <= targets["first"]), f"{one['own_ms']:.1f}", f"{one['compiled_own_ms']:.1f}"]
        rows.append([name, *figures, f"{one['first_ms']:,.0f}"])
    header = ["base, rows x prompt", "decode, of the base's", "first token, of the sum", "with compiled heads"]
    header += ["LiRA's own layers, ms", "compiled", "of"]
    return table(header, rows)


def store(found: dict[str, Any]) -> str:
    rows = [
        [str(one["processes"]), str(one["texts_per_transaction"]), f"{one['candidates_per_second']:,}"]
        for one in found["writing"]
    ]
    lookup = found["lookup"]["store"]
    told = ", ".join(f"{name} {one['median_ms']:.1f} ms" for name, one in lookup.items() if isinstance(one, dict))
    texts, batch = found["options"]["texts"], found["options"]["batch"]
    writing = table(["processes that write", "texts a transaction", "candidates/s"], rows)
    return f"{writing}\n\nLooking {batch} of {texts:,} texts up: {told}."


def gpu(found: dict[str, Any]) -> str:
    rows = []
    for part, cases in found["results"].items():
        flat = cases if all(isinstance(one, dict) for one in cases.values()) else {"": cases}
        for case, one in flat.items():
            figures = ", ".join(f"{k} {v}" for k, v in one.items() if isinstance(v, float | int) and k != "met")
            met = "" if "met" not in one else "yes" if one["met"] else "**no**"
            rows.append([part, case, figures, met])
    return table(["", "case", "figures", "met"], rows)


# The table's name, which is also that of the results, what writes it, and what makes them.
TABLES: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "embedding": (embedding, "make bench"),
    "import": (imports, "make bench"),
    "search": (search, "make bench"),
    "growth": (growth, "make bench"),
    "peers": (peers, "make bench"),
    "losses": (losses, "make bench"),
    "features": (features, "make bench"),
    "generation": (generation, "make bench"),
    "store": (store, "make bench"),
    "gpu": (gpu, "python benchmarks/bench_gpu.py"),
    "gpu_rehearsal": (gpu, "python benchmarks/bench_gpu.py --rehearse"),
}


def taken_under(machine: dict[str, Any]) -> str:
    """The line below a table: what it was measured on."""
    cpu = machine.get("device") or machine.get("cpu") or machine.get("processor", "")
    facts = [cpu, f"{machine['cores']} cores" if "cores" in machine else ""]
    facts.append(f"load {machine['load_1min']:.1f}" if "load_1min" in machine else "")
    facts.append(f"torch {machine['torch']}" if "torch" in machine else "")
    facts.append(f"{machine['rounds']} rounds" if "rounds" in machine else "")
    facts.append(machine["date"][:10] if "date" in machine else "")
    return f"*{', '.join(fact for fact in facts if fact)}*"


def render(name: str, results: Path) -> str:
    """What stands between a table's markers."""
    if name not in TABLES:
        raise ValueError(f"got a marker for the table {name!r}; expected one of {', '.join(TABLES)}; mend the page")
    written, command = TABLES[name]
    place = results / f"{name}.json"
    if not place.is_file():
        return f"Not measured yet: `{command}`."
    found = json.loads(place.read_text(encoding="utf-8"))
    return f"{written(found)}\n\n{taken_under(found.get('machine', {}))}"


def filled(page: str, results: Path) -> str:
    """The page with every table anew."""

    def one(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- table {name} -->\n{render(name, results)}\n<!-- end -->"

    return _MARKED.sub(one, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is out of date")
    arguments = parser.parse_args()
    page = arguments.page.read_text(encoding="utf-8")
    wanted = filled(page, arguments.results)
    if arguments.check:
        sys.exit(0 if wanted == page else f"got {arguments.page}, whose tables aren't what the results say; run again")
    arguments.page.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
