"""Measure time, memory and parameters of a run, and describe the machine."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from segue.core.model import Model
from segue.core.numba_kernels import thread_count

__all__ = ["StageTimer", "count_parameters", "describe_machine", "peak_memory", "thread_count"]


class StageTimer:
    """Wall-clock seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time spent within the context to stage ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def peak_memory() -> int:
    """Return the peak memory of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def count_parameters(model: Model) -> int:
    """Count the learned parameters of a model.

    Arrays copied from the data, such as features, do not count.
    """
    named: Callable[[], Iterable[tuple[str, Any]]] | None = getattr(model, "named_parameters", None)
    if named is not None:
        return sum(int(weight.numel()) for _, weight in named())
    return sum(int(array.size) for array in model.arrays().values())


@cache
def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory, system and Python version.

    Nothing identifies the machine or its owner.
    """
    import psutil

    return {
        "processor": _read_processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _read_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
