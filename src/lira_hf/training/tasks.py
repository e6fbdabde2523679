"""The tasks of a recipe: their data read, their rows made, and what a model is measured by on their dev splits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
from scipy import stats

from lira_hf.data import BeirDataset, SimilarityPair, read_beir, read_sts
from lira_hf.data.similarity import TABLE_SUFFIXES
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures, stored_critic
from lira_hf.models import LiraProcessor
from lira_hf.translation import CandidateStore

from .arguments import DataArguments
from .dataset import ranking_rows, retrieval_rows
from .mixture import Task, TaskMixture
from .negatives import mine_hard_negatives


__all__ = [
    "DevEvaluator",
    "TaskData",
    "fill_features",
    "join_tasks",
    "load_task",
    "measure",
    "pair_correlation",
    "read_pairs",
]

DevEvaluator = Callable[[LiraEmbedder, BeirDataset], dict[str, float]]
Figures = dict[str, float]


@dataclass
class TaskData:
    """
    A task's data.

    Args:
        arguments ([`DataArguments`]): What it was read from.
        source ([`CandidateSource`], *optional*): Its candidates.
        train ([`BeirDataset`] or `list[SimilarityPair]`): The training split.
        rows (`datasets.Dataset`): Its rows.
        dev ([`BeirDataset`] or `list[SimilarityPair]`, *optional*): The dev split, where there is one.
        anchor_languages (`Sequence[str]`): The model's.
    """

    arguments: DataArguments
    source: CandidateSource | None
    train: BeirDataset | list[SimilarityPair]
    rows: datasets.Dataset
    dev: BeirDataset | list[SimilarityPair] | None = None
    anchor_languages: Sequence[str] = field(default=("en",))

    @property
    def name(self) -> str:
        """`str`: what its figures are logged under, where there are several tasks of its kind."""
        return self.arguments.name or Path(self.arguments.data).stem

    def dev_rows(self) -> datasets.Dataset | None:
        """Rows of the dev split."""
        if self.dev is None:
            return None
        if isinstance(self.dev, BeirDataset):
            return retrieval_rows(self.dev, self.source, self.anchor_languages)
        return ranking_rows(self.dev, self.source, self.anchor_languages)

    def english_dev(self) -> BeirDataset | list[SimilarityPair] | None:
        """The part of the dev split that is asked in an anchor language; `None` where there is none."""
        if isinstance(self.dev, BeirDataset):
            queries = {key: item for key, item in self.dev.queries.items() if item.language in self.anchor_languages}
            qrels = {key: judged for key, judged in self.dev.qrels.items() if key in queries}
            return replace(self.dev, queries=queries, qrels=qrels) if queries else None
        own = [
            pair
            for pair in self.dev or []
            if pair.language1 in self.anchor_languages and pair.language2 in self.anchor_languages
        ]
        return own if len({pair.score for pair in own}) > 1 else None

    def mine(self, embedder: LiraEmbedder) -> None:
        """Adds hard negatives to the rows, as the embedder finds them, where the arguments ask for some."""
        arguments, beir = self.arguments, self.train
        if not arguments.hard_negatives or not isinstance(beir, BeirDataset):
            return
        ids, place = list(beir.corpus), {document: number for number, document in enumerate(beir.corpus)}
        relevant = {
            query: [place[document] for document, relevance in judged.items() if relevance > 0]
            for query, judged in beir.qrels.items()
        }
        asked = [query for query, places in relevant.items() if places]
        queries = [beir.queries[query] for query in asked]
        texts, tags = [query.text for query in queries], [query.language for query in queries]
        spoken = [beir.document_languages.get(key, self.anchor_languages[0]) for key in ids]
        found = mine_hard_negatives(
            embedder.encode(texts, tags, role="query"),
            embedder.encode(list(beir.corpus.values()), spoken, role="document"),
            [relevant[query] for query in asked],
            arguments.hard_negatives,
            max_similarity=arguments.hard_negative_similarity,
            skip=arguments.hard_negative_skip,
        )
        negatives = {query: [ids[number] for number in row] for query, row in zip(asked, found, strict=True)}
        self.rows = retrieval_rows(beir, self.source, self.anchor_languages, negatives)


def load_task(arguments: DataArguments, anchor_languages: Sequence[str], dev: bool) -> TaskData:
    """
    Reads a task's splits and finds the candidates of its training rows.

    Args:
        arguments ([`DataArguments`]): Of one task.
        anchor_languages (`Sequence[str]`): The model's.
        dev (`bool`): Read the dev split too, if the arguments name one.
    """
    source = _candidate_source(arguments)
    wanted = dev and bool(arguments.dev_split)
    if arguments.task == "ranking":
        pairs = read_pairs(arguments.data, arguments.train_split)
        if pairs is None:
            pairs = read_sts(arguments.data)
        rows = ranking_rows(pairs, source, anchor_languages)
        other = read_pairs(arguments.data, arguments.dev_split) if wanted else None
        return TaskData(arguments, source, pairs, rows, other, anchor_languages)
    beir = read_beir(arguments.data, arguments.train_split)
    rows = retrieval_rows(beir, source, anchor_languages)
    held = read_beir(arguments.data, arguments.dev_split) if wanted else None
    return TaskData(arguments, source, beir, rows, held, anchor_languages)


def read_pairs(data: str, split: str) -> list[SimilarityPair] | None:
    """
    Scored pairs of a split: of a table with a column `split`, or of the table of that name in a folder.

    Args:
        data (`str`): The table or the folder.
        split (`str`): The split.

    Returns:
        `list[SimilarityPair]`: Its pairs; `None` for a table without splits.

    Raises:
        FileNotFoundError: For a path that isn't there, or a folder without a table of that name.
        ValueError: For a table with other splits only.
    """
    path = Path(data)
    if path.is_dir():
        tables = [path / f"{split}{suffix}" for suffix in TABLE_SUFFIXES if (path / f"{split}{suffix}").is_file()]
        if not tables:
            there = sorted(file.name for file in path.iterdir() if file.suffix in TABLE_SUFFIXES)
            raise FileNotFoundError(
                f"got the folder {data!r} with the tables {there}; expected one named {split!r} with one of the "
                f"endings {TABLE_SUFFIXES}; mend the path or the split's name"
            )
        return read_sts(tables[0])
    if not path.is_file():
        raise FileNotFoundError(
            f"got {data!r}, which isn't there; expected a table of scored pairs, or a folder of them; mend the path"
        )
    pairs = read_sts(path)
    splits = sorted({pair.split for pair in pairs if pair.split is not None})
    if not splits:
        return None
    kept = [pair for pair in pairs if pair.split == split]
    if not kept:
        raise ValueError(f"got the split {split!r} of {data!r}; expected one of {splits}; mend the split's name")
    return kept


def join_tasks(tasks: Sequence[TaskData]) -> datasets.Dataset | TaskMixture:
    """The rows of the only task, or the mixture of all."""
    if len(tasks) == 1:
        return tasks[0].rows
    names: list[str] = []
    for task in tasks:
        names.append(task.name if task.name not in names else f"{task.name}-{len(names) + 1}")
    return TaskMixture([Task(name, task.rows, task.arguments.weight) for name, task in zip(names, tasks, strict=True)])


def measure(
    tasks: Sequence[TaskData],
    embedders: Sequence[LiraEmbedder],
    evaluator: DevEvaluator | None,
    english: bool = False,
    retrieval_only: bool = False,
) -> Figures:
    """
    Figures of every dev split. Those of the first task of each kind have plain names, the others' start with the
    task's name.

    Args:
        tasks (`Sequence[TaskData]`): The tasks.
        embedders (`Sequence[LiraEmbedder]`): The model with the candidates of each task.
        evaluator (`Callable`, *optional*): From an embedder and a retrieval split to metrics; without it only ranking
            is measured.
        english (`bool`, *optional*, defaults to `False`): Only what is asked in an anchor language.
        retrieval_only (`bool`, *optional*, defaults to `False`): Leave ranking out.
    """
    figures: Figures = {}
    seen: set[str] = set()
    for task, embedder in zip(tasks, embedders, strict=True):
        held = task.english_dev() if english else task.dev
        if held is None or (retrieval_only and task.arguments.task != "retrieval"):
            continue
        if isinstance(held, BeirDataset):
            found = evaluator(embedder, held) if evaluator is not None else {}
        else:
            found = pair_correlation(embedder, held)
        prefix = f"{task.name}_" if task.arguments.task in seen else ""
        seen.add(task.arguments.task)
        figures |= {f"{prefix}{name}": value for name, value in found.items()}
    return figures


def pair_correlation(embedder: LiraEmbedder, pairs: Sequence[SimilarityPair]) -> Figures:
    """
    `pearson` and `spearman`, -1..1, of the cosines of pairs and their scores; 0 where one side is constant.

    Args:
        embedder ([`LiraEmbedder`]): The model with its candidates.
        pairs (`Sequence[SimilarityPair]`): At least two.
    """
    # Both in the role of queries, as the collator has them.
    first = embedder.encode([pair.text1 for pair in pairs], [pair.language1 for pair in pairs], role="query")
    second = embedder.encode([pair.text2 for pair in pairs], [pair.language2 for pair in pairs], role="query")
    cosines, gold = (first * second).sum(-1), [pair.score for pair in pairs]
    if len(set(gold)) < 2 or len(set(cosines.tolist())) < 2:
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(stats.pearsonr(cosines, gold).statistic),
        "spearman": float(stats.spearmanr(cosines, gold).statistic),
    }


def fill_features(features: RoadFeatures, tasks: Sequence[TaskData], processor: LiraProcessor | None = None) -> None:
    """
    Everything that an epoch reads, longest first, before it starts: memory runs out at once or never.

    Args:
        features ([`RoadFeatures`]): With a folder.
        tasks (`Sequence[TaskData]`): The tasks.
        processor ([`LiraProcessor`], *optional*): Of the model that is trained, where the features are another's.
    """
    prompted = (processor or features.processor).add_prompt
    source: list[str] = []
    anchor: list[str] = []
    for rows in (task.rows for task in tasks):
        retrieval = "document_id" in rows.column_names
        source += prompted(list(rows["text"]), "query")
        source += prompted(list(rows["document"]), "document" if retrieval else "query")
        anchor += [text for name in ("candidates", "document_candidates") for row in rows[name] for text in row]
        if retrieval:
            anchor += rows["document"]  # what the actor learns from in stage 1
            for negative in (item for row in rows["negatives"] for item in row):
                source += prompted([negative["text"]], "document")
                anchor += negative["candidates"]
    features.fill("source", source)
    features.fill("anchor", anchor)


def _candidate_source(data: DataArguments) -> CandidateSource | None:
    if data.store is None:
        return None
    store = CandidateStore(data.store, read_only=True)
    critic = stored_critic(store, data.critic, data.critic_fingerprint) if data.critic else None
    return CandidateSource(store, critic=critic, num_candidates=data.num_candidates)
