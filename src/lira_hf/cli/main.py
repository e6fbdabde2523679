"""The `lira` command: thin commands over the package's functions."""

import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from .ablate import ablate
from .calibrate import calibrate
from .card import card, write_run_card
from .demo import demo
from .diagnose import diagnose
from .messages import message_of
from .robustness import robustness
from .store import store_app


__all__ = ["app"]

# Before torch is loaded: threads that wait by spinning slow a busy machine down fivefold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="LiRA for Hugging Face Transformers.")
# A table in a log or a pipe is not squeezed into 80 columns.
console = Console() if Console().is_terminal else Console(width=150)

_BAD_INPUT = (ValueError, OSError, RuntimeError, ImportError)


class _Part(StrEnum):
    CORPUS = "corpus"
    QUERIES = "queries"


class _Precision(StrEnum):
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    BINARY = "binary"


app.add_typer(store_app, name="store")
app.command()(ablate)
app.command()(calibrate)
app.command()(card)
app.command()(demo)
app.command()(diagnose)
app.command()(robustness)


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option(help="Also show the libraries' informational messages.")] = False,
) -> None:
    """Search, rank and embed in the languages that an English-centric model is weak in."""
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    if not verbose:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


def _fail(error: Exception) -> typer.Exit:
    # Not as markup: a message may hold brackets, such as those of 'lira-hf[quickstart]'.
    text = Text.assemble(("error:", "red"), f" {message_of(error)}")
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)
    return typer.Exit(1)


@app.command()
def quickstart(
    corpus: Annotated[
        str, typer.Option(help="'cldr': installed packages; 'catalogs' or 'study': few or many Debian packages.")
    ] = "cldr",
    output: Annotated[Path | None, typer.Option(help="The run's folder; runs/quickstart-CORPUS by default.")] = None,
    seeds: Annotated[int, typer.Option(help="Training runs.", min=1)] = 2,
    data_limit: Annotated[
        int | None, typer.Option(help="Most rows per language of each part, for a quick look.", min=20)
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """From nothing to a trained LiRA model on real text, its table, and a few searches with it.

    Started again after an interruption, it goes on where it was.
    """
    from .quickstart import run_quickstart

    try:
        run_quickstart(corpus, output or Path("runs") / f"quickstart-{corpus}", seeds, data_limit, progress, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error


@app.command()
def train(recipe: Annotated[Path, typer.Argument(help="A YAML recipe; see examples/recipes.")]) -> None:
    """Carry out one training stage as a recipe describes it; a killed run goes on from its last checkpoint."""
    from lira_hf.evaluation import baseline_controls, dev_metrics
    from lira_hf.training import read_recipe, train_recipe

    try:
        arguments = read_recipe(recipe)
        _, _, metrics = train_recipe(arguments, dev_metrics, controls=baseline_controls)
    except _BAD_INPUT as error:
        raise _fail(error) from error
    for name, value in metrics.items():
        console.print(f"{name}: {value:.4f}")
    console.print(f"saved to {arguments[2].output_dir}", markup=False)
    if arguments[2].process_index == 0:
        write_run_card(arguments[2].output_dir, console)


@app.command()
def features(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe; nothing is trained.")],
    share: Annotated[
        str | None,
        typer.Option(metavar="NUMBER/OF", help="One of several shares, such as 3/8 on the third of eight machines."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to, in place of the recipe's features.")
    ] = None,
    take: Annotated[
        list[Path] | None,
        typer.Option("--from", help="A folder that has some already, such as a share's; repeatable."),
    ] = None,
) -> None:
    """Compute the encoders' features that a recipe's training reads, here or in shares on several machines."""
    from .features import run_features

    try:
        run_features(recipe, share, output, take or [], console)
    except _BAD_INPUT as error:
        raise _fail(error) from error


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A LiRA checkpoint: folder or name.")],
    data: Annotated[
        Path | None, typer.Argument(help="A BEIR folder whose queries carry their language; not with --mteb.")
    ] = None,
    mteb: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="A task of mteb instead of DATA; several are fine.")
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option("--language", "-l", help="With --mteb: subsets in this language, or in it and English, alone."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Name of the qrels, 'test' by default; with --mteb the only split.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Candidate store.")] = None,
    critic: Annotated[
        str | None, typer.Option(help="Folder of a saved heuristic critic, or NAME[:FINGERPRINT] of one in the store.")
    ] = None,
    translator: Annotated[
        Path | None,
        typer.Option(help="Folder of a saved translator, for what the store lacks; with --mteb the store keeps it."),
    ] = None,
    features: Annotated[Path | None, typer.Option(help="Feature cache.")] = None,
    candidates: Annotated[int, typer.Option(help="Most candidates per text.", min=1)] = 5,
    output: Annotated[
        Path | None, typer.Option(help="With --mteb: folder of mteb's result files; what it has isn't run again.")
    ] = None,
    json_output: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """nDCG@10 per language, and the means of recall@1 and MRR, with and without translation; or tasks of mteb."""
    from .evaluate import run_evaluate, run_mteb

    source = (store, critic, translator, features, candidates)
    try:
        if not mteb:
            if language or output:
                raise ValueError("got --language or --output without --mteb; expected a task; add --mteb TASK")
            run_evaluate(model, data, split, *source, json_output, console)
            return
        if data is not None:
            raise ValueError(f"got {data} and --mteb; expected one of the two; a task of mteb brings its own data")
        run_mteb(model, mteb, language or [], split, *source, output, json_output, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help="A LiRA checkpoint: folder or name.")],
    data: Annotated[
        Path,
        typer.Argument(
            help="A BEIR folder; a .jsonl, .tsv, .csv or .parquet file with id, text and language; or a text file "
            "with a text a line."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of vectors; made, or added to.")],
    part: Annotated[_Part, typer.Option(help="What the texts are, and what of a BEIR folder is read.")] = _Part.CORPUS,
    language: Annotated[
        str | None,
        typer.Option("--language", "-l", help="Tag of the texts that name none; 'und' where nobody knows it."),
    ] = None,
    precision: Annotated[_Precision, typer.Option(help="How vectors are kept.")] = _Precision.FLOAT32,
    store: Annotated[Path | None, typer.Option(help="Candidate store.")] = None,
    translator: Annotated[
        Path | None, typer.Option(help="Folder of a saved translator, for what the store lacks.")
    ] = None,
    critic: Annotated[
        str | None, typer.Option(help="Folder of a saved heuristic critic, or NAME[:FINGERPRINT] of one in the store.")
    ] = None,
    candidates: Annotated[int, typer.Option(help="Most candidates per text.", min=1)] = 5,
    batch_size: Annotated[int, typer.Option(help="Texts in one pass.", min=1)] = 64,
    shard_rows: Annotated[int, typer.Option(help="Texts of a shard, which is what a kill can lose.", min=1)] = 8192,
    processes: Annotated[int, typer.Option(help="Processes that embed.", min=1)] = 1,
    device: Annotated[
        list[str] | None, typer.Option(help="Such as cuda:1; several are shared among the processes.")
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER/OF",
            help="Embed one of several shares of the data, such as 3/8 on the third of eight machines; `lira "
            "merge-vectors` puts them together.",
        ),
    ] = None,
) -> None:
    """Texts of any number into a folder of vectors; a killed run goes on where it was."""
    from .embed import run_embed

    source = (store, translator, critic, candidates)
    sizes = (batch_size, shard_rows, processes, device or [], share)
    try:
        run_embed(model, data, output, part.value, language, precision.value, source, *sizes, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error


@app.command("merge-vectors")
def merge_vectors(
    output: Annotated[Path, typer.Argument(help="The folder to make.")],
    shares: Annotated[list[Path], typer.Argument(help="Every share's folder, as `lira embed --share` made it.")],
) -> None:
    """Put the shares that several machines embedded into one folder, the same as one machine's."""
    from .embed import run_merge

    try:
        run_merge(output, shares, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error


@app.command()
def search(
    model: Annotated[str, typer.Argument(help="A LiRA checkpoint: folder or name.")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CORPUS | QUERY...",
            help="A BEIR folder, its corpus.jsonl, or a text file with a document a line; with --vectors the queries.",
        ),
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option("--query", "-q", help="LANGUAGE:TEXT, such as 'bn:ঢাকা'; several are fine.")
    ] = None,
    vectors: Annotated[Path | None, typer.Option(help="A folder that `lira embed` made, to search in.")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="With --vectors: a file of queries, in any form that `lira embed` reads.")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="With --vectors: tag of the queries that name none.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Candidate store.")] = None,
    translator: Annotated[Path | None, typer.Option(help="Folder of a saved translator.")] = None,
    critic: Annotated[
        str | None, typer.Option(help="Folder of a saved heuristic critic, or NAME[:FINGERPRINT] of one in the store.")
    ] = None,
    features: Annotated[Path | None, typer.Option(help="Feature cache; not with --vectors.")] = None,
    candidates: Annotated[int, typer.Option(help="Most candidates per query.", min=1)] = 5,
    k: Annotated[int, typer.Option("-k", help="Texts per query.", min=1)] = 3,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="With --vectors: write a JSON object a query here.")
    ] = None,
) -> None:
    """Search a corpus, or a folder of vectors, in any language."""
    from .search import run_search, run_vector_search

    source, asked = (store, translator, critic, candidates), query or []
    if vectors is None and (len(texts or []) != 1 or not asked):
        raise typer.BadParameter("expected one CORPUS and at least one --query, or --vectors and queries")
    if vectors is not None and not (texts or asked or queries):
        raise typer.BadParameter("got --vectors without a query; expected one, --query or --queries")
    if vectors is None and (queries or language or output):
        raise typer.BadParameter("got --queries, --language or --output without --vectors; expected them together")
    if vectors is not None and features:
        raise typer.BadParameter("got --features with --vectors; expected one of the two")
    try:
        if vectors is None:
            run_search(model, Path((texts or [])[0]), asked, source, features, k, console)
        else:
            run_vector_search(model, vectors, texts or [], asked, queries, language, source, k, output, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="A LiRA checkpoint with a base LM: folder or name.")],
    question: Annotated[str | None, typer.Argument(help="One question.")] = None,
    language: Annotated[
        str | None,
        typer.Option("--language", "-l", help="Tag of the questions that name none; 'und' where nobody knows it."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Questions: .jsonl with text or messages, and language; or a text file, one a line."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="With --file: answers, a JSON object a line; FILE.answers.jsonl by default."
        ),
    ] = None,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Ask until a blank line.")] = False,
    store: Annotated[Path | None, typer.Option(help="Candidate store.")] = None,
    translator: Annotated[
        Path | None, typer.Option(help="Folder of a saved translator, for what the store lacks.")
    ] = None,
    critic: Annotated[
        str | None, typer.Option(help="Folder of a saved heuristic critic, or NAME[:FINGERPRINT] of one in the store.")
    ] = None,
    candidates: Annotated[int, typer.Option(help="Most candidates per question.", min=1)] = 5,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.", min=1)] = 256,
    sample: Annotated[
        bool, typer.Option(help="Sample as the checkpoint's settings say, rather than greedily.")
    ] = False,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="The base's chat template; by default where it has one.")
    ] = None,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="For templates that know enable_thinking.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Questions in one pass.", min=1)] = 8,
) -> None:
    """Answer a question, a file of them, or a person, in any language; a killed run over a file goes on."""
    from .generate import run_generate

    if (question is not None) + (file is not None) + interactive != 1:
        raise typer.BadParameter("expected one of QUESTION, --file and --interactive")
    if output is not None and file is None:
        raise typer.BadParameter("got --output without --file; expected both, or neither")
    source = (store, translator, critic, candidates)
    template = {} if thinking is None else {"enable_thinking": thinking}
    options = {"max_new_tokens": max_new_tokens} | ({} if sample else {"do_sample": False})
    asked = (question, file, output, interactive, language)
    try:
        failed = run_generate(model, *asked, source, chat, template, batch_size, options, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error
    if failed:
        raise typer.Exit(1)


@app.command()
def validate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="BEIR folders, parallel text, catalogues, scored pairs, conversations, candidates and their stores, "
            "feature caches, recipes; or folders of such files."
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            help="beir, parallel, gettext, sts, chat, features, candidates, store or recipe; recognised by default."
        ),
    ] = None,
    json_output: Annotated[Path | None, typer.Option("--json", help="Also write the problems here.")] = None,
) -> None:
    """Everything that is wrong with data, row by row, in one pass; exit code 1 if anything is."""
    from .validate import run_validate

    try:
        found = run_validate(paths, kind, console, json_output)
    except _BAD_INPUT as error:
        raise _fail(error) from error
    if found:
        raise typer.Exit(1)


@app.command()
def inspect(
    data: Annotated[
        Path, typer.Argument(help="A BEIR folder, a .tsv or .tmx file of parallel text, or gettext catalogues.")
    ],
    encoder: Annotated[str, typer.Option(help="The multilingual encoder: name or folder.")],
    anchor: Annotated[str | None, typer.Option(help="The English encoder.")] = None,
    base: Annotated[str | None, typer.Option(help="The base LM; its tokenizer alone is looked at.")] = None,
    split: Annotated[str, typer.Option(help="Of a BEIR folder: name of the qrels.")] = "test",
    candidates: Annotated[int, typer.Option(help="Candidates per text of the planned run.", min=1)] = 5,
    bins: Annotated[int, typer.Option(help="Temporal bins S of the planned run.", min=1)] = 4,
    max_length: Annotated[int, typer.Option(help="Tokens kept of a text.", min=1)] = 512,
    estimate: Annotated[bool, typer.Option(help="Also time the encoders over a sample.")] = True,
    json_output: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """What each backbone's tokenizer makes of each language, and what the planned run will take."""
    from .inspect import run_inspect

    try:
        run_inspect(data, encoder, anchor, base, split, candidates, bins, max_length, estimate, json_output, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error


_Store = Annotated[Path, typer.Option(help="Candidate store; made where there is none.")]
_Endpoint = Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server, ending in /v1.")]
_ModelName = Annotated[str | None, typer.Option("--model", help="With --endpoint: the model's name on the server.")]
_KeyEnv = Annotated[str | None, typer.Option("--key-env", help="Environment variable that holds the key.")]
_Concurrency = Annotated[int, typer.Option(help="Calls under way at once.", min=1)]
_Prices = Annotated[
    tuple[float, float] | None, typer.Option(help="Price of a million tokens read and of a million written.")
]
_Sources = Annotated[
    Path, typer.Argument(help="A BEIR folder, whose queries are taken, or a file in any form that `lira embed` reads.")
]
_Language = Annotated[str | None, typer.Option(help="Tag of the texts that name none.")]
_Split = Annotated[str, typer.Option(help="Of a BEIR folder: name of the qrels.")]
_Chunk = Annotated[int, typer.Option(help="Texts at a time; many times the concurrency.", min=1)]


@app.command()
def translate(
    data: _Sources,
    store: _Store,
    language: _Language = None,
    split: _Split = "test",
    translator: Annotated[Path | None, typer.Option(help="Folder of a saved translator.")] = None,
    seq2seq: Annotated[str | None, typer.Option(help="An encoder-decoder translator: name or folder.")] = None,
    command: Annotated[
        str | None, typer.Option(help="A command that reads and writes lines, such as 'apertium {source}-{target}'.")
    ] = None,
    endpoint: _Endpoint = None,
    model: _ModelName = None,
    key_env: _KeyEnv = None,
    concurrency: _Concurrency = 8,
    prices: _Prices = None,
    candidates: Annotated[int, typer.Option(help="Most candidates per text.", min=1)] = 5,
    chunk: _Chunk = 1024,
) -> None:
    """Candidate translations into a store, written as they come; a killed run goes on where it was."""
    from .translate import make_endpoint, make_translator, read_sources, run_fill

    try:
        chat = None if endpoint is None else make_endpoint(endpoint, model, key_env, concurrency, prices)
        who = make_translator(translator, seq2seq, command, chat)
        run_fill(read_sources(data, language, split), store, who, None, candidates, chunk, chat, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error


@app.command()
def judge(
    data: _Sources,
    store: Annotated[Path, typer.Option(help="Candidate store.")],
    language: _Language = None,
    split: _Split = "test",
    critic: Annotated[Path | None, typer.Option(help="Folder of a saved heuristic critic.")] = None,
    consensus: Annotated[bool, typer.Option(help="By how much a text's candidates agree (chrF).")] = False,
    endpoint: _Endpoint = None,
    model: _ModelName = None,
    key_env: _KeyEnv = None,
    concurrency: _Concurrency = 8,
    prices: _Prices = None,
    chunk: _Chunk = 1024,
) -> None:
    """A critic's scores of the stored candidates, written as they come; a killed run goes on where it was."""
    from .translate import make_critic, make_endpoint, read_sources, run_fill

    try:
        chat = None if endpoint is None else make_endpoint(endpoint, model, key_env, concurrency, prices)
        who = make_critic(critic, consensus, chat)
        run_fill(read_sources(data, language, split), store, None, who, 1, chunk, chat, console)
    except _BAD_INPUT as error:
        raise _fail(error) from error


if __name__ == "__main__":
    app()
