"""LiraEmbedder: text in, vectors out, with candidates from a list, a store or a translator."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lira_hf.models import LiraModel, LiraProcessor
from lira_hf.models.backbones_lira import backbone_fingerprint
from lira_hf.models.processing_lira import candidate_row, score_tensor
from lira_hf.models.traits_lira import candidate_traits, trait_tensor

from .candidates import CandidateSource, FoundCandidate
from .features import RoadFeatures
from .features import _tokenizer_state as tokenizer_state
from .precision import check_precision, quantize
from .workers import EmbedderPool


__all__ = ["LiraEmbedder", "pad_candidates"]


class LiraEmbedder:
    """
    Embeds texts of any language into one space.

    A text in one of the model's `anchor_languages` (English) is its own candidate; any other takes the candidates that
    it is given or that the candidate source finds, and is embedded by the multilingual road alone where there is none.

    Args:
        model ([`LiraModel`]): The model; put into evaluation mode.
        processor ([`LiraProcessor`]): Its processor.
        candidates ([`CandidateSource`], *optional*): Where candidates come from.
        features ([`RoadFeatures`], *optional*): A feature cache; without one every text is encoded anew.
        batch_size (`int`, *optional*, defaults to 64): Texts in one pass.
        progress (`bool`, *optional*, defaults to `False`): Show a progress bar.

    Example:

    ```python
    >>> embedder = LiraEmbedder(model, processor, CandidateSource(translator=memory))
    >>> queries = embedder.encode(["ঢাকা"], languages="bn")
    >>> documents = embedder.encode(["Dhaka", "Delhi"], languages="en")
    >>> queries @ documents.T
    ```
    """

    def __init__(
        self,
        model: LiraModel,
        processor: LiraProcessor,
        candidates: CandidateSource | None = None,
        features: RoadFeatures | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ):
        self.model = model.eval()
        self.processor = processor
        self.candidates = candidates
        self.features = features or RoadFeatures(model, processor, batch_size=batch_size)
        self.batch_size = batch_size
        self.progress = progress

    @torch.no_grad()
    def encode(
        self,
        texts: str | Sequence[str],
        languages: str | Sequence[str | None] | None = None,
        candidates: Sequence[Sequence[str]] | None = None,
        scores: Sequence[Sequence[Sequence[float] | None]] | None = None,
        precision: str = "float32",
        pool: EmbedderPool | None = None,
        role: str | None = None,
    ) -> NDArray[Any]:
        """
        Args:
            texts (`str` or `Sequence[str]`): The texts.
            languages (`str` or `Sequence[str]`, *optional*): Tag of all texts or of each.
            candidates (`Sequence[Sequence[str]]`, *optional*): Candidates of each text, instead of the source's: a
                list, one string, or `None`.
            scores (`Sequence`, *optional*): The judge's (s, e, p) of each candidate, or `None`.
            precision (`str`, *optional*, defaults to `"float32"`): `"float16"`, `"int8"` and `"binary"` take a half,
                a quarter and a 32nd of the room, see [`quantize`].
            pool ([`EmbedderPool`], *optional*): Processes that embed, in place of this one.
            role (`str`, *optional*): `"query"` or `"document"`: g reads the processor's prompt for it before each
                text. `None`: the bare text.

        Returns:
            `np.ndarray` of shape `(texts, projection_dim)`, float32, of unit length; zero for an empty text without
            candidates. In another precision its own type, and for `"binary"` the width `ceil(projection_dim / 8)`.

        Raises:
            ValueError: For another number of languages, candidates or scores than of texts, scores out of 1..10 or
                without candidates, another precision or role.
            TypeError: For a text or candidate that is no string; the row is named.
            WorkerError: A process of the pool died.
        """
        check_precision(precision)
        single = isinstance(texts, str)
        texts = [texts] if single else list(texts)
        tags = [languages] * len(texts) if languages is None or isinstance(languages, str) else list(languages)
        if len(tags) != len(texts):
            raise ValueError(
                f"got {len(texts)} texts and {len(tags)} languages; expected one tag per text, or one for all"
            )
        if candidates is not None and len(candidates) != len(texts):
            raise ValueError(
                f"got {len(texts)} texts and {len(candidates)} lists of candidates; expected one list per text"
            )
        candidates = _checked(texts, candidates, scores)
        output = np.zeros((len(texts), self.model.config.projection_dim), dtype=np.float32)
        with tqdm(total=len(texts), desc="embedding", unit="text", disable=not self.progress) as bar:
            for rows, vectors in self._encoded(texts, tags, candidates, scores, pool, role):
                output[rows] = vectors
                bar.update(len(rows))
        output = quantize(output, precision)
        return output[0] if single else output

    @torch.no_grad()
    def _encoded(
        self, texts, tags, candidates, scores, pool, role=None
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Batch by batch, the places of its texts and their vectors."""
        self.processor.add_prompt([], role)  # a wrong role is told before candidates are looked for
        order = self._order(texts)
        groups = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        batches = (self._batch(rows, texts, tags, candidates, scores, role) for rows in groups)
        if pool is None:
            vectors: Iterator[NDArray[np.float32]] = (self.encode_batch(*batch) for batch in batches)
        else:
            vectors = pool.map(batches, self.fingerprint)
        yield from zip(groups, vectors, strict=True)

    def _order(self, texts: Sequence[str]) -> list[int]:
        """Places of texts such that those of like length go together, and little of a batch is padding."""
        if len(texts) <= self.batch_size:
            return list(range(len(texts)))
        cached = "source" in self.features.caches  # nothing is padded
        lengths = [len(text) for text in texts] if cached else self.processor.text_lengths(texts, "source")
        return sorted(range(len(texts)), key=lengths.__getitem__, reverse=True)

    def _batch(self, rows: list[int], texts, tags, candidates, scores, role) -> tuple[Any, ...]:
        """What `encode_batch` takes for the texts at some places."""
        batch, marks = [texts[row] for row in rows], [tags[row] for row in rows]
        if candidates is None:
            return batch, marks, *self.find_candidates(batch, marks), role
        found = [list(candidates[row]) for row in rows]
        given = [None if scores is None else scores[row] for row in rows]
        judged = [[None] * len(row) if some is None else list(some) for row, some in zip(found, given, strict=True)]
        return batch, marks, found, judged, None, role

    @cached_property
    def fingerprint(self) -> str:
        """
        What vectors depend on besides texts and candidates: weights, tokenizers, settings; 16 hexadecimal digits.

        It is the same for a checkpoint wherever it lies, and isn't worked out again once the weights have changed.
        """
        config = self.model.config.to_dict()
        aside = {*PreTrainedConfig().to_dict(), "backbone_info", "backbones_saved", "adapter_folder", "part_dtypes"}
        own = {name: value for name, value in config.items() if name not in aside and not name.endswith("_config")}
        for name in ("lira_version", "query_prompt", "document_prompt"):  # the processor's prompts are what counts
            own.pop(name, None)
        tokenizers = [self.processor.source_tokenizer, self.processor.anchor_tokenizer]
        if self.model.config.embedding_source == "language_model":
            tokenizers.append(self.processor.tokenizer)
        parts = [
            backbone_fingerprint(self.model),
            self.processor.max_text_length,
            [_tokenizer_state(tokenizer) for tokenizer in tokenizers],
            json.dumps(own, sort_keys=True, default=str),
            self.processor.trained_languages,
            self.processor.anchor_languages,
            self.processor.candidate_kinds,
        ]
        prompts = [self.processor.query_prompt, self.processor.document_prompt]
        if any(prompts):  # without any, folders of vectors from before there were prompts stay valid
            parts.append(prompts)
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def find_candidates(self, texts: Sequence[str], languages: Sequence[str | None]) -> tuple[list, list, list]:
        """
        Candidates as [`~LiraEmbedder.encode`] takes them: a text in an anchor language is its own.

        Args:
            texts (`Sequence[str]`): The texts.
            languages (`Sequence[str]`): Tag of each, or `None`.

        Returns:
            `tuple`: per text the candidates, the score (s, e, p) of each or `None`, and the kind of each or `None`.
        """
        own = self.processor.anchor_languages
        foreign = [None if tag in own else tag for tag in languages]
        rows: list[list[FoundCandidate]] = [[] for _ in texts]
        if self.candidates is not None:
            rows = self.candidates.find(texts, foreign)
        for number, (text, tag) in enumerate(zip(texts, languages, strict=True)):
            if tag in own and text.strip():
                rows[number] = [FoundCandidate(text)]
        found, scores, kinds = (
            [[getattr(item, name) for item in row] for row in rows] for name in ("text", "scores", "kind")
        )
        return found, scores, kinds

    def encode_batch(self, texts, languages, candidates, scores, kinds=None, role=None) -> NDArray[np.float32]:
        """One batch with its candidates, their scores and kinds, in a role: `(texts, projection_dim)`."""
        device = self.model.device
        roads = road_tensors(self.features, self.processor, texts, languages, candidates, scores, kinds, role)
        prompt = {}
        if self.model.config.embedding_source == "language_model":
            prompt = {name: value.to(device) for name, value in self.processor.tokenize_prompts(texts).items()}
        output = self.model(**prompt, **{name: value.to(device) for name, value in roads.items()})
        return output.pooler_output.float().cpu().numpy()


def _checked(texts: Sequence[str], candidates: Any, scores: Any) -> list[list[str]] | None:
    """The candidates as lists; raises where texts, candidates or scores are of the wrong form, naming the row."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"text {number} is {type(text).__name__} {str(text)[:60]!r}; expected a string; drop or convert it"
            )
    if candidates is None:
        if scores is not None:
            raise ValueError("got scores without candidates; expected the candidates that they judge; give both")
        return None
    if isinstance(candidates, str):
        raise ValueError(f"got one string of candidates for {len(texts)} texts; expected one list per text")
    rows = [candidate_row(number, row) or [] for number, row in enumerate(candidates)]
    if scores is not None:
        score_tensor(scores, rows, max((len(row) for row in rows), default=0))
    return rows


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """As of the feature cache, without what a tokenizer written in Python notes of the folder that it came from."""
    *state, last = tokenizer_state(tokenizer)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        places = ("name_or_path", "is_local", "local_files_only", "processor_class", "backend")
        last = json.dumps([pair for pair in json.loads(last) if pair[0] not in places])
    return [*state, last]


def road_tensors(
    features: RoadFeatures,
    processor: LiraProcessor,
    texts: Sequence[str],
    languages: Sequence[str | None],
    candidates: Sequence[Sequence[str]],
    scores: Sequence[Sequence[Sequence[float] | None]] | None,
    kinds: Sequence[Sequence[str | None]] | None = None,
    role: str | None = None,
    traits: Sequence[Sequence[Sequence[float]]] | None = None,
) -> dict[str, torch.Tensor]:
    """
    What the model reads of texts and their candidates, as features of both roads.

    Args:
        features ([`RoadFeatures`]): Where they come from.
        processor ([`LiraProcessor`]): Of the model.
        texts (`Sequence[str]`): The texts.
        languages, candidates, scores, kinds: One of each per text, as in [`LiraProcessor`].
        role (`str`, *optional*): `"query"` or `"document"`.
        traits (`Sequence`, *optional*): As of [`candidate_traits`], where they are known.

    Returns:
        `dict`: `source_features` `(texts, 1 + bins, d_g)`, `language_ids` `(texts,)`, and where any text has a
        candidate `anchor_features`, `anchor_scores` as of [`pad_candidates`] and `anchor_traits`; on the CPU.
    """
    found, english = features.get_both(processor.add_prompt(texts, role), [one for row in candidates for one in row])
    roads = pad_candidates(features, candidates, scores, english)
    if roads:
        if traits is None:
            traits = [candidate_traits(*row) for row in zip(texts, candidates, strict=True)]
        roads["anchor_traits"] = trait_tensor(traits, kinds, processor.candidate_kinds)
    roads["source_features"] = torch.from_numpy(found.astype(np.float32, copy=False))
    roads["language_ids"] = torch.tensor(processor.language_ids(languages))
    return roads


def pad_candidates(
    features: RoadFeatures,
    candidates: Sequence[Sequence[str]],
    scores: Sequence[Sequence[Sequence[float] | None]] | None = None,
    found: NDArray[np.floating] | None = None,
) -> dict[str, torch.Tensor]:
    """
    Ragged candidates as the tensors that the model reads.

    Args:
        features ([`RoadFeatures`]): Where h's features come from.
        candidates (`Sequence[Sequence[str]]`): Per text up to K English strings.
        scores (`Sequence`, *optional*): Per candidate (s, e, p) or `None`.
        found (`np.ndarray` of shape `(all candidates, 1 + bins, d_h)`, *optional*): Their features, where they are
            known.

    Returns:
        `dict`: `anchor_features` `(texts, candidates, 1 + bins, d_h)` float32 and `anchor_scores` `(texts,
        candidates, 3)`, zero where there is none. Empty where no text has a candidate.
    """
    width = max((len(row) for row in candidates), default=0)
    if not width:
        return {}
    if found is None:
        found = features.get("anchor", [text for row in candidates for text in row])
    padded = np.zeros((len(candidates), width, features.rows, features.dims["anchor"]), dtype=np.float32)
    judged = np.zeros((len(candidates), width, 3), dtype=np.float32)
    place = 0
    for row, texts in enumerate(candidates):
        count = len(texts)
        padded[row, :count] = found[place : place + count]
        place += count
        for k, score in enumerate(scores[row] if scores is not None else []):
            if score is not None:
                judged[row, k] = score
    return {"anchor_features": torch.from_numpy(padded), "anchor_scores": torch.from_numpy(judged)}
