"""Timeouts of store calls, and recovery."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from servers import Server, eventually

from segue.serving import schemas
from segue.serving.service import PendingRequest
from segue.serving.stores import timeout
from segue.serving.stores.open import open_store
from segue.serving.stores.sqlite import ERASURE_TIMEOUT_SECONDS
from segue.serving.stores.store import OUTCOME_UNKNOWN, Deletion, Event, Exposure, Store, StoreError, UserState
from segue.serving.stores.timeout import TimeoutStore
from tests.serving.memory_store import MemoryStore
from tests.serving.world import service

EVENT = Event("zoe", "a", 1, key="k")
WRITES: dict[str, Callable[[Store], Any]] = {
    "append": lambda store: store.append([EVENT]),
    "delete_user": lambda store: store.delete_user("ann"),
    "put_setting": lambda store: store.put_setting("name", "value"),
    "record_exposures": lambda store: store.record_exposures([Exposure("e", "v", "zoe", 1, ("a",))]),
}
READS: dict[str, Callable[[Store], Any]] = {
    "recent_events": lambda store: store.recent_events(["zoe"], 5),
    "events_after": lambda store: store.events_after("zoe", 0, 5),
    "get_states": lambda store: store.get_states(["zoe"], "m"),
    "put_states": lambda store: store.put_states({"zoe": UserState("m", 1, b"x")}),
    "get_setting": lambda store: store.get_setting("name"),
}
OTHERS: dict[str, Callable[[Store], Any]] = {
    "prune_states": lambda store: store.prune_states(1),
    "size_bytes": lambda store: store.size_bytes(),
    "ping": lambda store: store.ping(),
}


class SilentStore(MemoryStore):
    """Store whose calls do not return until ``resume`` is set, if their name is in ``silent``."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: set[str] = set()
        self.calls: list[str] = []
        self.resume = threading.Event()
        for name in (*WRITES, *READS, *OTHERS):
            setattr(self, name, self._delayed(name, getattr(self, name)))

    def _delayed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def delayed(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.silent:
                assert self.resume.wait(60)
            return call(*arguments)

        return delayed


@pytest.fixture
def silent() -> Iterator[SilentStore]:
    store = SilentStore()
    yield store
    store.resume.set()


def succeeds(call: Callable[[], Any]) -> bool:
    try:
        call()
    except StoreError:
        return False
    return True


@pytest.mark.parametrize("is_in_process", [True, False])
def test_calls_within_the_timeout(monkeypatch: pytest.MonkeyPatch, is_in_process: bool) -> None:
    store = open_store("memory:")
    monkeypatch.setattr(store, "is_in_process", is_in_process)
    timeout_store = TimeoutStore(store, 30)
    assert timeout_store.append([Event("zoe", "a", 1), Event("zoe", "b", 2)]) == [True, True]
    timeout_store.put_states({"zoe": UserState("m", 1, b"x")})
    assert timeout_store.recent_events(["zoe", "bob"], 5) == store.recent_events(["zoe", "bob"], 5)
    assert timeout_store.events_after("zoe", 1, 5) == store.events_after("zoe", 1, 5)
    assert timeout_store.get_states(["zoe"], "m") == store.get_states(["zoe"], "m")
    timeout_store.put_setting("name", "value")
    assert timeout_store.get_setting("name") == store.get_setting("name") == "value"
    timeout_store.record_exposures([Exposure("e", "v", "zoe", 1, ("a",))])
    assert list(timeout_store.exposures("e")) == list(store.exposures("e"))
    assert list(timeout_store.events()) == list(store.events())
    timeout_store.ping()
    timeout_store.close()


def test_requests_do_not_wait_for_a_silent_store(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("gru4rec", store_timeout_ms=50)
    calls, resume = [], threading.Event()
    recent_events = it.store.wrapped.recent_events

    def silent(*arguments: Any) -> Any:
        calls.append(arguments)
        resume.wait(60)
        return recent_events(*arguments)

    monkeypatch.setattr(it.store.wrapped, "recent_events", silent)
    monkeypatch.setattr(it.store, "is_in_process", False)

    def answer() -> schemas.RecommendResponse:
        (found,) = it.recommend([PendingRequest(schemas.RecommendRequest(user="u3", k=5), monotonic() + 60)])
        assert isinstance(found, schemas.RecommendResponse)
        return found

    assert all(answer().notes for _ in range(3))
    assert len(calls) == 1  # the others failed immediately
    with pytest.raises(StoreError, match="overdue"):
        list(it.update_user_states(["u3"]))
    resume.set()
    eventually(lambda: not answer().notes)


@pytest.mark.parametrize("name", [*WRITES, *READS, *OTHERS])
def test_an_overdue_call_makes_later_ones_fail_until_it_returns(silent: SilentStore, name: str) -> None:
    call = {**WRITES, **READS, **OTHERS}[name]
    store = TimeoutStore(silent, 0.05, 0.05)
    silent.silent = {name}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeout, "PRUNE_SECONDS", 0.05)
        patch.setattr(timeout, "ERASURE_SECONDS", 0.0)
        with pytest.raises(StoreError, match="no response within") as raised:
            call(store)
        assert (OUTCOME_UNKNOWN in str(raised.value)) == (name in WRITES)
        for _ in range(20):
            with pytest.raises(StoreError, match="an earlier call is overdue") as raised:
                call(store)
            assert OUTCOME_UNKNOWN not in str(raised.value)  # it was not begun
        assert silent.calls.count(name) == 1
        silent.resume.set()
        eventually(lambda: succeeds(lambda: call(store)))


def test_deletions_have_additional_time_for_the_erasure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timeout.ERASURE_SECONDS >= ERASURE_TIMEOUT_SECONDS
    monkeypatch.setattr(timeout, "ERASURE_SECONDS", 60.0)
    store = SilentStore()
    store.append([EVENT])
    delete_user = store.delete_user

    def delete_slowly(user: str) -> Deletion:
        sleep(0.05)
        return delete_user(user)

    monkeypatch.setattr(store, "delete_user", delete_slowly)
    assert TimeoutStore(store, 30, 0.0).delete_user("zoe").events == 1, "the timeout of writes is 0 s"


def test_stuck_writes_affect_neither_reads_nor_deletions(silent: SilentStore) -> None:
    store = TimeoutStore(silent, 30, 0.05)
    silent.silent = {"append"}
    assert not succeeds(lambda: WRITES["append"](store))
    for name, call in {"delete_user": WRITES["delete_user"], **READS, **OTHERS}.items():  # `ping` is the last
        assert succeeds(partial(call, store)), name


def test_stuck_deletions_affect_no_writes(silent: SilentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeout, "ERASURE_SECONDS", 0.0)
    store = TimeoutStore(silent, 30, 0.05)
    silent.silent = {"delete_user"}
    assert not succeeds(lambda: WRITES["delete_user"](store))
    for name in ("append", "put_setting", "record_exposures"):
        assert succeeds(partial(WRITES[name], store)), name


def test_a_successful_ping_lets_calls_through_again(silent: SilentStore) -> None:
    store = TimeoutStore(silent, 0.05, 0.05)
    silent.silent = {"append"}
    assert not succeeds(lambda: WRITES["append"](store))
    silent.silent = set()  # the connection of the stuck call is lost, but others work
    assert not succeeds(lambda: WRITES["append"](store))
    store.ping()
    assert store.append([EVENT]) == [True]


def test_the_number_of_stuck_threads_is_bounded(silent: SilentStore) -> None:
    store = TimeoutStore(silent, 0.02, 0.02)
    silent.silent = {"append"}
    before = threading.active_count()
    for _ in range(timeout.MAX_CALLS + 5):
        assert not succeeds(lambda: WRITES["append"](store))
        store.ping()
    assert silent.calls.count("append") == timeout.MAX_CALLS
    assert threading.active_count() - before <= timeout.MAX_CALLS + 1  # one for pings
    silent.resume.set()
    eventually(lambda: succeeds(lambda: WRITES["append"](store)))


def test_concurrent_calls_all_succeed() -> None:
    store = TimeoutStore(MemoryStore(), 30, 30)
    with ThreadPoolExecutor(40) as threads:
        results = list(threads.map(lambda n: store.append([Event("zoe", "a", n, key=f"{n}")]), range(400)))
    assert results == [[True]] * 400
    assert store._writes._n_threads <= timeout.MAX_CALLS
    store.close()
    with pytest.raises(StoreError, match="the store is closed"):
        store.append([EVENT])


def test_results_at_the_last_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Last(Future):  # type: ignore[type-arg]
        def result(self, timeout: float | None = None) -> Any:
            if timeout is not None:
                super().result(60)
                raise FutureTimeoutError
            return super().result()

    monkeypatch.setattr(timeout, "Future", Last)
    assert TimeoutStore(MemoryStore(), 1).recent_events(["zoe"], 5)[0].total == 0


def test_sqlite_reads_do_not_wait_for_writers(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    now = [0.0]
    timeout_store = TimeoutStore(open_store(f"sqlite:///{path}"), 30, clock=lambda: now[0])
    timeout_store.append([Event("zoe", "a", 1)])
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    assert timeout_store.recent_events(["zoe"], 5)[0].total == 1
    with pytest.raises(StoreError, match="BUSY"):
        timeout_store.put_states({"zoe": UserState("m", 1, b"x")})
    with pytest.raises(StoreError, match="a moment ago"):  # without waiting for the lock
        timeout_store.put_states({"zoe": UserState("m", 1, b"x")})
    writer.close()
    now[0] += timeout.STATES_PAUSE_SECONDS
    timeout_store.put_states({"zoe": UserState("m", 1, b"x")})
    assert timeout_store.get_states(["zoe"], "m") == [UserState("m", 1, b"x")]


@pytest.mark.parametrize("name", WRITES)
def test_writes_to_a_locked_file_fail_before_they_are_overdue(tmp_path: Path, name: str) -> None:
    path = tmp_path / "store.sqlite"
    store = TimeoutStore(open_store(f"sqlite:///{path}", 0.1), 30, 5)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(4) as threads:  # the others wait for the lock within the process
        running = [threads.submit(WRITES[name], store) for _ in range(4)]
        errors = [one.exception() for one in running]
    for error in errors:
        assert isinstance(error, StoreError)
        assert OUTCOME_UNKNOWN not in str(error)
    writer.close()
    WRITES[name](store)
    store.close()


def test_a_lock_within_the_process_bounds_the_wait(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}", 0.1)
    with store._write_lock, pytest.raises(StoreError, match="held by another thread"):  # type: ignore[attr-defined]
        store.append([EVENT])
    store.close()


def test_a_lock_in_postgresql_bounds_the_wait(
    postgresql_server: Any, new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    import psycopg

    address = new_address("postgresql")
    store = open_store(address, 0.1)
    store.append([Event("zoe", "a", 1)])
    with psycopg.connect(address) as other:
        other.execute("LOCK TABLE segue_users, segue_events IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreError, match="55P03") as raised:
            store.append([EVENT])
        assert OUTCOME_UNKNOWN not in str(raised.value)
        other.rollback()
    assert store.append([EVENT]) == [True]
    store.close()


@pytest.mark.parametrize("kind", ["postgresql", "redis"])
def test_a_frozen_server_blocks_no_call(
    request: pytest.FixtureRequest,
    new_address: Callable[[str], str],
    open_stores: Callable[[str], Store],
    kind: str,
) -> None:
    server: Server = request.getfixturevalue(f"{kind}_server")
    remote = open_stores(new_address(kind))
    remote.append([Event("zoe", "b", 1)])
    store = TimeoutStore(remote, 0.2, 0.4)
    with server.frozen():
        for _ in range(5):
            for name, call in {**WRITES, **READS, **OTHERS}.items():
                if name != "prune_states":
                    with pytest.raises(StoreError, match=r"no response within|an earlier call is overdue"):
                        call(store)
    eventually(lambda: succeeds(store.ping))
    assert remote.append([EVENT]) in ([False], [True])  # whether it was stored after its timeout, or is stored now
    eventually(lambda: succeeds(lambda: store.append([EVENT])))
    assert [event.key for _, event in store.events()].count("k") == 1


def test_overdue_calls_do_not_keep_the_process_alive() -> None:
    script = """
import threading
from tests.serving.test_timeout_store import SilentStore, TimeoutStore, WRITES, succeeds
silent = SilentStore()
silent.silent = {"append"}
store = TimeoutStore(silent, 0.05, 0.05)
assert not succeeds(lambda: WRITES["append"](store))
store.close()
print("done")
"""
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    script = f"import sys; sys.path[:0] = {paths!r}\n{script}"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert (result.stdout, result.returncode) == ("done\n", 0), result.stderr
