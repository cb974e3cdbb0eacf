"""Servers that are killed, restarted, paused or full: nothing acknowledged is lost, and the next call works."""

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
from segue.serving.stores.store import Event, Exposure, Memory, Store, StoreError

NOT_KNOWN = "not known"
SECRETS = ["zoe", "x9", "key-7", "e5", "m3"]
CALLS: dict[str, Callable[[Store], Any]] = {
    "append": lambda store: store.append([Event("zoe", "x9", 1, key="key-7")]),
    "kept": lambda store: store.kept(["zoe"], 5),
    "since": lambda store: store.since("zoe", 0, 5),
    "memories": lambda store: store.memories(["zoe"], "m3"),
    "remember": lambda store: store.remember({"zoe": Memory("m3", 1, b"x9")}),
    "forget": lambda store: store.forget("zoe"),
    "get": lambda store: store.get("zoe"),
    "put": lambda store: store.put("zoe", "x9"),
    "expose": lambda store: store.expose([Exposure("e5", "m3", "zoe", 1, ("x9",))]),
    "exposures": lambda store: list(store.exposures("e5")),
    "events": lambda store: list(store.events()),
    "ping": lambda store: store.ping(),
}


@pytest.fixture(params=["postgresql", "redis"])
def server(request: pytest.FixtureRequest) -> Server:
    """It runs again when the test is over."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def remote(server: Server, fresh: Callable[[str], str], opened: Callable[[str], Store]) -> Store:
    return opened(fresh(server.name))


def test_what_was_acknowledged_survives_kill_9(server: Server, remote: Store) -> None:
    told: list[int] = []
    doubtful: list[int] = []
    enough = threading.Event()

    def write() -> None:
        for n in range(100_000):
            try:
                remote.append([Event("u", f"{n}", n), Event("v", f"{n}", n)])
            except StoreError as error:
                doubtful.extend([n] if NOT_KNOWN in str(error) else [])
                return
            told.append(n)
            if n == 50:
                enough.set()

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        assert enough.wait(60)
        server.kill()
        writing.result()
        server.start()
    assert len(told) > 50
    found = [event.time for event in remote.kept(["u"], 10**6)[0].events]
    assert found in (told, told + doubtful)
    assert [event.time for event in remote.kept(["v"], 10**6)[0].events] == found
    assert remote.append([Event("u", "after", 0)]) == [True]
    places = [place for place, _ in remote.events()]
    assert places == sorted(set(places))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_first_call_after_a_restart_works(server: Server, remote: Store, how: signal.Signals) -> None:
    remote.append([Event("u", "a", 1, key="k")])
    with ThreadPoolExecutor(4) as threads:  # several connections that will be stale
        list(threads.map(lambda _: remote.kept(["u"], 5), range(40)))
    server.kill(how)
    server.start()
    for call in CALLS.values():
        call(remote)
    assert remote.append([Event("u", "a", 1, key="k"), Event("u", "b", 1)]) == [False, True]


def test_while_a_server_is_away_every_call_says_so_and_tells_nothing(server: Server, remote: Store) -> None:
    for call in CALLS.values():
        call(remote)
    server.kill()
    try:
        for call in CALLS.values():
            with pytest.raises(StoreError, match=rf"^{server.name}: cannot [a-z ]+: \w+") as raised:
                call(remote)
            assert NOT_KNOWN not in str(raised.value)
            assert not [secret for secret in SECRETS if secret in str(raised.value)]
            assert raised.value.__suppress_context__
    finally:
        server.start()
    remote.ping()


def test_an_append_on_the_way_when_the_server_dies_is_not_repeated(server: Server, remote: Store) -> None:
    remote.append([Event("u", "a", 1)])
    with ExitStack() as stack, ThreadPoolExecutor(1) as threads:
        if isinstance(server, PostgreSQLServer):
            import psycopg

            stack.enter_context(suppress(psycopg.OperationalError))
            other = stack.enter_context(psycopg.connect(server.address))
            other.execute(postgresql_sql.ORDER)
            waiting = lambda: server.query("SELECT 1 FROM pg_locks WHERE NOT granted")  # noqa: E731
        else:
            import redis

            client = stack.enter_context(redis.Redis(port=server.port))
            client.client_pause(60_000, all=False)  # of those that write
            waiting = lambda: client.info()["blocked_clients"]  # noqa: E731
        running = threads.submit(remote.append, [Event("u", "b", 2)])
        while not waiting():
            pass
        server.kill()
        with pytest.raises(StoreError, match="whether it was done is not known"):
            running.result()
    server.start()
    assert [event.item for event in remote.kept(["u"], 9)[0].events] == ["a"]


def test_a_server_that_is_short_of_memory_keeps_nothing_of_a_batch(
    redis_server: RedisServer, fresh: Callable[[str], str], opened: Callable[[str], Store]
) -> None:
    import redis

    store = opened(fresh("redis"))
    store.append([Event("u", "a", 1, key="k")])
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("maxmemory", 1_000_000)
        try:
            with pytest.raises(StoreError, match=r"^redis: cannot keep events: OutOfMemoryError$"):
                store.append([Event("v", "b", 1, key="l"), *[Event("u", "x", n) for n in range(100)]])
            assert store.forget("u") == 1  # what makes room can be done
        finally:
            client.config_set("maxmemory", 0)
    assert list(store.events()) == []
    assert store.append([Event("v", "b", 1, key="l"), Event("u", "b", 1, key="k")]) == [True, True]


def test_redis_says_how_safe_it_is(
    redis_server: RedisServer,
    fresh: Callable[[str], str],
    opened: Callable[[str], Store],
    caplog: pytest.LogCaptureFixture,
) -> None:
    import redis

    address = fresh("redis")
    caplog.set_level(logging.INFO, "segue.serving.stores")
    opened(address).ping()
    assert not caplog.records
    with redis.Redis(port=redis_server.port) as client:
        usual = {"appendonly": "yes", "appendfsync": "always", "maxmemory": 0, "maxmemory-policy": "noeviction"}
        try:
            client.config_set("appendfsync", "everysec")
            opened(address).ping()
            assert [record.levelname for record in caplog.records] == ["INFO"]
            caplog.clear()
            client.config_set("appendonly", "no")
            client.config_set("maxmemory-policy", "allkeys-lru")
            client.config_set("maxmemory", 10**9)
            store = opened(address)
            store.ping()
            store.append([])
            assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
            assert "appendonly is off" in caplog.messages[0]
            assert "noeviction" in caplog.messages[1]
        finally:
            for name, value in usual.items():
                client.config_set(name, value)


def test_postgresql_says_how_safe_it_is(
    fresh: Callable[[str], str], opened: Callable[[str], Store], caplog: pytest.LogCaptureFixture
) -> None:
    address = fresh("postgresql")
    opened(address).ping()
    assert ["fsync is off" in message for message in caplog.messages] == [True]
    caplog.clear()
    opened(f"{address}%20-csynchronous_commit%3Doff").ping()
    assert ["synchronous_commit is off" in message for message in caplog.messages] == [False, True]


def test_what_a_later_segue_made_is_not_touched(
    server: Server, fresh: Callable[[str], str], opened: Callable[[str], Store]
) -> None:
    address = fresh(server.name)
    opened(address).append([Event("u", "a", 1)])
    if isinstance(server, PostgreSQLServer):
        import psycopg

        with psycopg.connect(address) as connection:
            connection.execute("UPDATE segue_store SET format = 9")
    else:
        import redis

        with redis.Redis.from_url(address) as client:
            client.set("segue:format", 9)
    later = opened(address)
    for call in (later.ping, lambda: later.append([Event("u", "b", 1)])):
        with pytest.raises(StoreError, match="format 9, this Segue reads 1"):
            call()


def test_a_database_that_cannot_hold_every_id_is_refused(
    postgresql_server: PostgreSQLServer, opened: Callable[[str], Store]
) -> None:
    postgresql_server.query("CREATE DATABASE narrow TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    store = opened(postgresql_server.address.replace("/postgres?", "/narrow?"))
    with pytest.raises(StoreError, match="LATIN1, expected UTF8"):
        store.ping()


def test_tables_that_are_there_need_no_right_to_make_them(
    postgresql_server: PostgreSQLServer, fresh: Callable[[str], str], opened: Callable[[str], Store]
) -> None:
    address = fresh("postgresql")
    schema = address.rpartition("%3D")[2]
    opened(address).append([Event("u", "a", 1)])
    for statement in (
        "CREATE ROLE clerk LOGIN",
        f"GRANT USAGE ON SCHEMA {schema} TO clerk",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO clerk",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO clerk",
    ):
        postgresql_server.query(statement)
    store = opened(address.replace("segue@", "clerk@"))
    for call in CALLS.values():
        call(store)
    assert store.append([Event("u", "b", 1)]) == [True]


def test_what_postgresql_refuses_is_told_without_ids(
    fresh: Callable[[str], str], opened: Callable[[str], Store]
) -> None:
    store = opened(fresh("postgresql"))
    for event in (
        Event("zoe", "x9\0", 1),
        Event("zoe" + "".join(map(str, range(9_999))), "x9", 1),
        Event("zoe", "x9", 2**70),
    ):
        with pytest.raises(StoreError, match=r"^postgresql: cannot keep events: \w+( \w{5})?$") as raised:
            store.append([Event("bob", "x9", 1), event])
        assert "zoe" not in str(raised.value)
    assert list(store.events()) == []
    assert store.append([Event("bob", "x9", 1)]) == [True]


def test_a_connection_that_is_ended_by_the_server_may_have_done_it(
    postgresql_server: PostgreSQLServer, fresh: Callable[[str], str], opened: Callable[[str], Any]
) -> None:
    psycopg = pytest.importorskip("psycopg")
    store = opened(fresh("postgresql"))
    with pytest.raises(StoreError, match=NOT_KNOWN), store._write("try") as connection:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(StoreError, match=f"AdminShutdown 57P01; .*{NOT_KNOWN}"), store._write("try"):
        raise psycopg.errors.AdminShutdown  # as it comes where the transaction had just ended
    store.ping()
