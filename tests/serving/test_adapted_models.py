"""A model whose layers are adapted to each user: what the service computes anew, and what it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core import bundle
from segue.core.recommend import recommend
from segue.core.types import Events, Queries
from segue.serving import schemas
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.model_registry import ModelRegistry
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import PendingRequest, Service
from segue.serving.settings import ServingSettings
from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event
from segue.serving.stores.timeout import TimeoutStore
from segue.testing.training import train_small
from tests.serving.world import shop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an artifact from ratings: each user rates one half of the catalog 5, the other 1."""
    data, rng = shop(), np.random.default_rng(0)
    histories = data.histories  # of one half
    rows = [
        [*histories.rows_between(user, user + 1).items.tolist(), *(rng.permutation(20)[:4] + 20 * (user % 2 == 0))]
        for user in range(len(histories))
    ]
    events = Events.of([[int(code) for code in row] for row in rows])
    values = np.where((events.items >= 20) == (events.rows % 2 == 1), 5.0, 1.0).astype(np.float32)
    data = data.with_histories(replace(events, values=values))
    profiles = pl.LazyFrame({"id": data.users.ids, "side": ["left", "right"] * 30})
    data = replace(data, user_features=profiles)
    model = train_small("maml", data, feedback="explicit", epochs=8)
    path = tmp_path_factory.mktemp("adapted") / "maml"
    build_artifact("maml", bundle.create("maml", model, data), data.histories, path)
    return path


@pytest.fixture
def svc(folder: Path) -> Service:
    settings = ServingSettings()
    seconds = settings.store_timeout_ms / 1000, settings.store_write_timeout_ms / 1000
    store = TimeoutStore(open_store("memory:"), *seconds)
    return Service(ModelRegistry([folder], store, None), store, settings, Metrics())


def respond(svc: Service, *requests: schemas.RecommendRequest) -> list[list[str]]:
    responses: list[Any] = svc.recommend([PendingRequest(request, monotonic() + 60.0) for request in requests])
    assert {response.source for response in responses} == {"model"}
    return [[item.id for item in response.items] for response in responses]


def loaded_model(svc: Service) -> Any:
    return svc.models.active.artifact.bundle.model


def test_ratings_that_are_sent_adapt_the_next_response(svc: Service) -> None:
    query = schemas.RecommendRequest(user="new", k=8)
    for liked, group in ((1, 0), (25, 1)):
        user = f"new{liked}"
        ratings = [Event(user, f"i{liked}", 100, value=5.0), Event(user, f"i{(liked + 20) % 40}", 101, value=1.0)]
        svc.append_events(ratings)
        (found,) = respond(svc, query.model_copy(update={"user": user}))
        assert [int(item[1:]) // 20 for item in found] == [group] * 8
        events = Events.of([[liked, (liked + 20) % 40]])
        history = replace(events, values=np.array([5.0, 1.0], np.float32))
        lists = recommend(loaded_model(svc), Queries.anonymous(history), 8)
        assert found == [f"i{item}" for item in lists.items[0]]


def test_adapted_layers_are_reused_until_an_event_arrives(svc: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    model, adapted = loaded_model(svc), list[int]()
    original = model.adapt

    def count(users: Any, support: Any) -> Any:
        adapted.append(len(users))
        return original(users, support)

    monkeypatch.setattr(model, "adapt", count)
    model.recent.clear()  # of the queries that are checked when the model is loaded
    query = schemas.RecommendRequest(user="u3", k=6)
    (before,) = respond(svc, query)
    assert respond(svc, query) == [before]
    assert adapted == [1]
    svc.append_events([Event("u3", "i1", 10**9, value=5.0)])
    respond(svc, query, schemas.RecommendRequest(user="u4", k=6))
    assert sum(adapted) == 3
    respond(svc, query)
    assert sum(adapted) == 3
    svc.store.delete_user("u3")
    respond(svc, query)
    assert sum(adapted) == 4


def test_a_new_user_without_events_gets_the_layers_before_adaptation(svc: Service) -> None:
    (found,) = respond(svc, schemas.RecommendRequest(user="nobody-yet", k=6))
    lists = recommend(loaded_model(svc), Queries.anonymous(Events.of([[]])), 6)
    assert found == [f"i{item}" for item in lists.items[0]]
