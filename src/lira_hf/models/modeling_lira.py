"""LiraModel: both roads into English space, Arca between them, LaSR on top."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .backbones_lira import backbone_fingerprint, build_encoder, encode_tokens, load_encoder
from .configuration_lira import LIRA_VERSION, LiraConfig
from .modeling_arca import LiraArca, LiraArcaOutput
from .modeling_lasr import LiraAttention, LiraEmbeddingHead, LiraFusion, LiraFusionLayer, join_paths
from .pooling_lira import unit


__all__ = ["LiraModel", "LiraModelOutput", "LiraPreTrainedModel"]


@dataclass
class LiraModelOutput(ModelOutput):
    """
    Output of [`LiraModel`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): The Arca loss, where `return_loss=True`.
        pooler_output (`torch.Tensor` of shape `(batch, projection_dim)`):
            The embedding, of unit length; zero for a row with neither text nor candidate.
        last_hidden_state (`torch.Tensor` of shape `(batch, 2 x bins, hidden_size)`): Fused tokens.
        start_embeds (`torch.Tensor` of shape `(batch, projection_dim)`): The start z = [g; h], before LaSR's delta.
        source_path_embeds, anchor_path_embeds (`torch.Tensor` of shape `(batch, projection_dim)`, *optional*):
            The embedding from one road alone, where `output_paths=True`.
        source_embeds (`torch.Tensor` of shape `(batch, hidden_size)`, *optional*): E_lr.
        anchor_embeds (`torch.Tensor` of shape `(batch, candidates, hidden_size)`, *optional*): E_en.
        similarity (`torch.Tensor` of shape `(batch, candidates)`, *optional*): sim of each candidate.
        policy (`torch.Tensor` of shape `(batch, candidates)`, *optional*): pi; 0 for absent candidates.
        hidden_states, attentions (*optional*): Of the fusion's layers, where asked for.
    """

    loss: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    start_embeds: torch.Tensor | None = None
    source_path_embeds: torch.Tensor | None = None
    anchor_path_embeds: torch.Tensor | None = None
    source_embeds: torch.Tensor | None = None
    anchor_embeds: torch.Tensor | None = None
    similarity: torch.Tensor | None = None
    policy: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class LiraPreTrainedModel(PreTrainedModel):
    """Initialisation and loading shared by every LiRA class."""

    config: LiraConfig
    base_model_prefix = "lira"
    main_input_name = "source_ids"
    input_modalities = ("text",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["LiraFusionLayer"]
    _keys_to_ignore_on_load_unexpected = [r"^(encoder|anchor)\.pooler\."]  # of a live backbone that had one
    _supports_sdpa = True
    _supports_flash_attn = False  # the fusion needs a mask over absent roads
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": LiraFusionLayer, "attentions": LiraAttention}

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
        elif isinstance(module, LiraFusion):
            init.normal_(module.path_embedding, std=std)
            init.normal_(module.bin_embedding, std=std)
            if module.language_embedding is not None:
                init.zeros_(module.language_embedding.weight)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in Transformers; the configuration also records the version of lira_hf."""
        self.config.lira_version = LIRA_VERSION
        return super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        As in Transformers, and strict about LiRA's own weights: a checkpoint that lacks one, or has one of another
        shape, is refused instead of being completed with random numbers.

        Raises:
            ValueError: Naming the missing weights.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} weights of {cls.__name__}, among them "
                f"{', '.join(missing[:5])}; expected a whole checkpoint written by save_pretrained; save it again, or "
                "join the backbones anew with from_backbones"
            )
        # Loading makes new parameters, which all want a gradient.
        model.base_model.freeze()
        return (model, info) if wants_info else model


class LiraModel(LiraPreTrainedModel):
    """
    LiRA's embedding model: `pooler_output` for retrieval and ranking.

    The backbones are frozen and in evaluation mode until [`~LiraModel.freeze`] says otherwise.

    Args:
        config ([`LiraConfig`]): The configuration.
        encoder, anchor (`PreTrainedModel`, *optional*): Ready-made backbones; built from the configuration otherwise.

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

    def __init__(
        self, config: LiraConfig, encoder: PreTrainedModel | None = None, anchor: PreTrainedModel | None = None
    ):
        super().__init__(config)
        if config.base_config is not None:
            raise ValueError(
                f"the configuration names a base LM ({config.base_config.model_type}); LiraModel of this version is "
                "embedding-only; set base_config=None"
            )
        self.encoder = build_encoder(config.encoder_config) if encoder is None else encoder
        self.anchor = None
        if config.anchor_config is not None:
            self.anchor = build_encoder(config.anchor_config) if anchor is None else anchor
        self.arca = LiraArca(config)
        self.fusion = LiraFusion(config)
        self.embedding_head = LiraEmbeddingHead(config)
        self._relink_configs()
        self.post_init()
        self.freeze()

    def _relink_configs(self) -> None:
        # One object, so that set_attn_implementation and from_pretrained reach the backbones' own configurations.
        self.config.encoder_config = self.encoder.config
        if self.anchor is not None:
            self.config.anchor_config = self.anchor.config

    @property
    def anchor_encoder(self) -> PreTrainedModel:
        """The English encoder h; g where there is no separate one."""
        return self.encoder if self.anchor is None else self.anchor

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in Transformers, for g, whose own configuration has to know the new size."""
        return self.encoder.resize_token_embeddings(*args, **kwargs)

    @classmethod
    def from_backbones(
        cls,
        encoder: str | PreTrainedModel,
        anchor: str | PreTrainedModel | None = None,
        *,
        encoder_kwargs: dict | None = None,
        anchor_kwargs: dict | None = None,
        **config_kwargs,
    ) -> "LiraModel":
        """
        Joins pretrained backbones with a new Arca and LaSR.

        Args:
            encoder (`str` or `PreTrainedModel`): The multilingual encoder g: name, local folder or live module.
            anchor (`str` or `PreTrainedModel`, *optional*): The English encoder h. `None`: g serves as h.
            encoder_kwargs, anchor_kwargs (`dict`, *optional*): For `from_pretrained` of each: `dtype`, `revision`, ...
            config_kwargs: Fields of [`LiraConfig`].

        Returns:
            [`LiraModel`]: In evaluation mode; its embedding is the concatenation [g; h] until it is trained.
        """
        parts = {"encoder": load_encoder(encoder, **(encoder_kwargs or {})), "anchor": None}
        if anchor is not None:
            parts["anchor"] = load_encoder(anchor, **(anchor_kwargs or {}))
        if parts["anchor"] is parts["encoder"]:
            parts["anchor"] = None  # one live module for both roads is saved once
        info = {}
        for name, part in parts.items():
            if part is not None:
                info[name] = {"name": part.config.name_or_path, "fingerprint": backbone_fingerprint(part)}
        # Copies: a composite configuration resets _attn_implementation on the live ones, silently.
        configs = {f"{k}_config": copy.deepcopy(part.config) for k, part in parts.items() if part is not None}
        config = LiraConfig(**configs, backbone_info=info, **config_kwargs)
        return cls(config, **parts).eval()

    def freeze(self, encoder: bool = True, anchor: bool = True, arca: bool = False, lasr: bool = False) -> "LiraModel":
        """
        Says what is trained. Frozen backbones stay in evaluation mode and keep no graph.

        Args:
            encoder, anchor (`bool`, *optional*, defaults to `True`): Freeze g, h. Stage 1 and 2 do (paper).
            arca (`bool`, *optional*, defaults to `False`): Freeze adaptor and actor.
            lasr (`bool`, *optional*, defaults to `False`): Freeze fusion and embedding head; stage 1 does.

        Returns:
            The model itself.
        """
        parts = {self.encoder: encoder, self.arca: arca, self.fusion: lasr, self.embedding_head: lasr}
        if self.anchor is not None:
            parts[self.anchor] = anchor
        for module, frozen in parts.items():
            module.requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "LiraModel":
        super().train(mode)
        for backbone in (self.encoder, self.anchor):
            if backbone is not None and not any(p.requires_grad for p in backbone.parameters()):
                backbone.eval()
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
        frozen = not any(p.requires_grad for p in backbone.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
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
        language_ids: torch.Tensor | None = None,
        source_features: torch.Tensor | None = None,
        anchor_features: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        keep_source: torch.Tensor | None = None,
        keep_anchor: torch.Tensor | None = None,
        output_paths: bool = False,
        return_loss: bool = False,
        **kwargs,
    ) -> LiraModelOutput | tuple:
        """
        Args:
            source_ids, source_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): g's tokens.
            anchor_ids, anchor_mask (`torch.Tensor` of shape `(batch, candidates, tokens)`, or `(batch, tokens)`):
                h's tokens of K candidates, or of one. A candidate without tokens is absent.
            anchor_scores (`torch.Tensor` of shape `(batch, candidates, 3)`, *optional*):
                The judge's s, e, p in 1..10; 0 where it did not judge.
            language_ids (`torch.Tensor` of shape `(batch,)`, *optional*): 1 + index in `config.languages`; 0: unknown.
            source_features (`torch.Tensor` of shape `(batch, 1 + bins, d_g)`, *optional*): Cached, for `source_ids`.
            anchor_features (`torch.Tensor` of shape `(batch, candidates, 1 + bins, d_h)`, *optional*): Likewise.
            input_ids, attention_mask (*optional*): Other names of `source_ids` and `source_mask`, as this checkpoint
                has no base LM.
            keep_source, keep_anchor (`torch.Tensor` of shape `(batch,)`, bool, *optional*):
                `False` takes that road away from a row: path dropout (ours).
            output_paths (`bool`, *optional*, defaults to `False`): Also embed by each road alone (consistency, paper).
            return_loss (`bool`, *optional*, defaults to `False`): Also give the Arca loss (stage 1).

        Returns:
            [`LiraModelOutput`] or a tuple.
        """
        if source_ids is None and input_ids is not None:
            source_ids, source_mask = input_ids, attention_mask
        source_features, anchor_features = self._features(
            source_ids, source_mask, anchor_ids, anchor_mask, source_features, anchor_features
        )
        self._check_shapes(source_features, anchor_features, anchor_scores)
        arca = self.arca(source_features, anchor_features, anchor_scores)
        output = self.fuse(arca, source_features, anchor_features, language_ids, keep_source, keep_anchor)
        if output_paths:
            none = torch.zeros(len(output.pooler_output), dtype=torch.bool, device=output.pooler_output.device)
            paths = [
                self.fuse(arca, source_features, anchor_features, language_ids, keep_anchor=none),
                self.fuse(arca, source_features, anchor_features, language_ids, keep_source=none),
            ]
            output.source_path_embeds, output.anchor_path_embeds = (path.pooler_output for path in paths)
        if return_loss:
            output.loss = self.arca.loss(arca, anchor_scores)
        return output

    def fuse(
        self,
        arca: LiraArcaOutput,
        source_features: torch.Tensor | None,
        anchor_features: torch.Tensor | None,
        language_ids: torch.Tensor | None = None,
        keep_source: torch.Tensor | None = None,
        keep_anchor: torch.Tensor | None = None,
    ) -> LiraModelOutput:
        """
        LaSR over what Arca found. `keep_source` and `keep_anchor`, bool `(batch,)`, take a road away from single rows.
        """
        config = self.config
        reference = next(value for value in (source_features, anchor_features) if value is not None)
        batch, empty = len(reference), (len(reference), config.num_bins, config.hidden_size)
        weights = None
        if arca.anchor_tokens is not None:
            weights = self.arca.weights(arca)
            anchor_tokens, anchor_mask, anchor = _mix(arca, anchor_features[:, :, 0], weights)
        else:
            anchor_tokens, anchor_mask = reference.new_zeros(empty), reference.new_zeros(empty[:2], dtype=torch.bool)
            anchor = reference.new_zeros(batch, config.anchor_dim)
        if arca.source_tokens is not None:
            source_tokens, source_mask, source = arca.source_tokens, arca.source_mask, source_features[:, 0]
        else:
            source_tokens, source_mask = reference.new_zeros(empty), reference.new_zeros(empty[:2], dtype=torch.bool)
            source = reference.new_zeros(batch, config.source_dim)
        if keep_source is not None:
            source_mask, source = source_mask & keep_source[:, None], source * keep_source[:, None]
        if keep_anchor is not None:
            anchor_mask, anchor = anchor_mask & keep_anchor[:, None], anchor * keep_anchor[:, None]
        start = join_paths(source, anchor, config.path_weight)
        tokens, mask = self.fusion(source_tokens, source_mask, anchor_tokens, anchor_mask, language_ids)
        return LiraModelOutput(
            pooler_output=self.embedding_head(tokens, mask, start),
            last_hidden_state=tokens,
            start_embeds=start,
            source_embeds=arca.source_embeds,
            anchor_embeds=arca.anchor_embeds,
            similarity=arca.similarity,
            policy=None if weights is None else arca.log_policy.exp() * arca.candidate_mask,
        )

    def _features(self, source_ids, source_mask, anchor_ids, anchor_mask, source_features, anchor_features):
        if source_ids is not None and source_features is not None:
            raise ValueError("got source_ids and source_features; expected one of them; leave the other out")
        if anchor_ids is not None and anchor_features is not None:
            raise ValueError("got anchor_ids and anchor_features; expected one of them; leave the other out")
        if source_ids is not None:
            source_features = self.encode_source(source_ids, source_mask)
        if anchor_ids is not None:
            anchor_features = self.encode_anchor(anchor_ids, anchor_mask)
        if source_features is None and anchor_features is None:
            raise ValueError(
                "got neither a text nor candidates; expected source_ids (or source_features) or anchor_ids (or "
                "anchor_features); prepare inputs with AutoProcessor"
            )
        dtype = self.arca.adaptor.fc1.weight.dtype
        source_features = None if source_features is None else source_features.to(dtype)
        anchor_features = None if anchor_features is None else anchor_features.to(dtype)
        return source_features, anchor_features

    def _check_shapes(self, source_features, anchor_features, anchor_scores) -> None:
        rows = 1 + self.config.num_bins
        if source_features is not None and source_features.shape[1:] != (rows, self.config.source_dim):
            raise ValueError(
                f"source_features has shape {tuple(source_features.shape)}; expected (batch, {rows}, "
                f"{self.config.source_dim}): the sentence vector and {self.config.num_bins} bins; cache them with "
                "this model"
            )
        if anchor_features is None:
            return
        if anchor_features.dim() != 4 or anchor_features.shape[2:] != (rows, self.config.anchor_dim):
            raise ValueError(
                f"anchor_features has shape {tuple(anchor_features.shape)}; expected (batch, candidates, {rows}, "
                f"{self.config.anchor_dim}); cache them with this model"
            )
        if source_features is not None and len(source_features) != len(anchor_features):
            raise ValueError(
                f"got {len(source_features)} texts and {len(anchor_features)} rows of candidates; expected one row of "
                "candidates per text"
            )
        if anchor_scores is not None and anchor_scores.shape != (*anchor_features.shape[:2], 3):
            raise ValueError(
                f"anchor_scores has shape {tuple(anchor_scores.shape)}; expected {(*anchor_features.shape[:2], 3)}: "
                "semantic, emotional and pragmatic score of each candidate"
            )


def _mix(arca: LiraArcaOutput, sentence: torch.Tensor, weights: torch.Tensor):
    """Candidates by their weights: tokens `(batch, bins, hidden)`, mask `(batch, bins)`, sentence `(batch, d_h)`."""
    bin_weights = weights.unsqueeze(-1) * arca.anchor_mask  # (batch, candidates, bins)
    total = bin_weights.sum(1)
    # A bin that only candidates of next to no weight reach is left out, as it would be without them.
    mask = total > 1e-6
    tokens = (bin_weights.unsqueeze(-1) * arca.anchor_tokens).sum(1) / total.clamp(min=1e-6).unsqueeze(-1)
    mixed = (weights.unsqueeze(-1) * unit(sentence)).sum(1)
    return tokens, mask, mixed
