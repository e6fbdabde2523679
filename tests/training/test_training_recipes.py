"""Recipes: read and refused, and the examples carried out over tiny models."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lira_hf import LiraModel, LiraProcessor
from lira_hf.evaluation import dev_metrics
from lira_hf.training import load_model, read_recipe, train_recipe


EXAMPLES = Path(__file__).parents[2] / "examples" / "recipes"


@pytest.fixture
def recipe(tiny_backbones, tiny_data, tmp_path):
    return {**tiny_backbones, "data": str(tiny_data), "output_dir": str(tmp_path / "out")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"learnin_rate": 1, "queue": 3},
            r"unknown keys \['learnin_rate', 'queue'\]; expected fields of .*'learning_rate'",
        ),
        ({"stage": "laser"}, "stage is 'laser'"),
        ({"model": "somewhere"}, "got model='somewhere' and encoder=.*expected one of them"),
        ({"encoder": None}, "got model=None and encoder=None"),
        ({"data": ""}, "data is empty; expected a BEIR folder"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; expected a number; write one, without quotes"),
        ({"num_candidates": "5"}, "num_candidates is '5'; expected a number"),
        ({"corr_max_age": True}, "corr_max_age is True; expected a number"),
        ({"train_arca": "no"}, "train_arca is 'no'; expected true or false"),
    ],
)
def test_wrong_recipes(recipe, tmp_path, change, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe | change))
    with pytest.raises(ValueError, match=message):
        read_recipe(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "is not valid YAML"), ("- a\n- b\n", "holds list; expected 'name: value'"), ("", "NoneType")],
)
def test_files_that_are_no_recipe(tmp_path, text, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"recipe.yaml.*{message}"):
        read_recipe(file)


def test_a_recipe_in_another_encoding(recipe, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(f"{yaml.safe_dump(recipe)}# เมือง\n".encode("cp874"))
    with pytest.raises(
        ValueError, match="got .*recipe.yaml, which is no UTF-8.*; expected a recipe in UTF-8; save it"
    ):
        read_recipe(file)


def test_no_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match="got the recipe .*none.yaml.*mend the path"):
        read_recipe(tmp_path / "none.yaml")


def test_numbers_without_a_point_are_numbers(recipe, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe) + "learning_rate: 3e-4\ntau: 5E-2\nconfig: {path_weight: 6e-1}\n")
    model, _, args = read_recipe(file)
    assert (args.learning_rate, args.tau, model.config["path_weight"]) == (3e-4, 0.05, 0.6)


@pytest.mark.parametrize("start", ["backbones", "checkpoint"])
def test_config_of_a_recipe_is_checked_and_used(recipe, tiny_lira, tmp_path, start):
    if start == "checkpoint":
        model, processor = tiny_lira()
        model.save_pretrained(tmp_path / "m")
        processor.save_pretrained(tmp_path / "m")
        recipe = {"model": str(tmp_path / "m"), "data": "x"}
    arguments = read_recipe(recipe | {"config": {"path_weight": 0.7, "candidate_mode": "argmax"}})[0]
    config = load_model(arguments)[0].config
    assert (config.path_weight, config.candidate_mode) == (0.7, "argmax")
    for wrong, message in (
        ({"path_wait": 0.7}, "config has the unknown keys .*'path_weight'"),
        ({"path_weight": 7}, "is 7"),
    ):
        arguments = read_recipe(recipe | {"config": wrong})[0]
        with pytest.raises(ValueError, match=message):
            load_model(arguments)


def test_the_examples_train_both_stages(tiny_backbones, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = {"data": str(tiny_data), "store": str(tiny_data / "store.sqlite"), "use_cpu": True, "disable_tqdm": True}
    here["critic"] = "judge"
    arca, lasr = (yaml.safe_load((EXAMPLES / f"retrieval-{stage}.yaml").read_text()) for stage in ("arca", "lasr"))
    assert (arca["encoder"], arca["anchor"]) == ("BAAI/bge-m3", "BAAI/bge-base-en-v1.5")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "languages": ["vi", "ur", "en"]}
    few = {"per_device_train_batch_size": 8, "max_steps": 4, "save_steps": 2, "logging_steps": 1}
    arca = arca | here | tiny_backbones | few | {"config": arca["config"] | sizes}
    assert lasr["train_arca"]
    lasr = lasr | here | few | {"eval_steps": 2, "queue_size": 20, "train_arca": False}
    assert lasr["model"] == arca["output_dir"]

    first, _, metrics = train_recipe(arca, dev_metrics, quiet=True)
    assert metrics["eval_loss"] > 0
    model, processor, metrics = train_recipe(lasr, dev_metrics, quiet=True)
    assert 0 <= metrics["eval_ndcg@10"] <= 1
    assert (model.config.encoder_pooling, model.config.num_bins, model.config.path_weight) == ("cls", 4, 0.5)
    for name, weight in first.arca.state_dict().items():
        assert torch.equal(weight, model.arca.state_dict()[name])  # stage 2 started from stage 1
    loaded = LiraModel.from_pretrained(lasr["output_dir"])
    batch = LiraProcessor.from_pretrained(lasr["output_dir"])(
        ["derv", "x"], candidates=[["red"], None], languages="vi"
    )
    with torch.no_grad():
        expected = model(**processor(["derv", "x"], candidates=[["red"], None], languages="vi")).pooler_output
        np.testing.assert_array_equal(loaded(**batch).pooler_output, expected)


def test_other_settings_in_a_finished_folder_are_refused(recipe, tiny_data):
    """Nothing was trained then, and the card stated the new settings of the old weights."""
    recipe |= {"store": str(tiny_data / "store.sqlite"), "max_steps": 1, "use_cpu": True, "disable_tqdm": True}
    recipe |= {"stage": "arca", "report_to": "none", "per_device_train_batch_size": 8, "learning_rate": 1e-3}
    train_recipe(recipe, quiet=True)
    train_recipe(recipe | {"max_steps": 2, "logging_steps": 1}, quiet=True)
    with pytest.raises(ValueError, match="finished run of other settings .learning_rate 0.001, now 0.002.; expected"):
        train_recipe(recipe | {"learning_rate": 2e-3}, quiet=True)
