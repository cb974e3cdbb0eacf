"""Limits on bodies, URIs, rates and concurrency, and clients that disconnect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'segue[dev]'")


from segue.serving.auth.api_keys import ApiKeys  # noqa: E402
from segue.serving.limits import SharedLimiter  # noqa: E402
from segue.serving.middleware.request_context import AccessRecord  # noqa: E402
from segue.serving.middleware.security import SecurityMiddleware, create_request_limiter  # noqa: E402
from segue.serving.settings import ServingSettings  # noqa: E402
from segue.serving.stores.store import OUTCOME_UNKNOWN  # noqa: E402
from tests.serving.secured_app import EVENT, JSON, SecuredApp, bearer, send_raw  # noqa: E402


def test_body_size_limit(tmp_path: Path) -> None:
    service = SecuredApp(tmp_path, max_body_bytes=1000)
    fits = json.dumps({"user": "a" * 200}).ljust(1000).encode()

    async def parts(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 100):
            yield b" " * 100

    assert service.status("POST", "/v1/recommend", content=fits, headers=JSON) == 200
    response = service.send("POST", "/v1/recommend", content=fits + b" ", headers=JSON)
    assert (response.status_code, response.json()["error"]) == (413, "too_large")
    assert "1000 bytes" in response.json()["message"]
    assert service.status("POST", "/v1/recommend", content=parts(1100), headers=JSON) == 413
    assert service.status("POST", "/v1/recommend", content=parts(1000), headers=JSON) == 400
    for length in ("-1", "1e3", "0x10", "\xb2", "9" * 400):
        headers = {**JSON, "content-length": length.encode("latin-1")}
        assert service.status("POST", "/v1/recommend", content=b"{}", headers=headers) in (400, 413)
    both = {**JSON, "content-length": "2", "transfer-encoding": "chunked"}
    assert service.status("POST", "/v1/recommend", content=b"{}", headers=both) == 400


def test_content_type_must_be_json(service: SecuredApp) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", ""):
        assert service.status("POST", "/v1/recommend", content=b"{}", headers={"content-type": kind}) == 415
    assert service.status("POST", "/v1/recommend", content=b"{}") == 415
    assert service.status("POST", "/v1/recommend", content=b"{}", headers={**JSON, "content-encoding": "gzip"}) == 415
    kind = {"content-type": "Application/JSON; charset=utf-8"}
    assert service.status("POST", "/v1/recommend", content=b"{}", headers=kind) == 200


def test_uri_length_limit(service: SecuredApp) -> None:
    assert service.status("GET", "/v1/users/" + "a" * 8000) == 422
    assert service.status("GET", "/v1/users/" + "a" * 9000) == 414
    assert service.status("GET", "/v1/items?query=" + "a" * 9000) == 414


def test_rate_limit_per_key(tmp_path: Path, tokens: dict[str, str]) -> None:
    seconds = [0.0]
    service = SecuredApp(tmp_path, ApiKeys(tmp_path / "keys.json"), rate_limit=1.0, clock=lambda: seconds[0])
    read, metrics = bearer(tokens["read"]), bearer(tokens["admin"])
    assert [service.status("GET", "/v1/models", headers=read) for _ in range(3)] == [200, 200, 429]
    response = service.send("POST", "/v1/recommend", headers=read, json={})
    assert (response.json()["error"], response.headers["retry-after"]) == ("rate_limited", "1")
    assert service.status("POST", "/v1/events", json=EVENT, headers=bearer(tokens["write"])) == 200
    assert [service.status("GET", path) for path in ("/healthz", "/", "/static/page.js") * 5] == [200] * 15
    assert [service.status("GET", "/metrics", headers=metrics) for _ in range(9)] == [200] * 9
    assert service.status("GET", "/v1/models") == 401, "requests without a key do not count"
    seconds[0] += 1
    assert service.status("GET", "/v1/models", headers=read) == 200
    service_without_keys = SecuredApp(tmp_path, rate_limit=1.0, clock=lambda: seconds[0])
    assert [service_without_keys.status("GET", "/v1/models") for _ in range(3)] == [200, 200, 429]
    message = service_without_keys.send("GET", "/v1/models").json()["message"]
    assert message == "rate limit exceeded for this client; try again later"


def test_concurrency_limit_exempts_probes(tmp_path: Path) -> None:
    limiter = SharedLimiter(1)
    service = SecuredApp(tmp_path, limiter=limiter)
    assert limiter.try_acquire()
    response = service.send("POST", "/v1/recommend", json={})
    assert (response.status_code, response.json()["error"], response.headers["retry-after"]) == (503, "overloaded", "1")
    assert [service.status("GET", path) for path in ("/healthz", "/readyz", "/metrics")] == [200] * 3
    limiter.release()
    for path, status in (("/v1/recommend", 200), ("/v1/users/a", 405), ("/v1/nowhere", 404)):
        assert service.status("POST", path, json={}) == status
    assert service.status("DELETE", "/v1/users/a") == 500
    assert limiter.in_use == 0, "the slot is always released"


def test_concurrency_limit_per_key(tmp_path: Path, tokens: dict[str, str]) -> None:
    service = SecuredApp(tmp_path, ApiKeys(tmp_path / "keys.json"), max_concurrent=4, max_concurrent_per_key=1)
    read = bearer(tokens["read"])

    async def send_both() -> list[int]:
        """Hold a response while another request of the same key, and one of another key, arrive."""
        waiting, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            waiting.set()
            await go_on.wait()

        service.app.get("/v1/wait")(wait)
        first = asyncio.create_task(service.send_async("GET", "/v1/wait", headers=read))
        await waiting.wait()
        statuses = [
            (await service.send_async("GET", "/v1/models", headers=headers)).status_code
            for headers in (read, bearer(tokens["admin"]))
        ]
        go_on.set()
        return [*statuses, (await first).status_code, (await service.send_async("GET", "/", headers=read)).status_code]

    assert asyncio.run(send_both()) == [429, 403, 200, 200]
    assert service.status("GET", "/v1/models", headers=read) == 200


def test_routes_without_a_key_have_their_own_slots(tmp_path: Path, tokens: dict[str, str]) -> None:
    limiter = SharedLimiter(1)
    service = SecuredApp(tmp_path, ApiKeys(tmp_path / "keys.json"), limiter=limiter, max_concurrent_open=1)
    assert limiter.try_acquire()
    assert service.status("GET", "/") == 200
    assert service.status("GET", "/v1/models", headers=bearer(tokens["read"])) == 503


def test_an_address_uses_half_of_the_slots_of_open_routes_at_most(tmp_path: Path) -> None:
    service = SecuredApp(tmp_path, scopes_for=lambda method, path: (), max_concurrent_open=4)

    async def scenario() -> list[int]:
        n_waiting, go_on = [0], asyncio.Event()

        async def wait() -> None:
            n_waiting[0] += 1
            await go_on.wait()

        service.app.get("/wait")(wait)

        async def get(address: str, path: str = "/wait") -> int:
            transport = httpx.ASGITransport(service.app, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
                return int((await client.get(path)).status_code)

        held = [asyncio.create_task(get("10.0.0.1")) for _ in range(2)]
        while n_waiting[0] < 2:
            await asyncio.sleep(0)
        statuses = [await get("10.0.0.1", "/"), await get("10.0.0.2", "/")]
        held += [asyncio.create_task(get("10.0.0.2")) for _ in range(2)]
        while n_waiting[0] < 4:
            await asyncio.sleep(0)
        statuses.append(await get("10.0.0.3", "/"))
        go_on.set()
        return [*statuses, *await asyncio.gather(*held), await get("10.0.0.1", "/")]

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == [429, 200, 503, 200, 200, 200, 200, 200]


def test_a_full_service_answers_before_it_reads_the_body(tmp_path: Path) -> None:
    limiter = SharedLimiter(1)
    service = SecuredApp(tmp_path, limiter=limiter)
    assert limiter.try_acquire()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"9"), (b"expect", b"100-continue")]
    start, body = send_raw(service, [{"type": "unexpected"}], headers=headers)  # reading the body would send 100
    assert (start["status"], json.loads(body["body"])["error"]) == (503, "overloaded")
    assert send_raw(service, [{"type": "http.disconnect"}], headers=headers)[0]["status"] == 503


def test_bodies_are_buffered_up_to_a_limit(tmp_path: Path) -> None:
    """A client with unfinished bodies uses half of the buffer at most, and no slot."""
    service = SecuredApp(tmp_path, max_body_bytes=1_000, max_buffered_bytes=4_000, body_timeout_seconds=5)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"900"), (b"host", b"localhost")]
    statuses: dict[str, int] = {}

    async def request(name: str, address: str, end: asyncio.Event) -> None:
        parts = [(b" " * 899, True), (b"{", False)]

        async def receive() -> dict[str, Any]:
            body, more = parts.pop(0)
            if not more:
                await end.wait()
            return {"type": "http.request", "body": body, "more_body": more}

        async def send(message: Any) -> None:
            statuses.setdefault(name, message.get("status", 0))

        scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "raw_path": b"/v1/recommend",
                 "query_string": b"", "headers": headers, "client": (address, 1)}  # fmt: skip
        await service.app(scope, receive, send)

    async def attack() -> None:
        end = asyncio.Event()
        tasks = [asyncio.create_task(request(f"attacker {n}", "10.0.0.1", end)) for n in range(4)]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(request("other", "10.0.0.2", end)))
        await asyncio.sleep(0.05)
        end.set()
        await asyncio.gather(*tasks)
        await request("later", "10.0.0.1", end)

    asyncio.run(attack())
    assert [statuses[f"attacker {n}"] for n in range(4)] == [400, 400, 503, 503], "400: the body is no JSON"
    assert (statuses["other"], statuses["later"]) == (400, 400)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("length", [b"1", b"500", b"9999999", None])
def test_bodies_of_other_methods_are_not_read(service: SecuredApp, method: str, length: bytes | None) -> None:
    header = (b"transfer-encoding", b"chunked") if length is None else (b"content-length", length)
    headers = [header, (b"expect", b"100-continue")]  # reading the body would send 100
    allowed = dict.fromkeys(("/healthz", "/v1/models", "/"), b"GET, HEAD") | {"/v1/users/a": b"DELETE, GET, HEAD"}
    for path in (*allowed, "/static/page.js"):
        start, _ = send_raw(service, [{"type": "unexpected"}], method=method, path=path, headers=headers)
        is_supported = path not in allowed or method.encode() in allowed[path].split(b", ")
        found = start["status"], dict(start["headers"]).get(b"allow")
        assert found == ((400, None) if is_supported else (405, allowed[path])), path


def test_head_is_answered_like_get(service_with_keys: SecuredApp, tokens: dict[str, str]) -> None:
    read = bearer(tokens["read"])

    def status(path: str, headers: dict[str, str]) -> int:
        return int(asyncio.run(service_with_keys.send_async("HEAD", path, headers=headers)).status_code)

    assert [status(path, {}) for path in ("/", "/healthz", "/readyz", "/static/page.js")] == [200] * 4
    assert [status(path, read) for path in ("/metrics", "/v1/models", "/v1/recommend")] == [200, 200, 405]
    assert status("/v1/models", {}) == 401


def test_connections_above_the_limit_reach_only_probes(service: SecuredApp) -> None:
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/v1/models", 503), ("/", 503)):
        scope = {"method": "GET", "path": path, "headers": [], "state": {"is_probe_only": True}}
        assert send_raw(service, [{"type": "http.request"}], **scope)[0]["status"] == status


def test_client_disconnects(tmp_path: Path) -> None:
    records: list[AccessRecord] = []
    limiter = SharedLimiter(1)
    service = SecuredApp(tmp_path, on_request=records.append, limiter=limiter)
    half = {"type": "http.request", "body": b"{", "more_body": True}
    assert send_raw(service, [half, {"type": "http.disconnect"}]) == []
    assert (records[0].status, records[0].route, limiter.in_use) == (499, "/v1/recommend", 0)


def test_bodies_in_many_parts(service: SecuredApp) -> None:
    parts = [{"type": "http.request", "body": bytes([byte]), "more_body": True} for byte in b'{"k":7}']
    parts += [{"type": "http.request", "body": b"", "more_body": False}]
    headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    start, body = send_raw(service, parts, headers=headers)
    assert (start["status"], json.loads(body["body"])["k"]) == (200, 7)


def test_body_timeout(tmp_path: Path) -> None:
    service = SecuredApp(tmp_path, body_timeout_seconds=0.05)
    stall = [{"type": "http.request", "body": b"", "more_body": True}]
    start, body = send_raw(service, stall)
    assert (start["status"], json.loads(body["body"])["error"]) == (408, "request_timeout")
    assert (b"connection", b"close") in start["headers"]


def test_expect_100_continue(tmp_path: Path) -> None:
    service = SecuredApp(tmp_path, max_body_bytes=1000)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"9999"), (b"expect", b"100-continue")]
    start, _ = send_raw(service, [{"type": "unexpected"}], headers=headers)
    assert start["status"] == 413


def test_websockets_and_lifespan(service: SecuredApp) -> None:
    socket = {"type": "websocket", "path": "/v1/recommend", "query_string": b"", "headers": []}
    assert send_raw(service, [{"type": "websocket.connect"}], **socket) == [{"type": "websocket.close", "code": 1008}]
    responses = send_raw(
        service, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], type="lifespan", state={}
    )
    assert [message["type"] for message in responses] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        (
            "POST",
            "/v1/events",
            f"{OUTCOME_UNKNOWN}; repeat it, with the same keys for events: those that were stored are duplicates",
        ),
        ("GET", "/v1/slow", "nothing was changed; try again later"),
    ],
)
def test_a_request_that_is_canceled_by_the_stop_says_what_may_have_happened(
    tmp_path: Path, method: str, path: str, message: str
) -> None:
    """Storing events continues after the handler was canceled."""

    async def scenario() -> list[Any]:
        started, sent = asyncio.Event(), list[Any]()

        async def handler(scope: Any, receive: Any, send: Any) -> None:
            started.set()
            await asyncio.sleep(60)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost")]
        if method == "POST":
            headers += [(b"content-type", b"application/json"), (b"content-length", b"2")]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
                 "headers": headers}  # fmt: skip
        app = SecurityMiddleware(handler, settings=ServingSettings(), keys=None)
        task = asyncio.create_task(app(scope, receive, send))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return sent

    start, body = asyncio.run(scenario())
    assert start["status"] == 503
    assert json.loads(body["body"])["message"] == f"the service is stopping; {message}"


@pytest.mark.parametrize(("total", "per_key", "expected"), [(8, 0, 4), (5, 0, 2), (1, 0, 1), (8, 7, 7)])
def test_a_key_has_half_of_the_slots_by_default(total: int, per_key: int, expected: int) -> None:
    limiter = create_request_limiter(ServingSettings(max_concurrent=total, max_concurrent_per_key=per_key))
    assert [limiter.try_acquire("key") for _ in range(expected + 1)] == [True] * expected + [False]
    assert limiter.try_acquire("other") is (expected < total)
