"""Security middleware.

It covers authentication, authorization, limits, request validation and the access log. It is plain ASGI, so responses
stream through without copies. Cheap checks come first, and no body is read before the client is authorized.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from segue.serving import errors
from segue.serving.auth.api_keys import ApiKeys, Scope
from segue.serving.auth.scopes import required_scopes
from segue.serving.connection_limits import peer_address
from segue.serving.errors import ApiError
from segue.serving.limits import RateLimiter, SharedLimiter
from segue.serving.middleware.request_body import ClientDisconnected, Receive, RequestBody
from segue.serving.middleware.request_context import PROBES, AccessRecord, ResponseGuard, Send, log_access
from segue.serving.middleware.request_validation import (
    check_body_headers,
    check_csrf,
    has_body,
    validate_request,
)
from segue.serving.middleware.security_headers import DOCS_CSP, UI_CSP, RequestHeaders, host_without_port
from segue.serving.route_templates import UNMATCHED, RouteTemplates
from segue.serving.settings import ServingSettings
from segue.serving.stores.store import OUTCOME_UNKNOWN

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["App", "SecurityMiddleware", "create_request_limiter", "install_security"]

App: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]
"""ASGI application."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
STOPPED_WRITE = f"{OUTCOME_UNKNOWN}; repeat it, with the same keys for events: those that were stored are duplicates"
"""Outcome of a request that changes something and is canceled because the service stops."""

logger = logging.getLogger("segue.serving.middleware.security")


class SecurityMiddleware:
    """ASGI middleware around the application.

    Sets in ``request.state``: ``request_id``; ``key``, an :class:`~segue.serving.auth.api_keys.ApiKey` or ``None``; and
    ``client``, the unit of fair sharing: the id of the key, or the client's address if there is no key. The server
    cancels the handler of a request whose client disconnects, unless ``must_finish`` is set there, as for requests that
    change something.

    Args:
        keys: API keys; ``None``, or keys without a file, permit everything.
        scopes_for: maps method and path to the scopes of which a request needs one; empty: public.
        routes: routes of the application, for route templates in logs.
        hosts: accepted host names; ``None``: any. A service without API keys should accept local names only, because
            another site could otherwise resolve its own name to this address (DNS rebinding).
        docs_path: path of the API documentation, whose style sheets embed images.
        limiter: limit on concurrent requests other than to public routes, if shared with other code.
        on_request: called with the record of every request, for metrics.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        app: App,
        *,
        settings: ServingSettings,
        keys: ApiKeys | None,
        scopes_for: Callable[[str, str], Collection[Scope]] = required_scopes,
        routes: Sequence[Any] = (),
        hosts: Collection[str] | None = None,
        docs_path: str = "/docs",
        limiter: SharedLimiter | None = None,
        on_request: Callable[[AccessRecord], None] = lambda record: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self._settings, self._scopes_for, self._hosts = settings, scopes_for, hosts
        self._templates = RouteTemplates(routes)
        self._keys = None if keys is None or keys.is_open else keys
        self._docs_path, self._on_request, self._clock = docs_path, on_request, clock
        self._rate_limiter = RateLimiter(settings.rate_limit, clock=clock)
        self._limiter = create_request_limiter(settings) if limiter is None else limiter
        self._open_limiter = SharedLimiter(settings.max_concurrent_open, max(1, settings.max_concurrent_open // 2))
        buffer_size = max(settings.max_buffered_bytes, 2 * settings.max_body_bytes)
        self._body_buffer = SharedLimiter(buffer_size, buffer_size // 2)
        self._max_counted = settings.max_unread_response_bytes // 2
        self._unread_responses = SharedLimiter(settings.max_unread_response_bytes, self._max_counted)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        start = self._clock()
        headers, path = RequestHeaders(scope["headers"]), _application_path(scope)
        client_id = headers.get(b"x-request-id") or ""
        request_id = client_id if REQUEST_ID.fullmatch(client_id) else f"{random.getrandbits(64):016x}"
        scope.setdefault("state", {}).update(request_id=request_id, key=None, client=_peer_address(scope))
        policy = DOCS_CSP if path == self._docs_path else UI_CSP
        guard = ResponseGuard(scope, send, request_id, policy, self._unread_responses, self._max_counted)
        body = RequestBody(receive)
        try:
            await self._authorize(guard, headers, path, body)
        except ClientDisconnected:
            pass
        except asyncio.CancelledError:
            await self._end_canceled_request(guard)
            raise
        except Exception as error:
            api_error = error if isinstance(error, ApiError) else ApiError(500)
            if api_error is not error and not scope["state"].get("error_logged"):
                extra = {"request_id": request_id, "traceback": errors.format_traceback(error)}
                logger.error("unhandled error", extra=extra)
            if not guard.is_started:
                await self._send_error(guard, headers, body, api_error)
        finally:
            body.release()
            guard.release()
            self._log_access(guard, path, self._clock() - start)
        return None

    async def _authorize(self, guard: ResponseGuard, headers: RequestHeaders, path: str, body: RequestBody) -> None:
        """Check host, headers, API key and limits, then forward the request.

        Raises:
            ApiError: a check failed.
        """
        scope = guard.scope
        if self._hosts is not None and host_without_port(headers.get(b"host") or "") not in self._hosts:
            raise ApiError(421)
        validate_request(scope, headers)
        if self._keys is None:
            check_csrf(scope["method"], headers, self._settings.cors_origins)
        scopes = self._scopes_for(scope["method"], path)
        if self._keys is not None and scopes:
            guard.key = self._keys.authenticate(_token(headers))
            if guard.key is None:
                raise ApiError(401)
            scope["state"].update(key=guard.key, client=guard.key.id)
            if not set(scopes) & set(guard.key.scopes):
                if self._templates and self._templates.match(path) == UNMATCHED:
                    raise ApiError(404)
                raise ApiError(403, message=f"this API key lacks the scope {' or '.join(sorted(scopes))}")
        max_bytes = self._settings.max_body_bytes
        if has_body(headers) and (methods := self._templates.allowed_methods(path)) and scope["method"] not in methods:
            raise ApiError(405, allow=methods)
        check_body_headers(scope, headers, max_bytes, is_open=not scopes)
        if path in PROBES and scope["method"] in READ_METHODS:
            await self.app(_handler_scope(scope), body.receive, guard.send)
            if guard.n_buffered and (drain := scope["state"].get("drain")) is not None:
                await drain()
            return
        limiter, client = self._open_limiter, scope["state"]["client"]
        if scopes:
            if wait := self._rate_limiter.acquire(client):
                raise ApiError(429, retry_after=wait)
            limiter = self._limiter
        if limiter.is_full or scope["state"].get("is_probe_only"):
            raise ApiError(503, retry_after=1.0)
        timeout = None if scope["state"].get("has_arrived") else self._settings.body_timeout_seconds
        await body.read_all(max_bytes, timeout, self._body_buffer, scope["state"]["client"])
        if not limiter.try_acquire(client):  # only now, so that a slow body occupies no slot
            if limiter.is_full:
                raise ApiError(503, retry_after=1.0)
            raise ApiError(429, message="too many concurrent requests of this client; try again later", retry_after=1.0)
        scope["state"]["must_finish"] = scope["method"] not in READ_METHODS and "read" not in scopes
        try:
            await self.app(_handler_scope(scope), body.receive, guard.send)
            if (drain := scope["state"].get("drain")) is not None:
                await drain()  # a client that does not read a large response keeps its slot
        finally:
            limiter.release(client)

    async def _end_canceled_request(self, guard: ResponseGuard) -> None:
        """Answer a request that is canceled because the service stops.

        A request that is canceled because its client has disconnected has no response, and status 499 in the log.
        """
        if guard.scope["state"].get("is_disconnected"):
            guard.status = guard.status if guard.is_complete else 499
        elif not guard.is_started:
            is_write = guard.scope["state"].get("must_finish")  # storing events continues, for example
            outcome = STOPPED_WRITE if is_write else "nothing was changed; try again later"
            message = f"the service is stopping; {outcome}"
            await guard.send_error(ApiError(503, message=message, retry_after=1.0), close=True)

    async def _send_error(
        self, guard: ResponseGuard, headers: RequestHeaders, body: RequestBody, error: ApiError
    ) -> None:
        if (discard_body := guard.scope["state"].get("discard_body")) is not None:
            discard_body()
        should_drain = error.status != 408 and headers.get(b"expect") is None
        is_complete = should_drain and await body.drain(2 * self._settings.max_body_bytes, 0.5)
        is_malformed = error.status in (400, 413)  # a client that disagrees about this request may do so about the next
        await guard.send_error(error, close=is_malformed or not is_complete)

    def _log_access(self, guard: ResponseGuard, path: str, seconds: float) -> None:
        method = guard.scope["method"] if guard.scope["method"] in METHODS else "OTHER"
        route, key = self._templates.match(path), None if guard.key is None else guard.key.id
        record = AccessRecord(method, route, guard.status, seconds, guard.request_id, key)
        log_access(record)
        self._on_request(record)


def install_security(app: FastAPI, *, settings: ServingSettings, keys: ApiKeys | None, **options: Any) -> None:
    """Add :class:`SecurityMiddleware` and uniform error responses.

    ``options`` are passed to the middleware. Pages of the origins in ``settings.cors_origins`` may call the API,
    without browser credentials.

    Raises:
        ValueError: an invalid origin.
    """
    errors.register_exception_handlers(app)
    app.add_middleware(SecurityMiddleware, settings=settings, keys=keys, **{"routes": app.routes, **options})
    for origin in settings.cors_origins:
        parts = urlsplit(origin)
        if origin != "*" and (parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}"):
            raise ValueError(f"cors_origins: got '{origin}', expected an origin such as https://shop.example")
    if settings.cors_origins:
        from starlette.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )


def create_request_limiter(settings: ServingSettings) -> SharedLimiter:
    """Create the limit on concurrent requests, in total and per API key."""
    per_key = settings.max_concurrent_per_key or max(1, settings.max_concurrent // 2)
    return SharedLimiter(settings.max_concurrent, per_key)


def _handler_scope(scope: Any) -> Any:
    """Return the scope for the application, with GET instead of HEAD.

    The server omits the body of a response to HEAD.
    """
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def _application_path(scope: Any) -> str:
    """Return the path as routes see it, without the prefix of a proxy."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _peer_address(scope: Any) -> str:
    client = scope.get("client")
    return peer_address(client[0]) if client else ""


def _token(headers: RequestHeaders) -> str:
    scheme, _, token = (headers.get(b"authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key") or ""
