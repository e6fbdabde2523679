"""Configuration of LiRA: two backbones, an optional base LM, and the sizes of Arca and LaSR."""

import os
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .saving_lira import finish_saving, is_plain_name


__all__ = ["LIRA_VERSION", "LiraConfig", "hidden_size"]

LIRA_VERSION = "0.1.0"

_POOLINGS = ("mean", "cls", "last")
# What `without` may switch off.
_OPTIONAL_PARTS = ("embedding_critic", "multilingual_encoder")


@strict
class LiraConfig(PreTrainedConfig):
    r"""
    Configuration of every LiRA class. Sub-configurations are kept whole, so a checkpoint needs no other repository.

    Args:
        base_config (`PreTrainedConfig` or `dict`, *optional*):
            The base causal LM. `None` makes an embedding-only model.
        encoder_config (`PreTrainedConfig` or `dict`, *optional*, defaults to XLM-R's defaults):
            The multilingual encoder g.
        anchor_config (`PreTrainedConfig` or `dict`, *optional*):
            The English encoder h. `None`: g serves as h.
        projection_dim (`int`, *optional*):
            Width of the embedding. The start is the concatenation [g; h], so it has to be their joint width, which is
            also the default.
        num_bins (`int`, *optional*, defaults to 4):
            Temporal bins S a text is pooled into (paper: S_feat).
        encoder_pooling, anchor_pooling (`str`, *optional*, defaults to `"mean"`):
            How a backbone makes its own sentence vector: `"mean"`, `"cls"` or `"last"` (ours).
        hidden_size (`int`, *optional*, defaults to 128):
            Width d of the adaptor and of the fusion.
        intermediate_size (`int`, *optional*, defaults to 256): Width of their feed-forward layers.
        num_attention_heads (`int`, *optional*, defaults to 4): Heads of the fusion.
        num_fusion_layers (`int`, *optional*, defaults to 1): Layers of the fusion.
        actor_hidden_size (`int`, *optional*, defaults to 64): Width of the actor's MLP.
        dropout (`float`, *optional*, defaults to 0.0): Dropout in adaptor and fusion.
        candidate_mode (`str`, *optional*, defaults to `"mixture"`):
            `"mixture"` weighs the candidates by the policy (ours), `"argmax"` takes the likeliest (paper).
        policy_prior (`float`, *optional*, defaults to 3.0):
            The untrained policy is the softmax of this times the judge's part of the reward (ours); 0: uniform.
        policy_temperature (`float`, *optional*, defaults to 1.0): Divides the policy's logits, in both modes.
        policy_objective (`str`, *optional*, defaults to `"mixture"`):
            `"reinforce"` (paper), `"expected"`, the exact gradient of the expected reward (ours), or `"mixture"`: the
            mixed candidates against a reference translation, where training rows have one, and `"expected"` for the
            others (ours).
        reward_weights (`list[float]`, *optional*, defaults to `[1.0, 1.0, 1.0, 1.0]`):
            alpha, beta, gamma of the judge's three scores and delta of the similarity (paper).
        reference_weight (`float`, *optional*, defaults to 1.0):
            Weight, in the reward, of a candidate's cosine to the reference in h's space, where there is one (ours).
        mixture_temperature (`float`, *optional*, defaults to 0.05): Of the objective `"mixture"` (ours).
        judge_dropout (`float`, *optional*, defaults to 0.5):
            Share of the training rows whose judge scores the actor doesn't see, so that it does without a judge at
            inference (ours).
        candidate_kinds (`list[str]`, *optional*, defaults to `[]`):
            Kinds of candidates, such as `"memory"` or a translator's name, that the actor tells apart (ours).
        query_prompt, document_prompt (`str`, *optional*, defaults to `""`):
            What g reads before a query or a document, such as `"query: "` and `"passage: "` for the E5 models, spaces
            included. h and the base LM read the bare text (ours).
        entropy_weight (`float`, *optional*, defaults to 0.01): Entropy bonus of the policy (ours).
        anchor_loss (`str`, *optional*, defaults to `"contrastive"`):
            `"contrastive"` adds an in-batch InfoNCE term to 1 - cos (ours); `"cosine"` is 1 - cos alone (paper),
            which collapses.
        anchor_weight (`float`, *optional*, defaults to 1.0): eta, weight of the anchoring loss (paper).
        contrastive_weight (`float`, *optional*, defaults to 0.3): Weight of the InfoNCE term (ours).
        contrastive_temperature (`float`, *optional*, defaults to 0.07): Its temperature (ours).
        path_weight (`float`, *optional*, defaults to 0.5):
            Share of g in the similarity of two untrained embeddings, tuned on dev (ours). 0.5 is the equal concat.
        language_path_weights (`dict[str, float]`, *optional*):
            That share of single languages, of texts in them, in place of `path_weight` (ours); `lira calibrate` finds
            them on held-out rows.
        path_gate (`bool`, *optional*, defaults to `False`):
            A gate per text around `path_weight`, from what is known of its candidates (ours); measured: worse
            than the constant (docs/results/lasr.md).
        start_map (`bool`, *optional*, defaults to `True`):
            The embedding's learned difference has a linear map of the start in it (ours), `projection_dim` squared
            weights.
        languages (`list[str]`, *optional*, defaults to `[]`):
            Tags with an embedding of their own in the fusion; any other language uses the "unknown" entry.
            Empty: no language embedding.
        anchor_languages (`list[str]`, *optional*, defaults to `["en"]`):
            Languages of h: a text in one of them is its own translation.
        without (`list[str]`, *optional*, defaults to `[]`):
            Parts that are switched off, to learn what they are worth (ours): `"embedding_critic"` (sim is 0 for the
            actor and its reward, and nothing is anchored) and `"multilingual_encoder"` (g's road is masked, and with
            it the embedding critic).
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.
        prefix_token_id (`int`, *optional*):
            Placeholder token of the soft prefix in the base LM's prompt; it may lie beyond the base's vocabulary,
            which is also the default where there is a base LM: its first id that no text can have.
        prefix_projection (`str`, *optional*, defaults to `"linear"`):
            How a fused token becomes a soft token: `"linear"`, anywhere in the base's input space, or `"vocab"`,
            within the hull of the base's own embeddings (ours).
        prefix_roads (`str`, *optional*, defaults to `"both"`):
            Soft tokens in the prompt: `"both"`, 2S, those of g's bins before those of h's (paper), or `"merged"`, S,
            each a mixture of both roads' (ours).
        prefix_gate (`bool`, *optional*, defaults to `True`):
            Where they are merged: weigh the roads (ours), in the kind "vocab" slot by slot, by how sure either is of
            it; in the kind "linear" text by text, by a learned gate. `False`: alike.
        gate_weights (`list[float]`, *optional*, defaults to `[4.0, 4.0]`):
            Of the gate of the kind "vocab" (ours): a slot's log-odds of g over h are `gate_bias` less the first times
            the entropy of g's reading, in nats, plus the second times that of h's. `calibrate_gate` sets them.
        gate_bias (`float`, *optional*, defaults to 0.0): In g's favour, where both are entirely sure (ours).
        prefix_injection (`str`, *optional*, defaults to `"hook"`):
            `"hook"` puts the soft tokens where the base looks its tokens up, which every base understands.
            `"inputs_embeds"` hands the base ready embeddings in `forward`, for `torch.compile` and `torch.export`;
            bases that read the ids themselves refuse it.
        embedding_source (`str`, *optional*, defaults to `"fusion"`):
            Where the embedding is read off: the fused tokens, or `"language_model"`, which adds the base LM's last
            state over prefix and text.
        backbones_saved (`bool`, *optional*, defaults to `True`): `False` in a slim checkpoint.
        backbone_info (`dict`, *optional*): Name, revision, dtype and fingerprint of each backbone.
        adapter_folder (`str`, *optional*): Sub-folder of a slim checkpoint that holds LoRA on the base LM.
        part_dtypes (`dict`, *optional*): The dtype of each part, where a checkpoint holds several.
        lira_version (`str`, *optional*): Version of lira_hf that wrote the checkpoint; one of a newer major version is
            refused.

    Example:

    ```python
    >>> from lira_hf import LiraModel

    >>> model = LiraModel.from_backbones("BAAI/bge-m3", "BAAI/bge-base-en-v1.5")
    >>> model.config.projection_dim
    1792
    ```
    """

    model_type = "lira"
    # What the Trainer must not gather over an evaluation: it changes size with K and the prompt.
    keys_to_ignore_at_inference = [
        "past_key_values",
        "prefix_embeds",
        "prefix_mask",
        "prefix_gate",
        "similarity",
        "policy",
        "reward",
    ]
    sub_configs_defaults = {
        "base_config": SubConfigSpec(config_class=AutoConfig, model_type="llama", optional=True),
        "encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="xlm-roberta"),
        "anchor_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
    }

    base_config: dict | PreTrainedConfig | None = None
    encoder_config: dict | PreTrainedConfig | None = None
    anchor_config: dict | PreTrainedConfig | None = None
    projection_dim: int | None = None
    num_bins: int = 4
    encoder_pooling: str = "mean"
    anchor_pooling: str = "mean"
    hidden_size: int = 128
    intermediate_size: int = 256
    num_attention_heads: int = 4
    num_fusion_layers: int = 1
    actor_hidden_size: int = 64
    hidden_act: str = "gelu"
    dropout: float | int = 0.0
    layer_norm_eps: float | int = 1e-5
    candidate_mode: Literal["mixture", "argmax"] = "mixture"
    policy_prior: float | int = 3.0
    policy_temperature: float | int = 1.0
    policy_objective: Literal["reinforce", "expected", "mixture"] = "mixture"
    reward_weights: list[float | int] | tuple[float | int, ...] = (1.0, 1.0, 1.0, 1.0)
    reference_weight: float | int = 1.0
    mixture_temperature: float | int = 0.05
    judge_dropout: float | int = 0.5
    candidate_kinds: list[str] | tuple[str, ...] = ()
    query_prompt: str = ""
    document_prompt: str = ""
    entropy_weight: float | int = 0.01
    anchor_loss: Literal["contrastive", "cosine"] = "contrastive"
    anchor_weight: float | int = 1.0
    contrastive_weight: float | int = 0.3
    contrastive_temperature: float | int = 0.07
    path_weight: float | int = 0.5
    language_path_weights: dict[str, float | int] | None = None
    path_gate: bool = False
    start_map: bool = True
    languages: list[str] | tuple[str, ...] = ()
    anchor_languages: list[str] | tuple[str, ...] = ("en",)
    without: list[str] | tuple[str, ...] = ()
    initializer_range: float | int = 0.02
    prefix_token_id: int | None = None
    prefix_projection: Literal["linear", "vocab"] = "linear"
    prefix_roads: Literal["both", "merged"] = "both"
    prefix_gate: bool = True
    gate_weights: list[float | int] | tuple[float | int, ...] = (4.0, 4.0)
    gate_bias: float | int = 0.0
    prefix_injection: Literal["hook", "inputs_embeds"] = "hook"
    embedding_source: Literal["fusion", "language_model"] = "fusion"
    backbones_saved: bool = True
    backbone_info: dict | None = None
    adapter_folder: str | None = None
    part_dtypes: dict | None = None
    lira_version: str | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        _check_version(self.lira_version)
        for name in self.sub_configs_defaults:
            setattr(self, name, _known_or_plain(getattr(self, name)))
        super().__post_init__(**kwargs)
        self.languages = list(self.languages)
        self.anchor_languages = list(self.anchor_languages)
        self.candidate_kinds = list(self.candidate_kinds)
        self.reward_weights = [float(weight) for weight in self.reward_weights]
        if self.projection_dim is None:
            self.projection_dim = self.source_dim + self.anchor_dim
        if self.prefix_token_id is None and self.base_config is not None:
            self.prefix_token_id = self.vocab_size
        self._check_sizes()
        self._check_weights()
        if self.adapter_folder is not None and not is_plain_name(self.adapter_folder):
            raise ValueError(
                f"adapter_folder is {self.adapter_folder!r}; expected the name of a folder within the checkpoint; "
                "don't use this checkpoint unless you know where it comes from"
            )

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in Transformers, of a folder whose saving, if it was interrupted, is finished first."""
        if pretrained_model_name_or_path is not None and os.path.isdir(pretrained_model_name_or_path):
            finish_saving(os.path.join(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
        return super().get_config_dict(pretrained_model_name_or_path, **kwargs)

    @property
    def source_dim(self) -> int:
        """Width d_g of the multilingual encoder's states."""
        return hidden_size(self.encoder_config, "encoder_config")

    @property
    def anchor_dim(self) -> int:
        """Width d_h of the English encoder's states; d_g where g serves as h."""
        return self.source_dim if self.anchor_config is None else hidden_size(self.anchor_config, "anchor_config")

    @property
    def prefix_length(self) -> int:
        """Soft tokens in the base LM's prompt: the S bins of either road, or of both merged."""
        return prefix_slots(self.num_bins, self.prefix_roads)

    @property
    def vocab_size(self) -> int | None:
        """Of `input_ids`: the base LM's, or the multilingual encoder's where there is no base LM."""
        owner: Any = self.encoder_config if self.base_config is None else self.base_config
        return getattr(owner.get_text_config(), "vocab_size", None)

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        owner: Any = self.encoder_config if self.base_config is None else self.base_config
        owner.get_text_config().vocab_size = value

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        # Caches, adapters and generation ask for the base LM's sizes; without a base LM there is only this config.
        if self.base_config is None or encoder:
            return self
        base: Any = self.base_config  # a dict only until __post_init__
        return base.get_text_config(decoder=decoder)

    def _check_sizes(self) -> None:
        joint = self.source_dim + self.anchor_dim
        if self.projection_dim != joint:
            raise ValueError(
                f"projection_dim is {self.projection_dim}; the embedding starts as the concatenation of g "
                f"({self.source_dim}) and h ({self.anchor_dim}), so {joint} is expected; leave projection_dim out"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; choose sizes that divide"
            )
        if self.num_bins < 1:
            raise ValueError(f"num_bins is {self.num_bins}; expected at least 1; 4 to 8 suit retrieval")
        for name in ("encoder_pooling", "anchor_pooling"):
            if getattr(self, name) not in _POOLINGS:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {_POOLINGS}")
        if self.embedding_source == "language_model" and self.base_config is None:
            raise ValueError(
                "embedding_source is 'language_model' and base_config is None; expected a base LM to read the "
                "embedding off; give one, or leave embedding_source at 'fusion'"
            )

    def _check_weights(self) -> None:
        if len(self.reward_weights) != 4:
            raise ValueError(
                f"reward_weights has {len(self.reward_weights)} numbers; expected 4: alpha, beta, gamma for the "
                "judge's semantic, emotional and pragmatic scores and delta for the similarity"
            )
        if not 0.0 <= self.path_weight <= 1.0:
            raise ValueError(
                f"path_weight is {self.path_weight}; expected the multilingual road's share, from 0 (only "
                "h) to 1 (only g)"
            )
        for tag, weight in (self.language_path_weights or {}).items():
            if tag not in self.languages or not 0.0 <= weight <= 1.0:
                raise ValueError(
                    f"language_path_weights has {tag!r}: {weight}; expected a language of {list(self.languages)} and "
                    "the multilingual road's share, from 0 to 1; correct it"
                )
        if len(self.gate_weights) != 2:
            raise ValueError(
                f"gate_weights has {len(self.gate_weights)} numbers; expected 2: of the multilingual and of the "
                "English road's entropy"
            )
        for name in ("policy_temperature", "mixture_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number above 0")
        if not 0.0 <= self.judge_dropout <= 1.0:
            raise ValueError(f"judge_dropout is {self.judge_dropout}; expected a share of the rows, from 0 to 1")
        unknown = sorted(set(self.without) - set(_OPTIONAL_PARTS))
        if unknown:
            raise ValueError(f"without names {unknown}; expected parts of {list(_OPTIONAL_PARTS)}; correct it")
        if len(set(self.candidate_kinds)) != len(self.candidate_kinds):
            raise ValueError(f"candidate_kinds is {self.candidate_kinds}; expected each kind once; drop the repeated")


def _check_version(version: str | None) -> None:
    major = (version or "0").split(".")[0]
    if major.isdigit() and int(major) > int(LIRA_VERSION.split(".")[0]):
        raise ValueError(
            f"the checkpoint was written by lira_hf {version}; expected a version of the same major as the installed "
            f"{LIRA_VERSION}, or older; install a newer one: pip install --upgrade lira-hf"
        )


def _known_or_plain(config: dict | PreTrainedConfig | None) -> dict | PreTrainedConfig | None:
    """A backbone whose code comes with its repository: its fields, until the backbone itself brings its
    configuration."""
    if not isinstance(config, dict) or config.get("model_type") in (None, "", *CONFIG_MAPPING):
        return config
    kind = type("PlainConfig", (PreTrainedConfig,), {"model_type": config["model_type"]})
    return kind(**{name: value for name, value in config.items() if name != "model_type"})


def prefix_slots(num_bins: int, prefix_roads: str) -> int:
    """Soft tokens of a prefix of `num_bins` bins a road."""
    return num_bins if prefix_roads == "merged" else 2 * num_bins


def hidden_size(config: Any, name: str) -> int:
    """Width of the states of the backbone that `config`, the field `name`, describes."""
    # BLT keeps its widths in its parts; the last of them gives the states.
    for owner in (config.get_text_config(), getattr(config, "decoder_config", None)):
        for attribute in ("hidden_size", "d_model", "n_embd", "dim"):
            size = getattr(owner, attribute, None)
            if isinstance(size, int):
                return size
    raise ValueError(
        f"{name} ({type(config).__name__}) has none of hidden_size, d_model, n_embd, dim; LiRA reads the width of the "
        "model's states there; give the configuration a hidden_size"
    )
