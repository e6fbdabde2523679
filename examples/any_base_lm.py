"""Joins a base LM with two encoders, trains the soft prefix a little, and saves, loads and asks the result.

As it stands it makes tiny random models on the spot, so it runs anywhere, in seconds, and its answers mean nothing.
With real ones: --base Qwen/Qwen3-0.6B --encoder BAAI/bge-m3 --anchor BAAI/bge-base-en-v1.5
"""

import argparse
import logging
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    pipeline,
)

from lira_hf import LiraForCausalLM, LiraProcessor


logger = logging.getLogger("any_base_lm")

QUESTION = {"text": "দুই আর তিনে কত হয়?", "language": "bn", "candidates": ["What is two and three?", "Two and three?"]}
ANSWER = "two and three is five"


def make_tiny_parts(folder: Path) -> dict[str, str]:
    """A base LM and an encoder of a few thousand weights, with tokenizers that know characters."""
    characters = sorted({*QUESTION["text"], *"".join(QUESTION["candidates"]), *ANSWER})
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    vocabulary = {token: number for number, token in enumerate(special + characters)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), hidden_size=32, **ids, **sizes))
    encoder = BertModel(BertConfig(vocab_size=len(vocabulary), hidden_size=32, **sizes))
    for name, model in (("base", base), ("encoder", encoder)):
        model.save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("base", "encoder")}


def train(model: LiraForCausalLM, processor: LiraProcessor, steps: int) -> None:
    """A few steps towards one answer. For real training see the Trainer: batches like this one are all it needs."""
    prompt = f"{QUESTION['candidates'][0]}{processor.prefix_token} {ANSWER}"
    batch = processor(
        [QUESTION["text"]], candidates=[QUESTION["candidates"]], languages=QUESTION["language"], prompts=[prompt]
    )
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    model.train()
    for step in range(steps):
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, steps - 1):
            logger.info("step %d: loss %.3f", step + 1, loss.item())
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("base", "encoder", "anchor"):
        parser.add_argument(f"--{name}", help="name or folder; all left out: tiny random ones")
    parser.add_argument("--output", type=Path, default=Path("runs/any-base-lm"))
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    if bool(arguments.base) != bool(arguments.encoder):
        parser.error("got one of --base and --encoder; expected both, or neither for tiny random ones")
    with tempfile.TemporaryDirectory() as folder:
        parts = {name: getattr(arguments, name) for name in ("base", "encoder", "anchor") if getattr(arguments, name)}
        parts = parts or make_tiny_parts(Path(folder))
        model = LiraForCausalLM.from_backbones(**parts, num_bins=8, languages=["bn"])
        processor = LiraProcessor.from_backbones(
            parts["encoder"], parts.get("anchor"), base=parts["base"], config=model.config
        )
        for part, (trained, total) in model.trainable_parts().items():
            logger.info("%-16s %9d of %9d weights are trained", part, trained, total)
        train(model, processor, arguments.steps)
        for kind, whole in (("full", True), ("slim", False)):
            out = arguments.output / kind
            model.save_pretrained(out, save_backbones=whole)
            processor.save_pretrained(out)
            size = sum(path.stat().st_size for path in out.glob("*.safetensors"))
            loaded = AutoModelForCausalLM.from_pretrained(out)
            same = all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
            logger.info("%s checkpoint: %d bytes of weights, equal after loading: %s", kind, size, same)
    full = arguments.output / "full"
    embedder, processor = AutoModel.from_pretrained(full), AutoProcessor.from_pretrained(full)
    logger.info("for embedding the base LM stays on the disk: %s", embedder.language_model is None)
    answer = pipeline("lira-generation", model=str(full))(QUESTION, max_new_tokens=24, do_sample=False)
    logger.info("answer: %r", answer[0]["generated_text"])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
