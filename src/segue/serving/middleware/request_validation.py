"""Requests that no well-meaning client sends, refused before anything is made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from contextlib import suppress
from typing import Any
from urllib.parse import unquote_to_bytes

from segue.serving.errors import Problem
from segue.serving.middleware.security_headers import Given

__all__ = ["check", "check_json", "check_site"]

LONGEST = 8_192
"""Bytes of an address with its query."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check(scope: Any, given: Given) -> None:
    """Refuse addresses that are too long or no text, and headers that two readers could read in two ways.

    Raises:
        Problem: 400 or 414.
    """
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > LONGEST:
        raise Problem(414)
    if CONTROL.search(scope["path"]) or _mangled(scope):
        raise Problem(400, message="the address holds bytes that are no text")
    if name := given.repeated():
        raise Problem(400, message=f"{name}: was sent more than once")
    if given.one(b"content-length") is not None and given.one(b"transfer-encoding") is not None:
        raise Problem(400, message="content-length and transfer-encoding: expected one of them")


def check_site(method: str, given: Given, friends: Collection[str]) -> None:
    """Refuse changes that a page of another site makes a browser ask for (cross-site request forgery).

    Keys need no such guard, as a browser does not add them of itself. The checks are those of Go's
    ``http.CrossOriginProtection``: ``Sec-Fetch-Site``, and from old browsers ``Origin`` against ``Host``.

    Args:
        friends: origins of sites that may.

    Raises:
        Problem: 403.
    """
    origin, site = given.one(b"origin"), given.one(b"sec-fetch-site")
    if method in ("GET", "HEAD", "OPTIONS") or origin in friends or "*" in friends or site in ("same-origin", "none"):
        return
    if site is not None or (origin is not None and origin.partition("://")[2] != given.one(b"host")):
        raise Problem(403, message="a page of another site may not do that, unless the setting cors names it")


def check_json(body: bytes) -> None:
    """Refuse what Python reads as JSON though it is none (RFC 8259): ``NaN``, ``Infinity``, and UTF-16 or UTF-32.

    Only a body that holds one of these words is read here.

    Raises:
        Problem: 400.
    """
    if b"\0" in body:
        raise Problem(400, message="the body is not JSON in UTF-8")
    if b"NaN" in body or b"Infinity" in body:
        with suppress(ValueError, RecursionError):  # broken in another way, which the application says
            json.loads(body, parse_constant=_constant)


def _constant(name: str) -> float:
    raise Problem(400, message="the body is not JSON: it holds NaN or Infinity; leave out what is not known")


def _mangled(scope: Any) -> bool:
    """Whether the address was no UTF-8: two users would then have one name."""
    if "\ufffd" not in scope["path"]:
        return False
    try:
        unquote_to_bytes(scope.get("raw_path") or b"").decode()
    except UnicodeDecodeError:
        return True
    return False
