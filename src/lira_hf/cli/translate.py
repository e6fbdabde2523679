"""`lira translate` and `lira judge`."""

import logging
import shlex
from pathlib import Path

from rich.console import Console

from lira_hf.data import read_beir
from lira_hf.inference import check_rows, read_rows
from lira_hf.models.places_lira import loading
from lira_hf.translation import (
    CandidateStore,
    ChatTranslator,
    CommandTranslator,
    ConsensusCritic,
    Critic,
    EndpointChat,
    Failure,
    HeuristicCritic,
    LLMJudge,
    Seq2SeqTranslator,
    Translator,
    fill_store,
    load_translator,
)


__all__ = ["make_critic", "make_endpoint", "make_translator", "run_fill"]

logger = logging.getLogger(__name__)


def make_endpoint(
    url: str, model: str | None, key_env: str | None, concurrency: int, prices: tuple[float, float] | None
) -> EndpointChat:
    """The chat model behind an endpoint."""
    if model is None:
        raise ValueError("got --endpoint without --model; expected the model's name as the server knows it; add it")
    return EndpointChat(url, model, api_key_env=key_env, concurrency=concurrency, prices=prices)


def make_translator(
    saved: Path | None, seq2seq: str | None, command: str | None, endpoint: EndpointChat | None
) -> Translator:
    """The one translator that the options name."""
    given = {"--translator": saved, "--seq2seq": seq2seq, "--command": command, "--endpoint": endpoint}
    named = [option for option, value in given.items() if value is not None]
    if len(named) != 1:
        got = ", ".join(named) or "none"
        raise ValueError(f"got {got} of {', '.join(given)}; expected exactly one; run once for each translator")
    if saved is not None:
        return load_translator(saved)
    if seq2seq is not None:
        with loading(seq2seq):
            return Seq2SeqTranslator.from_pretrained(seq2seq)
    if command is not None:
        return CommandTranslator(shlex.split(command))
    return ChatTranslator(endpoint)


def make_critic(saved: Path | None, consensus: bool, endpoint: EndpointChat | None) -> Critic:
    """The one critic that the options name."""
    given = {"--critic": saved, "--consensus": consensus or None, "--endpoint": endpoint}
    named = [option for option, value in given.items() if value is not None]
    if len(named) != 1:
        got = ", ".join(named) or "none"
        raise ValueError(f"got {got} of {', '.join(given)}; expected exactly one; run once for each critic")
    if saved is not None:
        return HeuristicCritic.load(saved)
    return ConsensusCritic() if consensus else LLMJudge(endpoint)


def read_sources(path: Path, language: str | None, split: str) -> dict[str, list[str]]:
    """
    Texts by language: of a BEIR folder's queries, or of a file as `lira embed` reads it, which is checked whole before
    the first text is paid for. A text whose language nobody knows is left out: nobody can be asked for it.
    """
    texts: dict[str, list[str]] = {}
    if path.is_dir():
        for query in read_beir(path, split, default_language=language).queries.values():
            if query.language is None:
                raise ValueError(
                    f"a query of {path} names no language ({query.text!r:.60}); expected a tag in each; write it into "
                    "queries.jsonl, or give --language for those without"
                )
            texts.setdefault(query.language, []).append(query.text)
        return texts
    check_rows(path, default_language=language)
    for row in read_rows(path, default_language=language):
        if row.language is not None:
            texts.setdefault(row.language, []).append(row.text)
    if not texts:
        raise ValueError(f"got {path} without a text of a known language; expected one; say which by --language")
    return texts


def run_fill(
    texts: dict[str, list[str]],
    store_path: Path,
    translator: Translator | None,
    critic: Critic | None,
    num_candidates: int,
    chunk_size: int,
    endpoint: EndpointChat | None,
    console: Console,
) -> None:
    """Fills the store language by language, and says what came, what failed and what it cost."""
    if translator is None:
        CandidateStore(store_path, read_only=True).close()  # a mistyped path has nothing to judge, and no new store
    with CandidateStore(store_path) as store:
        for language, rows in sorted(texts.items()):
            failures: list[Failure] = []
            done = fill_store(
                store,
                rows,
                language,
                translator,
                critic,
                num_candidates=num_candidates,
                chunk_size=chunk_size,
                progress=console.is_terminal,
                failures=failures,
            )
            verb = "judged" if translator is None else "translated"
            console.print(f"{language}: {done:,} of {len(set(rows)):,} texts {verb} now, {len(failures):,} failed")
    if endpoint is None:
        return
    for language, usage in endpoint.usage.items():
        console.print(
            f"{language}: {usage.calls:,} calls, {usage.prompt_tokens:,} tokens read, {usage.completion_tokens:,} "
            "written"
        )
    if endpoint.cost is not None:
        console.print(f"cost: {endpoint.cost:.4f}")
