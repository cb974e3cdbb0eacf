"""Addresses as the application declares them: ``/v1/users/{id}``, not ``/v1/users/alice``.

Logs and metrics speak of these, also where a request is refused before the application has looked at it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

__all__ = ["UNMATCHED", "Routes"]

UNMATCHED = "unmatched"
"""The name of every address that is not declared."""

PART = re.compile(r"\{\w+(:path)?[^}]*\}")


class Routes:
    """Names of addresses.

    Args:
        routes: those of a FastAPI or Starlette application; read when the first name is asked for.
    """

    def __init__(self, routes: Sequence[Any]) -> None:
        self._routes = routes

    def __bool__(self) -> bool:
        return bool(self._routes)

    def name(self, path: str) -> str:
        """What the application calls ``path``, or :data:`UNMATCHED`; ``/static/*`` for files under ``/static``."""
        literal, patterns = self._table
        if path in literal:
            return path
        return next((name for name, pattern in patterns if pattern.fullmatch(path)), UNMATCHED)

    def methods(self, path: str) -> list[str]:
        """What may be done at ``path``, in the order of the alphabet."""
        return sorted(self._methods.get(self.name(path), ()))

    @cached_property
    def _methods(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, _, methods in _declared(self._routes):
            found.setdefault(PART.sub(_plain, name), set()).update(methods)
        return found

    @cached_property
    def _table(self) -> tuple[frozenset[str], list[tuple[str, re.Pattern[str]]]]:
        declared = list(_declared(self._routes))
        patterns = []
        for name, open_end, _ in declared:
            if open_end:
                patterns.append((f"{name}/*", re.compile(re.escape(name) + "(/.*)?", re.DOTALL)))
            elif PART.search(name):
                patterns.append((PART.sub(_plain, name), _pattern(name)))
        return frozenset(name for name, open_end, _ in declared if not open_end and not PART.search(name)), patterns


def _declared(routes: Sequence[Any]) -> Iterator[tuple[str, bool, Collection[str]]]:
    """Each address, whether all below it belongs to it too, and what may be done there."""
    for route in routes:
        included = getattr(route, "effective_route_contexts", None)  # what FastAPI makes of include_router
        if included is not None:
            yield from ((str(one.path), False, one.methods or ()) for one in included())
        elif (path := getattr(route, "path", None)) is not None:
            methods = getattr(route, "methods", None)
            yield str(path).rstrip("/") or str(path), not hasattr(route, "methods"), methods or ()


def _plain(match: re.Match[str]) -> str:
    return match[0].partition(":")[0].rstrip("}") + "}"


def _pattern(name: str) -> re.Pattern[str]:
    parts, begin = [], 0
    for match in PART.finditer(name):
        parts += [re.escape(name[begin : match.start()]), ".*" if match[1] else "[^/]+"]
        begin = match.end()
    return re.compile("".join([*parts, re.escape(name[begin:])]), re.DOTALL)
