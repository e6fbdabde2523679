"""LaSR's queue losses in sentence-transformers' interface, and the collator with which its trainer sees LiRA's
features."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from torch import Tensor, nn

from lira_hf.losses import CorrelationLoss, CorrQueue, DocQueue, RetrievalLoss
from lira_hf.training.gather import RankRows, rank_weights


__all__ = ["LiraCorrelationLoss", "LiraQueueLoss", "LiraSentenceCollator"]

_SUFFIXES = {"_source_ids": "_input_ids", "_source_mask": "_attention_mask"}
_TOKENS = (("input_ids", "attention_mask"), ("source_ids", "source_mask"), ("anchor_ids", "anchor_mask"))
_CITATION = """
@misc{lira,
    title={LiRA: Linguistic Robust Anchoring for Cross-lingual Large Language Models},
    year={2025},
    eprint={2510.14466},
    archivePrefix={arXiv},
}
"""


@dataclass
class LiraSentenceCollator(SentenceTransformerDataCollator):
    """
    The library's collator, for LiRA: its trainer finds a column's features by a name that ends in `_input_ids`, which
    an embedding-only checkpoint takes for `source_ids`. A checkpoint with a base LM has such names already.

    Args:
        preprocess_fn (`Callable`): `model.preprocess`.
        prompts (`str` or `dict`, *optional*): What is put before the texts of each column, by column. The trainer
            hands its arguments' `prompts` to a collator of its own alone, so they have to be given here.
        router_mapping, valid_label_columns, max_length: As in the library.

    Example:

    ```python
    >>> prompts = {"query": model.prompts["query"], "positive": model.prompts["document"]}
    >>> collator = LiraSentenceCollator(model.preprocess, prompts=prompts)
    >>> SentenceTransformerTrainer(model, arguments, rows, loss=LiraQueueLoss(model), data_collator=collator).train()
    ```
    """

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of the library's collator, with `<column>_input_ids` and `<column>_attention_mask`."""
        return _as_input_ids(super().__call__(features))


class LiraQueueLoss(nn.Module):
    """
    The paper's loss for retrieval, soft nDCG, hinge and mean-variance over the batch and a DocQueue, as a loss of
    sentence-transformers. Documents that read the same are one document, and no negatives of each other.

    Each micro-batch of training is pushed to the queue once, after its loss; an evaluation reads the queue and leaves
    it as it is. With several processes each ranks against the documents of all.

    References:
        LiRA, arXiv 2510.14466 (LaSR, DocQueue).

    Args:
        model (`SentenceTransformer`): Any, not LiRA's alone.
        queue_size (`int`, *optional*, defaults to 1024): Documents held; 0: no queue, which was measured to be better
            with batches of 256 (docs/results/lasr.md).
        loss ([`RetrievalLoss`], *optional*): With its own settings; the defaults of LiRA otherwise.

    Inputs:
        | columns | label |
        |---|---|
        | (query, document) | none, or the document's id, a whole number >= 0; -1: unknown |
        | (query, document, negative, ...) | likewise |

    Raises:
        ValueError: For fewer than two columns, labels that are no ids, or embeddings of another width than the
            queue's.

    Example:

    ```python
    >>> LiraQueueLoss(model, queue_size=4096, loss=RetrievalLoss(objective="infonce"))
    ```
    """

    def __init__(self, model: nn.Module, queue_size: int = 1024, loss: RetrievalLoss | None = None) -> None:
        super().__init__()
        self.model = model
        self.loss = RetrievalLoss() if loss is None else loss
        self.queue = DocQueue(queue_size, _width(model)) if queue_size else None

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """
        Args:
            sentence_features (`Iterable[dict[str, Tensor]]`): Of each column, its features of the batch.
            labels (`Tensor`, *optional*): Int, `(batch,)`.

        Returns:
            `Tensor`: A scalar.
        """
        columns = list(sentence_features)
        if len(columns) < 2:
            raise ValueError(
                f"LiraQueueLoss got {len(columns)} columns of text, expected at least two, query and document; give "
                "the trainer data_collator=LiraSentenceCollator(model.preprocess), or check the columns of the data."
            )
        # Before the model has added to the features.
        ids = [_text_ids(features) for features in columns[1:]]
        queries, documents, *negatives = (self.model(features)["sentence_embedding"] for features in columns)
        self._check_width(documents)
        given = _document_ids(labels, documents)
        if given is not None:
            # Negatives have no number, unless they read like a document of the batch.
            number = dict(zip(ids[0].tolist(), given.tolist(), strict=True)) | {-1: -1}
            mined_texts = (torch.tensor([number.get(text, -1) for text in column.tolist()]) for column in ids[1:])
            ids = [given, *mined_texts]
        ids = [column.to(documents.device) for column in ids]
        mined = torch.cat([documents[:0], *negatives])
        mined_ids = torch.cat([ids[0][:0], *ids[1:]])
        gather, gather_mined = RankRows(len(documents), documents.device), RankRows(len(mined), documents.device)
        every, every_ids = gather(documents), gather(ids[0])
        extra = torch.cat([*gather.others(every), *gather_mined(mined)])
        extra_ids = torch.cat([*gather.others(every_ids), *gather_mined(mined_ids)])
        loss = self.loss(
            queries,
            documents,
            ids[0],
            extra_documents=extra if len(extra) else None,
            extra_document_ids=extra_ids if len(extra) else None,
            queue=self.queue,
        ).loss
        if self.queue is not None and _is_training(self.model):
            self.queue.push(torch.cat(every).detach().float(), torch.cat(every_ids))
        return loss * rank_weights(torch.tensor([len(queries)], device=loss.device))[0]

    def _check_width(self, documents: Tensor) -> None:
        if self.queue is not None and documents.shape[1] != self.queue.dim:
            raise ValueError(
                f"LiraQueueLoss got embeddings of width {documents.shape[1]}, expected {self.queue.dim}, that of the "
                "model it was made with; make it anew, or set queue_size=0 within losses that cut embeddings."
            )

    def get_config_dict(self) -> dict[str, Any]:
        """`dict`: the settings, for the library's model card."""
        return {"queue_size": 0 if self.queue is None else self.queue.capacity} | _settings(self.loss)

    @property
    def citation(self) -> str:
        """`str`: BibTeX, for the library's model card."""
        return _CITATION


class LiraCorrelationLoss(nn.Module):
    """
    The paper's loss for ranking, Pearson and soft Spearman over the batch and a CorrQueue, as a loss of
    sentence-transformers.

    Each micro-batch of training is pushed to the queue once, after its loss; an evaluation reads the queue and leaves
    it as it is. With several processes the correlation is over the pairs of all.

    References:
        LiRA, arXiv 2510.14466 (LaSR, CorrQueue).

    Args:
        model (`SentenceTransformer`): Any, not LiRA's alone.
        queue_size (`int`, *optional*, defaults to 1024): Pairs held; 0: no queue. With batches of 256 one was measured
            to gain nothing (docs/results/ranking.md).
        max_age (`int`, *optional*): Pairs that more than this many batches came after are left out.
        gradient_weight (`bool`, *optional*, defaults to `True`): Weigh the gradient by the number of pairs that it is
            of, over those of the batch (ours), so that it is as large as without a queue; the loss stays.
        loss ([`CorrelationLoss`], *optional*): With its own settings; the defaults of LiRA otherwise.

    Inputs:
        | columns | label |
        |---|---|
        | (text, text) | how alike they are, on any scale |

    Raises:
        ValueError: For another number of columns than two, or not one finite label a pair.
    """

    def __init__(
        self,
        model: nn.Module,
        queue_size: int = 1024,
        max_age: int | None = None,
        gradient_weight: bool = True,
        loss: CorrelationLoss | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.gradient_weight = gradient_weight
        self.loss = CorrelationLoss() if loss is None else loss
        self.max_age = max_age
        self.queue = CorrQueue(queue_size) if queue_size else None

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """
        Args:
            sentence_features (`Iterable[dict[str, Tensor]]`): Of each of the two columns, its features of the batch.
            labels (`Tensor`): Numbers, `(batch,)`.

        Returns:
            `Tensor`: A scalar.
        """
        columns = list(sentence_features)
        if len(columns) != 2:
            raise ValueError(
                f"LiraCorrelationLoss got {len(columns)} columns of text, expected two; give the trainer "
                "data_collator=LiraSentenceCollator(model.preprocess), or check the columns of the data."
            )
        first, second = (self.model(features)["sentence_embedding"].float() for features in columns)
        if labels is None or labels.numel() != len(first):
            got = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)}"
            raise ValueError(
                f"LiraCorrelationLoss got {got} for {len(first)} pairs, expected one number a pair; add a column "
                "'score' to the data."
            )
        cosines = nn.functional.cosine_similarity(first, second)
        gather = RankRows(len(first), first.device)
        gold = labels.reshape(-1).to(cosines)
        predictions, truth = torch.cat(gather(cosines)), torch.cat(gather(gold))
        found = self.loss(predictions, truth, self.queue, self.max_age)
        if self.queue is not None and _is_training(self.model):
            self.queue.push(predictions, truth)
        if not self.gradient_weight or not len(predictions):
            return found.loss
        return found.loss + (found.num_pairs / len(predictions) - 1) * (found.loss - found.loss.detach())

    def get_config_dict(self) -> dict[str, Any]:
        """`dict`: the settings, for the library's model card."""
        own = {"max_age": self.max_age, "gradient_weight": self.gradient_weight}
        return {"queue_size": 0 if self.queue is None else self.queue.capacity} | own | _settings(self.loss)

    @property
    def citation(self) -> str:
        """`str`: BibTeX, for the library's model card."""
        return _CITATION


def _as_input_ids(batch: dict[str, Any]) -> dict[str, Any]:
    """A collated batch with each column's `source_ids` called `input_ids`, unless it has a base LM's."""
    named = {}
    for name, value in batch.items():
        for suffix, wanted in _SUFFIXES.items():
            column = name.removesuffix(suffix)
            if name.endswith(suffix) and f"{column}_input_ids" not in batch:
                name = column + wanted
        named[name] = value
    return named


def _width(model: Any) -> int:
    ask = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    width = ask()
    if width is None:
        raise ValueError("LiraQueueLoss got a model of unknown width, expected one that says its embedding dimension.")
    return int(width)


def _is_training(model: nn.Module) -> bool:
    # The trainer switches the model between its modes, not the loss; no gradient, no training.
    return model.training and torch.is_grad_enabled()


def _settings(loss: nn.Module) -> dict[str, Any]:
    plain = (bool, int, float, str, type(None))
    return {
        name: value
        for name, value in vars(loss).items()
        if not name.startswith("_") and name != "training" and isinstance(value, plain)
    }


def _document_ids(labels: Tensor | None, documents: Tensor) -> Tensor | None:
    if labels is None:
        return None
    if labels.shape != documents.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"LiraQueueLoss got labels of shape {tuple(labels.shape)} and type {labels.dtype} for {len(documents)} "
            "rows, expected none, or the id of each row's document as a whole number; drop the column, or use "
            "LiraCorrelationLoss for scores."
        )
    return labels


def _text_ids(features: dict[str, Any]) -> Tensor:
    """
    Of each row a number that its tokens alone determine, int64 `(batch,)`, on the CPU; -1 where there are no tokens
    to compare, so that nothing is taken for the same.
    """
    rows: list[list[bytes]] = []
    for ids_name, mask_name in _TOKENS:
        ids, mask = features.get(ids_name), features.get(mask_name)
        if not isinstance(ids, Tensor) or not isinstance(mask, Tensor) or ids.shape != mask.shape:
            continue
        rows = rows or [[] for _ in ids]
        for row, tokens, kept in zip(rows, ids.flatten(1).cpu(), mask.flatten(1).cpu().bool(), strict=True):
            row.append(ids_name.encode() + tokens[kept].to(torch.int64).numpy().tobytes() if kept.any() else b"")
    if not rows:
        first = next(value for value in features.values() if isinstance(value, Tensor) and value.dim())
        return torch.full((len(first),), -1)
    return torch.tensor([_number(b"|".join(row)) if any(row) else -1 for row in rows])


def _number(content: bytes) -> int:
    # 63 bits, so that it fits int64 and is never negative.
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1
