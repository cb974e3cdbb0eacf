"""What a request needs, by its method and address.

What is not listed here needs ``admin``: an address that is added and forgotten here is closed.
"""

from __future__ import annotations

from segue.serving.auth.api_keys import SCOPES, Scope

__all__ = ["needed"]

OPEN = frozenset({"/", "/healthz", "/readyz", "/favicon.ico", "/docs", "/openapi.json"})
"""Without a key. Who looks whether the service lives has none; the page is the same for everybody, and what it shows it
asks for with the key that is typed into it; the description of the interface is public with the code."""

PAGES = ("/page/", "/static/")
"""Files of the page, likewise."""

QUESTIONS = frozenset({"/v1/recommend", "/v1/recommend/batch", "/v1/explain"})
EVENTS = frozenset({"/v1/events", "/v1/events/batch"})


def needed(method: str, path: str) -> frozenset[Scope]:
    """Scopes one of which is needed; empty: open to everybody.

    ``/metrics`` holds counts and times, and names no person: whoever may read or administer sees them, so that what
    collects them need not be given a key that can change models.
    """
    look = method in ("GET", "HEAD", "OPTIONS")
    if look and (path in OPEN or path.startswith(PAGES)):
        return frozenset()
    if look and path == "/metrics":
        return frozenset({"read", "admin"})
    if (look and path.startswith("/v1/")) or (method == "POST" and path in QUESTIONS):
        return frozenset({"read"})
    if (method == "POST" and path in EVENTS) or (method == "DELETE" and path.startswith("/v1/users/")):
        return frozenset({"write"})
    return frozenset({"admin"}) if path.startswith("/v1/") or not look else frozenset(SCOPES)
