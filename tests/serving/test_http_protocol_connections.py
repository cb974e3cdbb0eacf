"""Idle connections, and connections above the limit, which are limited to health probes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'segue[serve]'")
pytest.importorskip("httptools", reason="httptools is not installed: pip install 'segue[serve]'")
from uvicorn.server import ServerState  # noqa: E402

from segue.serving.connection_limits import ConnectionLimiter  # noqa: E402
from segue.serving.middleware import http_protocol  # noqa: E402
from segue.serving.middleware.http_protocol import PROTOCOL_STATE, ProtocolContext, make_protocol  # noqa: E402

PROBE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE = 20.0


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer whether a request is one of a connection that is limited to probes."""
    body = b"probe" if scope["state"].get("is_probe_only") else b"open"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Connection:
    """Connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes = PROBE) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> bytes:
        """Return the body of a response."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert head.startswith(b"HTTP/1.1 200")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return await asyncio.wait_for(self._reader.readexactly(size), PATIENCE)

    async def is_closed(self, seconds: float = PATIENCE) -> bool:
        """Wait until the server closes the connection, and return whether it did."""
        try:
            return await asyncio.wait_for(self._reader.read(1), seconds) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


@asynccontextmanager
async def serve(header_timeout: float, limit: int = 100) -> AsyncIterator[Any]:
    """Listen, and yield a function that connects."""
    config = uvicorn.Config(answer, ws="none", lifespan="off", log_config=None, timeout_keep_alive=PATIENCE)
    config.load()
    state: dict[str, Any] = {PROTOCOL_STATE: ProtocolContext(ConnectionLimiter(limit, limit))}
    protocol: Any = make_protocol(header_timeout)
    loop, server_state = asyncio.get_running_loop(), ServerState()
    server = await loop.create_server(lambda: protocol(config, server_state, state), "127.0.0.1", 0)
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> Connection:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writers.append(writer)
        return Connection(reader, writer)

    try:
        yield connect
    finally:
        for writer in writers:
            writer.close()
        server.close()
        await asyncio.sleep(0.01)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 3 * PATIENCE))


def test_empty_lines_do_not_keep_a_connection_open() -> None:
    """Such a line ends the timer of an idle connection, as if a request had begun."""

    async def scenario() -> None:
        async with serve(header_timeout=0.2) as connect:
            silent, busy, good = [await connect() for _ in range(3)]
            for one in (silent, busy, good):
                await one.send()
                assert await one.receive() == b"open"
            await silent.send(b"\r\n")
            assert await silent.is_closed(PATIENCE / 2)
            for _ in range(1_000):
                try:
                    await busy.send(b"\r\n")
                except ConnectionError:
                    break
                if await busy.is_closed(0.02):
                    break
            else:
                raise AssertionError("open")
            await good.send(b"\r\n" + PROBE)
            assert await good.receive() == b"open"
            assert not await good.is_closed(0.4), "the request has ended the timer"

    run(scenario())


def test_idle_connections_for_probes_end_early(monkeypatch: pytest.MonkeyPatch) -> None:
    assert http_protocol.PROBE_SECONDS <= 2
    monkeypatch.setattr(http_protocol, "PROBE_SECONDS", 0.1)

    async def scenario() -> None:
        async with serve(header_timeout=2 * PATIENCE, limit=1) as connect:
            first, second = await connect(), await connect()
            assert await second.is_closed()
            assert not await first.is_closed(0.2)
            await first.send()
            assert await first.receive() == b"open"

    run(scenario())


def test_connections_for_probes_answer_one_request() -> None:
    async def scenario() -> None:
        async with serve(header_timeout=2 * PATIENCE, limit=1) as connect:
            first, second = await connect(), await connect()
            await second.send()
            assert await second.receive() == b"probe"
            assert await second.is_closed(PATIENCE / 2), "it would occupy one of the few connections for probes"
            for _ in range(2):
                await first.send()
                assert await first.receive() == b"open"

    run(scenario())
