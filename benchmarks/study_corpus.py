"""The corpus of a study out of domain, from Debian packages: written as the quickstart writes its own, and counted.

    .venv/bin/python benchmarks/study_corpus.py --output runs/study/data

Needs apt-get with a package list and a connection for packages that are not in --packages yet (250 MB), then two
minutes. Writes learn.tsv, train.tsv, dev.tsv, test.tsv and the BEIR folder to --output, and the counts by side,
language and package, with the packages' versions, to benchmarks/results/study_corpus.json.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lira_hf.data import write_tsv
from lira_hf.quickstart.corpus import LANGUAGES, Corpus, write_corpus
from lira_hf.quickstart.study_corpus import STUDY_LICENSE, corpus_counts, package_versions, study_corpus


SIDES = ("learn", "train", "dev", "test")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the corpus")
    parser.add_argument("--packages", type=Path, help="folder of the packages; `debian` beside --output by default")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of at most so many rows per language")
    parser.add_argument("--most", type=json.loads, default={}, help='rows per language, such as {"test": 500}')
    results = Path(__file__).parent / "results" / "study_corpus.json"
    parser.add_argument("--results", type=Path, default=results, help="file of the counts")
    return parser.parse_args()


def write(corpus: Corpus, folder: Path) -> None:
    """As `lira quickstart` does, so that it can go on from here."""
    folder.mkdir(parents=True, exist_ok=True)
    for side in SIDES:
        write_tsv(folder / f"{side}.tsv", getattr(corpus, side))
    write_corpus(corpus, folder)


def facts(corpus: Corpus, packages: Path, seed: int, seconds: float) -> dict[str, Any]:
    counts = corpus_counts(corpus)
    english = {side: {pair.english for pair in getattr(corpus, side)} for side in SIDES}
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "license": STUDY_LICENSE,
        "packages": package_versions(packages),
        "totals": {side: {tag: sum(rows.values()) for tag, rows in counts[side].items()} for side in SIDES},
        "distinct_english": {side: len(texts) for side, texts in english.items()},
        "documents_in_one_pool": len(english["train"] | english["dev"] | english["test"]),
        "counts": counts,
    }


def show(result: dict[str, Any], console: Console) -> None:
    table = Table("side", *LANGUAGES, "distinct English")
    for side, totals in result["totals"].items():
        numbers = [*(totals.get(language, 0) for language in LANGUAGES), result["distinct_english"][side]]
        table.add_row(side, *(f"{number:,}" for number in numbers))
    console.print(table)


def main() -> None:
    chosen = options()
    console = Console()
    logging.getLogger("lira_hf.data").setLevel(logging.ERROR)  # broken entries of catalogues are left out
    packages = chosen.packages or chosen.output.parent / "debian"
    started = time.perf_counter()
    corpus = study_corpus(packages, most=chosen.most, seed=chosen.seed)
    write(corpus, chosen.output)
    result = facts(corpus, packages, chosen.seed, time.perf_counter() - started)
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    chosen.results.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result, console)
    console.print(f"corpus in {chosen.output}, counts in {chosen.results}", markup=False)


if __name__ == "__main__":
    main()
