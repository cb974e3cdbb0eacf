"""Where the time of a call went, by function."""

from __future__ import annotations

import cProfile
import io
import pstats
from collections.abc import Callable
from typing import TypeVar

__all__ = ["profiled"]

T = TypeVar("T")


def profiled(call: Callable[[], T], rows: int = 20) -> tuple[T, str]:
    """What ``call`` returns, and a table of the ``rows`` functions that took most time by themselves.

    Time inside an operation of torch or numpy stands beside that operation's name.
    """
    profile = cProfile.Profile()
    result = profile.runcall(call)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(rows)
    return result, text.getvalue().strip()
