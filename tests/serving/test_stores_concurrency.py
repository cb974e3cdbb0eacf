"""Concurrent threads and processes: no lost or duplicate events, and one order for all readers."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import PostgreSQLServer

from segue.serving.stores import postgresql_sql, sqlite
from segue.serving.stores.store import LOCK_TIMEOUT_SECONDS, Event, Store, UserState

USERS = ["u0", "u1", "u2", "shared"]


@pytest.fixture(autouse=True)
def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers compete for the lock, and none may time out."""
    monkeypatch.setattr(sqlite, "SHORT_TIMEOUT_SECONDS", LOCK_TIMEOUT_SECONDS)


class Follower(threading.Thread):
    """Reads new events of all users and of one user, continuing after the last sequence number read."""

    def __init__(self, store: Store, user: str) -> None:
        super().__init__()
        self.store, self.user = store, user
        self.all: list[tuple[int, Event]] = []
        self.own: list[Event] = []
        self.ended = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        sequence = 0
        try:
            while True:
                last = self.ended.wait(0.001)  # lets others use the single connection of a memory store
                self.all += self.store.events(self.all[-1][0] if self.all else 0)
                events, sequence = self.store.events_after(self.user, sequence, 7)
                self.own += events
                if last and not events:
                    return
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Follower:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()
        assert self.error is None


def check_consistency(store: Store, follower: Follower, users: list[str]) -> list[tuple[int, Event]]:
    """Check that all reads return the same order, also concurrent ones, and return all events."""
    everything = list(store.events())
    sequences = [sequence for sequence, _ in everything]
    assert sequences == sorted(set(sequences))
    assert follower.all == everything
    assert follower.own == [event for _, event in everything if event.user == follower.user]
    for user, stored in zip(users, store.recent_events(users, 10**6), strict=True):
        own = [(sequence, event) for sequence, event in everything if event.user == user]
        assert list(stored.events) == [event for _, event in own]
        assert (stored.total, stored.last_sequence) == (len(own), own[-1][0])
        assert store.events_after(user, 0, 10**6) == (stored.events, stored.last_sequence)
    return everything


def test_concurrent_threads(store: Store) -> None:
    def write(thread: int) -> int:
        n_new_keys = 0
        for n in range(12):
            n_new_keys += store.append(
                [Event("shared", f"{thread}", n, key=f"{n}"), Event(f"u{n % 3}", f"{thread}", n)]
            )[0]
            store.recent_events(USERS, 5)
        return n_new_keys

    with Follower(store, "u1") as follower, ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(write, range(8))) == 12
    everything = check_consistency(store, follower, USERS)
    assert len(everything) == 12 + 8 * 12
    for thread in range(8):
        times = [event.time for _, event in everything if event.user != "shared" and event.item == f"{thread}"]
        assert times == list(range(12))


def test_concurrent_states_and_deletions(store: Store) -> None:
    def work(thread: int) -> None:
        for n in range(10):
            store.append([Event("u0", f"{thread}", n), Event("u1", f"{thread}", n)])
            recent = store.recent_events(["u0", "u1"], 1)
            states = {
                f"u{user}": UserState("m", one.last_sequence, b"%d" % one.last_sequence)
                for user, one in enumerate(recent)
            }
            store.put_states(states if thread % 2 else dict(reversed(states.items())))
            if thread == 0 and n % 3 == 0:
                store.delete_user("u0")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    n_deleted = store.delete_user("u0").events
    assert n_deleted <= 60
    deleted, other = store.recent_events(["u0", "u1"], 100)
    assert (deleted.events, deleted.total, deleted.deleted, other.total) == ((), 0, True, 60)
    states = store.get_states(["u0", "u1"], "m")
    assert states[0] is None
    assert states[1] is not None
    assert states[1].last_sequence == int(states[1].data) <= other.last_sequence


def test_concurrent_states_in_different_orders(store: Store) -> None:
    def work(thread: int) -> None:
        users = random.Random(thread).sample(range(30), 30)
        for n in range(10):
            store.put_states({f"u{user}": UserState("m", 4 * n + thread, b"%d" % thread) for user in users})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert store.get_states([f"u{user}" for user in range(30)], "m") == [UserState("m", 39, b"3")] * 30


@contextmanager
def processes(address: str, names: str, count: int, batch: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes of ``event_feed.py`` at the same time."""
    command = [sys.executable, str(Path(__file__).with_name("event_feed.py")), address]
    started = [
        subprocess.Popen(
            [*command, name, str(count), str(batch)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in names
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_concurrent_processes_with_a_new_store(address: str, open_stores: Callable[[str], Store]) -> None:
    with processes(address, "abc", 300, 5) as started:
        store = open_stores(address)
        with Follower(store, "u2") as follower:
            outputs = [process.communicate()[0].splitlines() for process in started]
        assert [process.returncode for process in started] == [0, 0, 0]
    everything = check_consistency(store, follower, USERS)
    assert len(everything) == 3 * 300 + 60
    assert sum(int(lines[-1].split()[1]) for lines in outputs) == 60
    for name in "abc":
        times = [event.time for _, event in everything if event.user != "shared" and event.item.startswith(name)]
        assert times == list(range(300))


def test_sqlite_survives_a_killed_writer(
    new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    address = new_address("sqlite")
    with processes(address, "a", 100_000, 3) as (process,):
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline().split()[0]) for _ in range(40)][-1]
        process.kill()
    store = open_stores(address)
    events = [event.time for _, event in store.events() if event.user != "shared"]
    assert len(events) >= acknowledged
    assert events == list(range(len(events)))
    assert len(events) % 3 == 0
    assert store.append([Event("u0", "after", 0)]) == [True]


@pytest.mark.parametrize("locked", [True, False])
def test_readers_miss_no_events(
    locked: bool,
    postgresql_server: PostgreSQLServer,
    new_address: Callable[[str], str],
    open_stores: Callable[[str], Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow process draws a sequence number and commits after another one that draws the next.

    Without the sequence lock the later number becomes visible first, and a reader that continues after it misses the
    earlier event.
    """
    import psycopg

    if not locked:
        monkeypatch.setattr(postgresql_sql, "LOCK_SEQUENCE_SQL", "SELECT 1")
    address = new_address("postgresql")
    store, reader = open_stores(address), open_stores(address)
    store.ping()
    done = threading.Event()

    def append() -> None:
        store.append([Event("u", "fast", 2)])
        done.set()

    with Follower(reader, "u") as follower, ThreadPoolExecutor(1) as threads:
        with psycopg.connect(address) as slow:
            slow.execute(postgresql_sql.LOCK_SEQUENCE_SQL)
            slow.execute(postgresql_sql.APPEND_SQL, (["u2"], ["slow"], [1], ["buy"], [1.0], ["k"], [None]))
            running = threads.submit(append)
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not done.is_set() and postgresql_server.query(waiting) == [(0,)]:
                pass
            assert done.is_set() == (not locked)
            while not locked and not follower.own:  # the reader has passed the slow event
                pass
        running.result()
    assert [event.item for _, event in store.events()] == ["slow", "fast"]
    assert [event.item for _, event in follower.all] == (["slow", "fast"] if locked else ["fast"])


def test_deletions_wait_for_states(
    postgresql_server: PostgreSQLServer, new_address: Callable[[str], str], open_stores: Callable[[str], Store]
) -> None:
    import psycopg

    address = new_address("postgresql")
    store = open_stores(address)
    store.append([Event("u", "a", 1)])
    with ThreadPoolExecutor(1) as threads:
        with psycopg.connect(address) as slow:
            slow.execute(postgresql_sql.LOCK_STATES_SHARED_SQL)
            sequence = store.recent_events(["u"], 1)[0].last_sequence
            columns = {"users": ["u"], "models": ["m"], "last_sequences": [sequence], "data": [b"x"]}
            slow.execute(postgresql_sql.PUT_STATES_SQL, {"time": 1, "markers": bytes(32), **columns})
            running = threads.submit(store.delete_user, "u")
            waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not running.done() and not postgresql_server.query(waiting):
                pass
        assert running.result().events == 1
    assert store.get_states(["u"], "m") == [None]
