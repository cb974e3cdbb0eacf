"""Events in one file, by SQLite: nothing to install, and as many processes of one machine as there are.

The file is in WAL mode with ``synchronous=FULL``: what is acknowledged has been synced to the disk. Who writes holds
the only lock from ``BEGIN IMMEDIATE`` on, so places are seen in the order in which they were given.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from segue.serving.stores.connection_pool import Connections
from segue.serving.stores.sqlite_sql import ADD, APPLICATION, EVENTS, FORGET, FORMAT, LOOK, REMEMBER, TABLES
from segue.serving.stores.store import Event, Exposure, Kept, Memory, StoreError

__all__ = ["SQLite"]

PAGE, FEW = 1_000, 100
"""Rows that an iterator reads at once, and memories, which are large, that are deleted at once."""
BUSY_SECONDS, HURRY_SECONDS = 10.0, 0.1
"""How long to wait for others who write; and how long with what can be done another time, or when somebody keeps the
whole file to himself, so that it cannot be read either."""
MOST_CONNECTIONS = 32


class SQLite:
    """A :class:`segue.serving.stores.store.Store` in the file ``path``, which is made if it is not there, readable by
    its owner alone; ``None``: in memory, to try things out.

    Raises:
        ValueError: no such folder, or a file of something else.
        StoreError: it cannot be read or made.
    """

    name, prompt = "sqlite", True

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._writing = threading.Lock()  # threads take turns here; SQLite lets those who wait sleep
        most = 1 if path is None else MOST_CONNECTIONS
        self._connections = Connections(self._connect, lambda c: not c.in_transaction, sqlite3.Connection.close, most)
        if path is not None:
            if not path.parent.is_dir():
                raise ValueError(f"store: {path.parent}: no such folder")
            try:
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            except OSError as error:
                raise StoreError(f"store: {path}: {error.strerror}") from None
        with self._write(f"open {path or 'memory'}") as connection:
            self._make(connection)

    def __repr__(self) -> str:
        return f"SQLite({str(self._path) if self._path else None!r})"

    def append(self, events: Sequence[Event]) -> list[bool]:
        """See :meth:`segue.serving.stores.store.Store.append`."""
        new: list[bool] = []
        people: dict[str, list[int]] = {}  # id, events, newest place
        with self._write("keep events") as connection:
            (place,) = connection.execute("SELECT last FROM places").fetchone()
            for event in events:
                person = people.get(event.user)
                if person is None:
                    person = people[event.user] = self._person(connection, event.user)
                row = (event.item, event.time, event.action, event.value, event.key)
                added = connection.execute(ADD, (person[0], place + 1, person[1] + 1, *row)).rowcount == 1
                if added:
                    place += 1
                    person[1] += 1
                    person[2] = place
                new.append(added)
            if any(new):
                rows = [(total, last, number) for number, total, last in people.values()]
                connection.executemany("UPDATE users SET total = ?, last = ? WHERE id = ?", rows)
                connection.execute("UPDATE places SET last = ?", (place,))
        return new

    def kept(self, users: Sequence[str], most: int, after: int = 0) -> list[Kept]:
        """See :meth:`segue.serving.stores.store.Store.kept`."""
        with self._read("read events") as connection:
            return [self._kept(connection, user, most, after) for user in users]

    def since(self, user: str, place: int, most: int) -> tuple[tuple[Event, ...], int]:
        """See :meth:`segue.serving.stores.store.Store.since`."""
        query = """SELECT item, time, action, value, key, place FROM events
            WHERE person = (SELECT id FROM users WHERE name = ?) AND place > ? ORDER BY place LIMIT ?"""
        with self._read("read events") as connection:
            rows = connection.execute(query, (user, place, most)).fetchall()
        return tuple(Event(user, *row[:5]) for row in rows), rows[-1][5] if rows else place

    def memories(self, users: Sequence[str], model: str) -> list[Memory | None]:
        """See :meth:`segue.serving.stores.store.Store.memories`."""
        query = "SELECT last, data FROM memories WHERE name = ? AND model = ?"
        with self._read("read memories") as connection:
            rows = [connection.execute(query, (user, model)).fetchone() for user in users]
        return [None if row is None else Memory(model, *row) for row in rows]

    def remember(self, memories: Mapping[str, Memory]) -> None:
        """See :meth:`segue.serving.stores.store.Store.remember`."""
        rows = [(user, memory.model, memory.last, memory.data) for user, memory in memories.items()]
        # answers wait for this, and it can be had again from the events
        with self._write("keep memories", HURRY_SECONDS, synced=False) as connection:
            connection.executemany(REMEMBER, rows)

    def prune(self, models: Collection[str]) -> int:
        """See :meth:`segue.serving.stores.store.Store.prune`."""
        count = at = 0
        while True:
            with self._read("look for old memories") as connection:
                rows = connection.execute(LOOK, (at, FEW)).fetchall()
            if old := [row for row in rows if row[1] not in models]:
                with self._write("delete old memories") as connection:
                    connection.executemany("DELETE FROM memories WHERE rowid = ? AND model = ?", old)
                count += len(old)
            if len(rows) < FEW:
                return count
            at = rows[-1][0]

    def forget(self, user: str) -> int:
        """See :meth:`segue.serving.stores.store.Store.forget`."""
        events = "DELETE FROM events WHERE person = (SELECT id FROM users WHERE name = ?)"
        with self._write("forget a user") as connection:
            connection.execute("UPDATE places SET last = last + 1")
            count = connection.execute(events, (user,)).rowcount
            connection.execute("DELETE FROM memories WHERE name = ?", (user,))
            connection.execute("DELETE FROM exposures WHERE name = ?", (user,))
            connection.execute(FORGET, (user,))
        return count

    def get(self, name: str) -> str | None:
        """See :meth:`segue.serving.stores.store.Store.get`."""
        with self._read("read a setting") as connection:
            row = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, name: str, value: str) -> None:
        """See :meth:`segue.serving.stores.store.Store.put`."""
        with self._write("keep a setting") as connection:
            connection.execute("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", (name, value))

    def expose(self, exposures: Sequence[Exposure]) -> None:
        """See :meth:`segue.serving.stores.store.Store.expose`."""
        rows = [(e.experiment, e.variant, e.user, e.time, json.dumps(e.items)) for e in exposures]
        with self._write("keep exposures") as connection:
            connection.executemany(
                "INSERT INTO exposures (experiment, variant, name, time, items) VALUES (?, ?, ?, ?, ?)", rows
            )

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """See :meth:`segue.serving.stores.store.Store.exposures`."""
        query = """SELECT id, variant, name, time, items FROM exposures
            WHERE experiment = ? AND id > ? ORDER BY id LIMIT ?"""
        last = 0
        while True:
            with self._read("read exposures") as connection:
                rows = connection.execute(query, (experiment, last, PAGE)).fetchall()
            for _, variant, user, time, items in rows:
                yield Exposure(experiment, variant, user, time, tuple(json.loads(items)))
            if len(rows) < PAGE:
                return
            last = rows[-1][0]

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """See :meth:`segue.serving.stores.store.Store.events`."""
        while True:
            with self._read("read events") as connection:
                rows = connection.execute(EVENTS, (after, PAGE)).fetchall()
            for after, *row in rows:
                yield after, Event(*row)
            if len(rows) < PAGE:
                return

    def ping(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.ping`."""
        with self._read("answer") as connection:
            connection.execute("SELECT last FROM places").fetchone()

    def close(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.close`."""
        self._connections.close()

    def _connect(self) -> sqlite3.Connection:
        where = ":memory:" if self._path is None else self._path
        connection = sqlite3.connect(where, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        with suppress(sqlite3.OperationalError):  # while others open the file too; it is durable in any mode
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages of 4 KiB
        connection.execute("PRAGMA cache_size = -8000")  # KiB
        connection.execute("PRAGMA secure_delete = ON")  # who is forgotten leaves no trace in free pages
        connection.execute(f"PRAGMA busy_timeout = {round(1000 * HURRY_SECONDS)}")
        return connection

    def _make(self, connection: sqlite3.Connection) -> None:
        """Make the tables in a file that is new.

        Raises:
            ValueError: the file is not new, and not a store that this Segue reads.
        """
        (made,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not made:
            for statement in TABLES.split(";"):
                connection.execute(statement)
            return
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION:
            raise ValueError(f"store: {self._path}: a database of something else")
        if version != FORMAT:
            raise ValueError(f"store: {self._path}: format {version}, this Segue reads {FORMAT}")

    def _person(self, connection: sqlite3.Connection, user: str) -> list[int]:
        row = connection.execute("SELECT id, total, last FROM users WHERE name = ?", (user,)).fetchone()
        if row is not None:
            return list(row)
        return [connection.execute("INSERT INTO users (name) VALUES (?)", (user,)).lastrowid or 0, 0, 0]

    def _kept(self, connection: sqlite3.Connection, user: str, most: int, after: int) -> Kept:
        query = "SELECT id, total, last, forgotten FROM users WHERE name = ?"
        person = connection.execute(query, (user,)).fetchone()
        if person is None:
            return Kept()
        number, total, last, forgotten = person
        if after:
            query = "SELECT nth FROM events WHERE person = ? AND place <= ? ORDER BY place DESC LIMIT 1"
            before = connection.execute(query, (number, after)).fetchone()
            total -= before[0] if before else 0
        query = """SELECT item, time, action, value, key FROM events
            WHERE person = ? AND place > ? ORDER BY place DESC LIMIT ?"""
        rows = connection.execute(query, (number, after, most)).fetchall()
        return Kept(tuple([Event(user, *row) for row in reversed(rows)]), total, last, forgotten > 0)

    @contextmanager
    def _write(self, what: str, seconds: float = BUSY_SECONDS, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction, once others have written for at most so many seconds; what is not ``synced`` may be lost when
        the machine fails, and nothing else."""
        if not self._writing.acquire(timeout=seconds):
            raise StoreError(f"sqlite: cannot {what}: others are writing")
        try:
            with self._told(what), self._connections.lend() as connection:
                connection.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")
                if not synced:
                    connection.execute("PRAGMA synchronous = NORMAL")
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                finally:
                    connection.execute(f"PRAGMA busy_timeout = {round(1000 * HURRY_SECONDS)}")
                    if not synced:
                        connection.execute("PRAGMA synchronous = FULL")
        finally:
            self._writing.release()

    @contextmanager
    def _read(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._told(what), self._connections.lend() as connection:
            connection.execute("BEGIN")  # one moment for all that is read
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"sqlite: cannot {what}: {getattr(error, 'sqlite_errorname', type(error).__name__)}"
            ) from None
