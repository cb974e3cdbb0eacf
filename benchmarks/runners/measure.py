"""What every side of a comparison measures in the same way. Standard library and NumPy: it runs in each environment.

A side is a script started in a fresh process: ``python run_x.py JOB``; JOB is a folder with ``job.json`` (settings)
and ``events.npz`` (mostly ``offsets``, ``items``: whole histories, oldest first), and it leaves ``figures.json`` there.
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

__all__ = ["Clock", "Job", "Race", "age", "hu_objective", "memory", "score"]


def age() -> float:
    """Seconds since this process began, its interpreter's start included."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def memory(process: int | str = "self") -> dict[str, float]:
    """Memory of a process in MiB: now, and at its highest since it began (``VmHWM``)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return {"now": int(fields["VmRSS"]) / 1024, "peak": int(fields["VmHWM"]) / 1024}


def score(
    recommended: NDArray[np.int64], offsets: NDArray[np.int64], items: NDArray[np.int32], before: int = 0
) -> dict[str, float]:
    """HR and NDCG at k of ``recommended (users, k)``, counted here for every side.

    Args:
        before: which item of each history is to be found: 0 the last, which is the test's; 1 the one before, which is
            validation's.
    """
    k = recommended.shape[1]
    hits = recommended == items[offsets[1:] - 1 - before][:, None]
    gains = hits / np.log2(np.arange(k) + 2.0)
    return {f"hit_rate@{k}": float(hits.any(1).mean()), f"ndcg@{k}": float(gains.sum(1).mean())}


def hu_objective(seen: Any, users: NDArray[Any], items: NDArray[Any], confidence: float, l2: float) -> float:
    """What Hu et al. minimise: ``sum_seen c (1 - x.y)² + sum_rest (x.y)² + l2 (|X|² + |Y|²)``, in float64.

    Args:
        seen: ``(U, I)`` a sparse table by rows, whose cells are 1.
        confidence: c, the weight of a cell that is there, where one that is not weighs 1.
    """
    grams = [(table.T.astype(np.float64) @ table) for table in (users, items)]
    total = float((grams[0] * grams[1]).sum()) + l2 * float(np.trace(grams[0]) + np.trace(grams[1]))
    rows = np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr))
    for start in range(0, len(rows), 100_000):
        part = slice(start, start + 100_000)
        found = np.einsum("td,td->t", users[rows[part]], items[seen.indices[part]]).astype(np.float64)
        total += float((confidence * (1.0 - found) ** 2 - found**2).sum())
    return total


class Clock:
    """Targets, sequences and the time they took, batch by batch; the first batches warm up and do not count.

    Time on the clock, and of the processors: what others do on the machine disturbs the second one less.
    """

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.times: list[float] = []
        self.processor: list[float] = []
        self.targets: list[int] = []
        self.sequences: list[int] = []

    def batch(self, targets: int, sequences: int) -> None:
        """A batch of ``sequences`` with ``targets`` positions that count has just been learned."""
        self.times.append(time.perf_counter())
        self.processor.append(time.process_time())
        self.targets.append(targets)
        self.sequences.append(sequences)

    def figures(self) -> dict[str, float]:
        """``targets_per_second`` and ``sequences_per_second`` over the batches after the warm-up, and their number."""
        skip = self.warm_up
        if len(self.times) <= skip or skip < 1:
            raise ValueError(f"{len(self.times)} batches: expected more than the {skip} of the warm-up, at least 1")
        seconds = self.times[-1] - self.times[skip - 1]
        targets = sum(self.targets[skip:])
        return {
            "targets_per_second": targets / seconds,
            "sequences_per_second": sum(self.sequences[skip:]) / seconds,
            "targets_per_processor_second": targets / (self.processor[-1] - self.processor[skip - 1]),
            "train_seconds": seconds,
            "train_targets": targets,
            "train_batches": len(self.times) - skip,
        }


class Race:
    """NDCG at k on validation against seconds of training; what validation takes is not counted.

    Args:
        events: offsets and items of the whole histories.
        limit: seconds of training after which it is over.
        level: NDCG at which it is over; ``None``: go on to the limit.
    """

    def __init__(self, events: tuple[NDArray[np.int64], NDArray[np.int32]], limit: float, level: float | None) -> None:
        self.events, self.limit, self.level = events, limit, level
        self.seconds = 0.0
        self.began = 0.0
        self.points: list[tuple[float, float]] = []

    def start(self) -> None:
        """Training begins, or goes on."""
        self.began = time.perf_counter()

    def stop(self) -> None:
        """Training pauses."""
        self.seconds += time.perf_counter() - self.began

    def judge(self, recommended: NDArray[np.int64]) -> bool:
        """Measure the lists ``(users, k)`` for validation; whether the race is over."""
        found = score(recommended, *self.events, before=1)
        ndcg = found[f"ndcg@{recommended.shape[1]}"]
        self.points.append((self.seconds, ndcg))
        return self.seconds >= self.limit or (self.level is not None and ndcg >= self.level)


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

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that was handed over."""
        with np.load(self.folder / "events.npz") as arrays:
            return dict(arrays)

    def race(self) -> Race:
        """The race that the settings ask for: ``minutes`` and ``level``."""
        return Race(self.events(), 60.0 * self.settings["minutes"], self.settings["level"])

    def note(self, **figures: Any) -> None:
        """Add to what was found."""
        self.found |= figures

    def finish(self, recommended: NDArray[np.int64] | None = None, predicted: NDArray[Any] | None = None) -> None:
        """Write the figures, with the peak of memory, the lists ``(users, k)`` of codes, -1 where none, and values."""
        peak = memory()["peak"] + self.found.get("beside_mib", 0.0)
        self.note(peak_mib=peak, own_mib=peak - self.found["import_mib"])
        if recommended is not None:
            np.save(self.folder / "recommended.npy", recommended)
        if predicted is not None:
            np.save(self.folder / "predicted.npy", predicted)
        (self.folder / "figures.json").write_text(json.dumps(self.found))
