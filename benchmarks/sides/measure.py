"""What every side of a comparison measures in the same way. Standard library and NumPy: it runs in each environment.

A side is a script started in a fresh process: ``python run_x.py JOB``; JOB is a folder with ``job.json`` (settings)
and ``events.npz`` (``offsets``, ``items``: whole histories, oldest first), and it leaves ``figures.json`` there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clock", "Job", "age", "memory"]


def age() -> float:
    """Seconds since this process began, its interpreter's start included."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def memory() -> dict[str, float]:
    """Memory of the process in MiB: now, and at its highest since it began (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return {"now": int(fields["VmRSS"]) / 1024, "peak": int(fields["VmHWM"]) / 1024}


class Clock:
    """Targets and the time they took, batch by batch; the first batches warm up and do not count."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.times: list[float] = []
        self.targets: list[int] = []

    def batch(self, targets: int) -> None:
        """A batch of ``targets`` positions that are not padding has just been learned."""
        self.times.append(time.perf_counter())
        self.targets.append(targets)

    def figures(self) -> dict[str, float]:
        """``targets_per_second`` over the batches after the warm-up, and how many there were."""
        skip = self.warm_up
        if len(self.times) <= skip or skip < 1:
            raise ValueError(f"{len(self.times)} batches: expected more than the {skip} of the warm-up, at least 1")
        seconds = self.times[-1] - self.times[skip - 1]
        targets = sum(self.targets[skip:])
        return {
            "targets_per_second": targets / seconds,
            "train_seconds": seconds,
            "train_targets": targets,
            "train_batches": len(self.times) - skip,
        }


class Job:
    """The folder a side works on. Made right after the library's imports: memory and time so far are the baseline."""

    def __init__(self) -> None:
        self.folder = Path(sys.argv[1])
        self.settings: dict[str, Any] = json.loads((self.folder / "job.json").read_text())
        self.found: dict[str, Any] = {"import_seconds": age(), "import_mib": memory()["now"]}

    def events(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Offsets and items of the whole histories."""
        with np.load(self.folder / "events.npz") as arrays:
            return arrays["offsets"], arrays["items"]

    def note(self, **figures: Any) -> None:
        """Add to what was found."""
        self.found |= figures

    def finish(self, recommended: NDArray[np.int64] | None = None) -> None:
        """Write the figures with the peak of memory, and the lists ``(users, k)`` of item codes, -1 where none."""
        peak = memory()["peak"]
        self.note(peak_mib=peak, own_mib=peak - self.found["import_mib"])
        if recommended is not None:
            np.save(self.folder / "recommended.npy", recommended)
        (self.folder / "figures.json").write_text(json.dumps(self.found))
