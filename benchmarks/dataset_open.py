"""Measure seconds and memory of opening a prepared dataset in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

__all__ = ["run"]

PROBE = """
import json, sys, time
sys.path.insert(0, sys.argv[2])
from measure import memory
import numpy, polars
from segue.data import open_dataset
before = memory()["peak"]
start = time.perf_counter()
data = open_dataset(__import__("pathlib").Path(sys.argv[1]))
opened = time.perf_counter() - start
sizes = [data.n_users, data.n_items, data.histories.size]
start = time.perf_counter()
total = int(data.histories.items.sum(dtype="int64"))
print(json.dumps({"milliseconds": 1000 * opened, "first_pass_milliseconds": 1000 * (time.perf_counter() - start),
                  "memory_mib": memory()["peak"] - before, "users": sizes[0], "items": sizes[1], "events": sizes[2]}))
"""


def run(source: str) -> dict[str, Any]:
    """Prepare ``source`` or reuse it, open it in three fresh processes, and return the fastest."""
    from benchmarks.subprocess_runner import RUNNERS
    from segue.data import load

    folder = str(load(source).header["folder"])
    repeats = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PROBE, folder, RUNNERS], check=True, capture_output=True, text=True
        )
        repeats.append(json.loads(done.stdout.splitlines()[-1]))
    fastest: dict[str, Any] = min(repeats, key=lambda one: one["milliseconds"])
    return fastest
