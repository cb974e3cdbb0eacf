"""What stands between the network and the application: who may ask, how much, how long; and one line of log for each.

Plain ASGI, so that answers stream through and nothing is copied. Checks go from cheap to dear, and nobody's body is
read before it is known that he may send one.
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
from segue.serving.auth.api_keys import Keys, Scope
from segue.serving.auth.scopes import needed
from segue.serving.errors import Problem
from segue.serving.limits import Rate, Slots
from segue.serving.middleware.request_body import Body, Gone, Receive
from segue.serving.middleware.request_context import Exchange, Passage, Send
from segue.serving.middleware.request_validation import check, check_json, check_site
from segue.serving.middleware.security_headers import DOCS, PAGE, Given, named
from segue.serving.route_templates import UNMATCHED, Routes
from segue.serving.settings import Serving

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["App", "Shield", "protect"]

App: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]
"""An ASGI application."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Answered also when all else is refused: a service that is busy is not to be taken for dead."""

access = logging.getLogger("segue.access")
logger = logging.getLogger("segue.serving.middleware.security")


class Shield:
    """Middleware around the application.

    It leaves ``request_id`` and ``key`` (a :class:`~segue.serving.auth.api_keys.Key` or ``None``) in ``request.state``.

    Args:
        keys: ``None``, or keys of no file: everybody may do everything.
        needs: by method and path, scopes one of which a request needs; none: open to all.
        routes: those of the application, for the names of addresses in logs.
        hosts: names by which the service may be asked; ``None``: any. A service without keys is to be known by local
            names alone, or a page elsewhere could give itself this address (DNS rebinding).
        docs: where the interface is described, by a page whose styles hold images.
        slots: for requests at a time, if somebody else wants to see how many are taken.
        seen: is told of every request, for metrics.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        app: App,
        *,
        settings: Serving,
        keys: Keys | None,
        needs: Callable[[str, str], Collection[Scope]] = needed,
        routes: Sequence[Any] = (),
        hosts: Collection[str] | None = None,
        docs: str = "/docs",
        slots: Slots | None = None,
        seen: Callable[[Exchange], None] = lambda exchange: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self._settings, self._needs, self._routes, self._hosts = settings, needs, Routes(routes), hosts
        self._keys = None if keys is None or keys.open else keys
        self._docs, self._seen, self._clock = docs, seen, clock
        self._rate = Rate(settings.rate, clock=clock)
        self._slots = Slots(settings.concurrent) if slots is None else slots

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        begun = self._clock()
        given, path = Given(scope["headers"]), _path(scope)
        told = given.one(b"x-request-id") or ""
        request_id = told if REQUEST_ID.fullmatch(told) else f"{random.getrandbits(64):016x}"
        scope.setdefault("state", {}).update(request_id=request_id, key=None)
        passage = Passage(scope, send, request_id, DOCS if path == self._docs else PAGE)
        body = Body(receive)
        try:
            await self._enter(passage, given, path, body)
        except Gone:
            pass
        except Exception as error:
            problem = error if isinstance(error, Problem) else Problem(500)
            if problem is not error and not scope["state"].get("told"):
                logger.error("unforeseen", extra={"request_id": request_id, "traceback": errors.track(error)})
            if not passage.started:
                await self._refuse(passage, given, body, problem)
        finally:
            self._tell(passage, path, self._clock() - begun)
        return None

    async def _enter(self, passage: Passage, given: Given, path: str, body: Body) -> None:
        scope = passage.scope
        if self._hosts is not None and named(given.one(b"host") or "") not in self._hosts:
            raise Problem(421)
        check(scope, given)
        if self._keys is None:
            check_site(scope["method"], given, self._settings.cors)
        needs = self._needs(scope["method"], path)
        if self._keys is not None and needs:
            passage.key = self._keys.check(_token(given))
            if passage.key is None:
                raise Problem(401)
            scope["state"]["key"] = passage.key
            if not set(needs) & set(passage.key.scopes):
                if self._routes and self._routes.name(path) == UNMATCHED:
                    raise Problem(404)
                raise Problem(403, message=f"this key may not do that: it needs {' or '.join(sorted(needs))}")
        if path in PROBES:
            return await self._let(passage, given, body)
        if needs and (wait := self._rate.wait("open" if passage.key is None else passage.key.id)):
            raise Problem(429, retry_after=wait)
        if not self._slots.take():
            raise Problem(503, retry_after=1.0)
        try:
            return await self._let(passage, given, body)
        finally:
            self._slots.give()

    async def _let(self, passage: Passage, given: Given, body: Body) -> None:
        """Take the body and pass it all on."""
        length = given.one(b"content-length") or "0"
        if not (length.isascii() and length.isdigit()):
            raise Problem(400, message="Content-Length: expected a number")
        chunked = given.one(b"transfer-encoding") is not None
        if len(length) > 15 or int(length) > self._settings.body_bytes:
            raise Problem(413, message=f"the body is larger than {self._settings.body_bytes} bytes")
        if chunked or int(length):
            kind = (given.one(b"content-type") or "").partition(";")[0].strip().lower()
            coding = (given.one(b"content-encoding") or "identity").lower()
            if coding != "identity" or (
                kind != "application/json" and passage.scope["method"] in ("POST", "PUT", "PATCH")
            ):
                raise Problem(415)
        check_json(await body.take(self._settings.body_bytes, self._settings.body_seconds))
        await self.app(passage.scope, body.receive, passage.send)

    async def _refuse(self, passage: Passage, given: Given, body: Body, problem: Problem) -> None:
        waits = problem.status != 408 and given.one(b"expect") is None
        done = waits and await body.drain(2 * self._settings.body_bytes, 0.5)
        await passage.refuse(problem, close=not done)

    def _tell(self, passage: Passage, path: str, seconds: float) -> None:
        method = passage.scope["method"] if passage.scope["method"] in METHODS else "OTHER"
        route, key = self._routes.name(path), None if passage.key is None else passage.key.id
        exchange = Exchange(method, route, passage.status, seconds, passage.request_id, key)
        told = {"method": method, "route": route, "status": passage.status, "ms": round(1000 * seconds, 2)}
        quiet = route in PROBES and passage.status == 200
        access.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %d", method, route, passage.status,
            extra={**told, "request_id": passage.request_id, "key": key},
        )  # fmt: skip
        self._seen(exchange)


def protect(app: FastAPI, *, settings: Serving, keys: Keys | None, **more: Any) -> None:
    """Put the application behind a :class:`Shield`, with one form for its errors; ``more`` goes to the shield.

    Pages of other sites may ask where ``settings.cors`` names them; credentials of the browser are not among what they
    may send.

    Raises:
        ValueError: an origin that is none.
    """
    errors.install(app)
    app.add_middleware(Shield, settings=settings, keys=keys, **{"routes": app.routes, **more})
    for origin in settings.cors:
        parts = urlsplit(origin)
        if origin != "*" and (parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}"):
            raise ValueError(f"cors: got '{origin}', expected an origin such as https://shop.example")
    if settings.cors:
        from starlette.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )


def _path(scope: Any) -> str:
    """The address as routes see it, without what a proxy puts before it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _token(given: Given) -> str:
    scheme, _, token = (given.one(b"authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else given.one(b"x-api-key") or ""
