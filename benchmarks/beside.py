"""Segue beside RecTools and RecBole: the same log, the same SASRec, one after the other, each in a fresh process.

Trained: SASRec with cross-entropy over the whole catalogue, for some batches after a warm-up. A target is a position
that is not padding. Evaluated: the ten best of the whole catalogue for every user. Memory: the peak of the process.
Peers train on part of an epoch; rates are of the batches that were timed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import flops
from benchmarks.machine import REST, busy
from benchmarks.peers import interpreter
from segue.core.types import Split

__all__ = ["SETTINGS", "run", "score"]

SIDES = Path(__file__).parent / "sides"
SETTINGS: dict[str, Any] = {
    "width": 64,
    "blocks": 2,
    "heads": 1,
    "dropout": 0.2,
    "length": 200,
    "batch": 128,
    "learning_rate": 1e-3,
    "k": 10,
    "rows": 512,
}
"""One SASRec for all; the feed-forward is as wide as the model, as its authors have it."""

BATCHES = {"segue": 2, "rectools": 14, "recbole": 14}
"""How much each side trains: Segue epochs, the others batches."""
WARM_UP = {"segue": 1, "rectools": 2, "recbole": 4}


def run(source: str, split: Split, names: list[str], threads: int, seed: int, quick: bool) -> dict[str, Any]:
    """Figures by side, with the machine's rates before and after, and how busy it was when each side began."""
    whole = histories(split)
    ask = SETTINGS | {"threads": threads, "seed": seed, "source": source, "items": split.train.n_items}
    found: dict[str, Any] = {"settings": ask, "sides": {}}
    found["rates"] = {"before": side("gemm", sys.executable, ask, whole)}
    for name in names:
        python = Path(sys.executable) if name == "segue" else interpreter(name)
        if python is None:
            print(f"{name}: no environment; make it with: python -m benchmarks.peers {name}", file=sys.stderr)
            continue
        load = busy()
        if load > REST:
            print(f"{load:.0f} % of the processors are busy with something else: not a fair figure", file=sys.stderr)
        print(f"{name} ...", file=sys.stderr)
        batches = WARM_UP[name] + 1 if quick else BATCHES[name]
        figures = side(name, python, ask | {"batches": batches, "warm_up": WARM_UP[name]}, whole)
        found["sides"][name] = figures | {"busy_before_percent": load}
    found["rates"]["after"] = side("gemm", sys.executable, ask, whole)
    found["operations"] = operations(ask, split)
    return found


def histories(split: Split) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Whole histories, oldest first: what the test asks about, then its target."""
    asked, targets = split.test.queries.history, split.test.targets
    offsets = asked.offsets + targets.offsets
    items = np.empty(offsets[-1], np.int32)
    last = np.zeros(len(items), bool)
    last[offsets[1:] - 1] = True
    items[last], items[~last] = targets.items, asked.items
    return offsets, items


def operations(ask: dict[str, Any], split: Split) -> dict[str, float]:
    """What one target costs in the windows that are trained on."""
    lengths = np.minimum(split.train.histories.lengths, ask["length"])
    context = flops.visible(lengths[lengths > 0])
    return flops.sasrec(ask["width"], ask["width"], ask["blocks"], ask["items"], context) | {"context": context}


def side(
    name: str, python: str | Path, ask: dict[str, Any], events: tuple[NDArray[np.int64], NDArray[np.int32]]
) -> dict[str, Any]:
    """Run one side in a fresh process and a folder of its own; its figures, with metrics of what it recommended."""
    with tempfile.TemporaryDirectory(prefix=f"segue-bench-{name}-") as folder:
        place = Path(folder)
        (place / "job.json").write_text(json.dumps(ask))
        np.savez(place / "events.npz", offsets=events[0], items=events[1])
        done = subprocess.run(
            [python, SIDES / f"run_{name}.py", folder], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{name}: exit status {done.returncode}\n{done.stderr[-4000:]}")
        figures: dict[str, Any] = json.loads((place / "figures.json").read_text())
        if (place / "recommended.npy").exists():
            figures["metrics"] = score(np.load(place / "recommended.npy"), *events)
    return figures


def score(recommended: NDArray[np.int64], offsets: NDArray[np.int64], items: NDArray[np.int32]) -> dict[str, float]:
    """HR and NDCG at k of ``recommended (users, k)`` for the last item of each history, counted here for every side."""
    k = recommended.shape[1]
    hits = recommended == items[offsets[1:] - 1][:, None]
    gains = hits / np.log2(np.arange(k) + 2.0)
    return {f"hit_rate@{k}": float(hits.any(1).mean()), f"ndcg@{k}": float(gains.sum(1).mean())}
