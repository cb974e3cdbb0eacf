"""Event store in PostgreSQL, for services on several machines.

It needs the extra ``postgresql``. Durability of acknowledged events depends on the server's ``fsync`` and
``synchronous_commit``; a warning is logged if they are off. See :mod:`segue.serving.stores.postgresql_sql` for how all
readers see events in the same order.
"""

from __future__ import annotations

import json
import logging
import selectors
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from segue.serving.stores import postgresql_sql
from segue.serving.stores.background_erasure import BackgroundErasure
from segue.serving.stores.connection_pool import ConnectionPool
from segue.serving.stores.deletion_markers import CLOCK_SKEW_SECONDS, create_deletion_key, create_deletion_marker
from segue.serving.stores.store import (
    LOCK_TIMEOUT_SECONDS,
    OUTCOME_UNKNOWN,
    STORE_FULL,
    Deletion,
    Event,
    Exposure,
    ItemChange,
    StoreError,
    UserEvents,
    UserState,
)

if TYPE_CHECKING:
    import psycopg

    Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

__all__ = ["PostgreSQL"]

logger = logging.getLogger("segue.serving.stores")

PAGE_SIZE = 1_000
"""Rows per read of an iterator."""
MAX_CONNECTIONS = 16
TIMEOUTS = {"connect_timeout": 3, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
            "tcp_user_timeout": 10_000}  # fmt: skip
"""Default connection timeouts, in seconds and (``tcp_user_timeout``) milliseconds; the address may override them."""
SET_LIMITS_SQL = "SELECT set_config(name, '10s', false) FROM pg_settings WHERE name IN %s AND setting = '0'"
"""Limits the duration of statements where the server has no limit, so that the sequence lock is never held forever."""
LIMIT_LOCKS_SQL = """
SELECT set_config(name, %s, false) FROM pg_settings WHERE name = 'lock_timeout' AND setting = '0'
"""
LIMIT_NAMES = "('statement_timeout', 'idle_in_transaction_session_timeout')"
VACUUM_DELAY_MS = 2
"""Pauses of ``VACUUM`` as those of autovacuum."""
ERASURE_NOTE = (
    "PostgreSQL's files may contain bytes of the user until VACUUM FULL of the tables, "
    "and its write-ahead log until the segments are recycled"
)
FULL_CODES = ("53100",)
"""Error codes of a full disk."""
PLANNER_SQL = "SET enable_seqscan = off; SET jit = off"
"""Plans made for small tables stay in use when the tables grow, and compiling takes longer than running."""
CONNECTION_ERRORS = ("Connection refused", "No such file or directory", "timeout expired",
                     "could not translate host name", "authentication failed", "does not exist", "too many clients",
                     "starting up", "shutting down")  # fmt: skip
"""Parts of connection errors that may be reported; whole messages can contain parts of the address."""


class PostgreSQL:
    """PostgreSQL implementation of :class:`segue.serving.stores.store.Store`.

    Args:
        address: libpq connection URI. The server is contacted, and the tables are created, on first use.
        lock_timeout: seconds for which a write waits for other writers, unless the server has a limit.

    Raises:
        ValueError: the extra is not installed, or the address is invalid.
    """

    name, is_in_process = "postgresql", False

    def __init__(self, address: str, lock_timeout: float = LOCK_TIMEOUT_SECONDS) -> None:
        try:
            import psycopg
        except ImportError:
            raise ValueError("psycopg is not installed: pip install 'segue[postgresql]'") from None
        try:
            self._parameters = psycopg.conninfo.conninfo_to_dict(address)
        except psycopg.Error:  # its message contains parts of the address
            raise ValueError(
                "store: invalid PostgreSQL address, expected postgresql://[user[:password]@][host][:port]/database"
            ) from None
        self._psycopg, self._lock_timeout = psycopg, lock_timeout
        self._is_initialized = False
        self._key = b""  # of the deletion markers
        self._erasure = BackgroundErasure(self._vacuum)
        self._init_lock = threading.Lock()
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            self._connect, _is_usable, psycopg.Connection.close, MAX_CONNECTIONS
        )

    def __repr__(self) -> str:
        return f"PostgreSQL(database={self._parameters.get('dbname')!r})"

    def append(self, events: Sequence[Event]) -> list[bool]:
        """See :meth:`segue.serving.stores.store.Store.append`."""
        is_new = [False] * len(events)
        keys: set[tuple[str, str]] = set()
        rows: list[int] = []  # without duplicate keys
        for row, event in enumerate(events):
            if event.key is not None:
                if (event.user, event.key) in keys:
                    continue
                keys.add((event.user, event.key))
            rows.append(row)
        unique = [events[row] for row in rows]
        columns = (
            [event.user for event in unique],
            [event.item for event in unique],
            [event.time for event in unique],
            [event.action for event in unique],
            [None if event.value is None else float(event.value) for event in unique],
            [event.key for event in unique],
            [event.context for event in unique],
        )
        with self._write("store events") as connection:
            connection.execute(postgresql_sql.LOCK_SEQUENCE_SQL)
            # not prepared: the plan must fit the number of events
            cursor = connection.execute(postgresql_sql.APPEND_SQL, columns, prepare=False)
        for (number,) in cursor.fetchall():
            is_new[rows[number - 1]] = True
        return is_new

    def recent_events(self, users: Sequence[str], limit: int, after: int = 0) -> list[UserEvents]:
        """See :meth:`segue.serving.stores.store.Store.recent_events`."""
        markers = self._markers("read events", users)
        parameters = {"users": list(users), "markers": markers, "limit": limit, "after": after}
        is_one = len(users) == 1
        query = postgresql_sql.RECENT_EVENTS_OF_ONE_SQL if is_one else postgresql_sql.RECENT_EVENTS_SQL
        rows = self._fetch("read events", query, parameters)
        result = [UserEvents()] * len(users)
        events: list[Event] = []
        start = 0
        for end, (number, total, last_sequence, deleted, *event) in enumerate(rows, 1):
            if event[0] is not None:
                events.append(Event(users[number - 1], *event))
            if end == len(rows) or rows[end][0] != number:
                result[number - 1] = UserEvents(tuple(events[start:]), total, last_sequence, deleted)
                start = len(events)
        return result

    def events_after(self, user: str, sequence: int, limit: int) -> tuple[tuple[Event, ...], int]:
        """See :meth:`segue.serving.stores.store.Store.events_after`."""
        rows = self._fetch("read events", postgresql_sql.EVENTS_AFTER_SQL, (user, sequence, limit))
        return tuple([Event(user, *row[:6]) for row in rows]), rows[-1][6] if rows else sequence

    def get_states(self, users: Sequence[str], model: str) -> list[UserState | None]:
        """See :meth:`segue.serving.stores.store.Store.get_states`."""
        rows = self._fetch("read states", postgresql_sql.GET_STATES_SQL, (list(users), model))
        states = {user: UserState(model, last_sequence, data) for user, last_sequence, data in rows}
        return [states.get(user) for user in users]

    def put_states(self, states: Mapping[str, UserState]) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_states`."""
        users = sorted(states)
        parameters = {
            "time": int(time.time()),
            "users": users,
            "markers": self._markers("store states", users),
            "models": [states[user].model for user in users],
            "last_sequences": [states[user].last_sequence for user in users],
            "data": [states[user].data for user in users],
        }
        with self._write("store states") as connection:
            connection.execute("SET LOCAL synchronous_commit = off")  # states can be recomputed from the events
            connection.execute(postgresql_sql.LOCK_STATES_SHARED_SQL)
            connection.execute(postgresql_sql.PUT_STATES_SQL, parameters)

    def prune_states(self, before: int) -> int:
        """See :meth:`segue.serving.stores.store.Store.prune_states`."""
        count, last = 0, ("", "")
        while rows := self._fetch("list states", postgresql_sql.SELECT_STATES_SQL, (*last, PAGE_SIZE)):
            last = rows[-1][:2]
            if outdated := [row for row in rows if row[2] < before]:
                columns = [[row[column] for row in outdated] for column in range(2)]
                with self._write("delete states") as connection:
                    cursor = connection.execute(postgresql_sql.PRUNE_STATES_SQL, (*columns, before))
                count += cursor.rowcount
        return count

    def delete_user(self, user: str) -> Deletion:
        """See :meth:`segue.serving.stores.store.Store.delete_user`."""
        marker = self._markers("delete a user", [user])
        with self._write("delete a user") as connection:
            connection.execute(postgresql_sql.LOCK_SEQUENCE_SQL)
            connection.execute(postgresql_sql.LOCK_STATES_SQL)
            events, *_ = [connection.execute(statement, (user,)) for statement in postgresql_sql.DELETE_USER_SQL]
            self._insert_markers(connection, [marker], [None])
        self._erasure.request(0)
        return Deletion(events.rowcount, False, ERASURE_NOTE)

    def put_items(self, items: Mapping[str, str | None]) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_items`."""
        with self._write("store items") as connection:
            connection.execute(postgresql_sql.LOCK_ITEMS_SQL)
            connection.execute(postgresql_sql.PUT_ITEMS_SQL, (list(items), list(items.values())), prepare=False)

    def item_changes(self, after: int, limit: int) -> list[ItemChange]:
        """See :meth:`segue.serving.stores.store.Store.item_changes`."""
        rows = self._fetch("read items", postgresql_sql.ITEM_CHANGES_SQL, (after, limit))
        return [ItemChange(*row) for row in rows]

    def get_setting(self, name: str) -> str | None:
        """See :meth:`segue.serving.stores.store.Store.get_setting`."""
        rows = self._fetch("read a setting", "SELECT value FROM segue_settings WHERE name = %s", (name,))
        return str(rows[0][0]) if rows else None

    def put_setting(self, name: str, value: str) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_setting`."""
        with self._write("store a setting") as connection:
            connection.execute(postgresql_sql.PUT_SETTING_SQL, (name, value))

    def record_exposures(self, exposures: Sequence[Exposure]) -> None:
        """See :meth:`segue.serving.stores.store.Store.record_exposures`."""
        users = [e.user for e in exposures]
        parameters = {
            "experiments": [e.experiment for e in exposures],
            "variants": [e.variant for e in exposures],
            "users": users,
            "markers": self._markers("store exposures", users),
            "times": [e.time for e in exposures],
            "items": [json.dumps(e.items) for e in exposures],
            "clock_skew": CLOCK_SKEW_SECONDS,
        }
        with self._write("store exposures") as connection:
            connection.execute(postgresql_sql.LOCK_STATES_SHARED_SQL)
            connection.execute(postgresql_sql.RECORD_EXPOSURES_SQL, parameters)

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """See :meth:`segue.serving.stores.store.Store.exposures`."""
        last_id = 0
        while True:
            rows = self._fetch("read exposures", postgresql_sql.EXPOSURES_SQL, (experiment, last_id, PAGE_SIZE))
            for _, variant, user, shown_at, items in rows:
                yield Exposure(experiment, variant, user, shown_at, tuple(json.loads(items)))
            if len(rows) < PAGE_SIZE:
                return
            last_id = rows[-1][0]

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """See :meth:`segue.serving.stores.store.Store.events`."""
        while True:
            rows = self._fetch("read events", postgresql_sql.EVENTS_SQL, (after, PAGE_SIZE))
            for after, *event in rows:
                yield after, Event(*event)
            if len(rows) < PAGE_SIZE:
                return

    def size_bytes(self) -> int:
        """Return the size of the tables and their indexes, including free space.

        See :meth:`segue.serving.stores.store.Store.size_bytes`.
        """
        return int(self._fetch("read its size", postgresql_sql.SIZE_SQL)[0][0])

    def ping(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.ping`."""
        self._fetch("respond", "SELECT format FROM segue_store")

    def close(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.close`."""
        self._erasure.close()
        self._pool.close()

    def _markers(self, operation: str, users: Iterable[str]) -> bytes:
        """Return the users' deletion markers one after the other."""
        if not self._is_initialized:
            with self._connection(operation):
                pass
        return b"".join([create_deletion_marker(self._key, user) for user in users])

    def _insert_markers(self, connection: Connection, markers: list[bytes], sequences: list[int | None]) -> None:
        """Insert deletion markers with these sequence numbers, or new ones.

        Raises:
            StoreError: the tables were replaced while the store was open, so the markers have another key.
        """
        parameters = (int(time.time()), markers, sequences, self._key)
        cursor = connection.execute(postgresql_sql.MARK_DELETED_SQL, parameters)
        if markers and cursor.fetchone() is None:
            self._is_initialized = False
            raise StoreError("postgresql: the tables were replaced while the store was open; nothing was deleted")

    def _vacuum(self) -> str:
        """Reclaim the space of deleted rows, most of which is overwritten by others."""
        try:
            with self._connect() as connection:
                tables = [name for (name,) in connection.execute(postgresql_sql.OWNED_TABLES_SQL)]
                if tables:
                    connection.execute("SET statement_timeout = 0")
                    connection.execute(f"SET vacuum_cost_delay = {VACUUM_DELAY_MS}")
                    connection.execute(f"VACUUM (INDEX_CLEANUP ON) {', '.join(tables)}")
        except self._psycopg.OperationalError as error:
            raise StoreError(f"postgresql: cannot vacuum: {type(error).__name__}") from None
        except self._psycopg.Error as error:
            logger.warning("postgresql: cannot vacuum after a deletion: %s", type(error).__name__)
        return ERASURE_NOTE

    def _fetch(self, operation: str, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        with self._connection(operation) as connection:
            return connection.execute(query, parameters, binary=True).fetchall()

    @contextmanager
    def _write(self, operation: str) -> Iterator[Connection]:
        """Open a transaction that is sent in one pipeline.

        Locks are therefore not held across round trips.
        """
        suffix = f"; {OUTCOME_UNKNOWN}"
        with self._connection(operation, suffix) as connection, connection.pipeline(), connection.transaction():
            yield connection

    @contextmanager
    def _connection(self, operation: str, lost_suffix: str = "") -> Iterator[Connection]:
        """Borrow a connection.

        If it is lost during the operation, ``lost_suffix`` is added to the error.
        """
        is_connected = False
        try:
            with self._pool.connection() as connection:
                if not self._is_initialized:
                    self._create_tables(connection)
                is_connected = True
                yield connection
        except self._psycopg.Error as error:
            # a server that is shutting down reports it (57P01) possibly after executing the statement
            is_shutdown = error.sqlstate is None or error.sqlstate.startswith(("57P", "08"))
            is_lost = is_connected and is_shutdown and isinstance(error, self._psycopg.OperationalError)
            reasons = [] if is_connected else [reason for reason in CONNECTION_ERRORS if reason in str(error)]
            # the rest of the message may contain ids
            reason = " ".join([type(error).__name__, *filter(None, [error.sqlstate]), *reasons[:1]])
            full = f"; {STORE_FULL}" if error.sqlstate in FULL_CODES else ""
            lost = lost_suffix if is_lost else ""
            raise StoreError(f"postgresql: cannot {operation}: {reason}{full}{lost}") from None

    def _connect(self) -> Connection:
        settings: dict[str, Any] = TIMEOUTS | {"application_name": "segue"} | self._parameters
        connection: Connection = self._psycopg.connect(**settings, autocommit=True, client_encoding="utf-8")
        try:
            connection.execute(SET_LIMITS_SQL % LIMIT_NAMES)
            connection.execute(LIMIT_LOCKS_SQL, (f"{round(1000 * self._lock_timeout)}ms",))
            connection.execute(PLANNER_SQL)
        except BaseException:
            connection.close()
            raise
        return connection

    def _create_tables(self, connection: Connection) -> None:
        """Create the tables if they do not exist.

        Raises:
            StoreError: the database has another encoding or format.
        """
        with self._init_lock:
            if self._is_initialized:
                return
            settings: dict[str, str] = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
            if settings["server_encoding"] not in ("UTF8", "SQL_ASCII"):
                raise StoreError(f"postgresql: got database encoding {settings['server_encoding']}, expected UTF8")
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                if settings[name] == "off":
                    logger.warning("postgresql: %s is off: a power failure may lose acknowledged events", name)
            if connection.execute(postgresql_sql.TABLES_EXIST_SQL).fetchone() == (0,):
                with connection.transaction():
                    connection.execute(postgresql_sql.LOCK_TABLES_SQL)
                    if connection.execute(postgresql_sql.TABLES_EXIST_SQL).fetchone() == (0,):
                        connection.execute(postgresql_sql.CREATE_TABLES_SQL)
                        connection.execute(postgresql_sql.SET_KEY_SQL, (create_deletion_key(),))
            select_format = "SELECT format FROM segue_store"
            if connection.execute(select_format).fetchone() == (postgresql_sql.PREVIOUS_FORMAT,):
                self._migrate(connection)
            row = connection.execute(select_format).fetchone()
            if row != (postgresql_sql.FORMAT,):
                raise StoreError(f"postgresql: got format {row and row[0]}, expected {postgresql_sql.FORMAT}")
            if connection.execute(postgresql_sql.ITEMS_EXIST_SQL).fetchone() == (0,):
                self._create_items(connection)
            if connection.execute(postgresql_sql.CONTEXT_EXISTS_SQL).fetchone() == (0,):
                self._add_context(connection)
            (self._key,) = connection.execute("SELECT key FROM segue_store", binary=True).fetchall()[0]
            self._is_initialized = True

    def _create_items(self, connection: Connection) -> None:
        """Create the table of items in a database of an earlier version.

        Without the right to create tables, reading and storing items fails, and all else works.
        """
        try:
            with connection.transaction():
                connection.execute(postgresql_sql.LOCK_TABLES_SQL)
                if connection.execute(postgresql_sql.ITEMS_EXIST_SQL).fetchone() == (0,):
                    connection.execute(postgresql_sql.CREATE_ITEMS_SQL)
        except self._psycopg.errors.InsufficientPrivilege:
            logger.warning(
                "postgresql: the table segue_items is missing: items cannot be added; open the store once with the "
                "role that owns the other tables, which creates it"
            )

    def _add_context(self, connection: Connection) -> None:
        """Add the column of the context to the events of an earlier version.

        Raises:
            StoreError: the role does not own the table.
        """
        try:
            with connection.transaction():
                connection.execute(postgresql_sql.LOCK_TABLES_SQL)
                if connection.execute(postgresql_sql.CONTEXT_EXISTS_SQL).fetchone() == (0,):
                    connection.execute(postgresql_sql.ADD_CONTEXT_SQL)
        except self._psycopg.errors.InsufficientPrivilege:
            raise StoreError(
                "postgresql: the table segue_events has no column context: open the store once with the role that owns "
                "the tables, which adds it"
            ) from None

    def _migrate(self, connection: Connection) -> None:
        """Convert tables of the previous format in one transaction.

        Raises:
            StoreError: the role does not own the tables.
        """
        logger.info("postgresql: converting format %d to %d", postgresql_sql.PREVIOUS_FORMAT, postgresql_sql.FORMAT)
        try:
            with connection.transaction():
                connection.execute("SET LOCAL statement_timeout = 0")
                connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                connection.execute("SET LOCAL lock_timeout = 0")
                for lock in (
                    postgresql_sql.LOCK_TABLES_SQL,
                    postgresql_sql.LOCK_SEQUENCE_SQL,
                    postgresql_sql.LOCK_STATES_SQL,
                ):
                    connection.execute(lock)
                if connection.execute("SELECT format FROM segue_store").fetchone() != (postgresql_sql.PREVIOUS_FORMAT,):
                    return  # converted by another process
                deleted = connection.execute(postgresql_sql.SELECT_DELETED_SQL).fetchall()
                connection.execute(postgresql_sql.MIGRATE_SQL)
                self._key = create_deletion_key()
                connection.execute(postgresql_sql.SET_KEY_SQL, (self._key,))
                markers = [create_deletion_marker(self._key, user) for user, _ in deleted]
                self._insert_markers(connection, markers, [sequence for _, sequence in deleted])
        except self._psycopg.errors.InsufficientPrivilege:
            raise StoreError(
                f"postgresql: the tables have format {postgresql_sql.PREVIOUS_FORMAT}: "
                "open the store once with the role that owns them, which converts them"
            ) from None
        self._erasure.request(0)


def _is_usable(connection: Connection) -> bool:
    """Check whether a connection can be used.

    A server that has closed the connection has sent data; an idle server has not.
    """
    if connection.closed or connection.broken or connection.pgconn.transaction_status != 0:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return not selector.select(0)
