"""Service with keys behind a real server: path traversal, incomplete requests, invalid keys and concurrent abuse.

Every response must arrive within the timeouts of the clients; after each test a valid request must succeed.
"""

import io
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import pytest

from segue.serving import schemas
from segue.serving.app import create_app
from segue.serving.auth.api_keys import ApiKeys, create_key
from segue.serving.monitoring.logs import configure_logging
from tests.serving.world import service

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'segue[serve]'")
pytest.importorskip("httptools", reason="httptools is not installed: pip install 'segue[serve]'")

SECONDS = 20
SECRET = "alice.example"
"""Id that must not appear in logs and errors."""


class Server:
    """Service on a free port, with a store on disk and a key with all scopes."""

    def __init__(self, folder: Path) -> None:
        from segue.serving.middleware.http_protocol import make_protocol

        self.folder, self.logs = folder, io.StringIO()
        self.key = create_key(folder / "keys.json", "all", ["read", "write", "admin"])
        self.reader = create_key(folder / "keys.json", "reader", ["read"])
        store = f"sqlite:///{folder / 'event-store.sqlite'}"
        self.service = service("sasrec", "ease", store=store, max_body_bytes=200_000, body_timeout_seconds=0.5)
        configure_logging("json", "INFO", self.logs)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            create_app(self.service, keys=ApiKeys(folder / "keys.json")),
            http=make_protocol(0.5, write_timeout=1.0),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(SECONDS)
        self.socket.close()
        assert not self.thread.is_alive()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def send(self, *parts: bytes) -> bytes:
        """Send parts on a new connection and return everything received until it is closed."""
        with self.connect() as one:
            try:
                for part in parts:
                    one.sendall(part)
            except OSError:  # closed by the server; read what it sent before
                pass
            return read_all(one)

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=SECONDS)

    def request(self, target: bytes, method: bytes = b"GET", *headers: bytes, body: bytes = b"") -> bytes:
        """Return the bytes of a valid request to any target."""
        lines = [b"Host: localhost", b"Authorization: Bearer " + self.key.encode(), *headers]
        if body:
            lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
        return b"\r\n".join([method + b" " + target + b" HTTP/1.1", *lines, b"", body])


def wait_until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        sleep(0.01)
    raise AssertionError("timed out")


def read_all(one: socket.socket) -> bytes:
    got = bytearray()
    try:
        while part := one.recv(1 << 20):
            got += part
    except ConnectionError:
        pass
    return bytes(got)


def parse_response(response: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of one response."""
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first[9:12]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    names = ("", "segue", "uvicorn", "uvicorn.error", "uvicorn.access")
    before = [(name, list(logging.getLogger(name).handlers), logging.getLogger(name).level) for name in names]
    one = Server(tmp_path_factory.mktemp("hidden-folder"))
    yield one
    one.close()
    for name, handlers, level in before:
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = True


@pytest.fixture(autouse=True)
def check_service_afterwards(server: Server) -> Iterator[None]:
    yield
    with server.client() as client:
        response = client.post("/v1/recommend", json={"user": "u1", "k": 3})
        assert (response.status_code, len(schemas.RecommendResponse.model_validate_json(response.text).items)) == (
            200,
            3,
        )


LEAKS = re.compile(
    rb"Traceback|File \"|site-packages|segue/serving|\.py\b|sqlite|event-store|hidden-folder|uvicorn|starlette|pydantic"
    rb"|from __future__|segue_[0-9a-f]{8}"
)


def check_response(server: Server, response: bytes, *allowed: int) -> int:
    """Check that a response is well formed and leaks nothing, and return its status."""
    status, headers, body = parse_response(response)
    assert status in allowed if allowed else status < 500, response[:500]
    assert not LEAKS.search(response), response[:2000]
    if status >= 400 and body != b"Invalid HTTP request received.":  # sent by uvicorn for malformed HTTP
        error = schemas.ErrorResponse.model_validate_json(body)
        assert error.request_id == headers["x-request-id"]
        assert SECRET not in error.model_dump_json()
    assert response.count(b"\r\nHTTP/1.1 ") == 0
    return status


TARGETS = [
    b"/v1/items/%2e%2e%2f", b"/v1/items/..%2f..%2f..%2fetc%2fpasswd", b"/v1/items/../../../etc/passwd",
    b"/v1/items/%252e%252e%252f", b"/v1/items/%00", b"/v1/items/a%00b", b"/v1/items/%0d%0aSet-Cookie:%20a=b",
    b"/v1/items/%", b"/v1/items/%zz", b"/v1/items/%ff", b"/v1/items/%ed%a0%80", b"/v1/items/%c0%ae%c0%ae",
    b"/v1/items/" + b"a" * 257, b"/v1/items/" + b"%F0%9F%98%80" * 257, b"/v1/items/" + b"a" * 9_000,
    b"/v1/items/" + b"../" * 2_000, b"/v1/items//", b"/v1/items/ /similar", b"/v1/items//similar", b"/v1/items/%7f",
    b"/v1/items/i1/similar/similar", b"/v1/items/i1%2fsimilar", b"/v1/items/i1?query=%00", b"/v1/users/..",
    b"/v1/users/%2e", b"/v1/users/", b"/v1/users/%20", b"/v1/users/%C2%85", b"//v1/models", b"/v1//models",
    b"/V1/models", b"/v1/models/", b"/v1/models;a=b", b"/v1/models/..;/", b"/v1/models/%2e%2e/activate",
    b"/v1/models/..%2f..%2fhidden-folder/activate", b"/v1/models//activate", b"/page/../app.py",
    b"/page/%2e%2e/app.py", b"/page/..%2fapp.py", b"/page/....//app.py", b"/page//etc/passwd",
    b"/page/%2fetc%2fpasswd", b"/page/index.html%00.js", b"/page/__init__.py", b"/page/", b"/page",
    b"/page/" + b"a" * 5_000, b"/static/../../../app.py", b"/static/%2e%2e/%2e%2e/__init__.py", b"/static/con",
    b"/static/.", b"/static/%5c..%5capp.py", b"/openapi.json/..", b"/metrics/..", b"/docs/%2e%2e", b"/?", b"/#",
    b"*", b"http://evil.example/v1/models", b"http://evil.example:99999/v1/models", b"/v1/items?limit=1&limit=2",
    b"/v1/items?limit=", b"/v1/items?limit=1e3", b"/v1/items?limit=%2B5", b"/v1/items?limit=5%00",
    b"/v1/items?limit=0x10", b"/v1/items?limit=" + b"9" * 5_000, b"/v1/items?limit=%EF%BC%93",
    b"/v1/items?limit=1_0", b"/v1/items?limit=-0", b"/v1/items?limit=NaN", b"/v1/items?query=" + b"a" * 257,
    b"/v1/items?query=%ff%fe", b"/v1/items?query=%22%20OR%201=1--", b"/v1/items?query=*",
    b"/v1/items?query=NEAR(a%20b)", b"/v1/items?query=title:*", b"/v1/items?query=%5Ea%20AND%20NOT",
    b"/v1/items?" + b"&" * 8_000, b"/v1/items?" + b"a=b&" * 2_000, b"/v1/items?query[]=a",
    b"/v1/items?query=a;limit=3", b"/v1/items?=&==", b"/v1/items?%00=%00", b"/v1/users?query=%25",
    b"/v1/users?query=_", b"/v1/users?query=%F0%9F%98%80", b"/v1/users?limit=1001",
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:40].decode())
def test_path_traversal(server: Server, target: bytes) -> None:
    for method in (b"GET", b"POST", b"DELETE", b"OPTIONS"):
        response = server.send(server.request(target, method, b"Connection: close"))
        status = check_response(server, response)
        assert status in (200, 307, 400, 404, 405, 409, 414, 415, 422), response[:300]
        assert b"set-cookie" not in response.lower()
        assert b"root:" not in response


def test_ids_are_not_normalized(server: Server) -> None:
    names = [
        "é", "e\u0301", "\u212b", "\u00c5", "ß", "SS", "a/b", "a%2Fb", "a%252Fb", "a+b", "a b", " ", ".", "..",
        "a?b", "a#b", "\u202e", "\ufeff", "\u0085", "\U0001f600" * 256, "null", "0", "'; drop table events; --",
    ]  # fmt: skip
    with server.client() as client:
        for index, name in enumerate(names):
            event = {"user": name, "item": name, "time": index}
            assert client.post("/v1/events", json=event).json()["accepted"] == 1
        for index, name in enumerate(names):
            encoded = "".join(f"%{byte:02X}" for byte in name.encode())
            response = server.send(server.request(b"/v1/users/" + encoded.encode(), b"GET", b"Connection: close"))
            assert check_response(server, response, 200)
            user = schemas.User.model_validate_json(parse_response(response)[2])
            assert (user.id, [(event.item, event.time) for event in user.events]) == (name, [(name, index)])
            response = server.send(server.request(b"/v1/users/" + encoded.encode(), b"DELETE", b"Connection: close"))
            assert schemas.UserDeleted.model_validate_json(parse_response(response)[2]).deleted_events == 1


INVALID_KEYS: list[bytes] = [
    b"", b"Authorization: Bearer", b"Authorization: Bearer ", b"Authorization: Basic YWxpY2U6YWxpY2U=",
    b"Authorization: KEY", b"Authorization: Bearer KEY KEY", b"Authorization: Bearer KEYx",
    b"Authorization: Bearer x" + b"y" * 10_000, b"Authorization: Bearer \xff\xfe",
    b"Authorization: Bearer segue_00000000_" + b"A" * 43, b"X-API-Key:", b"Authorization: Bearer ${KEY}",
    b"Authorization: Bearer ../keys.json", b"Cookie: key=KEY", b"X-Forwarded-For: 127.0.0.1",
    b"Authorization: Bearer KEY\r\nAuthorization: Bearer KEY", b"X-API-Key: KEY\r\nX-API-Key: wrong",
]  # fmt: skip


@pytest.mark.parametrize("header", INVALID_KEYS, ids=range(len(INVALID_KEYS)))
def test_invalid_keys(server: Server, header: bytes) -> None:
    header = header.replace(b"KEY", server.key.encode())
    for line in (
        b"GET /v1/models",
        b"POST /v1/models/ease/activate",
        b"DELETE /v1/users/u1",
        b"GET /v1/users/u1?key=KEY",
    ):
        line = line.replace(b"KEY", server.key.encode())
        sent = b"\r\n".join(
            [line + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *([header] if header else [])]
        )
        response = server.send(sent + b"\r\n\r\n")
        check_response(server, response, 400, 401)
        assert server.key.encode() not in response
    assert server.service.models.active.info.name == "sasrec"


def test_a_read_key_cannot_write(server: Server) -> None:
    with server.client(server.reader) as reader:
        for operation in (
            "POST /v1/models/ease/activate", "POST /v1/models/rollback", "POST /v1/events",
            "DELETE /v1/users/u1", "PUT /v1/users/u1", "PATCH /v1/items/i1",
        ):  # fmt: skip
            method, path = operation.split()
            response = reader.request(method, path, json={"user": SECRET, "item": "i1"} if method == "POST" else None)
            assert (response.status_code, schemas.ErrorResponse.model_validate_json(response.text).error) == (
                403,
                "forbidden",
            ), path


def test_no_header_injection(server: Server) -> None:
    for value in (
        b"a\rSet-Cookie: b=c",
        b"a\x00b",
        b"a\x0bb",
        b"\xc4\xa4",
        b"a" * 65,
        b"<script>",
        b"${jndi:ldap://x}",
        b"",
    ):
        response = server.send(server.request(b"/v1/stats", b"GET", b"X-Request-ID: " + value, b"Connection: close"))
        check_response(server, response, 200, 400)
        assert b"set-cookie" not in response.lower()
        assert not value or value not in response
    response = server.send(server.request(b"/v1/nowhere", b"GET", b"X-Request-ID: mine-1", b"Connection: close"))
    assert schemas.ErrorResponse.model_validate_json(parse_response(response)[2]).request_id == "mine-1"


REQUEST = json.dumps({"user": SECRET, "history": ["i1"], "k": 2}).encode()


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    requests = [server.request(b"/v1/recommend", b"POST", body=json.dumps({"k": k}).encode()) for k in range(0, 4)]
    last = server.request(b"/v1/stats", b"GET", b"Connection: close")
    parts = server.send(b"".join([*requests, last])).split(b"HTTP/1.1 ")[1:]
    assert [part[:3] for part in parts] == [b"422", b"200", b"200", b"200", b"200"]
    responses = [schemas.RecommendResponse.model_validate_json(part.partition(b"\r\n\r\n")[2]) for part in parts[1:4]]
    assert [len(response.items) for response in responses] == [1, 2, 3]
    schemas.LiveStats.model_validate_json(parts[4].partition(b"\r\n\r\n")[2])


def test_chunked_and_incomplete_bodies(server: Server) -> None:
    head = server.request(b"/v1/recommend", b"POST", b"Connection: close", b"Content-Type: application/json")
    chunked = head.replace(b"Connection: close", b"Connection: close\r\nTransfer-Encoding: chunked")
    pieces = [b"1\r\n" + REQUEST[index : index + 1] + b"\r\n" for index in range(len(REQUEST))]
    assert check_response(server, server.send(chunked, *pieces, b"0\r\n\r\n"), 200) == 200
    assert check_response(server, server.send(chunked, *pieces[:5]), 408) == 408
    half = head.replace(b"Connection: close", b"Connection: close\r\nContent-Length: %d" % len(REQUEST))
    assert check_response(server, server.send(half, REQUEST[:10]), 408) == 408
    for count in (1, 10, len(half), len(half) + 5):  # then disconnect
        with server.connect() as one:
            one.sendall((half + REQUEST)[:count])
    with server.connect() as one:
        one.sendall(half + REQUEST)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # TCP reset


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (b"text/plain", 415), (b"application/xml", 415), (b"multipart/form-data", 415),
        (b"application/json; charset=utf-16", 200), (b"application/json;;;", 200), (b"APPLICATION/JSON", 200),
        (b"application/x-www-form-urlencoded", 415), (b"", 415), (b"application/json, text/plain", 415),
        (b"application/problem+json", 415), (b"\xff", 415), (b"a" * 10_000, 415),
    ],
)  # fmt: skip
def test_other_content_types(server: Server, content_type: bytes, status: int) -> None:
    request = server.request(b"/v1/recommend", b"POST", b"Connection: close", body=REQUEST)
    assert check_response(server, server.send(request.replace(b"application/json", content_type)), status) == status


def send_invalid_requests(server: Server, worker: int, count: int) -> set[int]:
    """Send requests that are invalid in various ways, some incomplete, and return the statuses received."""
    statuses = set()
    nested = b"[" * 50_000
    for number in range(count):
        kind = (number + worker) % 10
        path = (b"/v1/recommend", b"/v1/events/batch", b"/v1/explain")[number % 3]
        bodies = [
            nested,
            b"{" * 50_000,
            b'{"k":NaN}',
            b'{"user":' + b'"x' * 50_000,
            b"[1e999]",
            b"\xff" * 100_000,
            b"{}" * 50_000,
        ]
        if kind < 7:
            statuses.add(
                check_response(
                    server, server.send(server.request(path, b"POST", b"Connection: close", body=bodies[kind]))
                )
            )
        elif kind == 7:
            statuses.add(
                check_response(
                    server, server.send(server.request(TARGETS[number % len(TARGETS)], b"GET", b"Connection: close"))
                )
            )
        elif kind == 8:
            with server.connect() as one:
                one.sendall(server.request(path, b"POST", body=REQUEST)[: number * 7 % 200])
        else:
            statuses.add(
                check_response(
                    server, server.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), 401
                )
            )
    return statuses


def test_valid_requests_succeed_under_attack(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool, server.client() as client:
        workers = [pool.submit(send_invalid_requests, server, worker, 60) for worker in range(4)]
        n_requests = 0
        while n_requests < 30 or not all(one.done() for one in workers):
            user = f"u{n_requests % 40}"
            response = client.post("/v1/recommend", json={"user": user, "model": "ease", "k": 5, "deadline_ms": 60_000})
            assert response.status_code == 200
            body = schemas.RecommendResponse.model_validate_json(response.text)
            assert (len(body.items), body.source, body.unknown.user) == (5, "model", False)
            n_requests += 1
        statuses = set().union(*(one.result() for one in workers))
    # 429: four large bodies of 50,001 values at a time are more than the share of one client
    assert statuses <= {200, 400, 401, 404, 405, 413, 414, 422, 429}
    assert server.server.server_state.connections is not None
    wait_until(lambda: not server.server.server_state.connections)


@pytest.mark.parametrize("operation", ["delete_user", "append"])
def test_changes_are_completed_when_the_client_disconnects(
    server: Server, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    store = server.service.store
    method, steps = getattr(store, operation), []

    def slow(*arguments: Any) -> Any:
        steps.append("begins")
        sleep(0.3)
        result = method(*arguments)
        steps.append("ends")
        return result

    with server.client() as client:
        assert client.post("/v1/events", json={"user": "leaving", "item": "i1"}).json()["accepted"] == 1
        monkeypatch.setattr(store, operation, slow)
        body = json.dumps({"user": "leaving", "item": "i2"}).encode()
        with server.connect() as one:
            if operation == "append":
                one.sendall(server.request(b"/v1/events", b"POST", body=body))
            else:
                one.sendall(server.request(b"/v1/users/leaving", b"DELETE"))
            wait_until(lambda: steps == ["begins"])
        wait_until(lambda: steps == ["begins", "ends"])
        monkeypatch.undo()
        user = schemas.User.model_validate_json(client.get("/v1/users/leaving").text)
        assert [event.item for event in user.events] == (["i1", "i2"] if operation == "append" else [])
        client.delete("/v1/users/leaving")


def test_activations_are_completed_when_the_client_disconnects(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, begun = server.service.models, threading.Event()
    activate = registry.activate

    def slow(name: str) -> Any:
        begun.set()
        sleep(0.3)
        return activate(name)

    monkeypatch.setattr(registry, "activate", slow)
    with server.connect() as one:
        one.sendall(server.request(b"/v1/models/ease/activate", b"POST"))
        assert begun.wait(SECONDS)
    wait_until(lambda: registry.active.info.name == "ease")
    with server.client() as client:
        wait_until(lambda: 'segue_model_active{key="ease",model="ease"' in client.get("/metrics").text)
        monkeypatch.undo()
        assert client.post("/v1/models/sasrec/activate").status_code == 200


def test_logs_contain_no_ids_and_no_errors(server: Server) -> None:
    assert server.send(server.request(b"/v1/users/" + SECRET.encode(), b"GET", b"Connection: close"))
    assert server.send(server.request(b"/v1/items?query=" + SECRET.encode(), b"GET", b"Connection: close"))
    logs = server.logs.getvalue()
    assert "/v1/users/{id}" in logs
    assert SECRET not in logs
    assert server.key not in logs
    assert server.key.split("_", 2)[2] not in logs  # the secret, which may contain "_"
    lines = [json.loads(line) for line in logs.splitlines()]
    assert not [line for line in lines if "traceback" in line or line.get("status", 0) >= 500]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"other"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_after_an_upgrade_is_not_a_request(server: Server, protocol: bytes, is_chunked: bool) -> None:
    """The parser takes what follows the headers of an upgrade for the next request."""
    body = server.request(b"/v1/users/u1", b"DELETE")
    upgrade = [b"Connection: Upgrade", b"Upgrade: " + protocol, b"Content-Type: application/json"]
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(body)
    head = server.request(b"/v1/recommend", b"POST", *upgrade, framing)
    with server.connect() as one:
        one.sendall(head)
        sleep(0.1)
        with suppress(OSError):
            one.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if is_chunked else body)
            one.sendall(server.request(b"/v1/models", b"GET", b"Connection: close"))
        responses = read_all(one).split(b"HTTP/1.1 ")[1:]
    assert [one[:3] for one in responses] == ([b"400", b"200"] if protocol == b"h2c" else [b"400"])
    assert check_response(server, b"HTTP/1.1 " + responses[0], 400) == 400
    assert b"not valid JSON" in responses[0]
    with server.client() as client:
        assert client.get("/v1/users/u1").json()["deleted"] is False


@pytest.mark.parametrize("is_chunked", [False, True])
def test_clients_that_prefer_http2_are_answered_by_http1(server: Server, is_chunked: bool) -> None:
    """Java's HttpClient and ``curl --http2`` send these headers with every request."""
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAA")
    body = json.dumps({"k": 2}).encode()
    if is_chunked:
        framing = (b"Content-Type: application/json", b"Transfer-Encoding: chunked")
        sent = server.request(b"/v1/recommend", b"POST", *upgrade, *framing) + b"8\r\n%s\r\n0\r\n\r\n" % body
    else:
        sent = server.request(b"/v1/recommend", b"POST", *upgrade, body=body)
    last = server.request(b"/v1/stats", b"GET", b"Connection: close, Upgrade", b"Upgrade: h2c")
    parts = server.send(sent, sent + last).split(b"HTTP/1.1 ")[1:]
    assert [part[:3] for part in parts] == [b"200"] * 3
    for part in parts[:2]:
        assert len(schemas.RecommendResponse.model_validate_json(part.partition(b"\r\n\r\n")[2]).items) == 2


def test_an_upgrade_to_another_protocol_is_answered_and_closed(server: Server) -> None:
    request = server.request(b"/v1/models", b"GET", b"Connection: Upgrade", b"Upgrade: websocket")
    assert check_response(server, server.send(request), 200) == 200
