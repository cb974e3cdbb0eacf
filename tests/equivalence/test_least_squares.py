"""Compare the kernels with small ridge regressions in float64; ALS iterations never increase the objective."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.core import numba_kernels
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.solvers.block_coordinate_descent import solve_rows_by_blocks
from segue.solvers.conjugate_gradient import FixedSide, cg_solve, cg_steps
from segue.solvers.iterative_solver import solve_rows_iteratively
from segue.solvers.ridge import gram, solve_rows
from segue.testing import dataset, tastes

SHAPES = {"width": st.integers(1, 40), "rows": st.integers(1, 30), "seed": st.integers(0, 99)}


def make_problem(width: int, rows: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 12, rows)
    total = int(lengths.sum())
    vectors = rng.standard_normal((9, width)).astype(np.float32)
    return {
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "columns": rng.integers(9, size=total).astype(np.int32),
        "weights_T": rng.random(total).astype(np.float32),
        "targets_T": rng.standard_normal(total).astype(np.float32),
        "vectors_CD": vectors,
        "ridge_R": (0.5 + rng.random(rows)).astype(np.float32),
        "common_DD": gram(vectors),
    }


def with_shared_matrix(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "common_DD"} | {
        "common": arguments["common_DD"]
    }


def with_fixed_side(arguments: dict[str, Any]) -> dict[str, Any]:
    excluded = ("vectors_CD", "common_DD")
    remaining = {name: value for name, value in arguments.items() if name not in excluded}
    return remaining | {"fixed": FixedSide.of(arguments["vectors_CD"], arguments["common_DD"])}


def solve_one_by_one(arguments: dict[str, Any], ridge_D: np.ndarray, prior_RD: np.ndarray) -> np.ndarray:
    solutions = []
    for row in range(len(arguments["offsets"]) - 1):
        events = slice(arguments["offsets"][row], arguments["offsets"][row + 1])
        z = arguments["vectors_CD"][arguments["columns"][events]].astype(np.float64)
        ridge = np.diag(arguments["ridge_R"][row].astype(np.float64) * ridge_D)
        matrix = (z.T * arguments["weights_T"][events]) @ z + arguments["common_DD"] + ridge
        solutions.append(np.linalg.solve(matrix, z.T @ arguments["targets_T"][events] + ridge @ prior_RD[row]))
    return np.array(solutions)


@given(**SHAPES)
@settings(max_examples=40, deadline=None)
def test_rows_are_solutions_of_ridge_regressions(width: int, rows: int, seed: int) -> None:
    arguments = make_problem(width, rows, seed)
    rng = np.random.default_rng(seed + 1)
    ridge_D, prior = (0.5 + rng.random(width)).astype(np.float32), rng.standard_normal((rows, width)).astype(np.float32)
    actual, gains = solve_rows(**arguments, ridge_D=ridge_D, prior_RD=prior)
    expected = solve_one_by_one(arguments, ridge_D.astype(np.float64), prior)
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-4)
    sums = np.zeros((rows, width))
    np.add.at(sums, np.repeat(np.arange(rows), np.diff(arguments["offsets"])),
              arguments["targets_T"][:, None] * arguments["vectors_CD"][arguments["columns"]])  # fmt: skip
    right = sums + arguments["ridge_R"][:, None] * ridge_D * prior
    np.testing.assert_allclose(gains, (right * expected).sum(1), rtol=2e-3, atol=2e-3)


@given(**SHAPES, block=st.integers(1, 16))
@settings(max_examples=40, deadline=None)
def test_block_coordinate_descent_converges(width: int, rows: int, seed: int, block: int) -> None:
    arguments = make_problem(width, rows, seed)
    exact, best_gains = solve_rows(**arguments, ridge_D=np.ones(width, np.float32))
    actual, previous = np.zeros((rows, width), np.float32), np.zeros(rows, np.float32)
    for _ in range(400):
        actual, gains = solve_rows_iteratively(
            solve_rows_by_blocks, min(block, width), **with_shared_matrix(arguments), rows_RD=actual
        )
        assert (gains >= previous - 1e-4 * (1 + np.abs(previous))).all()
        previous = gains
    assert (gains >= best_gains - 0.02 * (1e-2 + np.abs(best_gains))).all()
    one_block, _ = solve_rows_iteratively(
        solve_rows_by_blocks, width, **with_shared_matrix(arguments), rows_RD=np.zeros((rows, width), np.float32)
    )
    np.testing.assert_allclose(one_block, exact, rtol=2e-3, atol=2e-4)


@given(**SHAPES)
@settings(max_examples=40, deadline=None)
def test_conjugate_gradients_converge(width: int, rows: int, seed: int) -> None:
    arguments = make_problem(width, rows, seed)
    _, best_gains = solve_rows(**arguments, ridge_D=np.ones(width, np.float32))
    actual, previous = np.zeros((rows, width), np.float32), np.zeros(rows, np.float32)
    for _ in range(30):
        actual, gains = cg_steps(3, **with_fixed_side(arguments), rows_RD=actual)
        assert (gains >= previous - 1e-4 * (1 + np.abs(previous))).all()
        previous = gains
    np.testing.assert_allclose(gains, best_gains, rtol=1e-2, atol=1e-2)


@given(**SHAPES)
@settings(max_examples=40, deadline=None)
def test_conjugate_gradients_from_zero_solve_the_rows(width: int, rows: int, seed: int) -> None:
    arguments = make_problem(width, rows, seed)
    exact, _ = solve_rows(**arguments, ridge_D=np.ones(width, np.float32))
    np.testing.assert_allclose(cg_solve(**with_fixed_side(arguments)), exact, rtol=2e-3, atol=2e-4)


def test_tiny_regularization_gives_finite_scores() -> None:
    rng = np.random.default_rng(0)
    data = dataset(Events.of([rng.choice(10, 6, replace=False).tolist() for _ in range(40)]), 10)
    for solver in ("subspace", "exact", "conjugate_gradient"):
        kind = model_class("ials")
        model = kind(kind.Config(embedding_dim=32, l2=1e-7, solver=solver), data.schema)
        model.fit(data, Run(0), None)
        assert np.isfinite(model.score(Queries.of_users(np.arange(40, dtype=np.int32), data.histories))).all()


def test_the_blas_limit_ends_with_the_last_context() -> None:
    from threadpoolctl import threadpool_info

    def blas_threads() -> list[int]:
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    before, limit = blas_threads(), numba_kernels._SingleThreadedBlas()
    with limit:
        entered = limit.__enter__()
        assert entered is None
        assert set(blas_threads()) <= {1}
    assert set(blas_threads()) <= {1}
    limit.__exit__()
    assert blas_threads() == before


def test_singular_equations_raise() -> None:
    arguments = make_problem(3, 2, 0) | {"common_DD": np.zeros((3, 3), np.float32), "ridge_R": np.zeros(2, np.float32)}
    arguments["offsets"] = np.array(
        [0, 0, len(arguments["columns"])]
    )  # without events and regularization, every vector is a solution
    with pytest.raises(ValueError, match="the equations of a row are singular"):
        solve_rows(**arguments, ridge_D=np.ones(3, np.float32))


def fit(key: str, data: Dataset, folder: Path | None = None, **values: Any) -> Any:
    kind: Any = model_class(key)
    model = kind(kind.Config(**values), data.schema)
    model.fit(data, Run(0, folder), None)
    return model


def logged_losses(key: str, data: Dataset, folder: Path, **values: Any) -> list[float]:
    fit(key, data, folder, **values)
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


CONJUGATE_GRADIENT = {"solver": "conjugate_gradient"}
ALS_SETTINGS = [
    {},
    {"weighted": False, "l2": 1.0, "l2_bias": 0.5},
    {"embedding_dim": 1},
    CONJUGATE_GRADIENT,
    CONJUGATE_GRADIENT | {"embedding_dim": 9, "cg_steps": 1},
]


@pytest.mark.parametrize("values", ALS_SETTINGS, ids=str)
def test_the_objective_of_als_never_increases_and_is_correct(values: dict[str, Any], tmp_path: Path) -> None:
    data = tastes().train
    config = {"embedding_dim": 5, "l2": 0.05, "l2_bias": 0.02, "iterations": 12, **values}
    losses = logged_losses("als", data, tmp_path, **config)
    assert (np.diff(losses) <= 1e-5 * np.abs(losses[:-1])).all()
    assert losses[-1] < losses[0]
    model = fit("als", data, **config)
    rows, items = data.histories.rows, data.histories.items
    error = data.histories.values - model.predict(rows.astype(np.int32), items)
    weighted = config.get("weighted", True)
    objective = float(np.square(error, dtype=np.float64).sum())
    for table, codes in ((model.users_UD, rows), (model.items_ID, items)):
        counts = np.bincount(codes, minlength=len(table)) if weighted else np.ones(len(table))
        scale = np.maximum(counts, 1)
        objective += float(scale @ (config["l2_bias"] * table[:, 0] ** 2 + config["l2"] * (table[:, 1:] ** 2).sum(1)))
    # users are solved once more after the last iteration
    assert losses[-1] * 0.98 <= objective <= losses[-1] * (1 + 1e-5)


def test_als_in_closed_form_of_one_item() -> None:
    values = np.array([5, 3, 1, 4], np.float32)
    data = dataset(Events(np.arange(5), np.zeros(4, np.int32), values=values), 1)
    model = fit("als", data, embedding_dim=1, iterations=30, l2=1e6, l2_bias=0.5, weighted=False)
    # without factors: b_u = (r - mean - b_i) / 1.5 and b_i = sum (r - mean - b_u) / 4.5
    error = values - values.mean()
    np.testing.assert_allclose(model.users_UD[:, 0], error / 1.5, atol=1e-4)
    assert abs(model.items_ID[0, 0]) < 1e-4


def test_als_folds_in_training_users_exactly() -> None:
    data = tastes().train
    model = fit("als", data, embedding_dim=4, iterations=5)
    queries = Queries.anonymous(data.histories)
    users = np.arange(data.n_users, dtype=np.int32).repeat(data.n_items)
    items = np.tile(np.arange(data.n_items, dtype=np.int32), data.n_users)
    expected = model.predict(users, items).reshape(data.n_users, -1)
    np.testing.assert_allclose(model.score(queries), expected, rtol=1e-4, atol=1e-4)


def test_als_scores_unknown_users_by_item_biases() -> None:
    model = fit("als", tastes().train, embedding_dim=4, iterations=5)
    scores = model.score(Queries.anonymous(Events.of([[]])))
    np.testing.assert_allclose(scores[0], model.mean + model.items_ID[:, 0], rtol=1e-5)


def test_als_clips_only_if_configured() -> None:
    world = tastes()
    unclipped, clipped = (
        fit("als", world.train, embedding_dim=4, iterations=3, clip_predictions=clip) for clip in (False, True)
    )
    low, high = world.train.histories.values.min(), world.train.histories.values.max()
    rows = world.test.targets.rows.astype(np.int32)
    expected = np.clip(unclipped.predict(rows, world.test.targets.items), low, high)
    np.testing.assert_array_equal(clipped.predict(rows, world.test.targets.items), expected)


@pytest.mark.parametrize("solver", ["conjugate_gradient", "exact", "subspace"])
@pytest.mark.parametrize("values", [{}, {"unobserved": "rest", "unobserved_weight": 0.5}, {"frequency_scaling": 0.0}])
def test_the_objective_of_ials_never_increases_and_is_correct(
    solver: str, values: dict[str, Any], tmp_path: Path
) -> None:
    data = tastes(share=0.2).train
    config = {"embedding_dim": 6, "iterations": 10, "l2": 0.05, "solver": solver, **values}
    config |= {"block_size": 4} if solver == "subspace" else {}
    losses = logged_losses("ials", data, tmp_path, **config)
    assert (np.diff(losses) <= 1e-5 * np.abs(losses[:-1])).all()
    model = fit("ials", data, **config)
    weight, power = config.get("unobserved_weight", 0.1), config.get("frequency_scaling", 1.0)
    users, items = model.encode(Queries.anonymous(data.histories)).astype(np.float64), model.items_ID.astype(np.float64)
    seen = data.histories.csr(data.n_items).toarray().astype(np.float64)
    scores = users @ items.T
    weights = np.ones_like(seen) if config.get("unobserved", "all") == "all" else 1 - seen
    objective = (seen * (1 - scores) ** 2).sum() + weight * (weights * scores**2).sum()
    for table, sums, n_columns in ((users, seen.sum(1), data.n_items), (items, seen.sum(0), data.n_users)):
        objective += config["l2"] * ((sums + weight * n_columns) ** power @ (table**2).sum(1))
    # users are solved once more after the last iteration
    assert losses[-1] * 0.9 <= objective <= losses[-1] * (1 + 1e-4)


@pytest.mark.parametrize("key", ["als", "ials"])
def test_a_resumed_run_is_bit_identical(key: str, tmp_path: Path) -> None:
    data = tastes().train
    uninterrupted = fit(key, data, tmp_path / "whole", embedding_dim=4, iterations=6)
    fit(key, data, tmp_path / "parts", embedding_dim=4, iterations=3)
    resumed = fit(key, data, tmp_path / "parts", embedding_dim=4, iterations=6)
    for name, array in uninterrupted.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array)
    lines = [(tmp_path / name / "history.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    assert [json.loads(line)["loss"] for line in lines[0]] == [json.loads(line)["loss"] for line in lines[1]]


def test_cached_user_factors_equal_folding_in() -> None:
    rng = np.random.default_rng(0)
    events = Events.of([rng.choice(40, rng.integers(3, 12)).tolist() for _ in range(50)])
    data = dataset(replace(events, values=rng.random(events.size).astype(np.float32)), 40)
    model = fit("ials", data, value_weight=0.5)
    users = np.arange(data.n_users, dtype=np.int32)
    histories = data.histories
    assert model.user_cache.matches(Queries.of_users(users, histories), True).all()
    unknown = replace(Queries.of_users(users, histories), known=np.zeros(len(users), np.bool_))
    assert (model.encode(unknown) == model.encode(Queries.of_users(users, histories))).all()
    shortened = Queries.of_users(users, histories.last(2))
    assert not model.user_cache.matches(shortened, True).any()
    assert (model.encode(shortened) == model.encode(replace(shortened, known=unknown.known))).all()
