"""Few-shot settings (paper): both stages trained anew with a few rows of one language, those of the others as they
are."""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from lira_hf.data import read_beir, read_sts, write_sts
from lira_hf.data.similarity import TABLE_SUFFIXES
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures
from lira_hf.models import LiraModel, LiraProcessor
from lira_hf.training import read_recipe, train_recipe
from lira_hf.training.tasks import read_pairs

from .embedder import dev_metrics
from .robustness import check_folder, fill_clean, kept, texts_digest
from .robustness_systems import RobustnessSystems
from .robustness_tasks import RobustnessTask, TaskDocuments, measure_systems


__all__ = ["FEW_SHOT_ROWS", "FewShotCurve", "few_shot_data"]

FEW_SHOT_ROWS = (0, 10, 30, 100, 300, None)
Recipes = tuple[dict[str, Any], dict[str, Any]]


def few_shot_data(
    data: Path, split: str, language: str, rows: int | None, output: Path, seed: int = 0
) -> tuple[Path, int]:
    """
    Training data with a few rows of one language. Of a BEIR folder its queries are left out of the training split,
    though the corpus stays whole; of scored pairs those with a side in the language. Fewer rows are a part of more,
    and the other splits are as they were.

    Args:
        data (`Path`): A BEIR folder, or a table of scored pairs, or a folder of such tables.
        split (`str`): Name of the training split.
        language (`str`): Its tag.
        rows (`int`, *optional*): How many rows of it stay; `None`: all.
        output (`Path`): Folder of the new data; made if need be.
        seed (`int`, *optional*, defaults to 0): Of which rows stay.

    Returns:
        `tuple[Path, int]`: what a recipe is to name as its data, and how many rows of the language there are.

    Raises:
        ValueError: Where there are fewer than `rows`.
    """
    output.mkdir(parents=True, exist_ok=True)
    if (data / "corpus.jsonl").is_file():
        return output, _few_queries(data, split, language, rows, output, seed)
    in_split = read_pairs(str(data), split)
    pairs = in_split if data.is_dir() and in_split is not None else read_sts(data)
    held = [data.is_file() and in_split is not None and pair.split != split for pair in pairs]
    keys = [f"{number}\0{pair.text1}\0{pair.text2}" for number, pair in enumerate(pairs)]
    tagged = [
        key
        for key, pair, other in zip(keys, pairs, held, strict=True)
        if not other and language in (pair.language1, pair.language2)
    ]
    gone = _left_out(tagged, rows, language, data, seed)
    if data.is_dir():
        others = [path.name for path in data.iterdir() if path.suffix in TABLE_SUFFIXES and path.stem != split]
        _link(data, output, others)
    file = output / f"{split}.jsonl" if data.is_dir() else output / "pairs.jsonl"
    write_sts(file, [pair for key, pair in zip(keys, pairs, strict=True) if key not in gone])
    return output if data.is_dir() else file, len(tagged)


def _few_queries(data: Path, split: str, language: str, rows: int | None, output: Path, seed: int) -> int:
    train = read_beir(data, split)
    tagged = [key for key, query in train.queries.items() if query.language == language]
    gone = _left_out(tagged, rows, language, data, seed)
    (output / "qrels").mkdir(exist_ok=True)
    others = [f"qrels/{path.name}" for path in (data / "qrels").glob("*.tsv") if path.stem != split]
    _link(data, output, ["corpus.jsonl", "queries.jsonl", *others])
    lines = [
        f"{query}\t{document}\t{score}\n"
        for query, judged in train.qrels.items()
        if query not in gone
        for document, score in judged.items()
    ]
    part = output / "qrels" / f".{split}.tsv.part"
    part.write_text("".join(["query-id\tcorpus-id\tscore\n", *lines]), encoding="utf-8", newline="\n")
    os.replace(part, output / "qrels" / f"{split}.tsv")
    return len(tagged)


def _link(data: Path, output: Path, names: Sequence[str]) -> None:
    """What doesn't change isn't copied: a corpus may be large."""
    for name in names:
        if not (output / name).exists():
            (output / name).symlink_to((data / name).resolve())


def _left_out(keys: Sequence[str], rows: int | None, language: str, data: Path, seed: int) -> set[str]:
    if not keys or (rows is not None and rows > len(keys)):
        raise ValueError(
            f"got {_name(rows)} training rows of {language!r} to keep, and {data} has {len(keys)}; expected no more "
            "than there are; take smaller numbers, or another language"
        )
    order = sorted(keys, key=lambda key: hashlib.blake2b(f"{seed}\0{key}".encode()).digest())
    return set() if rows is None else set(order[rows:])


class FewShotCurve:
    """
    Trains and measures the points of a few-shot curve in a folder. What is finished is kept, and a run that was killed
    goes on from its last checkpoint.

    Args:
        folder (`Path`): Where data, checkpoints and points go.
        task ([`RobustnessTask`]): What is measured; clean.
        recipes (`Sequence[Path]`): The recipes of stage 1 and of stage 2, of one task each, as `lira train` takes
            them. Their data, folders, seed and stage 2's model are set anew.
        language (`str`): Whose rows are few.
        source ([`CandidateSource`], *optional*): Candidates at inference.
        features (`Path`): Feature cache of what is measured.
        controls (`dict`): `mixture` and `path_weight` of the controls, see [`choose_controls`].
        seeds (`Sequence[int]`, *optional*): Of the training; the recipe's by default. Figures are averaged.
        train_features ([`RoadFeatures`], *optional*): Of the training rows, where g has learned from these
            (cross-fitted); as of [`train_recipe`].
        announce (`Callable`, *optional*): Told what begins.

    Raises:
        ValueError: For recipes of other stages or of several tasks, or a folder with points of another run.
    """

    def __init__(
        self,
        folder: Path,
        task: RobustnessTask,
        recipes: Sequence[Path],
        language: str,
        source: CandidateSource | None,
        features: Path,
        controls: dict[str, Any],
        seeds: Sequence[int] | None = None,
        train_features: RoadFeatures | None = None,
        announce: Callable[[str], None] | None = None,
    ):
        self.folder = folder
        self.task = task
        self.language = language
        self.source = source
        self.features = features
        self.controls = controls
        self.train_features = train_features
        self.announce = announce or (lambda step: None)
        self.recipes = _read_stages(recipes)
        arca = read_recipe(self.recipes[0])
        self.data, self.split = Path(arca[1].data), arca[1].train_split
        self.seeds = [arca[2].seed] if seeds is None else list(seeds)
        shown = {name: str(value) for name, value in controls.items() if name != "dev"}
        check_folder(
            folder,
            {
                "recipes": [{**recipe, "seed": None} for recipe in self.recipes],
                "language": language,
                "seeds": self.seeds,
                "controls": shown,
                "texts": texts_digest(task.texts),
                "cross_fitted": train_features is not None,
            },
        )

    def run(self, rows: Sequence[int | None] = FEW_SHOT_ROWS) -> list[dict[str, Any]]:
        """
        Args:
            rows (`Sequence[int | None]`, *optional*): Numbers of rows; `None`: all there are.

        Returns:
            `list[dict]`: Per number `rows`, `there` (how many there are), and what [`measure_systems`] gives.
        """
        counts: list[int | None] = list(sorted({count for count in rows if count is not None}))
        return [self.point(count) for count in (*counts, *([None] if None in rows else []))]

    def point(self, rows: int | None) -> dict[str, Any]:
        """One point, trained and measured unless it is there."""
        return kept(self.folder / f"rows-{_name(rows)}.json", lambda: self._measured(rows))

    def _measured(self, rows: int | None) -> dict[str, Any]:
        place = self.folder / f"rows-{_name(rows)}"
        data, there = few_shot_data(self.data, self.split, self.language, rows, place / "data")
        trained = [self._trained(rows, seed, place, data) for seed in self.seeds]
        self.announce(f"{_name(rows)} rows of {self.language}: measured")
        embedders = []
        for model_folder in trained:
            model, processor = LiraModel.from_pretrained(model_folder), LiraProcessor.from_pretrained(model_folder)
            model.to("cuda" if torch.cuda.is_available() else "cpu")
            features = RoadFeatures(model, processor, self.features)
            embedders.append(LiraEmbedder(model, processor, self.source, features))
        systems = RobustnessSystems(embedders, self.controls["mixture"], self.controls["path_weight"])
        fill_clean(self.task, systems)
        documents = TaskDocuments(self.task, systems)
        figures = measure_systems(self.task, systems, self.task.texts, documents)
        return {"rows": there if rows is None else rows, "there": there, "language": self.language, **figures}

    def _trained(self, rows: int | None, seed: int, place: Path, data: Path) -> Path:
        """Both stages with one seed; the folder of stage 2's checkpoint."""
        arca, lasr = place / f"seed-{seed}" / "arca", place / f"seed-{seed}" / "lasr"
        for stage, output, recipe in (("1", arca, self.recipes[0]), ("2", lasr, self.recipes[1])):
            if (output / ".complete").is_file():
                continue
            self.announce(f"{_name(rows)} rows of {self.language}, seed {seed}: stage {stage}")
            changed = {"features": str(self.features), **recipe, "disable_tqdm": True}
            changed |= {"data": str(data), "output_dir": str(output), "seed": seed}
            if stage == "2":
                changed["model"] = str(arca)
            train_recipe(changed, dev_metrics, self.train_features, quiet=True)
            for checkpoint in output.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
            (output / ".complete").touch()
        return lasr


def _name(rows: int | None) -> str:
    return "all" if rows is None else str(rows)


def _read_stages(paths: Sequence[Path]) -> Recipes:
    """Both recipes as they are written, checked."""
    if len(paths) != 2:
        raise ValueError(f"got {len(paths)} recipes; expected those of stage 1 and of stage 2; name both")
    found = []
    for path, stage in zip(paths, ("arca", "lasr"), strict=True):
        _, data, args = read_recipe(path)
        if args.stage != stage:
            raise ValueError(
                f"got {path}, a recipe of stage {args.stage!r}; expected one of stage {stage!r}; name stage 1's "
                "recipe first, then stage 2's"
            )
        if len(data.each()) != 1 or data.task == "generation":
            raise ValueError(
                f"got {path}, a recipe of several tasks or of generation; expected retrieval or ranking alone; "
                "write one"
            )
        found.append(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    return found[0], found[1]
