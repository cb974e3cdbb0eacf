"""Servers that are killed, restarted, paused or out of memory."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from servers import PostgreSQLServer, RedisServer, Server

from segue.serving.stores import postgresql_sql
from segue.serving.stores.store import Event, Exposure, Store, StoreError, UserState

UNKNOWN = "unknown whether"
SECRETS = ["zoe", "x9", "key-7", "e5", "m3"]
CALLS: dict[str, Callable[[Store], Any]] = {
    "append": lambda store: store.append([Event("zoe", "x9", 1, key="key-7")]),
    "recent_events": lambda store: store.recent_events(["zoe"], 5),
    "events_after": lambda store: store.events_after("zoe", 0, 5),
    "get_states": lambda store: store.get_states(["zoe"], "m3"),
    "put_states": lambda store: store.put_states({"zoe": UserState("m3", 1, b"x9")}),
    "delete_user": lambda store: store.delete_user("zoe"),
    "get_setting": lambda store: store.get_setting("zoe"),
    "put_setting": lambda store: store.put_setting("zoe", "x9"),
    "record_exposures": lambda store: store.record_exposures([Exposure("e5", "m3", "zoe", 1, ("x9",))]),
    "exposures": lambda store: list(store.exposures("e5")),
    "events": lambda store: list(store.events()),
    "ping": lambda store: store.ping(),
}


@pytest.fixture(params=["postgresql", "redis"])
def server(request: pytest.FixtureRequest) -> Server:
    """Server that the test restarts before it ends."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def remote(server: Server, new_address: Callable[[str], str], open_stores: Callable[[str], Store]) -> Store:
    return open_stores(new_address(server.name))


def test_acknowledged_events_survive_kill_9(server: Server, remote: Store) -> None:
    acknowledged: list[int] = []
    uncertain: list[int] = []
    enough = threading.Event()

    def write() -> None:
        for n in range(100_000):
            try:
                remote.append([Event("u", f"{n}", n), Event("v", f"{n}", n)])
            except StoreError as error:
                uncertain.extend([n] if UNKNOWN in str(error) else [])
                return
            acknowledged.append(n)
            if n == 50:
                enough.set()

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        assert enough.wait(60)
        server.kill()
        writing.result()
        server.start()
    assert len(acknowledged) > 50
    stored = [event.time for event in remote.recent_events(["u"], 10**6)[0].events]
    assert stored in (acknowledged, acknowledged + uncertain)
    assert [event.time for event in remote.recent_events(["v"], 10**6)[0].events] == stored
    assert remote.append([Event("u", "after", 0)]) == [True]
    sequences = [sequence for sequence, _ in remote.events()]
    assert sequences == sorted(set(sequences))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_first_call_after_a_restart(server: Server, remote: Store, number: signal.Signals) -> None:
    remote.append([Event("u", "a", 1, key="k")])
    with ThreadPoolExecutor(4) as threads:  # several connections that become stale
        list(threads.map(lambda _: remote.recent_events(["u"], 5), range(40)))
    server.kill(number)
    server.start()
    for call in CALLS.values():
        call(remote)
    assert remote.append([Event("u", "a", 1, key="k"), Event("u", "b", 1)]) == [False, True]


def test_calls_fail_without_ids_while_the_server_is_down(server: Server, remote: Store) -> None:
    for call in CALLS.values():
        call(remote)
    server.kill()
    try:
        for call in CALLS.values():
            with pytest.raises(StoreError, match=rf"^{server.name}: cannot [a-z ]+: \w+") as raised:
                call(remote)
            assert UNKNOWN not in str(raised.value)
            assert not [secret for secret in SECRETS if secret in str(raised.value)]
            assert raised.value.__suppress_context__
    finally:
        server.start()
    remote.ping()


def test_interrupted_appends_are_not_retried(server: Server, remote: Store) -> None:
    remote.append([Event("u", "a", 1)])
    with ExitStack() as stack, ThreadPoolExecutor(1) as threads:
        if isinstance(server, PostgreSQLServer):
            import psycopg

            stack.enter_context(suppress(psycopg.OperationalError))
            other = stack.enter_context(psycopg.connect(server.address))
            other.execute(postgresql_sql.LOCK_SEQUENCE_SQL)
            waiting = lambda: server.query("SELECT 1 FROM pg_locks WHERE NOT granted")  # noqa: E731
        else:
            import redis

            client = stack.enter_context(redis.Redis(port=server.port))
            client.client_pause(60_000, all=False)  # pauses writes
            waiting = lambda: client.info()["blocked_clients"]  # noqa: E731
        running = threads.submit(remote.append, [Event("u", "b", 2)])
        while not waiting():
            pass
        server.kill()
        with pytest.raises(StoreError, match="unknown whether the operation was executed"):
            running.result()
    server.start()
    assert [event.item for event in remote.recent_events(["u"], 9)[0].events] == ["a"]


def test_redis_out_of_memory(
    redis_server: RedisServer, new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    import redis

    store = open_stores(new_address("redis"))
    store.append([Event("u", "a", 1, key="k")])
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("maxmemory", 1_000_000)
        try:
            with pytest.raises(StoreError, match=r"^redis: cannot store events: OutOfMemoryError; the store is full$"):
                store.append([Event("v", "b", 1, key="l"), *[Event("u", "x", n) for n in range(100)]])
            assert store.delete_user("u").events == 1  # freeing memory is possible
        finally:
            client.config_set("maxmemory", 0)
    assert list(store.events()) == []
    assert store.append([Event("v", "b", 1, key="l"), Event("u", "b", 1, key="k")]) == [True, True]


def test_redis_durability_warnings(
    redis_server: RedisServer,
    new_address: Callable[[str], str],
    open_stores: Callable[[str], Store],
    caplog: pytest.LogCaptureFixture,
) -> None:
    import redis

    address = new_address("redis")
    caplog.set_level(logging.INFO, "segue.serving.stores")
    open_stores(address).ping()
    assert not caplog.records
    with redis.Redis(port=redis_server.port) as client:
        defaults = {"appendonly": "yes", "appendfsync": "always", "maxmemory": 0, "maxmemory-policy": "noeviction"}
        try:
            client.config_set("appendfsync", "everysec")
            open_stores(address).ping()
            assert [record.levelname for record in caplog.records] == ["INFO"]
            caplog.clear()
            client.config_set("appendonly", "no")
            client.config_set("maxmemory-policy", "allkeys-lru")
            client.config_set("maxmemory", 10**9)
            store = open_stores(address)
            store.ping()
            store.append([])
            assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
            assert "appendonly is off" in caplog.messages[0]
            assert "noeviction" in caplog.messages[1]
        finally:
            for name, value in defaults.items():
                client.config_set(name, value)


def test_postgresql_durability_warnings(
    new_address: Callable[[str], str], open_stores: Callable[[str], Store], caplog: pytest.LogCaptureFixture
) -> None:
    address = new_address("postgresql")
    open_stores(address).ping()
    assert ["fsync is off" in message for message in caplog.messages] == [True]
    caplog.clear()
    open_stores(f"{address}%20-csynchronous_commit%3Doff").ping()
    assert ["synchronous_commit is off" in message for message in caplog.messages] == [False, True]


def test_format_mismatch(
    server: Server, new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    address = new_address(server.name)
    open_stores(address).append([Event("u", "a", 1)])
    if isinstance(server, PostgreSQLServer):
        import psycopg

        with psycopg.connect(address) as connection:
            connection.execute("UPDATE segue_store SET format = 9")
    else:
        import redis

        with redis.Redis.from_url(address) as client:
            client.set("segue:format", 9)
    later = open_stores(address)
    for call in (later.ping, lambda: later.append([Event("u", "b", 1)])):
        with pytest.raises(StoreError, match="got format 9, expected 3"):
            call()


def test_postgresql_encoding(postgresql_server: PostgreSQLServer, open_stores: Callable[[str], Store]) -> None:
    postgresql_server.query("CREATE DATABASE narrow TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    store = open_stores(postgresql_server.address.replace("/postgres?", "/narrow?"))
    with pytest.raises(StoreError, match="LATIN1, expected UTF8"):
        store.ping()


def test_existing_tables_need_no_create_privilege(
    postgresql_server: PostgreSQLServer, new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    address = new_address("postgresql")
    schema = address.rpartition("%3D")[2]
    open_stores(address).append([Event("u", "a", 1)])
    for statement in (
        "CREATE ROLE clerk LOGIN",
        f"GRANT USAGE ON SCHEMA {schema} TO clerk",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO clerk",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO clerk",
    ):
        postgresql_server.query(statement)
    store = open_stores(address.replace("segue@", "clerk@"))
    for call in CALLS.values():
        call(store)
    assert store.append([Event("u", "b", 1)]) == [True]


def test_postgresql_errors_contain_no_ids(
    new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    store = open_stores(new_address("postgresql"))
    for event in (
        Event("zoe", "x9\0", 1),
        Event("zoe" + "".join(map(str, range(9_999))), "x9", 1),
        Event("zoe", "x9", 2**70),
    ):
        with pytest.raises(StoreError, match=r"^postgresql: cannot store events: \w+( \w{5})?$") as raised:
            store.append([Event("bob", "x9", 1), event])
        assert "zoe" not in str(raised.value)
    assert list(store.events()) == []
    assert store.append([Event("bob", "x9", 1)]) == [True]


def test_terminated_connections_have_an_unknown_outcome(
    postgresql_server: PostgreSQLServer, new_address: Callable[[str], str], open_stores: Callable[[str], Any]
) -> None:
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    store = open_stores(new_address("postgresql"))
    with pytest.raises(StoreError, match=UNKNOWN), store._write("test") as connection:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(StoreError, match=f"AdminShutdown 57P01; .*{UNKNOWN}"), store._write("test"):
        raise psycopg.errors.AdminShutdown  # raised if the transaction had just ended
    store.ping()
