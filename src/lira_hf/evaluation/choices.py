"""Multiple choice (paper: X-CSQA): accuracy by how likely the base LM holds each choice, with its controls."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from lira_hf.data import ChoiceQuestion
from lira_hf.inference import CandidateSource, LiraGenerator
from lira_hf.models import LiraForCausalLM, LiraForMultipleChoice, LiraProcessor
from lira_hf.models.prompt_lira import stack_choices

from .generation import AnswerScores, chosen_systems, remembering, translated_texts, without_candidates


__all__ = ["ChoiceScorer", "choice_prompt", "evaluate_choices"]

Style = Literal["text", "letters"]
_QUESTION, _ANSWER = "Question: ", "Answer:"


class ChoiceScorer:
    """
    Scores the answers to choose from.

    Args:
        model ([`LiraForCausalLM`] or [`LiraForMultipleChoice`]): The model; put into evaluation mode. The second's
            head, which may have been trained, has its say too, but not where the base is asked alone.
        processor ([`LiraProcessor`]): Its processor.
        candidates ([`CandidateSource`], *optional*): Where candidates come from.
        normalization (`str`, *optional*, defaults to `"mean"`): A choice's log-likelihood is the `"mean"` of its
            tokens', as in [`LiraForMultipleChoice`], or their `"sum"`, which favours short ones.
        chat (`bool`, *optional*, defaults to `False`): Ask in the base's chat template.
        batch_size (`int`, *optional*, defaults to 8): Questions in one pass; each has as many rows as choices.
        progress (`bool`, *optional*, defaults to `False`): Show a progress bar.

    Raises:
        ValueError: For another normalization, or `"sum"` with [`LiraForMultipleChoice`], whose head is made for means.
    """

    def __init__(
        self,
        model: LiraForCausalLM | LiraForMultipleChoice,
        processor: LiraProcessor,
        candidates: CandidateSource | None = None,
        normalization: Literal["mean", "sum"] = "mean",
        chat: bool = False,
        batch_size: int = 8,
        progress: bool = False,
    ):
        headed = isinstance(model, LiraForMultipleChoice)
        allowed = ("mean",) if headed else ("mean", "sum")
        if normalization not in allowed:
            raise ValueError(
                f"got normalization={normalization!r} and a {type(model).__name__}; expected one of {allowed}; "
                "leave it out"
            )
        # For its candidates and its chat template; it generates nothing here.
        self.generator = LiraGenerator(model, processor, candidates, chat, batch_size=batch_size)  # type: ignore[arg-type]
        self.model = model
        self.processor = processor
        self.headed = headed
        self.normalization = normalization
        self.batch_size = batch_size
        self.progress = progress

    @torch.no_grad()
    def score(
        self,
        texts: Sequence[str],
        choices: Sequence[Sequence[str]],
        languages: Sequence[str | None],
        candidates: Sequence[Sequence[str] | None] | None = None,
        prompts: Sequence[str] | None = None,
        prefix: bool = True,
    ) -> list[NDArray[np.float32]]:
        """
        Args:
            texts (`Sequence[str]`): What both roads read: the questions.
            choices (`Sequence[Sequence[str]]`): The answers to each, put behind the prompt as they are, spaces
                included; any number each.
            languages (`Sequence[str]`): Tag of each text, or `None`.
            candidates (`Sequence`, *optional*): Of each text, or `None` for the source's.
            prompts (`Sequence[str]`, *optional*): What the base LM reads before the answer; by default the texts.
            prefix (`bool`, *optional*, defaults to `True`): `False` asks the base LM alone.

        Returns:
            `list[np.ndarray]`: Per text the scores `(choices,)`, float32.

        Raises:
            ValueError: For another number of choices, languages or prompts than of texts.
        """
        told = list(texts) if prompts is None else list(prompts)
        for name, column in {"choices": choices, "languages": languages, "prompts": told}.items():
            if len(column) != len(texts):
                raise ValueError(f"got {len(texts)} texts and {len(column)} {name}; expected one of each per text")
        scores: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(texts)
        with tqdm(total=len(texts), desc="choosing", unit="question", disable=not self.progress) as bar:
            for rows in self._batches(told, choices):
                given = None if candidates is None else [candidates[row] for row in rows]
                columns = [[column[row] for row in rows] for column in (texts, choices, languages, told)]
                found = self._score_batch(*columns, given, prefix).float().cpu().numpy()
                for row, values in zip(rows, found, strict=True):
                    scores[row] = values
                bar.update(len(rows))
        return scores

    def _batches(self, prompts: list[str], choices: Sequence[Sequence[str]]) -> list[list[int]]:
        """Questions of one number of choices and of like length go together."""
        length = [len(prompt) + max(map(len, row)) for prompt, row in zip(prompts, choices, strict=True)]
        order = sorted(range(len(prompts)), key=lambda row: (len(choices[row]), length[row]), reverse=True)
        batches: list[list[int]] = []
        for row in order:
            full = not batches or len(batches[-1]) == self.batch_size
            if full or len(choices[batches[-1][0]]) != len(choices[row]):
                batches.append([])
            batches[-1].append(row)
        return batches

    def _score_batch(self, texts, choices, languages, prompts, candidates, prefix: bool) -> torch.Tensor:
        """`(texts, choices)`."""
        if prefix:
            found = self.generator.find_candidates(texts, languages, candidates)
            tags = languages if any(languages) else None
            batch = dict(self.processor(texts, languages=tags, prompts=prompts, choices=choices, **found))
        else:
            batch = self._bare(prompts, choices)
        batch = {name: value.to(self.model.device) for name, value in batch.items()}
        if self.headed:
            output = self.model(**batch)
            return output.logits if prefix else output.choice_log_likelihood
        return self._likelihood(batch)

    def _bare(self, prompts: list[str], choices: list[Sequence[str]]) -> dict[str, torch.Tensor]:
        """As the processor stacks them, without the soft prefix's placeholders."""
        tokenizer, mark = self.processor.tokenizer, self.processor.prefix_token
        asked = [tokenizer(prompt.replace(mark, ""))["input_ids"] for prompt in prompts]
        answers = [[tokenizer(one, add_special_tokens=False)["input_ids"] for one in row] for row in choices]
        return stack_choices(asked, answers, tokenizer.pad_token_id)

    def _likelihood(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of each choice's tokens, with one prefix per question: `(texts, choices)`."""
        ids, attention, mask = (batch.pop(name) for name in ("input_ids", "attention_mask", "choice_mask"))
        count, choices = ids.shape[:2]
        prefix = {}
        if batch:
            found = self.model.find_prefix(ids[:, 0], **batch)
            prefix = {name: found[name].repeat_interleave(choices, dim=0) for name in ("prefix_embeds", "prefix_mask")}
        # Padded on the left, so that all choices are at the end; only there the vocabulary's scores are needed.
        keep = int(mask.sum(-1).max()) + 1
        kept = {"logits_to_keep": keep} if self._can_keep else {}
        flat = {"input_ids": ids.flatten(0, 1), "attention_mask": attention.flatten(0, 1)}
        logits = self.model(**flat, **prefix, **kept, use_cache=False).logits[:, -keep:-1]
        chosen, seen = flat["input_ids"][:, 1 - keep :], mask.flatten(0, 1)[:, 1 - keep :]
        scores = logits.float().log_softmax(-1).gather(-1, (chosen * seen).unsqueeze(-1)).squeeze(-1)
        total = (scores * seen).sum(-1)
        if self.normalization == "mean":
            total = total / seen.sum(-1).clamp(min=1)
        return total.view(count, choices)

    @property
    def _can_keep(self) -> bool:
        return "logits_to_keep" in inspect.signature(type(self.model.language_model).forward).parameters


def choice_prompt(
    scorer: ChoiceScorer, question: str, choices: Sequence[str], labels: Sequence[str], style: Style = "text"
) -> tuple[str, list[str]]:
    """
    What the base LM reads of a question, and the answers whose likelihood counts.

    Args:
        scorer ([`ChoiceScorer`]): Says whether the base is asked in a chat, and which token the soft prefix is.
        question (`str`): The question. The soft prefix goes to its start.
        choices, labels (`Sequence[str]`): The choices and their labels.
        style (`str`, *optional*, defaults to `"text"`): `"text"` scores the choices' texts, which the prompt doesn't
            show; `"letters"` shows them with their labels and scores the labels.

    Raises:
        ValueError: For another style.
    """
    if style not in ("text", "letters"):
        raise ValueError(f"got style={style!r}; expected 'text' or 'letters'; pass one of the two")
    mark = scorer.processor.prefix_token
    question = question.replace(mark, "")
    shown = "".join(f"\n{label}. {choice}" for label, choice in zip(labels, choices, strict=True))
    body = question + (shown if style == "letters" else "")
    answers = list(labels if style == "letters" else choices)
    if scorer.generator.chat:
        return scorer.generator.read([{"role": "user", "content": body}])[1], answers
    return f"{_QUESTION}{mark}{body}\n{_ANSWER}", [f" {answer}" for answer in answers]


def evaluate_choices(
    scorer: ChoiceScorer,
    questions: Sequence[ChoiceQuestion],
    systems: Sequence[str] | None = None,
    style: Style = "text",
) -> dict[str, AnswerScores]:
    """
    Args:
        scorer ([`ChoiceScorer`]): The model, with its candidates.
        questions (`Sequence[ChoiceQuestion]`): As [`read_xcsqa`] gives them, of any number of languages.
        systems (`Sequence[str]`, *optional*): As in [`evaluate_mgsm`]. Both roads read the question alone. For
            `"translate_then_base"` question and choices are replaced by their first candidates, where there are any.
        style (`str`, *optional*, defaults to `"text"`): As in [`choice_prompt`].

    Returns:
        `dict[str, AnswerScores]`: Of each system, with the metric `accuracy`; `answers` are the labels chosen.

    Raises:
        ValueError: Without questions, and as [`chosen_systems`] and [`choice_prompt`].
    """
    if not questions:
        raise ValueError("got no questions; expected one at least; read them with read_xcsqa")
    chosen = chosen_systems(systems, scorer.generator.candidates is not None)
    texts, tags = [one.question for one in questions], [one.language for one in questions]
    keys = [f"{one.language}:{one.id}" for one in questions]
    before, scorer.generator = scorer.generator, remembering(scorer.generator)
    found: dict[str, AnswerScores] = {}
    try:
        for system in chosen:
            told = _translated(scorer, questions) if system == "translate_then_base" else None
            asked = [
                choice_prompt(scorer, *(told[row] if told else (one.question, one.choices)), one.labels, style)
                for row, one in enumerate(questions)
            ]
            given: dict[str, Any] = {"prompts": [prompt for prompt, _ in asked], "prefix": system.startswith("lira")}
            if system == "lira_without_translator":
                given["candidates"] = without_candidates(scorer.generator, tags)
            scores = scorer.score(texts, [answers for _, answers in asked], tags, **given)
            best = [int(row.argmax()) for row in scores]
            right = np.array([place == one.answer for place, one in zip(best, questions, strict=True)], float)
            labels = [one.labels[place] for place, one in zip(best, questions, strict=True)]
            found[system] = AnswerScores(keys, tags, [one.id for one in questions], {"accuracy": right}, labels)
    finally:
        scorer.generator = before
    return found


def _translated(scorer: ChoiceScorer, questions: Sequence[ChoiceQuestion]) -> list[tuple[str, list[str]]]:
    """The first candidate of each question and of each of its choices."""
    flat = [(text, one.language) for one in questions for text in (one.question, *one.choices)]
    texts = iter(translated_texts(scorer.generator, [text for text, _ in flat], [tag for _, tag in flat]))
    return [(next(texts), [next(texts) for _ in one.choices]) for one in questions]
