"""`lira inspect`."""

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lira_hf.data import DataError, read_beir, read_gettext, read_parallel, validate_path
from lira_hf.data.files import write_json
from lira_hf.data.validation import DATA_KINDS, unknown_data
from lira_hf.inference import TokenizerReport, estimate_run, inspect_tokenizer


__all__ = ["run_inspect"]

_SAMPLE = 256
_FORMATS = [DATA_KINDS[kind] for kind in ("beir", "parallel", "gettext")]


def read_texts(path: Path, split: str) -> tuple[dict[str, list[str]], dict[str, list[str]] | None]:
    """Texts by language of a BEIR folder, a file of parallel text or catalogues, and their English if known."""
    if (path / "corpus.jsonl").is_file():
        data = read_beir(path, split, on_error="skip")
        texts: dict[str, list[str]] = {}
        for query in data.queries.values():
            texts.setdefault(query.language or "und", []).append(query.text)
        for key, text in data.corpus.items():
            texts.setdefault(data.document_languages.get(key, "en"), []).append(text)
        return texts, None
    one_file = path.suffix.lower() in (".tsv", ".tmx")
    if path.is_file() and not one_file and path.suffix.lower() not in (".po", ".mo"):
        raise DataError([unknown_data(path, _FORMATS)])  # and not one of a broken catalogue
    pairs = read_parallel(path, on_error="skip") if one_file else read_gettext(path, on_error="skip")
    texts, english = {}, {}
    for pair in pairs:
        texts.setdefault(pair.language, []).append(pair.text)
        english.setdefault(pair.language, []).append(pair.english)
    return texts, english


def run_inspect(
    path: Path,
    encoder: str,
    anchor: str | None,
    base: str | None,
    split: str,
    candidates: int,
    bins: int,
    max_length: int,
    estimate: bool,
    json_output: Path | None,
    console: Console,
) -> None:
    """Prints what each tokenizer makes of each language, and what encoding all of it will take."""
    from lira_hf.models.backbones_lira import load_encoder
    from lira_hf.models.prompt_lira import load_tokenizer

    texts, english = read_texts(path, split)
    texts = {language: rows for language, rows in sorted(texts.items()) if rows}
    if not texts:
        raise DataError(validate_path(path))
    report: dict[str, dict] = {}
    backbones = {"multilingual encoder": encoder, "English encoder": anchor, "base LM": base}
    for title, name in backbones.items():
        if name is None:
            continue
        tokenizer = load_tokenizer(name)
        mine, other = texts, english
        if title == "English encoder" and english is not None:
            # It reads candidates: of the texts themselves it sees the English side.
            mine, other = {"en": [text for rows in english.values() for text in rows]}, None
        rows = inspect_tokenizer(tokenizer, mine, other, max_length)
        console.print(_table(f"{title}: {name}", rows))
        report[title] = {"name": name, "languages": [asdict(row) for row in rows]}
        if estimate and title != "base LM":
            flat = [text for language in mine.values() for text in language]
            count = len(flat) * (candidates if title == "English encoder" else 1)
            sample = random.Random(0).sample(flat, min(_SAMPLE, len(flat)))
            found = estimate_run(load_encoder(name), tokenizer, sample, count, num_bins=bins, max_length=max_length)
            console.print(
                f"{found.texts:,} texts{f' ({candidates} candidates each)' if count != len(flat) else ''}: "
                f"{_duration(found.hours)} at {found.tokens_per_second:,.0f} tokens a second, "
                f"{found.weights_gib:.2f} GiB of weights, {found.cache_gib:.3f} GiB of feature cache",
                soft_wrap=True,
            )
            report[title]["estimate"] = found.as_dict()
    if json_output is not None:
        write_json(json_output, report)


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _table(title: str, rows: Sequence[TokenizerReport]) -> Table:
    table = Table(title=title)
    columns = ("language", "texts", "script", "other script", "tokens", "a character", "a word", "of English")
    for name in (*columns, "unknown", "bytes", "cut"):
        table.add_column(name, justify="left" if name in ("language", "script") else "right")
    for row in rows:
        table.add_row(
            row.language,
            f"{row.texts:,}",
            row.script,
            f"{row.other_script:.1%}",
            f"{row.tokens:.1f}",
            f"{row.tokens_per_character:.2f}",
            "" if row.tokens_per_word is None else f"{row.tokens_per_word:.2f}",
            "" if row.premium is None else f"{row.premium:.2f}",
            *(f"{share:.1%}" for share in (row.unknown, row.byte_pieces, row.truncated)),
        )
    return table
