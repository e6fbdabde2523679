"""FSDP2: what of LiRA is sharded and what every process holds whole, what is refused, and FSDP on CPUs (ours)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp.fully_sharded_data_parallel import StateDictType
from torch.distributed.tensor import DTensor
from transformers.utils import strtobool

from lira_hf.models import LiraForCausalLM, LiraModel
from lira_hf.models.modeling_lasr import LiraFusionLayer


__all__ = ["allow_fsdp_on_cpus", "check_fsdp", "check_launch", "fsdp_asked", "gathered", "shard_model", "whole_state"]


_SCALARS = ("prefix_projector.scale", "prefix_projector.blank_logit")


def _asked(name: str) -> bool:
    return bool(strtobool(os.environ.get(name, "false") or "false"))


def fsdp_asked() -> bool:
    """Whether the launcher asks for FSDP."""
    return _asked("ACCELERATE_USE_FSDP")


def check_launch() -> None:
    """
    Call it before a model is loaded.

    Raises:
        ValueError: Where the processes would load models of whose weights they have nothing, or a part.
    """
    if _asked("ACCELERATE_USE_DEEPSPEED") and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        raise ValueError(
            "got DeepSpeed's ZeRO stage 3, which takes the weights apart when they are loaded; expected each process "
            "to have the frozen encoders and, in a pass, the base LM's embeddings, which are read outside of it; use "
            "FSDP2, which shards the same weights: examples/distributed/fsdp2_multi_gpu.yaml"
        )
    if _asked("ACCELERATE_USE_FSDP") and _asked("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise ValueError(
            "got fsdp_cpu_ram_efficient_loading=true, with which only the first process loads weights; expected every "
            "process to have the frozen encoders, which compute its features before anything is sharded; say "
            "fsdp_cpu_ram_efficient_loading: false, as in examples/distributed"
        )


def allow_fsdp_on_cpus() -> None:
    """
    Call it before an `Accelerator` is made. FSDP2 shards on CPUs as it does on GPUs, and accelerate forgets, without a
    word, that it was asked for where the processes compute on CPUs: it would run DDP.
    """
    if _asked("ACCELERATE_USE_FSDP") and PartialState().distributed_type is DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU  # which it then makes FSDP


def check_fsdp(plugin: Any, lora: bool = False) -> None:
    """
    Args:
        plugin (`accelerate.FullyShardedDataParallelPlugin`): What a run is asked to do.
        lora (`bool`, *optional*, defaults to `False`): Whether the run trains LoRA.

    Raises:
        ValueError: For what would end in a wrong model, or in none, with how to say it instead.
    """
    wanted = {"fsdp_version": 2, "state_dict_type": StateDictType.FULL_STATE_DICT, "activation_checkpointing": False}
    why = {
        "fsdp_version": "frozen and trained weights lie in one block of LiRA, which FSDP 1 can't shard",
        "state_dict_type": "sharded ones leave no model in output_dir that from_pretrained could load",
        "activation_checkpointing": "LiRA's blocks are checkpointed by gradient_checkpointing: true in the recipe",
    }
    for name, expected in wanted.items():
        if (got := getattr(plugin, name)) != expected:
            said = expected.name if isinstance(expected, StateDictType) else str(expected).lower()
            raise ValueError(
                f"got {name}={getattr(got, 'name', got)} for FSDP; expected {said}: {why[name]}; say "
                f"{'' if name.startswith('fsdp') else 'fsdp_'}{name}: {said}, as in examples/distributed"
            )
    if lora:
        raise ValueError(
            "got lora_rank under FSDP; expected DDP, since LoRA is merged into the base LM at the run's end, which "
            "needs the whole of it; launch with examples/distributed/ddp_multi_gpu.yaml, or leave lora_rank out"
        )


def shard_model(model: LiraModel | LiraForCausalLM, plugin: Any, device_type: str) -> None:
    """
    Shards a model over all processes, in place, before its optimizer is made; accelerate leaves a sharded one as it
    is.

    Its own choice of units would not do: the soft prefix reads the base LM's table of embeddings, which must therefore
    lie in the outermost unit, and encoders have to serve one process alone, as each computes the features that its own
    texts lack. So the encoders stay whole on each process, and the base LM's and the fusion's layers are a unit each.

    Args:
        model ([`LiraModel`] or [`LiraForCausalLM`]): The model.
        plugin (`accelerate.FullyShardedDataParallelPlugin`): Offloading, precision, resharding.
        device_type (`str`): `"cpu"` or `"cuda"`.
    """
    if isinstance(model, FSDPModule):
        return
    core = model.base_model
    encoders = [part for part in (core.encoder, core.anchor) if part is not None]
    trained = [name for name, part in model.backbones().items() if name != "base" and _trained(part)]
    if trained:
        raise ValueError(
            f"got trainable weights in {', '.join(trained)} under FSDP; expected frozen encoders, which every process "
            "holds whole; launch with DDP, or freeze them"
        )
    options = {
        "mesh": init_device_mesh(device_type, (dist.get_world_size(),)),
        "mp_policy": plugin.mixed_precision_policy or MixedPrecisionPolicy(),
        "offload_policy": plugin.cpu_offload,
    }
    for part in encoders:
        part.to(device_type)
    projector = core.prefix_projector
    for name in _SCALARS if projector is not None else ():
        weight = getattr(projector, name.split(".")[-1])
        if weight is not None:  # FSDP takes no scalars; one value serves as well
            setattr(projector, name.split(".")[-1], nn.Parameter(weight.detach().reshape(1), weight.requires_grad))
    for layer in _layers(model):
        fully_shard(layer, reshard_after_forward=plugin.reshard_after_forward, **options)
    kept = {weight for part in encoders for weight in part.parameters()}
    fully_shard(model, ignored_params=kept, **options)


def whole_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """
    A state dict with every sharded weight gathered, for which all processes have to call, and in the shape that a
    model has that was never sharded.
    """
    found = {}
    for name, value in state.items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        found[name] = whole.reshape(()) if name.endswith(_SCALARS) else whole
    return found


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """The heads and the embeddings of a sharded model, whole in each process; all have to call it. A model that isn't
    sharded stays as it is."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def _trained(part: nn.Module) -> bool:
    return any(weight.requires_grad for weight in part.parameters())


def _layers(model: LiraModel | LiraForCausalLM) -> list[nn.Module]:
    """The blocks that are gathered one after the other."""
    base = model.base_model.language_model
    names = set(getattr(base, "_no_split_modules", None) or ())
    blocks = [] if base is None else [module for module in base.modules() if type(module).__name__ in names]
    fusion = [module for module in model.base_model.fusion.modules() if isinstance(module, LiraFusionLayer)]
    return [*blocks, *fusion]
