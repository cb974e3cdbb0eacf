"""Measure seconds and peak memory of preparing a dataset, each in a fresh process with an empty cache."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["CASES", "run"]

CASES = {
    "ml-1m": ("ml-1m", 3.0, 4.0),
    "simulated, 20 million rows": ("simulated?users=500000&items=20000&mean_length=40", 60.0, 4.0),
    "Parquet in random order, 20 million rows": ("table.parquet", 60.0, 4.0),
    "CSV in random order, 20 million rows": ("table.csv", 90.0, 6.0),
}
"""Source, and its limits in seconds and GiB."""
ROWS = 20_000_000


def run(sources: list[str] | None = None) -> dict[str, Any]:
    """Measure rows, seconds, peak GiB and the milliseconds to open the result, by case."""
    cases = CASES if sources is None else {source: (source, None, None) for source in sources}
    return {
        name: {**_case(source), "limit_seconds": seconds, "limit_gib": gib}
        for name, (source, seconds, gib) in cases.items()
    }


def _case(source: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as home:
        if source in ("table.parquet", "table.csv"):
            source = f"{home}/{source}"
            subprocess.run([sys.executable, __file__, "--write", source], check=True)
        environment = {**os.environ, "SEGUE_HOME": home}
        command = [sys.executable, __file__, "--build", source]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def build(source: str) -> None:
    """Prepare ``source`` in this process and print the figures as JSON."""
    from segue.data import load

    start = time.perf_counter()
    dataset = load(source)
    prepared = time.perf_counter()
    load(dataset.header["folder"])
    opened = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures = {"rows": dataset.histories.size, "seconds": prepared - start, "gib": peak}
    print(json.dumps({**figures, "open_ms": 1000 * (opened - prepared)}))


def write_table(path: str) -> None:
    """Write a table of random events in random order as Parquet or CSV, by its suffix."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    columns = {
        "user_id": rng.integers(1, 140_000, ROWS),
        "item_id": np.minimum(rng.pareto(1.0, ROWS) * 50, 26_000).astype(np.int64),
        "timestamp": rng.integers(800_000_000, 1_400_000_000, ROWS),
        "rating": rng.integers(1, 6, ROWS).astype(np.float32),
    }
    frame = pl.DataFrame(columns)
    frame.write_csv(path) if path.endswith(".csv") else frame.write_parquet(Path(path))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--build"]:
        build(sys.argv[2])
    else:
        write_table(sys.argv[2])
