"""Diverse beam search against the synchronous algorithm, written as a plain loop over steps, groups and tokens."""

from collections import Counter

import pytest
import torch
from tiny_seq2seq import FAMILIES, TEXTS, translator
from transformers import GenerationConfig

from lira_hf.translation import Candidate
from lira_hf.translation.seq2seq import Seq2SeqTranslator
from lira_hf.translation.seq2seq_diverse import HammingDiversity, diverse_groups


GROUPS, STEPS = 4, 8
DIVERSE = {"strategy": "diverse_beam", "num_hypotheses": GROUPS, "max_new_tokens": STEPS}
SOURCES = list(dict.fromkeys(text for text in TEXTS if text))


def source_ids(one: Seq2SeqTranslator, text: str) -> list[int]:
    return one.tokenizer(one.family.prepare(one.tokenizer, "ur") + text)["input_ids"]


@torch.no_grad()
def synchronous(one: Seq2SeqTranslator, text: str, penalty: float) -> list[tuple[list[int], float]]:
    """Tokens behind the start token, and mean log-probability without the penalty, of each group."""
    config = one._generation_config(1)
    ends = torch.tensor(config.eos_token_id).reshape(-1).tolist()
    source = torch.tensor([source_ids(one, text)])
    groups: list[list[int]] = [[] for _ in range(GROUPS)]
    sums = [0.0] * GROUPS
    for step in range(STEPS):
        taken: Counter[int] = Counter()
        for number, tokens in enumerate(groups):
            if tokens and tokens[-1] in ends:
                continue
            decoder = torch.tensor([[config.decoder_start_token_id, *tokens]])
            chances = one.model(input_ids=source, decoder_input_ids=decoder, use_cache=False).logits[0, -1]
            chances = chances.double().log_softmax(-1).tolist()
            token = max(range(len(chances)), key=lambda at: chances[at] - penalty * taken[at])
            if step == 0 and config.forced_bos_token_id is not None:
                token = config.forced_bos_token_id
            elif step == STEPS - 1 and config.forced_eos_token_id is not None:
                token = config.forced_eos_token_id
            if step > 0 or config.forced_bos_token_id is None:
                sums[number] += chances[token]
            tokens.append(token)
            taken[token] += 1
    return [(tokens, total / len(tokens)) for tokens, total in zip(groups, sums, strict=True)]


def decoded_groups(one: Seq2SeqTranslator, texts: list[str], penalty: float) -> list[list[list[int]]]:
    """Tokens of each text's groups from one batch, cut behind their end."""
    batch = one.tokenizer.pad({"input_ids": [source_ids(one, text) for text in texts]}, return_tensors="pt")
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    config = one._generation_config(1)
    sequences = diverse_groups(one.model, inputs, config, GROUPS, penalty, one.tokenizer.pad_token_id)
    ends = torch.tensor(config.eos_token_id).reshape(-1).tolist()
    rows = []
    for row in sequences[:, 1:].tolist():
        stop = next((place for place, token in enumerate(row) if token in ends), len(row) - 1) + 1
        assert set(row[stop:]) <= {one.tokenizer.pad_token_id}
        rows.append(row[:stop])
    return [rows[start : start + GROUPS] for start in range(0, len(rows), GROUPS)]


def early_ends(family: str, **settings) -> Seq2SeqTranslator:
    """With a quarter of the letters as further end tokens, so that groups end at different steps."""
    one = translator(family, **DIVERSE | settings)
    end = one.model.generation_config.eos_token_id
    one.model.generation_config.eos_token_id = [end, *range(4, len(one.tokenizer) - 4, 4)]
    return one


@pytest.mark.parametrize("penalty", [0.3, 1.5, 1000.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_groups_are_those_of_the_synchronous_algorithm(family, penalty):
    one = translator(family, **DIVERSE)
    expected = [[tokens for tokens, _ in synchronous(one, text, penalty)] for text in SOURCES]
    assert decoded_groups(one, SOURCES, penalty) == expected
    assert any(groups[0] != groups[-1] for groups in expected)


@pytest.mark.parametrize("family", ["nllb", "m2m100", "madlad"])  # the others' tiny models repeat one token
def test_rows_and_groups_that_end_early_count_nothing_afterwards(family):
    one = early_ends(family)
    expected = [[tokens for tokens, _ in synchronous(one, text, 1.0)] for text in SOURCES]
    assert decoded_groups(one, SOURCES, 1.0) == expected
    lengths = [[len(tokens) for tokens in groups] for groups in expected]
    assert any(max(row) > min(row[:-1]) for row in lengths)
    assert len({max(row) for row in lengths}) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_are_the_distinct_groups_by_their_chance_without_the_penalty(family):
    one = early_ends(family, diversity_penalty=0.8)
    for text, found in zip(SOURCES, one.translate(SOURCES, "ur", GROUPS), strict=True):
        expected: dict[str, float] = {}
        for tokens, score in synchronous(one, text, 0.8):
            skipped = tokens if one.family.target_id is None else tokens[1:]
            words = one.tokenizer.decode(skipped, skip_special_tokens=True).strip()
            if words:
                expected[words] = max(score, expected.get(words, score))
        best = sorted(expected, key=lambda words: -expected[words])
        assert [candidate.text for candidate in found] == best
        assert [candidate.score for candidate in found] == pytest.approx([expected[words] for words in best], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_penalty_all_groups_are_the_greedy_search(family):
    one = translator(family, **DIVERSE, diversity_penalty=0)
    assert all(len({tuple(tokens) for tokens in groups}) == 1 for groups in decoded_groups(one, SOURCES, 0.0))
    greedy = translator(family, num_hypotheses=1, max_new_tokens=STEPS).translate(SOURCES, "ur", 1)
    found = one.translate(SOURCES, "ur", GROUPS)
    assert [[c.text for c in row] for row in found] == [[c.text for c in row] for row in greedy]
    scores = [c.score for row in found for c in row]
    assert scores == pytest.approx([c.score for row in greedy for c in row], abs=1e-5)
    assert scores or family == "prompt"  # whose tiny model writes nothing but special tokens


def test_the_target_language_stays_in_front_of_every_group():
    one = translator("nllb", **DIVERSE, diversity_penalty=1000)
    target = one.tokenizer.convert_tokens_to_ids("eng_Latn")
    sequences = []
    original = one.model.generate
    one.model.generate = lambda **inputs: sequences.append(original(**inputs)) or sequences[-1]
    one.translate(SOURCES, "ur", 1)  # one candidate is asked for; groups are as many as they were set to be
    assert len(sequences) == GROUPS
    assert {token for group in sequences for token in group[:, 1].tolist()} == {target}


def test_by_default_there_is_a_group_for_each_candidate():
    one = translator("nllb", strategy="diverse_beam")
    original, calls = one.model.generate, []
    one.model.generate = lambda **inputs: calls.append(1) or original(**inputs)
    assert all(isinstance(candidate, Candidate) for candidate in one.translate(["abc"], "ur", 3)[0])
    assert len(calls) == 3


def test_penalties_by_hand():
    end, pad = 3, 0
    config = GenerationConfig(eos_token_id=end)
    # Start tokens that are end tokens, as in NLLB; the second row of the first group ended at once.
    earlier = [torch.tensor([[end, 1, 2, end], [end, end, pad, pad]]), torch.tensor([[end, 1, end], [end, 0, end]])]
    diversity = HammingDiversity(earlier, 0.5, config)
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, -torch.inf, -torch.inf, -torch.inf]])
    before = scores.clone()
    none = -torch.inf
    wanted = {
        1: [[1.0, 1.0, 3.0, 4.0], [0.5, none, none, none]],
        2: [[1.0, 2.0, 2.5, 3.5], [1.0, none, none, none]],
        3: [[1.0, 2.0, 3.0, 3.5], [1.0, none, none, none]],
        4: before.tolist(),
    }
    for length, expected in wanted.items():
        assert diversity(torch.zeros(2, length, dtype=torch.long), scores).tolist() == expected
    assert torch.equal(scores, before)


def test_no_groups():
    with pytest.raises(ValueError, match="num_groups is 0; expected at least 1; pass"):
        diverse_groups(None, {}, GenerationConfig(), 0, 0.5, 0)


def test_the_penalty_is_part_of_the_fingerprint_of_diverse_beams_alone():
    settings = [{}, {"diversity_penalty": 0.7}]
    diverse = {translator("nllb", **DIVERSE, **more).fingerprint for more in settings}
    beams = {translator("nllb", num_hypotheses=GROUPS, max_new_tokens=STEPS, **more).fingerprint for more in settings}
    assert len(diverse) == 2
    assert len(beams) == 1
    assert not diverse & beams


@pytest.mark.parametrize("penalty", [-0.1, float("nan"), float("inf"), 1001])
def test_penalties_out_of_range(penalty):
    with pytest.raises(ValueError, match=r"diversity_penalty is .*; expected a number from 0 to 1000; leave it out"):
        translator("nllb", diversity_penalty=penalty)


@pytest.mark.parametrize("option", ["num_beams", "num_return_sequences", "do_sample", "diversity_penalty"])
def test_options_that_would_change_what_a_group_is(option):
    with pytest.raises(ValueError, match=rf"generation_options has \['{option}'\]; expected no say"):
        translator("nllb", strategy="diverse_beam", generation_options={option: 2})
