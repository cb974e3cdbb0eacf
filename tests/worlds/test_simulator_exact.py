"""Compare the Bayes-optimal recommender with sums over all hidden paths, computed by the formulas."""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import polars as pl
import pytest

from segue.core.types import Dataset, Events, Queries
from segue.data.simulator import BayesOptimalRecommender, SimulatedWorld, SimulatorSettings
from segue.data.simulator.choice_model import SESSION_GAP

SHARED = {
    "users": 20, "items": 5, "tastes": 2, "appetites": 2, "genres": 3, "min_length": 2, "mean_length": 3,
    "series": 0.8, "drift": 0.1, "session_drift": 0.6, "session_length": 3, "recency": 0.7, "novelty": 0.8,
}  # fmt: skip


@cache
def tiny(repeats: float) -> Dataset:
    return SimulatedWorld.build(SimulatorSettings(repeats=repeats, seed=3, **SHARED)).dataset()


def emission(world: SimulatedWorld, a: int, z: int, history: list[int], item: int) -> float:
    """Compute P(item | state, history) with plain Python."""
    model, n = world.choice_model, world.settings.items
    s = a * world.settings.tastes + z
    unseen = [i for i in range(n) if i not in history] or list(range(n))
    fresh = model.choice[item, s] / sum(model.choice[i, s] for i in unseen) if item in unseen else 0.0
    if not history:
        return fresh
    part = model.sequel[history[-1]]
    q = model.sequel_prob[a] if part >= 0 and part not in history else 0.0
    ages = [len(history) - 1 - position for position, i in enumerate(history) if i == item]
    back = sum(model.recency**age for age in ages) / sum(model.recency**age for age in range(len(history)))
    r = model.repeat_prob[a]
    return r * back + (1 - r) * (q * (item == part) + (1 - q) * fresh)


def by_enumeration(
    world: SimulatedWorld, prior: np.ndarray, history: list[int], flags: list[int | None], ratings: list[int | None]
) -> tuple[float, np.ndarray]:
    """Compute P(history) and P(next | history) by summing over all appetites and all paths of tastes."""
    model, tastes, n = world.choice_model, world.settings.tastes, len(history)
    joint = np.zeros(world.settings.items)
    for a in range(world.settings.appetites):
        for path in product(range(tastes), repeat=n + 1):
            p = prior[a * tastes + path[0]]
            for t, item in enumerate(history):
                p *= emission(world, a, path[t], history[:t], item)
                if ratings[t] is not None:
                    p *= model.rating[model.level[item, path[t]], ratings[t] - 1]
                b = [model.session] if flags[t + 1] is None else [float(flags[t + 1])]
                p *= (1 - b[0]) * model.drift[0, path[t], path[t + 1]] + b[0] * model.drift[1, path[t], path[t + 1]]
            joint += [p * emission(world, a, path[n], history, item) for item in range(world.settings.items)]
    return float(joint.sum()), joint / joint.sum() if joint.sum() > 0 else joint


def cases(repeats: float) -> list[list[int]]:
    short = [list(h) for n in range(3) for h in product(range(5), repeat=n)]
    longer = np.random.default_rng(0).integers(0, 5, (40, 4)).tolist()
    whole = [list(np.random.default_rng(seed).permutation(5)) for seed in range(5)]
    every = short + longer + whole + [h[:4] for h in whole] + [[*h, h[2]] for h in whole]
    return every if repeats else [h for h in every if len(set(h)) == len(h)]


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("repeats", [0.0, 0.3])
def test_item_sequences_only(repeats: float) -> None:
    world, histories = SimulatedWorld.of(tiny(repeats)), cases(repeats)
    actual = BayesOptimalRecommender(tiny(repeats), ()).probabilities(Queries.anonymous(Events.of(histories)))
    prior = world.population.prior[-1, -1, -1]
    for row, history in zip(actual, histories, strict=True):
        nothing = [None] * (len(history) + 1)
        chance, expected = by_enumeration(world, prior, history, nothing, nothing)
        assert chance > 0
        assert_close(row, expected)


@pytest.mark.parametrize("repeats", [0.0, 0.3])
def test_histories_are_sampled_with_their_probabilities(repeats: float) -> None:
    """Count all 625 histories of four events among 300,000 users."""
    population = 300_000
    settings = {**SHARED, "users": population, "min_length": 4, "mean_length": 4, "length_spread": 0.0}
    dataset = SimulatedWorld.build(SimulatorSettings(repeats=repeats, seed=3, **settings)).dataset()
    lives = dataset.histories.items.reshape(population, 4)
    seen = np.bincount(lives @ (5 ** np.arange(3, -1, -1)), minlength=625)
    chance, optimal = np.ones(1), BayesOptimalRecommender(dataset, ())
    for length in range(4):
        beginnings = Events.of([list(h) for h in product(range(5), repeat=length)])
        chance = (chance[:, None] * optimal.probabilities(Queries.anonymous(beginnings))).ravel()
    assert chance.sum() == pytest.approx(1, abs=1e-12)
    assert seen[chance == 0].sum() == 0
    often = population * chance >= 10
    observed, expected = seen[often], population * chance[often]
    chi2, free = ((observed - expected) ** 2 / expected).sum(), often.sum()
    assert free > 50
    assert abs(chi2 - free) < 4 * np.sqrt(2 * free)


def observed(histories: list[list[int]], rng: np.random.Generator) -> tuple[Events, list[list[int]], list[list[int]]]:
    """Return events with times and ratings, and their session flags and ratings."""
    bare = Events.of(histories)
    flags, ratings = rng.integers(0, 2, bare.size), rng.integers(1, 6, bare.size)
    times = np.cumsum(np.where(flags, 2 * SESSION_GAP, 60))
    events = replace(bare, times=times, values=ratings.astype(np.float32))
    cut = bare.offsets[1:-1]
    return events, [list(f) for f in np.split(flags, cut)], [list(r) for r in np.split(ratings, cut)]


@pytest.mark.parametrize("repeats", [0.0, 0.3])
def test_with_times_ratings_profile_and_query_time(repeats: float) -> None:
    dataset = tiny(repeats)
    world, histories, rng = SimulatedWorld.of(dataset), [h for h in cases(repeats) if h][::2], np.random.default_rng(1)
    events, flags, ratings = observed(histories, rng)
    users = rng.integers(0, 20, len(histories)).astype(np.int32)
    next_flags = rng.integers(0, 2, len(histories))
    query_times = events.times[events.offsets[1:] - 1] + np.where(next_flags, 2 * SESSION_GAP, 60)
    queries = replace(Queries.of_users(users, events), times=query_times)
    actual = BayesOptimalRecommender(dataset).probabilities(queries)
    untold = BayesOptimalRecommender(dataset).probabilities(replace(queries, times=None))
    priors = world.population.priors(world.population.codes(0, 20))
    for row, history in enumerate(histories):
        args = (world, priors[users[row]], history)
        assert_close(actual[row], by_enumeration(*args, [*flags[row], int(next_flags[row])], ratings[row])[1])
        assert_close(untold[row], by_enumeration(*args, [*flags[row], None], ratings[row])[1])


def test_missing_profile_parts_are_marginalized() -> None:
    population = SimulatedWorld.of(tiny(0.0)).population
    inner = population.prior[:-1, :-1, :-1]
    from segue.data.simulator.users import AGE_SHARES, GENDER_SHARES, OCCUPATION_SHARES

    frame = pl.DataFrame({"age": [30, None, None, 5], "gender": ["M", "M", "?", "F"], "occupation": [None] * 4})
    actual = population.priors(population.read(frame))
    jobs = np.array(OCCUPATION_SHARES)
    assert_close(actual[0], np.einsum("os,o->s", inner[2, 1], jobs))
    assert_close(actual[1], np.einsum("aos,a,o->s", inner[:, 1], np.array(AGE_SHARES), jobs))
    assert_close(actual[2], np.einsum("agos,a,g,o->s", inner, np.array(AGE_SHARES), np.array(GENDER_SHARES), jobs))
    assert_close(actual[3], np.einsum("os,o->s", inner[0, 0], jobs))
    for shares in (AGE_SHARES, GENDER_SHARES, OCCUPATION_SHARES):
        assert sum(shares) == pytest.approx(1, abs=1e-12)


def test_impossible_events_are_ignored() -> None:
    """Repeats are impossible in this world: the state is as if the second event were not observed."""
    dataset = tiny(0.0)
    world, optimal = SimulatedWorld.of(dataset), BayesOptimalRecommender(dataset, ())
    actual = optimal.states(Queries.anonymous(Events.of([[1, 1]])))[0]
    once = optimal.states(Queries.anonymous(Events.of([[1]])))[0]
    drift = (1 - world.choice_model.session) * world.choice_model.drift[
        0
    ] + world.choice_model.session * world.choice_model.drift[1]
    assert_close(actual, (once.reshape(2, 2) @ drift).ravel())


@pytest.mark.parametrize("popularity", [0.0, 3.0])
def test_nearly_exhausted_catalog(popularity: float) -> None:
    """Items occur from the most to the least probable: rounding errors must not exceed the remaining probability."""
    settings = SimulatorSettings(users=2, items=300, mean_length=5, popularity=popularity, novelty=0.0, series=0.0)
    dataset = SimulatedWorld.build(settings).dataset()
    world = SimulatedWorld.of(dataset)
    order = np.argsort(-world.choice_model.choice.sum(axis=1), kind="stable")
    histories = [list(order[:n]) for n in (290, 298, 299, 300)]
    optimal = BayesOptimalRecommender(dataset, ())
    actual = optimal.probabilities(Queries.anonymous(Events.of(histories)))
    belief = optimal.states(Queries.anonymous(Events.of(histories)))
    for row, history in enumerate(histories):
        left = world.choice_model.choice.copy()
        if len(history) < 300:
            left[history] = 0.0
        expected = (left / left.sum(axis=0)) @ belief[row]
        np.testing.assert_allclose(actual[row], expected, rtol=1e-10, atol=0)
        assert actual[row].sum() == pytest.approx(1, abs=1e-10)
