"""Pairwise learning step by step beside float64 and torch; sparse linear weights beside another solver."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.solvers.bpr_sgd import adam, descend
from segue.solvers.triplet_sampling import Draws
from segue.testing import clusters, dataset, hit_rate

USERS, ITEMS, WIDTH = 9, 13, 6


def fitted(key: str, data: Dataset, folder: Path | None = None, **values: Any) -> Any:
    kind: Any = model_class(key)
    model = kind(kind.Config(**values), data.domain)
    model.fit(data, Run(0, folder), None)
    return model


def table(seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((USERS + ITEMS, WIDTH + 1)).astype(np.float32)
    rows[:USERS, 0] = 1.0
    return rows


def some_triples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    users = rng.integers(USERS - 1, size=count)  # the last user is never touched
    items = rng.integers(ITEMS, size=count)
    others = (items + rng.integers(1, ITEMS, size=count)) % ITEMS
    return users.astype(np.int32), (USERS + items).astype(np.int32), (USERS + others).astype(np.int32)


def loss_of(rows: Any, users: Any, items: Any, others: Any, l2: float, l2_bias: float) -> tuple[Any, Any]:
    """Sums over triples of the loss alone, and of the objective, by torch."""
    p, q, n = rows[users], rows[items], rows[others]
    loss = torch.nn.functional.softplus(-(p * (q - n)).sum(1)).sum()
    ridge = l2 / 2 * sum(part[:, 1:].square().sum() for part in (p, q, n))
    return loss, loss + ridge + l2_bias / 2 * (q[:, 0].square().sum() + n[:, 0].square().sum())


@pytest.mark.parametrize("biased", [True, False])
def test_a_triple_is_a_step_down_its_slope(biased: bool) -> None:
    rate, l2, l2_bias = 0.1, 0.05, 0.02
    triples, rows, told = some_triples(40, 1), table(), np.zeros(1)
    if not biased:
        rows[USERS:, 0] = 0.0
    expected, total = torch.tensor(rows, dtype=torch.float64), 0.0
    for u, i, j in zip(*triples, strict=True):
        here = expected.clone().requires_grad_()
        loss, objective = loss_of(here, *([int(code)] for code in (u, i, j)), l2, l2_bias)
        objective.backward()
        slope = here.grad.clone()
        slope[: USERS if biased else None, 0] = 0.0
        expected, total = expected - rate * slope, total + float(loss.detach())
    descend(*triples, biased, rate, l2, l2_bias, rows, told)
    np.testing.assert_allclose(rows, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert told[0] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("batch", [1, 3, 16, 1000])
def test_batches_are_steps_of_the_adam_of_torch(batch: int, biased: bool) -> None:
    rate, l2, l2_bias = 0.03, 0.05, 0.02
    rows, told, step, total = table(), np.zeros(1), 0, 0.0
    if not biased:
        rows[USERS:, 0] = 0.0
    means, squares = np.zeros((2, *rows.shape), np.float32)
    expected = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([expected], lr=rate)
    for sweep in range(3):
        triples = some_triples(100, sweep)
        adam(*triples, batch, step, biased, rate, l2, l2_bias, rows, means, squares, told)
        for start in range(0, 100, batch):
            part = [codes[start : start + batch].tolist() for codes in triples]
            optimizer.zero_grad()
            loss, objective = loss_of(expected, *part, l2, l2_bias)
            (objective / len(part[0])).backward()
            expected.grad[: USERS if biased else None, 0] = 0.0
            optimizer.step()
            step, total = step + 1, total + float(loss.detach())
        np.testing.assert_allclose(rows, expected.detach().numpy(), rtol=2e-4, atol=2e-4)
    np.testing.assert_array_equal(rows[USERS - 1], table()[USERS - 1])
    assert told[0] == pytest.approx(total, rel=1e-4)


def test_rows_that_rest_long_move_as_torch_moves_them_even_where_slopes_are_tiny() -> None:
    """Slopes near the root of epsilon, and rows that a hundred steps leave alone."""
    rate, rows, told = 0.01, table(), np.zeros(1)
    rows[:, 1:] *= 1e-4
    rows[USERS:, 0] = 0.0
    users, items, others = some_triples(300, 0)
    users[:] = 0
    users[[0, 150]] = 1, 2
    means, squares = np.zeros((2, *rows.shape), np.float32)
    expected = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([expected], lr=rate)
    adam(users, items, others, 1, 0, False, rate, 0.0, 0.0, rows, means, squares, told)
    for triple in zip(users, items, others, strict=True):
        optimizer.zero_grad()
        loss_of(expected, *([int(code)] for code in triple), 0.0, 0.0)[0].backward()
        expected.grad[:, 0] = 0.0
        optimizer.step()
    np.testing.assert_allclose(rows, expected.detach().numpy(), rtol=2e-3, atol=2e-4)


LOGS = st.lists(st.lists(st.integers(0, 7), max_size=12), min_size=1, max_size=6).filter(any)


@given(rows=LOGS, alpha=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_what_is_drawn_was_not_had(rows: list[list[int]], alpha: float, seed: int) -> None:
    data = dataset(Events.of(rows), 9)
    drawn = Draws(data, alpha)
    users, items, others = drawn.triples(np.random.default_rng(seed))
    had = [set(row) for row in rows]
    assert all(i in had[u] and j not in had[u] for u, i, j in zip(users, items, others, strict=True))
    pairs = sorted(zip(users.tolist(), items.tolist(), strict=True))
    every = sorted((u, i) for u, row in enumerate(rows) for i in row)
    if alpha == 0:
        assert pairs == every  # the ninth item is nobody's
    else:
        known = set().union(*had)
        assert pairs == [(u, i) for u, i in every if had[u] != known]
    again = drawn.triples(np.random.default_rng(seed))
    assert all(np.array_equal(one, other) for one, other in zip(again, (users, items, others), strict=True))


def test_negatives_follow_the_power_of_the_counts() -> None:
    rows = [[0] * 16, [1] * 4, [2]] + [[3]] * 600
    data = dataset(Events.of(rows), 5)
    for alpha, weights in ((0.0, [1, 1, 1, 0, 1]), (0.5, [4, 2, 1, 0, 0]), (1.0, [16, 4, 1, 0, 0])):
        draws = [Draws(data, alpha).triples(np.random.default_rng(seed)) for seed in range(20)]
        found = sum(np.bincount(one.others[one.users >= 3], minlength=5) for one in draws)
        shares = np.array(weights) / sum(weights)
        np.testing.assert_allclose(found / found.sum(), shares, atol=5 * np.sqrt(0.25 / found.sum()))


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_a_new_person_is_the_minimum_of_the_bounded_objective(l2: float) -> None:
    """Each item that was had against every item, one by one; the bound ``w x² / 8 - x / 2`` and a constant."""
    model = fitted("bpr", clusters().train, width=4, sweeps=5, learning_rate=0.01, l2=l2)
    history = Events.of([[0, 3, 3], [11], list(range(20))])
    found = model.encode(Queries.anonymous(history))
    items, bias = model.items_ID.astype(np.float64), model.bias_I.astype(np.float64)
    mean, l2 = model.users_UD.astype(np.float64).mean(axis=0), max(l2, 0.01)
    for row, own in enumerate(found):
        had = history.items[history.offsets[row] : history.offsets[row + 1]]
        d = items[had][:, None] - items
        a, p = bias[had][:, None] - bias, mean
        for _ in range(4):
            sizes = np.sqrt(np.square(d @ p + a).mean(axis=1))
            w = 2 * np.tanh(sizes / 2) / sizes
            matrix = np.einsum("h,hid,hie->de", w, d, d) / 4 / 20 + l2 * (len(had) + 10) * np.eye(4)
            side = np.einsum("hi,hid->d", 0.5 - w[:, None] * a / 4, d) / 20 + l2 * 10 * mean
            p = np.linalg.solve(matrix, side)
        np.testing.assert_allclose(own, p, rtol=2e-3, atol=2e-4)
        x = np.linspace(-9, 9, 99)
        for size in sizes:
            bound = np.tanh(size / 2) / size / 4 * (x**2 - size**2) - (x - size) / 2 + np.logaddexp(0, -size)
            assert (bound >= np.logaddexp(0, -x) - 1e-12).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_people_who_were_not_there_are_understood(optimizer: str) -> None:
    world = clusters()
    model = fitted("bpr", world.train, width=8, optimizer=optimizer, **ENOUGH[optimizer])
    assert hit_rate(model, world) > 0.95
    strangers = Queries.anonymous(world.test.queries.history)
    lists = np.argsort(-np.where(seen(strangers, 20), -np.inf, model.score(strangers)), axis=1)[:, : world.k]
    assert (lists == world.test.targets.items[:, None]).any(axis=1).mean() > 0.9
    nobody = model.encode(Queries.anonymous(Events.of([[]])))[0]
    np.testing.assert_allclose(nobody, model.users_UD.mean(axis=0), rtol=1e-5)


ENOUGH: dict[str, dict[str, Any]] = {
    "sgd": {"sweeps": 30, "learning_rate": 0.05},
    "adam": {"sweeps": 10, "batch_size": 16, "learning_rate": 0.01},
}


def seen(queries: Queries, n_items: int) -> np.ndarray:
    return queries.history.csr(n_items).toarray() > 0


def test_without_biases_there_are_none() -> None:
    model = fitted("bpr", clusters().train, width=4, sweeps=3, item_bias=False)
    assert not model.bias.any()
    assert fitted("bpr", clusters().train, width=4, sweeps=3).bias.any()


def test_steps_that_are_too_long_are_told() -> None:
    with pytest.raises(ValueError, match=r"bpr\.learning_rate: got 1e\+30, too long a step"):
        fitted("bpr", clusters().train, width=4, sweeps=9, learning_rate=1e30)


def test_a_batch_of_plain_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="only optimizer 'adam' takes batches"):
        model_class("bpr").Config(batch_size=64, optimizer="sgd")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_stopped_run_goes_on_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    data = clusters().train
    config = {"width": 4, "optimizer": optimizer}
    whole = fitted("bpr", data, tmp_path / "whole", sweeps=6, **config)
    fitted("bpr", data, tmp_path / "parts", sweeps=3, **config)
    parts = fitted("bpr", data, tmp_path / "parts", sweeps=6, **config)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(parts.arrays()[name], array)


def random_log(seed: int, users: int = 60, n_items: int = 25) -> Dataset:
    rng = np.random.default_rng(seed)
    likes = rng.random((users, 3)) @ rng.random((3, n_items)) / 3
    return dataset(Events.of([np.flatnonzero(row).tolist() for row in rng.random((users, n_items)) < likes]), n_items)


@given(seed=st.integers(0, 30), l1=st.sampled_from([0.0, 0.5, 3.0]), l2=st.sampled_from([0.5, 5.0, 50.0]))
@settings(max_examples=30, deadline=None)
def test_weights_are_those_of_another_solver(seed: int, l1: float, l2: float) -> None:
    """As least squares without negative weights: the same elastic net with its two penalties put into the matrix."""
    data = random_log(seed)
    found = fitted("slim", data, l1=l1, l2=l2, tolerance=1e-6, sweeps=1000).weights_II.toarray()
    table = data.histories.csr(25).toarray().astype(np.float64)
    gram = table.T @ table
    for item in range(25):
        rest = np.delete(np.arange(25), item)
        root = np.linalg.cholesky(gram[np.ix_(rest, rest)] + l2 * np.eye(24))
        expected, _ = nnls(root.T, np.linalg.solve(root, gram[rest, item] - l1))
        np.testing.assert_allclose(found[item, rest], expected, atol=2e-4)
        assert found[item, item] == 0.0


@given(seed=st.integers(0, 30), alpha=st.sampled_from([0.01, 0.05]), l1_ratio=st.sampled_from([0.1, 0.5]))
@settings(max_examples=20, deadline=None)
def test_no_weight_can_be_moved_for_the_better(seed: int, alpha: float, l1_ratio: float) -> None:
    """The slopes of ``|x - Xw|² / 2n + alpha (l1_ratio |w| + (1 - l1_ratio) |w|² / 2)``, as scikit-learn writes it."""
    data = random_log(seed)
    table = data.histories.csr(25).toarray().astype(np.float64)
    n = len(table)
    model = fitted("slim", data, l1=n * alpha * l1_ratio, l2=n * alpha * (1 - l1_ratio), tolerance=1e-6, sweeps=1000)
    weights = model.weights_II.toarray().astype(np.float64)
    slopes = -(table - table @ weights.T).T @ table / n + alpha * (l1_ratio + (1 - l1_ratio) * weights)
    others = ~np.eye(25, dtype=bool)
    assert (weights >= 0).all()
    assert np.abs(slopes[weights > 0]).max(initial=0.0) < 1e-4
    assert slopes[(weights == 0) & others].min() > -1e-4


def test_the_weight_of_two_items_in_closed_form() -> None:
    data = dataset(Events.of([[0, 1], [0, 1], [0, 1], [0], [1], [1]]), 2)
    found = fitted("slim", data, l1=0.5, l2=2.0, tolerance=1e-6).weights_II.toarray()
    np.testing.assert_allclose(found, [[0, 2.5 / (5 + 2)], [2.5 / (4 + 2), 0]], rtol=1e-5)


def test_items_that_share_too_few_people_have_no_weight() -> None:
    data = random_log(3)
    both = data.histories.csr(25).T @ data.histories.csr(25)
    weights = fitted("slim", data, l1=4.0, l2=1.0).weights_II.toarray()
    assert not weights[both.toarray() <= 4.0].any()
    assert weights.any()


def test_scores_are_the_weights_of_the_history_summed() -> None:
    data = random_log(1)
    model = fitted("slim", data, l1=0.5, l2=5.0)
    scores = model.score(Queries.anonymous(Events.of([[3, 7, 7], []])))
    weights = model.weights_II.toarray()
    np.testing.assert_allclose(scores[0], weights[:, 3] + weights[:, 7], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(scores[1], model.shares_I)
