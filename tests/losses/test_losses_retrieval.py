"""RetrievalLoss: what counts as a negative, where gradients go, agreement with its parts."""

import pytest
import torch

from lira_hf.losses import (
    DocQueue,
    RetrievalLoss,
    hinge_loss,
    info_nce_loss,
    mean_variance_loss,
    soft_ndcg_loss,
)


def make_batch(seed=0, batch=4, dim=16):
    generator = torch.Generator().manual_seed(seed)
    queries, documents = torch.randn(2, batch, dim, generator=generator)
    return queries.requires_grad_(), (documents + 0.5 * queries.detach()).requires_grad_()


def filled_queue(size=10, dim=16, first_id=100):
    queue = DocQueue(capacity=size, dim=dim)
    queue.push(torch.randn(size, dim, generator=torch.Generator().manual_seed(9)), torch.arange(size) + first_id)
    return queue


@pytest.mark.parametrize("objective", ["soft_ndcg", "infonce"])
def test_total_is_the_weighted_sum_over_batch_extra_and_queue(objective):
    queries, documents = make_batch()
    extra, queue = torch.randn(3, 16), filled_queue()
    loss = RetrievalLoss(objective, hinge_weight=0.5, mean_variance_weight=0.25, min_std=0.9)
    output = loss(queries, documents, torch.arange(4), extra_documents=extra, queue=queue)
    every = torch.cat([documents, extra, queue.entries().embeddings])
    scores = torch.nn.functional.cosine_similarity(queries[:, None], every[None], dim=-1)
    positives = torch.eye(4, 17).bool()
    ranking = (
        info_nce_loss(scores, positives) if objective == "infonce" else soft_ndcg_loss(scores, positives, tail=0.9)
    )
    hinge, spread = hinge_loss(scores, positives), mean_variance_loss(scores, ~positives, min_std=0.9)
    torch.testing.assert_close(output.loss, ranking + 0.5 * hinge + 0.25 * spread)
    torch.testing.assert_close((output.ranking, output.hinge, output.mean_variance), (ranking, hinge, spread))
    assert output.num_negatives.item() == 16
    assert not any(part.requires_grad for part in output[1:])


def test_gradient_reaches_all_but_the_queue():
    queries, documents = make_batch()
    extra, queue = torch.randn(3, 16, requires_grad=True), filled_queue()
    before = {key: value.clone() for key, value in queue.state_dict().items()}
    RetrievalLoss()(queries, documents, extra_documents=extra, queue=queue).loss.backward()
    for leaf in (queries, documents, extra):
        assert leaf.grad.abs().sum() > 0
    for key, value in queue.state_dict().items():
        assert torch.equal(value, before[key])  # the loss never pushes


@pytest.mark.parametrize("objective", ["soft_ndcg", "infonce"])
def test_retrieval_gradient(objective):
    queries, documents = (leaf.detach().double().requires_grad_() for leaf in make_batch(batch=3, dim=4))
    loss = RetrievalLoss(objective, tau=0.3, margin=3.0, min_std=0.9)
    ids, queue = torch.tensor([1, 2, 2]), filled_queue(size=3, dim=4)
    assert torch.autograd.gradcheck(lambda q, d: loss(q, d, ids, queue=queue).loss, (queries, documents))


def test_one_document_twice_in_a_batch_is_no_negative_of_itself():
    documents = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [1.0, -0.2], [0.0, 1.0]]), dim=1)
    loss = RetrievalLoss("infonce", hinge_weight=0, mean_variance_weight=0, threshold=None)
    output = loss(documents.clone(), documents, torch.tensor([5, 5, 6]))
    pairs = torch.tensor([[True, False, True], [False, True, True], [True, True, True]])
    expected = info_nce_loss(documents @ documents.T, torch.eye(3).bool(), pairs)
    torch.testing.assert_close(output.loss, expected)
    assert output.dropped_document.item() == 2


@pytest.mark.parametrize("objective", ["soft_ndcg", "infonce"])
def test_unsafe_queue_entries_change_nothing(objective):
    queries, documents = make_batch()
    loss = RetrievalLoss(objective)
    ids, groups, known = torch.arange(4), torch.tensor([50, -1, -1, -1]), torch.tensor([[-1], [77], [-1], [-1]])
    plain = loss(queries, documents, ids, groups, known_positive_ids=known)
    queue = DocQueue(capacity=8, dim=16)
    # For query 0: its own document, one of its group. For query 1: a known positive. For query 2: a near copy.
    vectors = torch.cat([documents[:1], torch.randn(2, 16), documents[2:3] * 2]).detach()
    queue.push(vectors, torch.tensor([0, 60, 77, 61]), torch.tensor([-1, 50, -1, -1]))
    output = loss(queries, documents, ids, groups, known_positive_ids=known, queue=queue)
    dropped = [int(output.dropped_document), int(output.dropped_group), int(output.dropped_similarity)]
    assert dropped == [2, 1, 1]
    assert output.num_negatives.item() == 3 + (16 - 4) / 4
    # Each query ranks against the safe entries only.
    for row, unsafe in enumerate(([0, 1], [2], [3], [])):
        alone = DocQueue(capacity=8, dim=16)
        for place in unsafe:
            alone.push(vectors[place : place + 1], queue.document_ids[place][None], queue.group_ids[place][None])
        one = slice(row, row + 1)
        single = loss(queries[one], documents[one], ids[one], groups[one], known_positive_ids=known[one], queue=alone)
        assert single.num_negatives.item() == 0
        assert single.loss.item() == pytest.approx(0, abs=1e-6)
    assert plain.num_negatives.item() == 3


@pytest.mark.parametrize("objective", ["soft_ndcg", "infonce"])
@pytest.mark.parametrize("batch", [0, 1])
def test_small_batch_and_empty_queue(objective, batch):
    queries, documents = make_batch(batch=batch)
    output = RetrievalLoss(objective)(queries, documents, queue=DocQueue(capacity=4, dim=16))
    output.loss.backward()
    assert output.loss.item() == pytest.approx(0, abs=1e-6)
    assert queries.grad.isfinite().all()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_extreme_vectors_stay_finite(size):
    queries, documents = (leaf.detach() * size for leaf in make_batch())
    leaf = queries.requires_grad_()
    output = RetrievalLoss(min_std=0.9)(leaf, documents, queue=filled_queue())
    output.loss.backward()
    assert all(part.isfinite() for part in output)
    assert leaf.grad.isfinite().all()


def test_bfloat16_and_autocast_score_in_float32():
    queries, documents = (leaf.detach().bfloat16() for leaf in make_batch())
    plain = RetrievalLoss()(queries.float(), documents.float(), queue=filled_queue())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = RetrievalLoss()(queries, documents, queue=filled_queue())
    assert half.loss.dtype == torch.float32
    assert torch.equal(half.loss, plain.loss)


def test_training_on_it_ranks_the_documents_first():
    torch.manual_seed(0)
    documents, noise = torch.randn(64, 8), torch.randn(64, 8)
    mix = torch.nn.Linear(8, 8, bias=False)
    queries, queue, loss = documents @ torch.randn(8, 8) + 0.3 * noise, DocQueue(32, 8), RetrievalLoss()
    optimizer = torch.optim.Adam(mix.parameters(), lr=0.02)
    history = []
    for step in range(120):
        rows = torch.arange(16) + 16 * (step % 4)
        output = loss(mix(queries[rows]), documents[rows], rows, queue=queue)
        queue.push(documents[rows], rows)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        history.append(output.ranking.item())
    assert sum(history[-4:]) < 0.5 * sum(history[:4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, d: RetrievalLoss("ndcg"), r"objective='ndcg', expected one of \('soft_ndcg', 'infonce'\)"),
        (lambda q, d: RetrievalLoss()(q, d[:3]), r"queries of shape \(4, 16\) and documents of \(3, 16\)"),
        (lambda q, d: RetrievalLoss()(q, d, torch.arange(3)), r"document ids of shape \(3,\).*for documents"),
        (lambda q, d: RetrievalLoss()(q, d, group_ids=torch.ones(4)), "group ids .*torch.float32.*integers"),
        (lambda q, d: RetrievalLoss()(q, d, extra_documents=torch.ones(4, 2, 16)), r"extra_documents of shape \(4, 2"),
        (
            lambda q, d: RetrievalLoss()(q, d, known_positive_ids=torch.arange(4)),
            r"known_positive_ids of shape \(4,\)",
        ),
    ],
)
def test_retrieval_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(*make_batch())
