"""Opens an event store by its address."""

from __future__ import annotations

from pathlib import Path

from segue.core.registry import plugins
from segue.serving.stores.store import LOCK_TIMEOUT_SECONDS, Store

__all__ = ["SCHEMES", "open_store"]

SCHEMES = {
    "sqlite": "sqlite:///segue.db, sqlite:////absolute/path/segue.db",
    "memory": "memory:",
    "postgresql": "postgresql://user:password@host:5432/database",
    "postgres": "postgres://user:password@host:5432/database",
    "redis": "redis://:password@host:6379/0",
    "rediss": "rediss://:password@host:6379/0",
}
"""Example addresses by scheme."""

PLUGINS = "segue.stores"
"""Entry-point group for stores from other packages: the scheme, and a function from an address to a store."""


def open_store(address: str, lock_timeout: float = LOCK_TIMEOUT_SECONDS) -> Store:
    """Open the store at ``address``.

    Addresses: ``sqlite:///path`` (four slashes for an absolute path), ``memory:`` or ``sqlite:///:memory:`` for tests,
    ``postgresql://...``, ``redis://...``, or ``rediss://...`` with TLS. A file is created if it does not exist; a
    server is contacted on first use.

    Args:
        address: see above.
        lock_timeout: seconds for which a write waits for the locks of other writers. Redis has none, and stores of
            other packages have their own.

    Raises:
        ValueError: an unknown scheme, an invalid address, or a missing extra. The message contains only the scheme, as
            an address may contain a password.
        StoreError: the file cannot be opened.
    """
    scheme, colon, rest = address.partition(":")
    if colon and scheme in plugins(PLUGINS):
        store: Store = plugins(PLUGINS)[scheme].load()(address)
        return store
    if scheme not in SCHEMES or not colon:
        problem = f"unknown scheme '{scheme}'" if colon and scheme.isalnum() else "an address without a scheme"
        raise ValueError(f"store: {problem}, expected one of {', '.join(SCHEMES.values())}")
    if scheme in ("redis", "rediss"):
        from segue.serving.stores.redis import Redis

        return Redis(address)
    if scheme in ("postgresql", "postgres"):
        from segue.serving.stores.postgresql import PostgreSQL

        return PostgreSQL(address, lock_timeout)
    from segue.serving.stores.sqlite import SQLite

    path = rest.removeprefix("///")
    if address in ("memory:", "sqlite:///:memory:"):
        return SQLite(None, lock_timeout)
    if scheme == "memory" or path == rest or not path:
        raise ValueError(f"store: invalid {scheme} address, expected {SCHEMES[scheme]}")
    return SQLite(Path(path), lock_timeout)
