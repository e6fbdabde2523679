"""Rows for the paper's bound: a text, its language, and the reference translation that stands for y* (ours)."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lira_hf.data import read_beir, read_documents, read_parallel

from .retrieval import UNKNOWN_LANGUAGE


__all__ = ["BoundRow", "BoundRows", "choose_anchors", "read_bound_rows"]

_LEAST_ANCHORS = 8


@dataclass(frozen=True, slots=True)
class BoundRow:
    """
    A text with its reference.

    Args:
        text (`str`): The text x.
        language (`str`): Its tag; "und" where nobody knows it.
        reference (`str`): English that says the same: the ideal translation y*.
        calibration (`bool`): Whether constants are fitted on this row; else they are checked on it.
    """

    text: str
    language: str
    reference: str
    calibration: bool


@dataclass(frozen=True)
class BoundRows:
    """
    What was read.

    Args:
        rows (`tuple[BoundRow, ...]`): Rows with a reference.
        english (`tuple[str, ...]`): English texts from which the bank of anchors may be drawn, references among them.
        left_out (`dict[str, int]`): Why rows were left out, and how many.
        roles (`tuple[str | None, str | None]`): Of texts and of references, for g's prompts.
    """

    rows: tuple[BoundRow, ...]
    english: tuple[str, ...]
    left_out: dict[str, int]
    roles: tuple[str | None, str | None]


def read_bound_rows(
    path: str | os.PathLike[str],
    anchor_languages: Sequence[str],
    split: str = "test",
    calibration: str | None = None,
    seed: int = 0,
) -> BoundRows:
    """
    Rows of a BEIR folder, whose relevant documents are the references, or of a .tsv or .tmx file of parallel text.

    Half of the rows are for calibration, drawn by their reference, so that no English is on both sides; or all rows
    of a split are.

    Args:
        path (`str` or `os.PathLike`): A BEIR folder, or a `.tsv` or `.tmx` file of parallel text.
        anchor_languages (`Sequence[str]`): Tags of what h reads as it is; texts in them are left out.
        split (`str`, *optional*, defaults to `"test"`): Of a BEIR folder: the rows to check (and to fit on).
        calibration (`str`, *optional*): Of a BEIR folder: another split, or for a file another file, to fit on.
        seed (`int`, *optional*, defaults to 0): Of the halves.

    Raises:
        DataError, FileNotFoundError: Where a file is broken or missing.
        ValueError: Where no row has a reference, or both splits have an English in common.
    """
    place = Path(path)
    left_out: Counter[str] = Counter()
    if place.is_dir():
        found, english = _beir(place, split, anchor_languages, left_out)
        held, more = (None, []) if calibration is None else _beir(place, calibration, anchor_languages, left_out)
        roles: tuple[str | None, str | None] = ("query", "document")
    else:
        found, english = _pairs(place, anchor_languages, left_out)
        held, more = (None, []) if calibration is None else _pairs(Path(calibration), anchor_languages, left_out)
        roles = (None, None)
    if not found:
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "no row at all"
        raise ValueError(
            f"got {os.fspath(path)!r} without a text that has an English reference ({why}); expected queries with a "
            "relevant English document, or a .tsv (columns language, text, english) or .tmx file; name such data"
        )
    if held is None:
        rows = [BoundRow(*row, calibration=_half(row[2], seed)) for row in found]
    else:
        known = {row[2] for row in held}
        left_out["with a reference that the calibration rows have"] += sum(row[2] in known for row in found)
        rows = [BoundRow(*row, calibration=True) for row in held]
        rows += [BoundRow(*row, calibration=False) for row in found if row[2] not in known]
    texts = tuple(dict.fromkeys([*english, *more]))
    return BoundRows(tuple(rows), texts, {why: count for why, count in left_out.items() if count}, roles)


_Found = tuple[str, str, str]


def _beir(folder: Path, split: str, own: Sequence[str], left_out: Counter[str]) -> tuple[list[_Found], list[str]]:
    data = read_beir(folder, split)
    english = {key: text for key, text in data.corpus.items() if data.document_languages.get(key, own[0]) in own}
    rows = []
    for key, query in data.queries.items():
        judged = [(score, document) for document, score in data.qrels[key].items() if score > 0]
        known = [(score, document) for score, document in judged if document in english]
        if query.language in own:
            left_out["in an anchor language"] += 1
        elif not known:
            left_out["without a relevant English document"] += 1
        else:
            best = max(score for score, _ in known)
            reference = next(english[document] for score, document in known if score == best)
            rows.append((query.text, query.language or UNKNOWN_LANGUAGE, reference))
    return rows, list(english.values())


def _pairs(path: Path, own: Sequence[str], left_out: Counter[str]) -> tuple[list[_Found], list[str]]:
    pairs = read_parallel(path)
    rows = [(pair.text, pair.language, pair.english) for pair in pairs if pair.language not in own]
    left_out["in an anchor language"] += len(pairs) - len(rows)
    return rows, [pair.english for pair in pairs]


def _half(reference: str, seed: int) -> bool:
    return _hash(reference, f"half {seed}") % 2 == 0


def _hash(text: str, salt: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{salt}\0{text}".encode(errors="replace"), digest_size=8).digest(), "little"
    )


def choose_anchors(
    found: BoundRows, count: int = 512, file: str | os.PathLike[str] | None = None, seed: int = 0
) -> list[str]:
    """
    The English anchor sentences of the semantic distribution: those that are no row's reference first, then
    references, each in an order that depends on the text and the seed alone.

    Args:
        found ([`BoundRows`]): The rows.
        count (`int`, *optional*, defaults to 512): How many.
        file (`str` or `os.PathLike`, *optional*): Draw from this file instead: text, a sentence a line, or a corpus.
        seed (`int`, *optional*, defaults to 0): Of the draw.

    Raises:
        ValueError: For fewer than 8 distinct texts.
    """
    texts = found.english if file is None else tuple(read_documents(file).corpus.values())
    references = {row.reference for row in found.rows}

    def order(text: str) -> tuple[bool, int]:
        return text in references, _hash(text, f"anchor {seed}")

    chosen = sorted(dict.fromkeys(text for text in texts if text.strip()), key=order)[:count]
    if len(chosen) < _LEAST_ANCHORS:
        raise ValueError(
            f"got {len(chosen)} distinct English texts for the bank of anchors; expected at least {_LEAST_ANCHORS}, "
            "better some hundreds; give a file of English sentences (--bank-file)"
        )
    return chosen
