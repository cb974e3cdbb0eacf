"""Error responses have one form and never echo request content."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'segue[dev]'")

from fastapi import APIRouter, FastAPI  # noqa: E402
from starlette.exceptions import HTTPException  # noqa: E402

from segue.serving import schemas  # noqa: E402
from segue.serving.errors import DEFAULT_ERRORS, ApiError, format_traceback, register_exception_handlers  # noqa: E402

FIELDS = {"error", "message", "fields", "request_id"}


def application() -> FastAPI:
    app = FastAPI()
    v1 = APIRouter()

    @v1.post("/recommend")
    async def recommend(request: schemas.RecommendRequest) -> dict[str, int]:
        return {"k": request.k}

    @v1.post("/recommend/batch")
    async def batch(batch: schemas.BatchRequest) -> int:
        return len(batch.requests)

    @v1.post("/events")
    async def events(event: schemas.EventRequest) -> None: ...

    @v1.get("/items")
    async def items(query: str, k: int = 3) -> None: ...

    @v1.get("/users/{user}")
    async def user(user: schemas.Id) -> None:
        raise KeyError(user)

    @app.get("/error")
    async def error() -> None:
        raise ApiError(429, "custom", "later", {"a.b": "c" * 1000, "\n": "d"}, retry_after=1.2)

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "alice is a teapot", headers={"X-Leak": "alice"})

    app.include_router(v1, prefix="/v1")
    register_exception_handlers(app)
    return app


def send(method: str, path: str, **options: Any) -> Any:
    async def run() -> Any:
        transport = httpx.ASGITransport(application(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    response = asyncio.run(run())
    if response.status_code >= 400:
        assert set(response.json()) == FIELDS, response.text
        assert schemas.ErrorResponse.model_validate_json(response.text).error
        assert len(response.content) < 12_000
    return response


def post(body: bytes | str, path: str = "/v1/recommend") -> Any:
    content = body.encode() if isinstance(body, str) else body
    return send("POST", path, content=content, headers={"content-type": "application/json"})


def test_errors_name_each_invalid_field() -> None:
    response = post(
        json.dumps(
            {
                "k": "3",
                "history": ["a", {"item": "b"}, {"item": "c", "value": "much"}, {"itm": "d"}, 7, ""],
                "widht": 1,
                "filter": {"genres": {"any": []}, "year": {"min": "x"}},
                "boosts": [{"filter": {}, "factor": 0}],
            }
        )
    )
    assert response.status_code == 422
    assert set(response.json()["fields"]) == {
        "k",
        "history[2].value",  # validation of a list stops at its first error
        "widht",
        "filter.genres.any",
        "filter.year.min",
        "boosts[0].factor",
    }
    assert ", and 5 more" in response.json()["message"]


def test_fields_of_batches_and_query_parameters() -> None:
    response = post('{"requests": [{}, {"k": 0}]}', "/v1/recommend/batch")
    assert set(response.json()["fields"]) == {"requests[1].k"}
    assert set(send("GET", "/v1/items?k=x").json()["fields"]) == {"query", "k"}
    assert set(send("GET", "/v1/users/" + "x" * 300).json()["fields"]) == {"user"}


SECRET = "alice@example.org"


@pytest.mark.parametrize(
    "body",
    [
        {"user": SECRET + "\x00"},
        {"user": [SECRET]},
        {"user": SECRET * 100},
        {"history": [{"item": SECRET, "value": SECRET}]},
        {"history": SECRET},
        {"profile": {"mail": {"x": SECRET}}},
        {"model": {SECRET: 1}},
        {"deny": [SECRET, 1.5]},
        {"k": SECRET},
        {"time": SECRET},
    ],
)
def test_errors_do_not_echo_request_content(body: dict[str, Any]) -> None:
    response = post(json.dumps(body))
    assert response.status_code == 422
    assert SECRET not in response.text


def test_error_responses_are_short() -> None:
    response = post(json.dumps({f"{'x' * 1000}{i}": "y" * 1000 for i in range(1000)}))
    assert response.status_code == 422
    assert len(response.content) < 3000
    response = post(json.dumps({str(name): 1 for name in range(60)}))
    assert len(response.json()["fields"]) == 20


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 422),
        ("{", 400),
        ("{'k': 1}", 400),
        ('{"k": 1,}', 400),
        ('{"k": 01}', 400),
        ("[" * 100_000, 400),
        ('{"a":' * 100_000, 400),
        ("[" * 500 + "]" * 500, 422),
        ('{"profile":' + "[" * 500 + "]" * 500 + "}", 422),
        ('{"k":' + "9" * 5000 + "}", 400),
        ('{"time":' + "9" * 400 + "}", 422),
        ('{"k": 1e999}', 422),
        ('{"k": 3.5}', 422),
        ('{"k": true}', 422),
        ('{"k": null}', 422),
        ('{"user": "\\ud800"}', 422),
        ('{"\\ud800": 1}', 422),
        ('{"\\u0000\\u202e": 1}', 422),
        ('{"__proto__": {}, "constructor": 1}', 422),
        ('"text"', 422),
        ("null", 422),
        ("1", 422),
        ("[]", 422),
        (b"\xff\xfe\x00", 400),
        (b"\xef\xbb\xbf{}", 200),
        (b'{"user": "\xff"}', 400),
        ('{"user": "a\nb"}', 400),
    ],
)
def test_malformed_bodies(body: bytes | str, status: int) -> None:
    assert post(body).status_code == status


def test_unknown_paths_and_methods() -> None:
    response = send("GET", "/v1/nowhere/alice?token=x")
    assert (response.status_code, response.json()["error"]) == (404, "not_found")
    assert "alice" not in response.text
    response = send("DELETE", "/v1/recommend")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert send("POST", "/v1/recommend/", json={}).status_code == 404, "no redirect"
    response = send("GET", "/teapot")
    assert response.status_code == 418
    assert "alice" not in response.text + str(response.headers)


def test_api_errors_are_truncated() -> None:
    response = send("GET", "/error")
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    error = response.json()
    assert (error["error"], error["message"]) == ("custom", "later")
    assert error["fields"]["a.b"] == "c" * 300 + "..."
    assert error["fields"]["\ufffd"] == "d"


def test_unhandled_errors_reveal_nothing(caplog: pytest.LogCaptureFixture) -> None:
    response = send("GET", "/v1/users/alice")
    assert response.status_code == 500
    assert response.json()["error"] == "internal_error"
    assert "alice" not in response.text
    (record,) = [record for record in caplog.records if record.name == "segue.serving.errors"]
    assert record.levelno == logging.ERROR
    text = record.__dict__["traceback"]
    assert "in user" in text
    assert text.endswith("KeyError")
    assert "alice" not in text


def test_tracebacks_contain_causes_but_no_values() -> None:
    try:
        try:
            raise FileNotFoundError(2, "no such file", "alice.txt")
        except FileNotFoundError as error:
            raise ValueError("alice") from error
    except ValueError as error:
        text = format_traceback(error)
    assert text.index("FileNotFoundError 2") < text.index("ValueError")
    assert 'raise ValueError("alice")' in text, "source lines are included"
    assert "alice.txt" not in text.replace('"alice.txt"', "")
    error = RuntimeError()
    error.__cause__ = error
    assert format_traceback(error) == "RuntimeError"


def test_every_status_has_a_code() -> None:
    for status, (code, text) in DEFAULT_ERRORS.items():
        assert ApiError(status).error == code
        assert text
    assert ApiError(418).error == "invalid"
    assert ApiError(502).error == "internal_error"
