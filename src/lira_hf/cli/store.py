"""`lira store`: statistics of a candidate store, its export, import and merging."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text


__all__ = ["store_app"]

store_app = typer.Typer(no_args_is_help=True, help="Look into candidate stores, export, import and merge them.")


class _Format(StrEnum):
    PARQUET = "parquet"
    JSONL = "jsonl"
    DATASET = "dataset"


class _OnError(StrEnum):
    RAISE = "raise"
    SKIP = "skip"


class _OnConflict(StrEnum):
    KEEP = "keep"
    NEWER = "newer"


_Store = Annotated[Path, typer.Argument(help="The candidate store.")]
_Languages = Annotated[list[str] | None, typer.Option("--language", "-l", help="Only this one; several are fine.")]
_Conflict = Annotated[_OnConflict, typer.Option(help="Of two answers, or scores, keep the store's or the newer one.")]


@store_app.command()
def stats(
    store: _Store,
    json_output: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """What a store holds of each language, and who gave it."""
    from lira_hf.data.files import write_json
    from lira_hf.translation import CandidateStore
    from lira_hf.translation.store_statistics import store_statistics

    with _told_errors(), CandidateStore(store, read_only=True) as opened:
        figures: dict[str, Any] = {"languages": store_statistics(opened), **opened.provenance()}
        _print(_language_table(figures["languages"]))
        _print(_provenance_table(figures))
        if json_output is not None:
            write_json(json_output, figures)


@store_app.command()
def export(
    store: _Store,
    target: Annotated[
        Path, typer.Argument(help="A .parquet or .jsonl file, or a folder for a Hugging Face data set.")
    ],
    language: _Languages = None,
    format: Annotated[_Format | None, typer.Option(help="By default what the target's ending says.")] = None,
) -> None:
    """Write a store's candidates and scores where others can read them, one row a candidate."""
    from lira_hf.translation import CandidateStore
    from lira_hf.translation.store_exchange import export_store

    with _told_errors(), CandidateStore(store, read_only=True) as opened:
        count = export_store(opened, target, languages=language, format=format and format.value)  # type: ignore[arg-type]
        _print(f"{count:,} rows in {target}")


@store_app.command("import")
def import_(
    store: Annotated[Path, typer.Argument(help="The candidate store; made if it isn't there.")],
    source: Annotated[Path, typer.Argument(help="An export: .parquet, .jsonl, a folder of them, or a data set.")],
    language: _Languages = None,
    on_error: Annotated[
        _OnError, typer.Option(help="skip: import the right rows, tell of the rest.")
    ] = _OnError.RAISE,
    on_conflict: _Conflict = _OnConflict.KEEP,
    max_problems: Annotated[int, typer.Option(help="The most problems to tell of.", min=1)] = 50,
) -> None:
    """Bring exported rows into a store; all are checked before the first is written."""
    from lira_hf.translation import CandidateStore
    from lira_hf.translation.store_import import import_store

    with _told_errors(), _made_if_needed(store, [source]), CandidateStore(store) as opened:
        report = import_store(
            opened,
            source,
            languages=language,
            on_error=on_error.value,
            on_conflict=on_conflict.value,
            max_problems=max_problems,
        )
        _print_report(report)


@store_app.command()
def merge(
    store: Annotated[Path, typer.Argument(help="The candidate store that takes; made if it isn't there.")],
    others: Annotated[list[Path], typer.Argument(help="The stores that give; they stay as they are.")],
    language: _Languages = None,
    on_conflict: _Conflict = _OnConflict.KEEP,
) -> None:
    """Bring what other stores hold into a store, everything once."""
    from lira_hf.translation import CandidateStore
    from lira_hf.translation.store_import import merge_store

    with _told_errors(), _made_if_needed(store, others), CandidateStore(store) as opened:
        for path in others:
            with CandidateStore(path, read_only=True) as other:
                report = merge_store(opened, other, languages=language, on_conflict=on_conflict.value)
            _print_report(report, f"{path}: ")


@contextmanager
def _told_errors() -> Iterator[None]:
    from .main import _BAD_INPUT, _fail  # main imports this module

    try:
        yield
    except _BAD_INPUT as error:
        raise _fail(error) from error


@contextmanager
def _made_if_needed(store: Path, sources: list[Path]) -> Iterator[None]:
    # A mistyped source leaves no empty store behind.
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source} isn't there; expected what {store} is to take in; check the path")
    yield


def _print(what: Any) -> None:
    from .main import console

    # As Text: brackets in a path or a name are no markup.
    console.print(Text(what) if isinstance(what, str) else what, soft_wrap=isinstance(what, str))


def _print_report(report: Any, prefix: str = "") -> None:
    _print(
        f"{prefix}{report.rows:,} rows read, {report.candidates:,} candidates and {report.scores:,} scores new, "
        f"{report.skipped:,} rows skipped"
    )
    for problem in report.problems:
        _print(f"  {problem}")


def _language_table(languages: dict[str, dict[str, Any]]) -> Table:
    table = Table("language", "texts", "candidates", "a text", "texts without", "duplicates")
    table.add_column("judged, mean semantic / emotional / pragmatic")
    for language, row in languages.items():
        critics = [
            f"{critic['name']} {critic['judged']:.0%}, "
            f"{critic['semantic']:.2f} / {critic['emotional']:.2f} / {critic['pragmatic']:.2f}"
            for critic in row["critics"]
            if critic["semantic"] is not None
        ]
        counts = (f"{row[name]:,}" for name in ("texts", "candidates"))
        rest = (f"{row[name]:,}" for name in ("without_candidates", "duplicates"))
        cells = (language, *counts, f"{row['candidates_per_text']:.2f}", *rest, "\n".join(critics))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _provenance_table(figures: dict[str, Any]) -> Table:
    table = Table("", "name", "fingerprint", "about it")
    for kind in ("translators", "critics"):
        for row in figures[kind]:
            about = json.dumps(row["meta"], ensure_ascii=False) if row["meta"] else ""
            table.add_row(kind[:-1], *(Text(cell) for cell in (row["name"], row["fingerprint"], about)))
    return table
