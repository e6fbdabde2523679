"""What a person has put into a repository's card stays when the model is pushed again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_lira
from hub_server import HubServer


PUSH = """
import sys
import tiny_lira
from huggingface_hub import HfApi, ModelCard
from lira_hf import push_to_hub

model, processor = tiny_lira.causal_with_processor(g="bert", h="bert")
push_to_hub("org/mine", model, processor)
card = ModelCard.load("org/mine")
assert "written from the configuration alone" in card.text
words = "More of it than anybody wrote before.\\n"
start = card.text.index("\\n", card.text.index("<!-- yours: about")) + 1
card.text = card.text[:start] + words + card.text[start:]
card.data["license"] = "mit"
api = HfApi()
api.upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id="org/mine")
push_to_hub("org/mine", model, processor)
again = ModelCard.load("org/mine")
assert words in again.text and again.data.license == "mit" and "Weights: mit." in again.text, again

by_hand = "---\\nlicense: mit\\n---\\n# By hand\\n"
push_to_hub("org/other", model, processor, card=by_hand)
push_to_hub("org/other", model, processor)
assert ModelCard.load("org/other").text == "# By hand\\n"
"""


@pytest.mark.slow
def test_a_persons_words_stay_on_the_hub(tmp_path):
    helpers = [str(Path(module.__file__).parent) for module in (tiny_lira, sys.modules["tiny_configs"])]
    with HubServer(tmp_path / "hub") as hub:
        environment = os.environ | hub.environment(tmp_path / "home") | {"PYTHONPATH": os.pathsep.join(helpers)}
        done = subprocess.run([sys.executable, "-c", PUSH], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "The card stays as it is: got" in done.stderr
