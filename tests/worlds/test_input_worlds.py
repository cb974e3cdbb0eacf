"""Worlds in which the next item is determined by an additional input.

Item i is followed by i + 1 or i + 2, depending on one input. Models without this input can only guess.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from segue.core.recommend import recommend
from segue.core.types import Dataset, Events, HeldOut, Queries
from segue.testing import World, dataset, hit_rate, train_small

N_ITEMS, USERS, LENGTH = 12, 300, 10
SHORT, LONG, DAY = 60, 90_000, 86_400


def walk(is_far_UL: NDArray[np.bool_], rng: np.random.Generator, **columns: Any) -> World:
    """Build histories of equal length in which i + 2 follows event l if ``is_far_UL[u, l]``; the last is the target."""
    steps = np.where(is_far_UL, 2, 1)
    first = rng.integers(N_ITEMS, size=(len(is_far_UL), 1))
    items = (np.concatenate([first, first + np.cumsum(steps[:, :-1], axis=1)], axis=1)) % N_ITEMS
    events = Events(LENGTH * np.arange(len(is_far_UL) + 1), items.ravel(), **{k: v.ravel() for k, v in columns.items()})
    users = np.arange(USERS * 2 // 3, USERS, dtype=np.int32)
    visible = events.where(np.arange(events.size) % LENGTH < LENGTH - 1)
    query_times = None if events.times is None else events.times.reshape(-1, LENGTH)[users, -1]
    queries = Queries(visible.take(users), users, np.ones(len(users), bool), query_times)
    targets = events.last(1).take(users)
    return World(dataset(visible, N_ITEMS), HeldOut(queries, targets), k=1, best=1.0, naive=0.5, repeats=True)


def random_flags(rng: np.random.Generator) -> NDArray[np.bool_]:
    return rng.random((USERS, LENGTH)) < 0.5


def value_world(rng: np.random.Generator) -> World:
    is_far = random_flags(rng)
    return walk(
        is_far, rng, values=np.where(is_far, rng.integers(4, 6, is_far.shape), rng.integers(1, 3, is_far.shape))
    )


def action_world(rng: np.random.Generator) -> World:
    is_far = random_flags(rng)
    world = walk(is_far, rng, actions=is_far)
    return replace(world, train=replace(world.train, actions=("view", "buy")))


def gap_world(rng: np.random.Generator) -> World:
    """The next item is far after a long gap before the last event."""
    is_far = random_flags(rng)
    return walk(is_far, rng, times=np.cumsum(np.where(is_far, LONG, SHORT), axis=1))


def query_time_world(rng: np.random.Generator) -> World:
    """The next item is far after a long gap between the last event and the query."""
    is_far = random_flags(rng)
    times = np.cumsum(np.where(is_far, LONG, SHORT), axis=1)
    return walk(is_far, rng, times=np.concatenate([np.zeros((USERS, 1), np.int64), times[:, :-1]], axis=1))


def calendar_world(name: str) -> Callable[[np.random.Generator], World]:
    """The next item is far after an event in the afternoon, or before one in the afternoon (of the query)."""

    def build(rng: np.random.Generator) -> World:
        is_far = random_flags(rng)
        hour = np.where(is_far, rng.integers(12, 24, is_far.shape), rng.integers(0, 12, is_far.shape))
        weekday = np.where(is_far, rng.integers(5, 7, is_far.shape), rng.integers(0, 5, is_far.shape))
        week = np.arange(LENGTH) + rng.integers(100, size=(USERS, 1))
        # 1970-01-05 is a Monday
        times = {"hour": week * 7 * DAY + hour * 3_600, "weekday": (week * 7 + 4 + weekday) * DAY}[
            name.removeprefix("query_")
        ] + 1_600 * 7 * DAY
        if name.startswith("query_"):
            times = np.concatenate([times[:, :1] - DAY, times[:, :-1]], axis=1)
        return walk(is_far, rng, times=times)

    return build


def session_position_world(rng: np.random.Generator) -> World:
    """The third and all later events of a session are followed by a far item.

    The steps of the history alone predict the next step in most cases.
    """
    starts_session = rng.random((USERS, LENGTH)) < 0.3
    starts_session[:, 0] = True
    position = np.arange(LENGTH)
    session_position = position - np.maximum.accumulate(np.where(starts_session, position, 0), axis=1)
    return replace(
        walk(session_position >= 2, rng, times=np.cumsum(np.where(starts_session, LONG, SHORT), axis=1)), naive=0.7
    )


def user_features_world(rng: np.random.Generator) -> World:
    """Steps are always far for some users, which a history of one event does not show."""
    is_far = np.repeat(random_flags(rng)[:, :1], LENGTH, axis=1)
    world = walk(is_far, rng)
    gender = pl.DataFrame({"id": world.train.users.ids, "gender": np.where(is_far[:, 0], "F", "M")})
    return replace(
        world,
        train=replace(world.train, user_features=gender.lazy()),
        test=replace(world.test, queries=replace(world.test.queries, history=world.test.queries.history.last(1))),
    )


WORLDS: dict[str, Callable[[np.random.Generator], World]] = {
    "value": value_world,
    "action": action_world,
    "gap": gap_world,
    "query_time": query_time_world,
    "hour": calendar_world("hour"),
    "query_weekday": calendar_world("query_weekday"),
    "session_position": session_position_world,
    "user_features": user_features_world,
}


@pytest.mark.parametrize(
    ("key", "name"), [*(("gru4rec", name) for name in WORLDS), ("sasrec", "value"), ("sasrec", "query_time")]
)
def test_models_learn_from_their_inputs(key: str, name: str) -> None:
    world = WORLDS[name](np.random.default_rng(0))
    informed = train_small(key, world.train, epochs=10, inputs=(name,))
    assert hit_rate(informed, world) > 0.95
    uninformed = train_small(key, world.train, epochs=5)
    assert hit_rate(uninformed, world) < world.naive + 0.15


def test_new_users_are_recommended_by_their_features() -> None:
    world = user_features_world(np.random.default_rng(0))
    model = train_small("gru4rec", world.train, epochs=15, inputs=("user_features",))
    last, gender = np.arange(N_ITEMS), np.array(["F", "M"])
    queries = Queries.anonymous(
        Events.of([[item] for item in last.repeat(2)]), pl.DataFrame({"gender": [*gender] * N_ITEMS})
    )
    actual = recommend(model, queries, 1, exclude_seen=False).items[:, 0].reshape(-1, 2)
    assert (actual[:, 0] == (last + 2) % N_ITEMS).mean() > 0.9
    assert (actual[:, 1] == (last + 1) % N_ITEMS).mean() > 0.9
    # without a profile, both candidates are among the top two
    without_profile = recommend(model, replace(queries, profile=None), 2, exclude_seen=False)
    expected_pairs = [{(item + 1) % N_ITEMS, (item + 2) % N_ITEMS} for item in last.repeat(2)]
    assert (
        np.mean(
            [
                set(pair) == expected
                for pair, expected in zip(without_profile.items.tolist(), expected_pairs, strict=True)
            ]
        )
        > 0.8
    )


N_GENRES, ITEMS_PER_GENRE = 4, 6


def item_features_world(rng: np.random.Generator, column: str) -> tuple[Dataset, Queries, NDArray[np.int64]]:
    """An item of one genre is followed by any item of the next genre; the last item of each genre is new.

    Returns:
        Data, queries, and the genre of the next item for each query.
    """
    start = rng.integers(N_GENRES, size=(USERS, 1))
    genres = (start + np.arange(LENGTH)) % N_GENRES
    items = genres * ITEMS_PER_GENRE + rng.integers(ITEMS_PER_GENRE - 1, size=genres.shape)
    genre_of_item = np.arange(N_GENRES * ITEMS_PER_GENRE) // ITEMS_PER_GENRE
    columns: dict[str, Any] = {
        "category": [f"genre {code}" for code in genre_of_item],
        "tags": [[f"genre {code}", f"sort {position % 2}"] for position, code in enumerate(genre_of_item)],
        "vector": np.eye(N_GENRES)[genre_of_item].tolist(),
    }
    table = pl.DataFrame({"id": [f"i{position}" for position in range(len(genre_of_item))], "feature": columns[column]})
    data = replace(dataset(Events.of(items.tolist()), len(genre_of_item)), item_features=table.lazy())
    return data, Queries.anonymous(data.histories), (genres[:, -1] + 1) % N_GENRES


@pytest.mark.parametrize("column", ["category", "tags", "vector"])
def test_new_items_are_recommended_by_their_features(column: str) -> None:
    data, queries, expected = item_features_world(np.random.default_rng(0), column)
    is_new = np.arange(data.n_items) % ITEMS_PER_GENRE == ITEMS_PER_GENRE - 1
    informed = train_small("gru4rec", data, epochs=10, inputs=("item_features",))
    actual = recommend(informed, queries, 1, allowed=is_new, exclude_seen=False).items[:, 0] // ITEMS_PER_GENRE
    assert (actual == expected).mean() > 0.95
    # new items are ranked among the other items of their genre
    best = recommend(informed, queries, ITEMS_PER_GENRE, exclude_seen=False).items
    assert (best // ITEMS_PER_GENRE == expected[:, None]).all(1).mean() > 0.95
    # new items in a history are used as well
    item_queries = Queries.anonymous(Events.of([[int(item)] for item in np.flatnonzero(is_new)]))
    next_genres = recommend(informed, item_queries, 1, exclude_seen=False).items[:, 0] // ITEMS_PER_GENRE
    assert next_genres.tolist() == [1, 2, 3, 0]
    uninformed = train_small("gru4rec", data, epochs=10)
    uninformed_genres = (
        recommend(uninformed, queries, 1, allowed=is_new, exclude_seen=False).items[:, 0] // ITEMS_PER_GENRE
    )
    assert (uninformed_genres == expected).mean() < 0.7
