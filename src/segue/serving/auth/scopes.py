"""Scopes required by each endpoint.

An endpoint that is not listed here is never public. Under ``/v1`` it requires ``read``, or ``admin`` if it changes
something.
"""

from __future__ import annotations

from segue.serving.auth.api_keys import SCOPES, Scope

__all__ = ["required_scopes"]

PUBLIC = frozenset({"/", "/healthz", "/readyz", "/favicon.ico", "/docs", "/openapi.json"})
"""No key required. Health probes have none; the UI is the same for everyone and calls the API with the key entered
there; the API description is as public as the source code."""

PUBLIC_PREFIXES = ("/page/", "/static/")
"""Static files of the UI."""

RECOMMEND_PATHS = frozenset({"/v1/recommend", "/v1/recommend/batch", "/v1/predict"})
"""Recommendations and predictions, which a shop front needs. An explanation shows events of the user, so it requires
``read``."""
EVENT_PATHS = frozenset({"/v1/events", "/v1/events/batch"})


def required_scopes(method: str, path: str) -> frozenset[Scope]:
    """Return the scopes of which a key needs one; empty: public.

    ``/metrics`` contains counts and durations but no personal data, so either ``read`` or ``admin`` suffices and a
    metrics collector does not need a key that can change models.
    """
    is_read = method in ("GET", "HEAD", "OPTIONS")
    if is_read and (path in PUBLIC or path.startswith(PUBLIC_PREFIXES)):
        return frozenset()
    if is_read and path == "/metrics":
        return frozenset({"read", "admin"})
    is_catalog = path == "/v1/items" or path.startswith("/v1/items/")
    if (is_read and is_catalog) or (method == "POST" and path in RECOMMEND_PATHS):
        return frozenset({"recommend", "read"})
    if (is_read and path.startswith("/v1/")) or (method == "POST" and path == "/v1/explain"):
        return frozenset({"read"})
    is_item_change = (method == "POST" and path == "/v1/items") or (
        method == "DELETE" and path.startswith("/v1/items/")
    )
    if is_item_change or (method == "POST" and path in EVENT_PATHS):
        return frozenset({"write"})
    if method == "DELETE" and path.startswith("/v1/users/"):
        return frozenset({"write"})
    return frozenset({"admin"}) if path.startswith("/v1/") or not is_read else frozenset(SCOPES)
