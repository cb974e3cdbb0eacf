"""Worlds in which new items can be recommended by their features, and new users by theirs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core.recommend import recommend
from segue.core.types import Dataset, Events, Queries
from segue.testing import dataset, train_small

N_CLUSTERS, SIZE, N_NEW, USERS = 4, 8, 2, 96
N_ITEMS = N_CLUSTERS * SIZE
EPOCHS = 6
CLUSTER = np.arange(N_ITEMS) // SIZE
IS_NEW = np.arange(N_ITEMS) % SIZE >= SIZE - N_NEW

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gated sum": ("fusion", {}),
    "cross-attention": ("fusion", {"fusion": "cross_attention"}),
    "recurrent encoder": ("fusion", {"backbone": "gru4rec"}),
    "cosine scores": ("fusion", {"backbone": "hstu"}),
    "two towers": ("two_tower", {}),
    "two towers, streaming frequencies": ("two_tower", {"frequencies": "streaming"}),
}


@cache
def world(columns: tuple[str, ...] = ("text", "genre")) -> tuple[Dataset, Queries]:
    """Build histories within one cluster of items, whose features are those of their cluster with noise.

    The last items of each cluster never occur. Texts are vectors with one strong direction that says nothing, as those
    of common encoders; a fifth of all items has none.
    """
    rng = np.random.default_rng(0)
    cluster_of_user = np.arange(USERS) % N_CLUSTERS
    known = np.stack([rng.permutation(SIZE - N_NEW)[:5] for _ in range(USERS)]) + SIZE * cluster_of_user[:, None]
    texts = 0.3 * rng.normal(size=(N_ITEMS, 12)) + rng.normal(size=(N_CLUSTERS, 12))[CLUSTER]
    texts[:, 0] += 20.0 * rng.normal(size=N_ITEMS)
    table = pl.DataFrame(
        {
            "id": [f"i{item}" for item in range(N_ITEMS)],
            "text": [
                None if item % 5 == 4 and "genre" in columns else text for item, text in enumerate(texts.tolist())
            ],
            "genre": [["all", f"genre {cluster}"] for cluster in CLUSTER],
        }
    ).select("id", *columns)
    users = pl.DataFrame({"id": [f"u{user}" for user in range(USERS)], "taste": [f"t{one}" for one in cluster_of_user]})
    data = replace(dataset(Events.of(known.tolist()), N_ITEMS), item_features=table.lazy(), user_features=users.lazy())
    return data, Queries.anonymous(data.histories.take(np.arange(2 * N_CLUSTERS)))


def new_item_precision(model: Any, queries: Queries) -> float:
    """Return the share of new items from the cluster of the query among the best new items."""
    best = recommend(model, queries, N_NEW, allowed=IS_NEW).items
    return float((CLUSTER[best] == np.arange(len(queries))[:, None] % N_CLUSTERS).mean())


@pytest.mark.parametrize("name", MODELS)
def test_new_items_of_a_liked_cluster_rank_first(name: str) -> None:
    key, settings = MODELS[name]
    data, queries = world()
    model = train_small(key, data, epochs=EPOCHS, **settings)
    assert new_item_precision(model, queries) > 0.85
    # new items share the space of the others: all items of the cluster come first, the new ones included
    best = recommend(model, queries, SIZE, exclude_seen=False).items
    assert (CLUSTER[best] == np.arange(len(queries))[:, None] % N_CLUSTERS).mean() > 0.9
    assert IS_NEW[best].mean() > 0.5 * N_NEW / SIZE
    # a history of new items is read, too
    new = Events.of([np.flatnonzero(IS_NEW & (cluster == CLUSTER)).tolist() for cluster in range(N_CLUSTERS)])
    best = recommend(model, Queries.anonymous(new), 5).items
    assert (CLUSTER[best] == np.arange(N_CLUSTERS)[:, None]).mean() > 0.9


@pytest.mark.parametrize("key", ["fusion", "two_tower"])
@pytest.mark.parametrize("column", ["text", "genre"])
def test_either_text_or_tags_suffice(key: str, column: str) -> None:
    data, queries = world((column,))
    assert new_item_precision(train_small(key, data, epochs=EPOCHS), queries) > 0.8


def test_ids_alone_do_not_rank_new_items() -> None:
    data, queries = world()
    cases: list[tuple[str, dict[str, Any]]] = [("sasrec", {}), ("two_tower", {"inputs": ()})]
    for key, settings in cases:
        assert new_item_precision(train_small(key, data, epochs=EPOCHS, **settings), queries) < 0.6


@pytest.mark.parametrize(("key", "settings"), [("two_tower", {}), ("fusion", {"inputs": ("user_features",)})])
def test_new_users_are_recommended_by_their_profile(key: str, settings: dict[str, Any]) -> None:
    data, _ = world()
    model = train_small(key, data, epochs=EPOCHS, **settings)
    profile = pl.DataFrame({"taste": [f"t{cluster}" for cluster in range(N_CLUSTERS)]})
    best = recommend(model, Queries.anonymous(Events.of([[]] * N_CLUSTERS), profile), 5).items
    assert (CLUSTER[best] == np.arange(N_CLUSTERS)[:, None]).mean() > 0.9
