"""Context of events and requests over REST: stored, read by models that read it, shown, validated and erased."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from segue.core import bundle
from segue.core.types import Dataset, Events, Queries
from segue.serving.app import create_app
from segue.serving.artifacts.artifact import build_artifact, load_artifact
from segue.serving.model_registry import ModelRegistry
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import Service
from segue.serving.settings import ServingSettings
from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event, Store
from segue.serving.users.event_context import decode_context, encode_columns, encode_context
from segue.testing.training import train_small
from tests.folders import new_folder
from tests.serving.world import shop

CONTEXT = {"device": ["phone", "tv", "7"], "heat": None}
INPUTS = ("context", "query_context", "query_hour")


@cache
def data() -> Dataset:
    log = shop()
    rng = np.random.default_rng(0)
    size = log.histories.size
    context = {
        "device": rng.integers(-1, 3, size).astype(np.int32),
        "heat": np.where(rng.random(size) < 0.2, np.nan, rng.normal(size=size)).astype(np.float32),
    }
    times = 1_700_000_000 + 4_000 * np.arange(size)
    histories = Events(log.histories.offsets, log.histories.items, times=times, context=context)
    return replace(log, histories=histories, header={"context": CONTEXT})


@cache
def artifact_folder(key: str, inputs: tuple[str, ...] = INPUTS) -> Path:
    folder = new_folder() / key
    model = train_small(key, data(), epochs=2, inputs=inputs)
    build_artifact(f"{key}-{len(inputs)}", bundle.create(key, model, data()), data().histories, folder, engine="native")
    return folder


def service(*folders: Path) -> Service:
    store = open_store("memory:")
    return Service(ModelRegistry(list(folders), store), store, ServingSettings(deadline_ms=60_000), Metrics())


@pytest.fixture(scope="module", params=["gru4rec", "sasrec"])
def client(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    with TestClient(create_app(service(artifact_folder(request.param)))) as client:
        client.artifact = load_artifact(artifact_folder(request.param))  # type: ignore[attr-defined]
        yield client


def post(client: TestClient, path: str, body: Any, status: int = 200) -> Any:
    response = client.post(f"/v1/{path}", json=body)
    assert response.status_code == status, response.text
    return response.json()


def ranking(response: Any) -> list[str]:
    return [one["id"] for one in response["items"]]


def scores(response: Any) -> list[float]:
    return [one["score"] for one in response["items"]]


def test_recommendations_are_those_of_the_model_with_this_context(client: Any) -> None:
    model, items = client.artifact.bundle.model, client.artifact.bundle.items
    history = Events.of([[0, 1, 2]])
    context = {"device": np.array([0, -1, 1], np.int32), "heat": np.array([0.5, np.nan, -1], np.float32)}
    of_query = {"device": np.array([1], np.int32), "heat": np.array([2.0], np.float32)}
    queries = replace(
        Queries.anonymous(replace(history, context=context)), context=of_query, times=np.array([1_700_003_600])
    )
    expected = np.sort(model.score(queries)[0])[::-1]
    ids = list(items.ids)
    body = {
        "history": [
            {"item": ids[0], "context": {"device": "phone", "heat": 0.5}},
            {"item": ids[1], "context": {"device": None}},
            {"item": ids[2], "context": {"device": "tv", "heat": -1}},
        ],
        "context": {"device": "tv", "heat": 2},
        "time": 1_700_003_600,
        "include_seen": True,
        "k": 5,
    }
    found = post(client, "recommend", body)
    np.testing.assert_allclose(scores(found), expected[:5], rtol=1e-4, atol=1e-4)
    assert not found["notes"]
    changes: list[dict[str, Any]] = [{"context": {}}, {"context": {"device": "phone", "heat": 2}}]
    for changed in (*changes, {"time": 1_700_000_000 + 12 * 3600}):
        assert not np.allclose(scores(post(client, "recommend", {**body, **changed})), expected[:5], rtol=1e-4)


def test_posted_events_count_like_those_of_a_history(client: Any) -> None:
    ids = list(client.artifact.bundle.items.ids)
    events = [
        {"item": ids[n], "time": 1_700_000_000 + n, "context": {"device": device, "heat": n / 2}}
        for n, device in enumerate(["phone", "tv", 7, "phone"])
    ]
    for event in events:
        assert post(client, "events", {**event, "user": "new"})["notes"] == []
    query = {"context": {"device": 7}, "time": 1_700_009_000, "k": 6}
    stored = post(client, "recommend", {"user": "new", **query})
    sent = post(client, "recommend", {"history": events, **query})
    assert ranking(stored) == ranking(sent)
    np.testing.assert_allclose(scores(stored), scores(sent), rtol=1e-4, atol=1e-5)
    other = post(client, "recommend", {"history": [{**one, "context": {}} for one in events], **query})
    assert not np.allclose(scores(stored), scores(other), rtol=1e-4)
    shown = client.get("/v1/users/new").json()["events"]
    assert [one["context"] for one in shown] == [
        {"device": device, "heat": n / 2} for n, device in enumerate(["phone", "tv", 7, "phone"])
    ]
    assert client.delete("/v1/users/new").json()["deleted_events"] == 4
    assert client.get("/v1/users/new").json()["events"] == []


def test_the_context_of_training_events_is_read_and_shown(client: Any) -> None:
    user = data().users.ids[0]
    shown = client.get(f"/v1/users/{user}").json()["events"]
    history = data().histories.rows_between(0, 1)
    for row, event in enumerate(shown[-history.size :]):
        code, heat = history.context["device"][row], history.context["heat"][row]
        assert (event["context"] or {}).get("device") == (None if code < 0 else CONTEXT["device"][code])  # type: ignore[index]
        assert ("heat" in (event["context"] or {})) == (heat == heat)
    body = {"user": user, "context": {"device": "tv"}, "time": 1_800_000_000, "include_seen": True, "k": 3}
    of_query = {"device": np.array([1], np.int32), "heat": np.array([np.nan], np.float32)}
    queries = Queries(history, np.array([0], np.int32), np.array([True]), np.array([1_800_000_000]), context=of_query)
    expected = np.sort(client.artifact.bundle.model.score(queries)[0])[::-1][:3]
    np.testing.assert_allclose(scores(post(client, "recommend", body)), expected, rtol=1e-4, atol=1e-4)


PLACES: list[tuple[str, str, Any]] = [
    ("events", "context", lambda context: {"user": "u", "item": "i1", "context": context}),
    ("events/batch", "events[1].context", lambda context: {"events": [
        {"user": "u", "item": "i1"}, {"user": "u", "item": "i1", "context": context}]}),
    ("recommend", "context", lambda context: {"context": context}),
    ("recommend", "history[0].context", lambda context: {"history": [{"item": "i1", "context": context}]}),
    ("recommend/batch", "requests[1].context", lambda context: {"requests": [{}, {"context": context}]}),
    ("explain", "context", lambda context: {"item": "i1", "context": context}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "field", "body"), PLACES)
def test_unknown_columns_and_wrong_types_are_rejected(client: Any, path: str, field: str, body: Any) -> None:
    fields = post(client, path, body({"devise": "tv"}), 422)["fields"]
    assert fields == {f"{field}.devise": "unknown column of the context, expected device, heat"}
    for value, shown in (("hot", "text"), (True, "true"), (1e16, "1e+16")):
        fields = post(client, path, body({"heat": value}), 422)["fields"]
        assert fields == {f"{field}.heat": f"got {shown}, expected a number between -1e+15 and 1e+15"}
    assert client.get("/v1/users/u").json()["total"] == 0


@pytest.mark.parametrize(("path", "field", "body"), [place for place in PLACES if place[0] != "recommend/batch"])
def test_unknown_categories_are_unknown_and_reported(client: Any, path: str, field: str, body: Any) -> None:
    found = post(client, path, body({"device": "radio"}))
    key = client.artifact.bundle.key
    is_missing = path == "recommend" and field != "context"
    expected = [f"'{key}' also reads query_context, which is unknown here; give context"] if is_missing else []
    assert found["notes"] == [*expected, f"{field}.device: the model does not know the value"]
    client.delete("/v1/users/u")
    if path == "recommend":
        without = post(client, path, body({}))
        assert scores(found) == scores(without)


def test_columns_of_any_loaded_model_are_accepted() -> None:
    plain, reading = artifact_folder("gru4rec", ()), artifact_folder("gru4rec")
    with TestClient(create_app(service(plain, reading))) as client:
        post(client, "recommend", {"context": {"device": "tv"}})
        post(client, "events", {"user": "u", "item": "i1", "context": {"device": "tv"}})
        assert client.get("/v1/users/u").json()["events"][0]["context"] == {"device": "tv"}
    with TestClient(create_app(service(plain))) as client:
        fields = post(client, "recommend", {"context": {"device": "tv"}}, 422)["fields"]
        assert fields == {"context.device": "unknown column of the context, no model that is loaded reads context"}
        assert post(client, "recommend", {"context": {}})["items"]


def test_a_key_with_another_context_is_a_conflict(client: Any) -> None:
    event = {"user": "v", "item": "i1", "key": "k", "time": 5, "context": {"device": "tv", "heat": 1}}
    assert post(client, "events", event)["accepted"] == 1
    assert post(client, "events", {**event, "context": {"heat": 1, "device": "tv"}})["conflicts"] == []
    assert post(client, "events", {**event, "context": {"device": "phone"}})["conflicts"] == ["k"]
    client.delete("/v1/users/v")


def test_publishing_keeps_the_context_of_histories() -> None:
    histories = load_artifact(artifact_folder("gru4rec")).histories
    assert histories is not None
    for name, column in data().histories.context.items():
        np.testing.assert_array_equal(histories.context[name], column)


def test_damaged_codes_are_rejected(tmp_path: Path) -> None:
    from shutil import copytree

    from segue.serving.artifacts.artifact import _read_histories

    folder = copytree(artifact_folder("gru4rec"), tmp_path / "model")
    trained = bundle.load(folder / "bundle")
    np.save(folder / "histories" / "context-0.npy", np.full(data().histories.size, 3, np.int32))
    with pytest.raises(ValueError, match=r"context-0.npy: got 3, expected -1 to 2"):
        _read_histories(folder / "histories", trained)


# --- stores ----------------------------------------------------------------------------------------------------------


def test_stores_keep_the_context(store: Store) -> None:
    given: list[Any] = [{"b": "ö 😀 \"'\\", "a": 1.5}, None, {"a": None}, {"c": True, "d": 7}]
    contexts = [encode_context(one) for one in given]
    events = [Event("ann", f"i{n}", n, context=context) for n, context in enumerate(contexts)]
    assert contexts[1:3] == [None, None]
    assert store.append(events) == [True] * 4
    assert store.recent_events(["ann"], 9)[0].events == tuple(events)
    assert store.recent_events(["ann", "bob"], 9)[0].events == tuple(events)
    assert store.events_after("ann", 0, 9)[0] == tuple(events)
    assert [event for _, event in store.events()] == events
    assert decode_context(store.events_after("ann", 0, 1)[0][0].context) == {"a": 1.5, "b": "ö 😀 \"'\\"}
    store.delete_user("ann")
    assert store.recent_events(["ann"], 9)[0].events == ()
    assert list(store.events()) == []


def test_a_file_without_the_column_gets_it(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "events.db"
    store = open_store(f"sqlite:///{path}")
    store.append([Event("ann", "x", 1, "buy", 2.5, "k")])
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE events DROP COLUMN context")
    connection.close()
    store = open_store(f"sqlite:///{path}")
    store.append([Event("ann", "y", 2, context='{"a":1}')])
    assert [event.context for event in store.recent_events(["ann"], 9)[0].events] == [None, '{"a":1}']
    store.close()


def test_columns_of_contexts() -> None:
    features = data().event_context
    found = encode_columns(
        features, [{"device": 7.0, "heat": 2}, None, {"device": " tv ", "heat": "x"}, {"device": "?"}]
    )
    assert found["device"].tolist() == [2, -1, 1, -1]
    np.testing.assert_array_equal(found["heat"], np.array([2, np.nan, np.nan, np.nan], np.float32))
