"""Rejects malformed and suspicious requests before the application handles them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any
from urllib.parse import unquote_to_bytes

from segue.serving.errors import ApiError
from segue.serving.middleware.security_headers import RequestHeaders

__all__ = ["check_body_headers", "check_csrf", "has_body", "validate_request"]

MAX_URI_BYTES = 8_192
"""Maximum length of a path with its query."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def validate_request(scope: Any, headers: RequestHeaders) -> None:
    """Reject malformed URIs, and ambiguous or unsupported framing.

    Another server may read such requests differently (request smuggling).

    Raises:
        ApiError: 400 or 414.
    """
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URI_BYTES:
        raise ApiError(414)
    if CONTROL.search(scope["path"]) or _is_invalid_utf8(scope):
        raise ApiError(400, message="the path contains control characters or invalid UTF-8")
    if name := headers.first_repeated():
        raise ApiError(400, message=f"{name}: header sent more than once")
    encoding = headers.get(b"transfer-encoding")
    if encoding is not None and headers.get(b"content-length") is not None:
        raise ApiError(400, message="expected either content-length or transfer-encoding, got both")
    if encoding is not None and (encoding.lower() != "chunked" or scope.get("http_version") == "1.0"):
        raise ApiError(400, message="Transfer-Encoding: expected chunked, in a request of HTTP/1.1")


def has_body(headers: RequestHeaders) -> bool:
    """Return whether a request announces a body."""
    return (headers.get(b"content-length") or "").strip("0") != "" or headers.get(b"transfer-encoding") is not None


def check_body_headers(scope: Any, headers: RequestHeaders, max_bytes: int, is_open: bool) -> None:
    """Reject a body that is unexpected, too large, or of another type than JSON.

    A body is not read before this check.

    Args:
        max_bytes: size limit.
        is_open: whether the request needs no API key.

    Raises:
        ApiError: 400, 413 or 415.
    """
    length = headers.get(b"content-length") or "0"
    if not (length.isascii() and length.isdigit()):
        raise ApiError(400, message="Content-Length: expected a number")
    if not has_body(headers):
        return
    method = scope["method"]
    if is_open or method in ("GET", "HEAD", "DELETE", "OPTIONS"):
        raise ApiError(400, message="this operation accepts no request body")
    if len(length) > 15 or int(length) > max_bytes:
        raise ApiError(413, message=f"request body larger than {max_bytes} bytes")
    content_type = (headers.get(b"content-type") or "").partition(";")[0].strip().lower()
    encoding = (headers.get(b"content-encoding") or "identity").lower()
    if encoding != "identity" or (content_type != "application/json" and method in ("POST", "PUT", "PATCH")):
        raise ApiError(415)


def check_csrf(method: str, headers: RequestHeaders, trusted_origins: Collection[str]) -> None:
    """Reject state-changing cross-site requests (cross-site request forgery).

    Another site can make a browser send such requests. A service with API keys does not need this check, because
    browsers do not add keys by themselves. The rules are those of Go's ``http.CrossOriginProtection``:
    ``Sec-Fetch-Site``, and for old browsers ``Origin`` against ``Host``.

    Args:
        trusted_origins: origins that may send such requests.

    Raises:
        ApiError: 403.
    """
    origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
    is_safe = method in ("GET", "HEAD", "OPTIONS")
    if is_safe or origin in trusted_origins or "*" in trusted_origins or site in ("same-origin", "none"):
        return
    if site is not None or (origin is not None and origin.partition("://")[2] != headers.get(b"host")):
        raise ApiError(
            403, message="cross-site request rejected; add the origin to the setting cors_origins to allow it"
        )


def _is_invalid_utf8(scope: Any) -> bool:
    """Check whether the path is not valid UTF-8.

    Two different ids in such a path could be decoded to the same text.
    """
    if "\ufffd" not in scope["path"]:
        return False
    try:
        unquote_to_bytes(scope.get("raw_path") or b"").decode()
    except UnicodeDecodeError:
        return True
    return False
