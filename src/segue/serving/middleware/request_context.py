"""State of a request in the middleware, and its record for the access log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from segue.serving import errors
from segue.serving.auth.api_keys import ApiKey
from segue.serving.errors import ApiError
from segue.serving.limits import SharedLimiter
from segue.serving.middleware.request_body import Message
from segue.serving.middleware.security_headers import add_security_headers

__all__ = ["PROBES", "AccessRecord", "ResponseGuard", "Send", "log_access"]

PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Exempt from limits: an overloaded service must not be mistaken for a dead one."""

UNCOUNTED_BYTES = 16_384
"""Size up to which a response is not counted; the write buffer of a connection is limited to it, too."""

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

    The start of a response is sent together with the first part of its body. If the part does not fit into the buffer
    of unread responses, an error is sent instead, unless the request has changed something.

    Args:
        scope: ASGI scope.
        policy: Content-Security-Policy of the response.
        buffer: limit on the bytes of all responses that clients have not read.
        max_counted: maximum number of bytes that are counted for one response, so that a larger one is possible.
    """

    def __init__(
        self, scope: Any, send: Send, request_id: str, policy: str, buffer: SharedLimiter, max_counted: int
    ) -> None:
        self.scope, self.request_id = scope, request_id
        self.key: ApiKey | None = None
        self.status = 499
        self.is_started = self.is_complete = False
        self.n_buffered = 0
        """Bytes in the buffer of unread responses, until :meth:`release`."""
        self._send, self._policy, self._close = send, policy, False
        self._buffer, self._max_counted, self._client = buffer, max_counted, ""
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Forward a message of the application."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if (start := self._start) is not None:
            self._start = None
            size = len(message.get("body", b""))
            if size > UNCOUNTED_BYTES and (error := self._add_to_buffer(size)) is not None:
                await self.send_error(error, close=False)
                self._send = _discard
                return
            self.is_started, self.status = True, start["status"]
            extra = {b"connection": b"close"} if self._close else {}
            headers = add_security_headers(start.get("headers", ()), self.request_id, self._policy, extra)
            await self._send({**start, "headers": headers})
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

    def release(self) -> None:
        """Release the response's share of the buffer.

        The client has read the response, or has disconnected.
        """
        if self.n_buffered:
            self._buffer.release(self._client, self.n_buffered)
            self.n_buffered = 0

    def _add_to_buffer(self, size: int) -> ApiError | None:
        """Count a response of ``size`` bytes, and return the error if it does not fit."""
        state, amount = self.scope["state"], min(size, self._max_counted)
        if self._buffer.try_acquire(state["client"], amount):
            self._client, self.n_buffered = state["client"], amount
            return None
        if state.get("must_finish"):  # an error would say that nothing was changed
            return None
        if not self._buffer.has_room(amount):
            message = "too many responses that clients have not read; nothing was changed; try again later"
            return ApiError(503, message=message, retry_after=1.0)
        message = "this client has not read too many earlier responses; read them first, or request less at a time"
        return ApiError(429, message=message, retry_after=1.0)


async def _discard(message: Message) -> None:
    """Ignore the rest of a response that was replaced by an error."""
