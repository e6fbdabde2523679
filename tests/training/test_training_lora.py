"""PEFT and the stock Trainer on LiraForCausalLM: LoRA to and fro, the scale of the loss, a resume that is
bit-equal."""

import os
import subprocess
import sys

import pytest
import tiny_lira
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from tiny_configs import build
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from lira_hf import LiraForCausalLM, lira_lora_config


# PEFT still asks by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def folder(tmp_path):
    """A slim checkpoint over saved parts."""
    build("llama").save_pretrained(tmp_path / "base")
    for name, dim in (("encoder", 16), ("anchor", 24)):
        tiny_lira.encoder("bert", dim).save_pretrained(tmp_path / name)
    torch.manual_seed(0)
    places = [str(tmp_path / name) for name in ("base", "encoder", "anchor")]
    model = LiraForCausalLM.from_backbones(*places, **tiny_lira.SIZES)
    tiny_lira.disturb(model)
    model.save_pretrained(tmp_path / "slim", save_backbones=False)
    model.save_pretrained(tmp_path / "full")
    return tmp_path


def batch_for(model, seed=1):
    batch = tiny_lira.prompts(model, 3, 6) | tiny_lira.texts(2, seed=seed)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def train(model, steps=3):
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    for _ in range(steps):
        model(**batch_for(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(**batch_for(model)).logits


@pytest.mark.parametrize("base", ["llama", "gpt2", "mamba", "mixtral", "falcon_h1", "qwen3_next"])
def test_lora_goes_on_the_base_lm_alone(base):
    model = tiny_lira.causal(base, h="bert")
    head = model.get_output_embeddings()
    adapted = get_peft_model(model, lira_lora_config(model, r=2))
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    lora = {name for name in trained if ".lora_" in name}
    assert lora
    assert all(".language_model." in name for name in lora)
    saved = ("lira.arca.modules_to_save", "lira.fusion.modules_to_save", "lira.prefix_projector.modules_to_save")
    assert all(any(place in name for place in saved) for name in trained - lora)
    assert adapted.base_model.model.get_output_embeddings() is head
    before = {name: weight.clone() for name, weight in adapted.named_parameters()}
    train(adapted)
    changed = {name for name, weight in adapted.named_parameters() if not torch.equal(weight, before[name])}
    assert changed <= trained
    assert {name for name in lora if ".lora_B." in name} <= changed
    assert any("arca" in name for name in changed)


@pytest.mark.parametrize("kind", ["full", "slim"])
def test_lora_is_saved_loaded_and_merged(folder, kind):
    model = AutoModelForCausalLM.from_pretrained(folder / kind)
    plain = logits(model)
    adapted = train(get_peft_model(model, lira_lora_config(model, r=2, train_heads=True)))
    trained = logits(adapted)
    assert not torch.allclose(trained, plain, atol=1e-3)
    adapted.save_pretrained(folder / "adapter")
    assert (folder / "adapter/adapter_model.safetensors").stat().st_size < 200_000
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder / "adapter")
    assert isinstance(loaded, PeftModel)
    torch.testing.assert_close(logits(loaded), trained)
    # By Transformers' own classes too: of the adapter's folder.
    for cls in (AutoModelForCausalLM, LiraForCausalLM):
        torch.testing.assert_close(logits(cls.from_pretrained(folder / "adapter")), trained)
    batch = {name: value for name, value in batch_for(model).items() if name != "labels"}
    new = adapted.generate(**batch, max_new_tokens=3, do_sample=False)
    assert torch.equal(new, loaded.generate(**batch, max_new_tokens=3, do_sample=False))
    merged = loaded.merge_and_unload()
    assert type(merged) is LiraForCausalLM
    torch.testing.assert_close(logits(merged), trained, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(folder / "merged", save_backbones=True)
    again = AutoModelForCausalLM.from_pretrained(folder / "merged")
    torch.testing.assert_close(logits(again), logits(merged))


def test_a_slim_checkpoint_holds_lora_too(folder):
    """Heads and LoRA in one small folder, where the adapter was added to the model itself."""
    model = AutoModelForCausalLM.from_pretrained(folder / "slim")
    model.add_adapter(lira_lora_config(model, r=2, train_heads=False))
    model.freeze()  # adding an adapter has frozen the heads
    parts = model.trainable_parts()
    assert parts["arca"][0] > 0
    assert 0 < parts["language_model"][0] < parts["language_model"][1]
    trained = logits(train(model))
    model.save_pretrained(folder / "out", save_backbones=False)
    assert sum(path.stat().st_size for path in folder.glob("out/**/*.safetensors")) < 100_000
    loaded = AutoModelForCausalLM.from_pretrained(folder / "out")
    torch.testing.assert_close(logits(loaded), trained)
    assert any(".lora_" in name for name, _ in loaded.named_parameters())
    loaded.save_pretrained(folder / "again", save_backbones=False)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(folder / "again")), trained)


def test_an_adapter_does_not_hide_that_its_base_lacks_weights(folder):
    """The library's loading information is then the adapter's."""
    from safetensors.torch import load_file, save_file

    model = AutoModelForCausalLM.from_pretrained(folder / "full")
    get_peft_model(model, lira_lora_config(model, r=2)).save_pretrained(folder / "adapter")
    weights = load_file(folder / "full/model.safetensors")
    del weights["lira.language_model.lm_head.weight"]
    save_file(weights, folder / "full/model.safetensors", metadata={"format": "pt"})
    (folder / "full" / "lira_checksums.json").unlink()  # changed on purpose
    for cls in (AutoModelForCausalLM, LiraForCausalLM):
        with pytest.raises(ValueError, match="lacks 1 weights of LiraForCausalLM, among them lira.language_model.lm_"):
            cls.from_pretrained(folder / "adapter")


def test_a_model_without_a_base_lm_takes_no_lora(folder):
    from transformers import AutoModel

    with pytest.raises(ValueError, match="got a LiraModel without a base LM"):
        lira_lora_config(AutoModel.from_pretrained(folder / "full"))


def rows(model, count):
    """One row per item, unpadded, of different lengths, so that batches weigh their tokens differently."""
    found = []
    for number in range(count):
        row = tiny_lira.prompts(model, 2 + number % 5, seed=number) | tiny_lira.texts(1, seed=number)
        found.append({name: value[0] for name, value in row.items()} | {"labels": row["input_ids"][0].clone()})
    return found


def collate(items):
    width = max(len(item["input_ids"]) for item in items)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    pad = torch.nn.functional.pad
    return {
        name: torch.stack(
            [
                pad(item[name], (0, width - len(item[name])), value=fill[name]) if name in fill else item[name]
                for item in items
            ]
        )
        for name in items[0]
    }


class Gradients(TrainerCallback):
    """Keeps the gradient of each step, as the optimizer is about to see it."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen.append(model.lira.prefix_projector.projection.weight.grad.clone())


def trainer_for(model, folder, callbacks=(), **options):
    arguments = TrainingArguments(
        output_dir=str(folder),
        learning_rate=1e-2,
        report_to="none",
        disable_tqdm=True,
        max_grad_norm=0.0,
        use_cpu=True,
        seed=3,
        **options,
    )
    data = {"train_dataset": rows(model, 16), "eval_dataset": rows(model, 4)}
    return Trainer(model, arguments, data_collator=collate, callbacks=list(callbacks), **data)


def test_the_loss_scale_does_not_depend_on_gradient_accumulation(tmp_path):
    gradients = []
    for size, steps in ((8, 1), (2, 4), (1, 8)):
        watch = Gradients()
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 1}
        trainer_for(tiny_lira.causal(h="bert"), tmp_path, [watch], **options).train()
        gradients.append(watch.seen[0])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-3, atol=1e-5)


def test_the_stock_trainer_trains_evaluates_and_resumes_bit_equally(tmp_path):
    options = {
        "per_device_train_batch_size": 2,
        "max_steps": 48,
        "save_steps": 24,
        "eval_strategy": "steps",
        "eval_steps": 24,
    }
    straight = trainer_for(tiny_lira.causal(h="bert"), tmp_path / "a", **options)
    first = straight.evaluate()["eval_loss"]
    straight.train()
    assert straight.evaluate()["eval_loss"] < first
    resumed = trainer_for(tiny_lira.causal(h="bert"), tmp_path / "b", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a/checkpoint-24"))
    assert resumed.state.global_step == 48
    other = resumed.model.state_dict()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, other[name]), name
    torch.testing.assert_close(
        AutoModelForCausalLM.from_pretrained(tmp_path / "a/checkpoint-48").state_dict(), straight.model.state_dict()
    )
    prediction = straight.predict(rows(straight.model, 4))
    logits = prediction.predictions
    assert (logits[0] if isinstance(logits, tuple) else logits).shape[0] == 4


def test_a_slim_run_saves_little_and_resumes_bit_equally(folder):
    options = {"per_device_train_batch_size": 2, "max_steps": 4, "save_steps": 2}
    states = []
    for place in ("a", "b"):
        model = AutoModelForCausalLM.from_pretrained(folder / "slim")
        assert model.config.backbones_saved is False
        trainer = trainer_for(model, folder / place, **options)
        trainer.train(resume_from_checkpoint=str(folder / "a/checkpoint-2") if place == "b" else None)
        states.append(model.state_dict())
    assert (folder / "a/checkpoint-2/model.safetensors").stat().st_size < 50_000
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    loaded = AutoModelForCausalLM.from_pretrained(folder / "b/checkpoint-4")
    torch.testing.assert_close(loaded.state_dict(), states[0])


def test_lora_loads_in_a_fresh_process(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "slim")
    adapted = train(get_peft_model(model, lira_lora_config(model, r=2)))
    adapted.save_pretrained(folder / "adapter")
    script = """
import sys
import lira_hf
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1])
print(type(model.get_base_model()).__name__, sum(p.double().abs().sum().item() for p in model.parameters()))
"""
    command = [sys.executable, "-c", script, str(folder / "adapter")]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    name, total = done.stdout.split()
    assert name == "LiraForCausalLM"
    assert float(total) == pytest.approx(sum(p.double().abs().sum().item() for p in adapted.parameters()), rel=1e-9)
