"""A side of a comparison in a fresh process: its own environment, the threads it may use, arrays in and out."""

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
from benchmarks.machine import REST, busy

__all__ = ["Arrays", "fresh", "in_turn", "python_of"]

SIDES = Path(__file__).parent / "runners"

Arrays = dict[str, NDArray[Any]]

SHARED = {"surprise": "implicit"}
"""Libraries that live in the environment of another."""


def python_of(library: str) -> Path | None:
    """The interpreter of a library's environment; ``None``, and a line that says so, where there is none."""
    if library == "segue":
        return Path(sys.executable)
    library = SHARED.get(library, library)
    found = interpreter(library)
    if found is None:
        print(
            f"no environment for {library}; make it with: python -m benchmarks.environments {library}", file=sys.stderr
        )
    return found


def fresh(script: str, python: Path, ask: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Run ``sides/run_SCRIPT.py`` in a folder of its own: its figures, and the arrays that it left.

    Args:
        ask: its settings, ``threads`` among them.
        arrays: what it reads from ``events.npz``.
    """
    load = busy()
    if load > REST:
        print(f"{load:.0f} % of the processors are busy with something else: not a fair figure", file=sys.stderr)
    threads = str(ask["threads"])
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "LK_NUM_THREADS", "LK_NUM_BACKEND_THREADS", "RAYON_NUM_THREADS")
    with tempfile.TemporaryDirectory(prefix=f"segue-bench-{script}-") as folder:
        place = Path(folder)
        (place / "job.json").write_text(json.dumps(ask))
        np.savez(place / "events.npz", **arrays)
        done = subprocess.run(
            [python, SIDES / f"run_{script}.py", folder],
            cwd=folder,
            env=os.environ | dict.fromkeys(names, threads),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{script}: exit status {done.returncode}\n{done.stderr[-4000:]}")
        figures: dict[str, Any] = json.loads((place / "figures.json").read_text())
        left = {path.stem: np.load(path) for path in place.glob("*.npy")}
    return figures | {"busy_before_percent": load}, left


def in_turn(rounds: int, sides: list[tuple[str, str, dict[str, Any]]], arrays: Arrays) -> dict[str, tuple[Any, Arrays]]:
    """Several sides, each in ``rounds`` fresh processes in turn with the others; of each the round that fitted fastest.

    Args:
        sides: name, library and settings of each; the script is ``run_PART_LIBRARY.py``, PART being ``ask["part"]``.
    """
    found: dict[str, list[tuple[Any, Arrays]]] = {}
    for number in range(rounds):
        for name, library, ask in sides:
            python = python_of(library)
            if python is None:
                continue
            print(f"{name} ({number + 1} of {rounds}) ...", file=sys.stderr)
            found.setdefault(name, []).append(fresh(f"{ask['part']}_{library}", python, ask, arrays))
    best = {}
    for name, runs in found.items():
        figures, left = min(runs, key=lambda one: float(one[0]["fit_seconds"]))
        best[name] = figures | {"all_fit_seconds": [one["fit_seconds"] for one, _ in runs]}, left
    return best
