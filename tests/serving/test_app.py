"""HTTP API of the service."""

import itertools
import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from servers import eventually
from starlette.testclient import TestClient

from segue.serving import app, schemas
from segue.serving.app import create_app
from segue.serving.auth.api_keys import ApiKeys, create_key
from segue.serving.experiments.assignment import Experiments
from segue.serving.stores.store import OUTCOME_UNKNOWN, StoreError, UserState
from tests.serving.world import artifact_folder, service


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app(service("sasrec", "ease"))) as found:
        yield found


def parse_json(response: Any, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def test_events_affect_the_next_response(client: TestClient) -> None:
    first = parse_json(client.post("/v1/recommend", json={"user": "u1", "k": 3}))
    assert [len(first["items"]), first["source"], first["model"]["name"]] == [3, "model", "sasrec"]
    assert 0 < first["items"][0]["probability"] < 1
    assert first["items"][0]["title"].startswith("Title ")
    best = first["items"][0]["id"]
    result = parse_json(client.post("/v1/events", json={"user": "u1", "item": best, "key": "a"}))
    assert result == {"accepted": 1, "duplicates": 0, "unknown_items": [], "conflicts": [], "notes": []}
    again = parse_json(client.post("/v1/events", json={"user": "u1", "item": best, "key": "a"}))
    assert again["duplicates"] == 1
    second = parse_json(client.post("/v1/recommend", json={"user": "u1", "k": 3}))
    assert best not in [item["id"] for item in second["items"]]


def test_recommend_batch(client: TestClient) -> None:
    requests = [{"user": f"u{user}", "k": 2} for user in range(5)] + [{"history": ["i1"], "k": 4}]
    responses = parse_json(client.post("/v1/recommend/batch", json={"requests": requests}))["responses"]
    alone = [parse_json(client.post("/v1/recommend", json=request)) for request in requests]
    for response, other in zip(responses, alone, strict=True):
        scores = [pytest.approx([item.pop("score") for item in one["items"]]) for one in (response, other)]
        shares = [pytest.approx([item.pop("probability") for item in one["items"]]) for one in (response, other)]
        assert [response, scores[0].expected, shares[0].expected] == [other, scores[1], shares[1]]
    bad = parse_json(
        client.post("/v1/recommend/batch", json={"requests": [{"user": "u1"}, {"user": "u1", "k": 999}]}), 422
    )
    assert bad["fields"] == {"requests[1].k": "got 999, expected at most 200"}
    bad = parse_json(client.post("/v1/recommend/batch", json={"requests": [{"user": "u1"}, {"model": "x"}]}), 422)
    assert list(bad["fields"]) == ["requests[1].model"]


def test_event_batches_are_atomic(client: TestClient) -> None:
    events = [{"user": "u1", "item": f"i{item}", "time": 100 + item, "value": 3.5} for item in range(3)]
    assert parse_json(client.post("/v1/events/batch", json={"events": events}))["accepted"] == 3
    parse_json(client.post("/v1/events/batch", json={"events": [*events, {"user": "u1"}]}), 422)
    user = parse_json(client.get("/v1/users/u1?limit=3"))
    assert [event["item"] for event in user["events"]] == ["i0", "i1", "i2"]
    assert [event["value"] for event in user["events"]] == [3.5] * 3
    assert parse_json(client.post("/v1/events", json={"user": "u1", "item": "missing"}))["unknown_items"] == ["missing"]
    assert parse_json(client.get("/v1/users/u1"))["total"] == user["total"] + 1


def test_show_and_delete_a_user(client: TestClient) -> None:
    before = parse_json(client.get("/v1/users/u1"))
    assert before["known"]
    assert {event["origin"] for event in before["events"]} == {"training"}
    parse_json(client.post("/v1/events", json={"user": "u1", "item": "i2"}))
    assert parse_json(client.delete("/v1/users/u1")) == {"id": "u1", "deleted_events": 1, "erased": True, "notes": []}
    after = parse_json(client.get("/v1/users/u1"))
    assert [after["known"], after["events"], after["total"], after["deleted"]] == [False, [], 0, True]
    assert parse_json(client.post("/v1/recommend", json={"user": "u1"}))["unknown"]["user"]
    assert parse_json(client.get("/v1/users?query=u1&limit=3")) == {"users": ["u10", "u11", "u12"]}
    for number in range(60):
        if number != 37:
            client.delete(f"/v1/users/u{number}")
    assert parse_json(client.get("/v1/users?limit=3")) == {"users": ["u37"]}


def test_search_items_and_similar_items(client: TestClient) -> None:
    assert parse_json(client.get("/v1/items?query=title 13"))["items"][0]["id"] == "i13"
    item = parse_json(client.get("/v1/items/i13"))
    assert item["features"] == {"genres": ["Drama"], "year": 2003}
    similar = parse_json(client.get("/v1/items/i13/similar?k=4"))["items"]
    assert len(similar) == 4
    assert all(int(one["id"][1:]) < 20 and one["similarity"] <= 1 for one in similar)
    parse_json(client.get("/v1/items/missing"), 404)
    parse_json(client.get("/v1/items/missing/similar"), 404)


def test_explain(client: TestClient) -> None:
    best = parse_json(client.post("/v1/recommend", json={"user": "u1"}))["items"][0]["id"]
    explanation = parse_json(client.post("/v1/explain", json={"user": "u1", "item": best}))
    assert explanation["recommended"]
    assert explanation["position"] == 1
    assert explanation["attributions"]
    seen = parse_json(client.get("/v1/users/u1"))["events"][0]["item"]
    seen_explanation = parse_json(client.post("/v1/explain", json={"user": "u1", "item": seen}))
    assert not seen_explanation["recommended"]
    assert seen_explanation["reasons"]
    parse_json(client.post("/v1/explain", json={"user": "u1", "item": "missing"}), 404)
    parse_json(client.post("/v1/explain", json={"user": "u1", "item": best, "model": "missing"}), 422)


def test_list_activate_and_roll_back_models(client: TestClient) -> None:
    parse_json(client.post("/v1/models/rollback"), 409)
    models = parse_json(client.get("/v1/models"))
    assert [(one["name"], one["active"]) for one in models["models"]] == [("sasrec", True), ("ease", False)]
    assert parse_json(client.post("/v1/models/ease/activate"))["previous"] == "sasrec"
    assert parse_json(client.post("/v1/recommend", json={"user": "u1"}))["model"]["name"] == "ease"
    assert parse_json(client.post("/v1/models/rollback"))["previous"] == "ease"
    assert parse_json(client.post("/v1/recommend", json={"user": "u1"}))["model"]["name"] == "sasrec"
    parse_json(client.post("/v1/models/missing/activate"), 404)


def test_health_metrics_and_stats(client: TestClient) -> None:
    parse_json(client.get("/healthz"))
    parse_json(client.get("/readyz"))
    parse_json(client.post("/v1/recommend", json={"user": "u1"}))
    metrics = client.get("/metrics").text
    assert 'segue_request_duration_seconds_count{method="POST",route="/v1/recommend",status="2xx"} 1.0' in metrics
    assert "segue_requests_in_flight 1.0" in metrics
    stats = schemas.LiveStats.model_validate_json(client.get("/v1/stats").text)
    assert stats.sources == {"model": 1}
    assert stats.in_flight == 1  # this request
    assert stats.p50_ms is not None


def test_an_unavailable_store_gives_503(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("ease")

    def unavailable(*_: Any) -> Any:
        raise StoreError("unavailable")

    with TestClient(create_app(it)) as other:
        for name in ("append", "recent_events", "delete_user"):
            monkeypatch.setattr(it.store, name, unavailable)
        for response in (
            other.post("/v1/events", json={"user": "u1", "item": "i1"}),
            other.get("/v1/users/u1"),
            other.delete("/v1/users/u1"),
        ):
            assert parse_json(response, 503)["error"] == "overloaded"
            assert int(response.headers["retry-after"]) >= 1
        assert parse_json(other.post("/v1/recommend", json={"user": "u1"}))["notes"]


def test_an_unknown_outcome_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("ease")

    def lose_connection(*_: Any) -> Any:
        raise StoreError(f"lost; {OUTCOME_UNKNOWN}")

    monkeypatch.setattr(it.store, "append", lose_connection)
    with TestClient(create_app(it)) as other:
        assert (
            OUTCOME_UNKNOWN in parse_json(other.post("/v1/events", json={"user": "u1", "item": "i1"}), 503)["message"]
        )


def test_store_failures_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("ease", "sasrec")

    def unavailable(*_: Any) -> Any:
        raise StoreError("unavailable")

    with TestClient(create_app(it)) as other:
        for name in ("recent_events", "delete_user", "put_setting"):
            monkeypatch.setattr(it.store, name, unavailable)
        parse_json(other.post("/v1/explain", json={"user": "u1", "item": "i1"}), 503)
        parse_json(other.get("/v1/users/u1"), 503)
        parse_json(other.delete("/v1/users/u1"), 503)
        parse_json(other.post("/v1/models/sasrec/activate"), 503)
        metrics = other.get("/metrics").text
    assert 'segue_errors_total{kind="store"} 4.0' in metrics
    for name in ("recent_events", "delete_user", "put_setting"):
        assert f'segue_store_failures_total{{operation="{name}",store="sqlite"}} 1.0' in metrics


def test_a_silent_store_does_not_block_other_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    it, resume = service("ease"), threading.Event()
    recent_events = it.store.recent_events

    def silent(*arguments: Any) -> Any:
        resume.wait(60)
        return recent_events(*arguments)

    monkeypatch.setattr(it.store, "recent_events", silent)
    with TestClient(create_app(it)) as other, ThreadPoolExecutor(40) as pool:
        users = [pool.submit(other.get, "/v1/users/u1") for _ in range(40)]
        for path in ("/metrics", "/v1/items", "/v1/models"):
            assert other.get(path).status_code == 200
        assert not any(user.done() for user in users)
        resume.set()
        assert {user.result().status_code for user in users} == {200}


def test_activations_of_other_processes_are_adopted(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'store.sqlite'}"
    one, two = (service("ease", "sasrec", store=address) for _ in range(2))
    one.models.activate("sasrec")
    with TestClient(create_app(two)) as other:  # before it has synchronized
        assert parse_json(other.post("/v1/models/ease/activate"))["previous"] == "sasrec"
        one.models.sync_active()
        assert one.models.active.info.name == "ease"
        assert parse_json(other.post("/v1/models/rollback"))["previous"] == "ease"
        assert "segue_model_activations_total 2.0" in other.get("/metrics").text


def test_the_running_service_deletes_old_states_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 60 <= app.PRUNE_SECONDS <= 86_400
    monkeypatch.setattr(app, "PRUNE_SECONDS", 0.01)
    svc = service("popular")
    prune_states, calls = svc.prune_states, itertools.count()

    def fail_once() -> int:
        if next(calls) == 0:
            raise StoreError("unreachable")
        return prune_states()

    def put_old_state(user: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: 1_000_000.0)
            svc.store.wrapped.put_states({user: UserState("m", 1, b"old")})

    monkeypatch.setattr(svc, "prune_states", fail_once)
    svc.store.put_states({"new": UserState("m", 1, b"new")})
    put_old_state("u1")
    with TestClient(create_app(svc)):
        eventually(lambda: svc.store.get_states(["u1"], "m") == [None])
        put_old_state("u2")
        eventually(lambda: svc.store.get_states(["u2"], "m") == [None])
        assert svc.store.get_states(["new"], "m") == [UserState("m", 1, b"new")]


def test_api_keys_and_scopes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    reader, admin = create_key(path, "reader", ["read"]), create_key(path, "admin", ["admin"])
    with TestClient(create_app(service("ease", "sasrec"), keys=ApiKeys(path))) as client:
        parse_json(client.get("/healthz"))
        assert client.get("/").status_code == 200
        parse_json(client.post("/v1/recommend", json={"user": "u1"}), 401)
        by_reader, by_admin = ({"Authorization": f"Bearer {key}"} for key in (reader, admin))
        parse_json(client.post("/v1/recommend", json={"user": "u1"}, headers=by_reader))
        parse_json(client.post("/v1/events", json={"user": "u1", "item": "i1"}, headers=by_reader), 403)
        parse_json(client.post("/v1/models/sasrec/activate", headers=by_reader), 403)
        parse_json(client.post("/v1/models/sasrec/activate", headers=by_admin))


def test_experiments_assign_models_and_record_exposures(tmp_path: Path) -> None:
    config = {
        "experiments": [
            {
                "name": "first",
                "variants": {"control": {"model": "sasrec", "share": 0.5}, "other": {"model": "ease", "share": 0.5}},
                "shadow": "ials",
            }
        ]
    }
    path = tmp_path / "experiments.json"
    path.write_text(json.dumps(config))
    it = service("sasrec", "ease", "ials")
    shown = {}
    store = it.store
    close, it.store.close = store.close, lambda: None  # type: ignore[method-assign]
    with TestClient(create_app(it, experiments=Experiments(path, it.models.keep_loaded, store))) as client:
        for user in range(30):
            response = parse_json(client.post("/v1/recommend", json={"user": f"u{user}", "k": 3}))
            shown[f"u{user}"] = response["model"]["name"], tuple(item["id"] for item in response["items"])
        parse_json(client.post("/v1/recommend", json={"history": ["i1"]}))
        parse_json(client.post("/v1/recommend", json={"user": "u1", "model": "ials"}))
    assert {model for model, _ in shown.values()} == {"sasrec", "ease"}
    models = {"control": "sasrec", "other": "ease"}
    assert {e.user: (models[e.variant], e.items) for e in store.exposures("first")} == shown
    close()


def test_api_docs_load_nothing_from_other_sites(client: TestClient) -> None:
    schema = parse_json(client.get("/openapi.json"))
    assert set(schema["paths"]) >= {"/v1/recommend", "/v1/events", "/v1/explain", "/v1/models/{name}/activate"}
    page = client.get("/docs").text
    assert "http" not in page
    for asset in ("/static/swagger-ui-bundle.js", "/static/swagger-ui.css", "/page/docs.js"):
        assert client.get(asset).status_code == 200
        assert asset in page


def test_library_models_are_loaded_on_demand(tmp_path: Path) -> None:
    shutil.copytree(artifact_folder("ease"), tmp_path / "ease")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "artifact.json").write_text("{}")
    it = service("sasrec", library=tmp_path)
    assert it.models.names() == ["sasrec", "ease"], "what cannot be loaded is not suggested as known"
    assert it.models.has("broken")
    with TestClient(create_app(it)) as client:
        models = parse_json(client.get("/v1/models"))["models"]
        assert [(one["name"], one["loaded"], one["items"]) for one in models] == [
            ("sasrec", True, 40),
            ("ease", False, None),
        ]
        parse_json(client.post("/v1/models/broken/activate"), 409)
        assert parse_json(client.post("/v1/recommend", json={"user": "u1"}))["model"]["name"] == "sasrec"
        parse_json(client.post("/v1/models/ease/activate"))
        assert parse_json(client.post("/v1/recommend", json={"user": "u1"}))["model"]["name"] == "ease"
