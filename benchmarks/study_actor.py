"""Does the actor earn its place? Translate-then-h under every way to choose among candidates, out of domain.

    .venv/bin/python benchmarks/study_actor.py --output runs/study [--seeds 3]

Corpus, encoder, translators, candidates and features are those of `lira quickstart --corpus study` in the same folder;
what is there is not made again. Each trained choice is stage 1 by `lira train`'s function. Settings (kinds, pairs,
temperatures, checkpoints' modes) are chosen on dev; test programs were never seen in training. Writes
benchmarks/results/study_actor.json and the table in docs/results/actor.md. An hour on two cores, from nothing.
"""

import argparse
import importlib.metadata
import itertools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from lira_hf.evaluation import CandidateChoice, RetrievalScores, hard_weights, paired_difference, soft_weights
from lira_hf.models import LiraModel, LiraProcessor
from lira_hf.quickstart import Quickstart, QuickstartSettings
from lira_hf.quickstart.settings import arca_recipe
from lira_hf.training import train_recipe


OURS = "policy, mixture against the reference (ours)"
SIDES = ("train", "dev", "test")
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
STAGE = {"max_steps": 300, "save_steps": 300, "per_device_train_batch_size": 256, "actor_learning_rate": 5e-3}
# Name, changes of the configuration, changes of the recipe.
TRAINED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (OURS, {}, {}),
    ("policy, mixture, kinds not told apart", {"candidate_kinds": []}, {}),
    ("policy, mixture, no judge in training", {}, {"critic": None, "critic_fingerprint": None}),
    ("policy, REINFORCE on the judge's reward (paper)", {"policy_objective": "reinforce"}, {"reference": "none"}),
    ("policy, exact gradient, judge's reward", {"policy_objective": "expected"}, {"reference": "none"}),
    (
        "policy, exact gradient, reference's reward",
        {"policy_objective": "expected", "reward_weights": [0.0, 0.0, 0.0, 0.0]},
        {},
    ),
]
Weigh = Callable[[str], NDArray[np.floating]]


@dataclass
class Row:
    """One line of the table: scores by seed on dev and test, and what was chosen on dev."""

    dev: list[float] = field(default_factory=list)
    test: list[RetrievalScores] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)

    def add(self, choices: dict[str, CandidateChoice], options: dict[str, Weigh]) -> None:
        """Scores the option that is best on dev."""
        dev = {name: choices["dev"].score(weigh("dev")).mean() for name, weigh in options.items()}
        best = max(dev, key=dev.__getitem__)
        self.dev.append(dev[best])
        self.test.append(choices["test"].score(options[best]("test")))
        self.chosen.append(best)


def prepare(folder: Path, seeds: int) -> tuple[Quickstart, dict[str, CandidateChoice]]:
    settings = QuickstartSettings(corpus="study", seeds=tuple(range(seeds)), num_candidates=6)
    run = Quickstart(folder, settings, progress=True, announce=Console().print)
    run.prepare()
    source = run.candidates()
    return run, {side: CandidateChoice(run.split(side), run.plain_features, source) for side in SIDES}


def controls(choices: dict[str, CandidateChoice]) -> dict[str, Row]:
    """What needs no training."""
    kinds = sorted({kind for kind in choices["dev"].kinds.flat if kind})

    def soft(name: str) -> dict[str, Weigh]:
        return {
            f"T={t}": lambda side, t=t: soft_weights(getattr(choices[side], name), choices[side].mask, t)
            for t in TEMPERATURES
        }

    def hard(name: str) -> dict[str, Weigh]:
        return {"argmax": lambda side: hard_weights(getattr(choices[side], name), choices[side].mask)}

    pairs = {
        f"{one}+{other}": lambda side, both=(one, other): sum(choices[side].fixed(kind) for kind in both)
        for one, other in itertools.combinations(kinds, 2)
    }
    constant = learned_constant(choices["train"])
    options: dict[str, dict[str, Weigh]] = {
        "best fixed kind": {kind: lambda side, kind=kind: choices[side].fixed(kind) for kind in kinds},
        "two kinds, half each": pairs,
        "learned constant mixture": {"trained": lambda side: constant(choices[side])},
        "uniform mixture": {"uniform": lambda side: choices[side].mask.astype(float)},
        "consensus, argmax": hard("consensus"),
        "consensus, softmax": soft("consensus"),
        "judge, argmax": hard("judge"),
        "judge, softmax": soft("judge"),
        "oracle, argmax": hard("closeness"),
        "oracle, softmax": soft("closeness"),
    }
    rows = {}
    for name, given in options.items():
        rows[name] = Row()
        rows[name].add(choices, given)
    return rows


def learned_constant(train: CandidateChoice, steps: int = 300) -> Callable[[CandidateChoice], NDArray[np.floating]]:
    """One weight a kind and one a place in the list, trained as the mixture is; it looks at no candidate."""
    kinds = sorted({kind for kind in train.kinds.flat if kind})
    width = train.mask.shape[1]
    logits = torch.zeros(len(kinds) + width, requires_grad=True)

    def weights(choice: CandidateChoice, rows: Any = slice(None)) -> torch.Tensor:
        kind = (
            torch.from_numpy(np.stack([choice.kinds[rows] == kind for kind in kinds], -1)).float()
            @ logits[: len(kinds)]
        )
        return torch.softmax((kind + logits[len(kinds) :]).masked_fill(~torch.from_numpy(choice.mask[rows]), -1e9), -1)

    torch.manual_seed(0)
    usable = np.flatnonzero(train.mask.any(1))
    references = torch.from_numpy(train.references)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(steps):
        rows = np.random.default_rng(len(usable) + _).choice(usable, 256, replace=False)
        mixed = (weights(train, rows).unsqueeze(-1) * torch.from_numpy(train.sentences[rows])).sum(1)
        right = references[rows]
        scores = torch.nn.functional.normalize(mixed, dim=-1) @ right.T / 0.05
        same = (right @ right.T > 1 - 1e-4) & ~torch.eye(len(rows), dtype=torch.bool)
        loss = torch.nn.functional.cross_entropy(scores.masked_fill(same, -1e9), torch.arange(len(rows)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lambda choice: weights(choice).detach().numpy()


def train(run: Quickstart, number: int, seed: int) -> tuple[LiraModel, LiraProcessor]:
    """Stage 1 of one line, or what an earlier run left of it."""
    name, config, changes = TRAINED[number]
    folder = run.folder / f"seed-{seed}" / f"actor-{number}"
    if not (folder / ".complete").is_file():
        Console().print(f"{name}, seed {seed}")
        recipe = arca_recipe(run.folder, seed, run.anchor, 0.5, run.critic, run.settings) | STAGE | changes
        recipe |= {"output_dir": str(folder), "config": recipe["config"] | config, "disable_tqdm": True}
        train_recipe(recipe, None, run.train_features, quiet=True)
        (folder / ".complete").touch()
    return LiraModel.from_pretrained(folder), LiraProcessor.from_pretrained(folder)


def policies(run: Quickstart, choices: dict[str, CandidateChoice], seeds: int) -> dict[str, Row]:
    """Every trained choice, with the judge absent; ours and the paper's also with the judge at hand."""
    rows: dict[str, Row] = {}

    def add(name: str, options: dict[str, Weigh]) -> None:
        rows.setdefault(name, Row()).add(choices, options)

    for number, seed in itertools.product(range(len(TRAINED)), range(seeds)):
        name = TRAINED[number][0]
        model, processor = train(run, number, seed)
        seen = {side: choices[side].outputs(model, processor) for side in SIDES[1:]}
        judged = {side: choices[side].outputs(model, processor, judge=True) for side in SIDES[1:]}
        for judge, found in (("", seen), (", judge at inference", judged)):
            if judge and number not in (0, 3):
                continue
            policy = {side: found[side]["policy"] for side in found}
            tempered = {f"T={t}": lambda side, t=t, p=policy: p[side] ** (1 / t) for t in (1.0, 2.5, 5.0)}
            add(f"{name}{judge}", tempered)
            add(f"{name}{judge}, argmax", {"argmax": lambda side, p=policy: hard_weights(p[side], choices[side].mask)})
        if number == 0:
            sim = {side: seen[side]["similarity"] for side in seen}
            add("sim, argmax", {"argmax": lambda side, s=sim: hard_weights(s[side], choices[side].mask)})
            add(
                "sim, softmax",
                {
                    f"T={t}": lambda side, t=t, s=sim: soft_weights(s[side], choices[side].mask, t)
                    for t in TEMPERATURES
                },
            )
            add(
                "raw reward with the judge, argmax",
                {"argmax": lambda side, s=sim: hard_weights(choices[side].judge + s[side], choices[side].mask)},
            )
    return rows


def report(rows: dict[str, Row]) -> dict[str, Any]:
    ours = rows[OURS].test
    table = {}
    for name, row in sorted(rows.items(), key=lambda item: np.mean([s.mean() for s in item[1].test])):
        languages = [scores.per_language() for scores in row.test]
        table[name] = {
            "dev": float(np.mean(row.dev)),
            "test": float(np.mean([scores.mean() for scores in row.test])),
            "seeds": [scores.mean() for scores in row.test],
            "languages": {tag: float(np.mean([found[tag] for found in languages])) for tag in languages[0]},
            "chosen": row.chosen,
            "ours_minus_it": None if name == OURS else paired_difference(ours, row.test)._asdict(),
        }
    return table


def markdown(table: dict[str, Any], sizes: str) -> str:
    tags = list(next(iter(table.values()))["languages"])
    lines = [
        "# The actor on the study corpus",
        "",
        f"nDCG@10 x 100 of translate-then-h {sizes}. Judge absent at inference unless said otherwise. Differences",
        "with 95 % paired-bootstrap intervals, resampled by document. Made by `benchmarks/study_actor.py`; no edits.",
        "",
        "| choice | dev | test | " + " | ".join(tags) + " | ours minus it | chosen on dev |",
        "|---|" + "---|" * (len(tags) + 4),
    ]
    for name, row in table.items():
        gain = row["ours_minus_it"]
        shown = (
            ""
            if gain is None
            else f"{100 * gain['difference']:+.1f} [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]"
        )
        cells = [f"{100 * row['dev']:.1f}", f"{100 * row['test']:.1f}"]
        cells += [f"{100 * row['languages'][tag]:.1f}" for tag in tags]
        label = f"**{name}**" if gain is None else name
        lines.append("| " + " | ".join([label, *cells, shown, ", ".join(dict.fromkeys(row["chosen"]))]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/study"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    run, choices = prepare(arguments.output, arguments.seeds)
    table = report(controls(choices) | policies(run, choices, arguments.seeds))
    queries, pool = len(choices["test"].dataset.queries), len(choices["test"].dataset.corpus)
    sizes = f"({queries:,} queries, {pool:,} documents, K = 6, {arguments.seeds} seeds)"
    here = Path(__file__).parent
    versions = {name: importlib.metadata.version(name) for name in ("lira-hf", "torch", "transformers")}
    found = {"setting": sizes, "versions": versions, "systems": table}
    (here / "results" / "study_actor.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = here.parent / "docs" / "results" / "actor.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(markdown(table, sizes), encoding="utf-8")
    Console(width=200).print(page.read_text(encoding="utf-8"), markup=False)


if __name__ == "__main__":
    main()
