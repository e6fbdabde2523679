"""Errors of the operating system, in words that say what was got, what was expected and what to do."""

import pytest
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
