"""Results of a worker thread for coroutines that wait in event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

__all__ = ["deliver"]

Outcome: TypeAlias = tuple[asyncio.Future[list[Any]], list[Any] | BaseException]
"""A future, and its results or error."""


def deliver(outcomes: Iterable[Outcome]) -> None:
    """Set the results or errors of futures, from any thread.

    Each loop is woken once. Futures of cancelled callers and of closed loops are skipped.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
    for future, outcome in outcomes:
        by_loop.setdefault(future.get_loop(), []).append((future, outcome))
    for loop, of_loop in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set_outcomes, of_loop)


def _set_outcomes(outcomes: Sequence[Outcome]) -> None:
    for future, outcome in outcomes:
        if future.done():  # the caller was cancelled
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
