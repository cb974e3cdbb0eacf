"""Events in PostgreSQL, for several machines that serve together; needs the extra ``postgresql``.

How long acknowledged events last is the server's ``fsync`` and ``synchronous_commit``; a word is said where they are
off. See :mod:`segue.serving.stores.postgresql_sql` for how all readers come to see one order.
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
from segue.serving.stores.connection_pool import Connections
from segue.serving.stores.store import UNSURE, Event, Exposure, Kept, Memory, StoreError

if TYPE_CHECKING:
    import psycopg

    Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

__all__ = ["PostgreSQL"]

logger = logging.getLogger("segue.serving.stores")

PAGE = 1_000
"""Rows that an iterator reads at once."""
MOST_CONNECTIONS = 16
TIMES = {"connect_timeout": 3, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
         "tcp_user_timeout": 10_000}  # fmt: skip
"""How soon a server that is gone is noticed, in seconds and milliseconds, where the address does not say."""
LIMITS = "SELECT set_config(name, '10s', false) FROM pg_settings WHERE name IN %s AND setting = '0'"
"""How long the server works for us, where it has no limit of its own: nobody holds the lock of the order for ever."""
REASONS = ("Connection refused", "No such file or directory", "timeout expired", "could not translate host name",
           "authentication failed", "does not exist", "too many clients", "starting up", "shutting down")  # fmt: skip
"""What may be told of a connection that fails: whole messages can quote what stands in the address."""
LIMITED = "('statement_timeout', 'idle_in_transaction_session_timeout')"


class PostgreSQL:
    """A :class:`segue.serving.stores.store.Store` in the database at ``address``, a URI as libpq has it. It is reached,
    and its tables made, when it is first used.

    Raises:
        ValueError: the extra is not installed, or the address cannot be read.
    """

    name, prompt = "postgresql", False

    def __init__(self, address: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise ValueError("psycopg is not installed: pip install 'segue[postgresql]'") from None
        try:
            self._told_by_address = psycopg.conninfo.conninfo_to_dict(address)
        except psycopg.Error:  # its message quotes parts of the address
            raise ValueError(
                "store: an address of PostgreSQL that cannot be read, expected "
                "postgresql://[user[:password]@][host][:port]/database"
            ) from None
        self._psycopg = psycopg
        self._made = False
        self._making = threading.Lock()
        self._connections: Connections[Connection] = Connections(
            self._connect, _fit, psycopg.Connection.close, MOST_CONNECTIONS
        )

    def __repr__(self) -> str:
        return f"PostgreSQL(database={self._told_by_address.get('dbname')!r})"

    def append(self, events: Sequence[Event]) -> list[bool]:
        """See :meth:`segue.serving.stores.store.Store.append`."""
        new = [False] * len(events)
        seen: set[tuple[str, str]] = set()
        rows: list[int] = []  # without repetitions of a key
        for row, event in enumerate(events):
            if event.key is not None:
                if (event.user, event.key) in seen:
                    continue
                seen.add((event.user, event.key))
            rows.append(row)
        given = [events[row] for row in rows]
        columns = (
            [event.user for event in given],
            [event.item for event in given],
            [event.time for event in given],
            [event.action for event in given],
            [None if event.value is None else float(event.value) for event in given],
            [event.key for event in given],
        )
        with self._write("keep events") as connection:
            connection.execute(postgresql_sql.ORDER)
            cursor = connection.execute(
                postgresql_sql.APPEND, columns, prepare=False
            )  # planned for as many as they are
        for (number,) in cursor.fetchall():
            new[rows[number - 1]] = True
        return new

    def kept(self, users: Sequence[str], most: int, after: int = 0) -> list[Kept]:
        """See :meth:`segue.serving.stores.store.Store.kept`."""
        rows = self._rows("read events", postgresql_sql.KEPT, {"users": list(users), "most": most, "after": after})
        found = [Kept()] * len(users)
        events: list[Event] = []
        at = 0
        for end, (number, total, last, forgotten, *event) in enumerate(rows, 1):
            if event[0] is not None:
                events.append(Event(users[number - 1], *event))
            if end == len(rows) or rows[end][0] != number:
                found[number - 1] = Kept(tuple(events[at:]), total, last, forgotten)
                at = len(events)
        return found

    def since(self, user: str, place: int, most: int) -> tuple[tuple[Event, ...], int]:
        """See :meth:`segue.serving.stores.store.Store.since`."""
        rows = self._rows("read events", postgresql_sql.SINCE, (user, place, most))
        return tuple([Event(user, *row[:5]) for row in rows]), rows[-1][5] if rows else place

    def memories(self, users: Sequence[str], model: str) -> list[Memory | None]:
        """See :meth:`segue.serving.stores.store.Store.memories`."""
        rows = self._rows("read memories", postgresql_sql.MEMORIES, (list(users), model))
        found = {user: Memory(model, last, data) for user, last, data in rows}
        return [found.get(user) for user in users]

    def remember(self, memories: Mapping[str, Memory]) -> None:
        """See :meth:`segue.serving.stores.store.Store.remember`."""
        rows = sorted((user, memory.model, memory.last, memory.data) for user, memory in memories.items())
        with self._write("keep memories") as connection:
            connection.execute("SET LOCAL synchronous_commit = off")  # it can be had again from the events
            connection.execute(postgresql_sql.STATES_SHARED)
            connection.execute(postgresql_sql.REMEMBER, [[row[column] for row in rows] for column in range(4)])

    def prune(self, models: Collection[str]) -> int:
        """See :meth:`segue.serving.stores.store.Store.prune`."""
        count, at = 0, ("", "")
        while rows := self._rows("look for old memories", postgresql_sql.LOOK, (*at, PAGE)):
            at = rows[-1]
            if old := [row for row in rows if row[1] not in models]:
                with self._write("delete old memories") as connection:
                    connection.execute(postgresql_sql.PRUNE, [[row[column] for row in old] for column in range(2)])
                count += len(old)
        return count

    def forget(self, user: str) -> int:
        """See :meth:`segue.serving.stores.store.Store.forget`."""
        with self._write("forget a user") as connection:
            connection.execute(postgresql_sql.ORDER)
            connection.execute(postgresql_sql.STATES)
            events, *_ = [connection.execute(statement, (user,)) for statement in postgresql_sql.FORGET]
            connection.execute(postgresql_sql.MARK, (user,))
        return events.rowcount

    def get(self, name: str) -> str | None:
        """See :meth:`segue.serving.stores.store.Store.get`."""
        rows = self._rows("read a setting", "SELECT value FROM segue_settings WHERE name = %s", (name,))
        return str(rows[0][0]) if rows else None

    def put(self, name: str, value: str) -> None:
        """See :meth:`segue.serving.stores.store.Store.put`."""
        with self._write("keep a setting") as connection:
            connection.execute(postgresql_sql.PUT, (name, value))

    def expose(self, exposures: Sequence[Exposure]) -> None:
        """See :meth:`segue.serving.stores.store.Store.expose`."""
        rows = [(e.experiment, e.variant, e.user, e.time, json.dumps(e.items)) for e in exposures]
        with self._write("keep exposures") as connection:
            connection.execute(postgresql_sql.EXPOSE, [[row[column] for row in rows] for column in range(5)])

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """See :meth:`segue.serving.stores.store.Store.exposures`."""
        last = 0
        while True:
            rows = self._rows("read exposures", postgresql_sql.EXPOSURES, (experiment, last, PAGE))
            for _, variant, user, time, items in rows:
                yield Exposure(experiment, variant, user, time, tuple(json.loads(items)))
            if len(rows) < PAGE:
                return
            last = rows[-1][0]

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """See :meth:`segue.serving.stores.store.Store.events`."""
        while True:
            rows = self._rows("read events", postgresql_sql.EVENTS, (after, PAGE))
            for after, *event in rows:
                yield after, Event(*event)
            if len(rows) < PAGE:
                return

    def ping(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.ping`."""
        self._rows("answer", "SELECT format FROM segue_store")

    def close(self) -> None:
        """See :meth:`segue.serving.stores.store.Store.close`."""
        self._connections.close()

    def _rows(self, what: str, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        with self._lend(what) as connection:
            return connection.execute(query, parameters, binary=True).fetchall()

    @contextmanager
    def _write(self, what: str) -> Iterator[Connection]:
        """A transaction that goes to the server in one piece, so that its locks are never held while we think."""
        lost = f"; {UNSURE}"
        with self._lend(what, lost) as connection, connection.pipeline(), connection.transaction():
            yield connection

    @contextmanager
    def _lend(self, what: str, lost: str = "") -> Iterator[Connection]:
        """A connection; ``lost`` is added to the message when it breaks on the way."""
        reached = False
        try:
            with self._connections.lend() as connection:
                if not self._made:
                    self._make(connection)
                reached = True
                yield connection
        except self._psycopg.Error as error:
            # a server that is told to end says so (57P01) after it may have done what was asked
            left = error.sqlstate is None or error.sqlstate.startswith(("57P", "08"))
            broken = left and isinstance(error, self._psycopg.OperationalError)
            known = [] if reached else [reason for reason in REASONS if reason in str(error)]
            why = " ".join(
                [type(error).__name__, *filter(None, [error.sqlstate]), *known[:1]]
            )  # the rest may quote ids
            raise StoreError(f"postgresql: cannot {what}: {why}{lost if reached and broken else ''}") from None

    def _connect(self) -> Connection:
        settings: dict[str, Any] = TIMES | {"application_name": "segue"} | self._told_by_address
        connection: Connection = self._psycopg.connect(**settings, autocommit=True, client_encoding="utf-8")
        connection.execute(LIMITS % LIMITED)
        return connection

    def _make(self, connection: Connection) -> None:
        """Make the tables where they are missing.

        Raises:
            StoreError: the database cannot hold them.
        """
        with self._making:
            if self._made:
                return
            settings: dict[str, str] = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
            if settings["server_encoding"] not in ("UTF8", "SQL_ASCII"):
                raise StoreError(f"postgresql: the database is in {settings['server_encoding']}, expected UTF8")
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                if settings[name] == "off":
                    logger.warning("postgresql: %s is off: a power cut can lose events that were acknowledged", name)
            if connection.execute(postgresql_sql.THERE).fetchone() == (0,):
                with connection.transaction():
                    connection.execute(postgresql_sql.MAKE)
                    if connection.execute(postgresql_sql.THERE).fetchone() == (0,):
                        connection.execute(postgresql_sql.TABLES)
            row = connection.execute("SELECT format FROM segue_store").fetchone()
            if row != (postgresql_sql.FORMAT,):
                raise StoreError(f"postgresql: tables of format {row and row[0]}, this Segue reads {postgresql_sql.FORMAT}")
            self._made = True


def _fit(connection: Connection) -> bool:
    """Whether a connection can be used: a server that has left says so, and one that is there has nothing to say."""
    if connection.closed or connection.broken or connection.pgconn.transaction_status != 0:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return not selector.select(0)
