"""Connection pool for database drivers that have none."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from segue.serving.stores.store import StoreError

__all__ = ["ConnectionPool"]

C = TypeVar("C")


class ConnectionPool(Generic[C]):
    """Pool of at most ``max_size`` connections, created on demand.

    A caller waits if all connections are in use. There is no background thread and no retry: while a server is down
    each call fails as soon as a connection is refused, and the first call after it is back succeeds.

    Args:
        connect: creates a connection.
        is_usable: whether an idle connection, or one returned after an exception, can be reused.
        disconnect: closes a connection.
    """

    def __init__(
        self, connect: Callable[[], C], is_usable: Callable[[C], bool], disconnect: Callable[[C], None], max_size: int
    ) -> None:
        self._connect, self._is_usable, self._disconnect = connect, is_usable, disconnect
        self._idle: deque[C] = deque()
        self._slots = threading.BoundedSemaphore(max_size)
        self._is_open = True

    @contextmanager
    def connection(self) -> Iterator[C]:
        """Borrow a connection for the duration of a ``with`` block.

        Raises:
            StoreError: the pool is closed.
        """
        with self._slots:
            connection = self._acquire()
            try:
                yield connection
            except BaseException:
                if self._is_usable(connection):
                    self._release(connection)
                else:
                    self._disconnect(connection)
                raise
            self._release(connection)

    def close(self) -> None:
        """Close idle connections now and borrowed ones when they are returned."""
        self._is_open = False
        while self._idle:
            self._disconnect(self._idle.pop())

    def _acquire(self) -> C:
        while self._is_open:
            try:
                connection = self._idle.pop()  # last in, first out
            except IndexError:
                return self._connect()
            if self._is_usable(connection):
                return connection
            self._disconnect(connection)
        raise StoreError("the store is closed")

    def _release(self, connection: C) -> None:
        self._idle.append(connection)
        if not self._is_open:
            self.close()
