"""Loops that neither NumPy nor torch can vectorise: compiled by numba, and run over rows by threads.

A compiled loop runs without the interpreter's lock, on the thread that calls it. Many rows are shared out among plain
threads (:func:`over_rows`), each row to one of them: the numbers do not depend on how many threads there are, and a
service may ask from several threads at once, which numba's own parallel loops do not allow everywhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["kernel", "over_rows", "read", "summing_kernel", "threads", "written"]

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compiled at the first call, kept on disk, and free of the interpreter's lock."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def summing_kernel(*arguments: Any) -> Callable[[F], F]:
    """As :func:`kernel`, compiled where it is defined for arguments of these types; sums may be taken in any order.

    Sums in any order is what lets a processor add several numbers at once. On the same machine it is the same order.

    Args:
        arguments: :func:`read`, :func:`written` or numba's types of single numbers, in the order of the arguments.
    """
    options: dict[str, Any] = {
        "cache": True,
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract"},
    }
    return cast("Callable[[F], F]", numba.njit(numba.void(*arguments), **options))


def read(dtype: Any, dimensions: int = 1) -> Any:
    """The type of an array in C's order that a kernel only reads, which may be protected or on disk."""
    return numba.types.Array(dtype, dimensions, "C", readonly=True)


def written(dtype: Any, dimensions: int = 1) -> Any:
    """The type of an array in C's order that a kernel writes to."""
    return numba.types.Array(dtype, dimensions, "C")


def threads() -> int:
    """The threads that computations use: torch's where it is loaded, else ``OMP_NUM_THREADS``, else one per core."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    if (asked := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_rows(work: Callable[[int, int], None], offsets: NDArray[np.int64]) -> None:
    """``work(first, stop)`` for ranges that together are all rows, at the same time, about as many events in each.

    Args:
        work: does rows ``first`` to ``stop`` and touches no other; compiled, or it will wait for the lock.
        offsets: ``(R + 1,)`` the events of row r are ``offsets[r]:offsets[r + 1]``.
    """
    rows, parts = len(offsets) - 1, threads()
    if parts == 1 or rows < 2 * parts:
        with _SMALL_PRODUCTS:
            work(0, rows)
        return
    # a row costs something without any event too; several ranges for each thread even out what is guessed wrong
    cost = offsets + np.arange(rows + 1) * max(1, int(offsets[-1] // rows))
    cuts = np.searchsorted(cost, np.linspace(0, cost[-1], 4 * parts + 1))
    cuts[0], cuts[-1] = 0, rows
    with _SMALL_PRODUCTS, ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, cuts[:-1].tolist(), cuts[1:].tolist()))


class _SmallProducts:
    """While rows are worked on: products within a row are small, and libraries that share them out among threads too
    would only stand in each other's way, and add up in another order.

    The limit is the whole process's: the first who comes in sets it, and the last who leaves ends it.
    """

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit = _libraries().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


@cache
def _libraries() -> Any:
    """The libraries of linear algebra that are loaded; to look for them takes some milliseconds."""
    import scipy.linalg  # noqa: F401 - what compiled loops call
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


_SMALL_PRODUCTS = _SmallProducts()
