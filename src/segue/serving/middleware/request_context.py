"""A request on its way through, and what is told of it afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from segue.serving import errors
from segue.serving.auth.api_keys import Key
from segue.serving.errors import Problem
from segue.serving.middleware.request_body import Message
from segue.serving.middleware.security_headers import guarded

__all__ = ["Exchange", "Passage", "Send"]

Send: TypeAlias = Callable[[Message], Awaitable[None]]
"""Takes the next message of an answer."""


@dataclass(frozen=True)
class Exchange:
    """A request and what became of it, without anything that names a person."""

    method: str
    """One of HTTP's, or ``OTHER``."""
    route: str
    """As the application declares it, such as ``/v1/users/{id}``; ``unmatched`` where it declares none."""
    status: int
    """499: who asked hung up before there was an answer."""
    seconds: float
    request_id: str
    key: str | None
    """The id of the key."""


class Passage:
    """One request on its way; every answer to it goes out with the headers that protect it.

    Args:
        scope: that of ASGI.
        policy: the Content-Security-Policy of the answer.
    """

    def __init__(self, scope: Any, send: Send, request_id: str, policy: str) -> None:
        self.scope, self.request_id = scope, request_id
        self.key: Key | None = None
        self.status = 499
        self.started = False
        self._send, self._policy, self._close = send, policy, False

    async def send(self, message: Message) -> None:
        """Pass on a message of the application."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            more = {b"connection": b"close"} if self._close else {}
            raw = guarded(message.get("headers", ()), self.request_id, self._policy, more)
            message = {**message, "headers": raw}
        await self._send(message)

    async def refuse(self, problem: Problem, close: bool) -> None:
        """Answer in the application's place, and end the connection if ``close``."""
        body = errors.fault(problem, self.request_id)
        told = {**errors.headers(problem), "content-length": str(len(body))}
        raw = [(name.encode(), value.encode()) for name, value in told.items()]
        self._close = close
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})
