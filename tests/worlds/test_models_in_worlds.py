"""Every model in worlds whose best answer is known."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from segue.core.model import Model
from segue.core.registry import model_class, model_keys
from segue.core.types import Events, Queries
from segue.testing import Rated, World, clusters, cycle, hit_rate, order, popularity, subject, tastes, train_small

ALIKE_FOR_ALL = {"random", "popular", "recent_popular"}
"""Models that do not look at who asks, by design."""
EPOCHS = {"cycle": 8, "clusters": 6, "order": 8, "popularity": 3}
SLOW = {"bert4rec": 4}
"""Models that need so many times the epochs: those that ask about few events of a window."""
NARROW = {"ials": 4}
"""Widths of models that learn so small a world by heart when they are wider."""
WORLDS = {"cycle": cycle(), "clusters": clusters(), "order": order(), "popularity": popularity()}
RATED = tastes()
FROM_EVENTS = [key for key in model_keys() if not model_class(key).requires_ratings]
PERSONAL = [key for key in FROM_EVENTS if key not in ALIKE_FOR_ALL]
FROM_VALUES = [key for key in model_keys() if model_class(key).requires_ratings]


@cache
def trained(key: str, name: str) -> Model:
    wanted = {"epochs": EPOCHS[name] * SLOW.get(key, 1), **({"embedding_dim": NARROW[key]} if key in NARROW else {})}
    return train_small(key, WORLDS[name].train, **wanted)


def minds_order(key: str) -> bool:
    """Whether the answer changes when a history is told backwards."""
    scores = subject(key).model.score(Queries.anonymous(Events.of([[1, 5, 9, 12], [12, 9, 5, 1]])))
    return not np.allclose(scores[0], scores[1], atol=1e-6)


def rmse(model: Any, world: Rated) -> float:
    """Root mean squared error of the values that are asked for."""
    targets = world.test.targets
    found = model.predict(world.test.queries.users[targets.rows], targets.items)
    return float(np.sqrt(np.square(found - targets.values).mean()))


def margin(world: World) -> float:
    """Three standard errors of a hit rate in this world, at most."""
    return 1.5 / np.sqrt(len(world.test))


@pytest.mark.parametrize("key", PERSONAL)
def test_clusters_are_found(key: str) -> None:
    world = WORLDS["clusters"]
    assert hit_rate(trained(key, "clusters"), world) > 0.95
    assert hit_rate(trained("popular", "clusters"), world) < world.naive + margin(world)


@pytest.mark.parametrize("key", PERSONAL)
def test_the_cycle_is_learned_by_who_minds_order(key: str) -> None:
    if not minds_order(key):
        pytest.skip("does not look at the order of the history")
    assert hit_rate(trained(key, "cycle"), WORLDS["cycle"]) > 0.95


@pytest.mark.parametrize("key", FROM_EVENTS)
def test_order_is_all_that_helps(key: str) -> None:
    world = WORLDS["order"]
    found = hit_rate(trained(key, "order"), world)
    if key not in ALIKE_FOR_ALL and minds_order(key):
        assert found > 0.95
    else:
        assert found < world.naive + margin(world)


@pytest.mark.parametrize("key", FROM_VALUES)
def test_tastes_are_found(key: str) -> None:
    found = rmse(train_small(key, RATED.train, iterations=30, embedding_dim=4), RATED)
    assert found < RATED.noise + 0.5 * (RATED.biases - RATED.noise)


@pytest.mark.parametrize("key", [key for key in FROM_EVENTS if key != "random"])
def test_popularity_is_all_there_is(key: str) -> None:
    world = WORLDS["popularity"]
    found = hit_rate(trained(key, "popularity"), world)
    assert found < world.best + margin(world)
    if key in ALIKE_FOR_ALL or minds_order(key):
        assert found > world.best - margin(world)


def test_popular_knows_the_chances() -> None:
    world = WORLDS["popularity"]
    chances = 1 / np.arange(1, 21)
    chances /= chances.sum()
    found = np.exp(trained("popular", "popularity").score(world.test.queries.rows_between(0, 1))[0])
    # five standard errors of a share counted among all events
    assert (np.abs(found - chances) < 5 * np.sqrt(chances / world.train.histories.size) + 1e-3).all()


@pytest.mark.parametrize("name", WORLDS)
def test_chance_is_the_floor(name: str) -> None:
    world = WORLDS[name]
    left = world.train.n_items - (0 if world.repeats else world.test.queries.history.lengths.mean())
    assert hit_rate(trained("random", name), world) == pytest.approx(world.k / left, abs=margin(world))
