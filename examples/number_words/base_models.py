"""The two pretrained models of the benchmark, made from scratch in minutes and cached: an English-only base LM, and a
multilingual encoder that was pretrained on translation."""

import hashlib
import itertools
import json
import logging
import random
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from number_words.problems import Problem, generate
from number_words.wordings import KINDS, LANGUAGES, NAMES, OBJECTS, fill, number_word, wording_count


__all__ = [
    "BaseSettings",
    "EncoderSettings",
    "answer_text",
    "cache_folder",
    "cached",
    "english_words",
    "parse_equation",
    "prompt_text",
]

logger = logging.getLogger(__name__)

_WORDS = Regex(r"[a-z]+(?:-[a-z]+)?|[0-9]|[^\sa-z0-9]")
_SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")
_SIGNS = {"addition": "+", "subtraction": "-", "difference": "-", "multiplication": "*"}
_PROMPT = ("question", ":", "answer", ":")


@dataclass(frozen=True)
class BaseSettings:
    """
    The base LM and its training.

    Args:
        hidden_size, layers, heads (`int`): of the Llama.
        problems (`int`): English problems, of all numbers: arithmetic is what it is to know.
        twice (`float`): share of the batches whose problems are told twice in a row, so that a question said twice, as
            with a prefix of two roads, is nothing strange.
        equation_steps (`int`): the most steps on equations alone, in digits and in words; these are short, and it is
            here that it learns to calculate. Ends early where the loss on digits falls below `threshold`.
        question_steps (`int`): steps on questions after that.
        batch_size, learning_rate, threshold (`int`, `float`, `float`): of the training.
        seed (`int`): of all chance.
    """

    hidden_size: int = 96
    layers: int = 3
    heads: int = 4
    problems: int = 40_000
    twice: float = 0.15
    equation_steps: int = 1000
    question_steps: int = 900
    batch_size: int = 128
    learning_rate: float = 3e-3
    threshold: float = 0.08
    seed: int = 0


@dataclass(frozen=True)
class EncoderSettings:
    """
    The multilingual encoder and its pretraining.

    Args:
        hidden_size, layers, heads (`int`): of the BERT.
        pairs (`dict[str, int]`): translation pairs with English of each language, few for the last three.
        sampling (`float`): a language is drawn by its number of pairs to this power.
        english (`float`): share of English texts, which are read as they are.
        slots (`int`): places that the English words are read off at.
        marks (`int`): marks that end every text, whose states have room for the words that English has more.
        steps, batch_size, learning_rate: of the training.
        seed (`int`): of all chance.
    """

    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    pairs: dict[str, int] = field(
        default_factory=lambda: {"vi": 4500, "th": 4500, "id": 4500, "bn": 4500, "ms": 1500, "fil": 450, "ur": 225}
    )
    sampling: float = 0.5
    english: float = 0.08
    slots: int = 32
    marks: int = 0
    steps: int = 800
    batch_size: int = 96
    learning_rate: float = 2e-3
    seed: int = 0


def english_words(text: str) -> list[str]:
    """Words and marks of an English text, lower-cased, as the base LM has them: twenty-one is one word."""
    return [piece for piece, _ in _split().pre_tokenize_str(text.lower())]


def prompt_text(place: str) -> str:
    """What the base LM is asked: `place` is the question, or the token where the soft prefix goes."""
    return f"question : {place} answer :"


def answer_text(problem: Problem) -> str:
    """What it is to say: the equation digit by digit; for two steps two equations."""
    first, second, *third = problem.numbers
    if problem.kind == "two_steps":
        between = first + second
        steps = [(first, "+", second, between), (between, "-", third[0], problem.answer)]
    else:
        if problem.kind == "difference":
            first, second = max(first, second), min(first, second)
        steps = [(first, _SIGNS[problem.kind], second, problem.answer)]
    return " ".join(f"{_digits(a)} {sign} {_digits(b)} = {_digits(c)}" for a, sign, b, c in steps)


def parse_equation(text: str) -> int | None:
    """The number after the last equals sign of a generated answer; None where there is none."""
    found = re.fullmatch(r"(?:[\d\s]*\d)", text.rpartition("=")[2].strip())
    return int(re.sub(r"\s", "", found.group())) if found and "=" in text else None


def cache_folder(settings: BaseSettings | EncoderSettings, root: Path) -> Path:
    """Where [`cached`] keeps the model of these settings; a hash of all of it names the folder."""
    told = json.dumps(asdict(settings), sort_keys=True)
    name = "lm" if isinstance(settings, BaseSettings) else "encoder"
    return root / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def cached(settings: BaseSettings | EncoderSettings, root: Path) -> Path:
    """
    The folder with the model and the tokenizer of these settings, trained where it isn't there yet.

    Args:
        settings (`BaseSettings` or `EncoderSettings`): what is trained.
        root (`Path`): where the folders lie.
    """
    train = _train_base if isinstance(settings, BaseSettings) else _train_encoder
    folder = cache_folder(settings, root)
    if not (folder / "training.json").is_file():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        torch.manual_seed(settings.seed)
        started = time.process_time()
        model, tokenizer, figures = train(settings)  # type: ignore[operator]
        model.eval().save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        facts = {"settings": asdict(settings), **figures, "cpu_seconds": round(time.process_time() - started, 1)}
        (unfinished / "training.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    return folder


def _split() -> pre_tokenizers.Split:
    return pre_tokenizers.Split(_WORDS, "removed", invert=True)


def _digits(number: int) -> str:
    return " ".join(f"{number:02d}")


def _every_english_word() -> list[str]:
    """In no order that depends on a draw."""
    texts = [
        fill(kind, wording, (2, 3, 4), (NAMES[0], NAMES[1]), OBJECTS[0], "en")
        for kind in KINDS
        for wording in range(wording_count(kind))
    ]
    texts += [fill("difference", 0, (2, 3), (name, NAMES[0]), thing, "en") for name in NAMES for thing in OBJECTS]
    words = {word for text in texts for word in english_words(text)}
    return sorted(words | {number_word(number, "en") for number in range(100)})


def base_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, digits one by one; it begins a text by itself."""
    words = [*_SPECIAL, *"0123456789+-*=", *_PROMPT, *_every_english_word()]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = _split()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


def _train_base(settings: BaseSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, dict]:
    tokenizer = base_tokenizer()
    rng = random.Random(settings.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            intermediate_size=2 * settings.hidden_size,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            max_position_embeddings=160,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
    )
    problems = generate(settings.problems, settings.seed + 1, split=None)
    held = problems[-min(1000, len(problems) // 5) :]
    data = _BaseData(tokenizer, problems[: -len(held)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    step = partial(_base_step, model, optimizer, tokenizer.pad_token_id)
    mean = 3.0
    for number in range(settings.equation_steps):
        _set_rate(optimizer, settings.learning_rate * min(1.0, (number + 1) / 100))
        in_words = number % 2 == 0
        rows = data.in_words if in_words else data.in_digits
        loss = step(rng.choices(rows, k=settings.batch_size if in_words else 2 * settings.batch_size))
        mean = mean if in_words else 0.9 * mean + 0.1 * loss
        if mean < settings.threshold:
            break
    equations = number + 1
    for number in range(settings.question_steps):
        _set_rate(optimizer, settings.learning_rate * max(0.02, 1 - number / settings.question_steps))
        asked = data.twice if rng.random() < settings.twice else data.questions
        if rng.random() < 0.15:
            asked = data.in_words if number % 2 else data.in_digits
        step(rng.choices(asked, k=settings.batch_size))
    right = _base_accuracy(model, tokenizer, held)
    logger.info("base LM: exact match %.3f on %d held-out questions", right, len(held))
    return model, tokenizer, {"equation_steps": equations, "exact_match": right}


class _BaseData:
    """Rows (ids, how many of them are asked): questions, the same told twice, and equations in words and in digits."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem]):
        asked, words, digits = [], [], []
        for problem in problems:
            told, answer = problem.text("en"), answer_text(problem)
            asked.append((told, answer))
            words.append((prompt_text(_equation_in_words(problem)), answer))
            for equation in re.findall(r"\d \d . \d \d = \d \d", answer):
                left, _, right = equation.partition("=")
                digits.append((f"answer : {left}=", right))
        self.in_words, self.in_digits = _rows(tokenizer, words), _rows(tokenizer, digits)
        self.questions = _rows(tokenizer, [(prompt_text(told), answer) for told, answer in asked])
        self.twice = _rows(tokenizer, [(prompt_text(f"{told} {told}"), answer) for told, answer in asked])


def _equation_in_words(problem: Problem) -> str:
    numbers = sorted(problem.numbers, reverse=True) if problem.kind == "difference" else problem.numbers
    words = [number_word(number, "en") for number in numbers]
    return " ".join(
        [words[0], "+", words[1], "-", words[2]] if len(words) == 3 else [words[0], _SIGNS[problem.kind], words[1]]
    )


def _rows(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], int]]:
    asked = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    answered = tokenizer([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id]
    return [(ids + answer + end, len(ids)) for ids, answer in zip(asked, answered, strict=True)]


def _base_step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, pad: int, rows: Sequence) -> float:
    """One step on a batch, in parts of like length: the same gradient with less padding."""
    count, total = sum(len(ids) - asked for ids, asked in rows), 0.0
    optimizer.zero_grad()
    for part in _parts(rows, lambda row: len(row[0])):
        width = max(len(ids) for ids, _ in part) - 1
        input_ids = torch.tensor([[*ids[:-1], *[pad] * width][:width] for ids, _ in part])
        # What is asked teaches nothing, so only the answers' places are read off.
        places = [row * width + at for row, (ids, asked) in enumerate(part) for at in range(asked - 1, len(ids) - 1)]
        labels = torch.tensor([token for ids, asked in part for token in ids[asked:]])
        # Padded on the right, so a causal model needs no mask.
        states = model.model(input_ids=input_ids).last_hidden_state.flatten(0, 1)[places]
        loss = F.cross_entropy(model.lm_head(states), labels, reduction="sum") / count
        loss.backward()
        total += loss.item()
    _descend(optimizer)
    return total


def _parts(rows: Sequence[Any], length: Callable[[Any], int], count: int = 4) -> list[list[Any]]:
    """Rows sorted by length, in at most `count` parts."""
    ordered = sorted(rows, key=length)
    size = -(-len(ordered) // count)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


@torch.no_grad()
def _base_accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem]) -> float:
    rows = _rows(tokenizer, [(prompt_text(problem.text("en")), answer_text(problem)) for problem in problems])
    right, by_length = 0, itertools.groupby(sorted(rows, key=lambda row: len(row[0])), key=lambda row: len(row[0]))
    for alike in (list(group) for _, group in by_length):
        found = model(input_ids=torch.tensor([ids for ids, _ in alike])).logits.argmax(-1).tolist()
        right += sum(row[asked - 1 : -1] == ids[asked:] for row, (ids, asked) in zip(found, alike, strict=True))
    return right / len(rows)


def encoder_tokenizer(
    texts: dict[str, Sequence[str]], marks: int, size: int = 3000, thai: int = 220
) -> PreTrainedTokenizerFast:
    """
    Byte-pair encoding of all languages, so large that most words are one token. Thai, which has no spaces between
    words, has short tokens of its own, or whole phrases would become one. Each text ends with `marks` marks.
    """
    vocabulary: dict[str, int] = {}
    merges: list[tuple[str, str]] = []
    parts = [([tag for tag in texts if tag != "th"], size, 20), ([tag for tag in texts if tag == "th"], thai, 8)]
    for tags, count, longest in parts:
        part = _blank_bpe(models.BPE(unk_token="<unk>"))
        trainer = trainers.BpeTrainer(
            vocab_size=count, special_tokens=list(_SPECIAL), show_progress=False, max_token_length=longest
        )
        part.train_from_iterator([text for tag in tags for text in texts[tag][:2500]], trainer)
        state = json.loads(part.to_str())["model"]
        for token in sorted(state["vocab"], key=state["vocab"].get):
            vocabulary.setdefault(token, len(vocabulary))
        merges += [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in state["merges"]]
    ends = [f"<end{number}>" for number in range(marks)]
    for token in ends:
        vocabulary[token] = len(vocabulary)
    inner = _blank_bpe(models.BPE(vocabulary, merges, unk_token="<unk>"))
    inner.add_special_tokens(ends)
    inner.post_processor = processors.TemplateProcessing(
        single=" ".join(["$A", *ends]), special_tokens=[(token, vocabulary[token]) for token in ends]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>")


def _blank_bpe(model: models.BPE) -> Tokenizer:
    inner = Tokenizer(model)
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    marks = pre_tokenizers.Split(Regex(r"[.,?۔।؟]"), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), marks])
    inner.decoder = decoders.Metaspace()
    return inner


def _train_encoder(settings: EncoderSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, dict]:
    """The encoder learns to have the English words of a text in its states, in their order: a translator's encoder."""
    rng = random.Random(settings.seed)
    problems = generate(max(settings.pairs.values()), settings.seed + 11, split="train")
    texts = {tag: [problem.text(tag) for problem in problems] for tag in LANGUAGES}
    tokenizer = encoder_tokenizer(texts, settings.marks)
    words = {word: number for number, word in enumerate(_every_english_word())}
    wanted = [[words[word] for word in english_words(text)][: settings.slots] for text in texts["en"]]
    encoder = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            intermediate_size=2 * settings.hidden_size,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            max_position_embeddings=128,
            type_vocab_size=1,
            pad_token_id=tokenizer.pad_token_id,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )
    head = nn.Linear(settings.hidden_size, len(words))
    weights = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, max(settings.steps, 2), pct_start=0.15
    )
    ids = {tag: tokenizer(texts[tag])["input_ids"] for tag in texts}
    tags, chances = list(settings.pairs), [count**settings.sampling for count in settings.pairs.values()]
    for _ in range(settings.steps):
        drawn = [
            "en" if rng.random() < settings.english else rng.choices(tags, chances)[0]
            for _ in range(settings.batch_size)
        ]
        places = [rng.randrange(settings.pairs.get(tag, len(problems))) for tag in drawn]
        rows = [ids[tag][place] for tag, place in zip(drawn, places, strict=True)]
        loss = _encoder_step(encoder, head, optimizer, rows, [wanted[place] for place in places], settings.slots)
        schedule.step()
    return encoder, tokenizer, {"loss": round(loss, 4)}


def _encoder_step(
    encoder: nn.Module,
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[list[int]],
    wanted: Sequence[list[int]],
    slots: int,
) -> float:
    """One step on a batch, in parts of like length."""
    count, total = sum(map(len, wanted)), 0.0
    optimizer.zero_grad()
    for part in _parts(list(zip(rows, wanted, strict=True)), lambda pair: len(pair[0])):
        filled = [(row, place) for row, (_, words) in enumerate(part) for place in range(len(words))]
        states = _slot_states(encoder, [row for row, _ in part], slots)[tuple(zip(*filled, strict=True))]
        labels = torch.tensor([word for _, words in part for word in words])
        loss = F.cross_entropy(head(states), labels, reduction="sum") / count
        loss.backward()
        total += loss.item()
    _descend(optimizer)
    return total


def _slot_states(encoder: nn.Module, rows: Sequence[list[int]], slots: int) -> torch.Tensor:
    """States `(batch, slots, dim)`: of place i, or for a text longer than that the mean over its i-th part."""
    width = max(slots, max(map(len, rows)))
    input_ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    share = torch.zeros(len(rows), slots, width)
    for number, row in enumerate(rows):
        input_ids[number, : len(row)], mask[number, : len(row)] = torch.tensor(row), 1
        places = range(slots) if len(row) <= slots else [place * slots // len(row) for place in range(len(row))]
        share[number, list(places), list(range(len(places)))] = 1
    states = encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
    return share / share.sum(-1, keepdim=True) @ states


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _descend(optimizer: torch.optim.Optimizer) -> None:
    nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], 1.0)
    optimizer.step()
