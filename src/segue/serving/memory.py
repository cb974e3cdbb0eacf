"""Memory that is free goes back to the system.

Answers take memory of many sizes on many threads, and glibc keeps what they free, in pieces, for the next who asks: a
process grows by about a kilobyte a request without holding any of it. Other systems have nothing to be called, and are
left alone.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

__all__ = ["every", "tidy"]


def tidy() -> bool:
    """Give back what is free; whether this system can be asked to. Takes some milliseconds."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    trim(0)
    return True


def every(
    seconds: float, call: Callable[[], object], clock: Callable[[], float] = time.monotonic
) -> Callable[[], None]:
    """A function that calls ``call`` unless it did so in the last ``seconds``."""
    last = clock()

    def now_and_then() -> None:
        nonlocal last
        if clock() - last >= seconds:
            last = clock()
            call()

    return now_and_then
