"""What a run costs: seconds by stage, peak memory, learned numbers; and the machine they were measured on."""

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
from segue.core.numba_kernels import threads

__all__ = ["Stages", "machine", "parameters", "peak_memory", "threads"]


class Stages:
    """Wall-clock seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time spent within to stage ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def peak_memory() -> int:
    """The most memory this process has held so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def parameters(model: Model) -> int:
    """How many numbers a model has learned; what it only keeps of the data, such as features, is not counted."""
    named: Callable[[], Iterable[tuple[str, Any]]] | None = getattr(model, "named_parameters", None)
    learned = model.arrays()
    names = learned.keys() if named is None else learned.keys() & {name for name, _ in named()}
    return sum(int(learned[name].size) for name in names)


@cache
def machine() -> dict[str, Any]:
    """Processor, cores, memory, system and Python, in words; nothing that names the machine or its owner."""
    import psutil

    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
