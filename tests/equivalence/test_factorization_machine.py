"""The factorisation machine against its formulas written out over dense rows, and its draws against closed forms."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import approx_fprime, minimize
from scipy.sparse import csr_array
from scipy.special import ndtri_exp

from segue.core.ratings import ratings_of
from segue.core.run import Interrupted, Run
from segue.core.types import Dataset, Events, Queries
from segue.models.factorization.factorization_machine import FactorizationMachine
from segue.solvers.bayesian import ordered_probit
from segue.solvers.bayesian.probit_expectation import expected
from segue.solvers.bayesian.truncated_normal import errors_between
from segue.solvers.fm.gibbs_sweep import Sweeper, drawn_freedom
from segue.solvers.fm.parameters import Coefficients, row_sums, scores_of
from segue.solvers.fm.relational_blocks import Block, Relations, flat
from segue.solvers.fm.sampler import Chain
from segue.testing import dataset, tastes

ALL = ("implicit_user", "implicit_item", "user_features", "item_features", "date")


def relations_of(seed: int, ratings: int = 40) -> list[Block]:
    rng = np.random.default_rng(seed)
    blocks = []
    for rows, groups in ((7, (7, 4)), (5, (5,)), (3, (2, 3, 1))):
        table = rng.standard_normal((rows, sum(groups))) * (rng.random((rows, sum(groups))) < 0.5)
        table[:, : groups[0]] += np.eye(rows, groups[0])
        read = rng.integers(rows - 1, size=ratings)  # the last row of a block is read by none
        blocks.append(Block(read.astype(np.int32), csr_array(table.astype(np.float32)), groups))
    return blocks


def state_of(blocks: list[Block], width: int, seed: int) -> Coefficients:
    rng = np.random.default_rng(seed)
    state = Coefficients.begun(Relations(blocks), width, rng)
    columns = len(state.linear_C)
    state.offset[0], state.noise[0] = 0.3, 1.7
    state.linear_C[:] = rng.standard_normal(columns)
    state.factors_DC[:] = 0.4 * rng.standard_normal((width, columns))
    state.means[:] = 0.2 * rng.standard_normal(state.means.shape)
    state.precisions[:] = 0.5 + rng.random(state.precisions.shape)
    return state


def dense(blocks: list[Block]) -> np.ndarray:
    return flat(blocks).design_RC.toarray().astype(np.float64)


def by_definition(x_TC: np.ndarray, state: Coefficients) -> np.ndarray:
    found = state.offset[0] + x_TC @ state.linear_C
    for a, b in combinations(range(x_TC.shape[1]), 2):
        found = found + (state.factors_DC[:, a] @ state.factors_DC[:, b]) * x_TC[:, a] * x_TC[:, b]
    return found


def fast(blocks: list[Block], state: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    relations = Relations(blocks)
    biases_S, vectors_SD = row_sums(relations.by_row, state.linear_C, state.factors_DC)
    return scores_of(float(state.offset[0]), relations.places_BT, biases_S, vectors_SD), vectors_SD


@given(width=st.integers(0, 6), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_score_is_the_sum_over_all_pairs_of_features(width: int, seed: int) -> None:
    blocks = relations_of(seed)
    state = state_of(blocks, width, seed)
    np.testing.assert_allclose(fast(blocks, state)[0], by_definition(dense(blocks), state), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(fast([flat(blocks)], state)[0], fast(blocks, state)[0], rtol=1e-4, atol=1e-4)


def one_by_one(
    x_TC: np.ndarray, state: Coefficients, aims_T: np.ndarray, normals: np.ndarray, groups_C: np.ndarray
) -> None:
    """Each coefficient from its conditional distribution: scores are linear in it, with a slope that is found anew."""
    for d in range(-1, len(state.factors_DC)):
        table = state.linear_C if d < 0 else state.factors_DC[d]
        for c in range(x_TC.shape[1]):
            old = table[c]
            table[c] = 0.0
            without = by_definition(x_TC, state)
            table[c] = 1.0
            slope = by_definition(x_TC, state) - without
            prior, centre = state.precisions[d + 1, groups_C[c]], state.means[d + 1, groups_C[c]]
            precision = prior + state.noise[0] * slope @ slope
            mean = (state.noise[0] * slope @ (aims_T - without) + prior * centre) / precision
            table[c] = mean + normals[d + 1, c] / np.sqrt(precision)
            assert np.isfinite(old)


class Fixed:
    """A random generator whose normal numbers are given."""

    def __init__(self, normals: np.ndarray) -> None:
        self.normals = normals

    def standard_normal(self, shape: Any = None) -> Any:
        assert shape == self.normals.shape
        return self.normals


class WithoutPriors(Sweeper):
    def draw_priors(self, *_: Any) -> None:
        """Leave them."""


@pytest.mark.parametrize("width", [0, 1, 3])
def test_a_sweep_draws_every_coefficient_given_all_others(width: int) -> None:
    blocks, rng = relations_of(1), np.random.default_rng(2)
    fast_state, slow_state = state_of(blocks, width, 3), state_of(blocks, width, 3)
    aims_T = rng.standard_normal(40)
    scores_T, vectors = fast(blocks, fast_state)
    errors_T = (scores_T - aims_T).astype(np.float32)
    relations = Relations(blocks)
    sweeper = WithoutPriors(relations, True)
    normals = rng.standard_normal((width + 1, relations.columns))
    sweeper.sweep(fast_state, vectors, errors_T, Fixed(normals), offset=False, noisy=False)  # type: ignore[arg-type]
    one_by_one(dense(blocks), slow_state, aims_T, normals * relations.met_C, relations.groups_C)
    np.testing.assert_allclose(fast_state.linear_C, slow_state.linear_C, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(fast_state.factors_DC, slow_state.factors_DC, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(errors_T, fast(blocks, fast_state)[0] - aims_T, atol=1e-4)
    # of what no rating reads nothing is known but the prior, and no chance makes it another
    silent = ~relations.met_C
    assert silent.any()
    np.testing.assert_allclose(fast_state.linear_C[silent], fast_state.means[0, relations.groups_C[silent]])


def test_relations_are_the_flat_table_and_less_work() -> None:
    blocks = relations_of(4)
    states = [state_of(form, 3, 5) for form in (blocks, [flat(blocks)])]
    aims_T = np.random.default_rng(6).standard_normal(40).astype(np.float32)
    for state, form in zip(states, (blocks, [flat(blocks)]), strict=True):
        sweeper = Sweeper(Relations(form), True)
        for sweep in range(5):
            scores_T, vectors = fast(form, state)
            sweeper.sweep(state, vectors, scores_T - aims_T, np.random.default_rng(sweep), True, True)
    for name in ("offset", "linear_C", "factors_DC", "noise", "means", "precisions"):
        array = getattr(states[0], name)
        np.testing.assert_allclose(getattr(states[1], name), array, rtol=2e-3, atol=2e-4, err_msg=name)


def test_priors_are_drawn_from_their_posteriors() -> None:
    tables, times = Relations(relations_of(7)), 20_000
    sweeper = Sweeper(tables, True)
    rng = np.random.default_rng(8)
    values_C = rng.standard_normal(tables.columns)
    means_G = rng.standard_normal(len(tables.sizes_G))
    means, precisions = np.tile(means_G, (times, 1)), np.ones((times, len(means_G)))
    sweeper.draw_priors(np.tile(values_C, (times, 1)), means, precisions, rng)
    for g in range(len(means_G)):
        own = values_C[(tables.groups_C == g) & tables.met_C]
        shape, rate = (2 + len(own)) / 2, 0.05 + (((own - means_G[g]) ** 2).sum() + means_G[g] ** 2) / 2
        assert stats.kstest(precisions[:, g], stats.gamma(shape, scale=1 / rate).cdf).pvalue > 1e-4
        apart = (means[:, g] - own.sum() / (len(own) + 1)) * np.sqrt(precisions[:, g] * (len(own) + 1))
        assert stats.kstest(apart, stats.norm.cdf).pvalue > 1e-4


@given(
    low=st.floats(-60, 60),
    width=st.floats(1e-3, 100),
    open_end=st.sampled_from(["no", "low", "high", "both"]),
    root=st.sampled_from([0.5, 1.0, 2.0]),
)
@settings(max_examples=200, deadline=None)
def test_hidden_values_are_truncated_normal_as_scipy_has_them(
    low: float, width: float, open_end: str, root: float
) -> None:
    shares = np.array([1e-12, 0.01, 0.3, 0.5, 0.9, 0.999])
    cuts = {"no": [low, low + width], "low": [low], "high": [low], "both": []}[open_end]
    level = {"no": 1, "low": 0, "high": 1, "both": 0}[open_end]
    edges = [-np.inf, *cuts, np.inf]
    a, b = edges[level], edges[level + 1]
    known = np.zeros(6, np.float32), np.full(6, level, np.int32), np.full(6, root, np.float32)
    found = -errors_between(*known, np.array(cuts) / root, shares).astype(float) * root
    assert ((found >= a - 1e-5) & (found <= b + 1e-5)).all()
    turned = a > -b
    below, above = (stats.norm.logcdf(z) for z in ((-b, -a) if turned else (a, b)))
    drawn = np.logaddexp(np.log1p(-shares) + below, np.log(shares) + above)
    expected = ndtri_exp(drawn)
    far = np.abs(expected) > 36  # where the tail is that of another distribution, to a thousandth
    np.testing.assert_allclose(found, -expected if turned else expected, rtol=1e-5, atol=1e-3 if far.any() else 2e-5)


def leveled(seed: int = 0, count: int = 60, levels: int = 4) -> tuple[tuple[Any, Any, Any], np.ndarray]:
    """Scores, levels and roots; and cuts."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(count).astype(np.float32)
    roots = np.exp(0.3 * rng.standard_normal(count)).astype(np.float32)
    cuts = np.sort(rng.standard_normal(levels - 1))
    hidden = scores + rng.standard_normal(count) / roots
    found = np.searchsorted(cuts, hidden).astype(np.int32)
    found[:levels] = np.arange(levels)
    return (scores, found, roots), cuts


def log_posterior(cuts: np.ndarray, scores: Any, levels: Any, roots: Any) -> float:
    if (np.diff(cuts) <= 0).any():
        return -np.inf
    edges = np.concatenate([[-np.inf], cuts, [np.inf]])
    mass = stats.norm.cdf((edges[levels + 1] - scores) * roots) - stats.norm.cdf((edges[levels] - scores) * roots)
    return float(np.log(mass).sum() - 0.5 * ordered_probit.PRIOR * (cuts**2).sum())


def test_likelihood_of_levels_and_its_derivatives() -> None:
    known, cuts = leveled()
    wide = known[0].astype(np.float64), known[1], known[2].astype(np.float64)
    fit = ordered_probit.fit_of(*known, cuts)
    assert fit.posterior == pytest.approx(log_posterior(cuts, *wide), rel=1e-6)
    slope = approx_fprime(cuts, log_posterior, 1e-6, *wide)
    np.testing.assert_allclose(fit.slope_J, slope, rtol=1e-3, atol=1e-3)
    rows = [approx_fprime(cuts, lambda at, j=j: ordered_probit.fit_of(*known, at).slope_J[j], 1e-6) for j in range(3)]
    np.testing.assert_allclose(fit.curve_JJ, -np.array(rows), rtol=1e-3, atol=1e-3)
    edges = np.concatenate([[-np.inf], cuts, [np.inf]])
    low, high = ((edges[known[1] + more] - wide[0]) * wide[2] for more in (0, 1))
    np.testing.assert_allclose(fit.pulls_T, stats.truncnorm.mean(low, high) / wide[2], rtol=1e-4, atol=1e-5)
    best = minimize(lambda at: -log_posterior(at, *wide), cuts, method="Nelder-Mead", options={"xatol": 1e-6})
    for _ in range(20):
        cuts = ordered_probit.improve_cuts(*known, cuts, ordered_probit.fit_of(*known, cuts))
    np.testing.assert_allclose(cuts, best.x, atol=1e-3)


@pytest.mark.parametrize(("score", "level"), [(34.0, 0), (36.0, 0), (60.0, 0), (-34.0, 1), (-36.0, 1), (-60.0, 1)])
def test_a_level_that_is_all_but_impossible_pulls_by_its_distance(score: float, level: int) -> None:
    one = np.array([score], np.float32), np.array([level], np.int32), np.ones(1, np.float32)
    fit = ordered_probit.fit_of(*one, np.zeros(1))
    low, high = ((-np.inf, -score), (-score, np.inf))[level]
    assert fit.pulls_T[0] == pytest.approx(stats.truncnorm.mean(low, high), rel=1e-3)
    assert fit.value == pytest.approx(stats.norm.logcdf(-abs(score)), rel=1e-3)
    assert fit.curve_JJ[0, 0] == pytest.approx(1.0, abs=ordered_probit.PRIOR + 0.01)


def test_the_chain_of_cuts_has_the_right_distribution_and_order() -> None:
    known, cuts = leveled(3, 30, 3)
    chain = []
    rng = np.random.default_rng(0)
    for _ in range(3000):
        cuts = ordered_probit.draw_cuts(*known, cuts, ordered_probit.fit_of(*known, cuts), rng, settling=False)
        assert (np.diff(cuts) > 0).all()
        chain.append(cuts)
    grid = np.linspace(-3, 3, 41)
    mass = np.array([[log_posterior(np.array([a, b]), *known) for b in grid] for a in grid])
    mass = np.exp(mass - mass.max())
    mass /= mass.sum()
    for j, margin in enumerate((mass.sum(1), mass.sum(0))):
        mean = margin @ grid
        spread = np.sqrt(margin @ (grid - mean) ** 2)
        found = np.array(chain)[200:, j]
        assert found.mean() == pytest.approx(mean, abs=0.1 * spread)
        assert found.std() == pytest.approx(spread, rel=0.1)


def levels_mean(scores: Any, roots: Any, cuts: Any, values: Any) -> np.ndarray:
    edges = np.concatenate([[-np.inf], cuts, [np.inf]])
    chances = np.diff(stats.norm.cdf((edges - np.asarray(scores)[:, None]) * np.asarray(roots)[:, None]), axis=1)
    found: np.ndarray = chances @ values
    return found


def test_what_is_expected_of_levels() -> None:
    cuts, values = np.array([-1.0, 0.5]), np.array([1.0, 2.0, 4.0])
    scores, roots = np.linspace(-4, 4, 200).astype(np.float32), np.linspace(0.5, 2, 200).astype(np.float32)
    np.testing.assert_allclose(
        expected(scores, roots, cuts, values), levels_mean(scores, roots, cuts, values), atol=1e-5
    )
    np.testing.assert_array_equal(expected(scores, roots, np.zeros(0), np.array([3.0])), np.full(200, 3, np.float32))


def test_users_noise_is_drawn_from_its_posterior() -> None:
    """Users whose ratings are as noisy as others, and users who rate at random."""
    rng = np.random.default_rng(0)
    users, items = 200, 30
    spread = np.where(np.arange(users) % 4 == 0, 2.0, 0.5)
    values = 3 + rng.standard_normal(items) + spread[:, None] * rng.standard_normal((users, items))
    rows = Events(
        np.arange(users + 1) * items, np.tile(np.arange(items), users).astype(np.int32), values=values.ravel()
    )
    config = FactorizationMachine.Config(width=0, inputs=(), sweeps=40)
    data = dataset(rows, items)
    chain = Chain(config, data, ratings_of(data, "test"), rng)
    kept = []
    for sweep in range(40):
        chain.sweep(sweep, np.random.default_rng(sweep))
        kept.append(chain.state.own_U * chain.state.noise[0] / chain.target.values_K[1] ** 2)
    found = 1 / np.sqrt(np.mean(kept[10:], axis=0))
    assert np.corrcoef(found, spread)[0, 1] > 0.95
    assert np.median(found / spread) == pytest.approx(1, abs=0.1)
    assert chain.state.freedom[0] < 10
    even = Sweeper(chain.relations, True, True)
    state = Coefficients.begun(chain.relations, 0, rng)
    state.noise[0], state.freedom[0] = 1.7, 6.0
    errors = rng.standard_normal(users * items).astype(np.float32)
    draws = []
    for seed in range(600):
        state.freedom[0] = 6.0
        even.draw_noise(state, errors, np.random.default_rng(seed), noisy=False)
        draws.append(state.own_U[3])
    rate = (6.0 + 1.7 * float(np.square(errors[90:120]).sum())) / 2
    assert stats.kstest(draws, stats.gamma(18.0, scale=1 / rate).cdf).pvalue > 1e-3


def test_the_freedom_of_the_noise_is_found() -> None:
    rng = np.random.default_rng(0)
    for truth in (3.0, 20.0):
        own = rng.gamma(truth / 2, 2 / truth, size=4000)
        assert np.median([drawn_freedom(own, chance) for chance in rng.random(50)]) == pytest.approx(truth, rel=0.15)


def fitted(data: Dataset, folder: Path | None = None, trackers: Any = (), **values: Any) -> FactorizationMachine:
    model = FactorizationMachine(FactorizationMachine.Config(**values), data.domain)
    model.fit(data, Run(0, folder, trackers=trackers), None)
    return model


def starred(histories: Events) -> Events:
    assert histories.values is not None
    return replace(histories, values=np.clip(np.round(histories.values), 1, 5).astype(np.float32))


def rich(seed: int = 0) -> Dataset:
    """Ratings of stars with features of both sides and with times, some of which are not real."""
    rng = np.random.default_rng(seed)
    data = tastes(users=40, n_items=25, seed=seed).train
    size = data.histories.size
    events = replace(
        starred(data.histories),
        times=1_600_000_000 + 40_000 * rng.integers(30, size=size),
        context={"time_known": rng.random(size) < 0.9},
    )
    users = pl.LazyFrame(
        {
            "id": data.users.ids,
            "age": [int(age) if age > 20 else None for age in rng.integers(15, 60, 40)],
            "job": [f"job{n}" for n in rng.integers(3, size=40)],
        }
    )
    genres = [[f"g{n}" for n in set(rng.integers(4, size=2).tolist())] for _ in range(25)]
    items = pl.LazyFrame({"id": data.items.ids, "genres": genres})
    return replace(data, histories=events, user_features=users, item_features=items)


def rmse(model: FactorizationMachine, users: Any, items: Any, values: Any) -> float:
    return float(np.sqrt(np.square(model.predict(users.astype(np.int32), items) - values).mean()))


def test_a_linear_world_is_recovered() -> None:
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(60), 20), np.concatenate([rng.permutation(30)[:20] for _ in range(60)])
    user_bias, item_bias = rng.standard_normal(60), rng.standard_normal(30)
    values = 3 + user_bias[users] + item_bias[items] + 0.1 * rng.standard_normal(len(users))
    events = Events(np.arange(61) * 20, items.astype(np.int32), values=values.astype(np.float32))
    for learner in ("gibbs", "als"):
        model = fitted(dataset(events, 30), width=0, inputs=(), sweeps=60, learner=learner, l2_bias=1e-3)
        every = np.arange(60, dtype=np.int32).repeat(30), np.tile(np.arange(30, dtype=np.int32), 60)
        found = model.predict(*every).reshape(60, 30)
        np.testing.assert_allclose(found, 3 + user_bias[:, None] + item_bias, atol=0.15)


@pytest.mark.parametrize("likelihood", ["gaussian", "ordered_probit"])
def test_tastes_are_found_nearly_to_the_noise(likelihood: str) -> None:
    world = tastes()
    told, asked = world.train, world.test.targets
    limit = 1.2 * world.noise
    if likelihood == "ordered_probit":
        told, asked = told.having(starred(told.histories)), starred(asked)
        limit = 1.2 * np.sqrt(world.noise**2 + 1 / 12)
    model = fitted(told, width=4, sweeps=80, inputs=(), likelihood=likelihood)
    assert rmse(model, asked.rows, asked.items, asked.values) < limit


@pytest.mark.parametrize("likelihood", ["gaussian", "ordered_probit"])
def test_the_point_estimate_never_gets_worse(likelihood: str, tmp_path: Path) -> None:
    data = rich()
    config = {"likelihood": likelihood, "learner": "als", "width": 3, "inputs": ALL, "l2": 2.0, "l2_bias": 1.0}
    told = []
    model = FactorizationMachine(FactorizationMachine.Config(**config, sweeps=1), data.domain)
    chain = Chain(model.config, data, ratings_of(data, "test"), np.random.default_rng(0))
    count = data.histories.size
    for sweep in range(25):
        loss = chain.sweep(sweep, np.random.default_rng(sweep))["loss"] * count
        ridge = 0.5 * (np.square(chain.state.linear_C).sum() + 2.0 * np.square(chain.state.factors_DC).sum())
        cuts = 0.5 * ordered_probit.PRIOR * np.square(chain.target.cuts_J).sum()
        told.append(loss + ridge + cuts)
    assert (np.diff(told) <= 1e-4 * np.abs(told[:-1])).all()
    assert told[-1] < told[0]


def stop_after(sweeps: int, run_of: list[Run]) -> Any:
    class Stop:
        def log(self, step: int, values: Any) -> None:
            if step == sweeps:
                run_of[0].interrupted = True

    return Stop()


@pytest.mark.parametrize("likelihood", ["gaussian", "ordered_probit"])
@pytest.mark.parametrize("stopped", [1, 4])
def test_a_stopped_run_goes_on_bit_for_bit(likelihood: str, stopped: int, tmp_path: Path) -> None:
    data = rich()
    config = FactorizationMachine.Config(
        likelihood=likelihood, width=3, sweeps=7, burn_in=0.3, samples=3, inputs=ALL, days=2
    )
    whole = FactorizationMachine(config, data.domain)
    whole.fit(data, Run(0, tmp_path / "whole"), None)
    runs: list[Run] = []
    runs.append(Run(0, tmp_path / "parts", trackers=(stop_after(stopped, runs),)))
    with pytest.raises(Interrupted):
        FactorizationMachine(config, data.domain).fit(data, runs[0], None)
    parts = FactorizationMachine(config, data.domain)
    parts.fit(data, Run(0, tmp_path / "parts"), None)
    assert len(parts.samples) == 3
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(parts.arrays()[name], array)
    lines = [(tmp_path / name / "history.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    assert [json.loads(line)["loss"] for line in lines[0]] == [json.loads(line)["loss"] for line in lines[1]]


@pytest.mark.parametrize("likelihood", ["gaussian", "ordered_probit"])
def test_a_prediction_is_the_mean_over_the_kept_states(likelihood: str) -> None:
    data = rich()
    model = fitted(data, likelihood=likelihood, width=3, sweeps=6, samples=4, inputs=ALL)
    kept = model.samples
    assert len(kept) == 4
    users, items = np.arange(40, dtype=np.int32), np.arange(40, dtype=np.int32) % 25
    times = 1_600_000_000 + 40_000 * np.arange(40)
    dates = model.dates.rows(times, 40)
    assert len(set(dates.tolist())) > 3
    total = np.zeros(40)
    for m in range(4):
        rows = [table[m].astype(np.float64)[codes] for table, codes in
                ((kept.users, users), (kept.items, items), (kept.dates, dates))]  # fmt: skip
        score = kept.offsets[m, 0] + sum(row[:, 0] for row in rows)
        score += sum((a[:, 1:] * b[:, 1:]).sum(1) for a, b in combinations(rows, 2))
        if likelihood == "gaussian":
            total += kept.values[0, 0] + kept.values[0, 1] * score
        else:
            total += levels_mean(score, kept.roots[m, users], kept.cuts[m], kept.values[0])
    found = model.predict(users, items, times)
    np.testing.assert_allclose(found, total / 4, rtol=1e-4, atol=1e-4)
    asked = Queries(data.histories, users, np.ones(40, np.bool_), times)
    np.testing.assert_allclose(model.score(asked)[users, items], found, rtol=1e-4, atol=1e-4)
    untold = model.predict(users, items)
    assert np.abs(untold - found).max() > 1e-3
    untold_scores = model.score(Queries.of_users(users, data.histories))
    np.testing.assert_allclose(untold_scores[users, items], untold, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["gaussian", "ordered_probit"])
def test_newcomers_are_the_posterior_given_their_ratings(likelihood: str) -> None:
    data = rich()
    model = fitted(data, likelihood=likelihood, width=2, sweeps=5, samples=1, inputs=("implicit_user", "user_features"))
    kept = model.samples
    profile = pl.DataFrame({"id": ["new"], "age": [33], "job": ["job1"]})
    history = Events.of([[3, 8, 2, 11]])
    history = replace(history, values=np.array([5, 1, 4, 2], np.float32))
    scores = model.score(Queries.anonymous(history, profile))[0]
    # the same by definition: features of the person, then w and v where the posterior is highest
    columns, means, precisions = kept.columns[0].astype(np.float64), kept.means[0], kept.precisions[0]
    features = model.domain.user_features
    age = (33 - features[0].centre) / features[0].scale
    jobs = [float(job == "job1") for job in features[1].categories]
    x = np.array([age, 0.0, *jobs, 0.0, *(0.5 * float(item in (3, 8, 2, 11)) for item in range(25))])
    items = kept.items[0].astype(np.float64)

    def scored(own: np.ndarray) -> np.ndarray:
        w, v = np.append(columns[:, 0], own[0]), np.vstack([columns[:, 1:], own[1:]])
        row = np.append(x, 1.0)
        pairs = sum(row[a] * row[b] * (v[a] @ v[b]) for a, b in combinations(range(len(row)), 2))
        found: np.ndarray = kept.offsets[0, 0] + row @ w + pairs + items[:, 0] + items[:, 1:] @ (row @ v)
        return found

    def against(own: np.ndarray) -> float:
        found = scored(own)[[3, 8, 2, 11]]
        prior = 0.5 * (precisions * (own - means) ** 2).sum()
        if likelihood == "gaussian":
            aims = (np.array([5, 1, 4, 2]) - kept.values[0, 0]) / kept.values[0, 1]
            return float(prior + 0.5 * kept.noises[0, 0] * ((found - aims) ** 2).sum())
        edges = np.concatenate([[-np.inf], kept.cuts[0], [np.inf]])
        levels = np.array([4, 0, 3, 1])
        mass = stats.norm.cdf(edges[levels + 1] - found) - stats.norm.cdf(edges[levels] - found)
        return float(prior - np.log(mass).sum())

    best = minimize(against, means.astype(np.float64), method="BFGS").x
    answer = scored(best)
    if likelihood == "gaussian":
        answer = kept.values[0, 0] + kept.values[0, 1] * answer
    else:
        answer = levels_mean(answer, np.ones(25), kept.cuts[0], kept.values[0])
    np.testing.assert_allclose(scores, answer, rtol=2e-3, atol=5e-3)


def test_newcomers_are_answered_by_what_they_tell() -> None:
    data = rich()
    model = fitted(data, likelihood="ordered_probit", width=3, sweeps=20, inputs=ALL)
    silent = Events.of([[], [], [3, 3, 8]])
    bare = model.score(Queries.anonymous(silent))
    assert np.isfinite(bare).all()
    np.testing.assert_allclose(bare[0], bare[1], rtol=1e-5)
    assert np.abs(bare[2] - bare[0]).max() > 1e-4
    profile = pl.DataFrame({"id": ["a", "b", "c"], "age": [20, 55, None], "job": ["job0", "job2", None]})
    known = model.score(Queries.anonymous(silent, profile))
    assert np.abs(known[0] - known[1]).max() > 1e-3
    valued = replace(silent, values=np.array([1, np.nan, 5], np.float32))
    assert np.abs(model.score(Queries.anonymous(valued))[2] - bare[2]).max() > 1e-3


def test_a_newcomer_like_a_user_is_answered_like_him() -> None:
    world = tastes()
    model = fitted(world.train, width=4, sweeps=60)
    stored = model.score(Queries.of_users(np.arange(150, dtype=np.int32), world.train.histories))
    new = model.score(Queries.anonymous(world.train.histories))
    assert np.sqrt(np.square(stored - new).mean()) < 0.3 * stored.std()


@pytest.mark.parametrize("inputs", [(), ALL])
@pytest.mark.parametrize("learner", ["gibbs", "als"])
def test_odd_levels_are_no_trouble(inputs: Any, learner: str) -> None:
    rows = Events.of([[0, 1, 2], [1, 2], [3]])
    for values in ([3] * 6, [-7, 1e5, 3, 0, 2, 5], [np.nan, 4, 3, np.nan, 2, 5], [1, 5, 1, 5, 1, 5]):
        events = replace(rows, values=np.array(values, np.float32), times=np.arange(6) * 50_000)
        data = dataset(events, 4)
        users = pl.LazyFrame({"id": data.users.ids, "age": [20, 30, 50]})
        items = pl.LazyFrame({"id": data.items.ids, "year": [1990, 1991, 1992, None]})
        data = replace(data, user_features=users, item_features=items)
        model = fitted(data, inputs=inputs, likelihood="ordered_probit", learner=learner, sweeps=15, width=2)
        known = replace(Events.of([[0], []]), values=np.array([4], np.float32))
        scores = model.score(Queries.anonymous(known))
        assert np.isfinite(scores).all()
        finite = np.array(values, np.float32)[np.isfinite(values)]
        assert (scores >= finite.min() - 1e-2).all()
        assert (scores <= finite.max() * 1.001 + 1e-2).all()


def test_what_cannot_be_is_refused() -> None:
    data = tastes().train
    with pytest.raises(ValueError, match="ordered_probit takes ratings for levels, at most 50"):
        fitted(data, likelihood="ordered_probit")
    with pytest.raises(ValueError, match="'date' is asked for, but world has no real times"):
        fitted(data, inputs=("date",))
    with pytest.raises(ValueError, match="'item_features': no feature can be read"):
        fitted(data, inputs=("item_features",))
    with pytest.raises(ValueError, match="groups of"):
        Block(np.zeros(1, np.int32), csr_array(np.eye(2)), (1,))


def test_clips_only_where_asked() -> None:
    world = tastes()
    free, kept = (fitted(world.train, width=4, sweeps=5, clip=clip) for clip in (False, True))
    low, high = world.train.histories.values.min(), world.train.histories.values.max()
    users, items = np.arange(150, dtype=np.int32).repeat(60), np.tile(np.arange(60, dtype=np.int32), 150)
    np.testing.assert_array_equal(kept.predict(users, items), np.clip(free.predict(users, items), low, high))
