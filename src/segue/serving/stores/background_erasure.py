"""Erasure of the bytes that deleted users leave in the files of a database server.

A server removes deleted rows from its files when it rewrites them, which takes time in proportion to all data. One
rewrite serves all deletions before its start, and rewrites are rare, so that a client that deletes many users does not
keep the server busy.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from segue.serving.stores.store import StoreError

__all__ = ["MIN_INTERVAL_SECONDS", "BackgroundErasure"]

logger = logging.getLogger("segue.serving.stores")

MIN_INTERVAL_SECONDS = 10.0
"""Minimum time from the end of a rewrite to the start of the next."""
MAX_DUTY = 0.05
"""Maximum fraction of the time during which rewrites run."""


class BackgroundErasure:
    """Runs ``rewrite`` in a background thread after deletions.

    Args:
        rewrite: erases all users deleted before the call. Returns an empty string, or a note that says what remains. A
            :class:`~segue.serving.stores.store.StoreError` means that it must be attempted again.
    """

    def __init__(self, rewrite: Callable[[], str]) -> None:
        self._rewrite = rewrite
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._n_requests = self._n_finished = 0
        self._next_start = 0.0  # monotonic
        self._note = ""
        self._is_running = False
        self._is_closed = False

    def request(self, timeout: float) -> str:
        """Request a rewrite and return its note, or a note that it is pending.

        Args:
            timeout: seconds to wait for the end of the rewrite.
        """
        with self._condition:
            self._n_requests += 1
            number = self._n_requests
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="segue-erasure", daemon=True)
                self._thread.start()
            self._condition.notify_all()
            delay = MIN_INTERVAL_SECONDS if self._is_running else self._next_start - time.monotonic()
            if delay <= timeout:
                self._condition.wait_for(lambda: self._n_finished >= number or self._is_closed, timeout)
            if self._n_finished >= number:
                return self._note
            return (
                "the server's files contain bytes of the user until they are rewritten, which starts "
                f"{f'in about {delay:.0f} s' if delay >= 1 else 'at once'}"
            )

    def close(self) -> None:
        """Stop the thread after a running rewrite, without waiting for it."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    def _run(self) -> None:
        level = logging.WARNING
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._n_requests > self._n_finished or self._is_closed)
                self._condition.wait_for(lambda: self._is_closed, max(0.0, self._next_start - time.monotonic()))
                if self._is_closed:
                    return
                number, self._is_running = self._n_requests, True
            start = time.monotonic()
            note: str | None = None
            try:
                note = self._rewrite()
            except StoreError as error:
                if not self._is_closed:
                    logger.log(level, "deleted users cannot be erased from the server's files yet: %s", error)
            with self._condition:
                self._is_running, end = False, time.monotonic()
                self._next_start = end + max(MIN_INTERVAL_SECONDS, (end - start) * (1 / MAX_DUTY - 1))
                if note is not None:
                    self._n_finished, self._note = number, note
                level = logging.WARNING if note is not None else logging.DEBUG  # one warning per outage
                self._condition.notify_all()
