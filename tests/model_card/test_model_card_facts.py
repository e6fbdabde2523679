"""What a run leaves behind, and what a card is made from: what isn't known stays unknown."""

import json

import pytest

from lira_hf import LiraModel, LiraProcessor, save_checkpoint
from lira_hf.model_card import checkpoint_facts, write_model_card
from lira_hf.training import RUN_FACTS_NAME, data_license, read_run_facts, write_run_facts


def test_a_run_leaves_its_facts(trained, tiny_data):
    first, second = read_run_facts(trained / "lasr")
    assert read_run_facts(trained / "arca") == [first]
    assert (first["stage"], second["stage"]) == ("arca", "lasr")
    assert (second["steps"], second["texts_per_step"], second["device"], second["processes"]) == (2, 8, "cpu", 1)
    assert second["settings"]["tau"] == 0.05
    assert first["config"]["hidden_size"] == 16
    task = second["tasks"][0]
    assert (task["data"], task["license"], task["critic"]) == (tiny_data.name, "CC-BY-4.0", "judge")
    assert (task["train_rows"], task["languages"], task["rows_without_candidates"]) == (48, {"ur": 24, "vi": 24}, 0)
    assert task["store"]["translators"] == [
        {"name": "made up", "fingerprint": "1", "asked": 96, "candidates": 192},
    ]
    assert [(row["name"], row["scores"]) for row in task["store"]["critics"]] == [("judge", 192)]
    assert 0 < second["metrics"]["eval_loss"]
    assert {"lira-hf", "torch", "transformers", "python"} <= second["versions"].keys()


def test_facts_tell_no_places(trained, tiny_data):
    text = (trained / "lasr" / RUN_FACTS_NAME).read_text()
    assert str(trained) not in text
    assert str(tiny_data.parent) not in text


def test_facts_of_a_checkpoint(checkpoint, tiny_data, report):
    facts = checkpoint_facts(checkpoint, reports=[report], data=[tiny_data], data_licenses=["CC0-1.0"], license="mit")
    assert (facts.name, facts.languages, facts.license) == ("lira-tiny", ["vi", "ur", "en"], "mit")
    assert [(one.name, one.license, one.rows) for one in facts.data] == [
        (tiny_data.name, "CC0-1.0", {"train": 48, "dev": 24})
    ]
    assert [(one.name, one.count) for one in facts.candidates] == [("made up", 192)]
    assert facts.measured[0].dataset == tiny_data.name
    parts = {part.role: part for part in facts.parts}
    assert (parts["Multilingual encoder"].name, parts["Multilingual encoder"].revision) == ("g", None)
    assert "/" not in parts["English encoder"].name


def test_without_facts_nothing_is_known(checkpoint):
    (checkpoint / RUN_FACTS_NAME).unlink()
    facts = checkpoint_facts(checkpoint)
    assert not any([facts.runs, facts.data, facts.candidates, facts.critics, facts.versions, facts.measured])
    text = write_model_card(facts, checkpoint).read_text()
    assert "Not stated: no facts of a run lie beside the checkpoint." in text
    assert "written from the configuration alone" in text
    assert "Weights: not stated." in text
    assert "\nlicense:" not in text


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": 2, "runs": []}',
        '{"format": 1, "runs": [{}]}',
        '{"format": 1, "runs": 3}',
        '{"format": 1, "runs": [{"stage": "a", "tasks": [3]}]}',
        "\xff",
    ],
)
def test_broken_facts_are_refused(checkpoint, content):
    (checkpoint / RUN_FACTS_NAME).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"lira_run.json, which can't be read .*; expected the facts .*delete it"):
        checkpoint_facts(checkpoint)
    assert read_run_facts(checkpoint, strict=False) == []


@pytest.mark.parametrize("gone", ["steps", "settings", "metrics", "versions", "texts_per_step", "device", "tasks"])
def test_a_fact_that_is_missing_is_left_out(checkpoint, gone):
    run = read_run_facts(checkpoint)[-1]
    for other in (None, "odd"):
        write_run_facts(checkpoint, [{name: value for name, value in run.items() if name != gone}])
        text = write_model_card(checkpoint_facts(checkpoint), checkpoint).read_text()
        assert "1. Stage `lasr`" in text
        assert "None" not in text
        if gone in ("settings", "metrics"):
            write_run_facts(checkpoint, [run | {gone: other}])
            assert "1. Stage `lasr`" in write_model_card(checkpoint_facts(checkpoint), checkpoint).read_text()


def test_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="without a config.json; expected the folder of a LiRA checkpoint"):
        checkpoint_facts(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ["nowhere"]}, "got the data 'nowhere', which isn't there"),
        ({"data_licenses": ["mit", "cc0-1.0"]}, "got 2 data licences for 1 data sets .*expected one for all"),
        ({"diagnosis": "nowhere.json"}, "got the diagnosis 'nowhere.json', which is no file"),
        ({"store": "nowhere.sqlite"}, "nowhere.sqlite isn't there; expected a candidate store"),
    ],
)
def test_named_things_that_are_not_there(checkpoint, options, message):
    with pytest.raises((ValueError, OSError, RuntimeError), match=message):
        checkpoint_facts(checkpoint, **options)


def test_a_data_licence_without_data(checkpoint):
    (checkpoint / RUN_FACTS_NAME).unlink()
    with pytest.raises(ValueError, match="got the data licence 'mit' and no data set"):
        checkpoint_facts(checkpoint, data_licenses=["mit"])


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: cc-by-sa-4.0\n---\n# Data\n", "cc-by-sa-4.0"),
        ("---\nlicense: [mit, cc0-1.0]\n---\n", "mit, cc0-1.0"),
        ("---\nlanguage: bn\n---\n", None),
        ("# No metadata\n", None),
        ("---\n: [\n---\n", None),
        (None, None),
    ],
)
def test_the_datas_own_licence(tmp_path, card, license):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    (tmp_path / "rows.jsonl").write_text("")
    assert data_license(tmp_path) == license
    assert data_license(tmp_path / "rows.jsonl") == license
    assert data_license(tmp_path, "mine") == "mine"


def test_the_bound_and_the_emissions(checkpoint, tmp_path):
    diagnosis = tmp_path / "diagnosis.json"
    diagnosis.write_text(json.dumps({"C": 0.68, "eps1": {"mean": 0.5, "bn": 0.7}, "rows": [1], "nan": float("nan")}))
    (checkpoint / "emissions.csv").write_text(
        "run_id,emissions,country_name\na,0.001,Iceland\na,0.002,Iceland\nb,0.003,Iceland\n"
    )
    facts = checkpoint_facts(checkpoint, diagnosis=diagnosis)
    assert facts.bound == {"C": 0.68, "eps1, mean": 0.5, "eps1, bn": 0.7}
    assert facts.emissions["emissions"] == 5.0  # grams: the last row of each run
    text = write_model_card(facts, checkpoint).read_text()
    assert "| eps1, bn | 0.7 |" in text
    assert "5.0 g of CO2 equivalents" in text
    diagnosis.write_text(json.dumps({"C": 1} | dict.fromkeys(map(str, range(400)), 1)))
    with pytest.raises(ValueError, match="401 numbers, too many for a card; expected the bound.json"):
        checkpoint_facts(checkpoint, diagnosis=diagnosis)
    for wrong in ("{", "{}", "[1]", json.dumps({"with translation": {"ndcg@10": {"mean": 0.5}}})):
        diagnosis.write_text(wrong)
        with pytest.raises(ValueError, match="expected the bound.json that `lira diagnose"):
            checkpoint_facts(checkpoint, diagnosis=diagnosis)
    (checkpoint / "emissions.csv").write_text("run_id,emissions\na,much\n")
    assert checkpoint_facts(checkpoint).emissions is None


def test_save_checkpoint_takes_the_facts_along(trained, tmp_path):
    place = trained / "lasr"
    model, processor = LiraModel.from_pretrained(place), LiraProcessor.from_pretrained(place)
    target = save_checkpoint(tmp_path / "shared", model, processor)
    assert read_run_facts(target) == read_run_facts(place)
    text = (target / "README.md").read_text()
    assert "Stage `lasr` on retrieval: 2 steps of 8 rows, on cpu" in text
    assert "| translator `made up` |" in text
    # What was trained on since is no longer what the facts tell of.
    model.arca.actor.fc1.weight.data.add_(1.0)
    other = save_checkpoint(tmp_path / "other", model, processor)
    assert read_run_facts(other) == []
    assert "written from the configuration alone" in (other / "README.md").read_text()
