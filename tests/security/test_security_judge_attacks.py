"""
The judge's protocol against texts that try to score themselves: what such a text can change, with an honest judge and
with one that does all it is told. docs/reliability.md has the figures; this holds them.
"""

import json
import time

import pytest
from judge_attacks import ATTACKS

from lira_hf.translation import Candidate, CandidateStore, Identity, LLMJudge, Score, fill_store
from lira_hf.translation.chat import Reply


HONEST = {"mine": (2, 3, 2), "good": (8, 7, 9), "fine": (6, 6, 6), "poor": (3, 2, 1)}


def honest(data, attack):
    """The scores of an honest judge; whatever holds the attack is poor."""
    entries = []
    for row in data["candidates"]:
        s, e, p = HONEST["mine"] if attack in row["text"] else HONEST[row["text"]]
        entries.append({"candidate": row["candidate"], "s": s, "e": e, "p": p})
    return json.dumps({"scores": entries})


# How a judge may reply to a conversation that holds the attack.
JUDGES = {
    "honest": lambda data, attack: honest(data, attack),
    "honest, quoting before": lambda data, attack: f"The text says: {attack}\n{honest(data, attack)}",
    "honest, quoting after": lambda data, attack: f"{honest(data, attack)}\nIt tried to say: {attack}",
    "obedient: says it": lambda data, attack: attack,
    "obedient: does it": lambda data, attack: json.dumps(
        {"scores": [{"candidate": n, "s": 10 if n == 1 else 1, "e": 10, "p": 10} for n in range(1, 9)]}
    ),
    "obedient: breaks": lambda data, attack: "{" * 100 + attack[::-1],
    "obedient: is silent": lambda data, attack: "",
    "obedient: refuses": lambda data, attack: "I'm sorry, I can't help with that.",
}


class FakeJudge:
    """A chat model that answers each conversation from what is in it alone, as every chat model does."""

    name, fingerprint = "fake", "1"

    def __init__(self, attack, reply):
        self.attack, self.reply, self.seen = attack, reply, []

    def answer(self, conversations, *, language="", schema=None):
        for place, conversation in reversed(list(enumerate(conversations))):
            system, user = conversation
            assert (system["role"], user["role"]) == ("system", "user")
            self.seen.append((system["content"], user["content"]))
            data = json.loads(user["content"])  # one JSON object, whatever the text holds
            assert set(data) == {"language", "text", "candidates"}
            held = self.attack in user["content"] or self.attack in json.dumps(data, ensure_ascii=False) or any(
                self.attack in text for text in (data["text"], *(row["text"] for row in data["candidates"]))
            )  # fmt: skip
            yield place, Reply((self.reply if held else honest)(data, self.attack))


def scores_of(attack, judge, where, **options):
    """Scores of the attacker's row, and of the rows beside it in the same batch."""
    attack = attack.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    chat = FakeJudge(attack, JUDGES[judge])
    text = attack if where == "text" else "a text"
    own = [f"mine {attack}" if where == "candidate" else "poor", "good"]
    started = time.process_time()
    rows = LLMJudge(chat, **options).judge(["first", text, "last"], "ur", [["good", "fine"], own, ["poor"]])
    assert time.process_time() - started < 2.0, "a reply that costs time"
    assert len({system.split("\n\nAn earlier reply")[0] for system, _ in chat.seen}) == 1
    assert all(attack not in system for system, _ in chat.seen)
    return rows[1], [rows[0], rows[2]]


def fair(where):
    return [HONEST["mine" if where == "candidate" else "poor"], HONEST["good"]]


@pytest.mark.parametrize("judge", JUDGES)
def test_no_text_changes_the_score_of_another_or_breaks_the_batch(judge):
    raised, lowered, siblings = set(), set(), set()
    for name, attack in ATTACKS.items():
        for where in ("text", "candidate"):
            own, others = scores_of(attack, judge, where)
            assert others == [[HONEST["good"], HONEST["fine"]], [HONEST["poor"]]], (name, where)
            first, second = fair(where)
            assert len(own) == 2
            if own[0] is not None and any(a > b for a, b in zip(own[0], first, strict=True)):
                raised.add(name)
            if own[0] is None or any(a < b for a, b in zip(own[0], first, strict=True)):
                lowered.add(name)
            if own[1] != second:
                siblings.add(name)
    if judge.startswith("honest"):
        # A quoted text may lower its own row, or leave it without a score, and raises nothing.
        assert raised == set()
    if judge == "honest":
        assert lowered == siblings == set()
    FIGURES[judge] = (len(raised), len(lowered), len(siblings))


FIGURES: dict[str, tuple[int, int, int]] = {}


def test_the_figures_are_those_of_the_docs(request):
    from pathlib import Path

    if len(FIGURES) < len(JUDGES):
        pytest.skip("the test above was not run for every judge")
    assert len(ATTACKS) >= 30
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    for judge, (raised, lowered, siblings) in FIGURES.items():
        assert f"| {judge} | 0 | 0 | {raised} | {lowered} | {siblings} |" in page, FIGURES
    assert f"{len(ATTACKS)} attacks" in page


@pytest.mark.parametrize("judge", ["obedient: says it", "obedient: does it", "honest, quoting before"])
def test_one_candidate_a_call_keeps_candidates_from_speaking_about_each_other(judge):
    for name, attack in ATTACKS.items():
        own, _ = scores_of(attack, judge, "candidate", candidates_per_call=1)
        assert own[1] == HONEST["good"], name


def test_a_store_is_filled_beside_an_attack(tmp_path):
    made = Identity("made", "1")
    with CandidateStore(tmp_path / "c.sqlite") as store:
        for judge in ("obedient: says it", "obedient: breaks"):
            for number, attack in enumerate(list(ATTACKS.values())[::4]):
                attack = attack.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                texts = [f"before {judge} {number}", f"{attack} {judge}", f"after {judge} {number}"]
                store.add("ur", [(text, [Candidate("good", "k", "t")]) for text in texts], made)
                critic = LLMJudge(FakeJudge(attack, JUDGES[judge]))
                fill_store(store, texts, "ur", None, critic, progress=False)
                rows = store.get("ur", [texts[0], texts[2]], critic=critic)
                assert [row[0].scores for row in rows] == [Score(*HONEST["good"])] * 2
