"""The sweep over the types that most bases are of, and proof that its oracle and its checks can fail."""

import contextlib

import pytest
import torch
from sweep_checks import (
    CheckError,
    Subject,
    check_absent,
    check_beams,
    check_forward,
    check_greedy,
    examine,
    make_lira,
)
from sweep_oracle import beam_oracle, compare_beams, compare_greedy, greedy_oracle, sequence_score
from tiny_configs import DECODER_ONLY, build

from lira_hf.models import base_lira, generation_lira


TYPES = (
    "bloom deepseek_v3 falcon falcon_mamba gemma2 gemma3_text gemma4_text gpt2 gpt_neox gpt_oss lfm2 llama mamba"
    " mamba2 mistral mixtral mpt olmo2 opt phi3 qwen2 qwen3 qwen3_moe qwen3_next smollm3"
).split()

# Logits that follow a last token. Greedily 0 is followed by 1; 2 is nearly as likely, and leads on to a sure thing.
TABLE = torch.tensor([[0.0, 2.0, 1.9, -9.0], [1.0, 1.0, 1.1, 1.0], [-9.0, -9.0, -9.0, 9.0], [0.0, 0.0, 0.0, 0.1]])


def table_scorer(ids: torch.Tensor) -> torch.Tensor:
    """Of a language model that looks at the last token alone."""
    return TABLE[ids[:, -1]]


@pytest.mark.parametrize("model_type", TYPES)
def test_a_base_of_any_type_does_all_that_lira_does(model_type):
    result = examine(model_type)
    assert result.bare_runs, result.reason
    assert result.status == "pass", result.reason


def test_each_of_the_types_is_swept_over():
    assert set(TYPES) < set(DECODER_ONLY)


def test_the_oracle_searches_greedily_and_by_beams():
    assert greedy_oracle(table_scorer, [0], 2, banned=None) == [1, 2]
    assert greedy_oracle(table_scorer, [0], 2, banned=1) == [2, 3]
    beams = beam_oracle(table_scorer, [0], 2, beams=2, banned=None)
    assert [new for _, new in beams] == [[2, 3], [1, 2]]
    # The likeliest of all sixteen continuations, counted out.
    totals = {(a, b): sequence_score(table_scorer, [0], [a, b]) for a in range(4) for b in range(4)}
    assert max(totals, key=totals.get) == (2, 3)
    assert beams[0][0] == pytest.approx(totals[2, 3], abs=1e-6)


def test_the_comparison_lets_ties_pass_and_nothing_else():
    tied, wrong = compare_greedy(table_scorer, [3], [0, 1], [1, 1], banned=3)
    assert tied
    assert wrong is None
    tied, wrong = compare_greedy(table_scorer, [0], [2, 3], [1, 2], banned=None)
    assert not tied
    assert "step 0" in wrong
    wanted = beam_oracle(table_scorer, [1], 1, beams=3, banned=2)  # 0, 1 and 3 are equally likely
    ties, wrong = compare_beams(table_scorer, [1], [[3], [0]], wanted)
    assert wrong is None
    assert ties > 0
    assert compare_beams(table_scorer, [0], [[2]], beam_oracle(table_scorer, [0], 1, 2, None))[1]


@pytest.fixture
def subject():
    """LiRA over a tiny llama."""
    return Subject("llama", make_lira(build("llama")))


def changed(module, monkeypatch, change):
    """Has `inject_prefix`, as `module` knows it, put in `change(prefix)`."""
    inject = module.inject_prefix

    @contextlib.contextmanager
    def other(embedding, prefix, *args, **kwargs):
        with inject(embedding, change(prefix), *args, **kwargs):
            yield

    monkeypatch.setattr(module, "inject_prefix", other)


def test_the_checks_see_that_the_prefix_says_nothing(subject, monkeypatch):
    changed(base_lira, monkeypatch, torch.zeros_like)
    with pytest.raises(CheckError, match="two texts change the last logits by 0"):
        check_forward(subject)


@pytest.mark.parametrize("check", [check_greedy, check_absent, check_beams])
def test_the_checks_see_that_generate_gives_rows_the_prefix_of_others(subject, monkeypatch, check):
    check(subject)
    changed(generation_lira, monkeypatch, lambda prefix: prefix.roll(1, 0))
    with pytest.raises(CheckError, match="row 0 of 3"):
        check(subject)


@pytest.mark.parametrize("check", [check_greedy, check_beams])
def test_the_checks_see_that_the_soft_tokens_are_in_another_order(subject, monkeypatch, check):
    changed(generation_lira, monkeypatch, lambda prefix: prefix.flip(1))
    with pytest.raises(CheckError, match="row"):
        check(subject)
