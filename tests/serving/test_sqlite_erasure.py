"""After an acknowledged deletion no byte of the user is in any file of an SQLite store."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from segue.serving.app import create_app
from segue.serving.stores.sqlite import SQLite
from segue.serving.stores.sqlite_erasure import NOTE, SQLiteErasure
from segue.serving.stores.store import Event, Exposure, UserState
from tests.serving.world import service

TRAFFIC = """
    import random, sys
    from pathlib import Path
    from segue.serving.stores.sqlite import SQLite
    from segue.serving.stores.store import Event, Exposure, UserState
    store, rng = SQLite(Path(sys.argv[1])), random.Random(1)
    print("ready", flush=True)
    for step in range(1_000_000):
        user = f"other-{rng.randrange(500)}"
        store.append([Event(user, "i" * rng.randrange(200), step, key=f"{step}")])
        store.recent_events([user], 50)
        store.record_exposures([Exposure("e", "A", user, 2**40, ("i",) * rng.randrange(50))])
"""
"""Reads and writes in another process until it is killed."""
DELETE_AND_WAIT = """
    import sys, time
    from pathlib import Path
    from segue.serving.stores.sqlite import SQLite
    from segue.serving.stores.sqlite_erasure import SQLiteErasure
    if "unerased" in sys.argv:
        SQLiteErasure.request = lambda self, timeout: "killed before the erasure"
    print(SQLite(Path(sys.argv[1])).delete_user("user-0").is_erased, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be slow: no deletion is acknowledged before the first attempt to erase, no state dropped."""
    monkeypatch.setattr("segue.serving.stores.sqlite.ERASURE_TIMEOUT_SECONDS", 30.0)
    monkeypatch.setattr("segue.serving.stores.sqlite.SHORT_TIMEOUT_SECONDS", 30.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "segue.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLite]:
    path.parent.mkdir()
    store = SQLite(path, lock_timeout=60)  # the other process writes without a pause
    yield store
    store.close()


@contextmanager
def running(script: str, *arguments: str) -> Iterator[str]:
    """Run a script in another process, which is killed after the block; yield its first line."""
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGKILL)


def content(path: Path) -> bytes:
    """Return the bytes of all files in the folder of the store."""
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def fill(store: SQLite, users: list[str], seed: int = 0, n_steps: int = 10) -> None:
    """Store data of users of which every value contains the user's id in angle brackets."""
    rng = random.Random(seed)
    for step in range(n_steps):
        some = users if not step else rng.sample(users, min(len(users), 10))
        store.append(
            [
                Event(
                    user,
                    f"<{user}>" + "x" * rng.randrange(300),
                    1_000,
                    rng.choice([None, f"<{user}>"]),
                    1.0,
                    f"{n}{user}",
                )
                for user in some
                for n in range(rng.choice([1, 1, 3, 10]))
            ]
        )
        states = {user: UserState("m", 2**40, f"<{user}>".encode() * rng.randrange(1, 800)) for user in some[:4]}
        store.put_states(states)
        store.record_exposures(
            [Exposure("e", "A", user, 2**40, (f"<{user}>",) * rng.randrange(60)) for user in some[:4]]
        )


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1_500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("still false after 30 s")


@pytest.mark.parametrize("seed", [1, 2])
def test_no_byte_of_a_deleted_user_remains(store: SQLite, path: Path, seed: int) -> None:
    users = [f"user-{number}-{seed}" for number in range(80)]
    fill(store, users, seed, 40)
    assert all(f"<{user}>".encode() in content(path) for user in users)
    for number, user in enumerate(users[:20]):  # the others keep moving rows between pages
        assert store.delete_user(user).is_erased
        fill(store, users[number + 1 :], number, 3)
        found = [one for one in users[: number + 1] if f"{one}>".encode() in content(path) or one in str(path)]
        assert not found
    assert all(one.deleted and not one.events for one in store.recent_events(users[:20], 9))
    store.close()
    assert not [user for user in users[:20] if user.encode() in content(path)]


class InterruptedConnection:
    """Connection of an erasure, with writes and reads of another process at the worst moments."""

    def __init__(self, connection: sqlite3.Connection, other: sqlite3.Connection) -> None:
        self._connection, self._other = connection, other
        self._n_checkpoints, self._is_truncated = 0, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement == "BEGIN IMMEDIATE" and self._is_truncated:
            # copies of pages from before the erasure
            self._other.execute("SELECT sum(time), sum(length(item)) FROM events").fetchall()
            self._other.execute("SELECT sum(time), sum(length(items)) FROM exposures").fetchall()
        result = self._connection.execute(statement, *parameters)
        self._is_truncated &= statement.startswith("PRAGMA")
        if statement == "PRAGMA wal_checkpoint(TRUNCATE)":
            self._is_truncated = True
            self._n_checkpoints += 1
            if self._n_checkpoints % 3:  # before the erasure has the write lock
                rewrite_pages(self._other)
        if statement == "COMMIT":  # from the copies
            rewrite_pages(self._other)
        return result


def rewrite_pages(connection: sqlite3.Connection) -> None:
    """Change a byte of every row, in place."""
    connection.execute("UPDATE events SET time = time + 1")
    connection.execute("UPDATE exposures SET time = time + 1")


def test_copies_of_pages_in_other_processes_do_not_restore_bytes(store: SQLite, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    assert store._erasure is not None
    connect = store._connect
    store._erasure._connect = lambda: InterruptedConnection(connect(), other)  # type: ignore[assignment,return-value]
    users = [f"user-{number}-2" for number in range(80)]
    fill(store, users, 2, 40)
    for number, user in enumerate(users[:20]):
        assert store.delete_user(user).is_erased
        rewrite_pages(other)
        assert not [one for one in users[: number + 1] if f"{one}>".encode() in content(path)]
        fill(store, users[number + 1 :], number, 3)
    other.close()


def test_no_byte_remains_with_traffic_of_another_process(store: SQLite, path: Path) -> None:
    users = [f"user-{number}" for number in range(8)]
    fill(store, users)
    with running(TRAFFIC, str(path)) as ready:
        assert ready == "ready"
        n_erased = 0
        for user in users:
            deletion = store.delete_user(user)
            n_erased += deletion.is_erased
            if not deletion.is_erased:  # the note says that it takes a moment
                assert deletion.note == NOTE
                wait_until(lambda user=user: f"<{user}>".encode() not in content(path))  # type: ignore[misc]
            assert f"<{user}>".encode() not in content(path)
        assert n_erased
    assert not [user for user in users if f"<{user}>".encode() in content(path)]


def test_no_byte_remains_after_kill_and_reopen(store: SQLite, path: Path) -> None:
    fill(store, ["user-0", "user-1"])
    with running(DELETE_AND_WAIT, str(path)) as is_erased:
        assert is_erased == "True"
        assert b"user-0" not in content(path)
    store.close()
    assert b"user-0" not in content(path)
    again = SQLite(path)
    assert [one.deleted for one in again.recent_events(["user-0", "user-1"], 0)] == [True, False]
    assert b"user-0" not in content(path)
    again.close()


def test_unfinished_erasure_continues_when_the_store_is_opened(path: Path) -> None:
    path.parent.mkdir()
    with running(TRAFFIC, str(path)):  # leaves a file that nobody has closed
        store = SQLite(path)
        fill(store, ["user-0", "user-1"])
    with running(DELETE_AND_WAIT, str(path), "unerased") as is_erased:
        assert is_erased == "False"
    assert b"<user-0>" in content(path)
    again = SQLite(path)
    wait_until(lambda: b"<user-0>" not in content(path))
    again.close()
    store.close()


def test_a_long_reader_delays_the_erasure_but_nothing_else(store: SQLite, path: Path) -> None:
    fill(store, ["user-0", "user-1"])
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    (n_events,) = reader.execute("SELECT count(*) FROM events").fetchone()
    fill(store, ["user-0", "user-1"], n_steps=1)
    for user in ("user-0", "unknown"):
        deletion = store.delete_user(user)
        assert (deletion.is_erased, deletion.note) == (False, NOTE)
        assert store.append([Event("user-1", "a", 1)]) == [True]
    assert store.recent_events(["user-0"], 9)[0].events == ()  # invisible at once
    assert b"<user-0>" in content(path)
    assert reader.execute("SELECT count(*) FROM events").fetchone() == (n_events,)
    reader.execute("ROLLBACK")
    wait_until(lambda: b"user-0" not in content(path))
    reader.close()


def test_concurrent_deletions_share_an_erasure(store: SQLite, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [f"user-{number}" for number in range(8)]
    fill(store, users)
    erase, release, calls = SQLiteErasure._erase, threading.Event(), []

    def wait_and_erase(self: SQLiteErasure) -> bool:
        calls.append(self)
        assert release.wait(30)
        return erase(self)

    monkeypatch.setattr(SQLiteErasure, "_erase", wait_and_erase)
    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(store.delete_user, user) for user in users]
        wait_until(lambda: all(one.deleted for one in store.recent_events(users, 0)))
        release.set()
        assert all(deletion.result().is_erased for deletion in running)
    assert len(calls) <= 3


def test_requests_for_a_deleted_user_leave_no_trace(path: Path) -> None:
    path.parent.mkdir()
    with TestClient(create_app(service("gru4rec", store=f"sqlite:///{path}"))) as client:
        for user in ("u1", "a-new-user"):  # u1 is in the training data, too
            event = {"user": user, "item": f"only-item-of-{user}", "key": f"only-key-of-{user}"}
            assert client.post("/v1/events", json=event).status_code == 200
            assert client.post("/v1/recommend", json={"user": user}).status_code == 200
            assert f"only-item-of-{user}".encode() in content(path)
            deletion = client.delete(f"/v1/users/{user}").json()
            assert deletion == {"id": user, "deleted_events": 1, "erased": True, "notes": []}
            assert client.post("/v1/recommend", json={"user": user}).json()["unknown"]["user"]
            assert client.get(f"/v1/users/{user}").json()["deleted"]
            assert user not in client.get("/v1/users?limit=1000").json()["users"]
            assert not [text for text in ("only-", "a-new-user") if text.encode() in content(path)]


def test_deletion_in_memory_is_complete() -> None:
    store = SQLite(None)
    store.append([Event("u", "a", 1)])
    deletion = store.delete_user("u")
    assert (deletion.events, deletion.is_erased, deletion.note) == (1, True, "")
    store.close()
