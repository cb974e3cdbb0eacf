"""The listwise softmax of click-through networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segue.core.examples.fields import Examples, Field
from segue.core.run import Run
from segue.core.types import Events
from segue.nn.ctr.listwise import listwise_softmax, query_batches
from segue.testing import dataset
from segue.training.settings import Training
from segue.training.train import train

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=9)
GROUPS = np.array([2, 0, 2, 0, 1, 2, 0, 3, 3])
LABELS = np.array([1, 0, 0, 1, 0, 1, 0, 1, 0])
WEIGHTS = np.array([2.0, 1, 1, 3, 1, 0.5, 0, 1, 1])


def test_the_loss_by_hand() -> None:
    """Query 1 has no positive example, and one negative of query 0 has no weight."""
    losses = []
    for group in (0, 2, 3):
        own = np.flatnonzero((group == GROUPS) & (WEIGHTS > 0))
        log_shares = LOGITS[own] - np.log(np.exp(LOGITS[own]).sum())
        positive = LABELS[own] == 1
        losses.append(-(WEIGHTS[own] * log_shares)[positive].mean())
    z, labels, weights = (torch.tensor(one, dtype=torch.float32) for one in (LOGITS, LABELS, WEIGHTS))
    z.requires_grad_()
    found = listwise_softmax(z, labels, weights, torch.tensor(GROUPS))
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)
    found.backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    assert z.grad[4] == z.grad[6] == 0
    shifted = listwise_softmax(z + torch.tensor(GROUPS) * 50.0 - 1000, labels, weights, torch.tensor(GROUPS))
    assert shifted.item() == pytest.approx(np.mean(losses), rel=1e-3)


def test_a_single_positive_of_two_is_logistic_regression_of_the_difference() -> None:
    z = torch.tensor([0.3, -1.2])
    found = listwise_softmax(z, torch.tensor([1.0, 0.0]), None, torch.tensor([0, 0]))
    torch.testing.assert_close(found, torch.nn.functional.softplus(z[1] - z[0]))


def test_a_batch_without_a_positive_has_no_loss() -> None:
    z = torch.tensor([0.3, -1.2], requires_grad=True)
    found = listwise_softmax(z, torch.zeros(2), None, torch.tensor([0, 0]))
    found.backward()
    assert found == 0
    assert z.grad is not None
    assert (z.grad == 0).all()


def table(users: Any) -> Examples:
    """Return examples with a number that orders them within a user, and another one that shifts all of them."""
    rng = np.random.default_rng(1)
    quality, level = rng.normal(size=len(users)), rng.normal(size=int(max(users)) + 1)[users] * 5
    labels = np.zeros(len(users), np.float32)
    for user in np.unique(users):
        own = np.flatnonzero(users == user)
        labels[own[np.argmax(quality[own])]] = 1
    numbers = np.stack([quality + level, level], axis=1)
    fields = (Field("quality", "number"), Field("level", "number"))
    return Examples(
        fields, np.zeros((len(users), 0), np.int32), numbers.astype(np.float32), labels=labels, users=np.asarray(users)
    )


def test_batches_have_whole_queries_and_all_examples() -> None:
    users = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 1 + np.arange(20) % 5))
    data = table(users)
    count, batches = query_batches(data, 12, np.random.default_rng(3))
    parts = list(batches)
    assert len(parts) == count == 5
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(users)))
    sets = [set(users[part].tolist()) for part in parts]
    assert sum(len(one) for one in sets) == 20
    again = list(query_batches(data, 12, np.random.default_rng(4))[1])
    assert [set(users[part].tolist()) for part in again] != sets
    assert query_batches(data, 10_000, np.random.default_rng(0))[0] == 1
    assert query_batches(data, 1, np.random.default_rng(0))[0] == 20


def test_a_network_learns_the_order_within_queries() -> None:
    data = table(np.repeat(np.arange(150), 4))
    settings = {"objective": "softmax", "hidden": (8,), "embedding_dim": 4, "dropout": 0.0, "batch_norm": False}
    model: Any = train("deepfm", settings, Training(epochs=12, batch_size=60, learning_rate=0.02), data, Run(0))
    assert data.labels is not None
    best = model.predict_logits(data).reshape(150, 4).argmax(1)
    assert (best == data.labels.reshape(150, 4).argmax(1)).mean() > 0.95


def test_events_of_a_log_are_compared_with_their_sampled_items() -> None:
    data = dataset(Events.of([[0, 1], [2, 3], [4, 5]]), 6)
    settings = {"objective": "softmax", "num_negatives": 2, "hidden": (4,)}
    model: Any = train("deepfm", settings, Training(epochs=1, batch_size=4), data, Run(0))
    _, batches = model.batches(data, 6, np.random.default_rng(0))
    (batch,) = batches
    np.testing.assert_array_equal(batch.users, np.tile(np.arange(6), 3))
    assert batch.labels.reshape(3, 6).sum(1).tolist() == [6, 0, 0]


def test_a_table_without_users_is_an_error() -> None:
    data = table(np.arange(4))
    without = Examples(data.fields, data.codes, data.numbers, labels=data.labels)
    with pytest.raises(ValueError, match=r"model.objective: softmax compares .* name the column in examples.user"):
        train("deepfm", {"objective": "softmax"}, Training(epochs=1), without, Run(0))
