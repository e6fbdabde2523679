"""Which language suffers from which tokenizer, and what a planned run will take: looked at before the run (ours)."""

import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import regex
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lira_hf.data import likely_script
from lira_hf.models import clean_text
from lira_hf.models.backbones_lira import encode_tokens


__all__ = ["RunEstimate", "TokenizerReport", "estimate_run", "inspect_tokenizer", "text_scripts"]

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_SCRIPT = regex.compile(r"\p{L}")
# Scripts that put no spaces between words, so that a "word" is a phrase there.
_UNSPACED = frozenset({"Thai", "Laoo", "Khmr", "Mymr", "Hani", "Hans", "Hant", "Jpan", "Kana", "Hira"})
# The first word of a letter's Unicode name, and the ISO 15924 code of its script.
_CODES = {
    "ARABIC": "Arab",
    "ARMENIAN": "Armn",
    "BENGALI": "Beng",
    "CJK": "Hani",
    "CYRILLIC": "Cyrl",
    "DEVANAGARI": "Deva",
    "ETHIOPIC": "Ethi",
    "GEORGIAN": "Geor",
    "GREEK": "Grek",
    "GUJARATI": "Gujr",
    "GURMUKHI": "Guru",
    "HANGUL": "Hang",
    "HEBREW": "Hebr",
    "HIRAGANA": "Hira",
    "KANNADA": "Knda",
    "KATAKANA": "Kana",
    "KHMER": "Khmr",
    "LAO": "Laoo",
    "LATIN": "Latn",
    "MALAYALAM": "Mlym",
    "MYANMAR": "Mymr",
    "ORIYA": "Orya",
    "SINHALA": "Sinh",
    "TAMIL": "Taml",
    "TELUGU": "Telu",
    "THAI": "Thai",
    "TIBETAN": "Tibt",
}
_SAME_SCRIPT = {"Hans": "Hani", "Hant": "Hani", "Jpan": "Hani", "Kore": "Hang"}


@dataclass(frozen=True)
class TokenizerReport:
    """
    What a tokenizer makes of the texts of one language.

    Args:
        language (`str`): Its tag; `"und"` where the texts carry none.
        texts (`int`): Texts looked at.
        script (`str`): ISO 15924 code of the script that most letters are of; `"Zyyy"` for none.
        other_script (`float`): Share of texts mostly in another script than the language's usual one.
        tokens (`float`): Mean tokens of a text, special tokens left out.
        tokens_per_character (`float`): Tokens by characters, white space left out.
        tokens_per_word (`float`, *optional*): Fertility: tokens by words; `None` for scripts without spaces.
        premium (`float`, *optional*): Tokens of the texts by those of their English side, where there is one.
        unknown (`float`): Share of tokens that are the unknown token.
        byte_pieces (`float`): Share of tokens that are single bytes, the fallback for characters it lacks.
        truncated (`float`): Share of texts longer than the limit, which lose their end.
    """

    language: str
    texts: int
    script: str
    other_script: float
    tokens: float
    tokens_per_character: float
    tokens_per_word: float | None
    premium: float | None
    unknown: float
    byte_pieces: float
    truncated: float


def text_scripts(text: str) -> Counter[str]:
    """ISO 15924 codes of a text's letters and how many there are of each; `"Zyyy"` for scripts not known here."""
    counts: Counter[str] = Counter()
    for letter in _SCRIPT.findall(text):
        name = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
        counts[_CODES.get(name, "Zyyy")] += 1
    return counts


def inspect_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[str, Sequence[str]],
    english: Mapping[str, Sequence[str]] | None = None,
    max_length: int | None = None,
) -> list[TokenizerReport]:
    """
    Args:
        tokenizer (`PreTrainedTokenizerBase`): Of a backbone.
        texts (`Mapping[str, Sequence[str]]`): Texts by language tag, at least one each.
        english (`Mapping[str, Sequence[str]]`, *optional*): English of each text, in the same order.
        max_length (`int`, *optional*): Tokens kept of a text; the tokenizer's own limit holds besides.

    Returns:
        `list[TokenizerReport]`: One per language, in the order given.

    Raises:
        ValueError: For a language without texts, or with another number of English ones.
    """
    limit = min(max_length or tokenizer.model_max_length, tokenizer.model_max_length)
    return [
        _report(tokenizer, language, list(rows), None if english is None else english.get(language), limit)
        for language, rows in texts.items()
    ]


def _report(tokenizer, language: str, rows: list[str], english: Sequence[str] | None, limit: int) -> TokenizerReport:
    if not rows:
        raise ValueError(f"got no text of {language!r}; expected at least one; leave the language out")
    if english is not None and len(english) != len(rows):
        raise ValueError(f"got {len(rows)} texts of {language!r} and {len(english)} English ones; expected one each")
    rows = [clean_text(text) for text in rows]
    ids = _ids(tokenizer, rows)
    special = tokenizer.num_special_tokens_to_add()
    count = max(sum(map(len, ids)), 1)
    used = Counter(token for row in ids for token in row)
    names = dict(zip(used, tokenizer.convert_ids_to_tokens(list(used)), strict=True))
    pieces = sum(number for token, number in used.items() if regex.fullmatch(r"<0x[0-9A-F]{2}>", names[token] or ""))
    scripts = [text_scripts(text) for text in rows]
    usual = likely_script(language) if language != "und" else "Zyyy"
    script = _main(sum(scripts, Counter()))
    other = [mine for mine in map(_main, scripts) if mine != "Zyyy" and usual != "Zyyy" and not _same(mine, usual)]
    words = sum(len(_WORD.findall(text)) for text in rows)
    premium = None
    if english is not None:
        premium = count / max(sum(map(len, _ids(tokenizer, [clean_text(text) for text in english]))), 1)
    return TokenizerReport(
        language=language,
        texts=len(rows),
        script=script,
        other_script=len(other) / len(rows),
        tokens=count / len(rows),
        tokens_per_character=count / max(sum(len(regex.sub(r"\s", "", text)) for text in rows), 1),
        tokens_per_word=None if script in _UNSPACED or not words else count / words,
        premium=premium,
        unknown=used[tokenizer.unk_token_id] / count if tokenizer.unk_token_id is not None else 0.0,
        byte_pieces=pieces / count,
        truncated=sum(len(row) + special > limit for row in ids) / len(rows),
    )


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]


def _main(counts: Counter[str]) -> str:
    return counts.most_common(1)[0][0] if counts else "Zyyy"


def _same(one: str, other: str) -> bool:
    return _SAME_SCRIPT.get(one, one) == _SAME_SCRIPT.get(other, other)


@dataclass(frozen=True)
class RunEstimate:
    """
    What encoding a corpus by one backbone will take on this machine, measured on a sample.

    Args:
        texts (`int`): Texts to encode, candidates among them.
        tokens_per_second (`float`): Measured, padding left out.
        hours (`float`): Of one pass over all of them; a feature cache makes it the only one.
        weights_gib (`float`): The backbone in memory.
        peak_gib (`float`, *optional*): Peak memory of the sample on the accelerator; `None` on a CPU.
        cache_gib (`float`): The feature cache on disk, float16.
    """

    texts: int
    tokens_per_second: float
    hours: float
    weights_gib: float
    peak_gib: float | None
    cache_gib: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.no_grad()
def estimate_run(
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sample: Iterable[str],
    texts: int,
    *,
    num_bins: int = 4,
    pooling: str = "mean",
    max_length: int = 512,
    batch_size: int = 64,
) -> RunEstimate:
    """
    Times a backbone over a sample, as a run would: batches of like length, pooled.

    Args:
        backbone (`PreTrainedModel`): g or h.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        sample (`Iterable[str]`): Some of the texts, drawn at random; a few hundred tell enough.
        texts (`int`): How many there will be in all, each candidate counted.
        num_bins, pooling, max_length, batch_size (*optional*): As in the planned run.

    Returns:
        [`RunEstimate`]: Within some tens of percent on an idle machine; texts that are longer than the sample's are
        not foreseen.
    """
    rows = sorted((clean_text(text) for text in sample), key=len, reverse=True)
    if not rows:
        raise ValueError("got an empty sample; expected some of the texts; draw a few hundred")
    limit = min(max_length, tokenizer.model_max_length)
    backbone.eval()
    cuda = backbone.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(backbone.device)
    tokens, seconds, width = 0, 0.0, 0
    for warm in (True, False):  # the first pass loads libraries and chooses kernels
        for start in range(0, batch_size if warm else len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            begin = time.perf_counter()
            batch = tokenizer(chunk, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            mask = batch["attention_mask"]
            features = encode_tokens(backbone, batch["input_ids"], mask, num_bins, pooling)
            if cuda:
                torch.cuda.synchronize(backbone.device)
            if not warm:
                seconds += time.perf_counter() - begin
                tokens += int(mask.sum())
            width = features.shape[-1]
    weights = sum(weight.numel() * weight.element_size() for weight in backbone.parameters())
    return RunEstimate(
        texts=texts,
        tokens_per_second=tokens / seconds,
        hours=seconds / len(rows) * texts / 3600,
        weights_gib=weights / 2**30,
        peak_gib=torch.cuda.max_memory_allocated(backbone.device) / 2**30 if cuda else None,
        cache_gib=texts * (1 + num_bins) * width * 2 / 2**30,
    )
