"""Addresses of stores, what is wrong with them, and files that are not what they should be."""

from __future__ import annotations

import re
import sqlite3
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.serving.stores import sqlite
from segue.serving.stores.open import open_store
from segue.serving.stores.postgresql import PostgreSQL
from segue.serving.stores.redis import Redis
from segue.serving.stores.sqlite import SQLite
from segue.serving.stores.store import Event, Memory, Store, StoreError

SECRET = "s3cret"


@pytest.mark.parametrize("address", ["memory:", "sqlite:///:memory:"])
def test_in_memory_each_store_is_its_own(address: str, opened: Callable[[str], Store]) -> None:
    one, other = opened(address), opened(address)
    one.append([Event("u", "a", 1)])
    assert list(other.events()) == []


def test_three_slashes_are_relative_and_four_absolute(
    tmp_path: Path, opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened("sqlite:///here.db").append([Event("u", "a", 1)])
    assert [event.item for _, event in opened(f"sqlite:///{tmp_path}/here.db").events()] == ["a"]


@pytest.mark.parametrize(
    "address",
    ["", "segue.db", "mysql://u:s3cret@host/db", "s3cret", "s3cret@host:1", "sqlite:s3cret", "sqlite://s3cret/x.db",
     "sqlite:///", "memory:s3cret", "memory", "postgresql://u:s3cret@[host/db", "postgresql://u:s3cret@host:x y/db?z=1",
     "postgresql://host/db?s3cret=1", "redis://u:s3cret@host:x/0", "redis://:s3cret@[host/0", "redis://host/s3cret",
     "redis://host/0?s3cret=1", "redis://host/0?socket_timeout=s3cret", "rediss://host/0?ssl_x=s3cret"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_without_being_repeated(address: str) -> None:
    with pytest.raises(ValueError, match=r"^store: .*expected ") as raised:
        open_store(address)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize(
    "address",
    ["postgresql://u:s3cret@127.0.0.1:1/db", "postgres://u:s3cret@/db?host=/nowhere", "redis://u:s3cret@127.0.0.1:1/0",
     "postgresql://u:p@s3cret:1/db", "redis://:p@s3cret.invalid:1/0", "rediss://:s3cret@127.0.0.1:1/0"],
)  # fmt: skip
def test_passwords_are_told_to_nobody(
    address: str, opened: Callable[[str], Store], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    store = opened(address)
    with pytest.raises(StoreError, match=r"^(redis|postgresql): cannot keep events: ") as raised:
        store.append([Event("u", "a", 1)])
    assert not [text for text in (str(raised.value), repr(store), caplog.text) if SECRET in text]


def test_a_wrong_password_is_told_by_name_alone(
    redis_server: object, fresh: Callable[[str], str], opened: Callable[[str], Store]
) -> None:
    address = fresh("redis").replace("redis://", "redis://u:s3cret@")
    with pytest.raises(StoreError, match=r"^redis: cannot answer: AuthenticationError"):
        opened(address).ping()


@pytest.mark.parametrize(("module", "address"), [("psycopg", "postgresql://h/d"), ("redis", "redis://h/0")])
def test_an_extra_that_is_missing_is_named(module: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    extra = address.partition(":")[0]
    with pytest.raises(ValueError, match=re.escape(f"{module} is not installed: pip install 'segue[{extra}]'")):
        open_store(address)


def test_every_kind_has_its_name(opened: Callable[[str], Store]) -> None:
    found = [opened(one) for one in ("memory:", "postgresql://h/d", "postgres://h/d", "redis://h", "rediss://h/1")]
    assert [type(store) for store in found] == [SQLite, PostgreSQL, PostgreSQL, Redis, Redis]
    assert [store.name for store in found] == ["sqlite", "postgresql", "postgresql", "redis", "redis"]


def test_a_file_is_its_owner_s_alone(fresh: Callable[[str], str], opened: Callable[[str], Store]) -> None:
    address = fresh("sqlite")
    opened(address).append([Event("u", "a", 1)])
    path = Path(address.removeprefix("sqlite:///"))
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_is_durable(fresh: Callable[[str], str], opened: Callable[[str], Store]) -> None:
    store = opened(fresh("sqlite"))
    assert isinstance(store, SQLite)
    with store._connections.lend() as one, store._connections.lend() as other:
        for connection in (one, other):
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_folder_that_is_missing_and_files_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        open_store(f"sqlite:///{tmp_path}/none/x.db")
    with pytest.raises(StoreError, match="directory"):
        open_store(f"sqlite:///{tmp_path}")
    (tmp_path / "text.db").write_text("no database at all\n" * 500)
    with pytest.raises(StoreError, match="SQLITE_NOTADB"):
        open_store(f"sqlite:///{tmp_path}/text.db")
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE events (a)")
    connection.close()
    with pytest.raises(ValueError, match=r"other\.db: a database of something else"):
        open_store(f"sqlite:///{tmp_path}/other.db")


def test_a_file_of_a_later_segue_is_refused(fresh: Callable[[str], str]) -> None:
    address = fresh("sqlite")
    open_store(address).close()
    connection = sqlite3.connect(address.removeprefix("sqlite:///"))
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(ValueError, match="format 9, this Segue reads 1"):
        open_store(address)


def test_a_file_that_others_hold_or_a_full_disk(
    fresh: Callable[[str], str], opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    address = fresh("sqlite")
    store = opened(address)
    assert isinstance(store, SQLite)
    store.append([Event("zoe", "a", 1)])
    other = sqlite3.connect(address.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"^sqlite: cannot keep events: SQLITE_BUSY$"):
        store.append([Event("zoe", "b", 1)])
    assert len(store.kept(["zoe"], 9)[0].events) == 1
    other.execute("ROLLBACK")
    other.close()
    with store._connections.lend() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StoreError, match=r"^sqlite: cannot keep events: SQLITE_FULL$"):
        store.append([Event("zoe", f"{n}", n) for n in range(10_000)])
    assert [event.item for event in store.kept(["zoe"], 9)[0].events] == ["a"]
    assert store.append([Event("zoe", "c", 1)]) == [True]


def test_a_store_that_was_closed_is_no_more(fresh: Callable[[str], str]) -> None:
    store = open_store(fresh("sqlite"))
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.ping()


def test_a_memory_does_not_wait_for_who_holds_the_file(tmp_path: Path, opened: Callable[[str], Store]) -> None:
    store = opened(f"sqlite:///{tmp_path / 'store.db'}")
    store.append([Event("zoe", "a", 1)])
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="keep memories: SQLITE_BUSY"):
        store.remember({"zoe": Memory("m", 1, b"x")})
    assert store.kept(["zoe"], 1)[0].total == 1
    other.execute("ROLLBACK")
    other.close()
    store.remember({"zoe": Memory("m", 1, b"x")})
    assert store.memories(["zoe"], "m") == [Memory("m", 1, b"x")]
