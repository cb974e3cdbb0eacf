"""Segue beside RecTools and RecBole: the same log, the same model, one after the other, each in a fresh process.

Trained: cross-entropy over the whole catalogue, for some batches after a warm-up. A target is a position that counts:
one that is not padding, of BERT4Rec one that is hidden. Evaluated: the ten best of the whole catalogue for every user.
Memory: the peak of the process. Peers train on part of an epoch; rates are of the batches that were timed.
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
from benchmarks.machine import REST, busy
from benchmarks.runners.measure import score
from segue.core.types import Split

__all__ = ["CONTESTS", "MODELS", "SETTINGS", "TITLES", "Contest", "histories", "run", "side", "timed"]

SIDES = Path(__file__).parent / "runners"

SETTINGS: dict[str, Any] = {
    "width": 64,
    "dropout": 0.2,
    "batch": 128,
    "learning_rate": 1e-3,
    "windows": "newest",
    "k": 10,
    "rows": 512,
}
"""The same for all models and libraries."""

MODELS: dict[str, dict[str, Any]] = {
    "sasrec": {"blocks": 2, "heads": 1, "inner": 64},
    "bert4rec": {"blocks": 2, "heads": 2, "inner": 256, "hidden_share": 0.2, "last_share": 0.0},
    "gru4rec": {"blocks": 1, "inner": 128},
}
"""What each model has besides, the same in all libraries: ``inner`` is the width of the feed-forward layers, of GRU4Rec
that of the state."""


TITLES = {"sasrec": "SASRec", "bert4rec": "BERT4Rec", "gru4rec": "GRU4Rec"}


@dataclass(frozen=True)
class Contest:
    """One model at one length, in some libraries."""

    model: str
    length: int
    libraries: tuple[str, ...]

    @property
    def name(self) -> str:
        """As in ``--contests``."""
        return f"{self.model}-{self.length}"

    def settings(self) -> dict[str, Any]:
        """Settings of every side."""
        return SETTINGS | MODELS[self.model] | {"model": self.model, "length": self.length}


CONTESTS = (
    Contest("sasrec", 200, ("segue", "rectools", "recbole")),
    Contest("bert4rec", 200, ("segue", "rectools")),
    Contest("sasrec", 50, ("segue", "rectools", "recbole")),
    Contest("gru4rec", 50, ("segue", "recbole")),
    Contest("bert4rec", 50, ("segue", "rectools", "recbole")),
)

AMOUNTS = {
    "segue": {50: 4, 200: 2},
    "rectools": {50: 40, 200: 14},
    "recbole": {50: 40, 200: 14},
}
"""How much each side trains, by length: Segue epochs, the others batches."""
WARM_UP = {"segue": 1, "rectools": 2, "recbole": 4}


def run(
    source: str, split: Split, contests: list[Contest], libraries: list[str], threads: int, seed: int, quick: bool
) -> dict[str, Any]:
    """Figures by contest and side, with the machine's rates before and after."""
    whole = histories(split)
    more = {"threads": threads, "seed": seed, "source": source, "items": split.train.n_items}
    found: dict[str, Any] = {"common": SETTINGS | more, "contests": []}
    shapes = CONTESTS[0].settings() | more
    found["rates"] = {"before": side("gemm", sys.executable, shapes, whole)}
    for contest in contests:
        ask = contest.settings() | more
        sides = {}
        for name in (name for name in contest.libraries if name in libraries):
            batches = WARM_UP[name] + (1 if quick else AMOUNTS[name][contest.length])
            sides[name] = timed(name, ask | {"batches": batches, "warm_up": WARM_UP[name]}, whole, contest.name)
        lengths = np.minimum(split.train.histories.lengths, contest.length)
        needed = flops.needed(ask, lengths[lengths > 0])
        found["contests"].append({"name": contest.name, "settings": ask, "operations": needed, "sides": sides})
    found["rates"]["after"] = side("gemm", sys.executable, shapes, whole)
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


def timed(
    name: str, ask: dict[str, Any], events: tuple[NDArray[np.int64], NDArray[np.int32]], what: str
) -> dict[str, Any]:
    """One side in its own environment, with how busy the machine was when it began.

    Raises:
        ValueError: there is no environment for the library.
    """
    python = Path(sys.executable) if name == "segue" else interpreter(name)
    if python is None:
        raise ValueError(f"{name}: no environment; make it with: python -m benchmarks.environments {name}")
    load = busy()
    if load > REST:
        print(f"{load:.0f} % of the processors are busy with something else: not a fair figure", file=sys.stderr)
    print(f"{what}: {name} ...", file=sys.stderr)
    return side(name, python, ask, events) | {"busy_before_percent": load}


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
