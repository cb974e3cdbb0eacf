"""Faulty requests, models and stores do not affect other requests; deleted users stay deleted."""

from __future__ import annotations

import json
import shutil
import threading
from functools import partial
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from segue.core import bundle
from segue.serving import app, schemas
from segue.serving.app import create_app
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.experiments.assignment import Experiments
from segue.serving.experiments.exposure_recorder import ExposureRecorder
from segue.serving.model_registry import ModelRegistry
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import InvalidRequest, PendingRequest, Service
from segue.serving.settings import ServingSettings
from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event
from segue.testing.training import train_small
from tests.serving.world import artifact_folder, service, shop


def respond(svc: Service, *requests: schemas.RecommendRequest) -> list[Any]:
    return svc.recommend([PendingRequest(request, monotonic() + 60) for request in requests])


def scores(response: schemas.RecommendResponse) -> dict[str, float]:
    return {item.id: round(item.score, 4) for item in response.items}


def test_renamed_folder_rejects_only_its_request(tmp_path: Path) -> None:
    shutil.copytree(artifact_folder("ease"), tmp_path / "renamed")
    svc = service("sasrec", library=tmp_path)
    good, bad = respond(
        svc, schemas.RecommendRequest(history=["i1"]), schemas.RecommendRequest(history=["i1"], model="renamed")
    )
    assert isinstance(bad, InvalidRequest)
    assert len(good.items) == 10
    assert [model.info.name for model in svc.models.loaded()] == ["sasrec"]


def test_sent_history_replaces_stored_user_data() -> None:
    svc = service("bpr")  # its users have trained factors, which a history does not change
    svc.store.delete_user("u3")
    anonymous, sent = respond(
        svc, schemas.RecommendRequest(history=["i1"]), schemas.RecommendRequest(user="u3", history=["i1"])
    )
    assert scores(sent) == scores(anonymous)


def test_events_after_deletion_are_known_to_a_newer_artifact(tmp_path: Path) -> None:
    store = open_store("memory:")
    store.delete_user("u3")
    store.append([Event("u3", "i30", 1), Event("u3", "i31", 2)])
    data = shop()
    build_artifact(
        "ease",
        bundle.create("ease", train_small("ease", data), data),
        data.histories,
        tmp_path / "ease",
        last_sequence=3,
    )
    svc = Service(ModelRegistry([tmp_path / "ease"], store), store, ServingSettings(deadline_ms=60_000), Metrics())
    there, sent = respond(svc, schemas.RecommendRequest(user="u3"), schemas.RecommendRequest(history=["i30", "i31"]))
    assert scores(there) == scores(sent)


def test_state_from_before_deletion_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    svc = service("gru4rec")
    respond(svc, schemas.RecommendRequest(user="u3"))
    get_states = svc.store.get_states
    svc.append_events([Event("u3", "i1", 1)])

    def delete_meanwhile(*args: Any) -> Any:
        states = get_states(*args)
        monkeypatch.setattr(svc.store, "get_states", get_states)
        svc.store.delete_user("u3")
        svc.append_events([Event("u3", "i30", 1)])
        return states

    monkeypatch.setattr(svc.store, "get_states", delete_meanwhile)
    respond(svc, schemas.RecommendRequest(user="u3"))
    there, sent = respond(svc, schemas.RecommendRequest(user="u3"), schemas.RecommendRequest(history=["i30"]))
    assert scores(there) == scores(sent)


@pytest.mark.parametrize("route", ["recommend", "explain"])
def test_models_are_loaded_outside_the_engine_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    shutil.copytree(artifact_folder("ease"), tmp_path / "ease")
    svc = service("sasrec", library=tmp_path)
    threads: list[str] = []
    load = svc.models._load_from_library

    def record_thread(*args: Any) -> Any:
        threads.append(threading.current_thread().name)
        return load(*args)

    monkeypatch.setattr(svc.models, "_load_from_library", record_thread)
    request = {"user": "u1", "model": "ease"} | ({"item": "i1"} if route == "explain" else {})
    with TestClient(create_app(svc)) as client:
        for _ in range(2):
            assert client.post(f"/v1/{route}", json=request).json()["model"]["name"] == "ease"
    assert [name.rpartition("_")[0] for name in threads] == ["segue-model-loader"]


def test_unreadable_model_fails_only_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    svc = service("sasrec")
    find = svc.models.find

    def find_lost(name: str | None) -> Any:
        if name == "lost":
            raise PermissionError(name)
        return find(name)

    monkeypatch.setattr(svc.models, "find", find_lost)
    good, bad = respond(
        svc, schemas.RecommendRequest(history=["i1"]), schemas.RecommendRequest(history=["i1"], model="lost")
    )
    assert isinstance(bad, PermissionError)
    assert len(good.items) == 10


def plan(folder: Path, shadow: str | None = None) -> Path:
    variants = {"control": {"model": "sasrec", "share": 0.5}, "other": {"model": "ease", "share": 0.5}}
    (folder / "plan.json").write_text(
        json.dumps({"experiments": [{"name": "a", "variants": variants} | ({"shadow": shadow} if shadow else {})]})
    )
    return folder / "plan.json"


def test_explanation_uses_the_model_assigned_to_the_user(tmp_path: Path) -> None:
    svc = service("sasrec", "ease")
    with TestClient(create_app(svc, experiments=Experiments(plan(tmp_path), svc.models.keep_loaded))) as client:
        for user in range(8):
            response = client.post("/v1/recommend", json={"user": f"u{user}"}).json()
            why = client.post("/v1/explain", json={"user": f"u{user}", "item": response["items"][0]["id"]}).json()
            assert (why["model"], why["position"]) == (response["model"], 1)


def test_exposures_wait_for_a_slow_store_within_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ExposureRecorder", partial(ExposureRecorder, max_exposures=3))
    svc, released, stored = service("sasrec", "ease"), threading.Event(), []
    monkeypatch.setattr(svc.store, "record_exposures", lambda exposures: (released.wait(60), stored.extend(exposures)))
    with TestClient(create_app(svc, experiments=Experiments(plan(tmp_path, "ease"), svc.models.keep_loaded))) as client:
        for user in range(8):
            assert client.post("/v1/recommend", json={"user": f"u{user}"}).status_code == 200
        assert 'segue_exposures_total{result="dropped"} 5.0' in client.get("/metrics").text
        released.set()
    assert [exposure.user for exposure in stored] == ["u0", "u1", "u2"]


def test_shutdown_does_not_wait_forever_for_a_slow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    svc, released, finished = service("sasrec", "ease", drain_seconds=0), threading.Event(), []
    monkeypatch.setattr(svc.store, "record_exposures", lambda exposures: finished.append(released.wait(60)))
    with TestClient(create_app(svc, experiments=Experiments(plan(tmp_path), svc.models.keep_loaded))) as client:
        client.post("/v1/recommend", json={"user": "u1"})
    assert not finished, "the store is still blocked"
    released.set()


def test_shadow_responses_are_not_counted() -> None:
    svc = service("sasrec")
    request = schemas.RecommendRequest(user="u1", k=5)
    for is_shadow in (False, True, True):
        assert len(svc.recommend([PendingRequest(request, monotonic() + 60, is_shadow)])[0].items) == 5
    assert (
        len(svc.recommend([PendingRequest(request, monotonic() + 60, is_shadow) for is_shadow in (True, False)])) == 2
    )
    text = svc.metrics.render()[0].decode()
    for line in (
        'segue_recommend_responses_total{cause="none",source="model"} 2.0',
        'segue_recommend_requests_total{user="known"} 2.0',
        'segue_served_items_total{model="sasrec"} 10.0',
    ):
        assert line in text


class FailingEngine:
    """An engine whose model fails."""

    name = "failing"

    def __init__(self, model: Any, encode: Any) -> None:
        self.model = SimpleNamespace(schema=model.schema, vectors=model.vectors, bias=model.bias, encode=encode)
        self.model.score = encode


def with_failing_engine(svc: Service, encode: Any) -> Service:
    artifact = svc.models.active.artifact
    object.__setattr__(artifact, "engine", FailingEngine(artifact.engine.model, encode))
    return svc


def fail(queries: Any) -> Any:
    raise RuntimeError("the engine is gone")


def test_unavailable_fallback_model_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    svc = with_failing_engine(service("sasrec", "ease", fallback="ease"), fail)
    build = svc.query_builder.build

    def build_except_ease(artifact: Any, requests: Any, **options: Any) -> Any:
        if artifact.name == "ease":
            raise OSError("no such file")
        return build(artifact, requests, **options)

    monkeypatch.setattr(svc.query_builder, "build", build_except_ease)
    responses = respond(svc, schemas.RecommendRequest(history=["i1"]), schemas.RecommendRequest(history=["i2"]))
    assert [response.source for response in responses] == ["neighbors"] * 2
    assert 'segue_recommend_requests_total{user="none"} 2.0' in svc.metrics.render()[0].decode()


def test_failures_are_not_retried_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [monotonic()]

    def slow(queries: Any) -> Any:
        clock[0] += 0.3
        raise RuntimeError("the engine is gone")

    svc = with_failing_engine(service("sasrec"), slow)
    monkeypatch.setattr("segue.serving.service.time", SimpleNamespace(monotonic=lambda: clock[0]))
    start = clock[0]
    responses = svc.recommend([PendingRequest(schemas.RecommendRequest(history=["i1"]), start + 0.5)] * 8)
    assert {response.source for response in responses} <= {"neighbors", "popular"}
    assert clock[0] - start < 0.7  # the whole batch, and one half
