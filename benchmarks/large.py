"""A catalog of a million items in a fresh process: an epoch of a million targets, a checkpoint, and exact evaluation.

SASRec of width 64 reads 50 items; the loss is a softmax over 256 sampled negatives; evaluation ranks the whole catalog
for several thousand test users. ``python -m benchmarks.large SOURCE THREADS`` is that process: it prints its figures as
JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.runners.measure import memory

__all__ = ["SOURCE", "measure", "run"]

SOURCE = "simulated?users=25000&items=1000000&seed=1"
"""A log of about a million events."""

SMALL = "simulated?users=200&items=20000&seed=1"

VALIDATED = 256
"""Validation queries: enough to keep a best model."""

EVALUATED = 5000
"""Test queries that are ranked."""


def run(source: str | None, threads: int, quick: bool) -> dict[str, Any]:
    """Measure an epoch and evaluation: seconds, targets and users per second, and peak memory."""
    from segue.data import load

    source = source or (SMALL if quick else SOURCE)
    load(source)  # prepare the data here, outside the measured process
    command = [sys.executable, "-m", "benchmarks.large", source, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(source: str, threads: int) -> dict[str, Any]:
    """Measure in this process; the seconds of the epoch are those that training logs."""
    import torch

    from segue.core.run import Run
    from segue.core.types import HeldOut
    from segue.data import load
    from segue.data.splits import SplitSettings, split
    from segue.evaluation.evaluate import evaluate, make_validator
    from segue.training.train import Training, train

    torch.set_num_threads(threads)
    found: dict[str, Any] = {"source": source, "threads": threads, "import_mib": memory()["now"]}
    parts = split(load(source), SplitSettings())
    logged: list[Mapping[str, float]] = []
    tracker = type("Tracker", (), {"log": lambda self, step, values: logged.append(values)})()
    settings = {"embedding_dim": 64, "max_length": 50, "windows": "all"}
    training = Training(epochs=1, loss="sampled_softmax")
    valid, test = (
        HeldOut(held.queries.rows_between(0, most), held.targets.rows_between(0, most))
        for held, most in ((parts.valid, VALIDATED), (parts.test, EVALUATED))
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = Run(0, Path(folder), trackers=(tracker,))
        model = train("sasrec", settings, training, parts.train, run, make_validator(valid))
        found["train_seconds"] = time.perf_counter() - start  # includes validation and the checkpoint
    (epoch,) = logged
    found |= {
        "items": parts.train.n_items,
        "targets": round(epoch["targets_per_second"] * epoch["seconds"]),
        "epoch_seconds": epoch["seconds"],
        "targets_per_second": epoch["targets_per_second"],
        "train_peak_mib": memory()["peak"],
        "train_processor_seconds": time.process_time(),
    }
    start = time.perf_counter()
    evaluate(model, test)
    seconds = time.perf_counter() - start
    users = len(test)
    return found | {
        "evaluate_seconds": seconds,
        "evaluated_users": users,
        "users_per_second": users / seconds,
        "peak_mib": memory()["peak"],
        "processor_seconds": time.process_time(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
