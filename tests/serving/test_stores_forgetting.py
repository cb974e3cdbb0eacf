"""What is left of somebody who was forgotten, seen from outside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from segue.serving.stores.store import Event, Exposure, Memory, Store

USER = "somebody"
SECRET = "her-secret"


def live(store: Store) -> None:
    """Things happen to two users, and one of them is forgotten."""
    for user, secret in ((USER, SECRET), ("other", "his-thing")):
        store.append([Event(user, f"{secret}-{n}", n, secret, 1.5, f"{secret}-{n}") for n in range(200)])
        store.remember({user: Memory("m", 10**6, secret.encode() * 100)})
        store.expose([Exposure("e", "A", user, 1, (secret,)), Exposure("f", "B", user, 1, (secret,))])
    assert store.forget(USER) == 200
    assert len(list(store.events())) == 200


def test_a_file_holds_none_of_it(fresh: Callable[[str], str], opened: Callable[[str], Store]) -> None:
    address = fresh("sqlite")
    store = opened(address)
    live(store)
    store.close()
    path = Path(address.removeprefix("sqlite:///"))
    data = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    assert b"his-thing-7" in data
    assert SECRET.encode() not in data  # nor in pages that are free
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = [(table, row) for table in tables for row in connection.execute(f"SELECT * FROM {table}")]
    assert [table for table, row in rows if USER in row] == ["users"]
    connection.close()


def test_postgresql_shows_none_of_it(fresh: Callable[[str], str], opened: Callable[[str], Store]) -> None:
    import psycopg

    address = fresh("postgresql")
    live(opened(address))
    with psycopg.connect(address) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
        rows = [(table, str(row)) for (table,) in tables for row in connection.execute(f"SELECT * FROM {table}")]  # type: ignore[call-overload]
    assert [table for table, row in rows if "his-thing-7'" in row] == ["segue_events"]
    assert not [table for table, row in rows if SECRET in row]
    assert [table for table, row in rows if USER in row] == ["segue_users"]


def test_redis_holds_none_of_it(fresh: Callable[[str], str], opened: Callable[[str], Store]) -> None:
    import redis

    address = fresh("redis")
    live(opened(address))
    read = {
        b"string": lambda client, key: client.get(key),
        b"list": lambda client, key: client.lrange(key, 0, -1),
        b"set": lambda client, key: client.smembers(key),
        b"hash": lambda client, key: client.hgetall(key),
        b"stream": lambda client, key: client.xrange(key),
    }
    with redis.Redis.from_url(address) as client:
        data = {key: f"{key} {read[client.type(key)](client, key)}" for key in client.scan_iter()}
    assert [key for key, told in data.items() if 'his-thing-7"' in told] == [b"segue:user:other"]
    assert not [key for key, told in data.items() if SECRET in told]
    assert [key for key, told in data.items() if USER in told] == [b"segue:forgotten"]
