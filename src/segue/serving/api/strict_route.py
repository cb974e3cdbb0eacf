"""Route that rejects ambiguous requests.

These are JSON objects with duplicate keys, of which parsers use different ones, and query parameters that are unknown
or given more than once. They would otherwise be answered as if a part of them were absent.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from segue.serving.api.dependencies import invalid_field

__all__ = ["StrictRoute"]

LARGE_BODY_BYTES = 32_768
"""Size above which a body is parsed in a thread of its own, so that other requests are answered meanwhile."""

_parser = ThreadPoolExecutor(1, "segue-json")


class StrictRequest(Request):
    """Request whose JSON has no duplicate keys."""

    async def json(self) -> Any:
        """Parse the body.

        A large one is parsed in a thread, one at a time, as it may take most of a second.

        Raises:
            json.JSONDecodeError: the body is malformed, or an object has two equal keys.
        """
        body = await self.body()
        if len(body) <= LARGE_BODY_BYTES:
            return _parse(body)
        return await asyncio.get_running_loop().run_in_executor(_parser, _parse, body)


class StrictRoute(APIRoute):
    """Route that rejects duplicate keys and query parameters that it does not read.

    FastAPI calls :meth:`get_route_handler` once per route.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route, with the checks before it."""
        handle = super().get_route_handler()
        names = [parameter.alias for parameter in self.dependant.query_params]

        async def handle_strictly(request: Request) -> Response:
            if request.scope["query_string"]:
                _check_query(request, names)
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly


def _check_query(request: Request, names: Sequence[str]) -> None:
    """Reject query parameters that are repeated or not among ``names``."""
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in names:
            known = f"expected {' or '.join(names)}" if names else "expected none"
            raise invalid_field(name, f"unknown query parameter, {known}")
        if count > 1:
            raise invalid_field(name, f"got the query parameter {count} times, expected it once")


def _parse(body: bytes) -> Any:
    try:
        return _decoder.decode(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("expected UTF-8", "", error.start) from None
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", -1) from None


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise json.JSONDecodeError(f"duplicate key '{name}'", "", -1)
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_unique_pairs)  # `json.loads` would create one per request
