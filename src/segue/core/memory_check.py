"""Check before a task that the process has the memory and the threads for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segue.core.config import Settings

__all__ = ["REDUCE_ITEMS", "check_memory", "check_not_forked", "explain_memory_errors", "size_settings"]

REDUCE_ITEMS = "keep fewer items (min_item_events) or use item_knn, whose memory grows linearly with the items"

UNCHECKED_BYTES = 2**28
"""Smaller arrays are not checked, because the check takes milliseconds."""

SIZES = ("width", "dim", "dims", "layers", "blocks", "factors", "length")
"""Ends of the names of settings that determine a model's size."""

_TASKS = Path("/proc/self/task")

_has_threads = False
"""Whether Polars had started its threads when the process was last forked."""
_is_unsafe = False
"""Whether this process was forked from one with such threads."""


def check_memory(what: str, numbers: int, instead: str) -> None:
    """Check that an array fits into the available memory.

    It must fit into 90 % of the available memory.

    Args:
        what: what needs the memory, for the error message.
        numbers: number of values, each of four bytes.
        instead: what the user can do about it, for the error message.

    Raises:
        ValueError: the values do not fit.
    """
    needed = 4 * numbers
    if needed < UNCHECKED_BYTES:
        return
    import psutil

    free = psutil.virtual_memory().available
    if needed > 0.9 * free:
        raise ValueError(f"{what} needs {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are available; {instead}")


@contextmanager
def explain_memory_errors(model: str, config: Settings) -> Iterator[None]:
    """Turn a failed allocation within the context into one sentence.

    Raises:
        ValueError: numpy or torch could not allocate an array.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        is_torch = re.search(r"out of memory|can't allocate memory|not enough memory", text)
        if not isinstance(error, MemoryError) and is_torch is None:
            raise
        size = re.search(r"allocate (\d[\d.,]* ?\w+)", text)
        what = "an array" if size is None else size[1]
        raise ValueError(
            f"'{model}' ran out of memory: could not allocate {what}; reduce {size_settings(config)}, or batch_size"
        ) from error


def size_settings(config: Settings) -> str:
    """Name the settings that determine a model's size, largest first."""
    sizes = {name: value for name, value in config if name.endswith(SIZES) and isinstance(value, int)}
    ordered = sorted(sizes.items(), key=lambda one: -one[1])
    return ", ".join(f"{name}={value:,}" for name, value in ordered) or "the number of items (min_item_events)"


def check_not_forked(action: str) -> None:
    """Check that this process may use Polars.

    Threads do not survive a fork, and their locks may stay locked: reading a table could wait forever. Processes
    started by ``spawn`` or ``forkserver`` are not affected.

    Args:
        action: what cannot be done otherwise, such as ``load data``.

    Raises:
        RuntimeError: the process was forked from one in which Polars had started its threads. Only Linux tells.
    """
    if _is_unsafe:
        raise RuntimeError(
            f"cannot {action} in process {os.getpid()}: it was forked from a process in which Polars had started its "
            "threads, and would wait for them forever; start processes with multiprocessing.get_context('spawn')"
        )


def _before_fork() -> None:
    global _has_threads
    try:
        names = [(task / "comm").read_text().strip() for task in _TASKS.iterdir()]
    except OSError:  # no such folder, or a thread has just ended
        return
    _has_threads = any(name.startswith("polars-") and name.removeprefix("polars-").isdigit() for name in names)


def _after_fork() -> None:
    global _is_unsafe
    _is_unsafe = _is_unsafe or _has_threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
