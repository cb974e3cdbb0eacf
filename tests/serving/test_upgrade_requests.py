"""Requests with ``Upgrade``, as sent by clients that prefer HTTP/2, are answered as requests of HTTP/1.1.

The parser takes the body of such a request for the next request, so the tests send a request as the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.serving.test_http_protocol_bodies import Connection

BODY = b"DELETE /v1/users/u1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAA")
"""Headers that Java's HttpClient and ``curl --http2`` send with every request."""
WEBSOCKET = (b"Upgrade: websocket", b"Connection: keep-alive, Upgrade", b"Sec-WebSocket-Version: 13")


class Recorder(Connection):
    """Connection to an application that records requests."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, bytes]] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.is_closed_by_service = False

    async def respond(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.requests.append((f"{scope['method']} {scope['path']}", body))
        self.headers.append(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    @property
    def n_responses(self) -> int:
        return self.transport.written.count(b"HTTP/1.1 200")


def request(*headers: bytes, method: bytes = b"POST", path: bytes = b"/", body: bytes | None = None) -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: localhost", *headers]
    lines += [] if body is None else [b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body or b""])


def chunked(*headers: bytes, path: bytes = b"/") -> bytes:
    head = request(*headers, b"Transfer-Encoding: chunked", path=path)
    return head + b"%x\r\n%s\r\n5;a=b\r\n%s\r\n0\r\n\r\n" % (len(BODY) - 5, BODY[:-5], BODY[-5:])


def exchange(parts: Sequence[bytes], after: bytes = b"") -> Recorder:
    """Send parts, one at a time, then ``after``, and close the connection."""

    async def run() -> Recorder:
        connection = Recorder()
        await connection.send(*parts)
        if after:
            await connection.send(after)
        for _ in range(40):  # lets the application answer pipelined requests
            await asyncio.sleep(0)
        connection.is_closed_by_service = connection.transport.is_closed
        connection.close()
        return connection

    return asyncio.run(run())


@pytest.mark.parametrize("is_chunked", [False, True])
def test_the_body_is_the_body_wherever_the_data_is_split(is_chunked: bool) -> None:
    sent = chunked(*H2C, path=b"/a") if is_chunked else request(*H2C, path=b"/a", body=BODY)
    for split in range(len(sent) + 1):
        connection = exchange([sent[:split], sent[split:]], request(method=b"GET", path=b"/b"))
        assert connection.requests == [("POST /a", BODY), ("GET /b", b"")], split
        assert (connection.n_responses, connection.is_closed_by_service) == (2, False)
    connection = exchange([sent[index : index + 1] for index in range(len(sent))])
    assert connection.requests == [("POST /a", BODY)]


def test_pipelined_requests_are_answered_in_order() -> None:
    parts = [
        request(*H2C, path=b"/1", body=BODY),
        request(path=b"/2", body=b"2"),
        chunked(*H2C, path=b"/3"),
        request(*H2C, method=b"GET", path=b"/4"),
        request(*H2C, path=b"/5", body=b""),
        chunked(path=b"/6"),
        request(*H2C, path=b"/7", body=b"7"),
    ]
    bodies = [BODY, b"2", BODY, b"", b"", BODY, b"7"]
    methods = ["GET" if path == 4 else "POST" for path in range(1, 8)]
    expected = [(f"{method} /{path}", body) for path, (method, body) in enumerate(zip(methods, bodies, strict=True), 1)]
    sent = b"".join(parts)
    for sizes in (len(sent), 1, 7, 100, 333):
        connection = exchange([sent[index : index + sizes] for index in range(0, len(sent), sizes)])
        assert connection.requests == expected, sizes
        assert (connection.n_responses, connection.is_closed_by_service) == (7, False)


def test_the_application_sees_the_other_headers_unchanged() -> None:
    odd = [b"X-Empty:", b"X-Space: \t a  b \t", b"X-Latin: \xe9\xff", b"x-twice: 1", b"X-Twice: 2"]
    (headers,) = exchange([request(*odd, *H2C, body=BODY)]).headers
    (expected,) = exchange([request(*odd, H2C[0], H2C[2], body=BODY)]).headers
    assert headers == expected


@pytest.mark.parametrize("upgrade", [WEBSOCKET, (H2C[0], b"Upgrade: h2c, other"), (*H2C, b"Upgrade: websocket")])
@pytest.mark.parametrize("body", [None, BODY])
def test_other_protocols_are_ignored_and_the_connection_is_closed(
    upgrade: tuple[bytes, ...], body: bytes | None
) -> None:
    """Data that such a client sends next may be of the other protocol."""
    sent, later = request(*upgrade, body=body), request(method=b"DELETE", path=b"/later")
    for split in range(len(sent) + 1):
        connection = exchange([sent[:split], sent[split:] + later], later)
        assert connection.requests == [("POST /", body or b"")], split
        assert (connection.n_responses, connection.is_closed_by_service) == (1, True)
        assert b"connection: close" in connection.transport.written


def test_a_client_may_close_the_connection() -> None:
    sent = request(b"Connection: Upgrade, close", H2C[1], body=BODY)
    connection = exchange([sent], request(method=b"GET"))
    assert (connection.requests, connection.is_closed_by_service) == ([("POST /", BODY)], True)


def test_a_tunnel_is_refused() -> None:
    for headers in ((), H2C):
        connection = exchange([request(*headers, method=b"CONNECT", path=b"a:443", body=BODY)], BODY)
        assert connection.transport.written.startswith(b"HTTP/1.1 400")
        assert b"CONNECT is not supported" in connection.transport.written
        assert (connection.requests, connection.is_closed_by_service) == ([], True)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (request(*H2C, b"Transfer-Encoding: chunked", body=BODY), b"invalid HTTP request"),
        (request(*H2C, b"Content-Length: 1", body=BODY), b"invalid HTTP request"),
        (request(*H2C, b"Transfer-Encoding: chunked, gzip") + b"0\r\n\r\n", b"invalid HTTP request"),
        (request(*H2C, b"X: a\r\n b", body=BODY), b"invalid HTTP request"),
        (request(*H2C, b"Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\nX: y\r\n\r\n", b"trailers"),
        (request(*H2C, b"Transfer-Encoding: chunked") + b"z\r\na\r\n", b"invalid HTTP request"),
        (request(*H2C, b"Transfer-Encoding: chunked") + b"1;" + b"x" * 70_000, b"framing"),
        (request(*H2C, *[b"X: " + b"y" * 30_000] * 3), b"request headers larger"),
        (request(*H2C, body=b"") * 20, b"pipelined"),
    ],
)
def test_malformed_requests_are_refused_as_without_upgrade(sent: bytes, message: bytes) -> None:
    """A part at a time, so that what the parser keeps is counted."""
    connection = exchange([sent[index : index + 4_000] for index in range(0, len(sent), 4_000)])
    assert connection.is_closed_by_service
    assert all(body in (b"", b"a") for _, body in connection.requests)
    if b"pipelined" not in message:  # nothing is sent while responses are outstanding
        assert connection.transport.written.startswith(b"HTTP/1.1 400")
        assert message in connection.transport.written
