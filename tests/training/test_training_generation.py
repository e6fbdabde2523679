"""The generation stage: by recipes from stage 1 to an answering model, its losses, LoRA, and what is refused."""

import json
from pathlib import Path

import pytest
import tiny_lira as tiny
import torch
import yaml
from datasets import Dataset

from lira_hf import LiraForCausalLM, LiraModel, LiraProcessor
from lira_hf.inference import RoadFeatures
from lira_hf.training import (
    GenerationCollator,
    LiraTrainer,
    LiraTrainingArguments,
    load_model,
    read_recipe,
    train_recipe,
)
from lira_hf.training.generation_objective import GenerationObjective
from lira_hf.training.recipes import check_recipe
from lira_hf.translation import Candidate, CandidateStore, Identity


# PEFT asks transformers by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
EXAMPLES = Path(__file__).parents[2] / "examples" / "recipes"
WORDS = tiny.WORDS[:9]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "languages": ["vi", "ur"]}


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    """A folder of questions in made-up words, whose answer is their last English word."""
    folder = tmp_path_factory.mktemp("conversations")
    rows = {"train": [], "dev": []}
    with CandidateStore(folder / "store.sqlite") as store:
        for number in range(72):
            english = [WORDS[number % 9], WORDS[(number // 9) % 9], WORDS[(number * 5 + 2) % 9]]
            text, language = " ".join(word[::-1] + "o" for word in english), ("vi", "ur")[number % 2]
            row = {"prompt": "what is", "completion": f" {english[-1]}", "text": text, "language": language}
            rows["dev" if number % 4 == 3 else "train"].append(row | {"reference": " ".join(english)})
            poor = " ".join([*english[:2], "mat"])
            found = [Candidate(one, "made up", "x") for one in (poor, " ".join(english))]
            store.add(language, [(text, found)], Identity("made up", "1"))
    for split, found in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny base LM over the tiny words."""
    folder = tmp_path_factory.mktemp("base")
    tiny.build("llama").save_pretrained(folder)
    tiny.word_tokenizer(bos=True).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def recipes(conversations, tiny_backbones, base, tmp_path, monkeypatch):
    """The three examples, for the tiny models and data."""
    monkeypatch.chdir(tmp_path)
    here = {"data": str(conversations), "store": str(conversations / "store.sqlite"), "critic": None}
    here |= {"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 16, "max_steps": 4}
    here |= {"save_steps": 2, "eval_steps": 2, "logging_steps": 1}
    found = [yaml.safe_load((EXAMPLES / f"generation-{name}.yaml").read_text()) for name in STAGES]
    assert [found[1]["model"], found[2]["model"]] == [recipe["output_dir"] for recipe in found[:2]]
    assert (found[0]["encoder"], found[0]["anchor"]) == ("BAAI/bge-m3", "BAAI/bge-base-en-v1.5")
    sizes = found[0]["config"] | SIZES | {"num_bins": 4}
    return [
        found[0] | here | tiny_backbones | {"config": sizes},
        found[1] | here | {"base": base},
        found[2] | here,
    ]


STAGES = ("arca", "reference", "answer")


def test_the_examples_go_from_stage_1_to_an_answering_model(recipes, base):
    first, _, metrics = train_recipe(recipes[0], quiet=True)
    assert metrics["eval_loss"] > 0
    warm, processor, _ = train_recipe(recipes[1] | {"train_arca": False}, quiet=True)
    for name, weight in first.arca.state_dict().items():
        assert torch.equal(weight, warm.lira.arca.state_dict()[name])  # what stage 1 made
    fresh = tiny.build("llama").state_dict()
    last, _, metrics = train_recipe(recipes[2], quiet=True)
    assert metrics["eval_loss"] > 0
    for name, weight in last.language_model.state_dict().items():
        assert torch.equal(weight, fresh[name])  # frozen all along
    moved = [
        name for name, weight in last.lira.named_parameters() if not torch.equal(weight, warm.lira.get_parameter(name))
    ]
    assert {name.split(".")[0] for name in moved} == {"fusion", "prefix_projector"}
    loaded = LiraForCausalLM.from_pretrained(recipes[2]["output_dir"])
    batch = LiraProcessor.from_pretrained(recipes[2]["output_dir"])(
        ["tahwo sio"], candidates=[["what is"]], languages="vi"
    )
    assert torch.equal(loaded.generate(**batch, max_new_tokens=3), last.generate(**batch, max_new_tokens=3))
    assert loaded.config.prefix_length == 4 == LiraProcessor.from_pretrained(recipes[2]["output_dir"]).prefix_length


def test_the_warm_up_reads_the_reference_without_a_pass_of_the_base(recipes, monkeypatch):
    train_recipe(recipes[0], quiet=True)

    def refuse(*args, **kwargs):
        raise AssertionError("the base LM was run")

    monkeypatch.setattr("transformers.LlamaForCausalLM.forward", refuse)
    few = {"max_steps": 400, "save_steps": 400, "eval_steps": 400, "learning_rate": 5e-3, "path_dropout": 0.2}
    model, processor, metrics = train_recipe(recipes[1] | few, quiet=True)
    assert metrics["eval_loss"] < 1.5  # three tokens of nine words, unread: 2 x ln 9 and more
    batch = processor(
        ["tahwo sio"] * 2, candidates=[["the cat mat", "the cat dog"]] * 2, languages="vi", prompts=["x", "y"]
    )
    with torch.no_grad():
        fused, _ = model.fuse_roads(**{k: v for k, v in batch.items() if k.startswith(("source", "anchor"))})
        prefix = model.lira.soft_prefix(fused.last_hidden_state, fused.fusion_mask)
    assert prefix.mask.sum(-1).tolist() == [3, 3]  # as many soft tokens as the English has, of four


def test_the_gate_is_set_on_the_dev_split_and_saved(recipes, conversations, monkeypatch):
    seen = []

    def calibrate(model, batches):
        seen.append([batch["reference_slots"].shape[0] for batch in batches])
        assert not model.training or model.config.dropout == 0
        model.config.gate_bias = 0.75

    monkeypatch.setattr("lira_hf.training.recipes.calibrate_gate", calibrate)
    train_recipe(recipes[0], quiet=True)
    merged = recipes[1] | {"config": {"prefix_projection": "vocab", "prefix_roads": "merged"}}
    merged |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    train_recipe(merged, quiet=True)
    assert [sum(sizes) for sizes in seen] == [18]  # every row of dev, whether or not anything else is measured there
    assert LiraForCausalLM.from_pretrained(merged["output_dir"]).config.gate_bias == 0.75
    for changes in ({"calibrate_gate": False}, {"dev_split": ""}, {"dev_split": "elsewhere"}):
        train_recipe(merged | changes | {"output_dir": "other"}, quiet=True)
    train_recipe(merged | {"output_dir": "both", "config": {"prefix_roads": "both"}}, quiet=True)
    assert len(seen) == 1


def test_lora_on_the_base_is_trained_and_merged(recipes):
    train_recipe(recipes[0], quiet=True)
    train_recipe(recipes[1], quiet=True)
    model, _, _ = train_recipe(recipes[2] | {"lora_rank": 2, "learning_rate": 1e-2}, quiet=True)
    fresh, trained = tiny.build("llama").state_dict(), model.language_model.state_dict()
    assert trained.keys() == fresh.keys()
    moved = {name for name, weight in trained.items() if not torch.equal(weight, fresh[name])}
    assert moved
    assert all("_proj.weight" in name for name in moved)
    loaded = LiraForCausalLM.from_pretrained(recipes[2]["output_dir"])
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


@pytest.mark.parametrize("stage", ["reference", "answer", "lora"])
def test_a_run_that_stopped_goes_on_to_the_same_weights(recipes, stage, monkeypatch):
    train_recipe(recipes[0], quiet=True)
    recipe = recipes[1]
    if stage != "reference":
        train_recipe(recipe, quiet=True)
        recipe = recipes[2] | ({"lora_rank": 2, "learning_rate": 1e-2} if stage == "lora" else {})
    whole, _, _ = train_recipe(recipe | {"output_dir": "whole"}, quiet=True)
    halted, calls = recipe | {"output_dir": "halted"}, []
    loss = GenerationObjective.__call__

    def stop(self, model, inputs):
        calls.append(model.training)
        if sum(calls) == 4:
            raise KeyboardInterrupt
        return loss(self, model, inputs)

    monkeypatch.setattr(GenerationObjective, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        train_recipe(halted, quiet=True)
    monkeypatch.setattr(GenerationObjective, "__call__", loss)
    again, _, _ = train_recipe(halted, quiet=True)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


@pytest.fixture
def batch_of_two(tmp_path):
    """A model, and a batch of two rows with both roads."""
    model, processor = tiny.causal_with_processor(base="llama")
    features = RoadFeatures(model.lira, processor)
    sides = {"scores": [[], []], "kinds": [None, None], "traits": [[0.0] * 8] * 2, "language": "bn"}
    rows = [
        sides
        | {"text": text, "candidates": ["the cat", "a dog"], "prompt": processor.prefix_token + " what is"}
        | {"completion": " a mat", "reference": "the big cat"}
        for text in ("the river", "a house ran")
    ]
    return model, GenerationCollator(features, processor)(rows)


def arguments(tmp_path, **kwargs):
    return LiraTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **kwargs)


def test_the_loss_is_its_parts(batch_of_two, tmp_path):
    model, batch = batch_of_two
    model.eval()
    found = GenerationObjective(arguments(tmp_path, slot_weight=0.5, consistency_weight=0.25))(model, batch)
    names = ("source_features", "anchor_features", "anchor_scores", "anchor_traits", "language_ids")
    roads = {name: batch[name] for name in names if name in batch}
    asked = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    output = model(**asked, **roads)
    reference = model(reference_slots=batch["reference_slots"], **roads).loss
    both = output.prefix_embeds.flatten(1)
    none, consistency = torch.zeros(2, dtype=torch.bool), 0.0
    for gone in ("keep_anchor", "keep_source"):
        single = model(**asked, **roads, **{gone: none}).prefix_embeds.flatten(1)
        consistency = consistency + (1 - torch.cosine_similarity(single, both)).mean() / 2
    torch.testing.assert_close(found.loss, output.loss + 0.5 * reference + 0.25 * consistency)
    assert set(found.parts) == {"answer", "reference", "consistency"}
    warm = GenerationObjective(arguments(tmp_path, generation_loss="reference"))(model, batch)
    torch.testing.assert_close(warm.loss, reference)


def test_path_dropout_takes_one_road_from_a_share_of_the_rows(batch_of_two, tmp_path):
    model, batch = batch_of_two
    wide = {name: value.repeat_interleave(200, 0) for name, value in batch.items()}
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    model.train()
    GenerationObjective(arguments(tmp_path, generation_loss="reference", path_dropout=0.4))(model, wide)
    source, anchor = seen[0]["keep_source"], seen[0]["keep_anchor"]
    assert bool((source | anchor).all())
    for kept in (source, anchor):
        assert 0.12 < 1 - kept.float().mean() < 0.28
    model.eval()
    GenerationObjective(arguments(tmp_path, generation_loss="reference", path_dropout=0.4))(model, wide)
    assert "keep_source" not in seen[1]


def test_the_wrong_model_or_stage_is_refused(batch_of_two, rows, tiny_lira, tmp_path):
    model, _ = batch_of_two
    with pytest.raises(ValueError, match="got a LiraForCausalLM and rows of \\['retrieval'\\]"):
        LiraTrainer(model, arguments(tmp_path), train_dataset=rows)
    with pytest.raises(ValueError, match="stage 1 needs no base LM"):
        LiraTrainer(model, arguments(tmp_path, stage="arca"), train_dataset=rows)
    generation = rows.rename_column("document", "reference").remove_columns(["document_id"])
    with pytest.raises(ValueError, match="got a LiraModel and rows of \\['generation'\\]"):
        LiraTrainer(tiny_lira()[0], arguments(tmp_path), train_dataset=generation)


@pytest.mark.parametrize("several", [False, True])
def test_a_model_is_evaluated_without_training_rows(batch_of_two, tmp_path, several):
    model, batch = batch_of_two
    rows = Dataset.from_list([{"completion": "x"}] * 2)
    data = {"one": rows, "other": rows} if several else rows
    trainer = LiraTrainer(model, arguments(tmp_path), eval_dataset=data, data_collator=lambda rows: dict(batch))
    found = trainer.evaluate()
    with torch.no_grad():
        expected = float(trainer.compute_loss(model.eval(), dict(batch)))
    assert found["eval_one_loss" if several else "eval_loss"] == pytest.approx(expected)


def test_what_a_recipe_lacks_is_said_before_anything_is_loaded(recipes, base, tmp_path):
    for wrong, message in (
        ({"base": base}, "neither stage 1 nor retrieval"),
        ({"stage": "lasr"}, "no base; expected the base LM"),
        ({"lora_rank": 4}, "nothing is generated"),
        ({"generation_loss": "both"}, "generation_loss is 'both'"),
        ({"slot_weight": -1}, "slot_weight is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            train_recipe(recipes[0] | wrong, quiet=True)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipes[1] | {"model": None, "encoder": "nowhere/at/all", "base": "no/where/2"}))
    assert {problem.field for problem in check_recipe(file)} == {"encoder", "base"}
    file.write_text(yaml.safe_dump(recipes[0] | {"data": str(tmp_path)}))
    assert "data" in {problem.field for problem in check_recipe(file)}


def test_a_base_is_joined_to_an_embedding_checkpoint_as_it_is(recipes, base):
    train_recipe(recipes[0], quiet=True)
    model, processor = load_model(read_recipe(recipes[1])[0], causal=True)
    core = LiraModel.from_pretrained(recipes[0]["output_dir"])
    batch = processor(["tahwo sio"], candidates=[["what is"]], languages="vi", prompts=False)
    with torch.no_grad():
        torch.testing.assert_close(model.lira(**batch).pooler_output, core(**batch).pooler_output)
    with pytest.raises(ValueError, match="weights of fusion have other shapes"):
        LiraForCausalLM.from_embedding(core, tiny.build("llama"), num_bins=5)
