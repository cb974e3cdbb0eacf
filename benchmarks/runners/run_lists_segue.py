"""Compute Segue's metrics of given lists: their means, or means with intervals, or from the ranks of the targets.

``means``: from arrays of lists and targets. ``intervals``: the public evaluation, with 95 % bootstrap intervals.
``ranks``: from the ranks of the targets in the lists, as RecBole begins with known hits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from lists_inputs import METRICS, WARM_UP, measure, timed_arrays
from measure import Job

from segue.core.types import Events, HeldOut, Queries, Recommendations
from segue.evaluation.evaluate import evaluate_lists
from segue.evaluation.metrics import resolve_metrics
from segue.evaluation.ranking import rank_lists


def prepare(arrays, ks, what):
    """Return the function that computes the metrics."""
    lists = arrays["lists"]
    n, k = lists.shape
    given = Recommendations(lists, np.zeros(lists.shape, np.float32), np.full(n, k))
    targets = Events(arrays["target_offsets"], arrays["target_items"])
    held_out = HeldOut(Queries.anonymous(Events(np.zeros(n + 1, np.int64), np.zeros(0, np.int32))), targets)
    metrics = resolve_metrics(METRICS, ks)
    known = rank_lists(given, targets)

    def means(ranks):
        return {metric.name: np.nanmean(metric(ranks)) for metric in metrics}

    if what == "ranks":
        return lambda: means(replace(known))  # a new object, without anything that is computed once
    if what == "means":
        return lambda: means(rank_lists(given, targets))
    return lambda: {name: one.mean for name, one in evaluate_lists(given, held_out, ks, METRICS).estimates.items()}


def main() -> None:
    job = Job()
    options = job.settings
    prepare(timed_arrays(job, WARM_UP), options["ks"], options["what"])()
    measure(job, prepare(timed_arrays(job), options["ks"], options["what"]))


main()
