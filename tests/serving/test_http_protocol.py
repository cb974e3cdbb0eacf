"""HTTP protocol with a real server: slow clients, endless bodies, headers and trailers, malformed HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'segue[serve]'")
pytest.importorskip("httptools", reason="httptools is not installed: pip install 'segue[serve]'")

from fastapi import FastAPI, Response  # noqa: E402
from fastapi.responses import StreamingResponse  # noqa: E402

from segue.serving import schemas  # noqa: E402
from segue.serving.limits import SharedLimiter  # noqa: E402
from segue.serving.middleware import http_protocol  # noqa: E402
from segue.serving.middleware.http_protocol import HTTP_PROTOCOL, make_protocol  # noqa: E402
from segue.serving.middleware.security import install_security  # noqa: E402
from segue.serving.monitoring.logs import configure_logging  # noqa: E402
from segue.serving.settings import ServingSettings  # noqa: E402

LARGE = 20_000_000


class RecordingLimiter(SharedLimiter):
    """Limiter that records the open connections whenever slots are acquired or released.

    Args:
        connections: returns the open connections.
    """

    def __init__(self, limit: int, connections: Callable[[], Iterable[Any]]) -> None:
        super().__init__(limit)
        self._connections = connections
        self.usage: list[tuple[int, frozenset[Any]]] = []
        """Number of slots in use, and open connections, after each change."""

    def try_acquire(self, client: str | None = None, amount: int = 1) -> bool:
        is_acquired = super().try_acquire(client, amount)
        self.usage.append((self.in_use, frozenset(self._connections())))
        return is_acquired

    def release(self, client: str | None = None, amount: int = 1) -> None:
        super().release(client, amount)
        self.usage.append((self.in_use, frozenset(self._connections())))


class Server:
    """Service on a free port."""

    def __init__(self) -> None:
        self.limiter = RecordingLimiter(4, lambda: self.server.server_state.connections)
        self.logs = io.StringIO()
        self.usage = self.limiter.usage
        self.statuses: list[int] = []
        self.outcomes: list[str] = []
        app = FastAPI()

        @app.post("/v1/recommend")
        async def recommend(request: schemas.RecommendRequest) -> dict[str, int]:
            return {"k": request.k}

        @app.get("/v1/slow")
        async def slow() -> None:
            await self.wait("slow", 30)

        @app.post("/v1/events")
        async def write(event: schemas.EventRequest) -> None:
            await self.wait("write", 0.3)

        @app.get("/healthz")
        async def healthz() -> dict[str, bool]:
            return {"alive": True}

        @app.get("/v1/large")
        async def large() -> Response:
            return Response(b"x" * LARGE)

        @app.get("/v1/stream")
        async def stream() -> StreamingResponse:
            return StreamingResponse(b"x" * 100_000 for _ in range(LARGE // 100_000))

        install_security(
            app,
            settings=ServingSettings(max_body_bytes=100_000, body_timeout_seconds=0.4),
            keys=None,
            limiter=self.limiter,
            on_request=lambda record: self.statuses.append(record.status),
        )
        configure_logging("json", "INFO", self.logs)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=make_protocol(0.4, 20_000, write_timeout=0.6),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=1,
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)

    async def wait(self, name: str, seconds: float) -> None:
        """Do what a handler does for some time, and note how it ends."""
        self.outcomes.append(f"{name} starts")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.outcomes.append(f"{name} is canceled")
            raise
        self.outcomes.append(f"{name} ends")

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def send(self, *parts: bytes, delay: float = 0.0) -> bytes:
        """Send parts on a new connection and return everything received until it is closed."""
        with self.connect() as one:
            try:
                for part in parts:
                    one.sendall(part)
                    time.sleep(delay)
            except OSError:  # closed by the server; read what it sent before
                pass
            return read_all(one)


def read_all(one: socket.socket) -> bytes:
    got = bytearray()
    try:
        while part := one.recv(1 << 20):
            got += part
    except ConnectionError:
        pass
    return bytes(got)


def wait_until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("timed out")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    names = ("", "segue", "uvicorn", "uvicorn.error", "uvicorn.access")
    before = [(name, list(logging.getLogger(name).handlers), logging.getLogger(name).level) for name in names]
    one = Server()
    yield one
    one.close()
    for name, handlers, level in before:
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = True


def request(*headers: str, path: str = "/v1/recommend", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def status(response: bytes) -> int:
    assert response.startswith(b"HTTP/1.1 "), response[:200]
    return int(response[9:12])


def test_protocol_can_be_imported_by_name() -> None:
    config = uvicorn.Config(FastAPI(), http=HTTP_PROTOCOL, log_config=None)
    config.load()
    assert config.http_protocol_class is make_protocol()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = http_protocol.nothing


def test_no_server_header(server: Server) -> None:
    response = server.send(request("Content-Length: 8", "Connection: close") + b'{"k": 7}')
    head, _, body = response.partition(b"\r\n\r\n")
    assert (status(response), json.loads(body)) == (200, {"k": 7})
    assert b"\r\nserver:" not in head.lower()
    assert head.lower().count(b"\r\nx-request-id:") == 1


def test_bodies_in_parts(server: Server) -> None:
    response = server.send(
        request("Transfer-Encoding: chunked", "Connection: close"), b"4\r\n{\"k\"\r\n", b"4\r\n: 7}\r\n", b"0\r\n\r\n"
    )  # fmt: skip
    assert status(response) == 200
    assert b'{"k":7}' in response


def test_declared_oversized_bodies_are_not_read(server: Server) -> None:
    response = server.send(request("Content-Length: 99999999999"))
    assert (status(response), b"connection: close" in response) == (413, True)
    response = server.send(request("Content-Length: 200000", "Expect: 100-continue"))
    assert status(response) == 413, "not 100"


def test_slightly_oversized_bodies_receive_the_error(server: Server) -> None:
    response = server.send(request("Content-Length: 150000", "Connection: close") + b" " * 150_000)
    assert status(response) == 413
    assert b"larger than 100000 bytes" in response


def test_endless_bodies(server: Server) -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    response = server.send(request("Transfer-Encoding: chunked"), *[chunk] * 500)
    assert response == b"" or status(response) == 413
    assert server.limiter.in_use == 0


def test_slow_bodies(server: Server) -> None:
    response = server.send(request("Content-Length: 1000"), *[b" "] * 12, delay=0.05)
    assert (status(response), b"connection: close" in response) == (408, True)
    response = server.send(request("Transfer-Encoding: chunked"), *[b"1\r\n \r\n"] * 12, delay=0.05)
    assert status(response) == 408
    assert server.limiter.in_use == 0


def test_slow_headers(server: Server) -> None:
    assert server.send(b"") == b""
    assert server.send(b"POST /v1/recommend HTTP/1.1\r\nHo") == b""
    assert server.send(request()[:-2], *[b"X-A: b\r\n"] * 12, delay=0.05) == b""
    with server.connect() as one:  # a second request on a connection that was good before
        one.sendall(request("Content-Length: 2") + b"{}")
        assert status(one.recv(65_536)) == 200
        one.sendall(b"POST /v1")
        assert read_all(one) == b""


def test_oversized_headers(server: Server) -> None:
    response = server.send(request()[:-2], *[b"X-A: " + b"b" * 10_000 + b"\r\n"] * 2000)
    assert response == b"" or status(response) == 400
    response = server.send(b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert status(response) == 414


def test_keep_alive_is_not_affected_by_the_header_timeout(server: Server) -> None:
    with server.connect() as one:
        for _ in range(3):
            one.sendall(request("Content-Length: 2") + b"{}")
            assert status(one.recv(65_536)) == 200
            time.sleep(0.25)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1 recommend HTTP/1.1\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",
        request("Content-Length: 2", "Content-Length: 3") + b"{}",
        request("Content-Length: +2") + b"{}",
        request("Content-Length: -2") + b"{}",
        request("Content-Length: 2", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        request("Transfer-Encoding: chunked") + b"xyz\r\n\r\n",
        request("Transfer-Encoding: chunked") + b"-1\r\n\r\n",
        request("Transfer-Encoding: chunked") + b"fffffffffffffffff\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_malformed_http(server: Server, sent: bytes) -> None:
    response = server.send(sent)
    assert response == b"" or 400 <= status(response) < 500
    assert response.count(b"HTTP/1.1") <= 1


def test_no_response_header_injection(server: Server) -> None:
    for value in ("a\rSet-Cookie: b", "a\x00b", "a\tb", "\xe4"):
        response = server.send(request("Content-Length: 2", f"X-Request-ID: {value}", "Connection: close") + b"{}")
        assert b"set-cookie" not in response.lower()
        assert status(response) in (200, 400)


@pytest.mark.parametrize("path", ["/v1/large", "/v1/stream"])
def test_clients_that_do_not_read_are_disconnected(server: Server, path: str) -> None:
    """The slot is occupied while the response waits for the client."""
    connections = server.server.server_state.connections
    wait_until(lambda: not connections)
    server.usage.clear()
    with server.connect() as one:
        one.sendall(request(path=path, method="GET"))
        wait_until(lambda: server.usage)
        assert status(server.send(request("Connection: close", path="/healthz", method="GET"))) == 200
        wait_until(lambda: len(server.usage) == 2 and not connections)
        (n_used, open_before), (n_used_afterwards, open_afterwards) = server.usage
        assert (n_used, n_used_afterwards, len(open_before)) == (1, 0, 1)
        assert not open_before & open_afterwards, "the slot is released when the client has been disconnected"
        assert 0 < len(read_all(one)) < LARGE


@pytest.mark.parametrize("path", ["/v1/large", "/v1/stream"])
def test_slow_readers_receive_everything(server: Server, path: str) -> None:
    with server.connect() as one:
        one.sendall(request("Connection: close", path=path, method="GET"))
        got = 0
        for _ in range(20):
            time.sleep(0.02)
            got += len(one.recv(1_000_000))
        assert got + len(read_all(one)) > LARGE


def test_slow_clients_do_not_block_others(server: Server) -> None:
    """Only a complete request occupies one of the four slots."""
    idle = [server.connect() for _ in range(50)]
    slow = [server.connect() for _ in range(20)]
    for one in slow:
        one.sendall(request("Content-Length: 5") + b"{")
    for _ in range(10):
        assert status(server.send(request("Content-Length: 2", "Connection: close") + b"{}")) == 200
    assert [status(read_all(one)) for one in slow] == [408] * 20
    assert [read_all(one) for one in idle] == [b""] * 50
    assert server.limiter.in_use == 0
    for one in idle + slow:
        one.close()


def error(response: bytes, expected: int) -> str:
    """Check that a response is an error in the format of the service, and return its message."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert status(response) == expected, response
    found = schemas.ErrorResponse.model_validate_json(body)
    assert f"x-request-id: {found.request_id}".encode() in head
    assert b"connection: close" in head
    return found.message


CHUNKED = request("Transfer-Encoding: chunked")


@pytest.mark.parametrize("trailers", [b"a: b\r\n\r\n", b"a:b\r\n" * 50_000, b"a" * 300_000, b"a: " + b"b" * 300_000])
@pytest.mark.parametrize("path", ["/healthz", "/v1/recommend"])
def test_trailers_are_rejected(server: Server, trailers: bytes, path: str) -> None:
    method = "GET" if path == "/healthz" else "POST"
    response = server.send(request("Transfer-Encoding: chunked", path=path, method=method), b"0\r\n", trailers)
    assert response == b"" or error(response, 400)


def test_the_framing_of_chunks_is_limited(server: Server) -> None:
    """Extensions of chunks and empty lines cost the client more than the service, and end."""
    extension = b"1;" + b"x" * 60_000 + b"\r\n \r\n"
    assert "framing" in error(server.send(CHUNKED, *[extension] * 20), 400)
    assert "framing" in error(server.send(CHUNKED, *[b"1;" + b"x" * 9_000] * 100), 400)
    assert server.send(CHUNKED, b'8;a=b\r\n{"k": 7}\r\n', b"0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_large_body_before_a_partial_request_is_not_a_large_header(server: Server) -> None:
    body = json.dumps({"user": "a"}).encode().ljust(90_000)
    with server.connect() as one:
        one.sendall(request(f"Content-Length: {len(body)}") + body + b"POST /v1/rec")
        one.sendall(b"ommend HTTP/1.1\r\n")
        one.sendall(b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        got = b""
        while got.count(b"HTTP/1.1 200") < 2:
            got += (part := one.recv(65_536))
            assert part, got


def test_pipelined_requests_are_limited(server: Server) -> None:
    probe = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = probe.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert server.send(probe * 15 + last).count(b"HTTP/1.1 200") == 16
    responses = server.send(request(path="/v1/slow", method="GET") + probe * 5_000)
    assert responses == b"", "an error would be taken for the response to the first of them"
    wait_until(lambda: server.limiter.in_use == 0)


def test_unsupported_transfer_encodings(server: Server) -> None:
    for encoding in ("gzip, chunked", "gzip", "identity", "chunked, chunked", "x"):
        response = server.send(request(f"Transfer-Encoding: {encoding}") + b"0\r\n\r\n")
        assert error(response, 400), encoding
    sent = CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"2\r\n{}\r\n0\r\n\r\n"
    assert error(server.send(sent), 400)


@pytest.mark.parametrize("method", ["BREW", "get", "G\x00T", "PURGE", "TRACE", "CONNECT", "PROPFIND"])
def test_errors_of_unknown_methods_have_the_usual_format(server: Server, method: str) -> None:
    response = server.send(request("Connection: close", method=method))
    assert error(response, status(response))
    assert status(response) in (400, 404, 405)


@pytest.mark.parametrize("path", ["/healthz", "/v1/large", "/v1/nothing"])
def test_head_is_answered_like_get_without_the_body(server: Server, path: str) -> None:
    head, _, body = server.send(request("Connection: close", path=path, method="HEAD")).partition(b"\r\n\r\n")
    expected = server.send(request("Connection: close", path=path, method="GET")).partition(b"\r\n\r\n")[0]

    def names(head: bytes) -> list[bytes]:
        return [line for line in head.split(b"\r\n") if not line.startswith((b"x-request-id", b"date"))]

    assert (names(head), body) == (names(expected), b"")


def test_bodies_that_no_route_reads_are_refused_at_once(server: Server) -> None:
    for method, path in (("GET", "/healthz"), ("HEAD", "/healthz"), ("DELETE", "/v1/users/a"), ("OPTIONS", "/")):
        for header in ("Content-Length: 10", "Content-Length: 90000", "Transfer-Encoding: chunked"):
            response = server.send(request(header, method=method, path=path))
            assert status(response) == 400, "not 408"
            assert b"connection: close" in response
    assert status(server.send(request("Content-Length: 0", "Connection: close", path="/healthz", method="GET"))) == 200


def test_a_handler_is_canceled_when_its_client_disconnects(server: Server) -> None:
    server.outcomes.clear()
    server.statuses.clear()
    with server.connect() as one:
        one.sendall(request(path="/v1/slow", method="GET"))
        wait_until(lambda: server.outcomes == ["slow starts"])
        assert server.limiter.in_use == 1
    wait_until(lambda: server.statuses == [499])
    assert (server.outcomes, server.limiter.in_use) == (["slow starts", "slow is canceled"], 0)


def test_a_write_finishes_when_its_client_disconnects(server: Server) -> None:
    server.outcomes.clear()
    with server.connect() as one:
        body = b'{"user": "a", "item": "b"}'
        one.sendall(request(f"Content-Length: {len(body)}", path="/v1/events") + body)
        wait_until(lambda: server.outcomes == ["write starts"])
    wait_until(lambda: len(server.outcomes) == 2)
    assert server.outcomes[1] == "write ends"


def test_uvicorn_logs_use_our_format(server: Server) -> None:
    assert not logging.getLogger("uvicorn.access").isEnabledFor(logging.INFO), "it would log paths and queries"
    lines = [json.loads(line) for line in server.logs.getvalue().splitlines()]
    others = [line for line in lines if line["logger"] not in ("segue.access", "uvicorn.error")]
    assert not others, others
    assert not [line for line in lines if "traceback" in line], [line for line in lines if "traceback" in line]
    assert not [line for line in lines if line["level"] == "ERROR" and "without completing" not in line["message"]]
