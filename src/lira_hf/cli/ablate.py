"""`lira ablate`."""

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


if TYPE_CHECKING:
    from lira_hf.inference import RoadFeatures
    from lira_hf.quickstart import QuickstartSettings


__all__ = ["ablate", "quickstart_features", "run_ablate"]

_VERDICTS = {
    "yes": "earned its place",
    "no": "did not earn its place: without it the model is as good, as far as can be told",
    "harms": "did not earn its place: without it the model is better",
    "unknown": "too few rows to say",
}


def ablate(
    recipes: Annotated[
        list[Path] | None,
        typer.Argument(help="The recipes of stage 1 and stage 2, as `lira train` takes them: ARCA.yaml LASR.yaml."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The ablation's folder; with --quickstart its folder's sub-folder 'ablation'.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Training runs of each row.", min=1)] = 3,
    quickstart: Annotated[
        Path | None,
        typer.Option(
            help="Instead of recipes, the folder of a `lira quickstart`; its data, encoders and candidates are made "
            "first, unless they are there."
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="With --quickstart, where there is none in its folder yet: cldr (default), catalogs, study."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="The split that is reported.")] = "test",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW", help="A trained row that is wanted besides the full model; several are fine."),
    ] = None,
    steps: Annotated[
        tuple[int, int] | None, typer.Option(help="Steps of stage 1 and of stage 2, instead of the recipes'.")
    ] = None,
    queue_size: Annotated[
        int, typer.Option(help="Entries of the queue in the row that has one, where the recipes have none.", min=1)
    ] = 1024,
    path_weight: Annotated[
        str,
        typer.Option(help="g's share: 'dev' chooses it on dev for each trained row, 'recipe' leaves the recipes'."),
    ] = "dev",
    workers: Annotated[
        int | None, typer.Option(help="Processes that train at once; by default one a core, one with a GPU.", min=1)
    ] = None,
) -> None:
    """What each part of LiRA is worth on your data: the full model, one without each part, and controls; over seeds.

    Writes report.md, report.json and report.png. Started again after an interruption, it goes on where it was; asked
    for more seeds later, it trains these alone.
    """
    from .main import _BAD_INPUT, _fail, console

    try:
        if path_weight not in ("dev", "recipe"):
            raise ValueError(f"got --path-weight {path_weight}; expected 'dev' or 'recipe'; correct it")
        tune = path_weight == "dev"
        given = (recipes or [], quickstart, corpus, output, seeds, split, only, steps, queue_size, tune, workers)
        run_ablate(*given, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error


def run_ablate(
    recipes: list[Path],
    quickstart: Path | None,
    corpus: str | None,
    output: Path | None,
    seeds: int,
    test_split: str,
    only: list[str] | None,
    steps: tuple[int, int] | None,
    queue_size: int,
    tune_path_weight: bool,
    workers: int | None,
    console: Console,
) -> None:
    """Runs an ablation on recipes' data or on a quickstart's, prints the table and writes the report."""
    import torch

    from lira_hf.evaluation import Ablation, ablation_report, read_stages, write_ablation

    if "OMP_NUM_THREADS" not in os.environ:
        # As in the quickstart: two threads on two cores that anything else uses too are slower than one.
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    started = time.perf_counter()

    def announce(message: str) -> None:
        console.print(f"[dim]{time.perf_counter() - started:6.0f} s[/dim]  {message}", highlight=False)

    if len(recipes) != (2 if quickstart is None else 0):
        raise ValueError(
            f"got {len(recipes)} recipes and --quickstart {quickstart}; expected either the recipes of both stages, "
            "ARCA.yaml LASR.yaml, or --quickstart with its folder"
        )
    features = None
    if quickstart is None:
        if output is None:
            raise ValueError("got recipes without --output; expected the folder of the ablation; add --output FOLDER")
        arca, lasr = read_stages(*recipes)
    else:
        output = output or quickstart / "ablation"
        arca, lasr = _quickstart_recipes(quickstart, corpus, announce, console.is_terminal)
        features = functools.partial(quickstart_features, quickstart)
    if steps is not None:
        arca, lasr = _with_steps(arca, steps[0]), _with_steps(lasr, steps[1])
    ablation = Ablation(
        arca,
        lasr,
        output,
        range(seeds),
        test_split=test_split,
        queue_size=queue_size,
        tune_path_weight=tune_path_weight,
        only=only,
        workers=workers,
        train_features=features,
        announce=announce,
        progress=console.is_terminal,
    )
    report = ablation_report(ablation.run())
    files = write_ablation(report, output)
    _print(report, files, console)
    console.print(f"{time.perf_counter() - started:.0f} s in all")


def _print(report: dict[str, Any], files: list[Path], console: Console) -> None:
    """The table, the verdicts, and where the rest is."""
    console.print(_table(report))
    for part, found in report["verdicts"].items():
        console.print(f"{part}: {_VERDICTS[found['earned']]}", markup=False)
    console.print(f"\nReport: {', '.join(map(str, files))}", markup=False)


def _settings(folder: Path, corpus: str | None = None) -> "QuickstartSettings":
    """Those of the quickstart in a folder; the defaults where there is none yet."""
    from lira_hf.quickstart import QuickstartSettings

    path = folder / "settings.json"
    if not path.is_file():
        return QuickstartSettings(corpus=corpus or "cldr")
    known = json.loads(path.read_text(encoding="utf-8"))
    if corpus not in (None, known["corpus"]):
        raise ValueError(
            f"got --corpus {corpus}, and {folder} is a quickstart on {known['corpus']!r}; expected the same; leave "
            "--corpus out, or name another folder"
        )
    return QuickstartSettings(**{key: tuple(v) if isinstance(v, list) else v for key, v in known.items()})


def _quickstart_recipes(
    folder: Path, corpus: str | None, announce: Callable[[str], None], progress: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A quickstart's recipes; its data, encoders, candidates and features are made first, unless they are there."""
    from lira_hf.quickstart import Quickstart
    from lira_hf.quickstart.settings import arca_recipe, lasr_recipe

    run = Quickstart(folder, _settings(folder, corpus), progress=progress, announce=announce)
    run.prepare()
    # g's share is chosen for each trained row.
    arca = arca_recipe(folder, 0, run.anchor, 0.5, run.critic, run.settings)
    lasr = lasr_recipe(folder, 0, 0, run.critic, run.settings)
    return arca, lasr


def quickstart_features(folder: Path) -> "RoadFeatures":
    """Features of a quickstart's training rows: cross-fitted ones, where the encoder learned from these rows."""
    from lira_hf.quickstart import Quickstart

    return Quickstart(folder, _settings(folder), progress=False).train_features


def _with_steps(recipe: dict[str, Any], steps: int) -> dict[str, Any]:
    """A recipe with another number of steps, looked at on dev as often as before."""
    if steps < 1:
        raise ValueError(f"got {steps} steps; expected at least 1; correct it")
    changed, share = {"max_steps": steps}, steps / recipe.get("max_steps", steps)
    for name in ("eval_steps", "save_steps"):
        if name in recipe:
            changed[name] = max(1, round(recipe[name] * share))
    if "eval_steps" in recipe and "save_steps" in changed:  # the best checkpoint is one that was looked at
        changed["save_steps"] = changed["eval_steps"] * max(1, recipe["save_steps"] // recipe["eval_steps"])
    return {**recipe, **changed}


def _table(report: dict[str, Any]) -> Table:
    metric = report["metrics"][0]
    tags = [*(tag for tag in report["systems"]["LiRA"][metric] if tag != "mean"), "mean"]
    table = Table(title=f"{metric} x 100 on test, {len(report['facts']['seeds'])} seeds")
    table.add_column("", no_wrap=True)
    for tag in tags:
        table.add_column(tag, justify="right")
    table.add_column("LiRA minus it", justify="right", no_wrap=True)
    for name, found in report["systems"].items():
        gap = report["differences"].get(name)
        shown = ""
        if gap is not None:
            one = gap[metric]["mean"]
            shown = f"{100 * one['difference']:+.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
        cells = [f"{100 * found[metric][tag]:.1f}" for tag in tags]
        table.add_row(name, *cells, shown, style="bold" if gap is None else None)
    return table
