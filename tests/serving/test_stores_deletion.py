"""Traces of deleted users in the storage itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from segue.serving.stores.store import Event, Exposure, Store, UserState

USER = "deleted-user"
SECRET = "user-secret"


def fill(store: Store) -> None:
    """Store data of two users and delete one of them."""
    for user, secret in ((USER, SECRET), ("other", "other-data")):
        store.append([Event(user, f"{secret}-{n}", n, secret, 1.5, f"{secret}-{n}") for n in range(200)])
        store.put_states({user: UserState("m", 10**6, secret.encode() * 100)})
        store.record_exposures([Exposure("e", "A", user, 1, (secret,)), Exposure("f", "B", user, 1, (secret,))])
    assert store.delete_user(USER).events == 200
    assert len(list(store.events())) == 200


def test_sqlite_file_contains_no_trace(new_address: Callable[[str], str], open_stores: Callable[[str], Store]) -> None:
    address = new_address("sqlite")
    store = open_stores(address)
    fill(store)
    store.close()
    path = Path(address.removeprefix("sqlite:///"))
    data = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    assert b"other-data-7" in data
    assert SECRET.encode() not in data  # including free pages
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = [(table, row) for table in tables for row in connection.execute(f"SELECT * FROM {table}")]
    assert not [table for table, row in rows if USER in row]
    connection.close()


def test_postgresql_tables_contain_no_trace(
    new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    import psycopg

    address = new_address("postgresql")
    fill(open_stores(address))
    with psycopg.connect(address) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
        rows = [(table, str(row)) for (table,) in tables for row in connection.execute(f"SELECT * FROM {table}")]  # type: ignore[call-overload]
    assert [table for table, row in rows if "other-data-7'" in row] == ["segue_events"]
    assert not [table for table, row in rows if SECRET in row]
    assert not [table for table, row in rows if USER in row]


def test_redis_keys_contain_no_trace(new_address: Callable[[str], str], open_stores: Callable[[str], Store]) -> None:
    import redis

    address = new_address("redis")
    fill(open_stores(address))
    read = {
        b"string": lambda client, key: client.get(key),
        b"list": lambda client, key: client.lrange(key, 0, -1),
        b"set": lambda client, key: client.smembers(key),
        b"hash": lambda client, key: client.hgetall(key),
        b"stream": lambda client, key: client.xrange(key),
    }
    with redis.Redis.from_url(address) as client:
        data = {key: f"{key} {read[client.type(key)](client, key)}" for key in client.scan_iter()}
    assert [key for key, text in data.items() if 'other-data-7"' in text] == [b"segue:user:other"]
    assert not [key for key, text in data.items() if SECRET in text]
    assert not [key for key, text in data.items() if USER in text]
