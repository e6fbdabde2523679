"""What LiRA has to do over a base LM of any type: forward, backward, saving, greedy search and beam search.

`examine(model_type)` runs all of it over the tiny model of `tiny_configs` and gives a `Result`.
"""

import copy
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from check_tiny_configs import OTHER, PROMPT, generate, stepwise
from sweep_oracle import Scorer, beam_oracle, compare_beams, compare_greedy, greedy_oracle
from tiny_configs import PADDING_MATTERS, SKIPPED, UNCACHED, build
from transformers import AutoModelForCausalLM, BertConfig, BertModel, PreTrainedModel

from lira_hf import LiraForCausalLM


# Types whose own cached generation of several rows differs from a full forward pass. They generate without a cache.
BATCHES_UNCACHED: dict[str, str] = {
    "rwkv": "in a cached step, states of (batch, hidden) meet hidden states of (batch, 1, hidden)",
}

# Types whose own cached beam search fails or differs from one over full forward passes. Likewise.
BEAMS_UNCACHED: dict[str, str] = {
    "minimax": "its cache does not reorder the states of linear attention with the beams",
    "recurrent_gemma": "its layers keep their states to themselves, and these are not reordered with the beams",
    "rwkv": "generate refuses, since its states cannot be reordered",
    "xlstm": "generate refuses, since its states cannot be reordered",
}

# Types whose own cached generation with a gap in the attention mask differs from full forward passes. Likewise, where
# rows lack a road.
GAPS_UNCACHED: dict[str, str] = {
    "deepseek_v4": "the blocks that a cached step compresses are not those of the prompt's pass",
}

NEW_TOKENS = 5
BEAMS, RETURNED = 3, 2
VISIBLE = 1e-3  # the least difference, in standard deviations of the logits, that is more than rounding

PLACE = -1  # stands for the placeholders in the prompts below
# Of different lengths, with the prefix near the start, at it and near the end; and of one length.
PROMPTS = ([7, PLACE, 21, 5, 64], [PLACE, 33, 12, 50, 9, 71, 8], [45, 19, 86, 27, PLACE, 11])
EQUAL_PROMPTS = ([7, PLACE, 21, 5, 64], [PLACE, 33, 12, 50, 9], [45, 19, 86, PLACE, 27])
# Texts of the multilingual encoder, one per prompt, and two candidates of each for the English one.
SOURCES = ([5, 9, 33, 41, 17, 2], [58, 3, 24, 24], [12, 47, 30, 8, 51])
ANCHORS = (([4, 8, 15, 16], [23, 42, 7]), ([50, 40, 30], [20, 10, 55, 45, 35]), ([6, 28, 49], [13, 26, 39, 52]))


class CheckError(Exception):
    """What LiRA did wrong."""


@dataclass
class Result:
    """What came of a type. `status` is `"pass"`, `"fail"` or `"skipped"`."""

    model_type: str
    status: str = "pass"
    bare_runs: bool = False
    checks: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def reason(self) -> str:
        """The checks that failed, and why."""
        return "; ".join(f"{name}: {verdict}" for name, verdict in self.checks.items() if verdict != "ok")


@dataclass
class Subject:
    """A LiRA model under examination, and what is to be told about it."""

    model_type: str
    model: LiraForCausalLM
    notes: list[str] = field(default_factory=list)

    @property
    def placeholder(self) -> int:
        """The id that the prefix takes the place of."""
        return self.model.config.prefix_token_id

    @property
    def banned(self) -> int | None:
        """The id that is never generated: the placeholder, if it lies within the vocabulary."""
        return self.placeholder if self.placeholder < self.model.config.get_text_config().vocab_size else None

    def prompt(self, ids: list[int]) -> list[int]:
        """`ids` with the placeholders in."""
        at = ids.index(PLACE)
        return [*ids[:at], *[self.placeholder] * self.model.config.prefix_length, *ids[at + 1 :]]


def make_bert(seed: int) -> BertModel:
    """A tiny encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=60,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            initializer_range=0.3,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        return BertModel(config, add_pooling_layer=False).eval()


def make_lira(base: PreTrainedModel) -> LiraForCausalLM:
    """LiRA over `base`, whose soft prefix says a lot about the text. The placeholder is the vocabulary's last id."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = LiraForCausalLM.from_backbones(
            base,
            make_bert(2),
            make_bert(3),
            num_bins=2,
            hidden_size=16,
            intermediate_size=32,
            num_attention_heads=2,
            actor_hidden_size=8,
            initializer_range=0.3,
            prefix_token_id=base.config.get_text_config().vocab_size - 1,
        )
    with torch.no_grad():
        model.lira.prefix_projector.scale.mul_(2.0)
    return model


def padded(rows: list[list[int]], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of `rows`, padded with zeros."""
    width = max(map(len, rows))
    gaps = [[0] * (width - len(row)) for row in rows]
    pairs = list(zip(gaps, rows, strict=True))
    ids = [[*gap, *row] if left else [*row, *gap] for gap, row in pairs]
    mask = [[*gap, *[1] * len(row)] if left else [*[1] * len(row), *gap] for gap, row in pairs]
    return torch.tensor(ids), torch.tensor(mask)


def roads(numbers: list[int], absent: bool = False) -> dict[str, torch.Tensor]:
    """
    The tensors of the texts and candidates of these numbers. With `absent`, the first has both, the second no
    candidates, and the third no text.
    """
    source_ids, source_mask = padded([SOURCES[number] for number in numbers])
    anchor_ids, anchor_mask = padded([row for number in numbers for row in ANCHORS[number]])
    shape = (len(numbers), 2, -1)
    anchor_mask = anchor_mask.view(shape)
    if absent:
        source_mask[[number == 2 for number in numbers]] = 0
        anchor_mask[[number == 1 for number in numbers]] = 0
    return {
        "source_ids": source_ids,
        "source_mask": source_mask,
        "anchor_ids": anchor_ids.view(shape),
        "anchor_mask": anchor_mask,
    }


def check_forward(subject: Subject) -> None:
    """Finite logits of the right shape, that two texts make differ."""
    ids = torch.tensor([subject.prompt(PROMPTS[0])])
    with torch.no_grad():
        first, second = (subject.model(input_ids=ids, **roads([number])).logits for number in (0, 1))
    vocabulary = subject.model.config.get_text_config().vocab_size
    if first.shape != (1, ids.shape[1], vocabulary):
        raise CheckError(f"the logits have shape {tuple(first.shape)}, expected {(1, ids.shape[1], vocabulary)}")
    if not (first.isfinite().all() and second.isfinite().all()):
        raise CheckError("the logits are not finite")
    change = ((first - second)[:, -1].abs().max() / first[:, -1].std()).item()
    if not change > VISIBLE:
        raise CheckError(f"two texts change the last logits by {change:.2g} standard deviations")


def check_backward(subject: Subject) -> None:
    """A gradient at the prefix projector and at Arca, and none at the base."""
    model, ids = subject.model, torch.tensor([subject.prompt(PROMPTS[number]) for number in (0, 0)])
    model.train()
    try:
        model(input_ids=ids, labels=ids, **roads([0, 1])).loss.backward()
        for name in ("prefix_projector.projection.weight", "arca.adaptor.source_projection.weight"):
            gradient = model.lira.get_parameter(name).grad
            if gradient is None or not gradient.isfinite().all() or not gradient.abs().max() > 0:
                found = "none" if gradient is None else f"{gradient.abs().max().item():.2g} at most"
                raise CheckError(f"the gradient of {name} is {found}, expected a finite one above 0")
        held = [name for name, weight in model.language_model.named_parameters() if weight.grad is not None]
        if held:
            raise CheckError(f"the frozen base has gradients, at {held[0]} among others")
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()


def check_round_trip(subject: Subject) -> None:
    """The same logits, bit by bit, from the saved and loaded model."""
    inputs = {"input_ids": torch.tensor([subject.prompt(PROMPTS[0])]), **roads([0])}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        subject.model.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        if type(loaded) is not LiraForCausalLM:
            raise CheckError(f"loading gave a {type(loaded).__name__}")
    weights = loaded.state_dict()
    for name, weight in subject.model.state_dict().items():
        if not torch.equal(weight, weights[name]):
            raise CheckError(f"the weight {name} has changed")
    for weight in loaded.parameters():
        # Weights lie in the file's memory, at addresses that let some sums be made in another order.
        weight.data = weight.data.clone()
    with torch.no_grad():
        before, after = subject.model(**inputs).logits, loaded(**inputs).logits
    if not torch.equal(before, after):
        raise CheckError(f"the logits differ by up to {(before - after).abs().max().item():.3g}")


def scorer(subject: Subject, number: int, absent: bool = False) -> Scorer:
    """Logits that follow unpadded rows behind text `number`, by a pass without a cache."""

    @torch.no_grad()
    def score(ids: torch.Tensor) -> torch.Tensor:
        return subject.model(input_ids=ids, use_cache=False, **roads([number] * len(ids), absent)).logits[:, -1]

    return score


def batches(subject: Subject) -> list[tuple[list[int], list[list[int]]]]:
    """Texts' numbers and prompts of each batch to generate for: left-padded wherever the bare model allows it."""
    if subject.model_type not in PADDING_MATTERS:
        return [([0, 1, 2], [subject.prompt(ids) for ids in PROMPTS])]
    return [([1], [subject.prompt(PROMPTS[1])]), ([0, 1, 2], [subject.prompt(ids) for ids in EQUAL_PROMPTS])]


def run_generate(
    subject: Subject, numbers: list[int], prompts: list[list[int]], absent: bool = False, **options: int
) -> list[list[int]]:
    """What `generate` adds to a left-padded batch of `prompts`."""
    ids, mask = padded(prompts, left=True)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **options, **roads(numbers, absent)}
    tables = [BATCHES_UNCACHED] + [BEAMS_UNCACHED] * ("num_beams" in options) + [GAPS_UNCACHED] * absent
    if any(subject.model_type in table for table in tables):
        options["use_cache"] = False
    output = subject.model.generate(input_ids=ids, attention_mask=mask, **options)
    return output[:, ids.shape[1] :].tolist()


def check_greedy(subject: Subject, absent: bool = False) -> None:
    """`generate` over a left-padded batch against the oracle over each row alone."""
    for numbers, prompts in batches(subject):
        found = run_generate(subject, numbers, prompts, absent)
        for number, prompt, new in zip(numbers, prompts, found, strict=True):
            score, banned = scorer(subject, number, absent), subject.banned
            wanted = greedy_oracle(score, prompt, NEW_TOKENS, banned)
            tie, wrong = compare_greedy(score, prompt, new, wanted, banned)
            if wrong:
                raise CheckError(f"row {number} of {len(numbers)}: {wrong}")
            if tie:
                subject.notes.append(f"greedy: row {number} parts at a tie")


def check_absent(subject: Subject) -> None:
    """As `check_greedy`, with rows that lack their candidates or their text, so that placeholders stay empty."""
    check_greedy(subject, absent=True)


def check_beams(subject: Subject) -> None:
    """Beam search over a left-padded batch against the oracle over each row alone."""
    for numbers, prompts in batches(subject):
        found = run_generate(subject, numbers, prompts, num_beams=BEAMS, num_return_sequences=RETURNED)
        for place, (number, prompt) in enumerate(zip(numbers, prompts, strict=True)):
            score, rows = scorer(subject, number), found[place * RETURNED : (place + 1) * RETURNED]
            wanted = beam_oracle(score, prompt, NEW_TOKENS, BEAMS, subject.banned)
            ties, wrong = compare_beams(score, prompt, rows, wanted)
            if wrong:
                raise CheckError(f"row {number} of {len(numbers)}: {wrong}")
            if ties:
                subject.notes.append(f"beams: {ties} of row {number} differ at equal scores")


def bare_scorer(base: PreTrainedModel) -> Scorer:
    """Logits that follow unpadded rows, by a pass of the base alone without a cache."""

    @torch.no_grad()
    def score(ids: torch.Tensor) -> torch.Tensor:
        return base(input_ids=ids, use_cache=False).logits[:, -1]

    return score


def check_bare_beams(base: PreTrainedModel) -> None:
    """The base's own beam search over two prompts of one length against the oracle."""
    output = base.generate(
        torch.tensor([PROMPT, OTHER]),
        attention_mask=torch.ones(2, len(PROMPT), dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        num_beams=BEAMS,
        num_return_sequences=RETURNED,
    )[:, len(PROMPT) :].tolist()
    score = bare_scorer(base)
    for place, prompt in enumerate((PROMPT, OTHER)):
        wanted = beam_oracle(score, prompt, NEW_TOKENS, BEAMS, None)
        _, wrong = compare_beams(score, prompt, output[place * RETURNED : (place + 1) * RETURNED], wanted)
        if wrong:
            raise CheckError(wrong)


@torch.no_grad()
def padding_matters(base: PreTrainedModel) -> bool:
    """Whether the base alone answers a left-padded prompt otherwise than the prompt alone."""
    (new, logits), (padded_new, padded_logits) = (generate(base, PROMPT, padding) for padding in (0, 3))
    return new != padded_new or ((padded_logits - logits).abs().max() / logits.std()).item() > VISIBLE


def check_bare(base: PreTrainedModel) -> None:
    """The base alone: what it generates is what it gives step by step."""
    with torch.no_grad():
        wanted = stepwise(base, torch.tensor([PROMPT]))[0, len(PROMPT) :].tolist()
    new, _ = generate(base, PROMPT, padding=0)
    if new != wanted:
        raise CheckError(f"the bare model generates {new}, and step by step {wanted}")


@torch.no_grad()
def check_bare_batch(base: PreTrainedModel) -> None:
    """The base's own greedy generation of two prompts of one length."""
    ids = torch.tensor([PROMPT, OTHER])
    found = base.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
    if not torch.equal(found, stepwise(base, ids)):
        raise CheckError("the bare model generates another batch than step by step")


@torch.no_grad()
def check_bare_gap(base: PreTrainedModel) -> None:
    """The base's own greedy generation over a prompt with a gap in its mask."""
    prompt = torch.tensor([PROMPT + OTHER])
    mask = torch.ones_like(prompt)
    mask[:, 3:6] = 0
    output = base.generate(
        prompt,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids = output.sequences[:, :-1]
    mask = torch.cat([mask, torch.ones_like(ids[:, prompt.shape[1] :])], dim=1)
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
    wanted = base(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, -1]
    if ((output.logits[-1] - wanted).abs().max() / wanted.std()).item() > VISIBLE:
        raise CheckError("behind a prompt with a gap, the bare model's last cached step is not its full forward pass")


def check_known(subject: Subject) -> None:
    """What is known to be wrong with the base alone still is: a line of a table that is out of date is a failure."""
    model_type, base, notes = subject.model_type, subject.model.language_model, subject.notes
    if model_type in PADDING_MATTERS:
        if not padding_matters(base):
            raise CheckError("the bare model no longer differs on left-padded prompts; PADDING_MATTERS says it does")
        notes.append(f"the bare model itself differs on left-padded prompts: {PADDING_MATTERS[model_type]}")
    for kind, table, check in (
        ("all generation", UNCACHED, check_bare),
        ("batches", BATCHES_UNCACHED, check_bare_batch),
        ("beam search", BEAMS_UNCACHED, check_bare_beams),
        ("absent roads", GAPS_UNCACHED, check_bare_gap),
    ):
        if model_type in table:
            base.generation_config = copy.deepcopy(base.generation_config)
            base.generation_config.use_cache = True
            if verdict_of(lambda check=check: check(base)) == "ok":
                raise CheckError(f"the bare model is right with a cache, and {kind} go without one for no reason")
            notes.append(f"{kind} without a cache, with one the bare model fails: {table[model_type]}")


def verdict_of(check: Callable[[], None]) -> str:
    """`"ok"`, or why `check` failed."""
    try:
        check()
    except CheckError as error:
        return str(error)
    except Exception as error:  # the reason is the answer
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})".replace("\n", " ")
    return "ok"


CHECKS: dict[str, Callable[[Subject], None]] = {
    "forward": check_forward,
    "backward": check_backward,
    "round trip": check_round_trip,
    "greedy": check_greedy,
    "absent roads": check_absent,
    "beams": check_beams,
    "known": check_known,
}


def examine(model_type: str) -> Result:
    """All checks over the tiny model of `model_type`, each whether or not another has failed."""
    start, result = time.monotonic(), Result(model_type)
    if model_type in SKIPPED:
        result.status = "skipped"
        result.notes.append(SKIPPED[model_type])
        return result
    held: list[Subject] = []
    result.checks["bare"] = verdict_of(lambda: check_bare(build(model_type)))
    result.bare_runs = result.checks["bare"] == "ok"
    result.checks["join"] = verdict_of(
        lambda: held.append(Subject(model_type, make_lira(build(model_type)), result.notes))
    )
    for name, check in CHECKS.items() if held else ():
        result.checks[name] = verdict_of(lambda check=check: check(held[0]))
    if result.reason:
        result.status = "fail"
    if result.checks.get("beams", "ok") != "ok":
        blamed = verdict_of(lambda: check_bare_beams(build(model_type)))
        result.notes.append(f"the bare model's own beam search with a cache: {blamed}")
    result.seconds = round(time.monotonic() - start, 2)
    return result
