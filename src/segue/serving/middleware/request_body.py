"""Reads a whole request body, with a size limit and a timeout.

The body is read before the application handles the request, because handlers parse JSON and need the whole body
anyway. A slow client occupies only a connection and the bytes that it has sent, which are limited in total and per
client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from segue.serving.errors import ApiError
from segue.serving.limits import SharedLimiter

__all__ = ["ClientDisconnected", "Message", "Receive", "RequestBody"]

Message: TypeAlias = MutableMapping[str, Any]
"""ASGI message."""
Receive: TypeAlias = Callable[[], Awaitable[Message]]
"""Returns the next ASGI message of a connection."""


class ClientDisconnected(Exception):
    """The client closed the connection."""


class RequestBody:
    """Body of one request."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_complete = self._is_replayed = False
        self._body = b""
        self._buffer: SharedLimiter | None = None
        self._client, self._n_buffered = "", 0

    async def read_all(self, max_bytes: int, timeout: float | None, buffer: SharedLimiter, client: str) -> bytes:
        """Read and return the whole body; :meth:`receive` replays it.

        The caller must call :meth:`release` at the end of the request.

        Args:
            max_bytes: size limit.
            timeout: seconds until the whole body must have arrived; ``None``: it has already arrived.
            buffer: limit on the bytes of all bodies together.
            client: client to which the bytes are attributed.

        Raises:
            ApiError: the body is too large (413) or too slow (408), or the buffer is full (503).
            ClientDisconnected: the connection ended first.
        """
        self._buffer, self._client = buffer, client
        if timeout is None:
            self._body = await self._read_parts(max_bytes, buffer)
            return self._body
        try:
            async with asyncio.timeout(timeout):
                self._body = await self._read_parts(max_bytes, buffer)
        except TimeoutError:
            raise ApiError(408, message=f"request timeout: the body did not arrive within {timeout:g} s") from None
        return self._body

    async def _read_parts(self, max_bytes: int, buffer: SharedLimiter) -> bytes:
        body: bytes | bytearray = b""
        while not self._is_complete:
            part = await self._next_part()
            if len(body) + len(part) > max_bytes:
                raise ApiError(413, message=f"request body larger than {max_bytes} bytes")
            if not buffer.try_acquire(self._client, len(part)):
                message = "too many unfinished requests; nothing was changed; try again later"
                raise ApiError(503, message=message, retry_after=1.0)
            self._n_buffered += len(part)
            if not body:
                body = part
            else:
                body = bytearray(body) if isinstance(body, bytes) else body  # not a list, because parts may be tiny
                body += part
        return bytes(body)

    def release(self) -> None:
        """Release the body's share of the buffer."""
        if self._buffer is not None and self._n_buffered:
            self._buffer.release(self._client, self._n_buffered)
            self._n_buffered = 0

    async def drain(self, max_bytes: int, timeout: float) -> bool:
        """Discard the rest of the body and return whether its end was reached.

        A client that is still sending when the connection closes never reads the error response, so the service waits
        for clients that finish soon.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._is_complete and max_bytes > 0:
                    max_bytes -= len(await self._next_part())
        except (TimeoutError, ClientDisconnected):
            return False
        return self._is_complete

    async def receive(self) -> Message:
        """Return the body as one message, then further messages of the connection."""
        if self._is_replayed:
            return await self._receive()
        self._is_replayed = True
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _next_part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        self._is_complete = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part
