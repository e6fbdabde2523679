"""Exact match of generated answers, per language, and the controls over candidates: vote, best by critic, oracle."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence


__all__ = ["best_by_critic", "exact_match", "majority_vote", "mean_by_language", "oracle", "parse_answer"]

# Possessive, so that 13.5 is no answer rather than 1. A hyphen after a letter or digit is no minus.
_INTEGER = re.compile(r"(?<!\d)(?<!\d\.)(?:(?<!\w)-)?\d++(?!\.\d)")


def parse_answer(text: str) -> int | None:
    """The first whole number in a generated text, in digits of any script; None where there is none.

    Decimals are passed over: 3.5 is not 3. A number in words is not read.
    """
    match = _INTEGER.search(text)
    return int(match.group()) if match else None


def exact_match(generated: Sequence[str], answers: Sequence[int]) -> list[bool]:
    """Whether each generated text's first whole number is the answer. Raises `ValueError` for unequal lengths."""
    if len(generated) != len(answers):
        raise ValueError(f"got {len(generated)} texts and {len(answers)} answers; expected one answer a text")
    return [parse_answer(text) == answer for text, answer in zip(generated, answers, strict=True)]


def mean_by_language(languages: Sequence[str], correct: Sequence[bool], without: Iterable[str] = ("en",)) -> dict:
    """The share of correct answers per language, in the order of first appearance, and their mean.

    Args:
        languages (`Sequence[str]`), correct (`Sequence[bool]`): one a question.
        without (`Iterable[str]`, *optional*, defaults to `("en",)`): not in the mean, which is key `"mean"`: each
            other language counts once, however many questions it has. NaN where no language is left.

    Raises `ValueError` for unequal lengths.
    """
    if len(languages) != len(correct):
        raise ValueError(f"got {len(languages)} languages and {len(correct)} results; expected one language a result")
    left_out = set(without)
    asked, right = Counter(languages), Counter()
    for language, hit in zip(languages, correct, strict=True):
        right[language] += bool(hit)
    shares = {language: right[language] / count for language, count in asked.items()}
    counted = [share for language, share in shares.items() if language not in left_out]
    return {**shares, "mean": sum(counted) / len(counted) if counted else float("nan")}


def majority_vote(answers: Sequence[int | None]) -> int | None:
    """The most frequent answer; of equally frequent ones the first. None does not vote; None where nobody does."""
    votes = Counter(answer for answer in answers if answer is not None)
    # most_common keeps the order of first appearance among equals.
    return votes.most_common(1)[0][0] if votes else None


def best_by_critic(scores: Sequence[Sequence[float]]) -> int:
    """The index of the candidate with the largest sum of scores (s, e, p); of equals the first.

    Raises `ValueError` where there is no candidate.
    """
    if not scores:
        raise ValueError("got no scores; expected those of one candidate at least")
    return max(range(len(scores)), key=lambda index: sum(scores[index]))


def oracle(answers: Sequence[int | None], answer: int) -> bool:
    """Whether any candidate's answer is right: the most that choosing among candidates can reach."""
    return answer in answers
