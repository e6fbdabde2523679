"""The quickstart, whole: what it leaves behind, and that kills cost nothing but the batch at hand."""

import functools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from typer.testing import CliRunner

from lira_hf import LiraModel, LiraProcessor
from lira_hf.cli.main import app
from lira_hf.data import read_tsv
from lira_hf.evaluation import calibrate_path_weights, evaluate_embedder, paired_difference
from lira_hf.inference import RoadFeatures
from lira_hf.quickstart import Quickstart, QuickstartSettings


pytestmark = pytest.mark.slow

SMALL = {
    "languages": ("vi", "bn"),
    "num_candidates": 3,
    "encoder_epochs": 1.0,
    "arca_steps": 6,
    "lasr_steps": 6,
    "path_weights": (0.4, 0.6, 0.8),
    "queue_sizes": (0, 64),
}
SETTINGS = QuickstartSettings(**SMALL, seeds=(0,), data_limit=20)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Folder and output of one run of the command that nobody disturbed."""
    folder = tmp_path_factory.mktemp("quickstart") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        small = functools.partial(QuickstartSettings, **SMALL)
        patch.setattr("lira_hf.cli.quickstart.QuickstartSettings", small)
        arguments = ["quickstart", "--data-limit", "20", "--seeds", "1", "--output", str(folder), "--no-progress"]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return folder, result.stdout


@pytest.fixture(scope="session")
def report(finished):
    return json.loads((finished[0] / "report.json").read_text())


def test_everything_is_there(finished, report):
    folder, output = finished
    with Image.open(folder / "report.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        image.verify()
    checkpoint = Quickstart(folder, SETTINGS).model_folder
    card = ModelCard.load(checkpoint / "README.md")
    assert card.data.language == ["vi", "bn", "en"]
    results = [result for result in card.data.eval_results if result.metric_type == "ndcg_at_10"]
    figures = {result.dataset_config: result.metric_value for result in results}
    assert figures == pytest.approx(report["systems"]["LiRA"]["ndcg@10"], abs=1e-4)
    for name in report["systems"]:
        assert f"| {name} |" in card.text
        assert name in output
    assert "found" in output  # the searches' table
    assert not list(folder.rglob("checkpoint-*"))


def _numbers(value) -> list[float]:
    if isinstance(value, dict | list):
        return [n for item in (value.values() if isinstance(value, dict) else value) for n in _numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


def test_the_reports_figures_are_those_of_the_run(finished, report):
    folder, _ = finished
    assert all(math.isfinite(number) for number in _numbers(report))
    run = Quickstart(folder, SETTINGS)
    assert report["settings"] == json.loads(json.dumps(run.settings.identity()))
    sides = {side: read_tsv(folder / "data" / f"{side}.tsv") for side in ("train", "dev", "test")}
    assert {side: report["sizes"][side] for side in sides} == {side: len(rows) for side, rows in sides.items()}
    assert report["sizes"]["pool"] == len({pair.english for rows in sides.values() for pair in rows})
    systems, chosen = report["systems"], report["chosen"]
    controls, test = run.controls("test"), run.split("test")
    start = evaluate_embedder(run.embedder(folder / "seed-0" / "arca"), test)
    trained = evaluate_embedder(run.embedder(run.model_folder), test)
    calibrated = run.embedder(run.model_folder)
    assert calibrated.model.config.language_path_weights is None
    calibrate_path_weights(calibrated, run.split("dev"), fewest=1)
    for name, scores in {
        "g alone": controls.source_alone(),
        "translate, then h": controls.translated(chosen["mixture"]),
        "concat, tuned on dev": controls.concat(chosen["mixture"], chosen["path_weight"]),
        "LiRA, untrained start": start,
        "LiRA": trained,
        "LiRA, shares by language": evaluate_embedder(calibrated, test),
    }.items():
        for metric, figures in systems[name].items():
            if metric != "seeds":
                assert figures == pytest.approx({"mean": scores.mean(metric), **scores.per_language(metric)})
        if name != "LiRA":
            gain = report["differences"][name]["ndcg@10"]["mean"]
            assert gain == pytest.approx(paired_difference([trained], [scores])._asdict())
            assert gain["difference"] == pytest.approx(systems["LiRA"]["ndcg@10"]["mean"] - scores.mean())
            assert gain["low"] <= gain["difference"] <= gain["high"]
    assert chosen["path_weight"] in SETTINGS.path_weights
    assert max(report["dev"][f"concat, path weight {w}"] for w in SETTINGS.path_weights) == pytest.approx(
        report["dev"][f"concat, path weight {chosen['path_weight']}"]
    )


def test_no_english_string_is_on_two_sides(finished):
    folder, _ = finished
    sides = {
        side: {p.english.casefold() for p in read_tsv(folder / "data" / f"{side}.tsv")}
        for side in ("train", "dev", "test")
    }
    assert all(sides.values())
    assert not sides["test"] & (sides["train"] | sides["dev"])
    assert not sides["dev"] & sides["train"]


_FRESH = """
import sys
import numpy as np, torch
import lira_hf
from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained(sys.argv[1]), AutoProcessor.from_pretrained(sys.argv[1])
texts, candidates = ["ঢাকা", "Hà Nội", "Dhaka"], [["Dhaka", "dacca"], None, None]
with torch.no_grad():
    batch = processor(texts, candidates=candidates, languages=["bn", "vi", "en"])
    np.save(sys.argv[2], model(**batch).pooler_output.numpy())
"""


def test_a_fresh_process_loads_the_checkpoint(finished, tmp_path):
    folder = Quickstart(finished[0], SETTINGS).model_folder
    command = [sys.executable, "-c", _FRESH, str(folder), str(tmp_path / "vectors.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr[-2000:]
    model, processor = LiraModel.from_pretrained(folder), LiraProcessor.from_pretrained(folder)
    batch = processor(["ঢাকা", "Hà Nội", "Dhaka"], [["Dhaka", "dacca"], None, None], languages=["bn", "vi", "en"])
    with torch.no_grad():
        expected = model(**batch).pooler_output.numpy()
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-6)


def test_run_again_it_computes_nothing_but_the_evaluation(finished, report, monkeypatch):
    computed, steps = [], []
    monkeypatch.setattr(RoadFeatures, "compute", lambda self, road, texts: computed.append(texts))
    monkeypatch.setattr("lira_hf.translation.TranslatorUnion.translate", lambda *a: computed.append(a))
    monkeypatch.setattr("lira_hf.quickstart.pipeline.train_recipe", lambda *a, **k: computed.append(a))
    monkeypatch.setattr("lira_hf.quickstart.pipeline.distil_encoder", lambda *a, **k: computed.append(a))
    results = Quickstart(finished[0], SETTINGS, progress=False, announce=steps.append).run()
    assert not computed
    assert set(steps) <= {"candidates", "features", "evaluation"}
    for name, scores in results.systems.items():
        assert scores[0].mean() == pytest.approx(report["systems"][name]["ndcg@10"]["mean"], abs=1e-12)


def test_other_settings_in_the_same_folder_are_refused(finished):
    other = QuickstartSettings(**SMALL | {"num_candidates": 2}, seeds=(0, 1), data_limit=20)
    with pytest.raises(
        ValueError, match=r"holds a run with other settings \(num_candidates, seeds\).*another --output"
    ):
        Quickstart(finished[0], other)


def test_a_killed_run_ends_as_one_that_was_not(report, tmp_path):
    """SIGKILL in four steps, each after a random while; what store and caches held then is never computed again."""
    script = Path(__file__).with_name("kill_quickstart.py")
    steps = ["encoders", "candidates", "features", "stage 2"]
    asked = {"folder": str(tmp_path / "run"), "settings": SETTINGS.identity(), "steps": steps}
    asked["threads"] = torch.get_num_threads()
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(asked)], capture_output=True, text=True, timeout=300
    )
    assert not done.returncode, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == len(steps)
    assert found["twice"] == []
    assert found["changed"] == []
    assert found["kept"] > 0
    for part in ("systems", "differences", "chosen", "dev", "sizes"):
        assert found["report"][part] == report[part], part
