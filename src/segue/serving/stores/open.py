"""A store from its address."""

from __future__ import annotations

from pathlib import Path

from segue.serving.stores.store import Store

__all__ = ["SCHEMES", "open_store"]

SCHEMES = {
    "sqlite": "sqlite:///segue.db, sqlite:////absolute/path/segue.db",
    "memory": "memory:",
    "postgresql": "postgresql://user:password@host:5432/database",
    "postgres": "postgres://user:password@host:5432/database",
    "redis": "redis://:password@host:6379/0",
    "rediss": "rediss://:password@host:6379/0",
}
"""What an address may begin with, and what it looks like."""


def open_store(address: str) -> Store:
    """The store at ``address``: ``sqlite:///path`` (four slashes: an absolute path), ``memory:`` or
    ``sqlite:///:memory:`` to try things out, ``postgresql://...``, ``redis://...`` or ``rediss://...`` with TLS.

    A file is opened, and made if it is not there; a server is reached when it is first needed.

    Raises:
        ValueError: an unknown scheme, an address that cannot be read, or an extra that is not installed. Nothing of an
            address is told but its scheme: it may hold a password.
        StoreError: the file cannot be opened.
    """
    scheme, colon, rest = address.partition(":")
    if scheme not in SCHEMES or not colon:
        told = f"unknown scheme '{scheme}'" if colon and scheme.isalnum() else "an address without a scheme"
        raise ValueError(f"store: {told}, expected one of {', '.join(SCHEMES.values())}")
    if scheme in ("redis", "rediss"):
        from segue.serving.stores.redis import Redis

        return Redis(address)
    if scheme in ("postgresql", "postgres"):
        from segue.serving.stores.postgresql import PostgreSQL

        return PostgreSQL(address)
    from segue.serving.stores.sqlite import SQLite

    path = rest.removeprefix("///")
    if address in ("memory:", "sqlite:///:memory:"):
        return SQLite(None)
    if scheme == "memory" or path == rest or not path:
        raise ValueError(f"store: {scheme}: an address that cannot be read, expected {SCHEMES[scheme]}")
    return SQLite(Path(path))
