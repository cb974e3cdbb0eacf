"""What the runners of parts ``lists`` and ``scores`` share: a clock, and the names of the metrics. Needs only NumPy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from measure import Job, memory

__all__ = ["METRICS", "WARM_UP", "measure", "timed_arrays"]

METRICS = ("precision", "recall", "hit_rate", "mrr", "map", "ndcg")
"""Metrics that all libraries have with the same definition."""

WARM_UP = 500
"""Users of the call before the clock starts, which loads what a library imports at its first use."""


def timed_arrays(job: Job, users: int | None = None) -> dict:
    """Return the arrays of the first users; ``None``: of all."""
    arrays = job.arrays()
    offsets = arrays["target_offsets"]
    n = len(offsets) - 1 if users is None else min(users, len(offsets) - 1)
    found = {
        "target_offsets": offsets[: n + 1],
        "target_users": np.repeat(np.arange(n), np.diff(offsets[: n + 1])),
        "target_items": arrays["target_items"][: offsets[n]],
    }
    if "lists" in arrays:
        return found | {"lists": arrays["lists"][:n]}
    seen = arrays["history_offsets"]
    found |= {"history_offsets": seen[: n + 1], "history_items": arrays["history_items"][: seen[n]]}
    return found | {"users": arrays["users"][:n], "items": arrays["items"]}


def measure(job: Job, compute: Callable[[], Mapping[str, float]]) -> None:
    """Time one computation of the metrics, and record seconds, processor seconds, memory and values."""
    before = memory()["now"]
    wall, cpu = time.perf_counter(), time.process_time()
    values = compute()
    job.record(fit_seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu, before_mib=before)
    job.record(values={name: float(value) for name, value in values.items()})
    job.finish()
