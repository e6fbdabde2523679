"""Puts the vectors of `lira embed` into a vector database, and asks it in several languages.

As it stands it makes a tiny random model and a corpus on the spot, so it runs anywhere, in seconds, and its answers
mean nothing. With real ones: --checkpoint path/to/checkpoint --vectors path/to/vectors --query "ur:..."

The database is LanceDB, in this process and on the disk: pip install 'lira-hf[lancedb]'. Stopped anywhere and started
again, the script goes on where it was, and no text is there twice.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoProcessor

from lira_hf import LiraModel, LiraProcessor, NgramEncoderConfig, NgramEncoderModel, NgramTokenizer
from lira_hf.data import normalize_language
from lira_hf.inference import (
    LiraEmbedder,
    TextRow,
    VectorFolder,
    VectorHit,
    VectorIndex,
    dequantize,
    embed_rows,
)


logger = logging.getLogger("vector_database")

CORPUS = {
    "en": ["The market opens at dawn.", "Rice grows in wet fields.", "The train to the coast is late."],
    "id": ["Pasar buka saat fajar.", "Padi tumbuh di sawah.", "Kereta ke pantai terlambat."],
    "vi": ["Chợ mở cửa lúc bình minh.", "Lúa mọc trên ruộng nước.", "Chuyến tàu ra biển bị trễ."],
    "ur": ["بازار فجر کے وقت کھلتا ہے۔", "چاول گیلے کھیتوں میں اگتا ہے۔", "ساحل جانے والی ٹرین لیٹ ہے۔"],
}
QUERIES = ["en:When does the market open?", "id:Kapan pasar buka?", "ur:ٹرین کب آئے گی؟"]


def make_tiny_checkpoint(folder: Path) -> None:
    """A model of a few thousand random weights, the same every time; its encoder also serves as the English one."""
    torch.manual_seed(0)
    NgramEncoderModel(NgramEncoderConfig(vocab_size=600, embedding_size=16, hidden_size=32)).save_pretrained(folder)
    NgramTokenizer(num_buckets=598).save_pretrained(folder)
    model = LiraModel.from_backbones(str(folder), num_bins=4, languages=[*CORPUS])
    processor = LiraProcessor.from_backbones(str(folder), trained_languages=model.config.languages)
    model.save_pretrained(folder.with_name("checkpoint"))
    processor.save_pretrained(folder.with_name("checkpoint"))


def embed_corpus(embedder: LiraEmbedder, checkpoint: Path, output: Path) -> None:
    """What `lira embed` does, for the corpus above; texts that are there aren't embedded again."""
    rows = (
        TextRow(f"{language}-{number}", text, language)
        for language, texts in CORPUS.items()
        for number, text in enumerate(texts)
    )
    dim = embedder.model.config.projection_dim
    with VectorFolder.create(output, dim, "float32", str(checkpoint), embedder.fingerprint) as folder:
        embed_rows(embedder, rows, folder, role="document", shard_rows=8)


def read_batches(folder: VectorFolder, size: int) -> Iterator[pa.Table]:
    """Ids, languages, texts and float32 vectors of a folder, at most `size` rows at a time."""
    for shard in range(len(folder.shards)):
        stored, table = folder.vectors(shard), folder.table(shard)
        for place in range(0, len(stored), size):
            block = np.ascontiguousarray(stored[place : place + size])
            vectors = dequantize(block, folder.precision, folder.dim).astype(np.float32).ravel()
            columns = {name: table.column(name).slice(place, size) for name in ("id", "language", "text")}
            yield pa.table(columns | {"vector": pa.FixedSizeListArray.from_arrays(vectors, folder.dim)})


def fill(database: Any, folder: VectorFolder, size: int, batches: int | None) -> Any:
    """Writes what the table lacks; `batches`: stops after so many, as if it were killed."""
    # Another model's vectors lie in another table: to compare them with each other means nothing.
    name = f"lira_{folder.manifest['fingerprint'] or 'vectors'}"
    vector = pa.list_(pa.float32(), folder.dim)
    fields = {"id": pa.large_string(), "language": pa.string(), "text": pa.large_string(), "vector": vector}
    table = database.create_table(name, schema=pa.schema(fields), exist_ok=True)
    before, written = table.count_rows(), 0
    for batch in read_batches(folder, size):
        if holds(table, batch):
            continue
        if written == batches:
            logger.info("stopped after %d batches", written)
            break
        # By the id: a row that is there stays as it is, so a batch may be written any number of times.
        table.merge_insert("id").when_not_matched_insert_all().execute(batch)
        written += 1
    logger.info("rows before: %d, rows now: %d of %d", before, table.count_rows(), len(folder))
    return table


def holds(table: Any, batch: pa.Table) -> bool:
    """Whether the table has all of a batch's ids."""
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in batch.column("id").to_pylist())
    return table.count_rows(f"id IN ({quoted})") == len(batch)


def ask(table: Any, query: NDArray[np.float32], k: int, language: str | None = None) -> list[VectorHit]:
    """The nearest texts by exact search; of one language only, if one is given."""
    search = table.search(query).distance_type("dot").limit(k)
    if language is not None:
        search = search.where(f"language = '{language}'", prefilter=True)
    # LanceDB's distance for "dot" is 1 minus the product.
    rows = search.select(["id", "language", "text", "_distance"]).to_list()
    return [VectorHit(row["id"], 1 - row["_distance"], row["text"], row["language"]) for row in rows]


def agree(one: list[VectorHit], other: list[VectorHit], tolerance: float = 1e-5) -> bool:
    """Whether two rankings have the same ids with the same scores; which of equals comes first, or last, is open."""
    if len(one) != len(other) or not np.allclose(
        [hit.score for hit in one], [hit.score for hit in other], atol=tolerance
    ):
        return False
    scores = {hit.id: hit.score for hit in other}
    above = [hit for hit in one if hit.score > one[-1].score + tolerance]
    return all(abs(scores.get(hit.id, np.inf) - hit.score) < tolerance for hit in above)


def parse(query: str) -> tuple[str, str]:
    """`"ur:..."` as a tag and a text."""
    language, colon, text = query.partition(":")
    if not colon or not text.strip():
        raise ValueError(f"got the query {query!r}; expected LANGUAGE:TEXT; write the tag and a colon before the text")
    return normalize_language(language), text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a LiRA checkpoint; left out: a tiny random one")
    parser.add_argument("--vectors", type=Path, help="folder that `lira embed` wrote with that checkpoint")
    parser.add_argument("--query", action="append", help="LANGUAGE:TEXT; several are fine")
    parser.add_argument("--only", default="en", help="language of the filtered search")
    parser.add_argument("-k", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="rows written at a time; thousands for real data")
    parser.add_argument("--stop-after", type=int, help="stop after so many batches, as if killed")
    parser.add_argument("--output", type=Path, default=Path("runs/vector-database"))
    arguments = parser.parse_args()
    if bool(arguments.checkpoint) != bool(arguments.vectors):
        parser.error("got one of --checkpoint and --vectors; expected both, or neither for tiny random ones")
    try:
        asked = [parse(query) for query in arguments.query or QUERIES]
        only = normalize_language(arguments.only)
    except ValueError as error:
        parser.error(str(error))
    checkpoint = arguments.checkpoint or arguments.output / "checkpoint"
    if arguments.checkpoint is None:
        make_tiny_checkpoint(arguments.output / "encoder")
    embedder = LiraEmbedder(AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint))
    if arguments.vectors is None:
        embed_corpus(embedder, checkpoint, arguments.output / "vectors")
    folder = VectorFolder(arguments.vectors or arguments.output / "vectors")
    if folder.manifest["fingerprint"] not in ("", embedder.fingerprint):
        parser.error(f"got vectors of another model than {checkpoint}; expected its own; embed the texts with it")
    table = fill(lancedb.connect(arguments.output / "lancedb"), folder, arguments.batch, arguments.stop_after)
    if table.count_rows() < len(folder):
        return
    queries = embedder.encode([text for _, text in asked], [tag for tag, _ in asked], role="query")
    exact = VectorIndex(folder).search(queries, len(folder))
    for (tag, text), query, ranking in zip(asked, queries, exact, strict=True):
        hits, filtered = ask(table, query, arguments.k), ask(table, query, arguments.k, only)
        same = agree(hits, ranking[: arguments.k])
        own = agree(filtered, [hit for hit in ranking if hit.language == only][: arguments.k])
        logger.info("%s: %s", tag, text)
        for hit in hits:
            logger.info("  %.3f  %s  %s", hit.score, hit.id, hit.text)
        logger.info("  in %s: %s", only, ", ".join(hit.id for hit in filtered))
        logger.info("  as VectorIndex ranks them: %s; within %s: %s", same, only, own)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    main()
