"""Ranking: does LiRA order pairs of texts by likeness better than each road alone, and do its queues help?

    .venv/bin/python benchmarks/study_ranking.py --output runs/study [--seeds 3] [--only NUMBER...]

Goes on in the folder of benchmarks/study_actor.py: its corpus, candidates, features and first line's stage 1; all that
it writes there is under seed-*/ranking-*. No judge at inference. There are no human scores: gold is how alike the
English references are on the surface (chrF and TF-IDF), see `surface_gold`. Settings are chosen on dev; test programs
were never seen in training. Writes benchmarks/results/study_ranking.json and docs/results/ranking.md from the lines
that are trained; `--only 0 1` trains these lines alone and reports nothing, so that several processes can share the
work.
"""

import argparse
import importlib.metadata
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy import stats
from study_ranking_pairs import SIDES, SIZES, Side, Vectors, correlation, write_pairs

from lira_hf.data import BeirDataset, Query, read_sts
from lira_hf.evaluation import CandidateChoice
from lira_hf.evaluation.controls import unit
from lira_hf.inference import CandidateSource, LiraEmbedder
from lira_hf.losses import CorrQueue, load_queue_state
from lira_hf.models import LiraModel, LiraProcessor
from lira_hf.models.modeling_lasr import join_paths
from lira_hf.quickstart import Quickstart, QuickstartSettings
from lira_hf.quickstart.settings import lasr_recipe
from lira_hf.training import train_recipe


STEPS = 200
PATH_WEIGHT = 0.6
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
QUEUED = {"corr_queue_size": 1024, "corr_gradient_weight": False}
WEIGHTED = QUEUED | {"corr_gradient_weight": True}
# No queue, but the other losses as heavy beside the correlation's as 1,024 queued pairs make them for a batch of 256.
DILUTED = {"start_weight": 5.0, "consistency_weight": 0.5}
# Where a batch alone tells little of a correlation.
SMALL = {"per_device_train_batch_size": 32}
# Name, changes of the recipe. Of lines that dev can't tell apart the first one counts as LiRA.
TRAINED: list[tuple[str, dict[str, Any]]] = [
    ("no queue", {}),
    ("CorrQueue of 1,024", QUEUED),
    ("CorrQueue of 4,096", QUEUED | {"corr_queue_size": 4096}),
    ("CorrQueue of 1,024, max_age 1", QUEUED | {"corr_max_age": 1}),
    ("CorrQueue of 1,024, refresh 2", QUEUED | {"corr_refresh": 2}),
    ("no queue, Pearson alone", {"pearson_weight": 1.0}),
    ("CorrQueue of 1,024, gradient weight", WEIGHTED),
    ("CorrQueue of 1,024, max_age 1, gradient weight", WEIGHTED | {"corr_max_age": 1}),
    ("CorrQueue of 1,024, gradient weight, Pearson alone", WEIGHTED | {"pearson_weight": 1.0}),
    ("no queue, other losses x 5", DILUTED),
    ("batch 32, no queue", SMALL),
    ("batch 32, CorrQueue of 1,024", SMALL | QUEUED),
    ("batch 32, CorrQueue of 1,024, gradient weight", SMALL | WEIGHTED),
]
# What dilution foretells to be level, after what it explains.
LEVEL = (
    ("no queue", "CorrQueue of 1,024"),
    ("no queue, other losses x 5", "CorrQueue of 1,024"),
    ("CorrQueue of 1,024, gradient weight", "no queue"),
    ("CorrQueue of 1,024, max_age 1, gradient weight", "no queue"),
)
AGED = 2  # the line whose queue is looked into
PAGE = """# Ranking on the study corpus

Made by `benchmarks/study_ranking.py`; don't edit. Correlation x 100 of cosines with gold over pairs of texts, mean of
seven languages (that of the first text) and {seeds} seeds. {pairs} pairs; of the test's: {test_pairs}. Test programs
were never seen in training; settings and checkpoints are chosen on dev; no judge at inference. {steps} steps, batch
256 where a line says no other, path dropout .3. Differences with 95 % paired-bootstrap intervals, resampled by pair
within each language. A queue's gradient is as it falls out unless its line says `gradient weight`.

**What gold is.** Nobody has scored these pairs. Gold is a proxy, 0..5: five times the mean of chrF and the TF-IDF
cosine of words between the pair's two *English references*; 5 for the same English. It knows their surface, not their
meaning: what is said in other words counts as unlike. A second gold, on which nothing was trained or chosen, is the
cosine of the references in h's own space; it favours translate-then-h. On test the two correlate by {r_of_golds:.2f};
quartiles of the first: {test_golds_quartiles}.

LiRA is the line that is best on dev, or the plainest of those that this one isn't above there (interval):
{ours}. Chosen on dev too: for the untrained concat the mixture of candidates ({mixture}) and g's
weight ({weight}).
"""
READING = """
## Reading

**Why a queue cost Pearson: dilution.** Over n pairs each has one n-th of the correlation's gradient, and those of the
queue pass theirs to nobody: beside 1,024 of them a batch of 256 has a fifth of the gradient that it has alone, and
the start regulariser and the consistency weigh five times as much. It shows both ways: without a queue, these two
times 5 do what a queue of 1,024 does, on dev and in how far the embeddings get from their start; and with the
gradient weighted by pairs over batch (`corr_gradient_weight`) the queue is level with no queue.

**Not age.** Held predictions agree with the present model's as well after 8-15 batches as after one; refreshing them
helps nothing. So a momentum encoder, whose predictions are older than refreshed ones, was not built. An age limit of
1 helps as it leaves 768 pairs, a third of them in the batch; with the weight it changes nothing.

**So by default** the gradient is weighted, and there is no queue: weighted it costs nothing, but gains nothing either.
Nor is there a gain by any queue at batches of 32, which saw an eighth of the pairs, at settings chosen for 256.

**What the weight buys is fit to the gold that is trained on.** On that of h's space the diluted lines, held nearer to
the start, are level in Pearson and a little above in Spearman; there the equal concat is above LiRA in Spearman too,
if not for sure. Pearson alone is better on dev and on test by Pearson, with no sure change of Spearman; the default of
`pearson_weight` is left at .5.
"""


# Systems


class RankingStudy:
    """The trained lines and their controls over one folder."""

    def __init__(self, folder: Path, seeds: int):
        self.seeds = range(seeds)
        settings = QuickstartSettings(**json.loads((folder / "settings.json").read_text(encoding="utf-8")))
        self.run = Quickstart(folder, settings, progress=False, announce=Console().print)
        self.run.prepare()
        self.features = self.run.plain_features  # of the frozen backbones that all lines share
        self.source = CandidateSource(self.run.candidates().store, num_candidates=6)
        self.data = folder / "seed-0" / "ranking-data"
        if not (self.data / ".complete").is_file():
            write_pairs(self.run, self.data)
        self.sides = {}
        for side in SIDES[1:]:
            pairs = read_sts(self.data / f"{side}.jsonl")
            golds = {"surface": pairs, "h": read_sts(self.data / f"{side}-h.jsonl")}
            self.sides[side] = Side(pairs, {k: np.array([p.score for p in v]) for k, v in golds.items()})

    def folder(self, number: int, seed: int) -> Path:
        return self.run.folder / f"seed-{seed}" / f"ranking-{number}"

    def start(self, seed: int) -> Path:
        return self.run.folder / f"seed-{seed}" / "actor-0"

    def done(self, number: int, seed: int) -> bool:
        return (self.folder(number, seed) / ".complete").is_file()

    def train(self, number: int, seed: int, steps: int = STEPS) -> None:
        """Stage 2 of one line, unless an earlier run left it."""
        folder = self.folder(number, seed)
        if self.done(number, seed):
            return
        Console().print(f"{TRAINED[number][0]}, seed {seed}")
        half = {"max_steps": steps, "eval_steps": steps // 2, "save_steps": steps // 2}
        recipe = lasr_recipe(self.run.folder, seed, 0, self.run.critic, self.run.settings) | half
        recipe |= {"task": "ranking", "data": str(self.data), "critic": None, "critic_fingerprint": None}
        recipe |= {"model": str(self.start(seed)), "config": {"path_weight": PATH_WEIGHT}, "output_dir": str(folder)}
        recipe |= {"metric_for_best_model": "eval_pearson", "disable_tqdm": True}
        train_recipe(recipe | TRAINED[number][1], None, self.features, quiet=True)
        (folder / ".complete").touch()

    def embed(self, folder: Path, side: str, **config: Any) -> NDArray[np.float64]:
        """A checkpoint's predictions."""
        model, processor = LiraModel.from_pretrained(folder), LiraProcessor.from_pretrained(folder)
        for name, value in config.items():
            setattr(model.config, name, value)
            model.embedding_head.constant = model.config.path_weight
        embedder = LiraEmbedder(model, processor, self.source, self.features, batch_size=256)
        texts = self.sides[side].texts
        return self.sides[side].predictions(embedder.encode([t for t, _ in texts], [tag for _, tag in texts]))

    def line(self, number: int, seed: int, side: str) -> NDArray[np.float64]:
        """A trained line's predictions, kept beside its checkpoint."""
        kept = self.folder(number, seed) / f"predictions-{side}.npy"
        if not kept.is_file():
            part = kept.with_suffix(".part.npy")
            np.save(part, self.embed(self.folder(number, seed), side), allow_pickle=False)
            os.replace(part, kept)
        return np.load(kept, allow_pickle=False)

    # Controls

    def roads(self, side: str) -> tuple[Vectors, dict[str, list[Vectors]]]:
        """g's vectors of a side's texts; h's of their candidates, mixed alike or by each seed's policy."""
        texts = self.sides[side].texts
        source = unit(self.features.get("source", [text for text, _ in texts])[:, 0].astype(np.float32))
        own = np.array([tag == "en" for _, tag in texts])
        queries = {str(n): Query(*key) for n, key in enumerate(texts) if not own[n]}
        choice = CandidateChoice(BeirDataset(queries=queries), self.features, self.source)
        english = [text for text, tag in texts if tag == "en"]
        anchor = np.zeros((len(texts), self.features.dims["anchor"]), dtype=np.float32)
        anchor[own] = unit(self.features.get("anchor", english)[:, 0].astype(np.float32))

        def mixed(weights: NDArray[np.floating]) -> Vectors:
            found = anchor.copy()
            found[~own] = unit(np.einsum("qk,qkd->qd", weights * choice.mask, choice.sentences))
            return found

        policies = []
        for seed in self.seeds:
            start = self.start(seed)
            model, processor = LiraModel.from_pretrained(start), LiraProcessor.from_pretrained(start)
            policies.append(mixed(choice.outputs(model, processor)["policy"]))
        return source, {"uniform": [mixed(choice.mask.astype(np.float32))], "policy": policies}

    def controls(self) -> tuple[dict[str, dict[str, list[NDArray]]], dict[str, Any]]:
        """What needs no training on pairs: predictions by system, side and seed; what was chosen on dev."""
        found: dict[str, dict[str, list[NDArray]]] = {}
        roads = {side: self.roads(side) for side in self.sides}
        options = list(itertools.product(("uniform", "policy"), WEIGHTS))

        def joined(side: str, mixture: str, weight: float) -> list[NDArray]:
            source, anchors = roads[side]
            parts = [torch.from_numpy(source), *map(torch.from_numpy, anchors[mixture])]
            return [self.sides[side].predictions(join_paths(parts[0], one, weight).numpy()) for one in parts[1:]]

        dev = self.sides["dev"]
        tuned = max(options, key=lambda pair: np.mean([dev.pearson(p) for p in joined("dev", *pair)]))
        for side, own in self.sides.items():
            source, anchors = roads[side]
            lines = {
                "g alone": [own.predictions(source)],
                "translate, then h (uniform)": [own.predictions(one) for one in anchors["uniform"]],
                "translate, then h (policy)": [own.predictions(one) for one in anchors["policy"]],
                "untrained concat, equal": joined(side, tuned[0], 0.5),
                "untrained concat, weight tuned on dev": joined(side, *tuned),
                "LiRA, untrained start": [
                    self.embed(self.start(seed), side, path_weight=PATH_WEIGHT) for seed in self.seeds
                ],
            }
            for name, values in lines.items():
                found.setdefault(name, {})[side] = values
        return found, {"mixture": tuned[0], "weight": tuned[1]}

    # Queues

    def from_start(self, number: int, seed: int) -> float:
        """1 - cosine of the embeddings and the untrained start, as last logged in training."""
        file = self.folder(number, seed) / f"checkpoint-{STEPS}" / "trainer_state.json"
        return [row["start"] for row in json.loads(file.read_text())["log_history"] if "start" in row][-1]

    def staleness(self, seed: int = 0) -> list[dict[str, float]]:
        """By age: the queue's predictions halfway through training beside those of the model of that moment."""
        folder = self.folder(AGED, seed) / f"checkpoint-{STEPS // 2}"
        queue = CorrQueue(TRAINED[AGED][1]["corr_queue_size"])
        load_queue_state(folder, {"pairs": queue})
        held, pairs = queue.entries(), read_sts(self.data / "train.jsonl")
        self.sides["queue"] = Side([pairs[number] for number in held.pair_ids.tolist()], {})
        present = self.embed(folder, "queue")
        del self.sides["queue"]
        stored, gold, ages = held.predictions.double().numpy(), held.gold.double().numpy(), held.ages.numpy()
        rows = []
        for low, high in ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15)):
            at = (ages >= low) & (ages <= high)
            pairs_of = {"stored, now": (stored, present), "stored, gold": (stored, gold), "now, gold": (present, gold)}
            row: dict[str, float] = {"age from": low, "to": high, "pairs": int(at.sum())}
            row |= {f"r({name})": float(correlation(one[at], two[at])) for name, (one, two) in pairs_of.items()}
            rows.append(row | {"mean of now - stored": float((present - stored)[at].mean())})
        return rows


# Report


def intervals(side: Side, systems: dict[str, list[NDArray]], ours: str, gold: str, resamples: int = 1000) -> dict:
    """Per system Pearson and Spearman, means of languages and seeds, and ours minus it with paired intervals."""
    names = list(systems)
    table = np.stack([one for name in names for one in systems[name]])
    owner = np.repeat(np.arange(len(names)), [len(systems[name]) for name in names])
    mean = np.stack([(owner == number) / (owner == number).sum() for number in range(len(names))])
    truth = side.gold[gold]

    def scores(*samples: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        both = np.zeros((2, len(table), *samples[0].shape[:-1]))
        for rows in samples:
            rows = rows.astype(int)
            one, other = table[:, rows], truth[rows]
            both[0] += correlation(one, other) / len(samples)
            both[1] += correlation(stats.rankdata(one, axis=-1), stats.rankdata(other, axis=-1)) / len(samples)
        means = np.einsum("st,mt...->ms...", mean, both)
        return means[:, [names.index(ours)]] - means

    rows = tuple(side.rows().values())
    zero = scores(*rows)
    how = {"n_resamples": resamples, "batch": 20, "vectorized": True, "method": "percentile"}
    found = stats.bootstrap(rows, scores, **how, rng=np.random.default_rng(0)).confidence_interval
    per = {tag: mean @ correlation(table[:, at], truth[at]) for tag, at in side.rows().items()}
    spearman = [np.mean([stats.spearmanr(one[at], truth[at]).statistic for at in rows]) for one in table]
    return {
        name: {
            "pearson": float(np.mean([per[tag][n] for tag in per])),
            "spearman": float(mean[n] @ np.array(spearman)),
            "seeds": [side.pearson(one, gold) for one in systems[name]],
            "languages": {tag: float(per[tag][n]) for tag in per},
            "lira_minus_it": {
                what: [float(zero[m, n]), float(found.low[m, n]), float(found.high[m, n])]
                for m, what in enumerate(("pearson", "spearman"))
            },
        }
        for n, name in enumerate(names)
    }


def on_dev(side: Side, lines: dict[str, list[NDArray]]) -> tuple[str, dict[str, list[float]]]:
    """The line that is LiRA; by how much the best line on dev is above each, with intervals."""
    best = max(lines, key=lambda name: np.mean([side.pearson(one) for one in lines[name]]))
    table = intervals(side, lines, best, "surface")
    gaps = {name: row["lira_minus_it"]["pearson"] for name, row in table.items()}
    return next(name for name, gap in gaps.items() if gap[1] <= 0), gaps


def between(side: Side, systems: dict[str, list[NDArray]]) -> dict[str, list[float]]:
    """Pearson of one line minus another's, with its interval, of those of `LEVEL` that are there."""
    found = {}
    for one, other in LEVEL:
        both = {name: systems[f"LiRA, {name}"] for name in (one, other) if f"LiRA, {name}" in systems}
        if len(both) == 2:
            found[f"{one}, minus {other}"] = intervals(side, both, one, "surface")[other]["lira_minus_it"]["pearson"]
    return found


def report(study: RankingStudy) -> dict[str, Any]:
    systems, chosen = study.controls()
    whole, starts = [], {}
    for number, (name, _) in enumerate(TRAINED):
        seeds = [seed for seed in study.seeds if study.done(number, seed)]
        label = f"LiRA, {name}" + ("" if len(seeds) == len(study.seeds) else f" (seeds {seeds})")
        if seeds:
            systems[label] = {side: [study.line(number, seed, side) for seed in seeds] for side in study.sides}
            starts[label] = float(np.mean([study.from_start(number, seed) for seed in seeds]))
        whole += [label] if len(seeds) == len(study.seeds) else []
    ours, gaps = on_dev(study.sides["dev"], {name: systems[name]["dev"] for name in whole})
    test = {name: found["test"] for name, found in systems.items()}
    gold = study.sides["test"].gold
    setting = {"pairs": {side: SIZES[side] * 7 for side in SIDES}, "steps": STEPS, "seeds": len(study.seeds)}
    kinds = ("English" if p.language2 == "en" else p.language1 == p.language2 for p in study.sides["test"].pairs)
    names = {"English": "with English", True: "one language", False: "two languages"}
    setting["test pairs"] = {names[kind]: count for kind, count in Counter(kinds).items()}
    setting["test golds quartiles"] = np.quantile(gold["surface"], [0, 0.25, 0.5, 0.75, 1]).round(2).tolist()
    return {
        "setting": setting | {"r of golds": float(correlation(gold["surface"], gold["h"]))},
        "LiRA is": ours,
        "chosen": chosen,
        "dev": {n: float(np.mean([study.sides["dev"].pearson(one) for one in s["dev"]])) for n, s in systems.items()},
        "best on dev minus it": gaps,
        "distance from start": starts,
        "between lines": between(study.sides["test"], test),
        "versions": {name: importlib.metadata.version(name) for name in ("lira-hf", "torch", "transformers")},
        "surface": intervals(study.sides["test"], test, ours, "surface"),
        "h": intervals(study.sides["test"], test, ours, "h"),
        "staleness": study.staleness() if study.done(AGED, 0) else [],
    }


def row_of(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def head_of(cells: Sequence[str]) -> list[str]:
    return ["", row_of(cells), "|" + "---|" * len(cells)]


def tables(found: dict[str, Any]) -> list[str]:
    """Both golds' tables, the grid and what a queue holds."""
    ours, lines = found["LiRA is"], []
    for gold, title in (("surface", "Gold of the surface"), ("h", "Gold of h's space")):
        systems = dict(sorted(found[gold].items(), key=lambda item: item[1]["pearson"]))
        lines += ["", f"## {title}"]
        lines += head_of(["system", "dev, Pearson", "Pearson", "Spearman", "LiRA minus it, Pearson", "Spearman"])
        for name, row in systems.items():
            gains = ["{:+.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in g)) for g in row["lira_minus_it"].values()]
            gains = ["", ""] if name == ours else gains
            dev = f"{100 * found['dev'][name]:.1f}" if gold == "surface" else ""
            figures = [dev, f"{100 * row['pearson']:.1f}", f"{100 * row['spearman']:.1f}"]
            lines.append(row_of([f"**{name}**" if name == ours else name, *figures, *gains]))
        tags = list(systems[ours]["languages"])
        lines += ["", "Pearson by language:", *head_of(["system", *tags])]
        for name, row in systems.items():
            lines.append(row_of([name, *(f"{100 * row['languages'][tag]:.1f}" for tag in tags)]))
    lines += ["", "## The lines on dev", "", "Pearson x 100; `from the start` is 1 - cosine with the untrained"]
    lines += ["embeddings at the end of training, which the start regulariser pulls to 0."]
    lines += head_of(["line", "dev, Pearson", "the best line minus it", "from the start"])
    for name, start in found["distance from start"].items():
        gap = found["best on dev minus it"].get(name)
        cells = ["" if gap is None else "{:+.2f} [{:.2f}, {:.2f}]".format(*(100 * v for v in gap)), f"{start:.3f}"]
        lines.append(row_of([name, f"{100 * found['dev'][name]:.2f}", *cells]))
    lines += ["", "Pearson x 100 of the surface, on test:", ""]
    for name, gap in found["between lines"].items():
        lines.append("* {}: {:+.2f} [{:.2f}, {:.2f}]".format(name, *(100 * value for value in gap)))
    if found["staleness"]:
        half = found["setting"]["steps"] // 2
        lines += ["", "## What a queue holds", ""]
        lines += [f"{TRAINED[AGED][0]}, first seed, after {half} steps: its predictions, made in training with path"]
        lines += ["dropout, beside those of the model of that moment without it, by the number of batches since."]
        lines += head_of(list(found["staleness"][0]))
        lines += [row_of(list(row.values())) for row in found["staleness"]]
    return lines


def markdown(found: dict[str, Any]) -> str:
    facts = {name.replace(" ", "_"): value for name, value in (found["setting"] | found["chosen"]).items()}
    facts["ours"] = found["LiRA is"]
    return PAGE.format(**facts) + "\n".join(tables(found)) + "\n" + READING


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/study"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="*", help="train these lines and stop")
    parser.add_argument("--of-seeds", type=int, nargs="*", help="with --only: these seeds alone")
    parser.add_argument("--report", action="store_true", help="report what is trained, train nothing")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    study = RankingStudy(arguments.output, arguments.seeds)
    if arguments.only is not None:
        for seed, number in itertools.product(arguments.of_seeds or study.seeds, arguments.only):
            study.train(number, seed)
        return
    for seed, number in itertools.product(study.seeds, range(len(TRAINED)) if not arguments.report else ()):
        study.train(number, seed)
    found = report(study)
    here = Path(__file__).parent
    (here / "results" / "study_ranking.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = here.parent / "docs" / "results" / "ranking.md"
    page.write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
