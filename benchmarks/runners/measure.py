"""Measurements that are the same for every library. Needs only NumPy: it runs in each environment.

A runner is a script in a fresh process: ``python run_x.py JOB``; JOB is a folder with ``job.json`` (settings) and
``events.npz`` (mostly ``offsets``, ``items``: whole histories, oldest first). It writes ``figures.json`` there.
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

__all__ = ["Job", "ThroughputMeter", "ValidationTimer", "hu_objective", "memory", "process_age", "score"]


def process_age() -> float:
    """Return the seconds since this process began, including the start of the interpreter."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def memory(process: int | str = "self") -> dict[str, float]:
    """Return the memory of a process in MiB: current, and the peak since it began (``VmHWM``)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return {"now": int(fields["VmRSS"]) / 1024, "peak": int(fields["VmHWM"]) / 1024}


def score(
    recommended: NDArray[np.int64], offsets: NDArray[np.int64], items: NDArray[np.int32], before: int = 0
) -> dict[str, float]:
    """Compute HR and NDCG at k of ``recommended (users, k)``.

    Args:
        before: the target of each history: 0 the last item (test), 1 the one before (validation).
    """
    k = recommended.shape[1]
    hits = recommended == items[offsets[1:] - 1 - before][:, None]
    gains = hits / np.log2(np.arange(k) + 2.0)
    return {f"hit_rate@{k}": float(hits.any(1).mean()), f"ndcg@{k}": float(gains.sum(1).mean())}


def hu_objective(seen: Any, users: NDArray[Any], items: NDArray[Any], confidence: float, l2: float) -> float:
    """Compute the objective of Hu et al.: ``sum_seen c (1 - x.y)² + sum_rest (x.y)² + l2 (|X|² + |Y|²)``.

    Args:
        seen: ``(U, I)`` sparse matrix in CSR form with values of 1.
        confidence: c, the weight of a stored value; the others weigh 1.
    """
    grams = [(table.T.astype(np.float64) @ table) for table in (users, items)]
    total = float((grams[0] * grams[1]).sum()) + l2 * float(np.trace(grams[0]) + np.trace(grams[1]))
    rows = np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr))
    for start in range(0, len(rows), 100_000):
        part = slice(start, start + 100_000)
        found = np.einsum("td,td->t", users[rows[part]], items[seen.indices[part]]).astype(np.float64)
        total += float((confidence * (1.0 - found) ** 2 - found**2).sum())
    return total


class ThroughputMeter:
    """Measures throughput batch by batch, without the first batches (warm-up).

    Wall time and CPU time; other processes disturb the latter less.
    """

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.times: list[float] = []
        self.cpu: list[float] = []
        self.targets: list[int] = []
        self.sequences: list[int] = []

    def batch(self, targets: int, sequences: int) -> None:
        """Record a trained batch of ``sequences`` with ``targets`` positions in the loss."""
        self.times.append(time.perf_counter())
        self.cpu.append(time.process_time())
        self.targets.append(targets)
        self.sequences.append(sequences)

    def figures(self) -> dict[str, float]:
        """Return rates over the batches after the warm-up.

        Raises:
            ValueError: there are no batches after the warm-up.
        """
        skip = self.warm_up
        if len(self.times) <= skip or skip < 1:
            raise ValueError(f"{len(self.times)} batches: expected more than the {skip} of the warm-up, at least 1")
        seconds = self.times[-1] - self.times[skip - 1]
        targets = sum(self.targets[skip:])
        return {
            "targets_per_second": targets / seconds,
            "sequences_per_second": sum(self.sequences[skip:]) / seconds,
            "targets_per_cpu_second": targets / (self.cpu[-1] - self.cpu[skip - 1]),
            "train_seconds": seconds,
            "train_targets": targets,
            "train_batches": len(self.times) - skip,
        }


class ValidationTimer:
    """Records NDCG at k on validation against seconds of training, without the time of validation.

    Args:
        events: offsets and items of the whole histories.
        limit: maximum seconds of training.
        target: NDCG at which training ends; ``None``: at the limit only.
    """

    def __init__(self, events: tuple[NDArray[np.int64], NDArray[np.int32]], limit: float, target: float | None) -> None:
        self.events, self.limit, self.target = events, limit, target
        self.seconds = 0.0
        self.started = 0.0
        self.points: list[tuple[float, float]] = []

    def start(self) -> None:
        """Start or resume the timer."""
        self.started = time.perf_counter()

    def stop(self) -> None:
        """Pause the timer."""
        self.seconds += time.perf_counter() - self.started

    def record_lists(self, recommended: NDArray[np.int64]) -> bool:
        """Score validation lists ``(users, k)``; return whether training must end."""
        found = score(recommended, *self.events, before=1)
        ndcg = found[f"ndcg@{recommended.shape[1]}"]
        self.points.append((self.seconds, ndcg))
        return self.seconds >= self.limit or (self.target is not None and ndcg >= self.target)


class Job:
    """The folder of a runner. Created right after the library's imports: memory and time so far are the baseline."""

    def __init__(self) -> None:
        self.folder = Path(sys.argv[1])
        self.settings: dict[str, Any] = json.loads((self.folder / "job.json").read_text())
        self.figures: dict[str, Any] = {"import_seconds": process_age(), "import_mib": memory()["now"]}

    def events(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Load offsets and items of the whole histories."""
        with np.load(self.folder / "events.npz") as arrays:
            return arrays["offsets"], arrays["items"]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Load all arrays of the job."""
        with np.load(self.folder / "events.npz") as arrays:
            return dict(arrays)

    def validation_timer(self) -> ValidationTimer:
        """Create a timer with the job's ``minutes`` and ``target``."""
        return ValidationTimer(self.events(), 60.0 * self.settings["minutes"], self.settings["target"])

    def record(self, **figures: Any) -> None:
        """Add figures."""
        self.figures |= figures

    def finish(self, recommended: NDArray[np.int64] | None = None, predicted: NDArray[Any] | None = None) -> None:
        """Write the figures and peak memory.

        Args:
            recommended: ``(users, k)`` item codes, -1 where a list is shorter.
            predicted: predictions.
        """
        peak = memory()["peak"] + self.figures.get("extra_process_mib", 0.0)
        self.record(peak_mib=peak, own_mib=peak - self.figures["import_mib"])
        if recommended is not None:
            np.save(self.folder / "recommended.npy", recommended)
        if predicted is not None:
            np.save(self.folder / "predicted.npy", predicted)
        (self.folder / "figures.json").write_text(json.dumps(self.figures))
