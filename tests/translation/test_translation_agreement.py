"""Consensus and reference critics against chrF written out by hand."""

from collections import Counter

import pytest

from lira_hf.translation import Critic, ParallelText
from lira_hf.translation.agreement import ConsensusCritic, ReferenceCritic


def chrf(hypothesis: str, reference: str, order: int = 6, beta: float = 2.0) -> float:
    """chrF in 0..1 by its definition: mean precision and recall of character n-grams, spaces left out."""
    precisions, recalls = [], []
    for n in range(1, order + 1):
        found, wanted = (
            Counter(text[i : i + n] for i in range(len(text) - n + 1))
            for text in ("".join(hypothesis.split()), "".join(reference.split()))
        )
        if found and wanted:
            precisions.append((found & wanted).total() / found.total())
            recalls.append((found & wanted).total() / wanted.total())
    precision, recall = (sum(values) / len(values) if values else 0.0 for values in (precisions, recalls))
    below = beta**2 * precision + recall
    return (1 + beta**2) * precision * recall / below if below else 0.0


def rated(share: float) -> list[float]:
    return [pytest.approx(1 + 9 * share, abs=1e-3)] * 3


A, B, C = "the big house on the river", "a big house at the river", "seven cats were sleeping"


def test_consensus_is_the_mean_agreement_with_the_others():
    critic = ConsensusCritic()
    assert isinstance(critic, Critic)
    (scores,) = critic.judge(["x"], "id", [[A, B, C]])
    assert list(scores[0]) == rated((chrf(A, B) + chrf(A, C)) / 2)
    assert list(scores[1]) == rated((chrf(B, A) + chrf(B, C)) / 2)
    assert list(scores[2]) == rated((chrf(C, A) + chrf(C, B)) / 2)
    assert scores[0].semantic > scores[2].semantic < scores[1].semantic
    assert critic.judge(["x"], "id", [[C, A, B]])[0] == [scores[2], scores[0], scores[1]]


def test_consensus_edges():
    critic = ConsensusCritic()
    alone, none, blank, echo = critic.judge(list("abcd"), "id", [[A], [], ["", A, " \n"], [A, f" {A.upper()} ", C]])
    assert [list(score) for score in alone] == [[5.5] * 3]
    assert none == []
    assert [list(score) for score in blank] == [[1.0] * 3, [5.5] * 3, [1.0] * 3]
    assert list(echo[0]) == list(echo[1]) == rated(chrf(A, C))  # an echo is no second voice
    assert critic.judge([], "id", []) == []


def test_reference_takes_the_best_one():
    pairs = [("id", "x", A), ("id", "x", B), ("ms", "x", C), ("tl", "y", C)]
    critic = ReferenceCritic(pairs)
    assert isinstance(critic, Critic)
    perfect, other, blank = critic.judge([" x "], "id", [[B, C, ""]])[0]
    assert list(perfect) == [10.0] * 3
    assert list(other) == rated(max(chrf(C, A), chrf(C, B)))
    assert list(blank) == [1.0] * 3
    assert [list(score) for score in critic.judge(["x"], "ms-MY", [[C, A]])[0]] == [[10.0] * 3, rated(chrf(A, C))]
    assert list(critic.judge(["y"], "fil", [[C]])[0][0]) == [10.0] * 3
    unknown = critic.judge(["z", "x"], "vi", [[A, " "], [A]])
    assert [[list(score) for score in row] for row in unknown] == [[[5.5] * 3, [1.0] * 3], [[5.5] * 3]]


def test_nothing_in_common_is_one_and_word_order_counts():
    assert list(ReferenceCritic([("id", "x", "abc")]).judge(["x"], "id", [["xyz"]])[0][0]) == [1.0] * 3
    glued = "thebig houseon theriver"  # the same characters, as chrF leaves spaces out
    plain, plus = (ReferenceCritic([("id", "x", A)], order).judge(["x"], "id", [[glued]])[0][0] for order in (0, 2))
    assert plain.semantic == 10.0
    assert plus.semantic < 9.0


def test_fingerprints():
    pairs = [("id", "x", A)]
    prints = [
        ConsensusCritic().fingerprint,
        ConsensusCritic(2).fingerprint,
        ReferenceCritic(pairs).fingerprint,
        ReferenceCritic(pairs, 2).fingerprint,
        ReferenceCritic([*pairs, ("id", "y", B)]).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert ReferenceCritic(ParallelText(pairs)).fingerprint == ReferenceCritic(pairs).fingerprint


@pytest.mark.parametrize(
    "critic", [ConsensusCritic(), ReferenceCritic([("id", "x", A)])], ids=["consensus", "reference"]
)
def test_wrong_requests(critic):
    with pytest.raises(ValueError, match="judge got 1 texts and 2 lists of candidates; expected one list a text"):
        critic.judge(["a"], "id", [["b"], ["c"]])
    with pytest.raises(TypeError, match=r"candidates\[0\] is the string 'b'"):
        critic.judge(["a"], "id", ["b"])
    with pytest.raises(TypeError, match="texts is the string 'a'"):
        critic.judge("a", "id", [["b"]])
    with pytest.raises(ValueError, match="word_order is -1"):
        ConsensusCritic(-1)


def test_candidates_that_come_later_are_compared_with_the_earlier(tmp_path):
    """The store gives a critic what it has not judged; of consensus that would be one candidate alone."""
    from lira_hf.translation import Candidate, CandidateStore, Identity, fill_store

    critic = ConsensusCritic()
    with CandidateStore(tmp_path / "store.sqlite") as store:
        for name, text in (("a", "the cat sat"), ("b", "the cat sat down"), ("c", "something else")):
            store.add("vi", [("con", [Candidate(text, "x", name)])], Identity(name, "1"))
            fill_store(store, ["con"], "vi", None, critic, progress=False)
        (found,) = store.get("vi", ["con"], critic=critic)
    (expected,) = critic.judge(["con"], "vi", [[one.text for one in found]])
    assert [one.scores for one in found] == expected
    assert len({score.semantic for score in expected}) > 1
