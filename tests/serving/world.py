"""A small shop with titles and genres, models trained on it, and a service in front of them."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import polars as pl

from segue.core import bundle
from segue.core.types import Dataset, Events
from segue.serving.artifacts.artifact import publish
from segue.serving.model_registry import Shelf
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import Service
from segue.serving.settings import Serving
from segue.serving.stores.open import open_store
from segue.testing import dataset
from segue.testing.training import train_small

GENRES = ("Comedy", "Drama", "War")


def shop(n_users: int = 60, n_items: int = 40) -> Dataset:
    """People who stay in one of two halves of the catalogue."""
    rng = np.random.default_rng(0)
    half = n_items // 2
    rows = [(rng.permutation(half)[: rng.integers(4, 12)] + half * (user % 2)).tolist() for user in range(n_users)]
    data = dataset(Events.of(rows), n_items)
    items = pl.LazyFrame(
        {
            "id": data.items.ids,
            "title": [f"Title {item}" for item in range(n_items)],
            "genres": [[GENRES[item % 3]] for item in range(n_items)],
            "year": [1990 + item for item in range(n_items)],
        }
    )
    return replace(data, item_features=items)


@cache
def published(key: str, engine: str = "native") -> Path:
    """A publication of the model ``key``, trained on the shop; its name is the key."""
    data = shop()
    folder = Path(mkdtemp(prefix="segue-test-")) / key
    trained = bundle.of(key, train_small(key, data), data)
    publish(key, trained, data.histories, folder, engine=engine)
    return folder


def service(*keys: str, store: str = "memory:", library: Path | None = None, **settings: Any) -> Service:
    """A service with models by key, the first of them active."""
    kept, own = open_store(store), Serving(**settings)
    shelf = Shelf([published(key) for key in keys], kept, library, standing=own.rules)
    return Service(shelf, kept, own, Metrics())
