"""Checkpoint folders: all or nothing, with checksums; damage, full disks and files that lead elsewhere are refused."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import stat
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from lira_hf import LiraConfig, LiraModel, LiraProcessor
from lira_hf.models import saving_lira as saving
from lira_hf.models.saving_lira import CHECKSUMS_NAME, check_files, finish_saving, read_checksums, staged


FLIPS = 150


@pytest.fixture(scope="module")
def whole(tiny_lira, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "checkpoint"
    model, processor = tiny_lira()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def state(folder):
    return LiraModel.from_pretrained(folder).state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_checksums_are_of_every_file_and_those_that_others_work_out(whole):
    listed = read_checksums(whole)
    there = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()} - {CHECKSUMS_NAME}
    assert listed.keys() == there
    assert {"config.json", "model.safetensors", "processor_config.json"} <= there
    lines = "".join(f"{facts['sha256']}  {name}\n" for name, facts in listed.items())
    done = subprocess.run(["sha256sum", "-c"], input=lines, cwd=whole, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_damaged_weights_are_refused_and_other_files_warned_of(whole, copy, caplog):
    right, draw = state(whole), random.Random(0)
    path = copy / "model.safetensors"
    data = path.read_bytes()
    for number in range(FLIPS):
        bent, place = bytearray(data), draw.randrange(len(data))
        if number % 5:
            bent[place] ^= 1 << draw.randrange(8)
        else:
            del bent[place:]
        path.write_bytes(bent)
        with pytest.raises(ValueError, match=r"got a damaged model.safetensors in .*; expected the weights that were"):
            check_files(copy, weights=True)
        if number < 3:
            with pytest.raises(ValueError, match="got a damaged model.safetensors"):
                AutoModel.from_pretrained(copy)
    # One who knows better may.
    bent = bytearray(data)
    bent[-1] ^= 1
    path.write_bytes(bent)
    assert not same(LiraModel.from_pretrained(copy, verify_checksums=False).state_dict(), right)
    path.write_bytes(data)
    assert same(state(copy), right)
    assert not caplog.records
    config = copy / "config.json"
    config.write_text(config.read_text().replace('"initializer_range": 0.02', '"initializer_range": 0.03'))
    tokenizer = next(copy.glob("**/tokenizer.json"))
    tokenizer.write_text(tokenizer.read_text().replace("river", "rivfr"))
    LiraModel.from_pretrained(copy)
    LiraProcessor.from_pretrained(copy)
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2
    assert "config.json of" in warned[0]
    assert "tokenizer.json of" in warned[1]
    assert "isn't as it was saved" in warned[1]


def test_a_checkpoint_without_checksums_or_with_weights_changed_on_purpose(whole, copy):
    weights = {name: value + 1 for name, value in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="delete that line if you changed it on purpose"):
        LiraModel.from_pretrained(copy)
    (copy / CHECKSUMS_NAME).unlink()
    assert same(state(copy), weights)
    (copy / CHECKSUMS_NAME).write_text('{"format": 1, "files": {"../model.safetensors": {"bytes": 1, "sha256": ""}}}')
    with pytest.raises(ValueError, match="paths that lead elsewhere"):
        LiraModel.from_pretrained(copy)
    LiraModel.from_pretrained(whole).save_pretrained(copy)  # a damaged list is no reason not to save
    LiraModel.from_pretrained(copy)


class _Kill(BaseException):
    """As a kill: nothing is tidied up after it."""


def _folder_state(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_save_cut_off_at_any_file_operation_leaves_the_old_or_the_new(tmp_path, monkeypatch):
    def fill(place, word, names):
        for name in names:
            path = os.path.join(place, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(word)

    old_names = ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    old_names += ("model.safetensors.index.json",)
    new_names = ("config.json", "model.safetensors", "deep/er/file.json")
    ends, calls = [], 0
    while True:
        folder = tmp_path / f"{calls}"
        with staged(folder) as place:
            fill(place, "old", old_names)
        (folder / "mine.txt").write_text("mine")
        left, real, armed = (
            [calls],
            {name: getattr(os, name) for name in ("replace", "unlink", "rmdir", "fsync")},
            [True],
        )

        def counted(name, left=left, real=real, armed=armed):
            def call(*args, **kwargs):
                if armed[0]:
                    left[0] -= 1
                    if left[0] < 0:
                        raise _Kill  # and so do all calls after it: a killed process does nothing more
                return real[name](*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, counted(name))
            try:
                with staged(folder) as place:
                    fill(place, "new", new_names)
                killed = False
            except _Kill:
                killed = True
            armed[0] = False
        finish_saving(folder)  # as whoever loads or saves next does
        found = {name: data.decode() for name, data in _folder_state(folder).items() if name != CHECKSUMS_NAME}
        found = {name: word for name, word in found.items() if not name.startswith(".lira-saving")}
        old = {**dict.fromkeys(old_names, "old"), "mine.txt": "mine"}
        new = {**dict.fromkeys(new_names, "new"), "mine.txt": "mine"}
        assert found in (old, new), calls
        assert {name for name in read_checksums(folder) if (folder / name).is_file()} == found.keys() - {"mine.txt"}
        ends.append(found == new)
        with staged(folder) as place:  # leftovers go with the next save
            fill(place, "last", ["config.json"])
        assert not [path for path in folder.iterdir() if path.name.startswith(".lira")]
        if not killed:
            break
        calls += 1
    assert calls > 10
    assert ends == sorted(ends)  # from some moment on it is the new one


def test_saving_over_the_folder_that_was_loaded_and_shards_of_before(copy, tmp_path):
    model = LiraModel.from_pretrained(copy)
    right = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(copy, max_shard_size="20KB")
    assert len(list(copy.glob("model-*.safetensors"))) > 1
    assert not (copy / "model.safetensors").exists()
    assert same(state(copy), right)
    LiraModel.from_pretrained(copy).save_pretrained(copy)
    assert [path.name for path in copy.glob("model*")] == ["model.safetensors"]
    assert same(state(copy), right)
    shard = LiraModel.from_pretrained(copy)
    shard.save_pretrained(copy, max_shard_size="20KB")
    index = copy / "model.safetensors.index.json"
    first = sorted(copy.glob("model-*.safetensors"))[0]
    shutil.copy(first, tmp_path / "outside.safetensors")
    names = json.loads(index.read_text())
    for elsewhere in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "..\\outside.safetensors", ""):
        bent = {**names, "weight_map": dict.fromkeys(names["weight_map"], elsewhere)}
        index.write_text(json.dumps(bent))
        with pytest.raises(ValueError, match="expected names of files beside it; don't use this checkpoint"):
            LiraModel.from_pretrained(copy, verify_checksums=False)
    index.write_text("{")
    with pytest.raises(ValueError, match="expected an index of weights; restore it"):
        LiraModel.from_pretrained(copy)


@pytest.mark.parametrize("folder", ["../elsewhere", "/etc", "..", "a/b", ""])
def test_an_adapter_outside_the_checkpoint_is_refused(folder):
    with pytest.raises(ValueError, match="expected the name of a folder within the checkpoint"):
        LiraConfig(adapter_folder=folder)


def test_an_interrupted_save_on_a_disk_that_cannot_be_written_is_an_error(copy, monkeypatch):
    os.rename(shutil.copytree(copy, copy.parent / "next"), copy / saving._READY)

    def read_only(*_):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(saving.os, "replace", read_only)
        with pytest.raises(OSError, match="where saving was interrupted when it was almost done.*Read-only"):
            AutoModel.from_pretrained(copy)
    AutoModel.from_pretrained(copy)
    AutoProcessor.from_pretrained(copy)
    assert not (copy / saving._READY).exists()


def _save_on_a_full_disk(folder, answers):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    model = LiraModel.from_pretrained(folder)
    for weight in model.parameters():
        weight.data.add_(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    try:
        model.save_pretrained(folder)
    except Exception as error:
        answers.put(str(error))
        answers.close()
        answers.join_thread()
    os._exit(0)


def test_a_full_disk_leaves_the_old_checkpoint(copy):
    before = _folder_state(copy)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_save_on_a_full_disk, args=(copy, answers))
    process.start()
    assert "File too large" in answers.get(timeout=120)
    process.join(120)
    assert _folder_state(copy) == before


class _Evil:
    def __reduce__(self):
        return (os.system, (f"touch {os.environ['EVIL']}",))


def test_pickled_weights_are_not_loaded(whole, copy, tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    for name in ("model.safetensors", CHECKSUMS_NAME):
        (copy / name).unlink()
    torch.save({"a": _Evil()}, copy / "pytorch_model.bin")
    for load in (LiraModel.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(OSError, match="safetensors"):
            load(copy)
    with pytest.raises(Exception, match="(?i)weights.only|unsupported|unpickl"):  # the restricted unpickler, if asked
        LiraModel.from_pretrained(copy, use_safetensors=False)
    assert not (tmp_path / "ran").exists()
    assert not stat.S_IMODE((whole / "model.safetensors").stat().st_mode) & 0o111
