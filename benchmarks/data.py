"""Seconds and peak memory of preparing a dataset, each in a fresh process; nothing else should run meanwhile.

Without arguments: ML-1M (from SEGUE_ARCHIVES) and 20 million simulated rows. ``table``: 20 million rows of a shuffled
Parquet file. Anything else: that source.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = {
    "ml-1m": ("ml-1m", 3.0, 4.0),
    "simulated": ("simulated?users=500000&items=20000&mean_length=40", 60.0, 4.0),
    "table": ("table", 60.0, 4.0),
}
ROWS = 20_000_000


def main() -> None:
    names = sys.argv[1:] or ["ml-1m", "simulated"]
    for name in names:
        source, seconds, gib = CASES.get(name, (name, float("inf"), float("inf")))
        with tempfile.TemporaryDirectory() as home:
            environment = {**os.environ, "SEGUE_HOME": home}
            if source == "table":
                source = f"{home}/table.parquet"
                subprocess.run([sys.executable, __file__, "--write", source], check=True)
            done = subprocess.run(
                [sys.executable, __file__, "--one", source],
                env=environment,
                check=False,
                stdout=subprocess.PIPE,
            )
        if done.returncode:
            print(f"{name}: failed")
            continue
        found = json.loads(done.stdout)
        print(
            f"{name}: {found['rows']:,} rows prepared in {found['seconds']:.2f} s (limit {seconds:g}), "
            f"peak {found['gib']:.2f} GiB (limit {gib:g}), opened in {found['open_ms']:.1f} ms"
        )


def one(source: str) -> None:
    from segue.data import load

    start = time.perf_counter()
    dataset = load(source)
    prepared = time.perf_counter()
    load(dataset.header["folder"])
    opened = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    facts = {"rows": dataset.histories.size, "seconds": prepared - start, "gib": peak}
    print(json.dumps({**facts, "open_ms": 1000 * (opened - prepared)}))


def write(path: str) -> None:
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    columns = {
        "user_id": rng.integers(1, 140_000, ROWS),
        "item_id": np.minimum(rng.pareto(1.0, ROWS) * 50, 26_000).astype(np.int64),
        "timestamp": rng.integers(800_000_000, 1_400_000_000, ROWS),
        "rating": rng.integers(1, 6, ROWS).astype(np.float32),
    }
    pl.DataFrame(columns).write_parquet(Path(path))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2])
    elif sys.argv[1:2] == ["--write"]:
        write(sys.argv[2])
    else:
        main()
