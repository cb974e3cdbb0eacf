"""Reads a whole request body, with a size limit and a timeout.

The body is read before the application handles the request, because handlers parse JSON and need the whole body
anyway. A slow client occupies only a connection and a slot of the concurrency limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from segue.serving.errors import ApiError

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

    async def read_all(self, max_bytes: int, timeout: float) -> bytes:
        """Read and return the whole body; :meth:`receive` replays it.

        Args:
            max_bytes: size limit.
            timeout: seconds until the whole body must have arrived.

        Raises:
            ApiError: the body is too large (413) or too slow (408).
            ClientDisconnected: the connection ended first.
        """
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(timeout):
                while not self._is_complete:
                    parts.append(await self._next_part())
                    size += len(parts[-1])
                    if size > max_bytes:
                        raise ApiError(413, message=f"request body larger than {max_bytes} bytes")
        except TimeoutError:
            raise ApiError(408, message=f"request timeout: the body did not arrive within {timeout:g} s") from None
        self._body = parts[0] if len(parts) == 1 else b"".join(parts)
        return self._body

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
