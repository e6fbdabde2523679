"""Few-shot: data with few rows of one language, and both stages trained on it; and what a run leaves behind."""

import json
import re

import pytest
import yaml

from lira_hf.data import SimilarityPair, read_beir, read_sts, write_sts
from lira_hf.evaluation import (
    ROBUSTNESS_SYSTEMS,
    FewShotCurve,
    evaluate_embedder,
    few_shot_data,
    read_task,
    robustness_markdown,
    robustness_report,
    write_robustness_report,
)
from lira_hf.inference import CandidateSource, LiraEmbedder
from lira_hf.models import LiraModel, LiraProcessor
from lira_hf.translation import CandidateStore, Identity


@pytest.fixture(scope="module")
def source(tiny_data):
    return CandidateSource(CandidateStore(tiny_data / "store.sqlite", read_only=True), critic=Identity("judge", "1"))


# Data


def test_few_rows_of_one_language(tiny_data, tmp_path):
    whole = read_beir(tiny_data, "train")
    kept = {}
    for rows in (0, 5, 12):
        found, there = few_shot_data(tiny_data, "train", "ur", rows, tmp_path / str(rows), seed=1)
        assert there == sum(query.language == "ur" for query in whole.queries.values())
        train = read_beir(found, "train")
        kept[rows] = {key for key, query in train.queries.items() if query.language == "ur"}
        assert len(kept[rows]) == rows
        others = {key for key, query in whole.queries.items() if query.language != "ur"}
        assert {key for key in train.queries if key not in kept[rows]} == others
        assert train.corpus == whole.corpus
        assert all(train.qrels[key] == whole.qrels[key] for key in train.qrels)
        for split in ("dev", "test"):
            assert read_beir(found, split) == read_beir(tiny_data, split)
    assert kept[5] < kept[12]
    found, _ = few_shot_data(tiny_data, "train", "ur", None, tmp_path / "all")
    assert read_beir(found, "train") == whole
    few_shot_data(tiny_data, "train", "ur", 5, tmp_path / "5", seed=1)  # once more does no harm
    few_shot_data(tiny_data, "train", "ur", 5, tmp_path / "other", seed=2)
    other = {key for key, query in read_beir(tmp_path / "other", "train").queries.items() if query.language == "ur"}
    assert other != kept[5]
    for language, rows in (("ur", 1000), ("th", 0)):
        with pytest.raises(
            ValueError, match=f"got {rows} training rows of '{language}' to keep.*expected no more than"
        ):
            few_shot_data(tiny_data, "train", language, rows, tmp_path / "none")


def test_few_pairs_of_one_language_of_a_table_and_of_a_folder(tmp_path):
    pairs = [
        SimilarityPair(f"a{n}", f"b{n}", n, ("vi", "ur")[n % 2], "en", split=("train", "test")[n > 15])
        for n in range(20)
    ]
    write_sts(tmp_path / "pairs.jsonl", pairs)
    found, there = few_shot_data(tmp_path / "pairs.jsonl", "train", "ur", 3, tmp_path / "few")
    assert there == 8
    rows = read_sts(found)
    assert sum(row.split == "train" and row.language1 == "ur" for row in rows) == 3
    assert sum(row.split == "train" and row.language1 == "vi" for row in rows) == 8
    assert sum(row.split == "test" for row in rows) == 4
    folder = tmp_path / "folder"
    folder.mkdir()
    write_sts(folder / "train.tsv", [pair for pair in pairs if pair.split == "train"])
    write_sts(folder / "test.tsv", [pair for pair in pairs if pair.split == "test"])
    found, there = few_shot_data(folder, "train", "ur", 0, tmp_path / "few-folder")
    assert there == 8
    assert {row.language1 for row in read_sts(found / "train.jsonl")} == {"vi"}
    assert len(read_sts(found / "test.tsv")) == 4


# Training


@pytest.fixture
def recipes(tiny_backbones, tiny_data, tmp_path):
    """Both stages in three steps each."""
    common = {
        "data": str(tiny_data),
        "store": str(tiny_data / "store.sqlite"),
        "critic": "judge",
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 5,
        "logging_steps": 3,
    }
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "actor_hidden_size": 8}
    config = {**sizes, "num_bins": 2, "languages": ["vi", "ur", "en"]}
    arca = {**tiny_backbones, "config": config, **common, "stage": "arca", "output_dir": str(tmp_path / "unused")}
    lasr = {"model": str(tmp_path / "unused"), **common, "stage": "lasr", "output_dir": str(tmp_path / "unused2")}
    for name, recipe in (("arca", arca), ("lasr", lasr)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "arca.yaml", tmp_path / "lasr.yaml"


@pytest.fixture
def curve(tiny_data, tiny_lira, source, recipes, tmp_path):
    """`curve(**changes)`, and what it announced."""
    model, processor = tiny_lira()
    task = read_task(tiny_data, "test", LiraEmbedder(model, processor, source), 100)
    said = []

    def make(**changes):
        given = {
            "folder": tmp_path / "curve",
            "task": task,
            "recipes": recipes,
            "language": "ur",
            "source": source,
            "features": tmp_path / "features",
            "controls": {"mixture": "best", "path_weight": 0.6},
            "announce": said.append,
        }
        return FewShotCurve(**given | changes)

    return make, said


def test_points_are_trained_measured_and_kept(curve, tiny_data, source, tmp_path):
    make, said = curve
    found = make(seeds=[0, 1]).run([6, 0])
    assert [(point["rows"], point["there"]) for point in found] == [(0, 24), (6, 24)]
    assert len(said) == 2 * (2 * 2 + 1)
    dataset, figures = read_beir(tiny_data, "test"), found[1]["systems"]["LiRA"]
    seeds = []
    for seed in (0, 1):
        place = tmp_path / "curve" / "rows-6" / f"seed-{seed}" / "lasr"
        model, processor = LiraModel.from_pretrained(place), LiraProcessor.from_pretrained(place)
        seeds.append(evaluate_embedder(LiraEmbedder(model, processor, source), dataset).mean())
    assert figures["seeds"] == pytest.approx(seeds, abs=1e-6)
    assert figures["seeds"][0] != figures["seeds"][1]
    assert found[0]["systems"]["LiRA"]["seeds"] != figures["seeds"]  # six rows more made another model
    for name in ("g alone", "concat", "translate, then h"):  # these aren't trained
        assert found[0]["systems"][name] == found[1]["systems"][name]
    said.clear()
    assert make(seeds=[0, 1]).run([0, 6]) == found
    assert said == []
    (tmp_path / "curve" / "rows-6.json").unlink()  # killed while it was measured
    assert make(seeds=[0, 1]).run([0, 6]) == found
    assert said == ["6 rows of ur: measured"]
    with pytest.raises(ValueError, match="holds points of a run with other seeds; expected the same"):
        make(seeds=[0])


def test_recipes_that_dont_fit(curve, recipes, tmp_path):
    make, _ = curve
    arca, lasr = recipes
    with pytest.raises(ValueError, match="a recipe of stage 'lasr'; expected one of stage 'arca'; name stage 1's"):
        make(recipes=(lasr, arca))
    with pytest.raises(ValueError, match="got 1 recipes; expected those of stage 1 and of stage 2"):
        make(recipes=(arca,))
    several = {**yaml.safe_load(arca.read_text()), "tasks": [{"data": "x"}, {"data": "y"}]}
    several.pop("data")
    (tmp_path / "several.yaml").write_text(yaml.safe_dump(several))
    with pytest.raises(ValueError, match="a recipe of several tasks or of generation; expected retrieval or ranking"):
        make(recipes=(tmp_path / "several.yaml", lasr))
    assert make().seeds == [5]  # the recipe's own
    with pytest.raises(ValueError, match="got 900 training rows of 'ur' to keep"):
        make().run([900])


# Report


def _figures(value, tags=("ur", "vi")):
    return {"ndcg@10": {"mean": value, **{tag: value for tag in tags}}, "seeds": [value]}


def _point(value, low=0.01, high=0.03, **where):
    systems = {name: _figures(value - number / 100) for number, name in enumerate(ROBUSTNESS_SYSTEMS)}
    gains = {"mean": {"difference": 0.02, "low": low, "high": high}, "ur": {"difference": 0.02, "low": 0, "high": 1}}
    gains["vi"] = gains["ur"]
    differences = {name: gains for name in ROBUSTNESS_SYSTEMS[1:]}
    return {**where, "systems": systems, "differences": differences}


def _outcome(share):
    row = {"texts": 10, "texts_changed": share, "units": 50, "units_changed": share / 2, "changes": {"dropped": 3}}
    return {"all": row, "ur": row, "vi": row}


@pytest.fixture
def report():
    noise = [
        _point(0.8, noise="typos", rate=0.0, translations="kept", outcome={}),
        _point(0.6, -0.05, -0.01, noise="typos", rate=0.4, translations="kept", outcome=_outcome(0.8)),
        _point(0.8, noise="diacritics", rate=0.0, translations="again", outcome={}),
        _point(0.8, noise="diacritics", rate=0.4, translations="again", outcome=_outcome(0.0)),
    ]
    few = [_point(0.5, rows=rows, there=99, language="ur") for rows in (0, 10)]
    return {"setting": {"Data": "some"}, "metric": "ndcg@10", "noise": noise, "few_shot": few}


def test_the_report_says_what_was_asked_what_came_out_and_where_lira_is_below(report, tmp_path):
    text = robustness_markdown(report)
    assert "| 40 | 40.0 | 80 | 60.0 | 59.0 | 58.0 | 57.0 | 56.0 | 55.0 |" in text
    assert "| 40 | +2.0 [-5.0, -1.0] |" in text
    assert "- typos, translations kept at 40 %, LiRA minus concat: mean +2.0 [-5.0, -1.0]\n" in text
    assert text.count("LiRA minus concat: mean") == 1
    assert "No marks of these texts were changed" in text
    assert "## Missing diacritics, translated again" in text
    assert "## Few-shot: Urdu" in text
    assert "| 10 | 50.0 |" in text
    report["noise"] = report["noise"][2:]
    assert "Nowhere by more than chance (95 %)." in robustness_markdown(report)


def test_plots_and_json_are_of_the_same_points(report, tmp_path, monkeypatch):
    titles, finish = [], robustness_report._finish

    def watched(figure, axes, path, columns):
        if path.name == "noise-languages.png":
            titles.extend(axis.get_title() for axis in axes)
        assert all(axis.get_xlabel() for axis in axes)
        assert any(axis.get_ylabel() for axis in axes)
        finish(figure, axes, path, columns)

    monkeypatch.setattr(robustness_report, "_finish", watched)
    written = write_robustness_report(report, tmp_path)
    assert {path.name for path in written} == {
        "report.json",
        "report.md",
        "noise.png",
        "noise-languages.png",
        "few-shot.png",
    }
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert titles == ["Urdu", "Vietnamese", "", ""]  # languages above the first row of panels only
    for path in written[2:]:
        assert re.match(rb"\x89PNG", path.read_bytes()[:8])
    report["few_shot"] = []
    assert len(write_robustness_report(report, tmp_path / "noise")) == 4


def test_without_matplotlib_there_are_no_plots(report, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert [path.name for path in write_robustness_report(report, tmp_path)] == ["report.json", "report.md"]
