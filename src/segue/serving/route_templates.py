"""Route templates such as ``/v1/users/{id}`` instead of ``/v1/users/alice``.

Logs and metrics use templates, also for requests that are rejected before the application handles them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

__all__ = ["UNMATCHED", "RouteTemplates"]

UNMATCHED = "unmatched"
"""Template of every path that no route matches."""

PARAMETER = re.compile(r"\{\w+(:path)?[^}]*\}")


class RouteTemplates:
    """Maps paths to the templates of their routes.

    Args:
        routes: routes of a FastAPI or Starlette application; read on first use.
    """

    def __init__(self, routes: Sequence[Any]) -> None:
        self._routes = routes

    def __bool__(self) -> bool:
        return bool(self._routes)

    def match(self, path: str) -> str:
        """Return the template of ``path``, or :data:`UNMATCHED`.

        Files under a mount ``/static`` give ``/static/*``.
        """
        literals, patterns = self._table
        if path in literals:
            return path
        return next((template for template, pattern in patterns if pattern.fullmatch(path)), UNMATCHED)

    def allowed_methods(self, path: str) -> list[str]:
        """Return the methods of all routes that match ``path``, sorted.

        HEAD is answered wherever GET is.
        """
        methods = set(self._methods.get(self.match(path), ()))
        return sorted(methods | {"HEAD"} if "GET" in methods else methods)

    @cached_property
    def _methods(self) -> dict[str, set[str]]:
        methods_by_template: dict[str, set[str]] = {}
        for path, _, methods in _iter_routes(self._routes):
            methods_by_template.setdefault(PARAMETER.sub(_strip_converter, path), set()).update(methods)
        return methods_by_template

    @cached_property
    def _table(self) -> tuple[frozenset[str], list[tuple[str, re.Pattern[str]]]]:
        routes = list(_iter_routes(self._routes))
        patterns = []
        for path, is_mount, _ in routes:
            if is_mount:
                patterns.append((f"{path}/*", re.compile(re.escape(path) + "(/.*)?", re.DOTALL)))
            elif PARAMETER.search(path):
                patterns.append((PARAMETER.sub(_strip_converter, path), _compile_pattern(path)))
        return frozenset(path for path, is_mount, _ in routes if not is_mount and not PARAMETER.search(path)), patterns


def _iter_routes(routes: Sequence[Any]) -> Iterator[tuple[str, bool, Collection[str]]]:
    """Yield the path of each route, whether it is a mount, and its methods."""
    for route in routes:
        included = getattr(route, "effective_route_contexts", None)  # FastAPI's wrapper for include_router
        if included is not None:
            yield from ((str(one.path), False, one.methods or ()) for one in included())
        elif (path := getattr(route, "path", None)) is not None:
            methods = getattr(route, "methods", None)
            yield str(path).rstrip("/") or str(path), not hasattr(route, "methods"), methods or ()


def _strip_converter(match: re.Match[str]) -> str:
    return match[0].partition(":")[0].rstrip("}") + "}"


def _compile_pattern(path: str) -> re.Pattern[str]:
    parts, begin = [], 0
    for match in PARAMETER.finditer(path):
        parts += [re.escape(path[begin : match.start()]), ".*" if match[1] else "[^/]+"]
        begin = match.end()
    return re.compile("".join([*parts, re.escape(path[begin:])]), re.DOTALL)
