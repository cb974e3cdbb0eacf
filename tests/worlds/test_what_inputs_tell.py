"""Worlds in which what comes next is certain, but only for who reads what stands beside the items.

After item i comes i + 1 or i + 2; which of them, one input tells. Who does not read it can only guess.
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
SHORT, LONG = 60, 90_000


def walk(far_UL: NDArray[np.bool_], rng: np.random.Generator, **columns: Any) -> World:
    """Histories of one length; ``far[u, l]`` says that after event l comes i + 2. The last event is asked for."""
    steps = np.where(far_UL, 2, 1)
    first = rng.integers(N_ITEMS, size=(len(far_UL), 1))
    items = (np.concatenate([first, first + np.cumsum(steps[:, :-1], axis=1)], axis=1)) % N_ITEMS
    events = Events(LENGTH * np.arange(len(far_UL) + 1), items.ravel(), **{k: v.ravel() for k, v in columns.items()})
    users = np.arange(USERS * 2 // 3, USERS, dtype=np.int32)
    told = events.where(np.arange(events.size) % LENGTH < LENGTH - 1)
    asked = None if events.times is None else events.times.reshape(-1, LENGTH)[users, -1]
    queries = Queries(told.take(users), users, np.ones(len(users), bool), asked)
    targets = events.last(1).take(users)
    return World(dataset(told, N_ITEMS), HeldOut(queries, targets), k=1, best=1.0, naive=0.5, repeats=True)


def coin(rng: np.random.Generator) -> NDArray[np.bool_]:
    return rng.random((USERS, LENGTH)) < 0.5


def by_value(rng: np.random.Generator) -> World:
    far = coin(rng)
    return walk(far, rng, values=np.where(far, rng.integers(4, 6, far.shape), rng.integers(1, 3, far.shape)))


def by_action(rng: np.random.Generator) -> World:
    far = coin(rng)
    world = walk(far, rng, actions=far)
    return replace(world, train=replace(world.train, actions=("view", "buy")))


def by_gap(rng: np.random.Generator) -> World:
    """A long pause before an event says that what comes after it is far."""
    far = coin(rng)
    return walk(far, rng, times=np.cumsum(np.where(far, LONG, SHORT), axis=1))


def by_query_time(rng: np.random.Generator) -> World:
    """A long pause after an event, up to the question, says so."""
    far = coin(rng)
    times = np.cumsum(np.where(far, LONG, SHORT), axis=1)
    return walk(far, rng, times=np.concatenate([np.zeros((USERS, 1), np.int64), times[:, :-1]], axis=1))


def by_session_position(rng: np.random.Generator) -> World:
    """The third event of a session, and each after it, is followed by one that is far.

    Who only saw what came next so far knows that it goes on so most of the time.
    """
    new = rng.random((USERS, LENGTH)) < 0.3
    new[:, 0] = True
    at = np.arange(LENGTH)
    place = at - np.maximum.accumulate(np.where(new, at, 0), axis=1)
    return replace(walk(place >= 2, rng, times=np.cumsum(np.where(new, LONG, SHORT), axis=1)), naive=0.7)


def by_person(rng: np.random.Generator) -> World:
    """Some people always go far; a history of one event does not tell who."""
    far = np.repeat(coin(rng)[:, :1], LENGTH, axis=1)
    world = walk(far, rng)
    gender = pl.DataFrame({"id": world.train.users.ids, "gender": np.where(far[:, 0], "F", "M")})
    return replace(
        world,
        train=replace(world.train, user_features=gender.lazy()),
        test=replace(world.test, queries=replace(world.test.queries, history=world.test.queries.history.last(1))),
    )


WORLDS: dict[str, Callable[[np.random.Generator], World]] = {
    "value": by_value,
    "action": by_action,
    "gap": by_gap,
    "query_time": by_query_time,
    "session_position": by_session_position,
    "user_features": by_person,
}


@pytest.mark.parametrize(
    ("key", "name"), [*(("gru4rec", name) for name in WORLDS), ("sasrec", "value"), ("sasrec", "query_time")]
)
def test_what_an_input_tells_is_learned(key: str, name: str) -> None:
    world = WORLDS[name](np.random.default_rng(0))
    reader = train_small(key, world.train, epochs=10, inputs=(name,))
    assert hit_rate(reader, world) > 0.95
    blind = train_small(key, world.train, epochs=5)
    assert hit_rate(blind, world) < world.naive + 0.15


def test_someone_new_is_known_by_what_he_tells() -> None:
    world = by_person(np.random.default_rng(0))
    model = train_small("gru4rec", world.train, epochs=15, inputs=("user_features",))
    last, gender = np.arange(N_ITEMS), np.array(["F", "M"])
    queries = Queries.anonymous(
        Events.of([[item] for item in last.repeat(2)]), pl.DataFrame({"gender": [*gender] * N_ITEMS})
    )
    found = recommend(model, queries, 1, exclude_seen=False).items[:, 0].reshape(-1, 2)
    assert (found[:, 0] == (last + 2) % N_ITEMS).mean() > 0.9
    assert (found[:, 1] == (last + 1) % N_ITEMS).mean() > 0.9
    # who tells nothing is not taken for either: both answers are among the best two
    silent = recommend(model, replace(queries, profile=None), 2, exclude_seen=False)
    both = [{(item + 1) % N_ITEMS, (item + 2) % N_ITEMS} for item in last.repeat(2)]
    assert np.mean([set(pair) == wanted for pair, wanted in zip(silent.items.tolist(), both, strict=True)]) > 0.8


GENRES, EACH = 4, 6


def by_genre(rng: np.random.Generator, how: str) -> tuple[Dataset, Queries, NDArray[np.int64]]:
    """After a film of one genre comes one of the next, any of them; the last film of each genre is new.

    Returns:
        Data, questions, and for each the genre of what comes next.
    """
    start = rng.integers(GENRES, size=(USERS, 1))
    genres = (start + np.arange(LENGTH)) % GENRES
    items = genres * EACH + rng.integers(EACH - 1, size=genres.shape)
    of = np.arange(GENRES * EACH) // EACH
    columns: dict[str, Any] = {
        "category": [f"genre {code}" for code in of],
        "tags": [[f"genre {code}", f"sort {at % 2}"] for at, code in enumerate(of)],
        "vector": np.eye(GENRES)[of].tolist(),
    }
    table = pl.DataFrame({"id": [f"i{at}" for at in range(len(of))], "about": columns[how]})
    data = replace(dataset(Events.of(items.tolist()), len(of)), item_features=table.lazy())
    return data, Queries.anonymous(data.histories), (genres[:, -1] + 1) % GENRES


@pytest.mark.parametrize("how", ["category", "tags", "vector"])
def test_an_item_that_is_new_is_found_by_its_features(how: str) -> None:
    data, queries, wanted = by_genre(np.random.default_rng(0), how)
    is_new = np.arange(data.n_items) % EACH == EACH - 1
    reader = train_small("gru4rec", data, epochs=10, inputs=("item_features",))
    found = recommend(reader, queries, 1, allowed=is_new, exclude_seen=False).items[:, 0] // EACH
    assert (found == wanted).mean() > 0.95
    # it stands among the others of its genre, neither first nor last
    best = recommend(reader, queries, EACH, exclude_seen=False).items
    assert (best // EACH == wanted[:, None]).all(1).mean() > 0.95
    # and what it means in a history is known too
    asked = Queries.anonymous(Events.of([[int(item)] for item in np.flatnonzero(is_new)]))
    after = recommend(reader, asked, 1, exclude_seen=False).items[:, 0] // EACH
    assert after.tolist() == [1, 2, 3, 0]
    blind = train_small("gru4rec", data, epochs=10)
    guessed = recommend(blind, queries, 1, allowed=is_new, exclude_seen=False).items[:, 0] // EACH
    assert (guessed == wanted).mean() < 0.7
