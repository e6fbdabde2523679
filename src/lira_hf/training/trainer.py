"""LiraTrainer: the Hugging Face Trainer with what LiRA's stages need on top: losses, queues, monitors, resume."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lira_hf.losses import CorrQueue, DocQueue, load_queue_state, save_queue_state
from lira_hf.models import LiraForCausalLM, LiraModel, LiraModelOutput

from .arguments import LiraTrainingArguments
from .checkpoints import check_checkpoint, newest_sound, read_mark, write_mark
from .gather import join_arca_rows
from .generation_objective import GenerationObjective
from .mixture import MixtureSampler, TaskMixture, task_kinds
from .monitors import CollapseWarnings, EnglishGuard, choice_statistics, embedding_statistics
from .objective import LasrObjective
from .sharding import allow_fsdp_on_cpus, check_fsdp, shard_model, whole_state


__all__ = ["LiraTrainer"]

# What of a batch is not the model's input: stage 1 has no use for it.
_TARGETS = ("document_", "negative_", "positive_", "pair_", "gold", "reference_slots")
Figures = Callable[[LiraModel], dict[str, float]]


class _StateCallback(TrainerCallback):
    """Writes queues and the mark of completeness, last, into each checkpoint; tells the sampler the epoch."""

    def __init__(self, trainer: "LiraTrainer"):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        # The loader tells it too, but not through all that accelerate wraps it in when a run goes on.
        if self.trainer.mixture_sampler is not None:
            self.trainer.mixture_sampler.set_epoch(int(state.epoch or 0))

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if self.trainer.queues:
            save_queue_state(folder, self.trainer.queues)
        write_mark(folder, {"stage": args.stage, "step": state.global_step}, args.world_size)


class LiraTrainer(Trainer):
    """
    Trains Arca (stage 1) or LaSR (stage 2) over rows of [`retrieval_rows`], of [`ranking_rows`], or over a
    [`TaskMixture`] of both, with [`LiraCollator`]; or a [`LiraForCausalLM`] over rows of [`generation_rows`], with
    [`GenerationCollator`].

    With several processes each ranks against all processes' documents and pairs, and all hold the same queues.

    Args:
        evaluator (`Callable`, *optional*): Given the model, returns metrics of the dev split, such as
            `{"ndcg@10": .6}`. They join the metrics of each evaluation of `eval_dataset`, with the prefix `eval_`, and
            can choose the best checkpoint.
        english_evaluator (`Callable`, *optional*): Given the model, returns metrics on English, higher ones being
            better. They are taken before training too; later ones that are lower by more than `english_margin` are
            warned of. They join the metrics with the prefix `eval_english_`.
        baselines (`Callable`, *optional*): Given the untrained model, returns figures to compare with. They are taken
            before training and join the metrics of the first evaluation, with the prefix `eval_baseline_`.
        kwargs: As for `Trainer`; `args` is a [`LiraTrainingArguments`].
    """

    def __init__(
        self,
        model: LiraModel | LiraForCausalLM | None = None,
        args: LiraTrainingArguments | None = None,
        *,
        evaluator: Figures | None = None,
        english_evaluator: Figures | None = None,
        baselines: Figures | None = None,
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
        if self.is_fsdp_enabled:
            check_fsdp(self.accelerator.state.fsdp_plugin, lora=bool(args.lora_rank))
        self.evaluator = evaluator
        self.loss_is_scaled_for_ga = False
        self.english_evaluator, self.baselines = english_evaluator, baselines
        if not lasr and isinstance(model, LiraForCausalLM):
            raise ValueError(
                "got a LiraForCausalLM and stage 'arca'; expected a LiraModel, since stage 1 needs no base LM; train "
                "its Arca alone, and join the base LM by LiraForCausalLM.from_embedding"
            )
        self.objective: LasrObjective | None = None
        self.generation: GenerationObjective | None = None
        if lasr:
            tasks = task_kinds(self.eval_dataset if self.train_dataset is None else self.train_dataset)
            if _check_model(model, tasks):
                self.generation = GenerationObjective(args)
            else:
                self.objective = LasrObjective(args, model.config.projection_dim, tasks, args.device)
        self.mixture_sampler: MixtureSampler | None = None
        self._sharded: list[list[nn.Parameter]] = []
        self._stats: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._collapse = CollapseWarnings(args)
        self._embeddings: torch.Tensor | None = None
        self._english: EnglishGuard | None = None
        self._baseline_figures: dict[str, float] = {}
        self._pair_places: dict[int, int] | None = None
        self.add_callback(_StateCallback(self))

    @property
    def queues(self) -> dict[str, nn.Module]:
        """The queues that training fills, by name."""
        return dict(self.objective.queues) if self.objective is not None else {}

    @property
    def queue(self) -> DocQueue | None:
        """The queue of documents, where retrieval is trained with one."""
        return self.objective.documents if self.objective is not None else None

    @property
    def corr_queue(self) -> CorrQueue | None:
        """The queue of pairs, where ranking is trained with one."""
        return self.objective.pairs if self.objective is not None else None

    def _get_train_sampler(self, train_dataset=None):
        """As in `Trainer`; a mixture has a sampler of its own, whose batches hold one task each."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, TaskMixture):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.mixture_sampler = MixtureSampler(dataset, self._train_batch_size * self.args.world_size, seed)
        return self.mixture_sampler

    def create_accelerator_and_postprocess(self) -> None:
        """As in `Trainer`; FSDP on CPUs too."""
        allow_fsdp_on_cpus()
        super().create_accelerator_and_postprocess()

    def create_optimizer(self, model: nn.Module | None = None):
        """As in `Trainer`; the actor learns at `actor_learning_rate`, where there is one. Under FSDP the model is
        sharded first."""
        if self.is_fsdp_enabled:
            shard_model(self.model, self.accelerator.state.fsdp_plugin, self.args.device.type)
        optimizer = super().create_optimizer(model)
        self._split_actor(optimizer)
        if self.is_fsdp_enabled:
            self._sharded = [list(group["params"]) for group in optimizer.param_groups]
        return optimizer

    def _split_actor(self, optimizer: torch.optim.Optimizer) -> None:
        rate = self.args.actor_learning_rate
        if rate is None or any("actor" in group for group in optimizer.param_groups):
            return
        actor = {id(weight) for weight in self.model.base_model.arca.actor.parameters()}
        for group in list(optimizer.param_groups):
            own = [weight for weight in group["params"] if id(weight) in actor]
            group["params"] = [weight for weight in group["params"] if id(weight) not in actor]
            if own:
                optimizer.add_param_group({**group, "params": own, "lr": rate, "actor": True})

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """As in `Trainer`, which makes it when nothing else changes the optimizer."""
        # Accelerate tells weights apart by their address, and all of which a process holds no part have none.
        for group, weights in zip(self.optimizer.param_groups if self._sharded else (), self._sharded, strict=True):
            group["params"] = weights
        return super().create_scheduler(num_training_steps, optimizer)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        """
        As in `Trainer`; `True` resumes from the newest checkpoint that is whole and undamaged, or starts anew where
        there is none. The queues are resumed too. What the untrained start can do is measured before the first step.

        Raises:
            ValueError: For a checkpoint of another stage, or one that is named and damaged.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_sound(self.args.output_dir)
        elif resume_from_checkpoint:
            check_checkpoint(resume_from_checkpoint)
        if resume_from_checkpoint:
            self._check_stage(Path(resume_from_checkpoint))
        if resume_from_checkpoint and self.queues:
            load_queue_state(resume_from_checkpoint, self.queues)
        # The model is the untrained one here in a resumed run too, as the checkpoint is loaded later.
        if self.english_evaluator is not None and self._english is None:
            self._english = EnglishGuard(self._figures(self.english_evaluator), self.args.english_margin)
        if self.baselines is not None:
            self._baseline_figures = self._figures(self.baselines)
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As in `Trainer`, which takes one step more where a run is resumed that was killed behind its last step."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def _check_stage(self, checkpoint: Path) -> None:
        stage = read_mark(checkpoint).get("stage", self.args.stage)
        if stage != self.args.stage:
            raise ValueError(
                f"{checkpoint} was written by stage {stage!r}; expected one of stage {self.args.stage!r}, which is "
                "run; give each stage an output_dir of its own"
            )

    def _load_best_model(self) -> None:
        """As in `Trainer`, of a checkpoint that is undamaged."""
        check_checkpoint(self.state.best_model_checkpoint)
        super()._load_best_model()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in `Trainer`. On a full disk `torch.save` says at which byte it is, and nothing else."""
        try:
            super()._save_checkpoint(model, trial)
        except RuntimeError as error:
            if "inline_container" not in str(error):
                raise
            place = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            raise OSError(
                f"the checkpoint {place} can't be written ({str(error).splitlines()[0]}); expected room and the right "
                "to write there; make room, or mend the rights, and resume: the checkpoints before it are kept"
            ) from error

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """As in `Trainer`, without the Hub's token, which `training_args.bin` would hold in the clear."""
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict if state_dict is None else whole_state(state_dict))
        finally:
            self.args.hub_token = token

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ):
        if self.args.stage == "arca":
            arca = self.model.base_model.arca
            arca.join_rows = join_arca_rows if self.args.world_size > 1 else None
            try:
                given = {name: value for name, value in inputs.items() if not name.startswith(_TARGETS)}
                output = model(**given, output_embedding=False, return_loss=True)
            finally:
                arca.join_rows = None
            loss = output.loss
        else:
            loss, output = self._lasr_loss(model, inputs)
        self._watch(output)
        if model.training and getattr(output, "pooler_output", None) is not None:
            self._embeddings = output.pooler_output.detach()
        return (loss, output) if return_outputs else loss

    def _lasr_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, LiraModelOutput]:
        objective = self.objective
        if objective is not None and model.training and objective.refresh_due(inputs):
            objective.refresh(self.accelerator.unwrap_model(model), self._pairs)
        found = self.generation(model, inputs) if objective is None else objective(model, inputs)
        for name, value in found.parts.items():
            self._stats[name].append(value)
        return found.loss, found.output

    def _pairs(self, pair_ids: Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of some pairs of the training data, by their ids."""
        if self._pair_places is None:
            self._pair_places = _pair_places(self.train_dataset)
        return self.data_collator(self.train_dataset.__getitems__([self._pair_places[number] for number in pair_ids]))

    def _watch(self, output: LiraModelOutput) -> None:
        for name, value in choice_statistics(output).items():
            self._stats[name].append(value)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self._stats:
            logs |= {name: round(torch.stack(values).mean().item(), 6) for name, values in self._stats.items()}
            self._stats.clear()
            if self._embeddings is not None:
                found = embedding_statistics(self._embeddings)
                logs |= {name: round(value.item(), 6) for name, value in found.items()}
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
        found = {}
        if self.evaluator is not None:
            found |= self._figures(self.evaluator)
        if self.english_evaluator is not None:
            english = self._figures(self.english_evaluator)
            if self._english is not None:
                self._english(english, self.state.global_step)
            found |= {f"english_{name}": value for name, value in english.items()}
        found |= {f"baseline_{name}": value for name, value in self._baseline_figures.items()}
        self._baseline_figures = {}
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def _figures(self, evaluator: Figures) -> dict[str, float]:
        training = self.model.training
        found = evaluator(self.model.eval())
        self.model.train(training)
        return found


def _check_model(model: LiraModel | LiraForCausalLM, tasks: Collection[str]) -> bool:
    """Whether generation is trained."""
    causal, kinds = isinstance(model, LiraForCausalLM), sorted(tasks)
    if causal != (kinds == ["generation"]):
        expected = "rows of generation alone" if causal else "rows of retrieval and ranking"
        raise ValueError(
            f"got a {type(model).__name__} and rows of {kinds}; expected {expected}, or the other class of model; "
            "train an embedding and a soft prefix one after the other"
        )
    return causal


def _pair_places(dataset) -> dict[int, int]:
    """Where each pair lies in a data set, by its id."""
    if not isinstance(dataset, TaskMixture):
        return {number: place for place, number in enumerate(dataset["pair_id"])}
    places = {}
    for task, start, shift in zip(dataset.tasks, dataset.starts[:-1], dataset.shifts, strict=True):
        if task.kind == "ranking":
            places |= {number + shift: place for place, number in enumerate(task.rows["pair_id"], start)}
    return places
