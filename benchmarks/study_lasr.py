"""Is one head, trained once, better than each road alone in every language, with and without a translator?

    .venv/bin/python benchmarks/study_lasr.py --output runs/study [--seeds 3] [--only NUMBER...]

Goes on in the folder of benchmarks/study_actor.py: its corpus, candidates, features and first line's stage 1. The
judge is absent everywhere but in the rows that say so. Settings (mixture, path weight, queue, checkpoint) are chosen
on dev; test programs were never seen in training. Writes benchmarks/results/study_lasr.json and docs/results/lasr.md.
An hour on two cores; `--only 0 1` trains these lines alone and reports nothing, so that several processes can share
the work.
"""

import argparse
import importlib.metadata
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from study_actor import train as train_actor

from lira_hf.data import BeirDataset
from lira_hf.evaluation import RetrievalScores, dev_metrics, evaluate_retrieval, paired_difference
from lira_hf.evaluation.controls import MIXTURES, RoadControls
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures
from lira_hf.models import LiraModel, LiraProcessor
from lira_hf.quickstart import Quickstart, QuickstartSettings
from lira_hf.quickstart.settings import lasr_recipe
from lira_hf.training import train_recipe


LIRA = "LiRA"
STAGE = {"max_steps": 300, "eval_steps": 100, "save_steps": 100}
# Name, changes of the configuration, changes of the recipe.
TRAINED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("LiRA, no queue", {}, {"queue_size": 0}),
    ("LiRA, queue of 1,024", {}, {"queue_size": 1024}),
    ("LiRA, no queue, path gate", {"path_gate": True}, {"queue_size": 0}),
    ("LiRA, no queue, no path dropout", {}, {"queue_size": 0, "path_dropout": 0.0}),
    ("LiRA, no queue, no map of the start", {"start_map": False}, {"queue_size": 0}),
]
OWN = "test, own documents"
BARE = ", no translation"
Scores = list[RetrievalScores]


def own_documents(split: BeirDataset) -> BeirDataset:
    """A split over the documents that it judges alone, without those of the other sides."""
    own = {key for judged in split.qrels.values() for key in judged}
    corpus = {key: text for key, text in split.corpus.items() if key in own}
    return BeirDataset(corpus, split.queries, split.qrels, split.document_languages)


class Study:
    """The trained lines and their controls over one folder."""

    def __init__(self, folder: Path, seeds: int):
        self.seeds = seeds
        settings = QuickstartSettings(**json.loads((folder / "settings.json").read_text(encoding="utf-8")))
        self.run = Quickstart(folder, settings, progress=False, announce=Console().print)
        self.run.prepare()
        self.store = self.run.candidates().store
        self.unjudged = CandidateSource(self.store, num_candidates=6)
        self.splits = {side: self.run.split(side) for side in ("dev", "test")}
        self.judged = {side: self._controls(side, self.run.candidates()) for side in self.splits}
        self.splits[OWN] = own_documents(self.splits["test"])
        self.controls = {side: self._controls(side, self.unjudged) for side in self.splits}

    def _controls(self, side: str, source: CandidateSource) -> RoadControls:
        queries = self.splits[side].queries.values()
        found = source.get([query.text for query in queries], [query.language for query in queries])
        return RoadControls(self.splits[side], self.run.plain_features, *found)

    def path_weight(self) -> float:
        """g's share, tuned on dev for the untrained concat without a judge."""
        return self._tuned(self.controls["dev"], MIXTURES[:3] + ("uniform",))[1]

    def _tuned(self, dev: RoadControls, mixtures: tuple[str, ...]) -> tuple[str, float]:
        pairs = list(itertools.product(mixtures, self.run.settings.path_weights))
        return max(pairs, key=lambda pair: dev.concat(*pair).mean())

    def embedder(self, folder: Path, judge: bool = False, **config: Any) -> LiraEmbedder:
        model, processor = LiraModel.from_pretrained(folder), LiraProcessor.from_pretrained(folder)
        for name, value in config.items():
            setattr(model.config, name, value)
            model.embedding_head.constant = model.config.path_weight
        features = RoadFeatures(model, processor, self.run.folder / "features")
        return LiraEmbedder(model, processor, self.run.candidates() if judge else self.unjudged, features)

    def train(self, number: int, seed: int, weight: float) -> Path:
        """Stage 2 of one line, or what an earlier run left of it."""
        name, config, changes = TRAINED[number]
        folder = self.run.folder / f"seed-{seed}" / f"lasr-{number}"
        if not (folder / ".complete").is_file():
            Console().print(f"{name}, seed {seed}")
            recipe = lasr_recipe(self.run.folder, seed, 0, self.run.critic, self.run.settings) | STAGE | changes
            recipe |= {"model": str(self._start(seed, config)), "output_dir": str(folder), "disable_tqdm": True}
            recipe["config"] = {"path_weight": weight} | config
            train_recipe(recipe, dev_metrics, self.run.train_features, quiet=True)
            (folder / ".complete").touch()
        return folder

    def _start(self, seed: int, config: dict[str, Any]) -> Path:
        """Stage 1, with the untrained weights that a line has more or less than it."""
        folder = self.run.folder / f"seed-{seed}" / "actor-0"
        if not (folder / ".complete").is_file():
            train_actor(self.run, 0, seed)
        if not config:
            return folder
        changed = folder.with_name("actor-0-" + "-".join(sorted(config)))
        if not changed.is_dir():
            base = LiraModel.from_pretrained(folder)
            settings = type(base.config).from_dict(base.config.to_dict() | config)
            model = LiraModel(settings)
            # What is new starts at zero difference, so that the start is that of every other line.
            model.load_state_dict(
                {k: v for k, v in base.state_dict().items() if k in model.state_dict()}, strict=False
            )
            model.save_pretrained(changed)
            LiraProcessor.from_pretrained(folder).save_pretrained(changed)
        return changed

    def chosen(self) -> dict[str, Any]:
        """The controls' settings, by dev."""
        plain = MIXTURES[:3] + ("uniform",)
        mixture = max(plain, key=lambda name: self.controls["dev"].translated(name).mean())
        tuned, judged = self._tuned(self.controls["dev"], plain), self._tuned(self.judged["dev"], MIXTURES)
        return {"mixture": mixture, "concat": tuned, "concat with the judge": judged}

    def control_rows(self, side: str, chosen: dict[str, Any]) -> dict[str, Scores]:
        """What needs no training."""
        test = self.controls[side]
        rows = {
            "g alone": [test.source_alone()],
            "translate, then h": [test.translated(chosen["mixture"])],
            "concat, equal": [test.concat(chosen["concat"][0], 0.5)],
            "concat, tuned on dev": [test.concat(*chosen["concat"])],
        }
        if side in self.judged:
            mixture, weight = chosen["concat with the judge"]
            rows["concat, equal, with the judge"] = [self.judged[side].concat(mixture, 0.5)]
            rows["concat, tuned on dev, with the judge"] = [self.judged[side].concat(mixture, weight)]
        return rows

    def evaluate(self, folder: Path, **options: Any) -> dict[str, RetrievalScores]:
        """A checkpoint's scores by side, and without translation under `SIDE, no translation`."""
        embedder = self.embedder(folder, **options)
        # The sides share one English pool, which is embedded once; no translation concerns the queries alone.
        pool = self.splits["test"].corpus
        vectors = embedder.encode(list(pool.values()), "en", role="document")
        place, found = {key: number for number, key in enumerate(pool)}, {}
        for sides in (("dev",), ("test", OWN)):
            queries = list(self.splits[sides[0]].queries.values())
            texts, tags = [query.text for query in queries], [query.language for query in queries]
            for ending, candidates in (("", None), (BARE, [[] for _ in texts])):
                asked = embedder.encode(texts, tags, candidates=candidates, role="query")
                for side in sides:
                    split = self.splits[side]
                    documents = vectors[[place[key] for key in split.corpus]]
                    found[side + ending] = evaluate_retrieval(split, asked, documents)
        return found

    def lira_rows(self, weight: float) -> tuple[dict[str, dict[str, Scores]], dict[str, float], int]:
        """Every trained line by pool; figures on dev; which line is LiRA by them."""
        found = []
        for number in range(len(TRAINED)):
            found.append([self.evaluate(self.train(number, seed, weight)) for seed in range(self.seeds)])
        dev = {line[0]: float(np.mean([one["dev"].mean() for one in found[n]])) for n, line in enumerate(TRAINED)}
        best = max((0, 1), key=lambda number: dev[TRAINED[number][0]])
        starts = [self.evaluate(self._start(seed, {}), path_weight=weight) for seed in range(self.seeds)]
        rows: dict[str, dict[str, Scores]] = {}
        for pool in ("test", OWN):
            rows[pool] = {"LiRA, untrained start": [one[pool] for one in starts]}
            for number, (name, _, _) in enumerate(TRAINED):
                # Over the own documents the main lines alone.
                if number == best or pool == "test":
                    for ending in (BARE, ""):
                        shown_as = (LIRA if number == best else name) + ending
                        rows[pool][shown_as] = [one[pool + ending] for one in found[number]]
        judged = [self.evaluate(self.train(best, seed, weight), judge=True) for seed in range(self.seeds)]
        rows["test"][f"{LIRA}, with the judge"] = [one["test"] for one in judged]
        return rows, dev, best


def report(rows: dict[str, Scores]) -> dict[str, Any]:
    ours, table = rows[LIRA], {}
    tags = sorted(set(ours[0].languages))
    for name, scores in sorted(rows.items(), key=lambda item: np.mean([one.mean() for one in item[1]])):
        languages = [one.per_language() for one in scores]
        gains = None
        if name != LIRA:
            gains = {"mean": paired_difference(ours, scores)._asdict()}
            gains |= {tag: paired_difference(ours, scores, language=tag)._asdict() for tag in tags}
        table[name] = {
            "test": float(np.mean([one.mean() for one in scores])),
            "seeds": [one.mean() for one in scores],
            "languages": {tag: float(np.mean([found[tag] for found in languages])) for tag in tags},
            "lira_minus_it": gains,
        }
    without = rows[LIRA + BARE]
    table[LIRA + BARE]["it_minus_g"] = {
        "mean": paired_difference(without, rows["g alone"])._asdict(),
        **{tag: paired_difference(without, rows["g alone"], language=tag)._asdict() for tag in tags},
    }
    return table


def shown(gain: dict[str, float]) -> str:
    return f"{100 * gain['difference']:+.1f} [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]"


def table_of(table: dict[str, Any]) -> list[str]:
    """The systems, and the gains by language."""
    tags = list(table[LIRA]["languages"])
    lines = ["| system | " + " | ".join(tags) + " | mean | LiRA minus it |", "|---|" + "---|" * (len(tags) + 2)]
    for name, row in table.items():
        cells = [f"{100 * row['languages'][tag]:.1f}" for tag in tags] + [f"{100 * row['test']:.1f}"]
        gain = "" if row["lira_minus_it"] is None else shown(row["lira_minus_it"]["mean"])
        lines.append("| " + " | ".join([f"**{name}**" if name == LIRA else name, *cells, gain]) + " |")
    lines += ["", "By language, LiRA minus:", ""]
    lines += ["| system | " + " | ".join(tags) + " |", "|---|" + "---|" * len(tags)]
    for name in ("g alone", "translate, then h", "concat, equal", "concat, tuned on dev"):
        lines.append(f"| {name} | " + " | ".join(shown(table[name]["lira_minus_it"][tag]) for tag in tags) + " |")
    gains = table[LIRA + BARE]["it_minus_g"]
    lines += ["", f"Without a translator, LiRA minus g: {shown(gains['mean'])}; by language "]
    lines[-1] += ", ".join(f"{tag} {shown(gains[tag])}" for tag in tags) + "."
    return lines


def markdown(found: dict[str, Any]) -> str:
    lines = [
        "# LaSR on the study corpus",
        "",
        f"nDCG@10 x 100 {found['setting']}. The judge is absent unless a row says otherwise. Differences with 95 %",
        "paired-bootstrap intervals, resampled by document. Made by `benchmarks/study_lasr.py`; don't edit.",
        "",
        f"Chosen on dev: {json.dumps(found['chosen'])}. On dev: "
        + ", ".join(f"{name} {100 * value:.1f}" for name, value in found["dev"].items())
        + ".",
        "",
        *table_of(found["systems"]),
        "",
        "## Over the test's own documents",
        "",
        f"The same checkpoints and settings over the {found['own documents']:,} documents of the test programs alone;",
        "the pool above, over which the settings were chosen, has those of all sides.",
        "",
        *table_of(found["systems, own documents"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/study"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="*", help="train these lines and stop")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    study = Study(arguments.output, arguments.seeds)
    weight = study.path_weight()
    if arguments.only is not None:
        for number, seed in itertools.product(arguments.only, range(arguments.seeds)):
            study.train(number, seed, weight)
        return
    chosen = study.chosen()
    trained, dev, best = study.lira_rows(weight)
    chosen["LiRA is"] = TRAINED[best][0]
    queries, pool = len(study.splits["test"].queries), len(study.splits["test"].corpus)
    found = {
        "setting": f"({queries:,} queries, {pool:,} documents, K = 6, {arguments.seeds} seeds)",
        "chosen": chosen | {"path weight": weight},
        "dev": dev,
        "versions": {name: importlib.metadata.version(name) for name in ("lira-hf", "torch", "transformers")},
        "systems": report(study.control_rows("test", chosen) | trained["test"]),
        "own documents": len(study.splits[OWN].corpus),
        "systems, own documents": report(study.control_rows(OWN, chosen) | trained[OWN]),
    }
    here = Path(__file__).parent
    (here / "results" / "study_lasr.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = here.parent / "docs" / "results" / "lasr.md"
    page.write_text(markdown(found), encoding="utf-8")
    Console(width=200).print(page.read_text(encoding="utf-8"), markup=False)


if __name__ == "__main__":
    main()
