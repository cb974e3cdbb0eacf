"""Stores to test with, each fresh and empty; servers are started once, when a test first asks for one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from servers import PostgreSQLServer, RedisServer

from segue.serving.stores.open import open_store
from segue.serving.stores.store import Store

NUMBERS = itertools.count()
LASTING = ["sqlite", "postgresql", "redis"]
STORES = [*LASTING, "memory"]


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    server = PostgreSQLServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """The address of a store of this kind that holds nothing yet."""

    def address(kind: str) -> str:
        if kind == "memory":
            return "memory:"
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / f'{next(NUMBERS)}.db'}"
        server = request.getfixturevalue(f"{kind}_server")
        return str(server.fresh(next(NUMBERS)))

    return address


@pytest.fixture
def opened() -> Iterator[Callable[[str], Store]]:
    """Opens stores that are closed at the end."""
    with ExitStack() as stack:

        def store(address: str) -> Store:
            found = open_store(address)
            stack.callback(found.close)
            return found

        yield store


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, fresh: Callable[[str], str], opened: Callable[[str], Store]) -> Store:
    """Every kind of store."""
    return opened(fresh(request.param))


@pytest.fixture(params=LASTING)
def address(request: pytest.FixtureRequest, fresh: Callable[[str], str]) -> str:
    """Of every kind of store that outlives a process."""
    return fresh(request.param)
