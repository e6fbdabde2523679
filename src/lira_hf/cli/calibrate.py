"""`lira calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table


if TYPE_CHECKING:
    from lira_hf.evaluation import PathWeightCalibration


__all__ = ["calibrate"]


def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a LiRA checkpoint; its config.json is changed.")],
    data: Annotated[Path, typer.Argument(help="A BEIR folder whose queries carry their language.")],
    split: Annotated[
        str, typer.Option(help="Name of the qrels: queries that neither training nor your report uses.")
    ] = "dev",
    store: Annotated[Path | None, typer.Option(help="Candidate store.")] = None,
    translator: Annotated[
        Path | None, typer.Option(help="Folder of a saved translator, for what the store lacks.")
    ] = None,
    critic: Annotated[
        str | None, typer.Option(help="Folder of a saved heuristic critic, or NAME[:FINGERPRINT] of one in the store.")
    ] = None,
    candidates: Annotated[int, typer.Option(help="Most candidates per text.", min=1)] = 5,
    features: Annotated[Path | None, typer.Option(help="Feature cache.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the shares and change nothing.")] = False,
) -> None:
    """How much a language's embeddings owe to the encoder, and how much to the translation; chosen on held-out data.

    Nothing is trained, and vectors of English texts stay what they are. Do it before you embed a corpus: vectors made
    before are refused, as the checkpoint is another.
    """
    from .main import _BAD_INPUT, _fail, console

    try:
        found = run_calibrate(model, data, split, (store, translator, critic, candidates), features, dry_run, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error
    console.print(_table(found))
    for tag, count in found.skipped.items():
        console.print(f"{tag}: left as it is, with {count} queries, or not a language of the training", markup=False)
    console.print("nothing changed" if dry_run else f"written: {model / 'config.json'}", markup=False)


def run_calibrate(
    folder: Path,
    data: Path,
    split: str,
    source_options: tuple[Path | None, Path | None, str | None, int],
    features: Path | None,
    dry_run: bool,
    console: Console,
) -> "PathWeightCalibration":
    """Chooses each language's share and writes it into the checkpoint's configuration."""
    from lira_hf.data import read_beir
    from lira_hf.evaluation import calibrate_path_weights
    from lira_hf.inference import LiraEmbedder, RoadFeatures, make_source
    from lira_hf.models import LiraConfig
    from lira_hf.models.saving_lira import renew_checksums

    from .checkpoint import load_checkpoint

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; expected the folder of a LiRA checkpoint; name one")
    dataset = read_beir(data, split)
    source = make_source(*source_options)
    if source is None:
        raise ValueError(
            "got neither --store nor --translator; expected where translations come from: without any, there is no "
            "share to choose; add one of the two"
        )
    model, processor = load_checkpoint(str(folder))
    cache = RoadFeatures(model, processor, features)
    embedder = LiraEmbedder(model, processor, source, cache, progress=console.is_terminal)
    found = calibrate_path_weights(embedder, dataset)
    if not dry_run:
        # The configuration alone: of a checkpoint with a base LM, what was loaded here is a part.
        config = LiraConfig.from_pretrained(folder)
        config.language_path_weights = model.config.language_path_weights
        config.save_pretrained(folder)
        renew_checksums(folder)
    return found


def _table(found: "PathWeightCalibration") -> Table:
    table = Table(title="g's share and nDCG@10 x 100")
    table.add_column("")
    for name in ("share", "before", "after", "expected of new queries"):
        table.add_column(name, justify="right")
    for tag, weight in found.weights.items():
        figures = (f"{100 * one[tag]:.1f}" for one in (found.before, found.after, found.expected))
        table.add_row(tag, f"{weight:g}", *figures)
    if len(found.weights) > 1:
        means = (sum(one.values()) / len(one) for one in (found.before, found.after, found.expected))
        table.add_row("mean", "", *(f"{100 * mean:.1f}" for mean in means))
    return table
