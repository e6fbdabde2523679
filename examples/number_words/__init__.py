"""Arithmetic word problems with spelled-out numbers and exact answers, in English and seven languages.

The data side of the benchmark of reasoning through a base LM. Standard library only; put `examples/` on the path.
"""

from number_words.noise import candidates, corrupt, weak_critic, wrong_number
from number_words.problems import SPLITS, Problem, generate, solve, split_of
from number_words.scoring import best_by_critic, exact_match, majority_vote, mean_by_language, oracle, parse_answer
from number_words.wordings import (
    KINDS,
    LANGUAGES,
    NAMES,
    OBJECTS,
    Reading,
    english_tokens,
    english_vocabulary,
    fill,
    number_word,
    number_words_in,
    read,
    wording_count,
)


__all__ = [
    "KINDS",
    "LANGUAGES",
    "NAMES",
    "OBJECTS",
    "SPLITS",
    "Problem",
    "Reading",
    "best_by_critic",
    "candidates",
    "corrupt",
    "english_tokens",
    "english_vocabulary",
    "exact_match",
    "fill",
    "generate",
    "majority_vote",
    "mean_by_language",
    "number_word",
    "number_words_in",
    "oracle",
    "parse_answer",
    "read",
    "solve",
    "split_of",
    "weak_critic",
    "wording_count",
    "wrong_number",
]
