"""The losses of LaSR over a batch, with their queues: retrieval (DocQueue) and ranking (CorrQueue), the start
regulariser, consistency, path dropout."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lira_hf.losses import (
    CorrelationLoss,
    CorrQueue,
    DocQueue,
    RetrievalLoss,
    consistency_loss,
    start_regulariser,
)
from lira_hf.losses.queues import FIFOQueue
from lira_hf.models import LiraModelOutput

from .arguments import LiraTrainingArguments
from .collator import SIDE, join_sides
from .gather import RankRows, rank_weights


__all__ = ["LasrLoss", "LasrObjective"]

# How many micro-batches' worth of pairs are predicted at once when the CorrQueue is refreshed.
_REFRESH_ROWS = 256
Collate = Callable[[Sequence[int]], dict[str, Tensor]]


class LasrLoss(NamedTuple):
    """`loss`, a scalar with gradient; the `output` of the model; `parts`, scalars for the log, by name."""

    loss: Tensor
    output: LiraModelOutput
    parts: dict[str, Tensor]


class LasrObjective:
    """
    The loss of stage 2 over a batch of [`LiraCollator`]: `gold` in the batch makes it one of ranking.

    Retrieval ranks each query's document among all processes' documents, hard negatives and the DocQueue. Ranking
    correlates the cosines of pairs with gold over all processes' pairs and the CorrQueue. To either come
    `start_weight * start_regulariser` and `consistency_weight * consistency_loss`, over all texts of the batch. With
    several processes each computes its share of the loss of the whole batch, whose figures they log of their own rows.

    Args:
        args ([`LiraTrainingArguments`]): With sizes and weights.
        dim (`int`): `projection_dim` of the model.
        tasks (`Collection[str]`): `"retrieval"` and `"ranking"`, those that are trained: each brings its queue.
        device (`torch.device`): Where the queues lie.
    """

    def __init__(self, args: LiraTrainingArguments, dim: int, tasks: Collection[str], device: torch.device):
        self.args = args
        self.documents = self.pairs = None
        if "retrieval" in tasks and args.queue_size:
            self.documents = DocQueue(args.queue_size, dim).to(device)
        if "ranking" in tasks and args.corr_queue_size:
            self.pairs = CorrQueue(args.corr_queue_size).to(device)
        self.retrieval = RetrievalLoss(
            objective=args.objective,
            k=args.ndcg_k,
            tau=args.tau,
            hinge_weight=args.hinge_weight,
            mean_variance_weight=args.mean_variance_weight,
            threshold=args.safe_similarity,
        )
        self.correlation = CorrelationLoss(alpha=args.pearson_weight)

    @property
    def queues(self) -> dict[str, FIFOQueue]:
        """The queues there are, by the names under which a checkpoint keeps them."""
        every: dict[str, FIFOQueue | None] = {"documents": self.documents, "pairs": self.pairs}
        return {name: queue for name, queue in every.items() if queue is not None}

    def __call__(self, model: nn.Module, inputs: dict[str, Tensor]) -> LasrLoss:
        """
        The loss of one micro-batch; in training mode its rows are pushed to the queue, once.

        Args:
            model (`nn.Module`): The model, wrapped or not.
            inputs (`dict[str, torch.Tensor]`): A batch of [`LiraCollator`].
        """
        args = self.args
        sides = [_side(inputs, prefix) for prefix in ("", "document_", "negative_")]
        # One forward for queries and documents, as data-parallel wrappers expect.
        joint = join_sides([side for side in sides if side])
        rows = len(joint["source_features"])
        both = joint["source_features"].any(-1).any(-1)
        both = both & (joint["anchor_features"].flatten(1).any(-1) if "anchor_features" in joint else False)
        if model.training and args.path_dropout:
            droppable = rows if "gold" in inputs else len(inputs["source_features"])
            joint |= drop_paths(both, droppable, args.path_dropout)
            both = both & joint["keep_source"] & joint["keep_anchor"]
        output = model(**joint, output_paths=bool(args.consistency_weight))
        ranking = "gold" in inputs
        loss, parts = (self._ranking if ranking else self._retrieval)(output.pooler_output, inputs, model.training)
        counts = torch.tensor([len(inputs["source_features"]), rows, 0], device=both.device)
        counts[2] = both.sum()
        own, start, consistency = rank_weights(counts)
        if not ranking:  # which is of all processes' pairs already
            loss = own * loss
        if args.start_weight:
            parts["start"] = start_regulariser(output.pooler_output, output.start_embeds)
            loss = loss + args.start_weight * start * parts["start"]
        if args.consistency_weight:
            parts["consistency"] = consistency_loss(
                output.pooler_output, output.source_path_embeds, output.anchor_path_embeds, both, both
            )
            loss = loss + args.consistency_weight * consistency * parts["consistency"]
        return LasrLoss(loss, output, {name: value.detach().float() for name, value in parts.items()})

    def _retrieval(
        self, embeddings: Tensor, inputs: dict[str, Tensor], training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        ids = inputs["document_ids"]
        count = len(ids)
        queries, documents, negatives = embeddings.split([count, count, len(embeddings) - 2 * count])
        gather, gather_mined = RankRows(count, ids.device), RankRows(len(negatives), ids.device)
        every, every_ids = gather(documents), gather(ids)
        extra = torch.cat([*gather.others(every), *gather_mined(negatives)])
        extra_ids = torch.cat([*gather.others(every_ids), *gather_mined(inputs.get("negative_ids", ids[:0]))])
        ranked = self.retrieval(
            queries,
            documents,
            ids,
            known_positive_ids=inputs.get("positive_ids"),
            extra_documents=extra if len(extra) else None,
            extra_document_ids=extra_ids if len(extra) else None,
            queue=self.documents,
        )
        if training and self.documents is not None:
            self.documents.push(torch.cat(every).detach().float(), torch.cat(every_ids))
        dropped = ranked.dropped_document + ranked.dropped_group + ranked.dropped_similarity
        parts = {"ranking": ranked.ranking, "hinge": ranked.hinge, "negatives": ranked.num_negatives}
        return ranked.loss, parts | {"unsafe_negatives": dropped / count}

    def _ranking(
        self, embeddings: Tensor, inputs: dict[str, Tensor], training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        gold = inputs["gold"]
        gather = RankRows(len(gold), gold.device)
        # Embeddings have unit length; those of empty texts are zero.
        cosines = (embeddings[: len(gold)].float() * embeddings[len(gold) :].float()).sum(-1)
        predictions, truth = torch.cat(gather(cosines)), torch.cat(gather(gold))
        pair_ids = torch.cat(gather(inputs["pair_ids"]))
        found = self.correlation(predictions, truth, self.pairs, self.args.corr_max_age)
        if training and self.pairs is not None:
            self.pairs.push(predictions, truth, pair_ids)
        loss = found.loss
        if self.args.corr_gradient_weight and len(predictions):
            # Each pair has one n-th of the gradient, and the queue's have none: without this the batch's part shrinks
            # as the queue grows, and the other losses weigh the more. The value of the loss stays.
            loss = loss + (found.num_pairs / len(predictions) - 1) * (loss - loss.detach())
        return loss, {"pearson": found.pearson, "spearman": found.spearman, "pairs": found.num_pairs}

    def refresh_due(self, inputs: dict[str, Tensor]) -> bool:
        """Whether the CorrQueue's predictions are to be renewed before this micro-batch of training."""
        every = self.args.corr_refresh
        if not every or self.pairs is None or "gold" not in inputs or not self.pairs.num_entries:
            return False
        return int(self.pairs.step) % every == 0

    @torch.no_grad()
    def refresh(self, model: nn.Module, collate: Collate) -> None:
        """
        Predicts the pairs of the CorrQueue anew, by the present model without dropout (ours).

        Args:
            model (`nn.Module`): The model, not wrapped: each process does the same by itself.
            collate (`Callable`): From pair ids to their batch.
        """
        if self.pairs is None:
            return
        was_training, device = model.training, self.pairs.predictions.device
        model.eval()
        ids = self.pairs.entries().pair_ids.tolist()
        found = []
        for start in range(0, len(ids), _REFRESH_ROWS):
            batch = {name: value.to(device) for name, value in collate(ids[start : start + _REFRESH_ROWS]).items()}
            count = len(batch["gold"])
            embeddings = model(**join_sides([_side(batch, ""), _side(batch, "document_")])).pooler_output.float()
            found.append((embeddings[:count] * embeddings[count:]).sum(-1))
        self.pairs.refresh(torch.cat(found))
        model.train(was_training)


def _side(inputs: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: inputs[f"{prefix}{name}"] for name in SIDE if f"{prefix}{name}" in inputs}


def drop_paths(both: Tensor, count: int, share: float) -> dict[str, Tensor]:
    """
    Path dropout (ours): takes one road, either alike often, from a share of the first `count` texts that have both;
    the documents of retrieval, which come after them, keep theirs.
    """
    drop = (torch.rand(len(both), device=both.device) < share) & both
    drop[count:] = False
    source = torch.rand(len(both), device=both.device) < 0.5
    return {"keep_source": ~(drop & source), "keep_anchor": ~(drop & ~source)}
