"""Compute RecTools's metrics of given lists, from its tables, which are prepared before."""

from __future__ import annotations

import numpy as np
import pandas as pd
from lists_inputs import WARM_UP, measure, timed_arrays
from measure import Job
from rectools import Columns
from rectools.metrics import calc_metrics
from rectools_metrics import shared_metrics


def prepare(arrays, ks):
    """Return the function that computes the metrics."""
    lists = arrays["lists"]
    n, k = lists.shape
    reco = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(n), k),
            Columns.Item: lists.ravel().astype(np.int64),
            Columns.Rank: np.tile(np.arange(1, k + 1), n),
        }
    )
    true = pd.DataFrame({Columns.User: arrays["target_users"], Columns.Item: arrays["target_items"].astype(np.int64)})
    metrics = shared_metrics(ks)
    return lambda: calc_metrics(metrics, reco, true)


def main() -> None:
    job = Job()
    prepare(timed_arrays(job, WARM_UP), job.settings["ks"])()
    measure(job, prepare(timed_arrays(job), job.settings["ks"]))


main()
