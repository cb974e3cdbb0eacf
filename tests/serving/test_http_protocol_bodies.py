"""Bodies that the application does not read, and the framing of chunks; the protocol is driven without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'segue[serve]'")
pytest.importorskip("httptools", reason="httptools is not installed: pip install 'segue[serve]'")

from uvicorn.server import ServerState  # noqa: E402

from segue.serving.limits import SharedLimiter  # noqa: E402
from segue.serving.middleware.http_protocol import (  # noqa: E402
    MAX_FRAMING_BYTES,
    PROTOCOL_STATE,
    UNCOUNTED_BYTES,
    ProtocolContext,
    make_protocol,
)

CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZE = 2 * UNCOUNTED_BYTES


def head(length: int, path: str = "/") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


class Transport(asyncio.Transport):
    """Transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.1", 1)})
        self.written = b""
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


class Connection:
    """Connection to an application that answers ``/early`` without reading the body."""

    def __init__(self) -> None:
        self.context = ProtocolContext(unread_bytes=SharedLimiter(10 * SIZE, 5 * SIZE))
        self.bodies: list[int] = []
        self.transport = Transport()
        config = uvicorn.Config(
            self.respond, interface="asgi3", lifespan="off", log_config=None, access_log=False, timeout_keep_alive=60
        )
        self.protocol: Any = make_protocol()(config, ServerState(), {PROTOCOL_STATE: self.context})  # type: ignore[call-arg]
        self.protocol.connection_made(self.transport)

    async def respond(self, scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, scope["path"] != "/early"
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        self.bodies.append(size)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def send(self, *parts: bytes) -> bytes:
        """Send parts and return all responses on the connection."""
        for part in parts:
            if not self.transport.is_closed:
                self.protocol.data_received(part)
            for _ in range(5):  # lets the application run
                await asyncio.sleep(0)
        return self.transport.written

    def close(self) -> None:
        self.protocol.connection_lost(None)


def test_a_response_before_the_end_of_the_body_closes_the_connection() -> None:
    """No timeout applies to the rest of the body once the application has answered."""

    async def scenario() -> None:
        connection = Connection()
        response = await connection.send(head(10, "/early") + b"12345")
        assert response.startswith(b"HTTP/1.1 200")
        assert connection.transport.is_closed
        connection.close()

    asyncio.run(scenario())


def test_a_response_after_the_end_of_the_body_keeps_the_connection() -> None:
    async def scenario() -> None:
        connection = Connection()
        responses = await connection.send(head(5, "/early") + b"12345", head(5) + b"12345")
        assert responses.count(b"HTTP/1.1 200") == 2
        assert connection.bodies == [0, 5]
        assert not connection.transport.is_closed
        connection.close()

    asyncio.run(scenario())


def test_a_response_before_the_end_of_the_next_body_keeps_the_connection() -> None:
    """The body that is still incomplete belongs to a pipelined request."""

    async def scenario() -> None:
        connection = Connection()
        responses = await connection.send(head(5, "/early") + b"12345" + head(10) + b"12345", b"67890")
        assert responses.count(b"HTTP/1.1 200") == 2
        assert connection.bodies == [0, 10]
        assert not connection.transport.is_closed
        connection.close()

    asyncio.run(scenario())


def test_bodies_that_the_application_ignores_do_not_use_the_limit_on_unread_bytes() -> None:
    async def scenario() -> None:
        connection = Connection()
        unread = connection.context.unread_bytes
        for number in range(1, 20):  # more bytes in total than an address may use
            connection.protocol.data_received(head(SIZE, "/early") + b" " * SIZE)
            assert unread.in_use == SIZE, "the application has not run yet"
            responses = await connection.send(b"")
            assert responses.count(b"HTTP/1.1 200") == number
            assert unread.in_use == 0, "although the connection is still open"
        assert not connection.transport.is_closed
        connection.close()
        assert unread.in_use == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(("n_extensions", "is_accepted"), [(7, True), (20, False), (200, False)])
def test_the_framing_may_grow_with_the_body_by_eight_bytes_per_byte(n_extensions: int, is_accepted: bool) -> None:
    """A body of 10,000 bytes may have 80,000 bytes of framing in addition to the fixed part."""

    async def scenario() -> None:
        connection = Connection()
        extension = b"1;" + b"x" * 10_000 + b"\r\n \r\n"
        start = [CHUNKED, b"2710\r\n" + b" " * 10_000 + b"\r\n"]
        assert MAX_FRAMING_BYTES < 7 * len(extension) < MAX_FRAMING_BYTES + 80_000 < 20 * len(extension)
        response = await connection.send(*start, *[extension] * n_extensions, b"0\r\n\r\n")
        assert response[9:12] == (b"200" if is_accepted else b"400")
        assert (b"framing" in response) != is_accepted
        assert connection.transport.is_closed != is_accepted
        assert connection.bodies == ([10_000 + n_extensions] if is_accepted else [])
        connection.close()
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(scenario())
