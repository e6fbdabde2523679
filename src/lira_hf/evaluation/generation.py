"""Arithmetic in words (paper: MGSM): exact match of the number, per language, with the controls beside it."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from lira_hf.data import MathProblem
from lira_hf.inference import CandidateSource, FoundCandidate, LiraGenerator

from .retrieval import RetrievalScores, paired_difference
from .worked_examples import WORKED_EXAMPLES, WorkedExample


__all__ = [
    "SYSTEMS",
    "AnswerScores",
    "RememberedSource",
    "chosen_systems",
    "evaluate_mgsm",
    "extract_number",
    "mgsm_prompt",
    "remembering",
    "system_report",
    "translated_texts",
    "without_candidates",
]

# What is compared: LiRA, LiRA without candidates, the base LM on the first candidate, the base LM on the text.
SYSTEMS = ("lira", "lira_without_translator", "translate_then_base", "base_alone")
# Signs and digits of any script; commas between thousands, a point before decimals, as an English LM writes them.
_NUMBER = re.compile(r"[-\N{MINUS SIGN}]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_SAID = "answer is"
_QUESTION, _ANSWER = "Question: ", "\nStep-by-Step Answer:"


@dataclass(frozen=True)
class AnswerScores(RetrievalScores):
    """
    Each question's answer, and whether it was right.

    Args:
        query_ids, languages, clusters, values: As of [`RetrievalScores`]: the questions, tag of each, what each shares
            with its translations, and metric to an array of shape `(questions,)`.
        answers (`list[str]`): What was answered.
    """

    answers: list[str] = field(default_factory=list)

    def per_language(self, metric: str | None = None) -> dict[str, float]:
        """Mean over each language's questions; of the first metric unless one is named."""
        return super().per_language(metric or next(iter(self.values)))

    def mean(self, metric: str | None = None) -> float:
        """Mean of the languages: each counts alike, however many questions it has."""
        return float(np.mean(list(self.per_language(metric).values())))


class RememberedSource(CandidateSource):
    """
    A source whose answers are kept while several systems are compared, so that a translator is asked once a text.

    Args:
        source ([`CandidateSource`]): The source.
    """

    def __init__(self, source: CandidateSource):
        super().__init__(source.store, source.translator, source.critic, source.num_candidates)
        self._found: dict[tuple[str, str], list[FoundCandidate]] = {}

    def find(self, texts: Sequence[str], languages: Sequence[str | None]) -> list[list[FoundCandidate]]:
        """As [`CandidateSource.find`]."""
        keys = list(zip(languages, texts, strict=True))
        fresh = [key for key in dict.fromkeys(keys) if key[0] is not None and key not in self._found]
        if fresh:
            rows = super().find([text for _, text in fresh], [tag for tag, _ in fresh])
            self._found.update(zip(fresh, rows, strict=True))  # type: ignore[arg-type]
        return [list(self._found.get(key, [])) for key in keys]  # type: ignore[call-overload]


def extract_number(answer: str) -> Decimal | None:
    """
    The number that a worked answer ends with: the first one after its last "answer is", else the last one there is.

    Digits of any script are read; commas between thousands are left out, and a point is a decimal one.

    Args:
        answer (`str`): What the base LM wrote.

    Returns:
        `Decimal`, *optional*: `None` where there is no number.
    """
    said = answer.lower().rfind(_SAID)
    found = _NUMBER.findall(answer[said + len(_SAID) :]) if said >= 0 else []
    number = found[0] if found else next(iter(reversed(_NUMBER.findall(answer))), None)
    if number is None:
        return None
    return Decimal(number.replace(",", "").replace("\N{MINUS SIGN}", "-"))


def mgsm_prompt(
    generator: LiraGenerator, question: str, examples: Sequence[WorkedExample]
) -> str | list[dict[str, str]]:
    """
    What the base LM reads of a problem: worked examples, then the problem; in a chat as turns.

    Args:
        generator ([`LiraGenerator`]): Says whether the base is asked in a chat, and which token the soft prefix is.
        question (`str`): The problem, in any language. The soft prefix goes to its start.
        examples (`Sequence[WorkedExample]`): The worked examples.
    """
    if generator.chat:
        turns = [
            {"role": role, "content": text}
            for example in examples
            for role, text in (("user", example.question), ("assistant", example.answer))
        ]
        return [*turns, {"role": "user", "content": question}]
    shown = [f"{_QUESTION}{example.question}{_ANSWER} {example.answer}\n\n" for example in examples]
    marked = generator.processor.prefix_token + question.replace(generator.processor.prefix_token, "")
    return "".join([*shown, _QUESTION, marked, _ANSWER])


def translated_texts(generator: LiraGenerator, texts: Sequence[str], languages: Sequence[str | None]) -> list[str]:
    """The first candidate of each text; the text itself where there is none, or where it is in an anchor language."""
    found = generator.find_candidates(texts, languages)["candidates"]
    return [row[0] if row else text for row, text in zip(found, texts, strict=True)]


def evaluate_mgsm(
    generator: LiraGenerator,
    problems: Sequence[MathProblem],
    examples: Sequence[WorkedExample] = WORKED_EXAMPLES,
    systems: Sequence[str] | None = None,
    max_new_tokens: int = 256,
    **options: Any,
) -> dict[str, AnswerScores]:
    """
    Args:
        generator ([`LiraGenerator`]): The model, with its candidates.
        problems (`Sequence[MathProblem]`): As [`read_mgsm`] gives them, of any number of languages.
        examples (`Sequence[WorkedExample]`, *optional*): Shown before each problem; by default eight in English
            (ours), with their working.
        systems (`Sequence[str]`, *optional*): Of [`SYSTEMS`]; by default all, or, without a candidate source, `"lira"`
            and `"base_alone"`. `"translate_then_base"` reads the first candidate, or the problem itself where there is
            none.
        max_new_tokens (`int`, *optional*, defaults to 256): Most tokens of an answer.
        options: For `generate`. Greedy by default.

    Returns:
        `dict[str, AnswerScores]`: Of each system, with the metrics `exact_match` and `answered` (1 where a number was
        found).

    Raises:
        ValueError: Without problems, and for a system that there isn't or that needs candidates where there are none.
    """
    if not problems:
        raise ValueError("got no problems; expected one at least; read them with read_mgsm")
    questions = [problem.question for problem in problems]
    tags = [problem.language for problem in problems]
    stop = () if generator.chat else (_QUESTION.strip(), "\n\n")
    options = {"max_new_tokens": max_new_tokens, "do_sample": False, "stop": stop} | options
    chosen = chosen_systems(systems, generator.candidates is not None)
    found: dict[str, AnswerScores] = {}
    generator = remembering(generator)
    for system in chosen:
        told = translated_texts(generator, questions, tags) if system == "translate_then_base" else questions
        prompts = [mgsm_prompt(generator, text, examples) for text in told]
        given = {"prompts": prompts, "prefix": system.startswith("lira")}
        if system == "lira_without_translator":
            given["candidates"] = without_candidates(generator, tags)
        answers = generator.generate(questions, tags, **given, **options)
        numbers = [extract_number(answer) for answer in answers]
        right = [number == problem.answer for number, problem in zip(numbers, problems, strict=True)]
        values = {"exact_match": np.array(right, float), "answered": np.array([n is not None for n in numbers], float)}
        keys = [f"{problem.language}:{problem.id}" for problem in problems]
        found[system] = AnswerScores(keys, tags, [problem.id for problem in problems], values, answers)
    return found


def remembering(generator: LiraGenerator) -> LiraGenerator:
    """The generator over a [`RememberedSource`]; the one given stays as it is."""
    generator = copy.copy(generator)
    if generator.candidates is not None:
        generator.candidates = RememberedSource(generator.candidates)
    return generator


def without_candidates(generator: LiraGenerator, languages: Sequence[str | None]) -> list[list[str] | None]:
    """Candidates of inference without a translator; a text in an anchor language is still its own."""
    return [None if tag in generator.processor.anchor_languages else [] for tag in languages]


def chosen_systems(systems: Sequence[str] | None, translated: bool) -> list[str]:
    """
    The systems that are asked for, or can be had.

    Raises:
        ValueError: For one that there isn't, or that needs candidates where there are none.
    """
    there = [name for name in SYSTEMS if translated or name in ("lira", "base_alone")]
    if wrong := [name for name in systems or () if name not in there]:
        fix = "name some of these" if wrong[0] not in SYSTEMS else "give a candidate source, or leave it out"
        raise ValueError(f"got the system {wrong[0]!r}; expected of {there}; {fix}")
    return there if systems is None else list(systems)


def system_report(found: dict[str, AnswerScores], metric: str | None = None, ours: str = "lira") -> dict[str, Any]:
    """
    Figures of each system, and of ours minus each other with 95 % paired-bootstrap intervals, over questions that are
    translations of each other taken together (see [`paired_difference`]).

    Args:
        found (`dict[str, AnswerScores]`): As [`evaluate_mgsm`] or [`evaluate_choices`] gives it.
        metric (`str`, *optional*): By default the first there is.
        ours (`str`, *optional*, defaults to `"lira"`): Which system the others are compared with.

    Returns:
        `dict`: per system `mean`, `languages`, `questions`, and for the others `ours_minus_this`, of each language and
        of their `mean`, as `[difference, low, high]`.
    """
    report: dict[str, Any] = {}
    for name, scores in found.items():
        chosen = metric or next(iter(scores.values))
        per_language = scores.per_language(chosen)
        mean = scores.mean(chosen)
        report[name] = {"mean": mean, "languages": per_language, "questions": len(scores.query_ids)}
        if name != ours and ours in found:
            gains = {"mean": None} | {tag: tag for tag in per_language}
            report[name]["ours_minus_this"] = {
                title: list(paired_difference([found[ours]], [scores], chosen, language=tag))
                for title, tag in gains.items()
            }
    return report
