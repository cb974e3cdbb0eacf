"""Fixtures: empty stores of every kind, whose servers are started once per session, and secured applications."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from servers import PostgreSQLServer, RedisServer

from segue.serving.auth.api_keys import ApiKeys, create_key
from segue.serving.monitoring.logs import configure_logging
from segue.serving.stores.open import open_store
from segue.serving.stores.store import Store

if TYPE_CHECKING:
    from tests.serving.secured_app import SecuredApp

NUMBERS = itertools.count()
DURABLE = ["sqlite", "postgresql", "redis"]
STORES = [*DURABLE, "memory"]


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
def new_address(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that maps a kind of store to the address of an empty one."""

    def address(kind: str) -> str:
        if kind == "memory":
            return "memory:"
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / f'{next(NUMBERS)}.db'}"
        server = request.getfixturevalue(f"{kind}_server")
        return str(server.new_address(next(NUMBERS)))

    return address


@pytest.fixture
def open_stores() -> Iterator[Callable[[str], Store]]:
    """Return a function that opens stores, which are closed after the test."""
    with ExitStack() as stack:

        def open_and_register(address: str) -> Store:
            store = open_store(address)
            stack.callback(store.close)
            return store

        yield open_and_register


@pytest.fixture(params=STORES)
def store(
    request: pytest.FixtureRequest, new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> Store:
    """Empty store of every kind."""
    return open_stores(new_address(request.param))


@pytest.fixture(params=DURABLE)
def address(request: pytest.FixtureRequest, new_address: Callable[[str], str]) -> str:
    """Address of an empty store of every durable kind."""
    return new_address(request.param)


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "keys.json"
    return {scope: create_key(path, scope, [scope]) for scope in ("recommend", "read", "write", "admin")}


@pytest.fixture
def service_with_keys(tmp_path: Path, tokens: dict[str, str]) -> SecuredApp:
    from tests.serving.secured_app import SecuredApp

    return SecuredApp(tmp_path, ApiKeys(tmp_path / "keys.json"))


@pytest.fixture
def service(tmp_path: Path) -> SecuredApp:
    from tests.serving.secured_app import SecuredApp

    return SecuredApp(tmp_path)


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """Capture all logs of this process as JSON lines."""
    names = ("", "segue", "uvicorn", "uvicorn.error", "uvicorn.access")
    loggers = [logging.getLogger(name) for name in names]
    before = [(one, one.level, list(one.handlers), one.propagate) for one in loggers]
    stream = io.StringIO()
    configure_logging("json", "DEBUG", stream)
    yield stream
    for one, level, handlers, propagate in before:
        one.setLevel(level)
        one.handlers[:] = handlers
        one.propagate = propagate
