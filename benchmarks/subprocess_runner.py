"""Run a benchmark script in a fresh process: its environment, its threads, arrays in and out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.environments import interpreter
from benchmarks.machine import MAX_LOAD, cpu_load

__all__ = ["RUNNERS", "Arrays", "find_python", "measure_load", "run_alternating", "run_in_subprocess"]

RUNNERS = Path(__file__).parent / "runners"

Arrays = dict[str, NDArray[Any]]

SHARED = {"surprise": "implicit", "torch_rechub": "torch-rechub", "deepctr_torch": "deepctr-torch"}
"""Environments of libraries, where they have another name."""


def find_python(library: str) -> Path | None:
    """Return the interpreter of a library's environment; ``None``, with a warning, if there is none."""
    if library == "segue":
        return Path(sys.executable)
    library = SHARED.get(library, library)
    found = interpreter(library)
    if found is None:
        print(
            f"warning: no environment for {library}; create it with: python -m benchmarks.environments {library}",
            file=sys.stderr,
        )
    return found


def measure_load() -> float:
    """Measure the CPU load in percent, and warn if it is too high for a fair measurement."""
    load = cpu_load()
    if load > MAX_LOAD:
        print(f"warning: other processes use {load:.0f} % of the CPUs; figures are disturbed", file=sys.stderr)
    return load


def run_in_subprocess(script: str, python: Path, job: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Run ``runners/run_SCRIPT.py`` in a temporary folder; return its figures and the arrays it wrote.

    Args:
        script: the script's name without ``run_``.
        python: the interpreter.
        job: the script's settings, including ``threads``.
        arrays: written to ``events.npz``, which the script reads.

    Raises:
        RuntimeError: the script failed; the message ends with its standard error.
    """
    load = measure_load()
    threads = str(job["threads"])
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "LK_NUM_THREADS", "LK_NUM_BACKEND_THREADS", "RAYON_NUM_THREADS")
    with tempfile.TemporaryDirectory(prefix=f"segue-bench-{script}-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps(job))
        np.savez(folder / "events.npz", **arrays)
        done = subprocess.run(
            [python, RUNNERS / f"run_{script}.py", folder],
            cwd=folder,
            env=os.environ | dict.fromkeys(names, threads),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{script}: exit status {done.returncode}\n{done.stderr[-4000:]}")
        figures: dict[str, Any] = json.loads((folder / "figures.json").read_text())
        results = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    return figures | {"load_before_percent": load}, results


def run_alternating(
    rounds: int, runs: list[tuple[str, str, dict[str, Any]]], arrays: Arrays
) -> dict[str, tuple[Any, Arrays]]:
    """Run several jobs alternately, ``rounds`` times each, and return the run with the fastest fit of each.

    Args:
        rounds: fresh processes per job.
        runs: name, library and settings of each; the script is ``run_PART_LIBRARY.py``, PART being ``job["part"]``.
        arrays: see :func:`run_in_subprocess`.
    """
    found: dict[str, list[tuple[Any, Arrays]]] = {}
    for number in range(rounds):
        for name, library, job in runs:
            python = find_python(library)
            if python is None:
                continue
            print(f"{name} ({number + 1} of {rounds}) ...", file=sys.stderr)
            found.setdefault(name, []).append(run_in_subprocess(f"{job['part']}_{library}", python, job, arrays))
    best = {}
    for name, repeats in found.items():
        figures, results = min(repeats, key=lambda one: float(one[0]["fit_seconds"]))
        every = {
            f"all_{key}": [one[key] for one, _ in repeats] for key in ("fit_seconds", "cpu_seconds") if key in figures
        }
        best[name] = figures | every, results
    return best
