"""Bodies of more than 32 kB are read in steps on the engine thread, and are answered like small ones."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from segue.serving import schemas
from segue.serving.api import large_bodies
from segue.serving.api.large_bodies import LARGE_BODY_BYTES, LargeBodies, count_values, read_in_steps
from segue.serving.app import create_app
from segue.serving.errors import ApiError
from segue.serving.settings import ServingSettings
from tests.serving import world

EVENT = {"user": "u1", "item": "i1"}
BODIES: list[tuple[str, bytes]] = [
    ("recommend", b'{"user": "u1", "k": 3}'),
    ("recommend", b'{"history": ["i1", {"item": "i2", "value": 4.0}], "k": 3}'),
    ("recommend", b'{"user": "NaN and Infinity", "k": 3}'),
    ("recommend", b'{"user": "u1", "k": NaN}'),
    ("recommend", b'{"user": "u1", "k": -Infinity}'),
    ("recommend", b'{"user": "u1", "user": "u2"}'),
    ("recommend", b'{"user": "u1", "k": 0, "diversify": 7}'),
    ("recommend", b'{"usr": "u1"}'),
    ("recommend", b'{"history": ["i1", null, ["i2"]]}'),
    ("recommend", b"[1, 2]"),
    ("recommend", b"null"),
    ("recommend", b'"text"'),
    ("recommend", b'{"user": u1}'),
    ("recommend", b'{"user": "u1"} {}'),
    ("recommend", '{"user": "u1"}'.encode("utf-16")),
    ("recommend", b'{"user": "\x00"}'),
    ("recommend", b"[" * 20_000),
    ("recommend", b'{"a":' * 6_000),
    ("recommend", b'{"k": ' + b"9" * 20_000 + b"}"),
    ("recommend", b'{"user": ' + b"9" * 20_000 + b"}"),
    ("recommend", b'{"k": 1e999999}'),
    ("recommend/batch", b'{"requests": [{"user": "u1"}, {"history": ["i1"], "k": 2}]}'),
    ("recommend/batch", b'{"requests": [{"user": "u1"}, {"k": "x"}, {"k": "y"}]}'),
    ("recommend/batch", b'{"requests": []}'),
    ("recommend/batch", b'{"requests": {}}'),
    ("recommend/batch", b'{"requests": [{"user": "u1"}], "more": 1}'),
    ("explain", b'{"user": "u1", "item": "i1"}'),
    ("explain", b'{"user": "u1"}'),
    ("events/batch", b'{"events": [{"user": "u1", "item": "i1", "key": "a"}]}'),
    ("events/batch", b'{"events": [{"user": "u1", "item": "i1"}, {"user": "u1"}]}'),
    ("events", b'{"user": "u1", "item": "i1", "key": "b"}'),
    ("events", b'{"user": "u1"}'),
]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(world.service("ease", max_history=20, max_batch_requests=4, max_batch_events=4))) as one:
        yield one


def post(client: TestClient, path: str, body: bytes) -> tuple[int, Any]:
    response = client.post(f"/v1/{path}", content=body, headers={"Content-Type": "application/json"})
    content = response.json()
    for name in ("request_id", "latency_ms", "time"):
        content.pop(name, None)
    return response.status_code, content


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_large_bodies_are_answered_like_small_ones(client: TestClient, path: str, body: bytes) -> None:
    space = " ".encode("utf-16-le") if body.startswith(b"\xff\xfe") else b" "
    post(client, path, body)  # events are new the first time only
    small, large = post(client, path, body), post(client, path, body + space * LARGE_BODY_BYTES)
    assert json.dumps(large) == json.dumps(small)
    assert small[0] in (200, 400, 422)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"k": NaN}', 400),
        ('{"history": [{"item": "a", "value": NaN}]}', 400),
        ('{"profile": {"a": [1, -Infinity]}}', 400),
        ('{"user": "NaN and Infinity"}', 200),
        ('{"NaN": 1}', 422),
        ("NaN", 400),
        ('{"user": "NaN", ', 400),
        ("[" * 90_000 + "NaN", 400),
        ("{}".encode("utf-16"), 400),
        ("{}".encode("utf-32"), 400),
        (b"{\x00}", 400),
    ],
)
def test_nonstandard_json(client: TestClient, body: str | bytes, status: int) -> None:
    content = body.encode() if isinstance(body, str) else body
    assert post(client, "recommend", content)[0] == status


def test_bodies_with_too_many_values_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies, "parse_json", lambda body: pytest.fail("parsed"))
    with TestClient(create_app(world.service("ease", max_body_values=20_000))) as client:
        for value in ("[]", "{}", "1", '{"item": "i1"}'):
            body = f'{{"requests": [{", ".join([value] * 20_000)}]}}'.encode()
            status, content = post(client, "recommend/batch", body)
            assert status == 413
            assert "more than 20000 JSON values" in content["message"]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("recommend", {"history": [{"item": "i1"}] * 5_000}, "history: got 5000 events, expected at most 20"),
        ("explain", {"item": "i1", "history": ["i1"] * 9_000}, "history: got 9000 events, expected at most 20"),
        ("recommend/batch", {"requests": [{"user": "u1"}] * 5_000}, "requests: got 5000, expected at most 4"),
        (
            "recommend/batch",
            {"requests": [{}, {"history": ["i1"] * 9_000}]},
            "requests[1].history: got 9000 events, expected at most 20",
        ),
        ("events/batch", {"events": [EVENT] * 5_000}, "events: got 5000, expected at most 4"),
    ],
)
def test_long_lists_are_rejected_before_they_are_validated(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, value: Any, expected: str
) -> None:
    for schema in (schemas.RecommendRequest, schemas.EventRequest):
        monkeypatch.setattr(schema, "model_validate", lambda value: pytest.fail("validated"))
    status, content = post(client, path, json.dumps(value).encode())
    assert (status, content["message"]) == (422, expected)


@pytest.mark.parametrize(
    ("schema", "name", "element"),
    [(schemas.BatchRequest, "requests", {"history": ["i1"]}), (schemas.EventBatch, "events", EVENT)],
)
def test_there_is_a_step_for_every_object(schema: Any, name: str, element: Any) -> None:
    def steps() -> Any:
        results.append((yield from read_in_steps(body, schema, ServingSettings())))

    body, results = json.dumps({name: [element] * 100}).encode(), []
    assert len(list(steps())) >= 100
    assert isinstance(results[0], schema)


def test_clients_share_the_values_of_large_bodies() -> None:
    bodies = LargeBodies(ServingSettings(max_body_values=1_000), lambda *_, **__: pytest.fail("not read"))
    body = b"[" + b"1," * 800 + b"1]"
    assert count_values(body) == 802
    assert bodies.acquire(body, "a") == bodies.acquire(body, "a") == 802
    with pytest.raises(ApiError, match="of this client") as error:
        bodies.acquire(body, "a")
    assert error.value.status == 429
    assert bodies.acquire(body, "b") == bodies.acquire(body, "b") == 802
    with pytest.raises(ApiError) as error:
        bodies.acquire(body, "c")
    assert error.value.status == 503
    bodies.release("a", 802)
    assert bodies.acquire(body, "c") == 802


def test_the_deadline_begins_with_the_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a large body is a part of it."""
    parse = large_bodies.parse_json

    def parse_slowly(body: bytes) -> Any:
        time.sleep(0.2)
        return parse(body)

    monkeypatch.setattr(large_bodies, "parse_json", parse_slowly)
    body = b'{"user": "u1", "k": 3, "deadline_ms": 100}'
    with TestClient(create_app(world.service("sasrec", "ease"))) as client:
        assert post(client, "recommend", body)[1]["source"] == "model"
        assert post(client, "recommend", body + b" " * LARGE_BODY_BYTES)[1]["source"] != "model"


def test_no_malformed_body_is_an_internal_error(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """All bodies of the attack script, which has time for some of them only."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "attacks"))
    script = importlib.import_module("malformed_bodies")
    for path in script.PATHS:
        for body in script.BODIES:
            response = client.post(path, content=body, headers={"Content-Type": "application/json"})
            assert response.status_code < 500, (path, body[:100])
