"""Small test worlds with known best metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.knowledge.knowledge import Knowledge
from segue.core.model import Recommender
from segue.core.recommend import recommend
from segue.core.types import Dataset, Events, HeldOut, Mask, Queries, Vocab

__all__ = [
    "Rated",
    "World",
    "clusters",
    "cycle",
    "dataset",
    "directors",
    "hit_rate",
    "order",
    "popularity",
    "tastes",
    "with_features",
    "with_knowledge",
]


@dataclass(frozen=True, eq=False)
class World:
    """A small log with queries, and the metrics that can be reached."""

    train: Dataset
    test: HeldOut
    k: int
    """Number of recommended items."""
    best: float
    """Expected hit rate at ``k`` of the optimal recommender."""
    naive: float
    """Expected hit rate at ``k`` of the best recommender that ignores the structure of the world."""
    repeats: bool = False
    """Whether targets may be items of the history."""


@dataclass(frozen=True, eq=False)
class Rated:
    """Ratings from a known model, with further ratings of the same users to predict."""

    train: Dataset
    test: HeldOut
    noise: float
    """RMSE of the true model: the noise."""
    biases: float
    """RMSE of the true mean and biases alone."""


def dataset(histories: Events, n_items: int, name: str = "world") -> Dataset:
    """Create a dataset of histories.

    Its users are ``u0, u1, ...`` and its items ``i0, i1, ...``.
    """
    users = Vocab([f"u{code}" for code in range(len(histories))])
    return Dataset(name, users, Vocab([f"i{code}" for code in range(n_items)]), histories)


def with_features(
    data: Dataset, item_groups: Sequence[int] | None = None, user_groups: Sequence[int] | None = None
) -> Dataset:
    """Add a table of item features and one of user features: a category and a vector.

    Args:
        item_groups: the category of each item; ``None``: two categories in turn. Likewise ``user_groups``.
    """
    import polars as pl

    def table(ids: Sequence[str], groups: Sequence[int] | None) -> pl.LazyFrame:
        codes = np.arange(len(ids)) % 2 if groups is None else np.asarray(groups)
        vectors = np.stack([np.cos(2.0 * codes), np.sin(2.0 * codes)], axis=1)
        columns = {"id": ids, "group": [f"group {code}" for code in codes.tolist()], "vector": vectors.tolist()}
        return pl.DataFrame(columns).lazy()

    return replace(
        data,
        item_features=table(data.items.ids.to_list(), item_groups),
        user_features=table(data.users.ids.to_list(), user_groups),
    )


def with_knowledge(data: Dataset, item_groups: Sequence[int] | None = None) -> Dataset:
    """Add triples ``item - maker - group``.

    Args:
        item_groups: the group of each item; ``None``: two groups in turn. The graph lacks items of a negative group.
    """
    groups = np.arange(data.n_items) % 2 if item_groups is None else np.asarray(item_groups)
    linked = np.flatnonzero(groups >= 0)
    names = [f"maker {group}" for group in range(int(groups.max(initial=0)) + 1)]
    entities = Vocab([*(f"entity of {data.items.ids[int(item)]}" for item in linked), *names])
    item_entities = np.full(data.n_items, -1, np.int32)
    item_entities[linked] = np.arange(len(linked))
    relations = np.zeros(len(linked), np.int32)
    heads, tails = (part.astype(np.int32) for part in (np.arange(len(linked)), len(linked) + groups[linked]))
    return replace(data, knowledge=Knowledge(entities, ("maker",), heads, relations, tails, item_entities))


def _world(rows: list[list[int]], n_items: int, n_queries: int, **metrics: Any) -> World:
    """Hold out the last item of the last ``n_queries`` rows as targets.

    All other events are training events.
    """
    histories = [row[:-1] for row in rows[-n_queries:]]
    train = dataset(Events.of(rows[:-n_queries] + histories), n_items)
    users = np.arange(len(rows) - n_queries, len(rows), dtype=np.int32)
    targets = Events.of([row[-1:] for row in rows[-n_queries:]])
    return World(train, HeldOut(Queries.of_users(users, Events.of(histories)), targets), **metrics)


def cycle(n_items: int = 12, users: int = 150, seed: int = 0) -> World:
    """Create a world in which the next item is certain.

    Item i is followed by item i + 1, the last item by the first.
    """
    rng = np.random.default_rng(seed)
    starts, lengths = rng.integers(n_items, size=users), rng.integers(3, 9, size=users)
    rows = [((first + np.arange(n)) % n_items).tolist() for first, n in zip(starts, lengths, strict=True)]
    return _world(rows, n_items, users // 3, k=1, best=1.0, naive=1.0)


def popularity(n_items: int = 20, users: int = 200, seed: int = 0) -> World:
    """Create a world in which only counts are informative.

    Items are drawn independently with probability proportional to 1 / rank.
    """
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, n_items + 1)
    chances /= chances.sum()
    rows = rng.choice(n_items, size=(users, 12), p=chances).tolist()
    best = float(chances.max())
    return _world(rows, n_items, users // 2, k=1, best=best, naive=best, repeats=True)


def clusters(size: int = 10, users: int = 200, seed: int = 0) -> World:
    """Create a world in which each user has items of one half of the catalog.

    The items of a user are in random order. After six of ``size`` items, the list of the other items in the half
    contains the target with certainty.
    """
    rng = np.random.default_rng(seed)
    rows = [(rng.permutation(size)[:7] + size * (user % 2)).tolist() for user in range(users)]
    k = size - 6
    return _world(rows, 2 * size, users // 2, k=k, best=1.0, naive=k / (2 * size - 6))


def order(size: int = 6, users: int = 240, seed: int = 0) -> World:
    """Create a world in which the last item determines the next.

    All users have the same ``size`` items in different orders. As sets all histories are equal, so models that ignore
    the order can only guess.
    """
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(size) for _ in range(users)]
    rows = [[*row.tolist(), size + int(row[-1])] for row in shuffled]
    return _world(rows, 2 * size, users // 3, k=1, best=1.0, naive=1 / size)


def directors(count: int = 5, films: int = 6, users: int = 100, seed: int = 0) -> World:
    """Create a world in which only a knowledge graph knows the answer.

    Each user watches all but two older films of one director, and the target is the newest film of the director, which
    has no event in training. The triples say who directed which film. The list of the other older film and the newest
    one contains the target with certainty.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(2 * users):
        first = films * (user % count)
        older = first + rng.permutation(films - 1)[: films - 2]
        rows.append([*older.tolist(), first + films - 1])
    n_items = count * films
    others = n_items - (films - 2)
    world = _world(rows, n_items, users, k=2, best=1.0, naive=2 / others)
    groups = np.arange(n_items) // films
    older_only = Events.of([row[:-1] for row in rows])
    return replace(world, train=with_knowledge(replace(world.train, histories=older_only), groups.tolist()))


def tastes(users: int = 150, n_items: int = 60, share: float = 0.5, noise: float = 0.3, seed: int = 0) -> Rated:
    """Create ratings from biases and tastes with noise.

    The ratings are ``3.5 + b_u + b_i + p_u . q_i + noise`` for a ``share`` of all pairs; a fifth of them are targets.
    """
    rng = np.random.default_rng(seed)
    user_bias, item_bias = 0.4 * rng.standard_normal(users), 0.5 * rng.standard_normal(n_items)
    taste = rng.standard_normal((users, 2)) @ rng.standard_normal((2, n_items)) * 0.7
    mean = 3.5 + user_bias[:, None] + item_bias
    values = mean + taste + noise * rng.standard_normal((users, n_items))
    drawn = rng.random((users, n_items)) < share
    is_target = drawn & (rng.random((users, n_items)) < 0.2)
    train = dataset(_rated(drawn & ~is_target, values), n_items)
    test = HeldOut(Queries.of_users(np.arange(users, dtype=np.int32), train.histories), _rated(is_target, values))
    errors = [float(np.sqrt(np.square(values - model)[is_target].mean())) for model in (mean + taste, mean)]
    return Rated(train, test, *errors)


def _rated(pairs: Mask, values: NDArray[np.float64]) -> Events:
    offsets = np.concatenate([[0], np.cumsum(pairs.sum(axis=1))])
    return Events(offsets, np.nonzero(pairs)[1].astype(np.int32), values=values[pairs].astype(np.float32))


def hit_rate(model: Recommender, world: World) -> float:
    """Return the share of queries whose target is among the ``k`` recommended items."""
    lists = recommend(model, world.test.queries, world.k, exclude_seen=not world.repeats)
    return float((lists.items == world.test.targets.items[:, None]).any(axis=1).mean())
