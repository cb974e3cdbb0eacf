"""The body of a request, taken in whole before anybody works on it: not too large, and not too slow.

Handlers need all of it anyway, as it is JSON. So a slow sender holds a connection and a slot, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from segue.serving.errors import Problem

__all__ = ["Body", "Gone", "Message", "Receive"]

Message: TypeAlias = MutableMapping[str, Any]
"""What an ASGI server and an application tell each other."""
Receive: TypeAlias = Callable[[], Awaitable[Message]]
"""Gives the next message of a connection."""


class Gone(Exception):
    """Who asked has hung up."""


class Body:
    """What arrives on one connection for one request."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = self._given = False
        self._all = b""

    async def take(self, most: int, seconds: float) -> bytes:
        """All of it; :meth:`receive` gives it once more.

        Args:
            most: bytes.
            seconds: until all of it must be here.

        Raises:
            Problem: it is larger (413) or slower (408).
            Gone: the connection ended first.
        """
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(seconds):
                while not self._ended:
                    parts.append(await self._next())
                    size += len(parts[-1])
                    if size > most:
                        raise Problem(413, message=f"the body is larger than {most} bytes")
        except TimeoutError:
            raise Problem(408, message=f"the body did not arrive within {seconds:g} s") from None
        self._all = parts[0] if len(parts) == 1 else b"".join(parts)
        return self._all

    async def drain(self, most: int, seconds: float) -> bool:
        """Read on and throw away; whether that was all.

        A sender who still writes when the connection closes never reads the answer that says why, so those who are
        soon done are waited for.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self._ended and most > 0:
                    most -= len(await self._next())
        except (TimeoutError, Gone):
            return False
        return self._ended

    async def receive(self) -> Message:
        """The body as one message, then what else the connection has to say."""
        if self._given:
            return await self._receive()
        self._given = True
        return {"type": "http.request", "body": self._all, "more_body": False}

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Gone
        self._ended = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part
