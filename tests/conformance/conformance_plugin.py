"""A pytest plugin: LiRA as a model of the library, the stand-ins, and every result as one line of JSON."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import stand_ins
from transformers.models.auto import modeling_auto


_REPORT = os.environ.get("LIRA_CONFORMANCE_REPORT")
_NAMES = {
    "MODEL_MAPPING_NAMES": "LiraModel",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "LiraForCausalLM",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES": "LiraForMultipleChoice",
}


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is collected: the mixins look LiRA's classes up among the library's own."""
    import lira_hf  # noqa: F401 - registers the classes

    for mapping, name in _NAMES.items():
        getattr(modeling_auto, mapping)["lira"] = name
    stand_ins.install(Path(os.environ["LIRA_CONFORMANCE_TREE"]))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the tiny checkpoints."""
    shutil.rmtree(os.environ["TRANSFORMERS_TINY_MODEL_PATH"], ignore_errors=True)


def _reason(report: Any) -> str:
    """What a report says went wrong, or why it was skipped, on one line."""
    found = report.longrepr
    if isinstance(found, tuple):
        text = str(found[2]).removeprefix("Skipped: ")
    elif crash := getattr(found, "reprcrash", None):
        text = crash.message
    else:
        text = str(found or "")
    return " ".join(text.split())


def pytest_runtest_logreport(report: Any) -> None:
    """Appends what is worth knowing: how the call went, a skip or an error of the set-up, and sub-tests."""
    if _REPORT is None or (report.when != "call" and report.outcome == "passed"):
        return
    line = {
        "test": report.nodeid.split("/")[-1],
        "outcome": report.outcome,
        "reason": "" if report.outcome == "passed" else _reason(report),
        "subtest": type(report).__name__ == "SubtestReport",
        "seconds": round(report.duration, 3),
    }
    with open(_REPORT, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
