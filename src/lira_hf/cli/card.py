"""`lira card`, and the card that `lira train` writes beside its checkpoint."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text


__all__ = ["card", "write_run_card"]


def card(
    model: Annotated[Path, typer.Argument(help="Folder of a LiRA checkpoint.")],
    report: Annotated[
        list[Path] | None,
        typer.Option(
            help="What was measured: the report.json of `lira quickstart` or `lira ablate`, or the --json of `lira "
            "evaluate`; several are fine."
        ),
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Candidate store of the training: who gave candidates.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Data of the training; by default what the run's facts name.")
    ] = None,
    data_license: Annotated[
        list[str] | None, typer.Option(help="The data's licence; by default what their README.md says.")
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="The data's id on the Hub, such as org/name.")] = None,
    license: Annotated[str | None, typer.Option(help="The weights' licence, such as apache-2.0.")] = None,
    diagnosis: Annotated[Path | None, typer.Option(help="The bound.json of `lira diagnose`.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name; by default its folder's.")] = None,
    template: Annotated[Path | None, typer.Option(help="A template of your own; see model_cards/templates.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also over a README.md of another origin, which is kept beside it.")
    ] = False,
) -> None:
    """Write a checkpoint's model card, README.md, from facts; what isn't known is said to be unknown.

    What you write between the marks in the card stays, and so do fields that you add to its metadata.
    """
    from lira_hf.model_card import checkpoint_facts, write_model_card

    from .main import _BAD_INPUT, _fail, console  # main imports this module

    try:
        facts = checkpoint_facts(
            model,
            reports=report or [],
            store=store,
            data=data or [],
            data_licenses=data_license or [],
            datasets=dataset or [],
            license=license,
            diagnosis=diagnosis,
            name=name,
        )
        path = write_model_card(facts, model, template=template, overwrite=overwrite)
    except _BAD_INPUT as error:
        raise _fail(error) from error
    unknown = {
        "the training (no lira_run.json)": not facts.runs,
        "figures (--report)": not facts.measured,
        "the weights' licence (--license)": "\nlicense: " not in path.read_text(encoding="utf-8").split("\n---\n")[0],
        "the data's licence (--data-license)": not facts.data or any(one.license is None for one in facts.data),
    }
    missing = [what for what, absent in unknown.items() if absent]
    console.print(Text(f"card: {path}"), soft_wrap=True)
    if missing:
        console.print(Text(f"not stated in it: {', '.join(missing)}"), soft_wrap=True)


def write_run_card(folder: str | Path, console: Console) -> None:
    """
    The card of a checkpoint that was just trained. One that a person has written stays, and no run fails for its card.
    """
    from lira_hf.model_card import CardError, checkpoint_facts, write_model_card

    try:
        path = write_model_card(checkpoint_facts(folder), folder)
    except CardError as error:
        console.print(Text(f"no card was written: {error}"), soft_wrap=True)
        return
    console.print(Text(f"card: {path}; `lira card` adds figures and licences"), soft_wrap=True)
