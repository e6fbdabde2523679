"""`lira robustness` and its options."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


__all__ = ["robustness"]


class _Translations(StrEnum):
    KEPT = "kept"
    AGAIN = "again"
    BOTH = "both"


def robustness(
    model: Annotated[str, typer.Argument(help="A LiRA checkpoint: folder or name.")],
    data: Annotated[Path, typer.Argument(help="A BEIR folder, or a table of scored pairs (or a folder of such).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the report; what it has isn't measured again.")
    ],
    split: Annotated[str, typer.Option(help="The split that is measured on.")] = "test",
    dev_split: Annotated[str, typer.Option(help="The split that the controls are tuned on, if it is there.")] = "dev",
    also: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="The same model of another seed: figures are averaged.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Candidate store; it is only read.")] = None,
    translator: Annotated[
        Path | None, typer.Option(help="Folder of a saved translator, for what the store lacks and for noisy texts.")
    ] = None,
    critic: Annotated[
        str | None,
        typer.Option(
            help="Folder of a saved heuristic critic, which judges noisy candidates too; or NAME[:FINGERPRINT] of one "
            "in the store, whose scores stay what they were."
        ),
    ] = None,
    candidates: Annotated[int, typer.Option(help="Most candidates per text.", min=1)] = 5,
    features: Annotated[
        Path | None, typer.Option(help="Feature cache of clean texts; in the output's folder by default.")
    ] = None,
    noise: Annotated[
        str, typer.Option(help="Some of typos, code_mixing, diacritics and candidates, with commas; or none.")
    ] = "typos,code_mixing,diacritics,candidates",
    rates: Annotated[
        str, typer.Option(help="Shares of letters, words, marks or candidates that are hit.")
    ] = "0,0.1,0.2,0.4",
    translations: Annotated[
        _Translations,
        typer.Option(
            help="Candidates of a noisy text: kept (those of the clean text, of a translator that copes), or asked of "
            "--translator again."
        ),
    ] = _Translations.KEPT,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Parallel text (.tmx, or .tsv: language, text, english) to learn code-mixing's words from; by "
            "default the translator's, else the texts' first candidates."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    resamples: Annotated[int, typer.Option(help="Bootstrap samples of each interval.", min=100)] = 2000,
    recipe: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="ARCA LASR", help="Recipes of both stages: train anew with few rows of --language."),
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="With --recipe: the language whose rows are few.")
    ] = None,
    few_shot: Annotated[
        str, typer.Option(help="With --recipe: how many rows, with commas; all for all there are.")
    ] = "0,10,30,100,300,all",
    train_seeds: Annotated[
        str | None, typer.Option(help="With --recipe: seeds of the training, with commas; the recipe's by default.")
    ] = None,
) -> None:
    """Curves: how LiRA and its controls bear typos, code-mixing, missing diacritics, wrong candidates and few rows.

    Beside LiRA stand g alone, translate-then-h, the tuned concat and LiRA's own start, per language, with intervals.
    Started again after an interruption, it goes on where it was. See docs/robustness.md.
    """
    from .main import _BAD_INPUT, _fail, console
    from .robustness_run import RobustnessOptions, run_robustness

    options = RobustnessOptions(
        models=[model, *(also or [])],
        data=data,
        output=output,
        split=split,
        dev_split=dev_split,
        store=store,
        critic=critic,
        translator=translator,
        features=features,
        num_candidates=candidates,
        noise=noise,
        rates=rates,
        translations=translations.value,
        pairs=pairs,
        noise_seed=seed,
        resamples=resamples,
        recipes=recipe,
        few_shot=few_shot,
        language=language,
        train_seeds=train_seeds,
    )
    try:
        run_robustness(options, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error
