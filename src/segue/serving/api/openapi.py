"""OpenAPI description with the limits and security schemes of this service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from segue.serving.auth.scopes import required_scopes
from segue.serving.settings import ServingSettings

__all__ = ["customize_openapi"]

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer segue_..."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key, without Bearer."},
}


def customize_openapi(app: FastAPI, settings: ServingSettings, has_keys: bool) -> None:
    """Add limits and security schemes to the OpenAPI description.

    The limits are those of the operator; security schemes are added only if keys are required.

    Args:
        has_keys: whether the service requires API keys.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            description = generate()
            _add_limits(description["components"]["schemas"], settings)
            if has_keys:
                _add_security_schemes(description)
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]


def _add_limits(schemas: dict[str, Any], settings: ServingSettings) -> None:
    """Replace the limits in the schemas with those of the operator."""
    limits = {
        ("RecommendRequest", "k", "integer"): ("maximum", settings.max_k),
        ("ExplainRequest", "k", "integer"): ("maximum", settings.max_k),
        ("RecommendRequest", "history", "array"): ("maxItems", settings.max_history),
        ("ExplainRequest", "history", "array"): ("maxItems", settings.max_history),
        ("BatchRequest", "requests", "array"): ("maxItems", settings.max_batch_requests),
        ("EventBatch", "events", "array"): ("maxItems", settings.max_batch_events),
        ("ItemsRequest", "items", "array"): ("maxItems", settings.max_batch_items),
        ("PredictRequest", "rows", "array"): ("maxItems", settings.max_batch_rows),
    }
    for (schema, name, json_type), (keyword, limit) in limits.items():
        if schema not in schemas:  # a service of click-through models has none for recommendations
            continue
        field = schemas[schema]["properties"][name]
        for option in (field, *field.get("anyOf", ())):
            if option.get("type") == json_type:
                option[keyword] = min(limit, option.get(keyword, limit))


def _add_security_schemes(description: dict[str, Any]) -> None:
    """Add the scopes to each operation; a key needs one of them."""
    description["components"]["securitySchemes"] = SECURITY_SCHEMES
    for method, path, operation in _iter_operations(description):
        scopes = sorted(required_scopes(method.upper(), path))
        operation["security"] = [{name: scopes} for name in SECURITY_SCHEMES]


def _iter_operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation
