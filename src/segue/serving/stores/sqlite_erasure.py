"""Erasure of the bytes that deleted users leave in the files of an SQLite store.

A committed deletion is invisible to all readers, but three kinds of bytes remain: the deleted rows in the main file
until the next checkpoint, all versions of their pages in the ``-wal`` file until it is truncated, and copies of rows in
gaps of pages; see :mod:`segue.serving.stores.sqlite_file`. An erasure removes them. One erasure serves all deletions
before its start. A reader of an older version of the store, such as a long ``SELECT`` of another program, prevents the
truncation; the erasure is then attempted again until the reader has finished.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing

from segue.serving.stores.sqlite_file import StoreFile
from segue.serving.stores.store import StoreError

__all__ = ["NOTE", "SQLiteErasure"]

logger = logging.getLogger("segue.serving.stores")

NOTE = (
    "bytes of the user remain in the store's files while another reader uses them, and are erased within seconds after"
)
"""Note of a deletion whose bytes could not be erased in time."""
WAIT_SECONDS, SHORT_WAIT_SECONDS, RETRY_SECONDS = 0.25, 0.05, 1.0
"""Time to wait for readers, during which writers wait, too; the same after a failure; and the time between attempts."""
PAGES_PER_STEP = 2_000
"""Pages overwritten at once, during which writers wait: 8 MB."""
POLL_SECONDS, MAX_POLLS = 0.001, 500
"""Interval and number of attempts to get the write lock from other processes."""
MAX_ATTEMPTS = 20
"""Attempts to get the write lock while the ``-wal`` file is empty."""


class SQLiteErasure:
    """Erases the bytes of deleted users in a background thread.

    Args:
        connect: opens a connection.
        file: the files of the store.
        write_lock: lock between the writing threads of this process.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], file: StoreFile, write_lock: threading.Lock) -> None:
        self._connect, self._file, self._write_lock = connect, file, write_lock
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._n_requests = self._n_finished = self._n_attempted = 0
        self._is_closed = self._was_blocked = False

    def request(self, timeout: float) -> str:
        """Request an erasure and return an empty string if it is finished, or a note.

        Args:
            timeout: seconds to wait for the end of the attempt, if the one before it has succeeded.
        """
        with self._condition:
            self._n_requests += 1
            number, was_blocked = self._n_requests, self._n_attempted > self._n_finished
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="segue-erasure", daemon=True)
                self._thread.start()
            self._condition.notify_all()
            if not was_blocked:
                self._condition.wait_for(lambda: self._n_attempted >= number or self._is_closed, timeout)
            return "" if self._n_finished >= number else NOTE

    def close(self) -> None:
        """Stop the thread; the next process to open the store continues an erasure."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._n_requests > self._n_finished or self._is_closed)
                if self._n_attempted > self._n_finished:
                    self._condition.wait_for(lambda: self._is_closed, RETRY_SECONDS)
                if self._is_closed:
                    return
                number = self._n_requests
            is_erased = self._erase()
            with self._condition:
                self._n_attempted = number
                if is_erased:
                    self._n_finished = number
                self._condition.notify_all()

    def _erase(self) -> bool:
        """Erase the bytes of all users deleted before; return whether it was possible."""
        try:
            with closing(self._connect()) as connection:
                self._erase_with(connection)
        except (sqlite3.Error, OSError, StoreError) as error:
            if not self._was_blocked and not self._is_closed:  # one warning per obstacle
                reason = getattr(error, "sqlite_errorname", error)
                logger.warning("sqlite: deleted users cannot be erased from the files yet: %s", reason)
            self._was_blocked = True
            return False
        self._was_blocked = False
        return True

    def _erase_with(self, connection: sqlite3.Connection) -> None:
        self._file.check()
        wait = SHORT_WAIT_SECONDS if self._was_blocked else WAIT_SECONDS
        connection.execute(f"PRAGMA busy_timeout = {round(1000 * wait)}")
        deletion, erasure = connection.execute("SELECT last_deletion, last_erasure FROM store").fetchone()
        if erasure >= deletion:
            return
        self._locked_step(connection, ())
        # Later writes of a page copy its gap at most from this version, so no other page has to be overwritten.
        pages = list(self._file.pages_with_gaps())
        for start in range(0, len(pages), PAGES_PER_STEP):
            self._locked_step(connection, pages[start : start + PAGES_PER_STEP])
        self._file.sync()
        _begin_write(connection)
        connection.execute("UPDATE store SET last_erasure = max(last_erasure, ?)", (deletion,))
        connection.execute("COMMIT")

    def _locked_step(self, connection: sqlite3.Connection, pages: Sequence[int]) -> None:
        """Truncate the ``-wal`` file and overwrite gaps of pages before it grows again."""
        for _ in range(MAX_ATTEMPTS):
            if self._is_closed:
                raise StoreError("the store is closed")
            with self._write_lock:
                _begin_write(connection)
                connection.execute("ROLLBACK")  # a checkpoint needs the lock itself
                (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if is_busy:
                    raise StoreError("another reader uses an older version of the store")
                if not pages:
                    return
                _begin_write(connection)
                try:
                    if not self._file.wal_bytes():  # otherwise another process has written meanwhile
                        self._file.zero_gaps(pages)
                        # a change makes other connections drop their copies of pages, which they would write again
                        connection.execute("UPDATE store SET erasure_steps = erasure_steps + 1")
                        connection.execute("COMMIT")
                        return
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
        raise StoreError("other processes write all the time")


def _begin_write(connection: sqlite3.Connection) -> None:
    """Begin a write transaction as soon as no other process writes.

    SQLite waits up to 100 ms between attempts, so it seldom gets the lock from a process that writes all the time.
    """
    (timeout,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        for n_left in reversed(range(MAX_POLLS)):
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                if not n_left:
                    raise
                time.sleep(POLL_SECONDS)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {timeout}")
