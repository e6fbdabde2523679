"""LiraTrainer: the Hugging Face Trainer with what LiRA's stages need on top: queues, consistency, monitors, resume."""

import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lira_hf.losses import (
    DocQueue,
    RetrievalLoss,
    consistency_loss,
    load_queue_state,
    save_queue_state,
    start_regulariser,
)
from lira_hf.models import LiraModel, LiraModelOutput

from .arguments import LiraTrainingArguments
from .monitors import CollapseWarnings, choice_statistics


__all__ = ["LiraTrainer", "last_checkpoint"]

_COMPLETE = "lira_state.json"


def last_checkpoint(folder: str | os.PathLike) -> str | None:
    """
    The newest checkpoint of a run that was written to its end. A killed run may leave a half-written one behind.

    Args:
        folder (`str` or `os.PathLike`): The run's `output_dir`.

    Returns:
        `str`, *optional*: Its path; `None` where there is none.
    """
    found = [path.parent for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{_COMPLETE}")]
    return str(max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if found else None


class _StateCallback(TrainerCallback):
    """Writes queues and the mark of completeness, last, into each checkpoint."""

    def __init__(self, trainer: "LiraTrainer"):
        self.trainer = trainer

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if self.trainer.queue is not None:
            save_queue_state(folder, {"documents": self.trainer.queue})
        part = folder / f"{_COMPLETE}.part"
        part.write_text(json.dumps({"stage": args.stage, "step": state.global_step}))
        os.replace(part, folder / _COMPLETE)


class LiraTrainer(Trainer):
    """
    Trains Arca (stage 1) or LaSR (stage 2, retrieval) over rows of [`retrieval_rows`] with [`LiraCollator`].

    Args:
        evaluator (`Callable`, *optional*): Given the model, returns metrics of the dev split, such as
            `{"ndcg@10": .6}`. They join the metrics of each evaluation of `eval_dataset`, with the prefix `eval_`, and
            can choose the best checkpoint.
        kwargs: As for `Trainer`; `args` is a [`LiraTrainingArguments`].
    """

    def __init__(
        self,
        model: LiraModel | None = None,
        args: LiraTrainingArguments | None = None,
        *,
        evaluator: Callable[[LiraModel], dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        if not isinstance(args, LiraTrainingArguments):
            raise TypeError(
                f"args is {type(args).__name__}; expected LiraTrainingArguments; it says which stage is run"
            )
        # Set before the optimizer and before any wrapping: DDP trips over trainable weights without a gradient.
        lasr = args.stage == "lasr"
        model.freeze(arca=lasr and not args.train_arca, lasr=not lasr)
        super().__init__(model=model, args=args, **kwargs)
        self.evaluator = evaluator
        self.loss_is_scaled_for_ga = False
        self.queue = DocQueue(args.queue_size, model.config.projection_dim) if lasr and args.queue_size else None
        if self.queue is not None:
            self.queue.to(args.device)
        self.retrieval_loss = RetrievalLoss(
            objective=args.objective,
            k=args.ndcg_k,
            tau=args.tau,
            hinge_weight=args.hinge_weight,
            mean_variance_weight=args.mean_variance_weight,
            threshold=args.safe_similarity,
        )
        self._stats: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._collapse = CollapseWarnings(args)
        self.add_callback(_StateCallback(self))

    def create_optimizer(self, model: nn.Module | None = None):
        """As in `Trainer`; the actor learns at `actor_learning_rate`, where there is one."""
        optimizer = super().create_optimizer(model)
        rate = self.args.actor_learning_rate
        if rate is None or any("actor" in group for group in optimizer.param_groups):
            return optimizer
        actor = {id(weight) for weight in self.model.arca.actor.parameters()}
        for group in list(optimizer.param_groups):
            own = [weight for weight in group["params"] if id(weight) in actor]
            group["params"] = [weight for weight in group["params"] if id(weight) not in actor]
            if own:
                optimizer.add_param_group({**group, "params": own, "lr": rate, "actor": True})
        return optimizer

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        """
        As in `Trainer`; `True` resumes from the newest checkpoint that is whole, or starts anew where there is none.
        The queue is resumed too.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            self._check_stage(Path(resume_from_checkpoint))
        if resume_from_checkpoint and self.queue is not None:
            load_queue_state(resume_from_checkpoint, {"documents": self.queue})
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def _check_stage(self, checkpoint: Path) -> None:
        mark = checkpoint / _COMPLETE
        stage = json.loads(mark.read_text(encoding="utf-8"))["stage"] if mark.is_file() else self.args.stage
        if stage != self.args.stage:
            raise ValueError(
                f"{checkpoint} was written by stage {stage!r}; expected one of stage {self.args.stage!r}, which is "
                "run; give each stage an output_dir of its own"
            )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ):
        if self.args.stage == "arca":
            output = model(**{k: v for k, v in inputs.items() if not k.startswith("document_")}, return_loss=True)
            loss = output.loss
        else:
            output, loss = self._lasr_loss(model, inputs)
        self._watch(output)
        return (loss, output) if return_outputs else loss

    def _lasr_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[LiraModelOutput, torch.Tensor]:
        args, count = self.args, len(inputs["document_ids"])
        # One forward for queries and documents, as data-parallel wrappers expect.
        joint = _join(inputs)
        both = joint["source_features"].any(-1).any(-1) & joint["anchor_features"].any(-1).any(-1).any(-1)
        if model.training and args.path_dropout:
            joint |= _drop_paths(both, count, args.path_dropout)
            both = both & joint["keep_source"] & joint["keep_anchor"]
        output = model(**joint, output_paths=bool(args.consistency_weight))
        queries, documents = output.pooler_output[:count], output.pooler_output[count:]
        ids = inputs["document_ids"]
        ranked = self.retrieval_loss(queries, documents, ids, queue=self.queue)
        loss = ranked.loss
        parts = {"ranking": ranked.ranking, "hinge": ranked.hinge, "negatives": ranked.num_negatives}
        dropped = ranked.dropped_document + ranked.dropped_group + ranked.dropped_similarity
        parts["unsafe_negatives"] = dropped / count
        if args.start_weight:
            parts["start"] = start_regulariser(output.pooler_output, output.start_embeds)
            loss = loss + args.start_weight * parts["start"]
        if args.consistency_weight:
            parts["consistency"] = consistency_loss(
                output.pooler_output, output.source_path_embeds, output.anchor_path_embeds, both, both
            )
            loss = loss + args.consistency_weight * parts["consistency"]
        if model.training and self.queue is not None:
            self.queue.push(documents.detach().float(), ids)
        for name, value in parts.items():
            self._stats[name].append(value.detach().float())
        return output, loss

    def _watch(self, output: LiraModelOutput) -> None:
        for name, value in choice_statistics(output).items():
            self._stats[name].append(value)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self._stats:
            logs |= {name: round(torch.stack(values).mean().item(), 6) for name, values in self._stats.items()}
            self._stats.clear()
            self._collapse(logs)
        super().log(logs, *args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The stage's loss. There are no labels, without which `Trainer` would compute none."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach().mean(), None, None

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """As in `Trainer`, with the evaluator's metrics among the others, so that every callback sees them."""
        kept, self._stats = self._stats, defaultdict(list)  # training's figures stay free of evaluation's
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        self._stats = kept
        if self.evaluator is not None:
            training = self.model.training
            found = self.evaluator(self.model.eval())
            self.model.train(training)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output


def _join(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Queries and documents as one batch; a document is its own only candidate."""
    documents, anchor = inputs["document_source_features"], inputs["document_anchor_features"]
    count = len(documents)
    queries = inputs.get("anchor_features")
    if queries is None:
        queries = anchor.new_zeros(anchor.shape)
    scores = inputs.get("anchor_scores")
    if scores is None:
        scores = queries.new_zeros(*queries.shape[:2], 3)
    traits = {}
    if "anchor_traits" in inputs:
        known = inputs["anchor_traits"]
        traits["anchor_traits"] = torch.cat([known, known.new_zeros(count, *known.shape[1:])])
    padded = anchor.new_zeros(count, *queries.shape[1:])
    padded[:, :1] = anchor
    return {
        "source_features": torch.cat([inputs["source_features"], documents]),
        "anchor_features": torch.cat([queries, padded]),
        "anchor_scores": torch.cat([scores, scores.new_zeros(count, *scores.shape[1:])]),
        **traits,
        "language_ids": torch.cat([inputs["language_ids"], inputs["document_language_ids"]]),
    }


def _drop_paths(both: torch.Tensor, count: int, share: float) -> dict[str, torch.Tensor]:
    """Takes one road, either alike often, from a share of the queries that have both; documents keep theirs."""
    drop = (torch.rand(len(both), device=both.device) < share) & both
    drop[count:] = False
    source = torch.rand(len(both), device=both.device) < 0.5
    return {"keep_source": ~(drop & source), "keep_anchor": ~(drop & ~source)}
