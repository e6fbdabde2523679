"""FIFO queues against a deque, saving and resuming, safe negatives by hand."""

from collections import deque

import pytest
import torch

from lira_hf.losses import (
    QUEUE_STATE_NAME,
    CorrQueue,
    DocQueue,
    FIFOQueue,
    load_queue_state,
    safe_negative_mask,
    save_queue_state,
)


def push_random(queue, oracle, sizes, seed=0):
    """Pushes batches of random documents into the queue and the deque of (embedding, id, group, push number)."""
    generator = torch.Generator().manual_seed(seed)
    number = int(queue.step)
    for size in sizes:
        rows = torch.randn(size, queue.dim, generator=generator)
        ids, groups = torch.randint(0, 99, (2, size), generator=generator)
        queue.push(rows, ids, groups)
        oracle.extend(zip(rows.tolist(), ids.tolist(), groups.tolist(), [number] * size, strict=True))
        number += size > 0
    return number


@pytest.mark.parametrize("sizes", [[3], [5], [3, 3, 3], [2, 9, 1, 4], [1] * 13, [0, 4, 0], [5, 5, 12], []])
def test_doc_queue_equals_a_deque(sizes):
    queue, oracle = DocQueue(capacity=5, dim=3), deque(maxlen=5)
    number = push_random(queue, oracle, sizes)
    entries = queue.entries()
    assert entries.embeddings.tolist() == [row for row, _, _, _ in oracle]
    assert entries.document_ids.tolist() == [row for _, row, _, _ in oracle]
    assert entries.group_ids.tolist() == [row for _, _, row, _ in oracle]
    assert entries.ages.tolist() == [number - 1 - pushed for _, _, _, pushed in oracle]
    assert queue.num_entries == len(oracle)


def test_max_age_leaves_stale_entries_out():
    queue = CorrQueue(capacity=4)
    for value in range(6):
        queue.push(torch.tensor([float(value)]), torch.tensor([-float(value)]))
    fresh = queue.entries(max_age=1)
    assert fresh.predictions.tolist() == [4, 5]
    assert fresh.gold.tolist() == [-4, -5]
    assert fresh.ages.tolist() == [1, 0]


def test_entries_are_copies_without_gradient():
    queue = DocQueue(capacity=2, dim=2)
    pushed = torch.ones(2, 2, requires_grad=True)
    queue.push(pushed * 1, torch.tensor([1, 2]))
    held = queue.entries().embeddings
    weight = torch.ones(2, requires_grad=True)
    product = (held @ weight).sum()  # autograd keeps `held`
    queue.push(torch.full((2, 2), 7.0), torch.tensor([3, 4]))
    product.backward()
    assert weight.grad.tolist() == [2, 2]
    assert not held.requires_grad


def test_missing_groups_are_minus_one():
    queue = DocQueue(capacity=2, dim=2)
    queue.push(torch.ones(2, 2, dtype=torch.bfloat16), torch.tensor([1, 2], dtype=torch.int32))
    assert queue.entries().group_ids.tolist() == [-1, -1]
    assert queue.entries().document_ids.dtype == torch.int64


@pytest.mark.parametrize("cast", [lambda q: q.half(), lambda q: q.to(torch.bfloat16), lambda q: q.double()])
def test_embeddings_stay_float32(cast):
    queue = DocQueue(capacity=2, dim=2)
    rows = torch.tensor([[0.1, 1e6], [1 / 3, 1e-9]])
    queue.push(rows, torch.tensor([1, 2]))
    cast(queue)
    assert queue.entries().embeddings.dtype == torch.float32
    assert torch.equal(queue.entries().embeddings, rows)
    assert "embeddings" in dict(queue.named_buffers())


def test_clear_equals_a_new_queue():
    queue = DocQueue(capacity=3, dim=2)
    push_random(queue, deque(), [2, 2])
    queue.clear()
    for key, value in DocQueue(capacity=3, dim=2).state_dict().items():
        assert torch.equal(queue.state_dict()[key], value), key


def test_resumed_run_equals_an_unbroken_one(tmp_path):
    unbroken, broken = DocQueue(capacity=5, dim=3), DocQueue(capacity=5, dim=3)
    pairs = CorrQueue(capacity=3)
    pairs.push(torch.tensor([0.1, 0.2]), torch.tensor([1.0, 2.0]))
    for queue in (unbroken, broken):
        push_random(queue, deque(), [3, 4], seed=1)
    path = save_queue_state(tmp_path / "checkpoint-7", {"documents": broken, "pairs": pairs})
    assert path == tmp_path / "checkpoint-7" / QUEUE_STATE_NAME
    assert [file.name for file in path.parent.iterdir()] == [QUEUE_STATE_NAME]
    resumed, resumed_pairs = DocQueue(capacity=5, dim=3), CorrQueue(capacity=3)
    load_queue_state(path.parent, {"documents": resumed, "pairs": resumed_pairs})
    for queue in (unbroken, resumed):
        push_random(queue, deque(), [2, 1], seed=2)
    for key, value in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    assert torch.equal(resumed_pairs.entries().predictions, pairs.entries().predictions)


def test_failed_save_keeps_the_former_file(tmp_path, monkeypatch):
    queue = CorrQueue(capacity=2)
    before = save_queue_state(tmp_path, {"pairs": queue}).read_bytes()
    queue.push(torch.ones(1), torch.ones(1))

    def fail(tensors, path, metadata=None):
        path.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr("lira_hf.losses.queue_state.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_queue_state(tmp_path, {"pairs": queue})
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_loading_what_does_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"without a {QUEUE_STATE_NAME}, expected"):
        load_queue_state(tmp_path, {"documents": DocQueue(4, 2)})
    save_queue_state(tmp_path, {"documents": DocQueue(4, 2)})
    with pytest.raises(ValueError, match=r"documents.embeddings of size \(4, 2\).*expected \(8, 2\)"):
        load_queue_state(tmp_path, {"documents": DocQueue(8, 2)})
    with pytest.raises(ValueError, match=r"(?s)'documents.document_ids'.*too many and \['pairs.filled'.*missing"):
        load_queue_state(tmp_path, {"pairs": CorrQueue(4)})
    with pytest.raises(ValueError, match="queue name 'a.b', expected one without dots"):
        save_queue_state(tmp_path, {"a.b": CorrQueue(4)})
    pairs = CorrQueue(4)
    pairs.push(torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="missing"):
        load_queue_state(tmp_path, {"pairs": pairs, "documents": DocQueue(4, 2)})
    assert pairs.num_entries == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: q.push(torch.ones(2, 4), torch.arange(2)), r"shape \(2, 4\), expected \(batch, 3\)"),
        (lambda q: q.push(torch.ones(2, 3), torch.arange(3)), r"document_ids of shape \(3,\).*expected \(2,\)"),
        (lambda q: q.push(torch.ones(2, 3), torch.ones(2)), "type torch.float32, expected .*integers"),
        (lambda q: q.push(torch.ones(2, 3), torch.arange(2), torch.arange(1)), r"group_ids of shape \(1,\)"),
        (
            lambda q: q.push(torch.tensor([[1.0] * 3, [float("nan"), 0, 0]]), torch.arange(2)),
            r"got 1 of 2 embeddings that are not finite \(first: row 1\)",
        ),
        (lambda q: DocQueue(0, 3), "DocQueue got capacity=0, expected >= 1"),
        (lambda q: CorrQueue(2).push(torch.ones(2, 1), torch.ones(2)), r"predictions of shape \(2, 1\)"),
        (lambda q: CorrQueue(2).push(torch.ones(1), torch.tensor([float("inf")])), "1 of 1 gold that are not finite"),
    ],
)
def test_queue_errors(call, message):
    queue = DocQueue(capacity=4, dim=3)
    with pytest.raises(ValueError, match=message):
        call(queue)
    assert queue.num_entries == 0


def test_base_queue_takes_any_fields():
    queue = FIFOQueue(3, {"features": (2, 2)}, ("rows",))
    assert {"features", "rows", "steps", "pointer", "filled", "step"} == set(queue.state_dict())


def test_safe_negatives_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.99, 0.14], [0.6, 0.8], [-1.0, 0.0]])
    result = safe_negative_mask(
        query_positive_ids=torch.tensor([[1, 5], [2, -1]]),
        query_group_ids=torch.tensor([7, -1]),
        positive_embeddings=torch.tensor([[3.0, 0.0], [0.0, 2.0]]),
        entry_document_ids=torch.tensor([1, 2, 3, 5, -1]),
        entry_group_ids=torch.tensor([7, -1, 7, 8, -1]),
        entry_embeddings=vectors,
        threshold=0.79,
    )
    # Query 0: entries 0 and 3 by document, 2 by group (though also similar). Query 1: 1 by document, 3 by cosine .8.
    assert result.mask.tolist() == [[False, True, False, False, True], [True, False, True, False, True]]
    assert [int(count) for count in result[1:]] == [3, 1, 1]


def test_safe_negatives_own_entries_are_not_counted():
    ids = torch.tensor([4, 4, 6])
    result = safe_negative_mask(ids, None, None, ids, own=torch.eye(3).bool())
    assert result.mask.tolist() == [[False, False, True], [False, False, True], [True, True, False]]
    assert [int(count) for count in result[1:]] == [2, 0, 0]


def test_safe_negatives_without_entries_or_ids():
    empty = safe_negative_mask(torch.tensor([1]), torch.tensor([1]), torch.ones(1, 2), *DocQueue(3, 2).entries()[1:3])
    assert empty.mask.shape == (1, 0)
    unknown = safe_negative_mask(torch.tensor([-1]), None, None, torch.tensor([-1, -1]))
    assert unknown.mask.all()


def test_safe_negatives_errors():
    ids = torch.arange(3)
    with pytest.raises(ValueError, match="got 2 entry_group_ids, expected 3"):
        safe_negative_mask(ids, ids, None, ids, ids[:2])
    with pytest.raises(ValueError, match=r"own of shape \(2, 3\), expected \(3, 3\)"):
        safe_negative_mask(ids, None, None, ids, own=torch.zeros(2, 3).bool())


# Pairs by their ids


def test_a_refresh_replaces_predictions_and_keeps_all_else():
    queue = CorrQueue(4)
    for number in range(3):  # the ring has come round: oldest first is not the order of the buffer
        rows = torch.arange(2) + 2 * number
        queue.push(rows / 10, rows.float(), rows)
    before = queue.entries()
    assert before.pair_ids.tolist() == [2, 3, 4, 5]
    assert before.ages.tolist() == [1, 1, 0, 0]
    queue.refresh(torch.tensor([-0.2, -0.3, -0.4, -0.5], requires_grad=True))
    after = queue.entries()
    torch.testing.assert_close(after.predictions, torch.tensor([-0.2, -0.3, -0.4, -0.5]))
    assert not after.predictions.requires_grad
    assert torch.equal(after.gold, before.gold)
    assert torch.equal(after.pair_ids, before.pair_ids)
    assert after.ages.tolist() == [0] * 4
    queue.push(torch.tensor([0.9]), torch.tensor([9.0]))  # still the oldest one goes
    assert queue.entries().gold.tolist() == [3, 4, 5, 9]
    assert queue.entries().pair_ids.tolist() == [3, 4, 5, -1]
    assert queue.entries(0).gold.tolist() == [9]


def test_wrong_pair_ids_and_refreshes():
    queue = CorrQueue(4)
    two = torch.ones(2)
    for ids in (torch.arange(3), torch.ones(2)):
        with pytest.raises(ValueError, match=r"CorrQueue.push got pair_ids of .*expected \(2,\) and integers"):
            queue.push(two, two, ids)
    queue.push(two, two)
    with pytest.raises(ValueError, match=r"got predictions of shape \(3,\), expected \(2,\), one for each pair held"):
        queue.refresh(torch.ones(3))
    with pytest.raises(ValueError, match=r"CorrQueue.refresh got 1 of 2 predictions that are not finite"):
        queue.refresh(torch.tensor([1.0, float("nan")]))
