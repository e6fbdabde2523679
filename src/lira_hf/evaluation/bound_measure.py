"""What the paper's bound speaks of, measured on a model: anchoring errors, translations, outputs, one-token edits."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from lira_hf.inference import LiraEmbedder, pad_candidates
from lira_hf.models.pooling_lira import unit
from lira_hf.models.traits_lira import candidate_traits, trait_tensor

from .bound import SemanticBank
from .bound_rows import BoundRow


__all__ = [
    "SPACES",
    "BoundMeasurements",
    "check_space",
    "edit_tokens",
    "find_row_candidates",
    "measure_bound",
    "semantic_bank",
]

SPACES = ("adapted", "frozen")
# An edit that moves z by less than this has changed nothing that h can tell.
_STILL = 1e-4
_CHUNK = 512
Found = tuple[list[list[str]], list[list], list[list]]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class BoundMeasurements:
    """
    Everything of the rows that have a candidate; the estimators need no model after this.

    Args:
        rows (`tuple[BoundRow, ...]`): The rows, with references and candidates.
        space (`str`): `"adapted"` (E_lr, E_en) or `"frozen"`.
        anchoring (`np.ndarray` of shape `(rows,)`): ||g(x) - h(y*)||.
        translation (`np.ndarray` of shape `(rows,)`): ||h(T(x)) - h(y*)||, T(x) being the candidates as the model
            weighs them.
        best_translation (`np.ndarray` of shape `(rows,)`): The same of the candidate that comes closest.
        english (`np.ndarray` of shape `(rows,)`): ||g(y*) - h(y*)||, the anchoring error of the reference itself.
        drift (`np.ndarray` of shape `(rows,)`): ||g(x) - g(y*)||: with `english` it bounds `anchoring`.
        output (`np.ndarray` of shape `(rows,)`): ||f(z) - f(z*)||: embeddings of text and reference.
        unrelated (`float`): Root mean square of ||h(y*) - h(y')|| over pairs of different references.
        unrelated_source (`float`): The same of g, ||g(y*) - g(y')||.
        references, translated (`np.ndarray` of shape `(rows, d_h)`): h's frozen unit vectors of y* and T(x).
        best_candidates (`np.ndarray` of shape `(rows, d_h)`): Those of the closest candidates.
        lipschitz (`dict[int, float]`): Row to its largest ||f(z') - f(z)|| / ||z' - z|| under one-token edits of y.
        still_edits (`int`): Edits that moved z by less than 1e-4 and were left out.
        without_candidates (`dict[str, int]`): By language, rows that have no candidate and are not among `rows`.
    """

    rows: tuple[BoundRow, ...]
    space: str
    anchoring: Vector
    translation: Vector
    best_translation: Vector
    english: Vector
    drift: Vector
    output: Vector
    unrelated: float
    unrelated_source: float
    references: NDArray[np.float32]
    translated: NDArray[np.float32]
    best_candidates: NDArray[np.float32]
    lipschitz: dict[int, float]
    still_edits: int
    without_candidates: dict[str, int]

    @property
    def deviation(self) -> Vector:
        """||z - z*||, `(rows,)`."""
        return np.hypot(self.anchoring, self.translation)


@dataclass
class _Passed:
    """One pass: all unit vectors, in the space that is measured, and in h's frozen one."""

    source: torch.Tensor  # (batch, dim)
    candidates: torch.Tensor  # (batch, candidates, dim)
    translated: torch.Tensor  # (batch, dim)
    frozen: torch.Tensor  # (batch, candidates, d_h)
    frozen_translated: torch.Tensor  # (batch, d_h)
    weights: torch.Tensor  # (batch, candidates)
    output: torch.Tensor  # (batch, projection_dim)


def check_space(embedder: LiraEmbedder, space: str) -> None:
    """Raises a `ValueError` for a space that there isn't, or where g and h differ in width in the frozen one."""
    if space not in SPACES:
        raise ValueError(f"space is {space!r}; expected one of {SPACES}; set one")
    config = embedder.model.config
    if space == "frozen" and config.source_dim != config.anchor_dim:
        raise ValueError(
            f"got space='frozen' with a g of {config.source_dim} dimensions and an h of {config.anchor_dim}; expected "
            "equal widths, without which there is no distance; take space='adapted'"
        )


def find_row_candidates(embedder: LiraEmbedder, rows: Sequence[BoundRow]) -> Found:
    """
    Candidates, scores and kinds of each row, as [`~LiraEmbedder.find_candidates`] gives them.

    Raises:
        ValueError: Where no row has any.
    """
    tags = [None if row.language == "und" else row.language for row in rows]
    found = embedder.find_candidates([row.text for row in rows], tags)
    if not any(found[0]):
        raise ValueError(
            f"got no candidate translation for any of {len(rows):,} rows; expected some, without which there is no "
            "eps2; name the store that has them, or a translator (`lira translate` fills a store)"
        )
    return found


@torch.no_grad()
def measure_bound(
    embedder: LiraEmbedder,
    rows: Sequence[BoundRow],
    found: Found,
    roles: tuple[str | None, str | None] = (None, None),
    space: str = "adapted",
    edits: int = 6,
    edit_rows: int = 32,
    seed: int = 0,
) -> BoundMeasurements:
    """
    Args:
        embedder ([`LiraEmbedder`]): The model; its features and progress bar are used, its candidates are not.
        rows (`Sequence[BoundRow]`): The rows.
        found (`tuple`): Their candidates, as [`find_row_candidates`] gives them.
        roles (`tuple`, *optional*): Of texts and references, see [`BoundRows`].
        space (`str`, *optional*, defaults to `"adapted"`): Where distances are taken: between Arca's unit vectors
            E_lr and E_en, as in the paper, or the backbones' own unit vectors (`"frozen"`), if their widths agree.
        edits (`int`, *optional*, defaults to 6): One-token edits of a row: replace, delete, insert in turn.
        edit_rows (`int`, *optional*, defaults to 32): Rows of each language that are edited; 0: none.
        seed (`int`, *optional*, defaults to 0): Of the edits and the draw of rows.

    Returns:
        [`BoundMeasurements`]: Of the rows that have a candidate.

    Raises:
        ValueError: For a space that can't be measured, or edits below 1.
    """
    check_space(embedder, space)
    if edits < 1 or edit_rows < 0:
        raise ValueError(f"got {edits} edits of {edit_rows} rows; expected 1 or more of 0 or more; set edits")
    without = Counter(row.language for row, texts in zip(rows, found[0], strict=True) if not texts)
    keep = [place for place, texts in enumerate(found[0]) if texts]
    used = [rows[place] for place in keep]
    candidates, scores, kinds = ([column[place] for place in keep] for column in found)
    english = list(dict.fromkeys(row.reference for row in used))
    ideal = _References(embedder, english, roles[1], space)
    at = np.array([ideal.places[row.reference] for row in used], dtype=np.int64)
    measured: list[dict[str, np.ndarray]] = []
    chunks = range(0, len(used), embedder.batch_size)
    for start in tqdm(chunks, desc="texts and translations", unit="batch", disable=not embedder.progress):
        part = slice(start, start + embedder.batch_size)
        passed = _run(embedder, used[part], candidates[part], scores[part], kinds[part], roles[0], space)
        measured.append(_distances(passed, ideal, at[part]))
    columns = {name: np.concatenate([each[name] for each in measured]) for name in measured[0]}
    edited = _Edits(embedder, english, edits, seed)
    lipschitz = edited.largest(_draw(used, edit_rows, seed), (used, candidates, scores, kinds), roles[0], space)
    return BoundMeasurements(
        rows=tuple(used),
        space=space,
        english=ideal.own_error[at],
        unrelated=ideal.unrelated,
        unrelated_source=ideal.unrelated_source,
        references=ideal.frozen[at],
        lipschitz=lipschitz,
        still_edits=edited.still,
        without_candidates=dict(without),
        **columns,
    )


class _References:
    """The ideal side: every distinct reference as LiRA embeds an English document."""

    def __init__(self, embedder: LiraEmbedder, texts: list[str], role: str | None, space: str):
        self.places = {text: number for number, text in enumerate(texts)}
        tag = embedder.processor.anchor_languages[0]
        parts = []
        chunks = range(0, len(texts), embedder.batch_size)
        for start in tqdm(chunks, desc="references", unit="batch", disable=not embedder.progress):
            some = texts[start : start + embedder.batch_size]
            rows = [BoundRow(text, tag, text, False) for text in some]
            nothing = [[None] for _ in some]
            parts.append(_run(embedder, rows, [[text] for text in some], nothing, nothing, role, space))
        self.vectors = torch.cat([part.candidates[:, 0] for part in parts])
        self.outputs = torch.cat([part.output for part in parts])
        self.frozen = torch.cat([part.frozen[:, 0] for part in parts]).cpu().numpy()
        self.source = torch.cat([part.source for part in parts])
        self.own_error = _distance(self.source, self.vectors)
        self.unrelated, self.unrelated_source = _apart(self.vectors), _apart(self.source)


def _apart(vectors: torch.Tensor) -> float:
    """Root mean square distance of all pairs of different rows, which have unit length; 0 for one row."""
    count = len(vectors)
    if count < 2:
        return 0.0
    # |sum|^2 = n + the cosines of all pairs
    cosines = float(vectors.double().sum(0).square().sum() - count) / (count * (count - 1))
    return float(np.sqrt(max(2.0 - 2.0 * cosines, 0.0)))


def _run(
    embedder: LiraEmbedder,
    rows: Sequence[BoundRow],
    candidates: Sequence[Sequence[str]],
    scores: Sequence[Sequence],
    kinds: Sequence[Sequence],
    role: str | None,
    space: str,
) -> _Passed:
    return _forward(embedder, _inputs(embedder, rows, candidates, scores, kinds, role), space)


def _inputs(embedder, rows, candidates, scores, kinds, role) -> dict[str, torch.Tensor]:
    """As `LiraEmbedder.encode_batch` makes them."""
    processor, device = embedder.processor, embedder.model.device
    texts = [row.text for row in rows]
    source = embedder.features.get("source", processor.add_prompt(texts, role)).astype(np.float32)
    inputs = {"source_features": torch.from_numpy(source), **pad_candidates(embedder.features, candidates, scores)}
    traits = [candidate_traits(*row) for row in zip(texts, candidates, strict=True)]
    inputs["anchor_traits"] = trait_tensor(traits, kinds, processor.candidate_kinds)
    tags = [None if row.language == "und" else row.language for row in rows]
    inputs["language_ids"] = torch.tensor(processor.language_ids(tags))
    if embedder.model.config.embedding_source == "language_model":
        inputs |= processor.tokenize_prompts(texts)
    return {name: value.to(device) for name, value in inputs.items()}


def _forward(embedder: LiraEmbedder, inputs: dict[str, torch.Tensor], space: str) -> _Passed:
    output = embedder.model(**inputs)
    weights = output.policy.float()
    if embedder.model.config.candidate_mode == "argmax":
        weights = torch.nn.functional.one_hot(weights.argmax(-1), weights.shape[-1]).float()
    frozen = unit(inputs["anchor_features"][:, :, 0].float())
    source, vectors = output.source_embeds, output.anchor_embeds
    if space == "frozen":
        source, vectors = unit(inputs["source_features"][:, 0]), frozen
    mixed = [unit((weights.unsqueeze(-1) * each.float()).sum(1)) for each in (vectors, frozen)]
    embeds = output.pooler_output.float()
    return _Passed(source.float(), vectors.float(), mixed[0], frozen, mixed[1], weights, embeds)


def _distance(one: torch.Tensor, other: torch.Tensor) -> Vector:
    return (one.double() - other.double()).norm(dim=-1).cpu().numpy()


def _distances(passed: _Passed, ideal: _References, at: NDArray[np.int64]) -> dict[str, np.ndarray]:
    place = torch.from_numpy(at).to(passed.source.device)
    goal = ideal.vectors[place]
    away = (passed.candidates.double() - goal.double().unsqueeze(1)).norm(dim=-1)
    there = (passed.frozen != 0).any(-1)
    nearest, closest = away.masked_fill(~there, torch.inf).min(-1)
    lines = torch.arange(len(at), device=closest.device)
    return {
        "anchoring": _distance(passed.source, goal),
        "drift": _distance(passed.source, ideal.source[place]),
        "translation": _distance(passed.translated, goal),
        "best_translation": nearest.cpu().numpy(),
        "output": _distance(passed.output, ideal.outputs[place]),
        "translated": passed.frozen_translated.cpu().numpy(),
        "best_candidates": passed.frozen[lines, closest].cpu().numpy(),
    }


def _draw(rows: Sequence[BoundRow], count: int, seed: int) -> list[int]:
    """Rows of each language to edit, by what their text hashes to."""

    chosen: dict[str, list[int]] = {}
    for place in sorted(range(len(rows)), key=lambda place: _digest(rows[place].text, seed)):
        mine = chosen.setdefault(rows[place].language, [])
        if len(mine) < count:
            mine.append(place)
    return sorted(place for mine in chosen.values() for place in mine)


def _digest(text: str, seed: int) -> bytes:
    """An order that depends on the text and the seed alone."""
    return hashlib.blake2b(f"{seed}\0{text}".encode(errors="replace"), digest_size=8).digest()


def _batches(places: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def edit_tokens(
    tokens: Sequence[int], fixed: frozenset[int], vocabulary: Sequence[int], count: int, draw: random.Random
) -> list[list[int]]:
    """
    Neighbours one token away (the paper's neighbourhood, delta = 1): replace, delete and insert in turn.

    Args:
        tokens (`Sequence[int]`): Ids of a text.
        fixed (`frozenset[int]`): Ids that are no part of the text, such as [CLS]; none is touched.
        vocabulary (`Sequence[int]`): Ids to put in, as often as they occur.
        count (`int`): How many.
        draw (`random.Random`): Where chance comes from.

    Returns:
        `list[list[int]]`: At most `count`, none equal to `tokens`; a text of one token is never emptied.
    """
    free = [place for place, token in enumerate(tokens) if token not in fixed]
    if not free or not vocabulary:
        return []
    found = []
    for number in range(count):
        kind = ("replace", "delete", "insert")[number % 3]
        if kind == "delete" and len(free) == 1:
            kind = "insert"
        place, edited = draw.choice(free), list(tokens)
        if kind == "delete":
            del edited[place]
        elif kind == "insert":
            edited.insert(place + draw.randrange(2), draw.choice(vocabulary))
        else:
            others = [token for token in (draw.choice(vocabulary) for _ in range(8)) if token != tokens[place]]
            if not others:
                continue
            edited[place] = others[0]
        if edited != list(tokens):
            found.append(edited)
    return found


class _Edits:
    """One-token edits of the candidate that counts most, and how far they move z and f(z)."""

    def __init__(self, embedder: LiraEmbedder, english: list[str], count: int, seed: int):
        self.embedder, self.count, self.seed = embedder, count, seed
        self.still = 0
        ids, mask = self._tokens(sorted(english, key=lambda text: _digest(text, seed))[:_CHUNK])
        tokenizer = embedder.processor.anchor_tokenizer
        self.fixed = frozenset(tokenizer.all_special_ids)
        self.vocabulary = [token for token in ids[mask.bool()].tolist() if token not in self.fixed]

    def _tokens(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = self.embedder.processor.tokenize_road(texts, "anchor")
        return batch["anchor_ids"], batch["anchor_mask"]

    def largest(self, places: list[int], columns: tuple, role: str | None, space: str) -> dict[int, float]:
        """As `ratios`, batch by batch; `columns` are those of all rows."""
        found: dict[int, float] = {}
        batches = list(_batches(places, max(self.embedder.batch_size // self.count, 1)))
        for some in tqdm(batches, desc="one-token edits", unit="batch", disable=not self.embedder.progress):
            found |= self.ratios(some, *([column[row] for row in some] for column in columns), role, space)
        return found

    def ratios(self, places, rows, candidates, scores, kinds, role, space) -> dict[int, float]:
        """Row's place to its largest ratio; a row none of whose edits moves z is left out."""
        inputs = _inputs(self.embedder, rows, candidates, scores, kinds, role)
        best = _forward(self.embedder, inputs, space).weights.argmax(-1)
        ids, mask = self._tokens([row[place] for row, place in zip(candidates, best.tolist(), strict=True)])
        # Encoded anew, as what a cache holds is rounded.
        same = torch.arange(len(rows), device=best.device)
        before = _forward(self.embedder, self._put(inputs, same, best, ids, mask), space)
        owners: list[int] = []
        edited: list[list[int]] = []
        for number, row in enumerate(rows):
            draw = random.Random(f"{self.seed}\0{row.language}\0{row.text}")
            mine = edit_tokens(
                ids[number][mask[number].bool()].tolist(), self.fixed, self.vocabulary, self.count, draw
            )
            edited, owners = edited + mine, owners + [number] * len(mine)
        if not edited:
            return {}
        lines = torch.tensor(owners, device=best.device)
        after = _forward(self.embedder, self._put(inputs, lines, best[lines], *_padded(edited)), space)
        moved = _distance(after.translated, before.translated[lines])
        answered = _distance(after.output, before.output[lines])
        largest: dict[int, float] = {}
        for owner, step, answer in zip(owners, moved, answered, strict=True):
            if step < _STILL:
                self.still += 1
            else:
                largest[places[owner]] = max(largest.get(places[owner], 0.0), float(answer / step))
        return largest

    def _put(self, inputs, lines, best, ids, mask) -> dict[str, torch.Tensor]:
        """Rows `lines` of the inputs, with the candidate at `best` replaced by the one of these tokens."""
        model, repeated = self.embedder.model, {name: value[lines] for name, value in inputs.items()}
        anchors = repeated["anchor_features"].clone()
        encoded = model.encode_anchor(ids.to(model.device), mask.to(model.device))[:, 0]
        anchors[torch.arange(len(lines), device=lines.device), best] = encoded.to(anchors)
        return repeated | {"anchor_features": anchors}


def _padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids, mask = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    for line, tokens in enumerate(rows):
        ids[line, : len(tokens)] = torch.tensor(tokens)
        mask[line, : len(tokens)] = 1
    return ids, mask


def semantic_bank(embedder: LiraEmbedder, texts: Sequence[str]) -> SemanticBank:
    """The bank of some anchor sentences, with h's frozen vectors."""
    parts = [
        embedder.features.get("anchor", list(texts[start : start + _CHUNK]))[:, 0].astype(np.float32)
        for start in range(0, len(texts), _CHUNK)
    ]
    vectors = unit(torch.from_numpy(np.concatenate(parts))).numpy()
    return SemanticBank(tuple(texts), vectors)
