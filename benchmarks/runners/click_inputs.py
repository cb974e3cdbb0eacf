"""What the runners of click-through models share: the columns of the other libraries, and the measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import Job
from numpy.typing import NDArray

__all__ = ["Arrays", "divide", "measure", "named_columns"]

Arrays = dict[str, Any]


def divide(job: Job) -> tuple[Arrays, Arrays]:
    """Return the training examples, and the held-out ones that are scored."""
    arrays, count = job.arrays(), job.settings["sizes"]["examples"]
    return {name: array[:count] for name, array in arrays.items()}, {
        name: array[count:] for name, array in arrays.items()
    }


def named_columns(job: Job, arrays: Arrays) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the numbers by name, and the categories by name.

    The categories of ``din`` are ``item`` and ``history``, from 1, padded with 0.
    """
    sizes = job.settings["sizes"]
    numbers = {f"n{index}": arrays["numbers"][:, index] for index in range(sizes["numbers"])}
    if job.settings["model"] != "din":
        return numbers, {f"c{index}": arrays["codes"][:, index] for index in range(sizes["fields"])}
    is_known = np.arange(sizes["length"]) < arrays["lengths"][:, None]
    return numbers, {"item": arrays["items"] + 1, "history": np.where(is_known, arrays["histories"] + 1, 0)}


def measure(job: Job, fit: Callable[[], Any], predict: Callable[[], NDArray[Any]]) -> None:
    """Train, score the held-out examples, and write the figures.

    Args:
        predict: returns the probability of each held-out example.
    """
    weight = torch.ones(1, requires_grad=True)
    torch.optim.Adam([weight]).step()  # imports modules of torch that are not a part of training, for two seconds
    start, cpu = time.perf_counter(), time.process_time()
    fit()
    job.record(fit_seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)
    start, cpu = time.perf_counter(), time.process_time()
    probabilities = predict()
    job.record(score_seconds=time.perf_counter() - start, score_cpu_seconds=time.process_time() - cpu)
    job.finish(predicted=np.asarray(probabilities, np.float64).ravel())
