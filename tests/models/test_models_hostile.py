"""What once got past the processor, or broke it: one minimal example each."""

import time

import pytest
import torch
from tiny_lira import causal_with_processor

from lira_hf.models.traits_lira import candidate_traits


@pytest.mark.parametrize("score", ["999", (10**400, 5, 5)])
def test_scores_that_are_no_three_numbers(tiny_lira, score):
    _, processor = tiny_lira()
    with pytest.raises(ValueError, match="candidate 0 of text 0 has the scores"):
        processor("a", candidates=["x"], scores=[score])


def test_a_text_that_is_blank_as_far_as_it_is_read_has_no_road():
    _, processor = causal_with_processor()
    batch = processor([" " * 250_000 + "cat", "cat"], prompts=False)
    assert batch["source_mask"].any(-1).tolist() == [False, True]


def test_half_characters_in_conversations():
    _, processor = causal_with_processor()
    turns = [{"role": "user", "content": "cat \ud83d"}]
    whole = [{"role": "user", "content": "cat \ufffd"}]
    options = {"tokenize": True, "add_generation_prompt": True}
    one, other = (processor.apply_chat_template(each, **options) for each in (turns, whole))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_traits_of_placeholders_without_end():
    start = time.process_time()
    rows = candidate_traits("{" + " " * 5000, ["%" + "0" * 5000] * 64)
    assert len(rows) == 64
    assert time.process_time() - start < 3
