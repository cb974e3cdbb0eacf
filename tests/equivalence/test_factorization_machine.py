"""Factorization machine against its formulas over dense rows, and its samples against closed forms."""

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

from segue.core.ratings import collect_ratings
from segue.core.run import Interrupted, Run
from segue.core.types import Dataset, Events, Queries
from segue.models.factorization.factorization_machine import FactorizationMachine
from segue.solvers.bayesian import ordered_probit
from segue.solvers.bayesian.probit_expectation import expected_ratings
from segue.solvers.bayesian.truncated_normal import sample_truncated_errors
from segue.solvers.fm.gibbs_updater import GibbsUpdater, sample_degrees_of_freedom
from segue.solvers.fm.parameters import Parameters, row_sums, sum_scores
from segue.solvers.fm.relational_blocks import RelationBlock, Relations, flatten
from segue.solvers.fm.sampler import FactorizationMachineSampler
from segue.testing import dataset, tastes

ALL = ("implicit_user", "implicit_item", "user_features", "item_features", "date")


def make_blocks(seed: int, ratings: int = 40) -> list[RelationBlock]:
    rng = np.random.default_rng(seed)
    blocks = []
    for rows, groups in ((7, (7, 4)), (5, (5,)), (3, (2, 3, 1))):
        table = rng.standard_normal((rows, sum(groups))) * (rng.random((rows, sum(groups))) < 0.5)
        table[:, : groups[0]] += np.eye(rows, groups[0])
        read = rng.integers(rows - 1, size=ratings)  # no rating reads the last row of a block
        blocks.append(RelationBlock(read.astype(np.int32), csr_array(table.astype(np.float32)), groups))
    return blocks


def make_state(blocks: list[RelationBlock], width: int, seed: int) -> Parameters:
    rng = np.random.default_rng(seed)
    state = Parameters.initialize(Relations(blocks), width, rng)
    columns = len(state.linear_C)
    state.intercept[0], state.noise_precision[0] = 0.3, 1.7
    state.linear_C[:] = rng.standard_normal(columns)
    state.factors_DC[:] = 0.4 * rng.standard_normal((width, columns))
    state.means[:] = 0.2 * rng.standard_normal(state.means.shape)
    state.precisions[:] = 0.5 + rng.random(state.precisions.shape)
    return state


def dense(blocks: list[RelationBlock]) -> np.ndarray:
    return flatten(blocks).features_RC.toarray().astype(np.float64)


def scores_by_definition(x_TC: np.ndarray, state: Parameters) -> np.ndarray:
    scores = state.intercept[0] + x_TC @ state.linear_C
    for a, b in combinations(range(x_TC.shape[1]), 2):
        scores = scores + (state.factors_DC[:, a] @ state.factors_DC[:, b]) * x_TC[:, a] * x_TC[:, b]
    return scores


def compute_scores(blocks: list[RelationBlock], state: Parameters) -> tuple[np.ndarray, np.ndarray]:
    relations = Relations(blocks)
    biases_S, vectors_SD = row_sums(relations.by_row, state.linear_C, state.factors_DC)
    return sum_scores(float(state.intercept[0]), relations.rows_BT, biases_S, vectors_SD), vectors_SD


@given(width=st.integers(0, 6), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_score_is_the_sum_over_all_pairs_of_features(width: int, seed: int) -> None:
    blocks = make_blocks(seed)
    state = make_state(blocks, width, seed)
    np.testing.assert_allclose(
        compute_scores(blocks, state)[0], scores_by_definition(dense(blocks), state), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        compute_scores([flatten(blocks)], state)[0], compute_scores(blocks, state)[0], rtol=1e-4, atol=1e-4
    )


def update_one_by_one(
    x_TC: np.ndarray, state: Parameters, targets_T: np.ndarray, normals: np.ndarray, groups_C: np.ndarray
) -> None:
    """Update each coefficient from its conditional distribution: scores are linear in it."""
    for d in range(-1, len(state.factors_DC)):
        table = state.linear_C if d < 0 else state.factors_DC[d]
        for c in range(x_TC.shape[1]):
            old = table[c]
            table[c] = 0.0
            without = scores_by_definition(x_TC, state)
            table[c] = 1.0
            slope = scores_by_definition(x_TC, state) - without
            prior, prior_mean = state.precisions[d + 1, groups_C[c]], state.means[d + 1, groups_C[c]]
            precision = prior + state.noise_precision[0] * slope @ slope
            mean = (state.noise_precision[0] * slope @ (targets_T - without) + prior * prior_mean) / precision
            table[c] = mean + normals[d + 1, c] / np.sqrt(precision)
            assert np.isfinite(old)


class FixedNormals:
    """A random generator that returns the given normal numbers."""

    def __init__(self, normals: np.ndarray) -> None:
        self.normals = normals

    def standard_normal(self, shape: Any = None) -> Any:
        assert shape == self.normals.shape
        return self.normals


class FixedPriorUpdater(GibbsUpdater):
    def sample_priors(self, *_: Any) -> None:
        """A sampler with constant priors."""


@pytest.mark.parametrize("width", [0, 1, 3])
def test_an_iteration_samples_every_coefficient_given_all_others(width: int) -> None:
    blocks, rng = make_blocks(1), np.random.default_rng(2)
    fast_state, slow_state = make_state(blocks, width, 3), make_state(blocks, width, 3)
    targets_T = rng.standard_normal(40)
    scores_T, vectors = compute_scores(blocks, fast_state)
    errors_T = (scores_T - targets_T).astype(np.float32)
    relations = Relations(blocks)
    updater = FixedPriorUpdater(relations, True)
    normals = rng.standard_normal((width + 1, relations.columns))
    updater.step(fast_state, vectors, errors_T, FixedNormals(normals), has_intercept=False, has_noise=False)  # type: ignore[arg-type]
    update_one_by_one(dense(blocks), slow_state, targets_T, normals * relations.is_used_C, relations.groups_C)
    np.testing.assert_allclose(fast_state.linear_C, slow_state.linear_C, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(fast_state.factors_DC, slow_state.factors_DC, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(errors_T, compute_scores(blocks, fast_state)[0] - targets_T, atol=1e-4)
    # unused columns are set to the mean of their prior
    is_unused = ~relations.is_used_C
    assert is_unused.any()
    np.testing.assert_allclose(fast_state.linear_C[is_unused], fast_state.means[0, relations.groups_C[is_unused]])


def test_relations_equal_the_flat_matrix() -> None:
    blocks = make_blocks(4)
    states = [make_state(form, 3, 5) for form in (blocks, [flatten(blocks)])]
    targets_T = np.random.default_rng(6).standard_normal(40).astype(np.float32)
    for state, form in zip(states, (blocks, [flatten(blocks)]), strict=True):
        updater = GibbsUpdater(Relations(form), True)
        for sweep in range(5):
            scores_T, vectors = compute_scores(form, state)
            updater.step(state, vectors, scores_T - targets_T, np.random.default_rng(sweep), True, True)
    for name in ("intercept", "linear_C", "factors_DC", "noise_precision", "means", "precisions"):
        array = getattr(states[0], name)
        np.testing.assert_allclose(getattr(states[1], name), array, rtol=2e-3, atol=2e-4, err_msg=name)


def test_priors_are_sampled_from_their_posteriors() -> None:
    tables, times = Relations(make_blocks(7)), 20_000
    updater = GibbsUpdater(tables, True)
    rng = np.random.default_rng(8)
    values_C = rng.standard_normal(tables.columns)
    means_G = rng.standard_normal(len(tables.sizes_G))
    means, precisions = np.tile(means_G, (times, 1)), np.ones((times, len(means_G)))
    updater.sample_priors(np.tile(values_C, (times, 1)), means, precisions, rng)
    for g in range(len(means_G)):
        own = values_C[(tables.groups_C == g) & tables.is_used_C]
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
def test_hidden_values_are_truncated_normal_as_in_scipy(low: float, width: float, open_end: str, root: float) -> None:
    uniforms = np.array([1e-12, 0.01, 0.3, 0.5, 0.9, 0.999])
    cuts = {"no": [low, low + width], "low": [low], "high": [low], "both": []}[open_end]
    level = {"no": 1, "low": 0, "high": 1, "both": 0}[open_end]
    edges = [-np.inf, *cuts, np.inf]
    a, b = edges[level], edges[level + 1]
    known = np.zeros(6, np.float32), np.full(6, level, np.int32), np.full(6, root, np.float32)
    actual = -sample_truncated_errors(*known, np.array(cuts) / root, uniforms).astype(float) * root
    assert ((actual >= a - 1e-5) & (actual <= b + 1e-5)).all()
    is_mirrored = a > -b
    log_low, log_high = (stats.norm.logcdf(z) for z in ((-b, -a) if is_mirrored else (a, b)))
    log_probability = np.logaddexp(np.log1p(-uniforms) + log_low, np.log(uniforms) + log_high)
    expected = ndtri_exp(log_probability)
    is_tail = np.abs(expected) > 36  # tails are approximated to 0.1 %
    np.testing.assert_allclose(
        actual, -expected if is_mirrored else expected, rtol=1e-5, atol=1e-3 if is_tail.any() else 2e-5
    )


def make_levels(seed: int = 0, count: int = 60, levels: int = 4) -> tuple[tuple[Any, Any, Any], np.ndarray]:
    """Create scores, levels, noise scales and cutpoints."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(count).astype(np.float32)
    noise_scales = np.exp(0.3 * rng.standard_normal(count)).astype(np.float32)
    cuts = np.sort(rng.standard_normal(levels - 1))
    hidden = scores + rng.standard_normal(count) / noise_scales
    level_codes = np.searchsorted(cuts, hidden).astype(np.int32)
    level_codes[:levels] = np.arange(levels)
    return (scores, level_codes, noise_scales), cuts


def log_posterior(cuts: np.ndarray, scores: Any, levels: Any, noise_scales: Any) -> float:
    if (np.diff(cuts) <= 0).any():
        return -np.inf
    edges = np.concatenate([[-np.inf], cuts, [np.inf]])
    mass = stats.norm.cdf((edges[levels + 1] - scores) * noise_scales) - stats.norm.cdf(
        (edges[levels] - scores) * noise_scales
    )
    return float(np.log(mass).sum() - 0.5 * ordered_probit.PRIOR_PRECISION * (cuts**2).sum())


def test_log_posterior_of_cutpoints_and_its_derivatives() -> None:
    known, cuts = make_levels()
    wide = known[0].astype(np.float64), known[1], known[2].astype(np.float64)
    fit = ordered_probit.log_posterior(*known, cuts)
    assert fit.posterior == pytest.approx(log_posterior(cuts, *wide), rel=1e-6)
    slope = approx_fprime(cuts, log_posterior, 1e-6, *wide)
    np.testing.assert_allclose(fit.gradient_J, slope, rtol=1e-3, atol=1e-3)
    rows = [
        approx_fprime(cuts, lambda at, j=j: ordered_probit.log_posterior(*known, at).gradient_J[j], 1e-6)
        for j in range(3)
    ]
    np.testing.assert_allclose(fit.neg_hessian_JJ, -np.array(rows), rtol=1e-3, atol=1e-3)
    edges = np.concatenate([[-np.inf], cuts, [np.inf]])
    low, high = ((edges[known[1] + more] - wide[0]) * wide[2] for more in (0, 1))
    np.testing.assert_allclose(fit.residuals_T, stats.truncnorm.mean(low, high) / wide[2], rtol=1e-4, atol=1e-5)
    best = minimize(lambda at: -log_posterior(at, *wide), cuts, method="Nelder-Mead", options={"xatol": 1e-6})
    for _ in range(20):
        cuts = ordered_probit.newton_step_cutpoints(*known, cuts, ordered_probit.log_posterior(*known, cuts))
    np.testing.assert_allclose(cuts, best.x, atol=1e-3)


@pytest.mark.parametrize(("score", "level"), [(34.0, 0), (36.0, 0), (60.0, 0), (-34.0, 1), (-36.0, 1), (-60.0, 1)])
def test_residual_of_a_nearly_impossible_level_is_its_distance(score: float, level: int) -> None:
    one = np.array([score], np.float32), np.array([level], np.int32), np.ones(1, np.float32)
    fit = ordered_probit.log_posterior(*one, np.zeros(1))
    low, high = ((-np.inf, -score), (-score, np.inf))[level]
    assert fit.residuals_T[0] == pytest.approx(stats.truncnorm.mean(low, high), rel=1e-3)
    assert fit.value == pytest.approx(stats.norm.logcdf(-abs(score)), rel=1e-3)
    assert fit.neg_hessian_JJ[0, 0] == pytest.approx(1.0, abs=ordered_probit.PRIOR_PRECISION + 0.01)


def test_the_chain_of_cutpoints_has_the_right_distribution() -> None:
    known, cuts = make_levels(3, 30, 3)
    chain = []
    rng = np.random.default_rng(0)
    for _ in range(3000):
        cuts = ordered_probit.sample_cutpoints(
            *known, cuts, ordered_probit.log_posterior(*known, cuts), rng, is_burn_in=False
        )
        assert (np.diff(cuts) > 0).all()
        chain.append(cuts)
    grid = np.linspace(-3, 3, 41)
    mass = np.array([[log_posterior(np.array([a, b]), *known) for b in grid] for a in grid])
    mass = np.exp(mass - mass.max())
    mass /= mass.sum()
    for j, margin in enumerate((mass.sum(1), mass.sum(0))):
        mean = margin @ grid
        spread = np.sqrt(margin @ (grid - mean) ** 2)
        actual = np.array(chain)[200:, j]
        assert actual.mean() == pytest.approx(mean, abs=0.1 * spread)
        assert actual.std() == pytest.approx(spread, rel=0.1)


def expected_levels(scores: Any, noise_scales: Any, cuts: Any, values: Any) -> np.ndarray:
    edges = np.concatenate([[-np.inf], cuts, [np.inf]])
    chances = np.diff(stats.norm.cdf((edges - np.asarray(scores)[:, None]) * np.asarray(noise_scales)[:, None]), axis=1)
    expected: np.ndarray = chances @ values
    return expected


def test_expected_ratings_of_levels() -> None:
    cuts, values = np.array([-1.0, 0.5]), np.array([1.0, 2.0, 4.0])
    scores, noise_scales = np.linspace(-4, 4, 200).astype(np.float32), np.linspace(0.5, 2, 200).astype(np.float32)
    np.testing.assert_allclose(
        expected_ratings(scores, noise_scales, cuts, values),
        expected_levels(scores, noise_scales, cuts, values),
        atol=1e-5,
    )
    np.testing.assert_array_equal(
        expected_ratings(scores, noise_scales, np.zeros(0), np.array([3.0])), np.full(200, 3, np.float32)
    )


def test_user_noise_is_sampled_from_its_posterior() -> None:
    """Most users have little noise; a quarter of them rate erratically."""
    rng = np.random.default_rng(0)
    users, items = 200, 30
    spread = np.where(np.arange(users) % 4 == 0, 2.0, 0.5)
    values = 3 + rng.standard_normal(items) + spread[:, None] * rng.standard_normal((users, items))
    rows = Events(
        np.arange(users + 1) * items, np.tile(np.arange(items), users).astype(np.int32), values=values.ravel()
    )
    config = FactorizationMachine.Config(embedding_dim=0, inputs=(), iterations=40)
    data = dataset(rows, items)
    sampler = FactorizationMachineSampler(config, data, collect_ratings(data, "test"), rng)
    precisions = []
    for sweep in range(40):
        sampler.step(sweep, np.random.default_rng(sweep))
        precisions.append(
            sampler.state.user_precision_U * sampler.state.noise_precision[0] / sampler.likelihood.values_K[1] ** 2
        )
    actual = 1 / np.sqrt(np.mean(precisions[10:], axis=0))
    assert np.corrcoef(actual, spread)[0, 1] > 0.95
    assert np.median(actual / spread) == pytest.approx(1, abs=0.1)
    assert sampler.state.degrees_of_freedom[0] < 10
    even = GibbsUpdater(sampler.relations, True, True)
    state = Parameters.initialize(sampler.relations, 0, rng)
    state.noise_precision[0], state.degrees_of_freedom[0] = 1.7, 6.0
    errors = rng.standard_normal(users * items).astype(np.float32)
    draws = []
    for seed in range(600):
        state.degrees_of_freedom[0] = 6.0
        even.sample_noise(state, errors, np.random.default_rng(seed), has_noise=False)
        draws.append(state.user_precision_U[3])
    rate = (6.0 + 1.7 * float(np.square(errors[90:120]).sum())) / 2
    assert stats.kstest(draws, stats.gamma(18.0, scale=1 / rate).cdf).pvalue > 1e-3


def test_degrees_of_freedom_are_recovered() -> None:
    rng = np.random.default_rng(0)
    for truth in (3.0, 20.0):
        own = rng.gamma(truth / 2, 2 / truth, size=4000)
        assert np.median([sample_degrees_of_freedom(own, chance) for chance in rng.random(50)]) == pytest.approx(
            truth, rel=0.15
        )


def fit(data: Dataset, folder: Path | None = None, trackers: Any = (), **values: Any) -> FactorizationMachine:
    model = FactorizationMachine(FactorizationMachine.Config(**values), data.schema)
    model.fit(data, Run(0, folder, trackers=trackers), None)
    return model


def rounded_ratings(histories: Events) -> Events:
    assert histories.values is not None
    return replace(histories, values=np.clip(np.round(histories.values), 1, 5).astype(np.float32))


def rich_ratings(seed: int = 0) -> Dataset:
    """Create star ratings with times and with user and item features, some of which are unknown."""
    rng = np.random.default_rng(seed)
    data = tastes(users=40, n_items=25, seed=seed).train
    size = data.histories.size
    events = replace(
        rounded_ratings(data.histories),
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
    learners: dict[str, dict[str, float]] = {"gibbs": {}, "als": {"l2_bias": 1e-3}}
    for learner, own in learners.items():
        model = fit(dataset(events, 30), embedding_dim=0, inputs=(), iterations=60, learner=learner, **own)
        every = np.arange(60, dtype=np.int32).repeat(30), np.tile(np.arange(30, dtype=np.int32), 60)
        actual = model.predict(*every).reshape(60, 30)
        np.testing.assert_allclose(actual, 3 + user_bias[:, None] + item_bias, atol=0.15)


@pytest.mark.parametrize("likelihood", ["gaussian", "ordered_probit"])
def test_error_is_close_to_the_noise(likelihood: str) -> None:
    world = tastes()
    train, targets = world.train, world.test.targets
    limit = 1.2 * world.noise
    if likelihood == "ordered_probit":
        train, targets = train.with_histories(rounded_ratings(train.histories)), rounded_ratings(targets)
        limit = 1.2 * np.sqrt(world.noise**2 + 1 / 12)
    model = fit(train, embedding_dim=4, iterations=80, inputs=(), likelihood=likelihood)
    assert rmse(model, targets.rows, targets.items, targets.values) < limit


@pytest.mark.parametrize("likelihood", ["gaussian", "ordered_probit"])
def test_the_objective_of_als_never_increases(likelihood: str, tmp_path: Path) -> None:
    data = rich_ratings()
    config = {"likelihood": likelihood, "learner": "als", "embedding_dim": 3, "inputs": ALL, "l2": 2.0, "l2_bias": 1.0}
    losses = []
    model = FactorizationMachine(FactorizationMachine.Config(**config, iterations=1), data.schema)
    chain = FactorizationMachineSampler(model.config, data, collect_ratings(data, "test"), np.random.default_rng(0))
    count = data.histories.size
    for sweep in range(25):
        loss = chain.step(sweep, np.random.default_rng(sweep))["loss"] * count
        ridge = 0.5 * (np.square(chain.state.linear_C).sum() + 2.0 * np.square(chain.state.factors_DC).sum())
        cuts = 0.5 * ordered_probit.PRIOR_PRECISION * np.square(chain.likelihood.cuts_J).sum()
        losses.append(loss + ridge + cuts)
    assert (np.diff(losses) <= 1e-4 * np.abs(losses[:-1])).all()
    assert losses[-1] < losses[0]


def interrupt_after(sweeps: int, run_of: list[Run]) -> Any:
    class Stop:
        def log(self, step: int, values: Any) -> None:
            if step == sweeps:
                run_of[0].interrupted = True

    return Stop()


@pytest.mark.parametrize("likelihood", ["gaussian", "ordered_probit"])
@pytest.mark.parametrize("stopped", [1, 4])
def test_a_resumed_run_is_bit_identical(likelihood: str, stopped: int, tmp_path: Path) -> None:
    data = rich_ratings()
    config = FactorizationMachine.Config(
        likelihood=likelihood, embedding_dim=3, iterations=7, burn_in=0.3, num_samples=3, inputs=ALL, days_per_bin=2
    )
    whole = FactorizationMachine(config, data.schema)
    whole.fit(data, Run(0, tmp_path / "whole"), None)
    runs: list[Run] = []
    runs.append(Run(0, tmp_path / "parts", trackers=(interrupt_after(stopped, runs),)))
    with pytest.raises(Interrupted):
        FactorizationMachine(config, data.schema).fit(data, runs[0], None)
    parts = FactorizationMachine(config, data.schema)
    parts.fit(data, Run(0, tmp_path / "parts"), None)
    assert len(parts.samples) == 3
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(parts.arrays()[name], array)
    lines = [(tmp_path / name / "history.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    assert [json.loads(line)["loss"] for line in lines[0]] == [json.loads(line)["loss"] for line in lines[1]]


@pytest.mark.parametrize("likelihood", ["gaussian", "ordered_probit"])
def test_a_prediction_is_the_mean_over_samples(likelihood: str) -> None:
    data = rich_ratings()
    model = fit(data, likelihood=likelihood, embedding_dim=3, iterations=6, num_samples=4, inputs=ALL)
    samples = model.samples
    assert len(samples) == 4
    users, items = np.arange(40, dtype=np.int32), np.arange(40, dtype=np.int32) % 25
    times = 1_600_000_000 + 40_000 * np.arange(40)
    dates = model.time_bins.rows(times, 40)
    assert len(set(dates.tolist())) > 3
    total = np.zeros(40)
    for m in range(4):
        rows = [table[m].astype(np.float64)[codes] for table, codes in
                ((samples.users, users), (samples.items, items), (samples.time_bins, dates))]  # fmt: skip
        score = samples.intercepts[m, 0] + sum(row[:, 0] for row in rows)
        score += sum((a[:, 1:] * b[:, 1:]).sum(1) for a, b in combinations(rows, 2))
        if likelihood == "gaussian":
            total += samples.values[0, 0] + samples.values[0, 1] * score
        else:
            total += expected_levels(
                score, samples.user_noise_scales[m, users], samples.cutpoints[m], samples.values[0]
            )
    actual = model.predict(users, items, times)
    np.testing.assert_allclose(actual, total / 4, rtol=1e-4, atol=1e-4)
    queries = Queries(data.histories, users, np.ones(40, np.bool_), times)
    np.testing.assert_allclose(model.score(queries)[users, items], actual, rtol=1e-4, atol=1e-4)
    without_times = model.predict(users, items)
    assert np.abs(without_times - actual).max() > 1e-3
    scores_without_times = model.score(Queries.of_users(users, data.histories))
    np.testing.assert_allclose(scores_without_times[users, items], without_times, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["gaussian", "ordered_probit"])
def test_unknown_users_get_the_posterior_mode_given_their_ratings(likelihood: str) -> None:
    data = rich_ratings()
    model = fit(
        data,
        likelihood=likelihood,
        embedding_dim=2,
        iterations=5,
        num_samples=1,
        inputs=("implicit_user", "user_features"),
    )
    samples = model.samples
    profile = pl.DataFrame({"id": ["new"], "age": [33], "job": ["job1"]})
    history = Events.of([[3, 8, 2, 11]])
    history = replace(history, values=np.array([5, 1, 4, 2], np.float32))
    scores = model.score(Queries.anonymous(history, profile))[0]
    # by definition: the features of the user, then w and v at the mode of the posterior
    columns, means, precisions = samples.coefficients[0].astype(np.float64), samples.means[0], samples.precisions[0]
    features = model.schema.user_features
    age = (33 - features[0].center) / features[0].scale
    jobs = [float(job == "job1") for job in features[1].categories]
    x = np.array([age, 0.0, *jobs, 0.0, *(0.5 * float(item in (3, 8, 2, 11)) for item in range(25))])
    items = samples.items[0].astype(np.float64)

    def scores_given(parameters: np.ndarray) -> np.ndarray:
        w, v = np.append(columns[:, 0], parameters[0]), np.vstack([columns[:, 1:], parameters[1:]])
        row = np.append(x, 1.0)
        pairs = sum(row[a] * row[b] * (v[a] @ v[b]) for a, b in combinations(range(len(row)), 2))
        actual: np.ndarray = samples.intercepts[0, 0] + row @ w + pairs + items[:, 0] + items[:, 1:] @ (row @ v)
        return actual

    def negative_log_posterior(parameters: np.ndarray) -> float:
        actual = scores_given(parameters)[[3, 8, 2, 11]]
        prior = 0.5 * (precisions * (parameters - means) ** 2).sum()
        if likelihood == "gaussian":
            targets = (np.array([5, 1, 4, 2]) - samples.values[0, 0]) / samples.values[0, 1]
            return float(prior + 0.5 * samples.noise_precisions[0, 0] * ((actual - targets) ** 2).sum())
        edges = np.concatenate([[-np.inf], samples.cutpoints[0], [np.inf]])
        levels = np.array([4, 0, 3, 1])
        mass = stats.norm.cdf(edges[levels + 1] - actual) - stats.norm.cdf(edges[levels] - actual)
        return float(prior - np.log(mass).sum())

    best = minimize(negative_log_posterior, means.astype(np.float64), method="BFGS").x
    expected = scores_given(best)
    if likelihood == "gaussian":
        expected = samples.values[0, 0] + samples.values[0, 1] * expected
    else:
        expected = expected_levels(expected, np.ones(25), samples.cutpoints[0], samples.values[0])
    np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=5e-3)


def test_unknown_users_are_scored_by_history_and_features() -> None:
    data = rich_ratings()
    model = fit(data, likelihood="ordered_probit", embedding_dim=3, iterations=20, inputs=ALL)
    without_values = Events.of([[], [], [3, 3, 8]])
    base_scores = model.score(Queries.anonymous(without_values))
    assert np.isfinite(base_scores).all()
    np.testing.assert_allclose(base_scores[0], base_scores[1], rtol=1e-5)
    assert np.abs(base_scores[2] - base_scores[0]).max() > 1e-4
    profile = pl.DataFrame({"id": ["a", "b", "c"], "age": [20, 55, None], "job": ["job0", "job2", None]})
    known = model.score(Queries.anonymous(without_values, profile))
    assert np.abs(known[0] - known[1]).max() > 1e-3
    with_values = replace(without_values, values=np.array([1, np.nan, 5], np.float32))
    assert np.abs(model.score(Queries.anonymous(with_values))[2] - base_scores[2]).max() > 1e-3


def test_folding_in_a_training_history_approximates_training() -> None:
    world = tastes()
    model = fit(world.train, embedding_dim=4, iterations=60)
    stored = model.score(Queries.of_users(np.arange(150, dtype=np.int32), world.train.histories))
    new = model.score(Queries.anonymous(world.train.histories))
    assert np.sqrt(np.square(stored - new).mean()) < 0.3 * stored.std()


@pytest.mark.parametrize("inputs", [(), ALL])
@pytest.mark.parametrize("learner", ["gibbs", "als"])
def test_unusual_ratings_give_finite_scores(inputs: Any, learner: str) -> None:
    rows = Events.of([[0, 1, 2], [1, 2], [3]])
    for values in ([3] * 6, [-7, 1e5, 3, 0, 2, 5], [np.nan, 4, 3, np.nan, 2, 5], [1, 5, 1, 5, 1, 5]):
        events = replace(rows, values=np.array(values, np.float32), times=np.arange(6) * 50_000)
        data = dataset(events, 4)
        users = pl.LazyFrame({"id": data.users.ids, "age": [20, 30, 50]})
        items = pl.LazyFrame({"id": data.items.ids, "year": [1990, 1991, 1992, None]})
        data = replace(data, user_features=users, item_features=items)
        model = fit(data, inputs=inputs, likelihood="ordered_probit", learner=learner, iterations=15, embedding_dim=2)
        known = replace(Events.of([[0], []]), values=np.array([4], np.float32))
        scores = model.score(Queries.anonymous(known))
        assert np.isfinite(scores).all()
        finite = np.array(values, np.float32)[np.isfinite(values)]
        assert (scores >= finite.min() - 1e-2).all()
        assert (scores <= finite.max() * 1.001 + 1e-2).all()


def test_invalid_inputs_raise() -> None:
    data = tastes().train
    with pytest.raises(ValueError, match="ordered_probit supports at most 50 distinct ratings"):
        fit(data, likelihood="ordered_probit")
    with pytest.raises(ValueError, match="'date' needs times, but world has no real times"):
        fit(data, inputs=("date",))
    with pytest.raises(ValueError, match="'item_features': no usable feature"):
        fit(data, inputs=("item_features",))
    with pytest.raises(ValueError, match="got groups of"):
        RelationBlock(np.zeros(1, np.int32), csr_array(np.eye(2)), (1,))


def test_predictions_are_clipped_only_if_configured() -> None:
    world = tastes()
    unclipped, clipped = (
        fit(world.train, embedding_dim=4, iterations=5, clip_predictions=clip) for clip in (False, True)
    )
    low, high = world.train.histories.values.min(), world.train.histories.values.max()
    users, items = np.arange(150, dtype=np.int32).repeat(60), np.tile(np.arange(60, dtype=np.int32), 150)
    np.testing.assert_array_equal(clipped.predict(users, items), np.clip(unclipped.predict(users, items), low, high))
