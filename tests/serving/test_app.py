"""The service over HTTP, as its interface describes it."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from segue.serving import schemas
from segue.serving.app import create
from segue.serving.auth.api_keys import Keys, make
from segue.serving.experiments.assignment import Experiments
from segue.serving.stores.store import UNSURE, StoreError
from tests.serving.world import published, service


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create(service("sasrec", "ease"))) as found:
        yield found


def told(answer: Any, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_question_an_event_and_the_next_answer(client: TestClient) -> None:
    first = told(client.post("/v1/recommend", json={"user": "u1", "k": 3}))
    assert [len(first["items"]), first["step"], first["model"]["name"]] == [3, "model", "sasrec"]
    assert 0 < first["items"][0]["probability"] < 1
    assert first["items"][0]["title"].startswith("Title ")
    best = first["items"][0]["id"]
    taken = told(client.post("/v1/events", json={"user": "u1", "item": best, "key": "a"}))
    assert taken == {"accepted": 1, "duplicates": 0, "unknown_items": []}
    again = told(client.post("/v1/events", json={"user": "u1", "item": best, "key": "a"}))
    assert again["duplicates"] == 1
    second = told(client.post("/v1/recommend", json={"user": "u1", "k": 3}))
    assert best not in [item["id"] for item in second["items"]]


def test_many_at_once(client: TestClient) -> None:
    questions = [{"user": f"u{user}", "k": 2} for user in range(5)] + [{"history": ["i1"], "k": 4}]
    answers = told(client.post("/v1/recommend/batch", json={"questions": questions}))["answers"]
    alone = [told(client.post("/v1/recommend", json=question)) for question in questions]
    for answer, other in zip(answers, alone, strict=True):
        scores = [pytest.approx([item.pop("score") for item in one["items"]]) for one in (answer, other)]
        shares = [pytest.approx([item.pop("probability") for item in one["items"]]) for one in (answer, other)]
        assert [answer, scores[0].expected, shares[0].expected] == [other, scores[1], shares[1]]
    bad = told(client.post("/v1/recommend/batch", json={"questions": [{"user": "u1"}, {"user": "u1", "k": 999}]}), 422)
    assert bad["fields"] == {"questions[1].k": "got 999, expected at most 200"}
    bad = told(client.post("/v1/recommend/batch", json={"questions": [{"user": "u1"}, {"model": "x"}]}), 422)
    assert list(bad["fields"]) == ["questions[1].model"]


def test_many_events_are_kept_all_or_none(client: TestClient) -> None:
    events = [{"user": "u1", "item": f"i{item}", "time": 100 + item, "value": 3.5} for item in range(3)]
    assert told(client.post("/v1/events/batch", json={"events": events}))["accepted"] == 3
    told(client.post("/v1/events/batch", json={"events": [*events, {"user": "u1"}]}), 422)
    person = told(client.get("/v1/users/u1?limit=3"))
    assert [event["item"] for event in person["events"]] == ["i0", "i1", "i2"]
    assert [event["value"] for event in person["events"]] == [3.5] * 3
    assert told(client.post("/v1/events", json={"user": "u1", "item": "nix"}))["unknown_items"] == ["nix"]
    assert told(client.get("/v1/users/u1"))["total"] == person["total"] + 1


def test_a_user_is_shown_and_deleted(client: TestClient) -> None:
    before = told(client.get("/v1/users/u1"))
    assert before["known"]
    assert {event["source"] for event in before["events"]} == {"training"}
    told(client.post("/v1/events", json={"user": "u1", "item": "i2"}))
    assert told(client.delete("/v1/users/u1")) == {"id": "u1", "events": 1}
    after = told(client.get("/v1/users/u1"))
    assert [after["known"], after["events"], after["total"], after["forgotten"]] == [False, [], 0, True]
    assert told(client.post("/v1/recommend", json={"user": "u1"}))["unknown"]["user"]
    assert told(client.get("/v1/users?query=u1&limit=3")) == {"users": ["u1", "u10", "u11"]}


def test_items_are_found_and_have_neighbours(client: TestClient) -> None:
    assert told(client.get("/v1/items?query=title 13"))["items"][0]["id"] == "i13"
    item = told(client.get("/v1/items/i13"))
    assert item["features"] == {"genres": ["Drama"], "year": 2003}
    near = told(client.get("/v1/items/i13/similar?k=4"))["items"]
    assert len(near) == 4
    assert all(int(one["id"][1:]) < 20 and one["likeness"] <= 1 for one in near)
    told(client.get("/v1/items/nix"), 404)
    told(client.get("/v1/items/nix/similar"), 404)


def test_why_and_why_not(client: TestClient) -> None:
    best = told(client.post("/v1/recommend", json={"user": "u1"}))["items"][0]["id"]
    why = told(client.post("/v1/explain", json={"user": "u1", "item": best}))
    assert why["recommended"]
    assert why["place"] == 1
    assert why["influences"]
    seen = told(client.get("/v1/users/u1"))["events"][0]["item"]
    not_again = told(client.post("/v1/explain", json={"user": "u1", "item": seen}))
    assert not not_again["recommended"]
    assert not_again["reasons"]
    told(client.post("/v1/explain", json={"user": "u1", "item": "nix"}), 404)
    told(client.post("/v1/explain", json={"user": "u1", "item": best, "model": "nix"}), 422)


def test_models_are_listed_activated_and_rolled_back(client: TestClient) -> None:
    told(client.post("/v1/models/rollback"), 409)
    models = told(client.get("/v1/models"))
    assert [(one["name"], one["active"]) for one in models["models"]] == [("sasrec", True), ("ease", False)]
    assert told(client.post("/v1/models/ease/activate"))["previous"] == "sasrec"
    assert told(client.post("/v1/recommend", json={"user": "u1"}))["model"]["name"] == "ease"
    assert told(client.post("/v1/models/rollback"))["previous"] == "ease"
    assert told(client.post("/v1/recommend", json={"user": "u1"}))["model"]["name"] == "sasrec"
    told(client.post("/v1/models/nix/activate"), 404)


def test_health_metrics_and_the_figures_of_the_page(client: TestClient) -> None:
    told(client.get("/healthz"))
    told(client.get("/readyz"))
    told(client.post("/v1/recommend", json={"user": "u1"}))
    metrics = client.get("/metrics").text
    assert 'segue_request_seconds_count{method="POST",route="/v1/recommend",status="2xx"} 1.0' in metrics
    assert "segue_requests_in_flight 1.0" in metrics
    live = schemas.Live.model_validate_json(client.get("/v1/live").text)
    assert live.steps == {"model": 1}
    assert live.in_flight == 1  # this very look
    assert live.p50_ms is not None


def test_a_store_that_is_gone_is_503_for_what_needs_it(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("ease")

    def gone(*_: Any) -> Any:
        raise StoreError("gone")

    with TestClient(create(it)) as other:
        for name in ("append", "kept", "forget"):
            monkeypatch.setattr(it.store, name, gone)
        for answer in (
            other.post("/v1/events", json={"user": "u1", "item": "i1"}),
            other.get("/v1/users/u1"),
            other.delete("/v1/users/u1"),
        ):
            assert told(answer, 503)["error"] == "busy"
            assert int(answer.headers["retry-after"]) >= 1
        assert told(other.post("/v1/recommend", json={"user": "u1"}))["notes"]


def test_what_is_not_known_to_be_done_is_not_said_to_be_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("ease")

    def lost(*_: Any) -> Any:
        raise StoreError(f"lost; {UNSURE}")

    monkeypatch.setattr(it.store, "append", lost)
    with TestClient(create(it)) as other:
        assert UNSURE in told(other.post("/v1/events", json={"user": "u1", "item": "i1"}), 503)["message"]


def test_failures_of_the_store_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("ease", "sasrec")

    def gone(*_: Any) -> Any:
        raise StoreError("gone")

    with TestClient(create(it)) as other:
        for name in ("kept", "forget", "put"):
            monkeypatch.setattr(it.store, name, gone)
        told(other.post("/v1/explain", json={"user": "u1", "item": "i1"}), 503)
        told(other.get("/v1/users/u1"), 503)
        told(other.delete("/v1/users/u1"), 503)
        told(other.post("/v1/models/sasrec/activate"), 503)
        metrics = other.get("/metrics").text
    assert 'segue_errors_total{kind="store"} 4.0' in metrics
    for name in ("kept", "forget", "put"):
        assert f'segue_store_failures_total{{operation="{name}",store="sqlite"}} 1.0' in metrics


def test_a_silent_store_keeps_nobody_from_metrics_and_items(monkeypatch: pytest.MonkeyPatch) -> None:
    it, speaks = service("ease"), threading.Event()
    kept = it.store.kept

    def silent(*given: Any) -> Any:
        speaks.wait(60)
        return kept(*given)

    monkeypatch.setattr(it.store, "kept", silent)
    with TestClient(create(it)) as other, ThreadPoolExecutor(40) as pool:
        people = [pool.submit(other.get, "/v1/users/u1") for _ in range(40)]
        for path in ("/metrics", "/v1/items", "/v1/models"):
            assert other.get(path).status_code == 200
        assert not any(person.done() for person in people)
        speaks.set()
        assert {person.result().status_code for person in people} == {200}


def test_a_change_knows_what_another_process_changed(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'store.sqlite'}"
    one, two = (service("ease", "sasrec", store=address) for _ in range(2))
    one.shelf.activate("sasrec")
    with TestClient(create(two)) as other:  # before it has looked
        assert told(other.post("/v1/models/ease/activate"))["previous"] == "sasrec"
        one.shelf.follow()
        assert one.shelf.active.version.name == "ease"
        assert told(other.post("/v1/models/rollback"))["previous"] == "ease"
        assert "segue_model_activations_total 2.0" in other.get("/metrics").text


def test_keys_open_what_their_scopes_say(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    reader, admin = make(path, "reader", ["read"]), make(path, "admin", ["admin"])
    with TestClient(create(service("ease", "sasrec"), keys=Keys(path))) as client:
        told(client.get("/healthz"))
        assert client.get("/").status_code == 200
        told(client.post("/v1/recommend", json={"user": "u1"}), 401)
        by_reader, by_admin = ({"Authorization": f"Bearer {key}"} for key in (reader, admin))
        told(client.post("/v1/recommend", json={"user": "u1"}, headers=by_reader))
        told(client.post("/v1/events", json={"user": "u1", "item": "i1"}, headers=by_reader), 403)
        told(client.post("/v1/models/sasrec/activate", headers=by_reader), 403)
        told(client.post("/v1/models/sasrec/activate", headers=by_admin))


def test_an_experiment_sends_users_to_models_and_keeps_what_was_shown(tmp_path: Path) -> None:
    plan = {
        "experiments": [
            {
                "name": "first",
                "variants": {"control": {"model": "sasrec", "share": 0.5}, "other": {"model": "ease", "share": 0.5}},
                "shadow": "ials",
            }
        ]
    }
    path = tmp_path / "experiments.json"
    path.write_text(json.dumps(plan))
    it = service("sasrec", "ease", "ials")
    shown = {}
    kept = it.store
    close, it.store.close = kept.close, lambda: None  # type: ignore[method-assign]
    with TestClient(create(it, experiments=Experiments(path, it.shelf.find, kept))) as client:
        for user in range(30):
            answer = told(client.post("/v1/recommend", json={"user": f"u{user}", "k": 3}))
            shown[f"u{user}"] = answer["model"]["name"], tuple(item["id"] for item in answer["items"])
        told(client.post("/v1/recommend", json={"history": ["i1"]}))
        told(client.post("/v1/recommend", json={"user": "u1", "model": "ials"}))
    assert {model for model, _ in shown.values()} == {"sasrec", "ease"}
    models = {"control": "sasrec", "other": "ease"}
    assert {e.user: (models[e.variant], e.items) for e in kept.exposures("first")} == shown
    close()


def test_the_description_of_the_interface_needs_no_other_site(client: TestClient) -> None:
    schema = told(client.get("/openapi.json"))
    assert set(schema["paths"]) >= {"/v1/recommend", "/v1/events", "/v1/explain", "/v1/models/{name}/activate"}
    page = client.get("/docs").text
    assert "http" not in page
    for asset in ("/static/swagger-ui-bundle.js", "/static/swagger-ui.css", "/page/docs.js"):
        assert client.get(asset).status_code == 200
        assert asset in page


def test_models_of_a_library_are_opened_when_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "ease").symlink_to(published("ease"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "publication.json").write_text("{}")
    it = service("sasrec", library=tmp_path)
    assert it.shelf.names() == ["sasrec", "broken", "ease"]
    with TestClient(create(it)) as client:
        models = told(client.get("/v1/models"))["models"]
        assert [(one["name"], one["opened"], one["items"]) for one in models] == [
            ("sasrec", True, 40),
            ("ease", False, None),
        ]
        told(client.post("/v1/models/broken/activate"), 409)
        assert told(client.post("/v1/recommend", json={"user": "u1"}))["model"]["name"] == "sasrec"
        told(client.post("/v1/models/ease/activate"))
        assert told(client.post("/v1/recommend", json={"user": "u1"}))["model"]["name"] == "ease"
