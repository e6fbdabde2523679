"""Word problems without a language, drawn by a seed, in splits that share no numbers of the same operation."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from number_words.wordings import KINDS, NAMES, OBJECTS, fill, wording_count


__all__ = ["LARGEST", "SMALLEST", "SPLITS", "Problem", "generate", "number_range", "solve", "split_of"]

SPLITS: tuple[str, ...] = ("train", "dev", "test")
# The plural of English is right from two on, and nobody speaks of zero apples in a bag.
SMALLEST, LARGEST, LARGEST_FACTOR = 2, 99, 9
_DEV, _TEST = 0.1, 0.15
_PATIENCE = 2000


@dataclass(frozen=True)
class Problem:
    """A word problem.

    Args:
        kind (`str`): one of `KINDS`.
        wording (`int`): which of the kind's templates; the same number means the same in every language.
        numbers (`tuple[int, ...]`): two, or three for `two_steps`, in the order in which the question names them.
        names (`tuple[str, str]`): two keys of `NAMES`; a wording may use one of them, or none.
        object (`str`): a key of `OBJECTS`.
        answer (`int`): 0 to 99.
    """

    kind: str
    wording: int
    numbers: tuple[int, ...]
    names: tuple[str, str]
    object: str
    answer: int

    def text(self, language: str) -> str:
        """The question in `language` (NFC). Raises `ValueError` for a language that is not there."""
        return fill(self.kind, self.wording, self.numbers, self.names, self.object, language)


def solve(kind: str, numbers: Sequence[int]) -> int:
    """The answer: a + b, a - b, |a - b|, a * b or a + b - c. Nothing keeps it within 0 to 99 here.

    Raises `ValueError` for an unknown kind or the wrong count of numbers.
    """
    if len(numbers) != (3 if kind == "two_steps" else 2):
        raise ValueError(f"numbers are {tuple(numbers)}; expected three for two_steps, else two; kind is {kind!r}")
    a, b, *rest = numbers
    match kind:
        case "addition":
            return a + b
        case "subtraction":
            return a - b
        case "difference":
            return abs(a - b)
        case "multiplication":
            return a * b
        case "two_steps":
            return a + b - rest[0]
    raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")


def number_range(kind: str) -> tuple[int, int]:
    """The smallest and the largest number that a question of this kind may name."""
    return SMALLEST, LARGEST_FACTOR if kind == "multiplication" else LARGEST


def split_of(kind: str, numbers: Sequence[int]) -> str:
    """The split of a problem, by its kind and numbers alone: about 75 % train, 10 % dev and 15 % test.

    A hash decides, so the split depends on no seed and on no count. Where the order of two numbers does not matter
    they share a split: who has seen 12 + 30 knows 30 + 12.
    """
    ordered = list(numbers) if kind == "subtraction" else [*sorted(numbers[:2]), *numbers[2:]]
    digest = hashlib.sha256(f"{kind} {ordered}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if place < _TEST else "dev" if place < _TEST + _DEV else "train"


def _draw_numbers(kind: str, rng: random.Random) -> tuple[int, ...]:
    """Evenly from all pairs that the kind allows; for two steps an allowed pair, then evenly what is taken away."""
    while True:
        a, b = (rng.randint(*number_range(kind)) for _ in range(2))
        if kind == "two_steps" and a + b <= LARGEST:
            return a, b, rng.randint(SMALLEST, a + b)
        # A difference of nothing reads oddly: "the child with more".
        if kind in KINDS[:4] and 0 <= solve(kind, (a, b)) <= LARGEST and not (kind == "difference" and a == b):
            return a, b


def _draw(kinds: Sequence[str], split: str | None, rng: random.Random) -> Problem:
    kind = rng.choice(kinds)
    numbers = _draw_numbers(kind, rng)
    while split is not None and split_of(kind, numbers) != split:
        numbers = _draw_numbers(kind, rng)
    first, second = rng.sample(NAMES, 2)
    wording = rng.randrange(wording_count(kind))
    return Problem(kind, wording, numbers, (first, second), rng.choice(OBJECTS), solve(kind, numbers))


def generate(count: int, seed: int, split: str | None = "train", kinds: Sequence[str] = KINDS) -> list[Problem]:
    """Draws problems whose English questions all differ.

    Args:
        count (`int`): how many.
        seed (`int`): the same seed, split and kinds give the same problems, and a larger count only adds to them.
        split (`str`, *optional*, defaults to `"train"`): one of `SPLITS`, or None for all numbers, such as for a base
            LM that shall know all of arithmetic: 7 * 8 cannot be inferred from the other products.
        kinds (`Sequence[str]`, *optional*, defaults to all): drawn evenly.

    Raises `ValueError` for an unknown split or kind, and where no further problem can be found.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}, or None for all")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds are {list(kinds)}; expected some of {', '.join(KINDS)}")
    rng, problems, seen = random.Random(seed), [], set()
    while len(problems) < count:
        for _ in range(_PATIENCE):
            problem = _draw(kinds, split, rng)
            question = problem.text("en")
            if question not in seen:
                break
        else:
            raise ValueError(f"found {len(problems)} problems, expected {count}; ask for fewer, or for more kinds")
        seen.add(question)
        problems.append(problem)
    return problems
