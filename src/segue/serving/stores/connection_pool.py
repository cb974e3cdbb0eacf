"""Connections that are lent to one thread at a time; those that come back are kept for the next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from segue.serving.stores.store import StoreError

__all__ = ["Connections"]

C = TypeVar("C")


class Connections(Generic[C]):
    """At most ``most`` connections, made when they are needed; who comes when all are lent waits.

    Nothing runs in the background, and nothing is tried twice: while a server is away each call fails as fast as a
    connection is refused, and the first call after it is back succeeds.

    Args:
        connect: makes one.
        fit: whether one that lay idle, or comes back after an exception, can still be used.
        leave: closes one.
    """

    def __init__(
        self, connect: Callable[[], C], fit: Callable[[C], bool], leave: Callable[[C], None], most: int
    ) -> None:
        self._connect, self._fit, self._leave = connect, fit, leave
        self._idle: deque[C] = deque()
        self._room = threading.BoundedSemaphore(most)
        self._open = True

    @contextmanager
    def lend(self) -> Iterator[C]:
        """A connection to work with inside ``with``.

        Raises:
            StoreError: the store was closed.
        """
        with self._room:
            connection = self._take()
            try:
                yield connection
            except BaseException:
                if self._fit(connection):
                    self._give_back(connection)
                else:
                    self._leave(connection)
                raise
            self._give_back(connection)

    def close(self) -> None:
        """Close what is idle now, and what is lent when it comes back."""
        self._open = False
        while self._idle:
            self._leave(self._idle.pop())

    def _take(self) -> C:
        while self._open:
            try:
                connection = self._idle.pop()  # the last one back: the others may rest
            except IndexError:
                return self._connect()
            if self._fit(connection):
                return connection
            self._leave(connection)
        raise StoreError("the store is closed")

    def _give_back(self, connection: C) -> None:
        self._idle.append(connection)
        if not self._open:
            self.close()
