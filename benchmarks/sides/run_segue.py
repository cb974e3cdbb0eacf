"""Segue's side: through the public functions, as a user would: load, split, train, evaluate.

The rate is what the training loop itself logs for each epoch after the warm-up: loading and padding count.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from measure import Job, memory

from segue.core.run import Run
from segue.data import load
from segue.data.splits import SplitSettings, split
from segue.evaluation.evaluate import evaluate
from segue.training.train import Training, train


class Epochs:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.logged: list[Mapping[str, float]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take one epoch."""
        self.logged.append(values)


def main() -> None:
    job = Job()
    ask = job.settings
    torch.set_num_threads(ask["threads"])
    parts = split(load(ask["source"]), SplitSettings())
    epochs = Epochs()
    settings = {key: ask[key] for key in ("width", "blocks", "heads", "dropout")} | {"max_length": ask["length"]}
    training = Training(
        epochs=ask["warm_up"] + ask["batches"], batch_size=ask["batch"], learning_rate=ask["learning_rate"]
    )
    run = Run(ask["seed"], trackers=(epochs,))
    model = train("sasrec", settings | {"expansion": 1.0, "windows": "newest"}, training, parts.train, run)
    timed = epochs.logged[ask["warm_up"] :]
    targets = sum(values["targets_per_second"] * values["seconds"] for values in timed)
    seconds = sum(values["seconds"] for values in timed)
    job.note(
        targets_per_second=targets / seconds,
        train_seconds=seconds,
        train_targets=round(targets),
        train_epochs=len(timed),
        train_peak_mib=memory()["peak"],
    )
    start = time.perf_counter()
    evaluation = evaluate(model, parts.test, ks=(ask["k"],))
    job.note(evaluate_seconds=time.perf_counter() - start, evaluated=len(parts.test))
    top = evaluation.top
    job.finish(np.where(np.arange(ask["k"]) < top.lengths[:, None], top.items, -1))


main()
