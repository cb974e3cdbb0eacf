"""Compile loops with numba and run them over rows in parallel threads.

For loops that neither NumPy nor torch can vectorize. Compiled loops release the global interpreter lock. Rows are
distributed among plain threads (:func:`parallel_rows`), each row to one thread: results do not depend on the number of
threads, and several threads may call at once, which numba's own parallel loops do not support on every platform.
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

__all__ = ["fastmath_kernel", "input_array", "kernel", "output_array", "parallel_rows", "thread_count"]

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile ``function`` with numba at its first call, cached on disk.

    It runs without the global interpreter lock.
    """
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def fastmath_kernel(*arguments: Any) -> Callable[[F], F]:
    """Compile a function for fixed argument types at its definition.

    Sums may be reordered, which allows SIMD summation. Results are reproducible on the same machine. Otherwise like
    :func:`kernel`.

    Args:
        arguments: argument types: :func:`input_array`, :func:`output_array` or numba's scalar types.
    """
    options: dict[str, Any] = {
        "cache": True,
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract"},
    }
    return cast("Callable[[F], F]", numba.njit(numba.void(*arguments), **options))


def input_array(dtype: Any, dimensions: int = 1) -> Any:
    """Return the type of a C-ordered array that a kernel only reads.

    The array may be read-only or memory-mapped.
    """
    return numba.types.Array(dtype, dimensions, "C", readonly=True)


def output_array(dtype: Any, dimensions: int = 1) -> Any:
    """Return the type of a C-ordered array that a kernel writes to."""
    return numba.types.Array(dtype, dimensions, "C")


def thread_count() -> int:
    """Return the number of threads to use.

    It is torch's number if torch is loaded, else ``OMP_NUM_THREADS``, else one per core.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    if (limit := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(limit) > 0:
        return int(limit)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_rows(work: Callable[[int, int], None], offsets: NDArray[np.int64]) -> None:
    """Call ``work(first, stop)`` in parallel for ranges of rows.

    Ranges have about the same number of events.

    Args:
        work: processes rows ``first:stop`` and no others; should be compiled, so that it runs without the lock.
        offsets: ``(R + 1,)``; the events of row r are ``offsets[r]:offsets[r + 1]``.
    """
    rows, parts = len(offsets) - 1, thread_count()
    if parts == 1 or rows < 2 * parts:
        with _SINGLE_THREADED_BLAS:
            work(0, rows)
        return
    # empty rows have a cost too; several ranges per thread balance errors of this estimate
    cost = offsets + np.arange(rows + 1) * max(1, int(offsets[-1] // rows))
    cuts = np.searchsorted(cost, np.linspace(0, cost[-1], 4 * parts + 1))
    cuts[0], cuts[-1] = 0, rows
    with _SINGLE_THREADED_BLAS, ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, cuts[:-1].tolist(), cuts[1:].tolist()))


class _SingleThreadedBlas:
    """Context that limits BLAS to one thread while rows are processed in parallel.

    The matrix products within a row are small; nested threads would slow them down and change the order of sums. The
    limit applies to the whole process: the first context to enter sets it, the last one to leave removes it.
    """

    def __init__(self) -> None:
        self._lock, self._depth = Lock(), 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._limit = _blas_controller().limit(limits=1, user_api="blas")
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._limit.restore_original_limits()


@cache
def _blas_controller() -> Any:
    """Return a controller of the loaded BLAS libraries.

    Finding the libraries takes milliseconds.
    """
    import scipy.linalg  # noqa: F401 - loads the BLAS that compiled loops call
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


_SINGLE_THREADED_BLAS = _SingleThreadedBlas()
