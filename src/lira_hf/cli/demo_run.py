"""What `lira demo` does: loads the parts, and serves the page."""

import contextlib
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor

from lira_hf.data import BeirDataset, read_beir, read_documents
from lira_hf.inference import (
    ComparedDocuments,
    LiraEmbedder,
    LiraExplainer,
    LiraGenerator,
    RoadFeatures,
    VectorFolder,
    VectorIndex,
    make_source,
)
from lira_hf.integrations.demo import DemoWorker, LiraDemo
from lira_hf.models import LiraConfig, LiraForCausalLM, LiraModel, LiraProcessor
from lira_hf.models.places_lira import loading

from .checkpoint import load_checkpoint


__all__ = ["make_demo", "run_demo"]

SourceOptions = tuple[Path | None, Path | None, str | None, int]


def run_demo(
    model_name: str,
    data: Path | None,
    vectors: Path | None,
    split: str | None,
    source_options: SourceOptions,
    features: Path | None,
    host: str,
    port: int,
    inbrowser: bool,
    console: Console,
) -> None:
    """Loads all that the page needs, serves it, and returns when it is interrupted."""
    from lira_hf.integrations.demo_page import build_page, serve_page  # before the work: the extra may be missing

    worker = DemoWorker(
        lambda: make_demo(model_name, data, vectors, split, source_options, features, console.is_terminal)
    )
    try:
        page = build_page(worker)
        address = serve_page(page, port, host, inbrowser, block=False)
        with contextlib.suppress(KeyboardInterrupt):  # one may come before the page itself waits for it
            console.print(f"{address}  (Ctrl-C ends)", markup=False, highlight=False, soft_wrap=True)
            page.block_thread()
    finally:
        worker.close()


def make_demo(
    model_name: str,
    data: Path | None,
    vectors: Path | None,
    split: str | None,
    source_options: SourceOptions,
    features: Path | None,
    progress: bool = False,
) -> LiraDemo:
    """
    The demo without its page, by the options.

    A corpus is embedded under every system; with a folder of vectors it isn't, and `data` gives the examples alone.
    """
    model, processor, generator = _load(model_name, with_vectors=vectors is not None)
    source = make_source(*source_options)
    if generator is not None:
        generator.candidates = source
    roads = RoadFeatures(model, processor, features)
    embedder = LiraEmbedder(model, processor, source, roads, progress=progress)
    dataset = None if data is None else _read(data, split)
    documents: ComparedDocuments | VectorIndex | None = None
    if vectors is not None:
        documents = VectorIndex(VectorFolder(vectors))
    elif dataset is not None:
        documents = ComparedDocuments(embedder, dataset.corpus, dataset.document_languages)
    embedder.progress = False
    return LiraDemo(LiraExplainer(embedder, documents), dataset, generator, Path(model_name).name)


def _load(name: str, with_vectors: bool) -> tuple[LiraModel, LiraProcessor, LiraGenerator | None]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with loading(name):
        config, generator = AutoConfig.from_pretrained(name), None
    if isinstance(config, LiraConfig) and config.base_config is not None:
        causal: LiraForCausalLM = AutoModelForCausalLM.from_pretrained(name).to(device)
        generator = LiraGenerator(causal, AutoProcessor.from_pretrained(name))
        if not with_vectors:
            return causal.lira, generator.processor, generator
    # As `lira embed` loads it, without the base LM, which has a say in the fingerprint.
    model, processor = load_checkpoint(name)
    return model.to(device), processor, generator


def _read(data: Path, split: str | None) -> BeirDataset:
    """A corpus, and queries where the data has the split; all but the corpus may be missing unless it is asked for."""
    judged = data.is_dir() and (data / "queries.jsonl").is_file()
    if split is None and not (judged and (data / "qrels" / "test.tsv").is_file()):
        return read_documents(data)
    return read_beir(data, split or "test")
