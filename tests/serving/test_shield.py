"""What stands before the application: keys, limits, headers, bodies, and logs that hold no secret."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'segue[dev]'")

from fastapi import APIRouter, FastAPI, Request  # noqa: E402
from fastapi.responses import HTMLResponse, StreamingResponse  # noqa: E402
from starlette.staticfiles import StaticFiles  # noqa: E402

from segue.serving import schemas  # noqa: E402
from segue.serving.auth.api_keys import Keys, make  # noqa: E402
from segue.serving.auth.scopes import needed  # noqa: E402
from segue.serving.limits import Slots  # noqa: E402
from segue.serving.middleware.request_context import Exchange  # noqa: E402
from segue.serving.middleware.security import Shield, protect  # noqa: E402
from segue.serving.middleware.security_headers import LOCAL  # noqa: E402
from segue.serving.monitoring.logs import start_logs  # noqa: E402
from segue.serving.settings import Serving  # noqa: E402


def application(tmp_path: Path) -> FastAPI:
    app = FastAPI()
    v1 = APIRouter()
    (tmp_path / "files").mkdir(exist_ok=True)
    (tmp_path / "files" / "page.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")

    @v1.post("/recommend")
    async def recommend(question: schemas.Question) -> dict[str, Any]:
        return {"k": question.k, "history": len(question.history or [])}

    @v1.post("/events")
    async def events(event: schemas.Event) -> schemas.Event:
        return event

    @v1.get("/users/{user}")
    async def user(user: schemas.Id, request: Request) -> dict[str, str]:
        return {"request_id": request.state.request_id}

    @v1.delete("/users/{user:path}")
    async def forget(user: schemas.Id) -> None:
        raise KeyError(user)

    @v1.get("/items")
    async def items(query: str) -> None: ...

    @v1.get("/models")
    async def models() -> None: ...

    @v1.post("/models/{name}/activate")
    async def activate(name: str) -> None: ...

    @v1.post("/models/rollback")
    async def rollback() -> None: ...

    @v1.post("/later")  # declared, and in nobody's list
    async def later() -> None: ...

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return "<html>"

    @app.get("/stream")
    async def stream(fail: bool = False, user: str = "alice") -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            if fail:
                raise KeyError(user)
            yield b"b"

        return StreamingResponse(parts(), headers={"server": "x", "cache-control": "max-age=60"})

    for path in ("/healthz", "/readyz", "/metrics"):
        app.get(path)(models)
    app.include_router(v1, prefix="/v1")
    app.mount("/static", StaticFiles(directory=tmp_path / "files"))
    return app


class Service:
    """A protected application and somebody who asks it."""

    def __init__(self, tmp_path: Path, keys: Keys | None = None, **more: Any) -> None:
        options = {name: more.pop(name) for name in ("hosts", "seen", "needs", "slots", "clock") if name in more}
        self.app = application(tmp_path)
        protect(self.app, settings=Serving(**more), keys=keys, **options)

    async def one(self, method: str, path: str, **more: Any) -> Any:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return await client.request(method, path, **more)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        answer = asyncio.run(self.one(method, path, **more))
        assert "x-request-id" in answer.headers
        if answer.status_code >= 400:
            fault = schemas.Fault.model_validate_json(answer.text)
            assert fault.request_id == answer.headers["x-request-id"]
        return answer

    def status(self, method: str, path: str, **more: Any) -> int:
        return int(self.ask(method, path, **more).status_code)


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "keys.json"
    return {scope: make(path, scope, [scope]) for scope in ("read", "write", "admin")}


@pytest.fixture
def guarded(tmp_path: Path, tokens: dict[str, str]) -> Service:
    return Service(tmp_path, Keys(tmp_path / "keys.json"))


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """All that this process logs, as JSON lines."""
    names = ("", "segue", "uvicorn", "uvicorn.error", "uvicorn.access")
    loggers = [logging.getLogger(name) for name in names]
    before = [(one, one.level, list(one.handlers), one.propagate) for one in loggers]
    to = io.StringIO()
    start_logs("json", "DEBUG", to)
    yield to
    for one, level, handlers, propagate in before:
        one.setLevel(level)
        one.handlers[:] = handlers
        one.propagate = propagate


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


EVENT = {"user": "a", "item": "b"}
NEEDS = [
    ("GET", "/", None),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/static/page.js", None),
    ("GET", "/metrics", "read admin"),
    ("POST", "/v1/recommend", "read"),
    ("GET", "/v1/users/a", "read"),
    ("GET", "/v1/items?query=a", "read"),
    ("GET", "/v1/models", "read"),
    ("POST", "/v1/events", "write"),
    ("DELETE", "/v1/users/a", "write"),
    ("DELETE", "/v1/users/a%2Fb", "write"),
    ("POST", "/v1/models/a/activate", "admin"),
    ("POST", "/v1/models/rollback", "admin"),
    ("POST", "/v1/later", "admin"),
    ("GET", "/stream", "read write admin"),
]


@pytest.mark.parametrize(("method", "path", "scopes"), NEEDS)
def test_each_address_needs_its_scope(
    guarded: Service, tokens: dict[str, str], method: str, path: str, scopes: str | None
) -> None:
    body: dict[str, Any] = {"json": EVENT if "events" in path else {}} if method == "POST" else {}
    answer = guarded.ask(method, path, **body)
    if scopes is None:
        assert answer.status_code == 200
        return
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="segue"')
    for scope, token in tokens.items():
        status = 403 if scope not in scopes else 500 if method == "DELETE" else 200
        assert guarded.status(method, path, headers=bearer(token), **body) == status
        assert guarded.status(method, path, headers={"X-API-Key": token}, **body) == status


def test_what_is_not_there_is_not_there_for_any_key(guarded: Service, tokens: dict[str, str]) -> None:
    for path in ("/v1/recomend", "/v2/recommend", "/.env", "/v1", "/v1//recommend", "/v1/recommend/"):
        assert guarded.status("POST", path) == 401
        assert guarded.status("POST", path, headers=bearer(tokens["read"])) == 404


@pytest.mark.parametrize(
    "path",
    [
        "/static/../v1/models",
        "/static/%2e%2e/v1/models",
        "/static/..%2f..%2fsecret.txt",
        "/static/..%5c..%5csecret.txt",
        "/static//etc/passwd",
        "/healthz/../v1/models",
        "/healthz;/v1/models",
        "/healthz%2f..%2fv1%2fmodels",
        "//v1/models",
        "/V1/models",
        "/v1/./models",
        "/v1/models%20",
        "/v1/models/",
        "/%76%31/models/",
        "/static/%00",
        "/v1/users/%0d%0aSet-Cookie:a",
        "/v1/users/%ff",
    ],
)
def test_no_trick_with_the_address_opens_anything(guarded: Service, path: str) -> None:
    answer = guarded.ask("GET", httpx.URL("http://localhost:8000").copy_with(raw_path=path.encode()))
    assert answer.status_code in (400, 401, 404, 405)
    assert "secret" not in answer.text


def test_an_escaped_address_is_the_address(guarded: Service, tokens: dict[str, str]) -> None:
    assert guarded.status("GET", "/%76%31/models") == 401
    assert guarded.status("GET", "/%76%31/models", headers=bearer(tokens["read"])) == 200


def test_what_is_no_key(guarded: Service, tokens: dict[str, str]) -> None:
    token = tokens["read"]
    other = "segue_00000000_" + token.split("_", 2)[2]
    for header in ("", "Bearer", "Bearer ", f"Basic {token}", token, f"Bearer {token}x", f"Bearer {token} x", other):
        assert guarded.status("GET", "/v1/models", headers={"Authorization": header}) == 401
    for value in (token[:-1], other, f"Bearer {token}", "\xe4" * 58):
        assert guarded.status("GET", "/v1/models", headers={"X-API-Key": value.encode("latin-1")}) == 401
    assert guarded.status("GET", f"/v1/models?key={token}&api_key={token}") == 401, "addresses end up in logs"
    assert guarded.status("GET", "/v1/models", headers={"Cookie": f"key={token}"}) == 401
    assert guarded.status("GET", "/v1/models", headers={"Authorization": f"bearer  {token}"}) == 200
    assert guarded.status("GET", "/v1/models", headers={"Authorization": "Basic x", "X-API-Key": token}) == 200


def test_headers_that_stand_there_twice(guarded: Service, tokens: dict[str, str]) -> None:
    twice = bearer(tokens["read"]) | {"authorization": f"Bearer {tokens['admin']}"}
    assert guarded.status("GET", "/v1/models", headers=list(twice.items())) == 400
    for name in ("x-api-key", "host", "content-type", "origin"):
        answer = guarded.ask("POST", "/v1/recommend", headers=[(name, "a"), (name, "b")])
        assert answer.status_code == 400
        assert name in answer.json()["message"]


def test_a_key_that_is_revoked_opens_nothing_any_more(tmp_path: Path, tokens: dict[str, str]) -> None:
    from segue.serving.auth.api_keys import revoke

    seconds = [0.0]
    service = Service(tmp_path, Keys(tmp_path / "keys.json", clock=lambda: seconds[0]))
    assert service.status("GET", "/v1/models", headers=bearer(tokens["read"])) == 200
    revoke(tmp_path / "keys.json", tokens["read"].split("_")[1])
    seconds[0] += 1
    assert service.status("GET", "/v1/models", headers=bearer(tokens["read"])) == 401


def test_no_keys_is_open(service: Service, tmp_path: Path) -> None:
    assert service.status("POST", "/v1/models/rollback") == 200
    assert service.status("GET", "/v1/models", headers=bearer("nonsense")) == 200
    assert Service(tmp_path, Keys(None)).status("GET", "/v1/models") == 200


def test_what_is_not_listed_is_closed() -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW", ""):
        for path in ("/", "/healthz", "/metrics", "/v1/new", "/static/a", "", "v1/recommend"):
            assert needed(method, path) == {"admin"}
    assert needed("GET", "/v1/new") == {"read"}
    assert needed("GET", "/new") == {"read", "write", "admin"}
    assert needed("GET", "/staticx") == {"read", "write", "admin"}


def test_every_answer_is_guarded(guarded: Service, tokens: dict[str, str]) -> None:
    for method, path, more in [
        ("GET", "/", {}),
        ("GET", "/static/page.js", {}),
        ("GET", "/v1/models", {}),
        ("GET", "/v1/models", {"headers": bearer(tokens["read"])}),
        ("GET", "/nowhere", {}),
        ("DELETE", "/v1/users/a", {"headers": bearer(tokens["write"])}),
    ]:
        headers = guarded.ask(method, path, **more).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        policy = headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers
        assert headers["cache-control"] == ("no-cache" if "static" in path else "no-store")


def test_the_description_of_the_interface_may_show_the_images_of_its_styles(service: Service) -> None:
    policy = service.ask("GET", "/docs").headers["content-security-policy"]
    assert "img-src 'self' data:;" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "data:" not in service.ask("GET", "/docs/oauth2-redirect").headers["content-security-policy"]


def test_an_answer_streams_through_and_keeps_its_own_say_in_caches(service: Service) -> None:
    answer = service.ask("GET", "/stream")
    assert (answer.text, answer.headers["cache-control"]) == ("ab", "max-age=60")
    assert "server" not in answer.headers


@pytest.mark.parametrize("told", ["a", "A-1_b.c", "x" * 64])
def test_a_request_id_is_taken(service: Service, told: str) -> None:
    answer = service.ask("GET", "/v1/users/a", headers={"X-Request-ID": told})
    assert answer.headers["x-request-id"] == told == answer.json()["request_id"]


@pytest.mark.parametrize(
    "told", ["", "x" * 65, "a b", "a\r\nSet-Cookie: b", "\u00e4", "a/b", "<script>", "a\x00", "%0a"]
)
def test_a_request_id_that_is_none_is_made(service: Service, told: str) -> None:
    answer = service.ask("GET", "/healthz", headers={"X-Request-ID": told.encode("latin-1")})
    assert answer.headers["x-request-id"] != told
    assert len(answer.headers["x-request-id"]) == 16
    assert "set-cookie" not in answer.headers
    twice = service.ask("GET", "/healthz", headers=[("X-Request-ID", "a"), ("X-Request-ID", "b")])
    assert twice.headers["x-request-id"] not in ("a", "b")


JSON = {"content-type": "application/json"}


def test_a_body_has_a_limit_by_what_it_says_and_by_what_comes(tmp_path: Path) -> None:
    service = Service(tmp_path, body_bytes=1000)
    fits = json.dumps({"user": "a" * 200}).ljust(1000).encode()

    async def parts(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 100):
            yield b" " * 100

    assert service.status("POST", "/v1/recommend", content=fits, headers=JSON) == 200
    answer = service.ask("POST", "/v1/recommend", content=fits + b" ", headers=JSON)
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    assert "1000 bytes" in answer.json()["message"]
    assert service.status("POST", "/v1/recommend", content=parts(1100), headers=JSON) == 413
    assert service.status("POST", "/v1/recommend", content=parts(1000), headers=JSON) == 400
    for length in ("-1", "1e3", "0x10", "\xb2", "9" * 400):
        headers = {**JSON, "content-length": length.encode("latin-1")}
        assert service.status("POST", "/v1/recommend", content=b"{}", headers=headers) in (400, 413)
    both = {**JSON, "content-length": "2", "transfer-encoding": "chunked"}
    assert service.status("POST", "/v1/recommend", content=b"{}", headers=both) == 400


def test_a_body_must_be_json(service: Service) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", ""):
        assert service.status("POST", "/v1/recommend", content=b"{}", headers={"content-type": kind}) == 415
    assert service.status("POST", "/v1/recommend", content=b"{}") == 415
    assert service.status("POST", "/v1/recommend", content=b"{}", headers={**JSON, "content-encoding": "gzip"}) == 415
    kind = {"content-type": "Application/JSON; charset=utf-8"}
    assert service.status("POST", "/v1/recommend", content=b"{}", headers=kind) == 200


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
        ("[" * 100_000 + "NaN", 400),
        ("{}".encode("utf-16"), 400),
        ("{}".encode("utf-32"), 400),
        (b"{\x00}", 400),
    ],
)
def test_json_is_json(service: Service, body: str | bytes, status: int) -> None:
    content = body.encode() if isinstance(body, str) else body
    assert service.status("POST", "/v1/recommend", content=content, headers=JSON) == status


def test_addresses_have_a_limit(service: Service) -> None:
    assert service.status("GET", "/v1/users/" + "a" * 8000) == 422
    assert service.status("GET", "/v1/users/" + "a" * 9000) == 414
    assert service.status("GET", "/v1/items?query=" + "a" * 9000) == 414


def test_a_rate_holds_for_each_key(tmp_path: Path, tokens: dict[str, str]) -> None:
    seconds = [0.0]
    service = Service(tmp_path, Keys(tmp_path / "keys.json"), rate=1.0, clock=lambda: seconds[0])
    read, metrics = bearer(tokens["read"]), bearer(tokens["admin"])
    assert [service.status("GET", "/v1/models", headers=read) for _ in range(3)] == [200, 200, 429]
    answer = service.ask("POST", "/v1/recommend", headers=read, json={})
    assert (answer.json()["error"], answer.headers["retry-after"]) == ("too_many", "1")
    assert service.status("POST", "/v1/events", json=EVENT, headers=bearer(tokens["write"])) == 200
    assert [service.status("GET", path) for path in ("/healthz", "/", "/static/page.js") * 5] == [200] * 15
    assert [service.status("GET", "/metrics", headers=metrics) for _ in range(9)] == [200] * 9
    assert service.status("GET", "/v1/models") == 401, "who has no key uses up nobody's rate"
    seconds[0] += 1
    assert service.status("GET", "/v1/models", headers=read) == 200
    unguarded = Service(tmp_path, rate=1.0, clock=lambda: seconds[0])
    assert [unguarded.status("GET", "/v1/models") for _ in range(3)] == [200, 200, 429]


def test_only_so_many_at_a_time_and_probes_beside_them(tmp_path: Path) -> None:
    slots = Slots(1)
    service = Service(tmp_path, slots=slots)
    assert slots.take()
    answer = service.ask("POST", "/v1/recommend", json={})
    assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (503, "busy", "1")
    assert [service.status("GET", path) for path in ("/healthz", "/readyz", "/metrics")] == [200] * 3
    slots.give()
    for path, status in (("/v1/recommend", 200), ("/v1/users/a", 405), ("/v1/nowhere", 404)):
        assert service.status("POST", path, json={}) == status
    assert service.status("DELETE", "/v1/users/a") == 500
    assert slots.taken == 0, "whatever happens, a slot is given back"


def messages(service: Service, sent: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    """What the application answers to raw messages of a connection, the last of which is told for ever."""
    received: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return sent.pop(0) if len(sent) > 1 else sent[0]

    async def send(message: dict[str, Any]) -> None:
        received.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/recommend",
        "raw_path": b"/v1/recommend",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"2"), (b"host", b"localhost")],
        **more,
    }
    asyncio.run(service.app(scope, receive, send))  # type: ignore[arg-type]
    return received


def test_who_hangs_up_is_noted_and_costs_nothing(tmp_path: Path) -> None:
    told: list[Exchange] = []
    slots = Slots(1)
    service = Service(tmp_path, seen=told.append, slots=slots)
    half = {"type": "http.request", "body": b"{", "more_body": True}
    assert messages(service, [half, {"type": "http.disconnect"}]) == []
    assert (told[0].status, told[0].route, slots.taken) == (499, "/v1/recommend", 0)


def test_a_body_in_many_parts_arrives_whole(service: Service) -> None:
    parts = [{"type": "http.request", "body": bytes([byte]), "more_body": True} for byte in b'{"k":7}']
    parts += [{"type": "http.request", "body": b"", "more_body": False}]
    headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    start, body = messages(service, parts, headers=headers)
    assert (start["status"], json.loads(body["body"])["k"]) == (200, 7)


def test_a_body_that_stalls_is_not_waited_for(tmp_path: Path) -> None:
    service = Service(tmp_path, body_seconds=0.05)
    stall = [{"type": "http.request", "body": b"", "more_body": True}]
    start, body = messages(service, stall)
    assert (start["status"], json.loads(body["body"])["error"]) == (408, "slow")
    assert (b"connection", b"close") in start["headers"]


def test_who_waits_for_leave_to_send_is_refused_at_once(tmp_path: Path) -> None:
    service = Service(tmp_path, body_bytes=1000)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"9999"), (b"expect", b"100-continue")]
    start, _ = messages(service, [{"type": "never asked for"}], headers=headers)
    assert start["status"] == 413


def test_a_web_socket_is_refused_and_the_lifespan_is_not_touched(service: Service) -> None:
    socket = {"type": "websocket", "path": "/v1/recommend", "query_string": b"", "headers": []}
    assert messages(service, [{"type": "websocket.connect"}], **socket) == [{"type": "websocket.close", "code": 1008}]
    told = messages(service, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], type="lifespan", state={})
    assert [message["type"] for message in told] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_pages_elsewhere_cannot_make_a_browser_change_anything(service: Service, guarded: Service) -> None:
    rollback = "/v1/models/rollback"
    assert service.status("POST", rollback) == 200, "a program"
    assert service.status("POST", rollback, headers={"Sec-Fetch-Site": "same-origin"}) == 200
    assert service.status("POST", rollback, headers={"Origin": "http://localhost:8000"}) == 200
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:9000"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:8000.evil.example"},
    ):
        assert service.status("POST", rollback, headers=headers) == 403
        assert service.status("DELETE", "/v1/users/a", headers=headers) == 403
        assert service.status("GET", "/v1/models", headers=headers) == 200


def test_a_local_service_has_a_local_name(tmp_path: Path) -> None:
    service = Service(tmp_path, hosts=LOCAL)
    for host in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]", "LocalHost"):
        assert service.status("GET", "/v1/models", headers={"Host": host}) == 200
    for host in ("evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io:8000", "evil.example:localhost"):
        assert service.status("GET", "/v1/models", headers={"Host": host}) == 421


def test_other_sites_may_ask_where_they_are_named(tmp_path: Path, tokens: dict[str, str]) -> None:
    shop = {"Origin": "https://shop.example"}
    service = Service(tmp_path, Keys(tmp_path / "keys.json"), cors=("https://shop.example",))
    before = {**shop, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = asyncio.run(service.one("OPTIONS", "/v1/recommend", headers=before))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-credentials" not in answer.headers
    refused = service.ask("POST", "/v1/recommend", headers=shop, json={})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://shop.example")
    assert service.status("POST", "/v1/recommend", headers={**shop, **bearer(tokens["read"])}, json={}) == 200
    other = service.ask("POST", "/v1/recommend", headers={"Origin": "https://evil.example"}, json={})
    assert "access-control-allow-origin" not in other.headers
    unguarded = Service(tmp_path, cors=("https://shop.example",))
    assert unguarded.status("POST", "/v1/models/rollback", headers={**shop, "Sec-Fetch-Site": "cross-site"}) == 200
    for origin in ("shop.example", "https://shop.example/", "ftp://a", "https://a b/c"):
        with pytest.raises(ValueError, match="expected an origin such as"):
            Service(tmp_path, cors=(origin,))


def test_without_names_of_sites_no_header_lets_them_in(service: Service) -> None:
    before = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = service.ask("OPTIONS", "/v1/recommend", headers=before)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_failure_is_told_once_and_names_nobody(service: Service, logs: io.StringIO) -> None:
    answer = service.ask("DELETE", "/v1/users/alice")
    assert (answer.status_code, answer.json()["error"]) == (500, "failed")
    lines = [json.loads(line) for line in logs.getvalue().splitlines()]
    (told,) = [line for line in lines if line["level"] == "ERROR"]
    assert told["request_id"] == answer.headers["x-request-id"]
    assert told["traceback"].endswith("KeyError")
    assert "alice" not in logs.getvalue()


def test_a_failure_around_the_application_too(tmp_path: Path, logs: io.StringIO) -> None:
    inner = Service(tmp_path).app
    outer = Shield(inner, settings=Serving(), keys=None)
    transport = httpx.ASGITransport(outer)

    async def both() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [
                (await client.request(*one)).status_code for one in (("DELETE", "/v1/users/a"), ("GET", "/healthz"))
            ]

    assert asyncio.run(both()) == [500, 200]
    assert logs.getvalue().count('"ERROR"') == 1


def test_a_failure_amid_an_answer_ends_it(service: Service, logs: io.StringIO) -> None:
    scope = {"method": "GET", "path": "/stream", "query_string": b"fail=1", "headers": []}
    start, part = messages(service, [{"type": "http.request"}, {"type": "never"}], **scope)
    assert (start["status"], part["body"], part["more_body"]) == (200, b"a", True)
    assert "KeyError" in logs.getvalue()
    assert "alice" not in logs.getvalue()


def test_one_line_for_each_request(tmp_path: Path, tokens: dict[str, str], logs: io.StringIO) -> None:
    told: list[Exchange] = []
    service = Service(tmp_path, Keys(tmp_path / "keys.json"), seen=told.append)
    read = bearer(tokens["read"])
    service.ask("GET", "/v1/users/alice?a=b", headers={**read, "X-Request-ID": "one"})
    service.ask("POST", "/v1/models/m1/activate", headers={**read, "X-Request-ID": "two"})
    service.ask("GET", "/static/page.js", headers={"X-Request-ID": "three"})
    service.ask("GET", "/alice", headers={"X-Request-ID": "four"})
    service.ask("BREW", "/v1/users/alice", headers={"X-Request-ID": "five"})
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
    assert [[one.method, one.route, one.status, one.request_id, one.key] for one in told] == found


def test_no_secret_reaches_the_logs(tmp_path: Path, tokens: dict[str, str], logs: io.StringIO) -> None:
    service = Service(tmp_path, Keys(tmp_path / "keys.json"), body_bytes=2000)
    secret = "s3cr3t-alice"
    hidden = [secret, *(token.split("_", 2)[2] for token in tokens.values())]
    for token in (*tokens.values(), secret, "segue_00000000_" + secret.ljust(43, "x")):
        headers = {**bearer(token), "Cookie": secret, "User-Agent": secret, "Referer": f"http://x/?{secret}"}
        for method in ("GET", "POST", "DELETE", "BREW"):
            for path in (f"/v1/users/{secret}", f"/{secret}", f"/v1/items?query={secret}", f"/static/{secret}"):
                service.ask(method, path, headers=headers)
        for body in ({"user": secret}, {"user": [secret]}, {secret: 1}, {"user": secret, "item": secret, "k": secret}):
            for path in ("/v1/recommend", "/v1/events", f"/v1/models/{secret}/activate"):
                service.ask("POST", path, json=body, headers=headers)
        for content in (secret, f'{{"user": "{secret}"', secret * 1000, "[" * 10_000 + secret):
            service.ask("POST", "/v1/recommend", content=content.encode(), headers={**headers, **JSON})
    text = logs.getvalue()
    assert text.count('"segue.access"') == 5 * (16 + 12 + 4)
    assert text.count('"ERROR"') == 1, "the DELETE with a key that may"
    assert not [word for word in hidden if word in text]
    assert tokens["read"].split("_")[1] in text, "the id of the key is told"


def test_slips_of_others_are_cut_too(logs: io.StringIO) -> None:
    log = logging.getLogger("uvicorn.error")
    user = "".join(["al", "ice"])  # not to be had from the line that raises it
    log.warning("GET %s failed", f"/v1/items?query={user}&x=1")
    log.warning("key segue_0011aabb_%s", "S" * 43)
    try:
        raise KeyError(user)
    except KeyError:
        log.exception("told")
    log.info("extra", extra={"url": "http://a/b?alice", "number": 3})
    logging.getLogger("uvicorn.access").info("GET /v1/users/alice")
    text = logs.getvalue()
    assert "alice" not in text
    assert "SSS" not in text
    assert "segue_0011aabb_***" in text
    assert "/v1/items failed" in text
    assert "KeyError" in text
    assert all(json.loads(line) for line in text.splitlines())


def test_plain_text_is_one_line_each(logs: io.StringIO) -> None:
    to = io.StringIO()
    start_logs("text", "INFO", to)
    logging.getLogger("segue.access").info("GET /\nX \x1b[31m", extra={"status": 200, "key": None, "name_": "a\nb"})
    logging.getLogger("segue.access").debug("not told")
    (line,) = to.getvalue().splitlines()
    assert line.endswith("INFO segue.access GET /\ufffdX \ufffd[31m status=200 name_=a\ufffdb")
    with pytest.raises(ValueError, match="got 'loud', expected one of DEBUG"):
        start_logs("text", "loud", to)
