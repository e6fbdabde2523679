"""`lira features`."""

from pathlib import Path

from rich.console import Console

from lira_hf.inference import Share
from lira_hf.training import fill_recipe_features, read_recipe


__all__ = ["run_features"]


def run_features(recipe: Path, share: str | None, output: Path | None, sources: list[Path], console: Console) -> None:
    """Fills a recipe's feature cache, or one machine's share of it, and says what became of the texts."""
    arguments, mine = read_recipe(recipe), None if share is None else Share.parse(share)
    place = arguments[1].features if output is None else output
    reports = fill_recipe_features(arguments, mine, output, sources, progress=console.is_terminal)
    whose = "" if mine is None else f"share {mine}, "
    for road, report in reports.items():
        there = report.needed - report.taken - report.computed
        console.print(
            f"{whose}{road}: {report.needed:,} texts; {report.computed:,} computed now, {report.taken:,} taken over, "
            f"{there:,} were there; {place}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
