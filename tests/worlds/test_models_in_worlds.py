"""Train every model in worlds with a known optimum."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from segue.core.model import Model
from segue.core.registry import model_class, model_keys
from segue.core.types import Events, Queries
from segue.testing import (
    Rated,
    World,
    clusters,
    cycle,
    hit_rate,
    order,
    popularity,
    subject,
    tastes,
    train_small,
    with_features,
    with_knowledge,
)
from tests.nightly import some_models

UNPERSONALIZED = {"random", "popular", "recent_popular", "exploration", "frequent"}
"""Models that do not use the query, or only to rank items that it contains."""
FEATURES_ONLY = {"content"}
"""Models of features alone, for which neither popularity nor the order of ids counts; they weight recent events."""
NO_POSITIONS = {"text_cnn"}
"""Models that know which items follow each other, but not where in the history."""
EPOCHS = {"cycle": 8, "clusters": 6, "order": 8, "popularity": 3}
EPOCH_FACTORS = {"bert4rec": 4, "fusion": 2, "transfer": 2}
"""Factors on the number of epochs, for models with few targets per window, and for one that often reads no ids."""
EMBEDDING_DIMS = {"ials": 4}
"""Embedding dimensions of models that overfit such a small world at the default dimension."""
OWN_SETTINGS: dict[str, dict[str, Any]] = {
    "item2vec": {"iterations": 200, "learning_rate": 0.3, "window": 1, "half_life": 0.5},
    "fusion": {"id_dropout": 0.05},
    "gradient_boosting": {"iterations": 100},
    "transfer": {"id_embeddings": True, "id_dropout": 0.05},
}
"""Settings of models that need many steps in such a small world, and whose window spans half of a history."""
WORLDS = {"cycle": cycle(), "clusters": clusters(), "order": order(), "popularity": popularity()}
RATED = tastes()
IMPLICIT = [key for key in model_keys() if not model_class(key).requires_ratings]
PERSONALIZED = [key for key in IMPLICIT if key not in UNPERSONALIZED]
EXPLICIT = [key for key in model_keys() if model_class(key).requires_ratings]
ADDITIVE = ["logistic_regression"]  # without features and negative events: a bias per user and item


@cache
def train_in(key: str, name: str) -> Model:
    settings = {
        "epochs": EPOCHS[name] * EPOCH_FACTORS.get(key, 1),
        **({"embedding_dim": EMBEDDING_DIMS[key]} if key in EMBEDDING_DIMS else {}),
        **OWN_SETTINGS.get(key, {}),
    }
    data = WORLDS[name].train
    if model_class(key).required_features:
        groups = np.arange(data.n_items) // (data.n_items // 2)
        data = with_knowledge(with_features(data, groups, np.arange(data.n_users) % 2), groups)
    return train_small(key, data, **settings)


def depends_on_order(key: str) -> bool:
    """Whether reversing the history changes the scores."""
    if key in FEATURES_ONLY:
        return False
    scores = subject(key).model.score(Queries.anonymous(Events.of([[1, 5, 9, 12], [12, 9, 5, 1]])))
    return not np.allclose(scores[0], scores[1], atol=1e-6)


def rmse(model: Any, world: Rated) -> float:
    """Compute the root mean squared error of the target values."""
    targets = world.test.targets
    actual = model.predict(world.test.queries.users[targets.rows], targets.items)
    return float(np.sqrt(np.square(actual - targets.values).mean()))


def margin(world: World) -> float:
    """Return an upper bound of three standard errors of a hit rate in this world."""
    return 1.5 / np.sqrt(len(world.test))


@pytest.mark.parametrize("key", some_models(PERSONALIZED))
def test_personalized_models_learn_clusters(key: str) -> None:
    world = WORLDS["clusters"]
    assert hit_rate(train_in(key, "clusters"), world) > 0.95
    assert hit_rate(train_in("popular", "clusters"), world) < world.naive + margin(world)


@pytest.mark.parametrize("key", some_models(PERSONALIZED))
def test_order_dependent_models_learn_the_cycle(key: str) -> None:
    if not depends_on_order(key):
        pytest.skip("does not look at the order of the history")
    assert hit_rate(train_in(key, "cycle"), WORLDS["cycle"]) > 0.95


@pytest.mark.parametrize("key", some_models(IMPLICIT))
def test_only_order_dependent_models_learn_the_order(key: str) -> None:
    world = WORLDS["order"]
    actual = hit_rate(train_in(key, "order"), world)
    if key in NO_POSITIONS:
        assert actual > world.naive + margin(world)
    elif key not in UNPERSONALIZED and depends_on_order(key):
        assert actual > 0.95
    else:  # without ids of users, whose vectors may tell which items were new to the model when they chose them
        anonymous = replace(world, test=replace(world.test, queries=Queries.anonymous(world.test.queries.history)))
        assert hit_rate(train_in(key, "order"), anonymous) < world.naive + margin(world)


@pytest.mark.parametrize("key", EXPLICIT)
def test_rating_models_learn_tastes(key: str) -> None:
    actual = rmse(train_small(key, RATED.train, iterations=30, embedding_dim=4), RATED)
    assert actual < (1.1 * RATED.biases if key in ADDITIVE else RATED.noise + 0.5 * (RATED.biases - RATED.noise))


@pytest.mark.parametrize("key", some_models(key for key in IMPLICIT if key != "random"))
def test_models_reach_popularity_and_not_more(key: str) -> None:
    world = WORLDS["popularity"]
    actual = hit_rate(train_in(key, "popularity"), world)
    assert actual < world.best + margin(world)
    if key in UNPERSONALIZED or depends_on_order(key):
        assert actual > world.best - margin(world)


def test_popular_estimates_the_item_probabilities() -> None:
    world = WORLDS["popularity"]
    probabilities = 1 / np.arange(1, 21)
    probabilities /= probabilities.sum()
    actual = np.exp(train_in("popular", "popularity").score(world.test.queries.rows_between(0, 1))[0])
    # five standard errors of a relative frequency over all events
    assert (np.abs(actual - probabilities) < 5 * np.sqrt(probabilities / world.train.histories.size) + 1e-3).all()


@pytest.mark.parametrize("name", WORLDS)
def test_random_reaches_the_chance_level(name: str) -> None:
    world = WORLDS[name]
    n_candidates = world.train.n_items - (0 if world.repeats else world.test.queries.history.lengths.mean())
    assert hit_rate(train_in("random", name), world) == pytest.approx(world.k / n_candidates, abs=margin(world))
