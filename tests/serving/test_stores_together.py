"""Several threads and several processes at one store: nothing lost, nothing twice, one order for all who read."""

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
from segue.serving.stores.store import Event, Memory, Store

USERS = ["u0", "u1", "u2", "shared"]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here all write at once, and none is to give up."""
    monkeypatch.setattr(sqlite, "HURRY_SECONDS", sqlite.BUSY_SECONDS)


class Follower(threading.Thread):
    """Reads what comes, from all and from one user, always after the place it came to."""

    def __init__(self, store: Store, user: str) -> None:
        super().__init__()
        self.store, self.user = store, user
        self.all: list[tuple[int, Event]] = []
        self.own: list[Event] = []
        self.ended = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        place = 0
        try:
            while True:
                last = self.ended.wait(0.001)  # nobody else would get at the one connection of a store in memory
                self.all += self.store.events(self.all[-1][0] if self.all else 0)
                events, place = self.store.since(self.user, place, 7)
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


def agree(store: Store, follower: Follower, users: list[str]) -> list[tuple[int, Event]]:
    """See that all ways to read tell one order, and those who read meanwhile saw the same; all events."""
    everything = list(store.events())
    places = [place for place, _ in everything]
    assert places == sorted(set(places))
    assert follower.all == everything
    assert follower.own == [event for _, event in everything if event.user == follower.user]
    for user, kept in zip(users, store.kept(users, 10**6), strict=True):
        own = [(place, event) for place, event in everything if event.user == user]
        assert list(kept.events) == [event for _, event in own]
        assert (kept.total, kept.last) == (len(own), own[-1][0])
        assert store.since(user, 0, 10**6) == (kept.events, kept.last)
    return everything


def test_threads(store: Store) -> None:
    def write(thread: int) -> int:
        won = 0
        for n in range(12):
            won += store.append([Event("shared", f"{thread}", n, key=f"{n}"), Event(f"u{n % 3}", f"{thread}", n)])[0]
            store.kept(USERS, 5)
        return won

    with Follower(store, "u1") as follower, ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(write, range(8))) == 12
    everything = agree(store, follower, USERS)
    assert len(everything) == 12 + 8 * 12
    for thread in range(8):
        times = [event.time for _, event in everything if event.user != "shared" and event.item == f"{thread}"]
        assert times == list(range(12))


def test_threads_that_remember_and_forget(store: Store) -> None:
    def work(thread: int) -> None:
        for n in range(10):
            store.append([Event("u0", f"{thread}", n), Event("u1", f"{thread}", n)])
            kept = store.kept(["u0", "u1"], 1)
            memories = {f"u{user}": Memory("m", one.last, b"%d" % one.last) for user, one in enumerate(kept)}
            store.remember(memories if thread % 2 else dict(reversed(memories.items())))
            if thread == 0 and n % 3 == 0:
                store.forget("u0")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    last = store.forget("u0")
    assert last <= 60
    forgotten, kept = store.kept(["u0", "u1"], 100)
    assert (forgotten.events, forgotten.total, forgotten.forgotten, kept.total) == ((), 0, True, 60)
    memories = store.memories(["u0", "u1"], "m")
    assert memories[0] is None
    assert memories[1] is not None
    assert memories[1].last == int(memories[1].data) <= kept.last


def test_threads_that_remember_the_same_users_in_another_order(store: Store) -> None:
    def work(thread: int) -> None:
        users = random.Random(thread).sample(range(30), 30)
        for n in range(10):
            store.remember({f"u{user}": Memory("m", 4 * n + thread, b"%d" % thread) for user in users})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert store.memories([f"u{user}" for user in range(30)], "m") == [Memory("m", 39, b"3")] * 30


@contextmanager
def processes(address: str, names: str, count: int, batch: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of ``event_feed.py``, all of which begin at the same time."""
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
            assert process.stdout.readline() == "begun\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_processes_that_open_a_new_store_at_once(address: str, opened: Callable[[str], Store]) -> None:
    with processes(address, "abc", 300, 5) as started:
        store = opened(address)
        with Follower(store, "u2") as follower:
            told = [process.communicate()[0].splitlines() for process in started]
        assert [process.returncode for process in started] == [0, 0, 0]
    everything = agree(store, follower, USERS)
    assert len(everything) == 3 * 300 + 60
    assert sum(int(lines[-1].split()[1]) for lines in told) == 60
    for name in "abc":
        times = [event.time for _, event in everything if event.user != "shared" and event.item.startswith(name)]
        assert times == list(range(300))


def test_a_file_keeps_what_was_acknowledged_when_its_writer_is_killed(
    fresh: Callable[[str], str], opened: Callable[[str], Store]
) -> None:
    address = fresh("sqlite")
    with processes(address, "a", 100_000, 3) as (process,):
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline().split()[0]) for _ in range(40)][-1]
        process.kill()
    store = opened(address)
    events = [event.time for _, event in store.events() if event.user != "shared"]
    assert len(events) >= acknowledged
    assert events == list(range(len(events)))
    assert len(events) % 3 == 0
    assert store.append([Event("u0", "after", 0)]) == [True]


@pytest.mark.parametrize("locked", [True, False])
def test_who_goes_on_after_a_place_misses_nothing(
    locked: bool,
    postgresql_server: PostgreSQLServer,
    fresh: Callable[[str], str],
    opened: Callable[[str], Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process draws a place and is slow to commit, while another one draws the next. Without the lock of the order
    the later place is seen first, and the earlier event by nobody who goes on after it."""
    import psycopg

    if not locked:
        monkeypatch.setattr(postgresql_sql, "ORDER", "SELECT 1")
    address = fresh("postgresql")
    store, reader = opened(address), opened(address)
    store.ping()
    done = threading.Event()

    def append() -> None:
        store.append([Event("u", "fast", 2)])
        done.set()

    with Follower(reader, "u") as follower, ThreadPoolExecutor(1) as threads:
        with psycopg.connect(address) as slow:
            slow.execute(postgresql_sql.ORDER)
            slow.execute(postgresql_sql.APPEND, (["u2"], ["slow"], [1], ["buy"], [1.0], ["k"]))
            running = threads.submit(append)
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not done.is_set() and postgresql_server.query(waiting) == [(0,)]:
                pass
            assert done.is_set() == (not locked)
            while not locked and not follower.own:  # it has gone past the slow event
                pass
        running.result()
    assert [event.item for _, event in store.events()] == ["slow", "fast"]
    assert [event.item for _, event in follower.all] == (["slow", "fast"] if locked else ["fast"])


def test_who_forgets_waits_for_who_remembers(
    postgresql_server: PostgreSQLServer, fresh: Callable[[str], str], opened: Callable[[str], Store]
) -> None:
    import psycopg

    address = fresh("postgresql")
    store = opened(address)
    store.append([Event("u", "a", 1)])
    with ThreadPoolExecutor(1) as threads:
        with psycopg.connect(address) as slow:
            slow.execute(postgresql_sql.STATES_SHARED)
            slow.execute(postgresql_sql.REMEMBER, (["u"], ["m"], [store.kept(["u"], 1)[0].last], [b"x"]))
            running = threads.submit(store.forget, "u")
            waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not running.done() and not postgresql_server.query(waiting):
                pass
        assert running.result() == 1
    assert store.memories(["u"], "m") == [None]
