"""Bytes of deleted users in the memory and the files of database servers."""

from __future__ import annotations

import hmac
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PostgreSQLServer, RedisServer

from segue.serving.stores import background_erasure
from segue.serving.stores.background_erasure import BackgroundErasure
from segue.serving.stores.deletion_markers import create_deletion_key, create_deletion_marker
from segue.serving.stores.store import Event, Exposure, Store, StoreError, UserState

SECRET = "zqx-secret"
USER = f"{SECRET}-user"


def fill(store: Store) -> None:
    """Store data of two users, alternating, so that their bytes are next to each other."""
    for n in range(200):
        secret = f"{SECRET}-{n}"
        store.append([Event(USER, secret, n, SECRET, 1.5, secret), Event("other", f"item-{n}", n, "buy", 1.5, f"{n}")])
        if n % 20 == 0:
            store.record_exposures(
                [Exposure("e", "A", USER, 1, (secret,)), Exposure("e", "B", "other", 1, (f"item-{n}",))]
            )
    store.put_states({USER: UserState("m", 10**6, SECRET.encode() * 100), "other": UserState("m", 10**6, b"x" * 1_000)})


def files_with_traces(folder: Path) -> dict[str, int]:
    """Return the files that contain the secret, and how often."""
    counts = {}
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                counts[name] = Path(root, name).read_bytes().count(SECRET.encode())
            except FileNotFoundError:  # temporary files
                continue
    return {name: count for name, count in counts.items() if count}


def wait_until(is_true: Callable[[], Any]) -> None:
    for _ in range(1_500):
        if is_true():
            return
        time.sleep(0.02)
    raise AssertionError


@pytest.fixture
def own_redis(open_stores: Callable[[str], Store]) -> Iterator[RedisServer]:
    """Redis server with uncompressed files, so that they can be searched."""
    import redis

    server = RedisServer()
    try:
        server.start()
        with redis.Redis(port=server.port) as client:
            client.config_set("rdbcompression", "no")
        yield server
    finally:
        server.stop()


def test_redis_erases_deleted_users(own_redis: RedisServer, open_stores: Callable[[str], Store]) -> None:
    import redis

    store = open_stores(own_redis.new_address(0))
    with redis.Redis(port=own_redis.port) as client:
        client.config_set("slowlog-log-slower-than", 0)
        fill(store)
        client.config_set("slowlog-log-slower-than", 10_000)
        client.bgrewriteaof()  # the streams are written as they are in memory
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
        assert files_with_traces(own_redis.folder)
        deletion = store.delete_user(USER)
        assert (deletion.events, deletion.is_erased, deletion.note) == (200, True, "")
        assert files_with_traces(own_redis.folder) == {}
        assert not [key for key in client.scan_iter() if SECRET.encode() in key + (client.dump(key) or b"")]
        assert SECRET not in str(client.slowlog_get(-1))
    assert [event.user for _, event in store.events()] == ["other"] * 200
    assert [exposure.user for exposure in store.exposures("e")] == ["other"] * 10
    store.recent_events([USER], 5)
    store.append([Event("other", "again", 1)])
    assert files_with_traces(own_redis.folder) == {}
    store.close()
    own_redis.kill()
    own_redis.start()
    again = open_stores(f"redis://127.0.0.1:{own_redis.port}/0")
    assert [stored.deleted for stored in again.recent_events([USER, "other"], 1)] == [True, False]


def test_redis_snapshots_are_rewritten(own_redis: RedisServer, open_stores: Callable[[str], Store]) -> None:
    import redis

    store = open_stores(own_redis.new_address(0))
    fill(store)
    with redis.Redis(port=own_redis.port) as client:
        client.save()
        assert files_with_traces(own_redis.folder)["dump.rdb"]
        assert store.delete_user(USER).is_erased
        assert files_with_traces(own_redis.folder) == {}
        client.config_set("appendonly", "no")
        client.save()
    assert list(own_redis.folder.rglob("dump.rdb"))


def test_redis_snapshots_of_an_earlier_run_are_rewritten(
    own_redis: RedisServer, open_stores: Callable[[str], Store]
) -> None:
    import redis

    store = open_stores(own_redis.new_address(0))
    store.append([Event(USER, "a", 1)])
    with redis.Redis(port=own_redis.port) as client:
        client.save()
    store.close()
    own_redis.kill(signal.SIGTERM)
    own_redis.start()
    with redis.Redis(port=own_redis.port) as client:
        assert client.info("persistence").get("rdb_saves", 0) == 0  # the server does not remember
    assert files_with_traces(own_redis.folder)["dump.rdb"]
    assert open_stores(f"redis://127.0.0.1:{own_redis.port}/0").delete_user(USER).is_erased
    assert files_with_traces(own_redis.folder) == {}


def test_redis_rewrites_are_coalesced(
    own_redis: RedisServer, open_stores: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    monkeypatch.setattr(background_erasure, "MIN_INTERVAL_SECONDS", 2.0)
    store = open_stores(own_redis.new_address(0))
    store.append([Event(f"{USER}-{n}", SECRET, n) for n in range(50)])
    first, *others = [store.delete_user(f"{USER}-{n}") for n in range(50)]
    assert first.is_erased
    assert not any(deletion.is_erased for deletion in others)
    for deletion in others:
        assert re.search(
            r"contain bytes of the user until they are rewritten, which starts in about \d s$", deletion.note
        )
    assert files_with_traces(own_redis.folder)
    wait_until(lambda: not files_with_traces(own_redis.folder))
    with redis.Redis(port=own_redis.port) as client:
        assert client.info("persistence")["aof_rewrites"] == 2
        wait_until(lambda: len(set(client.hmget("segue:counters", "deleted", "erased"))) == 1)


def test_redis_erasure_continues_after_a_restart_of_the_service(
    own_redis: RedisServer, open_stores: Callable[[str], Store]
) -> None:
    store = open_stores(own_redis.new_address(0))
    fill(store)
    store.delete_user("unknown")
    assert not store.delete_user(USER).is_erased
    store.close()
    assert files_with_traces(own_redis.folder)
    open_stores(f"redis://127.0.0.1:{own_redis.port}/0").ping()
    wait_until(lambda: not files_with_traces(own_redis.folder))


def test_redis_notes_say_what_the_server_does_not_permit(
    own_redis: RedisServer, open_stores: Callable[[str], Store]
) -> None:
    import redis

    address = own_redis.new_address(0)
    with redis.Redis(port=own_redis.port) as client:
        client.execute_command("ACL SETUSER limited on >pass ~* +@all -bgrewriteaof -bgsave -slowlog -config")
    store = open_stores(address.replace("://", "://limited:pass@"))
    fill(store)
    deletion = store.delete_user(USER)
    assert (deletion.events, deletion.is_erased) == (200, False)
    for command in ("BGREWRITEAOF", "BGSAVE", "SLOWLOG"):
        assert f"the server does not permit {command}: " in deletion.note
    assert SECRET not in deletion.note
    open_stores(address).ping()  # may run all commands
    wait_until(lambda: not files_with_traces(own_redis.folder))


def test_redis_detects_that_the_data_were_replaced(own_redis: RedisServer, open_stores: Callable[[str], Store]) -> None:
    import redis

    store = open_stores(own_redis.new_address(0))
    store.append([Event("u", "a", 1)])
    with redis.Redis(port=own_redis.port) as client:
        client.flushdb()
    with pytest.raises(StoreError, match=r"^redis: cannot delete a user: ResponseError REPLACED$"):
        store.delete_user("u")
    assert store.delete_user("u").events == 0
    assert store.recent_events(["u"], 1)[0].deleted


def test_postgresql_statistics_contain_no_data(
    postgresql_server: PostgreSQLServer, new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    import psycopg

    address = new_address("postgresql")
    fill(open_stores(address))
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("ANALYZE")
        query = "SELECT tablename, attname FROM pg_stats WHERE schemaname = current_schema()"
        columns = set(connection.execute(query).fetchall())
    personal = {"external_id", "item", "time", "action", "value", "key", "data", "items"}
    assert ("segue_events", "user_id") in columns
    assert not [name for table, name in columns if table != "segue_store" and name in personal]


def test_postgresql_erases_deleted_users_with_vacuum_full_and_wal_recycling(
    open_stores: Callable[[str], Store],
) -> None:
    server = PostgreSQLServer()
    try:
        server.start()
        store = open_stores(server.address)
        fill(store)
        server.query("ANALYZE")
        deletion = store.delete_user(USER)
        assert (deletion.events, deletion.is_erased) == (200, False)
        assert "VACUUM FULL" in deletion.note
        store.close()
        data, log = server.folder / "data" / "base", server.folder / "data" / "pg_wal"
        wait_until(lambda: server.query("SELECT 1 FROM pg_stat_all_tables WHERE vacuum_count > 0"))
        server.query("VACUUM FULL")
        server.query("CHECKPOINT")
        assert files_with_traces(data) == {}
        assert files_with_traces(log)
        for _ in range(20):
            server.query("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 16000)")
            server.query("DROP TABLE filler")
            server.query("CHECKPOINT")
            if not files_with_traces(log):
                break
        assert files_with_traces(server.folder / "data") == {}
    finally:
        server.stop()


def test_postgresql_vacuums_after_a_deletion(
    postgresql_server: PostgreSQLServer, new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    address = new_address("postgresql")
    store = open_stores(address)
    fill(store)
    store.delete_user(USER)
    schema = address.rpartition("%3D")[2]
    query = f"SELECT relname FROM pg_stat_all_tables WHERE schemaname = '{schema}' AND vacuum_count > 0"
    expected = {"segue_users", "segue_events", "segue_states", "segue_exposures"}
    wait_until(lambda: {name for (name,) in postgresql_server.query(query)} == expected)


def test_postgresql_detects_that_the_tables_were_replaced(
    new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    import psycopg

    address = new_address("postgresql")
    store = open_stores(address)
    store.append([Event("u", "a", 1)])
    with psycopg.connect(address) as connection:
        connection.execute("UPDATE segue_store SET key = '\\x00'")
    with pytest.raises(StoreError, match="the tables were replaced while the store was open; nothing was deleted"):
        store.delete_user("u")
    assert store.recent_events(["u"], 1)[0].total == 1
    assert store.delete_user("u").events == 1


class Rewrites:
    """Rewrites that wait for permission."""

    def __init__(self) -> None:
        self.count = 0
        self.started, self.may_end = threading.Semaphore(0), threading.Semaphore(0)
        self.errors: list[Exception] = []

    def __call__(self) -> str:
        self.count += 1
        self.started.release()
        assert self.may_end.acquire(timeout=30)
        if self.errors:
            raise self.errors.pop()
        return "" if self.count % 2 else "a note"


@pytest.fixture
def erasure(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[BackgroundErasure, Rewrites]]:
    monkeypatch.setattr(background_erasure, "MIN_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(background_erasure, "MAX_DUTY", 1.0)
    rewrites = Rewrites()
    erasure = BackgroundErasure(rewrites)
    yield erasure, rewrites
    erasure.close()
    rewrites.may_end.release(100)


def test_a_rewrite_serves_only_requests_before_its_start(erasure: tuple[BackgroundErasure, Rewrites]) -> None:
    requests, rewrites = erasure
    assert "starts at once" in requests.request(0.01)
    assert rewrites.started.acquire(timeout=30)
    notes: list[str] = []
    threads = [threading.Thread(target=lambda: notes.append(requests.request(30))) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: requests._n_requests == 6)
    rewrites.may_end.release()
    assert rewrites.started.acquire(timeout=30)
    assert notes == []
    rewrites.may_end.release()
    for thread in threads:
        thread.join(30)
    assert notes == ["a note"] * 5
    assert rewrites.count == 2


def test_a_failed_rewrite_is_attempted_again(
    erasure: tuple[BackgroundErasure, Rewrites], caplog: pytest.LogCaptureFixture
) -> None:
    requests, rewrites = erasure
    rewrites.errors = [StoreError("down"), StoreError("down")]
    rewrites.may_end.release(3)
    assert requests.request(30) == ""
    assert rewrites.count == 3
    assert caplog.messages == ["deleted users cannot be erased from the server's files yet: down"]


def test_rewrites_take_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_erasure, "MIN_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(background_erasure, "MAX_DUTY", 0.01)
    count = 0

    def rewrite() -> str:
        nonlocal count
        count += 1
        time.sleep(0.1)
        return ""

    erasure = BackgroundErasure(rewrite)
    assert erasure.request(30) == ""
    assert "starts in about" in erasure.request(1)  # returns at once
    time.sleep(0.2)
    assert count == 1
    erasure.close()


@pytest.mark.parametrize("user", ["u", "ü" * 300, ""])
def test_deletion_markers_are_hmac_sha256(user: str) -> None:
    key = create_deletion_key()
    assert create_deletion_marker(key, user) == hmac.digest(key, user.encode(), "sha256")
    assert create_deletion_marker(create_deletion_key(), user) != create_deletion_marker(key, user)
