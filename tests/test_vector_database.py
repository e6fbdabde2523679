"""examples/vector_database.py over vectors of its own and of `lira embed`. Skipped where LanceDB isn't installed."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel, AutoProcessor
from typer.testing import CliRunner

from lira_hf.cli.main import app
from lira_hf.inference import LiraEmbedder, VectorFolder, VectorHit, VectorIndex


lancedb = pytest.importorskip("lancedb", reason="needs the extra 'lancedb'")

EXAMPLE = Path(__file__).parents[1] / "examples" / "vector_database.py"


@pytest.fixture(scope="module")
def example():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("vector_database", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(example, monkeypatch, caplog):
    """`run(*arguments)`: the script's main in this process, and what it said."""
    caplog.set_level(logging.INFO, "vector_database")

    def call(*arguments):
        caplog.clear()
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, arguments)])
        example.main()
        return "".join(f"{record.message}\n" for record in caplog.records if record.name == "vector_database")

    return call


def rows_of(folder):
    (name,) = lancedb.connect(folder / "lancedb").list_tables().tables
    found = lancedb.connect(folder / "lancedb").open_table(name).to_arrow().to_pylist()
    return {row["id"]: row for row in found}, len(found)


def test_it_runs_as_it_stands_and_goes_on_after_a_stop(run, tmp_path):
    stopped = run("--output", tmp_path, "--batch", 3, "--stop-after", 2)
    assert stopped == "stopped after 2 batches\nrows before: 0, rows now: 6 of 12\n"
    (name,) = lancedb.connect(tmp_path / "lancedb").list_tables().tables
    lancedb.connect(tmp_path / "lancedb").open_table(name).delete("id = 'en-1'")  # lost in the middle
    command = [sys.executable, str(EXAMPLE), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "rows before: 5, rows now: 12 of 12" in done.stderr
    assert done.stderr.count("as VectorIndex ranks them: True; within en: True") == 3
    assert "in en: en-" in done.stderr
    rows, count = rows_of(tmp_path)
    assert (len(rows), count) == (12, 12)
    folder = VectorFolder(tmp_path / "vectors")
    for shard in range(len(folder.shards)):
        for row, vector in zip(folder.table(shard).to_pylist(), folder.vectors(shard), strict=True):
            kept = rows[row["id"]]
            assert (kept["language"], kept["text"]) == (row["language"], row["text"])
            assert np.array_equal(kept["vector"], vector)
    assert run("--output", tmp_path).startswith("rows before: 12, rows now: 12 of 12\n")
    assert rows_of(tmp_path)[1] == 12


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_vectors_of_lira_embed(run, tiny_lira, tmp_path, precision):
    """A checkpoint and a folder from outside; ids with quotes; the ids are those of exact search."""
    for part in tiny_lira():
        part.save_pretrained(tmp_path / "model")
    texts = ["red river", "green house", "dera revirv", "moon file", "neerga esuoha"]
    rows = [
        {"id": f"it's {number}", "text": text, "language": "vi" if text[-1] in "va" else "en"}
        for number, text in enumerate(texts)
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["embed", tmp_path / "model", tmp_path / "corpus.jsonl", "--output", tmp_path / "vectors"]
    command += ["--precision", precision, "--shard-rows", 3]
    assert CliRunner().invoke(app, [str(part) for part in command]).exit_code == 0
    options = ["--checkpoint", tmp_path / "model", "--vectors", tmp_path / "vectors", "--output", tmp_path]
    said = run(*options, "--query", "vi:dera revirv", "--query", "en:moon", "--only", "vi", "-k", 2)
    assert said.count("as VectorIndex ranks them: True; within vi: True") == 2
    embedder = LiraEmbedder(*(kind.from_pretrained(tmp_path / "model") for kind in (AutoModel, AutoProcessor)))
    query = embedder.encode(["moon"], "en", role="query")
    best = VectorIndex(VectorFolder(tmp_path / "vectors")).search(query, 2)[0]
    lines = said.split("en: moon\n")[1].splitlines()
    assert [line.split("  ")[2] for line in lines[:2]] == [hit.id for hit in best]


def test_rankings_are_compared_by_ids_and_scores(example):
    def hits(**scores):
        return [VectorHit(name, score, "", None) for name, score in scores.items()]

    ours = hits(a=0.9, b=0.5, c=0.5)
    assert example.agree(ours, hits(a=0.9, b=0.5, c=0.5))
    assert example.agree(ours, hits(a=0.9, c=0.5, d=0.5))  # which of the equals at the end, is open
    assert not example.agree(ours, hits(x=0.9, b=0.5, c=0.5))
    assert not example.agree(ours, hits(a=0.9, b=0.5, c=0.4))
    assert not example.agree(ours, hits(a=0.9, b=0.5))
    assert example.agree([], [])


def test_what_does_not_go_together(run, tmp_path, capsys):
    for arguments, message in (
        (["--vectors", tmp_path], "got one of --checkpoint and --vectors; expected both"),
        (["--query", "no tag"], "got the query 'no tag'; expected LANGUAGE:TEXT"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(*arguments)
        assert message in capsys.readouterr().err
