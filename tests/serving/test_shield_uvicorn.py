"""The same behind a real server: slow clients, endless bodies and headers, HTTP that is none."""

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
from segue.serving.limits import Slots  # noqa: E402
from segue.serving.middleware import http_timeouts
from segue.serving.middleware.http_timeouts import HTTP, patient  # noqa: E402
from segue.serving.middleware.security import protect  # noqa: E402
from segue.serving.monitoring.logs import start_logs  # noqa: E402
from segue.serving.settings import Serving  # noqa: E402

LARGE = 20_000_000


class Server:
    """A service on a free port of this machine."""

    def __init__(self) -> None:
        self.slots, self.logs = Slots(4), io.StringIO()
        app = FastAPI()

        @app.post("/v1/recommend")
        async def recommend(question: schemas.Question) -> dict[str, int]:
            return {"k": question.k}

        @app.get("/v1/large")
        async def large() -> Response:
            return Response(b"x" * LARGE)

        @app.get("/v1/stream")
        async def stream() -> StreamingResponse:
            return StreamingResponse(b"x" * 100_000 for _ in range(LARGE // 100_000))

        protect(app, settings=Serving(body_bytes=100_000, body_seconds=0.4), keys=None, slots=self.slots)
        start_logs("json", "INFO", self.logs)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            app, http=patient(0.4, 20_000, reading=0.6), ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, timeout_keep_alive=1, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def send(self, *parts: bytes, each: float = 0.0) -> bytes:
        """All that comes back on a connection of its own, until it is closed."""
        with self.connect() as one:
            try:
                for part in parts:
                    one.sendall(part)
                    time.sleep(each)
            except OSError:  # closed meanwhile; what it said before is read all the same
                pass
            return rest(one)


def rest(one: socket.socket) -> bytes:
    got = bytearray()
    try:
        while part := one.recv(1 << 20):
            got += part
    except ConnectionError:
        pass
    return bytes(got)


def until(what: Any) -> None:
    for _ in range(1000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


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


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer[9:12])


def test_another_process_finds_the_protocol_by_its_name() -> None:
    config = uvicorn.Config(FastAPI(), http=HTTP, log_config=None)
    config.load()
    assert config.http_protocol_class is patient()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = http_timeouts.nothing  # type: ignore[attr-defined]


def test_it_answers_and_does_not_say_what_it_is(server: Server) -> None:
    answer = server.send(request("Content-Length: 8", "Connection: close") + b'{"k": 7}')
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (status(answer), json.loads(body)) == (200, {"k": 7})
    assert b"\r\nserver:" not in head.lower()
    assert head.lower().count(b"\r\nx-request-id:") == 1


def test_parts_of_a_body_arrive_whole(server: Server) -> None:
    answer = server.send(
        request("Transfer-Encoding: chunked", "Connection: close"), b"4\r\n{\"k\"\r\n", b"4\r\n: 7}\r\n", b"0\r\n\r\n"
    )  # fmt: skip
    assert status(answer) == 200
    assert b'{"k":7}' in answer


def test_a_body_that_says_it_is_too_large_is_not_read(server: Server) -> None:
    answer = server.send(request("Content-Length: 99999999999"))
    assert (status(answer), b"connection: close" in answer) == (413, True)
    answer = server.send(request("Content-Length: 200000", "Expect: 100-continue"))
    assert status(answer) == 413, "not 100"


def test_who_sends_a_little_too_much_reads_why(server: Server) -> None:
    answer = server.send(request("Content-Length: 150000", "Connection: close") + b" " * 150_000)
    assert status(answer) == 413
    assert b"larger than 100000 bytes" in answer


def test_a_body_without_end_is_cut_off(server: Server) -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    answer = server.send(request("Transfer-Encoding: chunked"), *[chunk] * 500)
    assert answer == b"" or status(answer) == 413
    assert server.slots.taken == 0


def test_a_body_that_dribbles_is_not_waited_for(server: Server) -> None:
    answer = server.send(request("Content-Length: 1000"), *[b" "] * 12, each=0.05)
    assert (status(answer), b"connection: close" in answer) == (408, True)
    answer = server.send(request("Transfer-Encoding: chunked"), *[b"1\r\n \r\n"] * 12, each=0.05)
    assert status(answer) == 408
    assert server.slots.taken == 0


def test_headers_that_do_not_end_are_not_waited_for(server: Server) -> None:
    assert server.send(b"") == b""
    assert server.send(b"POST /v1/recommend HTTP/1.1\r\nHo") == b""
    assert server.send(request()[:-2], *[b"X-A: b\r\n"] * 12, each=0.05) == b""
    with server.connect() as one:  # a second request on a connection that was good before
        one.sendall(request("Content-Length: 2") + b"{}")
        assert status(one.recv(65_536)) == 200
        one.sendall(b"POST /v1")
        assert rest(one) == b""


def test_headers_without_limit_are_refused(server: Server) -> None:
    answer = server.send(request()[:-2], *[b"X-A: " + b"b" * 10_000 + b"\r\n"] * 2000)
    assert answer == b"" or status(answer) == 400
    answer = server.send(b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert status(answer) == 414


def test_a_slow_answer_is_not_cut_off_by_the_wait_for_headers(server: Server) -> None:
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
def test_http_that_is_none(server: Server, sent: bytes) -> None:
    answer = server.send(sent)
    assert answer == b"" or 400 <= status(answer) < 500
    assert answer.count(b"HTTP/1.1") <= 1


def test_what_was_sent_puts_no_header_into_the_answer(server: Server) -> None:
    for value in ("a\rSet-Cookie: b", "a\x00b", "a\tb", "\xe4"):
        answer = server.send(request("Content-Length: 2", f"X-Request-ID: {value}", "Connection: close") + b"{}")
        assert b"set-cookie" not in answer.lower()
        assert status(answer) in (200, 400)


@pytest.mark.parametrize("path", ["/v1/large", "/v1/stream"])
def test_who_does_not_read_his_answer_holds_nothing(server: Server, path: str) -> None:
    connections = server.server.server_state.connections
    until(lambda: not connections)
    with server.connect() as one:
        one.sendall(request(path=path, method="GET"))
        until(lambda: connections)
        until(lambda: not connections)
        assert server.slots.taken == 0
        assert 0 < len(rest(one)) < LARGE


@pytest.mark.parametrize("path", ["/v1/large", "/v1/stream"])
def test_who_reads_slowly_reads_all(server: Server, path: str) -> None:
    with server.connect() as one:
        one.sendall(request("Connection: close", path=path, method="GET"))
        got = 0
        for _ in range(20):
            time.sleep(0.02)
            got += len(one.recv(1_000_000))
        assert got + len(rest(one)) > LARGE


def test_those_who_dribble_keep_nobody_out_for_long(server: Server) -> None:
    idle = [server.connect() for _ in range(50)]
    slow = [server.connect() for _ in range(4)]
    for one in slow:
        one.sendall(request("Content-Length: 5"))
    until(lambda: server.slots.taken == 4)
    assert status(server.send(request("Content-Length: 2", "Connection: close") + b"{}")) == 503
    until(lambda: server.slots.taken == 0)
    assert status(server.send(request("Content-Length: 2", "Connection: close") + b"{}")) == 200
    assert [status(rest(one)) for one in slow] == [408] * 4
    assert [rest(one) for one in idle] == [b""] * 50
    for one in idle + slow:
        one.close()


def test_the_log_is_one_of_ours_throughout(server: Server) -> None:
    assert not logging.getLogger("uvicorn.access").isEnabledFor(logging.INFO), "it would tell addresses and queries"
    lines = [json.loads(line) for line in server.logs.getvalue().splitlines()]
    assert {line["logger"] for line in lines} <= {"segue.access", "uvicorn.error"}
    assert not [line for line in lines if "traceback" in line]
    assert not [line for line in lines if line["level"] == "ERROR" and "without completing" not in line["message"]]
