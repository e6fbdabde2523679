"""LiraGenerator: questions in, the base LM's answers out, with candidates from a list, a store or a translator."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from lira_hf.models import LiraForCausalLM, LiraProcessor
from lira_hf.models.backbones_lira import backbone_fingerprint
from lira_hf.translation import clean_text

from .candidates import CandidateSource, FoundCandidate
from .embedder import _tokenizer_state as tokenizer_state
from .embedder import road_tensors
from .features import RoadFeatures


__all__ = ["LiraGenerator", "Question", "cut_at_stop", "stop_options"]

_MOST_TOKENS = 256

Message = dict[str, Any]
# A text, or a conversation whose last user turn is the text.
Question = str | Sequence[Message]


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """What stands before the first of the stop strings in `text`."""
    return text[: min((place for one in stop if (place := text.find(one)) >= 0), default=len(text))]


class _StopStrings(StoppingCriteria):
    """
    Ends a row once what was generated holds a stop string.

    The library's own asks the tokenizer for a text that it can find again, which not every one gives (a vocabulary of
    whole words has none), and reads the prompt too.
    """

    def __init__(self, stop: Sequence[str], tokenizer: PreTrainedTokenizerBase, width: int):
        self.stop, self.tokenizer, self.width = list(stop), tokenizer, width
        self.tail = 4 + max(len(one.encode()) for one in self.stop)  # a token has a byte at least

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        new = input_ids[:, max(self.width, input_ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        ended = [any(one in text for one in self.stop) for text in texts]
        return torch.tensor(ended, device=input_ids.device)


def stop_options(stop: Sequence[str], model: LiraForCausalLM, tokenizer: Any, width: int) -> dict[str, Any]:
    """
    Options of `generate` that end a row at a stop string.

    Args:
        stop (`Sequence[str]`): The strings. One that is a special token of the tokenizer ends a row as the end of
            text does, since decoding leaves it out.
        model ([`LiraForCausalLM`]): Its generation configuration names the end of text.
        tokenizer (`PreTrainedTokenizerBase`): The base's.
        width (`int`): Tokens of the prompt.
    """
    special = {token for token in stop if token in tokenizer.all_special_tokens}
    options: dict[str, Any] = {}
    if special:
        ends = model.generation_config.eos_token_id
        known = [] if ends is None else [*ends] if isinstance(ends, list) else [ends]
        options["eos_token_id"] = [*known, *sorted(map(tokenizer.convert_tokens_to_ids, special))]
    if rest := [one for one in stop if one and one not in special]:
        options["stopping_criteria"] = StoppingCriteriaList([_StopStrings(rest, tokenizer, width)])
    return options


class LiraGenerator:
    """
    Answers questions of any language with a base LM.

    A text in one of the model's `anchor_languages` (English) is its own candidate; any other takes the candidates that
    it is given or that the candidate source finds, and is read by the multilingual road alone where there is none.

    Args:
        model ([`LiraForCausalLM`]): The model; put into evaluation mode.
        processor ([`LiraProcessor`]): Its processor.
        candidates ([`CandidateSource`], *optional*): Where candidates come from.
        chat (`bool`, *optional*): Put a text into the base's chat template, as the one turn of a conversation. `None`:
            where the base has one.
        system (`str`, *optional*): Text of a system turn before each conversation that has none; needs `chat`.
        template (`dict`, *optional*): Options of the chat template, such as `{"enable_thinking": False}` of Qwen3's.
        batch_size (`int`, *optional*, defaults to 8): Questions in one pass.
        features ([`RoadFeatures`], *optional*): Features of both roads from a cache, where the same questions are
            asked more than once; of this model or another with its backbones.
        progress (`bool`, *optional*, defaults to `False`): Show a progress bar.

    Raises:
        ValueError: For `chat=True`, or a `system`, where the base has no chat template.

    Example:

    ```python
    >>> generator = LiraGenerator(model, processor, CandidateSource(translator=memory))
    >>> generator.generate(["দুই আর তিনে কত হয়?"], languages="bn", max_new_tokens=20)
    ['Five.']
    ```
    """

    def __init__(
        self,
        model: LiraForCausalLM,
        processor: LiraProcessor,
        candidates: CandidateSource | None = None,
        chat: bool | None = None,
        system: str | None = None,
        template: dict[str, Any] | None = None,
        batch_size: int = 8,
        features: RoadFeatures | None = None,
        progress: bool = False,
    ):
        if batch_size < 1:
            raise ValueError(f"got batch_size={batch_size}; expected at least 1; pass a positive number")
        known = processor.chat_template is not None
        self.chat = known if chat is None else chat
        if self.chat and not known:
            raise ValueError(
                "got chat=True and a base LM without a chat template; expected one in its tokenizer; leave chat out, "
                "or set processor.chat_template"
            )
        if system is not None and not self.chat:
            raise ValueError(
                f"got the system turn {system!r:.60} without a chat; expected a base LM with a chat template; leave "
                "it out"
            )
        self.model = model.eval()
        self.processor = processor
        self.candidates = candidates
        self.system = system
        self.template = dict(template or {})
        self.batch_size = batch_size
        self.features = features
        self.progress = progress

    def generate(
        self,
        questions: Question | Sequence[Question],
        languages: str | Sequence[str | None] | None = None,
        candidates: Sequence[Sequence[str] | None] | None = None,
        scores: Sequence[Sequence[Sequence[float] | None] | None] | None = None,
        prompts: Sequence[Question | None] | None = None,
        **options: Any,
    ) -> Any:
        """
        Args:
            questions, languages, candidates, scores, prompts, options: As in [`~LiraGenerator.stream`]; also a single
                question, which is a text or a conversation.

        Returns:
            `list[str]`: The answers, in the questions' order; one `str` for a single question.
        """
        single = isinstance(questions, str) or (bool(questions) and isinstance(questions[0], dict))
        asked = [questions] if single else list(questions)
        answers = [""] * len(asked)
        for rows, texts in self.stream(asked, languages, candidates, scores, prompts, **options):  # type: ignore[arg-type]
            for row, text in zip(rows, texts, strict=True):
                answers[row] = text
        return answers[0] if single else answers

    def stream(
        self,
        questions: Sequence[Question],
        languages: str | Sequence[str | None] | None = None,
        candidates: Sequence[Sequence[str] | None] | None = None,
        scores: Sequence[Sequence[Sequence[float] | None] | None] | None = None,
        prompts: Sequence[Question | None] | None = None,
        stop: Sequence[str] = (),
        prefix: bool = True,
        **options: Any,
    ) -> Iterator[tuple[list[int], list[str]]]:
        """
        Batch by batch, in an order of its own: questions of like length go together.

        Args:
            questions (`Sequence`): Texts, or conversations (lists of turns) whose last user turn is the text. The text
                is what both roads read.
            languages (`str` or `Sequence[str]`, *optional*): Tag of all texts or of each.
            candidates (`Sequence`, *optional*): Candidates of each text, or `None` for the source's; an empty list is
                inference without a translator.
            scores (`Sequence`, *optional*): The judge's (s, e, p) of each candidate given, or `None`.
            prompts (`Sequence`, *optional*): What the base LM reads of each question, in place of the question itself:
                a text, in which the processor's `prefix_token` may say where the soft prefix goes, a conversation, or
                `None`.
            stop (`Sequence[str]`, *optional*): Strings that end an answer; they are no part of it.
            prefix (`bool`, *optional*, defaults to `True`): `False` asks the base LM alone, without LiRA.
            options: For `generate`. Greedy, and at most 256 new tokens, unless they, or the checkpoint's generation
                configuration, say otherwise.

        Returns:
            `Iterator`: the places of a batch's questions, and their answers.

        Raises:
            ValueError: For another number of languages, candidates, scores or prompts than of questions, and for more
                than one answer a question.
        """
        if options.get("num_return_sequences", 1) != 1:
            raise ValueError(
                f"got num_return_sequences={options['num_return_sequences']}; expected one answer a question; leave "
                "it out, or call the model's own generate"
            )
        count = len(questions)
        tags = [languages] * count if languages is None or isinstance(languages, str) else list(languages)
        columns = {"languages": tags, "candidates": candidates, "scores": scores, "prompts": prompts}
        for name, column in columns.items():
            if column is not None and len(column) != count:
                raise ValueError(f"got {count} questions and {len(column)} {name}; expected one of each per question")
        read = [self.read(question) for question in questions]
        texts = [text for text, _ in read]
        given = [None] * count if prompts is None else list(prompts)
        told = [own if one is None else self.read(one)[1] for (_, own), one in zip(read, given, strict=True)]
        # Texts of like length go together, so that little of a batch is padding.
        order = sorted(range(count), key=lambda row: len(texts[row]) + len(told[row]), reverse=True)
        with tqdm(total=count, desc="answering", unit="question", disable=not self.progress) as bar:
            for start in range(0, count, self.batch_size):
                rows = order[start : start + self.batch_size]
                some = [[texts, tags, candidates, scores, told][place] for place in range(5)]
                batch = self.prepare(*([None if c is None else [c[row] for row in rows] for c in some]), prefix)
                yield rows, self._answers(batch, stop, options)
                bar.update(len(rows))

    def prepare(
        self,
        texts: Sequence[str],
        languages: Sequence[str | None],
        candidates: Sequence[Sequence[str] | None] | None,
        scores: Sequence[Sequence[Sequence[float] | None] | None] | None,
        prompts: Sequence[str],
        prefix: bool = True,
    ) -> dict[str, torch.Tensor]:
        """
        The tensors of one batch, on the model's device: `input_ids` and `attention_mask` `(batch, tokens)`, padded on
        the left, and with `prefix` those of both roads; arguments as in [`~LiraGenerator.stream`], one of each per
        text.
        """
        if not prefix:
            bare = [clean_text(prompt.replace(self.processor.prefix_token, "")) for prompt in prompts]
            tokens = self.processor.tokenizer([text or " " for text in bare], padding=True, return_tensors="pt")
            batch = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        else:
            found = self.find_candidates(texts, languages, candidates, scores)
            # A text without a tag is a text of an unknown language, which is what the model was told in training.
            tags = list(languages) if any(languages) else None
            batch = self._read_roads(list(texts), tags, list(prompts), found)
        return {name: value.to(self.model.device) for name, value in batch.items()}

    def _read_roads(
        self, texts: list[str], tags: list[str | None] | None, prompts: list[str], found: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        if self.features is None:
            return dict(self.processor(texts, languages=tags, prompts=prompts, **found))
        told = [found.get(name) for name in ("candidates", "scores", "kinds")]
        roads = road_tensors(self.features, self.processor, texts, tags or [None] * len(texts), *told)
        if tags is None:
            roads.pop("language_ids")
        return self.processor.tokenize_prompts(texts, prompts) | roads

    def find_candidates(
        self,
        texts: Sequence[str],
        languages: Sequence[str | None],
        candidates: Sequence[Sequence[str] | None] | None = None,
        scores: Sequence[Sequence[Sequence[float] | None] | None] | None = None,
    ) -> dict[str, Any]:
        """
        What the processor takes of candidates: those given, else those of the source; a text in an anchor language is
        its own.

        Returns:
            `dict`: `candidates`, `kinds`, and `scores` where there are any.
        """
        own = self.processor.anchor_languages
        given = [None] * len(texts) if candidates is None else list(candidates)
        judged = [None] * len(texts) if scores is None else list(scores)
        asked = [None if tag in own or row is not None else tag for tag, row in zip(languages, given, strict=True)]
        rows: list[list[FoundCandidate]] = [[] for _ in texts]
        if self.candidates is not None:
            rows = self.candidates.find(texts, asked)
        for number, (text, tag) in enumerate(zip(texts, languages, strict=True)):
            if given[number] is not None:
                marks = judged[number] or [None] * len(given[number])
                pairs = zip(given[number], marks, strict=True)
                rows[number] = [FoundCandidate(one, None, mark) for one, mark in pairs]  # type: ignore[arg-type]
            elif tag in own and text.strip():
                rows[number] = [FoundCandidate(text)]
        found = {
            name: [[getattr(item, field) for item in row] for row in rows]
            for name, field in (("candidates", "text"), ("kinds", "kind"), ("scores", "scores"))
        }
        if not any(score is not None for row in found["scores"] for score in row):
            found.pop("scores")
        return found

    @cached_property
    def fingerprint(self) -> str:
        """What answers depend on besides questions, candidates and options: weights, tokenizers, settings."""
        aside = {*PreTrainedConfig().to_dict(), "backbone_info", "backbones_saved", "part_dtypes", "lira_version"}
        config = self.model.config.to_dict()
        own = {name: value for name, value in config.items() if name not in aside and not name.endswith("_config")}
        tokenizers = ("tokenizer", "source_tokenizer", "anchor_tokenizer")
        lora = hashlib.blake2b(digest_size=8)
        for name, tensor in sorted(self.model.state_dict().items()):
            if ".lora_" in name:  # which a backbone's fingerprint leaves out
                lora.update(tensor.detach().float().cpu().numpy().tobytes())
        parts = [
            backbone_fingerprint(self.model),
            lora.hexdigest(),
            json.dumps(own, sort_keys=True, default=str),
            [tokenizer_state(getattr(self.processor, name)) for name in tokenizers],
            [self.processor.chat_template, self.processor.max_text_length, self.processor.trained_languages],
            [self.chat, self.system, self.template],
            self.model.generation_config.to_diff_dict(),
        ]
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def read(self, question: Question) -> tuple[str, str]:
        """
        The text that both roads read of a question, and the base LM's prompt.

        Args:
            question (`str` or `list[dict]`): A text, or a conversation.

        Raises:
            ValueError: For a conversation without a text of the user.
        """
        if isinstance(question, str):
            if not self.chat:
                return question, question
            question = [{"role": "user", "content": question}]
        turns = list(question)
        if self.system is not None and turns and turns[0].get("role") != "system":
            turns = [{"role": "system", "content": self.system}, *turns]
        return self.processor.chat_prompt(turns, **self.template)

    def _answers(self, batch: dict[str, torch.Tensor], stop: Sequence[str], options: dict[str, Any]) -> list[str]:
        ends = stop_options(stop, self.model, self.processor.tokenizer, batch["input_ids"].shape[1])
        if own := options.get("stopping_criteria"):
            ends["stopping_criteria"] = StoppingCriteriaList([*own, *ends.get("stopping_criteria", ())])
        options = options | ends
        told = {"max_new_tokens", "max_length", "generation_config"} & options.keys()
        if not told and self.model.generation_config.max_new_tokens is None:
            options = options | {"max_new_tokens": _MOST_TOKENS}  # the library's own is 20, the prompt's included
        if self.model.generation_config.pad_token_id is None:  # told, the library doesn't warn at each call
            options = {"pad_token_id": self.processor.tokenizer.pad_token_id} | options
        found = self.model.generate(**batch, **options)
        sequences = found if isinstance(found, torch.Tensor) else found.sequences
        return [cut_at_stop(text, stop) for text in self.processor.decode_new(sequences, batch)]
