"""A tiny, randomly initialised model of every decoder-only type that transformers has a causal language model for.

`build(model_type)` gives one on the CPU in float32; `check_tiny_configs.py` proves that each runs without LiRA.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D


# Rule: by default, the configuration is an encoder-decoder's (`is_encoder_decoder`), or, for trocr, the decoder's of a
# `VisionEncoderDecoderModel`. The class in the mapping is the decoder half of the model that was trained.
SEQ2SEQ_DECODERS = frozenset(
    "bart bigbird_pegasus blenderbot blenderbot-small marian mbart musicgen musicgen_melody mvp pegasus plbart"
    " prophetnet trocr whisper".split()
)

# Rule: pretrained to fill in masked, permuted or replaced tokens, with attention to both sides. One is causal only by
# a flag that is off by default (`is_decoder`, `causal`), or, for xlnet, by masks of the caller's own.
ENCODERS = frozenset(
    "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert reformer rembert roberta"
    " roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xlnet xmod".split()
)

# Rule: the configuration nests another one (`sub_configs`), of a vision, audio or language model. The text models that
# have a type of their own (`gemma3_text`, ...) are decoders and stay.
MULTIMODAL = frozenset(
    "dots3_note emu3 fuyu gemma3 gemma3n gemma4 gemma4_assistant gemma4_unified gemma4_unified_assistant git got_ocr2"
    " llama4 mllama moshi moss_transcribe_diarize phi4_multimodal qwen3_5 qwen3_5_moe qwen4_exp".split()
)

DECODER_ONLY = [
    name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in SEQ2SEQ_DECODERS | ENCODERS | MULTIMODAL
]

# Types that cannot run, with the reason. There is none in transformers 5.23.
SKIPPED: dict[str, str] = {}

# Types whose own cached generation differs from a full forward pass. `build` makes them generate without a cache.
UNCACHED: dict[str, str] = {
    "blt": "the global transformer has no cache: in a cached step it sees only the patches of the newest token",
    "cpmant": "its mask lets each token see the later ones (`context` is 1 throughout), and a cached one has not",
}

# Types whose own answer to a left-padded prompt differs from that to the prompt alone, whatever the mask says.
PADDING_MATTERS: dict[str, str] = {
    "blt": "the patcher cuts the padding into patches too, and no mask reaches the patches",
    "deepseek_v4": "keys are compressed in blocks counted from the first column, so padding moves the blocks",
    "minimax_m3_vl_text": "keys are chosen by blocks counted from the first column, so padding moves the blocks",
    "rwkv": "its forward takes the attention mask and does not use it",
    "xlstm": "its forward has no attention mask",
}

# Sizes by the names that configuration classes give them. Each is an upper bound: what a class has smaller stays, and
# `None` keeps its meaning. Windows and chunks are shorter than a prompt with what is generated, so that they bite.
_SIZES_BY_NAMES = {
    32: "hidden_size n_embd d_model embedding_dim word_embed_proj_dim lru_width router_hidden_size ple_embed_dim"
    " moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size shared_intermediate_size"
    " expert_ffn_hidden_size moe_shared_expert_intermediate_size",
    64: "intermediate_size intermediate_size_mlp dense_intermediate_size ffn_dim ffn_hidden_size dim_ff dff"
    " mamba_d_ssm"
    # The indexers score keys by sums of what a ReLU lets through. So small, many scores tie or nearly do, and rounding
    # decides which keys are left out: none is, up to 64.
    " index_topk",
    128: "max_position_embeddings n_positions n_ctx max_seq_len context_length rel_extent",
    16: "q_lora_rank kv_lora_rank o_lora_rank laurel_rank adapter_rank gated_norm_rank hc_lowrank index_head_dim"
    " mamba_d_head mamba_head_dim hidden_size_per_layer_input",
    8: "head_dim swa_head_dim dim_head kv_channels qk_nope_head_dim qk_rope_head_dim v_head_dim linear_head_dim"
    " linear_key_head_dim linear_value_head_dim state_size ssm_state_size mamba_d_state sliding_window"
    " sliding_window_size attention_window_size attention_chunk_size window_size local_attention mamba_chunk_size"
    " chunk_size block_size d_rel local_attention_window_len",
    4: "num_attention_heads n_head n_heads num_heads attention_heads swa_num_attention_heads linear_num_heads"
    " linear_num_value_heads mamba_n_heads mamba_num_heads num_experts n_routed_experts num_local_experts"
    " moe_num_experts rotary_dim index_block_size time_step_rank mamba_dt_rank",
    2: "num_hidden_layers n_layer n_layers num_layers num_blocks num_key_value_heads num_kv_heads"
    " swa_num_key_value_heads linear_num_key_heads index_n_heads num_experts_per_tok moe_topk moe_k n_group n_groups"
    " o_groups zero_expert_num",
    1: "topk_group first_k_dense_replace num_dense_layers",
}
_SIZES = {name: size for size, names in _SIZES_BY_NAMES.items() for name in names.split()}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# A nested `vocab_size` is replaced by the one asked for.
_BLT_PART = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}

# What the general rule cannot know.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},  # the default has no attention, which the library's cache refuses
    "blt": {
        "num_hidden_layers": 2,  # the cache asks for it, and the class does not have it
        "encoder_hash_byte_group_vocab": 50,
        "encoder_hash_byte_group_size": [3, 4],
        "patcher_config": {**_BLT_PART, "vocab_size": 0},
        "encoder_config": {**_BLT_PART, "vocab_size": 0, "hidden_size_global": 64},
        "decoder_config": {**_BLT_PART, "vocab_size": 0, "hidden_size_global": 64},
        "global_config": {**_BLT_PART, "hidden_size": 64},
    },
    "cohere_compass_text": {  # the default asks for rotary sections that its own code does not fill in
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {**_ROPE, "mrope_section": [2, 1, 1]} for kind in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {  # the attention reads a rope_theta that its configuration does not have by default
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v4": {"compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4}},
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "dots3_note_text": {
        "head_dim": 16,
        **{f"swa_{name}": 16 for name in ("head_dim", "q_lora_rank", "kv_lora_rank")},
        **{f"swa_{name}": 8 for name in ("qk_nope_head_dim", "v_head_dim")},
        **{f"swa_{name}": 4 for name in ("num_attention_heads", "num_key_value_heads")},
    },
    "falcon_h1": {"mamba_d_head": 16},
    "gemma3n_text": {  # the last two layers take the keys and values of the first two
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": [64] * 4,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    "gemma4_text": {"global_head_dim": 16},
    "gemma4_unified_text": {"global_head_dim": 16},
    "glm_moe_dsa": {"indexer_types": ["full", "shared"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": {"layer_types": ["full_attention", "sliding_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {"interleave_moe_layer_step": 2},  # a dense layer, then experts
    "mamba2": {"head_dim": 16},
    "mellum": {"layer_types": ["full_attention", "sliding_attention"]},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse"],
    },
    "qwen4_exp_text": {  # the default has an indexer in each attention, and no sizes for it
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},  # two recurrent blocks come before the first attention
    # The state is sized in multiples of 64, which the layers' own sizes have to be by themselves.
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0, "autocast_kernel_dtype": "float32"},
    "zamba": {  # the shared block is tied to its later copies: one copy at least
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
}


def _layer_lists(default: PreTrainedConfig) -> dict[str, list[Any]]:
    """The per-layer lists of `default`, cut to the first layer of each kind, in order, and at least two."""
    fields = type(default).__dataclass_fields__
    count = vars(default).get("num_hidden_layers")
    lists = {
        name: list(value)
        for name, value in vars(default).items()
        # A list of all the layers' numbers has the right length too, and follows from the others.
        if name in fields
        and isinstance(value, list | tuple)
        and len(value) == count
        and list(value) != [*range(count)]
    }
    kept: list[int] = []
    seen: set[tuple[str, str]] = set()
    for layer in range(count or 0):
        kinds = {(name, str(values[layer])) for name, values in lists.items()}
        if not kinds <= seen:
            kept.append(layer)
        seen |= kinds
    if len(kept) == 1:
        kept.append(1)
    return {name: [values[layer] for layer in kept] for name, values in lists.items()}


def tiny_config(model_type: str, vocab_size: int = 99) -> PreTrainedConfig:
    """A configuration of `model_type` with each kind of layer that its default has, and little else."""
    config_class = CONFIG_MAPPING[model_type]
    default = config_class()
    # Not by `getattr`, which is refused for what varies by layer.
    given = {
        name: vars(default).get(config_class.attribute_map.get(name, name))
        for name in config_class.__dataclass_fields__
    }
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in _SIZES and isinstance(value, int) and not isinstance(value, bool):
            values[name] = min(value, _SIZES[name])
        elif "drop" in name and isinstance(value, float):
            values[name] = 0.0
        elif name in ("initializer_range", "init_std", "embedding_initializer_range"):
            values[name] = 0.3
        elif name.endswith("_token_id"):
            values[name] = _TOKENS.get(name, min(value, 3) if isinstance(value, int) else value)
        elif "vocab_size" in name and isinstance(value, int):
            values[name] = vocab_size
    if "head_dim" in given:
        values["head_dim"] = 8  # some classes allow `None` and their attention does not
    if "num_key_value_heads" in given and given["num_key_value_heads"] in (None, given.get("num_attention_heads")):
        values["num_key_value_heads"] = 4  # as many as heads: latent attention, among others, has no groups
    if lists := _layer_lists(default):
        values.update(lists, num_hidden_layers=len(next(iter(lists.values()))))
    for name, value in OVERRIDES.get(model_type, {}).items():
        nested = isinstance(value, dict) and "vocab_size" in value
        values[name] = {**value, "vocab_size": vocab_size} if nested else value
    return config_class(**values)


@torch.no_grad()
def _enliven(model: PreTrainedModel) -> None:
    """Lets what a model says depend on more than its last token, and wakes what only a checkpoint would."""
    # A tied head finds the last token again wherever the embeddings outweigh what the layers add to them.
    table = model.get_input_embeddings().weight
    table.mul_(0.3)
    for module in model.modules():
        if (
            isinstance(module, torch.nn.Linear | Conv1D)
            and module.weight is not table
            and 0 < module.weight.std() < 0.1
        ):
            module.weight.mul_(0.3 / module.weight.std())  # some classes initialise with a constant of their own
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("correct_output_scale"):
            tensor.fill_(1.0)  # gemma3n: at zero, the per-layer embeddings are without effect
        elif name.endswith("tid2eid"):  # deepseek_v4: the experts of each token id, all the first one until loaded
            ids, choices = torch.meshgrid(*(torch.arange(size) for size in tensor.shape), indexing="ij")
            tensor.copy_((ids + choices) % model.config.n_routed_experts)


def build(model_type: str, seed: int = 0) -> PreTrainedModel:
    """A tiny model of `model_type`, drawn from `seed`, in evaluation mode, that generates without a stop."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(model_type), dtype=torch.float32).eval()
    _enliven(model)
    model.generation_config.eos_token_id = None
    if model_type in UNCACHED:
        model.generation_config.use_cache = False
    return model
