"""Curves around the benchmark of `reasoning.py`: how many pairs, how much noise, and what training end to end adds.

`python examples/number_words/curves.py few-shot noise end-to-end` writes a JSON and a plot of each. The base models
are those of `make reasoning`, where these are there.
"""

import os


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from number_words.reasoning import Settings, run


__all__ = ["CURVES", "main", "plot", "points"]

LOWEST = "ur"
PAIRS = (0, 10, 30, 100, 300)
NOISE = (0.1, 0.2, 0.35, 0.5)
# Times that rows of so few pairs are repeated, so that a batch has some of them.
_REPEATS = {10: 16, 30: 8, 100: 4, 300: 2}
Point = tuple[float | str, Settings]


def few_shot(settings: Settings) -> Iterator[Point]:
    """So many training pairs of the lowest-resource language; those of the others as they are."""
    for count in PAIRS:
        pairs = {**settings.data.pairs, LOWEST: count}
        repeats = {**settings.data.repeats, LOWEST: _REPEATS.get(count, 1)}
        yield count, replace(settings, data=replace(settings.data, pairs=pairs, repeats=repeats))


def noise(settings: Settings) -> Iterator[Point]:
    """Such a share of the candidates' number words is wrong, in training and test alike."""
    for rate in NOISE:
        yield rate, replace(settings, data=replace(settings.data, rate_number=rate))


def end_to_end(settings: Settings) -> Iterator[Point]:
    """The warm-up alone; the answer's loss after it through a frozen base; and with LoRA on the base."""
    ways: dict[str, dict[str, Any]] = {
        "warm-up alone": {"answer_steps": 0},
        "end to end, base frozen": {"answer_steps": 150},
        "end to end, LoRA": {"answer_steps": 150, "lora_rank": 8},
    }
    for name, heads in ways.items():
        yield name, replace(settings, heads=replace(settings.heads, **heads))


# What a curve doesn't touch, trained at its first point alone: candidates' noise is nothing to a system without any.
UNTOUCHED: dict[str, tuple[str, ...]] = {"noise": ("g only",)}
# Of each curve its settings, the systems that are trained at each point, and where it is measured.
CURVES: dict[str, tuple[Callable[[Settings], Iterator[Point]], tuple[str, ...], str]] = {
    "few-shot": (few_shot, ("LiRA", "g only", "h only"), LOWEST),
    "noise": (noise, ("LiRA", "h only"), "mean"),
    "end-to-end": (end_to_end, ("LiRA",), "mean"),
}


def points(
    curve: str, settings: Settings, output: Path, seeds: Sequence[int] = (0,), processes: int = 2
) -> list[dict[str, Any]]:
    """
    Measures a curve; a point that is there already is not measured again.

    Args:
        curve (`str`): of [`CURVES`].
        settings ([`Settings`]): as of the benchmark.
        output (`Path`): its folder; points lie in `curves/` in it.
        seeds (`Sequence[int]`, *optional*, defaults to `(0,)`): of the training of LiRA's heads.
        processes (`int`, *optional*, defaults to 2): at once.

    Returns:
        `list[dict]`: per point `x`, and by system the exact match on test of each language and their mean.
    """
    vary, systems, _ = CURVES[curve]
    found = []
    for place, (x, changed) in enumerate(vary(settings)):
        folder = output / "curves" / f"{curve}-{place}"
        folder.mkdir(parents=True, exist_ok=True)
        for made in (*output.glob("lm-*"), *output.glob("encoder-*")):
            if not (folder / made.name).exists():
                (folder / made.name).symlink_to(made.resolve())
        if not (folder / "features").exists():  # most texts are those of the other points
            (output / "curves" / "features").mkdir(exist_ok=True)
            (folder / "features").symlink_to((output / "curves" / "features").resolve())
        done, untouched = folder / "point.json", UNTOUCHED.get(curve, ())
        if not done.is_file():
            report = run(changed, folder, seeds, processes, systems if place else (*systems, *untouched))
            done.write_text(json.dumps({"x": x, "test": report["test"], "dev": report["dev"]}), encoding="utf-8")
        found.append(json.loads(done.read_text(encoding="utf-8")))
        for split in ("test", "dev") if place else ():  # the intervals are of the first point's LiRA
            first = {name: found[0][split][name].items() for name in untouched}
            found[-1][split] |= {name: {k: v for k, v in row if k != "LiRA minus this"} for name, row in first.items()}
    return found


def plot(curve: str, found: Sequence[dict[str, Any]], file: Path) -> None:
    """A curve with its controls beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    where = CURVES[curve][2]
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    shown = [str(point["x"]) for point in found]
    for name in found[0]["test"]:
        values = [point["test"][name][where] for point in found]
        own = name in CURVES[curve][1]
        axes.plot(shown, values, marker="o" if own else ".", linestyle="-" if own else "--", label=name)
    label = {"few-shot": f"training pairs of {LOWEST}", "noise": "share of wrong number words"}.get(curve, "")
    axes.set(xlabel=label, ylabel=f"exact match, {where}", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def main(
    arguments: Sequence[str] | None = None,
    write: Callable[[str], Any] = sys.stdout.write,
    settings: Settings | None = None,
) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="*", choices=list(CURVES), default=list(CURVES), help="which; all by default")
    parser.add_argument("--output", type=Path, default=Path("runs/number-words"), help="folder of models and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training of LiRA's heads")
    parser.add_argument("--processes", type=int, default=2, help="at once, with one thread each")
    told = parser.parse_args(arguments)
    for curve in told.curves:
        found = points(curve, settings or Settings(), told.output, told.seeds, told.processes)
        (told.output / f"{curve}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        plot(curve, found, told.output / f"{curve}.png")
        where = CURVES[curve][2]
        for point in found:
            figures = {name: row[where] for name, row in point["test"].items()}
            write(f"{curve} {point['x']} ({where}): {figures}\n")


if __name__ == "__main__":
    main()
