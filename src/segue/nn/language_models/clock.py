"""Stop the computation of a language model in time."""

from __future__ import annotations

import time

__all__ = ["Clock", "NotScored"]


class NotScored(Exception):
    """Candidates were not scored.

    ``reason`` is one of :data:`segue.core.model.FALLBACK_NOTES`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Clock:
    """Stops before a pass that would probably end after the deadline.

    Args:
        deadline: in the clock of :func:`time.monotonic`; ``None``: there is none.
    """

    def __init__(self, deadline: float | None) -> None:
        self._deadline, self._longest = deadline, 0.0
        self._started: float | None = None

    def before_pass(self) -> None:
        """Raise :class:`NotScored` if the next pass would be late.

        It is assumed to take as long as the longest one so far.
        """
        if self._deadline is None:
            return
        now = time.monotonic()
        if self._started is not None:
            self._longest = max(self._longest, now - self._started)
        self._started = now
        if now + self._longest >= self._deadline:
            raise NotScored("time")
