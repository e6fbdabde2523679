"""The ablation: what it trains, what it resumes, what it reports, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch
import yaml
from torch.testing import assert_close

from lira_hf.data import SimilarityPair, read_beir, write_sts
from lira_hf.evaluation import (
    Ablation,
    RetrievalScores,
    ablation_markdown,
    ablation_report,
    evaluate_embedder,
    make_variants,
    paired_difference,
    read_stages,
    write_ablation,
)
from lira_hf.evaluation.ablation_controls import SplitRoads, choose_controls, tune_path_weight
from lira_hf.evaluation.ablation_jobs import make_embedder
from lira_hf.evaluation.ablation_tasks import RetrievalSplit, embed_split
from lira_hf.inference import CandidateSource, LiraEmbedder, RoadFeatures
from lira_hf.training import ModelArguments
from lira_hf.translation import CandidateStore, Identity


SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "actor_hidden_size": 8, "num_bins": 2}
ROWS = [
    "LiRA",
    "no translation critic",
    "no embedding critic",
    "no translation",
    "no multilingual encoder",
    "with a DocQueue of 16",
    "no path dropout",
    "with consistency",
    "MindMerger-style",
]


@pytest.fixture(scope="session")
def stages(tiny_backbones, tiny_data, tmp_path_factory):
    """Recipes of both stages over the tiny data."""
    folder = tmp_path_factory.mktemp("stages")
    shared = {
        "data": str(tiny_data),
        "store": str(tiny_data / "store.sqlite"),
        "critic": "judge",
        "num_candidates": 2,
        "features": str(folder / "features"),
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "save_steps": 2,
        "save_strategy": "steps",
        "learning_rate": 1e-3,
        "logging_steps": 2,
        "report_to": "none",
        "use_cpu": True,
    }
    config = {**SIZES, "languages": ["vi", "ur", "en"]}
    arca = {**tiny_backbones, **shared, "config": config, "stage": "arca", "eval_strategy": "no"}
    lasr = shared | {"model": "x", "stage": "lasr", "eval_strategy": "steps", "eval_steps": 2, "train_arca": True}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_ndcg@10", "greater_is_better": True}
    return arca | {"output_dir": str(folder / "arca")}, lasr | best | {"output_dir": str(folder / "lasr")}


@pytest.fixture(scope="session")
def finished(stages, tmp_path_factory):
    """An ablation that nobody disturbed: its folder, its results and what it announced."""
    folder, heard = tmp_path_factory.mktemp("ablation"), []
    run = Ablation(*stages, folder, (0,), queue_size=16, workers=1, announce=heard.append)
    return folder, run.run(), heard


@pytest.fixture(scope="session")
def report(finished):
    return ablation_report(finished[1])


@pytest.mark.slow
def test_every_row_is_trained_and_reported(finished, report):
    folder, results, heard = finished
    trained = {"full", "ablation"}
    assert [name for name, row in report["systems"].items() if row["kind"] in trained] == ROWS[:-1]
    controls = [name for name, row in report["systems"].items() if row["kind"] == "control"]
    assert controls == [
        "LiRA, untrained start",
        "MindMerger-style",
        "g alone",
        "translate by the best fixed kind, then h",
        "translate by the best mixture, then h",
        "untrained concat, equal",
        "untrained concat, tuned on dev",
    ]
    asked = [name for name, row in report["systems"].items() if row["kind"] == "asked"]
    assert asked == ["LiRA, asked without translation", "LiRA, asked without the translation critic"]
    for name in ROWS:
        row = report["systems"][name]
        assert len(row["seeds"]) == len(row["dev"]) == 1
        assert row["ndcg@10"]["mean"] == pytest.approx(np.mean(row["seeds"]))
        assert row["ndcg@10"]["mean"] == pytest.approx((row["ndcg@10"]["ur"] + row["ndcg@10"]["vi"]) / 2)
        assert results.seconds[name] > 0
    for gaps in report["differences"].values():
        assert set(gaps) == {"ndcg@10", "recall@1", "mrr"}
        assert set(gaps["ndcg@10"]) == {"mean", "ur", "vi"}
    assert report["facts"]["data"] == {
        "train": {"queries": 48, "documents": 48},
        "dev": {"queries": 24, "documents": 48},
        "test": {"queries": 24, "documents": 48},
    }
    assert "stage 2 and scores of no translation, seed 0 (4 of 9)" in heard
    assert not list(folder.rglob("checkpoint-*"))


@pytest.mark.slow
def test_the_figures_are_those_of_the_checkpoints(finished, report, stages, tiny_data):
    """Loaded and asked anew, by the functions of `lira evaluate`."""
    folder, _, _ = finished
    split = read_beir(tiny_data, "test")
    judge = Identity("judge", "1")
    for name, source in {
        "LiRA": CandidateSource(CandidateStore(tiny_data / "store.sqlite", read_only=True), critic=judge),
        "no translation critic": CandidateSource(CandidateStore(tiny_data / "store.sqlite", read_only=True)),
        "no translation": None,
    }.items():
        place = folder / "seed-0" / name.lower().replace(" ", "-") / "lasr"
        recipe = {"data": "x", "features": stages[1]["features"], "use_cpu": True}
        embedder = make_embedder(recipe, ModelArguments(model=str(place)))
        found = evaluate_embedder(LiraEmbedder(embedder.model, embedder.processor, source, embedder.features), split)
        assert report["systems"][name]["ndcg@10"] == pytest.approx(
            {"mean": found.mean(), **found.per_language()}, abs=1e-6
        )
    gap = report["differences"]["no translation"]["ndcg@10"]["mean"]
    values = {name: report["systems"][name]["ndcg@10"]["mean"] for name in ("LiRA", "no translation")}
    assert gap["difference"] == pytest.approx(values["LiRA"] - values["no translation"])
    assert gap["low"] <= gap["difference"] <= gap["high"]


@pytest.mark.slow
def test_each_row_lacks_what_its_name_says(finished, stages):
    folder, _, _ = finished
    for name in ("no embedding critic", "no multilingual encoder"):
        place = folder / "seed-0" / name.replace(" ", "-") / "lasr"
        embedder = make_embedder(stages[1], ModelArguments(model=str(place)))
        model = embedder.model
        text = {"source_features": torch.rand(3, 3, 16), "anchor_features": torch.rand(3, 2, 3, 24)}
        with torch.no_grad():
            one, other = model(**text), model(**text | {"source_features": torch.rand(3, 3, 16)})
        assert not one.similarity.any()
        assert_close(one.policy, other.policy)
        same = torch.equal(one.pooler_output, other.pooler_output)
        assert same == (name == "no multilingual encoder")
    settings = json.loads((folder / "seed-0" / "mindmerger-style" / "lasr.settings.json").read_text())
    assert (settings["objective"], settings["critic"], settings["num_candidates"]) == ("infonce", None, 1)
    with CandidateStore(folder / "fixed.sqlite", read_only=True) as store:
        kinds = {name for row in store.get("vi", ["derv neergv eulbv"]) for name in [row[0].kind] if len(row) == 1}
    chosen = json.loads((folder / "choices.json").read_text())["kind"]
    assert kinds == {chosen.removeprefix("kind ")}
    # Stage 1 is shared where nothing of it differs, and left out where it has nothing to learn from.
    assert not (folder / "seed-0" / "with-a-docqueue-of-16" / "arca").exists()
    assert not (folder / "seed-0" / "no-translation" / "arca").exists()


@pytest.mark.slow
def test_run_again_it_trains_nothing_and_says_the_same(finished, report, stages, monkeypatch):
    folder, _, _ = finished
    monkeypatch.setattr("lira_hf.evaluation.ablation_jobs.train_recipe", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(RoadFeatures, "compute", lambda *a: pytest.fail("computed again"))
    results = Ablation(*stages, folder, (0,), queue_size=16, workers=1).run()
    again = ablation_report(results)
    for part in ("systems", "differences", "verdicts", "chosen"):
        assert again[part] == report[part], part


@pytest.mark.slow
def test_a_killed_ablation_goes_on_where_it_was(stages, finished, report, tmp_path, monkeypatch):
    from lira_hf.evaluation import ablation_jobs

    train, trained = ablation_jobs.train_recipe, []

    def dies(recipe, *args, **kwargs):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(recipe["output_dir"])
        return train(recipe, *args, **kwargs)

    monkeypatch.setattr(ablation_jobs, "train_recipe", dies)
    settings = {"queue_size": 16, "workers": 1, "only": ["no translation"]}
    with pytest.raises(KeyboardInterrupt):
        Ablation(*stages, tmp_path / "run", (0,), **settings).run()
    monkeypatch.setattr(
        ablation_jobs, "train_recipe", lambda r, *a, **k: trained.append(r["output_dir"]) or train(r, *a, **k)
    )
    again = ablation_report(Ablation(*stages, tmp_path / "run", (0,), **settings).run())
    assert len(trained) == len(set(trained)) == 3
    for name in ("LiRA", "no translation"):
        assert again["systems"][name]["seeds"] == report["systems"][name]["seeds"]


@pytest.mark.slow
def test_other_settings_are_not_mixed_in(finished, stages):
    folder, _, _ = finished
    arca, lasr = stages
    with pytest.raises(ValueError, match=r"other settings \(learning_rate\).*choose another --output"):
        Ablation(arca, lasr | {"learning_rate": 5e-3}, folder, (0,), queue_size=16, workers=1).run()


@pytest.mark.slow
def test_more_seeds_train_these_alone(finished, report, stages, monkeypatch):
    from lira_hf.evaluation import ablation_jobs

    train, trained = ablation_jobs.train_recipe, []
    folder, _, _ = finished
    monkeypatch.setattr(
        ablation_jobs, "train_recipe", lambda r, *a, **k: trained.append(r["seed"]) or train(r, *a, **k)
    )
    run = Ablation(*stages, folder, (0, 1), queue_size=16, workers=1, only=["no translation"])
    found = ablation_report(run.run())["systems"]
    assert set(trained) == {1}
    for name in ("LiRA", "no translation"):
        assert found[name]["seeds"][:1] == report["systems"][name]["seeds"]
        assert found[name]["ndcg@10"]["mean"] == pytest.approx(np.mean(found[name]["seeds"]))


@pytest.mark.slow
def test_several_processes_give_the_same_figures(stages, finished, report, tmp_path):
    run = Ablation(*stages, tmp_path / "run", (0,), queue_size=16, workers=2, only=["no translation critic"])
    found = ablation_report(run.run())["systems"]
    for name in ("LiRA", "no translation critic", "LiRA, untrained start"):
        assert found[name]["seeds"] == pytest.approx(report["systems"][name]["seeds"], abs=1e-6)


# Report


@pytest.mark.slow
def test_the_report_says_which_part_earned_its_place(report, finished):
    for part, row in (("translation", "no translation"), ("DocQueue", "with a DocQueue of 16")):
        found, gap = report["verdicts"][part], report["differences"][row]["ndcg@10"]["mean"]
        assert found["row"] == row
        sign = -1 if part == "DocQueue" else 1  # the full model lacks it
        assert found["brings"]["difference"] == pytest.approx(sign * gap["difference"])
        assert found["brings"]["low"] <= found["brings"]["difference"] <= found["brings"]["high"]
        expected = "yes" if found["brings"]["low"] > 0 else "harms" if found["brings"]["high"] < 0 else "no"
        assert found["earned"] == expected
    text = ablation_markdown(report)
    for name, row in report["systems"].items():
        assert f"| **{name}** |" in text if name == "LiRA" else f"| {name} |" in text
        assert f"{100 * row['ndcg@10']['mean']:.1f}" in text
    for part in (
        "translation critic",
        "embedding critic",
        "translation",
        "multilingual encoder",
        "DocQueue",
        "consistency",
    ):
        assert f"* The {part} " in text
    told = {"yes": "earned its place", "no": "taking it away costs nothing", "harms": "without it the model is better"}
    line = next(line for line in text.splitlines() if line.startswith("* The translation critic "))
    assert told[report["verdicts"]["translation critic"]["earned"]] in line


@pytest.mark.parametrize(
    ("shift", "adds", "earned"),
    [(-0.2, False, "yes"), (0.0, False, "no"), (0.2, False, "harms"), (0.2, True, "yes"), (-0.2, True, "harms")],
)
def test_verdicts(shift, adds, earned):
    from lira_hf.evaluation.ablation_report import _verdict
    from lira_hf.evaluation.ablation_variants import Variant

    noise = np.random.default_rng(0).normal(0, 0.05, (2, 60))
    ids, tags = [str(n) for n in range(60)], ["vi"] * 30 + ["ur"] * 30
    full, row = (
        RetrievalScores(ids, tags, ids, {"ndcg@10": 0.5 + one - one.mean()}) for one in (noise[0], noise[1] + 0)
    )
    row.values["ndcg@10"] += shift
    gaps = {tag or "mean": paired_difference([full], [row], language=tag)._asdict() for tag in (None, "vi", "ur")}
    assert _verdict(Variant("row", "", "part", adds=adds), gaps)["earned"] == earned


@pytest.mark.slow
def test_files(report, tmp_path, monkeypatch):
    files = write_ablation(report, tmp_path)
    assert [path.name for path in files] == ["report.json", "report.md", "report.png"]
    assert json.loads(files[0].read_text()) == json.loads(json.dumps(report))
    assert files[2].read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert [path.name for path in write_ablation(report, tmp_path)] == ["report.json", "report.md"]


# Choices and controls


@pytest.fixture
def judged(tiny_lira, tiny_data):
    source = CandidateSource(CandidateStore(tiny_data / "store.sqlite", read_only=True), critic=Identity("judge", "1"))
    return LiraEmbedder(*tiny_lira(), source)


def test_controls_are_chosen_on_dev(judged, tiny_data):
    dev = SplitRoads(judged, RetrievalSplit(read_beir(tiny_data, "dev")))
    chosen = choose_controls(dev)
    assert dev.kinds() == ["good", "poor"]
    assert chosen["kind"] == "kind good"  # the translation itself
    assert dev.translated("kind good").mean() == 1.0
    assert dev.translated("kind poor").mean() < 1.0
    assert dev.translated("kind poor").mean() == pytest.approx(dev.translated("first").mean())
    best = max(value for name, value in chosen["dev"].items() if "path weight" in name)
    assert chosen["dev"][f"concat ({chosen['concat']}), path weight {chosen['path_weight']}"] == best


def test_the_share_of_g_is_tuned_as_the_model_would_have_it(tiny_lira, tiny_data, judged):
    split = RetrievalSplit(read_beir(tiny_data, "dev"))
    tried = tune_path_weight(judged, split, embed_split(judged, split))
    for weight in (0.4, 0.8):
        model, processor = tiny_lira(path_weight=weight)
        embedder = LiraEmbedder(model, processor, judged.candidates)
        assert tried[weight] == pytest.approx(evaluate_embedder(embedder, split.dataset).mean(), abs=1e-6)


# Ranking


@pytest.fixture
def pairs(tiny_data, tmp_path):
    """A folder of scored pairs made of the tiny data's texts."""
    generator = np.random.default_rng(0)
    for side in ("train", "dev", "test"):
        split = read_beir(tiny_data, side)
        rows = []
        for query, judged in split.qrels.items():
            right, text = split.corpus[next(iter(judged))], split.queries[query]
            other = list(split.corpus.values())[generator.integers(len(split.corpus))]
            for english in (right, other):
                share = len(set(english.split()) & set(right.split())) / 3
                rows.append(SimilarityPair(text.text, english, 5 * share, text.language, "en"))
        write_sts(tmp_path / f"{side}.tsv", rows)
    return tmp_path


@pytest.mark.slow
def test_scored_pairs_too(stages, pairs, tmp_path):
    ranking = {"task": "ranking", "data": str(pairs), "corr_queue_size": 16}
    arca, lasr = (stage | ranking for stage in stages)
    lasr = lasr | {"metric_for_best_model": "eval_pearson"}
    rows = ["no CorrQueue", "no multilingual encoder", "MindMerger-style"]
    run = Ablation(arca, lasr, tmp_path / "run", (0,), workers=1, only=rows)
    found = ablation_report(run.run())
    assert found["metrics"] == ["pearson", "spearman"]
    assert set(found["verdicts"]) == {"multilingual encoder", "CorrQueue"}
    for name, row in found["systems"].items():
        assert set(row["pearson"]) == {"mean", "ur-en", "vi-en"}, name
        assert all(math.isfinite(value) for value in row["pearson"].values())
    settings = json.loads((tmp_path / "run" / "seed-0" / "no-corrqueue" / "lasr.settings.json").read_text())
    assert settings["corr_queue_size"] == 0
    text = ablation_markdown(found)
    assert "Pearson x 100" in text
    assert "## Spearman x 100" in text
    assert "resampled by pair" in text


# What there can't be, and bad input


def test_rows_that_recipes_cannot_have_are_named_with_the_reason(stages):
    lasr = stages[1]
    found, missing = make_variants(lasr | {"critic": None})
    assert "no translation critic" in missing
    assert "no translation critic" not in [one.name for one in found]
    found, missing = make_variants(lasr | {"store": None, "critic": None, "queue_size": 64})
    assert [one.name for one in found] == ["LiRA", "no DocQueue"]
    assert set(missing) == set(ROWS[1:5]) | {"MindMerger-style"}


@pytest.mark.slow
def test_without_a_store_g_alone_is_the_only_control(stages, tmp_path):
    none = {"store": None, "critic": None}
    run = Ablation(stages[0] | none, stages[1] | none, tmp_path / "run", (0,), workers=1)
    found = ablation_report(run.run())
    assert list(found["systems"]) == ["LiRA", "with a DocQueue of 1,024", "LiRA, untrained start", "g alone"]
    assert "* Not measured: no translation: the recipes name no candidate store" in ablation_markdown(found)


@pytest.mark.parametrize(
    ("arca", "lasr", "message"),
    [
        ({"stage": "lasr"}, {}, "expected one of stage 'arca'"),
        ({}, {"stage": "arca"}, "expected one of stage 'lasr'"),
        ({"task": "generation"}, {"task": "generation"}, "got the task 'generation'"),
        ({}, {"num_candidates": 3}, "differ in num_candidates: 2 and 3"),
        ({"dev_split": ""}, {"dev_split": ""}, "nothing may be chosen on test"),
    ],
)
def test_recipes_that_do_not_go_together(stages, tmp_path, arca, lasr, message):
    with pytest.raises(ValueError, match=message):
        Ablation(stages[0] | arca, stages[1] | lasr, tmp_path)


def test_several_tasks_are_refused(stages, tmp_path):
    tasks = {"tasks": [{"data": stages[0]["data"]}], "data": ""}
    with pytest.raises(ValueError, match="got several tasks"):
        Ablation(stages[0] | tasks, stages[1] | tasks, tmp_path)


def test_an_unknown_row_and_the_same_split_twice(stages, tmp_path):
    with pytest.raises(ValueError, match=r"got \['no queue'\] as rows; expected some of \['no translation critic'"):
        Ablation(*stages, tmp_path, only=["no queue"])
    with pytest.raises(ValueError, match="expected three different ones"):
        Ablation(*stages, tmp_path, (0,), test_split="dev", workers=1).run()


def test_recipes_are_read_and_checked(stages, tmp_path):
    for name, stage in zip(("arca", "lasr"), stages, strict=True):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(stage))
    assert read_stages(tmp_path / "arca.yaml", tmp_path / "lasr.yaml") == stages
    with pytest.raises(FileNotFoundError, match="none.yaml"):
        read_stages(tmp_path / "none.yaml", tmp_path / "lasr.yaml")
    (tmp_path / "lasr.yaml").write_text(yaml.safe_dump(stages[1] | {"learnin_rate": 1}))
    with pytest.raises(ValueError, match="unknown keys .*learnin_rate"):
        read_stages(tmp_path / "arca.yaml", tmp_path / "lasr.yaml")
