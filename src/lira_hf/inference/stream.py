"""Any number of texts into a folder of vectors, a shard at a time, in the memory of a few (ours)."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from .candidates import CandidateSource
from .embedder import LiraEmbedder
from .vectors import TextRow, VectorFolder, VectorsError
from .workers import EmbedderPool


__all__ = ["EmbedReport", "embed_rows", "encode_rows", "source_name"]

logger = logging.getLogger(__name__)


@dataclass
class EmbedReport:
    """
    What became of the rows.

    Args:
        written (`int`): Embedded now.
        skipped (`int`): In the folder before, or repeated word for word.
        blank (`int`): Left out, since they have neither text nor candidates.
    """

    written: int = 0
    skipped: int = 0
    blank: int = 0


def embed_rows(
    embedder: LiraEmbedder,
    rows: Iterable[TextRow],
    folder: VectorFolder,
    *,
    pool: EmbedderPool | None = None,
    shard_rows: int = 8192,
    total: int | None = None,
    role: str | None = None,
) -> EmbedReport:
    """
    Embeds rows that the folder lacks. What a shard needs is held in memory, and 16 bytes for each row of the folder.

    A killed run has lost the shard that it was at; started again with the same rows it goes on behind the last
    finished one.

    Args:
        embedder ([`LiraEmbedder`]): Its `progress` says whether a bar is shown.
        rows (`Iterable[TextRow]`): The rows, such as a generator's.
        folder ([`VectorFolder`]): Opened by [`VectorFolder.create`] with the embedder's fingerprint and dimension.
        pool ([`EmbedderPool`], *optional*): Processes that embed; this one still finds the candidates.
        shard_rows (`int`, *optional*, defaults to 8192): Rows of a shard.
        total (`int`, *optional*): How many rows will come, for the bar.
        role (`str`, *optional*): `"query"` or `"document"`, as in [`LiraEmbedder.encode`]. Where it brings a prompt, a
            text that the folder holds in another role is another text.

    Returns:
        [`EmbedReport`]: What became of the rows.

    Raises:
        ValueError: For a `shard_rows` below 1, or where one id comes with different texts; finished shards stay.
        VectorsError: For another model's folder, or an id that it holds with another text.
        WorkerError: A process of the pool died.
    """
    if shard_rows < 1:
        raise ValueError(f"got shard_rows={shard_rows!r}; expected at least 1; pass a positive number")
    if folder.manifest["fingerprint"] != embedder.fingerprint:
        raise VectorsError(
            f"got {folder.folder}, of a model with the fingerprint {folder.manifest['fingerprint']!r}; expected this "
            f"model's, {embedder.fingerprint!r}; make the folder with VectorFolder.create(..., fingerprint="
            "embedder.fingerprint)"
        )
    source, report = source_name(embedder.candidates), EmbedReport()
    with tqdm(total=total, desc="embedding", unit="text", disable=not embedder.progress) as bar:
        for chunk in _chunks(rows, shard_rows):
            fresh = _fresh(embedder, chunk, folder, source, report, role)
            bar.update(len(chunk) - len(fresh))
            if fresh:
                vectors = encode_rows(embedder, fresh, pool, bar.update, role)
                folder.append(fresh, vectors, _sources(embedder, fresh, source, role))
                report.written += len(fresh)
    if report.blank:
        logger.warning("left out %d rows without text and candidates", report.blank)
    return report


def _chunks(rows: Iterable[TextRow], size: int) -> Iterator[list[TextRow]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _fresh(
    embedder: LiraEmbedder,
    chunk: list[TextRow],
    folder: VectorFolder,
    source: str,
    report: EmbedReport,
    role: str | None,
) -> list[TextRow]:
    """Rows of a chunk to embed: not blank, not in the folder, each id once."""
    by_id: dict[str, TextRow] = {}
    blank = repeated = 0
    for row in chunk:
        if not row.text.strip() and not row.candidates:
            blank += 1
        elif by_id.setdefault(row.id, row) is not row:
            repeated += 1
            if by_id[row.id] != row:
                raise ValueError(
                    f"got the id {row.id!r} with {row.text!r:.60} and with {by_id[row.id].text!r:.60}; expected each "
                    "id once; rename one of the two"
                )
    rows = list(by_id.values())
    known = folder.known(rows, _sources(embedder, rows, source, role))
    report.blank += blank
    report.skipped += repeated + int(known.sum())
    return [row for row, there in zip(rows, known, strict=True) if not there]


def encode_rows(
    embedder: LiraEmbedder,
    rows: Sequence[TextRow],
    pool: EmbedderPool | None = None,
    advance: Callable[[int], Any] | None = None,
    role: str | None = None,
) -> NDArray[np.float32]:
    """
    Vectors of rows of which some may bring their own candidates; the others have those of the embedder's source.

    Args:
        embedder ([`LiraEmbedder`]): The embedder.
        rows (`Sequence[TextRow]`): The rows, all in memory.
        pool ([`EmbedderPool`], *optional*): Processes that embed.
        advance (`Callable[[int], Any]`, *optional*): Told the number of texts of each finished batch.
        role (`str`, *optional*): `"query"` or `"document"`, as in [`LiraEmbedder.encode`].

    Returns:
        `np.ndarray` of shape `(rows, projection_dim)`, float32, of unit length or zero.
    """
    vectors = np.zeros((len(rows), embedder.model.config.projection_dim), dtype=np.float32)
    for own in (True, False):
        some = [number for number, row in enumerate(rows) if (row.candidates is not None) is own]
        texts, tags = [rows[number].text for number in some], [rows[number].language for number in some]
        given = [list(rows[number].candidates or ()) for number in some] if own else None
        scores = [rows[number].scores or [None] * len(rows[number].candidates or ()) for number in some]
        for places, found in embedder._encoded(texts, tags, given, scores, pool, role):
            vectors[[some[place] for place in places]] = found
            if advance is not None:
                advance(len(places))
    return vectors


def _sources(embedder: LiraEmbedder, rows: list[TextRow], source: str, role: str | None) -> list[str]:
    """What vectors are made from besides the texts. English is its own candidate, whatever the source is."""
    own = embedder.processor.anchor_languages
    mark = f"|{role}" if embedder.processor.add_prompt(["x"], role) != ["x"] else ""
    return [("" if row.language is None or row.language in own else source) + mark for row in rows]


def source_name(candidates: CandidateSource | None) -> str:
    """What a source is made of, in words that stay the same from one process to the next."""
    if candidates is None or (candidates.store is None and candidates.translator is None):
        return ""
    parts = ["store" if candidates.store is not None else ""]
    for who in (candidates.translator, candidates.critic):
        parts.append("" if who is None else f"{who.name}:{who.fingerprint}")
    return "|".join([*parts, str(candidates.num_candidates)])
