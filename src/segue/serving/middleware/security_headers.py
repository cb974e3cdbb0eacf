"""Request headers, and security headers of responses (OWASP Secure Headers)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

__all__ = ["DOCS_CSP", "LOCAL_HOSTS", "UI_CSP", "RequestHeaders", "add_security_headers", "host_without_port"]

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
"""Host names of a service that only this machine can reach."""

_BASE_CSP = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
UI_CSP = f"{_BASE_CSP}; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'"
"""Content-Security-Policy that permits only resources of this service."""
DOCS_CSP = UI_CSP.replace("img-src 'self'", "img-src 'self' data:")
"""Content-Security-Policy of the API documentation: Swagger UI's style sheets embed their images."""

SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
}
REPLACED_HEADERS = {*SECURITY_HEADERS, b"content-security-policy", b"x-request-id", b"server"}

SINGLETON_HEADERS = (
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"host",
    b"origin",
    b"transfer-encoding",
    b"x-api-key",
)


class RequestHeaders:
    """Headers of a request; names are lower case, values are decoded as Latin-1."""

    def __init__(self, raw_headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._by_name: dict[bytes, list[str]] = {}
        self._n_headers = 0
        for name, value in raw_headers:
            self._by_name.setdefault(name.lower(), []).append(value.decode("latin-1"))
            self._n_headers += 1

    def get(self, name: bytes) -> str | None:
        """Return the value of a header that occurs exactly once."""
        values = self._by_name.get(name, ())
        return values[0].strip() if len(values) == 1 else None

    def first_repeated(self) -> str | None:
        """Return the first repeated header that must be unique.

        Two parsers could interpret a repeated header differently.
        """
        if len(self._by_name) == self._n_headers:
            return None
        return next((name.decode() for name in SINGLETON_HEADERS if len(self._by_name.get(name, ())) > 1), None)


def add_security_headers(
    raw_headers: Iterable[tuple[bytes, bytes]], request_id: str, policy: str, extra: Mapping[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    """Return response headers with security headers added.

    Responses are not cached unless they say otherwise; static files, which have an ``ETag``, are revalidated.
    """
    headers, names = [], set()
    for header in raw_headers:
        if (name := header[0].lower()) not in REPLACED_HEADERS:
            headers.append(header)
            names.add(name)
    if b"cache-control" not in names:
        headers.append((b"cache-control", b"no-cache" if b"etag" in names else b"no-store"))
    return [*headers, *_constant_headers(policy), (b"x-request-id", request_id.encode()), *extra.items()]


@cache
def _constant_headers(policy: str) -> tuple[tuple[bytes, bytes], ...]:
    return *SECURITY_HEADERS.items(), (b"content-security-policy", policy.encode())


def host_without_port(host: str) -> str:
    """Return the host name of a ``Host`` header: ``::1`` for ``[::1]:8000``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
