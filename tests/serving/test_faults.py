"""One form for every error, which repeats nothing of what was sent."""

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
from segue.serving.errors import STATUSES, Problem, install, track  # noqa: E402

FORM = {"error", "message", "fields", "request_id"}


def application() -> FastAPI:
    app = FastAPI()
    v1 = APIRouter()

    @v1.post("/recommend")
    async def recommend(question: schemas.Question) -> dict[str, int]:
        return {"k": question.k}

    @v1.post("/recommend/batch")
    async def batch(questions: schemas.Questions) -> int:
        return len(questions.questions)

    @v1.post("/events")
    async def events(event: schemas.Event) -> None: ...

    @v1.get("/items")
    async def items(query: str, k: int = 3) -> None: ...

    @v1.get("/users/{user}")
    async def user(user: schemas.Id) -> None:
        raise KeyError(user)

    @app.get("/problem")
    async def problem() -> None:
        raise Problem(429, "busy", "later", {"a.b": "c" * 1000, "\n": "d"}, retry_after=1.2)

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "alice is a teapot", headers={"X-Leak": "alice"})

    app.include_router(v1, prefix="/v1")
    install(app)
    return app


def ask(method: str, path: str, **more: Any) -> Any:
    async def one() -> Any:
        transport = httpx.ASGITransport(application(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **more)

    answer = asyncio.run(one())
    if answer.status_code >= 400:
        assert set(answer.json()) == FORM, answer.text
        assert schemas.Fault.model_validate_json(answer.text).error
        assert len(answer.content) < 12_000
    return answer


def post(body: bytes | str, path: str = "/v1/recommend") -> Any:
    content = body.encode() if isinstance(body, str) else body
    return ask("POST", path, content=content, headers={"content-type": "application/json"})


def test_each_faulty_field_is_named() -> None:
    answer = post(
        json.dumps(
            {
                "k": "3",
                "history": ["a", {"item": "b"}, {"item": "c", "value": "much"}, {"itm": "d"}, 7, ""],
                "widht": 1,
                "where": {"genres": {"any": []}, "year": {"min": "x"}},
                "boosts": [{"where": {}, "factor": 0}],
            }
        )
    )
    assert answer.status_code == 422
    assert set(answer.json()["fields"]) == {
        "k",
        "history[2].value",  # a list ends at its first fault
        "widht",
        "where.genres.any",
        "where.year.min",
        "boosts[0].factor",
    }
    assert ", and 5 more" in answer.json()["message"]


def test_fields_of_a_batch_and_of_a_query() -> None:
    answer = post('{"questions": [{}, {"k": 0}]}', "/v1/recommend/batch")
    assert set(answer.json()["fields"]) == {"questions[1].k"}
    assert set(ask("GET", "/v1/items?k=x").json()["fields"]) == {"query", "k"}
    assert set(ask("GET", "/v1/users/" + "x" * 300).json()["fields"]) == {"user"}


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
        {"deny": [SECRET, 1]},
        {"k": SECRET},
        {"time": SECRET},
    ],
)
def test_what_was_sent_is_not_repeated(body: dict[str, Any]) -> None:
    answer = post(json.dumps(body))
    assert answer.status_code == 422
    assert SECRET not in answer.text


def test_what_is_told_is_short_whatever_was_sent() -> None:
    answer = post(json.dumps({f"{'x' * 1000}{i}": "y" * 1000 for i in range(1000)}))
    assert answer.status_code == 422
    assert len(answer.content) < 3000
    answer = post(json.dumps({str(name): 1 for name in range(60)}))
    assert len(answer.json()["fields"]) == 20


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
def test_bodies_that_are_none(body: bytes | str, status: int) -> None:
    assert post(body).status_code == status


def test_addresses_and_methods() -> None:
    answer = ask("GET", "/v1/nowhere/alice?token=x")
    assert (answer.status_code, answer.json()["error"]) == (404, "missing")
    assert "alice" not in answer.text
    answer = ask("DELETE", "/v1/recommend")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert ask("POST", "/v1/recommend/", json={}).status_code == 404, "no trip to another address"
    answer = ask("GET", "/teapot")
    assert answer.status_code == 418
    assert "alice" not in answer.text + str(answer.headers)


def test_a_problem_is_told_as_it_is_and_cut() -> None:
    answer = ask("GET", "/problem")
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "2"
    told = answer.json()
    assert (told["error"], told["message"]) == ("busy", "later")
    assert told["fields"]["a.b"] == "c" * 300 + "..."
    assert told["fields"]["\ufffd"] == "d"


def test_what_nobody_thought_of_tells_the_client_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answer = ask("GET", "/v1/users/alice")
    assert answer.status_code == 500
    assert answer.json()["error"] == "failed"
    assert "alice" not in answer.text
    (record,) = [record for record in caplog.records if record.name == "segue.serving.errors"]
    assert record.levelno == logging.ERROR
    text = record.__dict__["traceback"]
    assert "in user" in text
    assert text.endswith("KeyError")
    assert "alice" not in text


def test_a_track_names_causes_and_no_values() -> None:
    try:
        try:
            raise FileNotFoundError(2, "no such file", "alice.txt")
        except FileNotFoundError as error:
            raise ValueError("alice") from error
    except ValueError as error:
        text = track(error)
    assert text.index("FileNotFoundError 2") < text.index("ValueError")
    assert 'raise ValueError("alice")' in text, "the code is told"
    assert "alice.txt" not in text.replace('"alice.txt"', "")
    error = RuntimeError()
    error.__cause__ = error
    assert track(error) == "RuntimeError"


def test_every_status_has_a_word() -> None:
    for status, (word, text) in STATUSES.items():
        assert Problem(status).error == word
        assert text
    assert Problem(418).error == "invalid"
    assert Problem(502).error == "failed"
