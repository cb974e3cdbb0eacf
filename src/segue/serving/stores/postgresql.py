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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from segue.serving.stores import postgresql_sql
from segue.serving.stores.connection_pool import ConnectionPool
from segue.serving.stores.store import OUTCOME_UNKNOWN, Event, Exposure, StoreError, UserEvents, UserState

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
LIMIT_NAMES = "('statement_timeout', 'idle_in_transaction_session_timeout')"
CONNECTION_ERRORS = ("Connection refused", "No such file or directory", "timeout expired",
                     "could not translate host name", "authentication failed", "does not exist", "too many clients",
                     "starting up", "shutting down")  # fmt: skip
"""Parts of connection errors that may be reported; whole messages can contain parts of the address."""


class PostgreSQL:
    """PostgreSQL implementation of :class:`segue.serving.stores.store.Store`.

    Args:
        address: libpq connection URI. The server is contacted, and the tables are created, on first use.

    Raises:
        ValueError: the extra is not installed, or the address is invalid.
    """

    name, is_in_process = "postgresql", False

    def __init__(self, address: str) -> None:
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
        self._psycopg = psycopg
        self._is_initialized = False
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
        parameters = {"users": list(users), "limit": limit, "after": after}
        rows = self._fetch("read events", postgresql_sql.RECENT_EVENTS_SQL, parameters)
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
        return tuple([Event(user, *row[:5]) for row in rows]), rows[-1][5] if rows else sequence

    def get_states(self, users: Sequence[str], model: str) -> list[UserState | None]:
        """See :meth:`segue.serving.stores.store.Store.get_states`."""
        rows = self._fetch("read states", postgresql_sql.GET_STATES_SQL, (list(users), model))
        states = {user: UserState(model, last_sequence, data) for user, last_sequence, data in rows}
        return [states.get(user) for user in users]

    def put_states(self, states: Mapping[str, UserState]) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_states`."""
        rows = sorted((user, state.model, state.last_sequence, state.data) for user, state in states.items())
        with self._write("store states") as connection:
            connection.execute("SET LOCAL synchronous_commit = off")  # states can be recomputed from the events
            connection.execute(postgresql_sql.LOCK_STATES_SHARED_SQL)
            connection.execute(postgresql_sql.PUT_STATES_SQL, [[row[column] for row in rows] for column in range(4)])

    def prune_states(self, models: Collection[str]) -> int:
        """See :meth:`segue.serving.stores.store.Store.prune_states`."""
        count, last = 0, ("", "")
        while rows := self._fetch("list states", postgresql_sql.SELECT_STATES_SQL, (*last, PAGE_SIZE)):
            last = rows[-1]
            if outdated := [row for row in rows if row[1] not in models]:
                columns = [[row[column] for row in outdated] for column in range(2)]
                with self._write("delete states") as connection:
                    connection.execute(postgresql_sql.PRUNE_STATES_SQL, columns)
                count += len(outdated)
        return count

    def delete_user(self, user: str) -> int:
        """See :meth:`segue.serving.stores.store.Store.delete_user`."""
        with self._write("delete a user") as connection:
            connection.execute(postgresql_sql.LOCK_SEQUENCE_SQL)
            connection.execute(postgresql_sql.LOCK_STATES_SQL)
            events, *_ = [connection.execute(statement, (user,)) for statement in postgresql_sql.DELETE_USER_SQL]
            connection.execute(postgresql_sql.MARK_DELETED_SQL, (user,))
        return events.rowcount

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
        rows = [(e.experiment, e.variant, e.user, e.time, json.dumps(e.items)) for e in exposures]
        columns = [[row[column] for row in rows] for column in range(5)]
        with self._write("store exposures") as connection:
            connection.execute(postgresql_sql.RECORD_EXPOSURES_SQL, columns)

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """See :meth:`segue.serving.stores.store.Store.exposures`."""
        last_id = 0
        while True:
            rows = self._fetch("read exposures", postgresql_sql.EXPOSURES_SQL, (experiment, last_id, PAGE_SIZE))
            for _, variant, user, time, items in rows:
                yield Exposure(experiment, variant, user, time, tuple(json.loads(items)))
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

    def ping(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.ping`."""
        self._fetch("respond", "SELECT format FROM segue_store")

    def close(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.close`."""
        self._pool.close()

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
            raise StoreError(f"postgresql: cannot {operation}: {reason}{lost_suffix if is_lost else ''}") from None

    def _connect(self) -> Connection:
        settings: dict[str, Any] = TIMEOUTS | {"application_name": "segue"} | self._parameters
        connection: Connection = self._psycopg.connect(**settings, autocommit=True, client_encoding="utf-8")
        connection.execute(SET_LIMITS_SQL % LIMIT_NAMES)
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
            row = connection.execute("SELECT format FROM segue_store").fetchone()
            if row != (postgresql_sql.FORMAT,):
                raise StoreError(f"postgresql: got format {row and row[0]}, expected {postgresql_sql.FORMAT}")
            self._is_initialized = True


def _is_usable(connection: Connection) -> bool:
    """Check whether a connection can be used.

    A server that has closed the connection has sent data; an idle server has not.
    """
    if connection.closed or connection.broken or connection.pgconn.transaction_status != 0:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return not selector.select(0)
