"""The examples run as they stand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_configs import build
from tiny_lira import CHAT, encoder, word_tokenizer


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


@pytest.mark.slow
def test_chat_any_base(tmp_path):
    """From translation to chat, with tiny models in the place of the real ones."""
    parts = {"base": build("llama"), "encoder": encoder("bert"), "anchor": encoder("bert", 24, 1)}
    command = [sys.executable, str(EXAMPLES / "chat_any_base.py"), "--output", str(tmp_path / "run"), "--steps", "2"]
    for name, model in parts.items():
        model.save_pretrained(tmp_path / name)
        tokenizer = word_tokenizer(bos=True, chat_template=CHAT) if name == "base" else word_tokenizer()
        tokenizer.save_pretrained(tmp_path / name)
        command += [f"--{name}", str(tmp_path / name)]
    command += ["--translator", "memory", "--max-new-tokens", "4"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "ur: 12 questions translated now" in done.stderr
    assert all(f"stage {name}\n" in done.stderr for name in ("arca", "warm", "chat"))
    assert done.stderr.count("  LiRA: ") == 4
    assert "lira generate " in done.stderr
    config = json.loads((tmp_path / "run" / "chat" / "config.json").read_text())
    assert config["backbones_saved"] is False
    again = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert again.returncode == 0, again.stderr
    assert "ur: 0 questions translated now" in again.stderr
    assert "stage " not in again.stderr  # each was there
    answers = [[line for line in one.stderr.splitlines() if "LiRA: " in line] for one in (done, again)]
    assert answers[0] == answers[1]
