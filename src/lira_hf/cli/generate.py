"""`lira generate`."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from transformers import AutoModelForCausalLM, AutoProcessor

from lira_hf.data import normalize_language
from lira_hf.inference import CandidateSource, LiraGenerator, answer_file, make_source
from lira_hf.models import LiraForCausalLM, LiraProcessor
from lira_hf.models.places_lira import loading


__all__ = ["run_generate"]

_HELP = "a blank line or end of file ends; /new begins a new conversation; /language TAG changes the language"
_SHOWN = 20  # problems told one by one


def run_generate(
    model_name: str,
    question: str | None,
    file: Path | None,
    output: Path | None,
    interactive: bool,
    language: str | None,
    source_options: tuple[Path | None, Path | None, str | None, int],
    chat: bool | None,
    template: dict[str, Any],
    batch_size: int,
    options: dict[str, Any],
    console: Console,
) -> int:
    """Answers one question, a file of them, or a person; the number of rows that couldn't be asked."""
    tag = None if language is None else _tag(language)
    if file is not None and not file.is_file():
        raise FileNotFoundError(
            f"got {str(file)!r}, which is no file; expected a .jsonl file, or a text file with a question a line; "
            "mend the path"
        )
    model, processor = _load(model_name)
    source = make_source(*source_options)
    sizes = {"batch_size": batch_size, "progress": console.is_terminal}
    generator = LiraGenerator(model, processor, source, chat, template=template, **sizes)
    if file is not None:
        target = file.with_suffix(".answers.jsonl") if output is None else output
        return _answer_file(generator, file, target, language, options, console)
    generator.progress = False
    if question is not None:
        _say(console, str(generator.generate(question, tag, **options)))
    if interactive:
        _talk(generator, tag, options, console)
    return 0


def _load(name: str) -> tuple[LiraForCausalLM, LiraProcessor]:
    with loading(name):
        model = AutoModelForCausalLM.from_pretrained(name)
    if not isinstance(model, LiraForCausalLM):
        raise ValueError(
            f"{name} holds a {type(model).__name__}; expected a LiRA checkpoint with a base LM; join one by "
            "LiraForCausalLM.from_backbones, or name its folder"
        )
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), AutoProcessor.from_pretrained(name)


def _answer_file(
    generator: LiraGenerator,
    file: Path,
    output: Path,
    language: str | None,
    options: dict[str, Any],
    console: Console,
) -> int:
    report = answer_file(generator, file, output, language, **options)
    written, skipped, failed = report.written, report.skipped, len(report.problems)
    if not written + skipped + failed:
        raise ValueError(f"got {str(file)!r} without a question; expected at least one; check the file")
    for problem in report.problems[:_SHOWN]:
        _say(console, str(problem))
    if failed > _SHOWN:
        _say(console, f"... and {failed - _SHOWN:,} more rows like these")
    _say(
        console,
        f"{written:,} questions answered now, {skipped:,} were there, {failed:,} rows left out; {output}",
    )
    return failed


def _talk(generator: LiraGenerator, tag: str | None, options: dict[str, Any], console: Console) -> None:
    """A conversation, whose every turn is read by both roads; without a chat template each question for itself."""
    _say(console, _HELP)
    turns: list[dict[str, str]] = []
    while True:
        try:
            asked = console.input(Text(f"{tag or '?'}> ")).strip()
        except (EOFError, KeyboardInterrupt):
            _say(console, "")
            return
        if not asked:
            return
        if asked == "/new":
            turns = []
        elif asked.startswith("/language"):
            try:
                tag = _tag(asked.removeprefix("/language").strip())
            except ValueError as error:
                _say(console, str(error))
        else:
            turns.append({"role": "user", "content": asked})
            _show_candidates(generator.candidates, asked, tag, generator.processor, console)
            answer = generator.generate(turns if generator.chat else asked, tag, **options)
            turns.append({"role": "assistant", "content": answer})
            _say(console, answer)


def _show_candidates(
    source: CandidateSource | None, text: str, tag: str | None, processor: LiraProcessor, console: Console
) -> None:
    if source is not None and tag is not None and tag not in processor.anchor_languages:
        for candidate in source.get([text], [tag])[0][0]:
            console.print(Text(f"  {candidate}", style="dim"), soft_wrap=True)


def _tag(language: str) -> str | None:
    return None if language == "und" else normalize_language(language)


def _say(console: Console, text: str) -> None:
    # As Text: brackets in an answer are no markup.
    console.print(Text(text), soft_wrap=True)
