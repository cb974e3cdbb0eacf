"""Route that rejects ambiguous requests.

These are JSON objects with duplicate keys, of which parsers use different ones, and query parameters that are unknown
or given more than once. They would otherwise be answered as if a part of them were absent.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from segue.serving.api.dependencies import invalid_field
from segue.serving.api.large_bodies import LARGE_BODY_BYTES, LargeBodies, parse_json
from segue.serving.settings import ServingSettings

__all__ = ["make_strict_route"]

SIMILAR = re.compile(rb"^/v1/items/.*/similar$")
"""Paths of the items similar to an item; in ``/v1/items/a%2Fsimilar`` the slash is part of the id."""


class _StrictRequest(Request):
    """Request whose JSON has no duplicate keys."""

    large_body: Any = None
    """The large body, parsed, or why it cannot be parsed; ``None``: the body is small."""

    async def json(self) -> Any:
        """Return the parsed body.

        Raises:
            json.JSONDecodeError: the body is malformed, or an object has two equal keys.
        """
        if isinstance(self.large_body, json.JSONDecodeError):
            raise self.large_body
        return parse_json(await self.body()) if self.large_body is None else self.large_body


def make_strict_route(settings: ServingSettings, submit: Callable[..., Awaitable[list[Any]]]) -> type[APIRoute]:
    """Create a class of routes.

    Its routes reject duplicate keys and query parameters that they do not read, and read large bodies in steps. They
    set ``arrival`` in ``request.state``: the monotonic time at which the complete request had arrived.

    Args:
        submit: runs jobs in the engine thread, as :meth:`segue.serving.api.dependencies.ApiDependencies.submit`.
    """
    from starlette.routing import Match

    large_bodies = LargeBodies(settings, submit)

    class StrictRoute(APIRoute):
        def matches(self, scope: Any) -> tuple[Match, Any]:
            match, child = super().matches(scope)
            # a path that ends with the route ``similar`` is no item
            if match is Match.FULL and scope["method"] == "DELETE" and SIMILAR.search(scope.get("raw_path") or b""):
                return Match.NONE, child
            return match, child

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            names = [parameter.alias for parameter in self.dependant.query_params]
            schema: Any = None if self.body_field is None else self.body_field.field_info.annotation

            async def handle_strictly(request: Request) -> Response:
                request.scope["state"]["arrival"] = time.monotonic()
                if request.scope["query_string"]:
                    _check_query(request, names)
                strict = _StrictRequest(request.scope, request.receive)
                if schema is None or len(body := await strict.body()) <= LARGE_BODY_BYTES:
                    return await handle(strict)
                client = strict.scope["state"].get("client", "")
                n_values = large_bodies.acquire(body, client)
                try:
                    strict.large_body = await large_bodies.read(body, strict, schema)
                    return await handle(strict)
                finally:
                    large_bodies.release(client, n_values)

            return handle_strictly

    return StrictRoute


def _check_query(request: Request, names: Sequence[str]) -> None:
    """Reject query parameters that are repeated or not among ``names``."""
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in names:
            known = f"expected {' or '.join(names)}" if names else "expected none"
            raise invalid_field(name, f"unknown query parameter, {known}")
        if count > 1:
            raise invalid_field(name, f"got the query parameter {count} times, expected it once")
