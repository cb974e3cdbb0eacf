"""What the runners of click-through models share: the columns of the other libraries, and the measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import Job
from numpy.typing import NDArray

__all__ = ["measure", "named_columns"]


def named_columns(job: Job, arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
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
    """Train, score all examples, and write the figures.

    Args:
        predict: returns whether each example is more probably positive than not.
    """
    weight = torch.ones(1, requires_grad=True)
    torch.optim.Adam([weight]).step()  # imports modules of torch that are not a part of training, for two seconds
    start, cpu = time.perf_counter(), time.process_time()
    fit()
    job.record(fit_seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)
    start, cpu = time.perf_counter(), time.process_time()
    is_positive = predict()
    job.record(score_seconds=time.perf_counter() - start, score_cpu_seconds=time.process_time() - cpu)
    job.record(positive_share=float(is_positive.mean()))
    job.finish()
