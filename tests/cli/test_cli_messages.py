"""Errors of the operating system, in words that say what was got, what was expected and what to do."""

import pytest
import yaml
from typer.testing import CliRunner

from lira_hf.cli.main import app


@pytest.fixture
def checkpoint(tiny_lira, tmp_path):
    for part in tiny_lira():
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_path_that_is_no_use_is_named(checkpoint, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("red moon\n")
    for arguments, message in (
        (("diagnose", checkpoint, tmp_path / "no.tsv", "--store", file), "no.tsv', which isn't there; expected a"),
        (("embed", checkpoint, file, "-l", "en", "-o", file), "texts.txt', which is a file; expected a folder"),
        (("embed", checkpoint, file, "-l", "en", "-o", file / "x"), "texts.txt/x', part of which is a file; expected"),
        (("card", checkpoint, "--template", tmp_path), "which is a folder; expected a file; name one"),
    ):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 1, result.output
        assert message in " ".join(result.stderr.split())
        assert "Errno" not in result.output


def test_figures_go_into_a_folder_that_is_made(checkpoint, tiny_data, tiny_backbones, tmp_path):
    """What was computed for hours isn't lost for want of a folder."""
    parallel = tmp_path / "parallel.tsv"
    parallel.write_text("language\ttext\tenglish\nvi\tderv\tred\n")
    for number, arguments in enumerate(
        (
            ("evaluate", checkpoint, tiny_data),
            ("inspect", parallel, "--encoder", tiny_backbones["encoder"], "--no-estimate"),
            ("validate", parallel),
            ("store", "stats", tiny_data / "store.sqlite"),
        )
    ):
        file = tmp_path / f"new-{number}" / "figures.json"
        result = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--json", file)])
        assert result.exit_code == 0, result.output
        assert file.is_file()


def test_a_model_that_is_nowhere_is_named(tiny_backbones, tiny_data, tmp_path):
    """The library speaks of the connection, or of the form of names, and of no path."""
    text, recipe = tmp_path / "texts.txt", tmp_path / "recipe.yaml"
    text.write_text("red moon\n")
    for place in ("runs/mistyped", "runs/retrieval/mistyped"):
        parts = {"data": str(tiny_data), "stage": "arca", "output_dir": str(tmp_path / "out"), "use_cpu": True}
        recipe.write_text(yaml.safe_dump(parts | {"encoder": tiny_backbones["encoder"], "anchor": place}))
        for arguments in (
            ("embed", place, text, "-l", "en", "-o", tmp_path / "v"),
            ("generate", place, "red"),
            ("translate", text, "--store", tmp_path / "s.sqlite", "-l", "ms", "--seq2seq", place),
            ("train", recipe),
        ):
            arguments = ["--language" if one == "-l" else str(one) for one in arguments]
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 1, result.output
            assert f"got '{place}', which is no folder here" in " ".join(result.stderr.split())
