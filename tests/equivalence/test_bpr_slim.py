"""BPR step by step against float64 and torch; SLIM weights against another solver."""

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
from segue.solvers import triplet_sampling
from segue.solvers.bpr_sgd import bpr_adam_epoch, bpr_sgd_epoch
from segue.solvers.triplet_sampling import TripletSampler
from segue.testing import clusters, dataset, hit_rate

USERS, ITEMS, WIDTH = 9, 13, 6


def fit(key: str, data: Dataset, folder: Path | None = None, **values: Any) -> Any:
    kind: Any = model_class(key)
    model = kind(kind.Config(**values), data.schema)
    model.fit(data, Run(0, folder), None)
    return model


def make_rows(seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((USERS + ITEMS, WIDTH + 1)).astype(np.float32)
    rows[:USERS, 0] = 1.0
    return rows


def make_triplets(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    users = rng.integers(USERS - 1, size=count)  # the last user is in no triplet
    items = rng.integers(ITEMS, size=count)
    negatives = (items + rng.integers(1, ITEMS, size=count)) % ITEMS
    return users.astype(np.int32), (USERS + items).astype(np.int32), (USERS + negatives).astype(np.int32)


def compute_loss(rows: Any, users: Any, items: Any, negatives: Any, l2: float, l2_bias: float) -> tuple[Any, Any]:
    """Compute the sum of the loss and of the objective over triplets with torch."""
    p, q, n = rows[users], rows[items], rows[negatives]
    loss = torch.nn.functional.softplus(-(p * (q - n)).sum(1)).sum()
    ridge = l2 / 2 * sum(part[:, 1:].square().sum() for part in (p, q, n))
    return loss, loss + ridge + l2_bias / 2 * (q[:, 0].square().sum() + n[:, 0].square().sum())


@pytest.mark.parametrize("has_bias", [True, False])
def test_sgd_takes_a_gradient_step_for_each_triplet(has_bias: bool) -> None:
    learning_rate, l2, l2_bias = 0.1, 0.05, 0.02
    triplets, rows, loss_sum = make_triplets(40, 1), make_rows(), np.zeros(1)
    if not has_bias:
        rows[USERS:, 0] = 0.0
    expected, total = torch.tensor(rows, dtype=torch.float64), 0.0
    for u, i, j in zip(*triplets, strict=True):
        parameters = expected.clone().requires_grad_()
        loss, objective = compute_loss(parameters, *([int(code)] for code in (u, i, j)), l2, l2_bias)
        objective.backward()
        gradient = parameters.grad.clone()
        gradient[: USERS if has_bias else None, 0] = 0.0
        expected, total = expected - learning_rate * gradient, total + float(loss.detach())
    bpr_sgd_epoch(*triplets, has_bias, learning_rate, l2, l2_bias, rows, loss_sum)
    np.testing.assert_allclose(rows, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert loss_sum[0] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("batch", [1, 3, 16, 1000])
def test_adam_equals_torch(batch: int, has_bias: bool) -> None:
    learning_rate, l2, l2_bias = 0.03, 0.05, 0.02
    rows, loss_sum, step, total = make_rows(), np.zeros(1), 0, 0.0
    if not has_bias:
        rows[USERS:, 0] = 0.0
    means, squares = np.zeros((2, *rows.shape), np.float32)
    expected = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([expected], lr=learning_rate)
    for epoch in range(3):
        triplets = make_triplets(100, epoch)
        bpr_adam_epoch(*triplets, batch, step, has_bias, learning_rate, l2, l2_bias, rows, means, squares, loss_sum)
        for start in range(0, 100, batch):
            batch_triplets = [codes[start : start + batch].tolist() for codes in triplets]
            optimizer.zero_grad()
            loss, objective = compute_loss(expected, *batch_triplets, l2, l2_bias)
            (objective / len(batch_triplets[0])).backward()
            expected.grad[: USERS if has_bias else None, 0] = 0.0
            optimizer.step()
            step, total = step + 1, total + float(loss.detach())
        np.testing.assert_allclose(rows, expected.detach().numpy(), rtol=2e-4, atol=2e-4)
    np.testing.assert_array_equal(rows[USERS - 1], make_rows()[USERS - 1])
    assert loss_sum[0] == pytest.approx(total, rel=1e-4)


def test_lazy_adam_equals_torch_for_tiny_gradients() -> None:
    """Gradients are close to the square root of epsilon, and rows skip a hundred steps."""
    learning_rate, rows, loss_sum = 0.01, make_rows(), np.zeros(1)
    rows[:, 1:] *= 1e-4
    rows[USERS:, 0] = 0.0
    users, items, negatives = make_triplets(300, 0)
    users[:] = 0
    users[[0, 150]] = 1, 2
    means, squares = np.zeros((2, *rows.shape), np.float32)
    expected = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([expected], lr=learning_rate)
    bpr_adam_epoch(users, items, negatives, 1, 0, False, learning_rate, 0.0, 0.0, rows, means, squares, loss_sum)
    for triplet in zip(users, items, negatives, strict=True):
        optimizer.zero_grad()
        compute_loss(expected, *([int(code)] for code in triplet), 0.0, 0.0)[0].backward()
        expected.grad[:, 0] = 0.0
        optimizer.step()
    np.testing.assert_allclose(rows, expected.detach().numpy(), rtol=2e-3, atol=2e-4)


LOGS = st.lists(st.lists(st.integers(0, 7), max_size=12), min_size=1, max_size=6).filter(any)


@given(rows=LOGS, alpha=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_negatives_are_unseen(rows: list[list[int]], alpha: float, seed: int) -> None:
    data = dataset(Events.of(rows), 9)
    sampler = TripletSampler(data, alpha)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triplet_sampling, "MAX_TRIES", 10_000)  # so that rare items are sampled
        users, items, negatives = sampler.triples(np.random.default_rng(seed))
        repeated = sampler.triples(np.random.default_rng(seed))
    seen = [set(row) for row in rows]
    assert all(i in seen[u] and j not in seen[u] for u, i, j in zip(users, items, negatives, strict=True))
    pairs = sorted(zip(users.tolist(), items.tolist(), strict=True))
    all_pairs = sorted((u, i) for u, row in enumerate(rows) for i in row)
    if alpha == 0:
        assert pairs == all_pairs  # no user has the ninth item
    else:
        known = set().union(*seen)
        assert pairs == [(u, i) for u, i in all_pairs if seen[u] != known]
    assert all(np.array_equal(one, other) for one, other in zip(repeated, (users, items, negatives), strict=True))


def test_negatives_follow_the_power_of_the_counts() -> None:
    rows = [[0] * 16, [1] * 4, [2]] + [[3]] * 600
    data = dataset(Events.of(rows), 5)
    for alpha, weights in ((0.0, [1, 1, 1, 0, 1]), (0.5, [4, 2, 1, 0, 0]), (1.0, [16, 4, 1, 0, 0])):
        draws = [TripletSampler(data, alpha).triples(np.random.default_rng(seed)) for seed in range(20)]
        frequencies = sum(np.bincount(one.negatives[one.users >= 3], minlength=5) for one in draws)
        probabilities = np.array(weights) / sum(weights)
        np.testing.assert_allclose(
            frequencies / frequencies.sum(), probabilities, atol=5 * np.sqrt(0.25 / frequencies.sum())
        )


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_folding_in_minimizes_the_bounded_objective(l2: float) -> None:
    """Use the bound ``w x² / 8 - x / 2`` plus a constant, for each pair of a seen item and any item."""
    model = fit("bpr", clusters().train, embedding_dim=4, iterations=5, learning_rate=0.01, l2=l2)
    history = Events.of([[0, 3, 3], [11], list(range(20))])
    actual = model.encode(Queries.anonymous(history))
    items, bias = model.items_ID.astype(np.float64), model.bias_I.astype(np.float64)
    mean, l2 = model.users_UD.astype(np.float64).mean(axis=0), max(l2, 0.01)
    for row, user_factors in enumerate(actual):
        seen_items = history.items[history.offsets[row] : history.offsets[row + 1]]
        d = items[seen_items][:, None] - items
        a, p = bias[seen_items][:, None] - bias, mean
        for _ in range(4):
            sizes = np.sqrt(np.square(d @ p + a).mean(axis=1))
            w = 2 * np.tanh(sizes / 2) / sizes
            matrix = np.einsum("h,hid,hie->de", w, d, d) / 4 / 20 + l2 * (len(seen_items) + 10) * np.eye(4)
            right_side = np.einsum("hi,hid->d", 0.5 - w[:, None] * a / 4, d) / 20 + l2 * 10 * mean
            p = np.linalg.solve(matrix, right_side)
        np.testing.assert_allclose(user_factors, p, rtol=2e-3, atol=2e-4)
        x = np.linspace(-9, 9, 99)
        for size in sizes:
            bound = np.tanh(size / 2) / size / 4 * (x**2 - size**2) - (x - size) / 2 + np.logaddexp(0, -size)
            assert (bound >= np.logaddexp(0, -x) - 1e-12).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_unknown_users_are_folded_in(optimizer: str) -> None:
    world = clusters()
    model = fit("bpr", world.train, embedding_dim=8, optimizer=optimizer, **SETTINGS[optimizer])
    assert hit_rate(model, world) > 0.95
    queries = Queries.anonymous(world.test.queries.history)
    lists = np.argsort(-np.where(seen_mask(queries, 20), -np.inf, model.score(queries)), axis=1)[:, : world.k]
    assert (lists == world.test.targets.items[:, None]).any(axis=1).mean() > 0.9
    empty = model.encode(Queries.anonymous(Events.of([[]])))[0]
    np.testing.assert_allclose(empty, model.users_UD.mean(axis=0), rtol=1e-5)


SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"iterations": 30, "learning_rate": 0.05},
    "adam": {"iterations": 10, "batch_size": 16, "learning_rate": 0.01},
}


def seen_mask(queries: Queries, n_items: int) -> np.ndarray:
    return queries.history.csr(n_items).toarray() > 0


def test_item_bias_can_be_disabled() -> None:
    model = fit("bpr", clusters().train, embedding_dim=4, iterations=3, item_bias=False)
    assert not model.bias.any()
    assert fit("bpr", clusters().train, embedding_dim=4, iterations=3).bias.any()


def test_diverging_training_raises() -> None:
    with pytest.raises(ValueError, match=r"bpr\.learning_rate: got 1e\+30, and training diverged"):
        fit("bpr", clusters().train, embedding_dim=4, iterations=9, learning_rate=1e30)


def test_batch_size_with_sgd_raises() -> None:
    with pytest.raises(ValueError, match="only used with optimizer='adam'"):
        model_class("bpr").Config(batch_size=64, optimizer="sgd")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_run_is_bit_identical(optimizer: str, tmp_path: Path) -> None:
    data = clusters().train
    config = {"embedding_dim": 4, "optimizer": optimizer}
    uninterrupted = fit("bpr", data, tmp_path / "whole", iterations=6, **config)
    fit("bpr", data, tmp_path / "parts", iterations=3, **config)
    resumed = fit("bpr", data, tmp_path / "parts", iterations=6, **config)
    for name, array in uninterrupted.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array)


def random_log(seed: int, users: int = 60, n_items: int = 25) -> Dataset:
    rng = np.random.default_rng(seed)
    probabilities = rng.random((users, 3)) @ rng.random((3, n_items)) / 3
    return dataset(
        Events.of([np.flatnonzero(row).tolist() for row in rng.random((users, n_items)) < probabilities]), n_items
    )


@given(seed=st.integers(0, 30), l1=st.sampled_from([0.0, 0.5, 3.0]), l2=st.sampled_from([0.5, 5.0, 50.0]))
@settings(max_examples=30, deadline=None)
def test_slim_weights_equal_nonnegative_least_squares(seed: int, l1: float, l2: float) -> None:
    """Solve the elastic net as nonnegative least squares with both penalties in the matrix."""
    data = random_log(seed)
    actual = fit("slim", data, l1=l1, l2=l2, tolerance=1e-6, iterations=1000).weights_II.toarray()
    matrix = data.histories.csr(25).toarray().astype(np.float64)
    gram = matrix.T @ matrix
    for item in range(25):
        others = np.delete(np.arange(25), item)
        root = np.linalg.cholesky(gram[np.ix_(others, others)] + l2 * np.eye(24))
        expected, _ = nnls(root.T, np.linalg.solve(root, gram[others, item] - l1))
        np.testing.assert_allclose(actual[item, others], expected, atol=2e-4)
        assert actual[item, item] == 0.0


@given(seed=st.integers(0, 30), alpha=st.sampled_from([0.01, 0.05]), l1_ratio=st.sampled_from([0.1, 0.5]))
@settings(max_examples=20, deadline=None)
def test_slim_weights_are_optimal(seed: int, alpha: float, l1_ratio: float) -> None:
    """Check gradients of ``|x - Xw|² / 2n + alpha (l1_ratio |w| + (1 - l1_ratio) |w|² / 2)``, as in scikit-learn."""
    data = random_log(seed)
    matrix = data.histories.csr(25).toarray().astype(np.float64)
    n = len(matrix)
    model = fit("slim", data, l1=n * alpha * l1_ratio, l2=n * alpha * (1 - l1_ratio), tolerance=1e-6, iterations=1000)
    weights = model.weights_II.toarray().astype(np.float64)
    gradients = -(matrix - matrix @ weights.T).T @ matrix / n + alpha * (l1_ratio + (1 - l1_ratio) * weights)
    off_diagonal = ~np.eye(25, dtype=bool)
    assert (weights >= 0).all()
    assert np.abs(gradients[weights > 0]).max(initial=0.0) < 1e-4
    assert gradients[(weights == 0) & off_diagonal].min() > -1e-4


def test_slim_weights_of_two_items_in_closed_form() -> None:
    data = dataset(Events.of([[0, 1], [0, 1], [0, 1], [0], [1], [1]]), 2)
    actual = fit("slim", data, l1=0.5, l2=2.0, tolerance=1e-6).weights_II.toarray()
    np.testing.assert_allclose(actual, [[0, 2.5 / (5 + 2)], [2.5 / (4 + 2), 0]], rtol=1e-5)


def test_slim_weights_are_zero_for_few_common_users() -> None:
    data = random_log(3)
    n_common = data.histories.csr(25).T @ data.histories.csr(25)
    weights = fit("slim", data, l1=4.0, l2=1.0).weights_II.toarray()
    assert not weights[n_common.toarray() <= 4.0].any()
    assert weights.any()


def test_slim_scores_sum_the_weights_of_the_history() -> None:
    data = random_log(1)
    model = fit("slim", data, l1=0.5, l2=5.0)
    scores = model.score(Queries.anonymous(Events.of([[3, 7, 7], []])))
    weights = model.weights_II.toarray()
    np.testing.assert_allclose(scores[0], weights[:, 3] + weights[:, 7], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(scores[1], model.popularity_I)
