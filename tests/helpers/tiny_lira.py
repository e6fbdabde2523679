"""Tiny random models of every family, joined into LiRA, and batches for them."""

import torch
from tiny_configs import build
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    T5Config,
    XLMRobertaConfig,
)

from lira_hf import LiraForCausalLM, LiraProcessor, NgramEncoderConfig
from lira_hf.models.backbones_lira import build_encoder


VOCAB = 100  # of the encoders; the base LMs have 99 tokens
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "actor_hidden_size": 8, "num_bins": 3}
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "dog",
    "ran",
    "big",
    "river",
    "house",
    "Dhaka",
    "city",
    "what",
    "is",
    "?",
]
_BERT = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 80}


def encoder_config(kind: str, dim: int = 16) -> PreTrainedConfig:
    """A tiny configuration of an encoder of that family."""
    if kind == "bert":
        return BertConfig(vocab_size=VOCAB, hidden_size=dim, **_BERT)
    if kind == "xlm-roberta":
        return XLMRobertaConfig(vocab_size=VOCAB, hidden_size=dim, pad_token_id=1, **_BERT)
    if kind == "t5":
        return T5Config(vocab_size=VOCAB, d_model=dim, d_ff=32, num_layers=2, num_heads=2, d_kv=8)
    if kind == "qwen3":
        return Qwen3Config(vocab_size=VOCAB, hidden_size=dim, head_dim=8, num_key_value_heads=2, **_BERT)
    if kind == "modernbert":
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
        return ModernBertConfig(vocab_size=VOCAB, hidden_size=dim, **special, **_BERT)
    return NgramEncoderConfig(vocab_size=VOCAB, embedding_size=8, hidden_size=dim)


def encoder(kind: str, dim: int = 16, seed: int = 0) -> PreTrainedModel:
    """A tiny encoder with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return build_encoder(encoder_config(kind, dim)).eval()


@torch.no_grad()
def disturb(model: PreTrainedModel, seed: int = 0) -> None:
    """Arca and LaSR start at a uniform policy and a zero delta; now every weight has a say in the result."""
    generator = torch.Generator().manual_seed(seed)
    for name, part in model.base_model.named_children():
        if name in ("arca", "fusion", "embedding_head", "prefix_projector"):
            for weight in part.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)


def causal(base: str = "llama", g: str = "bert", h: str | None = "modernbert", seed: int = 0, **config):
    """A LiraForCausalLM over tiny random parts; `h=None`: g serves as h."""
    torch.manual_seed(seed)
    anchor = None if h is None else encoder(h, 24, seed + 1)
    model = LiraForCausalLM.from_backbones(build(base, seed), encoder(g, 16, seed), anchor, **SIZES | config)
    disturb(model, seed)
    return model


def texts(count: int, seed: int = 1, candidates: int = 2, empty: bool = False) -> dict[str, torch.Tensor]:
    """Tokens of both roads: `count` rows of different lengths; `empty`: the last row has no candidate."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(5, VOCAB, shape, generator=generator)
        lengths = torch.randint(2, shape[-1] + 1, shape[:-1], generator=generator)
        return ids, (torch.arange(shape[-1]) < lengths[..., None]).long()

    source, source_mask = draw(count, 7)
    anchor, anchor_mask = draw(count, candidates, 6)
    if empty:
        anchor_mask[-1] = 0
    return {"source_ids": source, "source_mask": source_mask, "anchor_ids": anchor, "anchor_mask": anchor_mask}


def prompts(model: PreTrainedModel, *lengths: int, side: str = "left", seed: int = 2) -> dict[str, torch.Tensor]:
    """Prompts with the placeholders behind a first token, and that many tokens after them; padded with zeros."""
    generator = torch.Generator().manual_seed(seed)
    slots = torch.full((model.config.prefix_length,), model.config.prefix_token_id)
    rows = [torch.cat([torch.tensor([1]), slots, torch.randint(5, 90, (n,), generator=generator)]) for n in lengths]
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def step_by_step(model: PreTrainedModel, batch: dict[str, torch.Tensor], steps: int = 5) -> torch.Tensor:
    """Greedy tokens `(rows, steps)` by plain passes over each unpadded row, without a cache: what `generate` must
    equal."""
    roads = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    found = []
    for number, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
        row = ids[mask.bool()][None]
        for _ in range(steps):
            one = {name: value[number : number + 1] for name, value in roads.items()}
            logits = model(input_ids=row, use_cache=False, **one).logits[:, -1].clone()
            if model.config.prefix_token_id < logits.shape[-1]:
                logits[:, model.config.prefix_token_id] = -torch.inf
            row = torch.cat([row, logits.argmax(-1, keepdim=True)], dim=1)
        found.append(row[0, -steps:])
    return torch.stack(found)


def word_tokenizer(bos: bool = False, **kwargs) -> PreTrainedTokenizerFast:
    """A word-level tokenizer; with [CLS] and [SEP] around, or as a base LM's with <s> before and no padding token."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if not bos else ["<unk>", "<s>", "</s>", "<x>"]
    vocabulary = {word: i for i, word in enumerate(special + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[0 if bos else 1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single, tokens = ("<s> $A", [("<s>", 1)]) if bos else ("[CLS] $A [SEP]", [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    if bos:
        names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    else:
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names | kwargs)


CHAT = "{{ bos_token }}{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' ' }}{% endfor %}assistant :"


def causal_with_processor(**config) -> tuple[PreTrainedModel, LiraProcessor]:
    """A LiraForCausalLM and the processor that fits it, with a chat template."""
    base = word_tokenizer(bos=True, chat_template=CHAT)
    processor = LiraProcessor.from_backbones(
        word_tokenizer(), word_tokenizer(), base=base, prefix_length=6, trained_languages=["bn", "ur"]
    )
    model = causal(prefix_token_id=processor.prefix_token_id, languages=["bn", "ur"], **config)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model, processor
