"""`lira card`, and the card that `lira train` leaves."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from lira_hf.cli.main import app


@pytest.fixture(scope="session")
def lira():
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def recipe(tiny_backbones, tiny_data):
    """A run of stage 1, without its folder."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "languages": ["vi", "ur"]}
    steps = {"max_steps": 1, "per_device_train_batch_size": 8, "save_strategy": "no", "report_to": "none"}
    data = {"data": str(tiny_data), "store": str(tiny_data / "store.sqlite"), "critic": "judge"}
    return {**tiny_backbones, **data, **steps, "config": sizes, "stage": "arca", "use_cpu": True, "disable_tqdm": True}


def train(lira, recipe, folder):
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(recipe | {"output_dir": str(folder)}))
    result = lira("train", file)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_train_leaves_a_card_that_card_completes(lira, recipe, tiny_data, tmp_path):
    folder = tmp_path / "model"
    output = train(lira, recipe, folder)
    assert f"card: {folder / 'README.md'}; `lira card` adds figures and licences" in output
    assert "Stage `arca` on retrieval: 1 steps of 8 rows" in (folder / "README.md").read_text()
    figures = tmp_path / "figures.json"
    assert lira("evaluate", folder, tiny_data, "--json", figures).exit_code == 0
    options = ["--report", figures, "--license", "mit", "--data-license", "CC0-1.0", "--dataset", "org/name"]
    result = lira("card", folder, *options)
    assert result.exit_code == 0, result.output
    assert "not stated" not in result.stdout
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.datasets) == ("mit", ["org/name"])
    measured = json.loads(figures.read_text())["without translation"]["ndcg@10"]
    found = {r.dataset_config: r.metric_value for r in card.data.eval_results if r.metric_type == "ndcg_at_10"}
    assert found == {tag: round(value, 4) for tag, value in measured.items()}
    assert f"| `{tiny_data.name}` |" in card.text
    # Without the licence again: what the card says stays. What isn't named is missed.
    again = lira("card", folder)
    assert "not stated in it: figures (--report), the data's licence (--data-license)\n" in again.stdout
    assert ModelCard.load(folder / "README.md").data.license == "mit"


def test_a_run_does_not_write_over_a_persons_card(lira, recipe, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("# Mine\n")
    assert "no card was written: got" in train(lira, recipe, folder)
    assert (folder / "README.md").read_text() == "# Mine\n"
    result = lira("card", folder)
    assert result.exit_code == 1
    assert "README.md, which wasn't written from facts" in " ".join(result.stderr.split())
    assert lira("card", folder, "--overwrite").exit_code == 0
    assert (folder / "README.before-card.md").read_text() == "# Mine\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "got 'nowhere' without a config.json; expected the folder of a LiRA checkpoint"),
        ([".", "--report", "none.json"], "without a config.json"),
    ],
)
def test_refused(lira, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = lira("card", *options)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_help(lira):
    result = lira("card", "--help")
    assert result.exit_code == 0
    assert "--data-license" in result.stdout
