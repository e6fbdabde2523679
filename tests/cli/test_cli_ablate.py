"""`lira ablate`: on recipes, on a quickstart's folder, and with bad input."""

import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from lira_hf.cli.ablate import quickstart_features
from lira_hf.cli.main import app
from lira_hf.quickstart import QuickstartSettings
from lira_hf.quickstart.cross_fit import CrossFittedFeatures


@pytest.fixture
def lira():
    """`lira(*arguments)`: the command in this process."""
    return lambda *arguments: CliRunner().invoke(app, ["ablate", *map(str, arguments)])


@pytest.fixture
def recipes(tiny_backbones, tiny_data, tmp_path):
    """Files of both stages' recipes."""
    shared = {"data": str(tiny_data), "store": str(tiny_data / "store.sqlite"), "critic": "judge", "num_candidates": 2}
    shared |= {"per_device_train_batch_size": 8, "max_steps": 6, "report_to": "none", "use_cpu": True}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_bins": 2}
    arca = {**tiny_backbones, **shared, "config": sizes, "stage": "arca", "output_dir": str(tmp_path / "arca")}
    lasr = shared | {"model": str(tmp_path / "arca"), "stage": "lasr", "output_dir": str(tmp_path / "lasr")}
    lasr |= {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 3, "load_best_model_at_end": True}
    lasr |= {"metric_for_best_model": "eval_ndcg@10"}
    for name, recipe in (("a", arca), ("l", lasr)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "a.yaml", tmp_path / "l.yaml"


def test_recipes_to_a_report(lira, recipes, tmp_path):
    options = ["--output", tmp_path / "run", "--seeds", 1, "--workers", 1, "--only", "no translation"]
    result = lira(*recipes, *options, "--steps", 2, 2, "--path-weight", "recipe")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["facts"]["recipes"]["lasr"]["max_steps"] == 2
    assert report["facts"]["recipes"]["lasr"]["eval_steps"] == 1  # looked at as often
    assert report["chosen"]["path weights"] == {"LiRA": [0.5], "no translation": [0.5]}
    lines = [line for line in result.stdout.splitlines() if "no translation " in line and "[" in line]
    shown = f"{100 * report['systems']['no translation']['ndcg@10']['mean']:.1f}"
    assert any(re.search(rf"\b{shown}\b", line) for line in lines)
    assert "translation: " in result.stdout
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"report.json", "report.md", "report.png"}
    assert not (tmp_path / "arca").exists()  # the recipes' own folders stay as they are
    again = lira(*recipes, *options, "--path-weight", "recipe")
    assert again.exit_code == 1
    assert "other settings (max_steps" in " ".join(again.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got 0 recipes and --quickstart None; expected either"),
        (["a.yaml"], "got 1 recipes"),
        (["a.yaml", "l.yaml", "--quickstart", "x"], "expected either the recipes of both stages"),
        (["a.yaml", "--quickstart", "x"], "got 1 recipes and --quickstart x"),
        (["a.yaml", "l.yaml"], "without --output; expected the folder"),
        (["l.yaml", "a.yaml", "--output", "x"], "expected one of stage 'arca' here"),
        (["a.yaml", "none.yaml", "--output", "x"], "none.yaml"),
        (["a.yaml", "l.yaml", "--output", "x", "--path-weight", "often"], "expected 'dev' or 'recipe'"),
        (["a.yaml", "l.yaml", "--output", "x", "--only", "no queue"], "as rows; expected some of"),
        (["a.yaml", "l.yaml", "--output", "x", "--split", "tset"], "tset"),
    ],
)
def test_bad_input(lira, recipes, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = lira(*arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert message in " ".join(result.stderr.split())


def test_help(lira):
    result = lira("--help")
    assert result.exit_code == 0
    for option in ("--quickstart", "--seeds", "--only", "--steps", "--path-weight", "--workers"):
        assert option in result.stdout


@pytest.mark.slow
def test_a_quickstarts_folder_is_made_and_used(lira, tmp_path):
    settings = QuickstartSettings(languages=("vi",), num_candidates=3, encoder_epochs=0.5, data_limit=20)
    (tmp_path / "settings.json").write_text(json.dumps(settings.identity()))
    options = ["--seeds", 1, "--steps", 3, 3, "--only", "no translation critic"]
    result = lira("--quickstart", tmp_path, *options)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "ablation" / "report.json").read_text())
    assert set(report["verdicts"]) == {"translation critic"}
    assert report["chosen"]["kind"] in ("kind gloss", "kind memory", "kind repair")
    assert isinstance(quickstart_features(tmp_path), CrossFittedFeatures)
    recipe = json.loads((tmp_path / "ablation" / "seed-0" / "lira" / "lasr.settings.json").read_text())
    assert recipe["own_features"] is False  # training rows are seen through encoders that haven't learned from them
    other = lira("--quickstart", tmp_path, *options, "--corpus", "study")
    assert other.exit_code == 1
    assert "is a quickstart on 'cldr'; expected the same" in " ".join(other.stderr.split())
    again = lira("--quickstart", tmp_path, *options)
    assert "encoders" not in again.stdout
    assert json.loads((tmp_path / "ablation" / "report.json").read_text())["systems"] == report["systems"]
