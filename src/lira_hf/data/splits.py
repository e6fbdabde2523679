"""Train, dev and test sides of parallel text that share no sentence, nor nearly the same one, in any language."""

import hashlib
import logging
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, identity
from scipy.sparse.csgraph import connected_components

from lira_hf.translation.unicode_forms import normal_form

from .pairs import ParallelPair
from .problems import shorten


__all__ = ["remove_near_duplicates", "split_by_origin", "split_parallel", "text_key"]

SIDES = ("train", "dev", "test")
# A chunk of similarities takes at most some 200 MB, however many texts there are.
_CHUNK_CELLS = 1 << 24
_PAIR_BATCH = 1 << 16
_SLACK = 1e-4  # of sums of single precision

logger = logging.getLogger(__name__)


def text_key(text: str) -> str:
    """What two texts share when they differ only in case, white space, punctuation, symbols and digits."""
    folded = normal_form("NFKC", text).casefold()
    kept = "".join(char if unicodedata.category(char)[0] in "LM" else " " for char in folded)
    return " ".join(kept.split()) or " ".join(folded.split())


def split_parallel(
    pairs: Sequence[ParallelPair],
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    near_duplicate_threshold: float = 0.8,
) -> dict[str, list[ParallelPair]]:
    """
    Split at random so that no English string and no text sits on two sides, nor a near-duplicate of one (ours).

    Texts of the same [`text_key`], and those whose character 2- to 4-gram TF-IDF vectors have at least the given
    cosine, are linked, the English ones and those of all other languages; each connected cluster goes wholly to one
    side. No row is lost. The time grows with nearly the square of the number of texts: 1.7 s for 18,000 names and
    short messages.

    Args:
        pairs (`Sequence[ParallelPair]`): the rows; their order doesn't matter.
        fractions (`Sequence[float]`, *optional*, defaults to `(0.7, 0.1, 0.2)`): shares of the English strings for
            train, dev and test; they sum to 1. A cluster larger than a side goes where there is most room.
        seed (`int`, *optional*, defaults to 0): another seed, another split; the same on every machine.
        near_duplicate_threshold (`float`, *optional*, defaults to 0.8): cosine in (0, 1]; 1 links equal keys only. Low
            values chain unlike texts into one cluster.

    Returns:
        `dict[str, list[ParallelPair]]`: `"train"`, `"dev"`, `"test"`, each in the order of `pairs`.

    Raises:
        ValueError: for fractions that are no three shares of 1, or a threshold out of range.
    """
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or not np.isfinite(shares).all() or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(
            f"got fractions={fractions!r}; expected three shares for train, dev and test, none negative, that sum to "
            "1; pass for example (0.7, 0.1, 0.2)."
        )
    english, row_english = _keys([pair.english for pair in pairs])
    texts, row_texts = _keys([pair.text for pair in pairs])
    labels = _clusters(english, texts, row_english, row_texts, _checked(near_duplicate_threshold))[: len(english)]
    side_of = _assign(english, labels, shares, seed)
    sides: dict[str, list[ParallelPair]] = {side: [] for side in SIDES}
    for pair, key in zip(pairs, row_english, strict=True):
        sides[SIDES[side_of[labels[key]]]].append(pair)
    return sides


def split_by_origin(
    pairs: Sequence[ParallelPair],
    origins: Mapping[str, Sequence[str]],
    near_duplicate_threshold: float = 0.8,
) -> dict[str, list[ParallelPair]]:
    """
    Split by the program that the text comes from, so that test text is foreign to training (recipes: out of domain).

    Near-duplicates (see [`split_parallel`]) of train rows, on either side of a pair, are removed from dev and test,
    and those of test rows from dev.

    Args:
        pairs (`Sequence[ParallelPair]`): the rows.
        origins (`Mapping[str, Sequence[str]]`): origins of `"train"`, `"dev"` and `"test"`; `"django"` also takes
            `"django/conf"`. Rows of other origins are left out. The longest match counts.
        near_duplicate_threshold (`float`, *optional*, defaults to 0.8): cosine in (0, 1].

    Returns:
        `dict[str, list[ParallelPair]]`: one list for each key of `origins`, in the order of `pairs`.

    Raises:
        ValueError: for a side that isn't train, dev or test, an origin that stands on two sides, or one that no row
            has.
    """
    side_of_origin = _origin_sides(pairs, origins)
    sides: dict[str, list[ParallelPair]] = {side: [] for side in origins}
    rows = [pair for pair in pairs if side_of_origin[pair.origin] is not None]
    row_sides = np.array([SIDES.index(side_of_origin[pair.origin] or "") for pair in rows], dtype=np.int64)
    drop = np.zeros(len(rows), dtype=bool)
    for column in ("english", "text"):
        keys, row_keys = _keys([getattr(pair, column) for pair in rows])
        near = _near_duplicates(keys, _checked(near_duplicate_threshold))
        for older, younger in ((0, 1), (0, 2), (2, 1)):
            mark = np.zeros(len(keys), dtype=np.float32)
            mark[row_keys[row_sides == older]] = 1.0
            drop |= (row_sides == younger) & ((near @ mark)[row_keys] > 0)
    for pair, side, dropped in zip(rows, row_sides, drop, strict=True):
        if not dropped:
            sides[SIDES[side]].append(pair)
    logger.info("left out %d rows of other origins and %d near-duplicates", len(pairs) - len(rows), int(drop.sum()))
    return sides


def remove_near_duplicates(pairs: Sequence[ParallelPair], near_duplicate_threshold: float = 0.9) -> list[ParallelPair]:
    """
    Thin out a pool: of English strings that are nearly the same, the one with most languages stays; of several texts
    of a language for one English string, the first. So each query of a retrieval set has one right document.

    Args:
        pairs (`Sequence[ParallelPair]`): the rows.
        near_duplicate_threshold (`float`, *optional*, defaults to 0.9): cosine in (0, 1], see [`split_parallel`].

    Returns:
        `list[ParallelPair]`: the rows that stay, in their order.
    """
    keys, row_keys = _keys([pair.english for pair in pairs])
    near = _near_duplicates(keys, _checked(near_duplicate_threshold))
    languages: list[set[str]] = [set() for _ in keys]
    for pair, key in zip(pairs, row_keys, strict=True):
        languages[key].add(pair.language)
    kept = np.zeros(len(keys), dtype=bool)
    for key in sorted(range(len(keys)), key=lambda index: (-len(languages[index]), keys[index])):
        kept[key] = not kept[near.indices[near.indptr[key] : near.indptr[key + 1]]].any()
    firsts: dict[tuple[str, int], ParallelPair] = {}
    wording: dict[int, str] = {}
    for pair, key in zip(pairs, row_keys.tolist(), strict=True):
        # One wording for a key, or a pool would hold both "Save" and "save".
        if kept[key] and wording.setdefault(key, pair.english) == pair.english:
            firsts.setdefault((pair.language, key), pair)
    return list(firsts.values())


def _checked(threshold: float) -> float:
    if not 0 < threshold <= 1:
        raise ValueError(
            f"got near_duplicate_threshold={threshold!r}; expected a cosine above 0 and at most 1; 0.8 is usual."
        )
    return threshold


def _keys(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Sorted distinct keys, and each row's index among them."""
    row_keys = [text_key(text) for text in texts]
    keys = sorted(set(row_keys))
    index = {key: number for number, key in enumerate(keys)}
    return keys, np.array([index[key] for key in row_keys], dtype=np.int64)


def _near_duplicates(keys: Sequence[str], threshold: float) -> csr_matrix:
    """Symmetric 0/1 matrix `(keys, keys)` with ones on the diagonal: whose cosine reaches the threshold."""
    count = len(keys)
    near = identity(count, dtype=np.float32, format="csr")
    if threshold >= 1 or not any(keys):
        return near
    from sklearn.feature_extraction.text import TfidfVectorizer  # half a second that readers needn't wait

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, dtype=np.float32)
    vectors = _rare_first(vectorizer.fit_transform(keys))
    # Most of a product of all n-grams goes into the common ones, which link nothing. A head as long as this one leaves
    # few pairs to look at and is still cheap to multiply. Below .5 too many would be left: the head is the whole.
    tail_norm = 0.82 * threshold if threshold >= 0.5 else 0.0
    heads, tails = _heads(vectors, tail_norm)
    columns = heads.T.tocsr()
    step = max(1, _CHUNK_CELLS // count)
    rows_found, columns_found = [], []
    for start in range(0, count, step):
        products = (heads[start : start + step] @ columns).tocoo()
        rows, others = products.row + start, products.col
        # Of two texts, the one whose head ends first shares with the other's tail nothing but what is in its own tail.
        hopeful = (rows < others) & (products.data + np.maximum(tails[rows], tails[others]) >= threshold - _SLACK)
        rows, others = rows[hopeful], others[hopeful]
        cosines = _cosines(vectors, rows, others) if tail_norm else products.data[hopeful]
        chosen = cosines >= threshold
        rows_found.append(rows[chosen])
        columns_found.append(others[chosen])
    rows, others = np.concatenate(rows_found), np.concatenate(columns_found)
    links = coo_matrix((np.ones(len(rows), dtype=np.float32), (rows, others)), shape=(count, count)).tocsr()
    near = near + links + links.T
    near.data[:] = 1.0
    return near


def _rare_first(vectors: csr_matrix) -> csr_matrix:
    """The same vectors with their n-grams numbered, and sorted, from the rarest to the most common."""
    frequency = np.bincount(vectors.indices, minlength=vectors.shape[1])
    rank = np.empty(len(frequency), dtype=vectors.indices.dtype)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency))
    ordered = csr_matrix((vectors.data, rank[vectors.indices], vectors.indptr), shape=vectors.shape)
    ordered.sort_indices()
    return ordered


def _heads(vectors: csr_matrix, tail_norm: float) -> tuple[csr_matrix, np.ndarray]:
    """The beginning of each vector, as long as it takes for the rest to be shorter than `tail_norm`, and the rests'
    lengths."""
    squares = np.concatenate([[0.0], np.cumsum(vectors.data.astype(np.float64) ** 2)])
    ends = squares[vectors.indptr[1:]]
    kept = np.repeat(ends, np.diff(vectors.indptr)) - squares[:-1] >= tail_norm**2
    bounds = np.concatenate([[0], np.cumsum(kept)])[vectors.indptr]
    heads = csr_matrix((vectors.data[kept], vectors.indices[kept], bounds), shape=vectors.shape)
    tails = np.sqrt(np.maximum(0.0, ends - squares[vectors.indptr[:-1] + np.diff(bounds)]))
    return heads, tails


def _cosines(vectors: csr_matrix, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    batches = range(0, len(rows), _PAIR_BATCH)
    found = [
        vectors[rows[at : at + _PAIR_BATCH]].multiply(vectors[others[at : at + _PAIR_BATCH]]).sum(axis=1)
        for at in batches
    ]
    return np.concatenate([np.asarray(part).ravel() for part in found]) if found else np.zeros(0, dtype=np.float32)


def _clusters(
    english: Sequence[str], texts: Sequence[str], row_english: np.ndarray, row_texts: np.ndarray, threshold: float
) -> np.ndarray:
    """Cluster of each English key and, behind them, of each text key."""
    first = len(english)
    size = first + len(texts)
    starts, ends = [row_english], [row_texts + first]
    for keys, offset in ((english, 0), (texts, first)):
        near = _near_duplicates(keys, threshold).tocoo()
        starts.append(near.row.astype(np.int64) + offset)
        ends.append(near.col.astype(np.int64) + offset)
    rows, columns = np.concatenate(starts), np.concatenate(ends)
    graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
    return connected_components(graph.tocsr(), directed=False)[1] if size else np.zeros(0, dtype=np.int64)


def _assign(english: Sequence[str], labels: np.ndarray, shares: np.ndarray, seed: int) -> dict[int, int]:
    """Side of each cluster: the large ones first, each where it fits and where the least of the share is filled."""
    members: dict[int, list[str]] = {}
    for key, label in zip(english, labels.tolist(), strict=True):
        members.setdefault(label, []).append(key)

    def rank(label: int) -> tuple[int, bytes]:
        draw = f"{seed}\0{members[label][0]}".encode("utf-8", "surrogatepass")
        return -len(members[label]), hashlib.blake2b(draw, digest_size=16).digest()

    targets = shares * len(english)
    room = targets.copy()
    side_of = {}
    for label in sorted(members, key=rank):
        size = len(members[label])
        emptiness = np.divide(room, targets, out=np.full(3, -np.inf), where=targets > 0)
        fits = (room >= size) & (targets > 0)
        side = int(
            np.argmax(np.where(fits, emptiness, -np.inf) if fits.any() else np.where(targets > 0, room, -np.inf))
        )
        room[side] -= size
        side_of[label] = side
    if room.min() < -0.02 * len(english) - 1:
        biggest = max(members.values(), key=len)
        logger.warning(
            "near-duplicates chain %d of %d English strings into one cluster (%s, ...), so the sides miss their "
            "shares; raise `near_duplicate_threshold` or thin out with `remove_near_duplicates` first",
            len(biggest),
            len(english),
            shorten(biggest[0]),
        )
    return side_of


def _origin_sides(pairs: Sequence[ParallelPair], origins: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """Side of each origin that the rows have, `None` for those that no side names."""
    side_of_prefix: dict[str, str] = {}
    for side, prefixes in origins.items():
        if side not in SIDES or isinstance(prefixes, str):
            raise ValueError(
                f"got {side!r}: {prefixes!r}; expected 'train', 'dev' or 'test' with a list of origins; "
                "pass for example {'train': ['cldr'], 'test': ['django/conf']}."
            )
        for prefix in prefixes:
            if side_of_prefix.setdefault(prefix.rstrip("/"), side) != side:
                raise ValueError(f"got origin {prefix!r} on two sides; expected it on one; take it off the other.")
    present = dict.fromkeys(pair.origin for pair in pairs)
    used, result = set(), {}
    for origin in present:
        hits = [prefix for prefix in side_of_prefix if origin == prefix or origin.startswith(f"{prefix}/")]
        used.update(hits)
        result[origin] = side_of_prefix[max(hits, key=len)] if hits else None
    for prefix in side_of_prefix:
        if prefix not in used:
            raise ValueError(
                f"got origin {prefix!r}, which no row has; expected one of {shorten(list(present), 300)}; "
                "mend the name or leave it out."
            )
    return result
