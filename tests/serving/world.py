"""A small catalog with titles and genres, models trained on it, and a service for them."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.core import bundle
from segue.core.types import Dataset, Events
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.model_registry import ModelRegistry
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import Service
from segue.serving.settings import ServingSettings
from segue.serving.stores.open import open_store
from segue.serving.stores.timeout import TimeoutStore
from segue.testing import dataset
from segue.testing.training import train_small
from tests.folders import new_folder

GENRES = ("Comedy", "Drama", "War")


def shop(n_users: int = 60, n_items: int = 40) -> Dataset:
    """Users who each interact with one half of the catalog."""
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
def artifact_folder(key: str, engine: str = "native") -> Path:
    """Build an artifact of the model ``key``, trained on :func:`shop`."""
    data = shop()
    folder = new_folder() / key
    trained = bundle.create(key, train_small(key, data), data)
    build_artifact(key, trained, data.histories, folder, engine=engine)
    return folder


def service(*keys: str, store: str = "memory:", library: Path | None = None, **settings: Any) -> Service:
    """Create a service with models by key, the first of them active."""
    # a loaded machine must not change the answers
    serving_settings = ServingSettings(**{"deadline_ms": 60_000, **settings})
    seconds = serving_settings.store_timeout_ms / 1000, serving_settings.store_write_timeout_ms / 1000
    opened_store = open_store(store)
    opened_store.ping()  # creates the tables of a server, which may take long
    event_store = TimeoutStore(opened_store, *seconds)
    folders = [artifact_folder(key) for key in keys]
    models = ModelRegistry(folders, event_store, library, default_rules=serving_settings.default_rules)
    return Service(models, event_store, serving_settings, Metrics())
