"""What every LiRA class shares: new weights, saving whole or slim, loading strictly."""

import copy
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils.hub import cached_file, resolve_revision

from .backbones_lira import has_own_code, is_quantized, load_base, load_encoder
from .checkpoint_lira import HUB_OPTIONS, PARTS, describe_backbones, load_slim, save_slim, slim_problem
from .configuration_lira import LIRA_VERSION, LiraConfig
from .modeling_lasr import LiraAttention, LiraFusion, LiraFusionLayer
from .projector_lira import BLANK_LOGIT, LiraPrefixProjector
from .prompt_lira import add_prefix_token, load_tokenizer
from .saving_lira import CHECKSUMS_NAME, check_files, check_shard_names, finish_saving, staged


__all__ = ["LiraPreTrainedModel"]

logger = logging.getLogger(__name__)

# By the parts that a configuration's part_dtypes names, where they lie in the core.
_ATTRIBUTES = {part: [attribute] for part, attribute in PARTS.items()}
_ATTRIBUTES["heads"] = ["arca", "fusion", "embedding_head", "prefix_projector"]


class LiraPreTrainedModel(PreTrainedModel):
    """Initialisation, saving and loading shared by every LiRA class."""

    config: LiraConfig
    base_model_prefix = "lira"
    main_input_name = "source_ids"
    input_modalities = ("text",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["LiraFusionLayer"]
    # The pooler of a live backbone that had one; the parts of a larger checkpoint that a smaller class has no use for.
    _keys_to_ignore_on_load_unexpected = [
        r"(^|\.)(encoder|anchor)\.pooler\.",
        r"(^|\.)language_model\.",
        r"(^|\.)prefix_projector\.",
        r"^choice_head\.",
    ]
    _supports_sdpa = True
    _supports_flash_attn = False  # the fusion needs a mask over absent roads
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": LiraFusionLayer, "attentions": LiraAttention}
    _new_heads: tuple[str, ...] = ()  # weights that a checkpoint may lack, since they start at zero
    _core = "lira."  # where the names of the core's weights begin

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Children are initialised before their parents and only once, so a layer carries its own deviation.
        std = getattr(module, "init_std", self.config.initializer_range)
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, LiraPrefixProjector):
            init.constant_(module.blank_logit, BLANK_LOGIT)
            if module.scale is not None:
                init.ones_(module.scale)
        elif isinstance(module, LiraFusion):
            init.normal_(module.path_embedding, std=std)
            init.normal_(module.bin_embedding, std=std)
            if module.language_embedding is not None:
                init.zeros_(module.language_embedding.weight)

    def initialize_weights(self) -> None:
        """As in Transformers, by part."""
        # The library would tell the backbones that they are custom code, as LiRA is, and would then pass by a module
        # that has no weights of its own but fills its children's buffers, as falcon_h1's does.
        for part in self.backbones().values():
            part.initialize_weights()
        super().initialize_weights()

    @classmethod
    def _join(cls, sources: dict, options: dict[str, dict | None], config_kwargs: dict):
        """Loads the backbones of [`from_backbones`] and builds a model over them."""
        loaders = {"encoder": load_encoder, "anchor": load_encoder, "base": load_base}
        idle = [f"{name}_kwargs" for name, source in sources.items() if source is None and options[name]]
        if idle:
            raise ValueError(
                f"got {', '.join(idle)} without that backbone; expected both or neither; name the backbone"
            )
        parts = {
            name: None if source is None else loaders[name](source, **(options[name] or {}))
            for name, source in sources.items()
        }
        if parts["anchor"] is parts["encoder"]:
            parts["anchor"] = None  # one live module for both roads is saved once
        _refuse_shared(parts)
        if parts["base"] is not None and config_kwargs.get("prefix_token_id") is None:
            config_kwargs = config_kwargs | {
                "prefix_token_id": _tokenizer_placeholder(sources["base"], options["base"])
            }
        revisions = {name: _revision(sources[name], options[name] or {}) for name in sources}
        # Copies: a composite configuration resets _attn_implementation on the live ones, silently.
        configs = {f"{k}_config": copy.deepcopy(part.config) for k, part in parts.items() if part is not None}
        config = cls.config_class(**configs, backbone_info=describe_backbones(parts, revisions), **config_kwargs)
        model = cls(config, **parts).eval()
        if parts["base"] is not None:
            model.base_model.prefix_projector.start_at(parts["base"].get_input_embeddings())
            if model.can_generate():
                model.generation_config = copy.deepcopy(parts["base"].generation_config)
        return model

    @classmethod
    def float32_modules(cls, config: LiraConfig) -> list[str]:
        """Parts of a checkpoint of several dtypes that are loaded in float32: all but those of [`_loaded_half`]."""
        half, kinds = _loaded_half(config), config.part_dtypes or {}
        kept = [name for part, kind in kinds.items() if kind != half for name in _ATTRIBUTES[part]]
        return [f"{cls._core}{name}." for name in kept] + ["choice_head."]

    @torch.no_grad()
    def _restore_halves(self) -> None:
        """Casts what was loaded in float32 since the library loads one half-precision type alone."""
        for part, kind in (self.config.part_dtypes or {}).items():
            if kind in ("float32", _loaded_half(self.config)):
                continue
            for name in _ATTRIBUTES[part]:
                module = getattr(self.base_model, name, None)
                wide = {*(getattr(module, "_keep_in_fp32_modules", None) or ())}
                # Weights alone: buffers such as rotary frequencies stay in float32, as where a backbone is loaded.
                for path, weight in [] if module is None else module.named_parameters():
                    if weight.is_floating_point() and wide.isdisjoint(path.split(".")):
                        weight.data = weight.data.to(getattr(torch, kind))

    def backbones(self) -> dict[str, PreTrainedModel]:
        """The backbones that this model holds: `encoder`, and where there are such `anchor` and `base`."""
        core = self.base_model
        parts = {name: getattr(core, attribute) for name, attribute in PARTS.items()}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def dtype(self) -> torch.dtype:
        """The half-precision type, where any backbone has one; that of the weights otherwise."""
        kinds = [part.dtype for part in self.backbones().values()]
        return next((kind for kind in kinds if kind in (torch.float16, torch.bfloat16)), kinds[0])

    def trainable_parts(self) -> dict[str, tuple[int, int]]:
        """Weights that training changes and all weights, of each part; `{"arca": (51331, 51331), ...}`."""
        counts: dict[str, tuple[int, int]] = {}
        for name, weight in self.named_parameters():
            part = name.removeprefix(f"{self.base_model_prefix}.").split(".")[0]
            trained, total = counts.get(part, (0, 0))
            counts[part] = (trained + weight.numel() * weight.requires_grad, total + weight.numel())
        return counts

    def activation_checkpointing_enable(self, *args, **kwargs) -> None:
        """As in Transformers; a frozen base LM goes into training mode, without which nothing would be
        checkpointed."""
        super().activation_checkpointing_enable(*args, **kwargs)
        self.train(self.training)

    def compile_heads(self, **kwargs) -> None:
        """
        Compiles what is LiRA's own: Arca, the fusion, the embedding head and the prefix projector (ours). Worth it
        where the backbones are small or their features cached; they are not compiled, nor what is saved changed.

        Args:
            kwargs: For `torch.compile`: `backend`, `mode`, `dynamic`, ...
        """
        core = getattr(self, "lira", self)
        for name in ("arca", "fusion", "embedding_head", "prefix_projector"):
            if (part := getattr(core, name, None)) is not None:
                part.compile(**kwargs)

    def save_pretrained(self, save_directory, *args, save_backbones: bool | None = None, **kwargs):
        """
        As in Transformers, but all or nothing: a kill or a full disk leaves what the folder had. The files' SHA-256
        go into `lira_checksums.json`. And:

        Args:
            save_backbones (`bool`, *optional*):
                `True`: a whole checkpoint. `False`: a slim one, with Arca, LaSR, projector and LoRA, and of the
                backbones their names, revisions and fingerprints. `None`: as `config.backbones_saved` says.
            args, kwargs: As in Transformers, `max_shard_size` and `push_to_hub` among them.

        Raises:
            ValueError: Where a slim checkpoint is asked for and could not be loaded again: a backbone without a
                name, or whose weights have changed since it was loaded. Where a quantised backbone were to be saved
                whole.
        """
        slim = not (self.config.backbones_saved if save_backbones is None else save_backbones)
        if slim and (problem := slim_problem(self, kwargs.get("state_dict"))):
            if save_backbones is not None:
                raise ValueError(f"save_backbones=False: {problem}; or save with save_backbones=True")
            logger.warning("saving the whole model, since a slim checkpoint could not be loaded again: %s", problem)
            slim = False
        if not slim:
            self._refuse_whole()
        main = args[0] if args else kwargs.get("is_main_process", True)
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", os.path.basename(os.path.normpath(save_directory)))
        with self._saved_config(slim), _place(save_directory, main and not kwargs.get("distributed_checkpoint")) as to:
            if slim:
                return save_slim(self, super().save_pretrained, to, *args, **kwargs)
            return super().save_pretrained(to, *args, **kwargs)

    def _refuse_whole(self) -> None:
        for name, part in self.backbones().items():
            why = "quantised" if is_quantized(part) else "of a type that Transformers does not know"
            if is_quantized(part) or has_own_code(part.config):
                raise ValueError(
                    f"the backbone {name!r} ({type(part).__name__}) is {why}; a whole checkpoint holds backbones "
                    "that their configuration alone builds; save with save_backbones=False, which names them instead"
                )

    @contextmanager
    def _saved_config(self, slim: bool) -> Iterator[None]:
        """What the configuration of the checkpoint says beyond that of the model."""
        config = self.config
        own = next(self.base_model.arca.parameters()).dtype
        kinds = {name: str(part.dtype).removeprefix("torch.") for name, part in self.backbones().items()}
        kinds["heads"] = str(own).removeprefix("torch.")
        before = {name: getattr(config, name) for name in ("base_config", "prefix_token_id", "backbones_saved")}
        config.lira_version = LIRA_VERSION
        config.backbones_saved = not slim
        config.part_dtypes = kinds if len(set(kinds.values())) > 1 else None
        if self.base_model.language_model is None:
            # The embedding part of a generation checkpoint is saved without its base LM: say so.
            config.base_config = config.prefix_token_id = None
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(config, name, value)

    def push_to_hub(self, *args, save_backbones: bool | None = None, **kwargs):
        """As in Transformers; `save_backbones` as in [`~LiraPreTrainedModel.save_pretrained`]."""
        before = self.config.backbones_saved
        self.config.backbones_saved = before if save_backbones is None else save_backbones
        try:
            return super().push_to_hub(*args, **kwargs)
        finally:
            self.config.backbones_saved = before

    def _adjust_missing_and_unexpected_keys(self, loading_info) -> None:
        super()._adjust_missing_and_unexpected_keys(loading_info)
        self.__dict__.setdefault("_lacked", set(loading_info.missing_keys))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        As in Transformers, and strict about LiRA's own weights: a checkpoint that lacks one, or has one of another
        shape, is refused (unless `output_loading_info` is asked for) instead of being completed with random
        numbers; so is one whose weights aren't those that were saved. Each part keeps the dtype that it was saved
        in, unless `dtype` is given. Pickled weights are not loaded.

        Args:
            verify_checksums (`bool`, *optional*, defaults to `True`):
                Compare the files with `lira_checksums.json`, where there is one: a second or two per gigabyte.
            encoder_kwargs, anchor_kwargs, base_kwargs (`dict`, *optional*):
                For a slim checkpoint: what loading each backbone takes besides, such as `quantization_config`, or
                `name` where it lies elsewhere now.
            args, kwargs: As in Transformers.

        Raises:
            ValueError: Naming the missing weights, the backbone of a slim checkpoint that has changed, or a file that
                is damaged.
        """
        verify = kwargs.pop("verify_checksums", True)
        kwargs.setdefault("use_safetensors", True)
        place = _folder(pretrained_model_name_or_path, kwargs)
        if place is not None:
            finish_saving(place)
            check_shard_names(place)
            if verify:
                check_files(place, weights=True)
        wants_info = kwargs.pop("output_loading_info", False)
        config = _read_config(cls, pretrained_model_name_or_path, kwargs)
        if config is None and (base := _adapted(pretrained_model_name_or_path, kwargs)) is not None:
            # A folder with an adapter alone, as PEFT writes it: the model is the one that it names, with it.
            kwargs["adapter_kwargs"] = {"_adapter_model_path": str(pretrained_model_name_or_path)}
            return cls.from_pretrained(base, *args, output_loading_info=wants_info, **kwargs)
        if config is not None and not config.backbones_saved:
            kwargs.pop("config", None)
            model, info = load_slim(cls, pretrained_model_name_or_path, config, *args, **kwargs)
        else:
            for name in ("encoder_kwargs", "anchor_kwargs", "base_kwargs"):
                if kwargs.pop(name, None):
                    raise ValueError(f"got {name}; the checkpoint holds its backbones; only a slim one takes it")
            if kwargs.get("dtype", kwargs.get("torch_dtype")) in (None, "auto"):
                kwargs["keep_dtypes"] = True
                if config is not None and (half := _loaded_half(config)) is not None:
                    kwargs.pop("torch_dtype", None)
                    kwargs["dtype"] = half
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
            if kwargs.get("keep_dtypes"):
                model._restore_halves()
        if place is None and verify:
            _check_download(pretrained_model_name_or_path, kwargs)
        # Where an adapter was loaded too, the information given is the adapter's.
        lacked = model.__dict__.pop("_lacked", info["missing_keys"])
        missing = sorted(key for key in lacked if not key.startswith(cls._new_heads or "\0"))
        # One who asks for the loading information looks at it himself; without a checkpoint nothing is missing from
        # it.
        if missing and not wants_info and pretrained_model_name_or_path is not None:
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} weights of {cls.__name__}, among them "
                f"{', '.join(missing[:5])}; expected a whole checkpoint written by save_pretrained; save it again, or "
                "join the backbones anew with from_backbones"
            )
        # Loading makes new parameters, which all want a gradient.
        model.freeze()
        return (model, info) if wants_info else model


@contextmanager
def _place(folder, whole: bool) -> Iterator:
    """Where to save: beside, to be moved in at once; or right there, for a process that saves a share or nothing."""
    if not whole or os.path.isfile(folder):
        yield folder
        return
    with staged(folder) as place:
        yield place


def _loaded_half(config: LiraConfig) -> str | None:
    """The half-precision type that a checkpoint of several dtypes is loaded in: the base LM's, the largest part's,
    if it has one."""
    kinds = config.part_dtypes or {}
    return next((kind for kind in (kinds.get("base"), *kinds.values()) if kind not in (None, "float32")), None)


def _folder(path, kwargs: dict) -> str | None:
    """The local folder of a checkpoint; `None` for a name on the Hub, or nothing."""
    if path is None or not os.path.isdir(path):
        return None
    return os.path.join(path, kwargs.get("subfolder") or "")


def _check_download(path, kwargs: dict) -> None:
    """What of a checkpoint on the Hub has come to this machine, against its checksums."""
    if path is None:
        return
    try:
        found = cached_file(path, CHECKSUMS_NAME, _raise_exceptions_for_missing_entries=False, **_hub_options(kwargs))
    except OSError:
        return
    if found is not None:
        check_files(os.path.dirname(found), weights=True)


def _refuse_shared(parts: dict[str, PreTrainedModel | None]) -> None:
    """A module held twice could be neither saved nor frozen for itself."""
    base = {id(weight) for weight in parts["base"].parameters()} if parts["base"] is not None else set()
    for name in ("encoder", "anchor"):
        part = parts[name]
        if part is not None and any(id(weight) in base for weight in part.parameters()):
            raise ValueError(
                f"the {name} and the base LM are the same live module; expected weights of their own, as each is "
                "saved and frozen for itself; give a name or folder for one of them, or a copy"
            )


def _tokenizer_placeholder(base, options: dict | None) -> int | None:
    """The id that the base's own tokenizer gives the placeholder; `None` where there is no tokenizer to ask."""
    if isinstance(base, PreTrainedModel):
        return None
    known = ("revision", "token", "cache_dir", "local_files_only")
    try:
        return add_prefix_token(load_tokenizer(base, **{k: v for k, v in (options or {}).items() if k in known}))
    except (OSError, ValueError):
        return None


def _revision(source, options: dict) -> str | None:
    """The commit that a backbone was loaded from; `None` for a folder or a live module."""
    if source is None or isinstance(source, PreTrainedModel):
        return None
    known = {name: options[name] for name in ("token", "cache_dir", "local_files_only") if name in options}
    found = resolve_revision(source, options.get("revision"), **known)
    return None if found is None else str(getattr(found, "resolved", None) or found)


def _hub_options(kwargs: dict) -> dict:
    return {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}


def _adapted(path, kwargs: dict) -> str | None:
    """The model that an adapter's folder names; `None` for what is no such folder."""
    try:
        found = cached_file(path, "adapter_config.json", **_hub_options(kwargs))
    except OSError:
        return None
    with open(found, encoding="utf-8") as file:
        return json.load(file).get("base_model_name_or_path")


def _read_config(cls: type, path, kwargs: dict) -> LiraConfig | None:
    """The checkpoint's configuration; `None` where `path` holds none, as a folder with an adapter alone does."""
    config = kwargs.get("config")
    if isinstance(config, PreTrainedConfig):
        return config
    path, options = path if config is None else config, _hub_options(kwargs)
    try:
        # Asked for first: of a folder without one the library makes a default configuration.
        if path is None or cached_file(path, "config.json", **options) is None:
            return None
    except OSError:
        return None
    return cls.config_class.from_pretrained(path, **options)
