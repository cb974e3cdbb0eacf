"""Store addresses, and missing, foreign, locked or full files."""

from __future__ import annotations

import re
import sqlite3
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.serving.stores.open import open_store
from segue.serving.stores.postgresql import PostgreSQL
from segue.serving.stores.redis import Redis
from segue.serving.stores.sqlite import SQLite
from segue.serving.stores.store import Event, Store, StoreError, UserState

SECRET = "s3cret"


@pytest.mark.parametrize("address", ["memory:", "sqlite:///:memory:"])
def test_memory_stores_are_independent(address: str, open_stores: Callable[[str], Store]) -> None:
    one, other = open_stores(address), open_stores(address)
    one.append([Event("u", "a", 1)])
    assert list(other.events()) == []


def test_relative_and_absolute_paths(
    tmp_path: Path, open_stores: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_stores("sqlite:///here.db").append([Event("u", "a", 1)])
    assert [event.item for _, event in open_stores(f"sqlite:///{tmp_path}/here.db").events()] == ["a"]


@pytest.mark.parametrize(
    "address",
    ["", "segue.db", "mysql://u:s3cret@host/db", "s3cret", "s3cret@host:1", "sqlite:s3cret", "sqlite://s3cret/x.db",
     "sqlite:///", "memory:s3cret", "memory", "postgresql://u:s3cret@[host/db", "postgresql://u:s3cret@host:x y/db?z=1",
     "postgresql://host/db?s3cret=1", "redis://u:s3cret@host:x/0", "redis://:s3cret@[host/0", "redis://host/s3cret",
     "redis://host/0?s3cret=1", "redis://host/0?socket_timeout=s3cret", "rediss://host/0?ssl_x=s3cret"],
)  # fmt: skip
def test_invalid_addresses_are_not_echoed(address: str) -> None:
    with pytest.raises(ValueError, match=r"^store: .*expected ") as raised:
        open_store(address)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize(
    "address",
    ["postgresql://u:s3cret@127.0.0.1:1/db", "postgres://u:s3cret@/db?host=/nowhere", "redis://u:s3cret@127.0.0.1:1/0",
     "postgresql://u:p@s3cret:1/db", "redis://:p@s3cret.invalid:1/0", "rediss://:s3cret@127.0.0.1:1/0"],
)  # fmt: skip
def test_errors_and_logs_contain_no_passwords(
    address: str, open_stores: Callable[[str], Store], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    store = open_stores(address)
    with pytest.raises(StoreError, match=r"^(redis|postgresql): cannot store events: ") as raised:
        store.append([Event("u", "a", 1)])
    assert not [text for text in (str(raised.value), repr(store), caplog.text) if SECRET in text]


def test_authentication_errors(
    redis_server: object, new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    address = new_address("redis").replace("redis://", "redis://u:s3cret@")
    with pytest.raises(StoreError, match=r"^redis: cannot respond: AuthenticationError"):
        open_stores(address).ping()


@pytest.mark.parametrize(("module", "address"), [("psycopg", "postgresql://h/d"), ("redis", "redis://h/0")])
def test_missing_extras(module: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    extra = address.partition(":")[0]
    with pytest.raises(ValueError, match=re.escape(f"{module} is not installed: pip install 'segue[{extra}]'")):
        open_store(address)


def test_store_kinds(open_stores: Callable[[str], Store]) -> None:
    stores = [
        open_stores(one) for one in ("memory:", "postgresql://h/d", "postgres://h/d", "redis://h", "rediss://h/1")
    ]
    assert [type(store) for store in stores] == [SQLite, PostgreSQL, PostgreSQL, Redis, Redis]
    assert [store.name for store in stores] == ["sqlite", "postgresql", "postgresql", "redis", "redis"]


def test_sqlite_files_are_private(new_address: Callable[[str], str], open_stores: Callable[[str], Store]) -> None:
    address = new_address("sqlite")
    open_stores(address).append([Event("u", "a", 1)])
    path = Path(address.removeprefix("sqlite:///"))
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_sqlite_is_durable(new_address: Callable[[str], str], open_stores: Callable[[str], Store]) -> None:
    store = open_stores(new_address("sqlite"))
    assert isinstance(store, SQLite)
    with store._pool.connection() as one, store._pool.connection() as other:
        for connection in (one, other):
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_missing_folders_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        open_store(f"sqlite:///{tmp_path}/none/x.db")
    with pytest.raises(StoreError, match="directory"):
        open_store(f"sqlite:///{tmp_path}")
    (tmp_path / "text.db").write_text("not a database\n" * 500)
    with pytest.raises(StoreError, match="SQLITE_NOTADB"):
        open_store(f"sqlite:///{tmp_path}/text.db")
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE events (a)")
    connection.close()
    with pytest.raises(ValueError, match=r"other\.db: not a Segue store"):
        open_store(f"sqlite:///{tmp_path}/other.db")


def test_sqlite_format_mismatch(new_address: Callable[[str], str]) -> None:
    address = new_address("sqlite")
    open_store(address).close()
    connection = sqlite3.connect(address.removeprefix("sqlite:///"))
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(ValueError, match="got format 9, expected 3"):
        open_store(address)


def test_locked_file_and_full_disk(new_address: Callable[[str], str]) -> None:
    address = new_address("sqlite")
    store = SQLite(Path(address.removeprefix("sqlite:///")), lock_timeout=0.05)
    store.append([Event("zoe", "a", 1)])
    other = sqlite3.connect(address.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"^sqlite: cannot store events: SQLITE_BUSY$"):
        store.append([Event("zoe", "b", 1)])
    assert len(store.recent_events(["zoe"], 9)[0].events) == 1
    other.execute("ROLLBACK")
    other.close()
    with store._pool.connection() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StoreError, match=r"^sqlite: cannot store events: SQLITE_FULL; the store is full$"):
        store.append([Event("zoe", f"{n}", n) for n in range(10_000)])
    assert [event.item for event in store.recent_events(["zoe"], 9)[0].events] == ["a"]
    assert store.append([Event("zoe", "c", 1)]) == [True]


def test_closed_store(new_address: Callable[[str], str]) -> None:
    store = open_store(new_address("sqlite"))
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.ping()


def test_put_states_does_not_wait_for_a_locked_file(tmp_path: Path, open_stores: Callable[[str], Store]) -> None:
    store = open_stores(f"sqlite:///{tmp_path / 'store.db'}")
    store.append([Event("zoe", "a", 1)])
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="store states: SQLITE_BUSY"):
        store.put_states({"zoe": UserState("m", 1, b"x")})
    assert store.recent_events(["zoe"], 1)[0].total == 1
    other.execute("ROLLBACK")
    other.close()
    store.put_states({"zoe": UserState("m", 1, b"x")})
    assert store.get_states(["zoe"], "m") == [UserState("m", 1, b"x")]
