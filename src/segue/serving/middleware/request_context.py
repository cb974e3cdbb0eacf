"""State of a request in the middleware, and its record for the access log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from segue.serving import errors
from segue.serving.auth.api_keys import ApiKey
from segue.serving.errors import ApiError
from segue.serving.middleware.request_body import Message
from segue.serving.middleware.security_headers import add_security_headers

__all__ = ["AccessRecord", "ResponseGuard", "Send"]

Send: TypeAlias = Callable[[Message], Awaitable[None]]
"""Sends an ASGI message of a response."""


@dataclass(frozen=True)
class AccessRecord:
    """Request and its outcome, without personal data."""

    method: str
    """HTTP method, or ``OTHER``."""
    route: str
    """Route template, such as ``/v1/users/{id}``, or ``unmatched``."""
    status: int
    """HTTP status; 499 if the client disconnected before the response."""
    seconds: float
    request_id: str
    key: str | None
    """Id of the API key."""


class ResponseGuard:
    """Sends the response of one request with security headers.

    Args:
        scope: ASGI scope.
        policy: Content-Security-Policy of the response.
    """

    def __init__(self, scope: Any, send: Send, request_id: str, policy: str) -> None:
        self.scope, self.request_id = scope, request_id
        self.key: ApiKey | None = None
        self.status = 499
        self.is_started = False
        self._send, self._policy, self._close = send, policy, False

    async def send(self, message: Message) -> None:
        """Forward a message of the application."""
        if message["type"] == "http.response.start":
            self.is_started, self.status = True, message["status"]
            extra = {b"connection": b"close"} if self._close else {}
            headers = add_security_headers(message.get("headers", ()), self.request_id, self._policy, extra)
            message = {**message, "headers": headers}
        await self._send(message)

    async def send_error(self, error: ApiError, close: bool) -> None:
        """Send an error response, and end the connection if ``close``."""
        body = errors.error_body(error, self.request_id)
        headers = {**errors.error_headers(error), "content-length": str(len(body))}
        raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._close = close
        await self.send({"type": "http.response.start", "status": error.status, "headers": raw_headers})
        await self.send({"type": "http.response.body", "body": body})
