"""What `lira diagnose` does."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lira_hf.data.files import replace_files, strict_json
from lira_hf.evaluation import (
    BoundMeasurements,
    BoundRows,
    BoundSettings,
    bound_summary,
    choose_anchors,
    diagnose,
    diagnosis_markdown,
    diagnosis_table,
    drift_point,
    drift_table,
    find_row_candidates,
    fit_bound,
    measure_bound,
    plot_diagnosis,
    plot_drift,
    read_bound_rows,
    semantic_bank,
    write_diagnosis_rows,
)
from lira_hf.inference import LiraEmbedder, RoadFeatures, make_source

from .checkpoint import load_checkpoint


__all__ = ["DiagnoseOptions", "run_diagnose"]

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class DiagnoseOptions:
    """
    Options of the command that say what is measured.

    Args:
        split (`str`): Of a BEIR folder: the rows that are checked.
        calibration (`str`, *optional*): Another split, or another file of parallel text, to fit the constants on.
        space (`str`): `"adapted"` or `"frozen"`.
        anchors (`int`): Most sentences of the bank.
        bank_file (`Path`, *optional*): Where they are drawn from.
        edits, edit_rows (`int`): One-token edits of a row, and rows of each language that are edited.
        settings ([`BoundSettings`]): Of the estimators.
    """

    split: str
    calibration: str | None
    space: str
    anchors: int
    bank_file: Path | None
    edits: int
    edit_rows: int
    settings: BoundSettings


def run_diagnose(
    model_name: str,
    data: Path,
    source_options: tuple[Path | None, Path | None, str | None, int],
    features: Path | None,
    checkpoints: Sequence[Path],
    output: Path | None,
    options: DiagnoseOptions,
    console: Console,
) -> None:
    """Measures the bound on a model and, where asked, on checkpoints before it; prints, and writes the report."""
    earlier = _expand(checkpoints)
    model, processor = load_checkpoint(model_name)
    own = processor.anchor_languages
    found = read_bound_rows(data, own, options.split, options.calibration, options.settings.seed)
    texts = choose_anchors(found, options.anchors, options.bank_file, options.settings.seed)
    source = make_source(*source_options)
    if source is None:
        raise ValueError(
            "got neither --store nor --translator; expected candidate translations, without which there is no eps2; "
            "add one of the two (`lira translate` fills a store)"
        )
    with tempfile.TemporaryDirectory() as passing:
        folder = features or (Path(passing) if earlier else None)  # checkpoints share their frozen features
        embedder = LiraEmbedder(model, processor, source, RoadFeatures(model, processor, folder))
        embedder.progress = console.is_terminal
        candidates = find_row_candidates(embedder, found.rows)
        points = []
        for place in earlier:
            held = LiraEmbedder(*_with_features(place, folder), progress=console.is_terminal)
            points.append(_point(place.name, held, found, candidates, texts, options))
        bank = semantic_bank(embedder, texts)
        work = (options.space, options.edits, options.edit_rows, options.settings.seed)
        measured = measure_bound(embedder, found.rows, candidates, found.roles, *work)
    report: dict[str, Any] = {"model": model_name, "data": str(data), "split": options.split}
    report |= diagnose(measured, bank, options.settings)
    report["rows"]["left_out"] = found.left_out
    if points:
        points.append(drift_point(Path(model_name).name, measured, bank, options.settings))
        report["drift"] = points
    console.print(diagnosis_table(report))
    for facts in report["languages"].values():
        console.print("* " + " ".join(facts["verdict"]["advice"]), markup=False, highlight=False, soft_wrap=True)
    if points:
        console.print(drift_table(points))
    if output is not None:
        fit = fit_bound(measured, bank, options.settings)
        _write(output, report, measured, fit, options.settings, console)


def _with_features(place: Path, folder: Path | None) -> tuple[Any, ...]:
    model, processor = load_checkpoint(str(place))
    return model, processor, None, RoadFeatures(model, processor, folder)


def _point(
    name: str,
    embedder: LiraEmbedder,
    found: BoundRows,
    candidates: tuple[list[list[str]], list[list], list[list]],
    texts: list[str],
    options: DiagnoseOptions,
) -> dict[str, Any]:
    seed = options.settings.seed
    measured = measure_bound(embedder, found.rows, candidates, found.roles, options.space, edit_rows=0, seed=seed)
    return drift_point(name, measured, semantic_bank(embedder, texts), options.settings)


def _expand(places: Sequence[Path]) -> list[Path]:
    """Checkpoints, and those in a trainer's output folder by their step."""
    found: list[Path] = []
    for place in places:
        steps = [(_CHECKPOINT.fullmatch(each.name), each) for each in place.glob("checkpoint-*")]
        inside = sorted((int(match[1]), each) for match, each in steps if match and (each / "config.json").is_file())
        if inside:
            found += [each for _, each in inside]
        elif (place / "config.json").is_file():
            found.append(place)
        else:
            raise ValueError(
                f"got --checkpoint {place}, which holds neither a config.json nor a checkpoint-STEP folder; expected "
                "a checkpoint, or a trainer's output folder; mend the path, and keep checkpoints with "
                "save_total_limit"
            )
    return found


def _write(
    folder: Path,
    report: dict[str, Any],
    measured: BoundMeasurements,
    fit: Any,
    settings: BoundSettings,
    console: Console,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_diagnosis_rows(folder / "rows.tsv", measured, fit)
    contents = {
        "report.json": strict_json(report),
        "bound.json": strict_json(bound_summary(report)),
        "report.md": diagnosis_markdown(report),
    }
    replace_files([(folder / name, [text.encode()]) for name, text in contents.items()])
    written = [*contents, "rows.tsv"]
    try:
        plot_diagnosis(report, measured, fit, settings, folder / "report.png")
        written.append("report.png")
        if report.get("drift"):
            plot_drift(report["drift"], folder / "drift.png")
            written.append("drift.png")
    except ImportError as error:
        console.print(f"no plot: {error}", markup=False, soft_wrap=True)
    console.print(f"{folder}: {', '.join(written)}", markup=False, highlight=False, soft_wrap=True)
