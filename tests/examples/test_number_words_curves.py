"""The curves around the reasoning benchmark, on models of no use: what varies, what is kept, what is drawn."""

import json
import sys
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from number_words import curves  # noqa: E402
from test_number_words_reasoning import small_settings  # noqa: E402


def test_each_curve_varies_what_it_says():
    settings = small_settings()
    few = list(curves.few_shot(settings))
    assert [changed.data.pairs["ur"] for _, changed in few] == [x for x, _ in few] == list(curves.PAIRS)
    assert all({**changed.data.pairs, "ur": 3} == settings.data.pairs for _, changed in few)
    assert [changed.data.rate_number for _, changed in curves.noise(settings)] == list(curves.NOISE)
    ways = [(changed.heads.answer_steps, changed.heads.lora_rank) for _, changed in curves.end_to_end(settings)]
    assert ways == [(0, 0), (150, 0), (150, 8)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_points_are_measured_once_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "PAIRS", (0, 3))
    curves.main(["few-shot", "--output", str(tmp_path), "--processes", "0"], lambda _: None, small_settings())
    found = json.loads((tmp_path / "few-shot.json").read_text())
    assert [point["x"] for point in found] == [0, 3]
    for point in found:
        assert {"LiRA", "g only", "h only", "translate, best by critic"} <= point["test"].keys()
        assert all(0 <= row["ur"] <= 1 for row in point["test"].values())
    assert (tmp_path / "few-shot.png").stat().st_size > 5000

    def refuse(*args, **kwargs):
        raise AssertionError("a point was measured again")

    monkeypatch.setattr(curves, "run", refuse)
    again = curves.points("few-shot", small_settings(), tmp_path, processes=0)
    assert again == found


def test_what_noise_does_not_touch_is_trained_once(tmp_path, monkeypatch):
    asked = []

    def run(settings, output, seeds, processes, systems):
        asked.append(systems)
        rows = {name: {"mean": settings.data.rate_number} for name in systems}
        return {"test": rows, "dev": rows}

    monkeypatch.setattr(curves, "run", run)
    found = curves.points("noise", small_settings(), tmp_path, processes=0)
    assert asked == [("LiRA", "h only", "g only")] + [("LiRA", "h only")] * (len(curves.NOISE) - 1)
    assert [point["test"]["LiRA"]["mean"] for point in found] == list(curves.NOISE)
    assert [point["test"]["g only"]["mean"] for point in found] == [curves.NOISE[0]] * len(curves.NOISE)
    assert found == curves.points("noise", small_settings(), tmp_path, processes=0)
