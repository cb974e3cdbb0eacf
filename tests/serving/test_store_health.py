"""Health of the event store: readiness, size limit, clear errors, and one log line per change."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from servers import eventually
from starlette.testclient import TestClient

from segue.serving.app import create_app
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import Service
from segue.serving.stores import monitor
from segue.serving.stores.monitor import StoreMonitor
from segue.serving.stores.postgresql import PostgreSQL
from segue.serving.stores.redis import Redis
from segue.serving.stores.sqlite import SQLite
from segue.serving.stores.store import OUTCOME_UNKNOWN, STORE_FULL, Event, StoreError, UserState
from segue.serving.stores.timeout import DISK_FULL_SECONDS, TimeoutStore
from tests.serving.memory_store import MemoryStore
from tests.serving.world import service

EVENT = {"user": "u1", "item": "i1", "key": "k1"}


class Clock:
    """Monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class UnreliableStore(MemoryStore):
    """Store with a size, whose pings fail while ``problem`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.problem: str | None = None
        self.size = 0

    def ping(self) -> None:
        if self.problem is not None:
            raise StoreError(self.problem)

    def size_bytes(self) -> int:
        return self.size


class World:
    """Monitored store with a clock."""

    def __init__(self, max_bytes: int = 0) -> None:
        self.clock, self.raw, self.metrics = Clock(), UnreliableStore(), Metrics()
        self.store = TimeoutStore(self.raw, 30, 30, self.clock)
        self.monitor = StoreMonitor(self.store, self.metrics, max_bytes, self.clock)

    def check(self, seconds: float = 1.0) -> list[str]:
        self.clock.now += seconds
        self.monitor.check()
        return self.monitor.problems()

    def metric(self, name: str) -> float:
        lines = self.metrics.render()[0].decode().splitlines()
        (value,) = [line.rpartition(" ")[2] for line in lines if line.partition(" ")[0] == name]
        return float(value)


@pytest.fixture
def slow_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave all checks to the test."""
    monkeypatch.setattr(StoreMonitor, "start", lambda self: None)


@pytest.fixture
def checked(slow_checks: None) -> Iterator[tuple[Service, TestClient]]:
    """Service whose store is checked when the test says so."""
    it = service("gru4rec", store_write_timeout_ms=30_000, max_store_bytes=1_000)
    it.store.wrapped.size_bytes = lambda: 10  # type: ignore[method-assign]
    with TestClient(create_app(it)) as client:
        yield it, client


def raise_error(message: str) -> Any:
    def call(*_: Any) -> Any:
        raise StoreError(message)

    return call


def store_lines(logs: io.StringIO) -> list[str]:
    lines = [json.loads(line) for line in logs.getvalue().splitlines()]
    return [line["message"] for line in lines if line["level"] in ("ERROR", "WARNING")]


def test_each_change_is_logged_once(logs: io.StringIO) -> None:
    world = World()
    assert [world.check() for _ in range(3)] == [[]] * 3
    world.raw.problem = "memory: cannot respond: Gone"
    problems = [world.check() for _ in range(13)]
    assert problems[0] == ["event store unavailable for 0 s"]
    assert problems[-1] == ["event store unavailable for 12 s"]
    assert world.metric("segue_store_up") == 0
    world.raw.problem = None
    assert [world.check() for _ in range(3)] == [[]] * 3
    assert world.metric("segue_store_up") == 1
    assert store_lines(logs) == [
        "event store unavailable: memory: cannot respond: Gone",
        "event store available again after 13 s",
    ]


def test_unexpected_errors_do_not_end_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(world.raw, "ping", lambda: 1 / 0)
    assert world.check() == ["event store unavailable for 0 s"]
    monkeypatch.setattr(world.raw, "ping", lambda: None)
    monkeypatch.setattr(world.raw, "size_bytes", lambda: 1 / 0)
    assert world.check() == []


def test_failed_calls_are_logged_rarely(logs: io.StringIO) -> None:
    world = World()
    for _ in range(25):
        world.clock.now += 1
        world.monitor.log_failure("append", StoreError("memory: cannot store events"))
    assert store_lines(logs) == ["store: append failed: memory: cannot store events"] * 3
    world.raw.problem = "gone"
    world.check()
    world.clock.now += 60
    world.monitor.log_failure("append", StoreError("memory: cannot store events"))
    assert store_lines(logs)[3:] == ["event store unavailable: gone"]
    assert world.metric('segue_errors_total{kind="store"}') == 26


def test_refused_events_of_a_full_store_are_not_logged(logs: io.StringIO) -> None:
    world, full = World(max_bytes=1_000), StoreError(f"memory: {STORE_FULL}")
    world.monitor.log_failure("append", full)
    assert len(store_lines(logs)) == 1, "the store is not known to be full"
    world.raw.size = 1_000
    assert world.check() == ["event store full"]
    world.clock.now += 2 * monitor.LOG_SECONDS
    world.monitor.log_failure("append", full)
    assert [line.split(":")[0] for line in store_lines(logs)[1:]] == ["events are refused"]
    world.monitor.log_failure("append", StoreError("memory: cannot store events"))
    assert store_lines(logs)[2:] == ["store: append failed: memory: cannot store events"]
    assert world.metric('segue_errors_total{kind="store"}') == 3


def test_a_store_at_its_limit_refuses_everything_that_grows_it(logs: io.StringIO) -> None:
    world = World(max_bytes=1_000)
    world.raw.size = 999
    assert world.check() == []
    assert world.store.append([Event("ann", "a", 1)]) == [True]
    world.raw.size = 1_000
    assert world.check(monitor.SIZE_SECONDS - 2) == [], "measured too often"
    assert world.check(2) == ["event store full"]
    assert (world.metric("segue_store_bytes"), world.metric("segue_store_limit_bytes")) == (1_000, 1_000)
    for call in (lambda: world.store.append([Event("ann", "b", 2)]), lambda: world.store.record_exposures([])):
        with pytest.raises(StoreError, match="its size is 1,000 bytes, max_store_bytes is 1,000"):
            call()
    world.store.put_states({"ann": UserState("m", 1, b"x")})
    assert world.store.get_states(["ann"], "m") == [None]
    assert world.store.recent_events(["ann"], 5)[0].total == 1
    world.store.put_setting("name", "value")
    assert world.store.delete_user("ann").events == 1
    world.raw.size = 10
    assert world.check(monitor.SIZE_SECONDS) == []
    assert world.store.append([Event("ann", "b", 2)]) == [True]
    assert [line.split(":")[0] for line in store_lines(logs)] == [
        "events are refused",
        "the event store is no longer full",
    ]


def test_no_limit_by_default() -> None:
    world = World()
    world.raw.size = 10**15
    assert world.check() == []
    assert world.metric("segue_store_bytes") == 10**15


def test_a_full_disk_is_reported_until_an_event_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    with monkeypatch.context() as patch:
        patch.setattr(world.raw, "append", raise_error(f"memory: cannot store events: Full; {STORE_FULL}"))
        with pytest.raises(StoreError, match=STORE_FULL):
            world.store.append([Event("ann", "a", 1)])
    assert world.check() == ["event store full"]
    assert world.check(DISK_FULL_SECONDS) == [], "without requests there is nothing that could clear the state"
    with monkeypatch.context() as patch:
        patch.setattr(world.raw, "append", raise_error(f"memory: cannot store events: Full; {STORE_FULL}"))
        with pytest.raises(StoreError, match=STORE_FULL):
            world.store.append([Event("ann", "a", 1)])
    assert world.store.append([Event("ann", "a", 1)]) == [True]
    assert world.check() == []


def test_readiness_follows_the_store(
    checked: tuple[Service, TestClient], monkeypatch: pytest.MonkeyPatch, logs: io.StringIO
) -> None:
    it, client = checked
    assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (200, {"ready": True})
    secret = "sqlite: /var/lib/secret/store.db is gone"
    monkeypatch.setattr(it.store.wrapped, "ping", raise_error(secret))
    it.store_monitor.check()
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "reasons": ["event store unavailable for 0 s"]}
    assert client.get("/healthz").status_code == 200
    assert "segue_store_up 0.0" in client.get("/metrics").text
    assert client.post("/v1/recommend", json={"user": "u1"}).status_code == 200
    monkeypatch.setattr(it.store.wrapped, "ping", lambda: None)
    it.store_monitor.check()
    assert client.get("/readyz").status_code == 200


def test_readiness_without_the_store(slow_checks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("ease", ready_without_store=True)
    with TestClient(create_app(it)) as client:
        monkeypatch.setattr(it.store.wrapped, "ping", raise_error("gone"))
        it.store_monitor.check()
        response = client.get("/readyz")
        assert response.status_code == 200
        assert response.json() == {"ready": True, "reasons": ["event store unavailable for 0 s"]}


def test_a_full_store_is_named_in_responses(
    checked: tuple[Service, TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    it, client = checked
    assert client.post("/v1/events", json=EVENT).status_code == 200
    monkeypatch.setattr(it.store.wrapped, "size_bytes", lambda: 2_000)
    it.store_monitor._measured_at = None
    it.store_monitor.check()
    for path, body in (("/v1/events", EVENT), ("/v1/events/batch", {"events": [EVENT]})):
        response = client.post(path, json=body)
        assert (response.status_code, response.json()["error"]) == (503, "store_full")
        assert response.json()["message"] == (
            "the store is full: its size is 2,000 bytes, max_store_bytes is 1,000; nothing was changed"
        )
        assert int(response.headers["retry-after"]) >= 30
    assert client.get("/readyz").json() == {"ready": False, "reasons": ["event store full"]}
    states = it.store.get_states(["u2"], it.models.active.info.version)
    assert client.post("/v1/recommend", json={"user": "u2"}).json()["source"] == "model"
    assert it.store.get_states(["u2"], it.models.active.info.version) == states
    assert client.get("/v1/users/u1").json()["total"] > 0
    assert client.delete("/v1/users/u1").status_code == 200


def test_a_full_disk_is_named_in_responses(
    checked: tuple[Service, TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    it, client = checked
    with monkeypatch.context() as patch:
        patch.setattr(
            it.store.wrapped, "append", raise_error(f"sqlite: cannot store events: SQLITE_FULL; {STORE_FULL}")
        )
        response = client.post("/v1/events", json=EVENT)
    assert (response.status_code, response.json()["error"]) == (503, "store_full")
    assert response.json()["message"] == f"{STORE_FULL}: no room on its disk or in its memory; nothing was changed"
    assert client.get("/readyz").json()["reasons"] == ["event store full"]
    assert client.post("/v1/events", json=EVENT).json()["accepted"] == 1
    assert client.get("/readyz").json() == {"ready": True}


def test_overdue_events_are_acknowledged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    it, resume = service("ease", store_write_timeout_ms=100), threading.Event()
    append = it.store.wrapped.append

    def slow(events: Any) -> Any:
        assert resume.wait(60)
        return append(events)

    monkeypatch.setattr(it.store.wrapped, "append", slow)
    with TestClient(create_app(it)) as client:
        keyed = [EVENT, EVENT | {"key": "k2", "item": "i2"}]
        response = client.post("/v1/events/batch", json={"events": keyed})
        assert response.status_code == 503
        assert OUTCOME_UNKNOWN in response.json()["message"]
        assert "send the events again with the same keys" in response.json()["message"]
        assert int(response.headers["retry-after"]) >= 1
        resume.set()
        for _ in range(600):
            if it.store.recent_events(["u1"], 5)[0].total:
                break
            threading.Event().wait(0.05)
        again = client.post("/v1/events/batch", json={"events": keyed})
        while again.status_code == 503:  # until the overdue call has returned
            again = client.post("/v1/events/batch", json={"events": keyed})
        assert (again.json()["accepted"], again.json()["duplicates"]) == (0, 2)
        assert it.store.recent_events(["u1"], 5)[0].total == 2


def test_events_without_keys_may_be_stored_twice_after_an_overdue_call(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("ease")
    monkeypatch.setattr(it.store.wrapped, "append", raise_error(f"lost; {OUTCOME_UNKNOWN}"))
    with TestClient(create_app(it)) as client:
        response = client.post("/v1/events", json={"user": "u1", "item": "i1"})
    assert "events without a key may be stored twice" in response.json()["message"]


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [
        ("append", "POST", "/v1/events"),
        ("delete_user", "DELETE", "/v1/users/u1"),
        ("put_setting", "POST", "/v1/models/sasrec/activate"),
    ],
)
def test_no_write_waits_for_a_silent_store(monkeypatch: pytest.MonkeyPatch, name: str, method: str, path: str) -> None:
    it, resume = service("ease", "sasrec", store_write_timeout_ms=100), threading.Event()
    call = getattr(it.store.wrapped, name)
    monkeypatch.setattr(it.store.wrapped, name, lambda *arguments: resume.wait(60) and call(*arguments))
    with TestClient(create_app(it)) as client:
        for _ in range(20):  # more than there are threads
            body = {"json": EVENT} if path == "/v1/events" else {}
            response = client.request(method, path, **body)
            assert response.status_code == 503
            assert "retry-after" in response.headers
            assert client.get("/v1/users/u2").status_code == 200
        resume.set()
    assert it.models.active.info.name == "ease"


def test_reads_do_not_wait_for_stuck_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    it, resume = service("ease", store_write_timeout_ms=60_000), threading.Event()
    delete_user = it.store.wrapped.delete_user
    monkeypatch.setattr(it.store.wrapped, "delete_user", lambda user: resume.wait(60) and delete_user(user))
    with TestClient(create_app(it)) as client, ThreadPoolExecutor(40) as threads:
        deletions = [threads.submit(client.delete, "/v1/users/u9") for _ in range(40)]
        assert [client.get("/v1/users/u1").status_code for _ in range(5)] == [200] * 5
        assert not any(one.done() for one in deletions)
        resume.set()
        assert {one.result().status_code for one in deletions} == {200}


def test_a_full_sqlite_disk_is_recognized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = SQLite._connect

    def connect_to_full_disk(self: SQLite) -> sqlite3.Connection:
        connection = connect(self)
        connection.execute("PRAGMA max_page_count = 1")  # SQLite uses the current size if it is larger
        return connection

    path = tmp_path / "store.sqlite"
    SQLite(path).close()
    monkeypatch.setattr(SQLite, "_connect", connect_to_full_disk)
    store = SQLite(path)
    with pytest.raises(StoreError, match=f"SQLITE_FULL; {STORE_FULL}$"):
        store.append([Event("ann", f"{n}" * 50, n) for n in range(5_000)])
    assert store.recent_events(["ann"], 5)[0].total == 0
    store.close()


def test_a_full_server_disk_is_recognized() -> None:
    import psycopg
    import redis

    postgresql = PostgreSQL("postgresql://nobody@localhost/nothing")
    postgresql._is_initialized = True
    pool = SimpleNamespace(connection=lambda: nullcontext(None))
    postgresql._pool = pool  # type: ignore[assignment]
    with pytest.raises(StoreError, match=f"DiskFull 53100; {STORE_FULL}$"), postgresql._connection("store events"):
        raise psycopg.errors.DiskFull
    other = Redis("redis://localhost")
    other._is_initialized = True
    message = "MISCONF Errors writing to the AOF file: No space left on device"
    with pytest.raises(StoreError, match=f"MISCONF; {STORE_FULL}$"), other._convert_errors("store events", True):
        raise redis.exceptions.ResponseError(message)


def test_a_deleted_file_makes_the_service_unready(tmp_path: Path, slow_checks: None) -> None:
    path = tmp_path / "store.sqlite"
    it = service("ease", store=f"sqlite:///{path}")
    with TestClient(create_app(it)) as client:
        assert client.post("/v1/events", json=EVENT).status_code == 200
        path.unlink()
        response = client.post("/v1/events", json=EVENT | {"key": "k2"})
        assert (response.status_code, "nothing was changed" in response.json()["message"]) == (503, True)
        assert client.get("/v1/users/u1").status_code == 503
        it.store_monitor.check()
        body = client.get("/readyz")
        assert (body.status_code, str(tmp_path) in body.text) == (503, False)


@pytest.mark.parametrize("kind", ["postgresql", "redis"])
def test_a_frozen_server_delays_no_request(
    request: pytest.FixtureRequest, new_address: Callable[[str], str], slow_checks: None, kind: str
) -> None:
    server = request.getfixturevalue(f"{kind}_server")
    it = service("ease", store=new_address(kind), store_timeout_ms=500, store_write_timeout_ms=1_000)
    with TestClient(create_app(it)) as client, ThreadPoolExecutor(20) as threads:
        assert client.post("/v1/events", json=EVENT).status_code == 200
        with server.frozen():
            posts = [threads.submit(client.post, "/v1/events", json=EVENT | {"key": f"{n}"}) for n in range(20)]
            gets = [threads.submit(client.get, "/v1/users/u1") for _ in range(40)]
            deletions = [threads.submit(client.delete, "/v1/users/u9") for _ in range(20)]
            assert {one.result().status_code for one in (*posts, *gets, *deletions)} == {503}
            assert client.post("/v1/recommend", json={"user": "u1"}).json()["notes"]
            it.store_monitor.check()
            assert client.get("/readyz").json()["reasons"] == ["event store unavailable for 0 s"]
        eventually(lambda: it.store_monitor.check() is None and not it.store_monitor.is_down)
        assert client.get("/readyz").status_code == 200
        for key in map(str, range(20)):
            eventually(lambda key=key: client.post("/v1/events", json=EVENT | {"key": key}).is_success)  # type: ignore[misc]
        stored = [event.key for event in it.store.recent_events(["u1"], 100)[0].events]
        assert sorted(stored) == sorted(["k1", *map(str, range(20))]), "an event was stored twice"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "redis"])
def test_services_with_different_models_share_a_store(new_address: Callable[[str], str], kind: str) -> None:
    address = new_address(kind)
    one, other = service("gru4rec", store=address), service("xlstm", store=address)
    for it in (one, other):
        it.append_events([Event("ann", "i1", 1)])
        list(it.update_user_states(["ann", "u1"]))
    for it in (one, other):
        assert it.prune_states() == 0
    for it in (one, other):
        assert None not in it.store.get_states(["ann", "u1"], it.models.active.info.version)
        it.close()


def test_the_synchronization_logs_a_persistent_error_once(monkeypatch: pytest.MonkeyPatch, logs: io.StringIO) -> None:
    from segue.serving import app

    monkeypatch.setattr(app, "SYNC_SECONDS", 0.01)
    it, calls = service("ease"), []

    def unreadable(name: str) -> None:
        calls.append(name)
        raise StoreError("gone")

    with TestClient(create_app(it)):
        monkeypatch.setattr(it.store.wrapped, "get_setting", unreadable)
        for _ in range(600):
            if len(calls) > 5:
                break
            threading.Event().wait(0.05)
    assert len(calls) > 5
    assert store_lines(logs) == ["the active model could not be read"]
