"""A choice among candidates against plain loops, and what a model's policy says of them."""

import numpy as np
import pytest
import torch

from lira_hf.data import BeirDataset, Query
from lira_hf.evaluation import CandidateChoice, hard_weights, soft_weights
from lira_hf.inference import CandidateSource, RoadFeatures
from lira_hf.translation import Candidate, CandidateStore, Identity, Score


WHO, JUDGE = Identity("canned", "1"), Identity("judge", "1")
ANSWERS = {
    "ঢাকা": [("red cat", "gloss", (9, 8, 7)), ("blue moon", "memory", (2, 2, 2)), ("green", "memory", None)],
    "শহর": [("blue moon", "memory", (5, 5, 5))],
    "নদী": [],
}


@pytest.fixture
def choice(tiny_lira, tmp_path):
    documents = {"a": "red cat", "b": "blue moon", "c": "green"}
    queries = {str(number): Query(text, "bn") for number, text in enumerate(ANSWERS)}
    data = BeirDataset(documents, queries, {"0": {"b": 1}, "1": {"b": 1}, "2": {"c": 1}})
    with CandidateStore(tmp_path / "store.sqlite") as store:
        for text, rows in ANSWERS.items():
            store.add("bn", [(text, [Candidate(option, kind, "canned") for option, kind, _ in rows])], WHO)
            judged = [(text, option, Score(*score)) for option, _, score in rows if score]
            store.add_scores("bn", judged, JUDGE)
        yield CandidateChoice(data, RoadFeatures(*tiny_lira()), CandidateSource(store, critic=JUDGE))


def test_what_is_known_of_each_candidate(choice):
    assert choice.mask.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert choice.kinds.tolist() == [["gloss", "memory", "memory"], ["memory", "", ""], [""] * 3]
    np.testing.assert_allclose(choice.judge, [[2.4, 0.6, 0], [1.5, 0, 0], [0, 0, 0]], atol=1e-6)
    first = choice.sentences[0]
    np.testing.assert_allclose(np.linalg.norm(first, axis=-1), 1, atol=1e-5)
    expected = [np.mean([first[k] @ first[j] for j in range(3) if j != k]) for k in range(3)]
    np.testing.assert_allclose(choice.consensus[0], expected, atol=1e-5)
    assert not choice.consensus[1:].any()  # nobody to agree with
    np.testing.assert_allclose(choice.closeness[0], first @ first[1], atol=1e-5)


def test_weights_choose_and_mix(choice):
    assert choice.fixed("memory").tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert choice.fixed("gloss").tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert hard_weights(choice.judge, choice.mask).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    soft = soft_weights(choice.judge, choice.mask, 0.5)
    np.testing.assert_allclose(soft[0], torch.tensor([4.8, 1.2, 0.0]).softmax(0), atol=1e-6)
    assert soft[1:].tolist() == [[1, 0, 0], [0, 0, 0]]
    wrong, right = choice.score(choice.fixed("gloss")), choice.score(hard_weights(choice.closeness, choice.mask))
    assert wrong.values["recall@1"].tolist()[:2] == [0, 1]
    assert right.values["recall@1"].tolist()[:2] == [1, 1]


def test_a_policy_is_asked_with_and_without_the_judge(choice, tiny_lira):
    model, processor = tiny_lira(policy_prior=2.0)
    without = choice.outputs(model, processor)
    np.testing.assert_allclose(without["policy"][0], 1 / 3, atol=1e-5)  # untrained, unjudged: no preference
    judged = choice.outputs(model, processor, judge=True)
    # The unjudged one counts as the mean of the others.
    expected = torch.tensor([2 * 2.4, 2 * 0.6, 2 * 1.5]).softmax(0)
    np.testing.assert_allclose(judged["policy"][0], expected, atol=1e-5)
    np.testing.assert_allclose(judged["similarity"], without["similarity"], atol=1e-6)
    assert without["policy"][1:].tolist() == [[1, 0, 0], [0, 0, 0]]
