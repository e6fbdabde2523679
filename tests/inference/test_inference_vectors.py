"""Precisions, folders of vectors, the stream of texts into them, and search over them."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lira_hf.inference import (
    CandidateSource,
    LiraEmbedder,
    TextRow,
    VectorFolder,
    VectorIndex,
    VectorsError,
    dequantize,
    embed_rows,
    encode_rows,
    quantize,
)
from lira_hf.translation import TranslationMemory


PRECISIONS = ["float32", "float16", "int8", "binary"]


def unit(count, dim=20, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype("f")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows_of(count, start=0):
    return [TextRow(f"d{number}", f"text {number}", "en") for number in range(start, start + count)]


@pytest.fixture
def embedder(tiny_lira):
    model, processor = tiny_lira()
    with torch.no_grad():
        for part in (model.arca, model.fusion, model.embedding_head):
            for weight in part.parameters():
                weight.add_(torch.randn_like(weight) * 0.2)
    return LiraEmbedder(model, processor, batch_size=3)


def opened(embedder, path, precision="float32"):
    return VectorFolder.create(path, embedder.model.config.projection_dim, precision, "tiny", embedder.fingerprint)


# Precisions


def test_what_is_stored_is_near_the_vector():
    vectors = np.concatenate([unit(50), np.zeros((1, 20), "f")])
    tolerance = {"float32": 0, "float16": 5e-4, "int8": 5e-3, "binary": 0.35}
    for precision, most in tolerance.items():
        back = dequantize(quantize(vectors, precision), precision, 20)
        assert back.dtype == np.float32
        assert (1 - (back[:50] * vectors[:50]).sum(axis=1)).max() <= most + 1e-6
        if precision != "binary":
            assert not back[50].any()
            np.testing.assert_allclose(np.linalg.norm(back[:50], axis=1), 1, atol=1e-5)


def test_int8_and_bits_by_hand():
    vectors = np.array([[0.5, -1.0, 0.25, 0.0, 0.1, 0.2, 0.3, 0.4, -0.9, 0.9]], "f")
    assert quantize(vectors, "int8").tolist() == [[64, -127, 32, 0, 13, 25, 38, 51, -114, 114]]
    assert quantize(vectors, "binary").tolist() == [[0b10101111, 0b01000000]]
    for precision in PRECISIONS:  # a row's bytes don't depend on the rows beside it
        many = quantize(np.concatenate([unit(5, 10) * 9, vectors]), precision)
        np.testing.assert_array_equal(many[-1:], quantize(vectors, precision))
        assert quantize(vectors[:0], precision).shape[0] == 0
    with pytest.raises(ValueError, match="got precision='int4'; expected one of float32, float16, int8, binary"):
        quantize(vectors, "int4")


def test_encode_in_every_precision(embedder):
    texts = ["red river", "green house open", "", "moon"]
    plain = embedder.encode(texts, "en")
    for precision in PRECISIONS:
        found = embedder.encode(texts, "en", precision=precision)
        np.testing.assert_array_equal(found, quantize(plain, precision))
        np.testing.assert_array_equal(embedder.encode(texts[0], "en", precision=precision).shape, found[0].shape)
    with pytest.raises(ValueError, match="got precision='ubinary'"):
        embedder.encode(texts, "en", precision="ubinary")


# Folders


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_folder_gives_back_what_it_was_given(tmp_path, precision):
    vectors, rows = unit(10), rows_of(10)
    rows[3] = TextRow("d [3] \ud800", "ঢাকা \ud800\x00", None)
    with VectorFolder.create(tmp_path / "v", 20, precision, "m", "f") as folder:
        for start in (0, 4, 8):
            folder.append(rows[start : start + 4], vectors[start : start + 4])
        assert len(folder) == 10
        assert folder.known([*rows, TextRow("new", "x")]).tolist() == [True] * 10 + [False]
    folder = VectorFolder(tmp_path / "v")
    assert (len(folder), folder.offsets.tolist(), folder.precision) == (10, [0, 4, 8, 10], precision)
    stored = np.concatenate([folder.vectors(place) for place in range(3)])
    np.testing.assert_array_equal(stored, quantize(vectors, precision))
    assert isinstance(folder.vectors(0), np.memmap)
    texts = [row for place in range(3) for row in folder.table(place).select(["id", "text", "language"]).to_pylist()]
    assert texts[0] == {"id": "d0", "text": "text 0", "language": "en"}
    assert texts[3] == {"id": "d [3] \ufffd", "text": "ঢাকা \ufffd\x00", "language": None}
    with pytest.raises(VectorsError, match="opened for reading; expected one opened for appending"):
        folder.append(rows, vectors)


def test_another_model_precision_or_dimension_is_refused(tmp_path):
    VectorFolder.create(tmp_path / "v", 20, "int8", "old model", "aa").close()
    for given, message in (
        ((20, "int8", "new model", "bb"), r"got fingerprint 'bb' \(model 'new model'\).*'aa' \(model 'old model'\)"),
        ((20, "float32", "old model", "aa"), "got precision 'float32'.*holds vectors with precision 'int8'"),
        ((24, "int8", "old model", "aa"), "got dim 24"),
    ):
        with pytest.raises(VectorsError, match=message):
            VectorFolder.create(tmp_path / "v", *given)
    with VectorFolder.create(tmp_path / "v", 20, "int8", "elsewhere/old model", "aa"):  # a refusal leaves no lock
        with pytest.raises(VectorsError, match="another process writes to it; expected one writer"):
            VectorFolder.create(tmp_path / "v", 20, "int8", "old model", "aa", lock_timeout=0.1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("x")
    with pytest.raises(VectorsError, match="holds thesis.doc and no manifest.json"):
        VectorFolder.create(tmp_path / "other", 20)
    with pytest.raises(VectorsError, match="there is no manifest.json"):
        VectorFolder(tmp_path / "none")


def test_vectors_that_are_none_are_refused(tmp_path):
    bad = unit(3)
    bad[1, 0] = np.nan
    with VectorFolder.create(tmp_path / "v", 20) as folder:
        for vectors, message in (
            (bad, "got a vector of length nan for 'd1', and 1 such in all"),
            (unit(3) * 2, "got a vector of length 2 for 'd0', and 3 such"),
            (unit(2), r"got 3 rows and vectors of shape \(2, 20\); expected \(3, 20\)"),
        ):
            with pytest.raises(ValueError, match=message):
                folder.append(rows_of(3), vectors)
        assert len(VectorFolder(tmp_path / "v")) == 0


def test_damage_is_found_and_can_be_mended(tmp_path, caplog):
    path, vectors = tmp_path / "v", unit(9)
    with VectorFolder.create(path, 20) as folder:
        for start in (0, 3, 6):
            folder.append(rows_of(3, start), vectors[start : start + 3])
    whole = tmp_path / "whole"
    shutil.copytree(path, whole)

    for name in ("shard-000001.npy", "shard-000001.arrow"):  # one bit flipped
        data = bytearray((path / name).read_bytes())
        data[-10] ^= 1
        (path / name).write_bytes(data)
        damaged = VectorFolder(path)
        np.testing.assert_array_equal(damaged.vectors(0), vectors[:3])
        with pytest.raises(VectorsError, match=f"got a damaged {name} .*delete shard-000001.* and embed"):
            damaged.vectors(1)
        with pytest.raises(VectorsError, match=name):
            VectorIndex(damaged).search(vectors[:1])
        with pytest.raises(VectorsError, match=name):
            VectorFolder(path, verify=False).check()
        (path / name).write_bytes(data[:-1])
        with pytest.raises(VectorsError, match=rf"got {name} with \d+ bytes, not \d+"):
            VectorFolder(path)
        shutil.copy(whole / name, path / name)
    (path / "shard-000001.json").unlink()
    with pytest.raises(VectorsError, match="got shard-000001.npy .* without a .json of the same name"):
        VectorFolder(path)
    for file in path.glob("shard-000001.*"):
        file.unlink()
    with VectorFolder.create(path, 20) as mended:
        assert "lacks 1 shards, the first is 1" in caplog.text
        assert mended.known(rows_of(9)).tolist() == [True] * 3 + [False] * 3 + [True] * 3
        mended.append(rows_of(3, 3), vectors[3:6])
    assert sorted(file.name for file in path.glob("*.npy")) == [f"shard-00000{n}.npy" for n in (0, 2, 3)]
    for content, message in (("{", "which is no JSON"), ("{}", "an object with format, dim"), ("[]", "isn't what")):
        (path / "manifest.json").write_text(content)
        with pytest.raises(VectorsError, match=f"manifest.json, .*{message}"):
            VectorFolder(path)


def test_a_reader_takes_in_new_shards_when_asked(tmp_path):
    with VectorFolder.create(tmp_path / "v", 20) as writer:
        writer.append(rows_of(2), unit(2))
        (tmp_path / "v" / "shard-000001.npy").write_bytes(b"half a file")  # as a kill leaves it
        reader = VectorFolder(tmp_path / "v")
        writer.append(rows_of(2, 2), unit(2, seed=1))
        assert len(reader) == 2
        reader.refresh()
        assert len(reader) == 4
        reader.check()


def test_more_shards_than_a_process_may_open(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with VectorFolder.create(tmp_path / "v", 20) as folder:
        for number in range(120):
            folder.append(rows_of(1, number), unit(1, seed=number))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
        index = VectorIndex(VectorFolder(tmp_path / "v"))
        assert len(index.search(unit(1), 120)[0]) == 120
        with VectorFolder.create(tmp_path / "v", 20) as folder:
            assert folder.known(rows_of(130)).sum() == 120
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# The stream


def test_a_folder_holds_what_encode_gives(embedder, tmp_path):
    memory = TranslationMemory.fit([("vi", "derv reviru", "red river"), ("vi", "esuohv", "house")])
    embedder.candidates = CandidateSource(translator=memory)
    rows = [TextRow(f"q{n}", text, tag) for n, text in enumerate(["derv reviru", "x " * 9]) for tag in ("vi",)]
    rows += [TextRow("e1", "red moon", "en"), TextRow("e2", "red", None), TextRow("q0", "derv reviru", "vi")]
    own = TextRow("own", "derv", "vi", ["red", "blue moon"], [(9, 9, 9), None])
    blank = TextRow("blank", "  ", "vi")
    with opened(embedder, tmp_path / "v", "float16") as folder:
        report = embed_rows(embedder, iter([*rows, own, blank]), folder, shard_rows=3)
        assert (report.written, report.skipped, report.blank) == (5, 1, 1)
        again = embed_rows(embedder, [*rows, own], folder, shard_rows=100)
        assert (again.written, again.skipped) == (0, 6)
        for other in (
            own._replace(candidates=["red"], scores=None),
            own._replace(language="ur"),
            own._replace(text="x"),
        ):
            with pytest.raises(VectorsError, match="got 1 ids .* 'own'; expected each id with what it was"):
                embed_rows(embedder, [other], folder)
        with pytest.raises(ValueError, match="got the id 'a' with 'y' and with 'x'"):
            embed_rows(embedder, [TextRow("a", "x"), TextRow("a", "y")], folder)
        embedder.candidates = None  # English needs no source, the others had another one
        assert embed_rows(embedder, rows[2:4], folder).written == 0
        with pytest.raises(VectorsError, match="got 1 ids .* 'q0'"):
            embed_rows(embedder, rows[:1], folder)
    embedder.candidates = CandidateSource(translator=memory)
    folder = VectorFolder(tmp_path / "v")
    ids = [key for place in range(len(folder.shards)) for key in folder.table(place).column("id").to_pylist()]
    assert ids == ["q0", "q1", "e1", "e2", "own"]
    stored = np.concatenate([folder.vectors(place) for place in range(len(folder.shards))])
    expected = embedder.encode([row.text for row in rows[:4]], [row.language for row in rows[:4]], precision="float16")
    np.testing.assert_allclose(stored[:4], expected, atol=3e-4)
    alone = embedder.encode(["derv"], "vi", [own.candidates], [own.scores])
    np.testing.assert_allclose(stored[4:], alone, atol=3e-4)
    np.testing.assert_allclose(encode_rows(embedder, [rows[0], own])[1:], alone, atol=2e-6)


def test_fingerprints_tell_models_apart(embedder, tiny_lira, tmp_path):
    model, processor = tiny_lira()
    plain = LiraEmbedder(model, processor).fingerprint
    assert plain != embedder.fingerprint
    assert LiraEmbedder(*tiny_lira(path_weight=0.8)).fingerprint != plain
    for name in ("a", "b"):  # wherever it lies
        for part in (model, processor):
            part.save_pretrained(tmp_path / name)
        loaded = [type(part).from_pretrained(tmp_path / name) for part in (model, processor)]
        assert LiraEmbedder(*loaded).fingerprint == plain
    with VectorFolder.create(tmp_path / "v", 40, "float32", "m", plain) as folder:
        with pytest.raises(VectorsError, match=f"got .*{plain}.*expected this model's, '{embedder.fingerprint}'"):
            embed_rows(embedder, [], folder)


@pytest.mark.slow
def test_a_run_that_is_killed_loses_no_finished_shard(embedder, tmp_path):
    for part in (embedder.model, embedder.processor):
        part.save_pretrained(tmp_path / "model")
    texts = [f"red river {number}" for number in range(400)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    script = Path(__file__).with_name("kill_embed.py")
    arguments = [tmp_path / "model", tmp_path / "texts.txt", tmp_path / "v"]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["status"] == 0, done.stderr
    assert found["kills"] >= 3
    assert sum(0 < kept < 400 for kept in found["kept"]) >= 2  # some fell in the middle
    assert not found["twice"]
    assert not found["lost"]
    folder = VectorFolder(tmp_path / "v")
    assert sorted(p.name for p in folder.folder.iterdir() if p.suffix in (".tmp", ".lock")) == ["write.lock"]
    stored = np.concatenate([folder.vectors(place) for place in range(len(folder.shards))])
    np.testing.assert_allclose(stored, embedder.encode(texts, "en", precision="float16"), atol=3e-4)


# Search


@pytest.mark.parametrize("precision", PRECISIONS)
def test_search_is_brute_force_over_what_is_stored(tmp_path, monkeypatch, precision):
    monkeypatch.setattr("lira_hf.inference.search._BLOCK", 7)
    vectors, queries = unit(60), unit(5, seed=1) * 3
    with VectorFolder.create(tmp_path / "v", 20, precision) as folder:
        for start in range(0, 60, 20):
            folder.append(rows_of(20, start), vectors[start : start + 20])
    index = VectorIndex(folder, oversample=10)
    cosine = queries / 3 @ dequantize(quantize(vectors, precision), precision, 20).T
    for row, hits in zip(cosine, index.search(queries, 6), strict=True):  # 10 * 6: every sign bit is looked at
        best = np.argsort(-row, kind="stable")[:6]
        np.testing.assert_allclose([hit.score for hit in hits], row[best], atol=1e-5)
        assert [(hit.id, hit.text, hit.language) for hit in hits] == [(f"d{n}", f"text {n}", "en") for n in best]
    assert [len(hits) for hits in index.search(queries, 1000)] == [60] * 5
    assert index.search(queries[:0]) == []
    for shape in ((1, 5), (20,)):
        with pytest.raises(ValueError, match=r"expected \(queries, 20\)"):
            index.search(np.zeros(shape, "f"))
    with pytest.raises(ValueError, match="got k=0"):
        index.search(queries, 0)


def test_search_in_a_folder_without_vectors(tmp_path):
    with VectorFolder.create(tmp_path / "v", 20) as folder:
        assert VectorIndex(folder).search(unit(2)) == [[], []]
    with pytest.raises(ValueError, match="got oversample=0"):
        VectorIndex(folder, oversample=0)
