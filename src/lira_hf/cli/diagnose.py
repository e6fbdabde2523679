"""`lira diagnose` and its options."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


__all__ = ["diagnose"]


class _Space(StrEnum):
    ADAPTED = "adapted"
    FROZEN = "frozen"


def diagnose(
    model: Annotated[str, typer.Argument(help="A LiRA checkpoint: folder or name.")],
    data: Annotated[
        Path,
        typer.Argument(
            help="Texts with English references: a BEIR folder whose relevant documents say what its queries say, or "
            "a .tsv (language, text, english) or .tmx file."
        ),
    ],
    split: Annotated[str, typer.Option(help="Of a BEIR folder: name of the qrels.")] = "test",
    calibration: Annotated[str | None, typer.Option(help="Another split (or file) to fit constants on.")] = None,
    store: Annotated[Path | None, typer.Option(help="Candidate store.")] = None,
    translator: Annotated[
        Path | None, typer.Option(help="Folder of a saved translator, for what the store lacks.")
    ] = None,
    critic: Annotated[
        str | None, typer.Option(help="Folder of a saved heuristic critic, or NAME[:FINGERPRINT] of one in the store.")
    ] = None,
    candidates: Annotated[int, typer.Option(help="Most candidates per text.", min=1)] = 5,
    features: Annotated[Path | None, typer.Option(help="Feature cache.")] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="An earlier checkpoint, or a trainer's output folder with several: how errors changed."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for report.json, report.md, rows.tsv and plots.")
    ] = None,
    space: Annotated[_Space, typer.Option(help="Distances between Arca's vectors, or the encoders' own.")] = (
        _Space.ADAPTED
    ),
    level: Annotated[float, typer.Option(help="Share of new rows for which the bound shall hold.")] = 0.995,
    temperature: Annotated[float, typer.Option(help="Of the semantic distribution.")] = 0.1,
    smoothing: Annotated[float, typer.Option(help="Share of the uniform distribution in it.")] = 1e-3,
    floor: Annotated[float, typer.Option(help="Least eps2 of a row, in nats.")] = 1e-3,
    anchors: Annotated[int, typer.Option(help="Most English sentences that it ranges over.", min=8)] = 512,
    bank_file: Annotated[
        Path | None, typer.Option(help="File of English sentences to draw them from; by default the data's own.")
    ] = None,
    quantile: Annotated[float, typer.Option(help="At which the local Lipschitz constant is read.")] = 0.95,
    edits: Annotated[int, typer.Option(help="One-token edits of a row.", min=1)] = 6,
    edit_rows: Annotated[int, typer.Option(help="Rows of each language that are edited.", min=0)] = 32,
    seed: Annotated[int, typer.Option(help="Of halves, anchors and edits.")] = 0,
) -> None:
    """Which language suffers from the encoder, which from the translator, and what to do about it.

    Measures the paper's bound on a text's way from its ideal translation: anchoring error, translation fidelity,
    their constants, and how much of it each language uses. See docs/diagnose.md.
    """
    from lira_hf.evaluation import BoundSettings

    from .diagnose_run import DiagnoseOptions, run_diagnose
    from .main import _BAD_INPUT, _fail, console

    source = (store, translator, critic, candidates)
    try:
        settings = BoundSettings(level, temperature, smoothing, floor, quantile, seed=seed)
        options = DiagnoseOptions(split, calibration, space.value, anchors, bank_file, edits, edit_rows, settings)
        run_diagnose(model, data, source, features, checkpoint or [], output, options, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error
