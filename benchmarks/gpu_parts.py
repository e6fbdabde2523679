"""What `bench_gpu` runs: sizes, random models, inputs, and the comparison of a device with float32 on the CPU."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, BertConfig, BertModel, Qwen3Config, XLMRobertaConfig, XLMRobertaModel

from lira_hf import LiraForCausalLM, LiraModel
from lira_hf.losses import DocQueue, RetrievalLoss


# From float32 on the CPU: least cosine of embeddings and of logits, most relative error of losses.
TOLERANCES = {"float32": (0.99999, 0.9999, 1e-4), "bfloat16": (0.995, 0.98, 2e-2)}


@dataclass(frozen=True)
class Sizes:
    """Shapes of the models and of what they are given."""

    base: dict[str, int]
    g: dict[str, int]
    h: dict[str, int]
    batch: int
    tokens: int
    candidates: int
    queues: tuple[int, ...]
    new_tokens: int
    prompt: int
    vectors: int
    vocabulary: int


REAL = Sizes(
    base={
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151_936,
    },
    g={
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "vocab_size": 250_002,
    },
    h={
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "vocab_size": 30_522,
    },
    batch=256,
    tokens=64,
    candidates=3,
    queues=(0, 4096, 65_536),
    new_tokens=64,
    prompt=256,
    vectors=200_000,
    vocabulary=30_000,
)
_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TINY = Sizes(
    base={**_TINY, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 300},
    g={**_TINY, "vocab_size": 300},
    h={**_TINY, "vocab_size": 200},
    batch=8,
    tokens=8,
    candidates=2,
    queues=(0, 64),
    new_tokens=4,
    prompt=12,
    vectors=500,
    vocabulary=150,
)


# Models and inputs


def build(sizes: Sizes) -> LiraForCausalLM:
    """Random parts, joined, float32, on the CPU."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(Qwen3Config(**sizes.base, tie_word_embeddings=True, eos_token_id=None))
    g = XLMRobertaModel(XLMRobertaConfig(**sizes.g, max_position_embeddings=514), add_pooling_layer=False)
    h = BertModel(BertConfig(**sizes.h), add_pooling_layer=False)
    model = LiraForCausalLM.from_backbones(base, g, h, num_bins=4)
    model.generation_config.eos_token_id = base.generation_config.eos_token_id = None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # as it starts, the delta is zero, and nothing of it would be compared
        for part in (model.lira.arca, model.lira.fusion, model.lira.embedding_head, model.lira.prefix_projector):
            for weight in part.parameters():
                weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def place(model: LiraForCausalLM, device: torch.device, dtype: torch.dtype) -> LiraForCausalLM:
    """The backbones in that dtype, all of it on that device."""
    model.to(device)
    for part in (model.lira.encoder, model.lira.anchor, model.language_model):
        part.to(dtype)
    return model


def roads(sizes: Sizes, rows: int, candidates: int, seed: int = 2) -> dict[str, Tensor]:
    """Tokens of texts and of their candidates, three quarters to all of the width long."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> tuple[Tensor, Tensor]:
        ids = torch.randint(5, sizes.vocabulary, shape, generator=generator)
        lengths = torch.randint(3 * shape[-1] // 4, shape[-1] + 1, shape[:-1], generator=generator)
        return ids, (torch.arange(shape[-1]) < lengths[..., None]).long()

    found = dict(zip(("source_ids", "source_mask"), draw(rows, sizes.tokens), strict=True))
    if candidates:
        found |= dict(zip(("anchor_ids", "anchor_mask"), draw(rows, candidates, sizes.tokens), strict=True))
    return found


def prompts(model: LiraForCausalLM, sizes: Sizes, rows: int) -> dict[str, Tensor]:
    """The soft prefix's slots, and a prompt."""
    slots = torch.full((rows, model.config.prefix_length), model.config.prefix_token_id)
    ids = torch.randint(5, sizes.vocabulary, (rows, sizes.prompt), generator=torch.Generator().manual_seed(3))
    ids = torch.cat([slots, ids], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def moved(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in batch.items()}


def features_of(core: LiraModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the feature cache would hold of a batch."""
    found = {"source_features": core.encode_source(batch["source_ids"], batch["source_mask"])}
    if "anchor_ids" in batch:
        found["anchor_features"] = core.encode_anchor(batch["anchor_ids"], batch["anchor_mask"])
    return found


# Right first


@torch.no_grad()
def answers(model: LiraForCausalLM, sizes: Sizes, device: torch.device) -> dict[str, Tensor]:
    """Embeddings, last logits and losses of a small batch, in float32 on the CPU."""
    few = min(sizes.batch, 4)
    text = moved(roads(sizes, few, sizes.candidates), device)
    embeddings = model.lira(**text).pooler_output
    logits = model(**moved(prompts(model, sizes, few), device), **text, use_cache=False, logits_to_keep=1).logits[
        :, -1
    ]
    generator = torch.Generator().manual_seed(4)
    queries, documents = (torch.randn(8, 64, generator=generator).to(device) for _ in range(2))
    ids, queue = torch.arange(8, device=device), DocQueue(32, 64).to(device)
    queue.push(torch.nn.functional.normalize(torch.randn(32, 64, generator=generator)).to(device), ids.repeat(4) + 8)
    losses = [RetrievalLoss(kind)(queries, documents, ids, queue=queue).loss for kind in ("soft_ndcg", "infonce")]
    found = {"embeddings": embeddings, "logits": logits, "losses": torch.stack(losses)}
    return {name: value.float().cpu() for name, value in found.items()}


def compare(found: dict[str, Tensor], truth: dict[str, Tensor], name: str) -> dict[str, Any]:
    """How far a device's answers in a dtype are from the CPU's, and whether that is near enough."""
    cosines = {
        part: float(torch.cosine_similarity(found[part], truth[part], dim=-1).min())
        for part in ("embeddings", "logits")
    }
    error = float(((found["losses"] - truth["losses"]).abs() / truth["losses"].abs()).max())
    least_embedding, least_logits, most = TOLERANCES[name]
    right = cosines["embeddings"] >= least_embedding and cosines["logits"] >= least_logits and error <= most
    rounded = {f"least_cosine_of_{part}": round(value, 6) for part, value in cosines.items()}
    return {**rounded, "most_error_of_losses": error, "tolerances": TOLERANCES[name], "met": right}
