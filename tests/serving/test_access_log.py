"""Logs of requests and errors, without secrets and ids."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'segue[dev]'")


from segue.serving.auth.api_keys import ApiKeys  # noqa: E402
from segue.serving.middleware.request_context import AccessRecord  # noqa: E402
from segue.serving.middleware.security import SecurityMiddleware  # noqa: E402
from segue.serving.monitoring.logs import configure_logging  # noqa: E402
from segue.serving.settings import ServingSettings  # noqa: E402
from tests.serving.secured_app import JSON, SecuredApp, bearer, send_raw  # noqa: E402


def test_unhandled_errors_are_logged_once_without_ids(service: SecuredApp, logs: io.StringIO) -> None:
    response = service.send("DELETE", "/v1/users/alice")
    assert (response.status_code, response.json()["error"]) == (500, "internal_error")
    lines = [json.loads(line) for line in logs.getvalue().splitlines()]
    (record,) = [line for line in lines if line["level"] == "ERROR"]
    assert record["request_id"] == response.headers["x-request-id"]
    assert record["traceback"].endswith("KeyError")
    assert "alice" not in logs.getvalue()


def test_nested_middleware_logs_once(tmp_path: Path, logs: io.StringIO) -> None:
    inner = SecuredApp(tmp_path).app
    outer = SecurityMiddleware(inner, settings=ServingSettings(), keys=None)
    transport = httpx.ASGITransport(outer)

    async def both() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [
                (await client.request(*one)).status_code for one in (("DELETE", "/v1/users/a"), ("GET", "/healthz"))
            ]

    assert asyncio.run(both()) == [500, 200]
    assert logs.getvalue().count('"ERROR"') == 1


def test_errors_during_streaming(service: SecuredApp, logs: io.StringIO) -> None:
    scope = {"method": "GET", "path": "/stream", "query_string": b"fail=1", "headers": []}
    start, part = send_raw(service, [{"type": "http.request"}, {"type": "never"}], **scope)
    assert (start["status"], part["body"], part["more_body"]) == (200, b"a", True)
    assert "KeyError" in logs.getvalue()
    assert "alice" not in logs.getvalue()


def test_access_log(tmp_path: Path, tokens: dict[str, str], logs: io.StringIO) -> None:
    records: list[AccessRecord] = []
    service = SecuredApp(tmp_path, ApiKeys(tmp_path / "keys.json"), on_request=records.append)
    read = bearer(tokens["read"])
    service.send("GET", "/v1/users/alice?a=b", headers={**read, "X-Request-ID": "one"})
    service.send("POST", "/v1/models/m1/activate", headers={**read, "X-Request-ID": "two"})
    service.send("GET", "/static/page.js", headers={"X-Request-ID": "three"})
    service.send("GET", "/alice", headers={"X-Request-ID": "four"})
    service.send("BREW", "/v1/users/alice", headers={"X-Request-ID": "five"})
    lines = [json.loads(line) for line in logs.getvalue().splitlines()]
    lines = [line for line in lines if line["logger"] == "segue.access"]
    key = tokens["read"].split("_")[1]
    found = [[line[name] for name in ("method", "route", "status", "request_id", "key")] for line in lines]
    assert found == [
        ["GET", "/v1/users/{user}", 200, "one", key],
        ["POST", "/v1/models/{name}/activate", 403, "two", key],
        ["GET", "/static/*", 200, "three", None],
        ["GET", "unmatched", 401, "four", None],
        ["OTHER", "/v1/users/{user}", 401, "five", None],
    ]
    assert all(line["ms"] >= 0 and line["time"].endswith("Z") for line in lines)
    assert [[one.method, one.route, one.status, one.request_id, one.key] for one in records] == found


def test_logs_contain_no_secrets(tmp_path: Path, tokens: dict[str, str], logs: io.StringIO) -> None:
    service = SecuredApp(tmp_path, ApiKeys(tmp_path / "keys.json"), max_body_bytes=2000)
    secret = "s3cr3t-alice"
    hidden = [secret, *(token.split("_", 2)[2] for token in tokens.values())]
    for token in (*tokens.values(), secret, "segue_00000000_" + secret.ljust(43, "x")):
        headers = {**bearer(token), "Cookie": secret, "User-Agent": secret, "Referer": f"http://x/?{secret}"}
        for method in ("GET", "POST", "DELETE", "BREW"):
            for path in (f"/v1/users/{secret}", f"/{secret}", f"/v1/items?query={secret}", f"/static/{secret}"):
                service.send(method, path, headers=headers)
        for body in ({"user": secret}, {"user": [secret]}, {secret: 1}, {"user": secret, "item": secret, "k": secret}):
            for path in ("/v1/recommend", "/v1/events", f"/v1/models/{secret}/activate"):
                service.send("POST", path, json=body, headers=headers)
        for content in (secret, f'{{"user": "{secret}"', secret * 1000, "[" * 10_000 + secret):
            service.send("POST", "/v1/recommend", content=content.encode(), headers={**headers, **JSON})
    text = logs.getvalue()
    assert text.count('"segue.access"') == (len(tokens) + 2) * (16 + 12 + 4)
    assert text.count('"ERROR"') == 1, "the DELETE with a permitted key"
    assert not [word for word in hidden if word in text]
    assert tokens["read"].split("_")[1] in text, "the key id is logged"


def test_log_records_of_libraries_are_redacted(logs: io.StringIO) -> None:
    log = logging.getLogger("uvicorn.error")
    user = "".join(["al", "ice"])  # not visible in the source line of the traceback
    log.warning("GET %s failed", f"/v1/items?query={user}&x=1")
    log.warning("key segue_0011aabb_%s", "S" * 43)
    try:
        raise KeyError(user)
    except KeyError:
        log.exception("failed")
    log.info("extra", extra={"url": "http://a/b?alice", "number": 3})
    logging.getLogger("uvicorn.access").info("GET /v1/users/alice")
    text = logs.getvalue()
    assert "alice" not in text
    assert "SSS" not in text
    assert "segue_0011aabb_***" in text
    assert "/v1/items failed" in text
    assert "KeyError" in text
    assert all(json.loads(line) for line in text.splitlines())


def test_text_format(logs: io.StringIO) -> None:
    stream = io.StringIO()
    configure_logging("text", "INFO", stream)
    logging.getLogger("segue.access").info("GET /\nX \x1b[31m", extra={"status": 200, "key": None, "name_": "a\nb"})
    logging.getLogger("segue.access").debug("not logged")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("INFO segue.access GET /\ufffdX \ufffd[31m status=200 name_=a\ufffdb")
    with pytest.raises(ValueError, match="got 'loud', expected one of DEBUG"):
        configure_logging("text", "loud", stream)
