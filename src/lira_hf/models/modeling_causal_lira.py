"""LiRA over a base causal LM (paper: question answering and reasoning): the fused roads as a soft prefix of its
prompt."""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from transformers import Cache, PreTrainedModel
from transformers.utils import ModelOutput, TransformersKwargs

from .base_lira import past_length, run_base
from .configuration_lira import LiraConfig
from .generation_lira import LiraGenerationMixin
from .modeling_lira import LiraModel, LiraModelOutput
from .prefix_lira import check_placeholders
from .pretrained_lira import LiraPreTrainedModel


__all__ = ["LiraCausalLMOutput", "LiraForCausalLM", "LiraWithBase"]

# Of a configuration, what a base LM that is joined to a model decides anew.
_NOT_TAKEN = (
    "model_type",
    "base_config",
    "encoder_config",
    "anchor_config",
    "projection_dim",
    "prefix_token_id",
    "backbones_saved",
    "backbone_info",
    "adapter_folder",
    "part_dtypes",
    "lira_version",
)


@dataclass
class LiraCausalLMOutput(ModelOutput):
    """
    Output of [`LiraForCausalLM`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): Cross-entropy of `labels`, and the base's own auxiliary loss.
        logits (`torch.Tensor` of shape `(batch, tokens, vocabulary)`): The base LM's.
        past_key_values (*optional*): The base LM's cache.
        hidden_states, attentions (*optional*): Of the base LM, where asked for.
        prefix_embeds (`torch.Tensor` of shape `(batch, prefix_length, D)`, *optional*): The soft prefix.
        prefix_mask (`torch.Tensor` of shape `(batch, prefix_length)`, *optional*): 1 for soft tokens that stand for
            something.
        prefix_gate (`torch.Tensor` of shape `(batch,)`, *optional*): The multilingual road's share of a merged prefix.
        similarity, policy (`torch.Tensor` of shape `(batch, candidates)`, *optional*): Arca's, of each candidate.
        reference_loss (`torch.Tensor` of shape `()`, *optional*): Of the prefix against `reference_slots` (ours).
        source_path_embeds, anchor_path_embeds (`torch.Tensor` of shape `(batch, prefix_length, D)`, *optional*):
            The soft prefix from one road alone, where `output_paths=True`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    prefix_embeds: torch.Tensor | None = None
    prefix_mask: torch.Tensor | None = None
    prefix_gate: torch.Tensor | None = None
    similarity: torch.Tensor | None = None
    policy: torch.Tensor | None = None
    reference_loss: torch.Tensor | None = None
    source_path_embeds: torch.Tensor | None = None
    anchor_path_embeds: torch.Tensor | None = None


class LiraWithBase(LiraPreTrainedModel):
    """What the classes that hold a base LM share. The core, a [`LiraModel`], is `lira`; the base LM lies within it."""

    main_input_name = "input_ids"

    def __init__(
        self,
        config: LiraConfig,
        encoder: PreTrainedModel | None = None,
        anchor: PreTrainedModel | None = None,
        base: PreTrainedModel | None = None,
        keep_dtypes: bool = False,
    ):
        if config.base_config is None:
            raise ValueError(
                f"the checkpoint has no base LM (base_config is None), and {type(self).__name__} needs one; "
                "expected a generation checkpoint; load an embedding-only one by AutoModel, or join a base LM to "
                f"its backbones with {type(self).__name__}.from_backbones"
            )
        super().__init__(config)
        if keep_dtypes:
            self._keep_in_fp32_modules_strict = self.float32_modules(config)
        self.lira = LiraModel(config, encoder, anchor, base, with_base=True)

    @classmethod
    def parts_of(cls, config: LiraConfig) -> list[str]:
        """Names of the backbones that this class holds for `config`."""
        return list(dict.fromkeys([*LiraModel.parts_of(config), "base"]))

    @property
    def language_model(self) -> PreTrainedModel:
        """The base LM f."""
        return self.lira.language_model

    def get_input_embeddings(self) -> nn.Module:
        return self.lira.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.lira.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_output_embeddings(value)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in Transformers, for the base LM. The placeholder keeps its id."""
        embedding = self.lira.resize_token_embeddings(*args, **kwargs)
        self.vocab_size = embedding.weight.shape[0]
        return embedding

    @classmethod
    def from_backbones(
        cls,
        base: str | PreTrainedModel,
        encoder: str | PreTrainedModel,
        anchor: str | PreTrainedModel | None = None,
        *,
        base_kwargs: dict | None = None,
        encoder_kwargs: dict | None = None,
        anchor_kwargs: dict | None = None,
        **config_kwargs,
    ):
        """
        Joins pretrained backbones with a new Arca, LaSR and prefix projector.

        Args:
            base (`str` or `PreTrainedModel`): The base causal LM f: name, local folder or live module.
            encoder (`str` or `PreTrainedModel`): The multilingual encoder g: likewise, of any family.
            anchor (`str` or `PreTrainedModel`, *optional*): The English encoder h. `None`: g serves as h.
            base_kwargs, encoder_kwargs, anchor_kwargs (`dict`, *optional*):
                For `from_pretrained` of each: `dtype`, `device_map`, `quantization_config`, `attn_implementation`,
                `revision`, `trust_remote_code`, ...
            config_kwargs: Fields of [`LiraConfig`]. `prefix_token_id` is by default the id that the base's tokenizer
                gives the placeholder, as [`LiraProcessor`] adds it.

        Returns:
            The model, in evaluation mode.

        Example:

        ```python
        >>> model = LiraForCausalLM.from_backbones("Qwen/Qwen3-0.6B", "BAAI/bge-m3", "BAAI/bge-base-en-v1.5")
        >>> processor = LiraProcessor.from_backbones(
        ...     "BAAI/bge-m3", "BAAI/bge-base-en-v1.5", base="Qwen/Qwen3-0.6B", config=model.config
        ... )
        ```
        """
        sources = {"encoder": encoder, "anchor": anchor, "base": base}
        options = {"encoder": encoder_kwargs, "anchor": anchor_kwargs, "base": base_kwargs}
        return cls._join(sources, options, config_kwargs)

    @classmethod
    def from_embedding(
        cls, model: str | LiraModel, base: str | PreTrainedModel, *, base_kwargs: dict | None = None, **config_kwargs
    ):
        """
        Joins a base LM to a trained embedding model, whose Arca and LaSR it goes on with.

        Args:
            model (`str` or [`LiraModel`]): The embedding model, such as stage 1's output: name, folder or live module.
            base (`str` or `PreTrainedModel`): The base causal LM f.
            base_kwargs (`dict`, *optional*): As in [`~LiraWithBase.from_backbones`].
            config_kwargs: Fields of [`LiraConfig`] to change; not those that weights depend on, such as `num_bins`.

        Raises:
            ValueError: Where `config_kwargs` change the shape of weights that are taken over.
        """
        core = LiraModel.from_pretrained(model) if isinstance(model, str) else model
        own = {
            name: getattr(core.config, name) for name in type(core.config).__annotations__ if name not in _NOT_TAKEN
        }
        joined = cls.from_backbones(base, core.encoder, core.anchor, base_kwargs=base_kwargs, **own | config_kwargs)
        joined.config.backbone_info = {**(joined.config.backbone_info or {}), **(core.config.backbone_info or {})}
        for name in ("arca", "fusion", "embedding_head"):
            try:
                getattr(joined.lira, name).load_state_dict(getattr(core, name).state_dict())
            except RuntimeError as error:
                raise ValueError(
                    f"got {config_kwargs}, with which the weights of {name} have other shapes than the model's; "
                    f"expected fields that no weights depend on; leave the others as they are ({error})"
                ) from error
        return joined

    def freeze(
        self, encoder: bool = True, anchor: bool = True, arca: bool = False, lasr: bool = False, base: bool = True
    ):
        """As [`LiraModel.freeze`]; the embedding head, which a loss on the base's logits does not reach, stays
        frozen."""
        self.lira.freeze(encoder, anchor, arca, lasr, base)
        self.lira.embedding_head.requires_grad_(False)
        return self

    def find_prefix(
        self,
        input_ids: torch.Tensor | None,
        prefix_embeds: torch.Tensor | None = None,
        prefix_mask: torch.Tensor | None = None,
        language_ids: torch.Tensor | None = None,
        past: int = 0,
        embedded: bool = False,
        reference_slots: torch.Tensor | None = None,
        output_paths: bool = False,
        **roads: torch.Tensor | None,
    ) -> dict[str, torch.Tensor | None]:
        """
        The soft prefix of a batch, computed from both roads unless it is given, and a prompt that has place for it.

        Args:
            input_ids (`torch.Tensor` of shape `(batch, tokens)`, *optional*): The prompt.
            prefix_embeds, prefix_mask, language_ids, roads: As in [`~LiraForCausalLM.forward`].
            past (`int`, *optional*, defaults to 0): Tokens that a cache holds already, the prefix among them.
            embedded (`bool`, *optional*, defaults to `False`): The prompt comes as ready embeddings.
            reference_slots, output_paths: As in [`~LiraForCausalLM.forward`]; add what they are asked for.

        Returns:
            `dict`: `prefix_embeds`, `prefix_mask`, `prefix_gate`, `similarity`, `policy`; all `None` where neither
            text nor prefix is given, which is the base LM alone, and where a cache has read them.

        Raises:
            ValueError: For a prompt whose placeholders do not fit.
        """
        config, roads = self.config, {name: value for name, value in roads.items() if value is not None}
        keys = ("source_ids", "source_features", "anchor_ids", "anchor_features")
        nothing = dict.fromkeys(("prefix_embeds", "prefix_mask", "prefix_gate", "similarity", "policy"))
        if past and input_ids is not None:
            fresh = input_ids[:, past:] if input_ids.shape[1] > past else input_ids
            if not bool((fresh == config.prefix_token_id).any()):
                return nothing
        if prefix_embeds is None and not any(key in roads for key in keys):
            if not embedded:
                self._refuse_placeholders(input_ids)
            return nothing
        if input_ids is None:
            raise ValueError(
                "got a text for the soft prefix and no input_ids; expected the base LM's prompt with its "
                "placeholders; prepare inputs with AutoProcessor"
            )
        if not torch.compiler.is_compiling():
            check_placeholders(input_ids, config.prefix_token_id, config.prefix_length)
        found: dict[str, torch.Tensor | None] = dict.fromkeys(("prefix_gate", "similarity", "policy"))
        if prefix_embeds is None:
            fused, paths = self.fuse_roads(language_ids, output_paths, **roads)
            prefix_embeds, prefix_mask, gate = self.lira.soft_prefix(fused.last_hidden_state, fused.fusion_mask)
            found = {"prefix_gate": gate, "similarity": fused.similarity, "policy": fused.policy}
            if reference_slots is not None:
                found["reference_loss"] = self.reference_loss(reference_slots, fused)
            names = ("source_path_embeds", "anchor_path_embeds")
            for name, path in zip(names, paths, strict=False):
                found[name] = self.lira.soft_prefix(path.last_hidden_state, path.fusion_mask).embeds
        elif prefix_mask is None:
            prefix_mask = torch.ones(prefix_embeds.shape[:2], dtype=torch.long, device=prefix_embeds.device)
        if prefix_embeds.shape[1] != config.prefix_length or len(prefix_embeds) != len(input_ids):
            raise ValueError(
                f"the soft prefix has shape {tuple(prefix_embeds.shape)}; expected ({len(input_ids)}, "
                f"{config.prefix_length}, D): one row per prompt, one text per row; give as many texts as prompts"
            )
        return {"prefix_embeds": prefix_embeds, "prefix_mask": prefix_mask, **found}

    def fuse_roads(
        self, language_ids: torch.Tensor | None = None, output_paths: bool = False, **roads: torch.Tensor
    ) -> tuple[LiraModelOutput, list[LiraModelOutput]]:
        """Both roads fused, as [`LiraModel.fuse`] gives them, without the embedding; where asked for, also g's and h's
        alone. Arguments as in [`~LiraForCausalLM.forward`]."""
        keep = {name: roads.pop(name) for name in ("keep_source", "keep_anchor") if name in roads}
        # No loss of generation asks for what Arca knows of candidates that aren't chosen.
        arca, source, anchor = self.lira.anchor_roads(**roads, candidate_gradients=False)
        fused = self.lira.fuse(arca, source, anchor, language_ids, head=False, **keep)
        if not output_paths:
            return fused, []
        none = torch.zeros(len(fused.fusion_mask), dtype=torch.bool, device=fused.fusion_mask.device)
        return fused, [
            self.lira.fuse(arca, source, anchor, language_ids, head=False, **{name: none})
            for name in ("keep_anchor", "keep_source")
        ]

    def reference_loss(self, reference_slots: torch.Tensor, fused: LiraModelOutput) -> torch.Tensor:
        """
        How far the soft prefix is from an English reference (ours), by which it is warmed up: no pass of the base LM
        is needed.

        Args:
            reference_slots (`torch.Tensor` of shape `(batch, bins, tokens of a slot)`): The base's tokens of each
                slot, padded with -100.
            fused ([`LiraModelOutput`]): Of [`~LiraWithBase.fuse_roads`].
        """
        if reference_slots.dim() != 3 or reference_slots.shape[1] != self.config.num_bins:
            raise ValueError(
                f"reference_slots has shape {tuple(reference_slots.shape)}; expected (batch, {self.config.num_bins}, "
                "tokens of a slot), one slot per bin; make them with GenerationCollator"
            )
        projector, embedding = self.lira.prefix_projector, self.get_input_embeddings()
        return projector.loss(fused.last_hidden_state, fused.fusion_mask, embedding, reference_slots)

    def _refuse_placeholders(self, input_ids: torch.Tensor | None) -> None:
        if input_ids is not None and not torch.compiler.is_compiling():
            if bool((input_ids == self.config.prefix_token_id).any()):
                raise ValueError(
                    "input_ids holds the prefix's placeholders and there is no text to make the prefix from; expected "
                    "source_ids (or source_features, anchor_ids, prefix_embeds) with them; prepare inputs with "
                    "AutoProcessor"
                )


class LiraForCausalLM(LiraWithBase, LiraGenerationMixin):
    """
    Any base causal LM that reads a text of any language through LiRA's soft prefix. `generate` is the base's own.

    Without a text it is the base LM and nothing else. Base and encoders are frozen until [`~LiraWithBase.freeze`]
    or LoRA says otherwise.

    Args:
        config ([`LiraConfig`]): The configuration, with a `base_config`.
        encoder, anchor, base (`PreTrainedModel`, *optional*): Ready-made backbones; built from the configuration
            otherwise.
        keep_dtypes (`bool`, *optional*, defaults to `False`): While loading: parts saved in float32 stay so.

    Example:

    ```python
    >>> from transformers import AutoModelForCausalLM, AutoProcessor

    >>> model, processor = AutoModelForCausalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    >>> batch = processor(["দুই আর তিনে কত হয়?"], candidates=[["What is two and three?"]], languages="bn")
    >>> processor.decode_new(model.generate(**batch, max_new_tokens=8), batch)
    ```
    """

    _can_record_outputs = {}  # the base's own outputs are passed on

    def __init__(self, config: LiraConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.post_init()
        self.freeze()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        source_ids: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        anchor_ids: torch.Tensor | None = None,
        anchor_mask: torch.Tensor | None = None,
        anchor_scores: torch.Tensor | None = None,
        anchor_traits: torch.Tensor | None = None,
        language_ids: torch.Tensor | None = None,
        source_features: torch.Tensor | None = None,
        anchor_features: torch.Tensor | None = None,
        keep_source: torch.Tensor | None = None,
        keep_anchor: torch.Tensor | None = None,
        prefix_embeds: torch.Tensor | None = None,
        prefix_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        reference_slots: torch.Tensor | None = None,
        output_paths: bool = False,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LiraCausalLMOutput | tuple:
        """
        Args:
            input_ids, attention_mask (`torch.Tensor` of shape `(batch, tokens)`):
                The base LM's prompt, with `config.prefix_length` placeholder tokens where the soft prefix goes.
            source_ids, source_mask, anchor_ids, anchor_mask, anchor_scores, anchor_traits, language_ids,
                source_features, anchor_features, keep_source, keep_anchor (`torch.Tensor`, *optional*):
                As in [`LiraModel.forward`].
            prefix_embeds (`torch.Tensor` of shape `(batch, 2 x bins, D)`, *optional*): A ready soft prefix, instead.
            prefix_mask (`torch.Tensor` of shape `(batch, 2 x bins)`, *optional*): 1 for its slots that are seen.
            labels (`torch.Tensor` of shape `(batch, tokens)`, *optional*):
                What is to be predicted, shifted within (or `shift_labels`, already shifted, among the `kwargs`);
                -100 and placeholders are left out.
            reference_slots (`torch.Tensor` of shape `(batch, bins, tokens of a slot)`, *optional*):
                The base's tokens of an English reference, slot by slot, for `reference_loss` (ours). Without
                `input_ids` that is all that is computed, and the base LM isn't run.
            output_paths (`bool`, *optional*, defaults to `False`):
                Also give the prefix of each road alone (consistency, paper).
            position_ids, past_key_values, inputs_embeds, use_cache, logits_to_keep, kwargs: As the base LM takes them.

        Returns:
            [`LiraCausalLMOutput`] or a tuple.
        """
        roads = {
            "source_ids": source_ids,
            "source_mask": source_mask,
            "anchor_ids": anchor_ids,
            "anchor_mask": anchor_mask,
            "anchor_scores": anchor_scores,
            "anchor_traits": anchor_traits,
            "source_features": source_features,
            "anchor_features": anchor_features,
            "keep_source": keep_source,
            "keep_anchor": keep_anchor,
        }
        as_dict = self.config.return_dict if return_dict is None else return_dict
        if reference_slots is not None and input_ids is None:
            alone = self._warm_up(reference_slots, language_ids, **roads)
            return alone if as_dict else alone.to_tuple()
        past, embedded = past_length(past_key_values), inputs_embeds is not None
        prefix = self.find_prefix(
            input_ids, prefix_embeds, prefix_mask, language_ids, past, embedded, reference_slots, output_paths, **roads
        )
        if use_cache is None and self.training:
            # A frozen base evaluates, and caches; a recurrent one would write over what the gradient needs.
            use_cache = False
        targets = {"labels": labels, "shift_labels": kwargs.pop("shift_labels", None)}
        items = kwargs.pop("num_items_in_batch", None)
        output = run_base(
            self.language_model,
            self.config,
            input_ids,
            attention_mask,
            prefix["prefix_embeds"],
            prefix["prefix_mask"],
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            return_dict=True,
            **kwargs,
        )
        result = LiraCausalLMOutput(
            loss=self._loss(output, items, **targets),
            logits=output.logits,
            past_key_values=output.get("past_key_values"),
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
            **prefix,
        )
        return result if as_dict else result.to_tuple()

    def _warm_up(
        self, reference_slots: torch.Tensor, language_ids: torch.Tensor | None, **roads: torch.Tensor | None
    ) -> LiraCausalLMOutput:
        """The reference's loss alone, without a pass of the base LM."""
        fused, _ = self.fuse_roads(language_ids, **{k: v for k, v in roads.items() if v is not None})
        loss = self.reference_loss(reference_slots, fused)
        return LiraCausalLMOutput(
            loss=loss, similarity=fused.similarity, policy=fused.policy, reference_loss=loss.detach()
        )

    def _loss(
        self,
        output: ModelOutput,
        items: torch.Tensor | int | None,
        labels: torch.Tensor | None,
        shift_labels: torch.Tensor | None,
    ) -> torch.Tensor | None:
        if labels is None and shift_labels is None:
            return None
        labels, shift_labels = (
            None if target is None else target.masked_fill(target == self.config.prefix_token_id, -100)
            for target in (labels, shift_labels)
        )
        logits = output.logits
        loss = self.loss_function(
            logits=logits,
            labels=labels,
            vocab_size=logits.shape[-1],
            num_items_in_batch=items,
            shift_labels=shift_labels,
        )
        auxiliary = output.get("aux_loss")  # of a mixture of experts, where its configuration asks for it
        if isinstance(auxiliary, torch.Tensor):
            weight = getattr(self.config.get_text_config(), "router_aux_loss_coef", 0.0)
            loss = loss + weight * auxiliary.to(loss.device)
        return loss
