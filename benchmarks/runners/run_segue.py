"""Segue's side: through the public functions, as a user would: load, split, train, evaluate.

A rate is what the training loop itself logs for each epoch after the warm-up: loading and padding count. In a race the
lists for validation are judged after each epoch, and training ends when the level is reached.
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

FOREVER = 100_000
"""Epochs of a race, which ends earlier."""


class Over(Exception):
    """The race is over."""


class Epochs:
    """Keeps what is logged, and the processors' time until then."""

    def __init__(self) -> None:
        self.logged: list[Mapping[str, float]] = []
        self.processor: list[float] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take one epoch."""
        self.logged.append(values)
        self.processor.append(time.process_time())


def settings(ask: dict[str, Any]) -> dict[str, Any]:
    """Of the model, in Segue's names."""
    found = {name: ask[name] for name in ("width", "dropout", "windows")} | {"max_length": ask["length"]}
    if ask["model"] == "gru4rec":
        return found | {"layers": ask["blocks"], "hidden_width": ask["inner"]}
    found |= {"blocks": ask["blocks"], "heads": ask["heads"], "expansion": ask["inner"] / ask["width"]}
    if ask["model"] == "bert4rec":
        found |= {"hidden_share": ask["hidden_share"], "last_share": ask["last_share"]}
    return found


def lists(model: Recommender, held_out: HeldOut, k: int) -> NDArray[np.int64]:
    """``(users, k)`` the best items, -1 where there are fewer."""
    top = evaluate(model, held_out, ks=(k,)).top
    return np.where(np.arange(k) < top.lengths[:, None], top.items, -1)


def rate(job: Job, parts: Split) -> None:
    """Targets and sequences per second, the time of evaluation, and the lists for the test."""
    ask = job.settings
    epochs = Epochs()
    training = Training(
        epochs=ask["warm_up"] + ask["batches"], batch_size=ask["batch"], learning_rate=ask["learning_rate"]
    )
    model = train(ask["model"], settings(ask), training, parts.train, Run(ask["seed"], trackers=(epochs,)))
    timed = epochs.logged[ask["warm_up"] :]
    targets = sum(values["targets_per_second"] * values["seconds"] for values in timed)
    seconds = sum(values["seconds"] for values in timed)
    windows = len(timed) * int((parts.train.histories.lengths > 0).sum())  # the newest of each user
    job.note(
        targets_per_second=targets / seconds,
        sequences_per_second=windows / seconds,
        targets_per_processor_second=targets / (epochs.processor[-1] - epochs.processor[ask["warm_up"] - 1]),
        train_seconds=seconds,
        train_targets=round(targets),
        train_epochs=len(timed),
        train_peak_mib=memory()["peak"],
    )
    start = time.perf_counter()
    recommended = lists(model, parts.test, ask["k"])
    job.note(evaluate_seconds=time.perf_counter() - start, evaluated=len(parts.test))
    job.finish(recommended)


def race(job: Job, parts: Split) -> None:
    """Train until validation reaches the level."""
    ask = job.settings
    timed = job.race()

    def validate(model: Recommender) -> dict[str, float]:
        timed.stop()
        if timed.judge(lists(model, parts.valid, ask["k"])):
            raise Over
        timed.start()
        return {"ndcg@10": timed.points[-1][1]}

    given = {name: ask[name] for name in ("learning_rate", "warmup", "schedule") if name in ask}
    training = Training(epochs=FOREVER, patience=FOREVER, batch_size=ask["batch"], **given)
    timed.start()
    try:
        train(ask["model"], settings(ask), training, parts.train, Run(ask["seed"]), validate)
    except Over:
        job.note(points=timed.points)
        job.finish()


def main() -> None:
    job = Job()
    torch.set_num_threads(job.settings["threads"])
    parts = split(load(job.settings["source"]), SplitSettings())
    (race if "minutes" in job.settings else rate)(job, parts)


main()
