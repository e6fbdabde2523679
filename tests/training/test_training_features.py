"""`lira features`: a recipe's features computed before its training, in shares, and taken over."""

import shutil

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lira_hf import NgramEncoderConfig, NgramEncoderModel, NgramTokenizer
from lira_hf.cli.main import app
from lira_hf.data import CacheError
from lira_hf.inference import RoadFeatures, Share
from lira_hf.training import fill_recipe_features, train_recipe


@pytest.fixture
def recipe(tiny_backbones, tiny_data, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "actor_hidden_size": 8}
    return {
        **tiny_backbones,
        "config": sizes | {"num_bins": 2, "languages": ["vi", "ur"]},
        "stage": "arca",
        "data": str(tiny_data),
        "store": str(tiny_data / "store.sqlite"),
        "critic": "judge",
        "dev_split": "",
        "features": str(tmp_path / "features"),
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 8,
        "max_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def filled(recipe, **options):
    found = fill_recipe_features(recipe, progress=False, **options)
    return {road: (report.needed, report.taken, report.computed) for road, report in found.items()}


def test_shares_are_taken_over_and_training_computes_nothing_more(recipe, tmp_path, monkeypatch):
    shares = [filled(recipe, share=Share(number, 2), folder=tmp_path / str(number)) for number in (1, 2)]
    assert filled(recipe, share=Share(2, 2), folder=tmp_path / "2")["source"] == (shares[1]["source"][0], 0, 0)
    whole = filled(recipe, folder=tmp_path / "whole")
    for road, (needed, taken, computed) in whole.items():
        assert (taken, computed) == (0, needed)
        assert [share[road][0] for share in shares] == [share[road][2] for share in shares]
        assert sum(share[road][0] for share in shares) == needed > min(share[road][0] for share in shares) > 0
    merged = filled(recipe, sources=[tmp_path / "1", tmp_path / "2"])
    assert merged == {road: (needed, needed, 0) for road, (needed, _, _) in whole.items()}

    def refuse(self, road, texts):
        raise AssertionError(f"computed {texts}")

    monkeypatch.setattr(RoadFeatures, "compute", refuse)
    model, processor, _ = train_recipe(recipe, quiet=True)
    texts = ["red river", "moon"]
    kept, one = (RoadFeatures(model, processor, folder) for folder in (recipe["features"], tmp_path / "whole"))
    known = [text for text in texts if text in one.caches["anchor"]]
    assert np.array_equal(kept.get("anchor", known), one.get("anchor", known))


def test_folders_of_other_encoders_are_refused(recipe, tmp_path):
    NgramEncoderModel(NgramEncoderConfig(vocab_size=300, embedding_size=8, hidden_size=16)).save_pretrained(
        tmp_path / "g"
    )
    NgramTokenizer(num_buckets=298).save_pretrained(tmp_path / "g")
    filled(recipe | {"encoder": str(tmp_path / "g")}, folder=tmp_path / "other")
    with pytest.raises(CacheError, match="other with source-[0-9a-f]+ of the road 'source'; expected source-"):
        filled(recipe, sources=[tmp_path / "other"])
    with pytest.raises(CacheError, match="nothing with no features of the road"):
        filled(recipe, sources=[tmp_path / "nothing"])
    with pytest.raises(ValueError, match="got a recipe without features, and no folder"):
        filled(recipe | {"features": None})


def test_the_command(recipe, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def lira(*options):
        return CliRunner().invoke(app, ["features", str(tmp_path / "recipe.yaml"), *map(str, options)])

    first = lira("--share", "1/2", "-o", tmp_path / "1")
    assert first.exit_code == 0, first.output
    assert "share 1/2, source: " in first.stdout
    rest = lira("--from", tmp_path / "1")
    assert rest.exit_code == 0, rest.output
    assert " 0 were there" in rest.stdout
    assert "0 computed now" not in rest.stdout
    assert lira().stdout.count(" 0 computed now, 0 taken over") == 2
    shutil.rmtree(tmp_path / "1")
    refused = lira("--from", tmp_path / "1")
    assert refused.exit_code == 1
    assert "expected source-" in " ".join(refused.stderr.split())
