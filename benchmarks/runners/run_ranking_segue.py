"""Segue's side of the ranking: train on all but the last item of each user, and list the best for everybody.

For ``ials`` with the objective of Hu et al. what it comes to after each sweep is what the sweep itself logs, in
their units.
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


class Sweeps:
    """Keeps what is logged after each sweep, and when, counted from the beginning of the fit."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self.begun = time.perf_counter()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take one sweep."""
        if "loss" in values:
            self.points.append((time.perf_counter() - self.begun, values["loss"]))


def main() -> None:
    kind = model_class(Job().settings["model"])
    job = Job()  # with the model, and torch where it needs it, imported
    ask, (offsets, items) = job.settings, job.events()
    start = time.perf_counter()
    users = np.arange(len(offsets) - 1, dtype=np.int32)
    whole = Events(offsets, items)
    told = whole.cut(0 * users, whole.lengths - 1)
    vocabs = (Vocab([str(code) for code in range(count)]) for count in (len(users), ask["items"]))
    train = Dataset("log", *vocabs, told)
    job.note(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    logged = Sweeps()
    model = kind(kind.Config(**ask["settings"]), train.domain)
    model.fit(train, Run(ask["seed"], trackers=(logged,)), None)
    job.note(fit_seconds=time.perf_counter() - start)
    queries = Queries.of_users(users, told)
    if ask["settings"].get("unobserved") == "rest":
        weight = ask["settings"]["unobserved_weight"]
        job.note(points=[(seconds, loss / weight) for seconds, loss in logged.points])
        # counted again here, with the users that the last items lead to
        l2 = ask["settings"]["l2"] / weight
        job.note(objective=hu_objective(told.csr(ask["items"]), model.encode(queries), model.vectors, 1 / weight, l2))
    rates = []
    for _ in range(ask["repeats"]):
        start = time.perf_counter()
        lists = recommend(model, queries, ask["k"])
        rates.append(len(users) / (time.perf_counter() - start))
    job.note(users_per_second=max(rates))
    job.finish(np.where(np.arange(ask["k"]) < lists.lengths[:, None], lists.items, -1).astype(np.int64))


main()
