"""State of a request in the middleware, and its record for the access log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from segue.serving import errors
from segue.serving.auth.api_keys import ApiKey
from segue.serving.errors import ApiError
from segue.serving.middleware.request_body import Message
from segue.serving.middleware.security_headers import add_security_headers

__all__ = ["PROBES", "AccessRecord", "ResponseGuard", "Send", "log_access"]

PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Exempt from limits: an overloaded service must not be mistaken for a dead one."""

access_logger = logging.getLogger("segue.access")

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
    """HTTP status; 499 if the client disconnected before the response was complete."""
    seconds: float
    request_id: str
    key: str | None
    """Id of the API key."""


def log_access(record: AccessRecord) -> None:
    """Write a line of the access log; successful probes are logged at level DEBUG."""
    extra = {
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "request_id": record.request_id,
        "key": record.key,
        "ms": round(1000 * record.seconds, 2),
    }
    level = logging.DEBUG if record.route in PROBES and record.status == 200 else logging.INFO
    access_logger.log(level, "%s %s %d", record.method, record.route, record.status, extra=extra)


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
        self.is_started = self.is_complete = False
        self._send, self._policy, self._close = send, policy, False

    async def send(self, message: Message) -> None:
        """Forward a message of the application."""
        if message["type"] == "http.response.start":
            self.is_started, self.status = True, message["status"]
            extra = {b"connection": b"close"} if self._close else {}
            headers = add_security_headers(message.get("headers", ()), self.request_id, self._policy, extra)
            message = {**message, "headers": headers}
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_complete = True

    async def send_error(self, error: ApiError, close: bool) -> None:
        """Send an error response, and end the connection if ``close``."""
        body = errors.error_body(error, self.request_id)
        headers = {**errors.error_headers(error), "content-length": str(len(body))}
        raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._close = close
        await self.send({"type": "http.response.start", "status": error.status, "headers": raw_headers})
        await self.send({"type": "http.response.body", "body": body})
