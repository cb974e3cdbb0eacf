"""Estimate what a training will cost before it is begun."""

from __future__ import annotations

import numpy as np

from segue.core.run import Interrupted, Run
from segue.core.types import Dataset
from segue.experiment.arguments import device_of_model
from segue.experiment.data import limit_users
from segue.experiment.plan import Plan
from segue.experiment.tuning.validation import Clock
from segue.training.train import train

__all__ = ["dense_seconds", "epoch_seconds", "sample_seconds"]

SAMPLE = 20
"""Part of the users, as one of so many, by which a training that cannot be interrupted is timed."""

SMALL = 500
"""Items of the matrix whose inversion is timed."""


def epoch_seconds(plan: Plan, data: Dataset, clock: Clock, deadline: float) -> float:
    """Estimate the training time of an epoch of a network from a few steps.

    Args:
        deadline: time in ``clock`` after which no further step begins.
    """
    from segue.experiment.tuning.callbacks import BatchTimer  # needs torch

    run = Run(plan.run.seed, None, device_of_model(plan.task.model, plan.run.device)[0])
    timer = BatchTimer(run, data, plan.training.batch_size, clock, deadline)
    started, training = clock(), plan.training.model_copy(update={"epochs": 1})
    try:
        train(plan.task.model, plan.model, training, data, run, None, (timer,))
    except Interrupted:
        if not run.interrupted or timer.seconds is None:
            raise
        return timer.seconds
    return clock() - started


def sample_seconds(plan: Plan, data: Dataset, clock: Clock) -> float:
    """Estimate the training time of a model from a part of the users.

    For models whose training cannot be interrupted.
    """
    small = limit_users(data, max(data.n_users // SAMPLE, 2))
    share = small.histories.size / data.histories.size
    started = clock()
    train(plan.task.model, plan.model, plan.training, small, Run(plan.run.seed))
    return (clock() - started) / max(share, 1e-9)


def dense_seconds(n_items: int, clock: Clock) -> float:
    """Estimate the time of EASE from the inversion of a smaller matrix.

    It grows with the third power of the number of items.
    """
    if n_items <= SMALL:
        return 0.0
    matrix = np.eye(SMALL, dtype=np.float32) + np.float32(0.001)
    np.linalg.inv(matrix[:8, :8])  # loads the library
    started = clock()
    np.linalg.inv(matrix)
    return 2.0 * (clock() - started) * (n_items / SMALL) ** 3  # and the counts of pairs
