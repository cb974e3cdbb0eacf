"""Computations that pause between short steps.

A generator yields ``None`` where it may be interrupted and returns its result. The engine thread answers other requests
during a pause, or abandons the computation. Run without interruption, it computes the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

__all__ = ["StepTimer", "Steps", "run_steps"]

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""A computation in steps, with a result of type ``T``."""


def run_steps(steps: Steps[T]) -> T:
    """Run a computation without interruption and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


class StepTimer:
    """Measures the time that a computation uses, without its pauses."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = 0.0
        self._clock = clock

    def run(self, steps: Steps[T]) -> Steps[T]:
        """Run ``steps`` and add the duration of each step to ``seconds``."""
        while True:
            start = self._clock()
            try:
                next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                self.seconds += self._clock() - start
            yield
