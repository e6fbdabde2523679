"""LiraModel: both roads into English space, Arca between them, LaSR on top."""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .backbones_lira import build_base, build_encoder, check_width, encode_tokens, stays_still
from .base_lira import last_states, run_base
from .checkpoint_lira import PARTS
from .configuration_lira import LiraConfig
from .inputs_lira import check_features, check_reference
from .modeling_arca import LiraArca, LiraArcaOutput, choice_facts, mix_candidates
from .modeling_lasr import LiraEmbeddingHead, LiraFusion, join_paths
from .prefix_lira import check_placeholders
from .pretrained_lira import LiraPreTrainedModel
from .projector_lira import LiraPrefixProjector, SoftPrefix, embedding_width


__all__ = ["ROAD_NAMES", "LiraModel", "LiraModelOutput"]

# The tensors that make up the two roads of a batch.
ROAD_NAMES = (
    "source_ids",
    "source_mask",
    "anchor_ids",
    "anchor_mask",
    "anchor_scores",
    "anchor_traits",
    "source_features",
    "anchor_features",
    "keep_source",
    "keep_anchor",
)


@dataclass
class LiraModelOutput(ModelOutput):
    """
    Output of [`LiraModel`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): The Arca loss, where `return_loss=True`.
        pooler_output (`torch.Tensor` of shape `(batch, projection_dim)`):
            The embedding, of unit length; zero for a row with neither text nor candidate.
        last_hidden_state (`torch.Tensor` of shape `(batch, 2 x bins, hidden_size)`): Fused tokens.
        fusion_mask (`torch.Tensor` of shape `(batch, 2 x bins)`): 1 for fused tokens that stand for something.
        start_embeds (`torch.Tensor` of shape `(batch, projection_dim)`): The start z = [g; h], before LaSR's delta.
        source_path_embeds, anchor_path_embeds (`torch.Tensor` of shape `(batch, projection_dim)`, *optional*):
            The embedding from one road alone, where `output_paths=True`.
        source_embeds (`torch.Tensor` of shape `(batch, hidden_size)`, *optional*): E_lr.
        anchor_embeds (`torch.Tensor` of shape `(batch, candidates, hidden_size)`, *optional*): E_en.
        similarity (`torch.Tensor` of shape `(batch, candidates)`, *optional*): sim of each candidate.
        policy (`torch.Tensor` of shape `(batch, candidates)`, *optional*): pi; 0 for absent candidates.
        reward (`torch.Tensor` of shape `(batch, candidates)`, *optional*): R_k, where `return_loss=True`.
        hidden_states, attentions (*optional*): Of the fusion's layers, where asked for.
    """

    loss: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    fusion_mask: torch.Tensor | None = None
    start_embeds: torch.Tensor | None = None
    source_path_embeds: torch.Tensor | None = None
    anchor_path_embeds: torch.Tensor | None = None
    source_embeds: torch.Tensor | None = None
    anchor_embeds: torch.Tensor | None = None
    similarity: torch.Tensor | None = None
    policy: torch.Tensor | None = None
    reward: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class LiraModel(LiraPreTrainedModel):
    """
    LiRA's embedding model: `pooler_output` for retrieval and ranking. Also the core of the classes with a base LM.

    The backbones are frozen and in evaluation mode until [`~LiraModel.freeze`] says otherwise. The base LM of a
    generation
    checkpoint is left unloaded unless the embedding is read off it (`embedding_source="language_model"`).

    Args:
        config ([`LiraConfig`]): The configuration.
        encoder, anchor, base (`PreTrainedModel`, *optional*): Ready-made backbones; built from the configuration
            otherwise.
        with_base (`bool`, *optional*): Whether to hold the base LM; `None`: where the embedding is read off it.
        keep_dtypes (`bool`, *optional*, defaults to `False`): While loading: parts saved in float32 stay so.

    Example:

    ```python
    >>> from lira_hf import LiraModel, LiraProcessor

    >>> model = LiraModel.from_backbones("BAAI/bge-m3", "BAAI/bge-base-en-v1.5")
    >>> processor = LiraProcessor.from_backbones("BAAI/bge-m3", "BAAI/bge-base-en-v1.5")
    >>> batch = processor(["ঢাকা বাংলাদেশের রাজধানী"], candidates=[["Dhaka is the capital of Bangladesh"]])
    >>> model(**batch).pooler_output.shape
    torch.Size([1, 1792])
    ```
    """

    # Its losses are means over the batch; the Trainer must not divide by num_items_in_batch.
    accepts_loss_kwargs = False
    _core = ""

    def __init__(
        self,
        config: LiraConfig,
        encoder: PreTrainedModel | None = None,
        anchor: PreTrainedModel | None = None,
        base: PreTrainedModel | None = None,
        with_base: bool | None = None,
        keep_dtypes: bool = False,
    ):
        super().__init__(config)
        if keep_dtypes:
            self._keep_in_fp32_modules_strict = self.float32_modules(config)
        self.encoder = build_encoder(config.encoder_config) if encoder is None else encoder
        self.anchor = None
        if config.anchor_config is not None:
            self.anchor = build_encoder(config.anchor_config) if anchor is None else anchor
        self.language_model, self.prefix_projector = None, None
        if config.embedding_source == "language_model" if with_base is None else with_base:
            self.language_model = build_base(config.base_config) if base is None else base
        self.arca = LiraArca(config)
        self.fusion = LiraFusion(config)
        self.embedding_head = LiraEmbeddingHead(config)
        if self.language_model is not None:
            width = embedding_width(self.language_model.get_input_embeddings())
            self.prefix_projector = LiraPrefixProjector(config, width)
        for name, part in {"encoder": encoder, "anchor": anchor, "base": base}.items():
            if part is not None and getattr(config, f"{name}_config") is not None:
                check_width(name, part, getattr(config, f"{name}_config"))
        self._relink_configs()
        self.post_init()
        self.freeze()

    def _relink_configs(self) -> None:
        # One object, so that set_attn_implementation and from_pretrained reach the backbones' own configurations.
        self.config.encoder_config = self.encoder.config
        if self.anchor is not None:
            self.config.anchor_config = self.anchor.config
        if self.language_model is not None:
            self.config.base_config = self.language_model.config

    @classmethod
    def parts_of(cls, config: LiraConfig) -> list[str]:
        """Names of the backbones that this class holds for `config`."""
        parts = ["encoder"] if config.anchor_config is None else ["encoder", "anchor"]
        return [*parts, "base"] if config.embedding_source == "language_model" else parts

    @property
    def anchor_encoder(self) -> PreTrainedModel:
        """The English encoder h; g where there is no separate one."""
        return self.encoder if self.anchor is None else self.anchor

    def get_input_embeddings(self) -> nn.Module:
        """Those of the base LM where there is one, else g's: of `input_ids`."""
        return (self.encoder if self.language_model is None else self.language_model).get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        (self.encoder if self.language_model is None else self.language_model).set_input_embeddings(value)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in Transformers, for the base LM or else g, whose own configuration has to know the new size."""
        owner = self.encoder if self.language_model is None else self.language_model
        embedding = owner.resize_token_embeddings(*args, **kwargs)
        self.vocab_size = embedding.weight.shape[0]  # where the library keeps it too
        return embedding

    @classmethod
    def from_backbones(
        cls,
        encoder: str | PreTrainedModel,
        anchor: str | PreTrainedModel | None = None,
        *,
        base: str | PreTrainedModel | None = None,
        encoder_kwargs: dict | None = None,
        anchor_kwargs: dict | None = None,
        base_kwargs: dict | None = None,
        **config_kwargs,
    ) -> "LiraModel":
        """
        Joins pretrained backbones with a new Arca and LaSR.

        Args:
            encoder (`str` or `PreTrainedModel`): The multilingual encoder g: name, local folder or live module.
            anchor (`str` or `PreTrainedModel`, *optional*): The English encoder h. `None`: g serves as h.
            base (`str` or `PreTrainedModel`, *optional*):
                The base LM, to read the embedding off it. For generation see [`LiraForCausalLM`].
            encoder_kwargs, anchor_kwargs, base_kwargs (`dict`, *optional*):
                For `from_pretrained` of each: `dtype`, `device_map`, `quantization_config`, `revision`, ...
            config_kwargs: Fields of [`LiraConfig`].

        Returns:
            [`LiraModel`]: In evaluation mode; its embedding is the concatenation [g; h] until it is trained.
        """
        if base is not None:
            config_kwargs = {"embedding_source": "language_model"} | config_kwargs
        sources = {"encoder": encoder, "anchor": anchor, "base": base}
        options = {"encoder": encoder_kwargs, "anchor": anchor_kwargs, "base": base_kwargs}
        return cls._join(sources, options, config_kwargs)

    def freeze(
        self, encoder: bool = True, anchor: bool = True, arca: bool = False, lasr: bool = False, base: bool = True
    ) -> "LiraModel":
        """
        Says what is trained; [`~LiraPreTrainedModel.trainable_parts`] counts it. Frozen backbones stay in
        evaluation mode and keep no graph, but for the base LM, through which the soft prefix is trained. LoRA
        weights are left as they are.

        Args:
            encoder, anchor, base (`bool`, *optional*, defaults to `True`): Freeze g, h, f. Both stages do (paper).
            arca (`bool`, *optional*, defaults to `False`): Freeze adaptor and actor.
            lasr (`bool`, *optional*, defaults to `False`): Freeze fusion and heads; stage 1 does.

        Returns:
            The model itself.
        """
        parts = {"encoder": encoder, "anchor": anchor, "language_model": base, "arca": arca}
        parts |= dict.fromkeys(("fusion", "embedding_head", "prefix_projector"), lasr)
        for name, frozen in parts.items():
            for weight_name, weight in (
                getattr(self, name).named_parameters() if getattr(self, name) is not None else ()
            ):
                if ".lora_" not in weight_name and (weight.is_floating_point() or weight.is_complex()):
                    weight.requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "LiraModel":
        parts = [part for name in PARTS.values() if (part := getattr(self, name)) is not None]
        still = {id(part) for part in parts if stays_still(part, part is self.language_model)}
        if mode != self.training:
            super().train(mode)
        for child in self.children():
            # The Trainer asks at each step: a walk over frozen backbones takes longer than heads do.
            if id(child) not in still or child.training:
                child.train(mode and id(child) not in still)
        return self

    def encode_source(self, source_ids: torch.Tensor, source_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        g over a batch of texts: `(batch, tokens)` -> pooled features `(batch, 1 + bins, d_g)`, float32; cacheable.
        """
        return self._encode(self.encoder, source_ids, source_mask, self.config.encoder_pooling)

    def encode_anchor(self, anchor_ids: torch.Tensor, anchor_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        h over candidates: `(batch, tokens)` or `(batch, candidates, tokens)` -> `(batch, candidates, 1 + bins, d_h)`,
        float32; cacheable.
        """
        if anchor_ids.dim() == 2:
            anchor_ids = anchor_ids.unsqueeze(1)
            anchor_mask = None if anchor_mask is None else anchor_mask.unsqueeze(1)
        if anchor_mask is not None and anchor_mask.shape != anchor_ids.shape:
            raise ValueError(
                f"anchor_mask has shape {tuple(anchor_mask.shape)}; expected that of anchor_ids, "
                f"{tuple(anchor_ids.shape)}"
            )
        mask = None if anchor_mask is None else anchor_mask.flatten(0, 1)
        features = self._encode(self.anchor_encoder, anchor_ids.flatten(0, 1), mask, self.config.anchor_pooling)
        return features.view(*anchor_ids.shape[:2], *features.shape[1:])

    def _encode(self, backbone: PreTrainedModel, ids, mask, pooling: str) -> torch.Tensor:
        # Asked in this order: looking through all weights costs more than a small encoder's pass.
        graph = torch.is_grad_enabled() and any(p.requires_grad for p in backbone.parameters())
        with torch.set_grad_enabled(graph):
            return encode_tokens(backbone, ids, mask, self.config.num_bins, pooling)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        source_ids: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        anchor_ids: torch.Tensor | None = None,
        anchor_mask: torch.Tensor | None = None,
        anchor_scores: torch.Tensor | None = None,
        anchor_traits: torch.Tensor | None = None,
        language_ids: torch.Tensor | None = None,
        source_features: torch.Tensor | None = None,
        anchor_features: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        keep_source: torch.Tensor | None = None,
        keep_anchor: torch.Tensor | None = None,
        reference_ids: torch.Tensor | None = None,
        reference_mask: torch.Tensor | None = None,
        reference_features: torch.Tensor | None = None,
        output_paths: bool = False,
        output_embedding: bool = True,
        return_loss: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LiraModelOutput | tuple:
        """
        Args:
            source_ids, source_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): g's tokens.
            anchor_ids, anchor_mask (`torch.Tensor` of shape `(batch, candidates, tokens)`, or `(batch, tokens)`):
                h's tokens of K candidates, or of one. A candidate without tokens is absent.
            anchor_scores (`torch.Tensor` of shape `(batch, candidates, 3)`, *optional*):
                The judge's s, e, p in 1..10; 0 where it did not judge.
            anchor_traits (`torch.Tensor` of shape `(batch, candidates, traits)`, *optional*):
                What is free to know of the candidates (ours), as the processor makes it; zeros without.
            language_ids (`torch.Tensor` of shape `(batch,)`, *optional*): 1 + index in `config.languages`; 0: unknown.
            source_features (`torch.Tensor` of shape `(batch, 1 + bins, d_g)`, *optional*): Cached, for `source_ids`.
            anchor_features (`torch.Tensor` of shape `(batch, candidates, 1 + bins, d_h)`, *optional*): Likewise.
            input_ids, attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*):
                The base LM's tokens, read where the embedding comes off the base LM. In a checkpoint that has no
                base LM they are other names of `source_ids` and `source_mask`.
            keep_source, keep_anchor (`torch.Tensor` of shape `(batch,)`, bool, *optional*):
                `False` takes that road away from a row: path dropout (ours).
            reference_ids, reference_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*):
                h's tokens of each text's reference translation, or of the English document that it should find, for
                the Arca loss (ours). A row without tokens has none.
            reference_features (`torch.Tensor` of shape `(batch, 1 + bins, d_h)`, *optional*): Cached, instead.
            output_paths (`bool`, *optional*, defaults to `False`): Also embed by each road alone (consistency, paper).
            output_embedding (`bool`, *optional*, defaults to `True`): `False`: Arca alone (stage 1).
            return_loss (`bool`, *optional*, defaults to `False`): Also give the Arca loss (stage 1).

        Returns:
            [`LiraModelOutput`] or a tuple.
        """
        if source_ids is None and input_ids is not None and self.config.base_config is None:
            source_ids, source_mask = input_ids, attention_mask
        prompt = None
        if self.config.embedding_source == "language_model":
            prompt = self._check_prompt(input_ids, attention_mask)
        arca, source_features, anchor_features = self.anchor_roads(
            source_ids,
            source_mask,
            anchor_ids,
            anchor_mask,
            anchor_scores,
            anchor_traits,
            source_features,
            anchor_features,
            input_ids,
        )
        roads = (arca, source_features, anchor_features, language_ids)
        found = dict(self.fuse(*roads, keep_source, keep_anchor, prompt)) if output_embedding else self._judged(arca)
        if output_embedding and output_paths:
            none = torch.zeros_like(found["fusion_mask"][:, 0], dtype=torch.bool)
            for name, road in (("source_path_embeds", "keep_anchor"), ("anchor_path_embeds", "keep_source")):
                found[name] = self.fuse(*roads, prompt=prompt, **{road: none}).pooler_output
        if return_loss:
            reference = self._reference(reference_ids, reference_mask, reference_features)
            found["loss"] = self.arca.loss(arca, anchor_scores, reference)
            if arca.candidate_mask is not None:
                found["reward"] = self.arca.reward(arca, anchor_scores, reference)
        return LiraModelOutput(**found)

    def anchor_roads(
        self,
        source_ids: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        anchor_ids: torch.Tensor | None = None,
        anchor_mask: torch.Tensor | None = None,
        anchor_scores: torch.Tensor | None = None,
        anchor_traits: torch.Tensor | None = None,
        source_features: torch.Tensor | None = None,
        anchor_features: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        candidate_gradients: bool = True,
    ) -> tuple[LiraArcaOutput, torch.Tensor | None, torch.Tensor | None]:
        """Arca over both roads, as in [`~LiraModel.forward`]: what it found, and the features of g and h.
        `candidate_gradients` as of [`LiraArca`]."""
        source_features, anchor_features = self._features(
            source_ids, source_mask, anchor_ids, anchor_mask, source_features, anchor_features, input_ids
        )
        check_features(self.config, source_features, anchor_features, anchor_scores, anchor_traits)
        arca = self.arca(source_features, anchor_features, anchor_scores, anchor_traits, candidate_gradients)
        return arca, source_features, anchor_features

    def soft_prefix(self, tokens: torch.Tensor, mask: torch.Tensor) -> SoftPrefix:
        """Fused tokens `(batch, 2 x bins, hidden_size)` and their mask as soft tokens of the base LM's input space."""
        return self.prefix_projector(tokens, mask, self.language_model.get_input_embeddings())

    def _reference(self, ids, mask, features) -> torch.Tensor | None:
        """h's vector of each reference, `(batch, d_h)`; zero where there is none."""
        if ids is not None and features is not None:
            raise ValueError("got reference_ids and reference_features; expected one of them; leave the other out")
        if ids is not None:
            features = self.encode_anchor(ids, mask).squeeze(1)
        if features is None:
            return None
        check_reference(self.config, features)
        return features[:, 0].to(self.arca.adaptor.fc1.weight)

    def _check_prompt(self, input_ids, attention_mask) -> tuple[torch.Tensor, torch.Tensor | None]:
        if input_ids is None:
            raise ValueError(
                "got no input_ids; expected the base LM's tokens with the prefix's placeholders, since the "
                "embedding is read off the base LM; prepare inputs with AutoProcessor"
            )
        check_placeholders(input_ids, self.config.prefix_token_id, self.config.prefix_length)
        return input_ids, attention_mask

    def fuse(
        self,
        arca: LiraArcaOutput,
        source_features: torch.Tensor | None,
        anchor_features: torch.Tensor | None,
        language_ids: torch.Tensor | None = None,
        keep_source: torch.Tensor | None = None,
        keep_anchor: torch.Tensor | None = None,
        prompt: tuple[torch.Tensor, torch.Tensor | None] | None = None,
        head: bool = True,
    ) -> LiraModelOutput:
        """
        LaSR over what Arca found. `keep_source` and `keep_anchor`, bool `(batch,)`, take a road away from single rows.
        `prompt`, the base LM's ids and mask `(batch, tokens)`, adds the base LM's last state to the embedding.
        `head=False` leaves the embedding and its start out.
        """
        config = self.config
        reference = next(value for value in (source_features, anchor_features) if value is not None)
        batch, weights = len(reference), None
        if arca.anchor_tokens is not None:
            weights = self.arca.weights(arca)
            anchor_tokens, anchor_mask, anchor = mix_candidates(arca, anchor_features[:, :, 0], weights)
        else:
            anchor_tokens, anchor_mask = None, None
            anchor = reference.new_zeros(batch, config.anchor_dim)
        if arca.source_tokens is not None:
            source_tokens, source_mask, source = arca.source_tokens, arca.source_mask, source_features[:, 0]
        else:
            source_tokens, source_mask = None, None
            source = reference.new_zeros(batch, config.source_dim)
            if anchor_tokens is None:  # nothing at all: candidates of which there are none
                source_tokens = reference.new_zeros(batch, config.num_bins, config.hidden_size)
                source_mask = torch.zeros(source_tokens.shape[:2], dtype=torch.bool, device=source_tokens.device)
        if "multilingual_encoder" in config.without:
            keep_source = torch.zeros(batch, dtype=torch.bool, device=reference.device)
        if keep_source is not None and source_mask is not None:
            source_mask, source = source_mask & keep_source[:, None], source * keep_source[:, None]
        if keep_anchor is not None and anchor_mask is not None:
            anchor_mask, anchor = anchor_mask & keep_anchor[:, None], anchor * keep_anchor[:, None]
        tokens, mask = self.fusion(source_tokens, source_mask, anchor_tokens, anchor_mask, language_ids)
        fused = {"last_hidden_state": tokens, "fusion_mask": mask.long(), **self._judged(arca)}
        if not head:
            return LiraModelOutput(**fused)
        share = self.embedding_head.path_weight(choice_facts(arca, anchor, weights), language_ids)
        fused["start_embeds"] = start = join_paths(source, anchor, share)
        state = None
        if prompt is not None:
            ids, attention = prompt
            soft = self.soft_prefix(tokens, mask)
            states = run_base(
                self.language_model, config, ids, attention, soft.embeds, soft.mask, states=True
            ).last_hidden_state
            state = last_states(states, attention)
        return LiraModelOutput(pooler_output=self.embedding_head(tokens, mask, start, state), **fused)

    def _judged(self, arca: LiraArcaOutput) -> dict[str, torch.Tensor | None]:
        known = {name: getattr(arca, name) for name in ("source_embeds", "anchor_embeds", "similarity")}
        return known | {"policy": None if arca.log_policy is None else arca.log_policy.exp() * arca.candidate_mask}

    def _features(
        self, source_ids, source_mask, anchor_ids, anchor_mask, source_features, anchor_features, input_ids=None
    ):
        if source_ids is not None and source_features is not None:
            raise ValueError("got source_ids and source_features; expected one of them; leave the other out")
        if anchor_ids is not None and anchor_features is not None:
            raise ValueError("got anchor_ids and anchor_features; expected one of them; leave the other out")
        if source_ids is not None:
            source_features = self.encode_source(source_ids, source_mask)
        if anchor_ids is not None:
            anchor_features = self.encode_anchor(anchor_ids, anchor_mask)
        if source_features is None and anchor_features is None and input_ids is not None:
            raise ValueError(
                "got input_ids alone, which are the base LM's tokens in this checkpoint; expected the multilingual "
                "encoder's as source_ids (or source_features); prepare inputs with AutoProcessor, not with a tokenizer"
            )
        if source_features is None and anchor_features is None:
            raise ValueError(
                "got neither a text nor candidates; expected source_ids (or source_features) or anchor_ids (or "
                "anchor_features); prepare inputs with AutoProcessor"
            )
        # Backbones may lie on other devices than the heads, and in other dtypes.
        heads = self.arca.adaptor.fc1.weight
        source_features = None if source_features is None else source_features.to(heads)
        anchor_features = None if anchor_features is None else anchor_features.to(heads)
        return source_features, anchor_features
