"""What LiRA makes of one text: its candidates and what critics and actor think of them, how much each road counts, and
what is found with and without LiRA (ours)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from lira_hf.models import LiraModelOutput
from lira_hf.models.modeling_lasr import join_paths
from lira_hf.models.pooling_lira import unit
from lira_hf.models.traits_lira import candidate_traits, trait_tensor
from lira_hf.translation import Score

from .candidates import FoundCandidate
from .embedder import LiraEmbedder, pad_candidates
from .search import SearchHit, SearchIndex, VectorHit, VectorIndex


__all__ = [
    "CandidateFacts",
    "ComparedDocuments",
    "Explanation",
    "FoundDocument",
    "LiraExplainer",
    "RoadShares",
    "SystemResult",
]

G_ALONE, TRANSLATED, CONCAT, LIRA = SYSTEMS = ("g alone", "translate, then h", "concat, untrained", "LiRA")
SOURCE_ROAD, ANCHOR_ROAD = ROADS = ("multilingual road alone", "English road alone")
_ABSENT = "there is no candidate translation"
_MUTE = "g has no say in this checkpoint"
_RANKED = 100  # documents among which a relevant one is looked for
_OVERSAMPLE = 8  # documents looked at for each English one


@dataclass(frozen=True, slots=True)
class CandidateFacts:
    """
    One candidate translation and what is thought of it.

    Args:
        text (`str`): The English text.
        kind (`str`, *optional*): How it came about, such as `"memory"`.
        scores ([`Score`], *optional*): The translation critic's s, e, p in 1..10.
        similarity (`float`): sim, the embedding critic's cosine, -1..1.
        policy (`float`): pi, the actor's probability, 0..1.
        weight (`float`): How much it counts in the English road: pi, or 1 for the likeliest and 0 for the others,
            as `candidate_mode` of the checkpoint says.
    """

    text: str
    kind: str | None
    scores: Score | None
    similarity: float
    policy: float
    weight: float


@dataclass(frozen=True, slots=True)
class RoadShares:
    """
    How much each road counts for a text.

    Args:
        start (`float`): The multilingual road's share of the start [g; h], 0..1; 1 where there is no candidate.
        prefix (`float`, *optional*): Its mean share in the soft prefix, where a base LM reads a merged one.
        agreement (`float`, *optional*): The candidates' sim under their weights, -1..1: whether the roads say the
            same in Arca's space; `None` without candidates.
        kept (`float`): Cosine of the embedding with its start: 1 before training, less the more LaSR adds.
    """

    start: float
    prefix: float | None
    agreement: float | None
    kept: float


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """
    A document found.

    Args:
        id (`str`): Its id.
        score (`float`): Cosine with the query.
        text (`str`): Its text.
        language (`str`, *optional*): Its tag.
        relevant (`bool`): It is known to answer the query.
    """

    id: str
    score: float
    text: str
    language: str | None
    relevant: bool = False


@dataclass(frozen=True, slots=True)
class SystemResult:
    """
    What one system finds.

    Args:
        system (`str`): Its name.
        hits (`tuple[FoundDocument, ...]`): The k best, best first.
        rank (`int`, *optional*): Place, from 1, of the first relevant document among the first 100; `None` where it
            isn't there, or none is known.
        missing (`str`, *optional*): Why there are no hits.
    """

    system: str
    hits: tuple[FoundDocument, ...]
    rank: int | None = None
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    What LiRA makes of one text.

    Args:
        text (`str`): The text.
        language (`str`, *optional*): Its tag.
        candidates (`tuple[CandidateFacts, ...]`): In the order in which they were found.
        shares ([`RoadShares`]): How much each road counts.
        neighbours (`tuple[SystemResult, ...]`): The documents in an anchor language (English) that are nearest to
            the embedding from each road alone; empty without documents.
        results (`tuple[SystemResult, ...]`): What each system finds; LiRA is the last.
        relevant (`tuple[str, ...]`): Ids of the documents known to answer it.
    """

    text: str
    language: str | None
    candidates: tuple[CandidateFacts, ...]
    shares: RoadShares
    neighbours: tuple[SystemResult, ...]
    results: tuple[SystemResult, ...]
    relevant: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        for facts, row in zip(self.candidates, found["candidates"], strict=True):
            row["scores"] = None if facts.scores is None else facts.scores._asdict()
        return found


class _Look(NamedTuple):
    """A batch as the model sees it, and its vectors under each system and road, `(batch, dim)`, of unit length or
    zero."""

    vectors: dict[str, NDArray[np.float32]]
    output: LiraModelOutput
    weights: torch.Tensor | None  # of the candidates, (batch, candidates)


@torch.no_grad()
def _look(
    embedder: LiraEmbedder,
    texts: Sequence[str],
    tags: Sequence[str | None],
    rows: Sequence[Sequence[FoundCandidate]],
    role: str,
    roads: bool = False,
) -> _Look:
    """One batch under every system, by one pass of each backbone; with `roads` also from each road alone."""
    model, processor = embedder.model, embedder.processor
    scores = [[one.scores for one in row] for row in rows]
    inputs = _inputs(embedder, texts, rows, scores, role)
    prompt = None
    if model.config.embedding_source == "language_model":
        tokens = processor.tokenize_prompts(texts)
        prompt = (tokens["input_ids"].to(model.device), tokens["attention_mask"].to(model.device))
    ids = torch.tensor(processor.language_ids(tags), device=model.device)
    arca, source, anchor = model.anchor_roads(**inputs)
    output = model.fuse(arca, source, anchor, ids, prompt=prompt)
    english = source.new_zeros(len(texts), model.config.anchor_dim)
    if anchor is not None:
        best = torch.tensor([_favourite(row) for row in scores], device=anchor.device)
        english = unit(anchor[torch.arange(len(best), device=best.device), best, 0])  # zero where there is none
    vectors = {G_ALONE: unit(source[:, 0]), TRANSLATED: english, LIRA: output.pooler_output}
    vectors[CONCAT] = join_paths(source[:, 0], english, model.config.path_weight)
    if roads:
        none = torch.zeros(len(texts), dtype=torch.bool, device=source.device)
        for name, left_out in ((SOURCE_ROAD, "keep_anchor"), (ANCHOR_ROAD, "keep_source")):
            alone = model.fuse(arca, source, anchor, ids, prompt=prompt, **{left_out: none})
            vectors[name] = alone.pooler_output
    found = {name: vector.float().cpu().numpy() for name, vector in vectors.items()}
    return _Look(found, output, None if anchor is None else model.arca.weights(arca))


def _inputs(
    embedder: LiraEmbedder,
    texts: Sequence[str],
    rows: Sequence[Sequence[FoundCandidate]],
    scores: Sequence[Sequence[Score | None]],
    role: str,
) -> dict[str, torch.Tensor]:
    """Both roads' features, scores and traits, as [`LiraModel.anchor_roads`] takes them."""
    processor, features, heads = embedder.processor, embedder.features, embedder.model.arca.adaptor.fc1.weight
    candidates = [[one.text for one in row] for row in rows]
    found = features.get("source", processor.add_prompt(texts, role))
    inputs = {"source_features": torch.from_numpy(found.astype(np.float32))}
    inputs |= pad_candidates(features, candidates, scores)
    if "anchor_features" in inputs:
        traits = [candidate_traits(*row) for row in zip(texts, candidates, strict=True)]
        kinds = [[one.kind for one in row] for row in rows]
        inputs["anchor_traits"] = trait_tensor(traits, kinds, processor.candidate_kinds)
    return {name: value.to(heads) for name, value in inputs.items()}


def _favourite(scores: Sequence[Score | None]) -> int:
    """Whom a reader without LiRA takes: the critic's best by summed score, or the translator's first."""
    totals = [sum(score) if score is not None else 0.0 for score in scores]
    return max(range(len(totals)), key=totals.__getitem__, default=0)


class ComparedDocuments:
    """
    Documents in memory under each system: g alone; translated, then h; both concatenated without training; LiRA.

    A document in an anchor language (English) is its own translation. "Translated" takes the candidate that the critic
    likes best, or the translator's first where nothing is judged; the concatenation weighs both roads by the
    checkpoint's `path_weight`.

    Args:
        embedder ([`LiraEmbedder`]): The model with its candidates; its `progress` says whether a bar is shown, and a
            feature cache makes a second start quick.
        corpus (`Mapping[str, str]`): Id to text.
        languages (`Mapping[str, str]`, *optional*): Id to tag; a document that names none is in the model's first
            anchor language.

    Raises:
        ValueError: For an empty corpus.
    """

    systems = SYSTEMS

    def __init__(self, embedder: LiraEmbedder, corpus: Mapping[str, str], languages: Mapping[str, str] | None = None):
        if not corpus:
            raise ValueError("got a corpus without documents; expected at least one; leave documents out for none")
        self.corpus = dict(corpus)
        own = embedder.processor.anchor_languages
        self.languages = {key: (languages or {}).get(key, own[0]) for key in corpus}
        keys = sorted(corpus, key=lambda key: len(corpus[key]), reverse=True)  # of like length, so little is padding
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in SYSTEMS}
        with tqdm(total=len(keys), desc="embedding", unit="text", disable=not embedder.progress) as bar:
            for first in range(0, len(keys), embedder.batch_size):
                some = keys[first : first + embedder.batch_size]
                texts, tags = [corpus[key] for key in some], [self.languages[key] for key in some]
                look = _look(embedder, texts, tags, _candidates(embedder, texts, tags), "document")
                for name in SYSTEMS:
                    parts[name].append(look.vectors[name])
                bar.update(len(some))
        self._indexes = {name: SearchIndex(keys, np.concatenate(vectors)) for name, vectors in parts.items()}

    def __len__(self) -> int:
        return len(self.corpus)

    def search(self, system: str, vector: NDArray[np.float32], k: int) -> list[VectorHit]:
        """The k documents nearest to a query's `vector` `(dim,)` under a system, best first."""
        hits: list[SearchHit] = self._indexes[system].search(vector[None], k)[0]
        return [VectorHit(hit.id, hit.score, self.corpus[hit.id], self.languages[hit.id]) for hit in hits]


class LiraExplainer:
    """
    Says what LiRA makes of a text.

    Args:
        embedder ([`LiraEmbedder`]): The model with its candidates.
        documents ([`ComparedDocuments`] or [`VectorIndex`], *optional*): What is searched. A folder of vectors holds
            LiRA's alone, so that no other system can be compared there.

    Raises:
        VectorsError: For a folder of another model's vectors, or without any.

    Example:

    ```python
    >>> documents = ComparedDocuments(embedder, {"d1": "Dhaka is the capital of Bangladesh", "d2": "Rice"})
    >>> found = LiraExplainer(embedder, documents).explain("ঢাকা", "bn")
    >>> [(facts.text, facts.policy) for facts in found.candidates]
    >>> {result.system: [hit.id for hit in result.hits] for result in found.results}
    ```
    """

    def __init__(self, embedder: LiraEmbedder, documents: ComparedDocuments | VectorIndex | None = None):
        if isinstance(documents, VectorIndex):
            documents.folder.check_model(embedder.fingerprint)
        self.embedder = embedder
        self.documents = documents

    def explain(
        self,
        text: str,
        language: str | None = None,
        candidates: Sequence[FoundCandidate] | None = None,
        k: int = 5,
        relevant: Collection[str] = (),
    ) -> Explanation:
        """
        Args:
            text (`str`): The text, taken for a query.
            language (`str`, *optional*): Its tag; without one the candidate source isn't asked.
            candidates (`Sequence[FoundCandidate]`, *optional*): Instead of the source's; an empty list is LiRA without
                a translator.
            k (`int`, *optional*, defaults to 5): Documents of each system.
            relevant (`Collection[str]`, *optional*): Ids of the documents that answer it, where they are known.

        Returns:
            [`Explanation`]

        Raises:
            ValueError: For a blank text, or a k below 1.
        """
        if not text.strip():
            raise ValueError("got a blank text; expected something to look for; write a word or a sentence")
        if k < 1:
            raise ValueError(f"got k={k!r}; expected at least 1; pass a positive number")
        row = _candidates(self.embedder, [text], [language])[0] if candidates is None else list(candidates)
        row = [one for one in row if one.text.strip()]
        look = _look(self.embedder, [text], [language], [row], "query", roads=True)
        answers, systems, roads = set(relevant), (LIRA,), ROADS
        if self.documents is None:
            systems, roads = (), ()
        elif isinstance(self.documents, ComparedDocuments):
            systems = self.documents.systems
        neighbours = tuple(self._neighbours(road, look.vectors[road][0], k, answers) for road in roads)
        results = tuple(self._result(name, look.vectors[name][0], k, answers) for name in systems)
        facts = tuple(_facts(number, one, look) for number, one in enumerate(row))
        shares = _shares(self.embedder, look)
        return Explanation(text, language, facts, shares, neighbours, results, tuple(sorted(answers)))

    def _search(self, system: str, vector: NDArray[np.float32], k: int) -> list[VectorHit]:
        if isinstance(self.documents, ComparedDocuments):
            return self.documents.search(system, vector, k)
        return self.documents.search(vector[None], k)[0]

    def _result(self, system: str, vector: NDArray[np.float32], k: int, relevant: set[str]) -> SystemResult:
        if not vector.any():
            return SystemResult(system, (), missing=_ABSENT)
        hits = self._search(system, vector, max(k, _RANKED) if relevant else k)
        ranks = [rank for rank, hit in enumerate(hits, start=1) if hit.id in relevant]
        return SystemResult(system, _documents(hits[:k], relevant), ranks[0] if ranks else None)

    def _neighbours(self, road: str, vector: NDArray[np.float32], k: int, relevant: set[str]) -> SystemResult:
        if not vector.any():
            return SystemResult(
                road, (), missing=_ABSENT if road == ANCHOR_ROAD else "g has no say in this checkpoint"
            )
        own = self.embedder.processor.anchor_languages
        hits = [hit for hit in self._search(LIRA, vector, k * _OVERSAMPLE) if hit.language in own][:k]
        missing = None if hits else f"none of the nearest {k * _OVERSAMPLE} documents is in {', '.join(own)}"
        return SystemResult(road, _documents(hits, relevant), missing=missing)


def _candidates(
    embedder: LiraEmbedder, texts: Sequence[str], tags: Sequence[str | None]
) -> list[list[FoundCandidate]]:
    columns = embedder.find_candidates(texts, tags)
    rows = (zip(*row, strict=True) for row in zip(*columns, strict=True))
    return [[FoundCandidate(text, kind, score) for text, score, kind in row] for row in rows]


def _documents(hits: Sequence[VectorHit], relevant: set[str]) -> tuple[FoundDocument, ...]:
    return tuple(FoundDocument(*hit, relevant=hit.id in relevant) for hit in hits)


def _facts(number: int, candidate: FoundCandidate, look: _Look) -> CandidateFacts:
    output, weights = look.output, look.weights
    figures = [float(column[0, number]) for column in (output.similarity, output.policy, weights)]
    return CandidateFacts(candidate.text, candidate.kind, candidate.scores, *figures)


@torch.no_grad()
def _shares(embedder: LiraEmbedder, look: _Look) -> RoadShares:
    model, output, prefix = embedder.model, look.output, None
    if model.prefix_projector is not None:
        gate = model.soft_prefix(output.last_hidden_state, output.fusion_mask).gate
        prefix = None if gate is None else float(gate[0])
    start = output.start_embeds[0]
    return RoadShares(
        start=float(start[: model.config.source_dim].square().sum()),  # g's part of [g; h]
        prefix=prefix,
        agreement=None if look.weights is None else float((look.weights * output.similarity).sum()),
        kept=float(start @ output.pooler_output[0]),
    )
