"""The examples run as they stand."""

import os
import subprocess
import sys
from pathlib import Path


EXAMPLES = Path(__file__).parents[1] / "examples"


def test_any_base_lm(tmp_path):
    command = [sys.executable, str(EXAMPLES / "any_base_lm.py"), "--output", str(tmp_path), "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("equal after loading: True") == 2
    assert "for embedding the base LM stays on the disk: True" in done.stderr
    assert "answer: " in done.stderr
    wrong = subprocess.run([*command, "--base", "x"], capture_output=True, text=True, env=dict(os.environ))
    assert wrong.returncode == 2
    assert "expected both, or neither" in wrong.stderr
