"""`lira embed`."""

from pathlib import Path

import torch
from rich.console import Console

from lira_hf.data import normalize_language
from lira_hf.inference import (
    EmbedderPool,
    LiraEmbedder,
    Share,
    VectorFolder,
    check_rows,
    embed_rows,
    embed_share,
    make_source,
    merge_shares,
    read_rows,
)

from .checkpoint import load_checkpoint


__all__ = ["run_embed", "run_merge"]


def run_embed(
    model_name: str,
    data: Path,
    output: Path,
    part: str,
    language: str | None,
    precision: str,
    source_options: tuple[Path | None, Path | None, str | None, int],
    batch_size: int,
    shard_rows: int,
    processes: int,
    devices: list[str],
    share: str | None,
    console: Console,
) -> None:
    """Checks the data, embeds what the folder lacks, and says what became of it."""
    mine = None if share is None else Share.parse(share)
    _check_devices(devices)
    if language is not None and language != "und":
        normalize_language(language)
    model, processor = load_checkpoint(model_name)
    if data.is_dir() and part == "corpus" and language is None:
        language = processor.anchor_languages[0]  # BEIR's documents name no language; as `lira search` takes them
    total = check_rows(data, part, language, progress=console.is_terminal)
    source = make_source(*source_options)
    embedder = LiraEmbedder(model, processor, source, batch_size=batch_size, progress=console.is_terminal)
    dim, fingerprint = model.config.projection_dim, embedder.fingerprint
    pool = None
    if processes > 1 or len(devices) > 1:
        pool = EmbedderPool(model_name, max(processes, len(devices)), devices or None, batch_size)
    else:
        model.to(devices[0] if devices else "cuda" if torch.cuda.is_available() else "cpu")
    try:
        with VectorFolder.create(output, dim, precision, model_name, fingerprint) as folder:
            rows = read_rows(data, part, language)
            role = "query" if part == "queries" else "document"
            if mine is None:
                report = embed_rows(embedder, rows, folder, pool=pool, shard_rows=shard_rows, total=total, role=role)
            else:
                total = mine.count(total, shard_rows)
                report = embed_share(
                    embedder, rows, folder, mine, pool=pool, shard_rows=shard_rows, total=total, role=role
                )
            count = len(folder)
    finally:
        if pool is not None:
            pool.close()
    size = sum(file.stat().st_size for file in output.iterdir()) / 1e6
    whose = "" if mine is None else f"share {mine}: "
    console.print(
        f"{whose}{report.written:,} of {total:,} texts embedded now, {report.skipped:,} were there; {output} holds "
        f"{count:,} vectors of {folder.dim} dimensions, {precision}, {size:,.1f} MB",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _check_devices(devices: list[str]) -> None:
    """Before anything is loaded, and without a context on a GPU, which the calling process may not need."""
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    for name in devices:
        try:
            device = torch.device(name)
        except RuntimeError:
            device = None
        if device is None or (device.type == "cuda" and (device.index or 0) >= len(there) - 1):
            raise ValueError(f"got --device {name}; expected one that is here, such as {', '.join(there)}; name one")


def run_merge(output: Path, shares: list[Path], console: Console) -> None:
    """Merges shares of one corpus and says what there is now."""
    folder = merge_shares(output, shares)
    console.print(
        f"merged {len(shares)} shares; {output} holds {len(folder):,} vectors of {folder.dim} dimensions, "
        f"{folder.precision}, by {folder.manifest['model']}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
