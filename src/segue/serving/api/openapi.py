"""The description of the interface (OpenAPI 3.1) as this service keeps it: its limits, and the keys it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from segue.serving.auth.scopes import needed
from segue.serving.settings import Serving

__all__ = ["describe"]

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer segue_..."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key, without Bearer."},
}


def describe(app: FastAPI, settings: Serving, keys: bool) -> None:
    """Let the application describe itself as it is set up.

    Args:
        keys: whether it asks for keys.
    """
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            told = made()
            _limit(told["components"]["schemas"], settings)
            if keys:
                _lock(told)
        return made()

    app.openapi = openapi  # type: ignore[method-assign]


def _limit(schemas: dict[str, Any], settings: Serving) -> None:
    """Put the limits of the operator where those of the wire stand."""
    limits = {
        ("Question", "k", "integer"): ("maximum", settings.most_k),
        ("WhyQuestion", "k", "integer"): ("maximum", settings.most_k),
        ("Question", "history", "array"): ("maxItems", settings.most_history),
        ("WhyQuestion", "history", "array"): ("maxItems", settings.most_history),
        ("Questions", "questions", "array"): ("maxItems", settings.most_questions),
        ("Events", "events", "array"): ("maxItems", settings.most_events),
    }
    for (model, name, kind), (limit, most) in limits.items():
        field = schemas[model]["properties"][name]
        for one in (field, *field.get("anyOf", ())):
            if one.get("type") == kind:
                one[limit] = min(most, one.get(limit, most))


def _lock(told: dict[str, Any]) -> None:
    """Say which keys open what: a list of scopes of which a key needs one."""
    told["components"]["securitySchemes"] = SCHEMES
    for method, path, operation in _operations(told):
        scopes = sorted(needed(method.upper(), path))
        operation["security"] = [{name: scopes} for name in SCHEMES]


def _operations(told: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation
