"""The tasks of a recipe: their data read, their rows made, and what a model is measured by on their dev splits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import datasets
from scipy import stats

from lira_hf.data import BeirDataset, Conversation, SimilarityPair, read_beir, read_chat, read_sts
from lira_hf.data.similarity import TABLE_SUFFIXES
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures, stored_critic
from lira_hf.models import LiraProcessor
from lira_hf.translation import CandidateStore

from .arguments import DataArguments
from .dataset import ranking_rows, retrieval_rows
from .generation import generation_rows, reference_rows
from .mixture import Task, TaskMixture, rows_kind
from .negatives import mine_hard_negatives


__all__ = [
    "DevEvaluator",
    "TaskData",
    "fill_features",
    "has_split",
    "join_tasks",
    "load_task",
    "measure",
    "pair_correlation",
    "read_conversations",
    "read_pairs",
]

DevEvaluator = Callable[[LiraEmbedder, BeirDataset], dict[str, float]]
Figures = dict[str, float]
# What a split of a task of each kind is read as.
Split = BeirDataset | list[SimilarityPair] | list[Conversation]
_Row = TypeVar("_Row", SimilarityPair, Conversation)


@dataclass
class TaskData:
    """
    A task's data.

    Args:
        arguments ([`DataArguments`]): What it was read from.
        source ([`CandidateSource`], *optional*): Its candidates.
        train ([`BeirDataset`], `list[SimilarityPair]` or `list[Conversation]`): The training split.
        rows (`datasets.Dataset`): Its rows.
        dev ([`BeirDataset`], `list[SimilarityPair]` or `list[Conversation]`, *optional*): The dev split.
        anchor_languages (`Sequence[str]`): The model's.
        processor ([`LiraProcessor`], *optional*): Of the model that is trained; stage 2 of generation needs it.
        stage (`str`): As of [`LiraTrainingArguments`].
    """

    arguments: DataArguments
    source: CandidateSource | None
    train: Split
    rows: datasets.Dataset
    dev: Split | None = None
    anchor_languages: Sequence[str] = field(default=("en",))
    processor: LiraProcessor | None = None
    stage: str = "lasr"

    @property
    def name(self) -> str:
        """`str`: what its figures are logged under, where there are several tasks of its kind."""
        return self.arguments.name or Path(self.arguments.data).stem

    def dev_rows(self) -> datasets.Dataset | None:
        """Rows of the dev split."""
        if self.dev is None:
            return None
        return _rows_of(self.dev, self.arguments, self.source, self.anchor_languages, self.processor, self.stage)

    def english_dev(self) -> Split | None:
        """The part of the dev split that is asked in an anchor language; `None` where there is none."""
        own = self.anchor_languages
        if isinstance(self.dev, BeirDataset):
            queries = {key: item for key, item in self.dev.queries.items() if item.language in own}
            qrels = {key: judged for key, judged in self.dev.qrels.items() if key in queries}
            return replace(self.dev, queries=queries, qrels=qrels) if queries else None
        chats = [item for item in self.dev or [] if isinstance(item, Conversation) and item.language in own]
        if chats:
            return chats
        pairs = [
            pair
            for pair in self.dev or []
            if isinstance(pair, SimilarityPair) and pair.language1 in own and pair.language2 in own
        ]
        return pairs if len({pair.score for pair in pairs}) > 1 else None

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


def load_task(
    arguments: DataArguments,
    anchor_languages: Sequence[str],
    dev: bool,
    processor: LiraProcessor | None = None,
    stage: str = "lasr",
) -> TaskData:
    """
    Reads a task's splits and finds the candidates of its training rows.

    Args:
        arguments ([`DataArguments`]): Of one task.
        anchor_languages (`Sequence[str]`): The model's.
        dev (`bool`): Read the dev split too, if the arguments name one.
        processor ([`LiraProcessor`], *optional*): Of the model that is trained; stage 2 of generation needs it, with a
            base LM.
        stage (`str`, *optional*, defaults to `"lasr"`): As of [`LiraTrainingArguments`].

    Raises:
        DataError, FileNotFoundError, ValueError: For data that can't be read, or a split that isn't there; for
            generation also without a processor.
    """
    source = _candidate_source(arguments)
    train, held = _read_splits(arguments, dev and bool(arguments.dev_split))
    rows = _rows_of(train, arguments, source, anchor_languages, processor, stage)
    return TaskData(arguments, source, train, rows, held, anchor_languages, processor, stage)


def _read_splits(arguments: DataArguments, dev: bool) -> tuple[Split, Split | None]:
    """The training split, which of data without splits is all, and the dev split."""
    path, split, held = arguments.data, arguments.train_split, arguments.dev_split
    if arguments.task == "generation":
        chats = read_conversations(path, split)
        return read_chat(path) if chats is None else chats, read_conversations(path, held) if dev else None
    if arguments.task == "ranking":
        pairs = read_pairs(path, split)
        return read_sts(path) if pairs is None else pairs, read_pairs(path, held) if dev else None
    return read_beir(path, split), read_beir(path, held) if dev else None


def _rows_of(
    data: Split,
    arguments: DataArguments,
    source: CandidateSource | None,
    anchor_languages: Sequence[str],
    processor: LiraProcessor | None,
    stage: str,
) -> datasets.Dataset:
    """Rows of a split of a task."""
    if isinstance(data, BeirDataset):
        return retrieval_rows(data, source, anchor_languages)
    if arguments.task != "generation":
        return ranking_rows([pair for pair in data if isinstance(pair, SimilarityPair)], source, anchor_languages)
    chats = [item for item in data if isinstance(item, Conversation)]
    if stage == "arca":
        return reference_rows(chats, source, anchor_languages)
    if processor is None:
        raise ValueError(
            f"got generation on {arguments.data!r} and no processor; expected that of the model, whose base LM reads "
            "the prompts; give load_task a processor"
        )
    return generation_rows(chats, source, processor, anchor_languages, arguments.max_sequence_length)


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
    return _read_split(data, split, read_sts, "tables", "a table of scored pairs")


def read_conversations(data: str, split: str) -> list[Conversation] | None:
    """
    Conversations of a split: of a file whose rows have a field `split`, or of the file of that name in a folder.

    Args:
        data (`str`): The file, as for [`read_chat`], or the folder.
        split (`str`): The split.

    Returns:
        `list[Conversation]`: Its conversations; `None` for a file without splits.

    Raises:
        FileNotFoundError: For a path that isn't there, or a folder without a file of that name.
        ValueError: For a file with other splits only.
    """
    return _read_split(data, split, read_chat, "files", "a file of conversations")


def has_split(arguments: DataArguments, split: str) -> bool:
    """
    Whether a task of generation has conversations of a split.

    Args:
        arguments ([`DataArguments`]): Of one task.
        split (`str`): The split; none has an empty name.
    """
    path = Path(arguments.data)
    if not split:
        return False
    if path.is_dir():
        return any((path / f"{split}{suffix}").is_file() for suffix in TABLE_SUFFIXES)
    return path.is_file() and any(row.split == split for row in read_chat(path))


def _read_split(data: str, split: str, read: Callable[[Path], list[_Row]], files: str, what: str) -> list[_Row] | None:
    path = Path(data)
    if path.is_dir():
        tables = [path / f"{split}{suffix}" for suffix in TABLE_SUFFIXES if (path / f"{split}{suffix}").is_file()]
        if not tables:
            there = sorted(file.name for file in path.iterdir() if file.suffix in TABLE_SUFFIXES)
            raise FileNotFoundError(
                f"got the folder {data!r} with the {files} {there}; expected one named {split!r} with one of the "
                f"endings {TABLE_SUFFIXES}; mend the path or the split's name"
            )
        return read(tables[0])
    if not path.is_file():
        raise FileNotFoundError(
            f"got {data!r}, which isn't there; expected {what}, or a folder of them; mend the path"
        )
    rows = read(path)
    splits = sorted({row.split for row in rows if row.split is not None})
    if not splits:
        return None
    kept = [row for row in rows if row.split == split]
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
    Figures of every dev split of retrieval and ranking. Those of the first task of each kind have plain names, the
    others' start with the task's name.

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
        elif task.arguments.task == "ranking":
            found = pair_correlation(embedder, [pair for pair in held if isinstance(pair, SimilarityPair)])
        else:
            continue  # an embedder has nothing to say of generation
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
    Everything that an epoch reads, longest first, before it starts: memory runs out at once or never. Of several
    processes each computes its share.

    Args:
        features ([`RoadFeatures`]): With a folder.
        tasks (`Sequence[TaskData]`): The tasks.
        processor ([`LiraProcessor`], *optional*): Of the model that is trained, where the features are another's.
    """
    for road, texts in needed_texts(tasks, processor or features.processor).items():
        features.fill_together(road, texts)


def needed_texts(tasks: Sequence[TaskData], processor: LiraProcessor) -> dict[str, list[str]]:
    """The texts that training reads features of, with repeats: `"source"` of g, `"anchor"` of h."""
    prompted = processor.add_prompt
    source: list[str] = []
    anchor: list[str] = []
    for rows in (task.rows for task in tasks):
        kind = rows_kind(rows.column_names)
        if kind == "generation":
            source += rows["text"]  # without a role, as generation is asked
            anchor += [text for row in rows["candidates"] for text in row]
            if "completion" not in rows.column_names:  # stage 1: what the actor learns from
                anchor += [text for text in rows["reference"] if text]
            continue
        retrieval = kind == "retrieval"
        source += prompted(list(rows["text"]), "query")
        source += prompted(list(rows["document"]), "document" if retrieval else "query")
        anchor += [text for name in ("candidates", "document_candidates") for row in rows[name] for text in row]
        if retrieval:
            anchor += rows["document"]  # what the actor learns from in stage 1
            for negative in (item for row in rows["negatives"] for item in row):
                source += prompted([negative["text"]], "document")
                anchor += negative["candidates"]
    return {"source": source, "anchor": anchor}


def _candidate_source(data: DataArguments) -> CandidateSource | None:
    if data.store is None:
        return None
    store = CandidateStore(data.store, read_only=True)
    critic = stored_critic(store, data.critic, data.critic_fingerprint) if data.critic else None
    return CandidateSource(store, critic=critic, num_candidates=data.num_candidates)
