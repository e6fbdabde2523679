"""A few of the kills of `run_crashes.py`; the script itself does many."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).with_name("run_crashes.py")


@pytest.mark.slow
def test_work_that_is_killed_loses_nothing_repeats_nothing_and_ends_the_same():
    areas = ["translate", "judge", "cache", "embed", "save"]  # a run of training: test_training_resume.py
    command = [sys.executable, SCRIPT, *areas, "--tries", "8", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) ", done.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == areas
    for _, kills, ends, _, *faults in rows:
        assert int(kills) >= 8
        assert int(ends) >= 1
        assert faults == ["0", "0", "0"]
