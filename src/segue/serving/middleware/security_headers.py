"""Headers: what comes with a request, and what an answer tells the browser not to do (OWASP Secure Headers)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["DOCS", "LOCAL", "PAGE", "Given", "guarded", "named"]

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
"""What a service on this machine alone is called."""

_NONE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE = f"{_NONE}; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'"
"""Content-Security-Policy: only what this service serves is run, shown and asked."""
DOCS = PAGE.replace("img-src 'self'", "img-src 'self' data:")
"""The same for the description of the interface: the styles of Swagger UI hold their images."""

ALWAYS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
}
OWN = {*ALWAYS, b"content-security-policy", b"x-request-id", b"server"}

ONCE = (
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"host",
    b"origin",
    b"transfer-encoding",
    b"x-api-key",
)


class Given:
    """The headers of a request; names are lower case, values are read as Latin-1."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._by_name: dict[bytes, list[str]] = {}
        for name, value in raw:
            self._by_name.setdefault(name.lower(), []).append(value.decode("latin-1"))

    def one(self, name: bytes) -> str | None:
        """The value, where there is exactly one."""
        values = self._by_name.get(name, ())
        return values[0].strip() if len(values) == 1 else None

    def repeated(self) -> str | None:
        """A header that stands there twice though two readers could then see two requests."""
        return next((name.decode() for name in ONCE if len(self._by_name.get(name, ())) > 1), None)


def guarded(
    raw: Iterable[tuple[bytes, bytes]], request_id: str, policy: str, more: Mapping[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with those that protect it; no cache keeps an answer that does not say so.

    Files, which have an ``ETag``, may be kept, and are asked for anew.
    """
    kept = [(name, value) for name, value in raw if name.lower() not in OWN]
    names = {name.lower() for name, _ in kept}
    if b"cache-control" not in names:
        kept.append((b"cache-control", b"no-cache" if b"etag" in names else b"no-store"))
    own = {**ALWAYS, b"content-security-policy": policy.encode(), b"x-request-id": request_id.encode(), **more}
    return [*kept, *own.items()]


def named(host: str) -> str:
    """The name in ``Host`` without its port: ``::1`` for ``[::1]:8000``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
