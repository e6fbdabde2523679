"""The soak script: a short run, and that it finds wrong answers, errors, hanging threads and leaks."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


_SCRIPT = Path(__file__).with_name("run_soak.py")


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("run_soak", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_soak"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["run_soak"]


def right(draw):
    time.sleep(0.001)


@pytest.mark.slow
def test_twenty_seconds_of_mixed_load(tmp_path):
    options = [
        "--minutes",
        "0.333",
        "--every",
        "0.5",
        "--allowed",
        "30",
        "--pause",
        "0.2",
        "--json",
        tmp_path / "soak.json",
    ]
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, _SCRIPT, *options], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": source}
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    facts = json.loads((tmp_path / "soak.json").read_text())
    assert facts["wrong"] == 0
    assert min(facts["answers"].values()) > 0
    assert set(facts["answers"]) == {"embed", "search", "generate"}
    assert facts["flat"]
    assert len(facts["samples_seconds_mb"]) > 10


def test_it_finds_what_is_wrong(soak):
    calls = []

    def sometimes(draw):
        calls.append(draw.random())
        time.sleep(0.001)
        if len(calls) == 3:
            return "got b, expected a"
        if len(calls) == 5:
            raise KeyError("lost")
        return None

    report = soak.run_jobs({"right": (right, 2), "sometimes": (sometimes, 1)}, 0.5, 0.1, every=0.05)
    assert report.wrong == ["sometimes: got b, expected a", "sometimes: KeyError: 'lost'"]
    assert report.num_wrong == 2
    assert report.answers["right"] > 5


def test_twenty_wrong_answers_end_it(soak):
    start = time.monotonic()
    report = soak.run_jobs({"wrong": (lambda draw: "no", 2)}, 30, 1)
    assert time.monotonic() - start < 10
    assert 20 <= report.num_wrong < 30


def test_it_finds_a_leak_and_none_where_there_is_none(soak):
    held = []

    def leak(draw):
        held.append(bytearray(os.urandom(1) * 400_000))
        time.sleep(0.01)

    report = soak.run_jobs({"leak": (leak, 1)}, 2.0, 0.2, every=0.05)
    assert not report.flat
    assert 0.3 * 0.4 * len(held) < report.growth < 1.5 * 0.4 * len(held)
    assert soak.run_jobs({"right": (right, 1)}, 1.0, 0.2, every=0.05).flat


def test_the_slope_is_that_of_the_samples_behind_the_warm_up(soak):
    samples = [(float(n), 500.0 if n < 10 else 100.0 + 0.5 * n) for n in range(60)]
    report = soak.SoakReport(samples=samples, warm_up=10, allowed=20)
    assert report.slope == pytest.approx(0.5)
    assert report.growth == pytest.approx(0.5 * 49)
    assert not report.flat
    assert report.facts()["slope_mb_per_hour"] == 1800
    assert not soak.SoakReport(samples=samples[:2], allowed=20).flat
