"""Fit Segue's models on all but the last item of each user, and recommend for all users.

For ``ials`` with the objective of Hu et al. the objective after each iteration is the loss that the model logs,
converted to their units.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from measure import Job, hu_objective

from segue.core.recommend import recommend
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries, Vocab


class IterationLog:
    """A tracker that stores the loss of each iteration and the seconds since it was created."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self.started = time.perf_counter()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Store one iteration."""
        if "loss" in values:
            self.points.append((time.perf_counter() - self.started, values["loss"]))


def main() -> None:
    model_type = model_class(Job().settings["model"])
    job = Job()  # after the imports of the model
    options, (offsets, items) = job.settings, job.events()
    start = time.perf_counter()
    users = np.arange(len(offsets) - 1, dtype=np.int32)
    whole = Events(offsets, items)
    history = whole.slice_rows(0 * users, whole.lengths - 1)
    vocabs = (Vocab([str(code) for code in range(count)]) for count in (len(users), options["items"]))
    train = Dataset("log", *vocabs, history)
    job.record(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    logged = IterationLog()
    model = model_type(model_type.Config(**options["settings"]), train.schema)
    model.fit(train, Run(options["seed"], trackers=(logged,)), None)
    job.record(fit_seconds=time.perf_counter() - start)
    queries = Queries.of_users(users, history)
    if options["settings"].get("unobserved") == "rest":
        weight = options["settings"]["unobserved_weight"]
        job.record(points=[(seconds, loss / weight) for seconds, loss in logged.points])
        # computed again here, with user factors from the final item factors
        l2 = options["settings"]["l2"] / weight
        job.record(
            objective=hu_objective(history.csr(options["items"]), model.encode(queries), model.vectors, 1 / weight, l2)
        )
    rates = []
    for _ in range(options["repeats"]):
        start = time.perf_counter()
        lists = recommend(model, queries, options["k"])
        rates.append(len(users) / (time.perf_counter() - start))
    job.record(users_per_second=max(rates))
    job.finish(np.where(np.arange(options["k"]) < lists.lengths[:, None], lists.items, -1).astype(np.int64))


main()
