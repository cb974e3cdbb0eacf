"""Compare Segue with RecTools and RecBole: same log, same model, one library after the other, in fresh processes.

Training uses cross-entropy over the whole catalog, for some batches after a warm-up. A target is a position that
contributes to the loss: not padding, and in BERT4Rec masked. Evaluation ranks the whole catalog and keeps the top ten
of every user. Memory is the peak of the process. The other libraries train on part of an epoch; rates refer to the
timed batches.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import flops
from benchmarks.environments import interpreter
from benchmarks.runners.measure import score
from benchmarks.subprocess_runner import RUNNERS, measure_load
from segue.core.types import Split

__all__ = ["COMPARISONS", "MODELS", "SETTINGS", "TITLES", "Comparison", "histories", "run", "run_library", "run_runner"]

SETTINGS: dict[str, Any] = {
    "embedding_dim": 64,
    "dropout": 0.2,
    "batch": 128,
    "learning_rate": 1e-3,
    "windows": "last",
    "k": 10,
    "rows": 512,
}
"""Settings of all models and libraries."""

MODELS: dict[str, dict[str, Any]] = {
    "sasrec": {"num_blocks": 2, "num_heads": 1, "inner": 64},
    "bert4rec": {"num_blocks": 2, "num_heads": 2, "inner": 256, "mask_prob": 0.2, "mask_last_prob": 0.0},
    "gru4rec": {"num_blocks": 1, "inner": 128},
}
"""Further settings of each model, the same in all libraries: ``inner`` is the width of the feed-forward layers, or of
the state in GRU4Rec."""

TITLES = {"sasrec": "SASRec", "bert4rec": "BERT4Rec", "gru4rec": "GRU4Rec"}


@dataclass(frozen=True)
class Comparison:
    """One model at one length, in several libraries."""

    model: str
    length: int
    libraries: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the name used by ``--comparisons``."""
        return f"{self.model}-{self.length}"

    def settings(self) -> dict[str, Any]:
        """Return the settings that every library gets."""
        return SETTINGS | MODELS[self.model] | {"model": self.model, "length": self.length}


COMPARISONS = (
    Comparison("sasrec", 200, ("segue", "rectools", "recbole")),
    Comparison("bert4rec", 200, ("segue", "rectools")),
    Comparison("sasrec", 50, ("segue", "rectools", "recbole")),
    Comparison("gru4rec", 50, ("segue", "recbole")),
    Comparison("bert4rec", 50, ("segue", "rectools", "recbole")),
)

AMOUNTS = {
    "segue": {50: 4, 200: 2},
    "rectools": {50: 40, 200: 14},
    "recbole": {50: 40, 200: 14},
}
"""Amount of training by length: epochs for Segue, batches for the others."""
WARM_UP = {"segue": 1, "rectools": 2, "recbole": 4}


def run(
    source: str, split: Split, comparisons: list[Comparison], libraries: list[str], threads: int, seed: int, quick: bool
) -> dict[str, Any]:
    """Measure every comparison, and the machine's rate of matrix products before and after."""
    whole = histories(split)
    more = {"threads": threads, "seed": seed, "source": source, "items": split.train.n_items}
    found: dict[str, Any] = {"common": SETTINGS | more, "comparisons": []}
    shapes = COMPARISONS[0].settings() | more
    found["rates"] = {"before": run_runner("gemm", sys.executable, shapes, whole)}
    for comparison in comparisons:
        job = comparison.settings() | more
        runs = {}
        for name in (name for name in comparison.libraries if name in libraries):
            batches = WARM_UP[name] + (1 if quick else AMOUNTS[name][comparison.length])
            runs[name] = run_library(name, job | {"batches": batches, "warm_up": WARM_UP[name]}, whole, comparison.name)
        lengths = np.minimum(split.train.histories.lengths, comparison.length)
        needed = flops.needed(job, lengths[lengths > 0])
        found["comparisons"].append({"name": comparison.name, "settings": job, "operations": needed, "runs": runs})
    found["rates"]["after"] = run_runner("gemm", sys.executable, shapes, whole)
    return found


def histories(split: Split) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return offsets and items of whole histories, oldest first: the test query's history, then its target."""
    history, targets = split.test.queries.history, split.test.targets
    offsets = history.offsets + targets.offsets
    items = np.empty(offsets[-1], np.int32)
    last = np.zeros(len(items), bool)
    last[offsets[1:] - 1] = True
    items[last], items[~last] = targets.items, history.items
    return offsets, items


def run_library(
    name: str, job: dict[str, Any], events: tuple[NDArray[np.int64], NDArray[np.int32]], title: str
) -> dict[str, Any]:
    """Run one library in its own environment, and record the CPU load at the start.

    Raises:
        ValueError: the library has no environment.
    """
    python = Path(sys.executable) if name == "segue" else interpreter(name)
    if python is None:
        raise ValueError(f"{name}: no environment; create it with: python -m benchmarks.environments {name}")
    load = measure_load()
    print(f"{title}: {name} ...", file=sys.stderr)
    return run_runner(name, python, job, events) | {"load_before_percent": load}


def run_runner(
    name: str, python: str | Path, job: dict[str, Any], events: tuple[NDArray[np.int64], NDArray[np.int32]]
) -> dict[str, Any]:
    """Run ``run_NAME.py`` in a fresh process and a temporary folder; add metrics of the lists it recommended."""
    with tempfile.TemporaryDirectory(prefix=f"segue-bench-{name}-") as folder:
        path = Path(folder)
        (path / "job.json").write_text(json.dumps(job))
        np.savez(path / "events.npz", offsets=events[0], items=events[1])
        done = subprocess.run(
            [python, RUNNERS / f"run_{name}.py", folder], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{name}: exit status {done.returncode}\n{done.stderr[-4000:]}")
        figures: dict[str, Any] = json.loads((path / "figures.json").read_text())
        if (path / "recommended.npy").exists():
            figures["metrics"] = score(np.load(path / "recommended.npy"), *events)
    return figures
