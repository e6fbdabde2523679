"""Retrieval loss of the paper's LaSR: L_ndcg@k + lambda_h L_hinge + lambda_r L_mv over the batch and the DocQueue."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lira_hf.losses._functional import make_unit_vectors, unit_vectors
from lira_hf.losses._queue_scan import QueueScan, QueueStatistics
from lira_hf.losses.hinge import hinge_loss
from lira_hf.losses.info_nce import info_nce_loss
from lira_hf.losses.mean_variance import join_moments, loss_of_moments, mean_variance_loss, moments
from lira_hf.losses.queues import DocQueue
from lira_hf.losses.safe_negatives import SafeNegatives, safe_negative_mask
from lira_hf.losses.soft_ndcg import loss_of_ranks, ranks_among, soft_ndcg_loss


__all__ = ["RetrievalLoss", "RetrievalOutput"]

OBJECTIVES = ("soft_ndcg", "infonce")


class RetrievalOutput(NamedTuple):
    """
    Scalars. `loss` has the gradient; the others are for the log: the unweighted parts `ranking` (soft nDCG or
    InfoNCE), `hinge`, `mean_variance`; `num_negatives`, safe negatives a query; `dropped_document`, `dropped_group`,
    `dropped_similarity`, unsafe ones in the whole batch, each counted under its first reason.
    """

    loss: Tensor
    ranking: Tensor
    hinge: Tensor
    mean_variance: Tensor
    num_negatives: Tensor
    dropped_document: Tensor
    dropped_group: Tensor
    dropped_similarity: Tensor


class _Candidates(NamedTuple):
    """One source of what is ranked: unit vectors `(entries, dim)`, document and group ids `(entries,)`."""

    vectors: Tensor
    document_ids: Tensor
    group_ids: Tensor


class RetrievalLoss(nn.Module):
    """
    Ranks, for each query, its document among [the batch's documents; extra documents; queue] by cosine, and adds up
    `ranking + hinge_weight * hinge + mean_variance_weight * mean_variance`. Unsafe negatives (`safe_negative_mask`)
    are left out: two rows with one document are no negatives of each other. The gradient flows through queries,
    documents and extra documents, never into the queue. Scores are computed in float32, also under autocast.

    References:
        LiRA, arXiv 2510.14466 (LaSR, DocQueue). Weights, margin, threshold: ours.

    Args:
        objective (`str`, *optional*, defaults to `"soft_ndcg"`): or `"infonce"`.
        k (`int`, *optional*, defaults to 10): cut of the soft nDCG.
        tau (`float`, *optional*, defaults to 0.05): temperature of either objective.
        tail (`float`, *optional*, defaults to 0.9): share of the uncut nDCG, see `soft_ndcg_loss` *(ours;
            measured: with the cut alone a poorly started head doesn't learn, with .9 it learns as by InfoNCE)*.
        hinge_weight (`float`, *optional*, defaults to 0.1): lambda_h; 0 leaves the hinge out.
        mean_variance_weight (`float`, *optional*, defaults to 0.01): lambda_r; 0 leaves it out.
        margin (`float`, *optional*, defaults to 0.1): of the hinge.
        num_hardest (`int`, *optional*, defaults to 8): negatives a query in the hinge.
        target_mean (`float`, *optional*, defaults to 0.0): wanted mean score of the negatives.
        min_std (`float`, *optional*, defaults to 0.05): least deviation of a query's negatives.
        threshold (`float`, *optional*, defaults to 0.95): cosine to the positive beyond which an entry is no negative;
            `None` checks ids only.
        chunk_size (`int`, *optional*, defaults to 4096): a queue of more entries than this is read that many at a
            time *(ours)*: the same loss and gradient up to rounding, in less time, and of all that a queue makes
            necessary nothing of size `(batch, entries)` or `(entries, dim)` is held. Such a loss can be derived once;
            `None` reads every queue in one piece.

    Inputs:
        queries (`Tensor`): shape `(batch, dim)`.
        documents (`Tensor`): shape `(batch, dim)`, the positive of each query.
        document_ids (`Tensor`, *optional*): int, shape `(batch,)`; -1 = unknown, which shares with nothing.
        group_ids (`Tensor`, *optional*): int, shape `(batch,)`; documents of one group are no negatives of each other.
        known_positive_ids (`Tensor`, *optional*): int, shape `(batch, positives)`, padded with -1: further relevant
            documents, left out where they turn up.
        extra_documents (`Tensor`, *optional*): shape `(extra, dim)`: mined negatives, or other ranks' documents.
        extra_document_ids, extra_group_ids (`Tensor`, *optional*): int, shape `(extra,)`.
        queue (`DocQueue`, *optional*): read only; push once per training micro-batch, after this, by `queue.push`.

    Raises:
        ValueError: on an unknown objective, chunk_size < 1, or shapes that don't fit.
        RuntimeError: if the queue is read in chunks, in a backward pass with `create_graph=True`.

    Relations:
        `CorrelationLoss` for pairs with graded similarity. `"infonce"` was measured to be indistinguishable from
        `"soft_ndcg"` in small settings; the queue matters on large pools.

    Example:
        >>> loss, queue = RetrievalLoss(), DocQueue(capacity=8, dim=4)
        >>> output = loss(torch.eye(4), torch.eye(4), torch.arange(4), queue=queue)
        >>> queue.push(torch.eye(4), torch.arange(4))
        >>> int(output.num_negatives)
        3
    """

    def __init__(
        self,
        objective: str = "soft_ndcg",
        k: int | None = 10,
        tau: float = 0.05,
        tail: float = 0.9,
        hinge_weight: float = 0.1,
        mean_variance_weight: float = 0.01,
        margin: float = 0.1,
        num_hardest: int = 8,
        target_mean: float = 0.0,
        min_std: float = 0.05,
        threshold: float | None = 0.95,
        chunk_size: int | None = 4096,
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(f"RetrievalLoss got objective={objective!r}, expected one of {OBJECTIVES}; choose one.")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(
                f"RetrievalLoss got chunk_size={chunk_size}, expected >= 1, or None, which reads the queue whole."
            )
        self.objective = objective
        self.k = k
        self.tau = tau
        self.tail = tail
        self.hinge_weight = hinge_weight
        self.mean_variance_weight = mean_variance_weight
        self.margin = margin
        self.num_hardest = num_hardest
        self.target_mean = target_mean
        self.min_std = min_std
        self.threshold = threshold
        self.chunk_size = chunk_size

    def forward(
        self,
        queries: Tensor,
        documents: Tensor,
        document_ids: Tensor | None = None,
        group_ids: Tensor | None = None,
        *,
        known_positive_ids: Tensor | None = None,
        extra_documents: Tensor | None = None,
        extra_document_ids: Tensor | None = None,
        extra_group_ids: Tensor | None = None,
        queue: DocQueue | None = None,
    ) -> RetrievalOutput:
        """The loss of one batch, see the class."""
        _check_vectors(queries, documents, extra_documents)
        with torch.autocast(queries.device.type, enabled=False):
            own = _candidates("documents", documents, document_ids, group_ids)
            parts = [own]
            if extra_documents is not None:
                parts.append(_candidates("extra_documents", extra_documents, extra_document_ids, extra_group_ids))
            in_chunks = queue is not None and self.chunk_size is not None and queue.num_entries > self.chunk_size
            if queue is not None and not in_chunks:
                held = queue.entries()
                parts.append(_candidates("queue", held.embeddings.to(own.vectors), held.document_ids, held.group_ids))
            own_places = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
            positives = torch.nn.functional.pad(own_places, (0, sum(len(part.vectors) for part in parts[1:])))
            wanted = _known_positives(own, known_positive_ids)
            safe = [self._safe_negatives(own, wanted, part, own_places if part is own else None) for part in parts]
            directions = unit_vectors(queries)
            # Part by part, so that autograd computes no gradient for the queue's many rows.
            scores = torch.cat([directions @ part.vectors.T for part in parts], dim=1)  # (batch, entries)
            far = None
            if queue is not None and in_chunks:
                far, dropped = self._scan(queue, directions, scores.diagonal(), own, wanted)
                safe.append(dropped)
            counts = (torch.stack(column).sum() for column in zip(*(part[1:] for part in safe), strict=True))
            mask = torch.cat([part.mask for part in safe], dim=1)
            return self._combine(scores, positives, SafeNegatives(mask, *counts), far)

    def _scan(
        self, queue: DocQueue, directions: Tensor, chosen: Tensor, own: _Candidates, positive_ids: Tensor
    ) -> tuple[QueueStatistics, SafeNegatives]:
        """Reads the queue in chunks: its statistics, and the counts of what was dropped, beside an empty mask."""
        infonce, spread = self.objective == "infonce", bool(self.mean_variance_weight)
        hardest = self.num_hardest if self.hinge_weight else 0
        scan, dropped = QueueScan(directions, chosen, infonce, self.tau, spread, hardest), []
        for held in queue.chunks(self.chunk_size or queue.capacity):
            vectors = make_unit_vectors(held.embeddings.to(own.vectors))  # the chunk is a copy already
            part = _Candidates(vectors, held.document_ids, held.group_ids)
            safe = self._safe_negatives(own, positive_ids, part, None)
            scan.add(vectors, safe.mask)
            dropped.append(torch.stack(safe[1:]))
            del held, part, vectors  # before the next chunk is read
        return scan.result(), SafeNegatives(safe.mask[:, :0], *torch.stack(dropped).sum(dim=0))

    def _safe_negatives(
        self, own: _Candidates, positive_ids: Tensor, part: _Candidates, own_places: Tensor | None
    ) -> SafeNegatives:
        """The safe negatives among one part of the candidates, for a batch whose positives are `own`."""
        return safe_negative_mask(
            query_positive_ids=positive_ids,
            query_group_ids=own.group_ids,
            positive_embeddings=own.vectors,
            entry_document_ids=part.document_ids,
            entry_group_ids=part.group_ids,
            entry_embeddings=part.vectors,
            threshold=self.threshold,
            own=own_places,
        )

    def _combine(
        self, scores: Tensor, positives: Tensor, safe: SafeNegatives, far: QueueStatistics | None
    ) -> RetrievalOutput:
        """Weighs and adds the parts up."""
        legal = safe.mask | positives
        loss = ranking = self._ranking(scores, positives, legal, far)
        hinge = mean_variance = torch.zeros_like(ranking)
        if self.hinge_weight:
            lists = (
                (scores, positives, legal) if far is None else _append(scores, positives, legal, far.hardest, far.real)
            )
            hinge = hinge_loss(*lists, self.margin, self.num_hardest)
            loss = loss + self.hinge_weight * hinge
        if self.mean_variance_weight:
            if far is None:
                mean_variance = mean_variance_loss(scores, safe.mask, self.target_mean, self.min_std)
            else:
                near = moments(scores.masked_fill(~safe.mask, 0.0), safe.mask)
                mean_variance = loss_of_moments(*join_moments(near, far.moments), self.target_mean, self.min_std)
            loss = loss + self.mean_variance_weight * mean_variance
        negatives = safe.mask.sum() if far is None else safe.mask.sum() + far.counts.sum()
        negatives = negatives / max(len(scores), 1)
        return RetrievalOutput(loss, ranking.detach(), hinge.detach(), mean_variance.detach(), negatives, *safe[1:])

    def _ranking(self, scores: Tensor, positives: Tensor, legal: Tensor, far: QueueStatistics | None) -> Tensor:
        """The objective over the scores and, if it was read in chunks, the queue."""
        if self.objective == "infonce":
            lists = (scores, positives, legal)
            if far is not None:
                # The queue's logsumexp is that of one negative of this score.
                one = scores.diagonal() + self.tau * far.ranking
                lists = _append(*lists, one[:, None], (far.counts > 0)[:, None])
            return info_nce_loss(*lists, self.tau)
        if far is None:
            return soft_ndcg_loss(scores, positives, legal, self.k, self.tau, self.tail)
        ranks = ranks_among(scores.diagonal()[:, None], scores, legal, self.tau) + far.ranking[:, None]
        return loss_of_ranks(ranks, torch.ones_like(ranks), self.k, self.tail)

    def extra_repr(self) -> str:
        """`str`: the settings, for `print(module)`."""
        return (
            f"objective={self.objective}, k={self.k}, tau={self.tau}, tail={self.tail}, "
            f"hinge_weight={self.hinge_weight}, mean_variance_weight={self.mean_variance_weight}, "
            f"margin={self.margin}, num_hardest={self.num_hardest}, threshold={self.threshold}, "
            f"chunk_size={self.chunk_size}"
        )


def _append(
    scores: Tensor, positives: Tensor, legal: Tensor, further: Tensor, further_legal: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The lists with further scores, `(batch, count)`, that are no positives."""
    every = torch.cat([scores, further], dim=1)
    return (
        every,
        torch.nn.functional.pad(positives, (0, further.shape[1])),
        torch.cat([legal, further_legal], dim=1),
    )


def _check_vectors(queries: Tensor, documents: Tensor, extra_documents: Tensor | None) -> None:
    """Raises unless queries, documents and extra documents are vectors of one width, a document a query."""
    if queries.dim() != 2 or documents.shape != queries.shape:
        raise ValueError(
            f"RetrievalLoss got queries of shape {tuple(queries.shape)} and documents of {tuple(documents.shape)}, "
            "expected (batch, dim) for both; give each query its positive, and further ones as extra_documents."
        )
    if extra_documents is not None and (extra_documents.dim() != 2 or extra_documents.shape[1] != queries.shape[1]):
        raise ValueError(
            f"RetrievalLoss got extra_documents of shape {tuple(extra_documents.shape)}, expected (extra, "
            f"{queries.shape[1]}); flatten negatives that are listed by query."
        )


def _candidates(name: str, vectors: Tensor, document_ids: Tensor | None, group_ids: Tensor | None) -> _Candidates:
    """Unit vectors with ids, -1 where none are given."""
    filled = []
    for kind, ids in (("document", document_ids), ("group", group_ids)):
        if ids is None:
            ids = torch.full((len(vectors),), -1)
        elif ids.shape != (len(vectors),) or ids.is_floating_point():
            raise ValueError(
                f"RetrievalLoss got {kind} ids of shape {tuple(ids.shape)} and type {ids.dtype} for {name}, expected "
                f"({len(vectors)},) and integers; give one id a row, -1 for none."
            )
        filled.append(ids.to(device=vectors.device, dtype=torch.int64))
    return _Candidates(unit_vectors(vectors), *filled)


def _known_positives(own: _Candidates, known_positive_ids: Tensor | None) -> Tensor:
    """Ids `(batch, 1 + known)` of each query's positive and its further known ones."""
    ids = own.document_ids[:, None]
    if known_positive_ids is None:
        return ids
    if known_positive_ids.dim() != 2 or len(known_positive_ids) != len(ids):
        raise ValueError(
            f"RetrievalLoss got known_positive_ids of shape {tuple(known_positive_ids.shape)}, expected "
            f"({len(ids)}, positives); pad the rows with -1."
        )
    return torch.cat([ids, known_positive_ids.to(ids)], dim=1)
