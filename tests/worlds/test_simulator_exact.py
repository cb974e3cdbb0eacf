"""The best answer in the simulated world against sums over every hidden path, written from the formulas."""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import polars as pl
import pytest

from segue.core.types import Dataset, Events, Queries
from segue.data.simulator import Optimal, SimulatorSettings, World
from segue.data.simulator.choice_model import SESSION_GAP

SHARED = {
    "users": 20, "items": 5, "tastes": 2, "appetites": 2, "genres": 3, "min_length": 2, "mean_length": 3,
    "series": 0.8, "drift": 0.1, "session_drift": 0.6, "session_length": 3, "recency": 0.7, "novelty": 0.8,
}  # fmt: skip


@cache
def tiny(repeats: float) -> Dataset:
    return World.build(SimulatorSettings(repeats=repeats, seed=3, **SHARED)).dataset()


def emission(world: World, a: int, z: int, history: list[int], item: int) -> float:
    """P(item | state, history) in plain words."""
    law, n = world.law, world.settings.items
    s = a * world.settings.tastes + z
    unseen = [i for i in range(n) if i not in history] or list(range(n))
    fresh = law.choice[item, s] / sum(law.choice[i, s] for i in unseen) if item in unseen else 0.0
    if not history:
        return fresh
    part = law.sequel[history[-1]]
    q = law.following[a] if part >= 0 and part not in history else 0.0
    ages = [len(history) - 1 - place for place, i in enumerate(history) if i == item]
    back = sum(law.recency**age for age in ages) / sum(law.recency**age for age in range(len(history)))
    r = law.returning[a]
    return r * back + (1 - r) * (q * (item == part) + (1 - q) * fresh)


def by_enumeration(
    world: World, prior: np.ndarray, history: list[int], flags: list[int | None], ratings: list[int | None]
) -> tuple[float, np.ndarray]:
    """P(history) and P(next | history) by summing over every appetite and every path of tastes."""
    law, tastes, n = world.law, world.settings.tastes, len(history)
    joint = np.zeros(world.settings.items)
    for a in range(world.settings.appetites):
        for path in product(range(tastes), repeat=n + 1):
            p = prior[a * tastes + path[0]]
            for t, item in enumerate(history):
                p *= emission(world, a, path[t], history[:t], item)
                if ratings[t] is not None:
                    p *= law.rating[law.level[item, path[t]], ratings[t] - 1]
                b = [law.session] if flags[t + 1] is None else [float(flags[t + 1])]
                p *= (1 - b[0]) * law.drift[0, path[t], path[t + 1]] + b[0] * law.drift[1, path[t], path[t + 1]]
            joint += [p * emission(world, a, path[n], history, item) for item in range(world.settings.items)]
    return float(joint.sum()), joint / joint.sum() if joint.sum() > 0 else joint


def cases(repeats: float) -> list[list[int]]:
    short = [list(h) for n in range(3) for h in product(range(5), repeat=n)]
    longer = np.random.default_rng(0).integers(0, 5, (40, 4)).tolist()
    whole = [list(np.random.default_rng(seed).permutation(5)) for seed in range(5)]
    every = short + longer + whole + [h[:4] for h in whole] + [[*h, h[2]] for h in whole]
    return every if repeats else [h for h in every if len(set(h)) == len(h)]


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("repeats", [0.0, 0.3])
def test_items_alone(repeats: float) -> None:
    world, histories = World.of(tiny(repeats)), cases(repeats)
    found = Optimal(tiny(repeats), ()).probabilities(Queries.anonymous(Events.of(histories)))
    prior = world.people.prior[-1, -1, -1]
    for row, history in zip(found, histories, strict=True):
        nothing = [None] * (len(history) + 1)
        chance, expected = by_enumeration(world, prior, history, nothing, nothing)
        assert chance > 0
        agree(row, expected)


@pytest.mark.parametrize("repeats", [0.0, 0.3])
def test_lives_are_drawn_as_often_as_they_are_probable(repeats: float) -> None:
    """All 625 lives of four events, among 300,000 people."""
    people = 300_000
    settings = {**SHARED, "users": people, "min_length": 4, "mean_length": 4, "length_spread": 0.0}
    dataset = World.build(SimulatorSettings(repeats=repeats, seed=3, **settings)).dataset()
    lives = dataset.histories.items.reshape(people, 4)
    seen = np.bincount(lives @ (5 ** np.arange(3, -1, -1)), minlength=625)
    chance, optimal = np.ones(1), Optimal(dataset, ())
    for length in range(4):
        beginnings = Events.of([list(h) for h in product(range(5), repeat=length)])
        chance = (chance[:, None] * optimal.probabilities(Queries.anonymous(beginnings))).ravel()
    assert chance.sum() == pytest.approx(1, abs=1e-12)
    assert seen[chance == 0].sum() == 0
    often = people * chance >= 10
    observed, expected = seen[often], people * chance[often]
    chi2, free = ((observed - expected) ** 2 / expected).sum(), often.sum()
    assert free > 50
    assert abs(chi2 - free) < 4 * np.sqrt(2 * free)


def observed(histories: list[list[int]], rng: np.random.Generator) -> tuple[Events, list[list[int]], list[list[int]]]:
    """Events with times and ratings, and the session flags and ratings in them."""
    bare = Events.of(histories)
    flags, ratings = rng.integers(0, 2, bare.size), rng.integers(1, 6, bare.size)
    times = np.cumsum(np.where(flags, 2 * SESSION_GAP, 60))
    events = replace(bare, times=times, values=ratings.astype(np.float32))
    cut = bare.offsets[1:-1]
    return events, [list(f) for f in np.split(flags, cut)], [list(r) for r in np.split(ratings, cut)]


@pytest.mark.parametrize("repeats", [0.0, 0.3])
def test_with_times_ratings_profile_and_time_of_asking(repeats: float) -> None:
    dataset = tiny(repeats)
    world, histories, rng = World.of(dataset), [h for h in cases(repeats) if h][::2], np.random.default_rng(1)
    events, flags, ratings = observed(histories, rng)
    users = rng.integers(0, 20, len(histories)).astype(np.int32)
    coming = rng.integers(0, 2, len(histories))
    asked = events.times[events.offsets[1:] - 1] + np.where(coming, 2 * SESSION_GAP, 60)
    queries = replace(Queries.of_users(users, events), times=asked)
    found = Optimal(dataset).probabilities(queries)
    untold = Optimal(dataset).probabilities(replace(queries, times=None))
    priors = world.people.priors(world.people.codes(0, 20))
    for row, history in enumerate(histories):
        args = (world, priors[users[row]], history)
        agree(found[row], by_enumeration(*args, [*flags[row], int(coming[row])], ratings[row])[1])
        agree(untold[row], by_enumeration(*args, [*flags[row], None], ratings[row])[1])


def test_unknown_parts_of_a_profile_are_summed_out() -> None:
    people = World.of(tiny(0.0)).people
    inner = people.prior[:-1, :-1, :-1]
    from segue.data.simulator.users import AGE_SHARES, GENDER_SHARES, OCCUPATION_SHARES

    frame = pl.DataFrame({"age": [30, None, None, 5], "gender": ["M", "M", "?", "F"], "occupation": [None] * 4})
    found = people.priors(people.read(frame))
    jobs = np.array(OCCUPATION_SHARES)
    agree(found[0], np.einsum("os,o->s", inner[2, 1], jobs))
    agree(found[1], np.einsum("aos,a,o->s", inner[:, 1], np.array(AGE_SHARES), jobs))
    agree(found[2], np.einsum("agos,a,g,o->s", inner, np.array(AGE_SHARES), np.array(GENDER_SHARES), jobs))
    agree(found[3], np.einsum("os,o->s", inner[0, 0], jobs))
    for shares in (AGE_SHARES, GENDER_SHARES, OCCUPATION_SHARES):
        assert sum(shares) == pytest.approx(1, abs=1e-12)


def test_an_impossible_event_says_nothing() -> None:
    """Nobody repeats in this world: the state is believed as if the second event had been hidden."""
    dataset = tiny(0.0)
    world, optimal = World.of(dataset), Optimal(dataset, ())
    found = optimal.states(Queries.anonymous(Events.of([[1, 1]])))[0]
    once = optimal.states(Queries.anonymous(Events.of([[1]])))[0]
    drift = (1 - world.law.session) * world.law.drift[0] + world.law.session * world.law.drift[1]
    agree(found, (once.reshape(2, 2) @ drift).ravel())


@pytest.mark.parametrize("popularity", [0.0, 3.0])
def test_what_is_left_of_a_nearly_finished_catalogue(popularity: float) -> None:
    """Items are met from the most to the least probable: what cancels must not drown what is left."""
    settings = SimulatorSettings(users=2, items=300, mean_length=5, popularity=popularity, novelty=0.0, series=0.0)
    dataset = World.build(settings).dataset()
    world = World.of(dataset)
    order = np.argsort(-world.law.choice.sum(axis=1), kind="stable")
    histories = [list(order[:n]) for n in (290, 298, 299, 300)]
    optimal = Optimal(dataset, ())
    found = optimal.probabilities(Queries.anonymous(Events.of(histories)))
    belief = optimal.states(Queries.anonymous(Events.of(histories)))
    for row, history in enumerate(histories):
        left = world.law.choice.copy()
        if len(history) < 300:
            left[history] = 0.0
        expected = (left / left.sum(axis=0)) @ belief[row]
        np.testing.assert_allclose(found[row], expected, rtol=1e-10, atol=0)
        assert found[row].sum() == pytest.approx(1, abs=1e-10)
