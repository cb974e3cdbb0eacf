"""Stores of format 2 on servers, as the previous version wrote them, are converted when they are opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from servers import PostgreSQLServer

from segue.serving.stores import redis_migration
from segue.serving.stores.store import Event, Exposure, Store, StoreError, UserState

EVENTS = [Event("ann", "x", 5, "buy", 2.5, "k"), Event("bob", "y", 6), Event("ann", "z", 7), Event("back", "y", 9)]
SEQUENCES = [1, 2, 3, 7]
"""The sequence numbers 4 to 6 are the deletions of ``gone``, ``trained`` and of an earlier ``back``."""
EXPOSURES = [Exposure("e", "A", "ann", 1, ("x", 'ö"')), Exposure("e", "B", "seen only", 2, ())]

POSTGRESQL = """
CREATE SEQUENCE segue_sequence AS bigint;
CREATE TABLE segue_users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, external_id text COLLATE "C" NOT NULL UNIQUE,
    total bigint NOT NULL DEFAULT 0, last_sequence bigint NOT NULL DEFAULT 0,
    deleted_sequence bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80);
CREATE TABLE segue_events (
    user_id bigint NOT NULL, sequence bigint NOT NULL UNIQUE, event_number bigint NOT NULL, item text NOT NULL,
    time bigint NOT NULL, action text, value double precision, key text COLLATE "C", PRIMARY KEY (user_id, sequence)
);
CREATE UNIQUE INDEX segue_events_key ON segue_events (user_id, key) WHERE key IS NOT NULL;
CREATE TABLE segue_states (
    external_id text COLLATE "C" NOT NULL, model text COLLATE "C" NOT NULL, last_sequence bigint NOT NULL,
    data bytea NOT NULL, PRIMARY KEY (external_id, model)
);
CREATE TABLE segue_settings (name text COLLATE "C" PRIMARY KEY, value text NOT NULL);
CREATE TABLE segue_exposures (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, experiment text COLLATE "C" NOT NULL, variant text NOT NULL,
    external_id text COLLATE "C" NOT NULL, time bigint NOT NULL, items text NOT NULL
);
CREATE INDEX segue_exposures_experiment ON segue_exposures (experiment, id);
CREATE INDEX segue_exposures_user ON segue_exposures (external_id);
CREATE TABLE segue_store (format integer NOT NULL);
INSERT INTO segue_store VALUES (2);
INSERT INTO segue_users (external_id, total, last_sequence, deleted_sequence)
VALUES ('ann', 2, 3, 0), ('bob', 1, 2, 0), ('gone', 0, 4, 4), ('trained', 0, 5, 5), ('back', 1, 7, 6);
INSERT INTO segue_events VALUES (1, 1, 1, 'x', 5, 'buy', 2.5, 'k'), (2, 2, 1, 'y', 6, NULL, NULL, NULL),
    (1, 3, 2, 'z', 7, NULL, NULL, NULL), (5, 7, 1, 'y', 9, NULL, NULL, NULL);
SELECT setval('segue_sequence', 7);
INSERT INTO segue_states VALUES ('ann', 'm', 3, 'state');
INSERT INTO segue_settings VALUES ('active', 'one');
INSERT INTO segue_exposures (experiment, variant, external_id, time, items)
VALUES ('e', 'A', 'ann', 1, '["x", "\\u00f6\\""]'), ('e', 'B', 'seen only', 2, '[]');
ANALYZE;
"""


def write_postgresql(address: str) -> None:
    import psycopg

    with psycopg.connect(address) as connection:
        connection.execute(POSTGRESQL)


def write_redis(address: str) -> None:
    import redis

    encoded: dict[str, list[str]] = {}
    with redis.Redis.from_url(address) as client:
        client.set("segue:format", 2)
        for sequence, event in zip(SEQUENCES, EVENTS, strict=True):
            row = [sequence, event.item, event.time, event.action, event.value, event.key]
            encoded.setdefault(event.user, []).append(json.dumps(row))
            index = client.rpush(f"segue:user:{event.user}", encoded[event.user][-1])
            client.xadd("segue:events", {"u": event.user, "n": index}, f"{sequence}-0")
        client.xadd("segue:events", {"u": "gone", "n": 1}, "8-0")
        client.xdel("segue:events", "8-0")  # its bytes remain
        client.set("segue:sequence", 8)
        client.sadd("segue:keys:ann", "kk")
        client.hset("segue:state:ann", mapping={"last:m": 3, "data:m": b"state"})
        client.hset("segue:deleted", mapping={"gone": 4, "trained": 5, "back": 6})
        client.hset("segue:settings", "active", "one")
        for one in EXPOSURES:
            encoded_exposure = json.dumps([one.variant, one.user, one.time, one.items], ensure_ascii=False)
            number = client.xadd(f"segue:exposures:{one.experiment}", {"e": encoded_exposure}).decode()
            client.sadd(f"segue:exposed:{one.user}", f"{number} {one.experiment}")


@pytest.fixture(params=["postgresql", "redis"])
def address(request: pytest.FixtureRequest, new_address: Callable[[str], str]) -> str:
    """Address of a store of format 2."""
    address = new_address(request.param)
    (write_postgresql if request.param == "postgresql" else write_redis)(address)
    return address


def contents(address: str) -> str:
    """Return everything that a server stores, as text."""
    if address.startswith("redis"):
        import redis

        with redis.Redis.from_url(address) as client:
            client.config_set("rdbcompression", "no")
            try:
                return str([(key, client.dump(key)) for key in client.scan_iter()])
            finally:
                client.config_set("rdbcompression", "yes")
    import psycopg

    with psycopg.connect(address) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
        rows: list[Any] = [connection.execute(f"SELECT * FROM {table}").fetchall() for (table,) in tables]
        return str([rows, connection.execute("SELECT * FROM pg_stats WHERE schemaname = current_schema()").fetchall()])


def test_format_2_is_converted(address: str, open_stores: Callable[[str], Store]) -> None:
    assert "gone" in contents(address)
    store = open_stores(address)
    assert list(store.events()) == list(zip(SEQUENCES, EVENTS, strict=True))
    users = ["ann", "bob", "gone", "trained", "back", "seen only", "unknown"]
    stored = store.recent_events(users, 9)
    assert [(one.total, one.last_sequence, one.deleted) for one in stored] == [
        (2, 3, False), (1, 2, False), (0, 4, True), (0, 5, True), (1, 7, True), (0, 0, False), (0, 0, False)
    ]  # fmt: skip
    assert stored[0].events == (EVENTS[0], EVENTS[2])
    assert store.get_states(["ann"], "m") == [None]  # is recomputed
    assert list(store.exposures("e")) == EXPOSURES
    assert store.get_setting("active") == "one"
    assert not [user for user in ("gone", "trained") if user in contents(address)]

    assert store.append([EVENTS[0], Event("gone", "n", 1), Event("bob", "n", 2)]) == [False, True, True]
    last = store.recent_events(["ann", "bob", "gone"], 1)[1].last_sequence
    assert last > 7
    store.put_states({"ann": UserState("m", 3, b"new"), "trained": UserState("m", 5, b"outdated")})
    assert store.get_states(["ann", "trained"], "m") == [UserState("m", 3, b"new"), None]
    store.record_exposures([Exposure("e", "A", "trained", 1, ())])
    assert [store.delete_user(user).events for user in ("ann", "seen only")] == [2, 0]
    assert list(store.exposures("e")) == []
    assert [event.user for _, event in store.events()] == ["bob", "back", "gone", "bob"]
    assert not [user for user in ("ann", "seen only") if user in contents(address)]


def test_format_2_is_converted_once(address: str, open_stores: Callable[[str], Store]) -> None:
    stores = [open_stores(address) for _ in range(6)]
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda store: store.recent_events(["gone", "ann"], 9), stores))
    assert results == [results[0]] * 6
    assert [one.deleted for one in results[0]] == [True, False]
    assert open_stores(address).recent_events(["gone", "ann"], 9) == results[0]


def test_services_of_format_2_fail_after_the_conversion(address: str, open_stores: Callable[[str], Store]) -> None:
    open_stores(address).ping()
    if address.startswith("redis"):
        import redis

        with redis.Redis.from_url(address) as client, pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.get("segue:sequence")  # first command of their script, before any change
    else:
        import psycopg

        with psycopg.connect(address) as connection, pytest.raises(psycopg.errors.UndefinedColumn):
            connection.execute("SELECT deleted_sequence FROM segue_users")


@pytest.mark.parametrize("is_user_deleted", [False, True])
def test_interrupted_conversion_of_redis(
    is_user_deleted: bool, new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    import redis

    address = new_address("redis")
    write_redis(address)
    with redis.Redis.from_url(address) as client:
        assert client.eval(redis_migration.COPY_EVENTS, 0, 1) == 1
        assert client.eval(redis_migration.COPY_EXPOSURES, 0, 1, "e") == 1
        if is_user_deleted:  # by a service of format 2 that was still running
            client.xdel("segue:events", "1-0", "3-0")
            for exposure, _ in client.xrange("segue:exposures:e", count=1):
                client.xdel("segue:exposures:e", exposure)
            client.delete("segue:user:ann", "segue:keys:ann", "segue:state:ann", "segue:exposed:ann")
            client.hset("segue:deleted", "ann", client.incr("segue:sequence"))
    store = open_stores(address)
    assert [event.user for _, event in store.events()] == [
        event.user for event in EVENTS if event.user != "ann" or not is_user_deleted
    ]
    assert list(store.exposures("e")) == EXPOSURES[is_user_deleted:]
    assert store.recent_events(["ann"], 9)[0].deleted == is_user_deleted
    assert ("ann" in contents(address)) == (not is_user_deleted)


def test_only_the_owner_converts_tables(
    postgresql_server: PostgreSQLServer, new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    address = new_address("postgresql")
    schema = address.rpartition("%3D")[2]
    write_postgresql(address)
    for statement in (
        "CREATE ROLE scribe LOGIN",
        f"GRANT USAGE ON SCHEMA {schema} TO scribe",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO scribe",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO scribe",
    ):
        postgresql_server.query(statement)
    store = open_stores(address.replace("segue@", "scribe@"))
    with pytest.raises(StoreError, match="the tables have format 2: open the store once with the role that owns them"):
        store.ping()
    assert postgresql_server.query(f"SELECT format FROM {schema}.segue_store") == [(2,)]
    open_stores(address).ping()
    store.ping()
    assert store.delete_user("ann").events == 2
    assert store.recent_events(["ann"], 1)[0].deleted
