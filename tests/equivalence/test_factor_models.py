"""Factor models against their formulas written out in float64, one number after the other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from segue.core.ratings import ratings_of
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.solvers import truncated_svd as truncation
from segue.solvers.bayesian.gibbs_kernels import believe, draw_rows
from segue.solvers.bayesian.gibbs_sampler import Chain
from segue.solvers.bayesian.side_information import draw_links
from segue.solvers.bias_baseline import baseline
from segue.solvers.momentum_sgd import Side, descend_in_batches
from segue.solvers.nonnegative_updates import improve_filled, improve_observed
from segue.solvers.sgd import descend
from segue.solvers.truncated_svd import truncated
from segue.testing import clusters, dataset, tastes

F32 = np.float32


def fitted(key: str, data: Dataset, folder: Path | None = None, seed: int = 0, **values: Any) -> Any:
    kind: Any = model_class(key)
    model = kind(kind.Config(**values), data.domain)
    model.fit(data, Run(seed, folder), None)
    return model


def told(folder: Path, name: str = "loss") -> list[float]:
    return [json.loads(line)[name] for line in (folder / "history.jsonl").read_text().splitlines()]


def rmse(model: Any, world: Any) -> float:
    targets = world.test.targets
    found = model.predict(world.test.queries.users[targets.rows], targets.items)
    return float(np.sqrt(np.square(found - targets.values).mean()))


def rated(seed: int = 0, users: int = 7, items: int = 6) -> Dataset:
    """A few ratings; the last user has none, the last item has none."""
    rng = np.random.default_rng(seed)
    there = rng.random((users, items)) < 0.6
    there[-1], there[:, -1] = False, False
    there[0, 0] = True
    values = rng.integers(1, 6, int(there.sum())).astype(F32)
    offsets = np.concatenate([[0], np.cumsum(there.sum(1))])
    return dataset(Events(offsets, np.nonzero(there)[1].astype(np.int32), values=values), items)


def filled(data: Dataset) -> np.ndarray:
    """The ratings as a whole table, NaN where there is none."""
    table = np.full((data.n_users, data.n_items), np.nan)
    table[data.histories.rows, data.histories.items] = data.histories.values
    return table


# ---------------------------------------------------------------- svd


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (20, 20)])
@pytest.mark.parametrize("width", [1, 5, 40])
@pytest.mark.parametrize("short", [0, 300])
def test_the_truncated_decomposition_is_that_of_numpy(shape: tuple[int, int], width: int, short: int) -> None:
    rng = np.random.default_rng(3)
    table = np.where(rng.random(shape) < 0.4, rng.standard_normal(shape), 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truncation, "SHORT", short)
        found_ID, values = truncated(csr_array(table), width, np.random.default_rng(0))
    _, expected, rows = np.linalg.svd(table, full_matrices=False)
    kept = min(width, *shape)
    assert found_ID.shape == (shape[1], width)
    np.testing.assert_allclose(values[:kept], expected[:kept], rtol=1e-9, atol=1e-9)
    signs = np.sign(rows[np.arange(kept), np.abs(rows[:kept]).argmax(1)])
    np.testing.assert_allclose(found_ID[:, :kept], (signs[:, None] * rows[:kept]).T, atol=1e-7)
    assert not found_ID[:, kept:].any()
    assert not values[kept:].any()


def test_a_table_of_low_rank_or_of_nothing_is_decomposed() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((400, 2)) @ rng.standard_normal((2, 350))
    found_ID, values = truncated(csr_array(table), 5, np.random.default_rng(0))
    assert (values[:2] > 1).all()
    assert not values[2:].any()
    assert not found_ID[:, 2:].any()
    found_ID, values = truncated(csr_array((400, 350)), 3, np.random.default_rng(0))
    assert not found_ID.any()
    assert not values.any()


@pytest.mark.parametrize("l2", [0.0, 30.0])
@pytest.mark.parametrize("weights", ["binary", "values", "centred"])
def test_svd_of_events_is_the_projection_by_numpy(l2: float, weights: str) -> None:
    data = tastes(share=0.3).train
    model = fitted("svd", data, width=7, l2=l2, weights=weights)
    values = data.histories.values - {"binary": 0, "values": 0, "centred": data.histories.values.mean()}[weights]
    table = np.zeros((data.n_users, data.n_items))
    table[data.histories.rows, data.histories.items] = 1.0 if weights == "binary" else values
    _, sizes, rows = np.linalg.svd(table, full_matrices=False)
    share = sizes[:7] ** 2 / (sizes[:7] ** 2 + l2)
    expected = table @ (rows[:7].T * share) @ rows[:7]
    np.testing.assert_allclose(model.score(Queries.anonymous(data.histories)), expected, rtol=1e-3, atol=2e-4)
    assert not model.predicts
    with pytest.raises(ValueError, match=r"svd\.learns: got 'events'"):
        model.predict(np.zeros(1, np.int32), np.zeros(1, np.int32))


def test_svd_without_a_ridge_tells_the_table_with_least_error_and_with_one_is_a_ridge_regression() -> None:
    data = tastes(users=40, n_items=12, share=0.3).train
    table = (~np.isnan(filled(data))).astype(float)
    model = fitted("svd", data, width=12, l2=5.0)
    gram = table.T @ table
    expected = table @ np.linalg.solve(gram + 5.0 * np.eye(12), gram)
    some = table.any(1)
    np.testing.assert_allclose(model.score(Queries.anonymous(data.histories))[some], expected[some], atol=1e-4)


def test_the_baseline_is_the_ridge_regression_of_two_biases() -> None:
    data = rated()
    table, l2 = filled(data), 1.5
    found = baseline(ratings_of(data, "test"), l2)
    rows, columns = np.nonzero(~np.isnan(table))
    design = np.zeros((len(rows), 13))
    design[np.arange(len(rows)), rows], design[np.arange(len(rows)), 7 + columns] = 1.0, 1.0
    rest = table[rows, columns] - np.nanmean(table)
    expected = np.linalg.solve(design.T @ design + l2 * np.eye(13), design.T @ rest)
    np.testing.assert_allclose(np.concatenate([found.users_U, found.items_I]), expected, atol=1e-5)


@pytest.mark.parametrize("observed", [False, True])
def test_svd_of_values_is_baseline_and_truncated_rest(observed: bool) -> None:
    data = rated(1, users=9)
    table = filled(data)
    model = fitted("svd", data, learns="values", width=3, l2=0.7, l2_bias=2.0, observed=observed)
    base = baseline(ratings_of(data, "test"), 2.0)
    expected = base.mean + base.users_U[:, None].astype(float) + base.items_I
    rest = table - expected
    _, sizes, rows = np.linalg.svd(np.nan_to_num(rest), full_matrices=False)
    sizes, rows = sizes[:3], rows[:3]
    for user in range(9):
        there = ~np.isnan(table[user])
        if observed:
            ridge = np.diag(0.7 / sizes**2)
            own = np.linalg.solve(rows[:, there] @ rows[:, there].T + ridge, rows[:, there] @ rest[user, there])
        else:
            own = rows @ np.nan_to_num(rest[user]) * sizes**2 / (sizes**2 + 0.7)
        expected[user] += own @ rows
    users, items = (axis.ravel().astype(np.int32) for axis in np.indices(table.shape))
    np.testing.assert_allclose(model.predict(users, items).reshape(table.shape), expected, atol=1e-4)
    np.testing.assert_allclose(model.score(Queries.anonymous(data.histories)), expected, atol=1e-4)


# ---------------------------------------------------------------- svdpp


def surprise(
    data: Dataset, state: dict[str, np.ndarray], targets: np.ndarray, rng: np.random.Generator, implicit: bool
) -> None:
    """One pass of SVD++ as its paper has it, every y_j moved at every rating; in float64, in place."""
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
        had = events.items[begin:stop]
        root = 1 / np.sqrt(max(len(had), 1))
        for t in visit:
            user, item = state["users"][u], state["items"][events.items[t]]
            implied = root * state["implied"][had].sum(0) if implicit else 0.0
            error = targets[t] - user[0] - item[0] - item[1:] @ (user[1:] + implied)
            p, q = user[1:].copy(), item[1:].copy()
            user[0] += step * (error - l2_bias * user[0])
            item[0] += step * (error - l2_bias * item[0])
            user[1:] += step * (error * q - l2 * p)
            item[1:] += step * (error * (p + implied) - l2 * q)
            if implicit:
                state["implied"][had] += step * (error * root * q - l2 * state["implied"][had])


@pytest.mark.parametrize("implicit", [True, False])
def test_svdpp_moves_as_the_paper_says_though_it_costs_less(implicit: bool) -> None:
    data, rng = rated(2, users=12, items=9), np.random.default_rng(0)
    targets = data.histories.values - 3.0
    shapes = {"users": (12, 5), "items": (9, 5), "implied": (9, 4)}
    exact = {name: rng.standard_normal(shape) * 0.5 for name, shape in shapes.items()}
    fast = {name: array.astype(F32) for name, array in exact.items()}
    had = data.histories.csr(9)
    seen = (had.indptr.astype(np.int64), had.indices.astype(np.int32))
    if not implicit:
        seen = (np.zeros(13, np.int64), np.zeros(0, np.int32))
    for sweep in range(4):
        surprise(data, exact, targets, np.random.default_rng(sweep), implicit)
        descend(
            data.histories.offsets, data.histories.items, targets.astype(F32), *seen, *fast.values(),
            step=0.05, l2=0.1, l2_bias=0.02, rng=np.random.default_rng(sweep),
        )  # fmt: skip
    for name, array in exact.items():
        np.testing.assert_allclose(fast[name], array, rtol=1e-4, atol=1e-5)


def test_svdpp_knows_a_person_by_his_items_and_better_by_his_ratings() -> None:
    data = tastes().train
    model = fitted("svdpp", data, width=4, sweeps=10)
    row = np.array([3, 8, 40], np.int32)
    y = model.more["implied"][row].sum(0) / np.sqrt(3)
    silent = Queries.anonymous(Events(np.array([0, 3]), row))
    expected = model.mean + model.items_ID[:, 0] + model.items_ID[:, 1:] @ y
    np.testing.assert_allclose(model.score(silent)[0], expected, rtol=1e-4, atol=1e-4)
    values = np.array([1, 5, 4], F32)
    z = np.column_stack([np.ones(3), model.items_ID[row, 1:]]).astype(np.float64)
    rest = values - model.mean - model.items_ID[row, 0] - model.items_ID[row, 1:] @ y
    spread = float(np.std(data.histories.values, dtype=np.float64))
    ridge = 3 * np.diag([model.config.l2_bias, *[model.config.l2 * spread] * 4])
    b, *p = np.linalg.solve(z.T @ z + ridge, z.T @ rest)
    expected = model.mean + b + model.items_ID[:, 0] + model.items_ID[:, 1:] @ (p + y)
    loud = Queries.anonymous(Events(np.array([0, 3]), row, values=values))
    np.testing.assert_allclose(model.score(loud)[0], expected, rtol=1e-3, atol=1e-3)
    nobody = model.score(Queries.anonymous(Events.of([[]])))
    np.testing.assert_allclose(nobody[0], model.mean + model.items_ID[:, 0], rtol=1e-5)


def test_steps_that_lead_nowhere_are_told() -> None:
    for key in ("svdpp", "pmf"):
        with pytest.raises(ValueError, match=rf"{key}: the errors of sweep \d+ have no end; try a lower learning_rate"):
            fitted(key, tastes().train, learning_rate=1e3, sweeps=20)


# ---------------------------------------------------------------- nmf

PROBLEM = {"rows": st.integers(1, 12), "width": st.integers(1, 6), "seed": st.integers(0, 99)}


@given(**PROBLEM)
def test_filled_rows_move_as_sklearn_moves_them(rows: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, others = rng.random((rows, 8)), rng.random((8, width))
    start, ridge = rng.random((rows, width)), rng.random(rows)
    sides, gram = table @ others, others.T @ others
    given = (sides.astype(F32), gram.astype(F32), start.astype(F32))
    # sklearn: _update_cdnmf_fast, with the ridge on the diagonal
    expected = start.copy()
    for t in range(width):
        slope = (expected @ gram)[:, t] + ridge * expected[:, t] - sides[:, t]
        expected[:, t] = np.maximum(expected[:, t] - slope / (gram[t, t] + ridge), 0)
    np.testing.assert_allclose(improve_filled(*given, ridge_R=ridge.astype(F32)), expected, rtol=1e-3, atol=1e-4)
    # sklearn: _multiplicative_update_w
    expected = start * sides / (start @ gram + ridge[:, None] * start)
    found = improve_filled(*given, ridge_R=ridge.astype(F32), multiply=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@given(**PROBLEM)
def test_observed_rows_move_as_surprise_moves_them(rows: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    there = rng.random((rows, 8)) < 0.5
    table, others = rng.random((rows, 8)), rng.random((8, width))
    start, ridge = rng.random((rows, width)), rng.random(rows)
    events = np.concatenate([[0], np.cumsum(there.sum(1))]), np.nonzero(there)[1].astype(np.int32)
    given = (*events, table[there].astype(F32), others.astype(F32), start.astype(F32))
    found, squares = improve_observed(*given, ridge_R=ridge.astype(F32), multiply=True)
    down = np.where(there, start @ others.T, 0) @ others + ridge[:, None] * start
    some = there.any(1)
    expected = np.where(some[:, None], start * (np.where(there, table, 0) @ others) / down, start)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    errors = np.square(np.where(there, table - expected @ others.T, 0)).sum(1)
    np.testing.assert_allclose(squares, errors, rtol=1e-3, atol=1e-5)
    expected = start.copy()
    for t in range(width):
        errors = np.where(there, table - expected @ others.T, 0)
        bend = np.where(there, others[:, t] ** 2, 0).sum(1) + ridge
        best = expected[:, t] + (errors @ others[:, t] - ridge * expected[:, t]) / bend
        expected[:, t] = np.where(some, np.maximum(best, 0), expected[:, t])
    found, _ = improve_observed(*given, ridge_R=ridge.astype(F32))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("solver", ["coordinate", "multiplicative"])
@pytest.mark.parametrize(
    "values", [{}, {"weights": "values"}, {"learns": "values"}, {"weighted": False, "l2": 2.0}], ids=str
)
def test_the_objective_of_nmf_never_rises_and_no_factor_is_below_zero(
    solver: str, values: dict[str, Any], tmp_path: Path
) -> None:
    world = tastes(share=0.3)
    data = world.train.having(
        Events(world.train.histories.offsets, world.train.histories.items, values=np.abs(world.train.histories.values))
    )
    config = {"width": 6, "sweeps": 25, "l2": 0.05, "solver": solver, **values}
    model = fitted("nmf", data, tmp_path, **config)
    losses = np.array(told(tmp_path))
    assert (np.diff(losses) <= 1e-5 * losses[:-1]).all()
    assert losses[-1] < 0.95 * losses[0]
    assert (model.users_UD >= 0).all()
    assert (model.items_ID >= 0).all()
    assert (model.score(Queries.anonymous(data.histories)) >= 0).all()
    # the last loss is the objective, but for users, who were solved once more
    table = np.nan_to_num(filled(data)) if "values" in config.values() else (~np.isnan(filled(data))).astype(float)
    counts = ~np.isnan(filled(data)) if config.get("learns") == "values" else np.ones_like(table)
    objective = (counts * np.square(table - model.users_UD.astype(float) @ model.items_ID.T)).sum()
    for rows, axis in ((model.users_UD, 1), (model.items_ID, 0)):
        scale = (~np.isnan(filled(data))).sum(axis) if config.get("weighted", True) else np.ones(len(rows))
        objective += config["l2"] * (scale @ np.square(rows, dtype=float).sum(1))
    assert 0.8 * losses[-1] < objective <= losses[-1] * (1 + 1e-4)


def test_nmf_refuses_values_below_zero() -> None:
    data = dataset(Events(np.array([0, 2]), np.array([0, 1], np.int32), values=np.array([3, -1], F32)), 2)
    for values in ({"learns": "values"}, {"weights": "values"}):
        with pytest.raises(ValueError, match="nmf: got an event of value -1, expected none below 0"):
            fitted("nmf", data, **values)


# ---------------------------------------------------------------- pmf


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("batch", [1000, 10])
def test_pmf_moves_down_the_gradient_with_momentum(squash: bool, batch: int) -> None:
    data, rng = rated(4, users=8, items=7), np.random.default_rng(1)
    users, items = data.histories.rows, data.histories.items
    targets = data.histories.values / 5 if squash else data.histories.values - 3
    tables = {name: rng.standard_normal((count, 3)) for name, count in (("users", 8), ("items", 7))}
    ridges = {name: rng.random(len(rows)) for name, rows in tables.items()}
    speeds = {name: np.zeros_like(rows) for name, rows in tables.items()}
    sides = [Side(tables[n].astype(F32), speeds[n].astype(F32), ridges[n].astype(F32)) for n in tables]
    step, momentum, offset = 0.03, 0.7, 0.2
    for sweep in range(3):
        order = np.random.default_rng(sweep).permutation(len(users))
        total = descend_in_batches(
            users.astype(np.int32), items, targets.astype(F32), (sides[0], sides[1]), order,
            offset=offset, batch=batch, step=step, momentum=momentum, squash=squash,
        )  # fmt: skip
        squares = 0.0
        for begin in range(0, len(order), batch):
            part = order[begin : begin + batch]
            p, q = tables["users"][users[part]], tables["items"][items[part]]
            sums = offset + (p * q).sum(1)
            found = 1 / (1 + np.exp(-sums)) if squash else sums
            error = targets[part] - found
            squares += np.square(error).sum()
            pull = error * (found * (1 - found) if squash else 1.0)
            for name, codes, others in (("users", users, q), ("items", items, p)):
                down = -len(part) / len(order) * ridges[name][:, None] * tables[name]
                np.add.at(down, codes[part], pull[:, None] * others)
                speeds[name] = momentum * speeds[name] + step * down
            for name in tables:
                tables[name] += speeds[name]
        assert total == pytest.approx(squares, rel=1e-4)
    for side, name in zip(sides, tables, strict=True):
        np.testing.assert_allclose(side.rows_RD, tables[name], rtol=1e-3, atol=1e-4)


def test_pmf_folds_in_by_its_objective() -> None:
    world = tastes()
    data = world.train
    model = fitted("pmf", data, width=4, sweeps=30, learning_rate=0.01, batch_size=100, l2=0.05)
    row, values = np.array([1, 5, 30, 31], np.int32), np.array([2, 4.5, 3, 3], F32)
    spread = float(np.std(data.histories.values, dtype=np.float64))
    z = model.items_ID[row, 1:].astype(np.float64)
    p = np.linalg.solve(z.T @ z + 4 * 0.05 * spread * np.eye(4), z.T @ (values - model.mean))
    found = model.score(Queries.anonymous(Events(np.array([0, 4]), row, values=values)))
    np.testing.assert_allclose(found[0], model.mean + model.items_ID[:, 1:] @ p, rtol=1e-4, atol=1e-4)


def test_squashed_pmf_stays_in_the_scale_and_folds_in_where_its_slope_is_zero() -> None:
    world = tastes()
    data, low, high = world.train, world.train.histories.values.min(), world.train.histories.values.max()
    model = fitted("pmf", data, width=4, sweeps=60, learning_rate=0.2, batch_size=100, squash=True, l2=0.002)
    users, items = (axis.ravel().astype(np.int32) for axis in np.indices((data.n_users, data.n_items)))
    found = model.predict(users, items)
    assert (found >= low).all()
    assert (found <= high).all()
    assert rmse(model, world) < world.biases
    own = data.histories.take(np.arange(3))
    for n, row in enumerate(model.fold_in(own)):
        part = slice(own.offsets[n], own.offsets[n + 1])
        z = model.items_ID[own.items[part], 1:].astype(np.float64)
        g = 1 / (1 + np.exp(-(model.mean + z @ row[1:])))
        error = (own.values[part] - low) / (high - low) - g
        slope = -(error * g * (1 - g)) @ z + 0.002 * len(g) * row[1:]
        assert np.abs(slope).max() < 0.02 * np.abs((error * g * (1 - g))[:, None] * z).sum(0).max()


# ---------------------------------------------------------------- bayesian_pmf


def test_draws_of_rows_are_those_of_their_distribution() -> None:
    rng = np.random.default_rng(0)
    vectors, values = rng.standard_normal((5, 3)), rng.standard_normal(5)
    root = rng.standard_normal((3, 3))
    prior, mean, noise, count = root @ root.T + np.eye(3), rng.standard_normal(3), 1.7, 20_000
    # the same row many times over, and one without events
    offsets = np.append(np.arange(0, 5 * count + 1, 5), 5 * count)
    drawn, expected, errors, roots = draw_rows(
        offsets,
        np.tile(np.arange(5, dtype=np.int32), count),
        np.tile(values, count).astype(F32),
        vectors.astype(F32),
        noise=noise,
        precision_DD=prior,
        means_RD=mean[None].astype(F32),
        normals_RD=rng.standard_normal((count + 1, 3)).astype(F32),
        roots=True,
    )
    precision = prior + noise * vectors.T @ vectors
    truth = np.linalg.solve(precision, prior @ mean + noise * values @ vectors)
    np.testing.assert_allclose(expected[:count], np.tile(truth, (count, 1)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(expected[count], mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(roots[0] @ roots[0].T, precision, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(drawn[:count].mean(0), truth, atol=5 / np.sqrt(count))
    np.testing.assert_allclose(np.cov(drawn[:count].T), np.linalg.inv(precision), atol=5 / np.sqrt(count))
    found = np.square(values - drawn[:count] @ vectors.T).sum(1)
    np.testing.assert_allclose(errors[:count], found, rtol=1e-3, atol=1e-4)


def test_what_is_believed_of_rows_is_normal_wishart() -> None:
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((30, 2)) @ np.array([[1.0, 0.4], [0.0, 0.6]]) + [1.0, -2.0]).astype(F32)
    draws = [believe(rows, rng) for _ in range(4000)]
    centre = rows.mean(0, dtype=np.float64)
    scatter = np.eye(2) + (rows - centre).T @ (rows - centre) + 2 * 30 / 32 * np.outer(centre, centre)
    np.testing.assert_allclose(np.mean([mean for mean, _ in draws], axis=0), 30 * centre / 32, atol=0.02)
    precision = np.mean([precision for _, precision in draws], axis=0)
    np.testing.assert_allclose(precision, (2 + 30) * np.linalg.inv(scatter), rtol=0.02)
    # the mean's distribution is Student's, with 32 - 2 + 1 degrees of freedom
    covariance = scatter / (32 * 31) * 31 / 29
    np.testing.assert_allclose(np.cov(np.array([mean for mean, _ in draws]).T), covariance, rtol=0.12)


def test_draws_of_links_are_those_of_their_distribution() -> None:
    rng = np.random.default_rng(2)
    had = csr_array((rng.random((9, 4)) < 0.5).astype(F32))
    weights = (1 / np.sqrt(np.maximum(np.diff(had.indptr), 1))).astype(F32)
    by_feature = csr_array(had.T)
    table = had.toarray() * weights[:, None]
    rows, ridge, spread = rng.standard_normal((9, 1)).astype(F32), 1.5, 0.8
    links, apart, found = np.zeros((4, 1), F32), rows.copy(), []
    for _ in range(4000):
        noise = (spread * rng.standard_normal((4, 1))).astype(F32)
        places = by_feature.indptr.astype(np.int64), by_feature.indices.astype(np.int32)
        draw_links(*places, weights, F32(ridge), noise, apart, links)
        found.append(links[:, 0].copy())
    np.testing.assert_allclose(apart[:, 0], rows[:, 0] - table @ links[:, 0], atol=1e-3)
    precision = table.T @ table + ridge * np.eye(4)
    np.testing.assert_allclose(np.mean(found, axis=0), np.linalg.solve(precision, table.T @ rows[:, 0]), atol=0.06)
    np.testing.assert_allclose(np.cov(np.array(found).T), spread**2 * np.linalg.inv(precision), atol=0.04)


def test_the_chain_finds_the_posterior_mean_of_a_case_that_can_be_summed_up() -> None:
    """Two users and one item of width 1: the posterior of three numbers, on a grid."""
    values = np.array([1.0, -0.6], F32)
    ratings = ratings_of(dataset(Events(np.arange(3), np.zeros(2, np.int32), values=values), 1), "test")
    chain = Chain(ratings, values, 1, False, 4.0, None, np.random.default_rng(0))
    found = []
    rng = np.random.default_rng(1)
    for _ in range(1200):
        chain.sweep(rng)
        found.append((chain.state["users"] @ chain.state["items"].T)[:, 0])
    # of the integral over mean and precision of n numbers about zero: a determinant, (1 + scatter)^-(1 + n) / 2
    grid = np.tan(np.linspace(-np.pi / 2, np.pi / 2, 202)[1:-1])  # as Cauchy's distribution has it
    u, w, v = np.meshgrid(grid, grid, grid, indexing="ij")
    pair = 1 + (u - w) ** 2 / 2 + 2 * 2 / 4 * ((u + w) / 2) ** 2
    single = 1 + 2 * 1 / 3 * v**2
    logs = -1.5 * np.log(pair) - np.log(single) - 2 * ((values[0] - u * v) ** 2 + (values[1] - w * v) ** 2)
    weight = np.exp(logs) * (1 + u**2) * (1 + w**2) * (1 + v**2)
    expected = np.array([(weight * u * v).sum(), (weight * w * v).sum()]) / weight.sum()
    np.testing.assert_allclose(np.mean(found, axis=0), expected, atol=0.06)


def test_bayesian_pmf_answers_by_the_mean_of_its_sets_and_knows_how_unsure_it_is() -> None:
    world = tastes()
    model = fitted("bayesian_pmf", world.train, width=3, sweeps=40, samples=5, implicit=True)
    own = world.train.histories.take(np.arange(4))
    queries = Queries.anonymous(own)
    scores, total, within = model.score(queries), np.zeros((4, world.train.n_items)), []
    means = []
    for it in model._samples():
        items = it.items_IB.astype(np.float64)
        z = np.column_stack([np.ones(len(items)), items[:, 1:]])
        for n in range(4):
            part = slice(own.offsets[n], own.offsets[n + 1])
            seen = own.items[part]
            m = it.mean_B + it.links_IB[seen].sum(0) / np.sqrt(len(seen))
            noise, prior = float(it.noise[0]), it.precision_BB.astype(np.float64)
            precision = prior + noise * z[seen].T @ z[seen]
            rest = (own.values[part] - model.mean) / model.more["spread"][0] - items[seen, 0]
            row = np.linalg.solve(precision, prior @ m + noise * rest @ z[seen])
            means.append(z @ row + items[:, 0])
            within.append((z @ np.linalg.inv(precision) * z).sum(1) + 1 / noise)
    means, within = np.array(means).reshape(5, 4, -1), np.array(within).reshape(5, 4, -1)
    spread = model.more["spread"][0]
    np.testing.assert_allclose(scores, model.mean + spread * means.mean(0), rtol=1e-3, atol=1e-3)
    total = spread * np.sqrt(within.mean(0) + means.var(0))
    np.testing.assert_allclose(model.deviation(queries), total, rtol=1e-3, atol=1e-3)
    picked = np.array([[3, 3], [0, 1], [5, 9], [7, 7]], np.int32)
    np.testing.assert_array_equal(
        model.deviation(queries, picked), np.take_along_axis(model.deviation(queries), picked, 1)
    )
    # of the noise it knows nothing but the ratings
    assert total.min() > 0.8 * world.noise
    errors = (
        world.test.targets.values - model.score(world.test.queries)[world.test.targets.rows, world.test.targets.items]
    )
    sure = model.deviation(world.test.queries)[world.test.targets.rows, world.test.targets.items]
    assert 0.9 < np.sqrt(np.square(errors / sure).mean()) < 1.15


# ---------------------------------------------------------------- all


VALUED = {
    "svd": {"learns": "values", "observed": True, "l2": 45.0, "width": 2},
    "svdpp": {"width": 4, "sweeps": 40, "learning_rate": 0.02},
    "nmf": {"learns": "values", "width": 6, "l2": 0.02},
    "pmf": {"width": 4, "sweeps": 60, "learning_rate": 0.01, "batch_size": 50, "l2": 0.05},
    "bayesian_pmf": {"width": 4, "sweeps": 60},
}


@pytest.mark.parametrize("key", VALUED)
def test_tastes_are_found(key: str) -> None:
    world = tastes()
    if key == "nmf":
        shifted = [
            Events(it.offsets, it.items, values=it.values + 6) for it in (world.train.histories, world.test.targets)
        ]
        model = fitted(key, world.train.having(shifted[0]), **VALUED[key])
        users = world.test.queries.users[shifted[1].rows]
        found = float(np.sqrt(np.square(model.predict(users, shifted[1].items) - shifted[1].values).mean()))
    else:
        found = rmse(fitted(key, world.train, **VALUED[key]), world)
    assert found < world.noise + 0.5 * (world.biases - world.noise)


@pytest.mark.parametrize("key", ["svdpp", "nmf", "pmf", "bayesian_pmf"])
def test_a_stopped_run_goes_on_bit_for_bit(key: str, tmp_path: Path) -> None:
    data = clusters().train if key == "nmf" else tastes().train
    config = {"width": 4, "samples": 2, "burn_in": 0.5, "implicit": True}
    known = {name: value for name, value in config.items() if name in model_class(key).Config.model_fields}
    whole = fitted(key, data, tmp_path / "whole", sweeps=6, **known)

    class Stopped(Run):
        def log(self, step: int, values: Any) -> None:
            super().log(step, values)
            self.interrupted = step == 4

    kind: Any = model_class(key)
    model = kind(kind.Config(sweeps=6, **known), data.domain)
    with pytest.raises(Exception, match="stopped after sweep 4 of 6"):
        model.fit(data, Stopped(0, tmp_path / "parts"), None)
    parts = fitted(key, data, tmp_path / "parts", sweeps=6, **known)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(parts.arrays()[name], array)
    assert told(tmp_path / "whole") == told(tmp_path / "parts")


@pytest.mark.parametrize("key", VALUED)
def test_who_was_there_is_predicted_as_his_history_scores(key: str) -> None:
    data = tastes().train
    data = data.having(Events(data.histories.offsets, data.histories.items, values=data.histories.values + 6))
    model = fitted(key, data, **VALUED[key])
    users, items = (axis.ravel().astype(np.int32) for axis in np.indices((data.n_users, data.n_items)))
    expected = model.predict(users, items).reshape(data.n_users, -1)
    np.testing.assert_allclose(model.score(Queries.anonymous(data.histories)), expected, rtol=2e-3, atol=2e-3)
