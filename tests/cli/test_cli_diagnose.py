"""`lira diagnose` over a tiny checkpoint: report, plots, drift through training, and what it refuses."""

import json

import pytest
import tiny_lira as parts
from typer.testing import CliRunner

from lira_hf.cli.main import app
from lira_hf.data import ParallelPair, Query, read_beir, write_beir, write_tsv


@pytest.fixture
def lira():
    return lambda *arguments: CliRunner().invoke(app, ["diagnose", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def checkpoints(tiny_lira, tmp_path_factory):
    """A trainer's output folder with two checkpoints, and the model at its end."""
    folder = tmp_path_factory.mktemp("run")
    for seed, name in ((1, "checkpoint-20"), (2, "checkpoint-100"), (3, "")):
        model, processor = tiny_lira()
        parts.disturb(model, seed)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


def _said(result) -> str:
    return " ".join(result.output.split())


def test_a_report_with_plots(lira, checkpoints, tiny_data, tmp_path):
    arguments = (checkpoints, tiny_data, "--store", tiny_data / "store.sqlite", "--critic", "judge", "--level", 0.8)
    result = lira(*arguments, "--output", tmp_path / "out", "--edit-rows", 4)
    assert result.exit_code == 0, result.output
    assert "eps1 + C sqrt(2 eps2)" in _said(result)
    assert "squared deviation is anchoring" in result.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert set(report["languages"]) == {"ur", "vi"}
    assert sum(report["rows"][side] for side in ("test", "calibration")) == 24
    assert report["lipschitz"]["rows"] == 8
    assert report["overall"]["bound"]["inside"] >= 0.5
    assert "drift" not in report
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for tag in ("ur", "vi"):
        assert f"* **{tag}** suffers from {report['languages'][tag]['verdict']['suffers_from']}" in page
    assert json.loads((tmp_path / "out" / "bound.json").read_text(encoding="utf-8"))["C"] == report["C"]
    assert len((tmp_path / "out" / "rows.tsv").read_text(encoding="utf-8").splitlines()) == 25
    assert (tmp_path / "out" / "report.png").is_file()
    again = lira(*arguments, "--output", tmp_path / "again", "--edit-rows", 4)
    assert again.exit_code == 0
    for name in ("report.json", "report.md", "rows.tsv", "bound.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_drift_takes_a_trainers_folder_in_the_order_of_its_steps(lira, checkpoints, tiny_data, tmp_path):
    options = ("--store", tiny_data / "store.sqlite", "--level", 0.8, "--edit-rows", 0, "--output", tmp_path)
    result = lira(checkpoints, tiny_data, *options, "--checkpoint", checkpoints)
    assert result.exit_code == 0, result.output
    points = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["drift"]
    assert [point["name"] for point in points] == ["checkpoint-20", "checkpoint-100", checkpoints.name]
    assert len({point["overall"]["eps1"] for point in points}) == 3
    assert "checkpoint-100" in result.stdout
    assert "## Through training" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "drift.png").is_file()
    one = lira(checkpoints / "checkpoint-20", tiny_data, *options[:-1], tmp_path / "one")
    assert one.exit_code == 0
    alone = json.loads((tmp_path / "one" / "report.json").read_text(encoding="utf-8"))
    assert alone["overall"]["eps1"]["mean"] == pytest.approx(points[0]["overall"]["eps1"], abs=1e-3)
    assert alone["lipschitz"]["local"] is None
    assert alone["overall"]["output"]["inside"] is None


def test_parallel_text_and_another_file_for_calibration(lira, checkpoints, tiny_data, tmp_path):
    for split in ("dev", "test"):
        data = read_beir(tiny_data, split)
        rows = [
            ParallelPair(query.language, query.text, data.corpus[next(iter(data.qrels[key]))], "x")
            for key, query in data.queries.items()
        ]
        write_tsv(tmp_path / f"{split}.tsv", rows)
    options = ("--store", tiny_data / "store.sqlite", "--level", 0.9, "--edit-rows", 0, "--output", tmp_path / "out")
    result = lira(checkpoints, tmp_path / "test.tsv", "--calibration", tmp_path / "dev.tsv", *options)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert (report["rows"]["calibration"], report["rows"]["test"]) == (24, 24)


def test_it_says_what_is_missing(lira, checkpoints, tiny_data, tmp_path):
    store = ("--store", tiny_data / "store.sqlite")
    bare = lira(checkpoints, tiny_data)
    assert bare.exit_code == 1
    assert "got neither --store nor --translator" in _said(bare)
    few = lira(checkpoints, tiny_data, *store)
    assert few.exit_code == 1
    assert "calibration rows; expected at least 199 for the level 0.995" in _said(few)
    write_beir(tmp_path, {"c": "con mèo"}, {"1": Query("mèo", "vi")}, {"test": {"1": {"c": 1}}}, {"c": "vi"})
    foreign = lira(checkpoints, tmp_path, *store)
    assert foreign.exit_code == 1
    assert "1 without a relevant English document" in _said(foreign)
    write_beir(tmp_path, {f"{n}": f"word {n}" for n in range(20)}, {"1": Query("x", "vi")}, {"test": {"1": {"3": 1}}})
    unknown = lira(checkpoints, tmp_path, *store)
    assert unknown.exit_code == 1
    assert "got no candidate translation for any of 1 rows" in _said(unknown)
    lost = lira(checkpoints, tiny_data, *store, "--checkpoint", tmp_path)
    assert lost.exit_code == 1
    assert "holds neither a config.json nor a checkpoint-STEP folder" in _said(lost)
    wide = lira(checkpoints, tiny_data, *store, "--space", "frozen", "--level", 0.8)
    assert wide.exit_code == 1
    assert "expected equal widths" in _said(wide)
    level = lira(checkpoints, tiny_data, *store, "--level", 1.5)
    assert level.exit_code == 1
    assert "level is 1.5; expected a share" in _said(level)
