"""A trained checkpoint with its facts, and reports in every form."""

import pytest
import yaml

from lira_hf.evaluation import dev_metrics
from lira_hf.training import train_recipe


FEW = {
    "per_device_train_batch_size": 8,
    "max_steps": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "languages": ["vi", "ur"]}


@pytest.fixture(scope="session")
def trained(tiny_backbones, tiny_data, tmp_path_factory):
    """Folder of both stages of a run; data with a licence, a store with two givers."""
    folder = tmp_path_factory.mktemp("trained")
    data = {"data": str(tiny_data), "store": str(tiny_data / "store.sqlite"), "critic": "judge"}
    first = {**tiny_backbones, **data, **FEW, "stage": "arca", "config": SIZES, "output_dir": str(folder / "arca")}
    second = {
        **data,
        **FEW,
        "model": str(folder / "arca"),
        "output_dir": str(folder / "lasr"),
        "eval_strategy": "steps",
    }
    second["data_license"] = "CC-BY-4.0"
    train_recipe(first, quiet=True)
    (folder / "lasr.yaml").write_text(yaml.safe_dump(second))
    train_recipe(second, dev_metrics, quiet=True)
    return folder


@pytest.fixture
def checkpoint(trained, tmp_path):
    """A copy of the trained checkpoint's small files, to write cards into."""
    target = tmp_path / "lira-tiny"
    target.mkdir()
    for name in ("config.json", "lira_run.json"):
        (target / name).write_bytes((trained / "lasr" / name).read_bytes())
    return target


def figures(mean: float) -> dict[str, dict[str, float]]:
    return {metric: {"mean": mean, "vi": mean + 0.1, "ur": mean - 0.1} for metric in ("ndcg@10", "recall@1", "mrr")}


def gain(value: float) -> dict[str, float]:
    return {"difference": value, "low": value - 0.01, "high": value + 0.01}


@pytest.fixture
def report():
    """As `lira quickstart` writes it."""
    gains = {"mean": gain(0.2), "vi": gain(0.25), "ur": gain(0.15)}
    close = {"mean": gain(0.05), "vi": gain(0.06), "ur": gain(0.04)}
    return {
        "systems": {"g alone": figures(0.5), "concat, equal": figures(0.65), "LiRA": figures(0.70239)},
        "differences": {"g alone": {"ndcg@10": gains}, "concat, equal": {"ndcg@10": close}},
        "sizes": {"learn": 5, "train": 1234, "dev": 56, "test": 78, "pool": 910},
        "settings": {"seeds": [0, 1]},
        "versions": {"torch": "2.13.0", "python": "3.11.2"},
    }
