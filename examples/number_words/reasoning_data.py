"""The benchmark's data in the library's own formats: prompts with their answers, and a store of scored candidates."""

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lira_hf.translation import Candidate, CandidateStore, Identity, Score
from number_words.base_models import answer_text, prompt_text
from number_words.noise import candidates, weak_critic
from number_words.problems import Problem, generate
from number_words.wordings import LANGUAGES


__all__ = ["CRITIC", "DataSettings", "Item", "read_items", "write_data"]

CRITIC = Identity("weak", "0")
_TRANSLATOR = Identity("noisy", "0")
_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class DataSettings:
    """
    What LiRA is trained and measured on.

    Args:
        pairs (`dict[str, int]`): training questions of each language, with their English reference. They are not
            those that the encoder was pretrained on: on these it errs less than on new ones, and the gate would trust
            it too much.
        after (`int`): the problems that the encoder has, which are passed over.
        repeats (`dict[str, int]`): how often the rows of a language are in the file.
        dev, test (`int`): problems of these splits; the same in all languages.
        candidates (`int`): K.
        rate_number, rate_operator, rate_paraphrase (`float`): as of [`candidates`].
        critic_noise (`float`): as of [`weak_critic`].
        encoder_seed (`int`): of the problems of the encoder.
        seed (`int`): of the noise, and of the problems of dev and test.
    """

    pairs: dict[str, int] = field(
        default_factory=lambda: {"vi": 1500, "th": 1500, "id": 1500, "bn": 1500, "ms": 500, "fil": 150, "ur": 75}
    )
    after: int = 4500
    repeats: dict[str, int] = field(default_factory=dict)
    dev: int = 60
    test: int = 400
    candidates: int = 4
    rate_number: float = 0.35
    rate_operator: float = 0.15
    rate_paraphrase: float = 0.15
    critic_noise: float = 0.25
    encoder_seed: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Item:
    """
    A question of a split.

    Args:
        language, text, reference (`str`): of the question; `reference` is the English original.
        answer (`int`): the right one.
        cluster (`str`): the same for the translations of one problem.
        drafts (`list[str]`): the K candidates as they were drawn; they may be equal, which a vote has to know.
        scores (`list[list[float]]`): of each draft; of equal ones the same.
    """

    language: str
    text: str
    reference: str
    answer: int
    cluster: str
    drafts: list[str]
    scores: list[list[float]]


def write_data(settings: DataSettings, root: Path) -> Path:
    """
    Writes `train.jsonl`, `dev.jsonl`, `test.jsonl`, `candidates.sqlite` and what scoring needs, once.

    Args:
        settings (`DataSettings`): what is written; a hash of all of it names the folder.
        root (`Path`): where the folders lie.

    Returns:
        `Path`: the folder.
    """
    told = json.dumps(asdict(settings), sort_keys=True)
    folder = root / f"data-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    if (folder / "settings.json").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = random.Random(settings.seed + 5)
    with CandidateStore(folder / "candidates.sqlite") as store:
        for split in _SPLITS:
            pairs = list(_problems(settings, split))
            items = [_item(settings, language, number, problem, rng) for language, number, problem in pairs]
            _keep(store, items)
            rows = [json.dumps(asdict(item), ensure_ascii=False) for item in items]
            (folder / f"{split}.items.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
            _write_rows(folder / f"{split}.jsonl", settings, split, items, [problem for _, _, problem in pairs])
    (folder / "settings.json").write_text(told, encoding="utf-8")
    return folder


def read_items(folder: Path, split: str) -> list[Item]:
    """The questions of a split of the data in `folder`."""
    rows = (folder / f"{split}.items.jsonl").read_text(encoding="utf-8").splitlines()
    return [Item(**json.loads(row)) for row in rows]


def _problems(settings: DataSettings, split: str) -> Iterator[tuple[str, int, Problem]]:
    """Language, number and problem."""
    tags, start = [tag for tag in LANGUAGES if tag in settings.pairs], 0
    if split == "train":
        counts = settings.pairs
        drawn = generate(settings.after + sum(counts.values()), settings.encoder_seed + 11, split="train")
        start = settings.after
    else:
        counts = dict.fromkeys(tags, getattr(settings, split))
        drawn = generate(counts[tags[0]], settings.seed + 100 + _SPLITS.index(split), split=split)
    for tag in tags:
        # In training each language has problems of its own, or the heads would soon know a question by heart.
        own = drawn[start : start + counts[tag]] if split == "train" else drawn
        for number, problem in enumerate(own, start if split == "train" else 0):
            yield tag, number, problem
        start = start + counts[tag] if split == "train" else 0


def _item(settings: DataSettings, language: str, number: int, problem: Problem, rng: random.Random) -> Item:
    drafts = candidates(
        problem,
        language,
        settings.candidates,
        rng=rng,
        rate_number=settings.rate_number,
        rate_operator=settings.rate_operator,
        rate_paraphrase=settings.rate_paraphrase,
    )
    judged = {draft: weak_critic(problem, draft, rng, settings.critic_noise) for draft in dict.fromkeys(drafts)}
    return Item(
        language=language,
        text=problem.text(language),
        reference=problem.text("en"),
        answer=problem.answer,
        cluster=f"p{number}",
        drafts=drafts,
        scores=[[float(score) for score in judged[draft]] for draft in drafts],
    )


def _keep(store: CandidateStore, items: Sequence[Item]) -> None:
    for language in dict.fromkeys(item.language for item in items):
        own = [item for item in items if item.language == language]
        rows = [(item.text, [Candidate(text, "draft", _TRANSLATOR.name) for text in _distinct(item)]) for item in own]
        store.add(language, rows, _TRANSLATOR)
        judged = [
            (item.text, draft, Score(*scores))
            for item in own
            for draft, scores in dict(zip(item.drafts, item.scores, strict=True)).items()
        ]
        store.add_scores(language, judged, CRITIC)


def _distinct(item: Item) -> list[str]:
    return list(dict.fromkeys(item.drafts))


def _write_rows(
    path: Path, settings: DataSettings, split: str, items: Sequence[Item], problems: Sequence[Problem]
) -> None:
    """The file that training reads."""
    lines = []
    for item, problem in zip(items, problems, strict=True):
        row = {
            "prompt": prompt_text("<|lira_prefix|>"),
            "completion": answer_text(problem),
            "text": item.text,
            "language": item.language,
            "reference": item.reference,
        }
        times = settings.repeats.get(item.language, 1) if split == "train" else 1
        lines += [json.dumps(row, ensure_ascii=False)] * times
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
