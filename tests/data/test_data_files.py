"""Files that are there whole or not at all, and JSON that every program reads."""

import json
import math

import pytest

from lira_hf.data.files import strict_json, write_json


def test_numbers_that_json_has_no_word_for_are_null():
    report = {"mean": 0.5, "interval": (float("nan"), [math.inf, -math.inf]), "name": "NaN", "count": 3, "known": True}

    def refuse(word):
        raise AssertionError(word)

    read = json.loads(strict_json(report), parse_constant=refuse)
    assert read == {"mean": 0.5, "interval": [None, [None, None]], "name": "NaN", "count": 3, "known": True}


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "made" / "facts.json"
    write_json(path, {"ভাষা": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ভাষা": 1}
    assert [file.name for file in path.parent.iterdir()] == ["facts.json"]
