"""Free memory goes back now and then, where the system knows how."""

from __future__ import annotations

import sys

from segue.serving.memory import every, tidy


def test_free_memory_goes_back() -> None:
    if sys.platform == "linux":
        tidy()  # whatever the C library is, it is not an error
    assert isinstance(tidy(), bool)


def test_now_and_then() -> None:
    now, called = [0.0], []
    look = every(60, lambda: called.append(now[0]), lambda: now[0])
    for moment in (1, 59, 60, 61, 119, 121, 200):
        now[0] = moment
        look()
    assert called == [60, 121, 200]
