"""Security middleware.

It covers authentication, authorization, limits, request validation and the access log. It is plain ASGI, so responses
stream through without copies. Cheap checks come first, and no body is read before the client is authorized.
"""

from __future__ import annotations

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
from segue.serving.errors import ApiError
from segue.serving.limits import ConcurrencyLimiter, RateLimiter
from segue.serving.middleware.request_body import ClientDisconnected, Receive, RequestBody
from segue.serving.middleware.request_context import AccessRecord, ResponseGuard, Send
from segue.serving.middleware.request_validation import check_csrf, reject_nonstandard_json, validate_request
from segue.serving.middleware.security_headers import DOCS_CSP, UI_CSP, RequestHeaders, host_without_port
from segue.serving.route_templates import UNMATCHED, RouteTemplates
from segue.serving.settings import ServingSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["App", "SecurityMiddleware", "install_security"]

App: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]
"""ASGI application."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Exempt from limits: an overloaded service must not be mistaken for a dead one."""

access_logger = logging.getLogger("segue.access")
logger = logging.getLogger("segue.serving.middleware.security")


class SecurityMiddleware:
    """ASGI middleware around the application.

    Sets ``request_id`` and ``key`` (an :class:`~segue.serving.auth.api_keys.ApiKey` or ``None``) in ``request.state``.

    Args:
        keys: API keys; ``None``, or keys without a file, permit everything.
        scopes_for: maps method and path to the scopes of which a request needs one; empty: public.
        routes: routes of the application, for route templates in logs.
        hosts: accepted host names; ``None``: any. A service without API keys should accept local names only, because
            another site could otherwise resolve its own name to this address (DNS rebinding).
        docs_path: path of the API documentation, whose style sheets embed images.
        limiter: limit on concurrent requests, if shared with other code.
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
        limiter: ConcurrencyLimiter | None = None,
        on_request: Callable[[AccessRecord], None] = lambda record: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self._settings, self._scopes_for, self._hosts = settings, scopes_for, hosts
        self._templates = RouteTemplates(routes)
        self._keys = None if keys is None or keys.is_open else keys
        self._docs_path, self._on_request, self._clock = docs_path, on_request, clock
        self._rate_limiter = RateLimiter(settings.rate_limit, clock=clock)
        self._limiter = ConcurrencyLimiter(settings.max_concurrent) if limiter is None else limiter

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
        scope.setdefault("state", {}).update(request_id=request_id, key=None)
        guard = ResponseGuard(scope, send, request_id, DOCS_CSP if path == self._docs_path else UI_CSP)
        body = RequestBody(receive)
        try:
            await self._authorize(guard, headers, path, body)
        except ClientDisconnected:
            pass
        except Exception as error:
            api_error = error if isinstance(error, ApiError) else ApiError(500)
            if api_error is not error and not scope["state"].get("error_logged"):
                extra = {"request_id": request_id, "traceback": errors.format_traceback(error)}
                logger.error("unhandled error", extra=extra)
            if not guard.is_started:
                await self._send_error(guard, headers, body, api_error)
        finally:
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
            scope["state"]["key"] = guard.key
            if not set(scopes) & set(guard.key.scopes):
                if self._templates and self._templates.match(path) == UNMATCHED:
                    raise ApiError(404)
                raise ApiError(403, message=f"this API key lacks the scope {' or '.join(sorted(scopes))}")
        if path in PROBES:
            return await self._forward(guard, headers, body)
        if scopes and (wait := self._rate_limiter.acquire("open" if guard.key is None else guard.key.id)):
            raise ApiError(429, retry_after=wait)
        if not self._limiter.try_acquire():
            raise ApiError(503, retry_after=1.0)
        try:
            return await self._forward(guard, headers, body)
        finally:
            self._limiter.release()

    async def _forward(self, guard: ResponseGuard, headers: RequestHeaders, body: RequestBody) -> None:
        """Read the body and call the application."""
        length = headers.get(b"content-length") or "0"
        if not (length.isascii() and length.isdigit()):
            raise ApiError(400, message="Content-Length: expected a number")
        is_chunked = headers.get(b"transfer-encoding") is not None
        if len(length) > 15 or int(length) > self._settings.max_body_bytes:
            raise ApiError(413, message=f"request body larger than {self._settings.max_body_bytes} bytes")
        if is_chunked or int(length):
            content_type = (headers.get(b"content-type") or "").partition(";")[0].strip().lower()
            encoding = (headers.get(b"content-encoding") or "identity").lower()
            if encoding != "identity" or (
                content_type != "application/json" and guard.scope["method"] in ("POST", "PUT", "PATCH")
            ):
                raise ApiError(415)
        reject_nonstandard_json(await body.read_all(self._settings.max_body_bytes, self._settings.body_timeout_seconds))
        await self.app(guard.scope, body.receive, guard.send)

    async def _send_error(
        self, guard: ResponseGuard, headers: RequestHeaders, body: RequestBody, error: ApiError
    ) -> None:
        should_drain = error.status != 408 and headers.get(b"expect") is None
        is_complete = should_drain and await body.drain(2 * self._settings.max_body_bytes, 0.5)
        await guard.send_error(error, close=not is_complete)

    def _log_access(self, guard: ResponseGuard, path: str, seconds: float) -> None:
        method = guard.scope["method"] if guard.scope["method"] in METHODS else "OTHER"
        route, key = self._templates.match(path), None if guard.key is None else guard.key.id
        record = AccessRecord(method, route, guard.status, seconds, guard.request_id, key)
        fields = {"method": method, "route": route, "status": guard.status, "ms": round(1000 * seconds, 2)}
        is_quiet = route in PROBES and guard.status == 200
        access_logger.log(
            logging.DEBUG if is_quiet else logging.INFO,
            "%s %s %d", method, route, guard.status,
            extra={**fields, "request_id": guard.request_id, "key": key},
        )  # fmt: skip
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


def _application_path(scope: Any) -> str:
    """Return the path as routes see it, without the prefix of a proxy."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _token(headers: RequestHeaders) -> str:
    scheme, _, token = (headers.get(b"authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key") or ""
