"""Event store in a SQLite file.

It needs no server and supports any number of processes on one machine. The file uses WAL mode with
``synchronous=FULL``, so acknowledged events are synced to disk. A writer holds the only write lock from
``BEGIN IMMEDIATE`` on, so sequence numbers become visible in the order in which they are assigned.

See :mod:`segue.serving.stores.sqlite_erasure` for the erasure of deleted users, and
:mod:`segue.serving.stores.sqlite_file` for files that are deleted or replaced while the store is open.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from segue.serving.stores import sqlite_sql
from segue.serving.stores.connection_pool import ConnectionPool
from segue.serving.stores.deletion_markers import CLOCK_SKEW_SECONDS, create_deletion_key, create_deletion_marker
from segue.serving.stores.sqlite_erasure import SQLiteErasure
from segue.serving.stores.sqlite_file import StoreFile
from segue.serving.stores.sqlite_migrations import migrate
from segue.serving.stores.store import (
    LOCK_TIMEOUT_SECONDS,
    OUTCOME_UNKNOWN,
    STORE_DAMAGED,
    STORE_FULL,
    Deletion,
    Event,
    Exposure,
    ItemChange,
    StoreError,
    UserEvents,
    UserState,
)

__all__ = ["SQLite"]

PAGE_SIZE, STATES_PAGE_SIZE = 1_000, 100
"""Rows per read of an iterator, and states per deletion, as states are large."""
SHORT_TIMEOUT_SECONDS = 0.1
"""Timeout for locks of optional writes, and of reads while another process locks the whole file."""
ERASURE_TIMEOUT_SECONDS = 1.0
"""Time for which a deletion waits until its bytes are erased."""
MAX_CONNECTIONS = 32


class SQLite:
    """SQLite implementation of :class:`segue.serving.stores.store.Store`.

    Args:
        path: file, created if it does not exist and readable by its owner only; ``None``: in memory, for tests.
        lock_timeout: seconds for which a write waits for other writers.

    Raises:
        ValueError: the folder does not exist, or the file is not a store.
        StoreError: the file cannot be read or created.
    """

    name, is_in_process = "sqlite", True

    def __init__(self, path: Path | None, lock_timeout: float = LOCK_TIMEOUT_SECONDS) -> None:
        self._path, self._lock_timeout = path, lock_timeout
        self._write_lock = threading.Lock()  # between threads; SQLite itself polls for its lock
        max_size = 1 if path is None else MAX_CONNECTIONS
        self._pool = ConnectionPool(self._connect, lambda c: not c.in_transaction, sqlite3.Connection.close, max_size)
        self._damage: str | None = None
        """Why nothing is stored any more; reading continues as far as possible."""
        self._file: StoreFile | None = None
        self._erasure: SQLiteErasure | None = None
        if path is not None:
            self._file = StoreFile(path)
            self._path = self._file.path
            self._erasure = SQLiteErasure(self._connect, self._file, self._write_lock)
        try:
            with self._write(f"open {path or 'memory'}") as connection:
                self._create_tables(connection)
                connection.execute(sqlite_sql.CREATE_ITEMS_SQL)
                if connection.execute(sqlite_sql.HAS_CONTEXT_SQL).fetchone() == (0,):
                    connection.execute(sqlite_sql.ADD_CONTEXT_SQL)
                row = connection.execute("SELECT deletion_key, last_erasure < last_deletion FROM store").fetchone()
            self._deletion_key, is_erasure_pending = row
            if self._file is not None:
                self._file.watch()
        except BaseException:
            self.close()
            raise
        if self._erasure is not None and is_erasure_pending:  # an earlier process ended before it was finished
            self._erasure.request(timeout=0.0)

    def __repr__(self) -> str:
        return f"SQLite({str(self._path) if self._path else None!r})"

    def append(self, events: Sequence[Event]) -> list[bool]:
        """See :meth:`segue.serving.stores.store.Store.append`."""
        is_new: list[bool] = []
        users: dict[str, list[int]] = {}  # id, number of events, last sequence number
        with self._write("store events") as connection:
            (sequence,) = connection.execute("SELECT last_sequence FROM store").fetchone()
            for event in events:
                user = users.get(event.user)
                if user is None:
                    user = users[event.user] = self._get_or_create_user(connection, event.user)
                row = (event.item, event.time, event.action, event.value, event.key, event.context)
                values = (user[0], sequence + 1, user[1] + 1, *row)
                inserted = connection.execute(sqlite_sql.INSERT_EVENT_SQL, values).rowcount == 1
                if inserted:
                    sequence += 1
                    user[1] += 1
                    user[2] = sequence
                is_new.append(inserted)
            if any(is_new):
                rows = [(total, last, user_id) for user_id, total, last in users.values()]
                connection.executemany("UPDATE users SET total = ?, last_sequence = ? WHERE id = ?", rows)
                connection.execute("UPDATE store SET last_sequence = ?", (sequence,))
        return is_new

    def recent_events(self, users: Sequence[str], limit: int, after: int = 0) -> list[UserEvents]:
        """See :meth:`segue.serving.stores.store.Store.recent_events`."""
        with self._read("read events") as connection:
            return [self._recent_events(connection, user, limit, after) for user in users]

    def events_after(self, user: str, sequence: int, limit: int) -> tuple[tuple[Event, ...], int]:
        """See :meth:`segue.serving.stores.store.Store.events_after`."""
        query = """SELECT item, time, action, value, key, context, sequence FROM events
            WHERE user_id = (SELECT id FROM users WHERE external_id = ?) AND sequence > ? ORDER BY sequence LIMIT ?"""
        with self._read("read events") as connection:
            rows = connection.execute(query, (user, sequence, limit)).fetchall()
        return tuple(Event(user, *row[:6]) for row in rows), rows[-1][6] if rows else sequence

    def get_states(self, users: Sequence[str], model: str) -> list[UserState | None]:
        """See :meth:`segue.serving.stores.store.Store.get_states`."""
        query = "SELECT last_sequence, data FROM states WHERE external_id = ? AND model = ?"
        with self._read("read states") as connection:
            rows = [connection.execute(query, (user, model)).fetchone() for user in users]
        return [None if row is None else UserState(model, *row) for row in rows]

    def put_states(self, states: Mapping[str, UserState]) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_states`."""
        now = int(time.time())
        rows = [
            (user, state.model, state.last_sequence, state.data, now, self._marker(user))
            for user, state in states.items()
        ]
        # responses wait for this, and states can be recomputed
        with self._write("store states", SHORT_TIMEOUT_SECONDS, synced=False) as connection:
            connection.executemany(sqlite_sql.PUT_STATE_SQL, rows)

    def prune_states(self, before: int) -> int:
        """See :meth:`segue.serving.stores.store.Store.prune_states`."""
        count = 0
        while True:
            with self._read("list states") as connection:
                rows = connection.execute(sqlite_sql.SELECT_STATES_SQL, (before, STATES_PAGE_SIZE)).fetchall()
            if not rows:
                return count
            with self._write("delete states") as connection:
                # a state may have been written again meanwhile
                delete = "DELETE FROM states WHERE rowid = ? AND written_at < ?"
                count += connection.executemany(delete, [(row, before) for (row,) in rows]).rowcount

    def delete_user(self, user: str) -> Deletion:
        """See :meth:`segue.serving.stores.store.Store.delete_user`."""
        delete_events = "DELETE FROM events WHERE user_id = (SELECT id FROM users WHERE external_id = ?)"
        with self._write("delete a user") as connection:
            connection.execute(sqlite_sql.NEXT_DELETION_SQL)
            (sequence,) = connection.execute("SELECT last_sequence FROM store").fetchone()
            count = connection.execute(delete_events, (user,)).rowcount
            for table in ("users", "states", "exposures"):
                connection.execute(f"DELETE FROM {table} WHERE external_id = ?", (user,))
            row = (self._marker(user), sequence, int(time.time()))
            connection.execute(sqlite_sql.MARK_DELETED_SQL, row)
        note = "" if self._erasure is None else self._erasure.request(ERASURE_TIMEOUT_SECONDS)
        return Deletion(count, not note, note)

    def put_items(self, items: Mapping[str, str | None]) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_items`."""
        with self._write("store items") as connection:
            connection.executemany(sqlite_sql.PUT_ITEM_SQL, items.items())

    def item_changes(self, after: int, limit: int) -> list[ItemChange]:
        """See :meth:`segue.serving.stores.store.Store.item_changes`."""
        with self._read("read items") as connection:
            return [ItemChange(*row) for row in connection.execute(sqlite_sql.ITEM_CHANGES_SQL, (after, limit))]

    def get_setting(self, name: str) -> str | None:
        """See :meth:`segue.serving.stores.store.Store.get_setting`."""
        with self._read("read a setting") as connection:
            row = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put_setting(self, name: str, value: str) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_setting`."""
        with self._write("store a setting") as connection:
            connection.execute("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", (name, value))

    def record_exposures(self, exposures: Sequence[Exposure]) -> None:
        """See :meth:`segue.serving.stores.store.Store.record_exposures`."""
        rows = [
            (
                e.experiment,
                e.variant,
                e.user,
                e.time,
                json.dumps(e.items),
                self._marker(e.user),
                e.time - CLOCK_SKEW_SECONDS,
            )
            for e in exposures
        ]
        with self._write("store exposures") as connection:
            connection.executemany(sqlite_sql.RECORD_EXPOSURE_SQL, rows)

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """See :meth:`segue.serving.stores.store.Store.exposures`."""
        query = """SELECT id, variant, external_id, time, items FROM exposures
            WHERE experiment = ? AND id > ? ORDER BY id LIMIT ?"""
        last_id = 0
        while True:
            with self._read("read exposures") as connection:
                rows = connection.execute(query, (experiment, last_id, PAGE_SIZE)).fetchall()
            for _, variant, user, shown_at, items in rows:
                yield Exposure(experiment, variant, user, shown_at, tuple(json.loads(items)))
            if len(rows) < PAGE_SIZE:
                return
            last_id = rows[-1][0]

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """See :meth:`segue.serving.stores.store.Store.events`."""
        while True:
            with self._read("read events") as connection:
                rows = connection.execute(sqlite_sql.EVENTS_SQL, (after, PAGE_SIZE)).fetchall()
            for after, *row in rows:
                yield after, Event(*row)
            if len(rows) < PAGE_SIZE:
                return

    def size_bytes(self) -> int:
        """See :meth:`segue.serving.stores.store.Store.size_bytes`.

        It is the size of the pages in use and of the changes in the ``-wal`` file that readers keep there; free pages
        and the rest of that file will be used again.
        """
        self._check_file()
        with self._convert_errors("measure the size"), self._pool.connection() as connection:
            _, n_frames, n_copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            pages, free_pages, page_bytes = [
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            ]
        return int((pages - free_pages + max(0, n_frames - n_copied)) * page_bytes)

    def ping(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.ping`."""
        self._check_damage()
        with self._read("respond") as connection:
            connection.execute("SELECT last_sequence FROM store").fetchone()

    def close(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.close`."""
        if self._erasure is not None:
            self._erasure.close()
        self._pool.close()
        if self._file is not None:
            self._file.close()

    def _connect(self) -> sqlite3.Connection:
        database = ":memory:" if self._path is None else self._path
        connection = sqlite3.connect(
            database, timeout=self._lock_timeout, isolation_level=None, check_same_thread=False
        )
        with suppress(sqlite3.OperationalError):  # while other processes open the file too; any mode is durable
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages of 4 KiB
        connection.execute("PRAGMA journal_size_limit = 33554432")  # bytes of -wal, after a long reader has ended
        connection.execute("PRAGMA cache_size = -8000")  # KiB
        connection.execute("PRAGMA secure_delete = ON")  # deleted rows leave no trace in free pages
        connection.execute("PRAGMA temp_store = MEMORY")  # nor in temporary files
        connection.execute(f"PRAGMA busy_timeout = {round(1000 * SHORT_TIMEOUT_SECONDS)}")
        return connection

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        """Create the tables in a new file, or check or convert an existing one.

        Raises:
            ValueError: the file is not a store of a supported format.
        """
        (n_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not n_tables:
            for statement in sqlite_sql.CREATE_TABLES_SQL.split(";"):
                connection.execute(statement)
            row = (0, create_deletion_key())
            connection.execute("INSERT INTO store (last_sequence, deletion_key) VALUES (?, ?)", row)
            return
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != sqlite_sql.APPLICATION_ID:
            raise ValueError(f"store: {self._path}: not a Segue store")
        if version == sqlite_sql.FORMAT - 1:
            migrate(connection)
        elif version != sqlite_sql.FORMAT:
            raise ValueError(f"store: {self._path}: got format {version}, expected {sqlite_sql.FORMAT}")

    def _get_or_create_user(self, connection: sqlite3.Connection, user: str) -> list[int]:
        """Return the id, number of events and last sequence number of a user."""
        query = "SELECT id, total, last_sequence FROM users WHERE external_id = ?"
        row = connection.execute(query, (user,)).fetchone()
        if row is not None:
            return list(row)
        insert = "INSERT INTO users (external_id, previous_deletion) VALUES (?, ?)"
        return [connection.execute(insert, (user, self._last_deletion(connection, user))).lastrowid or 0, 0, 0]

    def _last_deletion(self, connection: sqlite3.Connection, user: str) -> int:
        """Return the sequence number of the last deletion of a user; 0 if there was none."""
        query = "SELECT sequence FROM deletions WHERE marker = ?"
        row = connection.execute(query, (self._marker(user),)).fetchone()
        return 0 if row is None else int(row[0])

    def _marker(self, user: str) -> bytes:
        return create_deletion_marker(self._deletion_key, user)

    def _recent_events(self, connection: sqlite3.Connection, user: str, limit: int, after: int) -> UserEvents:
        query = "SELECT id, total, last_sequence, previous_deletion FROM users WHERE external_id = ?"
        row = connection.execute(query, (user,)).fetchone()
        if row is None:
            deletion = self._last_deletion(connection, user)
            return UserEvents(last_sequence=deletion, deleted=deletion > 0)
        user_id, total, last_sequence, previous_deletion = row
        if after:
            query = """SELECT event_number FROM events
                WHERE user_id = ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1"""
            previous = connection.execute(query, (user_id, after)).fetchone()
            total -= previous[0] if previous else 0
        query = """SELECT item, time, action, value, key, context FROM events
            WHERE user_id = ? AND sequence > ? ORDER BY sequence DESC LIMIT ?"""
        rows = connection.execute(query, (user_id, after, limit)).fetchall()
        events = tuple([Event(user, *row) for row in reversed(rows)])
        return UserEvents(events, total, last_sequence, previous_deletion > 0)

    @contextmanager
    def _write(self, operation: str, timeout: float | None = None, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """Open a write transaction.

        Args:
            timeout: seconds to wait for other writers; default: that of the store.
            synced: whether to sync to disk; otherwise only this transaction may be lost in a power failure.
        """
        self._check_file()
        self._check_damage()
        end = time.monotonic() + (self._lock_timeout if timeout is None else timeout)
        if not self._write_lock.acquire(timeout=end - time.monotonic()):
            raise StoreError(f"sqlite: cannot {operation}: the write lock is held by another thread")
        try:
            with self._convert_errors(operation), self._pool.connection() as connection:
                remaining = max(0.0, end - time.monotonic())
                connection.execute(f"PRAGMA busy_timeout = {round(1000 * remaining)}")
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
                    connection.execute(f"PRAGMA busy_timeout = {round(1000 * SHORT_TIMEOUT_SECONDS)}")
                    if not synced:
                        connection.execute("PRAGMA synchronous = FULL")
        finally:
            self._write_lock.release()
        try:
            self._check_file()
        except StoreError as error:  # while the transaction was running
            raise StoreError(f"{error}; {OUTCOME_UNKNOWN}") from None

    @contextmanager
    def _read(self, operation: str) -> Iterator[sqlite3.Connection]:
        self._check_file()
        with self._convert_errors(operation), self._pool.connection() as connection:
            connection.execute("BEGIN")  # consistent snapshot
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _check_damage(self) -> None:
        """Check that the file was not found damaged before.

        What is stored in a damaged file may be lost when it is repaired.

        Raises:
            StoreError: it was.
        """
        if self._damage is not None:
            raise StoreError(
                f"sqlite: {self._path}: {STORE_DAMAGED} ({self._damage}); stop the service, restore a backup or copy "
                "what is readable (sqlite3 FILE .recover), and start it again"
            )

    def _check_file(self) -> None:
        if self._file is not None:
            self._file.check()

    @contextmanager
    def _convert_errors(self, operation: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            suffix = f"; {STORE_FULL}" if name == "SQLITE_FULL" else ""
            if name.startswith("SQLITE_CORRUPT") or (name == "SQLITE_NOTADB" and not operation.startswith("open")):
                self._damage = name
                suffix = f"; {STORE_DAMAGED}"
            raise StoreError(f"sqlite: cannot {operation}: {name}{suffix}") from None
