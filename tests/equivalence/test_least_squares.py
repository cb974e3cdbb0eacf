"""Small ridge regressions, one by one in float64, against the compiled loops; sweeps that never make it worse."""

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
from segue.solvers.block_coordinate_descent import improve
from segue.solvers.conjugate_gradient import Fixed, approached, reached
from segue.solvers.iterative_solver import improved
from segue.solvers.ridge import gram, solve_rows
from segue.testing import dataset, tastes

SHAPES = {"width": st.integers(1, 40), "rows": st.integers(1, 30), "seed": st.integers(0, 99)}


def problem(width: int, rows: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 12, rows)
    total = int(lengths.sum())
    vectors = rng.standard_normal((9, width)).astype(np.float32)
    return {
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "columns": rng.integers(9, size=total).astype(np.int32),
        "weights_T": rng.random(total).astype(np.float32),
        "sides_T": rng.standard_normal(total).astype(np.float32),
        "vectors_CD": vectors,
        "ridge_R": (0.5 + rng.random(rows)).astype(np.float32),
        "common_DD": gram(vectors),
    }


def shared(it: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in it.items() if name != "common_DD"} | {"common": it["common_DD"]}


def in_own_axes(it: dict[str, Any]) -> dict[str, Any]:
    gone = ("vectors_CD", "common_DD")
    rest = {name: value for name, value in it.items() if name not in gone}
    return rest | {"fixed": Fixed.of(it["vectors_CD"], it["common_DD"])}


def one_by_one(it: dict[str, Any], ridge_D: np.ndarray, prior_RD: np.ndarray) -> np.ndarray:
    found = []
    for row in range(len(it["offsets"]) - 1):
        part = slice(it["offsets"][row], it["offsets"][row + 1])
        z = it["vectors_CD"][it["columns"][part]].astype(np.float64)
        ridge = np.diag(it["ridge_R"][row].astype(np.float64) * ridge_D)
        matrix = (z.T * it["weights_T"][part]) @ z + it["common_DD"] + ridge
        found.append(np.linalg.solve(matrix, z.T @ it["sides_T"][part] + ridge @ prior_RD[row]))
    return np.array(found)


@given(**SHAPES)
@settings(max_examples=40, deadline=None)
def test_every_row_is_its_ridge_regression(width: int, rows: int, seed: int) -> None:
    it = problem(width, rows, seed)
    rng = np.random.default_rng(seed + 1)
    ridge_D, prior = (0.5 + rng.random(width)).astype(np.float32), rng.standard_normal((rows, width)).astype(np.float32)
    found, gains = solve_rows(**it, ridge_D=ridge_D, prior_RD=prior)
    expected = one_by_one(it, ridge_D.astype(np.float64), prior)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
    sums = np.zeros((rows, width))
    np.add.at(sums, np.repeat(np.arange(rows), np.diff(it["offsets"])),
              it["sides_T"][:, None] * it["vectors_CD"][it["columns"]])  # fmt: skip
    right = sums + it["ridge_R"][:, None] * ridge_D * prior
    np.testing.assert_allclose(gains, (right * expected).sum(1), rtol=2e-3, atol=2e-3)


@given(**SHAPES, block=st.integers(1, 16))
@settings(max_examples=40, deadline=None)
def test_blocks_lead_to_the_same_rows(width: int, rows: int, seed: int, block: int) -> None:
    it = problem(width, rows, seed)
    exact, most = solve_rows(**it, ridge_D=np.ones(width, np.float32))
    found, before = np.zeros((rows, width), np.float32), np.zeros(rows, np.float32)
    for _ in range(400):
        found, gains = improved(improve, min(block, width), **shared(it), rows_RD=found)
        assert (gains >= before - 1e-4 * (1 + np.abs(before))).all()
        before = gains
    assert (gains >= most - 0.02 * (1e-2 + np.abs(most))).all()
    whole, _ = improved(improve, width, **shared(it), rows_RD=np.zeros((rows, width), np.float32))
    np.testing.assert_allclose(whole, exact, rtol=2e-3, atol=2e-4)


@given(**SHAPES)
@settings(max_examples=40, deadline=None)
def test_steps_lead_to_the_same_rows(width: int, rows: int, seed: int) -> None:
    it = problem(width, rows, seed)
    _, most = solve_rows(**it, ridge_D=np.ones(width, np.float32))
    found, before = np.zeros((rows, width), np.float32), np.zeros(rows, np.float32)
    for _ in range(30):
        found, gains = approached(3, **in_own_axes(it), rows_RD=found)
        assert (gains >= before - 1e-4 * (1 + np.abs(before))).all()
        before = gains
    np.testing.assert_allclose(gains, most, rtol=1e-2, atol=1e-2)


@given(**SHAPES)
@settings(max_examples=40, deadline=None)
def test_steps_from_zero_reach_the_same_rows(width: int, rows: int, seed: int) -> None:
    it = problem(width, rows, seed)
    exact, _ = solve_rows(**it, ridge_D=np.ones(width, np.float32))
    np.testing.assert_allclose(reached(**in_own_axes(it)), exact, rtol=2e-3, atol=2e-4)


def test_blocks_of_people_who_had_little_have_a_solution() -> None:
    rng = np.random.default_rng(0)
    few = dataset(Events.of([rng.choice(10, 6, replace=False).tolist() for _ in range(40)]), 10)
    for solver in ("subspace", "exact", "conjugate_gradient"):
        kind = model_class("ials")
        model = kind(kind.Config(width=32, l2=1e-7, solver=solver), few.domain)
        model.fit(few, Run(0), None)
        assert np.isfinite(model.score(Queries.of_users(np.arange(40, dtype=np.int32), few.histories))).all()


def test_the_limit_on_libraries_ends_with_the_last_who_needs_it() -> None:
    from threadpoolctl import threadpool_info

    def now() -> list[int]:
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    before, small = now(), numba_kernels._SmallProducts()
    with small:
        first = small.__enter__()
        assert first is None
        assert set(now()) <= {1}
    assert set(now()) <= {1}
    small.__exit__()
    assert now() == before


def test_no_solution_is_told() -> None:
    it = problem(3, 2, 0) | {"common_DD": np.zeros((3, 3), np.float32), "ridge_R": np.zeros(2, np.float32)}
    it["offsets"] = np.array([0, 0, len(it["columns"])])  # without an event or a ridge anything is a solution
    with pytest.raises(ValueError, match="no single solution; a larger l2"):
        solve_rows(**it, ridge_D=np.ones(3, np.float32))


def fitted(key: str, data: Dataset, folder: Path | None = None, **values: Any) -> Any:
    kind: Any = model_class(key)
    model = kind(kind.Config(**values), data.domain)
    model.fit(data, Run(0, folder), None)
    return model


def losses(key: str, data: Dataset, folder: Path, **values: Any) -> list[float]:
    fitted(key, data, folder, **values)
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


STEPS = {"solver": "conjugate_gradient"}
ALS = [{}, {"weighted": False, "l2": 1.0, "l2_bias": 0.5}, {"width": 1}, STEPS, STEPS | {"width": 9, "steps": 1}]


@pytest.mark.parametrize("values", ALS, ids=str)
def test_the_objective_of_als_never_rises_and_is_what_it_says(values: dict[str, Any], tmp_path: Path) -> None:
    data = tastes().train
    config = {"width": 5, "l2": 0.05, "l2_bias": 0.02, "sweeps": 12, **values}
    told = losses("als", data, tmp_path, **config)
    assert (np.diff(told) <= 1e-5 * np.abs(told[:-1])).all()
    assert told[-1] < told[0]
    model = fitted("als", data, **config)
    rows, items = data.histories.rows, data.histories.items
    error = data.histories.values - model.predict(rows.astype(np.int32), items)
    weighted = config.get("weighted", True)
    objective = float(np.square(error, dtype=np.float64).sum())
    for table, codes in ((model.users_UD, rows), (model.items_ID, items)):
        counts = np.bincount(codes, minlength=len(table)) if weighted else np.ones(len(table))
        scale = np.maximum(counts, 1)
        objective += float(scale @ (config["l2_bias"] * table[:, 0] ** 2 + config["l2"] * (table[:, 1:] ** 2).sum(1)))
    # its users were solved once more after the last sweep
    assert told[-1] * 0.98 <= objective <= told[-1] * (1 + 1e-5)


def test_als_in_closed_form_of_one_item() -> None:
    values = np.array([5, 3, 1, 4], np.float32)
    data = dataset(Events(np.arange(5), np.zeros(4, np.int32), values=values), 1)
    model = fitted("als", data, width=1, sweeps=30, l2=1e6, l2_bias=0.5, weighted=False)
    # without factors: b_u = (r - mean - b_i) / 1.5 and b_i = sum (r - mean - b_u) / 4.5
    error = values - values.mean()
    np.testing.assert_allclose(model.users_UD[:, 0], error / 1.5, atol=1e-4)
    assert abs(model.items_ID[0, 0]) < 1e-4


def test_als_folds_in_who_was_there_as_he_was() -> None:
    data = tastes().train
    model = fitted("als", data, width=4, sweeps=5)
    everyone = Queries.anonymous(data.histories)
    users = np.arange(data.n_users, dtype=np.int32).repeat(data.n_items)
    items = np.tile(np.arange(data.n_items, dtype=np.int32), data.n_users)
    expected = model.predict(users, items).reshape(data.n_users, -1)
    np.testing.assert_allclose(model.score(everyone), expected, rtol=1e-4, atol=1e-4)


def test_als_answers_who_is_unknown_by_the_mean_and_the_items() -> None:
    model = fitted("als", tastes().train, width=4, sweeps=5)
    scores = model.score(Queries.anonymous(Events.of([[]])))
    np.testing.assert_allclose(scores[0], model.mean + model.items_ID[:, 0], rtol=1e-5)


def test_als_clips_only_where_asked() -> None:
    world = tastes()
    free, kept = (fitted("als", world.train, width=4, sweeps=3, clip=clip) for clip in (False, True))
    low, high = world.train.histories.values.min(), world.train.histories.values.max()
    rows = world.test.targets.rows.astype(np.int32)
    expected = np.clip(free.predict(rows, world.test.targets.items), low, high)
    np.testing.assert_array_equal(kept.predict(rows, world.test.targets.items), expected)


@pytest.mark.parametrize("solver", ["conjugate_gradient", "exact", "subspace"])
@pytest.mark.parametrize("values", [{}, {"unobserved": "rest", "unobserved_weight": 0.5}, {"frequency_scaling": 0.0}])
def test_the_objective_of_ials_never_rises_and_is_what_it_says(
    solver: str, values: dict[str, Any], tmp_path: Path
) -> None:
    data = tastes(share=0.2).train
    config = {"width": 6, "sweeps": 10, "l2": 0.05, "solver": solver, "block": 4, **values}
    told = losses("ials", data, tmp_path, **config)
    assert (np.diff(told) <= 1e-5 * np.abs(told[:-1])).all()
    model = fitted("ials", data, **config)
    weight, power = config.get("unobserved_weight", 0.1), config.get("frequency_scaling", 1.0)
    users, items = model.encode(Queries.anonymous(data.histories)).astype(np.float64), model.items_ID.astype(np.float64)
    seen = data.histories.csr(data.n_items).toarray().astype(np.float64)
    scores = users @ items.T
    counted = np.ones_like(seen) if config.get("unobserved", "all") == "all" else 1 - seen
    objective = (seen * (1 - scores) ** 2).sum() + weight * (counted * scores**2).sum()
    for table, sums, others in ((users, seen.sum(1), data.n_items), (items, seen.sum(0), data.n_users)):
        objective += config["l2"] * ((sums + weight * others) ** power @ (table**2).sum(1))
    # its users are solved once more after the last sweep
    assert told[-1] * 0.9 <= objective <= told[-1] * (1 + 1e-4)


@pytest.mark.parametrize("key", ["als", "ials"])
def test_a_stopped_run_goes_on_bit_for_bit(key: str, tmp_path: Path) -> None:
    data = tastes().train
    whole = fitted(key, data, tmp_path / "whole", width=4, sweeps=6)
    fitted(key, data, tmp_path / "parts", width=4, sweeps=3)
    parts = fitted(key, data, tmp_path / "parts", width=4, sweeps=6)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(parts.arrays()[name], array)
    lines = [(tmp_path / name / "history.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    assert [json.loads(line)["loss"] for line in lines[0]] == [json.loads(line)["loss"] for line in lines[1]]


def test_who_has_the_history_of_training_is_answered_as_if_folded_in() -> None:
    rng = np.random.default_rng(0)
    events = Events.of([rng.choice(40, rng.integers(3, 12)).tolist() for _ in range(50)])
    data = dataset(replace(events, values=rng.random(events.size).astype(np.float32)), 40)
    model = fitted("ials", data, value_weight=0.5)
    users = np.arange(data.n_users, dtype=np.int32)
    whole = data.histories
    assert model.users.still(Queries.of_users(users, whole), True).all()
    strangers = replace(Queries.of_users(users, whole), known=np.zeros(len(users), np.bool_))
    assert (model.encode(strangers) == model.encode(Queries.of_users(users, whole))).all()
    shorter = Queries.of_users(users, whole.last(2))
    assert not model.users.still(shorter, True).any()
    assert (model.encode(shorter) == model.encode(replace(shorter, known=strangers.known))).all()
