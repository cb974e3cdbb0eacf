"""Which keys may use which route: every route of the service, with every scope."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
from starlette.testclient import TestClient

from segue.serving.app import create_app
from segue.serving.auth.api_keys import SCOPES, ApiKeys, create_key
from segue.serving.auth.scopes import required_scopes
from segue.serving.route_templates import _iter_routes
from tests.serving.secured_app import bearer
from tests.serving.world import service

EVENT = {"user": "u1", "item": "i1"}
ROUTES: dict[tuple[str, str], tuple[str, Any]] = {
    ("GET", "/"): ("public", None),
    ("GET", "/healthz"): ("public", None),
    ("GET", "/readyz"): ("public", None),
    ("GET", "/docs"): ("public", None),
    ("GET", "/openapi.json"): ("public", None),
    ("GET", "/page/app.js"): ("public", None),
    ("GET", "/static/swagger-ui.css"): ("public", None),
    ("GET", "/metrics"): ("read admin", None),
    ("POST", "/v1/recommend"): ("recommend read", {"history": ["i1"]}),
    ("POST", "/v1/recommend/batch"): ("recommend read", {"requests": [{"history": ["i1"]}]}),
    ("POST", "/v1/predict"): ("recommend read", {"rows": [{"x": 1}]}),
    ("GET", "/v1/items"): ("recommend read", None),
    ("GET", "/v1/items/i1"): ("recommend read", None),
    ("GET", "/v1/items/i1/similar"): ("recommend read", None),
    ("POST", "/v1/explain"): ("read", {"history": ["i1"], "item": "i2"}),
    ("GET", "/v1/users"): ("read", None),
    ("GET", "/v1/users/u1"): ("read", None),
    ("GET", "/v1/models"): ("read", None),
    ("GET", "/v1/stats"): ("read", None),
    ("POST", "/v1/events"): ("write", EVENT),
    ("POST", "/v1/events/batch"): ("write", {"events": [EVENT]}),
    ("DELETE", "/v1/users/u1"): ("write", None),
    ("POST", "/v1/items"): ("write", {"items": [{"id": "i1"}]}),
    ("DELETE", "/v1/items/i1"): ("write", None),
    ("POST", "/v1/models/ease/activate"): ("admin", None),
    ("POST", "/v1/models/rollback"): ("admin", None),
}
"""Method and an example of the path of each route: the scopes of which a key needs one, and a valid body."""

TEMPLATES = {"i1": "{id:path}", "u1": "{id:path}", "ease": "{name:path}"}
MOUNTS = {"/page", "/static"}


def template_of(path: str) -> str:
    """Return the template of a path, or the mount that contains it."""
    mount = next((mount for mount in MOUNTS if path.startswith(f"{mount}/")), None)
    return mount or "/".join(TEMPLATES.get(part, part) for part in path.split("/"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    return path, {scope: create_key(path, scope, [scope]) for scope in SCOPES}


@pytest.fixture(scope="module")
def client(keys: tuple[Path, dict[str, str]]) -> Iterator[TestClient]:
    with TestClient(create_app(service("ease", max_user_events=20), keys=ApiKeys(keys[0]))) as client:
        yield client


def test_every_route_is_listed(client: TestClient) -> None:
    app: Any = client.app
    found = {
        ("GET" if is_mount else method, path)
        for path, is_mount, methods in _iter_routes(app.routes)
        for method in ([""] if is_mount else methods)
        if method != "HEAD"
    }
    assert found == {(method, template_of(path)) for method, path in ROUTES}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_routes_require_their_scopes(
    client: TestClient, keys: tuple[Path, dict[str, str]], method: str, path: str
) -> None:
    scopes, body = ROUTES[method, path]
    required = set() if scopes == "public" else set(scopes.split())
    assert required_scopes(method, path) == required
    if method == "GET":
        assert required_scopes("HEAD", path) == required
    status = client.request(method, path, json=body).status_code
    assert status == (200 if scopes == "public" else 401)
    for scope, token in keys[1].items():
        response = client.request(method, path, json=body, headers=bearer(token))
        if required and scope not in required:
            assert response.status_code == 403
            assert response.json()["message"] == f"this API key lacks the scope {' or '.join(sorted(required))}"
        else:
            # nothing was added that could be removed
            expected = (404,) if (method, path) == ("DELETE", "/v1/items/i1") else (200, 409)
            assert response.status_code in expected, response.text


def test_recommend_key_sees_no_history_and_no_users(client: TestClient, keys: tuple[Path, dict[str, str]]) -> None:
    """Everything that shows the events or the ids of users needs another scope."""
    allowed = {path for (_, path), (scopes, _) in ROUTES.items() if "recommend" in scopes.split()}
    assert not [path for path in allowed if "users" in path or "explain" in path or "events" in path]
    response = client.post("/v1/recommend", json={"user": "u1", "k": 3}, headers=bearer(keys[1]["recommend"]))
    assert response.status_code == 200
    assert response.json().keys() == {"items", "model", "source", "filtered_counts", "unknown", "notes"}
    assert client.get("/v1/users/u1", headers=bearer(keys[1]["recommend"])).status_code == 403


def test_scopes_are_documented_in_openapi(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    listed = {
        (method.upper(), path): operation["security"][0]["bearer"]
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    for (method, path), (scopes, _) in ROUTES.items():
        if path.startswith("/v1/") and path != "/v1/predict":  # is refused here, and not described
            template = template_of(path).replace(":path", "")
            assert listed[method, template] == sorted(scopes.split())


RECOMMEND_PATHS: dict[str, Any] = {
    "/v1/recommend": lambda request: request,
    "/v1/recommend/batch": lambda request: {"requests": [{"history": ["i1"]}, request]},
}


@pytest.mark.parametrize("path", RECOMMEND_PATHS)
@pytest.mark.parametrize("fields", [{"include_seen": True}, {"exclude_seen": False}])
def test_recommend_key_cannot_include_seen_items_of_a_user(
    client: TestClient, keys: tuple[Path, dict[str, str]], path: str, fields: dict[str, bool]
) -> None:
    """The difference between the lists with and without seen items is the history."""

    def send(scope: str, request: dict[str, Any]) -> Any:
        return client.post(path, json=RECOMMEND_PATHS[path](request), headers=bearer(keys[1][scope]))

    for user in ("u4", "nobody"):  # known or not
        refused = send("recommend", {"user": user, "k": 40, **fields})
        assert refused.status_code == 403
        name = "include_seen" if path == "/v1/recommend" else "requests[1].include_seen"
        assert refused.json()["fields"].keys() == {name}
        assert "lacks the scope read" in refused.json()["message"]
        assert send("read", {"user": user, "k": 40, **fields}).status_code == 200
    assert send("recommend", {"user": "u1", "history": ["i1"], **fields}).status_code == 200


@pytest.mark.parametrize("rules", [{}, {"diversify": 0.5}])
def test_recommend_key_gets_no_facts_about_a_history(
    client: TestClient, keys: tuple[Path, dict[str, str]], rules: dict[str, Any]
) -> None:
    items = [*[f"i{number}" for number in range(2, 24)], "not-in-the-catalog"]
    body = {"events": [{"user": "u5", "item": item} for item in items]}
    assert client.post("/v1/events/batch", json=body, headers=bearer(keys[1]["write"])).status_code == 200
    found = {
        scope: client.post(
            "/v1/recommend", json={"user": "u5", "deny": ["i2", "x"], **rules}, headers=bearer(keys[1][scope])
        ).json()
        for scope in ("recommend", "read")
    }
    assert found["read"]["filtered_counts"]["seen"] > 0
    assert found["recommend"]["filtered_counts"] == {"deny": 1}
    assert set(found["read"]["unknown"]["items"]) == {"not-in-the-catalog", "x"}
    assert found["recommend"]["unknown"]["items"] == ["x"]
    assert any("the user has" in note for note in found["read"]["notes"])
    assert not any("the user has" in note for note in found["recommend"]["notes"])
    assert found["recommend"]["items"] == found["read"]["items"]
