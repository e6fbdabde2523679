"""LiRA in mteb 2: an encoder whose texts carry their language, role and candidates, and tasks run on it (ours)."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoProcessor

from lira_hf.data import likely_script, normalize_language
from lira_hf.inference import CandidateSource, LiraEmbedder, text_scripts
from lira_hf.models import LiraModel
from lira_hf.translation.language_codes import language_key, model_code


try:
    import mteb
    from mteb.languages import check_language_code
    from mteb.models import ModelMeta
    from mteb.models.model_meta import ScoringFunction
    from mteb.types import PromptType
except ImportError as error:
    raise ImportError(
        f"mteb can't be imported ({error}); expected it for this adapter; pip install 'lira-hf[mteb]'"
    ) from error

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.results import ModelResult


__all__ = ["LiraMtebEncoder", "evaluate_tasks", "find_tasks", "task_language"]

logger = logging.getLogger(__name__)

# Retrieval tasks that name the language of their queries first. Belebele names the documents' first (its loader), and
# so does MLQA (its configurations' names); of XPQA and the WMT ones mteb's source doesn't say: taken for the same.
_QUERIES_FIRST = ("CUREv1",)
# What CLDR calls the scripts of languages, by what their letters are counted as.
_SCRIPT_GROUPS = {"Hans": "Hani", "Hant": "Hani", "Jpan": "Hani", "Hira": "Hani", "Kana": "Hani", "Kore": "Hang"}
_SCRIPT_SAMPLE = 200  # texts whose letters are counted


def task_language(code: str, known: Sequence[str] = ()) -> str | None:
    """
    Our tag of one of mteb's languages: `"urd-Arab"` gives `"ur"`, `"zho-Hant"` `"zh-Hant"`, `"urd-Latn"` `"ur-Latn"`.

    Args:
        code (`str`): Language and script in ISO 639-3 and 15924, with `-` or `_` between.
        known (`Sequence[str]`, *optional*): Tags that are in use: that of the same language and script is taken.

    Returns:
        `str`, *optional*: The tag, without a script that is the language's usual one. `None` for what is no natural
        language, such as `"python-Code"`, and for the few that CLDR lacks.
    """
    try:
        tag = normalize_language(code)
    except ValueError:
        return None
    key = language_key(tag)
    same = next((name for name in known if language_key(name) == key), None)
    if same is not None:
        return same
    language, *rest = tag.split("-")
    return "-".join([language, *(part for part in rest if part != likely_script(language))])


class LiraMtebEncoder:
    """
    A LiRA model as mteb's `EncoderProtocol`.

    The language of a text is that of its task's subset. Where a subset has two, as in cross-lingual retrieval or
    bitext mining, the one whose script most letters are in is taken; where both are written alike, their order in
    mteb's metadata: documents before queries (CUREv1 the other way round), first texts of a pair before second ones.
    Texts without a role in mteb, such as pairs, are queries, as in LiRA's ranking stage.

    Args:
        embedder ([`LiraEmbedder`]): The model with its candidates.
        name (`str`): Of the model, for mteb's results: a folder or a repository.
        translate (`bool`, *optional*, defaults to `True`): Use candidates; `False` is inference without a translator,
            where only a text in an anchor language is its own candidate.
        languages (`Mapping`, *optional*): Tag of a task's texts, or two: of queries (or first texts) and of documents
            (or second texts). Keys are names of tasks, or `"task/subset"`. It goes before all that is guessed.
        meta (`Mapping[str, Any]`, *optional*): Fields of mteb's `ModelMeta` that nobody can read off a checkpoint,
            such as `license`, `reference`, `open_weights` and `training_datasets`; they are `None` otherwise.

    Example:

    ```python
    >>> encoder = LiraMtebEncoder.from_pretrained("path/to/checkpoint", CandidateSource(store))
    >>> mteb.evaluate(encoder, mteb.get_tasks(tasks=["STS22.v2"]))
    ```
    """

    def __init__(
        self,
        embedder: LiraEmbedder,
        name: str,
        translate: bool = True,
        languages: Mapping[str, str | Sequence[str]] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.embedder = embedder
        self.translate = translate
        self.languages = dict(languages or {})
        self.mteb_model_meta = _model_meta(embedder, name, translate, meta or {})
        processor, source = embedder.processor, embedder.candidates
        stored = source.store.languages() if source is not None and source.store is not None else []
        self._known = [*processor.trained_languages, *processor.anchor_languages, *stored]
        self._seen: Counter[tuple[str, str, str]] = Counter()
        self._told: set[str] = set()

    @classmethod
    def from_pretrained(
        cls, name: str, candidates: CandidateSource | None = None, device: str | None = None, **kwargs: Any
    ) -> Self:
        """
        From a checkpoint, folder or name.

        Args:
            name (`str`): The checkpoint.
            candidates ([`CandidateSource`], *optional*): Where candidates come from.
            device (`str`, *optional*): Where the model runs; where it was loaded by default.
            kwargs: As of the class.

        Raises:
            ValueError: For a checkpoint of another model.
        """
        model = AutoModel.from_pretrained(name)
        if not isinstance(model, LiraModel):
            raise ValueError(
                f"{name} holds a {type(model).__name__}; expected a LiRA checkpoint; name its folder, or give other "
                "models to mteb directly"
            )
        if device is not None:
            model.to(device)
        return cls(LiraEmbedder(model, AutoProcessor.from_pretrained(name), candidates), name, **kwargs)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> NDArray[np.float32]:
        """
        Args:
            inputs (`DataLoader`): Batches, dictionaries with a list of texts at `"text"`.
            task_metadata (`TaskMetadata`): Of the task.
            hf_split (`str`): Of the task's data.
            hf_subset (`str`): Of the task's data; its languages are in the metadata.
            prompt_type (`PromptType`, *optional*): Whether texts are queries or documents.
            kwargs: `batch_size` and `show_progress_bar`; `precision` other than `"float32"` is refused.

        Returns:
            `np.ndarray` of shape `(texts, projection_dim)`, float32, of unit length; zero for an empty text.

        Raises:
            ValueError: Inputs without texts, or another precision.
        """
        if kwargs.get("precision") not in (None, "float32"):
            raise ValueError(
                f"got precision={kwargs['precision']!r}; expected 'float32'; LiRA's other precisions are for storage, "
                "see lira_hf.inference.quantize"
            )
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise ValueError(
                    f"got inputs of {task_metadata.name} with {', '.join(sorted(batch))} and no 'text'; expected a "
                    "task over texts; leave this task out"
                )
            texts.extend(batch["text"])
        role = prompt_type.value if prompt_type is not None else None
        with self._turn(task_metadata.name, hf_split, hf_subset) as turn, self._settings(kwargs):
            tag = self._language(task_metadata, hf_subset, role, turn, texts)
            given = None
            if not self.translate:
                own = tag in self.embedder.processor.anchor_languages
                given = [[text] if own and text.strip() else [] for text in texts]
            return self.embedder.encode(texts, tag, candidates=given, role=role or "query")

    @contextmanager
    def _turn(self, *key: str) -> Iterator[int]:
        """How often these texts' subset was encoded before; a call that failed doesn't count."""
        yield self._seen[key]  # type: ignore[index]
        self._seen[key] += 1  # type: ignore[index]

    @contextmanager
    def _settings(self, given: Mapping[str, Any]) -> Iterator[None]:
        """The caller's batch size and progress bar, for the time of one call."""
        before = self.embedder.batch_size, self.embedder.progress
        self.embedder.batch_size = given.get("batch_size") or before[0]
        self.embedder.progress = given.get("show_progress_bar", before[1])
        try:
            yield
        finally:
            self.embedder.batch_size, self.embedder.progress = before

    def _language(
        self, metadata: "TaskMetadata", subset: str, role: str | None, turn: int, texts: Sequence[str]
    ) -> str | None:
        """Tag of texts of one side of a subset; `None` where it can't be told."""
        # mteb encodes the first texts of all pairs, then the second ones.
        second = role == "document" if role is not None else turn % 2 == 1
        given = self.languages.get(f"{metadata.name}/{subset}", self.languages.get(metadata.name))
        if given is not None:
            return given if isinstance(given, str) else given[int(second)]
        # A parallel data set's column has its language as its name.
        codes = list(metadata.hf_subsets_to_langscripts.get(subset) or [subset])
        if len(set(codes)) > 2:
            codes = ["und"]
        if role is not None and metadata.name not in _QUERIES_FIRST:
            codes = codes[::-1]  # so that queries come first
        code = codes[0] if len(set(codes)) == 1 else _by_script(codes, texts) or codes[int(second)]
        tag = None if code == "und" else task_language(code, self._known)
        place = f"{metadata.name}/{subset}"
        if tag is None and place not in self._told:
            logger.warning("the language of %s isn't known; its texts take no candidates; pass languages=", place)
        self._told.add(place)
        return tag

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines of all pairs of two arrays of this encoder's vectors: `(rows1, rows2)`, float32."""
        first, second = (np.atleast_2d(np.asarray(one, dtype=np.float32)) for one in (embeddings1, embeddings2))
        return torch.from_numpy(first @ second.T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines row by row: `(rows,)`, float32."""
        first, second = (np.atleast_2d(np.asarray(one, dtype=np.float32)) for one in (embeddings1, embeddings2))
        return torch.from_numpy((first * second).sum(-1))


def find_tasks(
    names: Sequence[str], languages: Sequence[str] | None = None, split: str | None = None
) -> "list[AbsTask]":
    """
    Tasks of mteb by name.

    Args:
        names (`Sequence[str]`): Such as `"STS22.v2"`.
        languages (`Sequence[str]`, *optional*): Tags; only subsets are kept whose languages are all among them or
            English, one of them at least. Of BelebeleRetrieval's 376 subsets, `["ur"]` leaves three.
        split (`str`, *optional*): Of the tasks' splits, this one alone.

    Raises:
        ValueError: For an unknown task or split, or where no subset is left.
    """
    tasks = []
    for name in names:
        try:
            task = mteb.get_task(name)
        except KeyError as error:
            raise ValueError(f"got the mteb task {name!r}; expected one that mteb knows; {error.args[0]}") from error
        if split is not None:
            if split not in task.metadata.eval_splits:
                there = ", ".join(task.metadata.eval_splits)
                raise ValueError(f"got split {split!r} for {name}; expected one of {there}; name one, or none for all")
            task.filter_eval_splits([split])
        if languages:
            wanted = {language_key(normalize_language(tag)) for tag in languages}
            found = {
                subset: {language_key(task_language(code) or code) for code in codes}
                for subset, codes in task.metadata.hf_subsets_to_langscripts.items()
            }
            english = language_key("en")
            kept = [subset for subset, keys in found.items() if keys & wanted and keys <= {*wanted, english}]
            if not kept:
                raise ValueError(
                    f"got {', '.join(languages)} as languages of {name}; expected some that it has; its subsets are "
                    f"{', '.join(list(found)[:10])}"
                )
            task.hf_subsets = kept
        tasks.append(task)
    return tasks


def evaluate_tasks(
    encoder: LiraMtebEncoder,
    tasks: "Sequence[AbsTask]",
    output: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> "ModelResult":
    """
    Runs tasks, and keeps their results in mteb's own files.

    Args:
        encoder ([`LiraMtebEncoder`]): The model.
        tasks (`Sequence[AbsTask]`): Of mteb, or your own.
        output (`str` or `os.PathLike`, *optional*): Folder of results; what it has of this model (by fingerprint),
            these candidates and this revision of the data isn't computed again. Without it nothing is kept.
        progress (`bool`, *optional*, defaults to `False`): Show progress bars.

    Returns:
        `mteb.results.ModelResult`: `task_results` has the scores by split and subset.
    """
    settings: dict[str, Any] = {"batch_size": encoder.embedder.batch_size, "show_progress_bar": progress}
    cache = None if output is None else mteb.ResultCache(Path(output))
    found = mteb.evaluate(
        encoder, list(tasks), cache=cache, encode_kwargs=settings, show_progress_bar=progress, co2_tracker=False
    )
    # Where the folder has more splits or subsets from an earlier run, mteb gives them all back.
    asked = {task.metadata.name: (task.eval_splits, task.hf_subsets) for task in tasks}
    for place, result in enumerate(found.task_results):
        splits, subsets = asked.get(result.task_name, (list(result.scores), None))
        scores = {
            split: [row for row in result.scores[split] if subsets is None or row["hf_subset"] in subsets]
            for split in splits
        }
        found.task_results[place] = result.model_copy(update={"scores": scores})
    return found


def _by_script(codes: Sequence[str], texts: Sequence[str]) -> str | None:
    """Which of two languages the texts' letters speak for; `None` if both are written in one script."""
    scripts = [_group(code.replace("_", "-").rpartition("-")[2]) for code in codes]
    if scripts[0] == scripts[1]:
        return None
    letters: Counter[str] = Counter()
    for text in texts[:_SCRIPT_SAMPLE]:
        for script, count in text_scripts(text).items():
            letters[_group(script)] += count
    first, second = (letters[script] for script in scripts)
    return None if first == second else codes[0] if first > second else codes[1]


def _group(script: str) -> str:
    return _SCRIPT_GROUPS.get(script, script)


def _model_meta(embedder: LiraEmbedder, name: str, translate: bool, given: Mapping[str, Any]) -> ModelMeta:
    """What a checkpoint says about itself; what it doesn't say stays unknown."""
    model, processor = embedder.model, embedder.processor
    weights = list(model.parameters())
    codes = [model_code(tag, "nllb") for tag in (*processor.trained_languages, *processor.anchor_languages)]
    facts = {
        "loader": None,  # it is live; a checkpoint's name alone wouldn't bring its candidates
        "name": name if _is_repository(name) else f"local/{Path(name).resolve().name or 'lira'}",
        "revision": embedder.fingerprint,
        "release_date": None,
        "languages": list(dict.fromkeys(code.replace("_", "-") for code in codes if code and _is_known(code))) or None,
        "n_parameters": sum(weight.numel() for weight in weights),
        "memory_usage_mb": sum(weight.numel() * weight.element_size() for weight in weights) / 2**20,
        "max_tokens": processor.max_text_length,
        "embed_dim": model.config.projection_dim,
        "license": None,
        "open_weights": None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": ["Transformers", "PyTorch"],
        "similarity_fn_name": ScoringFunction.COSINE,
        "use_instructions": bool(processor.query_prompt or processor.document_prompt),
        "training_datasets": None,
        "experiment_kwargs": {"candidates": _candidate_mark(embedder.candidates) if translate else "none"},
    }
    return ModelMeta(**{**facts, **given})


def _candidate_mark(source: CandidateSource | None) -> str:
    """What tells results with these candidates from those with others: their number and 16 hexadecimal digits."""
    if source is None:
        return "none"
    who = [source.translator, source.critic]
    parts: list[Any] = [None if one is None else (one.name, one.fingerprint) for one in who]
    if source.store is not None:
        # With a translator the store grows while tasks run, so what it holds says nothing.
        parts.append(source.store.stats() if source.translator is None else source.store.path.name)
    return f"{source.num_candidates}-{hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()}"


def _is_repository(name: str) -> bool:
    return name.count("/") == 1 and not Path(name).exists() and name[0] not in "./~"


def _is_known(code: str) -> bool:
    try:
        check_language_code(code.replace("_", "-"))
    except ValueError:
        return False
    return True
