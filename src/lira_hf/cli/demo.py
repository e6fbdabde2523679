"""`lira demo` and its options."""

from pathlib import Path
from typing import Annotated

import typer


__all__ = ["demo"]


def demo(
    model: Annotated[str, typer.Argument(help="A LiRA checkpoint: folder or name.")],
    data: Annotated[
        Path | None,
        typer.Argument(
            help="What is searched: a BEIR folder, whose queries become examples, its corpus.jsonl, or a text file "
            "with a document a line."
        ),
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="A folder that `lira embed` made, to search in it; DATA gives examples alone.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of a BEIR folder: name of the qrels; 'test' by default, where it is there.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Candidate store.")] = None,
    translator: Annotated[
        Path | None, typer.Option(help="Folder of a saved translator, for what the store lacks.")
    ] = None,
    critic: Annotated[
        str | None, typer.Option(help="Folder of a saved heuristic critic, or NAME[:FINGERPRINT] of one in the store.")
    ] = None,
    features: Annotated[Path | None, typer.Option(help="Feature cache, which makes a second start quick.")] = None,
    candidates: Annotated[int, typer.Option(help="Most candidates per text.", min=1)] = 5,
    port: Annotated[int, typer.Option(help="Port of the page; 0 takes a free one.", min=0, max=65535)] = 7860,
    host: Annotated[str, typer.Option(help="Address to listen on; the default serves this machine alone.")] = (
        "127.0.0.1"
    ),
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
) -> None:
    """A page to type in any language: candidates, critics, the actor, and search with and without LiRA.

    Needs the extra 'demo'. Nothing leaves the machine.
    """
    from .demo_run import run_demo
    from .main import _BAD_INPUT, _fail, console  # main imports this module

    source = (store, translator, critic, candidates)
    try:
        run_demo(model, data, vectors, split, source, features, host, port, browser, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error
