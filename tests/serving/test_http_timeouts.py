"""HTTP timeouts with a real server: slow clients, endless bodies and headers, malformed HTTP."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'segue[serve]'")
pytest.importorskip("httptools", reason="httptools is not installed: pip install 'segue[serve]'")

from fastapi import FastAPI, Response  # noqa: E402
from fastapi.responses import StreamingResponse  # noqa: E402

from segue.serving import schemas  # noqa: E402
from segue.serving.limits import ConcurrencyLimiter  # noqa: E402
from segue.serving.middleware import http_timeouts  # noqa: E402
from segue.serving.middleware.http_timeouts import HTTP_PROTOCOL, make_timeout_protocol  # noqa: E402
from segue.serving.middleware.security import install_security  # noqa: E402
from segue.serving.monitoring.logs import configure_logging  # noqa: E402
from segue.serving.settings import ServingSettings  # noqa: E402

LARGE = 20_000_000


class Server:
    """Service on a free port."""

    def __init__(self) -> None:
        self.limiter, self.logs = ConcurrencyLimiter(4), io.StringIO()
        app = FastAPI()

        @app.post("/v1/recommend")
        async def recommend(request: schemas.RecommendRequest) -> dict[str, int]:
            return {"k": request.k}

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
        )
        configure_logging("json", "INFO", self.logs)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=make_timeout_protocol(0.4, 20_000, write_timeout=0.6),
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
    assert config.http_protocol_class is make_timeout_protocol()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = http_timeouts.nothing  # type: ignore[attr-defined]


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
    connections = server.server.server_state.connections
    wait_until(lambda: not connections)
    with server.connect() as one:
        one.sendall(request(path=path, method="GET"))
        wait_until(lambda: connections)
        wait_until(lambda: not connections)
        assert server.limiter.in_use == 0
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


def test_slow_clients_do_not_block_others_for_long(server: Server) -> None:
    idle = [server.connect() for _ in range(50)]
    slow = [server.connect() for _ in range(4)]
    for one in slow:
        one.sendall(request("Content-Length: 5"))
    wait_until(lambda: server.limiter.in_use == 4)
    assert status(server.send(request("Content-Length: 2", "Connection: close") + b"{}")) == 503
    wait_until(lambda: server.limiter.in_use == 0)
    assert status(server.send(request("Content-Length: 2", "Connection: close") + b"{}")) == 200
    assert [status(read_all(one)) for one in slow] == [408] * 4
    assert [read_all(one) for one in idle] == [b""] * 50
    for one in idle + slow:
        one.close()


def test_uvicorn_logs_use_our_format(server: Server) -> None:
    assert not logging.getLogger("uvicorn.access").isEnabledFor(logging.INFO), "it would log paths and queries"
    lines = [json.loads(line) for line in server.logs.getvalue().splitlines()]
    assert {line["logger"] for line in lines} <= {"segue.access", "uvicorn.error"}
    assert not [line for line in lines if "traceback" in line]
    assert not [line for line in lines if line["level"] == "ERROR" and "without completing" not in line["message"]]
