"""Rank the catalog for every user from vectors of users and items, and compute Segue's metrics.

``means``: the means alone. ``intervals``: the public evaluation, with 95 % bootstrap intervals.
"""

from __future__ import annotations

import numpy as np
from lists_inputs import METRICS, WARM_UP, measure, timed_arrays
from measure import Job
from threadpoolctl import threadpool_limits

from segue.core.recommend import PrecomputedQueries
from segue.core.types import DataSchema, Events, HeldOut, Queries
from segue.evaluation.evaluate import evaluate
from segue.evaluation.metrics import resolve_metrics
from segue.evaluation.ranking import rank


def prepare(arrays, ks, what):
    """Return the function that computes the metrics."""
    users, items = arrays["users"], arrays["items"]
    history = Events(arrays["history_offsets"], arrays["history_items"])
    targets = Events(arrays["target_offsets"], arrays["target_items"])
    held_out = HeldOut(Queries.of_users(np.arange(len(users), dtype=np.int32), history), targets)
    schema = DataSchema(n_users=len(users), n_items=len(items))
    model = PrecomputedQueries(schema, "score", items, np.zeros(len(items), np.float32), users)
    metrics = resolve_metrics(METRICS, ks)

    def means():
        ranks = rank(model, held_out, max(ks))
        return {metric.name: np.nanmean(metric(ranks)) for metric in metrics}

    if what == "means":
        return means
    return lambda: {name: one.mean for name, one in evaluate(model, held_out, ks, METRICS).estimates.items()}


def main() -> None:
    job = Job()
    options = job.settings
    with threadpool_limits(options["threads"]):
        prepare(timed_arrays(job, WARM_UP), options["ks"], options["what"])()
        measure(job, prepare(timed_arrays(job), options["ks"], options["what"]))


main()
