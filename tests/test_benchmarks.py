"""The GPU's benchmark runs as it stands, on the CPU; the peers' references are right; tables follow the results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_configs import build
from tiny_lira import encoder


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(script: str, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / script), *options]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))


@pytest.mark.slow
def test_the_gpu_table_on_the_cpu(tmp_path):
    place = tmp_path / "gpu.json"
    done = run("bench_gpu.py", "--tiny", "--rounds", "2", "--output", str(place))
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(place.read_text())
    assert list(found["results"]) == ["correctness", "embedding", "generation", "training", "losses", "search"]
    correct = found["results"]["correctness"]
    assert correct["float32"]["met"]
    assert correct["bfloat16"]["met"]
    assert correct["bfloat16"]["least_cosine_of_embeddings"] < correct["float32"]["least_cosine_of_embeddings"]
    assert found["results"]["search"]["same_first"]
    assert found["machine"]["seconds"] < 60
    from report import gpu

    assert "| correctness | bfloat16 |" in gpu(found)


def test_real_figures_are_not_overwritten_by_tiny_ones():
    done = run("bench_gpu.py", "--tiny")
    assert done.returncode == 2
    assert "--tiny without --output" in done.stderr
    assert "got --tiny and --rehearse" in run("bench_gpu.py", "--tiny", "--rehearse").stderr


@pytest.mark.slow
def test_stage_1_on_cached_features_and_not(tmp_path):
    place = tmp_path / "features.json"
    done = run("bench_features.py", "--texts", "48", "--epochs", "2", "--output", str(place))
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(place.read_text())["results"]
    assert found["float32"]["largest_loss_difference"] < 1e-4
    assert found["float32"]["speedup"] > 1


def test_the_page_has_what_was_measured():
    done = run("report.py", "--check")
    assert done.returncode == 0, done.stderr + done.stdout


def test_what_differs_is_not_timed():
    from gpu_parts import compare

    truth = {"embeddings": torch.eye(3), "logits": torch.eye(3), "losses": torch.ones(2)}
    assert compare(truth, truth, "float32")["met"]
    for name, value in (("embeddings", -torch.eye(3)), ("logits", torch.ones(3, 3)), ("losses", torch.ones(2) * 1.1)):
        assert not compare({**truth, name: value}, truth, "bfloat16")["met"]
    assert not compare({**truth, "logits": torch.full((3, 3), torch.nan)}, truth, "bfloat16")["met"]


@pytest.mark.parametrize("peer", ["MindMergerReference", "LangBridgeReference"])
def test_peers_rows_are_what_they_are_alone(peer):
    """Padding changes neither loss nor what is written: the loss is that of each row without any."""
    import peers

    base = build("llama")
    base.config.bos_token_id = 1
    torch.manual_seed(0)
    model = getattr(peers, peer)(base, encoder("bert"))
    assert not any(weight.requires_grad for part in (model.base, model.encoder) for weight in part.parameters())
    draw = torch.Generator().manual_seed(1)
    text, reply = (torch.randint(5, 90, (2, width), generator=draw) for width in (6, 4))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    given = {"source_ids": text, "source_mask": mask, "input_ids": reply, "attention_mask": torch.ones_like(reply)}
    given["labels"] = reply
    alone = []
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in given.items()}
        one |= {name: one[name][:, mask[row].bool()] for name in ("source_ids", "source_mask")}
        alone.append(model(**one).loss)
    loss = model(**given).loss
    torch.testing.assert_close(loss, torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)
    loss.backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters() if weight.requires_grad)


def test_tables_of_the_page():
    """Every table has its place on the page, and is written from the results that there are."""
    from report import PAGE, RESULTS, TABLES, filled

    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in TABLES if f"<!-- table {name} -->" not in page] == []
    once = filled(page, RESULTS)
    assert filled(once, RESULTS) == once
    assert "| InfoNCE" not in filled(page, RESULTS / "none")
    assert "Not measured yet: `make bench`." in filled(page, RESULTS / "none")
    with pytest.raises(ValueError, match="'speed'; expected one of embedding"):
        filled("<!-- table speed -->\n<!-- end -->", RESULTS)


def test_a_missed_target_is_in_bold(tmp_path):
    from report import render

    found = {"import": {"lira_hf_ms": 2000, "transformers_ms": 1000, "relative": 2.0, "met": False}}
    found["from_pretrained"] = {"lira_ms": 30, "bare_ms": 10, "relative": 3.0}
    machine = {"cpu": "a CPU", "cores": 2, "load_1min": 0.1, "rounds": 7, "date": "2026-11-27T00:00:00+00:00"}
    (tmp_path / "import.json").write_text(json.dumps({"machine": machine, "results": found}))
    assert render("import", tmp_path).splitlines() == [
        "|  | lira_hf, ms | transformers, ms | relative |",
        "| --- | --- | --- | --- |",
        "| import | 2,000 | 1,000 | **2.000** |",
        "| `from_pretrained` | 30 | 10 | 3.000 |",
        "",
        "*a CPU, 2 cores, load 0.1, 7 rounds, 2026-11-27*",
    ]
