"""A log with values, actions, times and user features, and models that read all of them."""

from dataclasses import replace
from functools import cache
from pathlib import Path

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
from segue.testing.training import train_small
from tests.folders import new_folder
from tests.serving.world import shop

INPUTS = ("value", "action", "gap", "query_time", "session_position", "item_features", "user_features")


def rich_world() -> Dataset:
    """The log of :func:`tests.serving.world.shop` with more columns.

    Values, actions, times and user features.
    """
    data = shop()
    rng = np.random.default_rng(1)
    size, n_users = data.histories.size, data.n_users
    histories = Events(
        data.histories.offsets,
        data.histories.items,
        actions=rng.integers(0, 2, size).astype(np.uint8),
        values=rng.integers(1, 6, size).astype(np.float32),
        times=1_700_000_000 + np.arange(size) * 3_600,
    )
    users = pl.LazyFrame(
        {
            "id": data.users.ids,
            "age": rng.integers(18, 80, n_users),
            "city": [("Bonn", "Lima", "Oslo")[user % 3] for user in range(n_users)],
            "tastes": [[("jazz", "folk")[user % 2], "all"] for user in range(n_users)],
            "face": rng.normal(size=(n_users, 3)).tolist(),
        }
    )
    return replace(data, histories=histories, user_features=users, actions=("view", "purchase"))


@cache
def artifact_folder(key: str) -> Path:
    """Build an artifact of the model ``key`` that reads all supported inputs."""
    data = rich_world()
    folder = new_folder() / key
    metadata = {"user_features": ["age", "city", "tastes", "face"]}
    trained = bundle.create(key, train_small(key, data, inputs=INPUTS), data, metadata)
    build_artifact(key, trained, data.histories, folder, engine="native")
    return folder


def service(*keys: str) -> Service:
    """Create a service with models by key, the first of them active."""
    store = open_store("memory:")
    return Service(
        ModelRegistry([artifact_folder(key) for key in keys], store),
        store,
        ServingSettings(deadline_ms=60_000),
        Metrics(),
    )
