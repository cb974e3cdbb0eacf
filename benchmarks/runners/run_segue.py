"""Segue's models through its public functions: load, split, train, evaluate.

Throughput is what the training loop logs for each epoch after the warm-up, which includes loading and padding. For the
time to accuracy the validation lists are scored after each epoch, and training ends when the target is reached.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from measure import Job, memory
from numpy.typing import NDArray

from segue.core.model import Recommender
from segue.core.run import Run
from segue.core.types import HeldOut, Split
from segue.data import load
from segue.data.splits import SplitSettings, split
from segue.evaluation.evaluate import evaluate
from segue.training.train import Training, train

MAX_EPOCHS = 100_000
"""Epochs of the time to accuracy, which ends earlier."""


class TargetReached(Exception):
    """Ends training."""


class EpochLog:
    """A tracker that stores the values of every epoch and the CPU time until then."""

    def __init__(self) -> None:
        self.logged: list[Mapping[str, float]] = []
        self.cpu: list[float] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Store one epoch."""
        self.logged.append(values)
        self.cpu.append(time.process_time())


def model_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Translate the settings to those of Segue's model."""
    found = {name: options[name] for name in ("embedding_dim", "dropout", "windows")} | {
        "max_length": options["length"]
    }
    if options["model"] == "gru4rec":
        return found | {"num_layers": options["num_blocks"], "hidden_dim": options["inner"]}
    found |= {
        "num_blocks": options["num_blocks"],
        "num_heads": options["num_heads"],
        "ffn_expansion": options["inner"] / options["embedding_dim"],
    }
    if options["model"] == "bert4rec":
        found |= {"mask_prob": options["mask_prob"], "mask_last_prob": options["mask_last_prob"]}
    return found


def top_lists(model: Recommender, held_out: HeldOut, k: int) -> NDArray[np.int64]:
    """Return the top items ``(users, k)``, -1 where there are fewer."""
    top = evaluate(model, held_out, ks=(k,)).top
    return np.where(np.arange(k) < top.lengths[:, None], top.items, -1)


def measure_throughput(job: Job, parts: Split) -> None:
    """Measure targets and sequences per second and the time of evaluation; write the test lists."""
    options = job.settings
    epochs = EpochLog()
    training = Training(
        epochs=options["warm_up"] + options["batches"],
        batch_size=options["batch"],
        learning_rate=options["learning_rate"],
    )
    model = train(
        options["model"], model_settings(options), training, parts.train, Run(options["seed"], trackers=(epochs,))
    )
    measured = epochs.logged[options["warm_up"] :]
    targets = sum(values["targets_per_second"] * values["seconds"] for values in measured)
    seconds = sum(values["seconds"] for values in measured)
    windows = len(measured) * int((parts.train.histories.lengths > 0).sum())  # the last window of each user
    job.record(
        targets_per_second=targets / seconds,
        sequences_per_second=windows / seconds,
        targets_per_cpu_second=targets / (epochs.cpu[-1] - epochs.cpu[options["warm_up"] - 1]),
        train_seconds=seconds,
        train_targets=round(targets),
        train_epochs=len(measured),
        train_peak_mib=memory()["peak"],
    )
    start = time.perf_counter()
    recommended = top_lists(model, parts.test, options["k"])
    job.record(evaluate_seconds=time.perf_counter() - start, evaluated=len(parts.test))
    job.finish(recommended)


def measure_time_to_accuracy(job: Job, parts: Split) -> None:
    """Train until validation reaches the target."""
    options = job.settings
    timer = job.validation_timer()

    def validate(model: Recommender) -> dict[str, float]:
        timer.stop()
        if timer.record_lists(top_lists(model, parts.valid, options["k"])):
            raise TargetReached
        timer.start()
        return {"ndcg@10": timer.points[-1][1]}

    training_settings = {name: options[name] for name in ("learning_rate", "warmup", "schedule") if name in options}
    training = Training(epochs=MAX_EPOCHS, patience=MAX_EPOCHS, batch_size=options["batch"], **training_settings)
    timer.start()
    try:
        train(options["model"], model_settings(options), training, parts.train, Run(options["seed"]), validate)
    except TargetReached:
        job.record(points=timer.points)
        job.finish()


def main() -> None:
    job = Job()
    torch.set_num_threads(job.settings["threads"])
    parts = split(load(job.settings["source"]), SplitSettings())
    (measure_time_to_accuracy if "minutes" in job.settings else measure_throughput)(job, parts)


main()
