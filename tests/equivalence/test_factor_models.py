"""Factor models against their formulas in float64."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from segue.core.ratings import collect_ratings
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.solvers import truncated_svd as truncation
from segue.solvers.bayesian.gibbs_kernels import sample_factor_rows, sample_hyperparameters
from segue.solvers.bayesian.gibbs_sampler import GibbsSampler
from segue.solvers.bayesian.side_information import sample_link_matrix
from segue.solvers.bias_baseline import fit_bias_baseline
from segue.solvers.momentum_sgd import FactorSide, momentum_sgd_epoch
from segue.solvers.nonnegative_updates import update_dense, update_observed
from segue.solvers.sgd import sgd_epoch
from segue.solvers.truncated_svd import truncated_svd
from segue.testing import clusters, dataset, tastes

F32 = np.float32


def fit(key: str, data: Dataset, folder: Path | None = None, seed: int = 0, **values: Any) -> Any:
    kind: Any = model_class(key)
    model = kind(kind.Config(**values), data.schema)
    model.fit(data, Run(seed, folder), None)
    return model


def logged(folder: Path, name: str = "loss") -> list[float]:
    return [json.loads(line)[name] for line in (folder / "history.jsonl").read_text().splitlines()]


def rmse(model: Any, world: Any) -> float:
    targets = world.test.targets
    actual = model.predict(world.test.queries.users[targets.rows], targets.items)
    return float(np.sqrt(np.square(actual - targets.values).mean()))


def make_ratings(seed: int = 0, users: int = 7, items: int = 6) -> Dataset:
    """Create a few ratings; the last user and the last item have none."""
    rng = np.random.default_rng(seed)
    is_rated = rng.random((users, items)) < 0.6
    is_rated[-1], is_rated[:, -1] = False, False
    is_rated[0, 0] = True
    values = rng.integers(1, 6, int(is_rated.sum())).astype(F32)
    offsets = np.concatenate([[0], np.cumsum(is_rated.sum(1))])
    return dataset(Events(offsets, np.nonzero(is_rated)[1].astype(np.int32), values=values), items)


def dense_ratings(data: Dataset) -> np.ndarray:
    """Return the dense ratings; NaN if there is no rating."""
    table = np.full((data.n_users, data.n_items), np.nan)
    table[data.histories.rows, data.histories.items] = data.histories.values
    return table


# ---------------------------------------------------------------- svd


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (20, 20)])
@pytest.mark.parametrize("width", [1, 5, 40])
@pytest.mark.parametrize("dense_size", [0, 300])
def test_the_truncated_decomposition_equals_numpy(shape: tuple[int, int], width: int, dense_size: int) -> None:
    rng = np.random.default_rng(3)
    table = np.where(rng.random(shape) < 0.4, rng.standard_normal(shape), 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truncation, "DENSE_SIZE", dense_size)
        right_ID, values = truncated_svd(csr_array(table), width, np.random.default_rng(0))
    _, expected, rows = np.linalg.svd(table, full_matrices=False)
    rank = min(width, *shape)
    assert right_ID.shape == (shape[1], width)
    np.testing.assert_allclose(values[:rank], expected[:rank], rtol=1e-9, atol=1e-9)
    signs = np.sign(rows[np.arange(rank), np.abs(rows[:rank]).argmax(1)])
    np.testing.assert_allclose(right_ID[:, :rank], (signs[:, None] * rows[:rank]).T, atol=1e-7)
    assert not right_ID[:, rank:].any()
    assert not values[rank:].any()


def test_low_rank_and_empty_matrices_are_decomposed() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((400, 2)) @ rng.standard_normal((2, 350))
    right_ID, values = truncated_svd(csr_array(table), 5, np.random.default_rng(0))
    assert (values[:2] > 1).all()
    assert not values[2:].any()
    assert not right_ID[:, 2:].any()
    right_ID, values = truncated_svd(csr_array((400, 350)), 3, np.random.default_rng(0))
    assert not right_ID.any()
    assert not values.any()


@pytest.mark.parametrize("l2", [0.0, 30.0])
@pytest.mark.parametrize("weights", ["binary", "values", "centered"])
def test_implicit_svd_is_the_projection_by_numpy(l2: float, weights: str) -> None:
    data = tastes(share=0.3).train
    model = fit("svd", data, embedding_dim=7, l2=l2, weights=weights)
    values = data.histories.values - {"binary": 0, "values": 0, "centered": data.histories.values.mean()}[weights]
    table = np.zeros((data.n_users, data.n_items))
    table[data.histories.rows, data.histories.items] = 1.0 if weights == "binary" else values
    _, sizes, rows = np.linalg.svd(table, full_matrices=False)
    share = sizes[:7] ** 2 / (sizes[:7] ** 2 + l2)
    expected = table @ (rows[:7].T * share) @ rows[:7]
    np.testing.assert_allclose(model.score(Queries.anonymous(data.histories)), expected, rtol=1e-3, atol=2e-4)
    assert not model.predicts_ratings
    with pytest.raises(ValueError, match=r"svd\.feedback: got 'implicit'"):
        model.predict(np.zeros(1, np.int32), np.zeros(1, np.int32))


def test_full_rank_svd_is_a_ridge_regression() -> None:
    data = tastes(users=40, n_items=12, share=0.3).train
    table = (~np.isnan(dense_ratings(data))).astype(float)
    model = fit("svd", data, embedding_dim=12, l2=5.0)
    gram = table.T @ table
    expected = table @ np.linalg.solve(gram + 5.0 * np.eye(12), gram)
    has_events = table.any(1)
    np.testing.assert_allclose(
        model.score(Queries.anonymous(data.histories))[has_events], expected[has_events], atol=1e-4
    )


def test_the_baseline_is_a_ridge_regression() -> None:
    data = make_ratings()
    table, l2 = dense_ratings(data), 1.5
    actual = fit_bias_baseline(collect_ratings(data, "test"), l2)
    rows, columns = np.nonzero(~np.isnan(table))
    design = np.zeros((len(rows), 13))
    design[np.arange(len(rows)), rows], design[np.arange(len(rows)), 7 + columns] = 1.0, 1.0
    residuals = table[rows, columns] - np.nanmean(table)
    expected = np.linalg.solve(design.T @ design + l2 * np.eye(13), design.T @ residuals)
    np.testing.assert_allclose(np.concatenate([actual.users_U, actual.items_I]), expected, atol=1e-5)


@pytest.mark.parametrize("fit_observed_only", [False, True])
def test_explicit_svd_is_baseline_plus_truncated_residuals(fit_observed_only: bool) -> None:
    data = make_ratings(1, users=9)
    table = dense_ratings(data)
    model = fit(
        "svd", data, feedback="explicit", embedding_dim=3, l2=0.7, l2_bias=2.0, fit_observed_only=fit_observed_only
    )
    baseline = fit_bias_baseline(collect_ratings(data, "test"), 2.0)
    expected = baseline.mean + baseline.users_U[:, None].astype(float) + baseline.items_I
    residuals = table - expected
    _, sizes, rows = np.linalg.svd(np.nan_to_num(residuals), full_matrices=False)
    sizes, rows = sizes[:3], rows[:3]
    for user in range(9):
        is_rated = ~np.isnan(table[user])
        if fit_observed_only:
            ridge = np.diag(0.7 / sizes**2)
            factors = np.linalg.solve(
                rows[:, is_rated] @ rows[:, is_rated].T + ridge, rows[:, is_rated] @ residuals[user, is_rated]
            )
        else:
            factors = rows @ np.nan_to_num(residuals[user]) * sizes**2 / (sizes**2 + 0.7)
        expected[user] += factors @ rows
    users, items = (axis.ravel().astype(np.int32) for axis in np.indices(table.shape))
    np.testing.assert_allclose(model.predict(users, items).reshape(table.shape), expected, atol=1e-4)
    np.testing.assert_allclose(model.score(Queries.anonymous(data.histories)), expected, atol=1e-4)


# ---------------------------------------------------------------- svdpp


def sgd_by_definition(
    data: Dataset, state: dict[str, np.ndarray], targets: np.ndarray, rng: np.random.Generator, implicit: bool
) -> None:
    """Run one pass of SVD++ as in the paper: each rating updates every y_j; in float64, in place."""
    step, l2, l2_bias = 0.05, 0.1, 0.02
    events = data.histories
    order = rng.permutation(len(events))
    draws = rng.random(events.size, F32)
    for u in order:
        begin, stop = events.offsets[u : u + 2]
        visit = np.arange(begin, stop)
        for k in range(stop - begin - 1, 0, -1):
            other = int(float(draws[begin + k]) * (k + 1))
            visit[[k, other]] = visit[[other, k]]
        seen_items = events.items[begin:stop]
        scale = 1 / np.sqrt(max(len(seen_items), 1))
        for t in visit:
            user, item = state["users"][u], state["items"][events.items[t]]
            z = scale * state["implicit"][seen_items].sum(0) if implicit else 0.0
            error = targets[t] - user[0] - item[0] - item[1:] @ (user[1:] + z)
            p, q = user[1:].copy(), item[1:].copy()
            user[0] += step * (error - l2_bias * user[0])
            item[0] += step * (error - l2_bias * item[0])
            user[1:] += step * (error * q - l2 * p)
            item[1:] += step * (error * (p + z) - l2 * q)
            if implicit:
                state["implicit"][seen_items] += step * (error * scale * q - l2 * state["implicit"][seen_items])


@pytest.mark.parametrize("implicit", [True, False])
def test_svdpp_updates_match_the_paper(implicit: bool) -> None:
    data, rng = make_ratings(2, users=12, items=9), np.random.default_rng(0)
    targets = data.histories.values - 3.0
    shapes = {"users": (12, 5), "items": (9, 5), "implicit": (9, 4)}
    exact = {name: rng.standard_normal(shape) * 0.5 for name, shape in shapes.items()}
    fast = {name: array.astype(F32) for name, array in exact.items()}
    matrix = data.histories.csr(9)
    seen = (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32))
    if not implicit:
        seen = (np.zeros(13, np.int64), np.zeros(0, np.int32))
    for sweep in range(4):
        sgd_by_definition(data, exact, targets, np.random.default_rng(sweep), implicit)
        sgd_epoch(
            data.histories.offsets, data.histories.items, targets.astype(F32), *seen, *fast.values(),
            step=0.05, l2=0.1, l2_bias=0.02, rng=np.random.default_rng(sweep),
        )  # fmt: skip
    for name, array in exact.items():
        np.testing.assert_allclose(fast[name], array, rtol=1e-4, atol=1e-5)


def test_svdpp_folds_in_items_and_ratings() -> None:
    data = tastes().train
    model = fit("svdpp", data, embedding_dim=4, iterations=10)
    row = np.array([3, 8, 40], np.int32)
    y = model.extra_arrays["implicit_items"][row].sum(0) / np.sqrt(3)
    without_values = Queries.anonymous(Events(np.array([0, 3]), row))
    expected = model.mean + model.items_ID[:, 0] + model.items_ID[:, 1:] @ y
    np.testing.assert_allclose(model.score(without_values)[0], expected, rtol=1e-4, atol=1e-4)
    values = np.array([1, 5, 4], F32)
    z = np.column_stack([np.ones(3), model.items_ID[row, 1:]]).astype(np.float64)
    residuals = values - model.mean - model.items_ID[row, 0] - model.items_ID[row, 1:] @ y
    std = float(np.std(data.histories.values, dtype=np.float64))
    ridge = 3 * np.diag([model.config.l2_bias, *[model.config.l2 * std] * 4])
    b, *p = np.linalg.solve(z.T @ z + ridge, z.T @ residuals)
    expected = model.mean + b + model.items_ID[:, 0] + model.items_ID[:, 1:] @ (p + y)
    with_values = Queries.anonymous(Events(np.array([0, 3]), row, values=values))
    np.testing.assert_allclose(model.score(with_values)[0], expected, rtol=1e-3, atol=1e-3)
    empty = model.score(Queries.anonymous(Events.of([[]])))
    np.testing.assert_allclose(empty[0], model.mean + model.items_ID[:, 0], rtol=1e-5)


def test_diverging_training_raises() -> None:
    for key in ("svdpp", "pmf"):
        with pytest.raises(ValueError, match=rf"{key}: training diverged in iteration \d+; .*learning_rate"):
            fit(key, tastes().train, learning_rate=1e3, iterations=20)


# ---------------------------------------------------------------- nmf

SHAPES = {"rows": st.integers(1, 12), "width": st.integers(1, 6), "seed": st.integers(0, 99)}


@given(**SHAPES)
def test_dense_updates_equal_sklearn(rows: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, vectors = rng.random((rows, 8)), rng.random((8, width))
    start, ridge = rng.random((rows, width)), rng.random(rows)
    targets, gram = table @ vectors, vectors.T @ vectors
    arguments = (targets.astype(F32), gram.astype(F32), start.astype(F32))
    # sklearn: _update_cdnmf_fast, with the regularization on the diagonal
    expected = start.copy()
    for t in range(width):
        gradient = (expected @ gram)[:, t] + ridge * expected[:, t] - targets[:, t]
        expected[:, t] = np.maximum(expected[:, t] - gradient / (gram[t, t] + ridge), 0)
    np.testing.assert_allclose(update_dense(*arguments, ridge_R=ridge.astype(F32)), expected, rtol=1e-3, atol=1e-4)
    # sklearn: _multiplicative_update_w
    expected = start * targets / (start @ gram + ridge[:, None] * start)
    actual = update_dense(*arguments, ridge_R=ridge.astype(F32), multiplicative=True)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)


@given(**SHAPES)
def test_observed_updates_equal_surprise(rows: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    is_observed = rng.random((rows, 8)) < 0.5
    table, vectors = rng.random((rows, 8)), rng.random((8, width))
    start, ridge = rng.random((rows, width)), rng.random(rows)
    events = np.concatenate([[0], np.cumsum(is_observed.sum(1))]), np.nonzero(is_observed)[1].astype(np.int32)
    arguments = (*events, table[is_observed].astype(F32), vectors.astype(F32), start.astype(F32))
    actual, squares = update_observed(*arguments, ridge_R=ridge.astype(F32), multiplicative=True)
    denominator = np.where(is_observed, start @ vectors.T, 0) @ vectors + ridge[:, None] * start
    has_events = is_observed.any(1)
    expected = np.where(has_events[:, None], start * (np.where(is_observed, table, 0) @ vectors) / denominator, start)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)
    errors = np.square(np.where(is_observed, table - expected @ vectors.T, 0)).sum(1)
    np.testing.assert_allclose(squares, errors, rtol=1e-3, atol=1e-5)
    expected = start.copy()
    for t in range(width):
        errors = np.where(is_observed, table - expected @ vectors.T, 0)
        curvature = np.where(is_observed, vectors[:, t] ** 2, 0).sum(1) + ridge
        best = expected[:, t] + (errors @ vectors[:, t] - ridge * expected[:, t]) / curvature
        expected[:, t] = np.where(has_events, np.maximum(best, 0), expected[:, t])
    actual, _ = update_observed(*arguments, ridge_R=ridge.astype(F32))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("solver", ["coordinate", "multiplicative"])
@pytest.mark.parametrize(
    "values", [{}, {"weights": "values"}, {"feedback": "explicit"}, {"weighted": False, "l2": 2.0}], ids=str
)
def test_the_objective_of_nmf_never_increases(solver: str, values: dict[str, Any], tmp_path: Path) -> None:
    world = tastes(share=0.3)
    data = world.train.with_histories(
        Events(world.train.histories.offsets, world.train.histories.items, values=np.abs(world.train.histories.values))
    )
    config = {"embedding_dim": 6, "iterations": 25, "l2": 0.05, "solver": solver, **values}
    model = fit("nmf", data, tmp_path, **config)
    losses = np.array(logged(tmp_path))
    assert (np.diff(losses) <= 1e-5 * losses[:-1]).all()
    assert losses[-1] < 0.95 * losses[0]
    assert (model.users_UD >= 0).all()
    assert (model.items_ID >= 0).all()
    assert (model.score(Queries.anonymous(data.histories)) >= 0).all()
    # the last loss is the objective, except that users are solved once more
    table = (
        np.nan_to_num(dense_ratings(data))
        if config.get("weights") == "values" or config.get("feedback") == "explicit"
        else (~np.isnan(dense_ratings(data))).astype(float)
    )
    counts = ~np.isnan(dense_ratings(data)) if config.get("feedback") == "explicit" else np.ones_like(table)
    objective = (counts * np.square(table - model.users_UD.astype(float) @ model.items_ID.T)).sum()
    for rows, axis in ((model.users_UD, 1), (model.items_ID, 0)):
        scale = (~np.isnan(dense_ratings(data))).sum(axis) if config.get("weighted", True) else np.ones(len(rows))
        objective += config["l2"] * (scale @ np.square(rows, dtype=float).sum(1))
    assert 0.8 * losses[-1] < objective <= losses[-1] * (1 + 1e-4)


def test_nmf_rejects_negative_values() -> None:
    data = dataset(Events(np.array([0, 2]), np.array([0, 1], np.int32), values=np.array([3, -1], F32)), 2)
    for values in ({"feedback": "explicit"}, {"weights": "values"}):
        with pytest.raises(ValueError, match="nmf: got an event with value -1, expected values of at least 0"):
            fit("nmf", data, **values)


# ---------------------------------------------------------------- pmf


@pytest.mark.parametrize("use_sigmoid", [False, True])
@pytest.mark.parametrize("batch", [1000, 10])
def test_pmf_updates_are_gradient_steps_with_momentum(use_sigmoid: bool, batch: int) -> None:
    data, rng = make_ratings(4, users=8, items=7), np.random.default_rng(1)
    users, items = data.histories.rows, data.histories.items
    targets = data.histories.values / 5 if use_sigmoid else data.histories.values - 3
    tables = {name: rng.standard_normal((count, 3)) for name, count in (("users", 8), ("items", 7))}
    ridges = {name: rng.random(len(rows)) for name, rows in tables.items()}
    velocities = {name: np.zeros_like(rows) for name, rows in tables.items()}
    sides = [FactorSide(tables[n].astype(F32), velocities[n].astype(F32), ridges[n].astype(F32)) for n in tables]
    step, momentum, offset = 0.03, 0.7, 0.2
    for sweep in range(3):
        order = np.random.default_rng(sweep).permutation(len(users))
        total = momentum_sgd_epoch(
            users.astype(np.int32), items, targets.astype(F32), (sides[0], sides[1]), order,
            offset=offset, batch=batch, step=step, momentum=momentum, use_sigmoid=use_sigmoid,
        )  # fmt: skip
        squares = 0.0
        for begin in range(0, len(order), batch):
            batch_ratings = order[begin : begin + batch]
            p, q = tables["users"][users[batch_ratings]], tables["items"][items[batch_ratings]]
            sums = offset + (p * q).sum(1)
            actual = 1 / (1 + np.exp(-sums)) if use_sigmoid else sums
            error = targets[batch_ratings] - actual
            squares += np.square(error).sum()
            gradient = error * (actual * (1 - actual) if use_sigmoid else 1.0)
            for name, codes, vectors in (("users", users, q), ("items", items, p)):
                update = -len(batch_ratings) / len(order) * ridges[name][:, None] * tables[name]
                np.add.at(update, codes[batch_ratings], gradient[:, None] * vectors)
                velocities[name] = momentum * velocities[name] + step * update
            for name in tables:
                tables[name] += velocities[name]
        assert total == pytest.approx(squares, rel=1e-4)
    for side, name in zip(sides, tables, strict=True):
        np.testing.assert_allclose(side.rows_RD, tables[name], rtol=1e-3, atol=1e-4)


def test_pmf_folds_in_by_ridge_regression() -> None:
    world = tastes()
    data = world.train
    model = fit("pmf", data, embedding_dim=4, iterations=30, learning_rate=0.01, batch_size=100, l2=0.05)
    row, values = np.array([1, 5, 30, 31], np.int32), np.array([2, 4.5, 3, 3], F32)
    std = float(np.std(data.histories.values, dtype=np.float64))
    z = model.items_ID[row, 1:].astype(np.float64)
    p = np.linalg.solve(z.T @ z + 4 * 0.05 * std * np.eye(4), z.T @ (values - model.mean))
    actual = model.score(Queries.anonymous(Events(np.array([0, 4]), row, values=values)))
    np.testing.assert_allclose(actual[0], model.mean + model.items_ID[:, 1:] @ p, rtol=1e-4, atol=1e-4)


def test_pmf_with_sigmoid_stays_in_range_and_folds_in_at_a_stationary_point() -> None:
    world = tastes()
    data, low, high = world.train, world.train.histories.values.min(), world.train.histories.values.max()
    model = fit(
        "pmf", data, embedding_dim=4, iterations=60, learning_rate=0.2, batch_size=100, use_sigmoid=True, l2=0.002
    )
    users, items = (axis.ravel().astype(np.int32) for axis in np.indices((data.n_users, data.n_items)))
    actual = model.predict(users, items)
    assert (actual >= low).all()
    assert (actual <= high).all()
    assert rmse(model, world) < world.biases
    histories = data.histories.take(np.arange(3))
    for n, row in enumerate(model.fold_in(histories)):
        events = slice(histories.offsets[n], histories.offsets[n + 1])
        z = model.items_ID[histories.items[events], 1:].astype(np.float64)
        g = 1 / (1 + np.exp(-(model.mean + z @ row[1:])))
        error = (histories.values[events] - low) / (high - low) - g
        gradient = -(error * g * (1 - g)) @ z + 0.002 * len(g) * row[1:]
        assert np.abs(gradient).max() < 0.02 * np.abs((error * g * (1 - g))[:, None] * z).sum(0).max()


# ---------------------------------------------------------------- bayesian_pmf


def test_sampled_rows_have_the_conditional_distribution() -> None:
    rng = np.random.default_rng(0)
    vectors, values = rng.standard_normal((5, 3)), rng.standard_normal(5)
    root = rng.standard_normal((3, 3))
    prior, mean, noise_precision, count = root @ root.T + np.eye(3), rng.standard_normal(3), 1.7, 20_000
    # many copies of one row, and one without events
    offsets = np.append(np.arange(0, 5 * count + 1, 5), 5 * count)
    samples, expected, errors, roots = sample_factor_rows(
        offsets,
        np.tile(np.arange(5, dtype=np.int32), count),
        np.tile(values, count).astype(F32),
        vectors.astype(F32),
        noise_precision=noise_precision,
        precision_DD=prior,
        means_RD=mean[None].astype(F32),
        normals_RD=rng.standard_normal((count + 1, 3)).astype(F32),
        with_roots=True,
    )
    precision = prior + noise_precision * vectors.T @ vectors
    truth = np.linalg.solve(precision, prior @ mean + noise_precision * values @ vectors)
    np.testing.assert_allclose(expected[:count], np.tile(truth, (count, 1)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(expected[count], mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(roots[0] @ roots[0].T, precision, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(samples[:count].mean(0), truth, atol=5 / np.sqrt(count))
    np.testing.assert_allclose(np.cov(samples[:count].T), np.linalg.inv(precision), atol=5 / np.sqrt(count))
    actual = np.square(values - samples[:count] @ vectors.T).sum(1)
    np.testing.assert_allclose(errors[:count], actual, rtol=1e-3, atol=1e-4)


def test_sampled_hyperparameters_are_normal_wishart() -> None:
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((30, 2)) @ np.array([[1.0, 0.4], [0.0, 0.6]]) + [1.0, -2.0]).astype(F32)
    samples = [sample_hyperparameters(rows, rng) for _ in range(4000)]
    center = rows.mean(0, dtype=np.float64)
    scatter = np.eye(2) + (rows - center).T @ (rows - center) + 2 * 30 / 32 * np.outer(center, center)
    np.testing.assert_allclose(np.mean([mean for mean, _ in samples], axis=0), 30 * center / 32, atol=0.02)
    precision = np.mean([precision for _, precision in samples], axis=0)
    np.testing.assert_allclose(precision, (2 + 30) * np.linalg.inv(scatter), rtol=0.02)
    # the mean has a Student's t distribution with 32 - 2 + 1 degrees of freedom
    covariance = scatter / (32 * 31) * 31 / 29
    np.testing.assert_allclose(np.cov(np.array([mean for mean, _ in samples]).T), covariance, rtol=0.12)


def test_sampled_links_have_the_conditional_distribution() -> None:
    rng = np.random.default_rng(2)
    seen = csr_array((rng.random((9, 4)) < 0.5).astype(F32))
    weights = (1 / np.sqrt(np.maximum(np.diff(seen.indptr), 1))).astype(F32)
    by_feature = csr_array(seen.T)
    table = seen.toarray() * weights[:, None]
    rows, prior_precision, std = rng.standard_normal((9, 1)).astype(F32), 1.5, 0.8
    links, residuals, actual = np.zeros((4, 1), F32), rows.copy(), []
    for _ in range(4000):
        noise = (std * rng.standard_normal((4, 1))).astype(F32)
        feature_rows = by_feature.indptr.astype(np.int64), by_feature.indices.astype(np.int32)
        sample_link_matrix(*feature_rows, weights, F32(prior_precision), noise, residuals, links)
        actual.append(links[:, 0].copy())
    np.testing.assert_allclose(residuals[:, 0], rows[:, 0] - table @ links[:, 0], atol=1e-3)
    precision = table.T @ table + prior_precision * np.eye(4)
    np.testing.assert_allclose(np.mean(actual, axis=0), np.linalg.solve(precision, table.T @ rows[:, 0]), atol=0.06)
    np.testing.assert_allclose(np.cov(np.array(actual).T), std**2 * np.linalg.inv(precision), atol=0.04)


def test_the_sampler_has_the_posterior_mean_of_a_tiny_case() -> None:
    """Integrate the posterior of two users and one item of dimension 1 on a grid."""
    values = np.array([1.0, -0.6], F32)
    ratings = collect_ratings(dataset(Events(np.arange(3), np.zeros(2, np.int32), values=values), 1), "test")
    sampler = GibbsSampler(ratings, values, 1, False, 4.0, None, np.random.default_rng(0))
    actual = []
    rng = np.random.default_rng(1)
    for _ in range(1200):
        sampler.step(rng)
        actual.append((sampler.state["users"] @ sampler.state["items"].T)[:, 0])
    # integrated over mean and precision, n numbers about zero have density (1 + scatter)^-(1 + n) / 2
    grid = np.tan(np.linspace(-np.pi / 2, np.pi / 2, 202)[1:-1])  # quantiles of a Cauchy distribution
    u, w, v = np.meshgrid(grid, grid, grid, indexing="ij")
    pair = 1 + (u - w) ** 2 / 2 + 2 * 2 / 4 * ((u + w) / 2) ** 2
    single = 1 + 2 * 1 / 3 * v**2
    logs = -1.5 * np.log(pair) - np.log(single) - 2 * ((values[0] - u * v) ** 2 + (values[1] - w * v) ** 2)
    weight = np.exp(logs) * (1 + u**2) * (1 + w**2) * (1 + v**2)
    expected = np.array([(weight * u * v).sum(), (weight * w * v).sum()]) / weight.sum()
    np.testing.assert_allclose(np.mean(actual, axis=0), expected, atol=0.06)


def test_bayesian_pmf_predicts_mean_and_deviation_over_samples() -> None:
    world = tastes()
    model = fit("bayesian_pmf", world.train, embedding_dim=3, iterations=40, num_samples=5, implicit=True)
    histories = world.train.histories.take(np.arange(4))
    queries = Queries.anonymous(histories)
    scores, total, within = model.score(queries), np.zeros((4, world.train.n_items)), []
    means = []
    for sample in model._samples():
        items = sample.items_IB.astype(np.float64)
        z = np.column_stack([np.ones(len(items)), items[:, 1:]])
        for n in range(4):
            events = slice(histories.offsets[n], histories.offsets[n + 1])
            seen = histories.items[events]
            m = sample.mean_B + sample.links_IB[seen].sum(0) / np.sqrt(len(seen))
            noise_precision, prior = float(sample.noise_precision[0]), sample.precision_BB.astype(np.float64)
            precision = prior + noise_precision * z[seen].T @ z[seen]
            residuals = (histories.values[events] - model.mean) / model.extra_arrays["std"][0] - items[seen, 0]
            row = np.linalg.solve(precision, prior @ m + noise_precision * residuals @ z[seen])
            means.append(z @ row + items[:, 0])
            within.append((z @ np.linalg.inv(precision) * z).sum(1) + 1 / noise_precision)
    means, within = np.array(means).reshape(5, 4, -1), np.array(within).reshape(5, 4, -1)
    std = model.extra_arrays["std"][0]
    np.testing.assert_allclose(scores, model.mean + std * means.mean(0), rtol=1e-3, atol=1e-3)
    total = std * np.sqrt(within.mean(0) + means.var(0))
    np.testing.assert_allclose(model.deviation(queries), total, rtol=1e-3, atol=1e-3)
    candidates = np.array([[3, 3], [0, 1], [5, 9], [7, 7]], np.int32)
    np.testing.assert_array_equal(
        model.deviation(queries, candidates), np.take_along_axis(model.deviation(queries), candidates, 1)
    )
    # the noise is estimated from the ratings alone
    assert total.min() > 0.8 * world.noise
    errors = (
        world.test.targets.values - model.score(world.test.queries)[world.test.targets.rows, world.test.targets.items]
    )
    deviations = model.deviation(world.test.queries)[world.test.targets.rows, world.test.targets.items]
    assert 0.9 < np.sqrt(np.square(errors / deviations).mean()) < 1.15


# ---------------------------------------------------------------- all


EXPLICIT = {
    "svd": {"feedback": "explicit", "fit_observed_only": True, "l2": 45.0, "embedding_dim": 2},
    "svdpp": {"embedding_dim": 4, "iterations": 40, "learning_rate": 0.02},
    "nmf": {"feedback": "explicit", "embedding_dim": 6, "l2": 0.02},
    "pmf": {"embedding_dim": 4, "iterations": 60, "learning_rate": 0.01, "batch_size": 50, "l2": 0.05},
    "bayesian_pmf": {"embedding_dim": 4, "iterations": 60},
}


@pytest.mark.parametrize("key", EXPLICIT)
def test_error_is_close_to_the_noise(key: str) -> None:
    world = tastes()
    if key == "nmf":
        shifted = [
            Events(it.offsets, it.items, values=it.values + 6) for it in (world.train.histories, world.test.targets)
        ]
        model = fit(key, world.train.with_histories(shifted[0]), **EXPLICIT[key])
        users = world.test.queries.users[shifted[1].rows]
        actual = float(np.sqrt(np.square(model.predict(users, shifted[1].items) - shifted[1].values).mean()))
    else:
        actual = rmse(fit(key, world.train, **EXPLICIT[key]), world)
    assert actual < world.noise + 0.5 * (world.biases - world.noise)


@pytest.mark.parametrize("key", ["svdpp", "nmf", "pmf", "bayesian_pmf"])
def test_a_resumed_run_is_bit_identical(key: str, tmp_path: Path) -> None:
    data = clusters().train if key == "nmf" else tastes().train
    config = {"embedding_dim": 4, "num_samples": 2, "burn_in": 0.5, "implicit": True}
    settings = {name: value for name, value in config.items() if name in model_class(key).Config.model_fields}
    uninterrupted = fit(key, data, tmp_path / "whole", iterations=6, **settings)

    class InterruptedRun(Run):
        def log(self, step: int, values: Any) -> None:
            super().log(step, values)
            self.interrupted = step == 4

    kind: Any = model_class(key)
    model = kind(kind.Config(iterations=6, **settings), data.schema)
    with pytest.raises(Exception, match="interrupted after iteration 4 of 6"):
        model.fit(data, InterruptedRun(0, tmp_path / "parts"), None)
    resumed = fit(key, data, tmp_path / "parts", iterations=6, **settings)
    for name, array in uninterrupted.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array)
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")


@pytest.mark.parametrize("key", EXPLICIT)
def test_predictions_of_training_users_equal_folding_in(key: str) -> None:
    data = tastes().train
    data = data.with_histories(Events(data.histories.offsets, data.histories.items, values=data.histories.values + 6))
    model = fit(key, data, **EXPLICIT[key])
    users, items = (axis.ravel().astype(np.int32) for axis in np.indices((data.n_users, data.n_items)))
    expected = model.predict(users, items).reshape(data.n_users, -1)
    np.testing.assert_allclose(model.score(Queries.anonymous(data.histories)), expected, rtol=2e-3, atol=2e-3)
